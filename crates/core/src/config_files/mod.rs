//! Configuration files beside which something waits, a new version as a rule, in one
//! environment: what is known of them, and what is done about them.

mod change;
mod memory;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use be_btrfs::Root;
use be_portage::config_files::waiting::{Kind, Pending, config_protect, pending_config};
use be_portage::config_files::{Decision, MAX_SIZE, Versions, Why, decide, sensitive};
use be_portage::state;

use crate::files;
use crate::manager::Manager;
use crate::model::{Environment, Inventory};
use crate::refusal::Refusal;
use crate::session::Session;
use crate::store::Claim;
use crate::upgrade::fd_path;
use crate::whole::Whole;

pub use change::{Kept, Stamp};
pub(crate) use change::{Meanwhile, already_merged, done_with, put};
pub(crate) use memory::learn;

/// Where `be` keeps what it has to remember of configuration files, in the environment.
pub const HOME: &str = "var/lib/be/config";

/// A file beside which something waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The file in use, from the root of the system.
    pub target: PathBuf,
    /// What it is that waits.
    pub kind: Kind,
    /// What waits, the newest last: older ones are packaged versions in between.
    pub files: Vec<PathBuf>,
    /// The content in use; none if it is no regular file that can be merged.
    pub ours: Option<Vec<u8>>,
    /// The content of the newest that waits; none likewise.
    pub theirs: Option<Vec<u8>>,
    /// The packaged version that the one in use was made from, if it is known.
    pub base: Option<Vec<u8>>,
    /// Checksums of packaged versions: what has one of these nobody has changed.
    pristine: Vec<String>,
    /// What would be done without a person.
    pub decision: Decision,
}

impl Item {
    /// As text.
    pub fn path(&self) -> String {
        self.target.to_string_lossy().into_owned()
    }

    /// What would be done if this were in use.
    fn decide(&self, ours: Option<&[u8]>) -> Decision {
        match self.kind {
            Kind::New => {}
            Kind::Unfinished => return Decision::Leave(Why::Unfinished),
            Kind::Old => return Decision::Leave(Why::Old),
        }
        let path = self.path();
        decide(&Versions {
            path: &path,
            ours,
            theirs: self.theirs.as_deref(),
            base: self.base.as_deref(),
            pristine: &self.pristine,
            sensitive: is_sensitive(&path),
        })
    }
}

/// Files about which nobody but a person decides, those of `be` among them.
fn is_sensitive(path: &str) -> bool {
    sensitive::is_sensitive(path) || files::is_own(path.trim_start_matches('/'))
}

/// What is known, for some paths, of the packaged version that a file was made from.
#[derive(Debug, Default)]
pub(crate) struct Lineage {
    /// Its checksum, where it is sure.
    made_from: BTreeMap<String, String>,
    /// These versions, by their checksums, as far as they are kept.
    versions: BTreeMap<String, Vec<u8>>,
    /// Checksums that tell that nobody has changed it.
    pristine: BTreeMap<String, Vec<String>>,
}

/// Find that out from a system as it was before the new versions came; or, with what `be`
/// has noted at the end of an upgrade, as it is.
///
/// What packages have installed is what a file was made from only where nothing waited: a
/// version that waits has not gone into the file.
///
/// # Errors
/// When the system cannot be read.
pub(crate) fn lineage(root: &Root, manager: &Manager, paths: &BTreeSet<String>) -> Result<Lineage> {
    let mut lineage = Lineage::default();
    if paths.is_empty() {
        return Ok(lineage);
    }
    let waiting = waiting(root, manager)?;
    let noted = memory::Index::read(root);
    let installed = manager.packaged(root, |path| paths.contains(path))?;
    for (path, sums) in installed {
        let made_from = match (waiting.contains(&path), &sums[..]) {
            (false, [only]) => Some(only.clone()),
            (false, _) => None,
            (true, sums) => noted.made_from(&path, sums),
        };
        let mut pristine = sums;
        if let Some(sum) = made_from {
            pristine.push(sum.clone());
            if let Some(version) = memory::content(root, &sum) {
                lineage.versions.insert(sum.clone(), version);
            }
            lineage.made_from.insert(path.clone(), sum);
        }
        lineage.pristine.insert(path, pristine);
    }
    Ok(lineage)
}

/// What belongs together: the file in use, what it is that waits for it, and which one, where
/// that is no series of versions.
type Key = (PathBuf, Kind, Option<PathBuf>);

