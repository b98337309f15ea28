//! A disk that boots from power-on, BIOS and UEFI: made once for a layout, then copied.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::Flock;

use crate::cache::{self, Key, artifact};
use crate::image::{Layout, Tree, fill, make_filesystem, sparse_file};
use crate::lab::{Lab, boot, root};
use crate::loopdev::{Loop, Mount};
use crate::run::{cmd, run};
use crate::temp;

const SECTOR: u64 = 512;
const SIZE: u64 = 4 << 30;
/// First sector and number of sectors of the partitions.
const BIOS_BOOT: (u64, u64) = (2048, 2048);
const ESP: (u64, u64) = (4096, 32 << 11);
const ROOT: (u64, u64) = (ESP.0 + ESP.1, SIZE / SECTOR - ESP.0 - ESP.1 - 2048);
const ROOT_NUMBER: u32 = 3;

/// A bootable disk of a test's own, as a raw file. Dropped, it is gone.
#[derive(Debug)]
pub struct Disk {
    dir: temp::Dir,
    layout: Layout,
    uuid: String,
    /// The lab that it was filled from.
    pub lab: Lab,
}

impl Disk {
    /// A copy of the layout's disk, which is built if need be.
    ///
    /// # Errors
    /// The lab cannot be built, or there is no permission or room.
    pub fn new(layout: Layout) -> Result<Self> {
        let lab = Lab::ensure()?;
        let cached = ensure(&lab, layout)?;
        let uuid = fs::read_to_string(cached.join("uuid"))
            .with_context(|| format!("read the uuid in {}", cached.display()))?;
        let dir = temp::dir(1 << 30)?;
        let this = Self {
            dir,
            layout,
            uuid: uuid.trim().to_owned(),
            lab,
        };
        run(cmd("cp", ["--sparse=always", "--reflink=auto"])
            .arg(cached.join("disk.img"))
            .arg(this.path()))?;
        Ok(this)
    }

    /// The raw image file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("disk.img")
    }

    /// The directory that the file lies in, with room for a test's own files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The layout.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The UUID of its btrfs. Every disk of one layout has the same.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Mounts the root subvolume on the host, to prepare or inspect it while
    /// no machine runs on the disk. Only one disk can be mounted at a time
    /// because their file systems have the same UUID: a second call waits for
    /// the first guard, so one thread must never hold two.
    ///
    /// # Errors
    /// The mount fails.
    pub fn mount(&self) -> Result<DiskMount> {
        self.mount_subvolume(self.layout.root())
    }

    /// As [`Disk::mount`], of another subvolume; `""` is the top level.
    ///
    /// # Errors
    /// The mount fails.
    pub fn mount_subvolume(&self, subvolume: &str) -> Result<DiskMount> {
        let lock = cache::lock(&cache::dir().join("disk-mount.lock"))?;
        let device = attach(&self.path(), ROOT)?;
        let target = self.dir.path().join("mnt");
        fs::create_dir_all(&target)?;
        let options = format!("subvol=/{subvolume}");
        Ok(DiskMount {
            mount: Mount::new(device.node(), &target, "btrfs", &options)?,
            device,
            _lock: lock,
        })
    }
}

/// A disk's file system, mounted on the host. Dropped, it is unmounted and
/// everything is written back to the disk.
#[derive(Debug)]
pub struct DiskMount {
    // Dropped in this order.
    mount: Mount,
    device: Loop,
    _lock: Flock<fs::File>,
}

impl DiskMount {
    /// The device that is mounted.
    #[must_use]
    pub fn device(&self) -> &Loop {
        &self.device
    }
}

impl Tree for DiskMount {
    fn root(&self) -> &Path {
        self.mount.path()
    }
}

/// The cached disk of a layout: a directory with `disk.img` and `uuid`.
///
/// # Errors
/// As [`Lab::ensure`].
pub fn ensure(lab: &Lab, layout: Layout) -> Result<PathBuf> {
    let name = format!("disk-{}", layout.name());
    let key = Key::new("disk")
        .with(include_str!("disk.rs"))
        .with(include_str!("boot.rs"))
        .with(&name)
        .with(root::parent_name(&lab.root_tar)?);
    artifact(&name, key, |out| build(out, &lab.root_tar, layout))
}

fn attach(disk: &Path, part: (u64, u64)) -> Result<Loop> {
    Loop::attach_part(disk, part.0 * SECTOR, part.1 * SECTOR)
}

fn build(out: &Path, tar: &Path, layout: Layout) -> Result<()> {
    let temp = temp::dir(1 << 30)?;
    let disk = temp.path().join("disk.img");
    sparse_file(&disk, SIZE)?;
    let mut sgdisk = cmd("sgdisk", ["--set-alignment=1"]);
    for (number, part, kind, name) in [
        (1, BIOS_BOOT, "ef02", "bios"),
        (2, ESP, "ef00", "esp"),
        (ROOT_NUMBER, ROOT, "8300", "root"),
    ] {
        sgdisk
            .arg(format!("--new={number}:{}:{}", part.0, part.0 + part.1 - 1))
            .arg(format!("--typecode={number}:{kind}"))
            .arg(format!("--change-name={number}:{name}"));
    }
    run(sgdisk.arg(&disk))?;

    run(cmd("mkfs.vfat", ["-F", "16", "-n", "ESP"])
        .arg(format!("--offset={}", ESP.0))
        .arg(&disk)
        .arg((ESP.1 / 2).to_string()))?;
    let esp_offset = ESP.0 * SECTOR;
    let esp_uuid = run(cmd("blkid", ["-p", "-o", "value", "-s", "UUID"])
        .arg(format!("--offset={esp_offset}"))
        .arg(&disk))?;
    let device = attach(&disk, ROOT)?;
    let target = temp.path().join("mnt");
    fs::create_dir(&target)?;
    let uuid = make_filesystem(&device, layout, &target)?;
    {
        let mount = Mount::new(device.node(), &target, "btrfs", &layout.options())?;
        let root = mount.path();
        fill(root, tar, &device, layout, &uuid, Some(esp_uuid.trim()))?;
        boot::install_files(root)?;
        let home = layout.grub_home();
        boot::efi(&disk, esp_offset, root, &uuid, &home)?;
        boot::bios(&disk, root, ROOT_NUMBER, &home, BIOS_BOOT.0, BIOS_BOOT.1)?;
    }
    drop(device);
    fs::write(out.join("uuid"), &uuid)?;
    run(cmd("cp", ["--sparse=always"]).arg(&disk).arg(out))?;
    Ok(())
}
