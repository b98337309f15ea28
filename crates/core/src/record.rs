//! The record of an environment, `NAME/be.json`: only what btrfs itself cannot say.

use std::path::{Path, PathBuf};

use be_portage::chores::Chore;
use be_portage::diff::PackageDiff;
use chrono::{DateTime, FixedOffset};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::name::{EnvName, SnapName};

/// The version written by this `be`. A record of a later version is read all the same:
/// fields are only ever added, and unknown ones are kept when it is written again.
pub const SCHEMA: u32 = 1;

/// Where an environment is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// An upgrade works in it, or was cut off.
    Building,
    /// Its upgrade failed; kept to be looked at, continued or destroyed.
    Failed,
    /// Complete, and not booted yet.
    Ready,
    /// In its first boots.
    Trial,
    /// Known to work.
    Confirmed,
    /// Its trial failed.
    Bad,
}

impl State {
    /// Whether it was booted: what is in it is its own from then on.
    pub fn was_booted(self) -> bool {
        matches!(self, State::Trial | State::Confirmed | State::Bad)
    }

    /// The word used in the record, in JSON and in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Building => "building",
            State::Failed => "failed",
            State::Ready => "ready",
            State::Trial => "trial",
            State::Confirmed => "confirmed",
            State::Bad => "bad",
        }
    }

    /// Whether an environment in it may be in the menu, activated and cloned. One whose
    /// trial failed may: that is how it is looked into, and tried again when it is mended.
    pub fn is_usable(self) -> bool {
        !matches!(self, State::Building | State::Failed)
    }
}

/// What happens to a subvolume when an environment is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Goes into every environment when it is created.
    Cloned,
    /// Re-cloned from the running system when switching.
    Late,
    /// One for all environments.
    Shared,
}

impl Policy {
    /// The word used in records, in attributes and in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Policy::Cloned => "cloned",
            Policy::Late => "late",
            Policy::Shared => "shared",
        }
    }

    /// The policy of this word.
    pub fn parse(word: &str) -> Option<Self> {
        [Policy::Cloned, Policy::Late, Policy::Shared]
            .into_iter()
            .find(|p| p.as_str() == word)
    }
}

/// One subvolume that belongs to an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Where it is mounted in the environment.
    pub mount: String,
    /// How it came into the environment.
    pub policy: Policy,
    /// The subvolume's UUID: the only proof that this is the one meant. Nil only for a
    /// top level made by a mkfs.btrfs older than 4.16.
    pub uuid: String,
    /// What is known of the moment when it was cloned late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<Late>,
    /// The UUID of the subvolume that takes its place, while `be activate` is at work on it
    /// or was cut off: it is one or the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<String>,
    /// The read-only snapshot that it was cloned from, or of what was carried into it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// What takes the place of the base, while `be carry` is at work or was cut off: it is one
    /// or the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_base: Option<Base>,
    /// What it was cloned from, where carrying has put another base in that one's place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloned_from: Option<Base>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl Member {
    /// A member with no base.
    pub fn new(mount: &str, policy: Policy, uuid: String) -> Self {
        Self {
            mount: mount.to_owned(),
            policy,
            uuid,
            late: None,
            replacement: None,
            base: None,
            next_base: None,
            cloned_from: None,
            extra: Map::new(),
        }
    }

    /// Put the next base in the place of the one before.
    pub fn take_next_base(&mut self) {
        if let Some(next) = self.next_base.take() {
            let before = self.base.replace(next);
            self.cloned_from = self.cloned_from.take().or(before);
        }
    }

    /// Where it lies below the directory of the environment: `root`, or `vol/` and the
    /// path that it is mounted at, with `-` for a slash and `%XX` for every byte that is
    /// not a letter, a digit, a dot or an underscore.
    pub fn place(&self) -> PathBuf {
        place(&self.mount)
    }
}

