//! `be upgrade`: a clone, a package manager at work in it, checks, the switch.
//!
//! The running system is not written: everything happens in the clone, in a namespace of
//! its own, and the store is locked only while environments appear and the menu changes.

mod agree;
mod binhost;
pub mod build;
mod built;
mod chores;
mod configuration;
mod failed;
pub mod farm;
mod finish;
mod fits;
mod follow;
pub(crate) mod inputs;
mod journal;
mod live;
mod locked;
mod locks;
mod moves;
mod pace;
mod pin;
mod portage;
mod profile;
mod progress;
mod report;
mod request;
mod sync;
mod toolchain;
mod unbooted;
mod unfinished;

use std::time::Duration;

use anyhow::Result;
use be_portage::emerge::{self, Options};
use be_portage::pretend::Planned;
use chrono::{DateTime, FixedOffset};
use serde::Serialize;

use crate::chroot::{Bind, Interrupted};
use crate::config::Unbooted;
use crate::execute::{execute, finish_rename, sweep};
use crate::gates::Gate;
use crate::lock::{Lock as Wanted, Made};
use crate::manager::{self, Manager};
use crate::model::Inventory;
use crate::name::{EnvName, Named};
use crate::plan::{self, Plan, Removal, Step};
use crate::record::{Phase, Record, State, Upgrade};
use crate::refusal::{NothingToDo, Refusal};
use crate::report::Event;
use crate::session::Session;
use crate::store::{Claim, Lock};

pub(crate) use built::{clear, drop_packed, make_packed};
pub use failed::UpgradeFailed;
use farm::Farm;
pub(crate) use finish::fd_path;
use journal::Noted;
pub use live::{Live, LiveFailed, run as run_live};
pub use pace::pause;
pub(crate) use portage::give_variables;
pub use progress::{Job, Merging};
pub use report::{Report, owed};
use request::options;
pub use request::plan;
pub use sync::SyncFailed;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// What to do.
    pub kind: Kind,
    /// Only show what would be merged, and leave nothing behind.
    pub pretend: bool,
    /// Whether to make the result boot by default; as before, or as be.toml says, without.
    pub activate: Option<bool>,
    /// Whether it boots on trial; as before, or where that can be done, without.
    pub trial: Option<bool>,
    /// Even if the same failed to boot, or is there already.
    pub again: bool,
    /// What becomes of an earlier result that was never booted; as be.toml says, without.
    pub unbooted: Option<Unbooted>,
    /// Wait for another upgrade to end.
    pub wait: bool,
    /// Gates that need not be passed.
    pub no_gates: Vec<Gate>,
    /// Remove what nothing needs any more.
    pub depclean: bool,
    /// Merge the result into the running system, too ([`run_live`]).
    pub live: bool,
    /// Make it as this lock says; the repositories are not synchronised.
    pub lock: Option<Box<Wanted>>,
    /// Options for the package manager, as typed after `--`.
    pub options: Vec<String>,
    /// The time.
    pub now: DateTime<FixedOffset>,
}

/// A new environment or one that failed.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Clone one.
    New {
        /// Its name; a date without one.
        name: Option<EnvName>,
        /// What to clone; the running one without one.
        origin: Option<Named>,
    },
    /// Go on in this one, which failed.
    Continue(EnvName),
    /// Begin again in this one, which is complete and was never booted.
    Unbooted(EnvName),
}

/// What an upgrade tells while it works.
pub trait Watch {
    /// A sentence for a person.
    fn note(&mut self, text: &str);
    /// A phase begins.
    fn phase(&mut self, name: &EnvName, phase: Phase);
    /// How far the merge is, whenever that has changed.
    fn progress(&mut self, merging: &Merging);
}

/// What an upgrade came to.
#[derive(Debug)]
pub enum Outcome {
    /// The list of what would be merged; nothing was kept.
    Pretended(Pretended),
    /// The environment is complete.
    Ready(Box<Report>),
    /// One that was complete before is merged into the running system.
    Merged(Box<Live>),
}

/// What would be upgraded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Pretended {
    /// By Portage.
    Portage(Vec<Planned>),
    /// By another package manager.
    Profile(Vec<manager::Planned>),
}

/// The environment that is worked in, with the right to do so.
struct Work<'a> {
    session: &'a Session,
    interrupted: &'a Interrupted,
    watch: &'a mut dyn Watch,
    record: Record,
    manager: Manager,
    options: Options,
    /// Where what is built is kept.
    built: Option<built::Built>,
    /// What its programs see besides of the running system.
    binds: Vec<Bind>,
    /// What its programs see in the place of what is there, so that old names are new ones.
    moved: moves::Moved,
    /// The engines that its programs compile with, once something is merged.
    farm: Farm,
    /// Only the list of packages is wanted: nothing of the owner's runs.
    pretend: bool,
    /// The phase that this process is in.
    at: Option<Phase>,
    noted: Noted,
    /// What the environment is made from, once that is known.
    made: Option<Made>,
    /// What it is to be made as.
    wanted: Option<Box<Wanted>>,
    /// The process that the program which runs, or ran last, is below.
    supervisor: Option<u32>,
    /// To work in the environment.
    claim: Claim,
}

