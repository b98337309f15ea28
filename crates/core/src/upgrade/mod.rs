//! `be upgrade`: a clone, Portage at work in it, checks, the switch.
//!
//! The running system is not written: everything happens in the clone, in a namespace of
//! its own, and the store is locked only while environments appear and the menu changes.

mod finish;
pub(crate) mod inputs;
mod portage;
mod report;

use std::fmt;

use anyhow::Result;
use be_portage::emerge::{BadOption, Options};
use be_portage::log::Progress;
use be_portage::pretend::Planned;
use chrono::{DateTime, FixedOffset};

use crate::block;
use crate::chroot::Interrupted;
use crate::execute::{execute, finish_rename, sweep};
use crate::model::Inventory;
use crate::name::{EnvName, Named};
use crate::plan::{self, Plan, Removal, Step};
use crate::record::{Phase, Record, State, Upgrade};
use crate::refusal::{NothingToDo, Refusal};
use crate::session::Session;
use crate::store::{Claim, Lock};

pub(crate) use finish::fd_path;
pub use report::Report;

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
    /// Even if the same failed to boot.
    pub again: bool,
    /// Options for emerge, as typed after `--`.
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
    /// Go on in this one.
    Continue(EnvName),
}

/// What an upgrade tells while it works.
pub trait Watch {
    /// A sentence for a person.
    fn note(&mut self, text: &str);
    /// A phase begins.
    fn phase(&mut self, name: &EnvName, phase: Phase);
    /// The state of the merge: emerge's own log, seconds left, the time in seconds since 1970.
    fn progress(&mut self, progress: &Progress, left: Option<u64>, now: i64);
}

/// An upgrade that failed; the environment is kept.
#[derive(Debug, Clone)]
pub struct UpgradeFailed {
    /// The environment.
    pub name: EnvName,
    /// What went wrong, in one line.
    pub why: String,
}

impl fmt::Display for UpgradeFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the upgrade in {} failed: {}. The running system was not touched; {} is kept, marked failed",
            self.name, self.why, self.name
        )
    }
}

impl std::error::Error for UpgradeFailed {}

impl UpgradeFailed {
    /// What to do next.
    pub fn hint(&self) -> String {
        let name = &self.name;
        format!(
            "be log {name} shows what happened\n\
             be shell {name} to look inside and mend\n\
             be upgrade --continue {name} to go on\n\
             be destroy {name} to throw it away"
        )
    }
}

/// What an upgrade came to.
#[derive(Debug)]
pub enum Outcome {
    /// The list of what would be merged; nothing was kept.
    Pretended(Vec<Planned>),
    /// The environment is complete.
    Ready(Box<Report>),
}

/// The environment that is worked in, with the right to do so.
struct Work<'a> {
    session: &'a Session,
    interrupted: &'a Interrupted,
    watch: &'a mut dyn Watch,
    record: Record,
    options: Options,
    _claims: (Claim, Claim),
}

/// The plan of an upgrade, as far as it is known before anything ran.
///
/// # Errors
/// Every rule that forbids it.
pub fn plan(session: &Session, inv: &Inventory, request: &Request) -> Result<(Record, Plan)> {
    options(session, request)?;
    if !inv.system.portage {
        return Err(Refusal::NoPortage.into());
    }
    let mut upgrade = Upgrade::start(request.now, &request.options);
    let activate = request.activate.unwrap_or(session.config.upgrade.activate);
    upgrade.activate = Some(activate);
    upgrade.trial = request.trial;
    if request.trial == Some(true)
        && let Err(none) = block::place(session, inv)
    {
        return Err(Refusal::no_trial(&none).into());
    }
    match &request.kind {
        Kind::New { name, origin } => {
            let create = plan::Create {
                name: name.clone(),
                layout: session.layout(inv, origin.as_ref())?,
                origin: origin.clone(),
                description: String::new(),
                now: request.now,
                upgrade: Some(upgrade),
                switch: None,
                min_free: session.config.upgrade.min_free_mib << 20,
            };
            let (name, plan, _) = plan::create(inv, &create)?;
            // Better now than after twelve hours.
            session.bootable(inv, origin.as_ref())?;
            if activate {
                inv.hooked()?;
            }
            Ok((Record::new(name, request.now, State::Building), plan))
        }
        Kind::Continue(name) => {
            inv.writable()?;
            let env = inv.get(name)?;
            if env.busy {
                let what = format!("another be works in {name}");
                return Err(Refusal::Busy { what }.into());
            }
            let Some(old) = env
                .record
                .upgrade
                .as_ref()
                .filter(|_| env.state() == State::Failed)
            else {
                let state = env.state().as_str();
                let name = name.clone();
                return Err(Refusal::NothingToContinue { name, state }.into());
            };
            let mut record = env.record.clone();
            record.state = State::Building;
            let mut upgrade = old.clone();
            (upgrade.ended, upgrade.error) = (None, None);
            upgrade.activate = request.activate.or(upgrade.activate);
            upgrade.trial = request.trial.or(upgrade.trial);
            if !request.options.is_empty() {
                upgrade.options.clone_from(&request.options);
            }
            record.upgrade = Some(upgrade);
            let plan = Plan {
                steps: vec![Step::Update(Box::new(record.clone()))],
                notes: Vec::new(),
            };
            Ok((record, plan))
        }
    }
}

