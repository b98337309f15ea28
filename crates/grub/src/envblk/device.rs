//! A block in the header of a btrfs device: what GRUB 2.14 writes on a btrfs, where files are out of its reach.
//!
//! btrfs leaves the first MiB of a device alone but for its superblock at 64 KiB. GRUB 2.14 (`GRUB_ENV_BTRFS_OFFSET`
//! in `include/grub/fs.h`, `util/grub-editenv.c`) has put one sector at 256 KiB to use; its scripts name it by a
//! block list, `(DEVICE)512+1`, in the variable `env_block`. `grub-editenv` keeps `next_entry` there: as everywhere,
//! the variables of others stay.
//!
//! What is mounted may not be written where the kernel was built without `BLK_DEV_WRITE_MOUNTED`: the error says so.

use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{EnvBlock, HEADER_SIZE};

/// Where the block is, in bytes from the start of the device.
pub const OFFSET: u64 = 256 << 10;

/// The superblock, and in it, by `struct btrfs_super_block` of `linux/btrfs_tree.h`: the magic, the number of
/// devices, the features that a reader must know.
const SUPER: u64 = 64 << 10;
const MAGIC: (usize, &[u8]) = (0x40, b"_BHRfS_M");
const DEVICES: usize = 0x88;
const INCOMPAT: usize = 0xbc;
/// `BTRFS_FEATURE_INCOMPAT_ZONED`: such a device cannot be overwritten in place.
const ZONED: u64 = 1 << 12;

/// The header of a btrfs device that GRUB could write.
#[derive(Debug)]
pub struct Header {
    file: File,
}

impl Header {
    /// Opens a block device for reading and writing. `sys` is where sysfs is mounted.
    ///
    /// # Errors
    /// It is not a plain disk or a partition of one, or does not hold the whole of a btrfs.
    pub fn open(device: &Path, sys: &Path) -> Result<Self> {
        let inside = || format!("cannot use the header of {}", device.display());
        let file = File::options()
            .read(true)
            .write(true)
            .open(device)
            .with_context(inside)?;
        let meta = file.metadata().with_context(inside)?;
        (|| {
            ensure!(meta.file_type().is_block_device(), "not a block device");
            ensure!(
                is_plain(sys, meta.rdev())?,
                "GRUB can write to a plain disk only, not to LVM, RAID or LUKS"
            );
            Self::of(file)
        })()
        .with_context(inside)
    }

    /// As [`Header::open`], of what is known to be a plain disk, or its image.
    ///
    /// # Errors
    /// It does not hold the whole of a btrfs.
    pub fn of(file: File) -> Result<Self> {
        let mut sb = [0; 4096];
        file.read_exact_at(&mut sb, SUPER)
            .context("cannot read the superblock")?;
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&sb[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        ensure!(sb[MAGIC.0..].starts_with(MAGIC.1), "it holds no btrfs");
        ensure!(
            number(DEVICES) == 1,
            "the btrfs is spread over {} devices",
            number(DEVICES)
        );
        ensure!(number(INCOMPAT) & ZONED == 0, "the device is zoned");
        Ok(Self { file })
    }

    /// The block; none where nothing has been written yet.
    ///
    /// # Errors
    /// It cannot be read, or something else is there.
    pub fn read(&self) -> Result<Option<EnvBlock>> {
        let mut bytes = [0; HEADER_SIZE];
        self.file
            .read_exact_at(&mut bytes, OFFSET)
            .context("cannot read the environment block in the btrfs header")?;
        if bytes == [0; HEADER_SIZE] {
            return Ok(None);
        }
        let block = EnvBlock::parse(&bytes)
            .context("something else is in the btrfs header, at 256 KiB, than a block of GRUB")?;
        Ok(Some(block))
    }

    /// Changes the block, making it if need be; it is on the disk when this returns.
    ///
    /// # Errors
    /// `change` fails, or what is there is no block; then nothing is changed.
    pub fn update(&self, change: impl FnOnce(&mut EnvBlock) -> Result<()>) -> Result<()> {
        let before = self.read()?;
        let mut after = before.clone().unwrap_or_else(|| EnvBlock::new(HEADER_SIZE));
        change(&mut after)?;
        if before.as_ref() != Some(&after) {
            self.file
                .write_all_at(&after.render(), OFFSET)
                .and_then(|()| self.file.sync_data())
                .context("cannot write the environment block in the btrfs header")?;
        }
        Ok(())
    }
}

/// Whether a block device is a disk or a partition of one, and nothing made by the kernel from others: device
/// mapper (LVM, LUKS), MD, bcache, loop. `sys` is where sysfs is mounted; `number` is the device's `st_rdev`.
///
/// # Errors
/// sysfs does not know the device.
pub fn is_plain(sys: &Path, number: u64) -> Result<bool> {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let link = sys.join(format!("dev/block/{major}:{minor}"));
    let target =
        std::fs::read_link(&link).with_context(|| format!("cannot read {}", link.display()))?;
    // `../../devices/virtual/block/dm-0`, `../../devices/pci0000:00/.../block/sda/sda1`
    let mut parts = target.components().map(|part| part.as_os_str());
    let is_virtual = parts.any(|p| p == "virtual") && parts.next().is_some_and(|p| p == "block");
    Ok(!is_virtual)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn image(devices: u64, incompat: u64) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("image");
        let file = File::create_new(&path).expect("an image");
        file.set_len(1 << 20).expect("its size");
        let put = |at: usize, bytes: &[u8]| {
            file.write_all_at(bytes, SUPER + at as u64).expect("write");
        };
        put(MAGIC.0, MAGIC.1);
        put(DEVICES, &devices.to_le_bytes());
        put(INCOMPAT, &incompat.to_le_bytes());
        (dir, path)
    }

