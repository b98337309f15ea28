//! The report of an upgrade: what it changed, how long all took, what failed and what is left
//! to do. It is put together from a journal that lies beside the environment, outside of its
//! root, and is written while the upgrade runs: one that was killed has what is known until
//! then, and what becomes of the environment later changes nothing in it.

mod failed;
mod fold;
mod gather;
mod journal;
mod tail;

use std::fmt;
use std::path::PathBuf;

use be_portage::builds::Fate;
use be_portage::diff::PackageDiff;
use be_portage::elog::Message;
use be_portage::failure::Stage;
use be_portage::state::Debt;
use chrono::{DateTime, FixedOffset};
use serde::{Deserialize, Serialize};

use crate::name::EnvName;
use crate::record::{ConfigFiles, GateRecord, Phase};

pub use fold::read;
pub use tail::clean;

pub(crate) use failed::failed;
pub(crate) use gather::{gather, kernels, summary_length};
pub(crate) use journal::{Event, append, messages_from};
pub(crate) use tail::last_lines;

/// When something happened.
pub type Time = DateTime<FixedOffset>;

/// The report of the upgrade of one environment, all its attempts together.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The environment.
    pub environment: EnvName,
    /// What it was cloned from.
    pub origin: Option<EnvName>,
    /// How it stands.
    pub verdict: Verdict,
    /// Each time that it was worked on; at least one.
    pub attempts: Vec<Attempt>,
    /// What emerge was told besides what it always is.
    pub options: Vec<String>,
    /// The repositories that it was made from.
    pub repositories: Vec<Repository>,
    /// A hash of all that it was made from.
    pub inputs: Option<String>,
    /// Old names that were taken for new ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub moves: Vec<Moved>,
    /// The phases in the order in which they ran.
    pub phases: Vec<PhaseRun>,
    /// Every package that was worked on, in the order in which they were begun.
    pub builds: Vec<BuildRun>,
    /// The owner's programs and the chores that ran.
    pub programs: Vec<Program>,
    /// What failed, in all attempts.
    pub failures: Vec<Failure>,
    /// What the gates said when it came to them last.
    pub gates: Vec<GateRecord>,
    /// What became of configuration files of which a new version waited.
    pub config: ConfigFiles,
    /// The kernels before and after.
    pub kernels: Kernels,
    /// What it came to.
    pub result: Findings,
}

/// How an upgrade stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is at work.
    Running,
    /// It ended without a word: it was killed, or the power went.
    CutOff,
    /// It failed.
    Failed,
    /// It is complete, and was not made to boot next although that was wanted.
    Held,
    /// It is complete.
    Ready,
}

/// One time that it was worked on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// When it began.
    pub started: Time,
    /// When it ended; of one that was cut off, when it was last known to be at work.
    pub ended: Time,
    /// How.
    pub verdict: Verdict,
    /// Why it failed, or what boots next, in one line.
    pub words: Option<String>,
}

/// A phase that ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PhaseRun {
    /// Which one.
    pub phase: Phase,
    /// In which attempt, from 0.
    pub attempt: usize,
    /// When it began.
    pub started: Time,
    /// When it ended.
    pub ended: Time,
}

/// A package that was worked on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BuildRun {
    /// `category/name-version`.
    pub package: String,
    /// In which attempt, from 0.
    pub attempt: usize,
    /// When it was begun; emerge.log knows full seconds.
    pub started: Time,
    /// When it was done; none while it is at work.
    pub ended: Option<Time>,
    /// How many seconds it took.
    pub seconds: Option<u64>,
    /// A binary package was merged.
    pub binary: bool,
    /// What became of it: begun and ended is cut off.
    pub fate: Fate,
}

/// A repository of ebuilds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// Where it lies in the environment.
    pub path: PathBuf,
    /// Its commit or its time stamp; none where it has neither.
    pub state: Option<String>,
    /// The same before the upgrade, if it lies in the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

/// Old names, or names and slots, that were taken for new ones in one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The place.
    #[serde(flatten)]
    pub place: Place,
    /// The names.
    pub names: Vec<Renamed>,
}

/// A place that has names of packages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// The repository of this name, which is as it was.
    Repository(String),
    /// A file or a directory of the environment, which was changed.
    File(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Repository(name) => write!(f, "::{name}"),
            Place::File(path) => f.write_str(path),
        }
    }
}

/// An old name and the new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renamed {
    /// The name that is there.
    pub old: String,
    /// What it was taken for.
    pub new: String,
}

impl Moved {
    pub(crate) fn new(place: Place, names: impl IntoIterator<Item = (String, String)>) -> Self {
        let names = names.into_iter();
        let names = names.map(|(old, new)| Renamed { old, new }).collect();
        Self { place, names }
    }

    /// The names in one line, at the most so many of them.
    pub fn names(&self, most: usize) -> String {
        let names = self.names.iter().take(most);
        let names: Vec<_> = names.map(|n| format!("{} -> {}", n.old, n.new)).collect();
        match self.names.len().saturating_sub(most) {
            0 => names.join(", "),
            more => format!("{} and {more} more", names.join(", ")),
        }
    }
}

/// A program of the owner's, or a chore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Program {
    /// What kind it is.
    pub kind: ProgramKind,
    /// Its path in the environment, or the name of the chore.
    pub name: String,
    /// When it began.
    pub started: Time,
    /// When it ended; none if it was cut off.
    pub ended: Option<Time>,
    /// Whether it did what it should; none if it was cut off.
    pub well: Option<bool>,
}

/// What ran besides Portage's upgrade itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProgramKind {
    /// A program of the owner's.
    Hook,
    /// What is usual after an upgrade.
    Chore,
}

/// Something that failed, with the last that it said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// `category/name-version`, or the command.
    pub what: String,
    /// Of a package: where it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// When it was known.
    pub at: Time,
    /// Where its whole log is, in the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// The last lines of it.
    pub lines: Vec<String>,
}

/// The kernels before and after, as their versions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Kernels {
    /// When it was cloned.
    pub before: Vec<String>,
    /// At the end.
    pub after: Vec<String>,
}

/// What the environment was when the upgrade ended. What could not be read is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Packages, compared with what it was cloned from.
    pub packages: Option<PackageDiff>,
    /// What is left for a person.
    pub debt: Option<Debt>,
    /// What packages said.
    #[serde(default)]
    pub messages: Vec<Message>,
    /// The versions of its kernels, the newest first.
    #[serde(default)]
    pub kernels: Vec<String>,
    /// What it takes.
    pub space: Option<Space>,
}

/// What an environment takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// What it shares with no other: would be free without it.
    pub exclusive: u64,
    /// All that it consists of.
    pub referenced: u64,
}
