//! Removing.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, ResolveFlags, fstat, statat, unlinkat};
use rustix::io::Errno;

use super::put::set_times;
use super::read::entries;
use super::{DIR, FileType, Root, openat2_retry};
use crate::error::Context;
use crate::info::ROOT_INODE;
use crate::{Error, Reason, Result};

/// `BTRFS_EMPTY_SUBVOL_DIR_OBJECTID`: what a snapshot has in place of a nested
/// subvolume. It is empty, and may have a device number of its own.
const PLACEHOLDER_INODE: u64 = 2;

impl Root {
    /// Removes a name that is not a directory.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<()> {
        const OP: &str = "remove";
        let path = path.as_ref();
        let (dir, name) = self.parent(OP, path)?;
        unlinkat(&dir, &name, AtFlags::empty()).on(OP, path)
    }

    /// Removes an empty directory. Never a subvolume: the kernel would delete
    /// an empty one.
    pub fn rmdir(&self, path: impl AsRef<Path>) -> Result<()> {
        const OP: &str = "remove the directory";
        let path = path.as_ref();
        let (dir, name) = self.parent(OP, path)?;
        let stat = statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW).on(OP, path)?;
        if stat.st_ino == ROOT_INODE && stat.st_dev != fstat(&dir).on(OP, path)?.st_dev {
            return Err(Error::new(OP, path, Reason::Crossing(path.into())));
        }
        unlinkat(&dir, &name, AtFlags::REMOVEDIR).on(OP, path)
    }

    /// Removes the empty directories that a snapshot has in the places of subvolumes, in all of
    /// the subvolume that this is the root of; gives how many. Nothing can be made in them, and
    /// what holds one cannot be removed by who does not see it, as a stream of `btrfs send`.
    /// The times of the directories above them stay. Needs a descriptor for each level.
    pub fn remove_placeholders(&self) -> Result<u64> {
        let root = self.sub(".")?;
        placeholders(root.fd(), Path::new("")).map_err(|(path, error)| {
            Error::new(
                "remove what stands for a subvolume in",
                path,
                Reason::Io(error),
            )
        })
    }

    /// Removes a directory and all below it, or a file. Symlinks are removed
    /// and not followed.
    ///
    /// If a mount or another subvolume lies at the path or below it, nothing
    /// is removed ([`Reason::Crossing`]). Needs a descriptor for each level.
    pub fn remove_tree(&self, path: impl AsRef<Path>) -> Result<()> {
        const OP: &str = "remove";
        let path = path.as_ref();
        let (dir, name) = self.parent(OP, path)?;
        // All is looked at before the first removal, and again at it.
        for pass in [Pass::Look, Pass::Remove] {
            match visit(dir.as_fd(), &name, path, pass) {
                Ok(()) => {}
                Err(Stop::Crossing(at)) => {
                    return Err(Error::new(OP, path, Reason::Crossing(at)));
                }
                Err(Stop::Failed(at, error)) => return Err(error).on(OP, at),
            }
        }
        Ok(())
    }
}

/// Below one directory of a subvolume.
fn placeholders(
    dir: BorrowedFd<'_>,
    path: &Path,
) -> std::result::Result<u64, (PathBuf, io::Error)> {
    let failed = |error: io::Error| (path.to_owned(), error);
    let errno = |error: Errno| failed(error.into());
    let mut found = Vec::new();
    let mut count = 0;
    for (name, kind) in entries(dir).map_err(failed)? {
        if !kind.is_dir() {
            continue;
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        let child = openat2_retry(dir, Path::new(&name), DIR, resolve).map_err(errno)?;
        match fstat(&child).map_err(errno)?.st_ino {
            PLACEHOLDER_INODE => found.push(name),
            ROOT_INODE => {}
            _ => count += placeholders(child.as_fd(), &path.join(&name))?,
        }
    }
    if found.is_empty() {
        return Ok(count);
    }
    let before = fstat(dir).map_err(errno)?;
    for name in &found {
        unlinkat(dir, name, AtFlags::REMOVEDIR).map_err(errno)?;
    }
    set_times(dir, OsStr::new("."), &before).map_err(failed)?;
    Ok(count + found.len() as u64)
}

#[derive(Clone, Copy, PartialEq)]
enum Pass {
    Look,
    Remove,
}

enum Stop {
    Crossing(PathBuf),
    Failed(PathBuf, io::Error),
}

fn visit(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    path: &Path,
    pass: Pass,
) -> std::result::Result<(), Stop> {
    let failed = |error: io::Error| Stop::Failed(path.to_owned(), error);
    let errno = |error: Errno| failed(error.into());
    let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(errno)?;
    let is_dir = FileType::from_mode(stat.st_mode).is_dir();
    if is_dir {
        let child = open_same(dir, name).map_err(|error| match error {
            Errno::XDEV => Stop::Crossing(path.to_owned()),
            other => errno(other),
        })?;
        for (inner, _) in entries(&child).map_err(failed)? {
            visit(child.as_fd(), &inner, &path.join(&inner), pass)?;
        }
    }
    if pass == Pass::Look {
        return Ok(());
    }
    let flags = match is_dir {
        true => AtFlags::REMOVEDIR,
        false => AtFlags::empty(),
    };
    unlinkat(dir, name, flags).map_err(errno)
}

/// Opens a directory of the same mount and subvolume; `EXDEV` otherwise.
fn open_same(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let child = openat2_retry(dir, Path::new(name), DIR, resolve)?;
    // NO_XDEV stops at mounts and lets nested subvolumes pass.
    let stat = fstat(&child)?;
    if stat.st_dev != fstat(dir)?.st_dev && stat.st_ino != PLACEHOLDER_INODE {
        return Err(Errno::XDEV);
    }
    Ok(child)
}
