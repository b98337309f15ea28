//! What forbids to make a lock, or to build an environment from one.

use std::fmt;
use std::path::PathBuf;

use crate::name::EnvName;

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // the message of each variant is its documentation
pub enum NoLock {
    /// Another package manager than Portage.
    NotPortage { name: EnvName },
    /// An environment is made from a lock by Portage alone.
    Manager { manager: String },
    /// The file is no lock.
    Bad { file: PathBuf, why: String },
    /// It is one that `be build` has published, and has no packages.
    ForOthers { name: EnvName },
    /// What was remembered of it is gone.
    Forgotten { name: EnvName },
    /// It is of another kind of machine.
    Machine { wanted: String, here: String },
    /// A repository, or the configuration, that all environments share.
    Outside { path: String },
    /// It was recorded with changes that no commit has.
    WithChanges { repository: String },
    /// There are changes here that would be lost.
    Changed { repository: String, path: String },
    /// The commit cannot be had.
    NoCommit {
        repository: String,
        commit: String,
        why: String,
    },
    /// Only git can go back.
    NotGit {
        repository: String,
        recorded: String,
        here: String,
    },
}

impl NoLock {
    pub(super) fn hint(&self) -> String {
        match self {
            Self::Manager { .. } => "be upgrade without --lock upgrades it".into(),
            Self::NotPortage { .. } => "be diff compares the packages of any environments".into(),
            Self::Bad { .. } => "be lock ENV >FILE makes one".into(),
            Self::ForOthers { .. } => {
                "make one to build from on that machine: be lock >FILE; be diff --lock compares \
                 with this one"
                    .into()
            }
            Self::Forgotten { name } => {
                format!("be destroy {name}, then begin again: be upgrade --lock FILE")
            }
            Self::Machine { .. } => {
                "be lock ENV >FILE on a machine of the same kind makes one for here".into()
            }
            Self::Outside { path } => format!("be layout set {path} cloned gives each its own"),
            Self::WithChanges { .. } => {
                "commit them there, let that be fetched, and make the lock again: be lock --now"
                    .into()
            }
            Self::Changed { path, .. } => format!("git -C {path} status shows them: commit them"),
            Self::NoCommit { .. } => {
                "bring it there (git fetch in the running system), or have its mirror keep it"
                    .into()
            }
            Self::NotGit { repository, .. } => format!(
                "bring it into that state, or let it be synchronised by git (sync-type of \
                 {repository} in repos.conf) and make the lock again"
            ),
        }
    }
}

impl fmt::Display for NoLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPortage { name } => write!(
                f,
                "there is no lock of {name}: a lock says what Portage made, and another package \
                 manager rules there"
            ),
            Self::Manager { manager } => write!(
                f,
                "an environment is made from a lock by Portage, and not by {manager}"
            ),
            Self::Bad { file, why } => write!(f, "{} is no lock: {why}", file.display()),
            Self::ForOthers { name } => write!(
                f,
                "the lock of {name} is only for comparing: it has no packages and no world, as be \
                 build publishes it"
            ),
            Self::Forgotten { name } => write!(f, "the lock that {name} is built from is gone"),
            Self::Machine { wanted, here } => write!(
                f,
                "the lock is of a machine for {wanted}, and this one is for {here}"
            ),
            Self::Outside { path } => write!(
                f,
                "{path} is shared by all environments: it cannot be made as the lock says for one \
                 of them"
            ),
            Self::WithChanges { repository } => write!(
                f,
                "the repository {repository} was recorded with changes of its own, which no \
                 commit has"
            ),
            Self::Changed { repository, path } => write!(
                f,
                "the repository {repository} has changes of its own here, in {path}, which the \
                 lock does not have"
            ),
            Self::NoCommit {
                repository,
                commit,
                why,
            } => write!(
                f,
                "the commit {commit} of the repository {repository} cannot be had: {why}"
            ),
            Self::NotGit {
                repository,
                recorded,
                here,
            } => write!(
                f,
                "the repository {repository} is {here} here and {recorded} in the lock, and \
                 without git there is no way to that"
            ),
        }
    }
}
