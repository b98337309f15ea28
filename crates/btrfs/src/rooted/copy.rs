//! A copy of a whole tree in another subvolume, which shares its data.
//!
//! Not by `cp -a`: that leaves out the flags of chattr(1), of which `C` (no copy on write)
//! must be set before a file has content and decides whether its data can be shared; and a
//! cp that was built without ACLs or attributes, as Gentoo's may be, leaves those out
//! without a word.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FallocateFlags, FileType as Kind, Gid, IFlags, Mode, OFlags, SeekFrom, Stat, Timespec,
    Timestamps, Uid, XattrFlags, chmodat, chownat, fallocate, fstat, ftruncate, ioctl_ficlone,
    ioctl_getflags, ioctl_setflags, lgetxattr, linkat, llistxattr, lsetxattr, mkdirat, mknodat,
    openat, readlinkat, seek, statat, symlinkat, utimensat,
};
use rustix::io::{Errno, pread, pwrite};

use super::read::entries;
use super::{DIR, FileType, Root};
use crate::error::Context;
use crate::info::ROOT_INODE;
use crate::{Error, Reason, Result};

/// `BTRFS_EMPTY_SUBVOL_DIR_OBJECTID`: what a snapshot has in place of a nested subvolume.
const PLACEHOLDER_INODE: u64 = 2;

/// `PATH_MAX` is less: so deep no path can be typed, and each level holds two descriptors.
const MAX_DEPTH: usize = 400;

const BLOCK: usize = 1 << 20;

/// The flags of chattr(1) that btrfs keeps.
const KEPT: IFlags = IFlags::NOCOW
    .union(IFlags::COMPRESSED)
    .union(IFlags::SYNC)
    .union(IFlags::DIRSYNC)
    .union(IFlags::NODUMP)
    .union(IFlags::NOATIME)
    .union(IFlags::IMMUTABLE)
    .union(IFlags::APPEND);

/// Those that forbid what is still to be done: they come last.
pub(super) const LOCKS: IFlags = IFlags::IMMUTABLE.union(IFlags::APPEND);

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Files, directories and all else; the directory itself not counted.
    pub entries: u64,
    /// Bytes that could not be shared.
    pub written: u64,
    /// Files that have other names outside of the tree, from which they are apart now.
    pub separated: u64,
}

impl Root {
    /// Copies all that is in `from`, and the attributes of `from` itself, into this
    /// directory, which is empty and which nobody else can reach; `from` has to be on the
    /// same filesystem and must not change meanwhile: a read-only snapshot.
    ///
    /// Kept are owner, mode, times, extended attributes with ACLs and capabilities, flags
    /// of chattr(1), hard links within the tree, holes, symlinks, devices, fifos and
    /// sockets. File data is shared, but for swap files, which the kernel takes only if it
    /// is their own.
    ///
    /// Errors: [`Reason::Crossing`] if a subvolume or a mount lies in the tree.
    pub fn copy_from(&self, from: &Root) -> Result<Copied> {
        let top = fstat(from).on_fd("stat", from.fd())?;
        let mut copy = Copy {
            device: top.st_dev,
            links: HashMap::new(),
            copied: Copied::default(),
            to: self,
        };
        set_flags(self.fd(), flags_of(from.fd()).difference(LOCKS)).on_fd("copy", from.fd())?;
        copy.directory(from.fd(), self.fd(), Path::new(""))?;
        let missing = copy.links.values().filter(|link| link.2 > 0).count();
        copy.copied.separated = missing as u64;
        finish(from.fd(), self.fd(), OsStr::new("."), &top).on_fd("copy", from.fd())?;
        set_flags(self.fd(), flags_of(from.fd())).on_fd("copy", from.fd())?;
        Ok(copy.copied)
    }
}

struct Copy<'a> {
    device: u64,
    /// Of files with several names: the directory and the name of the first copy, and how
    /// many names are missing.
    links: HashMap<u64, (PathBuf, std::ffi::OsString, u64)>,
    copied: Copied,
    to: &'a Root,
}

