//! What it costs `be carry` to find what changed on the running system, as a whole process,
//! beside `rsync --dry-run` and `btrfs send --no-data` of the same trees; what it costs to carry
//! it; and how much memory it takes where as much changed among few files and among many.
//!
//! `cargo run --release -p be-tests --example bench-carry [FILES...]`, as root: the changes are
//! among so many files (10000 200000 1000000).
#![expect(clippy::print_stdout, reason = "the result of a benchmark")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use be_tests::be::Running;
use be_tests::bench::{median, millis};
use be_tests::system::System;
use xtask::image::Tree;
use xtask::run::{cmd, run};

const RUNS: usize = 7;
/// Files in one directory.
const IN_ONE: usize = 200;
/// So many files have changed where the memory is looked at.
const CHANGED: usize = 200;
/// How many files the peers are measured with.
const BESIDE: usize = 200_000;
/// Bytes of the file system for each file: small ones lie in the metadata, which is kept twice.
const EACH: u64 = 4 << 10;

fn main() -> Result<()> {
    let files = std::env::args().skip(1).map(|text| text.parse());
    let mut files: Vec<usize> = files.collect::<Result<_, _>>().context("FILES: numbers")?;
    if files.is_empty() {
        files = vec![10_000, BESIDE, 1_000_000];
    }
    for count in files {
        measure(count)?;
    }
    Ok(())
}

fn measure(files: usize) -> Result<()> {
    let system = System::adopted_small_of((1 << 30) + files as u64 * EACH)?;
    for number in 0..files {
        let path = system.path(&place(number));
        if number % IN_ONE == 0 {
            fs::create_dir_all(path.parent().context("no directory")?)?;
        }
        fs::write(path, format!("{number}\n"))?;
    }
    system.sync()?;
    // What was written just before the clone is read: the time of a change has its limits.
    std::thread::sleep(Duration::from_secs(3));
    system.be.run(&["create", "new"]).done();
    println!("{files} files:");
    change(&system, files, 0..CHANGED, CHANGED)?;
    survey(&system, CHANGED)?;
    if files == BESIDE {
        beside(&system, files / 1000)?;
    }
    let percent = files / 100;
    if percent > CHANGED {
        change(&system, files, CHANGED..percent, percent)?;
        survey(&system, percent)?;
    }
    if files == BESIDE {
        beside(&system, percent)?;
    }
    let (time, peak) = peak(&mut system.be.command(&["carry", "new", "--apply"]))?;
    let each = time.as_secs_f64() * 1e6 / percent.max(CHANGED) as f64;
    println!(
        "  be carry --apply        {:9.1} ms {:6.1} MB, {each:.0} us for each change",
        millis(time),
        megabytes(peak)
    );
    Ok(())
}

fn place(number: usize) -> String {
    format!("srv/{}/{number}", number / IN_ONE)
}

/// Changes so many files, spread evenly, of every kind.
fn change(system: &System, files: usize, numbers: std::ops::Range<usize>, of: usize) -> Result<()> {
    for number in numbers {
        let at = system.path(&place(number * (files / of) % files));
        // A part of them changed before.
        if !at.exists() {
            continue;
        }
        match number % 8 {
            0 => fs::remove_file(&at)?,
            1 => fs::rename(&at, at.with_extension("renamed"))?,
            2 => fs::set_permissions(&at, Permissions::from_mode(0o600))?,
            3 => fs::write(at.with_extension("new"), "new")?,
            _ => fs::write(&at, "changed\n")?,
        }
    }
    system.sync()
}

fn survey(system: &System, changes: usize) -> Result<()> {
    let mut carry = system.be.command(&["carry", "new"]);
    let (_, peak) = peak(&mut carry)?;
    let time = timed(&mut carry)?;
    println!(
        "  be carry, {changes:6} changes {:9.1} ms {:6.1} MB",
        millis(time),
        megabytes(peak)
    );
    Ok(())
}

/// Interleaved, so that all see the same machine; the first round warms up.
fn beside(system: &System, changes: usize) -> Result<()> {
    let now = system.top("now");
    let mut snapshot = cmd("btrfs", ["--quiet", "subvolume", "snapshot", "-r"]);
    run(snapshot.arg(system.root()).arg(&now))?;
    system.sync()?;
    let base = system.top("@be/new/base/root");
    let trailing = |path: &Path| -> PathBuf { path.join("") };
    let mut carry = system.be.command(&["carry", "new"]);
    let mut send = cmd("btrfs", ["--quiet", "send", "--no-data", "-p"]);
    send.arg(&base).arg(&now);
    let mut rsync = cmd("rsync", ["-aHAXn", "--delete", "--itemize-changes"]);
    rsync.args([trailing(&now), trailing(&base)]);
    let mut times = [const { Vec::new() }; 3];
    for round in 0..=RUNS {
        for (list, command) in times.iter_mut().zip([&mut carry, &mut send, &mut rsync]) {
            let time = timed(command)?;
            if round > 0 {
                list.push(time);
            }
        }
    }
    let [be, send, rsync] = times.map(|times| millis(median(times)));
    println!("  {changes} changes, medians of {RUNS} runs each:");
    println!("    be carry              {be:9.1} ms");
    for (what, time) in [("btrfs send --no-data", send), ("rsync --dry-run", rsync)] {
        println!(
            "    {what:21} {time:9.1} ms, {:.2} times as long",
            time / be
        );
    }
    run(cmd("btrfs", ["--quiet", "subvolume", "delete"]).arg(&now))?;
    Ok(())
}

fn timed(command: &mut Command) -> Result<Duration> {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let status = command.status()?;
    let time = start.elapsed();
    ensure!(status.success(), "{command:?}: {status}");
    Ok(time)
}

/// How long it takes, and the most memory that it holds, in kB.
fn peak(command: &mut Command) -> Result<(Duration, u64)> {
    // Nobody reads what it prints meanwhile.
    let mut silent = cmd("sh", ["-c", "exec \"$0\" \"$@\" > /dev/null"]);
    silent.arg(command.get_program()).args(command.get_args());
    let start = Instant::now();
    let mut running = Running::of(&mut silent)?;
    let (outcome, peak) = running.end_with_peak()?;
    let time = start.elapsed();
    ensure!(outcome.code == 0, "{}", outcome.stderr);
    Ok((time, peak))
}

fn megabytes(kilobytes: u64) -> f64 {
    kilobytes as f64 / 1024.0
}
