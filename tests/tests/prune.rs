//! Pruning: what the rules do not keep goes, what is used or not `be`'s own stays, and the
//! dry run says before what the run then does.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use be_tests::be::Outcome;
use be_tests::system::{NOTHING, System};
use be_tests::user::User;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use xtask::image::Tree;
use xtask::run::{cmd, run};

const NOTHING_TO_DO: i32 = 77;

/// A change of the record of an environment, as if time had gone by.
fn edit(system: &System, name: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
    let mut record = system.record(name)?;
    change(&mut record);
    let path = system.top(&format!("@be/{name}/be.json"));
    fs::write(path, serde_json::to_string_pretty(&record)? + "\n")?;
    Ok(())
}

/// So many days ago, in UTC.
fn days_ago(days: u64) -> Result<String> {
    let date = format!("{days} days ago");
    let text = run(&mut cmd(
        "date",
        ["-u", "+%Y-%m-%dT%H:%M:%S+00:00", "-d", &date],
    ))?;
    Ok(text.trim().to_owned())
}

fn aged(system: &System, name: &str, days: u64) -> Result<()> {
    let created = days_ago(days)?;
    edit(system, name, |r| r["created"] = json!(created))
}

fn rules(system: &System, text: &str) -> Result<()> {
    fs::create_dir_all(system.path("/etc/be"))?;
    system.write("/etc/be/be.toml", format!("[prune]\n{text}"))
}