impl Copy<'_> {
    fn directory(&mut self, from: BorrowedFd, to: BorrowedFd, at: &Path) -> Result<()> {
        const OP: &str = "copy";
        if at.components().count() > MAX_DEPTH {
            return Err(Errno::NAMETOOLONG).on(OP, at);
        }
        for (name, _) in entries(from).on(OP, at)? {
            let path = at.join(&name);
            let stat = statat(from, &name, AtFlags::SYMLINK_NOFOLLOW).on(OP, &path)?;
            self.copied.entries += 1;
            let kind = Kind::from_raw_mode(stat.st_mode);
            if kind == Kind::Directory {
                self.below(from, to, &name, &stat, &path)?;
            } else if !self.linked(to, &name, &stat, at).on(OP, &path)? {
                self.other(from, to, &name, &stat, kind).on(OP, &path)?;
            }
        }
        Ok(())
    }

    fn below(
        &mut self,
        from: BorrowedFd,
        to: BorrowedFd,
        name: &OsStr,
        stat: &Stat,
        path: &Path,
    ) -> Result<()> {
        const OP: &str = "copy";
        let inode = stat.st_ino;
        if stat.st_dev != self.device || inode == ROOT_INODE || inode == PLACEHOLDER_INODE {
            let reason = Reason::Crossing(path.to_owned());
            return Err(Error::new(OP, path, reason));
        }
        let open = |dir: BorrowedFd| openat(dir, name, DIR | OFlags::NOFOLLOW, Mode::empty());
        let source = open(from).on(OP, path)?;
        mkdirat(to, name, Mode::RWXU).on(OP, path)?;
        let target = open(to).on(OP, path)?;
        // First, because what is made in it inherits them.
        let flags = flags_of(source.as_fd());
        set_flags(target.as_fd(), flags.difference(LOCKS)).on(OP, path)?;
        self.directory(source.as_fd(), target.as_fd(), path)?;
        finish(from, to, name, stat).on(OP, path)?;
        set_flags(target.as_fd(), flags).on(OP, path)
    }

    /// Whether the file is there already under another name, of which this is one more.
    fn linked(
        &mut self,
        to: BorrowedFd,
        name: &OsStr,
        stat: &Stat,
        at: &Path,
    ) -> rustix::io::Result<bool> {
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        if let Some((dir, first, missing)) = self.links.get_mut(&stat.st_ino) {
            let dir = self.to.sub(&*dir).map_err(|_| Errno::NOENT)?;
            linkat(&dir, &*first, to, name, AtFlags::empty())?;
            *missing = missing.saturating_sub(1);
            return Ok(true);
        }
        #[allow(clippy::unnecessary_cast)] // its type differs between architectures
        let others = stat.st_nlink as u64 - 1;
        let first = (at.to_owned(), name.to_owned(), others);
        self.links.insert(stat.st_ino, first);
        Ok(false)
    }

    fn other(
        &mut self,
        from: BorrowedFd,
        to: BorrowedFd,
        name: &OsStr,
        stat: &Stat,
        kind: Kind,
    ) -> io::Result<()> {
        match kind {
            Kind::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let source = openat(from, name, flags, Mode::empty())?;
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let target = openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
                let flags = flags_of(source.as_fd());
                set_flags(target.as_fd(), flags.difference(LOCKS))?;
                self.copied.written += content(&source, &target, stat, flags)?;
                finish(from, to, name, stat)?;
                set_flags(target.as_fd(), flags)?;
                return Ok(());
            }
            Kind::Symlink => {
                let text = readlinkat(from, name, Vec::new())?;
                symlinkat(text, to, name)?;
            }
            _ => mknodat(to, name, kind, Mode::empty(), stat.st_rdev)?,
        }
        finish(from, to, name, stat)
    }
}

/// Share the data; gives the bytes that were written instead.
#[allow(clippy::cast_sign_loss)]
pub(super) fn content(from: &OwnedFd, to: &OwnedFd, stat: &Stat, flags: IFlags) -> io::Result<u64> {
    let size = stat.st_size as u64;
    if size == 0 {
        return Ok(0);
    }
    if flags.contains(IFlags::NOCOW) && is_swap(from) {
        // The kernel wants no holes and no sharing.
        fallocate(to, FallocateFlags::empty(), 0, size)?;
        return copy_range(from, to, 0, size);
    }
    match ioctl_ficlone(to, from) {
        Ok(()) => return Ok(0),
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::XDEV | Errno::TXTBSY) => {}
        Err(error) => return Err(error.into()),
    }
    ftruncate(to, size)?;
    let mut written = 0;
    let mut at = 0;
    while at < size {
        let start = match seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(from, SeekFrom::Hole(start))?.min(size);
        written += copy_range(from, to, start, end)?;
        at = end;
    }
    Ok(written)
}

