//! What every verb gets: the session, the time, the reporter.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use be_core::execute::{Done, confirm_running, execute, finish_rename, note_failed, sweep};
use be_core::menu::Written;
use be_core::model::Inventory;
use be_core::plan::{Plan, Step, default};
use be_core::refusal::Refusal;
use be_core::session::Session;
use be_core::store::Lock;
use chrono::{DateTime, FixedOffset, Local};
use serde_json::json;

use crate::args::Global;
use crate::reporter::{Outcome, Reporter};
use crate::spelling::Spelling;

/// What every verb gets.
pub struct Context<'a> {
    /// The system.
    pub session: Session,
    /// When this run began.
    pub now: DateTime<FixedOffset>,
    /// Show the plan and do nothing.
    pub dry_run: bool,
    /// The name that be was called by.
    pub spelling: Spelling,
    /// One JSON document is asked for.
    pub json: bool,
    /// How much more to say.
    pub verbose: u8,
    /// The one that prints.
    pub reporter: &'a mut Reporter,
}

/// The right to write, and what was found on taking it.
pub struct Work {
    /// None for a dry run.
    pub lock: Option<Lock>,
    /// The system, read under the lock.
    pub inv: Inventory,
}

impl<'a> Context<'a> {
    /// Open the system that the options name.
    pub fn open(global: &Global, spelling: Spelling, reporter: &'a mut Reporter) -> Result<Self> {
        Ok(Self {
            session: Session::open(&global.sysroot)?,
            now: Local::now().fixed_offset(),
            dry_run: global.dry_run,
            spelling,
            json: global.json,
            verbose: global.verbose,
            reporter,
        })
    }

    /// Take the lock, tidy up what an interrupted `be` left, and confirm the environment
    /// that this runs in. A dry run does none of it.
    pub fn begin(&mut self) -> Result<Work> {
        let work = self.begin_unconfirmed()?;
        self.confirm(work)
    }

    /// As [`Context::begin`], with the patience of who comes back after hours of work.
    pub fn begin_patiently(&mut self) -> Result<Work> {
        const PATIENCE: Duration = Duration::from_secs(600);
        let start = Instant::now();
        loop {
            match self.begin() {
                Err(e)
                    if matches!(e.downcast_ref(), Some(Refusal::Busy { .. }))
                        && start.elapsed() < PATIENCE => {}
                begun => return begun,
            }
        }
    }

    /// As [`Context::begin`], for who may be leaving a bad environment.
    pub fn begin_unconfirmed(&mut self) -> Result<Work> {
        let store = &self.session.store;
        if store.top.is_read_only()? {
            return Err(Refusal::ReadOnly.into());
        }
        if !store.exists() {
            return Err(Refusal::NotInitialised.into());
        }
        let mut lock = None;
        if !self.dry_run {
            let taken = store.lock()?;
            for note in sweep(&self.session, &taken)? {
                self.reporter.note(&note);
            }
            self.session.store.keep_reserve();
            lock = Some(taken);
        }
        let mut inv = self.session.observe()?;
        if let Some(taken) = &lock {
            let (now, note) = finish_rename(&self.session, inv, taken)?;
            inv = now;
            if let Some(note) = note {
                self.reporter.note(&note);
            }
            inv = self.give_entries_back(inv, taken)?;
            let (now, failed) = note_failed(&self.session, inv, self.now, taken)?;
            inv = now;
            if let Some(name) = failed {
                self.reporter.note(&format!(
                    "{name} did not come up: it is marked bad; be log {name} says more"
                ));
            }
        }
        Ok(Work { lock, inv })
    }

    /// An interrupted command may have taken environments out of the menu that it then did
    /// not remove.
    fn give_entries_back(&mut self, inv: Inventory, lock: &Lock) -> Result<Inventory> {
        let lost: Vec<_> = inv.without_entry().map(ToString::to_string).collect();
        let Some(running) = inv.running().ok().filter(|_| !lost.is_empty()) else {
            return Ok(inv);
        };
        let plan = Plan {
            steps: vec![Step::menu(&default(&inv, running.name()))],
            notes: Vec::new(),
        };
        execute(&self.session, inv, &plan, lock)?;
        self.reporter.note(&format!(
            "wrote the menu anew: an interrupted command took {} out of it",
            lost.join(", ")
        ));
        self.session.observe()
    }

    fn confirm(&mut self, mut work: Work) -> Result<Work> {
        if let Some(lock) = &work.lock
            && let Some(name) = confirm_running(&self.session, &mut work.inv, lock)?
        {
            self.reporter
                .note(&format!("{name} is running: it is confirmed"));
        }
        Ok(work)
    }

    /// Carry out a plan, or show it in a dry run.
    pub fn carry_out(&self, work: Work, plan: &Plan) -> Result<Result<Done, Outcome>> {
        let Some(lock) = work.lock else {
            return Ok(Err(show(plan)));
        };
        let mut done = execute(&self.session, work.inv, plan, &lock)?;
        done.notes.extend(done.menu.iter().flat_map(Written::notes));
        Ok(Ok(done))
    }
}

/// A plan as the result of a dry run.
fn show(plan: &Plan) -> Outcome {
    let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
    let text: String = steps.iter().map(|s| format!("would {s}\n")).collect();
    Outcome::new(json!({ "dry_run": true, "steps": steps }))
        .text(text)
        .notes(plan.notes.clone())
}

/// Open a file descriptor that the caller passed, as a file of our own. Writing to it never
/// waits: a pipe that nobody reads must not stop an upgrade.
pub fn open_fd(fd: i32) -> Result<File> {
    File::options()
        .append(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(format!("/proc/self/fd/{fd}"))
        .with_context(|| format!("cannot write progress to file descriptor {fd}"))
}
