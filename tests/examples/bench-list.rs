//! What `be list` costs with very many environments, as a whole process, beside
//! `btrfs subvolume list` of the same filesystem in the same run.
//!
//! `cargo run --release -p be-tests --example bench-list [ENVIRONMENTS]`, as root.
#![expect(clippy::print_stdout, reason = "the result of a benchmark")]

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use be_tests::bench::{median, millis, timed};
use be_tests::system::System;
use xtask::image::Tree;
use xtask::run::{cmd, run};

const SIZE: u64 = 1 << 30;
const RUNS: usize = 31;

fn main() -> Result<()> {
    let environments = match std::env::args().nth(1) {
        Some(text) => text.parse().context("ENVIRONMENTS is a number")?,
        None => 1000,
    };
    let system = System::adopted_small_of(SIZE)?;
    make(&system, environments)?;
    // As every command that changes something leaves it.
    run(&mut system.be.command(&["menu"]))?;
    let mut be = Vec::new();
    let mut btrfs = Vec::new();
    let listed = run(&mut system.be.command(&["list", "-H"]))?;
    ensure!(listed.lines().count() == environments + 1, "{listed}");
    // Interleaved, so that both see the same machine; the first round warms up.
    for round in 0..=RUNS {
        let mut list = cmd("btrfs", ["subvolume", "list"]);
        list.arg(system.root());
        let times = (
            timed(&mut [system.be.command(&["list", "-H"])])?,
            timed(&mut [list])?,
        );
        if round > 0 {
            be.push(times.0);
            btrfs.push(times.1);
        }
    }
    let (be, btrfs) = (millis(median(be)), millis(median(btrfs)));
    println!("be list               {be:8.2} ms");
    println!(
        "btrfs subvolume list  {btrfs:8.2} ms, ratio {:.2}",
        be / btrfs
    );
    println!("medians of {RUNS} runs each with {environments} environments");
    Ok(())
}

/// Environments as `be create` makes them, but without their bases and without
/// proving each: a thousand of them would take very long.
fn make(system: &System, count: usize) -> Result<()> {
    system.be.run(&["create", "model"]).done();
    let record = fs::read_to_string(system.top("@be/model/be.json"))?;
    let mut record: serde_json::Value = serde_json::from_str(&record)?;
    system.be.run(&["destroy", "-y", "model"]).done();
    let name = |number: usize| format!("environment-{number}");
    for number in 0..count {
        let dir = system.top(&format!("@be/{}", name(number)));
        fs::create_dir(&dir)?;
        let mut snapshot = cmd("btrfs", ["--quiet", "subvolume", "snapshot"]);
        run(snapshot.arg(system.root()).arg(dir.join("root")))?;
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
