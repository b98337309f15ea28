//! How far another package manager than Portage is: from what it prints into the log.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::time::Instant;

use anyhow::Result;
use be_portage::pretend::strip_ansi;

use super::Work;
use super::progress::{ASK, Job, Merging, now};
use crate::log;
use crate::manager::{At, Count};

/// Follows the log while the manager writes it.
pub(super) struct Lines<'a> {
    file: File,
    count: Count<'a>,
    /// The begin of a line of which the rest is to come.
    part: Vec<u8>,
    /// What is worked on, and since when, in seconds since 1970.
    at: Option<(At, i64)>,
    told: Option<Instant>,
}

impl<'a> Lines<'a> {
    /// Follow the log of this upgrade from its end on.
    pub(super) fn new(work: &Work<'_>, count: Count<'a>) -> Result<Self> {
        let mut file = work.session.store.dir.file(log::path(&work.record.name))?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self {
            file,
            count,
            part: Vec::new(),
            at: None,
            told: None,
        })
    }

    /// Look again, and tell whoever wants to know: of each line, and of the time that passes.
    pub(super) fn tick(&mut self, work: &mut Work<'_>) {
        let new = self.read();
        let has_new = !new.is_empty();
        for at in new {
            self.at = Some((at, now()));
            if let Some(merging) = self.merging() {
                work.watch.progress(&merging);
            }
        }
        let is_due = self.told.is_none_or(|told| told.elapsed() >= ASK);
        if is_due && let Some(merging) = self.merging() {
            self.told = Some(Instant::now());
            if !has_new {
                work.watch.progress(&merging);
            }
            // For `be status`; that it cannot be written stops no upgrade.
            let _untold = work.session.store.tell(&work.record.name, &merging);
        }
    }

    fn merging(&self) -> Option<Merging> {
        let (at, started) = self.at.as_ref()?;
        Some(Merging {
            done: at.done,
            total: at.total,
            jobs: vec![Job {
                package: at.package.clone(),
                number: at.number,
                phase: at.step.clone(),
                started: *started,
            }],
            until: None,
            now: now(),
        })
    }

    /// Read on: what is told by the lines that are complete.
    fn read(&mut self) -> Vec<At> {
        // A log that cannot be read costs the progress line, not the upgrade.
        if self.file.read_to_end(&mut self.part).is_err() {
            return Vec::new();
        }
        let Some(end) = self.part.iter().rposition(|c| *c == b'\n') else {
            return Vec::new();
        };
        let rest = self.part.split_off(end + 1);
        let text = strip_ansi(&String::from_utf8_lossy(&self.part));
        self.part = rest;
        // What was written over on a terminal is no more than its last state.
        let shown = |line: &'_ str| line.trim_end().rsplit('\r').next().map(str::to_owned);
        let lines = text.lines().filter_map(shown);
        lines.filter_map(|line| self.count.line(&line)).collect()
    }
}
