//! Making, replacing and renaming.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, RenameFlags, Uid, XattrFlags, chownat, fchmod, fchown, fdatasync,
    fgetxattr, flistxattr, fsetxattr, fstat, fsync, mkdirat, openat, renameat, renameat_with,
    symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::{DIR, FileType, Root};
use crate::Result;
use crate::error::Context;

impl Root {
    /// A new file to write, with exactly this mode. `EEXIST` if the name is
    /// taken, be it by a symlink.
    pub fn create_new(&self, path: impl AsRef<Path>, mode: u32) -> Result<File> {
        const OP: &str = "create";
        let path = path.as_ref();
        let (dir, name) = self.parent(OP, path)?;
        let fd = new_file(&dir, &name).on(OP, path)?;
        fchmod(&fd, Mode::from_raw_mode(mode)).on(OP, path)?;
        Ok(fd.into())
    }

    /// Sets an extended attribute of the directory itself. On disk with the next
    /// commit.
    pub fn set_attribute(&self, name: &str, value: &[u8]) -> Result<()> {
        fsetxattr(self, name, value, XattrFlags::empty()).on_fd("set an attribute of", self.as_fd())
    }

    /// Replaces a file by one with this content, or makes it with this mode:
    /// at every moment, also after a power cut, it has the old content or the
    /// new one. It is on disk on return.
    ///
    /// A replaced regular file hands on its owner, mode and extended
    /// attributes; other names that it had keep the old content. A symlink is
    /// followed, below the root, and stays one.
    pub fn write_atomic(&self, path: impl AsRef<Path>, content: &[u8], mode: u32) -> Result<()> {
        const OP: &str = "write";
        let path = path.as_ref();
        let staged = self.stage(path, content, mode)?;
        fsync(&staged.file).on(OP, path)?;
        let dir = staged.publish()?;
        fsync(&dir).on(OP, path)
    }

    /// As [`Root::write_atomic`], for a file of which the name need not be on
    /// disk yet: after a power cut it has the old content or the new one.
    pub fn write_synced(&self, path: impl AsRef<Path>, content: &[u8], mode: u32) -> Result<()> {
        const OP: &str = "write";
        let path = path.as_ref();
        let staged = self.stage(path, content, mode)?;
        fdatasync(&staged.file).on(OP, path)?;
        staged.publish().map(drop)
    }

    /// As [`Root::write_atomic`], for a file that nobody relies on before the
    /// next [`TopLevel::sync`](crate::TopLevel::sync): until then a power cut
    /// may leave it empty.
    pub fn write_later(&self, path: impl AsRef<Path>, content: &[u8], mode: u32) -> Result<()> {
        self.stage(path.as_ref(), content, mode)?
            .publish()
            .map(drop)
    }

    /// The first half of [`Root::write_atomic`]: the new content, beside the
    /// file that it is to replace. For a caller that syncs in between.
    pub fn stage(&self, path: impl AsRef<Path>, content: &[u8], mode: u32) -> Result<Staged> {
        const OP: &str = "write";
        let path = path.as_ref();
        let real = self.follow(OP, path)?;
        let (dir, target) = self.parent(OP, &real)?;
        let old = open_old(&dir, &target).on(OP, path)?;
        let (name, file) = temporary(&dir).on(OP, path)?;
        let staged = Staged {
            dir: Some(dir),
            name,
            file,
            target,
            path: path.to_owned(),
        };
        let write = || -> io::Result<()> {
            let mut file = File::from(staged.file.try_clone()?);
            file.write_all(content)?;
            match &old {
                Some(old) => copy_attributes(old, &staged.file),
                None => Ok(fchmod(&staged.file, Mode::from_raw_mode(mode))?),
            }
        };
        write().on(OP, path)?;
        Ok(staged)
    }

    /// Makes a directory with exactly this mode.
    pub fn mkdir(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        const OP: &str = "create the directory";
        let path = path.as_ref();
        let (dir, name) = self.parent(OP, path)?;
        mkdirat(&dir, &name, Mode::RWXU).on(OP, path)?;
        let made = openat(&dir, &name, DIR | OFlags::NOFOLLOW, Mode::empty()).on(OP, path)?;
        fchmod(&made, Mode::from_raw_mode(mode)).on(OP, path)
    }

    /// Makes a directory and those above it that are missing, with exactly
    /// this mode. One that is there is left as it is.
    pub fn mkdir_all(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        let path = path.as_ref();
        match self.mkdir(path, mode) {
            Err(e) if e.io_kind() == io::ErrorKind::NotFound => {
                if let Some(above) = path.parent() {
                    self.mkdir_all(above, mode)?;
                }
                self.mkdir(path, mode)
            }
            // Also a symlink to a directory, and "/", which has no name.
            Err(_) if self.is_dir(path)? => Ok(()),
            done => done,
        }
    }

