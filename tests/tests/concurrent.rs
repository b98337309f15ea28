//! Several `be` at the same time.

use std::fs::File;

use anyhow::{Result, ensure};
use be_tests::system::System;
use nix::sys::signal::Signal;

const BUSY: i32 = 4;

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn two_creates() -> Result<()> {
    let system = System::adopted_small()?;
    for round in 0..10 {
        let names = ["a", "b"].map(|n| format!("{n}{round}"));
        let mut both = Vec::new();
        for name in &names {
            both.push(system.be.start(&["create", name])?);
        }
        // Neither keeps the lock for long.
        for mut be in both {
            be.end()?.done();
        }
    }
    let list = system.be.run(&["list", "--json"]).done().json();
    let environments = list["environments"].as_array().map_or(0, Vec::len);
    assert_eq!(environments, 21);
    assert_eq!(system.subvolume_paths()?.len(), 1 + 2 * 20);
    assert_eq!(system.menu()?.matches("\nmenuentry ").count(), 21);
    assert_eq!(system.sound_menu()?, "default");
    assert!(system.leftovers().is_empty());
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn whoever_keeps_the_lock_is_named() -> Result<()> {
    let system = System::adopted_small()?;
    let lock = File::open(system.top("@be/lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    let refused = system.be.run(&["create", "a"]).exits(BUSY);
    drop(refused.says(&["another be is at work", "be status"]));
    system.be.run(&["list"]).done();
    drop(lock);
    system.be.run(&["create", "a"]).done();
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn one_name_for_two() -> Result<()> {
    let system = System::adopted_small()?;
    for round in 0..5 {
        let name = format!("n{round}");
        let args = ["create", name.as_str()];
        let mut both = [system.be.start(&args)?, system.be.start(&args)?];
        let mut codes = [both[0].end()?.code, both[1].end()?.code];
        codes.sort_unstable();
        ensure!(codes[0] == 0 && codes[1] == 3, "{codes:?}");
    }
    assert_eq!(system.subvolume_paths()?.len(), 1 + 2 * 5);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn beside_an_upgrade() -> Result<()> {
    let system = System::adopted_lab()?;
    system.set_world(&["app-misc/slow"])?;
    system.set_slow(60)?;
    let mut upgrade = system.be.start(&["upgrade", "up"])?;
    upgrade.until("a build", || system.builds_slow("up").then_some(()))?;
    for (args, words) in [
        (&["upgrade", "other"][..], "another upgrade"),
        (&["upgrade", "--continue", "up"], "another upgrade"),
        (&["activate", "up"], "up"),
        (&["destroy", "-y", "up"], "up"),
        (&["destroy", "-f", "-y", "up"], "up"),
        (&["rename", "up", "other"], "up"),
        (&["describe", "up", "text"], "up"),
        (&["pin", "up"], "up"),
        (&["create", "up@a"], "up"),
    ] {
        let outcome = system.be.run(args).exits(BUSY);
        ensure!(outcome.error().contains(words), "{}", outcome.stderr);
    }
    // The build needs no lock: all that does not concern it goes on.
    system.be.run(&["create", "y"]).done();
    system.be.run(&["activate", "y"]).done();
    system.be.run(&["activate", "default"]).done();
    system.be.run(&["rename", "y", "z"]).done();
    system.be.run(&["create", "default@a"]).done();
    system.be.run(&["destroy", "-y", "z", "default@a"]).done();
    system.be.run(&["list"]).done();
    ensure!(system.builds_slow("up"));
    ensure!(!upgrade.has_ended()?);
    upgrade.signal(Signal::SIGTERM)?;
    let _kept = upgrade.end()?.exits(6);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn an_upgrade_waits_for_another() -> Result<()> {
    let system = System::adopted_lab()?;
    system.set_world(&["app-misc/slow"])?;
    system.set_slow(5)?;
    let mut first = system.be.start(&["upgrade", "first"])?;
    first.until("a build", || system.builds_slow("first").then_some(()))?;
    drop(system.be.run(&["upgrade", "refused"]).exits(BUSY));
    let mut second = system.be.start(&["upgrade", "--wait", "second"])?;
    // Whoever waits can be told not to.
    let mut third = system.be.start(&["upgrade", "--wait", "third"])?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    third.signal(Signal::SIGINT)?;
    drop(
        third
            .end()?
            .exits(BUSY)
            .says(&["another upgrade is running"]),
    );
    first.end()?.done();
    let waited = second.end()?.exits(77);
    drop(waited.says(&["waiting until it has ended", "first", "was not booted yet"]));
    for name in ["refused", "second", "third"] {
        assert!(system.listed(name).is_none(), "{name}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn one_name_on_two_filesystems() -> Result<()> {
    let both = [System::adopted_small()?, System::adopted_small()?];
    // No other test has one of this name below /run/be of the machine.
    for system in &both {
        system.be.run(&["create", "both"]).done();
    }
    let turns = |system: &System| -> Result<()> {
        for _ in 0..20 {
            let dir = system.be.run(&["mount", "both"]).done().stdout;
            let own = rustix::fs::stat(system.env("both", ""))?.st_dev;
            let mounted = rustix::fs::stat(dir.trim())?.st_dev;
            ensure!(mounted == own, "another's is at {dir}");
            system.be.run(&["umount", "both"]).done();
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let all = both.each_ref().map(|system| scope.spawn(|| turns(system)));
        for one in all {
            one.join().map_err(|_| anyhow::anyhow!("it panicked"))??;
        }
        Ok(())
    })
}
