//! Carrying out a stream below the root of a subvolume.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType as Kind, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid,
    XattrFlags, chmodat, chownat, copy_file_range, fstat, ftruncate, linkat, lremovexattr,
    lsetxattr, mkdirat, mknodat, openat, openat2, renameat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::{Errno, pwrite};

use super::Command;
use crate::error::Context;
use crate::{Error, Reason, Result, Root, Uuid};

const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// What a stream is relative to.
#[derive(Debug)]
pub struct Parent {
    /// As the stream names it.
    pub uuid: Uuid,
    /// Its root directory.
    pub root: Root,
}

/// A subvolume that is being written from a stream. Nobody else writes to it.
///
/// No path leaves it, and no link in it is followed: a stream that wants that fails with
/// `ELOOP` or `ENOTDIR`. No device is opened.
#[derive(Debug)]
pub struct Apply<'a> {
    root: &'a Root,
    parent: Option<&'a Parent>,
    own: Option<Uuid>,
    /// The times of the root directory: what is made gets its names there first, and a stream
    /// with a parent says nothing of it if that is all.
    times: Option<Timestamps>,
    /// The directory that was worked in last, and the file that was written to last.
    dir: Option<(PathBuf, OwnedFd)>,
    file: Option<(PathBuf, OwnedFd)>,
}

/// A name in an open directory.
struct Place<'a> {
    dir: BorrowedFd<'a>,
    name: OsString,
}

impl Place<'_> {
    /// For system calls that take no descriptor of a directory; only the last name, which
    /// they do not follow, is looked up there.
    fn proc_path(&self) -> PathBuf {
        let dir = format!("/proc/self/fd/{}", self.dir.as_raw_fd());
        Path::new(&dir).join(&self.name)
    }
}

fn bad(path: &Path, why: &'static str) -> Error {
    Error::new("write", path, Reason::BadStream(why))
}

impl<'a> Apply<'a> {
    /// Write to the subvolume with this root: empty, or a snapshot of the parent.
    pub fn new(root: &'a Root, parent: Option<&'a Parent>) -> Self {
        Self {
            root,
            parent,
            own: None,
            times: None,
            dir: None,
            file: None,
        }
    }

