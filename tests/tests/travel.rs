//! Environments that travel between two machines: two file systems, each with a system of its
//! own.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use be_tests::be::Running;
use be_tests::forged::{Forged, command, digest, manifest};
use be_tests::store::StoreState;
use be_tests::system::{NOTHING, System};
use be_tests::travel::{change, fill};
use nix::sys::signal::Signal;
use xtask::image::Tree;
use xtask::loopdev::Mount;
use xtask::run::{cmd, run};

/// Exit codes of the contract.
const REFUSED: i32 = 3;
const NO_SPACE: i32 = 5;

/// Checks that nothing of an environment is left: no subvolume, no file, no record.
#[track_caller]
fn nothing_came(system: &System, before: &StoreState) -> Result<()> {
    let mut lines = before.diff(&system.store()?);
    // The directories for it and for what is removed stay, empty; the menu is written anew.
    let directories = ["+ /.work/coming", "+ /.work/gone"];
    let rewritten = ["* /.work", "* /.grub", "* /:"];
    lines.retain(|line| {
        !directories.contains(&line.as_str()) && !rewritten.iter().any(|r| line.starts_with(r))
    });
    assert_eq!(lines, NOTHING);
    for dir in ["@be/.work/coming", "@be/.work/gone"] {
        let there = fs::read_dir(system.top(dir));
        assert!(there.map_or(true, |mut dir| dir.next().is_none()), "{dir}");
    }
    Ok(())
}

/// Two systems, of which the first has the environment `x` with files of all kinds.
fn two() -> Result<(System, System)> {
    let (weak, strong) = (System::adopted_small()?, System::adopted_small()?);
    weak.be.run(&["create", "-d", "to be built", "x"]).done();
    fill(&weak.env("x", "srv"))?;
    Ok((weak, strong))
}

