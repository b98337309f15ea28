//! Environments of every layout that this machine can mount, from the host: nothing is
//! missing, nothing is left, and from rescue media all of it works as well.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use be_tests::be::Be;
use be_tests::small::KERNEL;
use be_tests::system::{NOTHING, System, mount_all, unmount_below};
use xtask::image::{Layout, Tree};
use xtask::loopdev::Mount;
use xtask::run::{cmd, run};

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn of_one_subvolume() -> Result<()> {
    for layout in [Layout::AtSubvol, Layout::TopLevel] {
        whole_and_gone(layout)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn with_subvolumes_beside_and_inside() -> Result<()> {
    whole_and_gone(Layout::FedoraRoot)?;
    whole_and_gone(Layout::AtMany)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn with_var_and_opt_apart() -> Result<()> {
    whole_and_gone(Layout::Suse)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn with_a_boot_of_its_own() -> Result<()> {
    whole_and_gone(Layout::BootExt4)?;
    if Layout::EspBoot.is_mountable() {
        whole_and_gone(Layout::EspBoot)?;
    }
    Ok(())
}

/// What belongs to packages and is a subvolume of its own.
fn cloned(layout: Layout) -> &'static [&'static str] {
    match layout {
        Layout::Suse => &["opt", "var"],
        _ => &[],
    }
}

fn whole_and_gone(layout: Layout) -> Result<()> {
    let system = System::adopted_lab_with(layout)?;
    let be = &system.be;
    // In the store, and not be's: no environment has such a name.
    let likeness = system.top("@be/.likeness/root/etc/notes");
    fs::create_dir_all(likeness.parent().unwrap_or(Path::new("/")))?;
    fs::write(&likeness, "of a year")?;
    system.make_subvolume("@be/.foreign")?;
    fs::write(system.top("@be/.foreign/work"), "of a life")?;
    let subvolumes = system.subvolumes()?;
    let paths = system.subvolume_paths()?;
    let (running, host) = (system.running()?, system.host()?);

    be.run(&["create", "new"]).done();
    let made: BTreeSet<_> = system.subvolume_paths()?.into_iter().collect();
    let made: Vec<_> = made.into_iter().filter(|p| !paths.contains(p)).collect();
    let mut expected: Vec<String> = vec!["@be/new/base/root".into(), "@be/new/root".into()];
    for name in cloned(layout) {
        expected.push(format!("@be/new/base/vol/{name}"));
        expected.push(format!("@be/new/vol/{name}"));
    }
    expected.sort();
    assert_eq!(made, expected, "{layout:?}");
    let list = be.run(&["list", "-a"]).done().stdout;
    let shown = |path: &&String| {
        list.lines()
            .any(|l| l.trim_start().starts_with(&format!("/{path} ")))
    };
    let own = made.iter().filter(|p| !p.contains("/base/"));
    ensure!(own.filter(|p| !shown(p)).count() == 0, "{list}");
    ensure!(
        !list.contains("foreign") && !list.contains("likeness"),
        "{list}"
    );
    assert_eq!(running.diff(&system.running()?), NOTHING, "{layout:?}");
    assert_eq!(system.host_changes(&host)?, NOTHING, "{layout:?}");
    is_whole(&system, "new")?;

    be.run(&["rename", "new", "second"]).done();
    is_whole(&system, "second")?;
    {
        let (_root, be) = system.mount_root_of("second")?;
        be.run(&["create", "third"]).done();
    }
    is_whole(&system, "third")?;
    be.run(&["create", "default@now"]).done();
    be.run(&["create", "-e", "default@now", "fourth"]).done();
    be.run(&["create", "third@now"]).done();
    be.run(&["rollback", "third@now"]).done();
    for name in ["third", "fourth"] {
        is_whole(&system, name)?;
        be.run(&["check", name]).done();
    }

    be.run(&["destroy", "-y", "second", "third", "fourth"])
        .done();
    be.run(&["destroy", "-y", "default@now"]).done();
    assert_eq!(system.subvolumes()?, subvolumes, "{layout:?}");
    assert_eq!(running.diff(&system.running()?), NOTHING, "{layout:?}");

    from_rescue_media(&system)?;
    assert_eq!(system.subvolumes()?, subvolumes, "{layout:?}");
    assert_eq!(running.diff(&system.running()?), NOTHING, "{layout:?}");
    assert_eq!(system.host_changes(&host)?, NOTHING, "{layout:?}");
    assert_eq!(fs::read_to_string(&likeness)?, "of a year");
    let work = fs::read_to_string(system.top("@be/.foreign/work"))?;
    assert_eq!(work, "of a life");
    assert_eq!(system.leftovers(), [""; 0].map(std::path::PathBuf::from));
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn with_a_boot_that_is_not_mounted() -> Result<()> {
    let system = System::lab(Layout::BootExt4)?;
    let release = system.image().lab.old_kernel.release.clone();
    let boot = system.image().volumes().boot.as_ref().context("a /boot")?;
    unmount_below(system.root())?;
    // From before /boot was apart; a mount hides it.
    system.write("/boot/grub/grub.cfg", "stale\n")?;
    let be = &system.be;
    let host = system.host()?;
    be.run(&["init"]).done();
    let record = system.record("default")?;
    ensure!(record["grub_home"].is_null(), "{record}");
    ensure!(record["boot"]["uuid"] == *boot.uuid, "{record}");
    assert_eq!(system.read("/boot/grub/grub.cfg")?, "stale\n");
    let status = be.run(&["--json", "status"]).done().json();
    ensure!(status["hooked"] == true, "{status}");

    be.run(&["create", "new"]).done();
    // Nobody sees the kernels of the one in the root of the other.
    for name in ["default", "new"] {
        let line = be.run(&["list", "-H", name]).done().stdout;
        ensure!(line.split('\t').nth(5) == Some(&*release), "{line}");
        let listed = system.listed(name).context("not listed")?;
        ensure!(listed["kernel"] == *release, "{listed}");
    }
    be.run(&["diff", "default", "new"]).done().says(&[]);
    let diff = be.run(&["--json", "diff", "default", "new"]).done().json();
    ensure!(diff["kernels"]["added"] == serde_json::json!([]), "{diff}");
    be.run(&["doctor"]).done();

    // In a chroot each has its own.
    let kernel = format!("/boot/vmlinuz-{release}");
    for (name, kind) in [("default", "ext2/ext3"), ("new", "btrfs")] {
        let look = ["exec", name, "--", "stat", "-f", "-c", "%T", &kernel];
        assert_eq!(be.run(&look).done().stdout.trim(), kind, "{name}");
    }

    // GRUB installed into an environment would read its files from there.
    let core = system.env("new", "boot/grub/i386-pc/core.img");
    fs::create_dir_all(core.parent().context("no directory")?)?;
    fs::write(&core, "")?;
    let found = be.run(&["--json", "doctor"]).exits(1).json();
    let problem = &found["problems"][0];
    ensure!(problem["id"] == "grub-installed-elsewhere", "{found:#}");
    fs::remove_dir_all(system.env("new", "boot/grub"))?;

    // What a snapshot needs of /boot is still there.
    be.run(&["create", "default@before"]).done();
    be.run(&["create", "-e", "default@before", "old"]).done();
    be.run(&["check", "old"]).done();
    be.run(&["rename", "new", "newer"]).done();
    be.run(&["check", "newer"]).done();
    be.run(&["destroy", "-y", "newer", "old", "default@before"])
        .done();
    assert_eq!(system.host_changes(&host)?, NOTHING);

    // GRUB is told by the file that it reads.
    run(cmd("mount", [boot.device.node()]).arg(system.path("/boot")))?;
    let cfg = system.read("/boot/grub/grub.cfg")?;
    ensure!(
        cfg.matches("### BEGIN /etc/grub.d/45_be ###").count() == 1,
        "{cfg}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn with_a_boot_that_is_a_subvolume() -> Result<()> {
    let system = System::small()?;
    system.make_subvolume("@boot")?;
    run(cmd("cp", ["-a"])
        .arg(system.path("/boot").join("."))
        .arg(system.top("@boot")))?;
    // Below the mount there is an old copy.
    system.write("/boot/grub/grub.cfg", "stale\n")?;
    system.append(
        "/etc/fstab",
        format!("UUID={} /boot btrfs subvol=@boot 0 0\n", system.uuid()),
    )?;
    let subvolumes = system.subvolumes()?;
    let host = system.host()?;
    let be = &system.be;
    be.run(&["init"]).done();
    let cfg = fs::read_to_string(system.top("@boot/grub/grub.cfg"))?;
    ensure!(cfg.contains("45_be"), "{cfg}");
    assert_eq!(system.read("/boot/grub/grub.cfg")?, "stale\n");
    be.run(&["create", "new"]).done();
    let entry = "linux ($be_root)'/@boot/vmlinuz-";
    ensure!(system.sound_menu()? == "default");
    ensure!(system.menu()?.contains(entry), "{}", system.menu()?);
    for name in ["default", "new"] {
        let look = format!("test -s /boot/vmlinuz-{KERNEL}");
        be.run(&["exec", name, "--", "sh", "-c", &look]).done();
        ensure!(be.run(&["list", "-H", name]).done().stdout.contains(KERNEL));
    }
    be.run(&["activate", "new"]).done();
    {
        let (_root, be) = system.mount_root_of("new")?;
        be.run(&["check", "default"]).done();
        be.run(&["create", "-e", "default", "third"]).done();
        be.run(&["rollback"]).done();
    }
    ensure!(system.sound_menu()? == "default");
    be.run(&["destroy", "-y", "new", "third"]).done();
    assert_eq!(system.subvolumes()?, subvolumes);
    assert_eq!(system.host_changes(&host)?, NOTHING);
    Ok(())
}

/// Automounts, for one, are not in fstab.
#[test]
#[ignore = "needs root, loop devices and the lab"]
fn with_a_boot_that_fstab_does_not_know() -> Result<()> {
    let system = System::lab(Layout::BootExt4)?;
    let fstab = system.read("/etc/fstab")?;
    let without: Vec<_> = fstab.lines().filter(|l| !l.contains(" /boot ")).collect();
    system.write("/etc/fstab", without.join("\n") + "\n")?;
    let be = &system.be;
    be.run(&["init"]).done();
    run(cmd("umount", [] as [&str; 0]).arg(system.path("/boot")))?;
    be.run(&["create", "new"]).done();
    be.run(&["check", "new"]).done();
    be.run(&["doctor"]).done();
    be.run(&["destroy", "-y", "new"]).done();
    let boot = system.image().volumes().boot.as_ref().context("a /boot")?;
    run(cmd("mount", [boot.device.node()]).arg(system.path("/boot")))?;
    Ok(())
}

/// As it will be at boot, an environment has all that its origin has, wherever that lies.
fn is_whole(system: &System, name: &str) -> Result<()> {
    let (clone, _) = system.mount_root_of(name)?;
    mount_all(system.device().node(), clone.path())?;
    let mut diff = cmd("diff", ["-rq", "--no-dereference"]);
    let output = diff.arg(system.root()).arg(clone.path()).output()?;
    unmount_below(clone.path())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let root = system.root().display();
    let apart = system.layout().boot_apart();
    let known = [
        (true, format!("Files {root}/etc/fstab and ")),
        (true, format!("Only in {root}: @be")),
        // GRUB's own, and the filesystem's.
        (apart, format!("Only in {root}/boot: ")),
        // What cannot be compared.
        (true, "File ".into()),
    ];
    let odd: Vec<_> = text
        .lines()
        .filter(|l| {
            !known
                .iter()
                .any(|(when, start)| *when && l.starts_with(start))
        })
        .collect();
    ensure!(odd.is_empty(), "{:?}: {odd:#?}", system.layout());
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(errors.is_empty(), "{:?}: {errors}", system.layout());
    if apart {
        let kernel = format!("boot/vmlinuz-{}", system.image().lab.old_kernel.release);
        ensure!(system.env(name, &kernel).is_file());
    }
    Ok(())
}

/// The root of an environment, mounted alone.
fn alone(system: &System, subvolume: &str, at: &str) -> Result<(Mount, Be)> {
    let target = system.dir().join(at);
    fs::create_dir_all(&target)?;
    let options = format!("subvol=/{subvolume}");
    let mount = Mount::new(system.device().node(), &target, "btrfs", &options)?;
    let be = Be::at(mount.path())?;
    Ok((mount, be))
}

/// Only a root is mounted, of the system as it was or of an environment: the rest of it,
/// its /boot included, is where fstab says.
fn from_rescue_media(system: &System) -> Result<()> {
    let layout = system.layout();
    unmount_below(system.root())?;
    let (old, be) = alone(system, layout.root(), "rescue-old")?;
    let host = system.host()?;
    be.run(&["create", "-a", "new"]).done();
    ensure!(system.menu_default()? == "new");
    be.run(&["check", "new"]).done();
    be.run(&["check", "default"]).done();
    be.run(&["menu"]).done();
    be.run(&["list", "-a"]).done();
    be.run(&["activate", "default"]).done();
    be.run(&["activate", "new"]).done();
    let status = be.run(&["--json", "status"]).done().json();
    ensure!(
        status["hooked"] == true && status["next"] == "new",
        "{status}"
    );
    let inside = be.run(&["exec", "new", "--", "hello"]).done();
    assert_eq!(inside.stdout, "hello 1\n");
    let dir = be.run(&["mount", "new"]).done().stdout;
    let packages = Path::new(dir.trim()).join("var/db/pkg/app-misc/hello-1");
    ensure!(packages.is_dir(), "{}", packages.display());
    be.run(&["umount", "new"]).done();
    assert_eq!(system.host_changes(&host)?, NOTHING, "{layout:?}");
    drop(old);

    let (new, be) = alone(system, "@be/new/root", "rescue-new")?;
    let host = system.host()?;
    be.run(&["check", "new"]).done();
    be.run(&["check", "default"]).done();
    be.run(&["create", "third"]).done();
    be.run(&["create", "-e", "default", "fourth"]).done();
    be.run(&["check", "third"]).done();
    be.run(&["check", "fourth"]).done();
    be.run(&["rollback"]).done();
    ensure!(system.menu_default()? == "default");
    be.run(&["menu"]).done();
    let list = be.run(&["list", "-H"]).done().stdout;
    for row in ["default\tR\t", "new\tN\t", "third\t-\t", "fourth\t-\t"] {
        ensure!(list.lines().any(|l| l.starts_with(row)), "{row}: {list}");
    }
    be.run(&["destroy", "-y", "third", "fourth"]).done();
    assert_eq!(system.host_changes(&host)?, NOTHING, "{layout:?}");
    drop(new);

    let (_old, be) = alone(system, layout.root(), "rescue-old")?;
    be.run(&["destroy", "-y", "new"]).done();
    // As it was.
    let target = system.root();
    let fstab = fs::read_to_string(target.join("etc/fstab"))?;
    for line in fstab.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [source, at, fstype, options, ..] = fields[..] else {
            continue;
        };
        if at != "/" {
            let volumes = system.image().volumes();
            let uuid = source.trim_start_matches("UUID=");
            let volume = volumes.all().find(|v| v.uuid == uuid);
            let node = volume.map_or(system.device().node(), |v| v.device.node());
            let at = target.join(at.trim_start_matches('/'));
            run(cmd("mount", ["-t", fstype, "-o", options])
                .arg(node)
                .arg(at))?;
        }
    }
    Ok(())
}
