//! What somebody from Solaris, illumos or FreeBSD types.

use std::fs;
use std::os::unix::process::CommandExt;

use anyhow::{Context, Result, ensure};
use be_tests::be::Outcome;
use be_tests::system::{NOTHING, System};
use xtask::image::Tree;

const USAGE: i32 = 2;
const REFUSED: i32 = 3;

fn with_x() -> Result<System> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "x"]).done();
    Ok(system)
}

/// The same program, called by another name.
fn called(system: &System, name: &str, args: &[&str]) -> Outcome {
    Outcome::of(system.be.command(args).arg0(format!("/usr/sbin/{name}")))
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn descriptions_and_pins() -> Result<()> {
    let system = with_x()?;
    let running = system.running()?;
    system.be.run(&["describe", "x", "für später"]).done();
    assert_eq!(system.record("x")?["description"], "für später");
    ensure!(
        system.menu()?.contains(", für später'"),
        "{}",
        system.menu()?
    );
    assert_eq!(system.sound_menu()?, "default");
    let long = "x".repeat(1001);
    for args in [
        ["describe", "x", "two\nlines"],
        ["describe", "x", &long],
        ["create", "-d", "two\nlines"],
    ] {
        system.be.run(&args).exits(USAGE).says(&["it has"]);
    }
    system.be.run(&["describe", "x", ""]).done();
    ensure!(!system.menu()?.contains("später"));
    system.refuses(REFUSED, &["describe", "nope", "text"], &["nope"])?;

    for _twice in 0..2 {
        system.be.run(&["pin", "x"]).done();
    }
    assert_eq!(
        system.listed("x").map(|e| e["pinned"].clone()),
        Some(true.into())
    );
    ensure!(system.be.run(&["list"]).done().stdout.contains("[pinned]"));
    let outcome = system.unchanged_by(REFUSED, &["destroy", "-f", "-y", "x"])?;
    assert!(outcome.error().contains("x is pinned"));
    outcome.says(&["next: be unpin x"]);
    let dry = system.unchanged_by(0, &["-n", "unpin", "x"])?;
    assert!(dry.stdout.contains("would write the record of x"));
    for _twice in 0..2 {
        let json = system.be.run(&["--json", "unpin", "x"]).done().json();
        assert_eq!(json["pinned"], false);
    }
    system.be.run(&["destroy", "-y", "x"]).done();
    system.refuses(REFUSED, &["pin", "x"], &["x"])?;
    assert_eq!(running.diff(&system.running()?), NOTHING);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn active_already() -> Result<()> {
    let system = with_x()?;
    let again = system.be.run(&["activate", "default"]).done();
    assert_eq!(again.stdout, "default boots next already\n");
    assert_eq!(
        system.be.run(&["activate", "x"]).done().stdout,
        "x boots next\n"
    );
    let menu = system.menu()?;
    assert_eq!(
        system.be.run(&["activate", "x"]).done().stdout,
        "x boots next already\n"
    );
    assert_eq!(system.menu()?, menu);
    for args in [&["activate", "-T"][..], &["activate", "-T", "x"]] {
        let none = system.unchanged_by(0, args)?;
        assert_eq!(none.stdout, "no environment is chosen for one boot only\n");
    }
    system.refuses(REFUSED, &["activate", "-T", "nope"], &["nope"])?;

    // GRUB cannot write to a loop device: what has come up sets the default back.
    system.be.run(&["activate", "default"]).done();
    let once = system.be.run(&["activate", "-t", "x"]).done();
    assert_eq!(once.stdout, "x boots next, and default after it\n");
    let once = once.says(&["GRUB can write nowhere", "choose default in the menu"]);
    assert_eq!(once.code, 0);
    assert_eq!(system.sound_menu()?, "x");
    system.refuses(REFUSED, &["destroy", "-y", "x"], &["x", "boots next"])?;
    // Whatever else is written meanwhile.
    system.be.run(&["create", "y"]).done();
    system.be.run(&["activate", "-T"]).done();
    assert_eq!(system.sound_menu()?, "default");
    assert!(!system.menu()?.contains("\"back\""));
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn mounted_where_it_is_already() -> Result<()> {
    let system = with_x()?;
    system.be.run(&["create", "x@a"]).done();
    let host = system.host()?;
    let dir = system.dir().join("x");
    fs::create_dir(&dir)?;
    let place = dir.display().to_string();
    for args in [
        &["mount", "x", &place][..],
        &["mount", "x", &place],
        &["mount", "x"],
    ] {
        assert_eq!(system.be.run(args).done().stdout, format!("{place}\n"));
    }
    let root = system.be.run(&["mount", "default"]).done().stdout;
    assert_eq!(root.trim(), system.root().display().to_string());
    // What works there stops it, unless it is forced.
    let mut user = std::process::Command::new("sleep")
        .arg("600")
        .current_dir(&dir)
        .spawn()?;
    let refused = system.be.run(&["unmount", &place]);
    let forced = system.be.run(&["unmount", "-f", &place]);
    user.kill()?;
    user.wait()?;
    let _refused = refused.exits(REFUSED).says(&["is in use"]);
    forced.done().says(&["something still works"]);
    assert_eq!(system.host_changes(&host)?, NOTHING);
    system.refuses(REFUSED, &["umount", "x"], &["x is not mounted"])?;
    system.refuses(REFUSED, &["umount", "x@a"], &["x@a is not mounted"])?;
    system.refuses(REFUSED, &["umount", "x@b"], &["x@b"])?;
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn mounts_below_run_are_made_and_removed() -> Result<()> {
    let system = with_x()?;
    system.be.run(&["create", "x@a"]).done();
    // In a namespace of its own: /run/be belongs to the host that runs the tests.
    let script = r#"set -e
        mount -t tmpfs tmpfs /run
        mkdir -p /run/be/x
        mount -t tmpfs other /run/be/x
        be() { "$BE" --sysroot "$ROOT" "$@"; }
        test "$(be mount x)" = /run/be/x.2
        test "$(be mount x)" = /run/be/x.2
        test "$(be mount x@a)" = /run/be/x@a
        test -e /run/be/x@a/etc/fstab
        be umount x
        be umount /run/be/x@a
        test "$(ls /run/be)" = x
        be destroy -y x@a
    "#;
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script])
        .env("BE", system.be.program())
        .env("ROOT", system.root());
    Outcome::of(&mut command).done();
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_symlink_named_beadm() -> Result<()> {
    let system = with_x()?;
    let list = called(&system, "beadm", &["list", "-H"]).done().stdout;
    let lines: Vec<Vec<&str>> = list.lines().map(|l| l.split(';').collect()).collect();
    assert_eq!(lines.len(), 2, "{list}");
    ensure!(lines.iter().all(|fields| fields.len() == 7), "{list}");
    let root = system.root().display().to_string();
    assert_eq!(lines[0][0], "default");
    assert_eq!(lines[0][2..4], ["NR", root.as_str()]);
    assert_eq!(lines[1][0], "x");
    assert_eq!(lines[1][2..4], ["", ""]);
    let uuid = system.listed("x").context("x is not listed")?["uuid"].clone();
    assert_eq!(lines[1][1], uuid);
    ensure!(lines[1][6].parse::<i64>().is_ok(), "{list}");
    assert_eq!(
        called(&system, "beadm", &[]).done().stdout,
        system.be.run(&["list"]).done().stdout
    );
    called(&system, "beadm", &["create", "-v", "x@now"]).done();
    called(
        &system,
        "beadm",
        &["create", "-a", "-d", "text", "-e", "x@now", "y"],
    )
    .done();
    assert_eq!(system.sound_menu()?, "y");
    called(&system, "beadm", &["activate", "default"]).done();
    called(&system, "beadm", &["rename", "y", "z"]).done();
    called(&system, "beadm", &["rollback", "x", "now"]).done();
    called(&system, "beadm", &["list", "-ds", "-K", "date", "x"]).done();
    let parts = called(&system, "beadm", &["list", "-aH", "x"])
        .done()
        .stdout;
    assert!(parts.contains("\nx;x@now;"), "{parts}");
    for (args, words) in [
        (&["create", "-o", "compression=on", "w"][..], "create -o"),
        (&["create", "-p", "rpool2", "w"], "create -p"),
        (&["mount", "-s", "ro", "x", "/mnt"], "mount -s"),
    ] {
        let outcome = called(&system, "beadm", args).exits(2);
        assert!(outcome.error().contains(words), "{}", outcome.stderr);
        outcome.says(&["next: "]);
    }
    called(&system, "beadm", &["destroy", "-fFs", "x"]).done();
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_symlink_named_bectl() -> Result<()> {
    let system = with_x()?;
    called(&system, "bectl", &["create", "-r", "x@a"]).done();
    called(&system, "bectl", &["create", "-r", "-e", "x@a", "y"]).done();
    called(&system, "bectl", &["check"]).done();
    called(&system, "bectl", &["list", "-as", "-C", "creation"]).done();
    called(&system, "bectl", &["list", "-H", "-c", "name"]).done();
    called(&system, "bectl", &["rename", "y", "z"]).done();
    for (args, words) in [
        (&["jail", "x"][..], "be shell ENV"),
        (&["export", "x"], "btrfs send"),
        (&["list", "-D"], "be list --json"),
        (&["-r", "zroot", "list"], "--sysroot"),
    ] {
        let outcome = called(&system, "bectl", args).exits(2);
        outcome.says(&["next: ", words]);
        let json = called(&system, "bectl", &[&["--json"], args].concat()).exits(2);
        assert_eq!(json.json()["error"]["kind"], "usage");
    }
    let dir = system.dir().join("z");
    fs::create_dir(&dir)?;
    called(
        &system,
        "bectl",
        &["mount", "z", &dir.display().to_string()],
    )
    .done();
    // It does not ask, and unmounts.
    called(&system, "bectl", &["destroy", "-F", "z"]).done();
    called(&system, "bectl", &["destroy", "x@a"]).done();
    called(&system, "bectl", &["destroy", "x"]).done();
    assert_eq!(system.subvolume_paths()?, ["@"]);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn names_are_completed() -> Result<()> {
    let system = with_x()?;
    system.be.run(&["create", "x@a"]).done();
    let script = system.be.run(&["completions", "bash"]).done().stdout;
    ensure!(script.contains("BE_COMPLETE"), "{script}");
    let completed = |words: &[&str]| {
        let mut command = std::process::Command::new(system.be.program());
        command
            .env("BE_COMPLETE", "bash")
            .env("BE_SYSROOT", system.root())
            .env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string())
            .env("_CLAP_IFS", "\n")
            .arg("--")
            .args(words);
        let text = Outcome::of(&mut command).done().stdout;
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(completed(&["be", "activate", "d"]), ["default"]);
    assert_eq!(completed(&["be", "destroy", "x"]), ["x", "x@a"]);
    assert_eq!(completed(&["be", "create", "-e", "x@"]), ["x@a"]);
    assert_eq!(completed(&["be", "unp"]), ["unpin"]);
    Ok(())
}
