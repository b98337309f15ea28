//! The directory that packages are published in, as any HTTP server serves it.
//!
//! ```text
//! DIR/Packages            the index, which Portage writes; replaced by one rename, last of all
//! DIR/CAT/PN/*.gpkg.tar   packages; each appears complete, as one more name of the file below
//! DIR/be-lock.json        what the builder was made from; the index has its digest (`BE_LOCK`)
//! DIR/.be/                for root alone
//! DIR/.be/packages/       where Portage builds: its PKGDIR, with an index of its own
//! DIR/.be/last.json       when a build ended well
//! ```
//!
//! Whatever is killed when: each package that the index names is there, with its size. A package
//! that is in the index no more stays until the next publication, for who reads the old index.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use be_btrfs::Root;
use be_portage::binhost::{Entry, Index, parse, published};
use chrono::{DateTime, FixedOffset};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::Span;
use crate::execute::is_unfinished;
use crate::lock::{Lock, Sha256};
use crate::refusal::Refusal;
use crate::session::Session;

/// The index, in both directories.
const INDEX: &str = "Packages";

/// What tells clients what the builder was made from. Whoever writes it puts it into the
/// directory of packages when a build begins; it is published with what was built then.
pub const LOCK_FILE: &str = "be-lock.json";

const PRIVATE: &str = ".be";
const PACKAGES: &str = ".be/packages";
const LAST: &str = ".be/last.json";

/// The longest index that is read, in bytes: a hundred thousand packages.
const MAX_INDEX: u64 = 256 << 20;

/// The directory, held open.
pub struct Binhost {
    /// Its path in the running system.
    pub path: String,
    /// What is served.
    dir: Root,
    /// Where Portage builds.
    pub(in crate::upgrade) packages: Root,
}

/// The last build that ended well.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Last {
    schema: u32,
    ended: DateTime<FixedOffset>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// What is published.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Published {
    /// The directory, in the running system.
    pub packages: String,
    /// How many packages its index names.
    pub count: usize,
    /// Those that are new in it, `category/name-version`.
    pub new: Vec<String>,
    /// Those that are not in it any more.
    pub gone: Vec<String>,
}

impl Binhost {
    /// Open it, and make what is missing.
    ///
    /// # Errors
    /// [`Refusal::NoBuild`] for a path that is none; what cannot be made.
    pub fn make(session: &Session, path: &str) -> Result<Self> {
        let inside = inside(path)?;
        let root = &session.root;
        let why = || format!("cannot make {path}");
        root.mkdir_all(inside, 0o755).with_context(why)?;
        let dir = root.sub(inside).with_context(why)?;
        dir.mkdir_all(PRIVATE, 0o700).with_context(why)?;
        dir.mkdir_all(PACKAGES, 0o755).with_context(why)?;
        Ok(Self {
            path: path.to_owned(),
            packages: dir.sub(PACKAGES)?,
            dir,
        })
    }

    /// Open it, if a build has made it.
    ///
    /// # Errors
    /// As for [`Binhost::make`].
    pub fn open(session: &Session, path: &str) -> Result<Option<Self>> {
        let place = inside(path)?;
        match session.root.is_dir(place.join(PACKAGES))? {
            true => Self::make(session, path).map(Some),
            false => Ok(None),
        }
    }

    /// Where Portage builds, as a path of the machine. There is no link in it.
    ///
    /// # Errors
    /// It is gone.
    pub fn workplace(&self) -> Result<PathBuf> {
        real(&self.packages)
    }

    /// There is room for packages: as much as an upgrade asks for.
    ///
    /// # Errors
    /// [`Refusal::NoSpaceFor`].
    pub(super) fn has_room(&self, session: &Session) -> Result<()> {
        let needed = session.config.upgrade.min_free_mib << 20;
        let space = rustix::fs::fstatvfs(self.packages.fd())
            .with_context(|| format!("cannot ask for the space in {}", self.path))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        let path = self.path.clone();
        match free < needed {
            true => Err(Refusal::NoSpaceFor { path, free, needed }.into()),
            false => Ok(()),
        }
    }