    /// Carry out one command.
    ///
    /// Errors: [`Reason::BadStream`]; by errno those of the system call, so `ENOSPC`, and
    /// `ENOENT` or `EEXIST` where it was made for another parent.
    pub fn command(&mut self, command: &Command<'_>) -> Result<()> {
        const OP: &str = "write";
        match *command {
            Command::Subvolume { uuid, .. } => self.begin(uuid, None),
            Command::Snapshot { uuid, parent, .. } => self.begin(uuid, Some(parent)),
            _ if self.own.is_none() => Err(bad(Path::new(""), "it does not say of what it is")),
            Command::End => match &self.times {
                Some(times) => {
                    let root = self.root.fd();
                    utimensat(root, ".", times, AtFlags::empty()).on(OP, "")
                }
                None => Ok(()),
            },
            Command::MakeFile(path) => {
                let at = self.place(path)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let mode = Mode::RUSR | Mode::WUSR;
                openat(at.dir, &at.name, flags | OFlags::CLOEXEC, mode).on(OP, path)?;
                Ok(())
            }
            Command::MakeDir(path) => {
                let at = self.place(path)?;
                mkdirat(at.dir, &at.name, Mode::RWXU).on(OP, path)
            }
            Command::MakeNode { path, mode, device } => {
                let kind = Kind::from_raw_mode(mode);
                if !matches!(
                    kind,
                    Kind::CharacterDevice | Kind::BlockDevice | Kind::Fifo | Kind::Socket
                ) {
                    return Err(bad(path, "it has a device that is none"));
                }
                let at = self.place(path)?;
                let mode = Mode::from_raw_mode(mode & 0o7777);
                mknodat(at.dir, &at.name, kind, mode, device).on(OP, path)
            }
            Command::Symlink { path, target } => {
                let at = self.place(path)?;
                symlinkat(target, at.dir, &at.name).on(OP, path)
            }
            Command::Rename { from, to } => {
                self.forget();
                let (old, new) = (open_place(self.root, from)?, open_place(self.root, to)?);
                renameat(&old.0, &old.1, &new.0, &new.1).on(OP, from)
            }
            Command::Link { path, old } => {
                let (from, to) = (open_place(self.root, old)?, open_place(self.root, path)?);
                linkat(&from.0, &from.1, &to.0, &to.1, AtFlags::empty()).on(OP, path)
            }
            Command::Unlink(path) => self.remove(path, AtFlags::empty()),
            Command::RemoveDir(path) => self.remove(path, AtFlags::REMOVEDIR),
            Command::SetXattr { path, name, value } => {
                let at = self.place(path)?;
                match lsetxattr(at.proc_path(), name, value, XattrFlags::empty()) {
                    Err(error) if keeps_label(name, error) => Ok(()),
                    done => done.on(OP, path),
                }
            }
            Command::RemoveXattr { path, name } => {
                let at = self.place(path)?;
                match lremovexattr(at.proc_path(), name) {
                    // A change of the owner has taken it away already.
                    Err(Errno::NODATA) => Ok(()),
                    Err(error) if keeps_label(name, error) => Ok(()),
                    done => done.on(OP, path),
                }
            }
            Command::Write { path, offset, data } => self.write(path, offset, data),
            Command::Clone { .. } => self.share(command),
            Command::Truncate { path, size } => {
                let file = self.file(path)?;
                ftruncate(file, size).on(OP, path)
            }
            Command::Chmod { path, mode } => {
                let at = self.place(path)?;
                let stat = statat(at.dir, &at.name, AtFlags::SYMLINK_NOFOLLOW).on(OP, path)?;
                if Kind::from_raw_mode(stat.st_mode) == Kind::Symlink {
                    return Err(bad(path, "it changes the mode of a link"));
                }
                let mode = Mode::from_raw_mode(mode & 0o7777);
                chmodat(at.dir, &at.name, mode, AtFlags::empty()).on(OP, path)
            }
            Command::Chown { path, uid, gid } => {
                let at = self.place(path)?;
                let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                chownat(at.dir, &at.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).on(OP, path)
            }
            Command::Times { path, atime, mtime } => {
                let times = Timestamps {
                    last_access: timespec(atime),
                    last_modification: timespec(mtime),
                };
                if path.as_os_str().is_empty() {
                    self.times = Some(times.clone());
                }
                let at = self.place(path)?;
                utimensat(at.dir, &at.name, &times, AtFlags::SYMLINK_NOFOLLOW).on(OP, path)
            }
        }
    }

    fn begin(&mut self, uuid: Uuid, parent: Option<Uuid>) -> Result<()> {
        let none = Path::new("");
        if self.own.replace(uuid).is_some() {
            return Err(bad(none, "it begins twice"));
        }
        let stat = fstat(self.root.fd()).on("stat", none)?;
        self.times = Some(Timestamps {
            last_access: stamp(stat.st_atime, stat.st_atime_nsec),
            last_modification: stamp(stat.st_mtime, stat.st_mtime_nsec),
        });
        match parent == self.parent.map(|parent| parent.uuid) {
            true => Ok(()),
            false => Err(bad(
                none,
                "it is relative to another subvolume than it should be",
            )),
        }
    }

    fn forget(&mut self) {
        self.dir = None;
        self.file = None;
    }

