//! A disk that boots from power-on, BIOS and UEFI: made once for a layout, then copied.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::Flock;

use crate::cache::{self, Key, artifact};
use crate::fill::{configure, fill};
use crate::image::{BOOT_SIZE, Layout, Source, Tree, sparse_file};
use crate::lab::luks::{self, Luks};
use crate::lab::{Lab, boot, guest, root};
use crate::loopdev::{Loop, Mount};
use crate::run::{cmd, run};
use crate::temp;
use crate::volumes::{Mounted, Volume, Volumes};

const SECTOR: u64 = 512;
const SIZE: u64 = 4 << 30;
/// The first sector of the first partition, and what stays free at the end.
const MARGIN: u64 = 2048;
/// A partition that not every disk has.
const MORE: u32 = 5;
/// Bytes of an ESP that holds nothing but GRUB's core.
const SMALL_ESP: u64 = 32 << 20;

/// A partition, in sectors.
#[derive(Debug, Clone, Copy)]
struct Part {
    number: u32,
    first: u64,
    sectors: u64,
    /// The name, and its type as sgdisk abbreviates it.
    kind: (&'static str, &'static str),
}

/// The partitions of a layout's disk.
#[derive(Debug, Clone, Copy)]
struct Table {
    bios: Part,
    esp: Part,
    boot: Option<Part>,
    root: Part,
}

impl Table {
    fn of(layout: Layout) -> Self {
        let has = |wanted: Source| layout.below().iter().any(|(_, source)| *source == wanted);
        let mut free = MARGIN;
        let mut part = |number, bytes: u64, kind| {
            let (first, sectors) = (free, bytes / SECTOR);
            free += sectors;
            Part {
                number,
                first,
                sectors,
                kind,
            }
        };
        let bios = part(1, 1 << 20, ("bios", "ef02"));
        let esp_size = if has(Source::Esp) {
            BOOT_SIZE
        } else {
            SMALL_ESP
        };
        let esp = part(2, esp_size, ("esp", "ef00"));
        let boot = has(Source::Boot).then(|| part(4, BOOT_SIZE, ("boot", "8300")));
        let mut root = part(3, 0, ("root", "8300"));
        root.sectors = SIZE / SECTOR - root.first - MARGIN;
        Self {
            bios,
            esp,
            boot,
            root,
        }
    }

    fn parts(self) -> impl Iterator<Item = Part> {
        [Some(self.bios), Some(self.esp), self.boot, Some(self.root)]
            .into_iter()
            .flatten()
    }

    /// The file systems that are on a disk already.
    fn attach(self, disk: &Path) -> Result<Volumes> {
        let boot = self.boot.map(|part| Volume::of(attach(disk, part)?));
        Ok(Volumes {
            boot: boot.transpose()?,
            esp: Some(Volume::of(attach(disk, self.esp)?)?),
            root: Volume::of(attach(disk, self.root)?)?,
        })
    }
}

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
        Self::copy(&cached, layout, lab)
    }

    /// A copy of a disk of [`Layout::AtSubvol`] whose btrfs lies in LUKS, for UEFI; it is
    /// built if need be. The host cannot mount it, and its kernel is one of its own.
    ///
    /// # Errors
    /// As [`Disk::new`].
    pub fn encrypted(luks: Luks) -> Result<Self> {
        let lab = Lab::ensure()?;
        let cached = luks::ensure(&lab, luks)?;
        Self::copy(&cached, Layout::AtSubvol, lab)
    }

    fn copy(cached: &Path, layout: Layout, lab: Lab) -> Result<Self> {
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

    /// Mounts the whole system on the host, to prepare or inspect it while no
    /// machine runs on the disk; only an ESP at /efi is left out. Only one disk
    /// can be mounted at a time because their file systems have the same UUID: a
    /// second call waits for the first guard, so one thread must never hold two.
    ///
    /// # Errors
    /// A mount fails, or the layout is not [mountable](Layout::is_mountable) on
    /// this machine.
    pub fn mount(&self) -> Result<DiskMount> {
        self.mount_as(|volumes, target| volumes.mount(self.layout, target))
    }

    /// As [`Disk::mount`], of one subvolume alone; `""` is the top level.
    ///
    /// # Errors
    /// The mount fails.
    pub fn mount_subvolume(&self, subvolume: &str) -> Result<DiskMount> {
        self.mount_as(|volumes, target| {
            let options = format!("subvol=/{subvolume}");
            let node = volumes.root.device.node();
            Ok(Mount::new(node, target, "btrfs", &options)?.into())
        })
    }

    /// Adds a partition that is larger than that of the root, and returns its number.
    pub(super) fn add_partition(&self) -> Result<u32> {
        let file = File::options().write(true).open(self.path())?;
        file.set_len(2 * SIZE)?;
        run(cmd("sgdisk", ["--move-second-header"])
            .arg(format!("--new={MORE}:{}:0", SIZE / SECTOR))
            .arg(self.path()))?;
        Ok(MORE)
    }

    /// Gives up what is in the partition of the root.
    pub(super) fn forget_plain(&self) -> Result<()> {
        let part = Table::of(self.layout).root;
        run(cmd("fallocate", ["--punch-hole"])
            .arg(format!("--offset={}", part.first * SECTOR))
            .arg(format!("--length={}", part.sectors * SECTOR))
            .arg(self.path()))?;
        Ok(())
    }

    fn mount_as(
        &self,
        mount: impl FnOnce(&Volumes, &Path) -> Result<Mounted>,
    ) -> Result<DiskMount> {
        let lock = cache::lock(&cache::dir().join("disk-mount.lock"))?;
        let volumes = Table::of(self.layout).attach(&self.path())?;
        let target = self.dir.path().join("mnt");
        fs::create_dir_all(&target)?;
        Ok(DiskMount {
            mounted: mount(&volumes, &target)?,
            volumes,
            _lock: lock,
        })
    }
}

