//! Making and deleting subvolumes.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use btrfsutil::BtrfsUtilError;
use btrfsutil::subvolume::{SnapshotFlags, Subvolume};
use nix::errno::Errno;
use rustix::fs::{Mode as FileMode, OFlags, fstat, openat};

use crate::error::{Context, path_of};
use crate::info::ROOT_INODE;
use crate::{Error, Reason, Result, SubvolumeInfo, TopLevel, Uuid, ioctl};

/// Whether a snapshot can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// For good: making it writable later would break incremental sends.
    ReadOnly,
    /// As the original was.
    Writable,
}

impl TopLevel {
    /// Makes a snapshot of the subvolume whose root directory is `from`, as
    /// `name` in `to_dir`, and commits. Both may be descriptors of any mount of
    /// this filesystem, `O_PATH` too. Returns what btrfs knows of the new one.
    ///
    /// A subvolume nested in the original becomes an empty directory, inode 2,
    /// in which nothing can be created; `rmdir` and `mkdir` replace it.
    ///
    /// Errors: [`Reason::NotSubvolume`], [`Reason::BadName`], and by errno
    /// `EEXIST`, `ENOSPC`, `EDQUOT`, `EROFS`, `EXDEV` (another filesystem), and
    /// `ETXTBSY`: an active swap file is in the original.
    pub fn snapshot(
        &self,
        from: BorrowedFd<'_>,
        to_dir: BorrowedFd<'_>,
        name: &OsStr,
        mode: Mode,
    ) -> Result<SubvolumeInfo> {
        const OP: &str = "snapshot";
        check_name(OP, name)?;
        let flags = match mode {
            Mode::ReadOnly => SnapshotFlags::READ_ONLY,
            Mode::Writable => SnapshotFlags::empty(),
        };
        let source = util(|| Subvolume::get(&*proc_path(from)), OP, || path_of(from))?;
        util(
            || source.snapshot(&*proc_path(to_dir).join(name), flags, None),
            OP,
            || path_of(from),
        )?;
        child_info(to_dir, name)
    }

