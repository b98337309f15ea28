//! One name of a tree made as it is in another: each part of it from the tree that has the
//! right one. What was there is there until the new is complete.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType as Kind, Gid, IFlags, Mode, OFlags, ResolveFlags, Stat, Timestamps, Uid,
    chmodat, chownat, linkat, mkdirat, mknodat, openat, readlinkat, renameat, statat, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::Errno;

use super::copy::{
    LOCKS, attributes, content, flags_of, proc_path, remove_attributes, set_flags, timespec,
};
use super::{DIR, Root, openat2_retry, or_dot, split};
use crate::error::Context;
use crate::{Error, Reason, Result};

/// What is not complete yet. One name, so that who was cut off finds it again.
const STAGED: &str = ".be-put~";

const OP: &str = "write";

/// Where the parts of what is put at a name come from. All trees lie on one filesystem and
/// do not change meanwhile; every one named here has the name.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The content, the target of a link, the number of a device; with its times.
    pub content: Content<'a>,
    /// The permissions.
    pub mode: &'a Root,
    /// User and group.
    pub owner: &'a Root,
    /// Extended attributes with access lists, and the flags of chattr(1).
    pub attributes: &'a Root,
}

/// What is in a file.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// As in this tree; the data is shared.
    Of(&'a Root),
    /// These bytes, of a regular file.
    Bytes(&'a [u8]),
}

impl<'a> Parts<'a> {
    /// All from one tree.
    pub fn of(root: &'a Root) -> Self {
        Self {
            content: Content::Of(root),
            mode: root,
            owner: root,
            attributes: root,
        }
    }
}

/// Paths of these methods have no link anywhere but as their last name, which is not followed:
/// `ELOOP`, or `ENOTDIR`, otherwise.
impl Root {
    /// Puts a file, a link, a device, a fifo or a socket at `path`, in the place of what is
    /// there, which must be no directory. Its directory must be there.
    pub fn put(&self, path: &Path, parts: &Parts<'_>) -> Result<()> {
        self.put_as(path, parts, path)
    }

    /// As [`Root::put`], what the other trees have at another path.
    pub fn put_as(&self, path: &Path, parts: &Parts<'_>, there: &Path) -> Result<()> {
        let (dir, name) = self.open_parent(path)?;
        let staged = OsStr::new(STAGED);
        unlink(dir.as_fd(), staged).on(OP, path)?;
        let from = Sources::open(parts, there)?;
        let stat = from.stat(&from.content).on(OP, path)?;
        match parts.content {
            Content::Of(_) => make(from.content.as_fd(), from.name, &stat, dir.as_fd()),
            Content::Bytes(bytes) => write(dir.as_fd(), bytes),
        }
        .on(OP, path)?;
        dress(dir.as_fd(), staged, &from).on(OP, path)?;
        if let Content::Of(_) = parts.content {
            set_times(dir.as_fd(), staged, &stat).on(OP, path)?;
        }
        let _replaced = unlock(dir.as_fd(), &name).on(OP, path)?;
        renameat(&dir, staged, &dir, &name).on(OP, path)?;
        if Kind::from_raw_mode(stat.st_mode) == Kind::RegularFile {
            let attributes = from.attributes.as_fd();
            lock(dir.as_fd(), &name, attributes, from.name).on(OP, path)?;
        }
        // A link to itself is not renamed.
        unlink(dir.as_fd(), staged).on(OP, path)
    }

    /// Makes `path` one more name of the file at `first`, in the place of what is there.
    pub fn put_link(&self, path: &Path, first: &Path) -> Result<()> {
        let (from, old) = self.strict_parent(first)?;
        let (dir, name) = self.open_parent(path)?;
        let staged = OsStr::new(STAGED);
        unlink(dir.as_fd(), staged).on(OP, path)?;
        let _linked = unlock(from.as_fd(), &old).on(OP, path)?;
        linkat(&from, &old, &dir, staged, AtFlags::empty()).on(OP, path)?;
        let _replaced = unlock(dir.as_fd(), &name).on(OP, path)?;
        renameat(&dir, staged, &dir, &name).on(OP, path)?;
        unlink(dir.as_fd(), staged).on(OP, path)
    }

    /// Makes a directory as `like` has it at this path, but empty; one that is there is left.
    pub fn put_directory(&self, path: &Path, like: &Root) -> Result<()> {
        self.put_directory_as(path, like, path)
    }

    /// As [`Root::put_directory`], what the other tree has at another path.
    pub fn put_directory_as(&self, path: &Path, like: &Root, there: &Path) -> Result<()> {
        let (dir, name) = self.open_parent(path)?;
        match mkdirat(&dir, &name, Mode::RWXU) {
            Err(Errno::EXIST) => {}
            other => other.on(OP, path)?,
        }
        let made = openat(&dir, &name, DIR | OFlags::NOFOLLOW, Mode::empty()).on(OP, path)?;
        let (source, file) = like.strict_parent(there)?;
        let other = openat(&source, &file, DIR | OFlags::NOFOLLOW, Mode::empty()).on(OP, path)?;
        // First, because what is made in it inherits them.
        // Its locks come last, with its properties.
        let flags = flags_of(other.as_fd()).difference(LOCKS);
        set_flags(made.as_fd(), flags).on(OP, path)?;
        self.dress_as(path, [Some(like); 3], there)
    }

    /// Gives what is at `path` the permissions, owner and attributes that it has in these trees.
    pub fn put_properties(
        &self,
        path: &Path,
        mode: Option<&Root>,
        owner: Option<&Root>,
        attributes: Option<&Root>,
    ) -> Result<()> {
        self.dress_as(path, [mode, owner, attributes], path)
    }

    /// Permissions, owner and attributes, from these trees at that path.
    fn dress_as(
        &self,
        path: &Path,
        [mode, owner, attributes]: [Option<&Root>; 3],
        there: &Path,
    ) -> Result<()> {
        let (dir, name) = match path.as_os_str().is_empty() {
            true => (self.strict_dir(path)?, OsString::from(".")),
            false => self.strict_parent(path)?,
        };
        let stat = statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW).on(OP, path)?;
        let unlocked = unlock(dir.as_fd(), &name).on(OP, path)?;
        // A change of owner drops set-user-ID and capabilities.
        let done = || -> Result<()> {
            if let Some(root) = owner {
                set_owner(dir.as_fd(), &name, &root.seen(there)?.2).on(OP, path)?;
            }
            if let Some(root) = mode {
                set_mode(dir.as_fd(), &name, &root.seen(there)?.2).on(OP, path)?;
            }
            if let Some(root) = attributes {
                let (source, file, _) = root.seen(there)?;
                set_attributes(source.as_fd(), &file, dir.as_fd(), &name).on(OP, path)?;
            }
            Ok(())
        };
        done()?;
        set_times(dir.as_fd(), &name, &stat).on(OP, path)?;
        if let Some(root) = attributes.filter(|_| is_lockable(&stat)) {
            if let Some(unlocked) = unlocked {
                unlocked.stay();
            }
            let (source, file, _) = root.seen(there)?;
            lock(dir.as_fd(), &name, source.as_fd(), &file).on(OP, path)?;
        }
        Ok(())
    }

    /// Gives what is at `path` the times that it has in another tree.
    pub fn put_times(&self, path: &Path, like: &Root) -> Result<()> {
        let (dir, name) = self.strict_parent(path)?;
        let _unlocked = unlock(dir.as_fd(), &name).on(OP, path)?;
        set_times(dir.as_fd(), &name, &like.seen(path)?.2).on(OP, path)
    }

    /// Takes away what is at `path`; a directory only if it is empty. False if it is not.
    pub fn take_away(&self, path: &Path) -> Result<bool> {
        let (dir, name) = self.open_parent(path)?;
        let _unlocked = unlock(dir.as_fd(), &name).on("remove", path)?;
        match unlinkat(&dir, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(true),
            Err(Errno::ISDIR) => {}
            Err(error) => return Err(error).on("remove", path),
        }
        let inside =
            openat(&dir, &name, DIR | OFlags::NOFOLLOW, Mode::empty()).on("remove", path)?;
        unlink(inside.as_fd(), OsStr::new(STAGED)).on("remove", path)?;
        match unlinkat(&dir, &name, AtFlags::REMOVEDIR) {
            Ok(()) => Ok(true),
            Err(Errno::NOTEMPTY) => Ok(false),
            Err(error) => Err(error).on("remove", path),
        }
    }

    /// The bytes of a regular file, reached without a link; none if it is none, or larger
    /// than `limit`.
    pub fn strict_read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        let (dir, name, stat) = self.seen(path)?;
        #[allow(clippy::cast_sign_loss)]
        let size = stat.st_size as u64;
        if Kind::from_raw_mode(stat.st_mode) != Kind::RegularFile || size > limit {
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&dir, &name, flags, Mode::empty()).on("read", path)?;
        let mut bytes = Vec::new();
        let mut file = io::Read::take(std::fs::File::from(file), limit);
        io::Read::read_to_end(&mut file, &mut bytes).on("read", path)?;
        Ok(Some(bytes))
    }

    fn seen(&self, path: &Path) -> Result<(OwnedFd, OsString, Stat)> {
        let (dir, name) = match path.as_os_str().is_empty() {
            true => (self.strict_dir(path)?, OsString::from(".")),
            false => self.strict_parent(path)?,
        };
        let stat = statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW).on(OP, path)?;
        Ok((dir, name, stat))
    }

    fn strict_parent(&self, path: &Path) -> Result<(OwnedFd, OsString)> {
        let (dir, name) = split(path).ok_or_else(|| Error::new(OP, path, Reason::BadName))?;
        Ok((self.strict_dir(dir)?, name.to_owned()))
    }

    /// The same, to change what is in the directory: what chattr(1) has locked of it is let go
    /// of, for as long as it is held.
    fn open_parent(&self, path: &Path) -> Result<(Changeable, OsString)> {
        let (dir, name) = self.strict_parent(path)?;
        let locked = unlocked(&dir).on(OP, path)?;
        Ok((
            Changeable {
                dir,
                _locked: locked,
            },
            name,
        ))
    }

    /// A directory, open, with no link on the way.
    fn strict_dir(&self, path: &Path) -> Result<OwnedFd> {
        // The root's own slash would be the host's.
        let path = path.strip_prefix("/").unwrap_or(path);
        openat2_retry(self.fd(), or_dot(path), DIR, STRICT).on(OP, path)
    }
}

