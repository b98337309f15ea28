//! A btrfs on a loop device, and its end.

#![allow(dead_code)] // each test file uses a part

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;

/// A fresh btrfs, mounted at `mnt` by its top level. Unmounted, detached and
/// removed on drop.
pub struct Loop {
    pub mnt: PathBuf,
    dir: TempDir,
}

impl Loop {
    pub fn new(mib: u64) -> Loop {
        Loop::with(mib, &[])
    }

    pub fn with(mib: u64, mkfs: &[&str]) -> Loop {
        let dir = TempDir::with_prefix_in("be-btrfs-", "/dev/shm").unwrap();
        let image = dir.path().join("image");
        let mnt = dir.path().join("mnt");
        fs::create_dir(&mnt).unwrap();
        fs::File::create(&image)
            .unwrap()
            .set_len(mib << 20)
            .unwrap();
        run(Command::new("mkfs.btrfs").arg("-q").args(mkfs).arg(&image));
        let this = Loop { mnt, dir };
        this.mount(&image);
        this
    }

    /// The one in an image that is there.
    pub fn of(image: &Path) -> Loop {
        let dir = TempDir::with_prefix_in("be-btrfs-", "/dev/shm").unwrap();
        let mnt = dir.path().join("mnt");
        fs::create_dir(&mnt).unwrap();
        let this = Loop { mnt, dir };
        this.mount(image);
        this
    }

    fn mount(&self, image: &Path) {
        // The loop device of a mount goes away with it.
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(image)
            .arg(&self.mnt));
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.mnt.join(path)
    }

    pub fn device(&self) -> PathBuf {
        let out = run(Command::new("findmnt")
            .args(["-nvo", "SOURCE"])
            .arg(&self.mnt));
        PathBuf::from(String::from_utf8(out.stdout).unwrap().trim_end())
    }

    /// An open directory of it.
    pub fn fd(&self, path: &str) -> OwnedFd {
        fs::File::open(self.path(path)).unwrap().into()
    }

    pub fn btrfs(&self, args: &[&str], path: impl AsRef<OsStr>) -> Vec<u8> {
        run(Command::new("btrfs").args(args).arg(path)).stdout
    }

    pub fn subvolume(&self, path: &str) {
        self.btrfs(&["subvolume", "create"], self.path(path));
    }

    pub fn remount(&self, options: &str) {
        run(Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(&self.mnt));
    }

    /// The rows of mountinfo with its device, wherever mounted: those of the
    /// tests beside this one come and go.
    pub fn mount_rows(&self) -> Vec<String> {
        let rows = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let source = format!(" - btrfs {} ", self.device().display());
        let rows = rows.lines().filter(|r| r.contains(&source));
        rows.map(str::to_owned).collect()
    }

    /// Its row in mountinfo.
    pub fn mount_row(&self) -> String {
        let rows = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mnt = self.mnt.to_str().unwrap();
        let row = rows.lines().find(|r| r.split(' ').nth(4) == Some(mnt));
        row.unwrap().to_owned()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Not lazily: what still holds it is a leak that the test has to show.
        // Again for a while: a test beside this one may just have forked, and
        // its child has all descriptors until it executes its command.
        let unmounted = (0..50).any(|_| {
            let done = Command::new("umount").arg("-q").arg(&self.mnt).status();
            done.is_ok_and(|s| s.success()) || {
                std::thread::sleep(Duration::from_millis(20));
                false
            }
        });
        assert!(
            unmounted || std::thread::panicking(),
            "cannot unmount {}",
            self.mnt.display()
        );
    }
}

/// Runs a command that has to succeed.
pub fn run(command: &mut Command) -> Output {
    let out = command.output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {text}");
    out
}

pub fn write(path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
    fs::write(path, content).unwrap();
}