    /// Makes an empty subvolume, mode 0755 less the umask. It is not committed.
    ///
    /// Errors: [`Reason::BadName`]; `EEXIST`, `ENOSPC`, `EDQUOT`, `EROFS`.
    pub fn create_subvolume(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<SubvolumeInfo> {
        const OP: &str = "create the subvolume";
        check_name(OP, name)?;
        util(
            || Subvolume::create(&*proc_path(dir).join(name), None),
            OP,
            || path_of(dir).join(name),
        )?;
        child_info(dir, name)
    }

    /// Deletes the subvolume `name` in `dir` if its UUID is `expect`.
    ///
    /// It is opened, checked and then deleted by its id, so that whatever takes
    /// the name in between is safe (btrfsutil deletes by name). The deletion is
    /// not committed: [`TopLevel::commit`], or [`TopLevel::sync`] to have the
    /// space back soon.
    ///
    /// The kernel also deletes a subvolume that is mounted: the caller looks.
    ///
    /// Errors: [`Reason::WrongSubvolume`] and [`Reason::NotSubvolume`], with
    /// nothing done; `ENOENT`; `ENOTEMPTY` if it contains subvolumes; `EPERM`
    /// if it is the default one or being sent; `EROFS`.
    pub fn delete_subvolume(&self, dir: BorrowedFd<'_>, name: &OsStr, expect: Uuid) -> Result<()> {
        const OP: &str = "delete the subvolume";
        let failed = |reason| Error::new(OP, path_of(dir).join(name), reason);
        check_name(OP, name)?;
        let child = open_child(dir, name).map_err(|e| failed(Reason::Io(e.into())))?;
        let is_root = fstat(&child).is_ok_and(|s| s.st_ino == ROOT_INODE);
        if !is_root || !crate::is_btrfs(&child)? {
            return Err(failed(Reason::NotSubvolume));
        }
        let info = ioctl::subvolume_info(child.as_fd()).map_err(|e| failed(Reason::Io(e)))?;
        let of_this_filesystem = ioctl::fs_info(child.as_fd())
            .map_err(|e| failed(Reason::Io(e)))?
            .fsid
            == self.fs_uuid();
        // A nil UUID proves nothing.
        if info.uuid != expect || expect.is_nil() || !of_this_filesystem {
            let found = info.uuid;
            return Err(failed(Reason::WrongSubvolume {
                expected: expect,
                found,
            }));
        }
        drop(child);
        ioctl::destroy_by_id(self.fd(), info.id).map_err(|e| failed(Reason::Io(e)))
    }

    /// Writes the stream of a read-only subvolume, given by its root directory, to a pipe;
    /// with a parent, what is different from that one. Returns when all was written.
    ///
    /// Errors: by errno `EPIPE`, nobody reads any more; `EPERM`, one of them can be written;
    /// `EAGAIN`, one of them is being deduplicated or relocated.
    pub fn send(
        &self,
        from: BorrowedFd<'_>,
        parent: Option<u64>,
        to: BorrowedFd<'_>,
    ) -> Result<()> {
        ioctl::send(from, parent, to).on_fd("send", from)
    }

    /// Marks a subvolume that was written from a stream as a copy of the one with this UUID,
    /// as it was in the transaction `transid` of its own filesystem, and makes it read-only
    /// for good. Everything in it is on the disk before. Gives what btrfs knows of it then.
    ///
    /// Errors: `EROFS`, `ENOSPC`.
    pub fn seal(&self, root: BorrowedFd<'_>, uuid: Uuid, transid: u64) -> Result<SubvolumeInfo> {
        const OP: &str = "seal the subvolume";
        self.sync()?;
        ioctl::set_received(root, uuid, transid).on_fd(OP, root)?;
        let subvolume = util(|| Subvolume::get(&*proc_path(root)), OP, || path_of(root))?;
        util(|| subvolume.set_ro(true), OP, || path_of(root))?;
        self.commit()?;
        ioctl::subvolume_info(root).on_fd(OP, root)
    }

    /// The id of the subvolume that a mount without `subvol=` gets.
    pub fn default_subvolume(&self) -> Result<u64> {
        // btrfsutil's path for it is the one it was asked with: only its id counts.
        util(
            || Subvolume::get_default(&*proc_path(self.fd())),
            "find the default subvolume of",
            || self.device().into(),
        )
        .map(|default| default.id())
    }
}

/// `START_SYNC`, then `WAIT_SYNC`.
pub(crate) fn commit(fd: BorrowedFd<'_>) -> Result<()> {
    util(
        || btrfsutil::sync::sync(&*proc_path(fd)),
        "commit",
        || path_of(fd),
    )
}

/// btrfsutil takes paths: this one is the open file itself, whatever happens
/// to its name.
fn proc_path(fd: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// Runs a call of btrfsutil. Its errors carry no errno, but the C library
/// leaves it set.
fn util<T>(
    call: impl FnOnce() -> std::result::Result<T, BtrfsUtilError>,
    op: &'static str,
    path: impl FnOnce() -> PathBuf,
) -> Result<T> {
    Errno::clear();
    call().map_err(|said| {
        let errno = io::Error::last_os_error();
        let reason = match said {
            BtrfsUtilError::NotBtrfs => Reason::NotBtrfs,
            BtrfsUtilError::NotSubvolume => Reason::NotSubvolume,
            said => Reason::Util(said, errno),
        };
        Error::new(op, path(), reason)
    })
}

/// The name goes into a path, and with a NUL in it btrfsutil would panic.
fn check_name(op: &'static str, name: &OsStr) -> Result<()> {
    let bytes = name.as_bytes();
    let bad = bytes.is_empty()
        || bytes.len() > 255
        || bytes == b"."
        || bytes == b".."
        || bytes.iter().any(|c| matches!(c, b'/' | 0));
    if bad {
        return Err(Error::new(op, name, Reason::BadName));
    }
    Ok(())
}

fn open_child(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<std::os::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, FileMode::empty())
}

fn child_info(dir: BorrowedFd<'_>, name: &OsStr) -> Result<SubvolumeInfo> {
    const OP: &str = "read the subvolume";
    let path = || path_of(dir).join(name);
    let child = open_child(dir, name).map_err(|e| Error::new(OP, path(), Reason::Io(e.into())))?;
    ioctl::subvolume_info(child.as_fd()).on(OP, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_one_name() {
        let long = "x".repeat(256);
        for name in ["", ".", "..", "a/b", "/", "a\0b", &long] {
            let error = check_name("create", OsStr::new(name)).unwrap_err();
            assert!(matches!(error.reason(), Reason::BadName), "{name:?}");
        }
        for name in ["a", "...", "a b", "a\nb", "\"", &long[1..]] {
            assert!(check_name("create", OsStr::new(name)).is_ok(), "{name:?}");
        }
        assert!(check_name("create", OsStr::from_bytes(b"\xff")).is_ok());
    }
}
