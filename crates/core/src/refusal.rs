//! What `be` refuses to do: a closed list of facts, each with its message and its way out.

mod lock;
mod split;
mod travel;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::name::{EnvName, Named};

pub use lock::NoLock;
pub use split::NoSplit;
pub use travel::Travel;

/// The exit codes that scripts may rely on.
pub mod exit {
    /// Done.
    pub const DONE: u8 = 0;
    /// Something failed.
    pub const FAILED: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// A rule forbids it; nothing was touched.
    pub const REFUSED: u8 = 3;
    /// Another `be` is at work.
    pub const BUSY: u8 = 4;
    /// The filesystem is full.
    pub const NO_SPACE: u8 = 5;
    /// The upgrade failed; the environment is kept.
    pub const UPGRADE_FAILED: u8 = 6;
    /// Conflicts need a person.
    pub const CONFLICTS: u8 = 7;
    /// The environment would not boot.
    pub const NOT_BOOTABLE: u8 = 8;
    /// There was nothing to do.
    pub const NOTHING: u8 = 77;
}

/// A reason to do nothing. A plan that ends in one has changed nothing; `be upgrade` gives
/// some only at its end, and says so where it does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // the message of each variant is its documentation
pub enum Refusal {
    NotRoot,
    NotBtrfs {
        path: PathBuf,
    },
    NotASystem {
        path: PathBuf,
        why: String,
    },
    NotInitialised,
    NotAdopted {
        subvolume: String,
    },
    Unsupported {
        what: String,
        why: String,
    },
    LockedRoot,
    Split {
        path: PathBuf,
    },
    NoSplit {
        path: PathBuf,
        why: NoSplit,
    },
    NoLock(NoLock),
    NotAPart {
        path: PathBuf,
        why: String,
        split: bool,
    },
    /// An environment is not sent, or not received.
    Travel(Travel),
    NoGrub,
    NotHooked {
        config: String,
    },
    NotPending {
        name: EnvName,
        path: PathBuf,
    },
    Accounts {
        name: EnvName,
        path: PathBuf,
    },
    Unknown {
        name: EnvName,
        near: Option<EnvName>,
    },
    Exists {
        name: EnvName,
    },
    Damaged {
        name: String,
        why: String,
    },
    RootMissing {
        name: EnvName,
    },
    ReadOnly,
    Swapfile {
        path: PathBuf,
    },
    Busy {
        what: String,
    },
    NoSpace {
        free: u64,
        needed: u64,
    },
    NoSpaceFor {
        path: String,
        free: u64,
        needed: u64,
    },
    Running {
        name: EnvName,
    },
    Next {
        name: EnvName,
    },
    Chosen {
        name: EnvName,
    },
    GrubHome {
        name: EnvName,
        path: String,
    },
    NotMade {
        name: EnvName,
    },
    DefaultSubvolume {
        name: EnvName,
    },
    InUse {
        name: Named,
        by: String,
    },
    Nested {
        name: EnvName,
        paths: Vec<PathBuf>,
    },
    /// Another environment mounts a subvolume of it.
    Lent {
        name: EnvName,
        path: PathBuf,
        by: EnvName,
    },
    NotReady {
        name: EnvName,
        state: &'static str,
    },
    NothingToContinue {
        name: EnvName,
        state: &'static str,
    },
    NotBootable {
        name: Named,
        problems: Vec<String>,
    },
    /// GRUB could not count boots.
    NoTrial {
        why: String,
        remedy: String,
    },
    /// There is nothing that a trial could fall back to.
    NoFallback {
        name: EnvName,
    },
    /// It boots once, and that was asked for.
    Once {
        name: EnvName,
    },
    /// It is what a trial falls back to.
    Fallback {
        name: EnvName,
    },
    /// The environment that runs is not the one that is to be confirmed.
    NotUp,
    /// What is managed does not run on this machine, or not outside of this chroot.
    NotHere,
    NoWayBack {
        running: Option<EnvName>,
    },
    NotMounted {
        what: String,
    },
    MountTarget {
        dir: PathBuf,
        why: String,
    },
    MountBusy {
        dir: PathBuf,
    },
    NotConfirmed {
        name: Named,
    },
    /// The running environment, which a program is not to take for good.
    Unproven {
        name: EnvName,
    },
    NoManager,
    /// be.toml names a package manager that `be` does not know.
    UnknownManager {
        name: String,
        known: Vec<String>,
    },
    /// A profile of a package manager that cannot be read.
    BadManager {
        file: String,
        why: String,
    },
    /// A package manager that cannot go on was cut off in the middle.
    CutOff {
        /// The environment.
        name: EnvName,
        /// The package manager.
        manager: String,
    },
    /// Something after `--` for a package manager that takes nothing.
    NoOptions {
        manager: String,
    },
    /// What only Portage is told to do.
    NoDepclean {
        manager: String,
    },
    BadConfig {
        why: String,
    },
    /// A builder is never booted, cloned or upgraded.
    Builder {
        name: EnvName,
    },
    /// What failed in a builder waits for a person.
    BuilderHeld {
        name: EnvName,
        until: String,
    },
    /// No build waits for a person.
    NoBuilder,
    /// Packages cannot be built, or not be published there.
    NoBuild {
        why: String,
    },
    Blind,
    MenuDamaged {
        why: String,
    },
    BadEmergeOption {
        why: String,
    },
    Pinned {
        name: EnvName,
    },
    UnknownSnapshot {
        name: Named,
    },
    SnapshotExists {
        name: Named,
    },
    SnapshotGone {
        name: Named,
    },
    /// What is asked for needs an environment.
    IsSnapshot {
        name: Named,
        what: &'static str,
    },
    /// What is asked for needs a snapshot.
    NoSnapshotNamed {
        name: EnvName,
    },
    /// To be put back to a snapshot it would have to be replaced.
    NoRestore {
        name: Named,
        why: String,
    },
    /// There is nothing for `be moves` to look into.
    NoRepository {
        root: PathBuf,
    },
    /// Another program of this kind has it.
    LeftOut {
        what: String,
        instead: &'static str,
    },
    /// Nothing can be carried into it: it is no clone of what runs.
    NotFromRunning {
        name: EnvName,
        running: EnvName,
    },
    /// How the running environment was when it was activated is not known.
    NothingKept {
        running: EnvName,
        name: EnvName,
    },
    /// A host of binary packages builds with another configuration.
    OtherHost {
        name: EnvName,
        host: String,
        differences: Vec<String>,
    },
    /// What was built in it cannot be merged into the running system.
    NotLive {
        name: EnvName,
        why: String,
    },
    /// The running environment was upgraded in part, and is neither old nor new.
    MergedInPart {
        running: EnvName,
        from: EnvName,
        way_back: EnvName,
    },
    /// No environment is named, and none boots next but the one that runs.
    NothingBootsNext,
    /// What was changed on both sides needs a person.
    Conflicts {
        name: EnvName,
        count: usize,
    },
    /// A gate does not let it pass.
    Closed {
        name: EnvName,
        gate: &'static str,
        why: String,
    },
    /// It cannot be booted in a virtual machine here.
    NoTest {
        name: EnvName,
        why: String,
    },
    /// GRUB starts from the environment.
    GrubInstalled {
        name: EnvName,
        path: String,
    },
}

