//! Snapshots of environments: taken, looked into, gone on from, gone back to, deleted.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use be_tests::Seeded;
use be_tests::system::{NOTHING, System};
use nix::sys::signal::Signal;
use xtask::image::Tree;

const REFUSED: i32 = 3;

fn with_x() -> Result<System> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "x"]).done();
    Ok(system)
}

/// The text of `etc/version` in the root of an environment.
fn version(system: &System, name: &str) -> String {
    fs::read_to_string(system.env(name, "etc/version")).unwrap_or_else(|_| "none".to_owned())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn of_the_running_system_which_was_there_before() -> Result<()> {
    let system = System::adopted_small()?;
    let (running, host) = (system.running()?, system.host()?);
    let menu = system.menu()?;
    let taken = system
        .be
        .run(&["create", "-d", "früher", "default@a"])
        .done();
    assert_eq!(taken.stdout, "default@a\n");
    assert_eq!(running.diff(&system.running()?), NOTHING);
    assert_eq!(system.menu()?, menu);
    assert_eq!(system.subvolume_paths()?, ["@", "@be/default/snap/a/root"]);
    let snapshot = &system.listed("default").context("not listed")?["snapshots"][0];
    assert_eq!(snapshot["description"], "früher");
    assert_eq!(
        snapshot["subvolumes"][0]["path"],
        "/@be/default/snap/a/root"
    );
    let list = system.be.run(&["list", "-s"]).done().stdout;
    assert!(list.contains("  default@a "), "{list}");

    system.refuses(REFUSED, &["create", "default@a"], &["default@a exists"])?;
    system.refuses(REFUSED, &["create", "nope@a"], &["nope"])?;
    system.refuses(REFUSED, &["create", "-a", "default@b"], &["default@b"])?;
    system.refuses(REFUSED, &["destroy", "-y", "default@b"], &["default@b"])?;
    system.refuses(REFUSED, &["create", "-e", "default@b", "y"], &["default@b"])?;
    for verb in [
        &["exec", "default@a", "--", "true"][..],
        &["shell", "default@a"],
        &["activate", "default@a"],
    ] {
        let outcome = system.unchanged_by(REFUSED, verb)?;
        assert!(outcome.error().contains("read-only snapshot"));
        outcome.says(&["be mount default@a", "be create -e default@a"]);
    }
    let outcome = system.unchanged_by(REFUSED, &["rollback", "default@a"])?;
    assert!(
        outcome.error().contains("it is running"),
        "{}",
        outcome.stderr
    );
    outcome.says(&["be create -e default@a NAME"]);

    let dry = system.unchanged_by(0, &["-n", "create", "default@b"])?;
    assert!(
        dry.stdout
            .contains("would snapshot 1 subvolume as default@b")
    );
    let dry = system.unchanged_by(0, &["-n", "destroy", "default@a"])?;
    assert!(dry.stdout.contains("would delete the snapshot default@a"));
    system.be.run(&["describe", "default@a", "später"]).done();
    assert_eq!(
        system.record("default")?["snapshots"][0]["description"],
        "später"
    );

    system.be.run(&["destroy", "-y", "default@a"]).done();
    assert_eq!(system.subvolume_paths()?, ["@"]);
    assert!(!system.top("@be/default/snap").exists());
    assert!(system.record("default")?.get("snapshots").is_none());
    assert_eq!(running.diff(&system.running()?), NOTHING);
    assert_eq!(system.host_changes(&host)?, NOTHING);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn looked_into_but_not_written() -> Result<()> {
    let system = with_x()?;
    let host = system.host()?;
    fs::write(system.env("x", "etc/version"), "1")?;
    system.be.run(&["create", "x@a"]).done();
    let dir = system.dir().join("a");
    fs::create_dir(&dir)?;
    let place = dir.display().to_string();
    for _twice in 0..2 {
        let mounted = system.be.run(&["mount", "x@a", &place]).done();
        assert_eq!(mounted.stdout, format!("{place}\n"));
    }
    assert_eq!(fs::read_to_string(dir.join("etc/version"))?, "1");
    assert!(fs::write(dir.join("etc/version"), "2").is_err());
    let snapshot = &system.listed("x").context("not listed")?["snapshots"][0];
    assert_eq!(snapshot["mountpoint"], place.as_str());
    system.refuses(
        REFUSED,
        &["destroy", "-y", "x@a"],
        &["x@a is in use", &place],
    )?;
    system.refuses(REFUSED, &["destroy", "-y", "x"], &["x is in use", &place])?;
    system.be.run(&["umount", "x@a"]).done();
    assert_eq!(system.host_changes(&host)?, NOTHING);
    system.be.run(&["mount", "x@a", &place]).done();
    system.be.run(&["umount", &place]).done();
    system.be.run(&["mount", "x@a", &place]).done();
    system.be.run(&["destroy", "-f", "-y", "x@a"]).done();
    assert_eq!(system.host_changes(&host)?, NOTHING);
    assert_eq!(system.subvolume_paths()?.len(), 3);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn gone_on_from() -> Result<()> {
    let system = System::adopted_small()?;
    system.make_subvolume("@/srv")?;
    system.write("/etc/version", "1")?;
    system.be.run(&["create", "default@a"]).done();
    system.write("/etc/version", "2")?;
    system
        .be
        .run(&["create", "-a", "-e", "default@a", "old"])
        .done();
    assert_eq!(version(&system, "old"), "1");
    assert_eq!(system.sound_menu()?, "old");
    assert_eq!(system.record("old")?["origin"], "default");
    // Where a subvolume was, there is a directory to be used.
    fs::write(system.env("old", "srv/new"), "")?;
    system.be.run(&["check", "old"]).done();
    // What stays behind is what was written since the snapshot.
    let again = system.be.run(&["activate", "old"]).done();
    assert_eq!(again.stdout, "old boots next already\n");
    again.says(&["changed in default since old was cloned", "/etc/version"]);
    // The snapshot may go before what came of it, or after.
    system.be.run(&["destroy", "-y", "default@a"]).done();
    system.be.run(&["activate", "default"]).done();
    system.be.run(&["destroy", "-y", "old"]).done();
    assert_eq!(system.subvolume_paths()?, ["@", "@/srv"]);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn gone_back_to() -> Result<()> {
    let system = with_x()?;
    let running = system.running()?;
    fs::write(system.env("x", "etc/version"), "1")?;
    system.be.run(&["create", "x@a"]).done();
    fs::write(system.env("x", "etc/version"), "2")?;
    let base = system.record("x")?["subvolumes"][0]["base"].clone();
    // A name that the snapshot does not know.
    system.be.run(&["rename", "x", "y"]).done();
    let back = system.be.run(&["rollback", "y@a"]).done();
    assert_eq!(back.stdout, "y is as y@a was\n");
    back.says(&["y@before-rollback-"]);
    assert_eq!(version(&system, "y"), "1");
    let record = system.record("y")?;
    assert_eq!(record["subvolumes"][0]["base"], base);
    let kept = record["snapshots"][1]["name"]
        .as_str()
        .context("not kept")?
        .to_owned();
    let kept_version = system.top(&format!("@be/y/snap/{kept}/root/etc/version"));
    assert_eq!(fs::read_to_string(kept_version)?, "2");
    assert!(system.top("@be/y/base/root/etc").exists());
    assert!(system.top("@be/y/log").exists());
    assert!(system.menu()?.contains("--id 'be-y'"));
    system.be.run(&["check", "y"]).done();
    assert!(system.leftovers().is_empty());
    assert_eq!(running.diff(&system.running()?), NOTHING);

    // And forth again, as beadm has it.
    let forth = format!("y@{kept}");
    system.be.run(&["rollback", "y", &forth]).done();
    assert_eq!(version(&system, "y"), "2");

    system.be.run(&["activate", "y"]).done();
    system.refuses(REFUSED, &["rollback", "y@a"], &["y@a", "it boots next"])?;
    system.be.run(&["activate", "default"]).done();
    let dir = system.dir().join("y");
    fs::create_dir(&dir)?;
    let place = dir.display().to_string();
    system.be.run(&["mount", "y", &place]).done();
    system.refuses(REFUSED, &["rollback", "y@a"], &["mounted", &place])?;
    system.be.run(&["umount", "y"]).done();
    let dry = system.unchanged_by(0, &["-n", "rollback", "y@a"])?;
    assert!(
        dry.stdout.contains("would put y back to y@a"),
        "{}",
        dry.stdout
    );
    system.be.run(&["destroy", "-y", "y"]).done();
    assert_eq!(system.subvolume_paths()?, ["@"]);
    Ok(())
}

/// Lets the record of an environment name one more subvolume, which is there.
fn add_member(system: &System, name: &str, mount: &str, path: &str) -> Result<()> {
    let lines = system.subvolumes()?;
    let line = lines.iter().find(|l| l.starts_with(&format!("{path} ")));
    let uuid = line.and_then(|l| l.rsplit(' ').next()).context("no uuid")?;
    let mut record = system.record(name)?;
    let members = record["subvolumes"].as_array_mut().context("no members")?;
    members.push(serde_json::json!({ "mount": mount, "policy": "cloned", "uuid": uuid }));
    fs::write(
        system.top(&format!("@be/{name}/be.json")),
        record.to_string(),
    )?;
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn of_all_that_belongs_to_an_environment() -> Result<()> {
    let system = with_x()?;
    // An adopted one has its subvolumes anywhere.
    system.make_subvolume("@srv")?;
    add_member(&system, "default", "/srv", "@srv")?;
    let line = format!("UUID={} /srv btrfs subvol=/@srv 0 0\n", system.uuid());
    system.append("/etc/fstab", line)?;
    fs::create_dir_all(system.path("/srv"))?;
    system.be.run(&["layout", "set", "/srv", "cloned"]).done();
    fs::write(system.top("@srv/file"), "1")?;
    system.be.run(&["create", "default@a"]).done();
    let taken = system.top("@be/default/snap/a/vol/srv/file");
    assert_eq!(fs::read_to_string(&taken)?, "1");
    system.be.run(&["destroy", "-y", "default@a"]).done();
    ensure!(system.top("@srv/file").exists());

    fs::create_dir(system.top("@be/x/vol"))?;
    fs::create_dir(system.env("x", "srv"))?;
    system.make_subvolume("@be/x/vol/srv")?;
    add_member(&system, "x", "/srv", "@be/x/vol/srv")?;
    let fstab = system.env("x", "etc/fstab");
    let line = format!(
        "UUID={} /srv btrfs subvol=/@be/x/vol/srv 0 0\n",
        system.uuid()
    );
    fs::write(&fstab, fs::read_to_string(&fstab)? + &line)?;
    fs::write(system.top("@be/x/vol/srv/file"), "1")?;
    system.be.run(&["create", "x@a"]).done();
    let dry = system.unchanged_by(0, &["-n", "create", "x@b"])?;
    ensure!(
        dry.stdout.contains("snapshot 2 subvolumes"),
        "{}",
        dry.stdout
    );
    fs::write(system.top("@be/x/vol/srv/file"), "2")?;
    let list = system.be.run(&["list", "-aH", "x"]).done().stdout;
    ensure!(list.contains("\n/@be/x/vol/srv\t"), "{list}");
    system.be.run(&["rename", "x", "y"]).done();
    system.be.run(&["rollback", "y@a"]).done();
    assert_eq!(fs::read_to_string(system.top("@be/y/vol/srv/file"))?, "1");
    let fstab = fs::read_to_string(system.env("y", "etc/fstab"))?;
    ensure!(fstab.contains("subvol=/@be/y/vol/srv "), "{fstab}");
    system.be.run(&["check", "y"]).done();
    system.be.run(&["destroy", "-y", "y"]).done();
    assert_eq!(system.subvolume_paths()?, ["@", "@srv"]);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn all_or_nothing() -> Result<()> {
    let system = with_x()?;
    system.be.run(&["create", "default@a"]).done();
    system.be.run(&["create", "x@a"]).done();
    for bad in ["nope", "x@nope", "default", "nope@a"] {
        let word = bad.strip_suffix("@a").unwrap_or(bad);
        system.refuses(
            REFUSED,
            &["destroy", "-y", "x@a", "default@a", "x", bad],
            &[word],
        )?;
    }
    system.refuses(2, &["destroy", "-y", "x", "a/b"], &["a/b"])?;
    system.be.run(&["pin", "x"]).done();
    system.refuses(
        REFUSED,
        &["destroy", "-y", "default@a", "x"],
        &["x is pinned"],
    )?;
    system.be.run(&["unpin", "x"]).done();
    system
        .be
        .run(&["destroy", "-y", "x@a", "default@a", "x"])
        .done();
    assert_eq!(system.subvolume_paths()?, ["@"]);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn only_what_be_made_is_deleted() -> Result<()> {
    let system = with_x()?;
    system.be.run(&["create", "x@a"]).done();
    system.make_subvolume("@be/x/snap/a/mine")?;
    for name in ["x@a", "x"] {
        system.refuses(REFUSED, &["destroy", "-y", name], &["snap/a/mine"])?;
    }
    system.refuses(REFUSED, &["rollback", "x@a"], &["snap/a/mine"])?;
    fs::remove_dir(system.top("@be/x/snap/a/mine"))?;
    // Another one in its place.
    let place = system.top("@be/x/snap/a/root");
    fs::rename(system.top("@be/x/snap/a"), system.top("@elsewhere"))?;
    fs::create_dir(system.top("@be/x/snap/a"))?;
    system.make_subvolume("@be/x/snap/a/root")?;
    system.refuses(REFUSED, &["destroy", "-y", "x@a"], &["snap/a/root"])?;
    fs::remove_dir(&place)?;
    // Gone: only the record forgets it.
    system.refuses(REFUSED, &["mount", "x@a"], &["x@a", "gone"])?;
    system.refuses(REFUSED, &["rollback", "x@a"], &["x@a", "gone"])?;
    system.be.run(&["destroy", "-y", "x@a"]).done();
    system.be.run(&["destroy", "-y", "x"]).done();
    assert_eq!(system.subvolume_paths()?, ["@", "@elsewhere/root"]);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn killed_at_any_moment_the_store_stays_whole() -> Result<()> {
    let system = with_x()?;
    let running = system.running()?;
    fs::write(system.env("x", "etc/version"), "1")?;
    system.be.run(&["create", "x@a"]).done();
    let base = system.record("x")?["subvolumes"][0]["base"]["uuid"].clone();
    let mut seeded = Seeded::new(23);
    for i in 0..60 {
        let args = [
            &["create", "x@b"][..],
            &["rollback", "x@a"],
            &["destroy", "-y", "x@b"],
        ][i % 3];
        if args[0] != "create" && system.be.run(&["create", "x@b"]).code != 0 {
            ensure!(system.record("x")?.to_string().contains("\"b\""));
        }
        fs::write(system.env("x", "etc/version"), "2")?;
        let mut be = system.be.start(args)?;
        std::thread::sleep(Duration::from_micros(seeded.below(90_000)));
        if !be.has_ended()? {
            be.signal(Signal::SIGKILL)?;
        }
        be.end()?;
        let context = || format!("{args:?}, number {i}");
        ensure!(system.sound_menu().with_context(context)? == "default");
        system.be.run(&["menu"]).done();
        ensure!(
            system.leftovers().is_empty(),
            "{}: {:?}",
            context(),
            system.leftovers()
        );
        let listed = system.listed("x").with_context(context)?;
        ensure!(!listed["subvolumes"][0]["path"].is_null(), "{}", context());
        let known = listed["snapshots"].as_array().with_context(context)?;
        for snapshot in known {
            ensure!(
                !snapshot["subvolumes"][0]["path"].is_null(),
                "{}: {snapshot}",
                context()
            );
        }
        // The default, the environment with its base, and what the record knows.
        let paths = system.subvolume_paths()?;
        ensure!(paths.len() == 3 + known.len(), "{}: {paths:?}", context());
        ensure!(
            system.record("x")?["subvolumes"][0]["base"]["uuid"] == base,
            "{}",
            context()
        );
        ensure!(
            ["1", "2"].contains(&version(&system, "x").as_str()),
            "{}",
            context()
        );
        ensure!(system.menu()?.contains("--id 'be-x'"), "{}", context());
        if i % 10 == 9 {
            for snapshot in known.iter().filter_map(|s| s["name"].as_str()) {
                if snapshot.starts_with("before") {
                    let name = format!("x@{snapshot}");
                    system.be.run(&["destroy", "-y", &name]).done();
                }
            }
        }
    }
    assert_eq!(running.diff(&system.running()?), NOTHING);
    system.be.run(&["destroy", "-y", "x"]).done();
    assert_eq!(system.subvolume_paths()?, ["@"]);
    Ok(())
}