#[test]
#[ignore = "needs root and loop devices"]
fn there_upgraded_and_back() -> Result<()> {
    let (weak, strong) = two()?;
    let (running, host) = (strong.running()?, strong.host()?);
    let received = weak.send_to(&strong, &["x"], &[])?.done();
    assert_eq!(received.stdout, "x\n");
    received.says(&["paths are as they were sent"]);
    let sent = weak.kept("x", "sent", "root")?;
    assert_eq!(sent.diff(&strong.kept("x", "received", "root")?), NOTHING);
    let record = strong.record("x")?;
    assert_eq!(record["state"], "ready");
    assert_eq!(record["description"], "to be built");
    assert_eq!(record["received"]["filesystem"], weak.uuid());
    assert_eq!(strong.sound_menu()?, "default");
    strong.be.run(&["check", "x"]).done();
    assert!(strong.menu()?.contains("/@be/x/root/boot/vmlinuz"));
    let fstab = fs::read_to_string(strong.env("x", "etc/fstab"))?;
    assert!(
        fstab.contains(strong.uuid()) && fstab.contains("subvol=/@be/x/root"),
        "{fstab}"
    );
    assert!(!fstab.contains(weak.uuid()), "{fstab}");

    strong.be.run(&["create", "-e", "x", "y"]).done();
    change(&strong.env("y", "srv"))?;
    let back = strong.send_to(&weak, &["y", "--since", "x"], &[])?.done();
    back.says(&["paths are as they were sent"]);
    let sent = strong.kept("y", "sent", "root")?;
    assert_eq!(sent.diff(&weak.kept("y", "received", "root")?), NOTHING);
    assert_eq!(fs::read(weak.env("y", "srv/text"))?, b"one\ntwo\nthree\n");
    assert_eq!(weak.record("y")?["origin"], "x");
    weak.be.run(&["check", "y"]).done();
    assert_eq!(weak.sound_menu()?, "default");
    let fstab = fs::read_to_string(weak.env("y", "etc/fstab"))?;
    assert!(
        fstab.contains(weak.uuid()) && fstab.contains("subvol=/@be/y/root"),
        "{fstab}"
    );

    // And there once more, relative to what came.
    weak.be.run(&["create", "-e", "y", "z"]).done();
    fs::write(weak.env("z", "srv/more"), "more")?;
    weak.send_to(&strong, &["z", "--since", "y"], &["z2"])?
        .done();
    let sent = weak.kept("z", "sent", "root")?;
    assert_eq!(sent.diff(&strong.kept("z2", "received", "root")?), NOTHING);
    assert_eq!(strong.record("z2")?["origin"], "y");

    assert_eq!(running.diff(&strong.running()?), NOTHING);
    assert_eq!(strong.host_changes(&host)?, NOTHING);
    for system in [&weak, &strong] {
        assert!(system.leftovers().is_empty());
        system.be.run(&["destroy", "-y", "x", "y"]).done();
    }
    Ok(())
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_parent_that_was_changed_is_refused_on_both_sides() -> Result<()> {
    let (weak, strong) = two()?;
    weak.send_to(&strong, &["x"], &[])?.done();
    strong.be.run(&["create", "-e", "x", "y"]).done();
    change(&strong.env("y", "srv"))?;
    let (path, sent) = strong.send("y.be", &["y", "--since", "x"])?;
    sent.done();
    let stream = fs::read(path)?;

    // Another environment with the parent's name is no parent.
    weak.be.run(&["rename", "x", "old"]).done();
    weak.receive(&stream, &["-n"])?.done();
    write_to_snapshot(&weak.top("@be/old/snap/sent/root"))?;
    let before = weak.store()?;
    let refused = weak.receive(&stream, &[])?.exits(REFUSED);
    let error = refused.error();
    assert!(
        error.contains("old@sent") && error.contains("was written since"),
        "{error}"
    );
    nothing_came(&weak, &before)?;

    write_to_snapshot(&strong.top("@be/x/snap/received/root"))?;
    let before = strong.store()?;
    let (file, refused) = strong.send("again.be", &["y", "--since", "x"])?;
    assert!(refused.exits(REFUSED).error().contains("x@received"));
    assert_eq!(fs::metadata(file)?.len(), 0);
    assert_eq!(before.diff(&strong.store()?), NOTHING);

    // Without the parent there is one way, which is named.
    weak.be.run(&["destroy", "-y", "old"]).done();
    let refused = weak.receive(&stream, &[])?.exits(REFUSED);
    refused.says(&["is not here", "be send y without --since"]);
    weak.receive(b"no stream at all", &[])?
        .exits(REFUSED)
        .says(&["no stream of be send"]);
    Ok(())
}

/// Makes a snapshot writable, writes to it, and makes it read-only again.
fn write_to_snapshot(root: &Path) -> Result<()> {
    let set = |value: &str| {
        let words = ["property", "set", "-f", "-ts"];
        run(cmd("btrfs", words).arg(root).args(["ro", value]))
    };
    set("false")?;
    fs::write(root.join("srv/text"), "not what was sent")?;
    set("true")?;
    Ok(())
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_stream_that_is_cut_or_damaged_leaves_nothing() -> Result<()> {
    let (weak, strong) = two()?;
    let (path, sent) = weak.send("x.be", &["x"])?;
    sent.done();
    let stream = fs::read(path)?;
    let (before, running, host) = (strong.store()?, strong.running()?, strong.host()?);
    for part in 0..10 {
        let cut = stream.len() * part / 10 + part;
        let refused = strong.receive(&stream[..cut], &[])?.exits(REFUSED);
        assert_eq!(refused.stdout, "");
        let _one = refused.error();
        nothing_came(&strong, &before)?;
        let mut damaged = stream.clone();
        damaged[cut + 50] ^= 0x10;
        let refused = strong.receive(&damaged, &[])?.exits(REFUSED);
        let _one = refused.error();
        nothing_came(&strong, &before)?;
    }
    let cut = strong
        .receive(&stream[..stream.len() - 1], &[])?
        .exits(REFUSED);
    cut.says(&["ends before it is complete"]);
    nothing_came(&strong, &before)?;
    strong.receive(&stream, &[])?.done();
    let taken = strong.receive(&stream, &[])?.exits(REFUSED);
    taken.says(&["there is an environment x here already", "be receive NAME"]);
    strong.receive(&stream, &["x2"])?.done();
    assert_eq!(running.diff(&strong.running()?), NOTHING);
    assert_eq!(strong.host_changes(&host)?, NOTHING);
    Ok(())
}

/// `be receive` that has got this much of its stream, which is not at its end.
fn receiving(
    system: &System,
    args: &[&str],
    stream: &[u8],
) -> Result<(Running, std::process::ChildStdin)> {
    let (reader, writer) = std::io::pipe()?;
    let mut command = system.be.command(&[&["receive"][..], args].concat());
    let running = Running::of(command.stdin(Stdio::from(reader)))?;
    drop(command);
    let mut writer = std::process::ChildStdin::from(std::os::fd::OwnedFd::from(writer));
    // It has read all of it but for what a pipe holds.
    writer.write_all(stream)?;
    Ok((running, writer))
}

#[test]
#[ignore = "needs root and loop devices"]
fn killed_at_any_moment_nothing_is_half_received() -> Result<()> {
    let (weak, strong) = two()?;
    let (path, sent) = weak.send("x.be", &["x"])?;
    sent.done();
    let stream = fs::read(path)?;
    let before = strong.store()?;
    for (part, signal) in (1..8).zip([Signal::SIGKILL, Signal::SIGINT].iter().cycle()) {
        let (mut be, writer) = receiving(&strong, &[], &stream[..stream.len() * part / 8])?;
        be.signal(*signal)?;
        let _killed = be.end()?;
        drop(writer);
        strong.be.run(&["menu"]).done();
        nothing_came(&strong, &before)?;
    }
    // While it makes an environment of what came.
    for wait in 0..12 {
        let (mut be, writer) = receiving(&strong, &[], &stream)?;
        drop(writer);
        std::thread::sleep(Duration::from_millis(wait * 25));
        // It may have ended.
        let _sent = be.signal(Signal::SIGKILL);
        let _killed = be.end()?;
        strong.be.run(&["menu"]).done();
        if strong.top("@be/x").exists() {
            strong.be.run(&["check", "x"]).done();
            let sent = weak.kept("x", "sent", "root")?;
            assert_eq!(sent.diff(&strong.kept("x", "received", "root")?), NOTHING);
            strong.be.run(&["destroy", "-y", "x"]).done();
        }
        nothing_came(&strong, &before)?;
    }
    strong.receive(&stream, &[])?.done();
    Ok(())
}

/// What comes takes hours: environments are made, renamed and destroyed meanwhile.
#[test]
#[ignore = "needs root and loop devices"]
fn what_happens_while_it_comes() -> Result<()> {
    let (weak, strong) = (System::small()?, System::small()?);
    let _mounts = [
        mounted(&weak, "@opt", "/opt")?,
        mounted(&strong, "@opt", "/opt")?,
    ];
    for system in [&weak, &strong] {
        system.be.run(&["init"]).done();
    }
    weak.be.run(&["create", "x"]).done();
    fill(&weak.env("x", "srv"))?;
    weak.send_to(&strong, &["x"], &[])?.done();
    strong.be.run(&["create", "-e", "x", "y"]).done();
    let mut random = vec![0; 1 << 20];
    std::io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut random)?;
    fs::write(strong.env("y", "srv/random"), &random)?;
    change(&strong.env("y", "srv"))?;
    fs::write(strong.top("@be/y/vol/opt/tool"), "new")?;
    let (path, sent) = strong.send("y.be", &["y", "--since", "x"])?;
    sent.done();
    let stream = fs::read(path)?;
    for args in [&["rename", "x", "old"][..], &["destroy", "-y", "old"]] {
        // Before the second subvolume begins, and after that.
        let part = match args[0] {
            "rename" => stream.len() / 4,
            _ => stream.len() - 1,
        };
        let (mut be, mut writer) = receiving(&weak, &[], &stream[..part])?;
        let coming = weak.top("@be/.work/coming/y/snap/received");
        let place = match args[0] {
            "rename" => "root/etc",
            _ => "vol/opt/tool",
        };
        let start = std::time::Instant::now();
        while !coming.join(place).exists() {
            ensure!(start.elapsed().as_secs() < 30, "{place} does not come");
            std::thread::sleep(Duration::from_millis(5));
        }
        weak.be.run(args).done();
        weak.be.run(&["create", "y"]).done();
        writer.write_all(&stream[part..])?;
        drop(writer);
        let done = be.end()?.done();
        assert_eq!(done.stdout, "y-2\n");
        done.says(&["there is an environment y by now: what came is y-2"]);
        let record = weak.record("y-2")?;
        let origin = match args[0] {
            "rename" => serde_json::Value::from("old"),
            _ => serde_json::Value::Null,
        };
        assert_eq!(record["origin"], origin);
        assert_eq!(fs::read(weak.env("y-2", "srv/random"))?, random);
        assert_eq!(fs::read(weak.top("@be/y-2/vol/opt/tool"))?, b"new");
        weak.be.run(&["check", "y-2"]).done();
        assert!(weak.top("@be/y-2/base/vol/opt").is_dir());
        weak.be.run(&["destroy", "-y", "y", "y-2"]).done();
    }
    assert!(weak.leftovers().is_empty());
    Ok(())
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_full_disk_leaves_nothing_and_says_so() -> Result<()> {
    let (weak, strong) = two()?;
    let mut random = vec![0; 100 << 20];
    std::io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut random)?;
    fs::write(weak.env("x", "srv/random"), &random)?;
    let (path, sent) = weak.send("x.be", &["x"])?;
    sent.done();
    let stream = fs::read(path)?;
    strong.fill(5)?;
    let before = strong.store()?;
    let full = strong.receive(&stream, &[])?.exits(NO_SPACE);
    let _one = full.error();
    nothing_came(&strong, &before)?;
    strong.empty()?;
    strong.receive(&stream, &[])?.done();
    assert_eq!(fs::read(strong.env("x", "srv/random"))?, random);
    Ok(())
}

/// A subvolume of a system, mounted by its fstab.
fn mounted(system: &System, subvolume: &str, at: &str) -> Result<Mount> {
    system.make_subvolume(subvolume)?;
    fs::create_dir_all(system.path(at))?;
    let line = format!(
        "UUID={} {at} btrfs subvol=/{subvolume} 0 0\n",
        system.uuid()
    );
    system.append("/etc/fstab", line)?;
    let options = format!("subvol=/{subvolume}");
    Mount::new(system.device().node(), &system.path(at), "btrfs", &options)
}

#[test]
#[ignore = "needs root and loop devices"]
fn all_of_its_own_subvolumes_and_none_that_is_shared() -> Result<()> {
    let (weak, strong) = (System::small()?, System::small()?);
    let _mounts = [
        mounted(&weak, "@db", "/srv/db")?,
        mounted(&weak, "@opt", "/opt")?,
        mounted(&weak, "@home", "/home")?,
        // It has an /opt of its own, and a place that the other has not.
        mounted(&strong, "@opt", "/opt")?,
        mounted(&strong, "@data", "/data")?,
    ];
    for system in [&weak, &strong] {
        system.be.run(&["init"]).done();
    }
    weak.be.run(&["layout", "set", "/srv/db", "late"]).done();
    weak.write("/srv/db/rows", "1\n")?;
    weak.write("/opt/tool", "weak")?;
    weak.write("/home/letter", "private")?;
    strong.write("/opt/tool", "strong")?;
    weak.be.run(&["create", "x"]).done();
    run(cmd("btrfs", ["-q", "subvolume", "create"]).arg(weak.env("x", "machines")))?;
    run(cmd("chmod", ["711"]).arg(weak.env("x", "machines")))?;
    fs::write(weak.env("x", "machines/image"), "not its own")?;

    weak.send_to(&strong, &["x"], &[])?.done();
    let record = strong.record("x")?;
    let mounts: Vec<_> = record["subvolumes"]
        .as_array()
        .context("a list")?
        .iter()
        .collect();
    let mounts: Vec<_> = mounts
        .iter()
        .map(|m| (m["mount"].as_str(), m["policy"].as_str()))
        .collect();
    assert_eq!(
        mounts,
        [
            (Some("/"), Some("cloned")),
            (Some("/opt"), Some("cloned")),
            (Some("/srv/db"), Some("late"))
        ]
    );
    for place in ["vol/opt", "vol/srv-db"] {
        let sent = weak.kept("x", "sent", place)?;
        assert_eq!(
            sent.diff(&strong.kept("x", "received", place)?),
            NOTHING,
            "{place}"
        );
    }
    assert_eq!(fs::read(strong.top("@be/x/vol/opt/tool"))?, b"weak");
    assert!(!strong.env("x", "home/letter").exists());
    // A directory like any other.
    let machines = strong.env("x", "machines");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&machines)?.permissions());
    assert_eq!(mode & 0o7777, 0o711);
    assert!(fs::read_dir(&machines)?.next().is_none());
    fs::create_dir(machines.join("usable"))?;

    let fstab = fs::read_to_string(strong.env("x", "etc/fstab"))?;
    for line in [
        "/opt btrfs subvol=/@be/x/vol/opt",
        "/data btrfs subvol=/@data",
    ] {
        assert!(fstab.contains(line), "{line}: {fstab}");
    }
    assert!(fstab.contains("subvol=/@be/x/vol/srv-db"), "{fstab}");
    assert!(
        !fstab.contains(weak.uuid()) && !fstab.contains("/home"),
        "{fstab}"
    );
    assert!(strong.env("x", "data").is_dir());
    strong.be.run(&["check", "x"]).done();

    strong.be.run(&["create", "-e", "x", "y"]).done();
    fs::write(strong.top("@be/y/vol/opt/tool"), "new")?;
    // A place in what is late, where there is no directory yet.
    weak.append("/etc/fstab", "tmpfs /srv/db/run tmpfs noauto 0 0\n")?;
    strong.send_to(&weak, &["y", "--since", "x"], &[])?.done();
    assert!(weak.top("@be/y/vol/srv-db/run").is_dir());
    assert_eq!(fs::read(weak.top("@be/y/vol/opt/tool"))?, b"new");
    weak.be.run(&["check", "y"]).done();
    // What is late comes from the system that is left for it.
    weak.write("/srv/db/rows", "1\n2\n")?;
    weak.be.run(&["activate", "y"]).done();
    assert_eq!(fs::read(weak.top("@be/y/vol/srv-db/rows"))?, b"1\n2\n");
    Ok(())
}