fn options(session: &Session, request: &Request) -> Result<Options> {
    let mut all = session.config.upgrade.emerge_options.clone();
    all.extend(request.options.iter().cloned());
    let bad = |bad: BadOption| Refusal::BadEmergeOption {
        why: bad.to_string(),
    };
    Ok(Options::parse(&all).map_err(bad)?)
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
    let upgrades = session.store.claim_upgrade()?;
    let lock = session.store.lock()?;
    for note in sweep(session, &lock)? {
        watch.note(&note);
    }
    let (inv, note) = finish_rename(session, session.observe()?, &lock)?;
    if let Some(note) = note {
        watch.note(&note);
    }
    let (planned, plan) = plan(session, &inv, request)?;
    if let Kind::Continue(name) = &request.kind {
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
    let mut work = Work {
        session,
        interrupted,
        watch,
        record,
        options: options(session, &request_options)?,
        _claims: (claim, upgrades),
    };
    let result = work.all(request);
    match result {
        Err(error) if request.pretend => {
            work.discard()?;
            Err(error)
        }
        Err(error) if error.downcast_ref::<NothingToDo>().is_some() => Err(error),
        // Complete, and told why it is not activated.
        Err(error) if work.record.state == State::Ready => Err(error),
        Err(error) => Err(work.failed(&error, request.now)),
        done => done,
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
        let continued = matches!(request.kind, Kind::Continue(_));
        self.prepare()?;
        if continued {
            self.note_unfinished()?;
        }
        let synced = self.upgrade().phase > Phase::Sync;
        if self.session.config.upgrade.sync && !synced {
            self.enter(Phase::Sync)?;
            self.sync()?;
        }
        self.enter(Phase::Preview)?;
        self.take_inputs()?;
        if !continued
            && !request.again
            && let Some(why) = self.known_to_fail()?
        {
            self.discard()?;
            return Err(NothingToDo(why).into());
        }
        let planned = self.preview()?;
        if request.pretend {
            self.discard()?;
            return Ok(Outcome::Pretended(planned));
        }
        let nothing = planned.is_empty() && self.upgrade().failed.is_empty();
        if nothing && !continued {
            self.discard()?;
            return Err(NothingToDo("there is nothing to upgrade; nothing was kept".into()).into());
        }
        self.enter(Phase::Merge)?;
        self.merge(&planned)?;
        self.enter(Phase::Check)?;
        if self.interrupted.came() {
            anyhow::bail!("it was interrupted");
        }
        self.finish(request)
    }

    fn upgrade(&mut self) -> &mut Upgrade {
        // Every record that gets here was made with one, by `plan`.
        self.record
            .upgrade
            .get_or_insert_with(|| Upgrade::start(self.record.created, &[]))
    }

    fn enter(&mut self, phase: Phase) -> Result<()> {
        let name = self.record.name.clone();
        self.watch.phase(&name, phase);
        // The record must not be newer on the disk than the work that it tells of.
        self.session.store.top.sync()?;
        self.upgrade().phase = phase;
        self.write_record()
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

    /// The lock of the store; whoever has it has it only for a moment.
    fn lock(&self) -> Result<Lock> {
        for _ in 0..600 {
            match self.session.store.lock() {
                Err(e) if matches!(e.downcast_ref(), Some(Refusal::Busy { .. })) => {
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
                other => return other,
            }
        }
        self.session.store.lock()
    }

    /// Keep the environment as failed, and say why.
    fn failed(&mut self, error: &anyhow::Error, now: DateTime<FixedOffset>) -> anyhow::Error {
        let why = format!("{error:#}");
        self.record.state = State::Failed;
        let upgrade = self.upgrade();
        upgrade.error = Some(why.clone());
        upgrade.ended = Some(report::later(now));
        let name = self.record.name.clone();
        let kept = self.write_record();
        let failed = anyhow::Error::new(UpgradeFailed { name, why });
        match kept {
            // On a full disk even this fails; a building environment that nobody works in
            // counts as failed all the same.
            Err(e) => failed.context(format!("the record could not be written: {e:#}")),
            Ok(()) => failed,
        }
    }
}
