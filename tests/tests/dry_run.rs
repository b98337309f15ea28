//! `--dry-run` of every verb says what it would do, and does nothing.

use anyhow::{Result, ensure};
use be_tests::system::System;
use xtask::image::Tree;

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn of_every_verb() -> Result<()> {
    let system = System::small()?;
    let init = system.unchanged_by(0, &["--dry-run", "init"])?;
    ensure!(
        init.stdout.contains("would make the store"),
        "{}",
        init.stdout
    );
    ensure!(init.stdout.contains("would adopt"), "{}", init.stdout);
    ensure!(!system.top("@be").exists());
    system.be.run(&["init"]).done();
    system.be.run(&["create", "x"]).done();
    system.be.run(&["create", "x@a"]).done();
    // The small system has not the room that an upgrade asks for by default.
    system.write("/etc/be/be.toml", "[upgrade]\nmin_free_mib = 16\n")?;

    let dir = system.dir().join("x");
    std::fs::create_dir(&dir)?;
    let dir = dir.display().to_string();
    for (args, words) in [
        (&["create", "y"][..], "would clone"),
        (&["create", "-a", "y"], "would clone"),
        (&["create", "-d", "why", "-e", "x", "y"], "would clone"),
        (&["upgrade", "y"], "would merge"),
        (&["upgrade", "--pretend", "y"], "would compute"),
        (&["activate", "x"], "x boots by default"),
        (&["rollback", "x"], "x boots by default"),
        (&["destroy", "x"], "would delete x"),
        (&["destroy", "-y", "x"], "would delete x"),
        (&["mount", "x", &dir], "would mount x"),
        (&["exec", "x", "--", "touch", "/new"], "would run touch"),
        (&["shell", "x"], "would run"),
        (&["menu"], "menuentry 'x"),
        (&["rename", "x", "y"], "would rename /@be/x to /@be/y"),
        (&["describe", "x", "text"], "would write the record of x"),
        (&["pin", "x"], "would write the record of x"),
        (&["create", "x@b"], "would snapshot 1 subvolume as x@b"),
        (
            &["create", "-e", "x@a", "y"],
            "would clone /@be/x/snap/a/root",
        ),
        (&["rollback", "x@a"], "would put x back to x@a"),
        (&["destroy", "x@a"], "would delete the snapshot x@a"),
        (&["mount", "x@a", &dir], "would mount x@a"),
        (&["list"], "x"),
        (&["status"], "default"),
        (&["check", "x"], "x is bootable"),
    ] {
        for option in ["-n", "--dry-run"] {
            let all: Vec<&str> = [option].iter().chain(args).copied().collect();
            let outcome = system.unchanged_by(0, &all)?;
            ensure!(
                outcome.stdout.contains(words),
                "{all:?}: {}",
                outcome.stdout
            );
            ensure!(!system.env("x", "new").exists());
        }
        let mut json = vec!["-n", "--json"];
        json.extend(args);
        let _document = system.unchanged_by(0, &json)?.json();
    }
    system.be.run(&["mount", "x", &dir]).done();
    let umount = system.unchanged_by(0, &["-n", "umount", "x"])?;
    ensure!(umount.stdout.contains("would unmount"), "{}", umount.stdout);
    let forced = system.unchanged_by(0, &["-n", "destroy", "-f", "x"])?;
    ensure!(forced.stdout.contains("unmount"), "{}", forced.stdout);
    system.be.run(&["umount", "x"]).done();
    let _nothing = system.unchanged_by(77, &["-n", "init"])?;
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_is_refused_is_refused_dry_as_well() -> Result<()> {
    let system = System::adopted_small()?;
    for (code, args) in [
        (3, &["create", "default"][..]),
        (3, &["activate", "nope"]),
        (3, &["destroy", "default"]),
        (5, &["upgrade"]),
        (77, &["init"]),
    ] {
        let all: Vec<&str> = ["-n"].iter().chain(args).copied().collect();
        let outcome = system.unchanged_by(code, &all)?;
        ensure!(!outcome.error().is_empty());
    }
    Ok(())
}
