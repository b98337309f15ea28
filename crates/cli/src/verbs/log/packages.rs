//! The packages of a report, a row each, with the time that each took.

use be_core::portage::diff::{Change, Entry, PackageDiff};
use be_core::portage::version::split_cpv;
use be_core::report::Report;
use serde::Serialize;

use super::words;
use crate::verbs::diff::text::{atom, flags, growth_text};

/// What became of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// `category/name:slot`.
    pub package: String,
    /// `upgraded`, `new`.
    pub change: &'static str,
    /// The version before; empty of a new one.
    pub from: String,
    /// The version after; empty of one that is gone, and where it is the same.
    pub to: String,
    /// `+nls`.
    pub on: Vec<String>,
    /// `-tk`.
    pub off: Vec<String>,
    /// Slots and repositories, if they changed.
    pub moves: Vec<String>,
    /// How long it took; empty if nothing was built.
    pub time: String,
    /// By how much it grew; empty if it did not or is not known.
    pub growth: String,
}

/// All that changed, sorted by package.
pub fn rows(report: &Report) -> Vec<Row> {
    let Some(diff) = &report.result.packages else {
        return Vec::new();
    };
    let took = |package: &str, version: &str| {
        let cpv = format!("{package}-{version}");
        let builds = report.builds.iter().filter(|b| b.package == cpv);
        let seconds: Vec<u64> = builds.filter_map(|b| b.seconds).collect();
        let sum = i64::try_from(seconds.iter().sum::<u64>()).unwrap_or(i64::MAX / 1000);
        match seconds.is_empty() {
            true => String::new(),
            false => words::duration(sum * 1000),
        }
    };
    let mut rows = Vec::new();
    for (change, list) in changes(diff) {
        rows.extend(list.iter().map(|c| Row {
            time: match change {
                "moved" => String::new(),
                _ => took(&c.package, &c.to),
            },
            ..changed(change, c)
        }));
    }
    rows.extend(diff.added.iter().map(|e| Row {
        time: took(&e.package, &e.version),
        to: e.version.clone(),
        ..alone("new", e)
    }));
    rows.extend(diff.removed.iter().map(|e| Row {
        from: e.version.clone(),
        ..alone("removed", e)
    }));
    rows.sort_by(|a, b| a.package.cmp(&b.package).then_with(|| a.to.cmp(&b.to)));
    rows
}

fn changes(diff: &PackageDiff) -> [(&'static str, &[Change]); 4] {
    [
        ("upgraded", &diff.upgraded),
        ("downgraded", &diff.downgraded),
        ("rebuilt", &diff.rebuilt),
        ("moved", &diff.moved),
    ]
}

fn changed(change: &'static str, c: &Change) -> Row {
    let (on, off) = flags(c).into_iter().partition(|f| f.starts_with('+'));
    let pairs = [(":", &c.slots), ("::", &c.repositories)];
    let moves = pairs.iter().filter_map(|(mark, pair)| {
        let (from, to) = pair.as_ref()?;
        Some(format!("{mark}{from} → {mark}{to}"))
    });
    let growth = c.growth().filter(|growth| *growth != 0);
    Row {
        package: atom(&c.package, &c.slot),
        change,
        from: c.from.clone(),
        to: if c.from == c.to {
            String::new()
        } else {
            c.to.clone()
        },
        on,
        off,
        moves: moves.collect(),
        time: String::new(),
        growth: growth.map(growth_text).unwrap_or_default(),
    }
}

fn alone(change: &'static str, e: &Entry) -> Row {
    let signed = |size| i64::try_from(size).unwrap_or(i64::MAX);
    let growth = e.size.map(|size| match change {
        "removed" => -signed(size),
        _ => signed(size),
    });
    Row {
        package: atom(&e.package, &e.slot),
        change,
        from: String::new(),
        to: String::new(),
        on: Vec::new(),
        off: Vec::new(),
        moves: Vec::new(),
        time: String::new(),
        growth: growth.map(growth_text).unwrap_or_default(),
    }
}

/// `2 upgraded, 1 new`; empty if nothing changed.
pub fn summary(diff: &PackageDiff) -> String {
    let counts = changes(diff).map(|(word, list)| (list.len(), word));
    let others = [(diff.added.len(), "new"), (diff.removed.len(), "removed")];
    let all = counts.into_iter().chain(others);
    let some = all.filter(|(n, _)| *n > 0);
    let words: Vec<String> = some.map(|(n, word)| format!("{n} {word}")).collect();
    words.join(", ")
}

/// `hello-2` of `app-misc/hello-2`.
pub fn short(package: &str) -> &str {
    match split_cpv(package) {
        Some((category, ..)) => &package[category.len() + 1..],
        None => package,
    }
}
