//! What `observe` found: one immutable picture of the system and of its environments.
//! Nothing here reads a file, starts a process or knows the time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use be_grub::access::Access;
use be_grub::selection::{BlockAt, Choice};

use crate::layout::Layout;
use crate::name::{EnvName, Named, SnapName};
use crate::record::{Boot, Member, Phase, Record, Snapshot, State};
use crate::refusal::Refusal;

/// The directory of the store below the top level.
pub const STORE: &str = "@be";

/// The whole picture.
#[derive(Debug, Clone)]
pub struct Inventory {
    /// Where the system is mounted; `/` unless it is managed from elsewhere.
    pub sysroot: PathBuf,
    /// The filesystem.
    pub fs: Filesystem,
    /// The system that is mounted at the system root.
    pub system: System,
    /// Whether the store exists.
    pub initialised: bool,
    /// Sorted by creation, then by name.
    pub environments: Vec<Environment>,
    /// Directories of the store whose record cannot be read: name and reason.
    pub damaged: Vec<(String, String)>,
    /// What an interrupted `be` left behind in `.work`.
    pub leftovers: Vec<String>,
    /// The menu.
    pub menu: MenuState,
}

/// The btrfs filesystem that everything lies on.
#[derive(Debug, Clone)]
pub struct Filesystem {
    /// Its UUID, as in `root=UUID=…`.
    pub uuid: String,
    /// A node of one of its devices.
    pub device: PathBuf,
    /// `major:minor` of its superblock, as mountinfo shows it for all its mounts.
    pub number: String,
    /// PARTUUID, if the filesystem has one device and that is a partition.
    pub partuuid: Option<String>,
    /// Mounted read-only, or forced so after an error.
    pub read_only: bool,
    /// Bytes that can still be written: data or metadata, whichever ends first.
    pub free: u64,
    /// Id of the default subvolume; 5 is the top level.
    pub default_subvolume: u64,
    /// Quotas are on, which makes deleting environments very slow.
    pub quotas: bool,
}

/// A mount below the system root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Below the system root, with a leading slash.
    pub target: PathBuf,
    /// Type of filesystem.
    pub fstype: String,
    /// What is mounted: a device, mostly.
    pub source: String,
    /// It shows a directory of the root subvolume itself.
    pub of_root: bool,
}

/// The system at the system root.
#[derive(Debug, Clone)]
pub struct System {
    /// Its root subvolume.
    pub root: Subvolume,
    /// What it consists of besides.
    pub layout: Layout,
    /// What is mounted in it now.
    pub mounts: Vec<Mount>,
    /// Directory of GRUB's files in the root (`boot/grub`), if it is there.
    pub grub_home: Option<String>,
    /// Active swapfiles inside the root subvolume.
    pub swapfiles: Vec<PathBuf>,
}

/// A subvolume, as btrfs knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subvolume {
    /// Its number; 5 is the top level.
    pub id: u64,
    /// Its UUID; nil for a top level made by an old mkfs.btrfs.
    pub uuid: String,
    /// From the top level, without a leading slash; empty for the top level itself.
    pub path: PathBuf,
    /// The transaction that last wrote it.
    pub generation: u64,
}

impl Subvolume {
    /// The value for `subvol=`: with a leading slash, as the kernel shows it.
    pub fn option(&self) -> String {
        format!("/{}", self.path.display())
    }

    /// Whether it is the top level (subvolume 5).
    pub fn is_top_level(&self) -> bool {
        self.id == 5
    }
}

