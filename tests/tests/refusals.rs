//! Bad input: each with one clear error that names the object, the right exit
//! code, and nothing changed.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use be_tests::be::{Be, Outcome};
use be_tests::system::System;
use nix::fcntl::{Flock, FlockArg};
use xtask::image::Tree;
use xtask::run::{cmd, run};

const USAGE: i32 = 2;
const REFUSED: i32 = 3;
const BUSY: i32 = 4;

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn wrong_names() -> Result<()> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "x"]).done();
    let long = "n".repeat(300);
    for (name, words) in [
        ("a/b", "a/b"),
        ("/", "/"),
        ("a b", "a b"),
        ("a'b", "a'b"),
        ("a\"b", "a\"b"),
        ("a\nb", "a"),
        ("$(id)", "$(id)"),
        ("..", ".."),
        (".work", ".work"),
        ("", "empty"),
        ("lock", "lock"),
        (&long, "300 bytes"),
    ] {
        for verb in [
            &["create", name][..],
            &["create", "-e", name, "y"],
            &["upgrade", name],
            &["upgrade", "--continue", name],
            &["activate", name],
            &["rollback", name],
            &["destroy", "-y", name],
            &["destroy", "-y", "x", name],
            &["mount", name],
            &["check", name],
            &["log", name],
            &["exec", name, "--", "true"],
            &["init", "--name", name],
            &["rename", name, "y"],
            &["rename", "x", name],
            &["describe", name, "text"],
            &["pin", name],
        ] {
            system.refuses(USAGE, verb, &[words])?;
        }
    }
    for verb in [
        &["activate", "nope"][..],
        &["rollback", "nope"],
        &["destroy", "-y", "nope"],
        &["destroy", "-y", "x", "nope"],
        &["create", "-e", "nope", "y"],
        &["upgrade", "-e", "nope"],
        &["upgrade", "--continue", "nope"],
        &["mount", "nope"],
        &["umount", "nope"],
        &["check", "nope"],
        &["log", "nope"],
        &["list", "nope"],
        &["shell", "nope"],
        &["exec", "nope", "--", "true"],
        &["rename", "nope", "y"],
        &["describe", "nope", "text"],
        &["pin", "nope"],
        &["unpin", "nope"],
        &["create", "nope@a"],
        &["rollback", "nope@a"],
    ] {
        let _ = fs::remove_file(system.path("/nope"));
        system
            .refuses(REFUSED, verb, &["nope"])
            .with_context(|| format!("{verb:?}"))?;
    }
    for verb in ["create", "upgrade"] {
        system.refuses(REFUSED, &[verb, "x"], &["x", "exists"])?;
    }
    let near = system.be.run(&["check", "defualt"]).exits(REFUSED);
    near.says(&["did you mean default"]);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn wrong_wishes() -> Result<()> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "x"]).done();
    let nowhere = system.dir().join("nowhere").display().to_string();
    let full = system.dir().display().to_string();
    for (code, args, words) in [
        (REFUSED, &["activate", "--trial", "x"][..], "no trial boots"),
        (REFUSED, &["confirm"], "has booted"),
        (REFUSED, &["upgrade", "--trial", "y"], "trial"),
        (REFUSED, &["upgrade", "--continue", "x"], "x is ready"),
        (REFUSED, &["destroy", "x"], "x"),
        (REFUSED, &["destroy", "-y", "default"], "default"),
        (REFUSED, &["destroy", "-f", "-y", "default"], "default"),
        (REFUSED, &["destroy", "-y", "x", "default"], "default"),
        (REFUSED, &["rollback"], "environment to go back to"),
        (REFUSED, &["umount", "x"], "x"),
        (REFUSED, &["umount", "default"], "default"),
        (REFUSED, &["mount", "x", &nowhere], &nowhere),
        (REFUSED, &["mount", "x", &full], &full),
        (USAGE, &["upgrade", "--", "--unmerge"], "--unmerge"),
        (USAGE, &["upgrade", "--", "--root=/"], "--root"),
        (USAGE, &["create", "--no-such-option"], "--no-such-option"),
        (USAGE, &["no-such-verb"], "no-such-verb"),
    ] {
        system.refuses(code, args, &[words])?;
    }
    system.be.run(&["activate", "x"]).done();
    system.refuses(REFUSED, &["destroy", "-y", "x"], &["x", "boots next"])?;
    // Seen from the other environment, the adopted one neither runs nor is next.
    let (_mount, other) = system.mount_root_of("x")?;
    let store = system.store()?;
    let outcome = other.run(&["destroy", "-y", "default"]).exits(REFUSED);
    let error = outcome.error();
    assert!(error.contains(" default"), "{error}");
    assert_eq!(store, system.store()?);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn wrong_places() -> Result<()> {
    let system = System::small()?;
    for verb in [
        "list", "create", "status", "menu", "check", "prune", "doctor",
    ] {
        let outcome = system.unchanged_by(REFUSED, &[verb])?;
        assert!(outcome.error().contains("does not manage"));
        outcome.says(&["next: be init"]);
    }
    system.be.run(&["init"]).done();

    let tmpfs = tempfile::tempdir_in("/dev/shm")?;
    let place = tmpfs.path().display().to_string();
    let outcome = Be::at(tmpfs.path())?.run(&["init"]).exits(REFUSED);
    assert!(
        outcome
            .error()
            .contains(&format!("{place} is not on btrfs"))
    );
    for (dir, words) in [
        (system.path("/etc"), "not the root of a subvolume"),
        (system.path("/etc/fstab"), "/etc/fstab"),
        (system.path("/no-such"), "/no-such"),
    ] {
        let outcome = Be::at(&dir)?.run(&["create", "y"]).exits(REFUSED);
        assert!(outcome.error().contains(words), "{}", outcome.stderr);
    }
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn not_root() -> Result<()> {
    let system = System::adopted_small()?;
    // Where nobody can reach it.
    let dir = tempfile::tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let program = dir.path().join("be");
    fs::copy(system.be.program(), &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let store = system.store()?;
    for verb in [&["list"][..], &["create", "y"], &["init"], &["upgrade"]] {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .arg("--sysroot")
            .arg(system.root())
            .args(verb)
            .current_dir("/");
        let outcome = Outcome::of(&mut command).exits(REFUSED);
        assert!(outcome.error().contains("root"), "{}", outcome.stderr);
    }
    assert_eq!(store, system.store()?);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_read_only_filesystem() -> Result<()> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "x"]).done();
    run(cmd("mount", ["-o", "remount,ro"]).arg(system.root()))?;
    run(cmd("mount", ["-o", "remount,ro"]).arg(system.top("")))?;
    for verb in [
        &["create", "y"][..],
        &["upgrade", "y"],
        &["activate", "x"],
        &["rollback", "x"],
        &["destroy", "-y", "x"],
        &["menu"],
        &["rename", "x", "y"],
        &["describe", "x", "text"],
        &["pin", "x"],
        &["create", "x@a"],
        &["rollback", "x@a"],
    ] {
        system.refuses(REFUSED, verb, &["read-only"])?;
    }
    system.be.run(&["list"]).done();
    system.be.run(&["status"]).done();
    system.be.run(&["check", "x"]).done();
    Ok(())
}

