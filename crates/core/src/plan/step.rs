//! What a plan consists of.

use std::fmt;
use std::path::PathBuf;

use be_grub::selection::Choice;

use super::SplitSpec;
use crate::files::File;
use crate::fstab::{Change, Entry};
use crate::layout::Source;
use crate::model::GrubConfig;
use crate::name::{EnvName, Named};
use crate::record::{AtShutdown, Boot, Policy, Record, Snapshot};

/// An ordered list of steps, with what a person should know of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be executed in this order; the one that switches is the last.
    pub steps: Vec<Step>,
    /// A sentence each.
    pub notes: Vec<String>,
}

/// One step. Each can be repeated after it was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make the directory of the store.
    MakeStore,
    /// Put our script into the system's /etc/grub.d.
    InstallScript,
    /// Put a service or a hook of ours into the system.
    InstallFile(File),
    /// Make GRUB's configuration read our menu.
    HookConfig {
        /// The file.
        config: GrubConfig,
    },
    /// Write the record of a system that is already there.
    Adopt(Box<Record>),
    /// Clone an environment and publish it by one rename.
    Clone(Box<CloneSpec>),
    /// Clone once more what is cloned late.
    CloneLate {
        /// The environment.
        name: EnvName,
        /// From what.
        sources: Vec<Source>,
    },
    /// Replace the record of an environment.
    Update(Box<Record>),
    /// Write the menu; this is what switches.
    WriteMenu {
        /// The environment that boots by default.
        default: EnvName,
        /// One that gets no entry, because it is about to go.
        without: Vec<EnvName>,
        /// Whether to believe earlier proofs.
        proofs: Proofs,
    },
    /// Write the menu for one boot of another environment, where GRUB cannot take note of it:
    /// it is the default until it has come up and sets that back.
    BootOnce {
        /// The environment.
        name: EnvName,
        /// The default after that.
        back: EnvName,
    },
    /// Write into GRUB's environment block what boots once or on trial, when everything that
    /// it speaks of is on the disk.
    Choose(Choice),
    /// Write down what is to be done for an environment when this system shuts down.
    AtShutdown {
        /// The environment.
        name: EnvName,
        /// What; nothing any more without it.
        then: Option<AtShutdown>,
    },
    /// Write down what its owner chose for a subvolume, on the subvolume itself.
    SetPolicy {
        /// Where it is seen.
        mount: PathBuf,
        /// Its path from the top level.
        subvolume: PathBuf,
        /// Its UUID.
        uuid: String,
        /// The choice.
        policy: Policy,
    },
    /// Copy a directory into a subvolume of its own, which appears by one rename.
    Split(Box<SplitSpec>),
    /// Let the fstab of the running system mount it from the next boot on.
    AddMount {
        /// What was split.
        spec: Box<SplitSpec>,
        /// The line.
        entry: Entry,
    },
    /// End a mount of an environment.
    Unmount(PathBuf),
    /// Take an environment out of the store and delete its subvolumes.
    Remove(Removal),
    /// Delete a snapshot of an environment.
    RemoveSnapshot(SnapshotRemoval),
    /// Take a read-only snapshot of an environment.
    Snapshot(Box<SnapshotSpec>),
    /// Put an environment back to a snapshot, by one exchange.
    Restore(RestoreSpec),
    /// Let the new name lead to an environment as well as its own, and note it down.
    Announce(Renaming),
    /// Write the new name into the fstab of an environment that has both names.
    RewriteFstab(Renaming),
    /// Exchange the two names: the directory has the new one.
    Move(Renaming),
    /// Let go of the old name.
    EndRename(Renaming),
}

impl Step {
    /// The menu of all environments, with this one as the default.
    pub fn menu(default: &EnvName) -> Self {
        Self::WriteMenu {
            default: default.clone(),
            without: Vec::new(),
            proofs: Proofs::Kept,
        }
    }

    /// [`Step::AtShutdown`].
    pub fn at_shutdown(name: &EnvName, then: Option<AtShutdown>) -> Self {
        Self::AtShutdown {
            name: name.clone(),
            then,
        }
    }
}

/// How to take a snapshot of an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotSpec {
    /// Of which one.
    pub env: EnvName,
    /// What the record will say of it; the subvolumes are filled in when they are known.
    pub snapshot: Snapshot,
    /// The subvolumes, the root first.
    pub members: Vec<Source>,
}

/// How to put an environment back to a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreSpec {
    /// Which environment.
    pub env: EnvName,
    /// To this snapshot of it.
    pub snapshot: Snapshot,
}

/// A snapshot that is to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRemoval {
    /// Which one.
    pub name: Named,
    /// Its subvolumes, with paths below its directory.
    pub subvolumes: Vec<Member>,
}

impl SnapshotRemoval {
    /// That of the snapshot which a record calls so.
    pub fn new(name: Named, taken: &Snapshot) -> Self {
        let subvolumes = taken.made().map(|(path, uuid)| Member {
            path,
            uuid: uuid.to_owned(),
        });
        Self {
            name,
            subvolumes: subvolumes.collect(),
        }
    }
}

