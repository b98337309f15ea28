//! An environment that boots next gets what changed on the running system: when it is activated,
//! and at the last moment.

use std::fs;

use anyhow::{Result, ensure};
use be_tests::system::{NOTHING, System};
use serde_json::{Value, json};
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