fn names(value: &Value) -> Vec<String> {
    let all = value.as_array().into_iter().flatten();
    all.filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn there(system: &System) -> Vec<String> {
    let list = system.be.run(&["list", "--json"]).done().json();
    let all = list["environments"].as_array().into_iter().flatten();
    let mut names: Vec<_> = all
        .filter_map(|e| e["name"].as_str().map(str::to_owned))
        .collect();
    names.sort();
    names
}

/// What the dry run says of an environment.
fn why(outcome: &Outcome, name: &str) -> (String, String) {
    let document = outcome.json();
    let all = document["environments"].as_array().cloned();
    let found = all
        .unwrap_or_default()
        .into_iter()
        .find(|e| e["name"] == name)
        .unwrap_or_else(|| panic!("nothing of {name}: {document}"));
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("fate"), text("why"))
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn thirty_environments_of_all_ages() -> Result<()> {
    let system = System::adopted_small()?;
    for i in 0..30 {
        let name = format!("e{i:02}");
        system.be.run(&["create", &name]).done();
        // Some on one day, some weeks and months apart.
        aged(
            &system,
            &name,
            [0, 1, 2, 3, 5, 8, 13, 21, 34, 55][i % 10] * (1 + i as u64 / 10),
        )?;
    }
    aged(&system, "default", 400)?;
    edit(&system, "e29", |r| r["pinned"] = json!(true))?;
    edit(&system, "e19", |r| r["state"] = json!("confirmed"))?;
    for (name, state, days) in [
        ("e08", "failed", 9),
        ("e18", "failed", 1),
        ("e28", "bad", 9),
    ] {
        let ended = days_ago(days)?;
        let started = days_ago(200)?;
        edit(&system, name, |r| {
            r["state"] = json!(state);
            r["created"] = json!(started);
            r["upgrade"] = json!({ "phase": "merge", "started": started, "ended": ended });
        })?;
    }
    system.be.run(&["menu"]).done();
    system.be.run(&["activate", "e09"]).done();

    // What only looks like it, outside of the store, and inside of an environment.
    for path in ["@be-old", "@snapshots"] {
        system.make_subvolume(path)?;
    }
    fs::create_dir_all(system.top("@be.bak/e00"))?;
    system.make_subvolume("@be.bak/e00/root")?;
    fs::write(system.top("@be.bak/e00/root/work"), "of a year")?;
    system.make_subvolume("@be/e27/root/root/mine")?;
    fs::write(system.env("e27", "root/mine/work"), "of a year")?;

    rules(
        &system,
        "keep = 3\nmin_keep = 1\ndaily = 3\nweekly = 3\nmonthly = 1\nkeep_names = [\"e07\", \"*16\"]\n",
    )?;
    let (running, before) = (system.running()?, there(&system));
    let dry = system.unchanged_by(0, &["-n", "--json", "prune"])?;
    for (name, fate, word) in [
        ("default", "keep", "running"),
        ("e09", "keep", "boots next"),
        ("e29", "keep", "pinned"),
        ("e19", "keep", "rollback"),
        ("e07", "keep", "e07 (keep_names)"),
        ("e16", "keep", "*16 (keep_names)"),
        ("e27", "keep", "root/mine"),
        ("e18", "keep", "unfinished"),
        ("e08", "delete", "failed_days"),
        ("e28", "delete", "failed_days"),
        ("e26", "delete", "no rule"),
    ] {
        let (found, text) = why(&dry, name);
        ensure!(
            found == fate && text.contains(word),
            "{name}: {found}: {text}"
        );
    }
    // For a person, one line for each.
    let shown = system.unchanged_by(0, &["-n", "prune"])?.stdout;
    assert_eq!(shown.lines().count(), before.len(), "{shown}");
    ensure!(shown.contains("delete  e26"), "{shown}");

    let done = system.be.run(&["prune", "--json"]).done().json();
    let deleted = names(&done["deleted"]);
    assert_eq!(deleted, names(&dry.json()["deleted"]));
    ensure!(deleted.len() > 10, "{deleted:?}");
    let kept: Vec<_> = before
        .into_iter()
        .filter(|n| !deleted.contains(n))
        .collect();
    assert_eq!(there(&system), kept);
    assert_eq!(running.diff(&system.running()?), NOTHING);
    assert_eq!(system.sound_menu()?, "e09");
    let menu = system.menu()?;
    for name in &deleted {
        ensure!(
            !menu.contains(&format!("--id 'be-{name}'")),
            "{name} is in the menu"
        );
    }
    ensure!(system.leftovers().is_empty());
    // Two for each that is kept and was made; those of others.
    let paths = system.subvolume_paths()?;
    let made = paths.iter().filter(|p| p.starts_with("@be/")).count();
    assert_eq!(made, 2 * (kept.len() - 1) + 1, "{paths:?}");
    for path in ["@", "@be-old", "@snapshots", "@be.bak/e00/root"] {
        ensure!(paths.iter().any(|p| p == path), "{path} is gone");
    }
    assert_eq!(
        fs::read_to_string(system.env("e27", "root/mine/work"))?,
        "of a year"
    );
    assert_eq!(
        fs::read_to_string(system.top("@be.bak/e00/root/work"))?,
        "of a year"
    );

    system.unchanged_by(NOTHING_TO_DO, &["prune"])?;
    system.unchanged_by(NOTHING_TO_DO, &["-n", "prune"])?;
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_cannot_be_read_keeps_everything() -> Result<()> {
    let system = System::adopted_small()?;
    for name in ["a", "b", "c"] {
        system.be.run(&["create", name]).done();
    }
    rules(&system, "keep = 0\nmin_keep = 0\n")?;
    fs::create_dir_all(system.top("@be/plain/root/etc"))?;
    system.refuses(3, &["prune"], &["plain"])?;
    fs::remove_dir_all(system.top("@be/plain"))?;

    let record = system.top("@be/b/be.json");
    let text = fs::read_to_string(&record)?;
    fs::write(&record, &text[..text.len() / 2])?;
    system.refuses(3, &["prune"], &["b", "line"])?;
    fs::write(&record, text)?;

    // A bad rule names its line, and nothing is done.
    rules(&system, "keep = 1\nkeep_names = [\"a/b\"]\n")?;
    let refused = system.unchanged_by(3, &["prune"])?.says(&["line 3", "a/b"]);
    ensure!(refused.stdout.is_empty());
    rules(&system, "keep = 0\nmin_keep = 1\n")?;
    let done = system.be.run(&["prune", "--json"]).done().json();
    assert_eq!(names(&done["deleted"]), ["a", "b"]);
    Ok(())
}

/// A process that has mounted this subvolume where nobody else sees it.
fn mounted_elsewhere(system: &System, subvolume: &str) -> Result<User> {
    let target = system.dir().join("elsewhere");
    fs::create_dir(&target)?;
    let device = system.device().node().display();
    let target = target.display();
    User::elsewhere(&format!(
        "mount -t btrfs -o subvol=/{subvolume} {device} {target}"
    ))
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_is_mounted_anywhere_stays() -> Result<()> {
    let system = System::adopted_small()?;
    for name in ["a", "b"] {
        system.be.run(&["create", name]).done();
    }
    rules(&system, "keep = 0\nmin_keep = 0\n")?;
    let user = mounted_elsewhere(&system, "@be/a/base/root")?;
    let dry = system.unchanged_by(0, &["-n", "--json", "prune"])?;
    let (fate, text) = why(&dry, "a");
    let process = format!("process {}", user.0.id());
    ensure!(fate == "keep" && text.contains(&process), "{fate}: {text}");
    let done = system.be.run(&["prune", "--json"]).done().json();
    assert_eq!(names(&done["deleted"]), ["b"]);
    drop(user);
    let done = system.be.run(&["prune", "--json"]).done().json();
    assert_eq!(names(&done["deleted"]), ["a"]);
    assert_eq!(system.subvolume_paths()?, ["@"]);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn where_its_users_cannot_be_seen_nothing_is_pruned() -> Result<()> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "a"]).done();
    rules(&system, "keep = 0\nmin_keep = 0\n")?;
    let store = system.store()?;
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--mount-proc", "--"])
        .arg(system.be.program())
        .arg("--sysroot")
        .arg(system.root())
        .arg("prune");
    let refused = Outcome::of(&mut command).exits(3);
    ensure!(refused.error().contains("container"), "{}", refused.stderr);
    assert_eq!(store.diff(&system.store()?), NOTHING);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn after_a_removal_that_fails_the_others_are_in_the_menu_again() -> Result<()> {
    let system = System::adopted_small()?;
    for name in ["a", "b"] {
        system.be.run(&["create", name]).done();
    }
    rules(&system, "keep = 0\nmin_keep = 0\n")?;
    // btrfs does not delete what is being sent; nobody reads the rest of this stream.
    let mut sending = User(
        cmd("btrfs", ["send"])
            .arg(system.top("@be/a/base/root"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?,
    );
    let stream = sending.0.stdout.as_mut().context("its output")?;
    stream.read_exact(&mut [0])?;
    ensure!(sending.0.try_wait()?.is_none(), "it has sent all");
    let failed = system.be.run(&["prune"]).exits(1);
    ensure!(
        failed.error().contains("could not delete a"),
        "{}",
        failed.stderr
    );
    assert_eq!(there(&system), ["b", "default"]);
    ensure!(system.menu()?.contains("--id 'be-b'"));
    drop(sending);
    let done = system.be.run(&["prune"]).done();
    let _swept = done.says(&["finished the removal of a"]);
    assert_eq!(system.subvolume_paths()?, ["@"]);
    assert_eq!(system.sound_menu()?, "default");
    Ok(())
}

fn free(system: &System) -> Result<u64> {
    system.sync()?;
    let status = system.be.run(&["status", "--json"]).done().json();
    status["free"].as_u64().context("status tells no space")
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn while_space_is_short_the_oldest_go() -> Result<()> {
    let system = System::adopted_small()?;
    for (i, name) in ["a", "b", "c", "d", "e"].iter().enumerate() {
        system.be.run(&["create", name]).done();
        aged(&system, name, 20 - i as u64)?;
        fs::write(system.env(name, "root/data"), vec![7; 4 << 20])?;
    }
    aged(&system, "default", 30)?;
    edit(&system, "b", |r| r["pinned"] = json!(true))?;
    // Data is what is short; metadata has more room than that.
    system.fill(1)?;
    let goal = (free(&system)? >> 20) + 6;
    // Two of them are enough, and one is not.
    rules(&system, &format!("keep = 9\nmin_free_mib = {goal}\n"))?;
    let dry = system.unchanged_by(0, &["-n", "--json", "prune"])?.json();
    assert_eq!(names(&dry["deleted"]), [""; 0]);
    // The two newest are the minimum.
    assert_eq!(names(&dry["while_short"]), ["a", "c"]);
    let done = system.be.run(&["prune", "--json"]).done().json();
    assert_eq!(names(&done["for_space"]), ["a", "c"], "{done}");
    assert_eq!(there(&system), ["b", "d", "default", "e"]);
    ensure!(free(&system)? >> 20 >= goal);
    system.unchanged_by(NOTHING_TO_DO, &["prune"])?;

    // What cannot be reached is said, and nothing protected is touched for it.
    rules(&system, "keep = 9\nmin_keep = 1\nmin_free_mib = 100000\n")?;
    let done = system.be.run(&["prune"]).done();
    let done = done.says(&["100000 are wanted", "each of the 3 stays"]);
    ensure!(done.stdout.contains("deleted 1: d"), "{}", done.stdout);
    assert_eq!(there(&system), ["b", "default", "e"]);
    system
        .unchanged_by(NOTHING_TO_DO, &["prune"])?
        .says(&["100000 are wanted"]);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn killed_while_pruning_the_rest_is_done_by_the_next() -> Result<()> {
    let system = System::adopted_small()?;
    rules(&system, "keep = 0\nmin_keep = 0\n")?;
    let running = system.running()?;
    for round in 0..6u64 {
        for name in ["a", "b", "c", "d"] {
            if system.listed(name).is_none() {
                system.be.run(&["create", name]).done();
            }
        }
        let mut be = system.be.start(&["prune"])?;
        std::thread::sleep(Duration::from_millis(15 + 15 * round));
        if !be.has_ended()? {
            be.signal(Signal::SIGKILL)?;
        }
        be.end()?;
        ensure!(system.sound_menu()? == "default");
        let again = system.be.run(&["prune"]);
        ensure!([0, NOTHING_TO_DO].contains(&again.code), "{}", again.stderr);
        ensure!(system.leftovers().is_empty(), "{:?}", system.leftovers());
        assert_eq!(system.subvolume_paths()?, ["@"], "round {round}");
        assert_eq!(there(&system), ["default"]);
    }
    assert_eq!(running.diff(&system.running()?), NOTHING);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn an_upgrade_prunes_only_if_it_is_told_to() -> Result<()> {
    let system = System::adopted_lab()?;
    system.set_world(&["app-misc/hello"])?;
    for name in ["a", "b"] {
        system.be.run(&["create", name]).done();
        aged(&system, name, 9)?;
    }
    rules(&system, "keep = 1\nmin_keep = 1\nafter_upgrade = true\n")?;
    let done = system.be.run(&["upgrade", "new"]).done();
    let done = done.says(&["pruned: a, b"]);
    ensure!(done.stdout.contains("new boots next"), "{}", done.stdout);
    assert_eq!(there(&system), ["default", "new"]);
    assert_eq!(system.sound_menu()?, "new");
    Ok(())
}
