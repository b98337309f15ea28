//! What a lock says, fact by fact: by these, and by nothing else, locks are compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use sha2::Digest;

use super::{CONFIGURATION, Entry, Kind, Lock, Package, Sha256, State, settings};

/// What a difference is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// What is in a repository, and what it builds upon.
    Repository,
    /// Where a repository lies, and where it comes from.
    Location,
    /// Something in /etc/portage.
    Configuration,
    /// The chain of profiles.
    Profile,
    /// What is wanted: world and its sets.
    World,
    /// A setting, as Portage computes it.
    Setting,
    /// What packages are built with.
    Toolchain,
    /// The version of Portage.
    Portage,
    /// The index of a host of binary packages.
    Binhost,
    /// An installed package.
    Package,
}

/// One thing in which two locks differ, from the first to the second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// In what.
    pub part: Part,
    /// The name of it: of a repository, a path, a setting, `category/name:slot`.
    pub what: String,
    /// How.
    pub change: Change,
}

/// How two locks differ in one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Only the second has it.
    Added(String),
    /// Only the first has it.
    Removed(String),
    /// It has another value.
    Value {
        /// In the first.
        from: String,
        /// In the second.
        to: String,
    },
    /// Words of a list came and went.
    Words {
        /// Those that only the second has.
        added: Vec<String>,
        /// Those that only the first has.
        removed: Vec<String>,
    },
    /// A file has another content.
    Content,
    /// It is something else: a file, a directory, a link.
    Kind {
        /// In the first.
        from: &'static str,
        /// In the second.
        to: &'static str,
    },
    /// It has other permissions.
    Mode {
        /// In the first.
        from: String,
        /// In the second.
        to: String,
    },
    /// A link points elsewhere.
    Target {
        /// In the first.
        from: String,
        /// In the second.
        to: String,
    },
    /// The package was built with other USE flags.
    Use {
        /// The package, `category/name-version`.
        package: String,
        /// On only in the second.
        enabled: Vec<String>,
        /// On only in the first.
        disabled: Vec<String>,
    },
    /// The package comes from another repository.
    From {
        /// The package, `category/name-version`.
        package: String,
        /// In the first.
        from: String,
        /// In the second.
        to: String,
    },
}

/// All in which two locks differ, sorted by [`Part`] and name. What no build can give again is
/// not compared: when something was built, and the number of a build; see LOCKS in be(8).
pub fn differences(a: &Lock, b: &Lock) -> Vec<Difference> {
    compare(&facts(a), &facts(b))
}

/// Those [`differences`] that decide what a package that is built looks like. There are none if
/// and only if both locks have the same [`Lock::configuration_digest`].
pub fn configuration_differences(a: &Lock, b: &Lock) -> Vec<Difference> {
    compare(&decisive(a), &decisive(b))
}

/// Those [`differences`] that show that an environment did not come out as its lock says. What
/// hosts of binary packages offer is no part of an environment.
pub fn deviations(lock: &Lock, made: &Lock) -> Vec<Difference> {
    let mut found = differences(lock, made);
    found.retain(|d| d.part != Part::Binhost);
    found
}

/// Whether something is among [`configuration_differences`]. Of /etc/portage, what only says
/// where repositories and packages come from, whom to trust and what is wanted is not; nor
/// make.profile, whose chain is compared by itself.
pub fn decides(part: Part, what: &str) -> bool {
    const NOT: [&str; 8] = [
        "binrepos.conf",
        "gnupg",
        "make.profile",
        "mirrors",
        "postsync.d",
        "repo.postsync.d",
        "repos.conf",
        "sets",
    ];
    match part {
        Part::Repository | Part::Profile | Part::Setting | Part::Toolchain | Part::Portage => true,
        Part::Configuration => {
            let inside = what
                .trim_start_matches(CONFIGURATION)
                .trim_start_matches('/');
            !NOT.contains(&inside.split('/').next().unwrap_or_default())
        }
        Part::Location | Part::World | Part::Binhost | Part::Package => false,
    }
}

