//! What `be create` costs, as a whole process, beside the bare minimum: `btrfs
//! subvolume snapshot` and a sync, on the same image.
//!
//! `cargo run --release -p be-tests --example bench-create [RUNS]`, as root.
#![expect(clippy::print_stdout, reason = "the result of a benchmark")]

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use be_tests::system::System;
use xtask::image::Tree;
use xtask::run::{cmd, run};

fn main() -> Result<()> {
    let runs = match std::env::args().nth(1) {
        Some(text) => text.parse().context("RUNS is a number")?,
        None => 30,
    };
    let system = System::adopted_lab()?;
    let (mut be, mut raw) = (Vec::new(), Vec::new());
    // Interleaved, so that both see the same machine; the first round warms up.
    for round in 0..=runs {
        let (a, b) = (with_be(&system)?, by_hand(&system)?);
        if round > 0 {
            be.push(a);
            raw.push(b);
        }
    }
    let (be, raw) = (median(be), median(raw));
    println!("be create           {:8.2} ms", millis(be));
    println!("snapshot and sync   {:8.2} ms", millis(raw));
    println!(
        "ratio               {:8.2}",
        be.as_secs_f64() / raw.as_secs_f64()
    );
    println!(
        "medians of {runs} runs each of {}",
        system.be.program().display()
    );
    Ok(())
}

fn with_be(system: &System) -> Result<Duration> {
    let time = timed(&mut [system.be.command(&["create", "bench"])])?;
    system.be.run(&["destroy", "-y", "bench"]).done();
    settle(system)?;
    Ok(time)
}

fn by_hand(system: &System) -> Result<Duration> {
    let target = system.top("bench");
    let mut snapshot = cmd("btrfs", ["subvolume", "snapshot"]);
    snapshot.arg(system.root()).arg(&target);
    let mut sync = cmd("btrfs", ["filesystem", "sync"]);
    sync.arg(system.root());
    let time = timed(&mut [snapshot, sync])?;
    run(cmd("btrfs", ["subvolume", "delete"]).arg(&target))?;
    settle(system)?;
    Ok(time)
}

/// Deleted subvolumes are cleaned up later: not while something is measured.
/// `btrfs subvolume sync` would wait for the next regular commit.
fn settle(system: &System) -> Result<()> {
    let start = Instant::now();
    loop {
        system.sync()?;
        let deleted = run(cmd("btrfs", ["subvolume", "list", "-d"]).arg(system.top("")))?;
        if deleted.is_empty() || start.elapsed() > Duration::from_secs(2) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn timed(commands: &mut [Command]) -> Result<Duration> {
    let start = Instant::now();
    for command in &mut *commands {
        let output = command.output()?;
        ensure!(output.status.success(), "{command:?}: {output:?}");
    }
    Ok(start.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