    /// Where a path is: its directory, and its name there.
    fn place(&mut self, path: &Path) -> Result<Place<'_>> {
        let name = path.file_name().unwrap_or(OsStr::new(".")).to_owned();
        let parent = path.parent().unwrap_or(Path::new(""));
        if parent.as_os_str().is_empty() {
            let dir = self.root.fd();
            return Ok(Place { dir, name });
        }
        if self.dir.as_ref().is_none_or(|(known, _)| known != parent) {
            self.dir = Some((parent.to_owned(), open_dir(self.root, parent)?));
        }
        let dir = self
            .dir
            .as_ref()
            .map_or(self.root.fd(), |(_, fd)| fd.as_fd());
        Ok(Place { dir, name })
    }

    fn remove(&mut self, path: &Path, flags: AtFlags) -> Result<()> {
        self.forget();
        let at = self.place(path)?;
        unlinkat(at.dir, &at.name, flags).on("remove", path)
    }

    /// A regular file, open for writing.
    fn file(&mut self, path: &Path) -> Result<BorrowedFd<'_>> {
        if self.file.as_ref().is_none_or(|(known, _)| known != path) {
            let at = self.place(path)?;
            let fd = open_file(at.dir, &at.name, path, OFlags::WRONLY)?;
            self.file = Some((path.to_owned(), fd));
        }
        match &self.file {
            Some((_, fd)) => Ok(fd.as_fd()),
            None => Err(bad(path, "it is not there")),
        }
    }

    fn write(&mut self, path: &Path, mut offset: u64, mut data: &[u8]) -> Result<()> {
        let file = self.file(path)?;
        while !data.is_empty() {
            let written = pwrite(file, data, offset).on("write", path)?;
            offset += written as u64;
            data = &data[written..];
        }
        Ok(())
    }

    fn share(&mut self, command: &Command<'_>) -> Result<()> {
        const OP: &str = "write";
        let Command::Clone {
            path,
            mut offset,
            length,
            of,
            from,
            from_offset,
        } = *command
        else {
            return Ok(());
        };
        let tree = match self.parent {
            Some(parent) if parent.uuid == of => &parent.root,
            _ if self.own == Some(of) => self.root,
            _ => {
                return Err(bad(
                    path,
                    "it shares data of a subvolume that it may not know",
                ));
            }
        };
        let (dir, name) = open_place(tree, from)?;
        let source = open_file(dir.as_fd(), &name, from, OFlags::RDONLY)?;
        let file = self.file(path)?;
        let mut at = from_offset;
        let end = from_offset.checked_add(length);
        let end = end.ok_or_else(|| bad(path, "it shares more than a file can have"))?;
        while at < end {
            let left = usize::try_from(end - at).unwrap_or(usize::MAX).min(1 << 30);
            let copied = copy_file_range(&source, Some(&mut at), file, Some(&mut offset), left);
            if copied.on(OP, path)? == 0 {
                return Err(bad(path, "it shares data that is not there"));
            }
        }
        Ok(())
    }
}

/// Whether that is a machine with a policy of SELinux of its own, which knows better what label
/// a file has.
fn keeps_label(name: &OsStr, error: Errno) -> bool {
    let policy = [Errno::INVAL, Errno::PERM, Errno::ACCESS, Errno::OPNOTSUPP];
    name == "security.selinux" && policy.contains(&error)
}

fn timespec((seconds, nanoseconds): (i64, u32)) -> Timespec {
    Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    }
}

#[allow(clippy::unnecessary_cast)] // the fields' types differ between architectures
fn stamp(seconds: impl Into<i64>, nanoseconds: impl TryInto<u32>) -> Timespec {
    timespec((seconds.into(), nanoseconds.try_into().unwrap_or(0)))
}

fn open_dir(root: &Root, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(root.fd(), path, flags, Mode::empty(), BENEATH).on("open", path)
}

/// As [`Apply::place`], with a descriptor of its own.
fn open_place(root: &Root, path: &Path) -> Result<(OwnedFd, OsString)> {
    let name = path.file_name().unwrap_or(OsStr::new(".")).to_owned();
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    Ok((open_dir(root, parent.unwrap_or(Path::new(".")))?, name))
}