/// [`Member::place`] of a subvolume mounted at `mount`.
pub fn place(mount: &str) -> PathBuf {
    let path = mount.trim_matches('/');
    if path.is_empty() {
        return PathBuf::from("root");
    }
    let mut name = String::new();
    for byte in path.bytes() {
        match byte {
            b'/' => name.push('-'),
            b'.' if name.is_empty() => name.push_str("%2E"),
            b'.' | b'_' => name.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => name.push(char::from(byte)),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    Path::new("vol").join(name)
}

/// When a subvolume was cloned late, and from what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Late {
    /// UUID of the subvolume that it was cloned from.
    pub of: String,
    /// The transaction of the clone: what is newer in the original was written since.
    pub since: u64,
    /// The transaction that last wrote the clone when it was done: what is newer in it was
    /// written by somebody who uses it.
    pub written: u64,
}

/// The common ancestor of an environment and its origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// UUID of the read-only snapshot.
    pub uuid: String,
    /// UUID of the subvolume it was taken of.
    pub of: String,
    /// The transaction of the snapshot: what is newer in the origin was written since.
    pub generation: u64,
}

/// Where a /boot lies that is not in the root subvolume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// UUID of its filesystem.
    pub uuid: String,
    /// Type of its filesystem, as mount(8) knows it.
    pub fstype: String,
    /// On the filesystem of the root: the subvolume, from the top level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subvolume: Option<PathBuf>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl Boot {
    /// A place.
    pub fn new(uuid: String, fstype: String, subvolume: Option<PathBuf>) -> Self {
        Self {
            uuid,
            fstype,
            subvolume,
            extra: Map::new(),
        }
    }
}

/// How far an upgrade came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The environment exists, nothing ran in it.
    Clone,
    /// Repositories are being synchronised.
    Sync,
    /// What would be merged is being computed.
    Preview,
    /// What is needed is being fetched.
    Fetch,
    /// Packages are being built and merged.
    Merge,
    /// What is usual after an upgrade is being done.
    Chores,
    /// New versions of configuration files are being merged.
    Configuration,
    /// The result is being checked.
    Check,
    /// Everything ended well.
    Done,
    /// One that only a later `be` knows.
    #[serde(other)]
    Later,
}

impl Phase {
    /// The word used in the record and in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Clone => "clone",
            Phase::Sync => "sync",
            Phase::Preview => "preview",
            Phase::Fetch => "fetch",
            Phase::Merge => "merge",
            Phase::Chores => "chores",
            Phase::Configuration => "configuration",
            Phase::Check => "check",
            Phase::Done => "done",
            Phase::Later => "later",
        }
    }
}

/// The upgrade that ran in an environment, for `be log`, `be status` and `--continue`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgrade {
    /// The phase that is running, or that was the last.
    pub phase: Phase,
    /// When it was started.
    pub started: DateTime<FixedOffset>,
    /// When it ended, well or not; none while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<DateTime<FixedOffset>>,
    /// Options for emerge that the person gave.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Where emerge.log ended when the merge that runs, or was cut off, began; in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_start: Option<u64>,
    /// Which boot of the machine that was, as the kernel names it: what was not on disk yet is
    /// still there as long as it is this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_boot: Option<String>,
    /// How long emerge.log was when this upgrade began, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_first: Option<u64>,
    /// Another package manager than Portage is changing the system, or was cut off in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_part: bool,
    /// The result is to boot by default; none in records of a `be` that did not ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activate: Option<bool>,
    /// On trial, or not; none if nobody said which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<bool>,
    /// What it was made from: repositories, configuration, world, options; a hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<String>,
    /// The digest of the lock that it is made from, which lies in its log/wanted.json.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
    /// Packages (`category/name-version`) that failed and have to be merged again, even
    /// if Portage says that they are installed: a failed pkg_postinst leaves them so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
    /// The chores that are done.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "known"
    )]
    pub chores: Vec<Chore>,
    /// What nothing needs any more is to be removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub depclean: bool,
    /// The result is to be merged into the running system.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub live: bool,
    /// The directory of the packages that are to be merged there, by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<String>,
    /// Gates that it need not pass, by their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_gates: Vec<String>,
    /// What the gates said when it came to them last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<GateRecord>,
    /// Where the packages came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<Sources>,
    /// What became of configuration files of which a new version waited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigFiles>,
    /// Why it failed, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// What a gate said, as a later `be` may have written it: the words may be unknown here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateRecord {
    /// Which.
    pub name: String,
    /// `passed`, `failed`, `skipped`, `unknown` or `off`.
    pub verdict: String,
    /// In one line.
    pub why: String,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// Where the packages of an upgrade came from; each is `category/name-version`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// From a binary package host.
    pub binhost: Vec<String>,
    /// They were built.
    pub built: Vec<String>,
    /// They were built because no host gave them.
    pub fell_back: Vec<FellBack>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// A package that a binary package host has, and that was built all the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FellBack {
    /// `category/name-version`.
    pub package: String,
    /// Why, in a few words.
    pub why: String,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl FellBack {
    /// One that did so now.
    pub fn new(package: String, why: String) -> Self {
        Self {
            package,
            why,
            extra: Map::new(),
        }
    }
}

