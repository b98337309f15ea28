//! The store on the top level: its directories, its lock, its records. DESIGN of the tree:
//!
//! ```text
//! @be/NAME/be.json  root/  base/root/  log/  snap/SNAP/root/
//! @be/.work/new/NAME    being made      @be/.work/gone/NAME    being removed
//! @be/.work/split/@PATH   a directory on its way into a subvolume of its own
//! @be/.work/…/NAME@SNAP a snapshot of it
//! @be/NAME -> OTHER     a second name, while OTHER is being renamed
//! @be/.grub/menu.cfg    what GRUB reads
//! @be/lock              flock; opened, never replaced
//! ```

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use be_btrfs::{Root, TopLevel};
use nix::fcntl::{Flock, FlockArg};
use rustix::fs::{Mode, OFlags};

use crate::model::STORE;
use crate::name::EnvName;
use crate::parallel;
use crate::record::Record;
use crate::refusal::Refusal;

/// Bytes of data that are kept for a full disk.
const RESERVED_DATA: u64 = 1 << 20;

/// Bytes of metadata: btrfs reserves much more for a small file than it needs in the end,
/// 256 KiB for every item that it may touch.
const RESERVED_METADATA: usize = 8 << 20;

/// Bytes of an attribute that fit in a leaf of 16 KiB, the default, beside its name.
const LEAF: usize = 15 << 10;

/// The longest record that is read, in bytes.
const MAX_RECORD: u64 = 1 << 20;

/// Where things are below the top level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths;

impl Paths {
    /// Environments that are being made.
    pub const NEW: &str = "@be/.work/new";
    /// Environments that are being removed.
    pub const GONE: &str = "@be/.work/gone";
    /// Directories that are being turned into subvolumes.
    pub const SPLIT: &str = "@be/.work/split";
    /// The directory of the menu.
    pub const GRUB: &str = "@be/.grub";
    /// The menu.
    pub const MENU: &str = "@be/.grub/menu.cfg";
    /// Room for a menu on a full disk.
    pub const RESERVE: &str = "@be/.work/reserve";
    /// The lock.
    pub const LOCK: &str = "@be/lock";

    /// The directory of an environment.
    pub fn environment(name: &EnvName) -> PathBuf {
        Path::new(STORE).join(name.as_str())
    }
}

/// The store of one filesystem, held open.
#[derive(Debug)]
pub struct Store {
    /// The filesystem.
    pub top: TopLevel,
    /// The top level as a root for paths.
    pub dir: Root,
}

/// Whoever holds it may write to the store. Given back when dropped, or by the kernel.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] Flock<File>);

