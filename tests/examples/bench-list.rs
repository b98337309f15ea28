//! What `be list` costs with very many environments, as a whole process, beside
//! `btrfs subvolume list` of the same filesystem in the same run.
//!
//! `cargo run --release -p be-tests --example bench-list [ENVIRONMENTS]`, as root.
#![expect(clippy::print_stdout, reason = "the result of a benchmark")]

use anyhow::{Context, Result, ensure};
use be_tests::bench::{environments, median, millis, timed};
use be_tests::system::System;
use xtask::image::Tree;
use xtask::run::{cmd, run};

const SIZE: u64 = 1 << 30;
const RUNS: usize = 31;

fn main() -> Result<()> {
    let count = match std::env::args().nth(1) {
        Some(text) => text.parse().context("ENVIRONMENTS is a number")?,
        None => 1000,
    };
    let system = System::adopted_small_of(SIZE)?;
    environments(&system, count)?;
    // As every command that changes something leaves it.
    run(&mut system.be.command(&["menu"]))?;
    let mut be = Vec::new();
    let mut btrfs = Vec::new();
    let listed = run(&mut system.be.command(&["list", "-H"]))?;
    ensure!(listed.lines().count() == count + 1, "{listed}");
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
    println!("medians of {RUNS} runs each with {count} environments");
    Ok(())
}