/// One environment.
#[derive(Debug, Clone)]
pub struct Environment {
    /// What its record says.
    pub record: Record,
    /// Its root subvolume; none if it is gone or another one stands in its place.
    pub root: Option<Subvolume>,
    /// Booted now (or mounted at the system root).
    pub running: bool,
    /// Boots next when nobody touches a key: on trial, or by default. A boot for one time
    /// goes before. If the running system has to shut down properly for that, the default is
    /// another one until then.
    pub next: bool,
    /// The menu boots it by default: also what it falls back to when a trial fails.
    pub default: bool,
    /// Boots next time only.
    pub once: bool,
    /// On trial; GRUB gives it so many more boots.
    pub trial: Option<u8>,
    /// A `be` works in it at this moment.
    pub busy: bool,
    /// Somebody wants the upgrade in it to pause.
    pub paused: bool,
    /// Where its root is mounted in this mount namespace.
    pub mounted: Vec<PathBuf>,
    /// Its subvolumes, in the order of the record; none for one that is gone.
    pub subvolumes: Vec<Option<Subvolume>>,
    /// What is there of its snapshots, in the order of the record.
    pub snapshots: Vec<SnapshotState>,
    /// Subvolumes below its directory in the store that are not its own, as paths there.
    pub foreign: Vec<PathBuf>,
    /// Subvolumes below its directory in the store that the fstab of another environment
    /// mounts, from the top level, with its name.
    pub lent: Vec<(EnvName, PathBuf)>,
}

impl Environment {
    /// An environment that nothing uses yet.
    pub fn new(record: Record, root: Option<Subvolume>) -> Self {
        Self {
            record,
            root,
            running: false,
            next: false,
            default: false,
            once: false,
            trial: None,
            busy: false,
            paused: false,
            mounted: Vec::new(),
            subvolumes: Vec::new(),
            snapshots: Vec::new(),
            foreign: Vec::new(),
            lent: Vec::new(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &EnvName {
        &self.record.name
    }

    /// The state as a person should see it: an upgrade that nobody works on any more
    /// has failed, whatever its record says.
    pub fn state(&self) -> State {
        match self.record.state {
            State::Building if !self.busy => State::Failed,
            State::Ready | State::Bad if self.trial.is_some() => State::Trial,
            state => state,
        }
    }

    /// Whether it is complete and is not known to have come up ever; also while its trial is
    /// to come.
    pub fn is_unbooted(&self) -> bool {
        self.record.state == State::Ready && !self.running
    }

    /// The rule for all that is for what may boot.
    ///
    /// # Errors
    /// [`Refusal::Builder`].
    pub fn no_builder(&self) -> Result<(), Refusal> {
        match self.record.builder {
            None => Ok(()),
            Some(_) => Err(Refusal::Builder {
                name: self.name().clone(),
            }),
        }
    }

    /// Whether this is its name.
    pub fn is(&self, name: &str) -> bool {
        self.name().as_str() == name
    }

    /// Whether it boots next once the running system, with this root, has shut down properly,
    /// and not before.
    pub fn waits_for_shutdown(&self, running: &str) -> bool {
        let then = self.record.at_shutdown.as_ref();
        let base = self.record.root().and_then(|root| root.base.as_ref());
        then.is_some_and(|then| then.switch.is_some())
            && base.is_some_and(|base| base.of == running)
            && self.root.is_some()
            && !self.running
            && self.usable()
    }

    /// Whether it may be in the menu and may be activated.
    pub fn usable(&self) -> bool {
        self.state().is_usable()
    }

    /// A snapshot of it: what its record says, and what is there.
    ///
    /// # Errors
    /// [`Refusal::UnknownSnapshot`].
    pub fn snapshot(&self, name: &SnapName) -> Result<(&Snapshot, &SnapshotState), Refusal> {
        let all = self.record.snapshots.iter().zip(&self.snapshots);
        let mut found = all.filter(|(record, _)| record.name == *name);
        found.next().ok_or_else(|| Refusal::UnknownSnapshot {
            name: Named::snapshot(self.name(), name),
        })
    }

    /// Its subvolumes besides the root that are there: where each is mounted, and its path
    /// from the top level; sorted by the former.
    pub fn volumes(&self) -> Vec<(PathBuf, PathBuf)> {
        let mounts = self.record.subvolumes.iter().map(|m| m.mount.as_str());
        volumes(mounts.zip(&self.subvolumes))
    }

    /// As [`Environment::volumes`], of one that `be` made: its fstab has to agree.
    pub fn volumes_in_store(&self) -> Vec<(PathBuf, PathBuf)> {
        match self.record.adopted {
            true => Vec::new(),
            false => self.volumes(),
        }
    }

    /// The subvolumes of its record that are gone.
    pub fn missing(&self) -> impl Iterator<Item = &Member> {
        let all = self.record.subvolumes.iter().zip(&self.subvolumes);
        all.filter(|(_, found)| found.is_none()).map(|(m, _)| m)
    }

    /// `N`, `R` and `T` concatenated, or `-`.
    pub fn active(&self) -> String {
        let flags = [(self.running, 'N'), (self.next, 'R'), (self.once, 'T')];
        let flags: String = flags
            .iter()
            .filter_map(|(on, flag)| on.then_some(*flag))
            .collect();
        if flags.is_empty() {
            "-".to_owned()
        } else {
            flags
        }
    }
}

/// A snapshot of an environment, as it is on the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotState {
    /// Its subvolumes, in the order of the record; none for one that is gone.
    pub subvolumes: Vec<Option<Subvolume>>,
    /// Where that of the root is mounted in this mount namespace.
    pub mounted: Vec<PathBuf>,
}

impl SnapshotState {
    /// The snapshot of the root.
    pub fn root(&self) -> Option<&Subvolume> {
        self.subvolumes.first()?.as_ref()
    }
}

/// The menu file and the way to it.
#[derive(Debug, Clone, Default)]
pub struct MenuState {
    /// The environment that the menu file boots by default.
    pub default: Option<String>,
    /// The environments that have an entry.
    pub entries: Vec<String>,
    /// The environments that were looked at and have none.
    pub left_out: Vec<String>,
    /// Why the menu file cannot be read, if it is there.
    pub damage: Option<String>,
    /// The grub.cfg that GRUB reads.
    pub config: Option<GrubConfig>,
    /// That grub.cfg reads our menu.
    pub hooked: bool,
    /// The environment block, where the menu chooses by itself.
    pub block: Option<Block>,
    /// The environment that becomes the default again once the default has booted.
    pub back: Option<EnvName>,
    /// What of that grub.cfg needs a password.
    pub access: Access,
    /// How many packages the titles of the menu file say, by environment.
    pub packages: BTreeMap<String, u32>,
}

/// The environment block of a menu that chooses by itself.
#[derive(Debug, Clone)]
pub struct Block {
    /// Where it is.
    pub at: BlockAt,
    /// What it says, or why that cannot be read.
    pub choice: Result<Choice, String>,
}

/// Where a grub.cfg is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrubConfig {
    /// Where to open it.
    pub place: Place,
    /// What to call it in messages.
    pub shown: String,
}

/// A path, and what it is relative to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A root subvolume.
    InRoot {
        /// Its path from the top level.
        root: PathBuf,
        /// The path in it.
        path: PathBuf,
    },
    /// A /boot that is not in a root subvolume.
    Boot {
        /// Which one.
        boot: Boot,
        /// The path in it.
        path: PathBuf,
    },
    /// The system root, across its mounts.
    SystemRoot(PathBuf),
}