    fn header(path: &Path) -> Result<Header> {
        Header::of(File::options().read(true).write(true).open(path)?)
    }

    #[test]
    fn one_sector_is_written_and_nothing_else() {
        let (_dir, path) = image(1, 0);
        let before = std::fs::read(&path).expect("read");
        let header = header(&path).expect("a btrfs");
        assert_eq!(header.read().expect("zeros"), None);
        header
            .update(|block| Ok(block.set("be_try", "new")?))
            .expect("written");
        let block = header.read().expect("a block").expect("there");
        assert_eq!(block.get("be_try").as_deref(), Some("new"));
        let mut after = std::fs::read(&path).expect("read");
        assert_eq!(&after[512 * 512..513 * 512], block.render());
        after[512 * 512..513 * 512].fill(0);
        assert!(after == before);
    }

    #[test]
    fn what_is_not_the_whole_of_a_btrfs_is_refused() {
        for (devices, incompat) in [(2, 0), (1, ZONED)] {
            let (_dir, path) = image(devices, incompat);
            assert!(header(&path).is_err());
        }
        let (_dir, path) = image(1, 0x41);
        let file = File::options().write(true).open(&path).expect("open");
        file.write_all_at(b"foreign", OFFSET).expect("write");
        let other = header(&path).expect("a btrfs");
        assert!(other.read().is_err());
        assert!(other.update(|_| Ok(())).is_err());
        file.write_all_at(&[0; 8], SUPER + MAGIC.0 as u64)
            .expect("write");
        assert!(header(&path).is_err());
        assert!(Header::open(&path, Path::new("/sys")).is_err());
    }

    #[test]
    fn only_disks_and_their_partitions_are_plain() {
        let sys = tempfile::tempdir().expect("a directory");
        let dir = sys.path().join("dev/block");
        std::fs::create_dir_all(&dir).expect("made");
        for (number, target, plain) in [
            (1, "pci0000:00/0000:00:02.0/virtio1/block/vda/vda3", true),
            (2, "virtual/block/dm-0", false),
            (3, "virtual/block/md0/md0p1", false),
            (
                4,
                "virtual/nvme-subsystem/nvme-subsys0/nvme0n1/nvme0n1p2",
                true,
            ),
        ] {
            symlink(
                format!("../../devices/{target}"),
                dir.join(format!("8:{number}")),
            )
            .expect("made");
            let number = rustix::fs::makedev(8, number);
            assert_eq!(
                is_plain(sys.path(), number).expect("known"),
                plain,
                "{target}"
            );
        }
        assert!(is_plain(sys.path(), rustix::fs::makedev(9, 9)).is_err());
    }
}