/// The digest of what decides.
pub(super) fn digest(lock: &Lock) -> Sha256 {
    let mut hash = sha2::Sha256::new();
    for ((part, what), fact) in decisive(lock) {
        // The words of the serialised form are those of `--json`, and as stable.
        let text = serde_json::json!([part, what, fact]).to_string();
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    Sha256::of(hash)
}

type Facts = BTreeMap<(Part, String), Fact>;

/// What is said of one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
enum Fact {
    Text(String),
    Words(BTreeSet<String>),
    File {
        kind: &'static str,
        mode: Option<String>,
        target: Option<String>,
        sha256: Option<String>,
    },
    Package {
        cpv: String,
        /// With the subslot.
        slot: String,
        repository: String,
        flags: BTreeSet<String>,
    },
}

fn decisive(lock: &Lock) -> Facts {
    let mut facts = facts(lock);
    facts.retain(|(part, what), fact| {
        if let (Part::Setting, Some(value)) = (part, fact.text()) {
            match settings::decisive(what, &value) {
                Some(value) if !value.is_empty() => *fact = setting(what, &value),
                _ => return false,
            }
        }
        decides(*part, what)
    });
    facts
}

fn facts(lock: &Lock) -> Facts {
    let mut facts = Facts::new();
    let mut add = |part: Part, what: &str, fact: Fact| {
        facts.insert((part, what.to_owned()), fact);
    };
    for one in &lock.repositories {
        let name = &*one.name;
        add(Part::Repository, name, Fact::Text(shown(&one.state)));
        for (key, names) in [
            ("masters", &one.masters),
            ("eclass-overrides", &one.eclass_overrides),
        ] {
            if !names.is_empty() {
                let names = names.iter().map(ToString::to_string).collect::<Vec<_>>();
                add(
                    Part::Repository,
                    &format!("{name} {key}"),
                    Fact::Text(names.join(" ")),
                );
            }
        }
        add(Part::Location, name, Fact::Text(one.location.to_string()));
        if let Some(uri) = &one.sync_uri {
            add(
                Part::Location,
                &format!("{name} sync-uri"),
                Fact::Text(uri.to_string()),
            );
        }
    }
    for entry in &lock.configuration.entries {
        add(Part::Configuration, &entry.path, file(entry));
    }
    add(
        Part::Profile,
        "profile",
        Fact::Text(lock.profile.join(", ")),
    );
    let words = |list: &[super::Word]| Fact::Words(list.iter().map(ToString::to_string).collect());
    add(Part::World, "world", words(&lock.world));
    add(Part::World, "world_sets", words(&lock.world_sets));
    for (name, value) in &lock.settings {
        add(Part::Setting, name, setting(name, value));
    }
    for tool in &lock.toolchain.packages {
        add(Part::Toolchain, &key(tool), package(tool));
    }
    for (tool, chosen) in &lock.toolchain.selected {
        add(
            Part::Toolchain,
            &format!("{tool} in use"),
            Fact::Text(chosen.clone()),
        );
    }
    add(Part::Portage, "Portage", Fact::Text(lock.portage.clone()));
    for index in &lock.binhosts {
        add(
            Part::Binhost,
            &index.path,
            Fact::Text(index.sha256.to_string()),
        );
    }
    for one in &lock.packages {
        add(Part::Package, &key(one), package(one));
    }
    facts
}

fn shown(state: &State) -> String {
    match state {
        State::Git { commit, modified } => match modified {
            Some(true) => format!("{commit} with changes"),
            _ => commit.to_string(),
        },
        State::Mirror { commit, timestamp } => {
            let commit = commit
                .as_ref()
                .map(|c| format!("{c} of "))
                .unwrap_or_default();
            format!(
                "{commit}a mirror of {}",
                timestamp.as_deref().unwrap_or("an unknown time")
            )
        }
        State::Tree { sha256 } => format!("files {sha256}"),
        State::Missing => "not there".to_owned(),
    }
}

fn setting(name: &str, value: &str) -> Fact {
    match settings::is_list(name) {
        true => Fact::Words(value.split_whitespace().map(str::to_owned).collect()),
        false => Fact::Text(value.to_owned()),
    }
}

fn file(entry: &Entry) -> Fact {
    let text = |word: Option<&str>| word.map(str::to_owned);
    Fact::File {
        kind: match entry.kind {
            Kind::File => "a file",
            Kind::Directory => "a directory",
            Kind::Link => "a link",
            Kind::Other => "something else",
        },
        mode: text(entry.mode.as_deref()),
        target: text(entry.target.as_deref()),
        sha256: text(entry.sha256.as_deref()),
    }
}

/// `category/name:slot`: of these there is one.
fn key(package: &Package) -> String {
    format!("{}:{}", package.cpv.cp(), package.slot.main())
}

fn package(package: &Package) -> Fact {
    Fact::Package {
        cpv: package.cpv.to_string(),
        slot: package.slot.to_string(),
        repository: package
            .repository
            .as_ref()
            .map_or_else(|| "an unknown one".to_owned(), ToString::to_string),
        flags: package.use_flags.each().map(str::to_owned).collect(),
    }
}

impl Fact {
    /// A setting as it was.
    fn text(&self) -> Option<String> {
        match self {
            Fact::Text(text) => Some(text.clone()),
            Fact::Words(words) => Some(words.iter().cloned().collect::<Vec<_>>().join(" ")),
            _ => None,
        }
    }

    /// What it is, in one word or a few.
    fn named(&self) -> String {
        match self {
            Fact::File { kind, .. } => (*kind).to_owned(),
            Fact::Package { cpv, .. } => cpv.clone(),
            other => other.text().unwrap_or_default(),
        }
    }
}

fn compare(a: &Facts, b: &Facts) -> Vec<Difference> {
    let keys: BTreeSet<&(Part, String)> = a.keys().chain(b.keys()).collect();
    let mut found = Vec::new();
    for key in keys {
        let changes = match (a.get(key), b.get(key)) {
            (Some(a), Some(b)) => changes(a, b),
            (Some(a), None) => vec![Change::Removed(a.named())],
            (None, Some(b)) => vec![Change::Added(b.named())],
            (None, None) => Vec::new(),
        };
        let (part, what) = key;
        found.extend(changes.into_iter().map(|change| Difference {
            part: *part,
            what: what.clone(),
            change,
        }));
    }
    found
}

fn changes(a: &Fact, b: &Fact) -> Vec<Change> {
    let missing = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect();
    match (a, b) {
        _ if a == b => Vec::new(),
        (Fact::Words(a), Fact::Words(b)) => vec![Change::Words {
            added: missing(b, a),
            removed: missing(a, b),
        }],
        (Fact::File { .. }, Fact::File { .. }) => changes_of_file(a, b),
        (Fact::Package { .. }, Fact::Package { .. }) => changes_of_package(a, b),
        _ => vec![Change::Value {
            from: a.named(),
            to: b.named(),
        }],
    }
}

fn changes_of_file(a: &Fact, b: &Fact) -> Vec<Change> {
    let (
        Fact::File {
            kind,
            mode,
            target,
            sha256,
        },
        Fact::File {
            kind: kind2,
            mode: mode2,
            target: target2,
            sha256: sha2562,
        },
    ) = (a, b)
    else {
        return Vec::new();
    };
    if kind != kind2 {
        let (from, to) = (*kind, *kind2);
        return vec![Change::Kind { from, to }];
    }
    let mut found = Vec::new();
    let word = |word: &Option<String>| word.clone().unwrap_or_default();
    if sha256 != sha2562 {
        found.push(Change::Content);
    }
    if target != target2 {
        let (from, to) = (word(target), word(target2));
        found.push(Change::Target { from, to });
    }
    if mode != mode2 {
        let (from, to) = (word(mode), word(mode2));
        found.push(Change::Mode { from, to });
    }
    found
}

fn changes_of_package(a: &Fact, b: &Fact) -> Vec<Change> {
    let (
        Fact::Package {
            cpv,
            slot,
            repository,
            flags,
        },
        Fact::Package {
            cpv: cpv2,
            slot: slot2,
            repository: repository2,
            flags: flags2,
        },
    ) = (a, b)
    else {
        return Vec::new();
    };
    let mut found = Vec::new();
    if cpv != cpv2 {
        let (from, to) = (cpv.clone(), cpv2.clone());
        found.push(Change::Value { from, to });
    } else if slot != slot2 {
        let (from, to) = (format!("{cpv}:{slot}"), format!("{cpv2}:{slot2}"));
        found.push(Change::Value { from, to });
    }
    let package = || cpv2.clone();
    if repository != repository2 {
        let (package, from, to) = (package(), repository.clone(), repository2.clone());
        found.push(Change::From { package, from, to });
    }
    if flags != flags2 {
        found.push(Change::Use {
            package: package(),
            enabled: flags2.difference(flags).cloned().collect(),
            disabled: flags.difference(flags2).cloned().collect(),
        });
    }
    found
}

impl fmt::Display for Difference {
    /// In one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = &self.what;
        let subject = match self.part {
            Part::Repository => format!("repository {what}"),
            Part::Location => format!("place of {what}"),
            Part::Toolchain => format!("toolchain {what}"),
            Part::Binhost => format!("index {what}"),
            Part::Setting
            | Part::World
            | Part::Profile
            | Part::Portage
            | Part::Configuration
            | Part::Package => what.clone(),
        };
        let quoted = |text: &String| match self.part {
            Part::Setting => format!("{text:?}"),
            Part::Repository | Part::Binhost => short(text),
            _ => text.clone(),
        };
        match &self.change {
            Change::Added(now) => write!(f, "{subject}: added ({})", quoted(now)),
            Change::Removed(was) => write!(f, "{subject}: gone ({})", quoted(was)),
            Change::Value { from, to } => {
                write!(f, "{subject}: {} -> {}", quoted(from), quoted(to))
            }
            Change::Words { added, removed } => {
                write!(f, "{subject}: {}", signed(added, removed))
            }
            Change::Content => write!(f, "{subject}: content"),
            Change::Kind { from, to } => write!(f, "{subject}: {from} -> {to}"),
            Change::Mode { from, to } => write!(f, "{subject}: mode {from} -> {to}"),
            Change::Target { from, to } => write!(f, "{subject}: link to {from} -> {to}"),
            Change::Use {
                package,
                enabled,
                disabled,
            } => {
                write!(f, "USE of {package}: {}", signed(enabled, disabled))
            }
            Change::From { package, from, to } => {
                write!(f, "repository of {package}: {from} -> {to}")
            }
        }
    }
}

