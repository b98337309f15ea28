//! An environment that boots next gets what changed on the running system: when it is activated,
//! and at the last moment.

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use be_tests::Seeded;
use be_tests::cuts::{Disks, Machine};
use be_tests::system::{NOTHING, System};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use xtask::fingerprint::Fingerprint;
use xtask::image::Tree;

/// The result of an upgrade, as if the service that runs at shutdown were there.
fn upgraded_and_waiting(system: &System, how: Option<&str>) -> Result<()> {
    system.set_world(&["app-misc/hello"])?;
    system.be.run(&["upgrade", "--no-activate", "new"]).done();
    wait_for_shutdown(system, how)
}

fn wait_for_shutdown(system: &System, how: Option<&str>) -> Result<()> {
    let then = how.map_or_else(|| json!({}), |how| json!({ "switch": how }));
    set(system, "at_shutdown", then)
}

/// Change the record of the new environment.
fn set(system: &System, key: &str, value: Value) -> Result<()> {
    let mut record = system.record("new")?;
    record[key] = value;
    let file = system.top("@be/new/be.json");
    Ok(fs::write(file, serde_json::to_vec(&record)?)?)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_was_upgraded_is_carried_into_by_itself_and_a_mere_clone_is_not() -> Result<()> {
    let system = System::adopted_lab()?;
    system.set_world(&["app-misc/hello"])?;
    system.be.run(&["upgrade", "--no-activate", "new"]).done();
    system.be.run(&["create", "backup"]).done();
    system.write("/etc/broken", "x")?;
    let (running, here) = (system.running()?, "etc/broken");
    let dry = system.be.run(&["--dry-run", "activate", "new"]).done();
    dry.says(&["would carry 1 path first"]);
    let told = system.be.run(&["activate", "backup"]).done();
    told.says(&["changed in default since backup was cloned"]);
    ensure!(!system.env("backup", here).exists());
    system.be.run(&["activate", "--no-carry", "new"]).done();
    ensure!(!system.env("new", here).exists());
    let told = system.be.run(&["activate", "new"]).done();
    told.says(&["carried what changed in default since new was cloned: 1 path"]);
    assert_eq!(fs::read_to_string(system.env("new", here))?, "x");
    assert_eq!(running.diff(&system.running()?), NOTHING);

    // Once it has run it has a life of its own.
    system.write("/etc/later", "x")?;
    set(&system, "state", json!("confirmed"))?;
    system.be.run(&["activate", "new"]).done();
    ensure!(!system.env("new", "etc/later").exists());

    system.write("/etc/be/be.toml", "[carry]\nautomatic = false\n")?;
    set(&system, "state", json!("ready"))?;
    system.be.run(&["activate", "new"]).done();
    ensure!(!system.env("new", "etc/later").exists());
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn at_shutdown_the_last_changes_go_over_and_then_comes_the_switch() -> Result<()> {
    let system = System::adopted_lab()?;
    upgraded_and_waiting(&system, Some("default"))?;
    system.write("/etc/last", "x")?;
    let status = system.be.run(&["status"]).done().stdout;
    ensure!(
        status.contains("new, once this system has shut down"),
        "{status}"
    );
    assert_eq!(system.sound_menu()?, "default");
    let list = system.be.run(&["list", "-H"]).done().stdout;
    ensure!(
        list.contains("new\tR\t") && list.contains("default\tN\t"),
        "{list}"
    );
    let refused = system.be.run(&["destroy", "-F", "new"]).exits(3);
    refused.says(&["boots next"]);

    let running = system.running()?;
    let last = system.be.run(&["carry", "--at-shutdown"]).done();
    let done = "new has what changed, and boots next\n";
    assert_eq!(last.stdout, done);
    assert_eq!(running.diff(&system.running()?), NOTHING);
    assert_eq!(fs::read_to_string(system.env("new", "etc/last"))?, "x");
    assert_eq!(system.sound_menu()?, "new");
    assert_eq!(system.record("new")?["at_shutdown"], Value::Null);
    let log = system.be.run(&["log", "new"]).done().stdout;
    ensure!(
        log.contains("carried what changed in default since new was cloned"),
        "{log}"
    );
    // Nothing waits any more, and a second shutdown does nothing.
    system.write("/etc/later", "x")?;
    let again = system.be.run(&["carry", "--at-shutdown"]).done();
    assert_eq!(again.stdout, "");
    ensure!(!system.env("new", "etc/later").exists());

    // What boots next already gets the rest.
    wait_for_shutdown(&system, None)?;
    system.be.run(&["carry", "--at-shutdown"]).done();
    ensure!(system.env("new", "etc/later").exists());
    assert_eq!(system.record("new")?["at_shutdown"], Value::Null);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_shutdown_that_cannot_carry_switches_to_nothing() -> Result<()> {
    let system = System::adopted_lab()?;
    upgraded_and_waiting(&system, Some("default"))?;
    system.write("/etc/last", "x")?;
    let config = "[carry]\nshutdown_seconds = 0\n[upgrade]\npolite = false\n";
    system.write("/etc/be/be.toml", config)?;
    let failed = system.be.run(&["carry", "--at-shutdown"]).exits(1);
    failed.says(&["time"]);
    assert_eq!(system.sound_menu()?, "default");
    let status = system.be.run(&["status"]).done().stdout;
    ensure!(
        status.contains("new, once this system has shut down properly; the last time: "),
        "{status}"
    );

    // At the next one it is tried again.
    system.write("/etc/be/be.toml", "[upgrade]\npolite = false\n")?;
    system.be.run(&["carry", "--at-shutdown"]).done();
    assert_eq!(system.sound_menu()?, "new");
    ensure!(system.env("new", "etc/last").exists());

    // Whoever chooses something else is obeyed.
    wait_for_shutdown(&system, Some("default"))?;
    system.be.run(&["activate", "default"]).done();
    assert_eq!(system.record("new")?["at_shutdown"], Value::Null);
    assert_eq!(system.sound_menu()?, "default");
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn packages_for_which_there_is_no_time_go_over_the_next_time() -> Result<()> {
    let system = System::adopted_lab()?;
    upgraded_and_waiting(&system, Some("default"))?;
    let remove = ["emerge", "--quiet", "--unmerge", "app-misc/confy"];
    system.chroot().run(&remove)?;
    system.be.run(&["carry", "--at-shutdown"]).done();
    ensure!(system.env("new", "usr/bin/confy").exists());
    let waits = system.record("new")?["packages_wait"].clone();
    assert_eq!(waits["removed"][0]["package"], "app-misc/confy", "{waits}");
    let log = system.be.run(&["log", "new"]).done().stdout;
    ensure!(log.contains("and not in new: app-misc/confy"), "{log}");
    let told = system.be.run(&["activate", "new"]).done();
    told.says(&["packages as in default, in new too: -app-misc/confy-1"]);
    ensure!(!system.env("new", "usr/bin/confy").exists());
    assert_eq!(system.record("new")?["packages_wait"], Value::Null);
    Ok(())
}

/// A disk on which much waits for the shutdown.
fn much_waits() -> Result<Disks> {
    let system = System::adopted_small()?;
    let path = |n: u32| system.path(&format!("/var/lib/many/{}/{n}", n % 7));
    for n in 0..7 {
        fs::create_dir_all(system.path(&format!("/var/lib/many/{n}")))?;
    }
    for n in 0..600 {
        fs::write(path(n), "x".repeat(n as usize * 10))?;
    }
    system.be.run(&["create", "new"]).done();
    let upgrade = json!({ "phase": "done", "started": "2026-11-20T12:00:00+00:00" });
    set(&system, "upgrade", upgrade)?;
    wait_for_shutdown(&system, Some("default"))?;
    for n in 0..900 {
        match n % 3 {
            0 => fs::write(path(n), "changed")?,
            1 if n < 600 => fs::remove_file(path(n))?,
            _ => fs::write(path(1000 + n), n.to_string())?,
        }
    }
    system.write(
        "/etc/passwd",
        "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\n",
    )?;
    Disks::new(system)
}

/// What the new environment is, without the times that its directories got.
fn result(machine: &Machine) -> Result<Fingerprint> {
    Ok(Fingerprint::of(&machine.new_env(""), &[])?.without_times())
}

/// The last moment, from whatever is left of it; gives what that was.
fn to_the_end(machine: &Machine, undisturbed: &Fingerprint) -> Result<&'static str> {
    for name in ["default", "new"] {
        machine.be.run(&["check", name]).done();
    }
    let status = machine.be.run(&["status", "--json"]).done().json();
    let was = match status["next_why"].as_str() {
        Some("at-shutdown") => "the old one boots",
        Some("default") if status["next"] == "new" => "the new one boots",
        other => anyhow::bail!("{other:?} boots: {status}"),
    };
    machine.be.run(&["carry", "--at-shutdown"]).done();
    let changes = undisturbed.diff(&result(machine)?);
    ensure!(changes.is_empty(), "after {was}: {changes:#?}");
    assert_eq!(machine.record()?["at_shutdown"], Value::Null);
    let status = machine.be.run(&["status", "--json"]).done().json();
    ensure!(
        status["next"] == "new" && status["next_why"] == "default",
        "{status}"
    );
    Ok(was)
}

/// Cut the power so many times, and end be as often by SIGKILL.
fn cut(times: u32) -> Result<()> {
    const LAST: [&str; 2] = ["carry", "--at-shutdown"];
    let disks = much_waits()?;
    disks.clone("base", "undisturbed")?;
    let machine = disks.open("undisturbed")?;
    let start = Instant::now();
    machine.be.run(&LAST).done();
    let took = start.elapsed();
    let undisturbed = result(&machine)?;
    drop(machine);

    let mut seeded = Seeded::new(20_261_130);
    let part = took / times;
    let mut moments = (0..times).map(|i| {
        let within = u64::try_from(part.as_millis()).unwrap_or(1).max(1);
        part * i + Duration::from_millis(seeded.below(within))
    });
    let moments: Vec<_> = moments.by_ref().collect();
    disks.clone("base", "cut")?;
    let machine = disks.open("cut")?;
    let start = Instant::now();
    let mut last = machine.be.start(&LAST)?;
    for (i, at) in moments.iter().enumerate() {
        sleep(at.saturating_sub(start.elapsed()));
        disks.clone("cut", &format!("cut{i}"))?;
    }
    last.end()?.done();
    drop(machine);
    let mut ends = BTreeMap::new();
    for (i, at) in moments.iter().enumerate() {
        let machine = disks.open(&format!("cut{i}"))?;
        let was = to_the_end(&machine, &undisturbed).with_context(|| format!("cut {i}"))?;
        *ends.entry(format!("cut off, {was}")).or_insert(0) += 1;
        drop(machine);

        let name = format!("killed{i}");
        disks.clone("base", &name)?;
        let machine = disks.open(&name)?;
        let mut last = machine.be.start(&LAST)?;
        sleep(*at);
        if !last.has_ended()? {
            last.signal(Signal::SIGKILL)?;
        }
        last.end()?;
        let was = to_the_end(&machine, &undisturbed).with_context(|| name.clone())?;
        *ends.entry(format!("killed, {was}")).or_insert(0) += 1;
        drop(machine);
        disks.remove(&name)?;
    }
    xtask::say(&format!("{times} times at the last moment: {ends:?}"));
    for what in ["cut off", "killed"] {
        ensure!(
            ends.contains_key(&format!("{what}, the old one boots")),
            "{ends:?}"
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs root and loop devices"]
fn the_power_is_cut_at_the_last_moment() -> Result<()> {
    cut(8)
}

mod thorough {
    use super::*;

    #[test]
    #[ignore = "needs root and loop devices"]
    fn the_power_is_cut_fifty_times_at_the_last_moment() -> Result<()> {
        cut(50)
    }
}
