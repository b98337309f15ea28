//! The top level of a btrfs through a mount that nobody else sees.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, StatVfsMountFlags, openat, openat2};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::error::Context;
use crate::info::{ROOT_INODE, devices_of, open_for_ioctl};
use crate::{Error, Reason, Result, Root, TOP_LEVEL_ID, Uuid, ioctl};

/// The top level (subvolume 5) of a btrfs, through a private, detached mount.
///
/// It has no row in any mountinfo and is gone when the value is dropped or the
/// process dies. It does not update access times. It can be written even where
/// the mount that the caller came from is read-only, but it never changes the
/// filesystem itself from read-only to writable.
#[derive(Debug)]
pub struct TopLevel {
    mount: OwnedFd,
    dir: OwnedFd,
    uuid: Uuid,
    device: PathBuf,
}

impl TopLevel {
    /// The top level of the filesystem that `path` lies on, through the first
    /// of its devices that has a node under /dev.
    ///
    /// Errors: [`Reason::NotBtrfs`]; [`Reason::NoDevice`]; `EPERM` without
    /// `CAP_SYS_ADMIN`.
    pub fn open(path: &Path) -> Result<TopLevel> {
        let fd = open_for_ioctl(path)?;
        let (uuid, devices) = devices_of(fd.as_fd())?;
        let device = devices
            .iter()
            .map(|d| d.path.clone())
            .chain(device_nodes(uuid))
            .find(|node| is_block_device(node))
            .ok_or_else(|| Error::new("open the top level of", path, Reason::NoDevice))?;
        let top = TopLevel::mount(device, true)?;
        // A node can be stale: the name of a device that is another one by now.
        if top.uuid != uuid {
            let found = top.uuid;
            return Err(Error::new(
                "open the top level of",
                path,
                Reason::OtherFilesystem {
                    expected: uuid,
                    found,
                },
            ));
        }
        Ok(top)
    }

    /// The top level of the filesystem on a device, which need not be mounted.
    ///
    /// Errors: [`Reason::NotBtrfs`] if it holds no btrfs; `ENOTBLK` if it is no
    /// block device; `EPERM` without `CAP_SYS_ADMIN`.
    pub fn open_device(device: &Path) -> Result<TopLevel> {
        const OP: &str = "open the top level of";
        let resolved = std::fs::canonicalize(device).on(OP, device)?;
        let rdev = std::fs::metadata(&resolved).on(OP, device)?.rdev();
        let top = TopLevel::mount(resolved.clone(), is_mounted(rdev));
        match top {
            Err(_) if !holds_btrfs(&resolved).on(OP, device)? => {
                Err(Error::new(OP, device, Reason::NotBtrfs))
            }
            done => done,
        }
    }

    fn mount(device: PathBuf, in_use: bool) -> Result<TopLevel> {
        const OP: &str = "open the top level of";
        let mount = detached_mount(&device, TOP_LEVEL_ID, in_use).on(OP, &device)?;
        // The descriptor of a mount is O_PATH, which no ioctl takes.
        let dir = openat(&mount, ".", dir_flags(), Mode::empty()).on(OP, &device)?;
        let uuid = ioctl::fs_info(dir.as_fd()).on(OP, &device)?.fsid;
        Ok(TopLevel {
            mount,
            dir,
            uuid,
            device,
        })
    }

    /// The directory, open for reading: for ioctls, `fsync` and relative paths.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The top level as a [`Root`]: every path below it stays below it.
    pub fn root(&self) -> Result<Root> {
        Root::from_fd(openat(&self.dir, ".", dir_flags(), Mode::empty()).on("open", "/")?)
    }

    /// The UUID of the filesystem (`BTRFS_IOC_FS_INFO`), as in `root=UUID=`.
    pub fn fs_uuid(&self) -> Uuid {
        self.uuid
    }

    /// The names that the kernel has for the devices of the filesystem
    /// (`BTRFS_IOC_DEV_INFO`); they need not exist under /dev.
    pub fn devices(&self) -> Result<Vec<PathBuf>> {
        let (_, devices) = devices_of(self.fd())?;
        Ok(devices.into_iter().map(|d| d.path).collect())
    }

    /// The device node that the mount was made from.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// Whether the filesystem itself is read-only: every mount of it was made
    /// so, or the kernel stopped writing after an error. A read-only mount of a
    /// writable filesystem does not count.
    pub fn is_read_only(&self) -> Result<bool> {
        // The detached mount is never read-only on its own account.
        let stat = rustix::fs::fstatvfs(&self.mount).on("stat", "/")?;
        Ok(stat.f_flag.contains(StatVfsMountFlags::RDONLY))
    }

    /// Whether quotas are on, which make deletions very slow
    /// (`/sys/fs/btrfs/UUID/qgroups`).
    pub fn has_quotas(&self) -> bool {
        sysfs(self.uuid).join("qgroups").exists()
    }

    /// Writes all dirty data of the filesystem and commits (`BTRFS_IOC_SYNC`).
    /// It also wakes the cleaner, which gives back the space of deleted
    /// subvolumes.
    pub fn sync(&self) -> Result<()> {
        ioctl::sync(self.fd()).on("sync", &self.device)
    }

