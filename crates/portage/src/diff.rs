//! What changed between the packages of two systems.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::vdb::{Installed, Package};
use crate::version::version_cmp;

/// A package that is on one side only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// `category/name`; the name alone of other managers than Portage.
    pub package: String,
    /// The version with its revision.
    pub version: String,
    /// The slot without the subslot.
    pub slot: String,
    /// The repository it came from.
    pub repository: Option<String>,
    /// What its files have together, in bytes.
    pub size: Option<u64>,
}

/// A package that is on both sides and not the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `category/name`; the name alone of other managers than Portage.
    pub package: String,
    /// The version before.
    pub from: String,
    /// The version after.
    pub to: String,
    /// The slot after, without the subslot.
    pub slot: String,
    /// Slot and subslot before and after, if they changed.
    pub slots: Option<(String, String)>,
    /// The repositories before and after, if both are known and differ.
    pub repositories: Option<(String, String)>,
    /// USE flags that became enabled.
    pub use_enabled: Vec<String>,
    /// USE flags that are no longer enabled.
    pub use_disabled: Vec<String>,
    /// What its files had together before, in bytes.
    pub size_from: Option<u64>,
    /// What they have after.
    pub size_to: Option<u64>,
}

impl Change {
    /// By how many bytes it grew, if that is known.
    #[must_use]
    pub fn growth(&self) -> Option<i64> {
        Some(signed(self.size_to?) - signed(self.size_from?))
    }
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// All changes from one system to another, each list sorted by package and version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageDiff {
    /// Only in the second.
    pub added: Vec<Entry>,
    /// Only in the first.
    pub removed: Vec<Entry>,
    /// A higher version in the second.
    pub upgraded: Vec<Change>,
    /// A lower version in the second.
    pub downgraded: Vec<Change>,
    /// The same version from another build.
    pub rebuilt: Vec<Change>,
    /// The same build with another slot or repository: Portage moves packages so.
    pub moved: Vec<Change>,
}

/// How versions are compared.
pub type Order = fn(&str, &str) -> Ordering;

/// What one side has of a package: its versions, in order.
type Versions<'a> = Vec<&'a Package>;

fn by_name(installed: &Installed) -> BTreeMap<(&str, &str), Versions<'_>> {
    let mut names: BTreeMap<_, Versions<'_>> = BTreeMap::new();
    for p in &installed.packages {
        let name = (p.category.as_str(), p.name.as_str());
        names.entry(name).or_default().push(p);
    }
    names
}

/// Compare the packages of `a` (before) with those of `b` (after).
///
/// Packages are matched by category and name, then by version (one version can be
/// installed only once, so it may have moved to another slot), then by slot. One that is
/// alone on both sides is matched although its slot changed.
#[must_use]
pub fn diff(a: &Installed, b: &Installed) -> PackageDiff {
    diff_by(a, b, version_cmp)
}

/// As [`diff`], of packages of another manager: their versions are compared by `order`, by
/// which they are sorted, too.
#[must_use]
pub fn diff_by(a: &Installed, b: &Installed, order: Order) -> PackageDiff {
    let (before, mut after) = (by_name(a), by_name(b));
    let mut diff = PackageDiff::default();
    for (name, old) in before {
        diff.package(old, after.remove(&name).unwrap_or_default(), order);
    }
    for new in after.into_values() {
        diff.package(Vec::new(), new, order);
    }
    diff.sort(order);
    diff
}

/// Take the highest out of `versions` that `wanted` holds for: packages are sorted by
/// version, and should two hold one slot, Portage would have replaced the lower one.
fn take<'a>(versions: &mut Versions<'a>, wanted: impl Fn(&Package) -> bool) -> Option<&'a Package> {
    let at = versions.iter().rposition(|p| wanted(p))?;
    Some(versions.remove(at))
}

fn entry(p: &Package) -> Entry {
    Entry {
        package: p.cp(),
        version: p.version.clone(),
        slot: p.slot.clone(),
        repository: p.repository.clone(),
        size: p.size,
    }
}

