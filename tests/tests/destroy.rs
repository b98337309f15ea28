//! Only what `be` made is ever deleted, and nothing that anything still uses.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use be_tests::be::Outcome;
use be_tests::system::{NOTHING, System};
use be_tests::user::User;
use xtask::image::Tree;
use xtask::run::{cmd, run};

const REFUSED: i32 = 3;

fn with_x() -> Result<System> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "x"]).done();
    Ok(system)
}

/// Refused with and without force, naming this, and `x` is whole afterwards.
#[track_caller]
fn stays(system: &System, words: &[&str]) -> Result<()> {
    for args in [&["destroy", "-y", "x"][..], &["destroy", "-f", "-y", "x"]] {
        let outcome = system.unchanged_by(REFUSED, args)?;
        for word in words {
            assert!(outcome.error().contains(word), "{word}: {}", outcome.stderr);
        }
    }
    assert!(system.env("x", "etc/fstab").exists());
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn mounted_in_another_namespace() -> Result<()> {
    let system = with_x()?;
    let target = system.dir().join("elsewhere");
    let part = system.dir().join("part");
    for dir in [&target, &part] {
        fs::create_dir(dir)?;
    }
    let (target, part) = (target.display(), part.display());
    let mount = |subvolume: &str| {
        let device = system.device().node().display();
        format!("mount -t btrfs -o subvol=/{subvolume} {device} {target}")
    };
    let only_a_part = format!(
        "{} && mount --bind {target}/etc {part} && umount {target}",
        mount("@be/x/root")
    );
    for script in [mount("@be/x/root"), mount("@be/x/base/root"), only_a_part] {
        let other = User::elsewhere(&script)?;
        let pid = format!("process {}", other.0.id());
        stays(&system, &["x is in use", &pid])?;
    }
    system.be.run(&["destroy", "-y", "x"]).done();
    assert_eq!(system.subvolume_paths()?, ["@"]);
    Ok(())
}

/// Where `be` mounts something. Dropped, nothing is mounted there.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _no_mount = nix::mount::umount(self.0);
    }
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn mounted_by_be() -> Result<()> {
    let system = with_x()?;
    let host = system.host()?;
    let target = system.dir().join("x");
    fs::create_dir(&target)?;
    let place = target.display().to_string();
    let _mounted = Mounted(&target);
    let mounted = system.be.run(&["mount", "x", &place]).done();
    assert_eq!(mounted.stdout, format!("{place}\n"));
    assert!(target.join("etc/fstab").exists());
    assert_eq!(
        system.listed("x").map(|e| e["mountpoint"].clone()),
        Some(place.as_str().into())
    );

    let refused = system.unchanged_by(REFUSED, &["destroy", "-y", "x"])?;
    assert!(refused.error().contains(&place), "{}", refused.stderr);
    // Forced, but not while it is worked in: nothing is unmounted lazily.
    let user = User(
        Command::new("sleep")
            .arg("600")
            .current_dir(&target)
            .spawn()?,
    );
    let store = system.store()?;
    let refused = system.be.run(&["destroy", "-f", "-y", "x"]).exits(REFUSED);
    drop(user);
    assert_eq!(store.diff(&system.store()?), NOTHING);
    assert!(refused.error().contains("in use"));

    system.be.run(&["umount", "x"]).done();
    assert_eq!(system.host_changes(&host)?, NOTHING);
    system.be.run(&["mount", "x", &place]).done();
    system.be.run(&["destroy", "-f", "-y", "x"]).done();
    assert_eq!(system.host_changes(&host)?, NOTHING);
    assert_eq!(system.subvolume_paths()?, ["@"]);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_mount_point_of_its_own() -> Result<()> {
    let system = with_x()?;
    // In a namespace of its own: /run/be belongs to the host that runs the tests.
    let script = r#"set -e
        dir=$("$BE" --sysroot "$ROOT" mount x)
        test "$dir" = /run/be/x
        test -e "$dir/etc/fstab"
        test "$("$BE" --sysroot "$ROOT" mount x)" = "$dir"
        "$BE" --sysroot "$ROOT" unmount x
        ! test -e "$dir""#;
    run(cmd("unshare", ["--mount", "sh", "-c", script])
        .env("BE", system.be.program())
        .env("ROOT", system.root()))?;
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn the_default_subvolume() -> Result<()> {
    let system = with_x()?;
    run(cmd("btrfs", ["subvolume", "set-default"]).arg(system.env("x", "")))?;
    stays(&system, &["x", "default subvolume"])?;
    run(cmd("btrfs", ["subvolume", "set-default", "5"]).arg(system.root()))?;
    system.be.run(&["destroy", "-y", "x"]).done();
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_subvolume_that_somebody_made_in_it() -> Result<()> {
    let system = with_x()?;
    system.make_subvolume("@be/x/root/root/mine")?;
    fs::write(system.env("x", "root/mine/work"), "of a year")?;
    stays(&system, &["x", "root/mine"])?;
    assert_eq!(
        fs::read_to_string(system.env("x", "root/mine/work"))?,
        "of a year"
    );
    run(cmd("btrfs", ["subvolume", "delete"]).arg(system.env("x", "root/mine")))?;
    system.be.run(&["destroy", "-y", "x"]).done();
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_subvolume_beside_its_root() -> Result<()> {
    let system = with_x()?;
    system.make_subvolume("@be/x/mine")?;
    let file = system.top("@be/x/mine/work");
    fs::write(&file, "of a year")?;
    // Whatever comes of the rest, this is not be's.
    let outcome = system.be.run(&["destroy", "-y", "x"]);
    let kept = system.subvolume_paths()?;
    let mine = kept.iter().find(|path| path.ends_with("/mine"));
    let mine = mine.unwrap_or_else(|| panic!("it is gone: {kept:?}\n{}", outcome.stderr));
    let text = fs::read_to_string(system.top(mine).join("work"))?;
    assert_eq!(text, "of a year");
    assert_eq!(outcome.code, REFUSED, "{}", outcome.stderr);
    assert!(file.exists());
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_directory_that_only_looks_like_one() -> Result<()> {
    let system = with_x()?;
    let plain = system.top("@be/plain");
    fs::create_dir_all(plain.join("root/etc"))?;
    fs::write(plain.join("root/etc/notes"), "mine")?;
    let outcome = system.unchanged_by(REFUSED, &["destroy", "-y", "plain"])?;
    assert!(outcome.error().contains("plain"));
    for verb in [&["menu"][..], &["activate", "default"]] {
        system.be.run(verb).done();
    }
    assert_eq!(fs::read_to_string(plain.join("root/etc/notes"))?, "mine");
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_record_of_another_subvolume() -> Result<()> {
    let system = with_x()?;
    // A copied record, and a foreign subvolume where the root should be.
    fs::create_dir(system.top("@be/fake"))?;
    let record = fs::read_to_string(system.top("@be/x/be.json"))?;
    let record = record.replacen("\"name\": \"x\"", "\"name\": \"fake\"", 1);
    fs::write(system.top("@be/fake/be.json"), record)?;
    system.make_subvolume("@be/fake/root")?;
    fs::write(system.top("@be/fake/root/work"), "of a year")?;
    let before = system.subvolumes()?;

    let outcome = system.be.run(&["destroy", "-y", "fake"]);
    assert_eq!(before, system.subvolumes()?, "{}", outcome.stderr);
    let work = fs::read_to_string(system.top("@be/fake/root/work"))?;
    assert_eq!(work, "of a year");
    assert_eq!(outcome.code, REFUSED, "{}", outcome.stderr);

    // Nor does a command that sweeps up.
    system.be.run(&["menu"]).done();
    assert_eq!(before, system.subvolumes()?);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_lies_in_the_work_directories_and_is_not_known() -> Result<()> {
    let system = with_x()?;
    for dir in ["new", "gone"] {
        let path = format!("@be/.work/{dir}/stranger");
        fs::create_dir_all(system.top(&path))?;
        system.make_subvolume(&format!("{path}/root"))?;
        fs::write(system.top(&format!("{path}/root/work")), "of a year")?;
    }
    let before = system.subvolumes()?;
    let outcome = system.be.run(&["menu"]).done();
    assert_eq!(before, system.subvolumes()?, "{}", outcome.stderr);
    for dir in ["new", "gone"] {
        let path = format!("@be/.work/{dir}/stranger/root/work");
        assert_eq!(fs::read_to_string(system.top(&path))?, "of a year");
    }
    outcome.says(&["stranger"]);
    assert!(system.read("/etc/fstab")?.contains("subvol=/@"));
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn where_its_users_cannot_be_seen() -> Result<()> {
    let system = with_x()?;
    let store = system.store()?;
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--mount-proc", "--"])
        .arg(system.be.program())
        .arg("--sysroot")
        .arg(system.root())
        .args(["destroy", "-y", "x"]);
    let refused = Outcome::of(&mut command).exits(REFUSED);
    assert!(refused.error().contains("container"), "{}", refused.stderr);
    assert_eq!(store.diff(&system.store()?), NOTHING);
    Ok(())
}