/// The directories below this one that stand for subvolumes which are not there.
fn placeholders(dir: &Path) -> Result<Vec<String>> {
    let args = ["-mindepth", "1", "-inum", "2", "-type", "d"];
    let found = run(cmd("find", [dir]).args(args))?;
    Ok(found.lines().map(str::to_owned).collect())
}

/// Back to where subvolumes lay in what was sent, in the root as in other directories; some
/// of them in places that are other things by now, or nothing.
#[test]
#[ignore = "needs root and loop devices"]
fn back_to_where_subvolumes_lay_in_it() -> Result<()> {
    let (weak, strong) = (System::adopted_small_on_top()?, System::adopted_small()?);
    weak.be.run(&["create", "one"]).done();
    fs::create_dir(weak.top("data"))?;
    // Until subvolumes have higher numbers than that directory has.
    let many: Vec<_> = (0..100).map(|n| format!("many{n}")).collect();
    for path in &many {
        weak.make_subvolume(path)?;
    }
    let many = many.iter().map(|path| weak.top(path));
    run(cmd("btrfs", ["-q", "subvolume", "delete"]).args(many))?;
    for path in ["machines", "data/gone/image", "data/file", "data/kept"] {
        fs::create_dir_all(weak.top(path).parent().context("it has one")?)?;
        weak.make_subvolume(path)?;
    }
    run(cmd("chmod", ["711"]).arg(weak.top("machines")))?;
    weak.be.run(&["create", "two"]).done();
    // They leave nothing in what is a snapshot of it.
    let removed = ["data/kept"].map(|path| weak.top(path));
    weak.send_to(&strong, &["default"], &["--identity", "keep", "weak"])?
        .done();
    run(cmd("btrfs", ["-q", "subvolume", "delete"]).args(removed))?;

    strong.be.run(&["create", "-e", "weak", "new"]).done();
    assert!(strong.env("new", "machines").is_dir());
    fs::remove_dir_all(strong.env("new", "data/gone"))?;
    fs::remove_dir_all(strong.env("new", "data/file"))?;
    fs::write(strong.env("new", "data/file"), "a file now")?;
    let running = weak.running()?;
    strong
        .send_to(&weak, &["new", "--since", "weak"], &[])?
        .done()
        .says(&["paths are as they were sent"]);
    let sent = strong.kept("new", "sent", "root")?;
    assert_eq!(sent.diff(&weak.kept("new", "received", "root")?), NOTHING);
    assert_eq!(running.diff(&weak.running()?), NOTHING);
    assert_eq!(fs::read(weak.env("new", "data/file"))?, b"a file now");
    for system in [&weak, &strong] {
        assert_eq!(placeholders(&system.env("new", ""))?, NOTHING);
        assert!(!system.env("new", "@be").exists());
    }
    for dir in ["machines", "data/kept"] {
        fs::create_dir(weak.env("new", dir).join("usable"))?;
    }
    weak.be.run(&["check", "new"]).done();
    weak.be.run(&["activate", "new"]).done();

    // And there once more, with what became of these directories here: environments came and
    // went in the store, which lies in this root.
    weak.be.run(&["destroy", "-y", "two"]).done();
    fs::remove_dir_all(weak.top("data"))?;
    weak.write("/etc/motd", "later")?;
    weak.send_to(
        &strong,
        &["default", "--since", "default"],
        &["--identity", "keep", "again"],
    )?
    .done();
    assert!(!strong.env("again", "data").exists());
    assert!(!strong.env("again", "@be").exists());
    assert_eq!(fs::read(strong.env("again", "etc/motd"))?, b"later");
    Ok(())
}

