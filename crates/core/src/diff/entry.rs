//! One name in two directories: what differs. Nothing here follows a link: a name is only
//! ever opened in the directory that it was read from.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::ops::{ControlFlow, Range};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use be_btrfs::FileType;
use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, Stat, openat2, readlinkat, statat};
use rustix::io::Errno;

/// In which way a file that is on both sides differs. Times alone are no difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Aspect {
    /// It was a file and is a directory, for example.
    Type,
    /// What it contains; where a link points to; the number of a device.
    Content,
    /// The permission bits.
    Mode,
    /// User or group.
    Owner,
    /// Extended attributes: access lists, capabilities and the like.
    Attributes,
}

impl Aspect {
    /// The word in texts.
    pub fn as_str(self) -> &'static str {
        match self {
            Aspect::Type => "type",
            Aspect::Content => "content",
            Aspect::Mode => "mode",
            Aspect::Owner => "owner",
            Aspect::Attributes => "attributes",
        }
    }
}

/// As much of a file as is read at once, in bytes.
const CHUNK: usize = 128 << 10;

/// The longest list of attributes and the longest value that Linux allows, in bytes.
const MAX_XATTR: usize = 64 << 10;

/// The subvolume in whose place there is nothing: `BTRFS_EMPTY_SUBVOL_DIR_OBJECTID`.
const PLACEHOLDER: u64 = 2;

/// What stands at a name.
#[derive(Debug, Clone, Copy)]
pub struct Meta {
    /// What it is.
    pub kind: FileType,
    /// The inode's number.
    pub ino: u64,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    rdev: u64,
    dev: u64,
    /// How many names it has.
    pub nlink: u64,
    ctime: (i64, u64),
}

impl From<Stat> for Meta {
    #[allow(clippy::unnecessary_cast)] // the fields' types differ between architectures
    fn from(s: Stat) -> Self {
        Self {
            kind: FileType::from_mode(s.st_mode),
            ino: s.st_ino as u64,
            mode: s.st_mode,
            owner: (s.st_uid, s.st_gid),
            size: s.st_size as u64,
            rdev: s.st_rdev as u64,
            dev: s.st_dev as u64,
            nlink: s.st_nlink as u64,
            ctime: (s.st_ctime as i64, s.st_ctime_nsec as u64),
        }
    }
}

impl Meta {
    /// Whether it is a socket.
    pub fn is_socket(&self) -> bool {
        rustix::fs::FileType::from_raw_mode(self.mode) == rustix::fs::FileType::Socket
    }

    /// Whether it is the root of another subvolume, or was one before the snapshot. Each
    /// subvolume has a device number of its own.
    pub fn is_foreign(&self, dev: u64, btrfs: bool) -> bool {
        self.kind.is_dir() && (self.dev != dev || (btrfs && self.ino == PLACEHOLDER))
    }

    /// Whether both are one inode that neither side has touched since they were one
    /// subvolume: the time of its last change, which nobody can set, is the same and was
    /// before they `parted`, in seconds since 1970.
    pub fn is_untouched(&self, other: &Self, parted: Option<i64>) -> bool {
        self.ino == other.ino
            && self.ctime == other.ctime
            && (self.mode, self.owner, self.size) == (other.mode, other.owner, other.size)
            // The clock ticks; what was written within one tick looks the same.
            && parted.is_some_and(|parted| self.ctime.0 + 1 < parted)
    }
}

