//! `be doctor`: every wrong state that is known, each with the command that mends it.
//!
//! [`observe`] reads what the inventory lacks; each check is a pure function of both; a
//! repair is done only where it is safe, and can be done again.

mod check;
mod grub;
mod observe;
mod repair;

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::model::Inventory;
use crate::name::EnvName;
use crate::session::Session;

pub use grub::{GrubFiles, grub_installed_in};
pub use observe::{
    Depth, EnvFacts, FilesFact, MenuFacts, Mode, Observation, ScriptFact, Swapfile, observe,
};
pub use repair::repair;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something does not work, or will not at the next boot.
    Error,
    /// Something will go wrong one day.
    Warning,
    /// Worth knowing; nothing has to be done.
    Note,
}

impl Severity {
    /// The word for people and scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// One word for scripts; it stays the same.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: an environment, a path, the store.
    pub object: String,
    /// What is wrong, in one sentence.
    pub text: String,
    /// The command that mends it, or what to do.
    pub remedy: String,
    /// How `be doctor --repair` mends it.
    pub repair: Option<Repair>,
}

/// What can be mended without a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// Make a part of the store root's own.
    Permissions {
        /// From the top level.
        path: PathBuf,
        /// The mode that it gets.
        mode: u32,
    },
    /// Remove what an interrupted command left; only what is proven to be be's own.
    Sweep,
    /// Let the fstab of an environment name a subvolume of it, and no number.
    Fstab {
        /// Which one.
        name: EnvName,
        /// Its root, from the top level.
        root: PathBuf,
        /// Where the subvolume is mounted.
        target: PathBuf,
        /// The value for `subvol=`.
        subvol: String,
    },
    /// Put the script into /etc/grub.d.
    Script {
        /// Of an environment, by its root from the top level; else of the running system.
        of: Option<(EnvName, PathBuf)>,
    },
    /// Put our services and hooks into /etc.
    Files {
        /// Of an environment, by its root from the top level; else of the running system.
        of: Option<(EnvName, PathBuf)>,
    },
    /// Remember that GRUB's own files lie in an environment.
    GrubHome {
        /// Which one.
        name: EnvName,
        /// Where in it.
        home: String,
    },
    /// Write the menu anew.
    Menu,
    /// Make grub.cfg read the menu.
    Hook,
}

impl Repair {
    /// The order in which they are done: the menu tells of what came before, and grub.cfg
    /// must find a menu.
    fn rank(&self) -> u8 {
        match self {
            Repair::Permissions { .. } => 0,
            Repair::Sweep => 1,
            Repair::Fstab { .. } => 2,
            Repair::Script { .. } => 3,
            Repair::Files { .. } => 4,
            Repair::GrubHome { .. } => 5,
            Repair::Menu => 6,
            Repair::Hook => 7,
        }
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let script = crate::hook::path();
        match self {
            Repair::Permissions { path, mode } => {
                write!(f, "give /{} to root, mode {mode:o}", path.display())
            }
            Repair::Sweep => write!(f, "remove what an interrupted command left"),
            Repair::Fstab {
                name,
                subvol,
                target,
                ..
            } => {
                let line = match target.to_str() {
                    Some("/") => "the root line".to_owned(),
                    _ => format!("the line for {}", target.display()),
                };
                write!(
                    f,
                    "write subvol={subvol} into {line} of /etc/fstab of {name}"
                )
            }
            Repair::Script { of: None } => write!(f, "install /{}", script.display()),
            Repair::Script {
                of: Some((name, _)),
            } => {
                write!(f, "install /{} in {name}", script.display())
            }
            Repair::Files { of: None } => write!(f, "install the services and hooks of be"),
            Repair::Files {
                of: Some((name, _)),
            } => write!(f, "install the services and hooks of be in {name}"),
            Repair::GrubHome { name, home } => {
                write!(
                    f,
                    "note in the record of {name} that GRUB's own files lie at /{home}"
                )
            }
            Repair::Menu => write!(f, "write the menu"),
            Repair::Hook => write!(f, "add the menu of be to grub.cfg"),
        }
    }
}

/// Whether GRUB cannot clear a choice by grub-reboot, because it cannot write to btrfs.
pub fn choice_sticks(inv: &Inventory) -> bool {
    check::choice_sticks(inv)
}

/// The environment that grub-reboot chose: its entry goes before what the menu boots.
pub fn chosen_by_grub_reboot(session: &Session, inv: &Inventory) -> Option<EnvName> {
    let entry = observe::next_entry(session, inv)?;
    let chosen = be_grub::menu::environment_of(&entry)?;
    let mut names = inv.environments.iter().map(|e| e.name());
    names.find(|name| name.as_str() == chosen).cloned()
}

/// All that is wrong, the worst first.
pub fn check(inv: &Inventory, seen: &Observation) -> Vec<Problem> {
    let mut problems: Vec<Problem> = check::ALL
        .iter()
        .flat_map(|check| check(inv, seen))
        .collect();
    problems.sort_by_key(|p| p.severity);
    problems
}

/// The repairs of these problems, each once, in the order in which they are to be done.
pub fn repairs(problems: &[Problem]) -> Vec<Repair> {
    let mut repairs: Vec<Repair> = Vec::new();
    for repair in problems.iter().filter_map(|p| p.repair.as_ref()) {
        if !repairs.contains(repair) {
            repairs.push(repair.clone());
        }
    }
    repairs.sort_by_key(Repair::rank);
    repairs
}

/// Whether something has to be done: notes do not count.
pub fn is_clean(problems: &[Problem]) -> bool {
    problems.iter().all(|p| p.severity == Severity::Note)
}