const STRICT: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_XDEV);

fn unlink(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Makes what is at `name` under the staged name, bare.
fn make(from: BorrowedFd<'_>, name: &OsStr, stat: &Stat, to: BorrowedFd<'_>) -> io::Result<()> {
    let kind = Kind::from_raw_mode(stat.st_mode);
    match kind {
        Kind::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let source = openat(from, name, flags, Mode::empty())?;
            let target = staged_file(to)?;
            let flags = flags_of(source.as_fd());
            set_flags(target.as_fd(), flags.difference(LOCKS))?;
            content(&source, &target, stat, flags).map(drop)
        }
        Kind::Symlink => {
            let text = readlinkat(from, name, Vec::new())?;
            Ok(symlinkat(text, to, STAGED)?)
        }
        Kind::Directory => Err(Errno::ISDIR.into()),
        _ => Ok(mknodat(to, STAGED, kind, Mode::empty(), stat.st_rdev)?),
    }
}

fn write(to: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    std::fs::File::from(staged_file(to)?).write_all(bytes)
}

fn staged_file(dir: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    openat(dir, STAGED, flags, Mode::RUSR | Mode::WUSR)
}

/// The directory of a name, open once in each of the trees that parts come from.
struct Sources<'a> {
    name: &'a OsStr,
    content: Rc<OwnedFd>,
    mode: Rc<OwnedFd>,
    owner: Rc<OwnedFd>,
    attributes: Rc<OwnedFd>,
}