/// What became of configuration files of which a new version waited; their paths.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigFiles {
    /// What the person and the package had changed was put together.
    pub merged: Vec<String>,
    /// The new version took the place of one that nobody had changed.
    pub taken: Vec<String>,
    /// They are left for a person.
    pub left: Vec<String>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl GateRecord {
    /// What was said now.
    pub fn new(name: String, verdict: String, why: String) -> Self {
        Self {
            name,
            verdict,
            why,
            extra: Map::new(),
        }
    }
}

impl Upgrade {
    /// An upgrade that starts now.
    pub fn start(now: DateTime<FixedOffset>, options: &[String]) -> Self {
        Self {
            phase: Phase::Clone,
            started: now,
            ended: None,
            options: options.to_vec(),
            log_start: None,
            log_boot: None,
            log_first: None,
            in_part: false,
            activate: None,
            trial: None,
            inputs: None,
            lock: None,
            failed: Vec::new(),
            chores: Vec::new(),
            depclean: false,
            live: false,
            packed: None,
            no_gates: Vec::new(),
            gates: Vec::new(),
            sources: None,
            config: None,
            error: None,
            extra: Map::new(),
        }
    }
}

/// Those that this `be` knows: what a later one has done besides is none of its business.
fn known<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Chore>, D::Error> {
    let words = Vec::<Value>::deserialize(from)?;
    let chores = words
        .into_iter()
        .filter_map(|w| serde_json::from_value(w).ok());
    Ok(chores.collect())
}

/// What only a builder has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Builder {
    /// The directory of the running system that its packages are published in.
    pub packages: String,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl Builder {
    /// One that publishes there.
    pub fn new(packages: String) -> Self {
        Self {
            packages,
            extra: Map::new(),
        }
    }
}

/// Why the trial of an environment failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialFailure {
    /// When it was noticed.
    pub noticed: DateTime<FixedOffset>,
    /// In one sentence, as far as it can be known.
    pub why: String,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl TrialFailure {
    /// One that is noticed now.
    pub fn new(noticed: DateTime<FixedOffset>, why: String) -> Self {
        Self {
            noticed,
            why,
            extra: Map::new(),
        }
    }
}

/// How an environment is to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// On trial if it was never confirmed and GRUB can count boots; else by default.
    Auto,
    /// By default.
    Default,
    /// On trial.
    Trial,
    /// The next time only.
    Once,
}

/// Where an environment came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// The name of that machine, for people.
    pub host: String,
    /// The UUID of its btrfs.
    pub filesystem: String,
    /// What the environment is called there.
    pub name: String,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl Received {
    /// From there.
    pub fn new(host: String, filesystem: String, name: String) -> Self {
        Self {
            host,
            filesystem,
            name,
            extra: Map::new(),
        }
    }
}

/// What the service does that runs at shutdown: it carries what changed until then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtShutdown {
    /// How to switch to the environment then; none if it boots next already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch: Option<How>,
    /// Why a shutdown could not do it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl AtShutdown {
    /// At the next one.
    pub fn new(switch: Option<How>) -> Self {
        Self {
            switch,
            failed: None,
            extra: Map::new(),
        }
    }
}

/// A read-only snapshot of an environment: of all its own subvolumes, at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name, the part after `@`.
    pub name: SnapName,
    /// When it was taken.
    pub created: DateTime<FixedOffset>,
    /// What its owner says of it.
    #[serde(default)]
    pub description: String,
    /// What the environment was then.
    pub state: State,
    /// It was taken to be sent, and that has not come to its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sending: bool,
    /// A subvolume each; the first one is of the root.
    pub subvolumes: Vec<SnapshotMember>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// The most bytes of a description.
const MOST_DESCRIPTION: usize = 1000;

