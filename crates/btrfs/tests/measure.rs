//! Times beside those of `btrfs`, printed and not judged:
//! `cargo test --release -p be-btrfs --test measure -- --ignored --nocapture`.

#![allow(clippy::print_stderr)]

mod common;

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use be_btrfs::{Mode, TopLevel};
use common::{Loop, run, write};

/// The median.
fn time(times: usize, mut what: impl FnMut(usize)) -> Duration {
    let mut all: Vec<Duration> = (0..times)
        .map(|i| {
            let start = Instant::now();
            what(i);
            start.elapsed()
        })
        .collect();
    all.sort();
    all[times / 2]
}

fn show(what: &str, ours: Duration, theirs: Duration) {
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    eprintln!("{what}: {ours:?}, btrfs {theirs:?}, ratio {ratio:.2}");
}

#[test]
#[ignore = "needs root and a loop device"]
fn beside_btrfs() {
    let fs_ = Loop::new(1024);
    fs_.subvolume("@");
    for i in 0..200 {
        write(fs_.path(&format!("@/{i}")), vec![b'x'; 10_000]);
    }
    let open = time(50, |_| drop(TopLevel::open(&fs_.path("@")).unwrap()));
    eprintln!("open the top level: {open:?}");
    let top = TopLevel::open(&fs_.mnt).unwrap();
    let from = fs_.fd("@");
    let ours = time(50, |i| {
        let name = format!("ours{i}");
        let from = from.as_fd();
        top.snapshot(from, top.fd(), OsStr::new(&name), Mode::Writable)
            .unwrap();
    });
    let theirs = time(50, |i| {
        let mut btrfs = Command::new("btrfs");
        btrfs.args(["subvolume", "snapshot"]).arg(fs_.path("@"));
        run(btrfs.arg(fs_.path(&format!("theirs{i}"))));
    });
    show("snapshot", ours, theirs);
    for i in 0..899 {
        let name = format!("s{i}");
        top.create_subvolume(top.fd(), OsStr::new(&name)).unwrap();
    }
    assert_eq!(top.tree().unwrap().len(), 1001);
    let ours = time(50, |_| drop(top.tree().unwrap()));
    let theirs = time(50, |_| {
        run(Command::new("btrfs")
            .args(["subvolume", "list"])
            .arg(&fs_.mnt));
    });
    show("list of 1,000", ours, theirs);
    eprintln!("commit: {:?}", time(20, |_| top.commit().unwrap()));
}