/// Whoever holds it works inside one environment.
#[derive(Debug)]
pub struct Claim(#[allow(dead_code)] Flock<File>);

/// What stands in the store: records by directory name, or why one cannot be read.
pub type Records = Vec<(String, Result<Record, String>)>;

impl Store {
    /// Open the filesystem that `system` lies on.
    pub fn open(system: &Path) -> Result<Self> {
        let top = TopLevel::open(system)?;
        let dir = top.root()?;
        Ok(Self { top, dir })
    }

    /// Whether `be init` was here.
    pub fn exists(&self) -> bool {
        // What cannot even be looked at is not ours.
        self.dir.is_dir(STORE).unwrap_or(false)
    }

    /// Make the directories. What is there stays.
    pub fn make(&self) -> Result<()> {
        self.make_dir(STORE, 0o700)?;
        self.make_dir("@be/.work", 0o700)?;
        // GRUB reads it without permissions; people may as well.
        self.make_dir(Paths::GRUB, 0o755)
    }

    fn make_dir(&self, path: &str, mode: u32) -> Result<()> {
        match self.dir.mkdir(path, mode) {
            Err(e) if e.io_kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            other => other.context("cannot make the store"),
        }
    }

    /// Take the lock of the store.
    ///
    /// # Errors
    /// [`Refusal::Busy`] if another process has it.
    pub fn lock(&self) -> Result<Lock> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(self.top.fd(), Paths::LOCK, flags, mode)
            .context("cannot open the lock of the store")?;
        let busy = || Refusal::Busy {
            what: "another be is at work".into(),
        };
        Ok(Lock(flock(
            file.into(),
            FlockArg::LockExclusiveNonblock,
            busy,
        )?))
    }

    /// Claim an environment for long work in it.
    ///
    /// # Errors
    /// [`Refusal::Busy`] if another process works in it.
    pub fn claim(&self, name: &EnvName) -> Result<Claim> {
        let busy = || Refusal::Busy {
            what: format!("another be works in {name}"),
        };
        for _ in 0..20 {
            let file = self.open_dir(&Paths::environment(name))?;
            if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                return Ok(Claim(lock));
            }
            // `be list` asks with a lock of its own, for a moment.
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Err(busy().into())
    }

    /// Claim the right to run an upgrade; there is one at a time.
    ///
    /// # Errors
    /// [`Refusal::Busy`] if another upgrade runs.
    pub fn claim_upgrade(&self) -> Result<Claim> {
        let busy = || Refusal::Busy {
            what: "another upgrade is running".into(),
        };
        // .work is never replaced, so that all lock the same inode.
        let file = self.open_dir(Path::new("@be/.work"))?;
        Ok(Claim(flock(file, FlockArg::LockExclusiveNonblock, busy)?))
    }

    /// Whether a process works in the environment.
    pub fn is_claimed(&self, name: &EnvName) -> bool {
        let Ok(file) = self.open_dir(&Paths::environment(name)) else {
            return false;
        };
        Flock::lock(file, FlockArg::LockSharedNonblock).is_err()
    }

    fn open_dir(&self, path: &Path) -> Result<File> {
        // A file description of its own: locks belong to descriptions.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.top.fd(), path, flags, Mode::empty())
            .with_context(|| format!("cannot open /{}", path.display()))?;
        Ok(fd.into())
    }

    /// All records, by name. A directory without a record is a damaged environment:
    /// `be` makes none.
    ///
    /// # Errors
    /// When the store itself cannot be read.
    pub fn records(&self) -> Result<Records> {
        let mut names = Vec::new();
        for (name, kind) in self.dir.list(STORE)? {
            let Some(name) = name.to_str() else {
                continue;
            };
            if kind.is_dir() && EnvName::parse(name).is_ok() {
                names.push(name.to_owned());
            }
        }
        let records = parallel::map(&names, |name| self.record(name));
        Ok(names.into_iter().zip(records).collect())
    }

    /// One record.
    ///
    /// # Errors
    /// Says in one line what is wrong.
    pub fn record(&self, name: &str) -> Result<Record, String> {
        let path = Path::new(STORE).join(name).join("be.json");
        let text = self
            .dir
            .read_to_string(&path, MAX_RECORD)
            .map_err(|e| e.to_string())?;
        Record::parse(&text, name)
    }

    /// Links in the store: the second name of an environment that is being renamed.
    ///
    /// # Errors
    /// When the store itself cannot be read.
    pub fn links(&self) -> Result<Vec<EnvName>> {
        let entries = self.dir.list(STORE)?.into_iter();
        let links = entries.filter(|(_, kind)| kind.is_symlink());
        Ok(links
            .filter_map(|(name, _)| EnvName::parse(name.to_str()?).ok())
            .collect())
    }

    /// The record of an environment that is known to have one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn record_of(&self, name: &EnvName) -> Result<Record> {
        self.record(name.as_str())
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("cannot read the record of {name}"))
    }

    /// Replace the record in `dir`; it is on disk on return.
    pub fn write_record(&self, dir: &Path, record: &Record) -> Result<()> {
        self.dir
            .write_atomic(dir.join("be.json"), record.to_text()?.as_bytes(), 0o600)
            .with_context(|| format!("cannot write the record of {}", record.name))
    }

    /// Write a record into `dir`, which is not an environment yet: its content is on disk,
    /// so that it cannot become an environment with an empty record.
    pub fn write_new_record(&self, dir: &Path, record: &Record) -> Result<()> {
        self.dir
            .write_synced(dir.join("be.json"), record.to_text()?.as_bytes(), 0o600)
            .with_context(|| format!("cannot write the record of {}", record.name))
    }

    /// The root of an environment, as a root for paths.
    pub fn root_of(&self, subvolume: &Path) -> Result<Root> {
        if subvolume.as_os_str().is_empty() {
            return Ok(self.top.root()?);
        }
        Ok(self.dir.sub(subvolume)?)
    }

    /// Keep some room for the day when the disk is full. Without room there is none to keep.
    pub fn keep_reserve(&self) {
        if self.dir.exists(Paths::RESERVE).unwrap_or(true) {
            return;
        }
        if let Err(e) = self.make_reserve() {
            tracing::debug!("no reserve is kept: {e:#}");
            // Half of it is of no use. What cannot be removed now is, on the full disk.
            let _left = self.dir.remove_file(Paths::RESERVE);
        }
    }

    /// Data as a preallocated extent, which no compression makes smaller; metadata as
    /// extended attributes, of which each fills most of a leaf.
    fn make_reserve(&self) -> Result<()> {
        use rustix::fs::{FallocateFlags, XattrFlags, fallocate, fsetxattr};
        let file = self.dir.create_new(Paths::RESERVE, 0o600)?;
        fallocate(&file, FallocateFlags::empty(), 0, RESERVED_DATA)?;
        let fill = [0; LEAF];
        for number in 0..RESERVED_METADATA / LEAF {
            let name = format!("user.be.{number}");
            fsetxattr(&file, name.as_str(), &fill, XattrFlags::empty())?;
        }
        Ok(())
    }

    /// Give the reserve away; whether there was one.
    pub fn use_reserve(&self) -> Result<bool> {
        match self.dir.remove_file(Paths::RESERVE) {
            Ok(()) => {
                self.top.sync()?;
                Ok(true)
            }
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Names below one of the work directories.
    pub fn work(&self, dir: &str) -> Vec<String> {
        let entries = self.dir.list(dir).unwrap_or_default();
        entries
            .iter()
            .filter_map(|(name, _)| name.to_str().map(str::to_owned))
            .collect()
    }

    /// The file name of a subvolume as btrfs wants it: directory and last component.
    pub fn parent_of<'a>(&self, path: &'a Path) -> Result<(Root, &'a OsStr)> {
        let name = path.file_name().context("a subvolume has no name")?;
        let parent = path.parent().unwrap_or(Path::new(""));
        Ok((self.root_of(parent)?, name))
    }
}

fn flock(file: File, how: FlockArg, busy: impl Fn() -> Refusal) -> Result<Flock<File>> {
    match Flock::lock(file, how) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(busy().into()),
        Err((_, e)) => Err(e).context("cannot lock"),
    }
}
