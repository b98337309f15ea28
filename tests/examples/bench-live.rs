//! How long the running system is neither old nor new: with `be upgrade --live` beside the same
//! emerge in it, for twenty packages that take their time to be built.
//!
//! `cargo run --release -p be-tests --example bench-live [SECONDS]`, as root: so many seconds
//! does each package build for (6).
#![expect(clippy::print_stdout, reason = "the result of a benchmark")]

use std::time::Instant;

use anyhow::{Context, Result};
use be_tests::overlay::Overlay;
use be_tests::system::System;
use xtask::image::Tree;

const PACKAGES: usize = 20;

const PHASES: &str = "src_compile() { sleep SECONDS; }\n\
    src_install() { newbin - ${PN} <<<\"#!/bin/sh\"; }\n";

fn main() -> Result<()> {
    let seconds: f64 = match std::env::args().nth(1) {
        Some(text) => text.parse().context("SECONDS is a number")?,
        None => 6.0,
    };
    let in_place = system(seconds)?;
    let start = Instant::now();
    let emerge = ["emerge", "--quiet", "--update", "--deep", "@world"];
    in_place.chroot().run(&emerge)?;
    let in_place = start.elapsed().as_secs_f64();

    let system = system(seconds)?;
    let start = Instant::now();
    let done = system.be.run(&["--json", "upgrade", "--live"]).done();
    let all = start.elapsed().as_secs_f64();
    let live = &done.json()["live"];
    let window = live["seconds"].as_f64().context("no window")?;
    println!("{} packages, built for {seconds} s each", live["merged"]);
    println!("emerge in place        {in_place:8.1} s, all of it inconsistent");
    println!("be upgrade --live      {all:8.1} s");
    println!(
        "  of it inconsistent   {window:8.1} s, ratio {:.3}",
        window / in_place
    );
    Ok(())
}

/// A system in which the first versions are installed, and the second can be had.
fn system(seconds: f64) -> Result<System> {
    let system = System::adopted_lab()?;
    let config = "[upgrade]\nsync = false\npolite = false\n";
    system.write("/etc/be/be.toml", config)?;
    let overlay = Overlay::new(&system)?;
    let names: Vec<String> = (1..=PACKAGES).map(|n| format!("work{n}")).collect();
    for name in &names {
        overlay.ebuild(name, "1", &PHASES.replace("SECONDS", "0"))?;
    }
    let packages: Vec<String> = names.iter().map(|n| format!("app-misc/{n}")).collect();
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    system.set_world(&packages)?;
    let emerge = ["emerge", "--quiet", "--oneshot"];
    system.chroot().run(&[&emerge, &packages[..]].concat())?;
    for name in &names {
        let phases = PHASES.replace("SECONDS", &seconds.to_string());
        overlay.ebuild(name, "2", &phases)?;
    }
    Ok(system)
}
