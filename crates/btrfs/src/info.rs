//! What a descriptor or a path is part of.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use crate::error::Context;
use crate::{Error, Reason, Result, Uuid, ioctl};

/// `BTRFS_SUPER_MAGIC`, `linux/magic.h`.
const MAGIC: u64 = 0x9123_683e;
/// `BTRFS_FIRST_FREE_OBJECTID`: the inode of the root of every subvolume.
pub(crate) const ROOT_INODE: u64 = 256;

/// What btrfs knows of one subvolume.
///
/// `transid`s and generations count transactions of the filesystem. A field of
/// the on-disk root item (`struct btrfs_root_item`) where nothing else is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubvolumeInfo {
    /// Its id, never used again on this filesystem.
    pub id: u64,
    /// Its own identity; nil only for one made before Linux 3.6.
    pub uuid: Uuid,
    /// The one it is a snapshot of.
    pub parent_uuid: Option<Uuid>,
    /// The one it was received from.
    pub received_uuid: Option<Uuid>,
    /// The id of the subvolume that contains its name; None for the top level.
    pub parent_id: Option<u64>,
    /// The inode, in that one, of the directory that holds its name.
    pub dirid: Option<u64>,
    /// Whether it is a read-only subvolume.
    pub read_only: bool,
    /// The transaction that last wrote its tree. A [`crate::Tree`] knows it as
    /// of the last commit.
    pub generation: u64,
    /// The transaction that last changed an inode of it.
    pub ctransid: u64,
    /// The transaction that made it: what is newer in it, or in the one it is
    /// a snapshot of, was written since.
    pub otransid: u64,
    /// When it was made, in seconds since 1970.
    pub otime: i64,
}

/// Where an open file lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Within {
    /// The id of the subvolume.
    pub id: u64,
    /// The path from the root of that subvolume, empty for the root itself;
    /// one of them for a file with several names.
    pub path: PathBuf,
}

/// Whether it is on btrfs (`fstatfs`). Needs no privilege and takes `O_PATH`.
pub fn is_btrfs(fd: impl AsFd) -> Result<bool> {
    let fd = fd.as_fd();
    Ok(rustix::fs::fstatfs(fd).on_fd("stat", fd)?.f_type as u64 == MAGIC)
}

/// Brings what the journal of an ext4 holds to its place on the disk, for a boot loader that
/// replays no journal. Any directory of it will do, open for reading.
///
/// # Errors
/// Where the filesystem or the kernel (before 5.14) does not know the call.
pub fn checkpoint_journal(fd: impl AsFd) -> Result<()> {
    let fd = fd.as_fd();
    ioctl::ext4_checkpoint(fd).on_fd("flush the journal of", fd)
}

/// Whether it is the root directory of a subvolume: on btrfs, inode 256. Needs
/// no privilege and takes `O_PATH`.
pub fn is_subvolume_root(fd: impl AsFd) -> Result<bool> {
    let fd = fd.as_fd();
    let stat = rustix::fs::fstat(fd).on_fd("stat", fd)?;
    Ok(stat.st_ino == ROOT_INODE && is_btrfs(fd)?)
}

/// The subvolume that a file lies in, and where in it (`BTRFS_IOC_INO_LOOKUP`).
///
/// Errors: [`Reason::NotBtrfs`]; `EBADF` for an `O_PATH` descriptor.
pub fn subvolume_of(fd: impl AsFd) -> Result<Within> {
    const OP: &str = "find the subvolume of";
    let fd = fd.as_fd();
    require_btrfs(fd, OP)?;
    let id = ioctl::tree_of(fd).on_fd(OP, fd)?;
    let inode = rustix::fs::fstat(fd).on_fd(OP, fd)?.st_ino;
    let path = if inode == ROOT_INODE {
        PathBuf::new()
    } else {
        // Without the slash that the kernel appends.
        ioctl::path_of_inode(fd, id, inode)
            .on_fd(OP, fd)?
            .components()
            .collect()
    };
    Ok(Within { id, path })
}

/// What btrfs knows of the subvolume that an open file lies in
/// (`BTRFS_IOC_GET_SUBVOL_INFO`; btrfsutil's own panics on odd times). Current,
/// also before the next commit. Needs no privilege.
///
/// Errors: [`Reason::NotBtrfs`]; `EBADF` for an `O_PATH` descriptor.
pub fn subvolume_info(fd: impl AsFd) -> Result<SubvolumeInfo> {
    const OP: &str = "read the subvolume of";
    let fd = fd.as_fd();
    require_btrfs(fd, OP)?;
    ioctl::subvolume_info(fd).on_fd(OP, fd)
}

/// The UUID of the filesystem that a path lies on, and the names that the
/// kernel has for its devices (they need not exist under /dev).
///
/// Errors: [`Reason::NotBtrfs`]; those of opening the path.
pub fn uuid_of(path: &Path) -> Result<(Uuid, Vec<PathBuf>)> {
    let fd = open_for_ioctl(path)?;
    let (info, devices) = devices_of(fd.as_fd())?;
    Ok((info, devices.into_iter().map(|d| d.path).collect()))
}

pub(crate) fn require_btrfs(fd: BorrowedFd<'_>, op: &'static str) -> Result<()> {
    if is_btrfs(fd)? {
        Ok(())
    } else {
        Err(Error::new(op, crate::error::path_of(fd), Reason::NotBtrfs))
    }
}

/// Opens a file or directory of a btrfs so that ioctls work on it. Looks
/// before it opens: opening a device or a fifo could have effects.
pub(crate) fn open_for_ioctl(path: &Path) -> Result<std::os::fd::OwnedFd> {
    use rustix::fs::{Mode, OFlags, open};
    const OP: &str = "open";
    let looked = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).on(OP, path)?;
    if !is_btrfs(&looked)? {
        return Err(Error::new(OP, path, Reason::NotBtrfs));
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).on(OP, path)
}

/// The filesystem's UUID and its devices, by `BTRFS_IOC_FS_INFO` and
/// `BTRFS_IOC_DEV_INFO`.
pub(crate) fn devices_of(fd: BorrowedFd<'_>) -> Result<(Uuid, Vec<ioctl::DevInfo>)> {
    const OP: &str = "list the devices of";
    let info = ioctl::fs_info(fd).on_fd(OP, fd)?;
    let mut devices = Vec::new();
    // Id 0 is the target of a running `btrfs replace`; it is not usable yet.
    for devid in 1..=info.max_devid {
        devices.extend(ioctl::dev_info(fd, devid).on_fd(OP, fd)?);
    }
    Ok((info.fsid, devices))
}
