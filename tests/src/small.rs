//! A file system of a few megabytes with just what `be` looks for in a system:
//! for everything that needs btrfs, and neither Portage nor GRUB's own programs.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xtask::lab::base;
use xtask::loopdev::{Loop, Mount};
use xtask::run::{cmd, run};
use xtask::temp;

/// Bytes of the file system; far more than the refusal for want of space asks for.
const SIZE: u64 = 512 << 20;

/// The images of its disks.
const DISK: &str = "disk.img";
const MIRROR: &str = "mirror.img";

/// The version of its kernel.
pub const KERNEL: &str = "6.6.6-small";

/// The file system with its root in `@`, or the top level, mounted. Dropped, it is gone.
#[derive(Debug)]
pub struct Small {
    // Dropped in this order.
    mount: Mount,
    device: Loop,
    mirror: Option<Loop>,
    dir: temp::Dir,
    uuid: String,
}

impl Small {
    /// A new one.
    ///
    /// # Errors
    /// There is no permission or no room.
    pub fn new() -> Result<Self> {
        Self::sized(SIZE)
    }

    /// A new one of so many bytes.
    ///
    /// # Errors
    /// There is no permission or no room.
    pub fn sized(bytes: u64) -> Result<Self> {
        let dir = temp::dir(bytes)?;
        let device = disk(&dir, DISK, bytes)?;
        run(cmd("mkfs.btrfs", ["--quiet"]).arg(device.node()))?;
        Self::filled(dir, device, None, "", None)
    }

    /// A new one whose root is the top level.
    ///
    /// # Errors
    /// There is no permission or no room.
    pub fn on_top() -> Result<Self> {
        let dir = temp::dir(SIZE)?;
        let device = disk(&dir, DISK, SIZE)?;
        run(cmd("mkfs.btrfs", ["--quiet"]).arg(device.node()))?;
        Self::filled_at("", dir, device, None, "", None)
    }

    /// A new one of so many bytes, whose programs are those of the root in this tar.
    ///
    /// # Errors
    /// There is no permission or no room.
    pub fn unpacked(tar: &Path, bytes: u64) -> Result<Self> {
        let dir = temp::dir(bytes / 4)?;
        let device = disk(&dir, DISK, bytes)?;
        run(cmd("mkfs.btrfs", ["--quiet"]).arg(device.node()))?;
        Self::filled(dir, device, None, "", Some(tar))
    }

    /// A new one on two disks, of which each has everything, compressed.
    ///
    /// # Errors
    /// There is no permission or no room.
    pub fn mirrored() -> Result<Self> {
        let dir = temp::dir(2 * SIZE)?;
        let device = disk(&dir, DISK, SIZE)?;
        let mirror = disk(&dir, MIRROR, SIZE)?;
        run(cmd(
            "mkfs.btrfs",
            ["--quiet", "--data=raid1", "--metadata=raid1"],
        )
        .args([device.node(), mirror.node()]))?;
        run(cmd("btrfs", ["device", "scan"]).args([device.node(), mirror.node()]))?;
        Self::filled(dir, device, Some(mirror), ",compress-force=zstd", None)
    }

    fn filled(
        dir: temp::Dir,
        device: Loop,
        mirror: Option<Loop>,
        options: &str,
        tar: Option<&Path>,
    ) -> Result<Self> {
        Self::filled_at("@", dir, device, mirror, options, tar)
    }

