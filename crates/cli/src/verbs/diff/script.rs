//! `be diff -H`: a line each, one tab between, `-` for what is not there.

use be_core::diff::{Change, Diff, FileChange, Kernel};
use be_core::portage::diff::{self, Entry};

use super::text::{clean, flags, plain_path};

pub fn lines(diff: &Diff) -> String {
    let mut lines = Vec::new();
    let packages = &diff.packages;
    for (word, list) in [
        ("upgraded", &packages.upgraded),
        ("downgraded", &packages.downgraded),
        ("rebuilt", &packages.rebuilt),
        ("moved", &packages.moved),
    ] {
        lines.extend(list.iter().map(|c| changed(word, c)));
    }
    lines.extend(packages.added.iter().map(|e| alone("added", e)));
    lines.extend(packages.removed.iter().map(|e| alone("removed", e)));
    for (word, list) in [
        ("added", &diff.kernels.added),
        ("removed", &diff.kernels.removed),
        ("changed", &diff.kernels.changed),
    ] {
        lines.extend(list.iter().map(|k| kernel(word, k)));
    }
    lines.extend(diff.configuration.iter().map(|c| file("configuration", c)));
    let files = diff.files.iter().flatten();
    lines.extend(files.map(|c| file("file", c)));
    lines
        .iter()
        .map(|fields| clean(&fields.join("\t")) + "\n")
        .collect()
}

fn or_dash(field: String) -> String {
    match field.is_empty() {
        true => "-".into(),
        false => field,
    }
}

fn changed(word: &str, c: &diff::Change) -> Vec<String> {
    vec![
        "package".into(),
        word.into(),
        c.package.clone(),
        c.slot.clone(),
        c.from.clone(),
        c.to.clone(),
        c.growth().map_or_else(|| "-".into(), |g| g.to_string()),
        or_dash(flags(c).join(",")),
        change(&c.slots),
        change(&c.repositories),
    ]
}

/// `0/1>0/2`
fn change(change: &Option<(String, String)>) -> String {
    let text = change.as_ref().map(|(from, to)| format!("{from}>{to}"));
    or_dash(text.unwrap_or_default())
}

fn alone(word: &str, e: &Entry) -> Vec<String> {
    let (from, to, sign) = match word {
        "added" => ("-", e.version.as_str(), ""),
        _ => (e.version.as_str(), "-", "-"),
    };
    vec![
        "package".into(),
        word.into(),
        e.package.clone(),
        e.slot.clone(),
        from.into(),
        to.into(),
        e.size
            .map_or_else(|| "-".into(), |size| format!("{sign}{size}")),
        "-".into(),
        "-".into(),
        "-".into(),
    ]
}

fn kernel(word: &str, k: &Kernel) -> Vec<String> {
    vec![
        "kernel".into(),
        word.into(),
        k.version.clone(),
        k.file.clone(),
        or_dash(k.initramfs.clone().unwrap_or_default()),
    ]
}

fn file(group: &str, c: &FileChange) -> Vec<String> {
    let (word, what) = match &c.change {
        Change::Added => ("added", Vec::new()),
        Change::Removed => ("removed", Vec::new()),
        Change::Changed(what) => ("changed", what.iter().map(|w| w.as_str()).collect()),
    };
    vec![
        group.into(),
        word.into(),
        plain_path(&c.path),
        or_dash(what.join(",")),
    ]
}