    /// Commits (btrfsutil: `START_SYNC`, `WAIT_SYNC`): every rename, creation
    /// and deletion so far survives a power cut. Data that was not yet written
    /// is not included: `fsync` its file, or [`TopLevel::sync`].
    pub fn commit(&self) -> Result<()> {
        crate::subvolume::commit(self.fd())
    }

    /// A new detached mount of a subvolume, for `move_mount`. The path is
    /// relative to the top level; symlinks in it are refused (`ELOOP`).
    ///
    /// A fresh mount by id and not `open_tree(OPEN_TREE_CLONE)`: Linux before
    /// 6.15 clones only what is attached to a namespace (`EINVAL`).
    ///
    /// Errors: [`Reason::NotSubvolume`]; `ENOENT`; `ELOOP`.
    pub fn clone_mount(&self, path: &Path) -> Result<OwnedFd> {
        let there = self.open_plain(path, "mount")?;
        self.mount_of(there.as_fd(), path)
    }

    /// As [`TopLevel::clone_mount`], of a subvolume of this filesystem of which
    /// the root directory is open.
    pub fn clone_mount_of(&self, root: &Root) -> Result<OwnedFd> {
        self.mount_of(root.fd(), &crate::error::path_of(root.fd()))
    }

    fn mount_of(&self, there: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
        const OP: &str = "mount";
        let stat = rustix::fs::fstat(there).on(OP, path)?;
        if stat.st_ino != ROOT_INODE {
            return Err(Error::new(OP, path, Reason::NotSubvolume));
        }
        let id = ioctl::tree_of(there).on(OP, path)?;
        let mount = detached_mount(&self.device, id, true).on(OP, path)?;
        // Each subvolume has a device number of its own: the same number is
        // the same subvolume of the same filesystem.
        let mounted = rustix::fs::fstat(&mount).on(OP, path)?;
        if (mounted.st_dev, mounted.st_ino) != (stat.st_dev, stat.st_ino) {
            return Err(Error::new(OP, path, Reason::NotSubvolume));
        }
        Ok(mount)
    }

    /// Opens a directory below the top level for ioctls, without following any
    /// symlink.
    fn open_plain(&self, path: &Path, op: &'static str) -> Result<OwnedFd> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let relative = match relative.as_os_str().is_empty() {
            true => Path::new("."),
            false => relative,
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        openat2(&self.dir, relative, dir_flags(), Mode::empty(), resolve).on(op, path)
    }
}

fn dir_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

/// `fsopen`, `fsconfig`, `fsmount`: a mount in no namespace, without access times.
///
/// If the filesystem is in use, the kernel gives the superblock that it has.
/// Asking for a writable one would then turn a read-only filesystem writable
/// (seen on 6.18; `btrfs_reconfigure_for_mount`), so it is asked for read-only,
/// which never turns anything.
fn detached_mount(device: &Path, subvolume: u64, in_use: bool) -> rustix::io::Result<OwnedFd> {
    let fs = fsopen("btrfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "source", device)?;
    fsconfig_set_string(&fs, "subvolid", subvolume.to_string())?;
    if in_use {
        fsconfig_set_flag(&fs, "ro")?;
    }
    fsconfig_create(&fs)?;
    fsmount(
        &fs,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NOATIME,
    )
}

fn sysfs(uuid: Uuid) -> PathBuf {
    Path::new("/sys/fs/btrfs").join(uuid.to_string())
}

/// The nodes of the filesystem's devices by their kernel names. A system that
/// booted without an initramfs knows its root as /dev/root, which has no node.
fn device_nodes(uuid: Uuid) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(sysfs(uuid).join("devices"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            // sysfs has no slash in a name: cciss!c0d0p1 is /dev/cciss/c0d0p1.
            let name = entry.file_name().to_string_lossy().replace('!', "/");
            Path::new("/dev").join(name)
        })
}

fn is_block_device(node: &Path) -> bool {
    std::fs::metadata(node).is_ok_and(|m| m.file_type().is_block_device())
}

/// Whether some mount, of any namespace, uses the btrfs on this block device:
/// `/sys/fs/btrfs/UUID/devices` lists those of every open filesystem.
fn is_mounted(rdev: u64) -> bool {
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    let wanted = format!("{major}:{minor}");
    let filesystems = std::fs::read_dir("/sys/fs/btrfs").into_iter().flatten();
    filesystems
        .flatten()
        .filter_map(|fs| std::fs::read_dir(fs.path().join("devices")).ok())
        .flatten()
        .flatten()
        .filter_map(|device| std::fs::read_to_string(device.path().join("dev")).ok())
        .any(|dev| dev.trim_end() == wanted)
}

/// Whether it has the magic number of the first superblock
/// (`struct btrfs_super_block`, at 64 KiB).
fn holds_btrfs(device: &Path) -> std::io::Result<bool> {
    let mut magic = [0; 8];
    let file = std::fs::File::open(device)?;
    match file.read_exact_at(&mut magic, (64 << 10) + 64) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| &magic == b"_BHRfS_M"),
    }
}