    /// Makes a symlink with this text.
    pub fn symlink(&self, target: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<()> {
        const OP: &str = "create the link";
        let path = path.as_ref();
        let (dir, name) = self.parent(OP, path)?;
        symlinkat(target.as_ref(), &dir, &name).on(OP, path)
    }

    /// Changes the mode of a file or directory, symlinks followed.
    pub fn chmod(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        const OP: &str = "change the mode of";
        let path = path.as_ref();
        // Opened: fchmod takes no O_PATH.
        let fd = self.file(path)?;
        fchmod(&fd, Mode::from_raw_mode(mode)).on(OP, path)
    }

    /// Changes the owner of a name, a symlink itself included. The kernel drops
    /// setuid, setgid and capabilities of a file.
    pub fn chown(&self, path: impl AsRef<Path>, uid: u32, gid: u32) -> Result<()> {
        const OP: &str = "change the owner of";
        let path = path.as_ref();
        let (dir, name) = self.parent(OP, path)?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        chownat(&dir, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).on(OP, path)
    }

    /// Renames, replacing what is there. Not on disk before
    /// [`Root::sync_dir`] or, for what holds subvolumes,
    /// [`crate::TopLevel::commit`].
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        self.rename_with(from.as_ref(), to.as_ref(), RenameFlags::empty())
    }

    /// Renames; `EEXIST` if there is something.
    pub fn rename_noreplace(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        self.rename_with(from.as_ref(), to.as_ref(), RenameFlags::NOREPLACE)
    }

    /// Exchanges two names atomically.
    pub fn exchange(&self, one: impl AsRef<Path>, other: impl AsRef<Path>) -> Result<()> {
        self.rename_with(one.as_ref(), other.as_ref(), RenameFlags::EXCHANGE)
    }

    fn rename_with(&self, from: &Path, to: &Path, flags: RenameFlags) -> Result<()> {
        const OP: &str = "rename";
        let (from_dir, from_name) = self.parent(OP, from)?;
        let (to_dir, to_name) = self.parent("rename to", to)?;
        renameat_with(&from_dir, &from_name, &to_dir, &to_name, flags).map_err(|error| {
            // The name that a reader can do something about.
            let (op, path) = match error {
                Errno::EXIST | Errno::NOTEMPTY | Errno::ISDIR => ("rename to", to),
                _ => (OP, from),
            };
            crate::Error::new(op, path, crate::Reason::Io(error.into()))
        })
    }

    /// Writes the names of a directory to disk.
    pub fn sync_dir(&self, path: impl AsRef<Path>) -> Result<()> {
        const OP: &str = "sync";
        let path = path.as_ref();
        fsync(self.resolve(OP, path, DIR)?).on(OP, path)
    }
}

fn new_file(dir: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::RUSR | Mode::WUSR)
}

/// The regular file that is replaced; None if there is nothing, or nothing to
/// inherit from.
fn open_old(dir: &OwnedFd, name: &OsStr) -> rustix::io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let look = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(dir, name, look, Mode::empty()) {
        Ok(there) if FileType::from_mode(fstat(&there)?.st_mode).is_file() => {
            Ok(Some(openat(dir, name, flags, Mode::empty())?))
        }
        Ok(_) | Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Owner, then mode (a change of owner drops setuid), then attributes (it
/// drops capabilities, too).
fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let stat = fstat(from)?;
    fchown(
        to,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let mut names = vec![0; 64 << 10]; // XATTR_LIST_MAX
    let len = match flistxattr(from, &mut names[..]) {
        Ok(len) => len,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut value = vec![0; 64 << 10]; // XATTR_SIZE_MAX
    for name in names[..len].split(|&c| c == 0).filter(|n| !n.is_empty()) {
        let len = fgetxattr(from, name, &mut value[..])?;
        match fsetxattr(to, name, &value[..len], XattrFlags::empty()) {
            // One that the kernel keeps, such as a label without its policy.
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The new content of a file, under a name of its own; removed again unless it
/// is published.
#[derive(Debug)]
pub struct Staged {
    dir: Option<OwnedFd>,
    name: String,
    file: OwnedFd,
    target: OsString,
    path: PathBuf,
}

impl Staged {
    /// Puts it in the place of the file, by one rename; that is on disk after
    /// the next commit.
    pub fn publish(mut self) -> Result<impl AsFd> {
        let dir = self
            .dir
            .as_ref()
            .ok_or(Errno::BADF)
            .on("write", &self.path)?;
        renameat(dir, &self.name, dir, &self.target).on("write", &self.path)?;
        self.dir.take().ok_or(Errno::BADF).on("write", &self.path)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir {
            // Nothing better can be done with a failure: it is only litter.
            let _litter = unlinkat(dir, &self.name, AtFlags::empty());
        }
    }
}

fn temporary(dir: &OwnedFd) -> rustix::io::Result<(String, OwnedFd)> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!(".be-{}-{count}.tmp", std::process::id());
        match new_file(dir, name.as_ref()) {
            // Left by a process that was killed and had the same number.
            Err(Errno::EXIST) => {}
            done => return Ok((name, done?)),
        }
    }
}
