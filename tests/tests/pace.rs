//! An upgrade that pauses while the machine is needed, and goes on.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use be_tests::be::Running;
use be_tests::system::System;
use nix::sys::signal::Signal;
use xtask::run::cmd;

/// Longer than the package needs for one line of its log.
const SEVERAL_LINES: Duration = Duration::from_secs(3);

/// The log of the package that builds slowly.
fn log(system: &System) -> PathBuf {
    system.env("new", "var/tmp/portage/app-misc/slow-2/temp/build.log")
}

fn length(system: &System) -> Result<u64> {
    Ok(fs::metadata(log(system))?.len())
}

fn system() -> Result<System> {
    let system = System::adopted_lab()?;
    system.set_world(&["app-misc/slow"])?;
    system.set_slow(20)?;
    Ok(system)
}

/// Waits until nothing is written to the log any more.
fn stands_still(system: &System, upgrade: &mut Running) -> Result<()> {
    upgrade.until("a pause", || {
        let before = length(system).ok()?;
        std::thread::sleep(SEVERAL_LINES);
        (length(system).ok()? == before).then_some(())
    })
}

fn pauses_and_goes_on(system: &System, upgrade: &mut Running) -> Result<()> {
    upgrade.until("a build", || system.builds_slow("new").then_some(()))?;
    let paused = system.be.run(&["pause"]).done();
    drop(paused.says(&["the upgrade in new pauses"]));
    stands_still(system, upgrade)?;
    let status = system.be.run(&["--json", "status"]).done().json();
    ensure!(status["pending"][0]["kind"] == "paused", "{status}");
    let before = length(system)?;
    system.be.run(&["resume"]).done();
    upgrade.until("more of the build", || {
        let now = length(system).unwrap_or(u64::MAX);
        (now > before).then_some(())
    })
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn pause_and_resume() -> Result<()> {
    let system = system()?;
    for verb in ["pause", "resume"] {
        drop(
            system
                .be
                .run(&[verb])
                .exits(77)
                .says(&["no upgrade is running"]),
        );
    }
    let mut upgrade = system.be.start(&["upgrade", "new"])?;
    pauses_and_goes_on(&system, &mut upgrade)?;
    let done = upgrade.end()?.done();
    drop(done.says(&["new: paused; be resume goes on", "new: going on"]));
    assert_eq!(system.sound_menu()?, "new");
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn it_can_be_ended_while_it_pauses_and_does_not_pause_when_it_is_continued() -> Result<()> {
    let system = system()?;
    let mut upgrade = system.be.start(&["upgrade", "new"])?;
    upgrade.until("a build", || system.builds_slow("new").then_some(()))?;
    system.be.run(&["pause"]).done();
    stands_still(&system, &mut upgrade)?;
    upgrade.signal(Signal::SIGTERM)?;
    drop(upgrade.end()?.exits(6).says(&["it was interrupted"]));
    system.quiet_within(Duration::from_secs(60))?;
    system.be.run(&["upgrade", "--continue", "new"]).done();
    assert_eq!(system.sound_menu()?, "new");
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn without_control_groups_its_processes_are_stopped_one_by_one() -> Result<()> {
    let system = system()?;
    let be = system.be.command(&["upgrade", "new"]);
    let mut hidden = cmd("unshare", ["--mount", "sh", "-c"]);
    hidden
        .arg("for dir in $(findmnt -nro TARGET -t cgroup2); do umount -l $dir; done; exec \"$@\"")
        .arg("sh")
        .arg(be.get_program())
        .args(be.get_args());
    for (key, value) in be.get_envs() {
        match value {
            Some(value) => hidden.env(key, value),
            None => hidden.env_remove(key),
        };
    }
    let mut upgrade = Running::of(&mut hidden)?;
    pauses_and_goes_on(&system, &mut upgrade)?;
    upgrade.end()?.done();
    assert_eq!(system.sound_menu()?, "new");
    Ok(())
}