impl Refusal {
    /// If a merge into the running environment has not ended.
    pub(crate) fn merged_in_part(inv: &crate::model::Inventory) -> Option<Self> {
        let running = inv.running().ok()?;
        let live = running.record.unfinished_merge()?;
        Some(Self::MergedInPart {
            running: running.name().clone(),
            from: live.from.clone(),
            way_back: live.way_back.clone(),
        })
    }

    /// For an environment of which another mounts something.
    pub(crate) fn lent(env: &crate::model::Environment) -> Option<Refusal> {
        let (by, path) = env.lent.first()?;
        Some(Refusal::Lent {
            name: env.name().clone(),
            path: path.clone(),
            by: by.clone(),
        })
    }

    /// For a machine on which GRUB can write nowhere.
    pub fn no_trial(none: &be_grub::place::NoPlace) -> Refusal {
        Refusal::NoTrial {
            why: none.to_string(),
            remedy: none.remedy(),
        }
    }

    /// The exit code that stands for it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Refusal::Busy { .. } => exit::BUSY,
            Refusal::NoSpace { .. } | Refusal::NoSpaceFor { .. } => exit::NO_SPACE,
            Refusal::NotBootable { .. } => exit::NOT_BOOTABLE,
            Refusal::Conflicts { .. } => exit::CONFLICTS,
            Refusal::Closed { .. } => exit::NOT_BOOTABLE,
            Refusal::BadEmergeOption { .. }
            | Refusal::NoOptions { .. }
            | Refusal::NoDepclean { .. }
            | Refusal::LeftOut { .. } => exit::USAGE,
            _ => exit::REFUSED,
        }
    }

    /// What to do next, in one line.
    pub fn hint(&self) -> String {
        use Refusal::*;
        match self {
            NotRoot => "run it as root, for example with sudo".into(),
            NotBtrfs { .. } | NotASystem { .. } => {
                "name the mounted root of a system on btrfs: be --sysroot DIR".into()
            }
            NotInitialised | NotAdopted { .. } => "be init".into(),
            Unsupported { .. } => "see LAYOUTS in be(8)".into(),
            LockedRoot => "let GRUB open it, with /boot inside: see ENCRYPTION in be(8)".into(),
            Split { path } => format!("be layout set {} cloned", path.display()),
            NoSplit { path, why } => why.hint(path),
            Travel(travel) => travel.hint(),
            NoLock(why) => why.hint(),
            NotAPart { path, split, .. } if *split => {
                format!("be layout split {} makes it one", path.display())
            }
            NotAPart { .. } => "be layout shows what can be chosen".into(),
            NoGrub => "install GRUB and write its configuration first: \
                       grub-install, then grub-mkconfig -o /boot/grub/grub.cfg"
                .into(),
            NotHooked { .. } => "be init".into(),
            NotPending { name, .. } => format!("be config --list {name}"),
            Accounts { name, .. } => {
                format!("be config {name}, at a terminal, adds the entries that are new")
            }
            Unknown {
                near: Some(near), ..
            } => format!("did you mean {near}? see: be list"),
            Unknown { near: None, .. } => "be list".into(),
            Exists { .. } => "choose another name, or: be list".into(),
            Damaged { name, .. } => {
                format!("restore @be/{name}/be.json from a backup, or move @be/{name} away")
            }
            RootMissing { name } => format!("be destroy {name}"),
            ReadOnly => {
                "mount it writable: mount -o remount,rw / (and look at dmesg for the cause)".into()
            }
            Swapfile { path } => match path.parent().filter(|dir| *dir != Path::new("/")) {
                Some(dir) => format!(
                    "swapoff {}, then: be layout split {}",
                    path.display(),
                    dir.display()
                ),
                None => format!(
                    "swapoff {}, and move the file to a directory of its own, for: be layout split",
                    path.display()
                ),
            },
            Busy { .. } => "try again when it has ended; be status shows it".into(),
            NoSpace { .. } => "make room: be prune, or be list and be destroy NAME".into(),
            NoSpaceFor { path, .. } => {
                format!("make room in {path}, or be build run --packages DIR")
            }
            Running { .. } => "reboot into another environment first: be activate NAME".into(),
            Next { .. } => "activate another environment first: be activate NAME".into(),
            Chosen { .. } => "grub-editenv - unset next_entry takes the choice back".into(),
            GrubHome { .. } => "keep it: GRUB reads them at every boot".into(),
            NotMade { name } => {
                format!("if you are sure: btrfs subvolume delete, then rm -r @be/{name}")
            }
            DefaultSubvolume { .. } => "btrfs subvolume set-default 5 /".into(),
            InUse { name, .. } => format!("be umount {name}, or end what uses it"),
            Nested { name, paths } => {
                let path = paths.first().map(|p| p.display().to_string());
                let path = path.unwrap_or_default();
                let last = path.rsplit('/').next().unwrap_or_default();
                format!(
                    "move them out: mount -o subvolid=5 DEVICE /mnt, mv /mnt/@be/{name}/{path} \
                     /mnt/@{last}, and mount it by /etc/fstab; or delete them: btrfs subvolume \
                     delete"
                )
            }
            Lent { path, by, .. } => format!(
                "move it out: mount -o subvolid=5 DEVICE /mnt, mv /mnt/{0} /mnt/@NAME, and write \
                 subvol=/@NAME into /etc/fstab of {by}",
                path.display()
            ),
            NotReady { name, .. } => format!("be upgrade --continue {name}, or be destroy {name}"),
            NothingToContinue { .. } => "be status".into(),
            NotBootable { name, .. } if name.snapshot.is_some() => {
                format!("be create -e {name} NAME without -a, and mend it: be shell NAME")
            }
            NotBootable { name, .. } => format!("be shell {name}, mend it, then: be check {name}"),
            NoTrial { remedy, .. } => format!("{remedy}; or without a trial: --no-trial"),
            NoFallback { name } => format!("be activate --no-trial {name}"),
            Once { .. } => "be activate -T takes that back".into(),
            Fallback { .. } => "be confirm once the environment on trial works".into(),
            NotUp => "boot it, and confirm it there".into(),
            NotHere => "be activate without --now, then boot that machine".into(),
            NoWayBack {
                running: Some(name),
            } => {
                format!("be activate {name} makes the running environment boot next again")
            }
            NoWayBack { running: None } => "be list, then be activate NAME".into(),
            NotMounted { .. } => "be list shows what is mounted where".into(),
            MountTarget { .. } => "choose an empty directory, or none to get one".into(),
            MountBusy { dir } => format!("end what uses it: fuser -vm {} shows it", dir.display()),
            NotConfirmed { .. } => "answer y, or give -y".into(),
            Unproven { .. } => "be confirm, if it works; be status says more".into(),
            Blind => "leave the chroot or container; for a mounted system: be --sysroot DIR".into(),
            MenuDamaged { .. } => "be menu writes it anew".into(),
            BadEmergeOption { .. } => "leave it out; or run it by hand: be shell NAME".into(),
            NotFromRunning { name, running } => {
                format!("be diff {running} {name} shows what is different")
            }
            NothingKept { running, name } => {
                format!("be diff --files {name} {running} shows what is different")
            }
            OtherHost { .. } => {
                "make them the same, or choose another binhost_differs in be.toml(5); \
                                 nothing was kept"
                    .into()
            }
            NotLive { name, .. } => format!(
                "be activate {name} boots it instead, with what changed; be destroy {name} and be \
                 upgrade --live begin anew"
            ),
            MergedInPart { from, way_back, .. } => format!(
                "be upgrade --live --continue {from} goes on; be rollback {way_back} and a reboot \
                 go back; be confirm takes it as it is"
            ),
            NothingBootsNext => "name one; be list shows them".into(),
            Conflicts { name, .. } => format!("be carry {name} shows them"),
            Closed { name, .. } => format!("be shell {name} to mend it, then be activate {name}"),
            BadConfig { .. } => "mend it; be.toml(5) describes every key".into(),
            Builder { .. } => "be build status says more; be build drop deletes it".into(),
            BuilderHeld { .. } => {
                "be build shell to mend it, then be build continue; or be build drop".into()
            }
            NoBuilder => "be build run".into(),
            NoBuild { .. } => "be build run --packages DIR, or mend [build] in be.toml".into(),
            NoRepository { .. } => "name the directories of some: be moves REPO-DIR...".into(),
            LeftOut { instead, .. } => (*instead).into(),
            Pinned { name } => format!("be unpin {name}, then destroy it"),
            UnknownSnapshot { name } => format!("be list -s {}", name.env),
            SnapshotExists { .. } => "choose another name, or: be list -s".into(),
            SnapshotGone { name } => format!("be destroy {name} takes it out of the list"),
            IsSnapshot { name, .. } => {
                format!("look into it: be mount {name}; or go on from it: be create -e {name} NAME")
            }
            NoSnapshotNamed { name } => format!("be list -s {name}, then name it: {name}@SNAP"),
            NoRestore { name, .. } => {
                format!("be create -e {name} NAME, then be activate NAME: nothing is replaced")
            }
            GrubInstalled { name, .. } => {
                format!("grub-install in another environment first, or keep the name {name}")
            }
            NoManager => {
                "describe one, as be-managers(5) tells; or be create, then upgrade in it by \
                          hand: be shell NAME"
                    .into()
            }
            UnknownManager { .. } => {
                "mend [upgrade] in /etc/be/be.toml; be-managers(5) tells how to add one".into()
            }
            BadManager { .. } => "mend it; be-managers(5) describes every key".into(),
            NoDepclean { manager } => {
                format!("leave it out; or let {manager} do that by hand: be shell NAME")
            }
            CutOff { name, .. } => format!("be destroy {name}, then be upgrade"),
            NoOptions { .. } => {
                "leave out what comes after --; or run it by hand: be shell NAME".into()
            }
            NoTest { name, .. } => format!("boot it on trial instead: be activate --trial {name}"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Refusal::*;
        match self {
            NotRoot => write!(f, "only root may look at or change environments"),
            NotBtrfs { path } => write!(f, "{} is not on btrfs", path.display()),
            NotASystem { path, why } => {
                write!(f, "{} is not the root of a system: {why}", path.display())
            }
            NotInitialised => write!(f, "be does not manage this system yet"),
            NotAdopted { subvolume } => {
                write!(f, "the running root ({subvolume}) is not an environment")
            }
            Unsupported { what, why } => write!(f, "{what} is not supported yet: {why}"),
            LockedRoot => f.write_str(
                "the root is encrypted and /boot is on another filesystem, the only one that GRUB \
                 opens: it could not read the kernels of environments, which lie in their roots",
            ),
            Split { path } => write!(
                f,
                "{} has to be cloned with the root: installed packages and the database that \
                 describes them would be separated",
                path.display()
            ),
            NoLock(why) => why.fmt(f),
            NoSplit { path, why } => write!(
                f,
                "{} cannot be a subvolume of its own: {why}",
                path.display()
            ),
            Travel(travel) => travel.fmt(f),
            NotAPart { path, why, .. } => {
                write!(
                    f,
                    "there is nothing to choose for {}: {why}",
                    path.display()
                )
            }
            NoGrub => write!(
                f,
                "no GRUB configuration found in /boot/grub or /boot/grub2"
            ),
            NotHooked { config } => write!(f, "{config} does not read the menu of be"),
            NotPending { name, path } => {
                write!(f, "nothing waits for {} in {name}", path.display())
            }
            Accounts { path, .. } => write!(
                f,
                "the new {} knows none of the accounts of this machine and is not taken",
                path.display()
            ),
            Unknown { name, .. } => write!(f, "there is no environment {name}"),
            Exists { name } => write!(f, "the environment {name} exists already"),
            Damaged { name, why } => write!(f, "the record of {name} cannot be read: {why}"),
            RootMissing { name } => write!(f, "the root subvolume of {name} is gone"),
            ReadOnly => write!(f, "the filesystem is mounted read-only"),
            Swapfile { path } => write!(
                f,
                "the swapfile {} is active inside a subvolume that is to be cloned, which cannot be done then",
                path.display()
            ),
            Busy { what } => write!(f, "{what}"),
            NoSpace { free, needed } => write!(
                f,
                "not enough space: {} MiB free, {} MiB needed",
                free >> 20,
                needed >> 20
            ),
            NoSpaceFor { path, free, needed } => write!(
                f,
                "not enough space for packages: {path} has {} MiB free, {} MiB needed",
                free >> 20,
                needed >> 20
            ),
            Running { name } => write!(f, "{name} is the running environment"),
            Next { name } => write!(f, "{name} is the environment that boots next"),
            Chosen { name } => write!(f, "grub-reboot chose {name} for the next boot"),
            GrubHome { name, path } => {
                write!(f, "GRUB's own files lie in {name}, at /{path}")
            }
            NotMade { name } => write!(f, "{name} was there before be and is never deleted by it"),
            DefaultSubvolume { name } => {
                write!(f, "{name} is the default subvolume of the filesystem")
            }
            InUse { name, by } => write!(f, "{name} is in use: {by}"),
            Nested { name, paths } => {
                let list: Vec<_> = paths.iter().map(|p| p.display().to_string()).collect();
                write!(f, "{name} holds what be did not make: {}", list.join(", "))
            }
            Lent { name, path, by } => write!(
                f,
                "/{} lies in {name}, and {by} mounts it by its /etc/fstab",
                path.display()
            ),
            NotReady { name, state } => write!(f, "{name} is {state}"),
            NothingToContinue { name, state } => {
                write!(f, "{name} is {state}; it has no upgrade to continue")
            }
            NotBootable { name, problems } => {
                write!(f, "{name} would not boot: {}", problems.join("; "))
            }
            NoTrial { why, .. } => write!(f, "no trial boots on this machine: {why}"),
            NoFallback { name } => write!(
                f,
                "a trial of {name} could fall back to nothing: no other environment is confirmed"
            ),
            Once { name } => write!(f, "{name} is to boot next time"),
            Fallback { name } => {
                write!(f, "{name} is what boots when the trial of another fails")
            }
            NotUp => write!(
                f,
                "only the environment that this machine has booted can be confirmed"
            ),
            NotHere => write!(f, "only the system that runs can be left for another"),
            NoWayBack { .. } => write!(f, "there is no other confirmed environment to go back to"),
            NotMounted { what } => write!(f, "{what} is not mounted by be"),
            MountTarget { dir, why } => write!(f, "cannot mount at {}: {why}", dir.display()),
            MountBusy { dir } => write!(f, "{} is in use", dir.display()),
            Blind => write!(
                f,
                "from inside a chroot or container, what uses an environment cannot be seen"
            ),
            MenuDamaged { why } => write!(f, "the menu cannot be read: {why}"),
            BadEmergeOption { why } => write!(f, "{why}"),
            BadConfig { why } => write!(f, "/etc/be/be.toml is wrong: {why}"),
            Builder { name } => write!(
                f,
                "{name} is a builder: packages are built in it, and it is never booted"
            ),
            BuilderHeld { name, until } => write!(
                f,
                "the build in {name} failed, and is held until {until} for somebody to mend it"
            ),
            NoBuilder => write!(f, "no build waits to be continued"),
            NoBuild { why } => write!(f, "packages cannot be built: {why}"),
            NotFromRunning { name, running } => write!(
                f,
                "{name} was not cloned from {running}, which is running: nothing can be carried"
            ),
            NothingKept { running, name } => write!(
                f,
                "how {running} was when it was activated was not kept: what changed since cannot \
                 be told, nor carried back into {name}"
            ),
            OtherHost {
                name,
                host,
                differences,
            } => write!(
                f,
                "{host} builds its packages with another configuration than that of {name}: {}",
                differences.join("; ")
            ),
            NotLive { name, why } => write!(
                f,
                "what was built in {name} was not merged into the running system: {why}"
            ),
            MergedInPart { running, from, .. } => write!(
                f,
                "{running}, which runs, was upgraded from {from} only in part, or still is: until \
                 that has ended it is not cloned, and what it was and {from} stay"
            ),
            NothingBootsNext => write!(f, "the running environment boots next: where to?"),
            Conflicts { name, count: 1 } => {
                write!(
                    f,
                    "one path was changed in {name} and on the running system"
                )
            }
            Conflicts { name, count } => {
                write!(
                    f,
                    "{count} paths were changed in {name} and on the running system"
                )
            }
            Closed { name, gate, why } => {
                write!(f, "{name} does not pass the gate {gate}: {why}")
            }
            NotConfirmed { name } => write!(f, "{name} was not destroyed: nobody said yes"),
            Unproven { name } => write!(
                f,
                "{name} is running and was not confirmed yet: nothing is cloned from it unattended"
            ),
            NoRepository { root } => write!(
                f,
                "{} has no ebuild repository: its repos.conf names none that is there",
                root.display()
            ),
            LeftOut { what, .. } => write!(f, "{what} is not known here"),
            Pinned { name } => write!(f, "{name} is pinned"),
            UnknownSnapshot { name } => write!(f, "there is no snapshot {name}"),
            SnapshotExists { name } => write!(f, "the snapshot {name} exists already"),
            SnapshotGone { name } => write!(f, "the subvolumes of the snapshot {name} are gone"),
            IsSnapshot { name, what } => {
                write!(f, "{name} is a read-only snapshot, which cannot be {what}")
            }
            NoSnapshotNamed { name } => write!(f, "{name} is an environment and no snapshot"),
            NoRestore { name, why } => {
                write!(f, "{} is not put back to {name}: {why}", name.env)
            }
            GrubInstalled { name, path } => {
                write!(
                    f,
                    "GRUB was installed from {name} and finds itself by that name (/{path})"
                )
            }
            NoManager => write!(f, "there is no package manager that be knows in the system"),
            UnknownManager { name, known } => write!(
                f,
                "/etc/be/be.toml names the package manager {name}; be knows {}",
                known.join(", ")
            ),
            BadManager { file, why } => write!(f, "{file} is wrong: {why}"),
            NoDepclean { manager } => {
                write!(f, "--depclean is for Portage, and not for {manager}")
            }
            CutOff { name, manager } => write!(
                f,
                "{manager} was cut off while it changed {name}, and does not finish what it began"
            ),
            NoOptions { manager } => write!(f, "{manager} takes no options of be upgrade"),
            NoTest { name, why } => {
                write!(f, "{name} cannot be booted in a virtual machine: {why}")
            }
        }
    }
}

impl std::error::Error for Refusal {}

/// There was nothing to do; exit code 77.
#[derive(Debug)]
pub struct NothingToDo(pub String);

impl fmt::Display for NothingToDo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NothingToDo {}
