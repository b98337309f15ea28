//! Which parts of two files are the same extents.

mod common;

use std::fs::{self, File};
use std::ops::{ControlFlow, Range};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::process::Command;

use be_btrfs::{TopLevel, unshared};
use common::{Loop, run};

const BLOCK: u64 = 4096;

#[test]
#[ignore = "needs root and a loop device"]
fn only_what_was_written_again() {
    let disk = Loop::new(512);
    disk.subvolume("a");
    let noise: Vec<u8> = (0..8 << 20).map(|n: u32| (n ^ n >> 9) as u8).collect();
    fs::write(disk.path("a/x"), &noise).unwrap();
    let top = TopLevel::open(&disk.mnt).unwrap();
    top.sync().unwrap();
    let (a, b) = (disk.path("a"), disk.path("b"));
    run(Command::new("btrfs")
        .args(["subvolume", "snapshot"])
        .args([&a, &b]));
    let ranges = || -> Vec<Range<u64>> {
        top.sync().unwrap();
        let (a, b) = (File::open(a.join("x")), File::open(b.join("x")));
        let (a, b) = (a.unwrap(), b.unwrap());
        let mut found = Vec::new();
        unshared([a.as_fd(), b.as_fd()], 9 << 20, |range| {
            found.push(range);
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        found
    };
    assert_eq!(ranges(), []);
    let file = File::options().write(true).open(b.join("x")).unwrap();
    // The same bytes are another extent; behind its end there is nothing in the one.
    let at = 100 * BLOCK;
    file.write_all_at(&noise[at as usize..][..BLOCK as usize], at)
        .unwrap();
    file.write_all_at(b"more", 2100 * BLOCK).unwrap();
    let expected = [at..at + BLOCK, 2100 * BLOCK..2101 * BLOCK];
    assert_eq!(ranges(), expected);
    // More extents than are read at once.
    for number in (0..1600).step_by(2) {
        file.write_all_at(b"x", number * BLOCK).unwrap();
    }
    let found = ranges();
    assert_eq!(found.len(), 801);
    assert!(found.iter().all(|range| range.end - range.start == BLOCK));
}