    fn filled_at(
        subvolume: &str,
        dir: temp::Dir,
        device: Loop,
        mirror: Option<Loop>,
        options: &str,
        tar: Option<&Path>,
    ) -> Result<Self> {
        let uuid = run(cmd("blkid", ["-p", "-o", "value", "-s", "UUID"]).arg(device.node()))?;
        let uuid = uuid.trim().to_owned();
        let root = dir.path().join("root");
        fs::create_dir(&root)?;
        if !subvolume.is_empty() {
            let top = Mount::new(device.node(), &root, "btrfs", "subvolid=5")?;
            run(cmd("btrfs", ["--quiet", "subvolume", "create"]).arg(top.path().join(subvolume)))?;
        }
        let mount = Mount::new(
            device.node(),
            &root,
            "btrfs",
            &format!("subvol=/{subvolume}{options}"),
        )?;
        match tar {
            Some(tar) => base::unpack(tar, mount.path())?,
            None => fill(mount.path())?,
        }
        furnish(mount.path(), &uuid, subvolume)?;
        Ok(Self {
            mount,
            device,
            mirror,
            dir,
            uuid,
        })
    }

    /// Where its root is mounted.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.mount.path()
    }

    /// Its device.
    #[must_use]
    pub fn device(&self) -> &Loop {
        &self.device
    }

    /// The images of its disks.
    #[must_use]
    pub fn images(&self) -> Vec<PathBuf> {
        let mirror = self.mirror.as_ref().map(|_| MIRROR);
        let names = std::iter::once(DISK).chain(mirror);
        names.map(|name| self.dir.path().join(name)).collect()
    }

    /// The directory that all of it lies in, with room for a test's own files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The file system's UUID.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.uuid
    }
}

fn disk(dir: &temp::Dir, name: &str, bytes: u64) -> Result<Loop> {
    let file = dir.path().join(name);
    File::create_new(&file)?.set_len(bytes)?;
    Loop::attach(&file)
}

/// What makes a system bootable to `be`.
fn furnish(root: &Path, uuid: &str, subvolume: &str) -> Result<()> {
    let modules = format!("usr/lib/modules/{KERNEL}");
    let modules = match root.join("lib").is_symlink() {
        true => modules,
        false => modules.replacen("usr/", "", 1),
    };
    for dir in ["boot/grub", "etc/default", "etc/grub.d", modules.as_str()] {
        fs::create_dir_all(root.join(dir)).with_context(|| format!("make {dir}"))?;
    }
    for (path, text) in [
        (format!("boot/vmlinuz-{KERNEL}"), "a kernel"),
        (format!("boot/initramfs-{KERNEL}.img"), "an initramfs"),
        (format!("{modules}/modules.dep"), ""),
        ("boot/grub/grub.cfg".to_owned(), "set timeout=5\n"),
        (
            "etc/default/grub".to_owned(),
            "GRUB_CMDLINE_LINUX=\"quiet\"\n",
        ),
        (
            "etc/fstab".to_owned(),
            &*format!("UUID={uuid} / btrfs subvol=/{subvolume},noatime 0 0\n"),
        ),
    ] {
        fs::write(root.join(&path), text).with_context(|| format!("write {path}"))?;
    }
    let init = root.join("sbin/init");
    fs::copy(busybox()?, &init)?;
    fs::set_permissions(init, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The programs of the smallest system: busybox, and an emerge that fails.
fn fill(root: &Path) -> Result<()> {
    for dir in [
        "bin",
        "dev",
        "etc",
        "lib/modules",
        "proc",
        "root",
        "run",
        "sbin",
        "sys",
        "tmp",
        "usr/bin",
        "var/db/pkg",
        "var/lib/portage",
        "var/log",
    ] {
        fs::create_dir_all(root.join(dir)).with_context(|| format!("make {dir}"))?;
    }
    fs::write(root.join("usr/bin/emerge"), "#!/bin/sh\nexit 1\n").context("write emerge")?;
    fs::copy(busybox()?, root.join("bin/busybox"))?;
    for name in ["sh", "cat", "sleep", "true", "touch"] {
        symlink("busybox", root.join("bin").join(name))?;
    }
    let emerge = root.join("usr/bin/emerge");
    fs::set_permissions(emerge, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn busybox() -> Result<PathBuf> {
    ["/bin/busybox", "/usr/bin/busybox"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.exists())
        .context("there is no busybox")
}
