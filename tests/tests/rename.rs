//! Another name for an environment, also for the one that runs or boots next. At every
//! moment the machine boots it, by the one name or the other.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use be_tests::Seeded;
use be_tests::grub::{self, Choice};
use be_tests::system::{NOTHING, System};
use nix::sys::signal::Signal;
use xtask::loopdev::{Loop, Mount};
use xtask::run::{cmd, run};

const REFUSED: i32 = 3;

/// What is true of an environment that has this name, and of none that has the other.
fn has_name(system: &System, name: &str, other: &str) -> Result<()> {
    let listed = system.listed(name).context("it is not listed")?;
    ensure!(
        listed["subvolumes"][0]["path"] == format!("/@be/{name}/root"),
        "{listed}"
    );
    ensure!(system.listed(other).is_none());
    ensure!(fs::symlink_metadata(system.top(&format!("@be/{other}"))).is_err());
    let record = system.record(name)?;
    ensure!(
        record["name"] == name && record.get("renaming").is_none(),
        "{record}"
    );
    let fstab = fs::read_to_string(system.env(name, "etc/fstab"))?;
    ensure!(
        fstab.contains(&format!("subvol=/@be/{name}/root,noatime")),
        "{fstab}"
    );
    let menu = system.menu()?;
    ensure!(menu.contains(&format!("--id 'be-{name}'")), "{menu}");
    ensure!(
        menu.contains(&format!("rootflags=subvol=/@be/{name}/root")),
        "{menu}"
    );
    ensure!(!menu.contains(&format!("be-{other}'")) && !menu.contains(&format!("/@be/{other}/")));
    system.sound_menu()?;
    system.be.run(&["check", name]).done();
    ensure!(system.leftovers().is_empty());
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn one_that_nothing_uses() -> Result<()> {
    let system = System::adopted_small()?;
    let (running, host) = (system.running()?, system.host()?);
    system.be.run(&["create", "-d", "why", "x"]).done();
    system.be.run(&["create", "x@before"]).done();
    system.be.run(&["create", "-e", "x", "child"]).done();
    let subvolumes = system.subvolumes()?.len();
    let renamed = system.be.run(&["rename", "x", "y"]).done();
    assert_eq!(renamed.stdout, "y\n");
    has_name(&system, "y", "x")?;
    assert_eq!(system.record("child")?["origin"], "y");
    assert_eq!(system.record("y")?["description"], "why");
    assert_eq!(system.subvolumes()?.len(), subvolumes);
    assert_eq!(system.sound_menu()?, "default");
    assert_eq!(running.diff(&system.running()?), NOTHING);
    assert_eq!(system.host_changes(&host)?, NOTHING);
    // The name is free again, and all that be made is still known to be its own.
    system.be.run(&["create", "x"]).done();
    system.be.run(&["destroy", "-y", "x", "y@before"]).done();
    system.be.run(&["destroy", "-y", "y", "child"]).done();
    assert_eq!(system.subvolume_paths()?, ["@"]);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn the_one_that_boots_next() -> Result<()> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "-a", "x"]).done();
    system.be.run(&["rename", "x", "y"]).done();
    has_name(&system, "y", "x")?;
    assert_eq!(system.sound_menu()?, "y");
    assert_eq!(
        system.listed("y").map(|e| e["next"].clone()),
        Some(true.into())
    );
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn the_running_one() -> Result<()> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "-a", "x"]).done();
    let (mount, be) = system.mount_root_of("x")?;
    let before = fs::read(mount.path().join("boot/grub/grub.cfg"))?;
    let renamed = be.run(&["rename", "x", "y"]).done();
    renamed.says(&["/etc/fstab of the running system"]);
    has_name(&system, "y", "x")?;
    assert_eq!(system.sound_menu()?, "y");
    // It goes on where it is mounted, and knows itself by the new name.
    let list = be.run(&["list", "--json", "y"]).done().json();
    assert_eq!(list["environments"][0]["running"], true);
    assert_eq!(fs::read(mount.path().join("boot/grub/grub.cfg"))?, before);
    fs::write(mount.path().join("etc/new"), "text")?;
    assert_eq!(fs::read_to_string(system.env("y", "etc/new"))?, "text");
    let text = run(cmd("findmnt", ["-n", "-o", "FSROOT"]).arg(mount.path()))?;
    assert_eq!(text.trim(), "/@be/y/root");
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn an_adopted_one_is_not_moved() -> Result<()> {
    let system = System::adopted_small()?;
    let running = system.running()?;
    system.be.run(&["create", "default@a"]).done();
    let before = system.subvolumes()?;
    let menu = system.menu()?;
    system.be.run(&["rename", "default", "gentoo"]).done();
    assert_eq!(running.diff(&system.running()?), NOTHING);
    assert_eq!(system.subvolume_paths()?, ["@", "@be/gentoo/snap/a/root"]);
    assert_eq!(system.subvolumes()?.len(), before.len());
    assert_eq!(system.sound_menu()?, "gentoo");
    assert_eq!(system.menu()?.replace("gentoo", "default"), menu);
    let listed = system.listed("gentoo").context("it is not listed")?;
    assert_eq!(listed["running"], true);
    assert_eq!(listed["snapshots"][0]["name"], "a");
    system.be.run(&["create", "x"]).done();
    assert_eq!(system.record("x")?["origin"], "gentoo");
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn refused() -> Result<()> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "x"]).done();
    system.be.run(&["create", "y"]).done();
    system.refuses(REFUSED, &["rename", "x", "y"], &["y exists"])?;
    system.refuses(REFUSED, &["rename", "x", "x"], &["x exists"])?;
    system.refuses(REFUSED, &["rename", "nope", "z"], &["nope"])?;
    system.refuses(2, &["rename", "x", "a/b"], &["a/b"])?;
    system.refuses(2, &["rename", "x", "z@a"], &["z@a"])?;
    // GRUB was installed from it: it would not find its own files any more.
    let dir = system.env("x", "boot/grub/i386-pc");
    fs::create_dir_all(&dir)?;
    fs::write(
        dir.join("load.cfg"),
        "search.fs_uuid u root \nset prefix=($root)'/@be/x/root/boot/grub'\n",
    )?;
    system.refuses(
        REFUSED,
        &["rename", "x", "z"],
        &["GRUB was installed from x"],
    )?;
    let dry = system.unchanged_by(0, &["-n", "rename", "y", "z"])?;
    assert!(
        dry.stdout.contains("would rename /@be/y to /@be/z"),
        "{}",
        dry.stdout
    );
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_menu_that_cannot_be_written_undoes_it() -> Result<()> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "-a", "x"]).done();
    let (subvolumes, menu) = (system.subvolumes()?, system.menu()?);
    // Nothing to check a menu with.
    let empty = system.dir().join("empty");
    fs::create_dir(&empty)?;
    let mut command = system.be.command(&["rename", "x", "y"]);
    let outcome = be_tests::be::Outcome::of(command.env("PATH", &empty));
    ensure!(outcome.code != 0, "{}", outcome.stderr);
    assert_eq!(system.menu()?, menu);
    assert_eq!(system.subvolumes()?, subvolumes);
    has_name(&system, "x", "y")
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn one_that_was_cut_off_and_cannot_be_finished_boots() -> Result<()> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "-a", "x"]).done();
    // As it is when the menu has been written, and nothing after that.
    std::os::unix::fs::symlink("x", system.top("@be/y"))?;
    for file in ["be.json", "root/etc/fstab"] {
        let path = system.top(&format!("@be/x/{file}"));
        let text = fs::read_to_string(&path)?;
        let text = text.replace("/@be/x/", "/@be/y/");
        let text = text.replace("\"pinned\"", "\"renaming\": \"y\",\n  \"pinned\"");
        fs::write(&path, text)?;
    }
    let menu = system.menu()?;
    let menu = menu.replace("/@be/x/", "/@be/y/").replace("be-x'", "be-y'");
    let menu = menu
        .replace("\"x\"", "\"y\"")
        .replace("'x: ", "'y: ")
        .replace(" 'x'", " 'y'");
    fs::write(system.top("@be/.grub/menu.cfg"), &menu)?;
    let boots = || -> Result<()> {
        system.sync()?;
        assert_eq!(system.sound_menu()?, "y");
        Cut::of(&system)?.boots(&system)
    };
    boots()?;
    let status = system.be.run(&["status"]).done().stdout;
    ensure!(status.contains("x: interrupted"), "{status}");
    assert_eq!(
        system.listed("x").map(|e| e["next"].clone()),
        Some(true.into())
    );
    // Nothing to check a menu with: it can neither be finished nor undone.
    let empty = system.dir().join("empty");
    fs::create_dir(&empty)?;
    let mut command = system.be.command(&["pin", "x"]);
    let outcome = be_tests::be::Outcome::of(command.env("PATH", &empty));
    outcome
        .done()
        .says(&["could not finish the rename of x to y"]);
    boots()?;
    // Another menu in between has the new name.
    system.be.run(&["-n", "menu"]).done();
    let pinned = system.be.run(&["unpin", "y"]).done();
    pinned.says(&["finished the rename of x to y"]);
    has_name(&system, "y", "x")?;
    boots()
}

