//! What the benchmarks have in common.

use std::collections::HashMap;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xtask::image::Tree;
use xtask::run::{cmd, run};

use crate::system::System;

/// How long these commands take, one after the other.
///
/// # Errors
/// One of them fails.
pub fn timed(commands: &mut [Command]) -> Result<Duration> {
    let start = Instant::now();
    for command in &mut *commands {
        let output = command.output()?;
        ensure!(output.status.success(), "{command:?}: {output:?}");
    }
    Ok(start.elapsed())
}

/// The median.
///
/// # Panics
/// There is none.
#[must_use]
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// In milliseconds.
#[must_use]
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Environments as `be create` makes them, but without their bases and without
/// proving each: a thousand of them would take very long. Called `environment-0` and so on.
///
/// # Errors
/// There is no room.
pub fn environments(system: &System, count: usize) -> Result<()> {
    system.be.run(&["create", "model"]).done();
    let record = fs::read_to_string(system.top("@be/model/be.json"))?;
    let mut record: serde_json::Value = serde_json::from_str(&record)?;
    let fstab = fs::read_to_string(system.env("model", "etc/fstab"))?;
    system.be.run(&["destroy", "-y", "model"]).done();
    let name = |number: usize| format!("environment-{number}");
    for number in 0..count {
        let dir = system.top(&format!("@be/{}", name(number)));
        fs::create_dir(&dir)?;
        let mut snapshot = cmd("btrfs", ["--quiet", "subvolume", "snapshot"]);
        run(snapshot.arg(system.root()).arg(dir.join("root")))?;
        let own = fstab.replace("@be/model/", &format!("@be/{}/", name(number)));
        fs::write(dir.join("root/etc/fstab"), own)?;
    }
    let subvolumes = system.subvolumes()?;
    let uuids: HashMap<&str, &str> = subvolumes
        .iter()
        .filter_map(|line| Some((line.split(' ').next()?, line.rsplit(' ').next()?)))
        .collect();
    for number in 0..count {
        let home = format!("@be/{}", name(number));
        let uuid = uuids.get(&*format!("{home}/root")).context("a snapshot")?;
        record["name"] = name(number).into();
        record["subvolumes"][0]["uuid"] = (*uuid).into();
        let text = serde_json::to_string_pretty(&record)?;
        fs::write(system.top(&home).join("be.json"), text)?;
    }
    system.sync()
}
