//! What differs between two environments: packages, kernels, configuration, files. Only
//! read; nothing is mounted where anybody could see it.

pub(crate) mod entry;
mod kernels;
mod lineage;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
pub use be_btrfs::FileType;
use be_btrfs::Root;
use be_portage::diff::{PackageDiff, diff_by};
use be_portage::vdb;

pub use self::entry::Aspect;
use self::entry::Reading;
pub use self::kernels::{Kernel, KernelDiff};
use self::lineage::Ancestry;
pub(crate) use self::lineage::Parted;
use self::walk::Walk;
pub use self::walk::{Change, FileChange};
use crate::bootfs::BootDir;
use crate::chroot::Interrupted;
use crate::fstab::{self, Entry, Fstab};
use crate::layout;
use crate::manager::{Manager, Places, Source};
use crate::model::{Environment, Inventory, STORE, volumes};
use crate::name::{Named, SnapName};
use crate::observe::MAX_TEXT;
use crate::refusal::Refusal;
use crate::session::Session;
use crate::store::Store;
use crate::upgrade::fd_path;
use crate::whole::Whole;

/// Where people keep their configuration.
const CONFIGURATION: &str = "etc";

/// The one file there that is written for each environment.
const FSTAB: &str = "etc/fstab";

/// One of the two: the root of an environment, or of a snapshot of one.
#[derive(Debug)]
pub struct Side {
    /// What to call it.
    pub label: String,
    /// Its root subvolume.
    pub root: Root,
    /// Its other subvolumes, with the paths at which they are mounted in it.
    pub volumes: Vec<(PathBuf, Root)>,
    /// All of it as one tree.
    pub whole: Whole,
    /// Where its packages are found.
    pub packages: Source,
    /// Its /boot, if that is not in the root.
    pub boot: Option<BootDir>,
}

impl Side {
    /// An environment.
    ///
    /// # Errors
    /// [`Refusal::RootMissing`].
    pub fn of(session: &Session, env: &Environment) -> Result<Self> {
        let subvolume = env.root.as_ref().ok_or_else(|| Refusal::RootMissing {
            name: env.name().clone(),
        })?;
        let label = env.name().to_string();
        let boot = session.boot_of(env)?;
        Self::open(session, label, &subvolume.path, env.volumes(), boot)
    }

    /// A snapshot of an environment.
    ///
    /// # Errors
    /// [`Refusal::UnknownSnapshot`], [`Refusal::SnapshotGone`].
    pub fn of_snapshot(session: &Session, env: &Environment, name: &SnapName) -> Result<Self> {
        let (taken, found) = env.snapshot(name)?;
        let named = Named::snapshot(env.name(), name);
        let label = named.to_string();
        let root = found.root().ok_or(Refusal::SnapshotGone { name: named })?;
        let mounts = taken.subvolumes.iter().map(|m| m.mount.as_str());
        let volumes = volumes(mounts.zip(&found.subvolumes));
        let boot = session.boot_of(env)?;
        Self::open(session, label, &root.path, volumes, boot)
    }

    fn open(
        session: &Session,
        label: String,
        root: &Path,
        volumes: Vec<(PathBuf, PathBuf)>,
        boot: Option<BootDir>,
    ) -> Result<Self> {
        let store = &session.store;
        let whole = Whole::open(store, root, volumes.clone())?;
        let places = Places {
            root: root.to_owned(),
            volumes: volumes.clone(),
        };
        Ok(Self {
            label,
            boot,
            packages: session.source(&whole, places)?,
            root: store.root_of(root)?,
            volumes: volumes
                .iter()
                .map(|(mount, path)| Ok((mount.clone(), store.root_of(path)?)))
                .collect::<Result<_>>()?,
            whole,
        })
    }
}

/// What else is known of two sides on one filesystem.
#[derive(Debug)]
pub struct Family<'a> {
    store: &'a Store,
    ancestry: Ancestry,
}