impl Inventory {
    /// The environment of this name.
    ///
    /// # Errors
    /// [`Refusal::Unknown`], with a name that is near; [`Refusal::Damaged`].
    pub fn get(&self, name: &EnvName) -> Result<&Environment, Refusal> {
        if let Some(env) = self.environments.iter().find(|e| e.name() == name) {
            return Ok(env);
        }
        self.initialised()?;
        if let Some((name, why)) = self.damaged.iter().find(|(n, _)| n == name.as_str()) {
            return Err(Refusal::Damaged {
                name: name.clone(),
                why: why.clone(),
            });
        }
        Err(Refusal::Unknown {
            name: name.clone(),
            near: self.near(name),
        })
    }

    /// Whether packages of this environment are being merged into the running one, or it is how
    /// that was before.
    pub fn is_in_merge(&self, name: &EnvName) -> bool {
        let merge = self
            .running()
            .ok()
            .and_then(|e| e.record.unfinished_merge());
        merge.is_some_and(|live| [&live.from, &live.way_back].contains(&name))
    }

    /// The results of upgrades of clones of `origin` that were never booted, oldest first.
    pub fn unbooted(&self, origin: &EnvName) -> impl Iterator<Item = &Environment> {
        self.environments.iter().filter(move |env| {
            let record = &env.record;
            let done = record.upgrade.as_ref().map(|u| u.phase) == Some(Phase::Done);
            let from = record.origin.as_ref() == Some(origin);
            done && from && env.is_unbooted() && env.root.is_some()
        })
    }

