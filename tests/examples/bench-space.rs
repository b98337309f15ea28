//! What `be list --space` costs, as a whole process, beside `btrfs filesystem du -s` of the
//! same environments in the same run. Packages of 50 files each; the running system changes
//! a little between clones, and in each clone some packages are upgraded as Portage does
//! it: a new file, renamed over the old one.
//!
//! `cargo run --release -p be-tests --example bench-space [ENVIRONMENTS [FILES]]`, as root.
#![expect(clippy::print_stdout, reason = "the result of a benchmark")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use be_tests::Seeded;
use be_tests::bench::{median, millis};
use be_tests::system::System;
use xtask::image::Tree;
use xtask::run::{cmd, run};

const SIZE: u64 = 5 << 30;
/// Files of a package.
const FILES: u64 = 50;
/// Packages that an upgrade replaces.
const UPGRADED: u64 = 60;
/// Of the running system, between one clone and the next.
const TOUCHED: u64 = 100;
const RUNS: usize = 15;

fn main() -> Result<()> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let environments = numbers.next().unwrap_or(Ok(50)).context("ENVIRONMENTS")?;
    let files = numbers.next().unwrap_or(Ok(50_000)).context("FILES")?;
    let system = System::adopted_small_of(SIZE)?;
    let mut random = Seeded::new(7);
    let packages = files / FILES;
    for package in 0..packages {
        install(&mut random, system.root(), package)?;
    }
    for number in 0..environments {
        let name = format!("e{number}");
        system.be.run(&["create", &name]).done();
        for _ in 0..UPGRADED {
            let package = random.below(packages);
            install(&mut random, &system.env(&name, ""), package)?;
        }
        for _ in 0..TOUCHED {
            let (package, file) = (random.below(packages), random.below(FILES));
            fs::write(system.root().join(path(package, file)), [8; 5000])?;
        }
    }
    system.sync()?;

    let mut times = Vec::new();
    for _ in 0..=RUNS {
        let start = Instant::now();
        system.be.run(&["list", "--space", "-H"]).done();
        times.push(start.elapsed());
    }
    let first = times.remove(0);
    let be = median(times);
    let plain = {
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let start = Instant::now();
            system.be.run(&["list", "-H"]).done();
            times.push(start.elapsed());
        }
        median(times)
    };
    let roots: Vec<PathBuf> = (0..environments)
        .map(|n| system.env(&format!("e{n}"), ""))
        .collect();
    let start = Instant::now();
    let text = run(cmd("btrfs", ["filesystem", "du", "-s", "--raw"]).args(&roots))?;
    let du = start.elapsed();
    ensure!(text.lines().count() == roots.len() + 1, "{text}");
    println!("{environments} environments of {files} files, {UPGRADED} packages upgraded in each");
    println!(
        "be list --space       {:10.1} ms, the first time {:.1}",
        millis(be),
        millis(first)
    );
    println!("be list               {:10.1} ms", millis(plain));
    println!("btrfs filesystem du -s{:10.1} ms", millis(du));
    println!(
        "ratio                 {:10.1}",
        du.as_secs_f64() / be.as_secs_f64()
    );
    Ok(())
}

/// Where a file of a package is: some of them beside those of others.
fn path(package: u64, file: u64) -> PathBuf {
    let name = format!("file-{package}-{file}");
    match file {
        0..3 => Path::new("usr/bin").join(name),
        3..8 => Path::new("usr/share/man")
            .join(format!("man{}", package % 9))
            .join(name),
        _ => Path::new("usr/lib")
            .join(format!("package-{package}"))
            .join(name),
    }
}

fn install(random: &mut Seeded, root: &Path, package: u64) -> Result<()> {
    for file in 0..FILES {
        let path = root.join(path(package, file));
        let new = path.with_extension("new");
        let dir = path.parent().context("a file is in a directory")?;
        fs::create_dir_all(dir)?;
        // A third is small enough to lie in the metadata.
        let len = if file % 3 == 0 {
            1000
        } else {
            2100 + random.below(12_000)
        };
        fs::write(&new, vec![random.below(256) as u8; len as usize])?;
        fs::rename(&new, &path)?;
    }
    Ok(())
}
