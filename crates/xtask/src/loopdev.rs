//! Loop devices and mounts as guards: dropped, they are gone, also in a panic.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount, umount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::run::{cmd, run};

/// The major number of loop devices (Linux, Documentation/admin-guide/devices.txt).
const LOOP_MAJOR: u64 = 7;
/// How long a busy mount or device may take to be let go.
const BUSY: Duration = Duration::from_secs(10);

/// A file, or a part of it, as a block device.
///
/// The device has a second node, `/dev/be-labN`: grub-probe follows the name
/// /dev/loopN to the backing file, which nobody inside a chroot can see, so
/// what GRUB is to recognise has to be mounted by another name.
#[derive(Debug)]
pub struct Loop {
    device: PathBuf,
    node: PathBuf,
}

impl Loop {
    /// Attaches a whole file.
    ///
    /// # Errors
    /// There is no free loop device, or no permission.
    pub fn attach(file: &Path) -> Result<Self> {
        Self::attach_part(file, 0, 0)
    }

    /// Attaches `size` bytes at `offset`; a size of 0 means up to the end.
    ///
    /// # Errors
    /// As [`Loop::attach`].
    pub fn attach_part(file: &Path, offset: u64, size: u64) -> Result<Self> {
        let device = run(cmd("losetup", ["--find", "--show"])
            .arg(format!("--offset={offset}"))
            .arg(format!("--sizelimit={size}"))
            .arg(file))
        .with_context(|| format!("attach {}", file.display()))?;
        let device = PathBuf::from(device.trim());
        let number: u64 = device
            .to_str()
            .and_then(|name| name.strip_prefix("/dev/loop"))
            .and_then(|number| number.parse().ok())
            .with_context(|| format!("losetup gave {}", device.display()))?;
        let node = PathBuf::from(format!("/dev/be-lab{number}"));
        let this = Self { device, node };
        let _ = fs::remove_file(&this.node);
        mknod(
            &this.node,
            SFlag::S_IFBLK,
            Mode::from_bits_truncate(0o600),
            makedev(LOOP_MAJOR, number),
        )
        .with_context(|| format!("make {}", this.node.display()))?;
        Ok(this)
    }

    /// `/dev/loopN`.
    #[must_use]
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// `/dev/be-labN`, the same device.
    #[must_use]
    pub fn node(&self) -> &Path {
        &self.node
    }

    fn detach(&self) -> Result<()> {
        // The kernel remembers an unmounted btrfs device by its file system's
        // id and refuses an older copy of it under another name.
        let _ = run(cmd("btrfs", ["device", "scan", "--forget"]).arg(&self.node));
        let _ = fs::remove_file(&self.node);
        run(cmd("losetup", ["--detach"]).arg(&self.device))?;
        let name = self.device.file_name().unwrap_or_default();
        let backing = Path::new("/sys/block").join(name).join("loop/backing_file");
        let start = Instant::now();
        while backing.exists() {
            if start.elapsed() > BUSY {
                bail!("{} is still in use", self.device.display());
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            crate::say(&format!(
                "cannot detach {}: {error:#}",
                self.device.display()
            ));
        }
    }
}

/// Detaches the loop devices whose files lie below a directory that nobody
/// owns any more.
///
/// # Errors
/// /sys cannot be read.
pub fn detach_below(dir: &Path) -> Result<()> {
    for entry in fs::read_dir("/sys/block").context("read /sys/block")? {
        let entry = entry?;
        let Ok(file) = fs::read_to_string(entry.path().join("loop/backing_file")) else {
            continue;
        };
        if Path::new(file.trim()).starts_with(dir) {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let number = name.trim_start_matches("loop");
            let device = Loop {
                device: PathBuf::from(format!("/dev/{name}")),
                node: PathBuf::from(format!("/dev/be-lab{number}")),
            };
            drop(device);
        }
    }
    Ok(())
}

/// A mounted file system.
#[derive(Debug)]
pub struct Mount {
    target: PathBuf,
}

impl Mount {
    /// Mounts `source` on the directory `target`, without access times.
    ///
    /// # Errors
    /// The mount fails.
    pub fn new(source: &Path, target: &Path, fstype: &str, options: &str) -> Result<Self> {
        mount(
            Some(source),
            target,
            Some(fstype),
            MsFlags::MS_NOATIME,
            Some(options),
        )
        .with_context(|| {
            format!(
                "mount {} ({options}) on {}",
                source.display(),
                target.display()
            )
        })?;
        Ok(Self {
            target: target.to_path_buf(),
        })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.target
    }

    fn release(&self) -> nix::Result<()> {
        let start = Instant::now();
        loop {
            match umount(&self.target) {
                Err(Errno::EBUSY) if start.elapsed() < BUSY => sleep(Duration::from_millis(50)),
                result => return result,
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            crate::say(&format!(
                "cannot unmount {}: {error}",
                self.target.display()
            ));
        }
    }
}
