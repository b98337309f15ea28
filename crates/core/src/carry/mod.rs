//! Carry: what changed on the running system since an environment was cloned from it goes into
//! that environment, so that nothing is missing when it boots.
//!
//! Three trees decide about every name: the base, which both once were; the running system;
//! and the new environment. Only what changed on the running system is looked at, and btrfs
//! itself knows what that is: the time that it takes grows with it, and not with the system.

mod apply;
mod decide;
mod over;
mod pattern;
mod replay;
mod rotated;
mod route;
mod rules;
mod survey;
mod text;

use std::path::PathBuf;

use be_btrfs::FileType;
use be_portage::diff::PackageDiff;
use serde::Serialize;

pub use self::apply::Applied;
pub use self::decide::{Clash, From, Mix};
pub use self::over::{
    BEFORE, Over, Terms, forget, goes_by_itself, is_due, keep_activated, over, still_good,
};
pub(crate) use self::over::{is_before, over_claimed};
pub use self::pattern::PathPattern;
pub use self::replay::Replayed;
pub use self::route::{ACTIVATED, Route};
pub use self::rules::Why;
pub use self::survey::{Origin, survey};
use crate::diff::Change;
use crate::name::EnvName;

/// What would go over, and what would not.
#[derive(Debug)]
pub struct Carry {
    /// The environment that runs.
    pub from: EnvName,
    /// The one that it goes into.
    pub to: EnvName,
    /// Names that changed on the running system and are not like that in the new environment, by
    /// path.
    pub items: Vec<Item>,
    /// Packages that were installed, removed or built again on the running system: a line each.
    pub packages: Vec<String>,
    /// A sentence each: what could not be compared.
    pub notes: Vec<String>,
    /// The same packages, for who installs them.
    diff: PackageDiff,
    volumes: Vec<survey::Volume>,
}

/// One name that changed on the running system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// From the root of the system, without a leading slash.
    pub path: PathBuf,
    /// What it is, on the running system if it is there.
    pub kind: FileType,
    /// What became of it on the running system.
    pub change: Change,
    /// What becomes of it in the environment.
    pub decision: Decision,
    /// Which of the subvolumes it is in, and its path there.
    place: (usize, PathBuf),
}

/// What becomes of a name in the new environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is made as on the running system.
    Take,
    /// Each part comes from the side that changed it.
    Mix(Mix),
    /// The contents are put together; the rest as in the mix.
    Merge(Vec<u8>, Mix),
    /// Changed on both sides: that of the running system counts.
    Running(Conflict),
    /// Changed on both sides: that of the new environment stays.
    New(Conflict),
    /// Changed on both sides: that of the new environment stays, and the one of the running
    /// system is put beside it.
    Beside(Conflict),
    /// It is not carried.
    Left(Why),
}

/// Why a name cannot be like on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Conflict {
    /// Both have changed what is in it.
    Content,
    /// Both have changed its permissions, owner or attributes.
    Properties,
    /// One of them has made something else of it.
    Type,
    /// Removed on the running system, changed in the new environment.
    Removed,
    /// Changed on the running system, removed in the new environment.
    Gone,
    /// A link, or something that is no directory, is on the way there.
    Way,
}

impl Conflict {
    /// For people.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Conflict::Content => "changed in both",
            Conflict::Properties => "permissions, owner or attributes changed in both",
            Conflict::Type => "something else in the one than in the other",
            Conflict::Removed => "removed here, changed there",
            Conflict::Gone => "changed here, removed there",
            Conflict::Way => "its directory is something else there",
        }
    }
}

impl Decision {
    /// The conflict, if there is one that a person should look at: where one side had to be
    /// chosen although both had changed it.
    #[must_use]
    pub fn conflict(&self) -> Option<Conflict> {
        match self {
            Decision::Running(conflict) | Decision::New(conflict) | Decision::Beside(conflict) => {
                Some(*conflict)
            }
            Decision::Mix(mix) | Decision::Merge(_, mix) => {
                mix.contested.then_some(Conflict::Properties)
            }
            Decision::Take | Decision::Left(_) => None,
        }
    }

    /// The word in documents.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Decision::Take => "carry",
            Decision::Mix(_) | Decision::Merge(..) => "merge",
            Decision::Running(_) => "running",
            Decision::New(_) => "new",
            Decision::Beside(_) => "beside",
            Decision::Left(_) => "leave",
        }
    }
}

impl Carry {
    /// Names that need a person.
    pub fn conflicts(&self) -> impl Iterator<Item = &Item> {
        let both = |item: &&Item| item.decision.conflict().is_some();
        self.items.iter().filter(both)
    }

    /// In short, for who did not ask for it; nothing if nothing was carried.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let over = self.over();
        let (from, to) = (&self.from, &self.to);
        let mut sentences = Vec::new();
        if over > 0 {
            let paths = if over == 1 { "path" } else { "paths" };
            sentences.push(format!(
                "carried what changed in {from} since {to} was cloned: {over} {paths}"
            ));
        }
        sentences.extend(self.conflicts().map(|item| {
            let why = item.decision.conflict().map_or("", Conflict::sentence);
            format!("look at /{} in {to}: {why}", item.path.display())
        }));
        sentences
    }

    /// How many names go over, or need a person.
    #[must_use]
    pub fn over(&self) -> usize {
        let left = |item: &&Item| matches!(item.decision, Decision::Left(_));
        self.items.iter().filter(|item| !left(item)).count()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let left = |item: &Item| matches!(item.decision, Decision::Left(_));
        self.items.iter().all(left)
    }
}
