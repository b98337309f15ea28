//! Locks: what an environment was made from and what it came to, in one document of its own
//! format, `be-lock/v1`; see LOCKS in be(8) for what of it can be made again.
//!
//! A lock of an environment that `be upgrade` made is written when that is complete, and says
//! from then on what *made* it. Of any other environment it is computed from what is there.
//!
//! # For who compares systems
//!
//! [`differences`] names all that is different between two locks, and
//! [`configuration_differences`] only what decides what a package that is built looks like:
//! /etc/portage but for what merely says where things come from ([`decides`]), the chain of
//! profiles, the state of the repositories, the USE flags and compiler flags as Portage computes
//! them, the toolchain, and Portage itself. Which packages are installed and which are wanted
//! (world, sets) is no part of it. Two locks have the same [`Lock::configuration_digest`] if and
//! only if they have no `configuration_differences`: both are made from the same facts. So a
//! builder of binary packages can publish its digest, a client compare it with its own before it
//! takes a package, and, where it is another, ask which differences there are and decide by
//! their [`Part`]: refuse, follow, or go on. All of it is pure; it reads nothing.

mod accounts;
mod apply;
mod collect;
mod configuration;
mod difference;
mod facts;
mod owned;
mod profile;
mod read;
mod repositories;
mod secret;
mod settings;
#[cfg(test)]
mod tests;
mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use chrono::{DateTime, FixedOffset};
use serde::{Deserialize, Serialize};

use crate::name::EnvName;
use crate::report::{Place as MovedAt, Renamed};
use crate::upgrade::inputs::KEYS;

pub(crate) use apply::apply;
pub(crate) use collect::{BINHOSTS, INDEX, MAX_INDEX, Made, Scene, path, write};
pub use collect::{MAX_LOCK, current, of, recorded};
pub use difference::{Change, Difference, Part};
pub use facts::{configuration_differences, decides, deviations, differences};
pub use read::BadLock;
pub(crate) use repositories::state;
pub use words::{
    Account, CONFIGURATION, Commit, Cpv, Flags, Inside, Mode, Place, RepositoryName, Schema,
    Sha256, Slot, Target, Uri, Word,
};

/// The format. Every change of it has another number: a `be` that does not know a field would
/// make something else of it.
pub const SCHEMA: &str = "be-lock/v1";

/// What an environment was made from, and what it came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// The format.
    pub schema: Schema,
    /// The environment that it tells of.
    pub environment: EnvName,
    /// It was written by the upgrade that made the environment. False: it was computed later,
    /// from what was there then.
    pub recorded: bool,
    /// When it was written or computed.
    pub created: DateTime<FixedOffset>,
    /// The version of `be`.
    pub be: String,
    /// The environment that this one was cloned from.
    pub origin: Option<EnvName>,
    /// The version of Portage.
    pub portage: String,
    /// The repositories, sorted by name.
    pub repositories: Vec<Repository>,
    /// All that is in /etc/portage.
    pub configuration: Configuration,
    /// The chain of profiles in the order in which Portage reads them, `repository:path` each.
    /// What lies in no repository has its absolute path.
    pub profile: Vec<String>,
    /// The packages that are wanted (/var/lib/portage/world).
    pub world: Vec<Word>,
    /// The sets that are wanted (/var/lib/portage/world_sets). What is in those of a person is
    /// in the configuration, below /etc/portage/sets.
    pub world_sets: Vec<Word>,
    /// Settings as Portage computes them from profile and configuration.
    pub settings: BTreeMap<String, String>,
    /// What packages are built with.
    pub toolchain: Toolchain,
    /// The indexes of binary packages that Portage has.
    pub binhosts: Vec<Index>,
    /// Old names of packages that the upgrade took for new ones.
    pub moves: Vec<Move>,
    /// What the upgrade gave emerge besides what it always does.
    pub options: Vec<String>,
    /// The installed packages.
    pub packages: Vec<Package>,
    /// The packages of the environment that it was cloned from, at that time; none where that
    /// is not known.
    pub start: Option<Vec<Package>>,
}

/// A repository of ebuilds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    /// Its name.
    pub name: RepositoryName,
    /// Where it lies in the environment.
    pub location: Place,
    /// Where it is synchronised from, without a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_uri: Option<Uri>,
    /// The repositories that it builds upon.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masters: Vec<RepositoryName>,
    /// Repositories whose eclasses count more than its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eclass_overrides: Vec<RepositoryName>,
    /// What was in it.
    pub state: State,
}

/// What is in a repository, by the best name that there is for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum State {
    /// A commit of git: it can be had again.
    Git {
        /// The one that was checked out.
        commit: Commit,
        /// Files were not as in the commit; none if git could not be asked.
        modified: Option<bool>,
    },
    /// A mirror without git, by what it says of itself: nobody can get it again by that.
    Mirror {
        /// metadata/timestamp.commit: the commit that the mirror was made from.
        commit: Option<Commit>,
        /// metadata/timestamp.chk: when it was made.
        timestamp: Option<String>,
    },
    /// Neither: a digest of the names and contents of its files. It tells whether two are the
    /// same.
    Tree {
        /// The digest.
        sha256: Sha256,
    },
    /// It was configured, and not there.
    Missing,
}