    /// What the running environment has mounted at this place.
    pub fn counterpart<'a>(
        &'a self,
        running: &'a Environment,
        mount: &str,
    ) -> Option<&'a Subvolume> {
        match mount {
            "/" => running.root.as_ref(),
            // Not by its record: an adopted system may have got others since.
            _ => Some(&self.system.layout.part_at(Path::new(mount))?.subvolume),
        }
    }

    /// The environment that is running.
    ///
    /// # Errors
    /// [`Refusal::NotInitialised`] and [`Refusal::NotAdopted`].
    pub fn running(&self) -> Result<&Environment, Refusal> {
        self.initialised()?;
        self.environments
            .iter()
            .find(|e| e.running)
            .ok_or_else(|| Refusal::NotAdopted {
                subvolume: self.system.root.option(),
            })
    }

    /// The environment of this name; the running one without a name.
    ///
    /// # Errors
    /// Those of [`Inventory::get`] and [`Inventory::running`].
    pub fn origin(&self, name: Option<&EnvName>) -> Result<&Environment, Refusal> {
        match name {
            Some(name) => self.get(name),
            None => self.running(),
        }
    }

    /// # Errors
    /// [`Refusal::NotInitialised`] if there is no store.
    pub fn initialised(&self) -> Result<(), Refusal> {
        if self.initialised {
            Ok(())
        } else {
            Err(Refusal::NotInitialised)
        }
    }

    /// The rules for everything that writes to the store.
    ///
    /// # Errors
    /// [`Refusal::ReadOnly`], [`Refusal::NotInitialised`].
    pub fn writable(&self) -> Result<(), Refusal> {
        if self.fs.read_only {
            return Err(Refusal::ReadOnly);
        }
        self.initialised()
    }

    /// The rule for everything that makes or removes environments: what cannot be read
    /// cannot be kept safe.
    ///
    /// # Errors
    /// [`Refusal::Damaged`], [`Refusal::MenuDamaged`].
    pub fn undamaged(&self) -> Result<(), Refusal> {
        if let Some(why) = &self.menu.damage {
            return Err(Refusal::MenuDamaged { why: why.clone() });
        }
        match self.damaged.first() {
            Some((name, why)) => Err(Refusal::Damaged {
                name: name.clone(),
                why: why.clone(),
            }),
            None => Ok(()),
        }
    }

    /// # Errors
    /// [`Refusal::NotHooked`], [`Refusal::NoGrub`]: a choice would have no effect.
    pub fn hooked(&self) -> Result<(), Refusal> {
        match (&self.menu.config, self.menu.hooked) {
            (_, true) => Ok(()),
            (Some(config), false) => Err(Refusal::NotHooked {
                config: config.shown.clone(),
            }),
            (None, false) => Err(Refusal::NoGrub),
        }
    }

    /// What the environment block says; nothing, where there is none.
    pub fn choice(&self) -> Choice {
        let block = self.menu.block.as_ref();
        block
            .and_then(|b| b.choice.clone().ok())
            .unwrap_or_default()
    }

    /// The environments that the menu does not know, though they may be in it: an
    /// interrupted command took them out. None where there is no menu, or an unreadable one.
    pub fn without_entry(&self) -> impl Iterator<Item = &EnvName> {
        let menu = &self.menu;
        let known = |name: &EnvName| {
            let mut names = menu.entries.iter().chain(&menu.left_out);
            names.any(|n| n == name.as_str())
        };
        let legible = menu.damage.is_none() && !menu.entries.is_empty() && self.damaged.is_empty();
        self.environments
            .iter()
            .filter(move |_| legible)
            .filter(|e| e.usable() && e.record.renaming.is_none())
            .map(Environment::name)
            .filter(move |name| !known(name))
    }

    /// All names that are taken, readable or not.
    pub fn names(&self) -> Vec<&str> {
        let damaged = self.damaged.iter().map(|(n, _)| n.as_str());
        self.environments
            .iter()
            .map(|e| e.name().as_str())
            .chain(damaged)
            .collect()
    }

    /// # Errors
    /// [`Refusal::Exists`] if the name is taken.
    pub fn free_name(&self, name: &EnvName) -> Result<(), Refusal> {
        if self.names().contains(&name.as_str()) {
            return Err(Refusal::Exists { name: name.clone() });
        }
        Ok(())
    }

    /// The name that an environment has when every rename that is at work has ended.
    pub fn new_name(&self, name: &EnvName) -> EnvName {
        let mut found = self.environments.iter().filter(|e| e.name() == name);
        let renaming = found.next().and_then(|e| e.record.renaming.clone());
        renaming.unwrap_or_else(|| name.clone())
    }

    /// As it will be when every rename that is at work has ended: what a menu is to show.
    #[must_use]
    pub fn renamed(mut self) -> Self {
        for env in &mut self.environments {
            let Some(new) = env.record.renaming.take() else {
                continue;
            };
            let old = std::mem::replace(&mut env.record.name, new);
            let (from, to) = (&old, &env.record.name);
            let (from, to) = (home(from), home(to));
            let subvolumes = env.subvolumes.iter_mut().flatten().chain(&mut env.root);
            for subvolume in subvolumes {
                if let Ok(below) = subvolume.path.strip_prefix(&from) {
                    subvolume.path = to.join(below);
                }
            }
            let menu = self.menu.entries.iter_mut().chain(&mut self.menu.default);
            for entry in menu.filter(|e| *e == old.as_str()) {
                *entry = env.record.name.to_string();
            }
            if self.menu.back.as_ref() == Some(&old) {
                self.menu.back = Some(env.record.name.clone());
            }
        }
        self
    }

    fn near(&self, name: &EnvName) -> Option<EnvName> {
        self.environments
            .iter()
            .map(|e| (distance(e.name().as_str(), name.as_str()), e.name()))
            .min()
            .filter(|(d, _)| *d <= 2)
            .map(|(_, n)| n.clone())
    }
}

