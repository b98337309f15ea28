//! How far the merge is: from emerge.log, finer where emerge tells of its jobs.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use be_btrfs::Root;
use be_portage::builds::{Builds, Fate};
use be_portage::eta::History;
use be_portage::jobs;
use be_portage::log::Progress;
use serde::{Deserialize, Serialize};

use super::Work;
use super::portage::EMERGE_LOG;
use crate::whole::Whole;

/// How often emerge is asked, and others are told.
pub(super) const ASK: Duration = Duration::from_secs(1);

/// How many packages at work are named; a build farm may have hundreds.
const MOST_JOBS: usize = 16;

/// How far a merge is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merging {
    /// How many packages are installed.
    pub done: u32,
    /// How many there are to install; 0 as long as that is not known.
    pub total: u32,
    /// What is being worked on, in the order in which it began.
    pub jobs: Vec<Job>,
    /// When it may be done, in seconds since 1970, going by what the packages took before.
    pub until: Option<i64>,
    /// When this was so, in seconds since 1970.
    pub now: i64,
}

/// A package that is worked on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// `category/name-version`, or as another package manager names it.
    pub package: String,
    /// Its number, from 1.
    pub number: u32,
    /// What it is going through, in one word.
    pub phase: String,
    /// When it began, in seconds since 1970.
    pub started: i64,
}

impl Merging {
    /// The estimate of the rest, in seconds.
    pub fn seconds_left(&self) -> Option<u64> {
        let left = self.until?.saturating_sub(self.now);
        Some(u64::try_from(left).unwrap_or(0))
    }
}

/// Follows emerge.log while emerge writes it.
pub(super) struct Follow {
    root: Whole,
    file: Option<File>,
    start: u64,
    history: History,
    pub(super) progress: Progress,
    builds: Builds,
    /// What of them is in the report.
    reported: Vec<Fate>,
    asked: Option<Instant>,
    told: Option<Merging>,
}

impl Follow {
    /// Follow it from this offset on, in bytes; what comes before is history.
    pub(super) fn new(root: Whole, start: u64) -> Self {
        let file = root.file(EMERGE_LOG).ok();
        let history = match &file {
            Some(file) => History::read(file.take(start)).unwrap_or_default(),
            None => History::default(),
        };
        Self {
            root,
            file,
            start,
            history,
            progress: Progress::default(),
            builds: Builds::default(),
            reported: Vec::new(),
            asked: None,
            told: None,
        }
    }

    /// Look again, and tell whoever wants to know.
    pub(super) fn tick(&mut self, work: &mut Work<'_>, plan: &[String]) {
        if self.file.is_none() {
            self.file = self.root.file(EMERGE_LOG).ok();
        }
        let has_new = self.read();
        let is_due = self.asked.is_none_or(|asked| asked.elapsed() >= ASK);
        if !has_new && !is_due {
            return;
        }
        self.note(work);
        if is_due {
            self.asked = Some(Instant::now());
            let tasks = work.supervisor.map(asked_of).unwrap_or_default();
            self.progress.refine(&tasks);
        }
        let merging = self.merging(plan);
        if self.told.as_ref() == Some(&merging) {
            return;
        }
        work.watch.progress(&merging);
        if is_due {
            // For `be status`; that it cannot be written stops no upgrade.
            let _untold = work.session.store.tell(&work.record.name, &merging);
        }
        self.told = Some(merging);
    }

    fn merging(&self, plan: &[String]) -> Merging {
        let now = now();
        let left = self.history.remaining(&self.progress, plan, now);
        let job = |job: &be_portage::log::Job| Job {
            package: job.package.clone(),
            number: job.number,
            phase: job.phase().to_string(),
            started: job.started,
        };
        let running = self.progress.running.iter().take(MOST_JOBS);
        Merging {
            done: self.progress.done,
            total: self.progress.total,
            jobs: running.map(job).collect(),
            until: left.and_then(|left| now.checked_add_unsigned(left)),
            now,
        }
    }

    /// Read on; whether there was anything new.
    pub(super) fn read(&mut self) -> bool {
        let Some(file) = &mut self.file else {
            return false;
        };
        let mut new = Vec::new();
        // A log that cannot be read costs the progress line, not the upgrade.
        let read = file
            .seek(SeekFrom::Start(self.start))
            .and_then(|_| file.read_to_end(&mut new));
        if read.is_ok() {
            self.start += new.len() as u64;
            self.progress.feed(&new);
            self.builds.feed(&new);
        }
        !new.is_empty()
    }

    /// Write what is new of builds into the report.
    pub(super) fn note(&mut self, work: &Work<'_>) {
        work.journal_builds(&self.builds, &mut self.reported);
    }
}

/// The time, in seconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(0))
}

/// What the emerge below this supervisor tells of its jobs.
fn asked_of(supervisor: u32) -> Vec<jobs::Task> {
    let Some(root) = root_of_init(supervisor).and_then(|root| Root::open(&root).ok()) else {
        return Vec::new();
    };
    let dir = Path::new("env").join(jobs::DIR);
    let names = root.list(&dir).unwrap_or_default();
    let names = names.iter().filter_map(|(name, _)| name.to_str());
    let read = |name: &str| root.read_to_string(dir.join(name), jobs::MAX_SNAPSHOT).ok();
    let snapshots = names
        .filter(|name| jobs::is_snapshot(name))
        .filter_map(read);
    snapshots.flat_map(|text| jobs::parse(&text)).collect()
}

/// The root of PID 1 of the namespace: proc_pid_task_children(5).
fn root_of_init(supervisor: u32) -> Option<PathBuf> {
    let children = format!("/proc/{supervisor}/task/{supervisor}/children");
    let children = fs::read_to_string(children).ok()?;
    let init: u32 = children.split_whitespace().next()?.parse().ok()?;
    Some(format!("/proc/{init}/root").into())
}
