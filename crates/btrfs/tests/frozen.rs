//! A filesystem that is written all the time, frozen: what is read of its devices afterwards,
//! with the copies over it, is one consistent filesystem with all that was held.

mod common;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use be_btrfs::frozen::{Copier, Device, Wanted};
use be_btrfs::{Mode, TopLevel};
use common::{Loop, run, write};

const LIMIT: Duration = Duration::from_secs(60);

/// Files come, change and go, each with a commit.
fn disturb(dir: &Path, stop: &AtomicBool) {
    for round in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        for number in 0..40 {
            let path = dir.join(format!("moving/{number}"));
            write(path, vec![round as u8; 20_000]);
            let _not_there = fs::remove_file(dir.join(format!("moving/{}", (number + 7) % 40)));
        }
        run(Command::new("sync").arg("-f").arg(dir));
    }
}

/// The content of the files of a directory, without those that came after the hold.
fn content(dir: &Path) -> String {
    let script = "find . -maxdepth 1 -type f -print0 | sort -z | xargs -0 md5sum";
    let out = run(Command::new("sh").args(["-ec", script]).current_dir(dir));
    String::from_utf8(out.stdout).unwrap()
}

/// What a reader of the device sees now, with the copies over it.
fn overlaid(device: &Path, copies: &File, pieces: &[be_btrfs::frozen::Piece], to: &Path) {
    const STEP: u64 = 1 << 20;
    let device = Device::open(device).unwrap();
    let image = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(to)
        .unwrap();
    let size = device.size().unwrap();
    image.set_len(size).unwrap();
    for at in (0..size).step_by(STEP as usize) {
        let bytes = device.read(at, STEP.min(size - at) as usize).unwrap();
        if bytes.iter().any(|byte| *byte != 0) {
            image.write_all_at(&bytes, at).unwrap();
        }
        // Who has read the superblock comes to the trees when all that could be replaced is.
        if at == 0 {
            std::thread::sleep(Duration::from_secs(3));
        }
    }
    for piece in pieces {
        let mut bytes = vec![0; piece.length as usize];
        copies.read_exact_at(&mut bytes, piece.copy).unwrap();
        image.write_all_at(&bytes, piece.at).unwrap();
    }
}

fn frozen_under_load(mkfs: &[&str]) {
    let fs = Loop::with(300, mkfs);
    let dir = fs.mnt.clone();
    let top = TopLevel::open(&dir).unwrap();
    let made = top.create_subvolume(top.fd(), "system".as_ref()).unwrap();
    fs::create_dir(dir.join("moving")).unwrap();
    fs::create_dir(dir.join("system/moving")).unwrap();
    for number in 0..600u32 {
        let bytes = vec![number as u8; 100 + number as usize * 37];
        write(dir.join(format!("system/{number}")), bytes);
    }
    let system = dir.join("system");
    let stop = AtomicBool::new(false);
    let scratch = tempfile::tempdir_in("/var/tmp").unwrap();
    let image = scratch.path().join("image");
    let devices = top.devices().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| disturb(&dir, &stop));
        scope.spawn(|| disturb(&system, &stop));
        let result = std::panic::catch_unwind(|| {
            let held = File::open(&system).unwrap();
            let hold = top
                .snapshot(held.as_fd(), top.fd(), "hold".as_ref(), Mode::ReadOnly)
                .unwrap();
            let wanted = Wanted::from([(5, 0), (made.id, hold.otransid)]);
            let copies = tempfile::tempfile_in("/var/tmp").unwrap();
            let go_on = || false;
            let mut copier = Copier::new(&top, &devices, &copies, 0, &go_on).unwrap();
            let frozen = copier.copy(&wanted, LIMIT).unwrap();
            overlaid(&devices[0], &copies, &frozen.pieces, &image);
        });
        stop.store(true, Ordering::Relaxed);
        result.unwrap();
    });
    // The same filesystem must not be mounted twice.
    let kept: PathBuf = scratch.path().join("kept");
    fs::create_dir(&kept).unwrap();
    run(Command::new("cp")
        .arg("-a")
        .arg(dir.join("hold/."))
        .arg(&kept));
    drop(top);
    drop(fs);
    let before = content(&kept);
    assert!(before.lines().count() >= 600, "{before}");

    run(Command::new("btrfs")
        .args(["check", "--readonly"])
        .arg(&image));
    let other = Loop::of(&image);
    assert!(other.path("system/moving").is_dir());
    for tree in ["system", "hold"] {
        assert_eq!(content(&other.path(tree)), before, "{tree}");
    }
}

#[test]
#[ignore = "needs root and a loop device"]
fn what_is_frozen_stays_whole_under_load() {
    frozen_under_load(&[]);
}

#[test]
#[ignore = "needs root and a loop device"]
fn without_checksums_that_can_be_proven_too() {
    frozen_under_load(&["--checksum", "xxhash", "--metadata", "single"]);
}
