//! Disks whose power can be cut at any moment.
//!
//! A disk is a file on a btrfs, and a cut is a clone of that file: the kernel lets no write
//! pass while it makes one, so that it holds what the disk held at that moment.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::ioctl_ficlone;
use xtask::loopdev::{Loop, Mount};
use xtask::run::{cmd, run};
use xtask::temp;

use crate::be::Be;
use crate::system::System;

/// Disks that can be cloned.
#[derive(Debug)]
pub struct Disks {
    _outer: Mount,
    _device: Loop,
    dir: temp::Dir,
}

impl Disks {
    /// With one of them, called `base`: that of a system with its root in `@`.
    ///
    /// # Errors
    /// There is no permission or no room.
    pub fn new(system: System) -> Result<Self> {
        let dir = temp::dir(3 << 30)?;
        let file = dir.path().join("outer.img");
        File::create_new(&file)?.set_len(12 << 30)?;
        run(cmd("mkfs.btrfs", ["-q", "-m", "single"]).arg(&file))?;
        let device = Loop::attach(&file)?;
        for name in ["outer", "root", "top"] {
            fs::create_dir(dir.path().join(name))?;
        }
        let outer = Mount::new(device.node(), &dir.path().join("outer"), "btrfs", "")?;
        let this = Self {
            _outer: outer,
            _device: device,
            dir,
        };
        run(cmd("sync", ["-f"]).arg(system.dir().join("top")))?;
        let from = system.dir().join("disk.img");
        run(cmd("cp", ["--sparse=always"])
            .arg(from)
            .arg(this.file("base")))?;
        Ok(this)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("outer").join(name)
    }

    /// Clone a disk, which may be in use.
    ///
    /// # Errors
    /// It cannot be cloned.
    pub fn clone(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (
            File::open(self.file(from))?,
            File::create_new(self.file(to))?,
        );
        ioctl_ficlone(to, from).context("clone a disk")
    }

    /// Throw a disk away.
    ///
    /// # Errors
    /// It is not there.
    pub fn remove(&self, name: &str) -> Result<()> {
        fs::remove_file(self.file(name)).with_context(|| format!("remove {name}"))
    }

    /// Put a disk into a machine. There may be one at a time: all disks have the same UUID.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn open(&self, name: &str) -> Result<Machine> {
        let device = Loop::attach(&self.file(name))?;
        let (root, top) = (self.dir.path().join("root"), self.dir.path().join("top"));
        // What is not on disk after a second is lost.
        let root = Mount::new(device.node(), &root, "btrfs", "subvol=@,commit=1")?;
        let top = Mount::new(device.node(), &top, "btrfs", "subvolid=5")?;
        Ok(Machine {
            be: Be::at(root.path())?,
            top,
            root,
            device,
        })
    }
}

/// A system on a disk.
#[derive(Debug)]
pub struct Machine {
    /// `be`, for this system.
    pub be: Be,
    top: Mount,
    root: Mount,
    device: Loop,
}

impl Machine {
    /// A path in the system.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    /// The top level.
    #[must_use]
    pub fn top(&self) -> &Path {
        self.top.path()
    }

    /// A path in the environment `new`.
    #[must_use]
    pub fn new_env(&self, path: &str) -> PathBuf {
        self.top()
            .join("@be/new/root")
            .join(path.trim_start_matches('/'))
    }

    /// By what its disk is known to processes.
    #[must_use]
    pub fn devices(&self) -> [PathBuf; 2] {
        [self.device.device(), self.device.node()].map(Path::to_owned)
    }

    /// The record of the environment `new`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn record(&self) -> Result<serde_json::Value> {
        let file = self.top().join("@be/new/be.json");
        Ok(serde_json::from_slice(&fs::read(file)?)?)
    }
}