#[test]
#[ignore = "needs root and loop devices"]
fn what_changed_meanwhile_is_carried_and_it_stays_the_same_machine() -> Result<()> {
    let (weak, strong) = (System::small()?, System::small()?);
    for (system, id) in [(&weak, "1"), (&strong, "2")] {
        system.write("/etc/machine-id", format!("{}\n", id.repeat(32)))?;
        system.write("/etc/hostname", format!("host{id}\n"))?;
        system.write("/etc/ssh/ssh_host_key", format!("key {id}"))?;
        system.be.run(&["init"]).done();
    }
    weak.write("/etc/ssh/ssh_host_weak_key", "only here")?;
    weak.write("/etc/motd", "before")?;
    weak.send_to(&strong, &["default"], &["weak"])?.done();
    let id = |system: &System, env: &str| fs::read_to_string(system.env(env, "etc/machine-id"));
    assert_eq!(id(&strong, "weak")?, "2".repeat(32) + "\n");
    assert!(!strong.env("weak", "etc/ssh/ssh_host_weak_key").exists());
    assert_eq!(
        fs::read(strong.env("weak", "etc/ssh/ssh_host_key"))?,
        b"key 2"
    );
    assert_eq!(strong.record("weak")?["received"]["host"], "host1");

    strong.be.run(&["create", "-e", "weak", "y"]).done();
    fs::write(strong.env("y", "etc/new"), "upgraded")?;
    weak.write("/etc/motd", "after")?;
    strong
        .send_to(&weak, &["y", "--since", "weak"], &[])?
        .done();
    assert_eq!(id(&weak, "y")?, "1".repeat(32) + "\n");
    assert_eq!(fs::read(weak.env("y", "etc/motd"))?, b"before");
    weak.be.run(&["carry", "--apply", "y"]).done();
    assert_eq!(fs::read(weak.env("y", "etc/motd"))?, b"after");
    assert_eq!(fs::read(weak.env("y", "etc/new"))?, b"upgraded");
    let fstab = fs::read_to_string(weak.env("y", "etc/fstab"))?;
    assert!(fstab.contains("subvol=/@be/y/root"), "{fstab}");

    for (which, expected) in [("keep", Some("2")), ("take", Some("1")), ("new", None)] {
        let args = ["--identity", which, which];
        strong.send_to(&weak, &["y"], &args)?.done();
        let found = id(&weak, which)?;
        match expected {
            Some(digit) => assert_eq!(found, digit.repeat(32) + "\n", "{which}"),
            None => assert!(!found.contains("1111") && found.len() == 33, "{found}"),
        }
        weak.be.run(&["check", which]).done();
    }
    assert!(!weak.env("new", "etc/ssh/ssh_host_key").exists());
    Ok(())
}

