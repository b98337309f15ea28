//! What a running emerge tells of itself: with `FEATURES=observability` Portage 3.0.82 and newer
//! keep a snapshot in `/run/portage/emerge-PID.json` (`_emerge/_observability.py`, schema 1),
//! renamed into place every 2 seconds, and at most once a second where much happens:
//!
//! ```text
//! {"type": "snapshot", "schema": 1, "emerge_pid": 7, "timestamp": 1757000000.1,
//!  "jobs": {"running": 1, "max": 2, "completed": 3, "total": 10, "failed": 0, …},
//!  "tasks": [{"cpv": "app-misc/hello-2", "kind": "build", "phase": "compile", …}]}
//! ```
//!
//! It knows the phases of a build, which emerge.log does not. Its numbers are not used: they
//! start over when `--keep-going` goes on.

use serde::Deserialize;

use crate::log::Phase;

/// Where the snapshots are, relative to the root that emerge runs in.
pub const DIR: &str = "run/portage";

/// The longest snapshot that is read, in bytes: some hundred for each package at work.
pub const MAX_SNAPSHOT: u64 = 1 << 20;

/// A package at work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// `category/name-version`.
    pub package: String,
    /// What it is going through.
    pub phase: Phase,
}

#[derive(Deserialize)]
struct Snapshot {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    tasks: Vec<Given>,
}

#[derive(Deserialize)]
struct Given {
    cpv: String,
    kind: String,
    phase: Option<String>,
}

/// Whether a file in [`DIR`] has this name because it is a snapshot.
#[must_use]
pub fn is_snapshot(name: &str) -> bool {
    let pid = name.strip_prefix("emerge-");
    let pid = pid.and_then(|rest| rest.strip_suffix(".json"));
    pid.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()))
}

/// The packages at work; none of what is no snapshot, or in a phase that is not known.
#[must_use]
pub fn parse(text: &str) -> Vec<Task> {
    let Ok(snapshot) = serde_json::from_str::<Snapshot>(text) else {
        return Vec::new();
    };
    if snapshot.kind != "snapshot" {
        return Vec::new();
    }
    let task = |given: Given| {
        let phase = phase(&given.kind, given.phase.as_deref()?)?;
        Some(Task {
            package: given.cpv,
            phase,
        })
    };
    snapshot.tasks.into_iter().filter_map(task).collect()
}

fn phase(kind: &str, phase: &str) -> Option<Phase> {
    Some(match phase {
        "pretend" | "setup" => Phase::Start,
        "unpack" => Phase::Unpack,
        "prepare" => Phase::Prepare,
        "configure" => Phase::Configure,
        "compile" => Phase::Compile,
        "test" => Phase::Test,
        "install" | "package" => Phase::Install,
        "merge-wait" => Phase::Wait,
        _ if kind == "merge" => Phase::Merge,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot() {
        // Of Portage 3.0.83, shortened to what counts.
        let text = r#"{"emerge_pid": 7, "jobs": {"completed": 0, "failed": 0, "max": 1,
            "merge_wait": 0, "merges_pending": 0, "running": 1, "total": 2}, "schema": 1,
            "tasks": [{"binary": false, "category": "app-misc", "cpv": "app-misc/slow-1",
            "elapsed": 1.5, "kind": "build", "merge_wait": false, "phase": "configure",
            "pid": 31, "start_time": 1.0}, {"cpv": "a/b-1", "kind": "build", "phase": null},
            {"cpv": "a/c-1", "kind": "merge", "phase": "postinst"},
            {"cpv": "a/d-1", "kind": "build", "phase": "brand-new"}],
            "timestamp": 1.0, "type": "snapshot"}"#;
        let task = |package: &str, phase| Task {
            package: package.into(),
            phase,
        };
        let expected = [
            task("app-misc/slow-1", Phase::Configure),
            task("a/c-1", Phase::Merge),
        ];
        assert_eq!(parse(text), expected);
        assert_eq!(parse(&text.replace("\"snapshot\"", "\"other\"")), []);
        assert_eq!(parse(&text[..text.len() - 1]), []);
    }

    #[test]
    fn names_of_files() {
        assert!(is_snapshot("emerge-7.json"));
        for other in [
            "emerge-7.sock",
            "emerge-.json",
            "emerge-x.json",
            "emerge-7.json~",
        ] {
            assert!(!is_snapshot(other), "{other}");
        }
    }
}