/// A copy of the disk as a power cut would leave it: what btrfs has not written is lost.
/// Nobody may work on it meanwhile.
struct Cut {
    image: PathBuf,
}

impl Cut {
    fn of(system: &System) -> Result<Self> {
        let image = system.dir().join("cut.img");
        run(cmd("cp", ["--sparse=always"])
            .arg(system.dir().join("disk.img"))
            .arg(&image))?;
        Ok(Self { image })
    }

    /// That GRUB finds what the menu boots by default, and that the kernel mounts the root
    /// by the path that GRUB gives it, and by that of its fstab.
    fn boots(&self, system: &System) -> Result<()> {
        let read = |path: &str| grub::read(&self.image, "loop0", path);
        let choice = Choice::of(&String::from_utf8(read(grub::MENU)?)?)?;
        for path in [&choice.linux, &choice.initrd] {
            ensure!(!read(path)?.is_empty(), "{path}");
        }
        // The kernel gives a copy of a mounted filesystem a UUID of its own (Linux 6.7).
        let device = Loop::attach(&self.image)?;
        let target = system.dir().join("cut");
        fs::create_dir_all(&target)?;
        let mount = |subvol: &str| {
            let options = format!("subvol={subvol}");
            Mount::new(device.node(), &target, "btrfs", &options)
                .with_context(|| format!("{} cannot be mounted from {subvol}", choice.name))
        };
        let fstab = {
            let root = mount(&choice.subvolume)?;
            fs::read_to_string(root.path().join("etc/fstab"))?
        };
        let (_, subvol) = fstab.split_once("subvol=").context("no subvol=")?;
        let root = mount(subvol.split(',').next().unwrap_or_default())?;
        ensure!(root.path().join("sbin/init").exists());
        Ok(())
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.image);
    }
}

