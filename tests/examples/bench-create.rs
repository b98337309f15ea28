//! What `be create` costs, as a whole process, beside `btrfs subvolume snapshot` and a
//! sync on the same image: the snapshot alone, and the two snapshots that an environment
//! consists of (its base, and its root cloned from that). Every snapshot is a commit.
//!
//! `cargo run --release -p be-tests --example bench-create [RUNS]`, as root.
#![expect(clippy::print_stdout, reason = "the result of a benchmark")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use be_tests::bench::{median, millis, timed};
use be_tests::system::System;
use xtask::image::Tree;
use xtask::run::{cmd, run};

fn main() -> Result<()> {
    let runs = match std::env::args().nth(1) {
        Some(text) => text.parse().context("RUNS is a number")?,
        None => 30,
    };
    let system = System::adopted_lab()?;
    let (mut be, mut one, mut two) = (Vec::new(), Vec::new(), Vec::new());
    // Interleaved, so that both see the same machine; the first round warms up.
    for round in 0..=runs {
        let times = (
            with_be(&system)?,
            by_hand(&system, &["one"])?,
            by_hand(&system, &["base", "two"])?,
        );
        if round > 0 {
            be.push(times.0);
            one.push(times.1);
            two.push(times.2);
        }
    }
    let be = millis(median(be));
    println!("be create              {be:8.2} ms");
    for (what, times) in [("snapshot and sync", one), ("two snapshots and sync", two)] {
        let time = millis(median(times));
        println!("{what:22} {time:8.2} ms, ratio {:.2}", be / time);
    }
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

/// Snapshots, each of the one before, and a sync.
fn by_hand(system: &System, names: &[&str]) -> Result<Duration> {
    let mut from = system.root().to_owned();
    let mut commands = Vec::new();
    for name in names {
        let target = system.top(name);
        let mut snapshot = cmd("btrfs", ["subvolume", "snapshot"]);
        snapshot.arg(&from).arg(&target);
        commands.push(snapshot);
        from = target;
    }
    let mut sync = cmd("btrfs", ["filesystem", "sync"]);
    sync.arg(system.root());
    commands.push(sync);
    let time = timed(&mut commands)?;
    for name in names {
        run(cmd("btrfs", ["subvolume", "delete"]).arg(system.top(name)))?;
    }
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