impl<'a> Family<'a> {
    /// Who was cloned from whom.
    ///
    /// # Errors
    /// When the filesystem's trees cannot be read.
    pub fn new(store: &'a Store, inv: &Inventory) -> Result<Self> {
        let members = inv.environments.iter().flat_map(|e| &e.record.subvolumes);
        let bases = members.flat_map(|m| m.base.iter().chain(&m.cloned_from));
        Ok(Self {
            store,
            ancestry: Ancestry::new(&store.top.tree()?, bases),
        })
    }

    pub(crate) fn parted(&self, a: &Root, b: &Root) -> Result<Option<Parted>> {
        // Only a subvolume as a whole has a history.
        if !be_btrfs::is_subvolume_root(a)? || !be_btrfs::is_subvolume_root(b)? {
            return Ok(None);
        }
        let (a, b) = (be_btrfs::subvolume_info(a)?, be_btrfs::subvolume_info(b)?);
        Ok(self.ancestry.parted(&a, &b))
    }
}

/// How much to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Packages, kernels and configuration.
    Summary,
    /// Every file as well.
    Files,
}

/// All that differs, from the first to the second.
#[derive(Debug)]
pub struct Diff {
    /// What the first is called.
    pub from: String,
    /// What the second is called.
    pub to: String,
    /// The packages.
    pub packages: PackageDiff,
    /// The kernels.
    pub kernels: KernelDiff,
    /// What is at and below /etc, by path. /etc/fstab is left out where only the subvolume
    /// of the root differs: that is written for each environment.
    pub configuration: Vec<FileChange>,
    /// Every path, if that was asked for.
    pub files: Option<Vec<FileChange>>,
    /// A sentence each: what could not be read.
    pub notes: Vec<String>,
}

impl Diff {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty()
            && self.kernels.is_empty()
            && self.configuration.is_empty()
            && self.files.as_ref().is_none_or(Vec::is_empty)
    }
}

/// Compare two sides. With a family, what they have had in common since one was cloned
/// from the other is not read again.
///
/// # Errors
/// When one of them cannot be read.
pub fn compare(a: &Side, b: &Side, family: Option<&Family>, depth: Depth) -> Result<Diff> {
    let parted = match family {
        Some(family) => family.parted(&a.root, &b.root)?,
        None => None,
    };
    let together = a.volumes.is_empty() && b.volumes.is_empty();
    // Of the root alone: what lies in another subvolume parted at another time.
    let time = parted.map(|parted| parted.time).filter(|_| together);
    let (packages, rest) = std::thread::scope(|scope| {
        let packages = scope.spawn(|| packages(a, b, time));
        let rest = KernelDiff::read(a, b, time)
            .and_then(|kernels| Ok((kernels, configuration(a, b, time)?)));
        (packages.join(), rest)
    });
    let packages = packages
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        .context("cannot compare the packages")?;
    let (kernels, configuration) = rest?;
    let files = match depth {
        Depth::Summary => None,
        Depth::Files => Some(all_files(a, b, family)?),
    };
    let apart = apart(a, b).into_iter().chain(apart(b, a));
    Ok(Diff {
        from: a.label.clone(),
        to: b.label.clone(),
        packages: diff_by(
            &packages.before,
            &packages.after,
            b.packages.manager.order(),
        ),
        kernels,
        configuration,
        files,
        notes: notes(a, &packages.before)
            .chain(notes(b, &packages.after))
            .chain(apart.filter(|_| depth == Depth::Files))
            .collect(),
    })
}

/// The packages of both; of those of Portage only what may differ.
fn packages(a: &Side, b: &Side, time: Option<i64>) -> Result<vdb::Changed> {
    let both = [a, b].map(|side| &side.packages.manager);
    if both == [&Manager::Portage; 2] {
        return vdb::load_changed(&fd_path(&a.whole), &fd_path(&b.whole), time);
    }
    Ok(vdb::Changed {
        before: a.packages.load(&a.whole)?,
        after: b.packages.load(&b.whole)?,
        same: 0,
    })
}

fn notes<'a>(side: &'a Side, packages: &'a vdb::Installed) -> impl Iterator<Item = String> + 'a {
    let invalid = packages.invalid.iter();
    let invalid = invalid.map(|why| format!("{}: a package cannot be read: {why}", side.label));
    let cut = packages.interrupted.iter();
    let manager = &side.packages.manager;
    invalid.chain(cut.map(|package| format!("{}: {}", side.label, manager.in_part(package))))
}

