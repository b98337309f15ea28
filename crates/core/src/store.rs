//! The store on the top level: its directories, its lock, its records. DESIGN of the tree:
//!
//! ```text
//! @be/NAME/be.json  root/  base/root/  log/  snap/SNAP/root/
//! @be/.work/new/NAME    being made      @be/.work/gone/NAME    being removed
//! @be/.work/split/@PATH   a directory on its way into a subvolume of its own
//! @be/.work/…/NAME@SNAP a snapshot of it
//! @be/.work/coming/NAME   an environment that is being received
//! @be/.work/held/PID      snapshots while a virtual machine reads what they are of
//! @be/NAME -> OTHER     a second name, while OTHER is being renamed
//! @be/.grub/menu.cfg    what GRUB reads
//! @be/lock              flock; opened, never replaced
//! ```

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use be_btrfs::{Root, TopLevel};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rustix::fs::{Mode, OFlags};

use crate::model::STORE;
use crate::name::EnvName;
use crate::parallel;
use crate::record::Record;
use crate::refusal::Refusal;
use crate::upgrade::Merging;

/// Bytes of data that are kept for a full disk.
const RESERVED_DATA: u64 = 1 << 20;

/// Bytes of metadata: btrfs reserves much more for a small file than it needs in the end,
/// 256 KiB for every item that it may touch.
const RESERVED_METADATA: usize = 8 << 20;

/// Bytes of an attribute that fit in a leaf of 16 KiB, the default, beside its name.
const LEAF: usize = 15 << 10;

/// The attribute of the directory of an environment that says that its upgrade is to pause.
const PAUSED: &str = "trusted.be.paused";

/// The attribute of an environment's directory that tells how far its merge is, in JSON.
const MERGING: &str = "trusted.be.merging";

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
    /// Snapshots that keep what a virtual machine reads.
    pub const HELD: &str = "@be/.work/held";
    /// Environments that are being received, while a process has the directory locked.
    pub const COMING: &str = "@be/.work/coming";
    /// What upgrades have built, for the next ones.
    pub const BUILT: &str = "@be/.built";
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
pub struct Claim(Flock<File>);

impl Claim {
    /// The same claim once more, for a program that is started meanwhile: it inherits this, and
    /// the environment is claimed until that has ended, too.
    ///
    /// # Errors
    /// When it cannot be duplicated.
    pub fn inherited(&self) -> Result<OwnedFd> {
        // Without close-on-exec, unlike a clone of the file.
        rustix::io::dup(&*self.0).context("cannot hand over the claim")
    }
}

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

    /// Take the lock of the store. Who has it has it for a moment; so wait for that long.
    ///
    /// # Errors
    /// [`Refusal::Busy`] if another process keeps it.
    pub fn lock(&self) -> Result<Lock> {
        self.lock_within(Duration::from_secs(2))
    }

    /// As [`Store::lock`], with as much patience as the work is worth.
    pub fn lock_within(&self, patience: Duration) -> Result<Lock> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = rustix::fs::openat(self.top.fd(), Paths::LOCK, flags, mode)
            .context("cannot open the lock of the store")?;
        let mut file = File::from(fd);
        let start = Instant::now();
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Lock(lock)),
                Err((back, Errno::EWOULDBLOCK)) if start.elapsed() < patience => file = back,
                Err((_, Errno::EWOULDBLOCK)) => {
                    let what = "another be is at work".into();
                    return Err(Refusal::Busy { what }.into());
                }
                Err((_, e)) => return Err(e).context("cannot lock the store"),
            }
            sleep(Duration::from_millis(10));
        }
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
            sleep(Duration::from_millis(10));
        }
        Err(busy().into())
    }

    /// Claim the right to run an upgrade; there is one at a time.
    ///
    /// # Errors
    /// [`Refusal::Busy`] if another upgrade runs.
    pub fn claim_upgrade(&self) -> Result<Claim> {
        // .work is never replaced, so that all lock the same inode.
        let file = self.open_dir(Path::new("@be/.work"))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Claim(lock)),
            Err((_, Errno::EWOULDBLOCK)) => {
                let what = "another upgrade is running".into();
                Err(Refusal::Busy { what }.into())
            }
            Err((_, e)) => Err(e).context("cannot lock"),
        }
    }

    /// Whether somebody wants the upgrade in an environment to pause. What cannot be read
    /// pauses nothing.
    pub fn is_paused(&self, name: &EnvName) -> bool {
        let home = self.dir.sub(Paths::environment(name));
        let wish = home.and_then(|home| home.attribute(PAUSED));
        wish.is_ok_and(|wish| wish.is_some_and(|wish| wish == b"1"))
    }

    /// Want the upgrade in an environment to pause, or to go on.
    ///
    /// # Errors
    /// When the wish cannot be written.
    pub fn set_paused(&self, name: &EnvName, paused: bool) -> Result<()> {
        let home = self.dir.sub(Paths::environment(name))?;
        Ok(home.set_attribute(PAUSED, if paused { b"1" } else { b"0" })?)
    }

    /// Tell others how far the merge in an environment is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn tell(&self, name: &EnvName, merging: &Merging) -> Result<()> {
        let home = self.dir.sub(Paths::environment(name))?;
        Ok(home.set_attribute(MERGING, &serde_json::to_vec(merging)?)?)
    }

    /// How far the merge was when its upgrade last told; it may not run any more.
    pub fn told(&self, name: &EnvName) -> Option<Merging> {
        let home = self.dir.sub(Paths::environment(name)).ok()?;
        serde_json::from_slice(&home.attribute(MERGING).ok()??).ok()
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