impl<'a> Sources<'a> {
    fn open<'r>(parts: &Parts<'r>, path: &'a Path) -> Result<Self> {
        let (dir, name) = split(path).ok_or_else(|| Error::new(OP, path, Reason::BadName))?;
        let mut opened: Vec<(&'r Root, Rc<OwnedFd>)> = Vec::new();
        let mut open = |root: &'r Root| -> Result<Rc<OwnedFd>> {
            if let Some((_, dir)) = opened.iter().find(|(r, _)| std::ptr::eq(*r, root)) {
                return Ok(dir.clone());
            }
            let dir = Rc::new(root.strict_dir(dir)?);
            opened.push((root, dir.clone()));
            Ok(dir)
        };
        Ok(Self {
            name,
            content: open(match parts.content {
                Content::Of(root) => root,
                Content::Bytes(_) => parts.mode,
            })?,
            mode: open(parts.mode)?,
            owner: open(parts.owner)?,
            attributes: open(parts.attributes)?,
        })
    }

    fn stat(&self, dir: &OwnedFd) -> rustix::io::Result<Stat> {
        statat(dir, self.name, AtFlags::SYMLINK_NOFOLLOW)
    }
}

/// Owner, mode and attributes, in this order.
fn dress(dir: BorrowedFd<'_>, name: &OsStr, from: &Sources<'_>) -> io::Result<()> {
    set_owner(dir, name, &from.stat(&from.owner)?)?;
    set_mode(dir, name, &from.stat(&from.mode)?)?;
    // What it has inherited from its directory goes.
    set_attributes(from.attributes.as_fd(), from.name, dir, name)
}