fn configuration(a: &Side, b: &Side, parted: Option<i64>) -> Result<Vec<FileChange>> {
    let mut walk = Walk::new(&a.whole, &b.whole, parted)?;
    walk.tree(Path::new(CONFIGURATION))?;
    let mut changes = walk.changes();
    changes.retain(|c| !is_only_the_subvolume(c, a, b));
    Ok(changes)
}

/// Whether this is the fstab, and `be` itself may have made all of the difference.
fn is_only_the_subvolume(change: &FileChange, a: &Side, b: &Side) -> bool {
    if change.path != Path::new(FSTAB) || change.change != Change::Changed(vec![Aspect::Content]) {
        return false;
    }
    let read = |side: &Side| {
        let text = side.root.read_to_string(FSTAB, MAX_TEXT).ok()?;
        let own = |e: &Entry| {
            e.subvol()
                .is_some_and(|s| s.starts_with(&format!("{STORE}/")))
        };
        let tab = Fstab::parse(&text).without(|e| e.options.iter().any(|o| o == layout::ADDED));
        let changes: Vec<_> = tab
            .entries()
            .filter(|e| own(e) || e.target == Path::new("/"))
            .map(|e| fstab::Change::Subvol {
                target: e.target.clone(),
                source: None,
                subvol: "/".into(),
            })
            .collect();
        Some(tab.changed(&changes).to_text())
    };
    read(a).is_some_and(|text| read(b) == Some(text))
}

/// What differs in the roots, and in each of the other subvolumes that both have.
fn all_files(a: &Side, b: &Side, family: Option<&Family>) -> Result<Vec<FileChange>> {
    let mut changes = files(&a.root, &b.root, family, Reading::All, None)?;
    for (mount, one) in &a.volumes {
        let Some((_, other)) = b.volumes.iter().find(|(m, _)| m == mount) else {
            continue;
        };
        let below = mount.strip_prefix("/").unwrap_or(mount);
        changes.extend(
            files(one, other, family, Reading::All, None)?
                .into_iter()
                .map(|mut change| {
                    change.path = below.join(&change.path);
                    change
                }),
        );
    }
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(changes)
}

/// What only one of the two has as a subvolume of its own, a sentence each.
fn apart(a: &Side, b: &Side) -> Vec<String> {
    let only = a.volumes.iter().map(|(mount, _)| mount);
    only.filter(|mount| !b.volumes.iter().any(|(m, _)| m == *mount))
        .map(|mount| {
            let (mount, a, b) = (mount.display(), &a.label, &b.label);
            format!("{mount} is a subvolume of {a}, and none of {b}: not compared")
        })
        .collect()
}

/// What differs in two subvolumes.
pub(crate) fn files(
    a: &Root,
    b: &Root,
    family: Option<&Family>,
    reading: Reading,
    interrupted: Option<&Interrupted>,
) -> Result<Vec<FileChange>> {
    let parted = match family {
        Some(family) => family.parted(a, b)?.map(|parted| (family, parted)),
        None => None,
    };
    let time = parted.map(|(_, parted)| parted.time);
    let mut walk = Walk::new(a, b, time)?.reading(reading).until(interrupted);
    match parted {
        Some((family, parted)) => {
            let newer = newer(family, parted.transaction, [a, b])?;
            walk.newer(&newer)?;
        }
        None => walk.tree(Path::new(""))?,
    }
    Ok(walk.changes())
}

/// The paths of all that was written in one of the two since.
fn newer(family: &Family, since: u64, roots: [&Root; 2]) -> Result<BTreeSet<PathBuf>> {
    let top = &family.store.top;
    let mut paths = BTreeSet::new();
    for root in roots {
        let id = be_btrfs::subvolume_info(root)?.id;
        let changed = top.changed_files(id, since, None, &[])?;
        paths.extend(changed.into_iter().map(|file| file.path));
    }
    Ok(paths)
}
