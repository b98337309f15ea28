//! What it costs to write the menu of very many environments, as a whole process, beside one
//! `grub-mkconfig` of the same system in the same run; with few packages in all of them, and
//! with many.
//!
//! `cargo run --release -p be-tests --example bench-menu [ENVIRONMENTS]`, as root.
#![expect(clippy::print_stdout, reason = "the result of a benchmark")]

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use be_tests::bench::{environments, median, millis, timed};
use be_tests::system::System;
use xtask::image::Tree;

const RUNS: usize = 15;
const FEW: usize = 10;
const MANY: usize = 2000;
/// As many as a desktop has categories.
const CATEGORIES: usize = 100;

struct Times {
    described: Duration,
    written: Duration,
    anew: Duration,
    mkconfig: Duration,
}

fn main() -> Result<()> {
    let count = match std::env::args().nth(1) {
        Some(text) => text.parse().context("ENVIRONMENTS is a number")?,
        None => 200,
    };
    let few = measure(count, FEW)?;
    let many = measure(count, MANY)?;
    println!("{:34} {FEW:>8} {MANY:>8} packages in each", "");
    for (what, time) in [
        (
            "menu written, nothing changed",
            (|t| t.described) as fn(&Times) -> Duration,
        ),
        ("menu written, one system changed", |t| t.written),
        ("be menu, all proven anew", |t| t.anew),
        ("grub-mkconfig", |t| t.mkconfig),
    ] {
        let (few, many) = (millis(time(&few)), millis(time(&many)));
        println!("{what:34} {few:8.2} {many:8.2} ms, ratio {:.2}", many / few);
    }
    for (packages, t) in [(FEW, &few), (MANY, &many)] {
        let ratio = |time: Duration| millis(time) / millis(t.mkconfig);
        println!(
            "beside grub-mkconfig, {packages} packages: {:.3}, {:.3}, {:.3}",
            ratio(t.described),
            ratio(t.written),
            ratio(t.anew)
        );
    }
    println!("medians of {RUNS} runs each with {count} environments");
    Ok(())
}

fn measure(count: usize, packages: usize) -> Result<Times> {
    let system = System::adopted_lab()?;
    let database = system.path("/var/db/pkg");
    for number in 0..packages {
        let category = format!("bench-{}", number % CATEGORIES.min(packages));
        fs::create_dir_all(database.join(category).join(format!("package-{number}")))?;
    }
    system.sync()?;
    environments(&system, count)?;
    system.be.run(&["menu"]).done();
    let menu = system.menu()?;
    let ours = menu.lines().filter(|line| line.starts_with("menuentry "));
    ensure!(ours.count() == count + 1, "{menu}");
    let (mut described, mut written, mut anew, mut mkconfig) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // Interleaved, so that all see the same machine; the first round warms up.
    for round in 0..=RUNS {
        let text = format!("round {round}");
        let describe = || system.be.command(&["describe", "environment-0", &text]);
        let first = timed(&mut [describe()])?;
        fs::write(system.path("/root/changed"), &text)?;
        system.sync()?;
        let again = format!("changed {round}");
        let describe = || system.be.command(&["describe", "environment-0", &again]);
        let second = timed(&mut [describe()])?;
        let third = timed(&mut [system.be.command(&["menu"])])?;
        let fourth = grub_mkconfig(&system)?;
        if round > 0 {
            described.push(first);
            written.push(second);
            anew.push(third);
            mkconfig.push(fourth);
        }
    }
    Ok(Times {
        described: median(described),
        written: median(written),
        anew: median(anew),
        mkconfig: median(mkconfig),
    })
}

/// Timed in the chroot: entering it is no part of the work.
fn grub_mkconfig(system: &System) -> Result<Duration> {
    const TIMED: &str = "TIMEFORMAT=%R; { time grub-mkconfig -o /tmp/grub.cfg 2>/tmp/log; } 2>&1 && rm /tmp/grub.cfg";
    let output = system.chroot().run(&["bash", "-c", TIMED])?;
    let seconds: f64 = output
        .trim()
        .parse()
        .with_context(|| format!("not a time: {output}"))?;
    Ok(Duration::from_secs_f64(seconds))
}