    /// What is published now; nothing before the first time.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn index(&self) -> Result<Index> {
        let text = self.text()?;
        parse(&text).map_err(|why| anyhow::anyhow!("{}/{INDEX}: {why}", self.path))
    }

    fn text(&self) -> Result<String> {
        match self.dir.read_to_string(INDEX, MAX_INDEX) {
            Err(e) if e.is_not_found() => Ok(String::new()),
            other => Ok(other?),
        }
    }

    /// What is built, as Portage has noted it.
    pub(super) fn built(&self) -> Result<(String, Index)> {
        let text = match self.packages.read_to_string(INDEX, MAX_INDEX) {
            Err(e) if e.is_not_found() => String::new(),
            other => other?,
        };
        let index = parse(&text);
        let index = index.map_err(|why| anyhow::anyhow!("{}/{PACKAGES}: {why}", self.path))?;
        Ok((text, index))
    }

    /// Have what was published where Portage builds, too: nothing is built again. What Portage
    /// was writing when it was killed goes.
    pub(super) fn take_back(&self) -> Result<()> {
        self.forget_begun()?;
        self.forget_unfinished()?;
        for entry in self.index()?.entries {
            let own = Path::new(PACKAGES).join(&entry.path);
            if self.dir.is_file(&entry.path)? && !self.dir.exists(&own)? {
                self.link(&own, Path::new(&entry.path))?;
            }
        }
        Ok(())
    }

    /// Let go of what Portage only began to write; nobody builds now. It reserves the name of a
    /// package with an empty file (`_allocate_filename_multi` in `portage/dbapi/bintree.py`,
    /// 3.0.83), writes to another name beside it, and renames that in the end.
    pub(super) fn forget_begun(&self) -> Result<()> {
        for path in files(&self.packages)? {
            if !is_package(&path) || self.packages.lstat(&path)?.size == 0 {
                self.packages.remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Let go of what a killed `be` has not renamed yet: an index, a lock.
    fn forget_unfinished(&self) -> Result<()> {
        for dir in ["", PRIVATE, PACKAGES].map(Path::new) {
            for (name, kind) in self.dir.list(dir)? {
                if kind.is_file() && name.to_str().is_some_and(is_unfinished) {
                    self.dir.remove_file(dir.join(name))?;
                }
            }
        }
        Ok(())
    }

    /// Let go of what was built and not published: after a power cut it may be cut off.
    pub(super) fn forget_unpublished(&self) -> Result<()> {
        let published = paths(&self.index()?);
        for path in files(&self.packages)? {
            if !published.contains(&path) {
                self.packages.remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Let go of builds that newer ones stand for.
    pub(super) fn forget_old(&self) -> Result<()> {
        let (_, index) = self.built()?;
        for entry in index.superseded() {
            self.packages.remove_file(&entry.path)?;
        }
        Ok(())
    }

    /// An index in which something is missing is not published: Portage leaves out what it cannot
    /// read, or verify.
    pub(super) fn all_are_known(&self) -> Result<()> {
        let known = paths(&self.built()?.1);
        let all = files(&self.packages)?;
        match all.iter().find(|p| is_package(p) && !known.contains(*p)) {
            None => Ok(()),
            Some(path) => anyhow::bail!(
                "Portage finds no valid package in {}/{PACKAGES}/{}: nothing was published; be log \
                 says why, and without the file it is built again",
                self.path,
                path.display()
            ),
        }
    }

    /// Publish what is built, as Portage's index there has it.
    pub(super) fn publish(&self) -> Result<Published> {
        let (text, new) = self.built()?;
        let old_text = self.text()?;
        // What is damaged is replaced.
        let old = parse(&old_text).unwrap_or_default();
        for entry in &new.entries {
            self.is_whole(entry)?;
        }
        for entry in &new.entries {
            self.publish_one(entry)?;
        }
        // An index on disk names only what is on disk.
        rustix::fs::syncfs(self.dir.fd())
            .with_context(|| format!("cannot write {} to disk", self.path))?;
        // A client that finds the new lock beside the old index is told so by what that names.
        let lock = self.publish_lock()?;
        let text = published(&text, lock.as_deref(), &old_text);
        if text != old_text {
            self.dir.write_atomic(INDEX, text.as_bytes(), 0o644)?;
        }
        self.tidy(&old, &new)?;
        let names = |index: &Index| -> BTreeSet<String> {
            let entries = index.entries.iter();
            entries.map(|e| e.package.clone()).collect()
        };
        let known = paths(&old);
        let appeared = new.entries.iter();
        let appeared = appeared.filter(|e| !known.contains(Path::new(&e.path)));
        Ok(Published {
            packages: self.path.clone(),
            count: new.entries.len(),
            new: appeared.map(|e| e.package.clone()).collect(),
            gone: names(&old).difference(&names(&new)).cloned().collect(),
        })
    }

    /// Publish what the packages are built with; gives the digest of that document. One that says
    /// the same is left as it is, unless it says more than others may know.
    fn publish_lock(&self) -> Result<Option<String>> {
        let Ok(new) = self.packages.read_to_string(LOCK_FILE, MAX_INDEX) else {
            return Ok(None);
        };
        let digest = |text: &str| {
            let lock = Lock::parse(text).ok()?;
            (lock.clone().for_others() == lock).then(|| lock.configuration_digest())
        };
        let old = self.dir.read_to_string(LOCK_FILE, MAX_INDEX).ok();
        if let Some(old) = old.filter(|old| digest(old).is_some_and(|d| Some(d) == digest(&new))) {
            return Ok(Some(Sha256::new(old.as_bytes()).to_string()));
        }
        self.dir.write_atomic(LOCK_FILE, new.as_bytes(), 0o644)?;
        Ok(Some(Sha256::new(new.as_bytes()).to_string()))
    }

    fn is_whole(&self, entry: &Entry) -> Result<()> {
        let found = self.packages.lstat(&entry.path);
        match found {
            Ok(file) if file.kind.is_file() && file.size == entry.size => Ok(()),
            _ => anyhow::bail!(
                "{} is not as Portage's index says: nothing was published",
                entry.path
            ),
        }
    }

    fn publish_one(&self, entry: &Entry) -> Result<()> {
        let (own, public) = (Path::new(PACKAGES).join(&entry.path), &entry.path);
        let inode = |path: &Path| self.dir.lstat(path).map(|m| m.ino);
        if let Ok(there) = inode(Path::new(public))
            && there == inode(&own)?
        {
            return Ok(());
        }
        self.link(Path::new(public), &own)
    }

    /// Make `path` one more name of the file at `first`, in the place of what is there.
    fn link(&self, path: &Path, first: &Path) -> Result<()> {
        if let Some(parent) = path.parent() {
            self.dir.mkdir_all(parent, 0o755)?;
        }
        Ok(self.dir.put_link(path, first)?)
    }

    /// Take away what neither index names.
    fn tidy(&self, old: &Index, new: &Index) -> Result<()> {
        let known = paths(old).into_iter().chain(paths(new));
        let known: BTreeSet<PathBuf> = known.collect();
        for path in files(&self.dir)? {
            if !known.contains(&path) {
                self.dir.remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// When a build ended well.
    pub fn last(&self) -> Option<DateTime<FixedOffset>> {
        // It only saves work: what is damaged is forgotten.
        let text = self.dir.read_to_string(LAST, MAX_INDEX).ok()?;
        Some(serde_json::from_str::<Last>(&text).ok()?.ended)
    }

    /// Note that one did.
    pub(super) fn note_end(&self, ended: DateTime<FixedOffset>) -> Result<()> {
        let last = Last {
            schema: 1,
            ended,
            extra: Map::new(),
        };
        let text = serde_json::to_string_pretty(&last)? + "\n";
        Ok(self.dir.write_atomic(LAST, text.as_bytes(), 0o600)?)
    }

    /// Whether a build is due: the last one is older than that, or of the future.
    pub fn is_due(&self, every: Span, now: DateTime<FixedOffset>) -> bool {
        let age = self.last().and_then(|last| (now - last).to_std().ok());
        age.is_none_or(|age| age >= every.duration())
    }
}

/// Where an open directory is. There is no link in the path.
pub(in crate::upgrade) fn real(dir: &Root) -> Result<PathBuf> {
    let link = format!("/proc/self/fd/{}", dir.fd().as_raw_fd());
    std::fs::read_link(&link).with_context(|| format!("cannot read {link}"))
}

/// A path of the running system, from its root.
pub(in crate::upgrade) fn inside(path: &str) -> Result<&Path> {
    let inside = path.strip_prefix('/').map(|p| p.trim_end_matches('/'));
    match inside {
        Some(inside) if !inside.is_empty() => Ok(Path::new(inside)),
        _ => {
            let why = format!("{path:?} is not the absolute path of a directory");
            Err(Refusal::NoBuild { why }.into())
        }
    }
}

fn paths(index: &Index) -> BTreeSet<PathBuf> {
    index
        .entries
        .iter()
        .map(|e| e.path.clone().into())
        .collect()
}

/// Whether it has the name of a package: while Portage writes one, it has another.
fn is_package(path: &Path) -> bool {
    let name = path.as_os_str().as_encoded_bytes();
    name.ends_with(b".gpkg.tar") || name.ends_with(b".xpak")
}

/// The files of packages: those in directories of directories, as Portage has them. What else
/// somebody has put there is left.
fn files(dir: &Root) -> Result<Vec<PathBuf>> {
    let hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b".");
    let mut found = Vec::new();
    let below = |path: &Path| -> Result<Vec<PathBuf>> {
        let all = dir.list(path)?.into_iter();
        let dirs = all.filter(|(name, kind)| kind.is_dir() && !hidden(name));
        Ok(dirs.map(|(name, _)| path.join(name)).collect())
    };
    for category in below(Path::new(""))? {
        for package in below(&category)? {
            let all = dir.list(&package)?.into_iter();
            let all = all.filter(|(_, kind)| kind.is_file());
            found.extend(all.map(|(name, _)| package.join(name)));
        }
    }
    Ok(found)
}