/// A text in which every commit and digest is shortened.
fn short(text: &str) -> String {
    const SHOWN: usize = 12;
    let is_long = |word: &str| word.len() >= 40 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let words = text.split(' ').map(|word| match is_long(word) {
        true => format!("{}..", &word[..SHOWN]),
        false => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn signed(added: &[String], removed: &[String]) -> String {
    let added = added.iter().map(|word| format!("+{word}"));
    let all: Vec<_> = added
        .chain(removed.iter().map(|word| format!("-{word}")))
        .collect();
    all.join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::{Flags, Mode};
    use super::*;

    const LOCK: &str = include_str!("../../tests/fixtures/be-lock-1.json");

    fn lock() -> Lock {
        Lock::parse(LOCK).unwrap()
    }

    /// What is told of a change of the fixture, and what of that decides.
    fn told(change: impl FnOnce(&mut Lock)) -> (Vec<String>, Vec<String>) {
        let (before, mut after) = (lock(), lock());
        change(&mut after);
        let lines = |all: Vec<Difference>| all.iter().map(ToString::to_string).collect();
        let all: Vec<String> = lines(differences(&before, &after));
        let back = differences(&after, &before);
        assert_eq!(back.len(), all.len());
        let deciding: Vec<String> = lines(configuration_differences(&before, &after));
        let same = before.configuration_digest() == after.configuration_digest();
        assert_eq!(same, deciding.is_empty(), "{all:?}");
        (all, deciding)
    }

    /// The entry of a path.
    fn at<'a>(lock: &'a mut Lock, path: &str) -> &'a mut Entry {
        let path = format!("/etc/portage/{path}");
        let mut entries = lock.configuration.entries.iter_mut();
        entries.find(|e| *e.path == *path).unwrap()
    }

    #[test]
    fn every_difference_is_one_line() {
        type Case = (fn(&mut Lock), &'static [&'static str], bool);
        let cases: [Case; 17] = [
            (|_| {}, &[], false),
            (
                |l| l.repositories[0].state = State::Missing,
                &["repository gentoo: 0123456789ab.. -> not there"],
                true,
            ),
            (
                |l| {
                    l.repositories.remove(3);
                },
                &[
                    "repository old: gone (not there)",
                    "place of old: gone (/srv/old)",
                ],
                true,
            ),
            (
                |l| l.repositories[0].sync_uri = None,
                &["place of gentoo sync-uri: gone (https://example.org/gentoo.git)"],
                false,
            ),
            (
                |l| at(l, "make.conf").sha256 = Some(Sha256::new(b"x")),
                &["/etc/portage/make.conf: content"],
                true,
            ),
            (
                |l| at(l, "make.conf").mode = Some(Mode::new(0o640)),
                &["/etc/portage/make.conf: mode 0644 -> 0640"],
                true,
            ),
            (
                |l| at(l, "make.profile").target = Some("x".to_owned().try_into().unwrap()),
                &["/etc/portage/make.profile: link to \
                   ../../var/db/repos/gentoo/profiles/default/linux/amd64/23.0 -> x"],
                false,
            ),
            (
                |l| at(l, "package.use/x").kind = Kind::Other,
                &["/etc/portage/package.use/x: a file -> something else"],
                true,
            ),
            (
                |l| drop(l.configuration.entries.pop()),
                &["/etc/portage/package.use/x: gone (a file)"],
                true,
            ),
            (
                |l| drop(l.profile.pop()),
                &["profile: gentoo:base, gentoo:default/linux/amd64/23.0 -> gentoo:base"],
                true,
            ),
            (
                |l| l.world = vec!["a/b".to_owned().try_into().unwrap()],
                &["world: +a/b -app-misc/hello"],
                false,
            ),
            (
                |l| drop(l.settings.insert("CFLAGS".into(), "-O3".into())),
                &["CFLAGS: \"-O2 -pipe\" -> \"-O3\""],
                true,
            ),
            (
                |l| drop(l.settings.insert("FEATURES".into(), "nostrip".into())),
                &["FEATURES: -sandbox"],
                false,
            ),
            (
                |l| drop(l.settings.insert("USE".into(), "acl ssl".into())),
                &["USE: +ssl -nls"],
                true,
            ),
            (
                |l| {
                    l.packages[0].use_flags = Flags::new(&["nls".into(), "x".into()]);
                    l.packages[0].build_time = Some(1);
                    l.packages[0].repository = None;
                },
                &[
                    "repository of app-misc/hello-2: gentoo -> an unknown one",
                    "USE of app-misc/hello-2: +x -ssl",
                ],
                false,
            ),
            (
                |l| l.packages[0].cpv = "app-misc/hello-3".to_owned().try_into().unwrap(),
                &["app-misc/hello:0: app-misc/hello-2 -> app-misc/hello-3"],
                false,
            ),
            (
                |l| l.toolchain.packages[0].use_flags = Flags::new(&["cxx".into()]),
                &["USE of sys-devel/gcc-14.2.1_p20241221: -pie"],
                true,
            ),
        ];
        for (change, lines, decides) in cases {
            let (all, deciding) = told(change);
            assert_eq!(all, lines);
            assert_eq!(!deciding.is_empty(), decides, "{all:?}");
        }
    }

    #[test]
    fn what_no_build_can_give_again_is_no_difference() {
        let (all, _) = told(|l| {
            l.recorded = false;
            l.created += chrono::TimeDelta::days(1);
            l.environment = crate::name::EnvName::parse("other").unwrap();
            l.options.clear();
            l.moves.clear();
            l.start = None;
            l.packages[1].build_id = None;
            l.packages[1].build_time = None;
            l.toolchain.packages[0].build_time = None;
        });
        assert_eq!(all, Vec::<String>::new());
    }

    #[test]
    fn an_environment_does_not_deviate_by_what_hosts_offer() {
        let (before, mut after) = (lock(), lock());
        after.binhosts.clear();
        assert_eq!(differences(&before, &after).len(), 1);
        assert_eq!(deviations(&before, &after), []);
    }
}
