//! Reading below a directory that nobody is trusted in: no symbolic link leads out of it,
//! no device or pipe blocks, no file is read without a bound.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, open, openat2, statat,
};
use rustix::io::Errno;

/// No file that is read whole is larger than this, in bytes.
const MAX_FILE: u64 = 8 << 20;

const READ: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// What may be followed on the way to a file.
#[derive(Clone, Copy)]
pub enum Links {
    /// Symbolic links, taken as if the directory were `/`.
    InRoot,
    /// None.
    No,
}

/// Open a directory that the caller vouches for.
pub fn open_trusted(dir: &Path) -> io::Result<OwnedFd> {
    Ok(open(
        dir,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECTORY,
        Mode::empty(),
    )?)
}

fn open_below(dir: impl AsFd, path: &Path, flags: OFlags, links: Links) -> io::Result<OwnedFd> {
    let resolve = match links {
        Links::InRoot => ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        Links::No => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    };
    // The kernel asks to try again when something was renamed on the way (openat2(2)).
    for _ in 0..16 {
        match openat2(dir.as_fd(), path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
    Err(Errno::AGAIN.into())
}

fn missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// A directory below `dir`, or `None` if there is none.
pub fn subdir(dir: impl AsFd, path: &Path, links: Links) -> io::Result<Option<OwnedFd>> {
    missing(open_below(dir, path, READ | OFlags::DIRECTORY, links))
}

/// A regular file below `dir`, or `None` if there is none.
pub fn open_file(dir: impl AsFd, path: &Path, links: Links) -> io::Result<Option<File>> {
    Ok(regular(dir, path, links)?.map(|(fd, _)| fd.into()))
}

fn regular(dir: impl AsFd, path: &Path, links: Links) -> io::Result<Option<(OwnedFd, Stat)>> {
    let Some(fd) = missing(open_below(dir, path, READ, links))? else {
        return Ok(None);
    };
    let stat = fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(Some((fd, stat)))
}

/// The content of a regular file below `dir`, or `None` if there is none.
pub fn read(dir: impl AsFd, path: &Path, links: Links) -> io::Result<Option<Vec<u8>>> {
    let Some((fd, stat)) = regular(dir, path, links)? else {
        return Ok(None);
    };
    // One byte more than it has: a read that leaves room was the whole, without another.
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let mut content = Vec::with_capacity(usize::try_from(size.min(MAX_FILE)).unwrap_or(0) + 1);
    let read = rustix::io::read(&fd, spare_capacity(&mut content))?;
    if read == content.capacity() {
        File::from(fd)
            .take(MAX_FILE + 1 - read as u64)
            .read_to_end(&mut content)?;
    }
    if content.len() as u64 > MAX_FILE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(Some(content))
}

/// Whether the same inode is at this path in both directories, and no side has touched it
/// since the two were snapshots of one subvolume: the time of its last change, which nobody
/// can set, is the same on both and was before they `parted` (in seconds since 1970). Also
/// if there is nothing on either side.
///
/// Nothing is opened. Links on the way are the caller's to rule out.
pub fn untouched(a: impl AsFd, b: impl AsFd, path: &Path, parted: i64) -> bool {
    let look = |dir: BorrowedFd| statat(dir, path, AtFlags::SYMLINK_NOFOLLOW);
    match (look(a.as_fd()), look(b.as_fd())) {
        (Ok(a), Ok(b)) => {
            let change = |s: &Stat| (s.st_ino, s.st_ctime, s.st_ctime_nsec, s.st_size);
            // The clock ticks; what was written within one tick looks the same.
            change(&a) == change(&b) && a.st_ctime + 1 < parted
        }
        (Err(Errno::NOENT), Err(Errno::NOENT)) => true,
        _ => false,
    }
}

/// The entries of an open directory that have a UTF-8 name, and whether each is itself a
/// directory; sorted.
pub fn entries(dir: impl AsFd) -> io::Result<Vec<(String, bool)>> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        if name == "." || name == ".." {
            continue;
        }
        let kind = match entry.file_type() {
            // Some filesystems do not say; the tests run on any.
            FileType::Unknown => {
                let stat = rustix::fs::statat(&dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            kind => kind,
        };
        entries.push((name.to_owned(), kind == FileType::Directory));
    }
    entries.sort_unstable();
    Ok(entries)
}