/// What is in `a` and not in `b`.
fn missing(a: &[String], b: &[String]) -> Vec<String> {
    a.iter().filter(|f| !b.contains(f)).cloned().collect()
}

fn change(a: &Package, b: &Package) -> Change {
    let slot = |p: &Package| match &p.subslot {
        Some(subslot) => format!("{}/{subslot}", p.slot),
        None => p.slot.clone(),
    };
    let differ = |a: String, b: String| (a != b).then_some((a, b));
    Change {
        package: b.cp(),
        from: a.version.clone(),
        to: b.version.clone(),
        slot: b.slot.clone(),
        slots: differ(slot(a), slot(b)),
        repositories: match (&a.repository, &b.repository) {
            (Some(a), Some(b)) => differ(a.clone(), b.clone()),
            _ => None,
        },
        use_enabled: missing(&b.use_flags, &a.use_flags),
        use_disabled: missing(&a.use_flags, &b.use_flags),
        size_from: a.size,
        size_to: b.size,
    }
}

impl PackageDiff {
    /// Nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many packages changed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.added.len()
            + self.removed.len()
            + self.upgraded.len()
            + self.downgraded.len()
            + self.rebuilt.len()
            + self.moved.len()
    }

    /// By how many bytes the second system's packages are larger, as far as their sizes
    /// are known.
    #[must_use]
    pub fn growth(&self) -> i64 {
        let sum = |entries: &[Entry]| -> i64 {
            let sizes = entries.iter().filter_map(|e| e.size);
            sizes.map(signed).fold(0, i64::saturating_add)
        };
        let changes = [&self.upgraded, &self.downgraded, &self.rebuilt, &self.moved];
        changes
            .into_iter()
            .flatten()
            .filter_map(Change::growth)
            .fold(sum(&self.added), i64::saturating_add)
            .saturating_sub(sum(&self.removed))
    }

    /// Compare what the two sides have of one package.
    fn package(&mut self, old: Versions<'_>, mut new: Versions<'_>, order: Order) {
        if let ([o], [n]) = (old.as_slice(), new.as_slice()) {
            self.compare(o, n, order);
            return;
        }
        let mut left = Vec::new();
        for o in old {
            match take(&mut new, |n| n.version == o.version) {
                Some(n) => self.compare(o, n, order),
                None => left.push(o),
            }
        }
        // The highest first, so that of several in one slot it is the one replaced.
        for o in left.into_iter().rev() {
            match take(&mut new, |n| n.slot == o.slot) {
                Some(n) => self.compare(o, n, order),
                None => self.removed.push(entry(o)),
            }
        }
        self.added.extend(new.into_iter().map(entry));
    }

    fn compare(&mut self, a: &Package, b: &Package, order: Order) {
        let change = change(a, b);
        let list = match order(&a.version, &b.version) {
            Ordering::Less => &mut self.upgraded,
            Ordering::Greater => &mut self.downgraded,
            Ordering::Equal => {
                // Versions can be equal and yet two (1.0 and 1.00).
                let rebuilt = (&a.version, a.build_time) != (&b.version, b.build_time)
                    || !change.use_enabled.is_empty()
                    || !change.use_disabled.is_empty();
                if rebuilt {
                    &mut self.rebuilt
                } else if change.slots.is_some() || change.repositories.is_some() {
                    &mut self.moved
                } else {
                    return;
                }
            }
        };
        list.push(change);
    }

    fn sort(&mut self, order: Order) {
        for list in [&mut self.added, &mut self.removed] {
            list.sort_by(|a, b| {
                a.package
                    .cmp(&b.package)
                    .then_with(|| order(&a.version, &b.version))
            });
        }
        for list in [
            &mut self.upgraded,
            &mut self.downgraded,
            &mut self.rebuilt,
            &mut self.moved,
        ] {
            list.sort_by(|a, b| a.package.cmp(&b.package).then_with(|| order(&a.to, &b.to)));
        }
    }

    /// One line for every change, sorted by package: `app-misc/hello 1 -> 2`.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<(&str, String)> = Vec::with_capacity(self.len());
        for (list, word) in [(&self.added, "new"), (&self.removed, "removed")] {
            for e in list {
                let line = format!("{}{} {} ({word})", e.package, colon(&e.slot), e.version);
                lines.push((&e.package, line));
            }
        }
        for (list, word) in [
            (&self.upgraded, ""),
            (&self.downgraded, "downgraded"),
            (&self.rebuilt, "rebuilt"),
            (&self.moved, "moved"),
        ] {
            lines.extend(list.iter().map(|c| (c.package.as_str(), line(c, word))));
        }
        lines.sort();
        lines.into_iter().map(|(_, line)| line).collect()
    }
}

