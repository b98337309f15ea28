//! Paths inside a directory that is not trusted.
//!
//! An environment is a whole system: an absolute symlink, a `..` or a link of
//! /proc in it may point at the running one. Every path here is opened with
//! `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)` relative to a [`Root`],
//! so that all of them stay in it, as after a chroot. Paths may start with a
//! slash; it is the root's.
//!
//! It does not stop at mounts or nested subvolumes ([`Root::remove_tree`] does).

mod copy;
mod put;
mod read;
mod remove;
mod write;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat, openat2};
use rustix::io::Errno;

use crate::error::Context;
use crate::{Error, Reason, Result};

pub use copy::{Copied, Inside};
pub use put::{Content, Parts};
pub use read::Metadata;
pub use write::Staged;

/// A directory that the paths given to its methods cannot leave.
///
/// Errors of all methods: the errno of the system call, with the path as it
/// was given. A loop of symlinks, or a link of /proc, is `ELOOP`.
#[derive(Debug)]
pub struct Root(OwnedFd);

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A device, fifo or socket.
    Special,
}

impl FileType {
    /// That of `st_mode`.
    pub fn from_mode(mode: u32) -> FileType {
        rustix::fs::FileType::from_raw_mode(mode).into()
    }

    /// Whether it is a regular file.
    pub fn is_file(self) -> bool {
        self == FileType::File
    }

    /// Whether it is a directory.
    pub fn is_dir(self) -> bool {
        self == FileType::Dir
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(self) -> bool {
        self == FileType::Symlink
    }
}

impl From<rustix::fs::FileType> for FileType {
    fn from(kind: rustix::fs::FileType) -> FileType {
        match kind {
            rustix::fs::FileType::RegularFile => FileType::File,
            rustix::fs::FileType::Directory => FileType::Dir,
            rustix::fs::FileType::Symlink => FileType::Symlink,
            _ => FileType::Special,
        }
    }
}

impl Root {
    /// The directory at this path, which is trusted: the process' own view.
    pub fn open(path: &Path) -> Result<Root> {
        Ok(Root(open(path, DIR, Mode::empty()).on("open", path)?))
    }

    /// An open directory; an `O_PATH` one is opened again.
    pub fn from_fd(fd: OwnedFd) -> Result<Root> {
        Ok(Root(
            openat(&fd, ".", DIR, Mode::empty()).on_fd("open", fd.as_fd())?,
        ))
    }

    /// A directory below as a root of its own: paths of it cannot leave it.
    pub fn sub(&self, path: impl AsRef<Path>) -> Result<Root> {
        Ok(Root(self.resolve("open", path.as_ref(), DIR)?))
    }

    /// Another handle of the same directory.
    pub fn try_clone(&self) -> Result<Root> {
        Ok(Root(self.0.try_clone().on_fd("open", self.as_fd())?))
    }

    /// The directory's descriptor, open for reading.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// A file, to read it. Does not wait on a fifo, and opens no device: those
    /// are `ENXIO`.
    pub fn file(&self, path: impl AsRef<Path>) -> Result<File> {
        const OP: &str = "open";
        let path = path.as_ref();
        // Looked at first: the mere opening of a device can have effects.
        let looked = self.path_fd(path)?;
        let stat = rustix::fs::fstat(&looked).on(OP, path)?;
        if FileType::from_mode(stat.st_mode) == FileType::Special {
            return Err(Errno::NXIO).on(OP, path);
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        Ok(self.resolve(OP, path, flags)?.into())
    }

    /// A handle (`O_PATH`) of whatever is at the path, symlinks followed.
    pub fn path_fd(&self, path: impl AsRef<Path>) -> Result<OwnedFd> {
        self.resolve("open", path.as_ref(), OFlags::PATH)
    }

    /// A handle (`O_PATH`) to attach a mount to: with no symlink anywhere on
    /// the way, so that it is where its name says (`ELOOP` otherwise).
    pub fn mount_point(&self, path: impl AsRef<Path>) -> Result<OwnedFd> {
        let path = path.as_ref();
        let resolve = IN_ROOT.union(ResolveFlags::NO_SYMLINKS);
        openat2_retry(self.fd(), or_dot(path), OFlags::PATH, resolve).on("open", path)
    }

    fn resolve(&self, op: &'static str, path: &Path, flags: OFlags) -> Result<OwnedFd> {
        openat2_retry(self.fd(), or_dot(path), flags, IN_ROOT).on(op, path)
    }

    /// The directory that holds the last name of a path, symlinks on the way
    /// followed, and that name: for calls that act on a name.
    fn parent(&self, op: &'static str, path: &Path) -> Result<(OwnedFd, OsString)> {
        let (dir, name) = split(path).ok_or_else(|| Error::new(op, path, Reason::BadName))?;
        let dir = openat2_retry(self.fd(), or_dot(dir), DIR, IN_ROOT).on(op, path)?;
        Ok((dir, name.to_owned()))
    }

    /// The path with a symlink as its last name replaced by what it points to,
    /// until it is none. The result is only used below the same root.
    fn follow(&self, op: &'static str, path: &Path) -> Result<PathBuf> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            let (dir, name) = self.parent(op, &path)?;
            match rustix::fs::readlinkat(&dir, &name, Vec::new()) {
                Ok(target) => {
                    let target = Path::new(OsStr::from_bytes(target.to_bytes()));
                    // An absolute target replaces all: the root's slash.
                    path = path.parent().unwrap_or(Path::new("")).join(target);
                }
                Err(Errno::INVAL | Errno::NOENT) => return Ok(path),
                Err(error) => return Err(error).on(op, path),
            }
        }
        Err(Errno::LOOP).on(op, path)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// As many as the kernel follows.
const MAX_LINKS: usize = 40;
const DIR: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);
const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// `openat2` of an existing file. `EAGAIN` says that a rename elsewhere on the
/// system made it unsure of a `..`, and that it is worth another try.
fn openat2_retry(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    for _ in 0..64 {
        match openat2(dir, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            done => return done,
        }
    }
    Err(Errno::AGAIN)
}

fn or_dot(path: &Path) -> &Path {
    if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    }
}

/// Directory and last name; None if the path ends in none (`/`, `..`, `.`).
fn split(path: &Path) -> Option<(&Path, &OsStr)> {
    // Path::file_name would see "a" in "a/.".
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.len() - bytes.iter().rev().take_while(|&&c| c == b'/').count();
    let start = bytes[..end]
        .iter()
        .rposition(|&c| c == b'/')
        .map_or(0, |i| i + 1);
    let name = &bytes[start..end];
    if name.is_empty() || name == b"." || name == b".." || name.contains(&0) {
        return None;
    }
    let dir = Path::new(OsStr::from_bytes(&bytes[..start]));
    Some((dir, OsStr::from_bytes(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_name() {
        let split = |path| {
            let (dir, name) = split(Path::new(path))?;
            Some((dir.to_str().unwrap(), name.to_str().unwrap()))
        };
        assert_eq!(split("a"), Some(("", "a")));
        assert_eq!(split("/a"), Some(("/", "a")));
        assert_eq!(split("a/b//"), Some(("a/", "b")));
        assert_eq!(split("../a"), Some(("../", "a")));
        for none in ["", "/", ".", "..", "a/..", "a/.", "a\0"] {
            assert_eq!(split(none), None, "{none:?}");
        }
    }
}