#[test]
#[ignore = "needs root and loop devices"]
fn what_is_kept_what_is_shown_and_what_is_not_begun() -> Result<()> {
    let (weak, strong) = two()?;
    let sent = || -> Result<Vec<String>> {
        let record = weak.record("x")?;
        let all = record["snapshots"].as_array().cloned().unwrap_or_default();
        let names = all.iter().filter_map(|s| s["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    };
    weak.unchanged_by(0, &["-n", "send", "x"])?;
    // Nothing was written in between: it is the same.
    for _ in 0..2 {
        weak.send("x.be", &["x"])?.1.done();
        assert_eq!(sent()?, ["sent"]);
    }
    for (text, expected) in [
        ("2", ["sent", "sent-2"].as_slice()),
        ("3", &["sent-2", "sent"]),
    ] {
        fs::write(weak.env("x", "srv/text"), text)?;
        weak.send("x.be", &["x"])?.1.done();
        let mut names = sent()?;
        names.sort();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(names.len(), 2, "{names:?}, {expected:?}");
    }
    // Nobody reads: what was taken for it goes.
    fs::write(weak.env("x", "srv/text"), "4")?;
    let before = sent()?;
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut command = weak.be.command(&["send", "x"]);
    let output = command.stdout(writer).output()?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(sent()?, before);

    let file = weak.dir().join("file.be");
    let shown = file.to_str().context("text")?;
    let done = weak
        .be
        .run(&["--json", "send", "x", "-o", shown])
        .done()
        .json();
    assert_eq!(done["environment"], "x");
    weak.refuses(REFUSED, &["send", "x", "-o", shown], &["is there already"])?;
    let (_, by_pipe) = weak.send("x.be", &["--json", "x"])?;
    let document: serde_json::Value = serde_json::from_str(by_pipe.done().stderr.trim())?;
    assert_eq!(document["schema"], "be/v1");
    let header = strong
        .unchanged_by(0, &["-n", "--json", "receive", "y", shown])?
        .json();
    assert_eq!(header["environment"], "y");
    assert_eq!(header["header"]["name"], "x");
    strong.be.run(&["receive", "y", shown]).done();
    assert_eq!(fs::read(strong.env("y", "srv/text"))?, b"4");
    let back = strong.be.run(&["rollback", "y@received"]).exits(REFUSED);
    back.says(&["as another machine sent it"]);
    weak.refuses(REFUSED, &["send", "x", "--since", "default"], &["default"])?;
    ensure!(fs::metadata(&file)?.len() > 0, "it is there");

    // One that would not boot is kept, and said to be so.
    fs::remove_dir_all(weak.env("x", "boot"))?;
    weak.send_to(&strong, &["x"], &["bare"])?
        .exits(8)
        .says(&["would not boot here"]);
    assert_eq!(strong.record("bare")?["state"], "ready");
    assert!(!strong.menu()?.contains("/@be/bare/"));
    Ok(())
}

/// `be send` that waits for somebody to read on.
fn sending(system: &System, args: &[&str]) -> Result<(Child, std::io::PipeReader)> {
    let (mut reader, writer) = std::io::pipe()?;
    let mut command = system.be.command(&[&["send"][..], args].concat());
    let child = command.stdout(writer).stderr(Stdio::null()).spawn()?;
    drop(command);
    let mut magic = [0; 8];
    std::io::Read::read_exact(&mut reader, &mut magic)?;
    assert_eq!(&magic, b"BESTREAM");
    Ok((child, reader))
}

/// The names in a directory.
fn names_in(dir: &Path) -> Result<Vec<std::ffi::OsString>> {
    let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name()));
    names.collect()
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_file_appears_when_it_is_complete() -> Result<()> {
    let weak = System::adopted_small()?;
    weak.be.run(&["create", "x"]).done();
    let mut random = vec![0; 30 << 20];
    std::io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut random)?;
    fs::write(weak.env("x", "random"), &random)?;
    let dir = weak.dir().join("files");
    fs::create_dir(&dir)?;
    let file = dir.join("x.be");
    let to_file = file.to_str().context("text")?;
    for wait in 1..8 {
        let mut be = weak.be.start(&["send", "x", "-o", to_file])?;
        std::thread::sleep(Duration::from_millis(wait * 20));
        let _sent = be.signal(Signal::SIGKILL);
        let _killed = be.end()?;
        if names_in(&dir)? != [] as [&str; 0] {
            assert_eq!(names_in(&dir)?, ["x.be"], "{wait}");
            fs::remove_file(&file)?;
        }
    }
    weak.be.run(&["send", "x", "-o", to_file]).done();
    assert_eq!(names_in(&dir)?, ["x.be"]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file)?.permissions());
    assert_eq!(mode & 0o777, 0o600);

    weak.refuses(
        REFUSED,
        &["send", "x", "-o", to_file],
        &["is there already"],
    )
}