/// An environment that gets another name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renaming {
    /// Its name.
    pub from: EnvName,
    /// The other one.
    pub to: EnvName,
}

/// Whether to believe what was proven of an environment that nobody wrote to since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proofs {
    /// Believe it.
    Kept,
    /// Look into every environment.
    Anew,
}

/// How to clone an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneSpec {
    /// The record of the new environment; its subvolumes are filled in when they are known.
    pub record: Record,
    /// What is to be cloned; the root comes first.
    pub sources: Vec<Source>,
    /// How the fstab of the clone differs.
    pub fstab: Vec<Change>,
    /// The /boot of the origin, of which the clone gets a copy in its root.
    pub boot: Option<Boot>,
}

/// A subvolume that is to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Path below the directory of the environment.
    pub path: PathBuf,
    /// The UUID that it must have.
    pub uuid: String,
}

/// How to remove an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Which one.
    pub name: EnvName,
    /// All subvolumes that `be` made for it.
    pub subvolumes: Vec<Member>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::MakeStore => write!(f, "make the store /@be on the top level"),
            Step::InstallScript => write!(f, "install /etc/grub.d/{}", be_grub::hook::SCRIPT_NAME),
            Step::InstallFile(file) => write!(f, "{file}"),
            Step::HookConfig { config } => {
                write!(f, "add the menu of be to {}", config.shown)
            }
            Step::Adopt(record) => write!(f, "adopt the running system as {}", record.name),
            Step::Clone(spec) => {
                let list: Vec<_> = spec
                    .sources
                    .iter()
                    .map(|s| format!("/{}", s.from.display()))
                    .collect();
                write!(
                    f,
                    "clone {} as environment {}",
                    list.join(", "),
                    spec.record.name
                )?;
                match &spec.boot {
                    Some(_) => write!(f, ", with a copy of /boot"),
                    None => Ok(()),
                }
            }
            Step::CloneLate { name, sources } => {
                let list: Vec<_> = sources.iter().map(|s| s.mount.as_str()).collect();
                write!(f, "clone {} into {name} once more", list.join(", "))
            }
            Step::SetPolicy { mount, policy, .. } => {
                write!(f, "mark {} as {}", mount.display(), policy.as_str())
            }
            Step::Split(spec) => {
                let (mount, to) = (spec.mount.display(), spec.to.display());
                match spec.replaces {
                    None => write!(
                        f,
                        "copy {mount} into a subvolume of its own, /{to}, which is {}",
                        spec.policy.as_str()
                    ),
                    Some(_) => write!(f, "copy {mount} anew, in the place of /{to}"),
                }
            }
            Step::AddMount { entry, .. } => write!(
                f,
                "add a line to /etc/fstab: {} is mounted there from the next boot on",
                entry.target.display()
            ),
            Step::Update(record) => write!(f, "write the record of {}", record.name),
            Step::WriteMenu {
                default, without, ..
            } => {
                write!(f, "write the menu; {default} boots by default")?;
                for name in without {
                    write!(f, ", {name} has no entry any more")?;
                }
                Ok(())
            }
            Step::BootOnce { name, back } => {
                write!(f, "write the menu; {name} boots next, and {back} after it")
            }
            Step::Choose(choice) => match (&choice.once, &choice.trial) {
                (Some(name), _) => write!(f, "tell GRUB to boot {name} once"),
                (None, Some(trial)) => write!(
                    f,
                    "tell GRUB to boot {} on trial, {} more times",
                    trial.name, trial.left
                ),
                (None, None) => write!(f, "tell GRUB to boot nothing but the default"),
            },
            Step::AtShutdown { name, then } => match then {
                Some(_) => write!(f, "note that {name} waits for the shutdown"),
                None => write!(f, "note that {name} waits for no shutdown"),
            },
            Step::Unmount(dir) => write!(f, "unmount {}", dir.display()),
            Step::Remove(removal) => {
                write!(
                    f,
                    "delete {} with {} subvolumes",
                    removal.name,
                    removal.subvolumes.len()
                )
            }
            Step::RemoveSnapshot(removal) => write!(f, "delete the snapshot {}", removal.name),
            Step::Snapshot(spec) => {
                let name = Named::snapshot(&spec.env, &spec.snapshot.name);
                let count = spec.members.len();
                let more = if count == 1 { "" } else { "s" };
                write!(f, "snapshot {count} subvolume{more} as {name}")
            }
            Step::Restore(spec) => {
                let name = Named::snapshot(&spec.env, &spec.snapshot.name);
                write!(f, "put {} back to {name}", spec.env)
            }
            Step::Announce(names) => {
                write!(f, "let /@be/{} lead to {} as well", names.to, names.from)
            }
            Step::RewriteFstab(names) => {
                write!(
                    f,
                    "write /@be/{} into /etc/fstab of {}",
                    names.to, names.from
                )
            }
            Step::Move(names) => write!(f, "rename /@be/{} to /@be/{}", names.from, names.to),
            Step::EndRename(names) => write!(f, "let go of the name {}", names.from),
        }
    }
}
