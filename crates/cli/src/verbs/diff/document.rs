//! `be diff --json`

use be_core::diff::{Change, Diff, FileChange};
use serde_json::{Value, json};

pub fn of(diff: &Diff) -> Value {
    json!({
        "from": diff.from,
        "to": diff.to,
        "same": diff.is_empty(),
        "packages": diff.packages,
        "size": diff.packages.growth(),
        "kernels": diff.kernels,
        "configuration": changes(&diff.configuration),
        "files": diff.files.as_deref().map(changes),
    })
}

fn changes(changes: &[FileChange]) -> Value {
    let paths = |wanted: &Change| -> Vec<String> {
        let found = changes.iter().filter(|c| c.change == *wanted);
        found.map(path).collect()
    };
    let changed: Vec<Value> = changes
        .iter()
        .filter_map(|c| match &c.change {
            Change::Changed(what) => Some(json!({ "path": path(c), "what": what })),
            _ => None,
        })
        .collect();
    json!({
        "added": paths(&Change::Added),
        "removed": paths(&Change::Removed),
        "changed": changed,
    })
}

fn path(change: &FileChange) -> String {
    format!("/{}", change.path.display())
}