/// A directory in which names can be changed.
struct Changeable {
    dir: OwnedFd,
    _locked: Option<Unlocked>,
}

impl AsFd for Changeable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// A file or a directory that chattr(1) had locked. Dropped, it is locked again.
struct Unlocked {
    file: OwnedFd,
    flags: IFlags,
}

impl Unlocked {
    /// It is not to be locked again.
    fn stay(mut self) {
        self.flags = self.flags.difference(LOCKS);
    }
}

impl Drop for Unlocked {
    fn drop(&mut self) {
        // One that is gone meanwhile needs no lock.
        let _gone = set_flags(self.file.as_fd(), self.flags);
    }
}

/// Lets go of what chattr(1) has locked, a file or a directory: it is to be changed.
fn unlock(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Unlocked>> {
    let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        other => other?,
    };
    if !is_lockable(&stat) {
        return Ok(None);
    }
    let open = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    unlocked(&openat(dir, name, open, Mode::empty())?)
}

fn unlocked(file: &OwnedFd) -> io::Result<Option<Unlocked>> {
    let flags = flags_of(file.as_fd());
    if !flags.intersects(LOCKS) {
        return Ok(None);
    }
    let file = file.try_clone()?;
    set_flags(file.as_fd(), flags.difference(LOCKS))?;
    Ok(Some(Unlocked { file, flags }))
}

fn is_lockable(stat: &Stat) -> bool {
    let kind = Kind::from_raw_mode(stat.st_mode);
    matches!(kind, Kind::RegularFile | Kind::Directory)
}

/// The flags that forbid what is still to be done come last.
fn lock(dir: BorrowedFd<'_>, name: &OsStr, source: BorrowedFd<'_>, file: &OsStr) -> io::Result<()> {
    let open = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let flags = flags_of(openat(source, file, open, Mode::empty())?.as_fd());
    if flags.intersects(LOCKS) {
        set_flags(openat(dir, name, open, Mode::empty())?.as_fd(), flags)?;
    }
    Ok(())
}

fn set_attributes(
    from: BorrowedFd<'_>,
    name: &OsStr,
    to: BorrowedFd<'_>,
    there: &OsStr,
) -> io::Result<()> {
    let (from, to) = (proc_path(from, name), proc_path(to, there));
    remove_attributes(&from, &to)?;
    attributes(&from, &to)
}

fn set_owner(dir: BorrowedFd<'_>, name: &OsStr, like: &Stat) -> io::Result<()> {
    let owner = (Uid::from_raw(like.st_uid), Gid::from_raw(like.st_gid));
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    Ok(chownat(dir, name, Some(owner.0), Some(owner.1), nofollow)?)
}

fn set_mode(dir: BorrowedFd<'_>, name: &OsStr, like: &Stat) -> io::Result<()> {
    if Kind::from_raw_mode(like.st_mode) == Kind::Symlink {
        return Ok(());
    }
    let mode = Mode::from_raw_mode(like.st_mode & 0o7777);
    Ok(chmodat(dir, name, mode, AtFlags::empty())?)
}

pub(super) fn set_times(dir: BorrowedFd<'_>, name: &OsStr, like: &Stat) -> io::Result<()> {
    let times = Timestamps {
        last_access: timespec(like.st_atime, like.st_atime_nsec),
        last_modification: timespec(like.st_mtime, like.st_mtime_nsec),
    };
    Ok(utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