/// A disk's file systems, mounted on the host. Dropped, they are unmounted and
/// everything is written back to the disk.
#[derive(Debug)]
pub struct DiskMount {
    // Dropped in this order.
    mounted: Mounted,
    volumes: Volumes,
    _lock: Flock<File>,
}

impl DiskMount {
    /// The device of the btrfs.
    #[must_use]
    pub fn device(&self) -> &Loop {
        &self.volumes.root.device
    }

    /// All file systems of the disk, mounted or not.
    #[must_use]
    pub fn volumes(&self) -> &Volumes {
        &self.volumes
    }
}

impl Tree for DiskMount {
    fn root(&self) -> &Path {
        self.mounted.root()
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
        .with(include_str!("guest.rs"))
        .with(include_str!("../fill.rs"))
        .with(include_str!("../layout.rs"))
        .with(include_str!("../volumes.rs"))
        .with(&name)
        .with(root::parent_name(&lab.root_tar)?);
    artifact(&name, key, |out| build(out, lab, layout))
}

fn attach(disk: &Path, part: Part) -> Result<Loop> {
    Loop::attach_part(disk, part.first * SECTOR, part.sectors * SECTOR)
}

fn build(out: &Path, lab: &Lab, layout: Layout) -> Result<()> {
    let temp = temp::dir(1 << 30)?;
    let disk = temp.path().join("disk.img");
    sparse_file(&disk, SIZE)?;
    let table = Table::of(layout);
    let mut sgdisk = cmd("sgdisk", ["--set-alignment=1"]);
    for part in table.parts() {
        let (number, (name, kind)) = (part.number, part.kind);
        let last = part.first + part.sectors - 1;
        sgdisk
            .arg(format!("--new={number}:{}:{last}", part.first))
            .arg(format!("--typecode={number}:{kind}"))
            .arg(format!("--change-name={number}:{name}"));
    }
    run(sgdisk.arg(&disk))?;

    let target = temp.path().join("mnt");
    fs::create_dir(&target)?;
    let volumes = make_volumes(&disk, table, layout, &target)?;
    fill(&target, &lab.root_tar, layout, &volumes)?;
    if layout.boot_apart() {
        let uuid = volumes.root.uuid.clone();
        drop(volumes);
        fs::write(out.join("uuid"), &uuid)?;
        guest::install(&disk, lab, layout, &uuid)?;
    } else {
        let mounted = volumes.mount(layout, &target)?;
        let root = mounted.root();
        configure(root, &volumes)?;
        boot::install_files(root)?;
        let (home, uuid) = (layout.grub_home(), &volumes.root.uuid);
        let esp = volumes.esp.as_ref().context("a disk without an ESP")?;
        boot::efi(esp.device.node(), root, uuid, &home)?;
        let (first, sectors) = (table.bios.first, table.bios.sectors);
        boot::bios(&disk, root, table.root.number, &home, first, sectors)?;
        fs::write(out.join("uuid"), uuid)?;
        drop(mounted);
        drop(volumes);
    }
    run(cmd("cp", ["--sparse=always"]).arg(&disk).arg(out))?;
    Ok(())
}

fn make_volumes(disk: &Path, table: Table, layout: Layout, target: &Path) -> Result<Volumes> {
    let boot = table
        .boot
        .map(|part| Volume::make_ext4(attach(disk, part)?));
    let fat_bits = if table.esp.sectors * SECTOR > SMALL_ESP {
        32
    } else {
        16
    };
    Ok(Volumes {
        boot: boot.transpose()?,
        esp: Some(Volume::make_fat(attach(disk, table.esp)?, fat_bits)?),
        root: Volume::make_btrfs(attach(disk, table.root)?, layout, target)?,
    })
}