fn none_if_gone<T>(result: Result<T, Errno>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        // The running system goes on while it is read.
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// What stands at a name of a directory.
pub fn stat(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Meta>> {
    let stat = none_if_gone(statat(dir, name, AtFlags::SYMLINK_NOFOLLOW))?;
    Ok(stat.map(Meta::from))
}

/// Open what is below `dir`, without a link anywhere on the way. None if it is not there,
/// or a link is.
fn open(dir: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<Option<OwnedFd>> {
    let path = match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    };
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    for _ in 0..64 {
        match openat2(dir, path, flags, Mode::empty(), resolve) {
            // Something was renamed on the way; openat2(2) asks to try again.
            Err(Errno::AGAIN) => {}
            Err(Errno::LOOP) => return Ok(None),
            other => return none_if_gone(other),
        }
    }
    Err(Errno::AGAIN.into())
}

/// A directory below another.
pub fn open_dir(dir: BorrowedFd<'_>, path: &Path) -> io::Result<Option<OwnedFd>> {
    open(dir, path, OFlags::DIRECTORY)
}

/// The names in a directory and their inodes, sorted.
pub fn names(dir: &OwnedFd) -> io::Result<Vec<(OsString, u64)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push((OsStr::from_bytes(name).to_owned(), entry.ino()));
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// How it is found out whether two files have the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// By reading both.
    All,
    /// By reading both; of large ones only what btrfs does not know to be the same. The
    /// filesystem is synced.
    Unshared,
}

/// Of what is larger, not all is read with [`Reading::Unshared`], in bytes.
const LARGE: u64 = 64 << 20;

impl Reading {
    fn same_content(
        self,
        (dir_a, a): (BorrowedFd<'_>, &Meta),
        (dir_b, b): (BorrowedFd<'_>, &Meta),
        name: &OsStr,
    ) -> io::Result<bool> {
        match self == Reading::Unshared && a.size > LARGE {
            false => same_content(dir_a, dir_b, name),
            // One file before the snapshot; nobody can set the time of its last change.
            true if a.ino == b.ino && a.ctime == b.ctime => Ok(true),
            true => same_unshared(dir_a, dir_b, name, a.size),
        }
    }
}

/// In which ways two things at one name differ; directories by themselves, not by what is
/// in them.
pub fn aspects(
    (dir_a, a): (BorrowedFd<'_>, &Meta),
    (dir_b, b): (BorrowedFd<'_>, &Meta),
    name: &OsStr,
    reading: Reading,
) -> io::Result<Vec<Aspect>> {
    let format = |mode: u32| rustix::fs::FileType::from_raw_mode(mode);
    if format(a.mode) != format(b.mode) {
        return Ok(vec![Aspect::Type]);
    }
    let mut found = Vec::new();
    let same = match a.kind {
        FileType::File if a.size != b.size => false,
        FileType::File => reading.same_content((dir_a, a), (dir_b, b), name)?,
        FileType::Symlink => link(dir_a, name)? == link(dir_b, name)?,
        FileType::Special => a.rdev == b.rdev,
        FileType::Dir => true,
    };
    if !same {
        found.push(Aspect::Content);
    }
    if a.mode != b.mode {
        found.push(Aspect::Mode);
    }
    if a.owner != b.owner {
        found.push(Aspect::Owner);
    }
    if attributes(dir_a, name)? != attributes(dir_b, name)? {
        found.push(Aspect::Attributes);
    }
    Ok(found)
}

fn link(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
    let target = none_if_gone(readlinkat(dir, name, Vec::new()))?;
    Ok(target.map(std::ffi::CString::into_bytes))
}

/// Whether two regular files have the same bytes; one that is gone has not.
pub fn same_content(a: BorrowedFd<'_>, b: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool> {
    let open = |dir| open(dir, Path::new(name), OFlags::NONBLOCK | OFlags::NOCTTY);
    let (Some(a), Some(b)) = (open(a)?, open(b)?) else {
        return Ok(false);
    };
    let (mut a, mut b) = (std::fs::File::from(a), std::fs::File::from(b));
    let (mut left, mut right) = (Vec::with_capacity(CHUNK), Vec::with_capacity(CHUNK));
    loop {
        left.clear();
        right.clear();
        let count = (&mut a).take(CHUNK as u64).read_to_end(&mut left)?;
        (&mut b).take(CHUNK as u64).read_to_end(&mut right)?;
        if left != right {
            return Ok(false);
        }
        if count < CHUNK {
            return Ok(true);
        }
    }
}

/// As [`same_content`], of two files of one size.
fn same_unshared(
    a: BorrowedFd<'_>,
    b: BorrowedFd<'_>,
    name: &OsStr,
    size: u64,
) -> io::Result<bool> {
    let open = |dir| open(dir, Path::new(name), OFlags::NONBLOCK | OFlags::NOCTTY);
    let (Some(a), Some(b)) = (open(a)?, open(b)?) else {
        return Ok(false);
    };
    let (a, b) = (std::fs::File::from(a), std::fs::File::from(b));
    let mut same = true;
    let known = be_btrfs::unshared([a.as_fd(), b.as_fd()], size, |range| {
        same = same_range(&a, &b, range)?;
        Ok(match same {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        })
    });
    match known {
        Ok(()) => Ok(same),
        // Another filesystem, or nobody who may ask.
        Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::NOTTY | Errno::PERM)) => {
            same_range(&a, &b, 0..size)
        }
        Err(e) => Err(e),
    }
}

fn same_range(a: &std::fs::File, b: &std::fs::File, range: Range<u64>) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = range.start;
    while at < range.end {
        let rest = usize::try_from(range.end - at).unwrap_or(CHUNK);
        let count = rest.min(CHUNK);
        // One that is cut off meanwhile is not the same.
        for (file, buffer) in [(a, &mut left), (b, &mut right)] {
            match file.read_exact_at(&mut buffer[..count], at) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                other => other?,
            }
        }
        if left[..count] != right[..count] {
            return Ok(false);
        }
        at += count as u64;
    }
    Ok(true)
}

/// The extended attributes, sorted by name.
fn attributes(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // There is no call that takes a directory and a name; the link of /proc is our own.
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    path.push(name);
    let mut list = Vec::with_capacity(MAX_XATTR);
    match rustix::fs::llistxattr(&path, spare_capacity(&mut list)) {
        Ok(_) => {}
        Err(Errno::OPNOTSUPP | Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    }
    let mut found = Vec::new();
    for name in list.split(|byte| *byte == 0).filter(|n| !n.is_empty()) {
        let mut value = Vec::with_capacity(MAX_XATTR);
        match rustix::fs::lgetxattr(&path, OsStr::from_bytes(name), spare_capacity(&mut value)) {
            Ok(_) => found.push((name.to_owned(), value)),
            Err(Errno::NODATA) => {}
            Err(e) => return Err(e.into()),
        }
    }
    found.sort_unstable();
    Ok(found)
}