/// What waits in a system, with what `lineage` knows.
pub(crate) fn survey(root: &Root, manager: &Manager, lineage: &Lineage) -> Result<Vec<Item>> {
    let mut items: BTreeMap<Key, Vec<PathBuf>> = BTreeMap::new();
    for Pending { target, file, kind } in pending(root, manager)? {
        // Those with numbers are one series; each of the others is on its own.
        let alone = (!is_numbered(&file)).then(|| file.clone());
        items.entry((target, kind, alone)).or_default().push(file);
    }
    let survey = |((target, kind, _), mut files): (Key, Vec<PathBuf>)| -> Result<Item> {
        files.sort();
        let path = text(&target);
        let newest = files.last().context("something waits")?;
        let base = lineage.made_from.get(&path);
        let mut item = Item {
            ours: content(root, &target)?,
            theirs: content(root, newest)?,
            base: base.and_then(|sum| lineage.versions.get(sum)).cloned(),
            pristine: lineage.pristine.get(&path).cloned().unwrap_or_default(),
            decision: Decision::Take,
            kind,
            target,
            files,
        };
        item.decision = item.decide(item.ours.as_deref());
        Ok(item)
    };
    items.into_iter().map(survey).collect()
}

/// The paths of the files of which a new version waits in a system.
pub(crate) fn waiting(root: &Root, manager: &Manager) -> Result<BTreeSet<String>> {
    let pending = pending(root, manager)?;
    let new = pending.iter().filter(|p| p.kind != Kind::Old);
    Ok(new.map(|p| text(&p.target)).collect())
}

fn pending(root: &Root, manager: &Manager) -> Result<Vec<Pending>> {
    pending_config(&fd_path(root), &protected(root)?, &manager.beside())
}

/// Whether it is Portage's `._cfg0000_NAME`.
fn is_numbered(file: &Path) -> bool {
    let name = file.file_name().map(OsStr::as_encoded_bytes);
    name.is_some_and(|name| name.starts_with(b"._cfg"))
}

fn protected(root: &Root) -> Result<Vec<PathBuf>> {
    let profile_env = state::read(&fd_path(root), "etc/profile.env")?;
    Ok(config_protect(&profile_env.unwrap_or_default()))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The content of a regular file of a size that can be merged; no link is followed.
fn content(root: &Root, path: &Path) -> Result<Option<Vec<u8>>> {
    match root.lstat(path) {
        Ok(meta) if meta.kind.is_file() && meta.size <= MAX_SIZE => {
            Ok(Some(root.read(path, MAX_SIZE)?))
        }
        Ok(_) => Ok(None),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// An environment of which the configuration files are looked at, and may be changed.
pub struct Desk {
    root: Whole,
    /// What waits in it.
    pub items: Vec<Item>,
    _claim: Option<Claim>,
}

impl Desk {
    /// To look only.
    ///
    /// # Errors
    /// [`Refusal::RootMissing`], or when it cannot be read.
    pub fn look(session: &Session, inv: &Inventory, env: &Environment) -> Result<Self> {
        let root = match inv
            .running()
            .is_ok_and(|running| running.name() == env.name())
        {
            // With all that is mounted in it.
            true => session.root.try_clone()?.into(),
            false => session.whole(env)?,
        };
        let manager = session.manager_of(&root)?.unwrap_or_default();
        let lineage = lineage(&root, &manager, &waiting(&root, &manager)?)?;
        let items = survey(&root, &manager, &lineage)?;
        Ok(Self {
            root,
            items,
            _claim: None,
        })
    }

    /// To change them; nobody else can work in the environment meanwhile.
    ///
    /// # Errors
    /// [`Refusal::Busy`] if somebody does; as [`Desk::look`].
    pub fn open(session: &Session, inv: &Inventory, env: &Environment) -> Result<Self> {
        let claim = session.store.claim(env.name())?;
        let desk = Self::look(session, inv, env)?;
        Ok(Self {
            _claim: Some(claim),
            ..desk
        })
    }

    /// The one that is meant by the path of one that waits, or of the file in use; of several,
    /// a new version.
    ///
    /// # Errors
    /// [`Refusal::NotPending`].
    pub fn find(&self, env: &Environment, path: &Path) -> Result<&Item, Refusal> {
        let waits = |item: &&Item| item.files.iter().any(|f| f == path);
        let found = self.items.iter().find(waits);
        // They are sorted by what they are.
        let found = found.or_else(|| self.items.iter().find(|item| item.target == path));
        let not = || Refusal::NotPending {
            name: env.name().clone(),
            path: path.to_owned(),
        };
        found.ok_or_else(not)
    }

    /// Leave the file as it is; what waits goes. What is no packaged version is kept.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, item: &Item, stamp: &Stamp) -> Result<Kept> {
        change::keep(&self.root, item, stamp)
    }

    /// Put what waits in the place of the file; what was there is kept.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn take(&self, item: &Item, stamp: &Stamp) -> Result<Kept> {
        change::take(&self.root, item, stamp)
    }

    /// Give the file this content; what was there is kept, and what waits goes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, item: &Item, content: &[u8], stamp: &Stamp) -> Result<Kept> {
        let kept = put(&self.root, item, content, stamp)?;
        change::done_with(&self.root, item)?;
        Ok(kept)
    }
}

#[cfg(test)]
mod tests;