/// What keeps a text from being a description: it is one line of lists, of the menu, and of what
/// is sent to another machine.
pub fn no_description(text: &str) -> Option<&'static str> {
    match text {
        text if text.len() > MOST_DESCRIPTION => Some("it has more than 1000 bytes"),
        text if text.contains(char::is_control) => {
            Some("it has a line break or another control character")
        }
        _ => None,
    }
}

/// A text as the description that is most like it.
pub(crate) fn as_description(text: &str) -> String {
    let mut text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    while text.len() > MOST_DESCRIPTION {
        text.pop();
    }
    text
}

/// One subvolume of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMember {
    /// Where the original is mounted in the environment.
    pub mount: String,
    /// The subvolume's UUID.
    pub uuid: String,
    /// The subvolumes that lay in the original, as paths in it, outermost only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nested: Vec<PathBuf>,
    /// It was sent, or received, and is kept as what a later stream can be relative to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub travelled: Option<Travelled>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// By what a subvolume that travelled is known again, and that nobody has changed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Travelled {
    /// The UUID of the subvolume that it was received from; none where it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<String>,
    /// The transaction that last changed something in it (`ctransid`).
    pub changed: u64,
}

impl SnapshotMember {
    /// A snapshot of what is mounted there.
    pub fn new(mount: &str, uuid: String, nested: Vec<PathBuf>) -> Self {
        Self {
            mount: mount.to_owned(),
            uuid,
            nested,
            travelled: None,
            extra: Map::new(),
        }
    }
}

impl Snapshot {
    /// A snapshot with no subvolume yet.
    pub fn new(name: SnapName, created: DateTime<FixedOffset>, state: State) -> Self {
        Self {
            name,
            created,
            description: String::new(),
            state,
            sending: false,
            subvolumes: Vec::new(),
            extra: Map::new(),
        }
    }

    /// Its directory, below that of the environment.
    pub fn place(&self) -> PathBuf {
        snapshot_place(&self.name)
    }

    /// Its subvolumes, as paths below the directory of the snapshot, with their UUIDs.
    pub fn made(&self) -> impl Iterator<Item = (PathBuf, &str)> {
        let members = self.subvolumes.iter();
        members.map(|m| (place(&m.mount), m.uuid.as_str()))
    }
}

/// [`Snapshot::place`] by name.
pub fn snapshot_place(name: &SnapName) -> PathBuf {
    Path::new("snap").join(name.as_str())
}

/// A merge into an environment while it ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveMerge {
    /// The environment that the packages were built in.
    pub from: EnvName,
    /// A clone of it as it was before.
    pub way_back: EnvName,
    /// When it began.
    pub started: DateTime<FixedOffset>,
    /// When it ended well; none while it runs, or where it was cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<DateTime<FixedOffset>>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl LiveMerge {
    /// One that begins now.
    pub fn begin(from: EnvName, way_back: EnvName, now: DateTime<FixedOffset>) -> Self {
        Self {
            from,
            way_back,
            started: now,
            ended: None,
            extra: Map::new(),
        }
    }
}