/// A regular file: the mere opening of a device could have effects.
fn open_file(dir: BorrowedFd<'_>, name: &OsStr, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    const OP: &str = "open";
    debug_assert!(!name.as_bytes().contains(&b'/'));
    let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).on(OP, path)?;
    if Kind::from_raw_mode(stat.st_mode) != Kind::RegularFile {
        return Err(bad(path, "it writes to what is no file"));
    }
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = openat(dir, name, flags, Mode::empty()).on(OP, path)?;
    let opened = fstat(&fd).on(OP, path)?;
    match (opened.st_dev, opened.st_ino) == (stat.st_dev, stat.st_ino) {
        true => Ok(fd),
        false => Err(bad(path, "it changed while it was opened")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const UUID: Uuid = Uuid::from_bytes([1; 16]);

    /// A directory with a link out of it, and what lies outside.
    fn place() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("in")).unwrap();
        fs::create_dir_all(dir.path().join("out")).unwrap();
        fs::write(dir.path().join("out/file"), "mine").unwrap();
        symlink("../out", dir.path().join("in/dir")).unwrap();
        symlink("../out/file", dir.path().join("in/link")).unwrap();
        let root = Root::open(&dir.path().join("in")).unwrap();
        (dir, root)
    }

    fn begun<'a>(root: &'a Root) -> Apply<'a> {
        let mut apply = Apply::new(root, None);
        let begin = Command::Subvolume {
            uuid: UUID,
            transid: 7,
        };
        apply.command(&begin).unwrap();
        apply
    }

    #[test]
    fn no_link_leads_out() {
        let (dir, root) = place();
        let mut apply = begun(&root);
        let p = Path::new;
        let bad = [
            Command::MakeFile(p("dir/new")),
            Command::MakeDir(p("dir/new")),
            Command::Unlink(p("dir/file")),
            Command::Rename {
                from: p("dir/file"),
                to: p("file"),
            },
            Command::Link {
                path: p("hard"),
                old: p("dir/file"),
            },
            Command::Write {
                path: p("link"),
                offset: 0,
                data: b"yours",
            },
            Command::Truncate {
                path: p("dir/file"),
                size: 0,
            },
            Command::Truncate {
                path: p("link"),
                size: 0,
            },
            Command::Chmod {
                path: p("link"),
                mode: 0o777,
            },
            Command::SetXattr {
                path: p("dir/file"),
                name: OsStr::new("user.x"),
                value: b"x",
            },
            Command::Clone {
                path: p("link"),
                offset: 0,
                length: 1,
                of: UUID,
                from: p("dir/file"),
                from_offset: 0,
            },
        ];
        for command in bad {
            assert!(apply.command(&command).is_err(), "{command:?}");
        }
        let out = dir.path().join("out");
        assert_eq!(fs::read(out.join("file")).unwrap(), b"mine");
        assert_eq!(fs::read_dir(out).unwrap().count(), 1);
    }

    #[test]
    fn nothing_but_a_file_is_written_to_and_it_has_to_begin() {
        let (_dir, root) = place();
        let fifo = Path::new("fifo");
        let mut apply = Apply::new(&root, None);
        assert!(apply.command(&Command::MakeDir(Path::new("d"))).is_err());
        let snapshot = Command::Snapshot {
            uuid: UUID,
            transid: 7,
            parent: UUID,
        };
        assert!(apply.command(&snapshot).is_err(), "there is no parent");
        let mut apply = begun(&root);
        let make = |mode| Command::MakeNode {
            path: fifo,
            mode,
            device: 0,
        };
        assert!(apply.command(&make(0o100_600)).is_err());
        apply.command(&make(0o010_600)).unwrap();
        // It would wait for a reader for ever.
        let write = Command::Write {
            path: fifo,
            offset: 0,
            data: b"x",
        };
        assert!(apply.command(&write).is_err());
        let foreign = Command::Clone {
            path: fifo,
            offset: 0,
            length: 1,
            of: Uuid::from_bytes([9; 16]),
            from: fifo,
            from_offset: 0,
        };
        assert!(apply.command(&foreign).is_err());
    }

    #[test]
    fn only_a_label_may_be_kept_from_it() {
        let label = OsStr::new("security.selinux");
        assert!(keeps_label(label, Errno::INVAL));
        assert!(!keeps_label(label, Errno::NOSPC));
        assert!(!keeps_label(OsStr::new("security.capability"), Errno::PERM));
    }

    #[test]
    fn a_file_with_a_time_and_a_name_in_the_end() {
        let (dir, root) = place();
        let mut apply = begun(&root);
        let p = Path::new;
        for command in [
            Command::MakeFile(p("o257-7-0")),
            Command::Rename {
                from: p("o257-7-0"),
                to: p("a"),
            },
            Command::Write {
                path: p("a"),
                offset: 2,
                data: b"bc",
            },
            Command::Truncate {
                path: p("a"),
                size: 3,
            },
            Command::Times {
                path: p(""),
                atime: (1, 2),
                mtime: (3, 4),
            },
            Command::MakeDir(p("d")),
            Command::End,
        ] {
            apply.command(&command).unwrap();
        }
        let at = dir.path().join("in");
        assert_eq!(fs::read(at.join("a")).unwrap(), b"\0\0b");
        let time = std::os::unix::fs::MetadataExt::mtime(&fs::metadata(at).unwrap());
        assert_eq!(time, 3, "what was made after it does not count");
    }
}