/// How far it is, by what lies in the store.
fn seen(system: &System, from: &str, to: &str) -> &'static str {
    let is_link = |name: &str| {
        fs::symlink_metadata(system.top(&format!("@be/{name}"))).is_ok_and(|m| m.is_symlink())
    };
    match (is_link(from), is_link(to)) {
        (false, true) => "both",
        (true, false) => "moved",
        (false, false) if Path::new(&system.top(&format!("@be/{to}"))).exists() => "new",
        _ => "old",
    }
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn cut_off_at_any_moment_it_boots() -> Result<()> {
    let system = System::adopted_small()?;
    let running = system.running()?;
    system.be.run(&["create", "-a", "a"]).done();
    system.be.run(&["create", "-e", "a", "child"]).done();
    let (mut from, mut to) = ("a", "b");
    let mut seeded = Seeded::new(17);
    let mut moments = Vec::new();
    for i in 0..40 {
        let mut be = system.be.start(&["rename", from, to])?;
        std::thread::sleep(Duration::from_micros(seeded.below(90_000)));
        // Stopped, it is as if the power were cut; then it is killed.
        let stopped = !be.has_ended()? && be.signal(Signal::SIGSTOP).is_ok();
        let context = || format!("rename number {i} of {from} to {to}");
        let state = seen(&system, from, to);
        Cut::of(&system)?.boots(&system).with_context(context)?;
        if stopped {
            be.signal(Signal::SIGKILL)?;
        }
        be.end()?;
        let default = system.sound_menu().with_context(context)?;
        ensure!(
            [from, to].contains(&default.as_str()),
            "{default}: {}",
            context()
        );
        // Whatever looks finds one environment, which boots next.
        let list = system.be.run(&["list", "--json"]).done().json();
        let next: Vec<_> = list["environments"]
            .as_array()
            .context("no list")?
            .iter()
            .filter(|e| e["next"] == true)
            .collect();
        ensure!(next.len() == 1, "{}: {list}", context());
        moments.push(state);
        // The next be finishes it, or it never began.
        system.be.run(&["menu"]).done();
        if system.listed(to).is_none() {
            // The link alone is no beginning yet: it was taken away.
            ensure!(["old", "both"].contains(&state), "{state}: {}", context());
            has_name(&system, from, to).with_context(context)?;
            continue;
        }
        has_name(&system, to, from).with_context(context)?;
        ensure!(system.sound_menu()? == to, "{}", context());
        ensure!(system.record("child")?["origin"] == to, "{}", context());
        (from, to) = (to, from);
    }
    xtask::say(&format!("renames that were cut off: {moments:?}"));
    ensure!(moments.contains(&"both"), "{moments:?}");
    assert_eq!(running.diff(&system.running()?), NOTHING);
    system.be.run(&["activate", "default"]).done();
    system.be.run(&["destroy", "-y", from, "child"]).done();
    assert_eq!(system.subvolume_paths()?, ["@"]);
    Ok(())
}
