//! What a lock says, fact by fact: by these, and by nothing else, locks are compared.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sha2::Digest;

use super::difference::{Change, Difference, Part};
use super::{Account, CONFIGURATION, Entry, Kind, Lock, Package, Sha256, Withheld, settings};

/// All in which two locks differ, sorted by [`Part`] and name. What no build can give again is
/// not compared: when something was built, and the number of a build; see LOCKS in be(8). With a
/// lock [for others](Lock::for_others), which has no more, the [`configuration_differences`].
pub fn differences(a: &Lock, b: &Lock) -> Vec<Difference> {
    if a.is_for_others() || b.is_for_others() {
        return configuration_differences(a, b);
    }
    compare(&facts(a), &facts(b))
}

/// Those [`differences`] that decide what a package that is built looks like. There are none if
/// and only if both locks have the same [`Lock::configuration_digest`]. The contents of private
/// files are not among them: a lock for others has not even their digests.
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
/// where repositories and packages come from and what is wanted is not; nor
/// make.profile, whose chain is compared by itself.
pub fn decides(part: Part, what: &str) -> bool {
    const NOT: [&str; 7] = [
        "binrepos.conf",
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
        /// `USER:GROUP`; none of root alone.
        #[serde(skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
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
    // Nobody is told of these what is in them, not even by a digest.
    for entry in lock.configuration.entries() {
        let key = (Part::Configuration, entry.path.to_string());
        if let (Some(Withheld::Private), Some(Fact::File { sha256, .. })) =
            (entry.withheld, facts.get_mut(&key))
        {
            *sha256 = None;
        }
    }
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
        add(Part::Repository, name, Fact::Text(one.state.to_string()));
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
    for entry in lock.configuration.entries() {
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

fn setting(name: &str, value: &str) -> Fact {
    match settings::is_list(name) {
        true => Fact::Words(value.split_whitespace().map(str::to_owned).collect()),
        false => Fact::Text(value.to_owned()),
    }
}

fn file(entry: &Entry) -> Fact {
    let text = |word: Option<&str>| word.map(str::to_owned);
    let root = |name: &Option<Account>| name.as_deref().unwrap_or("root").to_owned();
    let is_of_root = entry.owner.is_none() && entry.group.is_none();
    let owner = || format!("{}:{}", root(&entry.owner), root(&entry.group));
    Fact::File {
        owner: (!is_of_root).then(owner),
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
            owner,
            target,
            sha256,
        },
        Fact::File {
            kind: kind2,
            mode: mode2,
            owner: owner2,
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
    if owner != owner2 {
        let name = |owner: &Option<String>| owner.as_deref().unwrap_or("root:root").to_owned();
        let (from, to) = (name(owner), name(owner2));
        found.push(Change::Owner { from, to });
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