/// One environment, as `be.json` holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the format.
    pub schema: u32,
    /// The name; also the name of the directory that the record is in.
    pub name: EnvName,
    /// When it was created or adopted.
    pub created: DateTime<FixedOffset>,
    /// The environment that it was cloned from; none for an adopted system.
    pub origin: Option<EnvName>,
    /// What its owner says of it.
    #[serde(default)]
    pub description: String,
    /// Where it is in its life.
    pub state: State,
    /// Never pruned.
    #[serde(default)]
    pub pinned: bool,
    /// It was there before `be`: its subvolume was neither made nor may be deleted by it.
    #[serde(default)]
    pub adopted: bool,
    /// The directory of GRUB's own files lies in this environment, at this path in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grub_home: Option<String>,
    /// Its /boot is not in its root subvolume; only that of an adopted system ever is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    /// Its subvolumes; the first one is the root.
    pub subvolumes: Vec<Member>,
    /// Its snapshots, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<Snapshot>,
    /// The name that it is getting, while `be rename` is at work or was cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renaming: Option<EnvName>,
    /// The name that the text still has, where the directory has the new one already.
    #[serde(skip)]
    pub renamed_from: Option<EnvName>,
    /// The upgrade that ran in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Upgrade>,
    /// It is a builder: packages for other machines are built in it, and it is never booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builder: Option<Builder>,
    /// Why its last trial failed; none once it is confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial_failure: Option<TrialFailure>,
    /// Absolute paths in it at which something of the running system was kept, because both had
    /// changed it; some may be gone by now. What is not UTF-8 in them is replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<String>,
    /// Packages that changed on the running system and for which there was no time when it was
    /// carried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packages_wait: Option<PackageDiff>,
    /// What is to be done when the system that it was cloned from shuts down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_shutdown: Option<AtShutdown>,
    /// What was merged into it while it ran, the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveMerge>,
    /// It was received; from where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<Received>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl Record {
    /// A new record with no subvolume yet.
    pub fn new(name: EnvName, created: DateTime<FixedOffset>, state: State) -> Self {
        Self {
            schema: SCHEMA,
            name,
            created,
            origin: None,
            description: String::new(),
            state,
            pinned: false,
            adopted: false,
            grub_home: None,
            boot: None,
            subvolumes: Vec::new(),
            snapshots: Vec::new(),
            renaming: None,
            renamed_from: None,
            upgrade: None,
            builder: None,
            trial_failure: None,
            beside: Vec::new(),
            packages_wait: None,
            at_shutdown: None,
            live: None,
            received: None,
            extra: Map::new(),
        }
    }

    /// The root subvolume; [`Record::parse`] accepts no record without one.
    pub fn root(&self) -> Option<&Member> {
        self.subvolumes.first().filter(|m| m.mount == "/")
    }

    /// The merge into it that was begun while it ran, and has not ended.
    pub fn unfinished_merge(&self) -> Option<&LiveMerge> {
        self.live.as_ref().filter(|live| live.ended.is_none())
    }

    /// The subvolumes that were made for it, as paths below its directory with the UUIDs
    /// that they must have. Innermost first is not needed: none lies in another.
    pub fn made(&self) -> Vec<(PathBuf, &str)> {
        let own = self.subvolumes.iter().filter(|_| !self.adopted);
        own.flat_map(|member| {
            let base = member.base.iter().chain(&member.next_base);
            let uuids = std::iter::once(&member.uuid).chain(&member.replacement);
            uuids
                .map(|uuid| (member.place(), uuid.as_str()))
                .chain(base.map(|b| (Path::new("base").join(member.place()), b.uuid.as_str())))
        })
        .chain(self.snapshots.iter().flat_map(|s| {
            let dir = s.place();
            s.made().map(move |(path, uuid)| (dir.join(path), uuid))
        }))
        .collect()
    }

    /// The snapshot of this name.
    pub fn snapshot(&self, name: &SnapName) -> Option<&Snapshot> {
        self.snapshots.iter().find(|s| s.name == *name)
    }

    /// Read the text of a record found in the directory `dir`.
    ///
    /// # Errors
    /// Says in one line what is wrong: not JSON, a field of a wrong type, no root
    /// subvolume, or a name that is not the directory's.
    pub fn parse(text: &str, dir: &str) -> Result<Self, String> {
        let mut record: Record = serde_json::from_str(text).map_err(|e| e.to_string())?;
        // A rename that was cut off: the directory has the new name, the record not yet.
        if let Some(new) = record.renaming.clone().filter(|n| n.as_str() == dir) {
            let old = std::mem::replace(&mut record.name, new);
            record.renamed_from = Some(old).filter(|old| *old != record.name);
        }
        if record.name.as_str() != dir {
            return Err(format!("it is the record of {:?}", record.name.as_str()));
        }
        if record.root().is_none() {
            return Err("its first subvolume is not the root".to_owned());
        }
        Ok(record)
    }

    /// The text to be written.
    pub fn to_text(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXTURE: &str = include_str!("../tests/fixtures/be-1.json");
    const LATER: &str = include_str!("../tests/fixtures/be-later.json");

    #[test]
    fn a_description_is_one_line() {
        let long = "ü".repeat(501);
        for text in ["a\nb", "\u{1b}[2J", "\t", long.as_str()] {
            assert!(no_description(text).is_some(), "{text:?}");
            assert_eq!(no_description(&as_description(text)), None, "{text:?}");
        }
        assert_eq!(as_description("a\nb"), "a b");
        for text in ["", "für später", &long[..1000]] {
            assert_eq!(no_description(text), None);
            assert_eq!(as_description(text), text);
        }
    }

    #[test]
    fn version_1_is_frozen() {
        let record = Record::parse(FIXTURE, "2026-11-20").unwrap();
        assert_eq!(record.to_text().unwrap(), FIXTURE);
        assert_eq!(record.state, State::Failed);
        assert_eq!(record.upgrade.unwrap().phase, Phase::Merge);
    }

    #[test]
    fn snapshots_are_frozen_too() {
        let text = include_str!("../tests/fixtures/be-snapshots.json");
        let record = Record::parse(text, "default").unwrap();
        assert_eq!(record.to_text().unwrap(), text);
        let name = SnapName::parse("before").unwrap();
        let snapshot = record.snapshot(&name).unwrap();
        assert_eq!(snapshot.subvolumes[0].nested.len(), 1);
        assert_eq!(record.renaming.unwrap().as_str(), "gentoo");
    }

    #[test]
    fn fields_of_a_later_version_are_kept() {
        let record = Record::parse(LATER, "new").unwrap();
        assert_eq!(record.to_text().unwrap(), LATER);
    }

    #[test]
    fn words_of_a_later_version_are_read() {
        let upgrade = r#""upgrade": {"phase": "polish", "started": "2027-01-20T01:02:03+01:00",
            "chores": ["module-rebuild", "dust"]}, "subvolumes""#;
        let text = LATER.replacen("\"subvolumes\"", upgrade, 1);
        let upgrade = Record::parse(&text, "new").unwrap().upgrade.unwrap();
        assert_eq!(upgrade.phase, Phase::Later);
        assert_eq!(upgrade.chores, [Chore::ModuleRebuild]);
    }

    #[test]
    fn places_are_distinct_and_need_no_quoting() {
        for (mount, expected) in [
            ("/", "root"),
            ("/var/lib", "vol/var-lib"),
            ("/var-lib", "vol/var%2Dlib"),
            ("/srv/a b,c", "vol/srv-a%20b%2Cc"),
            ("/.x.y", "vol/%2Ex.y"),
        ] {
            assert_eq!(place(mount), Path::new(expected), "{mount}");
        }
    }

    #[test]
    fn snapshots_are_made_by_be_also_for_an_adopted_system() {
        let mut record = Record::parse(FIXTURE, "2026-11-20").unwrap();
        let mut snapshot = Snapshot::new(
            SnapName::parse("before").unwrap(),
            record.created,
            State::Confirmed,
        );
        snapshot.subvolumes = vec![
            SnapshotMember::new("/", "r".into(), Vec::new()),
            SnapshotMember::new("/var/lib/x", "v".into(), Vec::new()),
        ];
        record.snapshots = vec![snapshot];
        let text = record.to_text().unwrap();
        assert_eq!(Record::parse(&text, "2026-11-20").unwrap(), record);
        record.adopted = true;
        assert_eq!(
            record.made(),
            [
                (PathBuf::from("snap/before/root"), "r"),
                (PathBuf::from("snap/before/vol/var-lib-x"), "v")
            ]
        );
    }

    #[test]
    fn a_record_that_is_being_renamed_fits_both_names() {
        let text = FIXTURE.replace("\"pinned\"", "\"renaming\": \"new\",\n  \"pinned\"");
        let old = Record::parse(&text, "2026-11-20").unwrap();
        assert_eq!(old.name.as_str(), "2026-11-20");
        let new = Record::parse(&text, "new").unwrap();
        assert_eq!(new.name.as_str(), "new");
        assert_eq!(new.renamed_from.as_ref().unwrap(), &old.name);
        let again = Record::parse(&new.to_text().unwrap(), "new").unwrap();
        assert_eq!((again.renaming, again.renamed_from), (Some(new.name), None));
        assert!(Record::parse(&text, "other").is_err());
    }

    #[test]
    fn damage_is_named() {
        let cut = &FIXTURE[..FIXTURE.len() / 2];
        assert!(
            Record::parse(cut, "2026-11-20")
                .unwrap_err()
                .contains("line")
        );
        assert!(
            Record::parse(FIXTURE, "other")
                .unwrap_err()
                .contains("2026-11-20")
        );
        let rootless = FIXTURE.replace("\"mount\": \"/\"", "\"mount\": \"/usr\"");
        assert!(Record::parse(&rootless, "2026-11-20").is_err());
    }
}