impl System {
    /// The mount at exactly this path.
    pub fn mount_at(&self, target: impl AsRef<Path>) -> Option<&Mount> {
        self.mounts
            .iter()
            .rev()
            .find(|m| m.target == target.as_ref())
    }
}

/// The directory of an environment, from the top level.
fn home(name: &EnvName) -> PathBuf {
    Path::new(STORE).join(name.as_str())
}

/// The subvolumes besides the root that are there, of all these with their mounts.
pub(crate) fn volumes<'a>(
    all: impl Iterator<Item = (&'a str, &'a Option<Subvolume>)>,
) -> Vec<(PathBuf, PathBuf)> {
    let mut volumes: Vec<_> = all
        .filter(|(mount, _)| *mount != "/")
        .filter_map(|(mount, found)| Some((mount.into(), found.as_ref()?.path.clone())))
        .collect();
    volumes.sort();
    volumes
}

/// Levenshtein's distance, for "did you mean".
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut left_above = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let change = left_above + usize::from(ca != *cb);
            left_above = row[j + 1];
            row[j + 1] = change.min(left_above + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::distance;
    use crate::plan::fixture::{env, inventory, name, now};
    use crate::record::{Phase, State, Upgrade};

    #[test]
    fn what_is_on_trial_was_not_booted_yet() {
        let upgraded = |e: &mut super::Environment| {
            let mut upgrade = Upgrade::start(now(), &[]);
            upgrade.phase = Phase::Done;
            e.record.upgrade = Some(upgrade);
            e.record.origin = Some(name("default"));
        };
        let inv = inventory(vec![
            env("default", 256).running(),
            env("waits", 300).state(State::Ready).with(upgraded),
            env("armed", 301)
                .state(State::Ready)
                .with(upgraded)
                .with(|e| e.trial = Some(2)),
            env("failed", 302).state(State::Bad).with(upgraded),
            env("clone", 303).state(State::Ready),
        ]);
        let found: Vec<_> = inv
            .unbooted(&name("default"))
            .map(|e| e.name().as_str())
            .collect();
        assert_eq!(found, ["waits", "armed"]);
        assert_eq!(inv.environments[2].state(), State::Trial);
    }

    #[test]
    fn distances() {
        assert_eq!(distance("default", "defualt"), 2);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("x", "x"), 0);
    }
}
