//! `be layout split`: a directory becomes a subvolume of its own at the next boot, and
//! nothing that was in it, or is changed meanwhile, is lost without a word.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use be_tests::be::{Be, Outcome};
use be_tests::system::{NOTHING, System, mount_all, unmount_below};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use xtask::image::Tree;
use xtask::loopdev::Mount;
use xtask::run::{cmd, run};

const REFUSED: i32 = 3;

/// A system with a few files at /srv/db.
fn system() -> Result<System> {
    let system = System::adopted_small()?;
    fs::create_dir_all(system.path("/srv/db/sub"))?;
    system.write("/srv/db/rows", "1\n")?;
    system.write("/srv/db/sub/more", "more\n")?;
    run(cmd("chown", ["-R", "70:70"]).arg(system.path("/srv/db")))?;
    run(cmd("chmod", ["0700"]).arg(system.path("/srv/db")))?;
    run(cmd("chattr", ["+C"]).arg(system.path("/srv/db/sub")))?;
    Ok(system)
}

/// The running root as it is after a reboot, by its own fstab.
fn reboot(system: &System) -> Result<(Mount, Be)> {
    let target = system.dir().join("rebooted");
    fs::create_dir_all(&target)?;
    let mount = Mount::new(system.device().node(), &target, "btrfs", "subvol=/@")?;
    mount_all(system.device().node(), mount.path())?;
    let be = Be::at(mount.path())?;
    Ok((mount, be))
}