/// Upgrade.
///
/// # Errors
/// [`UpgradeFailed`] with the environment kept; [`NothingToDo`] with nothing kept; every
/// refusal with nothing touched.
pub fn run(
    session: &Session,
    request: &Request,
    interrupted: &Interrupted,
    watch: &mut dyn Watch,
) -> Result<Outcome> {
    let upgrades = claim(session, request.wait, interrupted, watch)?;
    run_claimed(session, request, interrupted, watch, &upgrades)
}

/// As [`run`], for who has the right to run an upgrade.
fn run_claimed(
    session: &Session,
    request: &Request,
    interrupted: &Interrupted,
    watch: &mut dyn Watch,
    _upgrades: &Claim,
) -> Result<Outcome> {
    let lock = session.store.lock_within(PATIENCE)?;
    for note in sweep(session, &lock)? {
        watch.note(&note);
    }
    let (inv, note) = finish_rename(session, session.observe()?, &lock)?;
    if let Some(note) = note {
        watch.note(&note);
    }
    let request = &unbooted::go_on(session, &inv, request);
    let (planned, plan) = plan(session, &inv, request)?;
    if let Kind::Continue(name) | Kind::Unbooted(name) = &request.kind {
        unused(session, &inv, name)?;
    }
    for note in execute(session, inv, &plan, &lock)?.notes {
        watch.note(&note);
    }
    let claim = session.store.claim(&planned.name)?;
    drop(lock);
    let inv = session.observe()?;
    let record = inv.get(&planned.name)?.record.clone();
    let given = record
        .upgrade
        .as_ref()
        .map(|u| u.options.clone())
        .unwrap_or_default();
    let request_options = Request {
        options: given,
        ..request.clone()
    };
    let manager = session.upgrader_of(&*session.whole_of(&record)?)?;
    let mut work = Work {
        session,
        interrupted,
        watch,
        record,
        options: options(session, &manager, &request_options)?,
        manager,
        built: None,
        binds: Vec::new(),
        moved: moves::Moved::default(),
        farm: Farm::default(),
        pretend: request.pretend,
        at: None,
        noted: Noted::default(),
        made: None,
        wanted: None,
        supervisor: None,
        claim,
    };
    work.begin_report(request, !matches!(request.kind, Kind::New { .. }));
    let result = work.all(request);
    match result {
        Err(error) if request.pretend => {
            work.discard()?;
            Err(error)
        }
        Err(error) if error.downcast_ref::<NothingToDo>().is_some() => Err(error),
        // Nothing was built: what forbids it might as well have been told before.
        Err(error) if is_nothing_begun(&error) && matches!(request.kind, Kind::New { .. }) => {
            work.discard()?;
            Err(error)
        }
        // Complete, and told why it is not activated.
        Err(error) if work.record.state == State::Ready => {
            let held = Err(error);
            work.end_report(&held);
            held
        }
        Err(error) => {
            let kept = work.failed(&error, request.now);
            work.end_report(&Err(error));
            Err(kept)
        }
        done => {
            work.end_report(&done);
            done
        }
    }
}

/// Whether it ended before anything was merged, for a reason outside of the environment.
fn is_nothing_begun(error: &anyhow::Error) -> bool {
    let refused = matches!(
        error.downcast_ref(),
        Some(Refusal::OtherHost { .. } | Refusal::NoLock(_))
    );
    error.is::<SyncFailed>() || refused
}

/// How long to wait for the lock of the store: the work of hours must not fail for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long to wait before asking once more whether another upgrade has ended.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The right to run an upgrade, once it is to be had.
fn claim(
    session: &Session,
    wait: bool,
    interrupted: &Interrupted,
    watch: &mut dyn Watch,
) -> Result<Claim> {
    let mut told = false;
    loop {
        let refused = match session.store.claim_upgrade() {
            Err(e) if wait && matches!(e.downcast_ref(), Some(Refusal::Busy { .. })) => e,
            other => return other,
        };
        if interrupted.came() {
            return Err(refused.context("it was interrupted while it waited"));
        }
        if !std::mem::replace(&mut told, true) {
            watch.note("another upgrade is running: waiting until it has ended");
        }
        std::thread::sleep(ASK_AGAIN);
    }
}

/// Nobody else may work where an upgrade goes on.
fn unused(session: &Session, inv: &Inventory, name: &EnvName) -> Result<()> {
    let home = crate::store::Paths::environment(name);
    let found = session.uses(inv)?;
    match found.iter().find(|u| u.subvolume.starts_with(&home)) {
        Some(u) => {
            let by = format!(
                "it is mounted at {} for process {}",
                u.target.display(),
                u.pid
            );
            let name = name.clone();
            Err(Refusal::InUse {
                name: name.into(),
                by,
            }
            .into())
        }
        None => Ok(()),
    }
}

