//! The journal of an upgrade: `NAME/log/upgrade.jsonl`, one line of JSON for each thing that
//! happened. Lines are only ever added; one that is not understood is passed over, as what a
//! later `be` wrote or a power cut left.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use be_portage::builds::Build;
use serde::{Deserialize, Serialize};

use super::{Failure, Findings, Moved, ProgramKind, Repository, Time, Verdict};
use crate::log::{append_to, tail};
use crate::name::EnvName;
use crate::record::Phase;
use crate::store::{Paths, Store};

/// What is read of a journal at the most, in bytes. That of a thousand packages has one
/// megabyte.
const MOST: u64 = 64 << 20;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Line {
    /// When it was written. No field of an event has this name.
    pub time: Time,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    /// Work began.
    Start {
        /// When it was asked for.
        since: Time,
        /// It goes on.
        continued: bool,
        /// What emerge is told besides what it always is.
        options: Vec<String>,
        /// The versions of the kernels that are there.
        kernels: Vec<String>,
        /// How long the file with the messages of packages was.
        messages: u64,
    },
    /// A phase began.
    Phase {
        /// Which one.
        phase: Phase,
    },
    /// What it is made from is known.
    Inputs {
        /// The hash of all.
        hash: Option<String>,
        /// The repositories.
        repositories: Vec<Repository>,
    },
    /// All old names that are taken for new ones.
    Moves {
        /// By where they are. What was changed in files before still is.
        moves: Vec<Moved>,
    },
    /// A package was begun, or got further.
    Build(Build),
    /// A program began.
    Run {
        /// What kind it is.
        kind: ProgramKind,
        /// Its name.
        name: String,
    },
    /// The program that began last has ended.
    Ran {
        /// It did what it should.
        well: bool,
    },
    /// Something failed.
    Failure(Failure),
    /// What it came to.
    Result(Box<Findings>),
    /// Work ended.
    End {
        /// How.
        verdict: Verdict,
        /// Why not well, or what boots next, in one line.
        words: Option<String>,
    },
    /// What a later `be` knows.
    #[serde(other)]
    Unknown,
}

/// Where it is, from the top level.
fn path(name: &EnvName) -> PathBuf {
    Paths::environment(name).join("log/upgrade.jsonl")
}

/// Add a line. The upgrade goes on without it if that fails.
pub(crate) fn append(store: &Store, name: &EnvName, at: Time, event: Event) {
    if let Err(e) = add(store, name, Line { time: at, event }) {
        tracing::warn!("the report of {name} lacks something: {e:#}");
    }
}

fn add(store: &Store, name: &EnvName, line: Line) -> Result<()> {
    let path = path(name);
    let mut text = serde_json::to_string(&line)? + "\n";
    // Half a line, of a full disk or a power cut, spoils no other.
    if tail(store, &path, 1)?.is_some_and(|last| last.first().is_some_and(|b| *b != b'\n')) {
        text.insert(0, '\n');
    }
    Ok(append_to(store, &path)?.write_all(text.as_bytes())?)
}

/// All lines that can be understood; none if there is no journal.
pub(super) fn lines(store: &Store, name: &EnvName) -> Result<Option<Vec<Line>>> {
    let bytes = tail(store, &path(name), MOST)?;
    Ok(bytes.map(|bytes| parse(&String::from_utf8_lossy(&bytes))))
}

/// Where the messages of the packages of this upgrade begin in their file, in bytes; none if
/// it has no journal yet.
pub(crate) fn messages_from(store: &Store, name: &EnvName) -> Option<u64> {
    let lines = lines(store, name).ok().flatten()?;
    lines.iter().find_map(|line| match line.event {
        Event::Start { messages, .. } => Some(messages),
        _ => None,
    })
}

fn parse(text: &str) -> Vec<Line> {
    let lines = text.lines();
    lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use be_portage::builds::Fate;
    use be_portage::failure::Stage;

    use super::super::Place;
    use super::*;

    fn time(seconds: i64) -> Time {
        let time = chrono::DateTime::from_timestamp(seconds, 0).unwrap();
        time.fixed_offset()
    }

    fn events() -> Vec<Event> {
        vec![
            Event::Start {
                since: time(1),
                continued: false,
                options: vec!["--jobs=2".into()],
                kernels: vec!["6.1".into()],
                messages: 7,
            },
            Event::Phase {
                phase: Phase::Merge,
            },
            Event::Inputs {
                hash: Some("ab".into()),
                repositories: vec![Repository {
                    path: "/var/db/repos/gentoo".into(),
                    state: Some("cd".into()),
                    before: None,
                }],
            },
            Event::Moves {
                moves: vec![
                    Moved::new(Place::Repository("x".into()), Vec::new()),
                    Moved::new(Place::File("/y".into()), [("a/b".into(), "a/c".into())]),
                ],
            },
            Event::Build(Build {
                package: "a/b-1".into(),
                started: 5,
                compiled: Some(6),
                merged: None,
                ended: Some(7),
                fate: Fate::GivenUp,
            }),
            Event::Run {
                kind: ProgramKind::Hook,
                name: "/x".into(),
            },
            Event::Ran { well: false },
            Event::Failure(Failure {
                what: "a/b-1".into(),
                stage: Some(Stage::Build),
                at: time(3),
                log: Some("/l".into()),
                lines: vec!["x".into()],
            }),
            Event::Result(Box::default()),
            Event::End {
                verdict: Verdict::Failed,
                words: Some("no".into()),
            },
        ]
    }

    #[test]
    fn every_event_comes_back_as_it_was() {
        let lines: Vec<Line> = (0..)
            .zip(events())
            .map(|(n, event)| Line {
                time: time(n),
                event,
            })
            .collect();
        let text: Vec<String> = lines
            .iter()
            .map(|l| serde_json::to_string(l).unwrap())
            .collect();
        assert_eq!(parse(&text.join("\n")), lines);
    }

    #[test]
    fn what_is_not_understood_is_passed_over() {
        let text = "{\"time\":\"2026-11-20T01:00:00+01:00\",\"event\":\"ran\",\"well\":true,\"x\":1}\n\
                    {\"time\":\"2026-11-20T01:00:00+01:00\",\"event\":\"later\",\"x\":[1]}\n\
                    {\"time\":\"2026-\n\0\0\0\n";
        let found: Vec<Event> = parse(text).into_iter().map(|l| l.event).collect();
        assert_eq!(found, [Event::Ran { well: true }, Event::Unknown]);
    }
}
