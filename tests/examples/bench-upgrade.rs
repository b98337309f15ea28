//! What `be upgrade` costs beside the same emerge in the same chroot by hand: CPU time of all
//! processes, for twenty packages that are built. Both keep what they build as binary packages;
//! what is left is to preview, to fetch, to follow, and the gates.
//!
//! `cargo run --release -p be-tests --example bench-upgrade [SECONDS]`, as root: so many seconds
//! of CPU time does each package build for (10).
#![expect(clippy::print_stdout, reason = "the result of a benchmark")]

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use be_tests::overlay::Overlay;
use be_tests::system::System;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use xtask::image::Tree;

const PACKAGES: usize = 20;

/// A package that only uses the processor.
const PHASES: &str = "src_compile() { python3 -c \"import time\nwhile time.process_time() < \
    SECONDS: pass\"; }\nsrc_install() { newbin - ${PN} <<<\"#!/bin/sh\"; }\n";

fn main() -> Result<()> {
    let seconds = match std::env::args().nth(1) {
        Some(text) => text.parse().context("SECONDS is a number")?,
        None => 10.0,
    };
    let system = System::adopted_lab()?;
    let names = packages(&system, seconds)?;
    // The base of both: what is read for the first time, and Python's compiled files.
    system.write(
        "/etc/be/be.toml",
        "[upgrade]\nsync = false\npolite = false\n",
    )?;
    let mut emerge = vec!["exec", "by-hand", "--", "emerge", "--quiet-build=y"];
    emerge.push("--buildpkg=y");
    emerge.extend(names.iter().map(String::as_str));
    let upgrade = ["upgrade", "--no-activate", "upgraded", "--"].into_iter();
    let upgrade: Vec<_> = upgrade.chain(names.iter().map(String::as_str)).collect();
    system.be.run(&["create", "by-hand"]).done();
    system
        .be
        .run(&["exec", "by-hand", "--", "emerge", "--pretend", "@world"])
        .done();
    let by_hand = cpu(&mut system.be.command(&emerge))?;
    let upgraded = cpu(&mut system.be.command(&upgrade))?;
    let (be, hand) = (upgraded.as_secs_f64(), by_hand.as_secs_f64());
    println!("emerge by hand   {hand:8.2} s of CPU time for {PACKAGES} packages");
    println!(
        "be upgrade       {be:8.2} s, {:.2} s more, ratio {:.3}",
        be - hand,
        be / hand
    );
    Ok(())
}

/// Packages that build for so long, in a repository of their own, and their names.
fn packages(system: &System, seconds: f64) -> Result<Vec<String>> {
    let overlay = Overlay::new(system)?;
    let phases = PHASES.replace("SECONDS", &seconds.to_string());
    let mut names = Vec::new();
    for number in 1..=PACKAGES {
        let name = format!("work{number}");
        overlay.ebuild(&name, "1", &phases)?;
        names.push(format!("app-misc/{name}"));
    }
    Ok(names)
}

/// The CPU time of a command and all that it started and waited for.
fn cpu(command: &mut Command) -> Result<Duration> {
    let used = || -> Result<i64> {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        Ok((usage.user_time() + usage.system_time()).num_microseconds())
    };
    let before = used()?;
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {output:?}");
    Ok(Duration::from_micros((used()? - before).unsigned_abs()))
}