/// The slot as in a package atom; the usual one is not shown.
fn colon(slot: &str) -> String {
    match slot {
        "0" => String::new(),
        slot => format!(":{slot}"),
    }
}

fn line(c: &Change, word: &str) -> String {
    let mut line = format!("{}{} {}", c.package, colon(&c.slot), c.from);
    if c.from != c.to {
        line += &format!(" -> {}", c.to);
    }
    let mut notes = Vec::new();
    if !word.is_empty() {
        notes.push(word.to_owned());
    }
    if let Some((from, to)) = &c.slots {
        notes.push(format!("slot {from} -> {to}"));
    }
    if let Some((from, to)) = &c.repositories {
        notes.push(format!("repository {from} -> {to}"));
    }
    let flags: Vec<String> = (c.use_enabled.iter().map(|f| format!("+{f}")))
        .chain(c.use_disabled.iter().map(|f| format!("-{f}")))
        .collect();
    if !flags.is_empty() {
        notes.push(format!("USE {}", flags.join(" ")));
    }
    if !notes.is_empty() {
        line += &format!(" ({})", notes.join(", "));
    }
    line
}

impl fmt::Display for PackageDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines()
            .iter()
            .try_for_each(|line| writeln!(f, "{line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::split_cpv;
    use proptest::prelude::*;

    /// `category/name-version:slot/subslot@build_time +use`.
    fn package(text: &str) -> Package {
        let mut words = text.split(' ');
        let (head, time) = words.next().unwrap().split_once('@').unwrap();
        let (cpv, slot) = head.split_once(':').unwrap();
        let (category, name, version) = split_cpv(cpv).unwrap();
        let (slot, subslot) = match slot.split_once('/') {
            Some((slot, subslot)) => (slot, Some(subslot.to_owned())),
            None => (slot, None),
        };
        Package {
            category: category.into(),
            name: name.into(),
            version: version.into(),
            slot: slot.into(),
            subslot,
            repository: Some("gentoo".into()),
            use_flags: words.map(str::to_owned).collect(),
            build_time: Some(time.parse().unwrap()),
            build_id: None,
            size: Some(100 * version.len() as u64),
        }
    }

    fn installed(packages: &[&str]) -> Installed {
        Installed {
            packages: packages.iter().map(|p| package(p)).collect(),
            ..Installed::default()
        }
    }

    #[test]
    fn every_kind_of_change() {
        let a = installed(&[
            "app-misc/down-2:0@1",
            "app-misc/gone-1:0@1",
            "app-misc/hello-1:0@1 nls static",
            "app-misc/move-1:0/1@1",
            "app-misc/same-1:0@1 nls",
            "dev-lang/python-3.11.9:3.11@1",
            "dev-lang/python-3.12.3:3.12@1",
            "dev-libs/lib-1.9:0/1@1",
            "sys-kernel/sources-6.6.1:6.6.1@1",
            "x11-libs/built-1:0@1",
        ]);
        let b = installed(&[
            "app-misc/down-1-r3:0@2",
            "app-misc/hello-2:0@2 debug nls",
            "app-misc/move-1:0/2@1",
            "app-misc/new-1:5@2",
            "app-misc/same-1:0@1 nls",
            "dev-lang/python-3.12.4:3.12@2",
            "dev-lang/python-3.13.0:3.13@2",
            "dev-libs/lib-1.10:0/2@2",
            "sys-kernel/sources-6.6.2:6.6.2@2",
            "x11-libs/built-1:0@2",
        ]);
        let diff = diff(&a, &b);
        assert_eq!(
            diff.to_string(),
            "\
app-misc/down 2 -> 1-r3 (downgraded)
app-misc/gone 1 (removed)
app-misc/hello 1 -> 2 (USE +debug -static)
app-misc/move 1 (moved, slot 0/1 -> 0/2)
app-misc/new:5 1 (new)
dev-lang/python:3.11 3.11.9 (removed)
dev-lang/python:3.12 3.12.3 -> 3.12.4
dev-lang/python:3.13 3.13.0 (new)
dev-libs/lib 1.9 -> 1.10 (slot 0/1 -> 0/2)
sys-kernel/sources:6.6.2 6.6.1 -> 6.6.2 (slot 6.6.1 -> 6.6.2)
x11-libs/built 1 (rebuilt)
"
        );
        assert_eq!(diff.len(), 11);
        assert_eq!(diff.upgraded.len(), 4);
    }

    #[test]
    fn the_same_is_empty_and_both_ways_agree() {
        let a = installed(&["a/b-1:0@1", "a/c-1:0@1"]);
        let b = installed(&["a/b-2:0@1", "a/d-1:0@1"]);
        assert!(diff(&a, &a).is_empty());
        let (there, back) = (diff(&a, &b), diff(&b, &a));
        assert_eq!(there.added, back.removed);
        assert_eq!(there.upgraded[0].to, back.downgraded[0].from);
    }

    #[test]
    fn several_versions_are_matched_by_version_then_by_slot() {
        for (before, after, expected) in [
            // A slot move of one of several.
            (
                &["a/b-1:1@1", "a/b-2:2@1"][..],
                &["a/b-1:0@1", "a/b-2:2@1"][..],
                "a/b 1 (moved, slot 1 -> 0)\n",
            ),
            // Two versions in one slot: one is gone, none was replaced.
            (
                &["a/b-1:0@1", "a/b-2:0@1"],
                &["a/b-2:0@1"],
                "a/b 1 (removed)\n",
            ),
            (&["a/b-2:0@1"], &["a/b-1:0@1", "a/b-2:0@1"], "a/b 1 (new)\n"),
            // The higher one of the slot is the one that was replaced.
            (
                &["a/b-1:0@1", "a/b-2:0@1"],
                &["a/b-3:0@1"],
                "a/b 1 (removed)\na/b 2 -> 3\n",
            ),
            // One slot went, another came: no upgrade.
            (
                &["a/b-1:1@1", "a/b-2:2@1"],
                &["a/b-2:2@1", "a/b-3:3@2"],
                "a/b:1 1 (removed)\na/b:3 3 (new)\n",
            ),
            // A version that changed its slot does not take the place of the other.
            (
                &["a/b-1:1@1", "a/b-2:2@1"],
                &["a/b-2:1@1", "a/b-3:2@2"],
                "a/b:1 1 (removed)\na/b:1 2 (moved, slot 2 -> 1)\na/b:2 3 (new)\n",
            ),
        ] {
            let diff = diff(&installed(before), &installed(after));
            assert_eq!(diff.to_string(), expected, "{before:?} {after:?}");
        }
    }

    #[test]
    fn a_repository_that_changed() {
        let a = installed(&["a/b-1:0@1"]);
        let mut b = installed(&["a/b-1:0@1"]);
        b.packages[0].repository = Some("guru".into());
        assert_eq!(
            diff(&a, &b).to_string(),
            "a/b 1 (moved, repository gentoo -> guru)\n"
        );
        // Unknown is not other.
        b.packages[0].repository = None;
        assert!(diff(&a, &b).is_empty());
    }

    #[test]
    fn sizes_add_up() {
        let a = installed(&["a/b-1:0@1", "a/c-1:0@1", "a/same-1:0@1"]);
        let b = installed(&["a/b-1.10:0@2", "a/d-1.1:0@1", "a/same-1:0@1"]);
        let diff = diff(&a, &b);
        assert_eq!(diff.upgraded[0].growth(), Some(300));
        assert_eq!(diff.growth(), 300 + 300 - 100);
    }

    #[test]
    fn flags_tell_a_rebuild_when_no_time_does() {
        let mut a = installed(&["a/b-1:0@1"]);
        let mut b = installed(&["a/b-1:0@1 x"]);
        a.packages[0].build_time = None;
        b.packages[0].build_time = None;
        assert_eq!(diff(&a, &b).rebuilt[0].use_enabled, ["x"]);
    }

    /// Few names, versions, slots and times, so that all of them meet.
    fn system() -> impl Strategy<Value = Installed> {
        let one = (0..3_u8, 0..4_u8, 0..3_u8, 0..2_i64, 0..3_u8);
        proptest::collection::vec(one, 0..10).prop_map(|all| {
            let mut packages = BTreeMap::new();
            for (name, version, slot, time, flags) in all {
                let flags = ["", " x", " x y"][usize::from(flags)];
                let text = format!("a/p{name}-{version}:{slot}@{time}{flags}");
                // A version is installed once.
                packages.insert((name, version), package(&text));
            }
            Installed {
                packages: packages.into_values().collect(),
                ..Installed::default()
            }
        })
    }

    fn all(diff: &PackageDiff) -> impl Iterator<Item = &Change> {
        let lists = [&diff.upgraded, &diff.downgraded, &diff.rebuilt, &diff.moved];
        lists.into_iter().flatten()
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_told_twice(a in system(), b in system()) {
            let d = diff(&a, &b);
            prop_assert_eq!(
                a.packages.len() + d.added.len(),
                b.packages.len() + d.removed.len()
            );
            // Each of a is removed, changed or the same; and none of them twice.
            let mut told: Vec<(String, String)> = d
                .removed
                .iter()
                .map(|e| (e.package.clone(), e.version.clone()))
                .chain(all(&d).map(|c| (c.package.clone(), c.from.clone())))
                .collect();
            let count = told.len();
            told.sort();
            told.dedup();
            prop_assert_eq!(told.len(), count);
            for p in &a.packages {
                let same = b.packages.contains(p);
                let is_told = told.contains(&(p.cp(), p.version.clone()));
                prop_assert_ne!(same, is_told, "{}", p.cpv());
            }
        }

        #[test]
        fn the_way_back_is_the_opposite(a in system(), b in system()) {
            let (there, back) = (diff(&a, &b), diff(&b, &a));
            prop_assert_eq!(&there.added, &back.removed);
            prop_assert_eq!(&there.removed, &back.added);
            prop_assert_eq!(there.upgraded.len(), back.downgraded.len());
            prop_assert_eq!(there.downgraded.len(), back.upgraded.len());
            prop_assert_eq!(there.rebuilt.len(), back.rebuilt.len());
            prop_assert_eq!(there.moved.len(), back.moved.len());
            prop_assert_eq!(there.growth(), -back.growth());
            prop_assert!(diff(&a, &a).is_empty());
        }

        #[test]
        fn classes_are_what_they_say(a in system(), b in system()) {
            let d = diff(&a, &b);
            for c in &d.upgraded {
                prop_assert!(version_cmp(&c.from, &c.to).is_lt());
            }
            for c in &d.downgraded {
                prop_assert!(version_cmp(&c.from, &c.to).is_gt());
            }
            for c in d.rebuilt.iter().chain(&d.moved) {
                prop_assert_eq!(&c.from, &c.to);
            }
            for c in &d.moved {
                prop_assert!(c.slots.is_some() || c.repositories.is_some());
                prop_assert!(c.use_enabled.is_empty() && c.use_disabled.is_empty());
            }
        }
    }
}
