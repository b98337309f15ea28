//! `be status`: complete, and at work while others are.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use be_tests::system::System;
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};
use xtask::image::Tree;

fn status(system: &System) -> Value {
    system.be.run(&["status", "--json"]).done().json()
}

fn pending(status: &Value) -> Vec<(String, String)> {
    let all = status["pending"].as_array().cloned().unwrap_or_default();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    all.iter()
        .map(|p| (text(&p["environment"]), text(&p["kind"])))
        .collect()
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn where_the_machine_is() -> Result<()> {
    let system = System::adopted_small()?;
    fs::create_dir_all(system.path("/etc/be"))?;
    system.write("/etc/be/be.toml", "[upgrade]\nmin_free_mib = 64\n")?;
    let calm = status(&system);
    assert_eq!(calm["running"], "default");
    assert_eq!(calm["root"], "/@");
    assert_eq!(calm["next"], "default");
    assert_eq!(calm["next_why"], "default");
    assert_eq!(calm["once"], Value::Null);
    assert_eq!(calm["pending"], json!([]));
    assert_eq!(calm["debt"], json!({}));
    assert_eq!(calm["left_behind"], Value::Null);
    assert_eq!(calm["environments"], 1);
    assert_eq!(calm["setup"], json!({ "errors": 0, "warnings": 0 }));
    for key in ["data", "metadata"] {
        ensure!(
            calm["space"][key].as_u64().is_some_and(|n| n > 1 << 20),
            "{calm}"
        );
    }

    system.be.run(&["create", "x"]).done();
    system.be.run(&["activate", "x"]).done();
    system.write("/etc/changed", "since")?;
    system.write("/etc/._cfg0000_fstab", "new")?;
    fs::create_dir_all(system.path("/var/lib/gentoo/news"))?;
    system.write(
        "/var/lib/gentoo/news/news-gentoo.unread",
        "2026-01-01-a\n2026-01-02-b\n",
    )?;
    system.sync()?;
    let now = status(&system);
    assert_eq!(now["next"], "x");
    assert_eq!(pending(&now), [("x".to_owned(), "not-booted".to_owned())]);
    assert_eq!(now["left_behind"]["environment"], "x");
    ensure!(
        now["left_behind"]["counts"]["/etc"].as_u64() >= Some(2),
        "{now}"
    );
    assert_eq!(now["debt"]["default"]["news"], 2);
    assert_eq!(now["debt"]["default"]["config"][0]["target"], "/etc/fstab");
    let text = system.be.run(&["status"]).done().stdout;
    for words in [
        "running   default (/@)",
        "next      x (activated)",
        "pending   x: not booted yet, 20",
        "behind    changed in default since x was cloned",
        "to do     default: 1 new configuration file (be config default)",
        "2 unread news items",
        "free for data",
        "2 environments",
        "setup     nothing is wrong",
    ] {
        ensure!(text.contains(words), "{words}: {text}");
    }

    system.write("/boot/grub/grub.cfg", "set timeout=5\n")?;
    let now = status(&system);
    assert_eq!(now["next_why"], "grub.cfg");
    assert_eq!(now["setup"]["errors"], 1);
    let text = system.be.run(&["status"]).done().stdout;
    ensure!(
        text.contains("be init") && text.contains("be doctor"),
        "{text}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn it_waits_for_nobody_and_is_fast() -> Result<()> {
    let system = System::adopted_small()?;
    for i in 0..20 {
        system.be.run(&["create", &format!("e{i}")]).done();
    }
    let lock = File::open(system.top("@be/lock"))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, e)| e)
        .context("the lock is not free")?;
    // Dirty data that nobody has to wait for.
    fs::write(system.path("/root/dirty"), vec![1; 64 << 20])?;
    let store = system.subvolumes()?;
    let start = Instant::now();
    let now = status(&system);
    let took = start.elapsed();
    xtask::say(&format!(
        "status of 21 environments: {} ms",
        took.as_millis()
    ));
    ensure!(took < Duration::from_millis(700), "{took:?}");
    assert_eq!(now["environments"], 21);
    assert_eq!(store, system.subvolumes()?);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn while_an_upgrade_runs_and_after_it_failed() -> Result<()> {
    let system = System::adopted_lab()?;
    system.set_world(&["app-misc/slow"])?;
    system.set_slow(30)?;
    let mut be = system.be.start(&["upgrade", "new"])?;
    be.until("a build", || system.builds_slow("new").then_some(()))?;
    let now = status(&system);
    assert_eq!(now["pending"][0]["kind"], "upgrading");
    assert_eq!(now["pending"][0]["phase"], "merge");
    ensure!(now["pending"][0]["since"].is_string(), "{now}");
    let clean = system.be.run(&["doctor", "--json"]).json();
    ensure!(
        !clean["problems"].to_string().contains("\"new\""),
        "{clean}"
    );
    be.signal(nix::sys::signal::Signal::SIGTERM)?;
    let _interrupted = be.end()?.exits(6);
    let now = status(&system);
    assert_eq!(now["pending"][0]["kind"], "failed");
    let text = system.be.run(&["status"]).done().stdout;
    ensure!(text.contains("be upgrade --continue new"), "{text}");
    ensure!(
        text.contains("in phase merge: it was interrupted, 20"),
        "{text}"
    );
    Ok(())
}
