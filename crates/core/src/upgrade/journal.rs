//! What an upgrade writes down for its report.

use anyhow::Result;
use be_portage::builds::{Builds, Fate};
use be_portage::failure::{self, Stage};
use chrono::{DateTime, FixedOffset, Local};

use super::{Outcome, Request, Work};
use crate::record::State;
use crate::report::{self, Event, Verdict};

/// What the report of this attempt has so far.
#[derive(Debug, Default)]
pub(super) struct Noted {
    /// The command that ran last, and where its output begins in the log.
    pub(super) command: Option<(String, u64)>,
    /// How long the file with the messages of packages was when this upgrade first began.
    messages: u64,
    /// What failed is in the report.
    failure: bool,
    /// Old names that were taken for new ones.
    pub(super) moves: Vec<report::Moved>,
}

fn now() -> DateTime<FixedOffset> {
    Local::now().fixed_offset()
}

impl Work<'_> {
    pub(super) fn journal(&self, event: Event) {
        if !self.pretend {
            let store = &self.session.store;
            report::append(store, &self.record.name, now(), event);
        }
    }

    pub(super) fn begin_report(&mut self, request: &Request, continued: bool) {
        if self.pretend {
            return;
        }
        let root = self.root();
        let first = report::messages_from(&self.session.store, &self.record.name);
        let messages = first.unwrap_or_else(|| report::summary_length(self.session, &self.record));
        self.noted.messages = messages;
        let options = self.upgrade().options.clone();
        self.journal(Event::Start {
            since: request.now,
            continued,
            options,
            kernels: root.map(|root| report::kernels(&root)).unwrap_or_default(),
            messages,
        });
    }

    /// It ended: well, or held back although it is complete, or failed.
    pub(super) fn end_report(&mut self, result: &Result<Outcome>) {
        let at = now();
        let (verdict, words) = match result {
            Ok(Outcome::Pretended(_) | Outcome::Merged(_)) => return,
            Ok(Outcome::Ready(ready)) => (Verdict::Ready, ready.ending()),
            Err(e) if self.record.state == State::Ready => (Verdict::Held, format!("{e:#}")),
            Err(e) => (Verdict::Failed, format!("{e:#}")),
        };
        if verdict == Verdict::Failed && !self.noted.failure && !self.interrupted.came() {
            self.journal_command(at);
        }
        let found = report::gather(self.session, &self.record, self.noted.messages);
        let words = words.trim_end().to_owned();
        let end = Event::End {
            verdict,
            words: Some(words),
        };
        let store = &self.session.store;
        for event in [Event::Result(Box::new(found)), end] {
            report::append(store, &self.record.name, at, event);
        }
    }

    /// No package failed: it was the command that ran last.
    fn journal_command(&self, at: DateTime<FixedOffset>) {
        let Some((command, from)) = self.noted.command.clone() else {
            return;
        };
        let output = self.log_since(from).unwrap_or_default();
        self.journal(Event::Failure(report::Failure {
            what: command,
            stage: None,
            at,
            log: None,
            lines: report::last_lines(output.as_bytes()),
        }));
    }

    pub(super) fn journal_failures(&mut self, failures: &[failure::Failure]) {
        for failure in failures {
            let failed = report::failed(self.session, &self.record, failure, now());
            self.journal(Event::Failure(failed));
            self.noted.failure = true;
        }
    }

    /// What was cut off, while what it had to say is still there.
    pub(super) fn journal_cut_off(&mut self, packages: &[String]) {
        for package in packages {
            let unknown = failure::Failure {
                package: package.clone(),
                stage: Stage::Unknown,
                log: None,
            };
            let failed = report::failed(self.session, &self.record, &unknown, now());
            self.journal(Event::Failure(failed));
        }
    }

    /// Write down what is new of these; `told` is what was written before.
    pub(super) fn journal_builds(&self, builds: &Builds, told: &mut Vec<Fate>) {
        for (i, build) in builds.all().iter().enumerate() {
            if told.get(i) == Some(&build.fate) {
                continue;
            }
            self.journal(Event::Build(build.clone()));
            match told.get_mut(i) {
                Some(fate) => *fate = build.fate,
                None => told.push(build.fate),
            }
        }
    }
}
