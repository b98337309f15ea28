//! Looking and reading.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, OFlags, Stat, fstat, readlinkat, statat};
use rustix::io::Errno;

use super::{DIR, FileType, Root, split};
use crate::error::Context;
use crate::{Error, Reason, Result};

/// The longest value of an attribute, in bytes; btrfs holds less.
const MAX_ATTRIBUTE: usize = 64 << 10;

/// What `stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: FileType,
    /// The permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// In bytes.
    pub size: u64,
    /// How many names it has.
    pub nlink: u64,
    /// The device number; on btrfs each subvolume has its own.
    pub dev: u64,
    /// The inode number.
    pub ino: u64,
    /// When its content changed: seconds since 1970, nanoseconds.
    pub mtime: (i64, u32),
    /// When anything of it changed: seconds since 1970, nanoseconds.
    pub ctime: (i64, u32),
}

impl From<Stat> for Metadata {
    #[allow(clippy::unnecessary_cast)] // the fields' types differ between architectures
    fn from(s: Stat) -> Metadata {
        Metadata {
            kind: FileType::from_mode(s.st_mode),
            mode: s.st_mode & 0o7777,
            uid: s.st_uid,
            gid: s.st_gid,
            size: s.st_size as u64,
            nlink: s.st_nlink as u64,
            dev: s.st_dev as u64,
            ino: s.st_ino as u64,
            mtime: (s.st_mtime as i64, s.st_mtime_nsec as u32),
            ctime: (s.st_ctime as i64, s.st_ctime_nsec as u32),
        }
    }
}

impl Root {
    /// An extended attribute of the directory itself; None if it has none of
    /// this name, or its filesystem has none at all.
    pub fn attribute(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let mut value = vec![0; MAX_ATTRIBUTE];
        match rustix::fs::fgetxattr(self, name, &mut value) {
            Ok(length) => {
                value.truncate(length);
                Ok(Some(value))
            }
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
            Err(error) => Err(error).on_fd("read an attribute of", self.as_fd()),
        }
    }

    /// What is at the path, symlinks followed.
    pub fn metadata(&self, path: impl AsRef<Path>) -> Result<Metadata> {
        let path = path.as_ref();
        Ok(fstat(self.path_fd(path)?).on("stat", path)?.into())
    }

    /// What is at the path, which may be a symlink.
    pub fn lstat(&self, path: impl AsRef<Path>) -> Result<Metadata> {
        const OP: &str = "stat";
        let path = path.as_ref();
        if split(path).is_none() {
            return self.metadata(path); // ends in a directory, not in a name
        }
        let (dir, name) = self.parent(OP, path)?;
        Ok(statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)
            .on(OP, path)?
            .into())
    }

    /// Whether there is something at the path, symlinks followed. What cannot
    /// be looked at is an error and not "no".
    pub fn exists(&self, path: impl AsRef<Path>) -> Result<bool> {
        Ok(found(self.metadata(path))?.is_some())
    }

    /// Whether there is a directory at the path, symlinks followed.
    pub fn is_dir(&self, path: impl AsRef<Path>) -> Result<bool> {
        Ok(found(self.metadata(path))?.is_some_and(|m| m.kind.is_dir()))
    }

    /// Whether there is a regular file at the path, symlinks followed.
    pub fn is_file(&self, path: impl AsRef<Path>) -> Result<bool> {
        Ok(found(self.metadata(path))?.is_some_and(|m| m.kind.is_file()))
    }

    /// The content of a file of at most `limit` bytes ([`Reason::TooLarge`]).
    pub fn read(&self, path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
        const OP: &str = "read";
        let path = path.as_ref();
        let file = self.file(path)?;
        // Most are smaller: one read, and one that finds the end.
        let mut content = Vec::with_capacity(4096);
        let mut limited = Read::take(file, limit.saturating_add(1));
        limited.read_to_end(&mut content).on(OP, path)?;
        if content.len() as u64 > limit {
            return Err(Error::new(OP, path, Reason::TooLarge(limit)));
        }
        Ok(content)
    }

    /// The content of a file of UTF-8 ([`Reason::NotUtf8`]) of at most `limit`
    /// bytes ([`Reason::TooLarge`]).
    pub fn read_to_string(&self, path: impl AsRef<Path>, limit: u64) -> Result<String> {
        let path = path.as_ref();
        let content = self.read(path, limit)?;
        String::from_utf8(content).map_err(|_| Error::new("read", path, Reason::NotUtf8))
    }

    /// The names in a directory and what they are, symlinks not followed,
    /// sorted by byte.
    pub fn list(&self, path: impl AsRef<Path>) -> Result<Vec<(OsString, FileType)>> {
        const OP: &str = "list";
        let path = path.as_ref();
        entries(self.resolve(OP, path, DIR)?).on(OP, path)
    }

    /// Where a symlink points to; the text is not to be trusted.
    pub fn readlink(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        const OP: &str = "read the link";
        let path = path.as_ref();
        let (dir, name) = self.parent(OP, path)?;
        let target = readlinkat(&dir, &name, Vec::new()).on(OP, path)?;
        Ok(OsString::from_vec(target.into_bytes()).into())
    }

    /// The path without symlinks of what is there, relative to the root, as
    /// the kernel has it now (`/proc/self/fd`): for messages, and to see where
    /// something really lies. Empty for the root itself.
    ///
    /// Errors: `ENOENT` if it was deleted, or the root was moved meanwhile.
    pub fn canonicalize(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        const OP: &str = "resolve";
        let path = path.as_ref();
        let there = crate::error::path_of(self.path_fd(path)?.as_fd());
        let root = crate::error::path_of(self.fd());
        let relative = there.strip_prefix(&root).map_err(|_| Errno::NOENT);
        Ok(relative.on(OP, path)?.to_owned())
    }

    /// How many files below a directory, itself not counted, have a change
    /// time (`ctime`) after `since`, in seconds since 1970. Symlinks are not
    /// followed, nested subvolumes and mounts are counted in. It reads every
    /// inode: where there is a snapshot to compare with,
    /// [`crate::TopLevel::changed_files`] is exact and faster.
    pub fn count_newer(&self, path: impl AsRef<Path>, since: i64) -> Result<usize> {
        const OP: &str = "list";
        let path = path.as_ref();
        let mut count = 0;
        let mut dirs = vec![path.to_owned()];
        while let Some(dir) = dirs.pop() {
            let fd = self.resolve(OP, &dir, DIR | OFlags::NOFOLLOW);
            let fd = match fd {
                // Removed meanwhile.
                Err(e) if e.is_not_found() && dir != path => continue,
                other => other?,
            };
            for (name, kind) in entries(&fd).on(OP, &dir)? {
                let inner = dir.join(&name);
                match statat(&fd, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(s) => count += usize::from(Metadata::from(s).ctime.0 > since),
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(error).on("stat", inner),
                }
                if kind.is_dir() {
                    dirs.push(inner);
                }
            }
        }
        Ok(count)
    }
}

/// None if there is nothing there.
fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The names in an open directory, sorted.
pub(super) fn entries(dir: impl AsFd) -> io::Result<Vec<(OsString, FileType)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            // Some filesystems do not tell.
            rustix::fs::FileType::Unknown => match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_mode(stat.st_mode),
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            },
            kind => kind.into(),
        };
        names.push((OsStr::from_bytes(name.to_bytes()).to_owned(), kind));
    }
    names.sort();
    Ok(names)
}