fn copy_range(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> io::Result<u64> {
    let mut buffer = vec![0; BLOCK];
    let mut at = start;
    while at < end {
        let wanted = BLOCK.min(usize::try_from(end - at).unwrap_or(BLOCK));
        let read = pread(from, &mut buffer[..wanted], at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        while done < read {
            done += pwrite(to, &buffer[done..read], at + done as u64)?;
        }
        at += read as u64;
    }
    Ok(end - start)
}

/// Whether mkswap was here (`union swap_header`, linux/swap.h: at the end of a page).
pub(super) fn is_swap(file: impl AsFd) -> bool {
    [4 << 10, 16 << 10, 64 << 10].into_iter().any(|page: u64| {
        let mut magic = [0; 10];
        let read = pread(&file, &mut magic[..], page - 10);
        read == Ok(10) && [b"SWAPSPACE2", b"SWAP-SPACE"].contains(&&magic)
    })
}

/// Owner, mode, attributes, times, in this order: a change of owner drops setuid and
/// capabilities, an ACL is part of the mode, and all but times change times.
fn finish(from: BorrowedFd, to: BorrowedFd, name: &OsStr, stat: &Stat) -> io::Result<()> {
    let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    chownat(to, name, Some(owner.0), Some(owner.1), nofollow)?;
    if Kind::from_raw_mode(stat.st_mode) != Kind::Symlink {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        chmodat(to, name, mode, AtFlags::empty())?;
    }
    attributes(&proc_path(from, name), &proc_path(to, name))?;
    let times = Timestamps {
        last_access: timespec(stat.st_atime, stat.st_atime_nsec),
        last_modification: timespec(stat.st_mtime, stat.st_mtime_nsec),
    };
    Ok(utimensat(to, name, &times, nofollow)?)
}

#[allow(clippy::unnecessary_cast)] // the fields' types differ between architectures
pub(super) fn timespec(seconds: impl Into<i64>, nanoseconds: impl TryInto<i64>) -> Timespec {
    Timespec {
        tv_sec: seconds.into(),
        tv_nsec: nanoseconds.try_into().unwrap_or(0) as _,
    }
}

/// The name in the open directory, whatever happens to its path.
pub(super) fn proc_path(dir: BorrowedFd, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd")
        .join(dir.as_raw_fd().to_string())
        .join(name)
}

pub(super) fn attributes(from: &Path, to: &Path) -> io::Result<()> {
    let mut value = vec![0; 64 << 10]; // XATTR_SIZE_MAX
    for name in attribute_names(from)? {
        let known = OsStr::from_bytes(&name);
        let len = lgetxattr(from, known, &mut value[..])?;
        match lsetxattr(to, known, &value[..len], XattrFlags::empty()) {
            Ok(()) => {}
            // A label without its policy in the kernel.
            Err(Errno::NOTSUP) if name.starts_with(b"security.") => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn attribute_names(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut names = vec![0; 64 << 10]; // XATTR_LIST_MAX
    let len = match llistxattr(path, &mut names[..]) {
        Ok(len) => len,
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let names = names[..len].split(|&c| c == 0).filter(|n| !n.is_empty());
    Ok(names.map(<[u8]>::to_vec).collect())
}

/// Takes away the attributes that the one has not.
pub(super) fn remove_attributes(from: &Path, to: &Path) -> io::Result<()> {
    let kept = attribute_names(from)?;
    for name in attribute_names(to)? {
        if !kept.contains(&name) {
            match rustix::fs::lremovexattr(to, OsStr::from_bytes(&name)) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

pub(super) fn flags_of(fd: BorrowedFd) -> IFlags {
    // What has no flags has none to keep.
    ioctl_getflags(fd)
        .unwrap_or(IFlags::empty())
        .intersection(KEPT)
}

pub(super) fn set_flags(fd: BorrowedFd, flags: IFlags) -> rustix::io::Result<()> {
    let now = ioctl_getflags(fd)?;
    if now.intersection(KEPT) == flags {
        return Ok(());
    }
    ioctl_setflags(fd, now.difference(KEPT).union(flags))
}

/// What is in a tree, for who wants to copy it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inside {
    /// The inodes of all that is in it, the directory itself among them.
    pub inodes: std::collections::HashSet<u64>,
    /// Bytes of swap files, which cannot be shared.
    pub swap: u64,
    /// Directories that are other subvolumes, or mounts, as paths below it.
    pub crossings: Vec<PathBuf>,
}

impl Root {
    /// Walks the directory; what is removed meanwhile is passed over.
    pub fn inside(&self) -> Result<Inside> {
        const OP: &str = "list";
        let top = fstat(self).on_fd("stat", self.fd())?;
        let mut found = Inside::default();
        found.inodes.insert(top.st_ino);
        let mut dirs = vec![PathBuf::new()];
        while let Some(at) = dirs.pop() {
            let fd = match self.resolve(OP, &at, DIR | OFlags::NOFOLLOW) {
                Err(e) if e.is_not_found() => continue,
                other => other?,
            };
            for (name, _) in entries(&fd).on(OP, &at)? {
                let path = at.join(&name);
                let stat = match statat(&fd, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => continue,
                    other => other.on(OP, &path)?,
                };
                let kind = FileType::from_mode(stat.st_mode);
                if stat.st_dev != top.st_dev || stat.st_ino == ROOT_INODE {
                    found.crossings.push(path);
                    continue;
                }
                found.inodes.insert(stat.st_ino);
                if kind.is_dir() {
                    dirs.push(path);
                } else if kind.is_file() && stat.st_size >= 64 << 10 {
                    found.swap += swap_size(&fd, &name, &stat);
                }
            }
        }
        found.crossings.sort();
        Ok(found)
    }
}

#[allow(clippy::cast_sign_loss)]
fn swap_size(dir: &OwnedFd, name: &OsStr, stat: &Stat) -> u64 {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOATIME | OFlags::CLOEXEC;
    match openat(dir, name, flags, Mode::empty()) {
        Ok(file) if flags_of(file.as_fd()).contains(IFlags::NOCOW) && is_swap(&file) => {
            stat.st_size as u64
        }
        _ => 0,
    }
}