fn split(system: &System, args: &[&str]) -> Outcome {
    let args: Vec<&str> = ["layout", "split"].iter().chain(args).copied().collect();
    system.be.run(&args)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_directory_becomes_a_subvolume() -> Result<()> {
    let system = system()?;
    let (running, host) = (system.running()?, system.host()?);
    let shown = system.unchanged_by(0, &["-n", "layout", "split", "/srv/db", "late"])?;
    ensure!(
        shown.stdout.contains("/@srv-db, which is late"),
        "{}",
        shown.stdout
    );
    ensure!(
        shown.stdout.contains("add a line to /etc/fstab"),
        "{}",
        shown.stdout
    );

    let made = split(&system, &["/srv/db/", "late"]).done();
    assert_eq!(made.stdout, "/srv/db is /@srv-db from the next boot on\n");
    let made = made.says(&[
        "be layout split /srv/db copies it anew",
        "-xdev -mindepth 1",
    ]);
    assert!(
        !made.stderr.contains("changed in /srv/db"),
        "{}",
        made.stderr
    );
    let changed = running.diff(&system.running()?);
    ensure!(
        changed
            .iter()
            .all(|l| l.starts_with("* /etc/fstab:") || l.starts_with("* /etc:")),
        "{changed:?}"
    );
    ensure!(system.host_changes(&host)? == NOTHING);
    assert_eq!(system.subvolume_paths()?, ["@", "@srv-db"]);
    let fstab = system.read("/etc/fstab")?;
    let line = format!(
        "UUID={}\t/srv/db\tbtrfs\tnoatime,subvol=/@srv-db\t0 0\n",
        system.uuid()
    );
    ensure!(fstab.ends_with(&line), "{fstab}");
    let about = run(cmd("stat", ["-c", "%u:%g %a"]).arg(system.top("@srv-db")))?;
    assert_eq!(about.trim(), "70:70 700");
    let flags = run(cmd("lsattr", ["-d"]).arg(system.top("@srv-db/sub")))?;
    ensure!(
        flags.split(' ').next().is_some_and(|f| f.contains('C')),
        "{flags}"
    );
    ensure!(system.leftovers().is_empty() && !system.top("@be/.work/split/@srv-db").exists());

    let layout = system.be.run(&["layout"]).done().stdout;
    ensure!(layout.contains("from the next boot on, chosen"), "{layout}");
    // An environment from before the reboot has it, complete.
    system.be.run(&["create", "early"]).done();
    let rows = system
        .be
        .run(&["exec", "early", "--", "cat", "/srv/db/rows"]);
    assert_eq!(rows.done().stdout, "1\n");
    assert_eq!(
        fs::read_to_string(system.top("@be/early/vol/srv-db/sub/more"))?,
        "more\n"
    );
    let doctor = system.be.run(&["doctor", "--json"]).json();
    let ids: Vec<_> = doctor["problems"]
        .as_array()
        .context("none")?
        .iter()
        .map(|p| p["id"].clone())
        .collect();
    ensure!(ids.iter().any(|id| id == "split-pending"), "{ids:?}");

    let (root, be) = reboot(&system)?;
    let layout = be.run(&["layout"]).done();
    ensure!(!layout.stdout.contains("next boot"), "{}", layout.stdout);
    fs::write(root.path().join("srv/db/rows"), "2\n")?;
    be.run(&["create", "late"]).done();
    assert_eq!(
        fs::read_to_string(system.top("@be/late/vol/srv-db/rows"))?,
        "2\n"
    );
    assert_eq!(
        system.read("/srv/db/rows")?,
        "1\n",
        "the old one stays below"
    );
    let again = be.run(&["layout", "split", "/srv/db"]).exits(REFUSED);
    ensure!(
        again.error().contains("a subvolume already"),
        "{}",
        again.stderr
    );
    // From where it is not mounted it is not taken for one that waits.
    system.refuses(
        REFUSED,
        &["layout", "split", "/srv/db"],
        &["was written to"],
    )?;
    unmount_below(root.path())?;
    drop(root);
    system.be.run(&["destroy", "-y", "early", "late"]).done();
    assert_eq!(system.subvolume_paths()?, ["@", "@srv-db"]);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_is_shared_is_one_for_all() -> Result<()> {
    let system = system()?;
    let json = split(&system, &["/srv/db", "--json"]).done().json();
    assert_eq!(json["policy"], "shared");
    assert_eq!(
        (&json["changed"], &json["again"]),
        (&0.into(), &false.into())
    );
    system.be.run(&["create", "b"]).done();
    // What works in it works with what it will have.
    let script = "cat /srv/db/rows; echo by b > /srv/db/new";
    let seen = system
        .be
        .run(&["exec", "b", "--", "sh", "-c", script])
        .done();
    assert_eq!(seen.stdout, "1\n");
    assert_eq!(fs::read_to_string(system.top("@srv-db/new"))?, "by b\n");
    ensure!(!system.path("/srv/db/new").exists());
    // That would be lost by a fresh copy.
    system.refuses(
        REFUSED,
        &["layout", "split", "/srv/db"],
        &["was written to"],
    )?;
    let (root, _) = system.mount_root_of("b")?;
    mount_all(system.device().node(), root.path())?;
    assert_eq!(
        fs::read_to_string(root.path().join("srv/db/new"))?,
        "by b\n"
    );
    unmount_below(root.path())?;
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_changes_before_the_reboot_is_told_and_copied_again() -> Result<()> {
    let system = system()?;
    split(&system, &["/srv/db", "cloned"]).done();
    // To read is no change.
    system.read("/srv/db/rows")?;
    let layout = || system.be.run(&["layout"]).done();
    ensure!(!layout().stderr.contains("changed"), "{}", layout().stderr);
    system.write("/srv/db/rows", "2\n")?;
    fs::remove_file(system.path("/srv/db/sub/more"))?;
    system.write("/srv/elsewhere", "x")?;
    layout().says(&["2 files were changed in /srv/db", "be layout split /srv/db"]);
    let doctor = system.be.run(&["doctor"]);
    ensure!(
        doctor.stdout.contains("2 files were changed"),
        "{}",
        doctor.stdout
    );

    let uuid = |system: &System| -> Result<String> {
        let all = system.subvolumes()?;
        let found = all.into_iter().find(|l| l.starts_with("@srv-db "));
        found.context("it is gone")
    };
    let (before, fstab) = (uuid(&system)?, system.read("/etc/fstab")?);
    let again = split(&system, &["/srv/db"]).done();
    ensure!(again.stdout.contains("copied anew"), "{}", again.stdout);
    ensure!(!again.stderr.contains("changed"), "{}", again.stderr);
    ensure!(uuid(&system)? != before);
    assert_eq!(system.read("/etc/fstab")?, fstab);
    assert_eq!(fs::read_to_string(system.top("@srv-db/rows"))?, "2\n");
    ensure!(!system.top("@srv-db/sub/more").exists());
    assert_eq!(system.subvolume_paths()?, ["@", "@srv-db"]);
    let record = system.record("default")?;
    let member = &record["subvolumes"][1];
    assert_eq!(member["mount"], "/srv/db");
    ensure!(uuid(&system)?.ends_with(member["uuid"].as_str().unwrap_or("?")));
    ensure!(member["replacement"].is_null());
    system.be.run(&["create", "b"]).done();
    assert_eq!(
        fs::read_to_string(system.top("@be/b/vol/srv-db/rows"))?,
        "2\n"
    );
    Ok(())
}

/// A shell at work in the system once it has run a script; dropped, it is gone.
struct Worker(Child);

impl Worker {
    fn new(system: &System, script: &str) -> Result<Self> {
        let mut sh = cmd("sh", ["-c", &format!("{script}; echo; read x")]);
        let mut worker = Self(
            sh.current_dir(system.path("/srv"))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?,
        );
        let output = worker.0.stdout.as_mut().context("its output")?;
        output.read_exact(&mut [0])?;
        Ok(worker)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_would_be_half_done_is_refused() -> Result<()> {
    let system = system()?;
    system.make_subvolume("@/srv/own")?;
    system.make_subvolume("@/srv/db/nested")?;
    std::os::unix::fs::symlink("db", system.path("/srv/link"))?;
    fs::create_dir_all(system.path("/srv/mnt/there"))?;
    for (path, words) in [
        ("/", "in its root"),
        ("/boot", "in its root"),
        ("/etc/default", "in its root"),
        ("/usr", "packages own"),
        ("/var/lib", "packages own"),
        ("/srv/nothing", "no such directory"),
        ("/srv/db/rows", "no such directory"),
        ("/srv/link/sub", "a link leads to /srv/db/sub"),
        ("/srv/own", "a subvolume already"),
        ("/srv/db", "/srv/db/nested"),
    ] {
        system.refuses(REFUSED, &["layout", "split", path], &[words])?;
    }
    {
        let there = system.path("/srv/mnt/there");
        let _mount = Mount::new(system.device().node(), &there, "btrfs", "subvol=/@/srv/own")?;
        system.refuses(
            REFUSED,
            &["layout", "split", "/srv/mnt"],
            &["/srv/mnt/there"],
        )?;
        system.refuses(
            REFUSED,
            &["layout", "split", "/srv/mnt/there"],
            &["is a mount"],
        )?;
    }
    run(cmd("btrfs", ["--quiet", "subvolume", "delete"]).arg(system.path("/srv/db/nested")))?;
    for (script, words) in [
        ("exec 5>>db/rows", "writes"),
        ("cd db/sub", "its working directory"),
    ] {
        let _worker = Worker::new(&system, script)?;
        // Not `refuses`: a process of our own is at work in the system.
        let refused = split(&system, &["/srv/db"]).exits(REFUSED);
        ensure!(refused.error().contains(words), "{}", refused.stderr);
        ensure!(
            refused.error().contains("sh (process "),
            "{}",
            refused.stderr
        );
        refused.says(&["stop it first"]);
    }
    {
        // Who only reads is no matter.
        let _worker = Worker::new(&system, "exec 5<db/rows")?;
        system.be.run(&["-n", "layout", "split", "/srv/db"]).done();
    }
    system.make_subvolume("@srv-db")?;
    system.refuses(
        REFUSED,
        &["layout", "split", "/srv/db"],
        &["/@srv-db exists"],
    )?;
    let before = system.store()?;
    system.fill(1)?;
    let many = "seq -f f%g 20000 | xargs touch";
    run(cmd("sh", ["-c", many]).current_dir(system.path("/srv/mnt")))?;
    let full = split(&system, &["/srv/mnt"]).exits(5);
    ensure!(full.error().contains("not enough space"), "{}", full.stderr);
    assert_eq!(before.diff(&system.store()?).len(), 0);
    system.empty()
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn in_a_volume_of_the_system_and_in_an_environment() -> Result<()> {
    let system = System::small()?;
    fs::remove_dir_all(system.path("/var"))?;
    system.make_subvolume("@var")?;
    let line = format!("UUID={} /var btrfs subvol=/@var 0 0\n", system.uuid());
    system.append("/etc/fstab", line)?;
    fs::create_dir(system.path("/var"))?;
    let var = Mount::new(
        system.device().node(),
        &system.path("/var"),
        "btrfs",
        "subvol=/@var",
    )?;
    fs::create_dir_all(system.path("/var/db/pkg"))?;
    fs::create_dir_all(system.path("/var/lib/db"))?;
    system.write("/var/lib/db/rows", "1\n")?;
    system.be.run(&["init"]).done();
    system.be.run(&["create", "before"]).done();
    run(cmd(
        "ln",
        [
            system.path("/var/lib/db/rows"),
            system.path("/var/lib/link"),
        ],
    )
    .arg("-f"))?;
    split(&system, &["/var/lib/db", "late"]).done().says(&[
        "mount --bind /var /mnt && find /mnt/lib/db ",
        "apart in the copy: 1",
    ]);
    fs::remove_file(system.path("/var/lib/link"))?;
    system.write("/var/lib/db/rows", "2\n")?;
    system
        .be
        .run(&["layout"])
        .done()
        .says(&["1 file was changed in /var/lib/db"]);
    split(&system, &["/var/lib/db"]).done();
    system.be.run(&["create", "b"]).done();
    assert_eq!(
        fs::read_to_string(system.top("@be/b/vol/var-lib-db/rows"))?,
        "2\n"
    );
    let (mount, db) = (system.path("/var/lib/db"), "subvol=/@var-lib-db");
    let db = Mount::new(system.device().node(), &mount, "btrfs", db)?;
    // One that was there before has the old directory, and that is told.
    let told = system.be.run(&["-n", "activate", "before"]).done();
    ensure!(told.stderr.contains("  /var/lib/db"), "{}", told.stderr);
    let told = system.be.run(&["-n", "activate", "b"]).done();
    ensure!(!told.stderr.contains("  /var/lib/db"), "{}", told.stderr);
    drop(db);
    drop(var);

    // In an environment of be's making its own subvolumes lie with it.
    let (root, be) = system.mount_root_of("b")?;
    mount_all(system.device().node(), root.path())?;
    fs::create_dir_all(root.path().join("srv/x"))?;
    fs::write(root.path().join("srv/x/file"), "x\n")?;
    be.run(&["layout", "split", "/srv/x", "cloned"]).done();
    assert_eq!(
        fs::read_to_string(system.top("@be/b/vol/srv-x/file"))?,
        "x\n"
    );
    let seen = system
        .be
        .run(&["exec", "b", "--", "cat", "/srv/x/file"])
        .done();
    assert_eq!(seen.stdout, "x\n");
    unmount_below(root.path())?;
    drop(root);
    system.be.run(&["rename", "b", "c"]).done();
    let fstab = fs::read_to_string(system.env("c", "etc/fstab"))?;
    ensure!(fstab.contains("subvol=/@be/c/vol/srv-x"), "{fstab}");
    system.be.run(&["destroy", "-y", "c"]).done();
    system.be.run(&["destroy", "-y", "before"]).done();
    assert_eq!(system.subvolume_paths()?, ["@", "@var", "@var-lib-db"]);
    Ok(())
}

/// Either it was not done at all, or it is complete.
fn whole(system: &System, files: usize) -> Result<bool> {
    let fstab = system.read("/etc/fstab")?;
    let listed = fstab.contains("/@srv-db");
    let paths = system.subvolume_paths()?;
    ensure!(system.leftovers().is_empty() && !system.top("@be/.work/split/@srv-db").exists());
    match listed {
        true => {
            assert_eq!(paths, ["@", "@srv-db"]);
            let count = |dir: &Path| Ok::<_, std::io::Error>(fs::read_dir(dir)?.count());
            assert_eq!(count(&system.top("@srv-db"))?, files);
        }
        false => assert_eq!(paths, ["@"]),
    }
    let record = system.record("default")?;
    let members = record["subvolumes"].as_array().context("none")?;
    assert_eq!(members.len(), 1 + usize::from(listed));
    if let Some(member) = members.get(1) {
        ensure!(member["replacement"].is_null(), "{record}");
        let uuid = member["uuid"].as_str().unwrap_or("?");
        ensure!(
            system.subvolumes()?.iter().any(|l| l.ends_with(uuid)),
            "{record}"
        );
    }
    Ok(listed)
}

/// As before the split.
fn undo(system: &System) -> Result<()> {
    let fstab = system.read("/etc/fstab")?;
    let kept: Vec<_> = fstab.lines().filter(|l| !l.contains("@srv-db")).collect();
    system.write("/etc/fstab", kept.join("\n") + "\n")?;
    run(cmd("btrfs", ["--quiet", "subvolume", "delete"]).arg(system.top("@srv-db")))?;
    edit(system, "default", |record| {
        if let Some(members) = record["subvolumes"].as_array_mut() {
            members.truncate(1);
        }
    })
}

/// Change the record of an environment.
fn edit(system: &System, name: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
    let mut record = system.record(name)?;
    change(&mut record);
    let path = system.top(&format!("@be/{name}/be.json"));
    Ok(fs::write(path, record.to_string())?)
}

fn uuid_of(system: &System, path: &str) -> Result<String> {
    let start = format!("{path} ");
    let all = system.subvolumes()?;
    let line = all.iter().find(|l| l.starts_with(&start));
    let line = line.with_context(|| format!("{path} is gone"))?;
    Ok(line.rsplit(' ').next().unwrap_or_default().to_owned())
}

/// What a split leaves that is cut off between its rename and the line in fstab.
fn cut_off(system: &System) -> Result<()> {
    let work = system.top("@be/.work/split/@srv-db");
    fs::create_dir_all(&work)?;
    let about = json!({
        "mount": "/srv/db", "to": "@srv-db", "root": "@", "owner": "default", "again": false,
    });
    let known = [uuid_of(system, "@")?, uuid_of(system, "@srv-db")?].join(",");
    let set = |name: &str, value: &str| {
        let none = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&work, name, value.as_bytes(), none)
    };
    set("trusted.be.about", &about.to_string())?;
    Ok(set("trusted.be.sources", &known)?)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn cut_off_before_and_after_the_line_in_fstab() -> Result<()> {
    let system = system()?;
    let fstab = system.read("/etc/fstab")?;
    split(&system, &["/srv/db", "late"]).done();
    cut_off(&system)?;
    let touch = || system.be.run(&["describe", "default", "touched"]).done();
    touch().says(&["finished the split of /srv/db"]);
    ensure!(whole(&system, 2)?);

    system.write("/etc/fstab", &fstab)?;
    cut_off(&system)?;
    // What somebody mounts stays until it is free.
    let there = system.dir().join("there");
    fs::create_dir(&there)?;
    let mount = Mount::new(system.device().node(), &there, "btrfs", "subvol=/@srv-db")?;
    touch().says(&["alone", "mounted at"]);
    ensure!(system.top("@srv-db/rows").is_file());
    drop(mount);
    touch().says(&["removed what an interrupted split of /srv/db left"]);
    ensure!(!whole(&system, 2)?);

    // What only has the name is not touched.
    system.make_subvolume("@srv-db")?;
    cut_off(&system)?;
    touch();
    ensure!(system.top("@srv-db").is_dir());
    Ok(())
}

/// The problems that `be doctor` has with the environment.
fn problems(system: &System, name: &str) -> Result<Vec<String>> {
    let found = system.be.run(&["doctor", "--json"]).json();
    let all = found["problems"].as_array().context("none")?;
    let of = all.iter().filter(|p| p["object"] == name);
    Ok(of
        .filter_map(|p| Some(p["id"].as_str()?.to_owned()))
        .collect())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn subvolumes_beside_the_root_are_looked_after() -> Result<()> {
    let system = System::small()?;
    system.make_subvolume("@data")?;
    let line = format!("UUID={} /srv/data btrfs subvol=/@data 0 0\n", system.uuid());
    system.append("/etc/fstab", line)?;
    fs::create_dir_all(system.path("/srv/data"))?;
    let data = Mount::new(
        system.device().node(),
        &system.path("/srv/data"),
        "btrfs",
        "subvol=/@data",
    )?;
    system.be.run(&["init"]).done();
    system
        .be
        .run(&["layout", "set", "/srv/data", "late"])
        .done();
    system.be.run(&["create", "a"]).done();
    assert_eq!(problems(&system, "a")?, [""; 0]);

    // A line that leads elsewhere.
    let path = system.env("a", "etc/fstab");
    let good = fs::read_to_string(&path)?;
    fs::write(&path, good.replace("/@be/a/vol/srv-data", "/@data"))?;
    assert_eq!(problems(&system, "a")?, ["fstab-subvol", "entry-dead"]);
    let _still_other_problems = system.be.run(&["doctor", "--repair"]);
    assert_eq!(fs::read_to_string(&path)?, good);
    fs::write(
        &path,
        format!("{good}UUID={} /srv/x btrfs subvol=@x 0 0\n", system.uuid()),
    )?;
    assert_eq!(problems(&system, "a")?, ["fstab-gone"]);
    fs::write(&path, &good)?;

    // An activate that was cut off, before its exchange and after it.
    let is = uuid_of(&system, "@be/a/vol/srv-data")?;
    let other = uuid_of(&system, "@")?.replace(['0', '1'], "2");
    for (old, new) in [(&is, &other), (&other, &is)] {
        edit(&system, "a", |record| {
            record["subvolumes"][1]["uuid"] = json!(old);
            record["subvolumes"][1]["replacement"] = json!(new);
        })?;
        assert_eq!(problems(&system, "a")?, ["replacement-left"]);
        system.be.run(&["describe", "a", "touched"]).done();
        let member = &system.record("a")?["subvolumes"][1];
        assert_eq!(member["uuid"], json!(is));
        ensure!(member["replacement"].is_null());
    }

    // One that another environment mounts.
    drop(data);
    let (root, be) = system.mount_root_of("a")?;
    let set = be.run(&["layout", "set", "/srv/data", "shared"]);
    set.exits(REFUSED).says(&["belongs to this environment"]);
    drop(root);
    system.be.run(&["create", "b"]).done();
    let path = system.env("b", "etc/fstab");
    let line = format!(
        "UUID={} /srv/other btrfs subvol=/@be/a/vol/srv-data 0 0\n",
        system.uuid()
    );
    fs::write(&path, fs::read_to_string(&path)? + &line)?;
    for args in [&["destroy", "-y", "a"][..], &["rename", "a", "c"]] {
        system.refuses(
            REFUSED,
            args,
            &["/@be/a/vol/srv-data lies in a, and b mounts it"],
        )?;
    }
    system.be.run(&["destroy", "-y", "b"]).done();
    system.be.run(&["rename", "a", "c"]).done();
    run(cmd("btrfs", ["--quiet", "subvolume", "delete"]).arg(system.top("@be/c/vol/srv-data")))?;
    // No entry in the menu leads there.
    assert_eq!(
        problems(&system, "c")?,
        ["volume-missing", "entry-dead", "not-bootable"]
    );
    let check = system.be.run(&["check", "c"]).exits(8);
    ensure!(
        check.stdout.contains("the subvolume for /srv/data is gone"),
        "{}",
        check.stdout
    );
    system.be.run(&["destroy", "-y", "c"]).done();
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn killed_at_any_moment() -> Result<()> {
    let system = system()?;
    for number in 0..3000 {
        fs::write(system.path("/srv/db").join(format!("f{number}")), "data")?;
    }
    let files = 3002;
    let start = Instant::now();
    split(&system, &["/srv/db", "cloned"]).done();
    let takes = start.elapsed();
    undo(&system)?;
    let mut done = (0, 0);
    for step in 0..24 {
        let was = whole(&system, files)?;
        let mut be = system.be.start(&["layout", "split", "/srv/db", "cloned"])?;
        std::thread::sleep(takes * (step + 1) / 12);
        let _ended_already = be.signal(Signal::SIGKILL);
        be.end()?;
        system.be.run(&["describe", "default", "still here"]).done();
        let is = whole(&system, files)?;
        ensure!(is || !was, "what was done is not undone");
        // Sometimes from the beginning, sometimes over what is there.
        if is && step % 3 == 0 {
            undo(&system)?;
        }
        match is {
            true => done.1 += 1,
            false => done.0 += 1,
        }
    }
    ensure!(done.0 > 2 && done.1 > 0, "{done:?} {takes:?}");
    Ok(())
}