/// The names of the snapshots of an environment.
fn snapshots(system: &System, env: &str) -> Result<Vec<String>> {
    let record = system.record(env)?;
    let all = record["snapshots"].as_array().cloned().unwrap_or_default();
    let names = all.iter().filter_map(|s| s["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

#[test]
#[ignore = "needs root and loop devices"]
fn only_what_was_sent_to_its_end_is_a_parent() -> Result<()> {
    let (weak, strong) = two()?;
    let mut random = vec![0; 4 << 20];
    std::io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut random)?;
    let holes = fs::File::create(weak.env("x", "srv/holes"))?;
    std::os::unix::fs::FileExt::write_all_at(&holes, b"at the end", 50 << 30)?;
    weak.send_to(&strong, &["x"], &[])?.done();
    assert_eq!(
        fs::metadata(strong.env("x", "srv/holes"))?.len(),
        (50 << 30) + 10
    );

    // Nothing is written, and it is relative to itself.
    let same = weak.send_to(&strong, &["x", "--since", "x"], &["same"])?;
    same.done();
    assert_eq!(strong.record("same")?["origin"], "x");

    // One that is killed is none, and goes with the next one.
    fs::write(weak.env("x", "srv/random"), &random)?;
    let (mut be, reader) = sending(&weak, &["x", "--since", "x"])?;
    be.kill()?;
    let _killed = be.wait()?;
    drop(reader);
    let before = snapshots(&weak, "x")?;
    assert_eq!(before.len(), 3, "{before:?}");
    weak.send_to(&strong, &["x", "--since", "x"], &["x2"])?
        .done();
    assert_eq!(fs::read(strong.env("x2", "srv/random"))?, random);
    let after = snapshots(&weak, "x")?;
    assert_eq!(after.len(), 2, "{before:?} became {after:?}");

    // Two at the same time: what the one sends, and is relative to, the other lets be.
    fs::write(weak.env("x", "srv/text"), "three")?;
    random.reverse();
    fs::write(weak.env("x", "srv/random"), &random)?;
    let (mut be, mut reader) = sending(&weak, &["x", "--since", "x"])?;
    for (text, name) in [("four", "x4"), ("five", "x5")] {
        fs::write(weak.env("x", "srv/text"), text)?;
        weak.send_to(&strong, &["x", "--since", "x"], &[name])?
            .done();
        assert_eq!(fs::read(strong.env(name, "srv/text"))?, text.as_bytes());
    }
    let mut stream = b"BESTREAM".to_vec();
    std::io::Read::read_to_end(&mut reader, &mut stream)?;
    assert!(be.wait()?.success());
    strong.receive(&stream, &["x3"])?.done();
    assert_eq!(fs::read(strong.env("x3", "srv/text"))?, b"three");
    weak.send("x.be", &["x"])?.1.done();
    let left = snapshots(&weak, "x")?;
    assert!(left.len() <= 3, "{left:?}");

    // What the other side has lost, or never taken, is not chosen by who knows it.
    let older = format!("x@{}", left[0]);
    fs::write(weak.env("x", "srv/text"), "six")?;
    let (path, sent) = weak.send("six.be", &["x", "--since", &older])?;
    sent.done();
    let names = ["x", "same", "x2", "x3", "x4", "x5"];
    strong
        .be
        .run(&[&["destroy", "-y"][..], &names].concat())
        .done();
    let lost = strong.receive(&fs::read(path)?, &[])?.exits(REFUSED);
    lost.says(&["is not here", "be send x --since x@SNAP"]);
    weak.refuses(REFUSED, &["send", "x", "--since", "x@none"], &["x@none"])?;
    Ok(())
}

/// Streams with checksums that are right, from somebody who means harm.
#[test]
#[ignore = "needs root and loop devices"]
fn a_hostile_stream_is_refused() -> Result<()> {
    let strong = System::adopted_small()?;
    let number = |n: u64| n.to_le_bytes();
    let outside = strong.dir().join("outside");
    fs::create_dir(&outside)?;
    fs::write(outside.join("file"), "mine")?;
    let before = strong.store()?;
    let refused = |what: &str, stream: &[u8]| -> Result<()> {
        let refused = strong.receive(stream, &[])?.exits(REFUSED);
        refused.says(&["the stream is damaged"]);
        assert_eq!(fs::read(outside.join("file"))?, b"mine", "{what}");
        assert_eq!(names_in(&outside)?, ["file"], "{what}");
        nothing_came(&strong, &before)
    };

    // Through a link to a directory, and to a file, and by names.
    let make = |number: u16, path: &str| command(number, &[(15, path.as_bytes()), (3, &[0; 8])]);
    let link = |path: &str, to: &Path| {
        command(
            8,
            &[
                (15, path.as_bytes()),
                (17, to.as_os_str().as_encoded_bytes()),
            ],
        )
    };
    let write = |path: &str| {
        command(
            15,
            &[(15, path.as_bytes()), (18, &number(0)), (19, b"yours")],
        )
    };
    let (file, above) = (outside.join("file"), Path::new("../../../../../outside"));
    for commands in [
        vec![link("l", &outside), make(3, "l/new")],
        vec![link("l", &outside), write("l/file")],
        vec![link("l", &file), write("l")],
        vec![link("l", above), make(4, "l/new")],
        vec![write("../file")],
        vec![make(3, "/new")],
        vec![make(4, "a"), command(9, &[(15, b"a"), (16, b"../../a")])],
    ] {
        let stream = Forged::new(&manifest()).root(&commands).end(&[]);
        refused(&format!("{commands:?}"), &stream)?;
    }

    let root = manifest()["subvolumes"][0].clone();
    let holder = serde_json::json!([{ "path": "../out", "mode": 448, "uid": 0, "gid": 0 }]);
    for (at, value) in [
        ("/name", serde_json::json!("../forged")),
        ("/subvolumes", serde_json::json!([root, root])),
        ("/subvolumes/0/mount", serde_json::json!("/..")),
        ("/subvolumes/0/holders", holder),
    ] {
        let mut bad = manifest();
        bad["subvolumes"][0]["holders"] = serde_json::json!([]);
        *bad.pointer_mut(at).context("it is there")? = value;
        refused(at, &Forged::new(&bad).root(&[]).end(&[]))?;
    }

    // It was not the forging: one that does no harm is taken.
    let time = [&number(5)[..], &[0; 4]].concat();
    let good = Forged::new(&manifest()).root(&[
        make(3, "o257-7-0"),
        command(9, &[(15, b"o257-7-0"), (16, b"hello")]),
        command(15, &[(15, b"hello"), (18, &number(0)), (19, b"x")]),
        command(18, &[(15, b"hello"), (5, &number(0o644))]),
        command(20, &[(15, b"hello"), (11, &time), (10, &time), (9, &time)]),
        command(18, &[(15, b""), (5, &number(0o755))]),
        command(20, &[(15, b""), (11, &time), (10, &time), (9, &time)]),
    ]);
    let content = digest(&[&number(0)[..], b"x"].concat());
    let good = good.end(&[
        format!(
            " directory 40755 0 0 0 5.000000000 0 0 - {}",
            digest(b"hello\0")
        ),
        format!("hello file 100644 0 0 1 5.000000000 1 0 - {content}"),
    ]);
    let _boots_nowhere = strong.receive(&good, &[])?.exits(8);
    assert_eq!(fs::read(strong.env("forged", "hello"))?, b"x");
    Ok(())
}

/// Whole systems, and what takes long.
mod thorough {
    use super::*;

    #[test]
    #[ignore = "needs root, loop devices and the lab"]
    fn a_strong_machine_upgrades_the_environment_of_a_weak_one() -> Result<()> {
        let (weak, strong) = (System::adopted_lab()?, System::adopted_lab()?);
        weak.set_world(&["app-misc/hello", "dev-libs/libgreet", "app-misc/greeter"])?;
        let running = weak.running()?;
        let keep = ["--identity", "keep", "weak"];
        weak.send_to(&strong, &["default"], &keep)?.done();
        let sent = weak.kept("default", "sent", "root")?;
        assert_eq!(
            sent.diff(&strong.kept("weak", "received", "root")?),
            NOTHING
        );
        strong.be.run(&["check", "weak"]).done();
        let upgrade = ["upgrade", "new", "-e", "weak", "--no-activate"];
        strong.be.run(&upgrade).done();
        strong
            .send_to(&weak, &["new", "--since", "weak"], &[])?
            .done();
        let sent = strong.kept("new", "sent", "root")?;
        assert_eq!(sent.diff(&weak.kept("new", "received", "root")?), NOTHING);
        ensure!(weak.env("new", "var/db/pkg/app-misc/hello-2").is_dir());
        assert_eq!(running.diff(&weak.running()?), NOTHING);
        weak.be.run(&["check", "new"]).done();
        weak.be.run(&["activate", "new"]).done();
        weak.sound_menu()?;
        Ok(())
    }
}
