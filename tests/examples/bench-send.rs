//! What it costs to send an environment and receive it, with both looking at all that was
//! written, beside `btrfs send | btrfs receive` of the same snapshots: all of it, and what one
//! in a hundred files makes.
//!
//! `cargo run --release -p be-tests --example bench-send [FILES]`, as root: so many files are in
//! the environment (50000), of four kilobytes each, and some large ones.
#![expect(clippy::print_stdout, reason = "the result of a benchmark")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use be_tests::bench::{median, millis};
use be_tests::system::System;
use xtask::run::{cmd, run};

const RUNS: usize = 5;
/// Files in one directory.
const IN_ONE: usize = 200;
/// Bytes of a file: half of it is random.
const SIZE: usize = 4 << 10;
const LARGE: usize = 20;
const LARGE_SIZE: usize = 10 << 20;

fn main() -> Result<()> {
    let files: usize = match std::env::args().nth(1) {
        Some(text) => text.parse().context("FILES is a number")?,
        None => 50_000,
    };
    let bytes = (files * SIZE + LARGE * LARGE_SIZE) as u64;
    let here = System::adopted_small_of((1 << 30) + 3 * bytes)?;
    let there = System::adopted_small_of((2 << 30) + 5 * bytes)?;
    let mut random = fs::File::open("/dev/urandom")?;
    let mut content = vec![0; LARGE_SIZE];
    let mut write = |path: &Path, size: usize| -> Result<()> {
        std::io::Read::read_exact(&mut random, &mut content[..size / 2])?;
        content[size / 2..size].fill(b'x');
        Ok(fs::write(path, &content[..size])?)
    };
    here.be.run(&["create", "x"]).done();
    for number in 0..files {
        let path = here.env("x", &place(number));
        if number % IN_ONE == 0 {
            fs::create_dir_all(path.parent().context("no directory")?)?;
        }
        write(&path, SIZE)?;
    }
    for number in 0..LARGE {
        write(&here.env("x", &format!("srv/large{number}")), LARGE_SIZE)?;
    }
    // What was sent stays as it is, so that each run sends the same.
    take(&here, &["x"])?;
    println!("{files} files, {} MB:", bytes >> 20);
    let kept = |name: &str| here.top(&format!("@be/{name}/snap/sent/root"));
    beside(&here, &there, &["x"], (None, &kept("x")))?;

    let mut sent = send(&here, &["x"])?;
    ensure!(receive(&there, &mut sent, "x")?, "x cannot be received");
    here.be.run(&["create", "-e", "x", "y"]).done();
    for number in (0..files).step_by(100) {
        write(&here.env("y", &place(number)), SIZE)?;
    }
    println!("{} of them changed:", files.div_ceil(100));
    let since = ["y", "--since", "x"];
    take(&here, &since)?;
    beside(&here, &there, &since, (Some(&kept("x")), &kept("y")))
}

/// Take the snapshot that is sent.
fn take(here: &System, args: &[&str]) -> Result<()> {
    let file = here.dir().join("sent.be");
    let to_file = ["-o", file.to_str().context("it is text")?];
    here.be
        .run(&[&["send"][..], args, &to_file].concat())
        .done();
    Ok(fs::remove_file(file)?)
}

fn place(number: usize) -> String {
    format!("srv/d{}/f{number}", number / IN_ONE)
}

/// The medians of the two, in turns.
fn beside(
    here: &System,
    there: &System,
    args: &[&str],
    (parent, snapshot): (Option<&Path>, &Path),
) -> Result<()> {
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    let to = there.top("peer");
    fs::create_dir_all(&to)?;
    if let Some(parent) = parent {
        // It has to have what that is relative to.
        pipe(&to, None, parent)?;
        rename(&to, "parent")?;
    }
    for run in 0..RUNS {
        settle(here, there)?;
        let start = Instant::now();
        let mut sent = send(here, args)?;
        ensure!(
            receive(there, &mut sent, "copy")?,
            "run {run} was not received"
        );
        there.sync()?;
        ours.push(start.elapsed());
        there.be.run(&["destroy", "-y", "copy"]).done();
        settle(here, there)?;
        let start = Instant::now();
        pipe(&to, parent, snapshot)?;
        there.sync()?;
        peers.push(start.elapsed());
        delete(&to.join("root"))?;
    }
    if parent.is_some() {
        delete(&to.join("parent"))?;
    }
    let (ours, peers) = (median(ours), median(peers));
    let ratio = ours.as_secs_f64() / peers.as_secs_f64();
    println!("  be send | be receive         {:9.1} ms", millis(ours));
    println!(
        "  btrfs send | btrfs receive   {:9.1} ms, ratio {ratio:.2}",
        millis(peers)
    );
    Ok(())
}

/// What was written and deleted before is not to be paid for by the next one.
fn settle(here: &System, there: &System) -> Result<()> {
    here.sync()?;
    there.sync()?;
    std::thread::sleep(Duration::from_millis(500));
    Ok(())
}

fn send(here: &System, args: &[&str]) -> Result<std::process::Child> {
    let mut command = here.be.command(&[&["send"][..], args].concat());
    let quiet = command.stdout(Stdio::piped()).stderr(Stdio::null());
    quiet.spawn().context("start be send")
}

fn receive(there: &System, sent: &mut std::process::Child, name: &str) -> Result<bool> {
    let stream = sent.stdout.take().context("it is piped")?;
    let mut command = there.be.command(&["receive", name]);
    let quiet = command
        .stdin(stream)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let received = quiet.status().context("start be receive")?;
    Ok(sent.wait()?.success() && received.success())
}

/// `btrfs send | btrfs receive`
fn pipe(to: &Path, parent: Option<&Path>, snapshot: &Path) -> Result<()> {
    let mut command = Command::new("btrfs");
    command.args(["--quiet", "send"]);
    if let Some(parent) = parent {
        command.arg("-p").arg(parent);
    }
    let quiet = command
        .arg(snapshot)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut sent = quiet.spawn().context("start btrfs send")?;
    let stream = sent.stdout.take().context("it is piped")?;
    let mut command = cmd("btrfs", ["--quiet", "receive"]);
    let received = command.arg(to).stdin(stream).status()?;
    ensure!(
        sent.wait()?.success() && received.success(),
        "btrfs has failed"
    );
    Ok(())
}

fn rename(to: &Path, name: &str) -> Result<()> {
    Ok(fs::rename(to.join("root"), to.join(name))?)
}

fn delete(path: &Path) -> Result<()> {
    run(cmd(
        "btrfs",
        ["--quiet", "subvolume", "delete", "--commit-after"],
    )
    .arg(path))?;
    Ok(())
}