/// An active swapfile; dropped, it is inactive.
struct Swap(PathBuf);

impl Swap {
    fn on(path: PathBuf) -> Result<Self> {
        run(cmd("btrfs", ["filesystem", "mkswapfile", "--size", "16m"]).arg(&path))?;
        run(cmd("swapon", [&path]).env("LC_ALL", "C"))?;
        Ok(Self(path))
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let _off = cmd("swapoff", [&self.0]).status();
    }
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_swapfile_in_the_root() -> Result<()> {
    let system = System::adopted_small()?;
    let swap = Swap::on(system.path("/swap.file"))?;
    system.refuses(REFUSED, &["create", "y"], &["swap.file"])?;
    drop(swap);
    system.be.run(&["create", "y"]).done();
    // Outside of what is cloned it does not matter.
    system.make_subvolume("@swap")?;
    let _swap = Swap::on(system.top("@swap/swap.file"))?;
    system.be.run(&["create", "z"]).done();
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn another_be_holds_the_lock() -> Result<()> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "x"]).done();
    let lock = File::open(system.top("@be/lock"))?;
    let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, e)| e)
        .context("the lock is not free")?;
    for verb in [
        &["create", "y"][..],
        &["upgrade", "y"],
        &["activate", "x"],
        &["rollback", "x"],
        &["destroy", "-y", "x"],
        &["menu"],
        &["prune"],
        &["rename", "x", "y"],
        &["describe", "x", "text"],
        &["pin", "x"],
        &["create", "x@a"],
        &["rollback", "x@a"],
        &["init"],
    ] {
        system.refuses(BUSY, verb, &["another be is at work"])?;
    }
    system.be.run(&["list"]).done();
    system.be.run(&["status"]).done();
    drop(lock);
    system.be.run(&["create", "y"]).done();
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_damaged_record() -> Result<()> {
    let system = System::adopted_small()?;
    for name in ["x", "y"] {
        system.be.run(&["create", name]).done();
    }
    let path = system.top("@be/x/be.json");
    let good = fs::read_to_string(&path)?;
    let half = &good[..good.len() / 2];
    let other_name = good.replace("\"x\"", "\"other\"");
    for bad in ["", half, "\0\0\0", "[]", "{}", &other_name] {
        fs::write(&path, bad)?;
        let list = system.be.run(&["list"]).done().says(&["x is left out"]);
        assert!(list.stdout.contains("default") && list.stdout.contains("\ny "));
        system
            .be
            .run(&["list", "-H"])
            .done()
            .says(&["x is left out"]);
        for verb in [
            &["create", "z"][..],
            &["create", "x"],
            &["destroy", "-y", "x"],
            &["destroy", "-y", "y"],
            &["activate", "x"],
            &["check", "x"],
            &["mount", "x"],
        ] {
            system.refuses(REFUSED, verb, &["x", "cannot be read"])?;
        }
        // What still boots can still be chosen.
        system.be.run(&["activate", "y"]).done();
        system.be.run(&["activate", "default"]).done();
        ensure!(system.sound_menu()? == "default");
    }
    fs::write(&path, &good)?;
    system.be.run(&["menu"]).done();
    ensure!(system.menu()?.contains("--id 'be-x'"));
    // Gone altogether.
    fs::remove_file(&path)?;
    system.refuses(REFUSED, &["create", "z"], &["x"])?;
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_newer_record_is_read_and_kept() -> Result<()> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "x"]).done();
    let path = system.top("@be/x/be.json");
    let newer = fs::read_to_string(&path)?.replacen(
        "\"schema\": 1,",
        "\"schema\": 2,\n  \"colour\": {\"of\": [\"sky\"]},",
        1,
    );
    fs::write(&path, &newer)?;
    assert_eq!(
        system.listed("x").context("it is not listed")?["state"],
        "ready"
    );
    system.be.run(&["activate", "x"]).done();
    assert_eq!(system.record("x")?["colour"]["of"][0], "sky");
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_wrong_configuration() -> Result<()> {
    let system = System::adopted_small()?;
    for (text, words) in [
        ("[upgrade]\nsnyc = true\n", &["line 2", "snyc"][..]),
        ("[upgrade]\n\nsync = \"no\"\n", &["line 3"]),
        ("what\n", &["line 1"]),
        ("[upgrade]\nsync = true\n[menus]\n", &["line 3", "menus"]),
    ] {
        system.write("/etc/be/be.toml", text)?;
        for verb in [&["create", "y"][..], &["list"], &["upgrade"]] {
            let outcome = system.unchanged_by(REFUSED, verb)?;
            assert!(outcome.error().contains("be.toml"), "{}", outcome.stderr);
            outcome.says(words);
        }
    }
    Ok(())
}