/// All that is in /etc/portage, but for the keys of hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// One digest over all entries.
    pub sha256: Sha256,
    /// Everything, sorted by path. The directory of an entry comes before it.
    pub entries: Vec<Entry>,
}

/// Something in /etc/portage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Where.
    pub path: Inside,
    /// What.
    pub kind: Kind,
    /// Its permissions; those of a link say nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Whom it belongs to, if that is not root; that of a link says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Account>,
    /// The group, if that is not root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Account>,
    /// Where a link points to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// The digest of a file's content; that of a private one has none for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,
    /// The content of a file, so that it can be made again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Why the content is not here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<Withheld>,
}

/// What something in /etc/portage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, a socket, a fifo, or what has no name in UTF-8.
    Other,
}

/// Why a lock has only the digest of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Withheld {
    /// Not everybody may read it, or it holds a key or a password.
    Private,
    /// It is no text.
    Binary,
    /// It is too large to be carried about.
    Large,
    /// It is for everybody to read, who only compare.
    Public,
}

/// What packages are built with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toolchain {
    /// Compilers, linkers, C libraries and interpreters that are installed.
    pub packages: Vec<Package>,
    /// Of several that are installed, the one that is chosen: `gcc`, `binutils`.
    pub selected: BTreeMap<String, String>,
}

/// An index of binary packages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// Where it lies in the environment; that of a remote one has the name of its host in it.
    pub path: Place,
    /// Its digest.
    pub sha256: Sha256,
}

/// Old names that were taken for new ones in one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Move {
    /// The place: a repository or a file.
    pub place: MovedAt,
    /// The names.
    pub names: Vec<Renamed>,
}

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// `category/name-version`.
    pub cpv: Cpv,
    /// Its slot, with the subslot.
    pub slot: Slot,
    /// The repository that it came from, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryName>,
    /// The flags that were on, of those that its ebuild has.
    #[serde(rename = "use")]
    pub use_flags: Flags,
    /// Which build of a binary package it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<u64>,
    /// When it was built, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_time: Option<i64>,
}

impl Lock {
    /// The same for everybody to read: with digests of the configuration and not its texts, of
    /// what is private without these, too, for a short password can be guessed by its digest, and
    /// without what is installed or wanted.
    pub fn for_others(mut self) -> Self {
        let mut entries: Vec<Entry> = self.configuration.entries().cloned().collect();
        for entry in &mut entries {
            if entry.text.take().is_some() {
                entry.withheld = Some(Withheld::Public);
            }
            if entry.withheld == Some(Withheld::Private) {
                entry.sha256 = None;
            }
        }
        let sha256 = configuration::digest(&entries);
        self.configuration = Configuration { sha256, entries };
        for one in &mut self.repositories {
            let uri = one.sync_uri.take();
            one.sync_uri = uri.and_then(|uri| secret::without(&uri).try_into().ok());
        }
        self.world.clear();
        self.world_sets.clear();
        self.packages.clear();
        self.start = None;
        self
    }

    /// It is one [for others](Self::for_others): to compare with, and nothing to build from.
    pub fn is_for_others(&self) -> bool {
        self.packages.is_empty()
    }

    /// The text of the document.
    ///
    /// # Errors
    /// None that can be met with.
    pub fn to_text(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// A digest over all that decides what a package that is built looks like; the same as that
    /// of another lock if and only if [`configuration_differences`] names nothing.
    pub fn configuration_digest(&self) -> Sha256 {
        facts::digest(self)
    }

    /// What is in /etc/portage without its content here: files of which the lock has only the
    /// digest, and links [that lead out](Entry::leads_out).
    pub fn withheld(&self) -> impl Iterator<Item = &Entry> {
        let entries = self.configuration.entries();
        entries.filter(|e| e.kind == Kind::Other || e.withheld.is_some() || e.leads_out())
    }
}

impl Entry {
    /// It is a link to what is not in /etc/portage, and so not in the lock; that of the profile
    /// leads to a repository.
    pub fn leads_out(&self) -> bool {
        let Some(target) = &self.target else {
            return false;
        };
        let link = Path::new(&*self.path);
        let own = Path::new(CONFIGURATION);
        let mut to = PathBuf::new();
        for part in link.parent().unwrap_or(own).join(&**target).components() {
            match part {
                Component::ParentDir => drop(to.pop()),
                Component::CurDir => {}
                part => to.push(part),
            }
        }
        link != own.join("make.profile") && !to.starts_with(own)
    }
}

impl Configuration {
    /// Its entries, but for the keys of a machine, which locks of before have: they are nothing
    /// that another one could have as well, or this one the next day.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        let keys =
            |e: &&Entry| Path::new(&*e.path).starts_with(Path::new(CONFIGURATION).join(KEYS));
        self.entries.iter().filter(move |e| !keys(e))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Git { commit, modified } => match modified {
                Some(true) => write!(f, "{commit} with changes"),
                _ => write!(f, "{commit}"),
            },
            State::Mirror { commit, timestamp } => {
                if let Some(commit) = commit {
                    write!(f, "{commit} of ")?;
                }
                let time = timestamp.as_deref().unwrap_or("an unknown time");
                write!(f, "a mirror of {time}")
            }
            State::Tree { sha256 } => write!(f, "files {sha256}"),
            State::Missing => f.write_str("not there"),
        }
    }
}