impl Work<'_> {
    fn all(&mut self, request: &Request) -> Result<Outcome> {
        self.prepare()?;
        self.recall(request)?;
        let pretended = match self.manager.clone() {
            Manager::Portage => {
                let planned = match self.wanted.clone() {
                    Some(lock) => self.by_lock(&lock, request),
                    None => self.by_portage(request),
                };
                let forgotten = self.forget_moves();
                let left = self.leave_farm();
                let planned = planned?;
                if let Err(e) = left {
                    self.watch.note(&format!(
                        "what [farm] needed stays in the environment: {e:#}"
                    ));
                }
                if let Err(e) = forgotten {
                    self.watch.note(&format!("/.be-moves stays: {e:#}"));
                }
                planned.map(Pretended::Portage)
            }
            Manager::Profile(profile) => {
                let planned = self.by_profile(&profile, request)?;
                planned.map(Pretended::Profile)
            }
        };
        if let Some(planned) = pretended {
            self.discard()?;
            return Ok(Outcome::Pretended(planned));
        }
        self.enter(Phase::Check)?;
        if self.interrupted.came() {
            anyhow::bail!("it was interrupted");
        }
        self.finish(request)
    }

    /// All phases up to the check; what would be merged, if only that is wanted.
    fn by_portage(&mut self, request: &Request) -> Result<Option<Vec<Planned>>> {
        let continued = !matches!(request.kind, Kind::New { .. });
        if continued {
            self.keep_built()?;
            self.note_unfinished()?;
        }
        let synced = self.upgrade().phase > Phase::Sync;
        // For a live one the running system was synchronised before it was cloned.
        if self.session.config.upgrade.sync && !synced && !self.upgrade().live {
            self.enter(Phase::Sync)?;
            self.sync()?;
        }
        self.enter(Phase::Preview)?;
        self.moves()?;
        // For the settings as they are now.
        self.keep_built()?;
        self.take_inputs()?;
        self.is_known(request)?;
        let planned = self.preview(&emerge::pretend(&self.options))?;
        if request.pretend {
            return Ok(Some(planned));
        }
        let planned = self.agree_with_hosts(planned, request)?;
        let nothing = planned.is_empty() && self.upgrade().failed.is_empty() && !request.depclean;
        if nothing && !continued {
            return Err(self.nothing()?);
        }
        self.take_made();
        self.enter(Phase::Fetch)?;
        let planned = self.fetch(planned)?;
        self.enter(Phase::Merge)?;
        self.merge_or_build(planned)?;
        self.enter(Phase::Chores)?;
        self.chores()?;
        self.enter(Phase::Configuration)?;
        self.configuration()?;
        Ok(None)
    }

    /// Give up what was done before, and ended badly or waits to be booted.
    fn is_known(&mut self, request: &Request) -> Result<()> {
        let new = matches!(request.kind, Kind::New { .. });
        if new
            && !request.again
            && !request.depclean
            && !request.pretend
            && let Some(why) = self.known_to_fail()?.or(self.is_there_already()?)
        {
            self.discard()?;
            return Err(NothingToDo(why).into());
        }
        Ok(())
    }

    /// Keep nothing, as there is nothing to do.
    fn nothing(&mut self) -> Result<anyhow::Error> {
        self.discard()?;
        Ok(NothingToDo("there is nothing to upgrade; nothing was kept".into()).into())
    }

    fn upgrade(&mut self) -> &mut Upgrade {
        // Every record that gets here was made with one, by `plan`.
        self.record
            .upgrade
            .get_or_insert_with(|| Upgrade::start(self.record.created, &[]))
    }

    /// Begin a phase; the one before is over.
    fn enter(&mut self, phase: Phase) -> Result<()> {
        if let Some(over) = self.at.take() {
            self.hooks("after", over)?;
        }
        let name = self.record.name.clone();
        self.watch.phase(&name, phase);
        // The record must not be newer on the disk than the work that it tells of.
        self.session.store.top.sync()?;
        self.upgrade().phase = phase;
        self.write_record()?;
        self.journal(Event::Phase { phase });
        self.hooks("before", phase)?;
        self.at = Some(phase);
        Ok(())
    }

    fn write_record(&self) -> Result<()> {
        let dir = crate::store::Paths::environment(&self.record.name);
        self.session.store.write_record(&dir, &self.record)
    }

    /// Take the unwanted environment away again.
    fn discard(&mut self) -> Result<()> {
        let lock = self.lock()?;
        let plan = Plan {
            steps: vec![Step::Remove(Removal {
                name: self.record.name.clone(),
                subvolumes: plan::removal_list(&self.record),
            })],
            notes: Vec::new(),
        };
        execute(self.session, self.session.observe()?, &plan, &lock)?;
        Ok(())
    }

    fn lock(&self) -> Result<Lock> {
        self.session.store.lock_within(PATIENCE)
    }
}
