//! The whole of it: the running system held still, what it changed put into the environment, and
//! what was carried remembered as the base of the next time.

use std::path::Path;

use anyhow::{Context, Result};
use be_btrfs::Mode;
use chrono::{DateTime, FixedOffset};

use super::Carry;
use super::apply::{Applied, apply};
use super::survey::{self, Origin, survey};
use crate::chroot::Interrupted;
use crate::execute::{SOURCES, discard_new, execute, make_snapshot};
use crate::gates::{self, Gate};
use crate::model::{Environment, Inventory};
use crate::name::{EnvName, Named, SnapName};
use crate::plan;
use crate::record::{Base, Policy, Record, Snapshot};
use crate::refusal::Refusal;
use crate::session::Session;
use crate::store::{Claim, Lock, Paths};

/// The snapshot of the environment as it was before anything was carried into it.
pub const BEFORE: &str = "before-carry";

/// What its description says: it is ours.
const DESCRIPTION: &str = "before the running system was carried into it";

/// Whether a snapshot is of an environment before something was carried into it.
pub(crate) fn is_before(snapshot: &Snapshot) -> bool {
    snapshot.name.as_str() == BEFORE && snapshot.description == DESCRIPTION
}

/// What was carried.
#[derive(Debug)]
pub struct Over {
    /// What was found and decided.
    pub carry: Carry,
    /// What came of it.
    pub applied: Applied,
    /// The environment as it was before.
    pub before: Named,
}

impl Over {
    /// Look once more at what configuration can break that a person or a program changed.
    ///
    /// # Errors
    /// [`Refusal::Closed`].
    pub fn still_good(self, session: &Session, interrupted: &Interrupted) -> Result<Self> {
        let record = session.store.record_of(&self.carry.to)?;
        let found = gates::examine(session, &record, &[Gate::Sshd], &[], interrupted)?;
        match found.iter().find(|found| found.failed()) {
            None => Ok(self),
            Some(closed) => Err(Refusal::Closed {
                name: record.name,
                gate: closed.gate.name(),
                why: closed.short(),
            }
            .into()),
        }
    }

    /// In short, for who did not ask for it.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let mut sentences = self.carry.sentences();
        sentences.extend(self.carry.notes.iter().cloned());
        sentences
    }
}

/// On what terms something goes over.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Not if a person has to look at something.
    pub strict: bool,
    /// The time.
    pub now: DateTime<FixedOffset>,
    /// Of the store.
    pub lock: &'a Lock,
    /// Somebody wants it to end.
    pub interrupted: &'a Interrupted,
}

/// Whether what changes goes into an environment by itself: the result of an upgrade of what
/// runs, until it was booted. A mere clone may be there to be gone back to, and has to stay as
/// it is. A system with a swapfile cannot be held still.
pub fn goes_by_itself(session: &Session, inv: &Inventory, env: &Environment) -> bool {
    session.config.carry.automatic
        && env.record.upgrade.is_some()
        && env.is_unbooted()
        && survey::is_from_running(inv, env)
        && inv.system.swapfiles.is_empty()
}

/// Whether something is to go over by itself before an environment boots next.
///
/// # Errors
/// When one of the trees cannot be read.
pub fn is_due(session: &Session, inv: &Inventory, env: &Environment) -> Result<bool> {
    if !goes_by_itself(session, inv, env) {
        return Ok(false);
    }
    let found = survey(session, inv, env, Origin::Live)?;
    Ok(!found.is_empty() || !found.packages.is_empty())
}

/// Carry what changed on the running system into an environment. Cut off at any point, the
/// environment boots, and doing it again ends in the same tree.
///
/// # Errors
/// [`Refusal::Busy`] if somebody works in it, [`Refusal::NotFromRunning`],
/// [`Refusal::Conflicts`] where that is asked for and a person has to look; all with nothing
/// written in the environment. Whatever else fails leaves the rest as it was.
pub fn over(session: &Session, inv: Inventory, name: &EnvName, terms: &Terms<'_>) -> Result<Over> {
    let claim = session.store.claim(name)?;
    over_claimed(session, inv, name, terms, &claim)
}

/// As [`over`], for who works in the environment already.
pub(crate) fn over_claimed(
    session: &Session,
    inv: Inventory,
    name: &EnvName,
    terms: &Terms<'_>,
    _claim: &Claim,
) -> Result<Over> {
    let env = inv.get(name)?.clone();
    if !survey::is_from_running(&inv, &env) {
        return Err(survey::refused(&inv, &env)?.into());
    }
    if let Some(path) = inv.system.swapfiles.first() {
        return Err(Refusal::Swapfile { path: path.clone() }.into());
    }
    let held = hold(session, &inv, &env).and_then(|bases| {
        let dir = Path::new(Paths::NEW).join(name.as_str()).join("base");
        let carry = survey(session, &inv, &env, Origin::Snapshots(&dir))?;
        let count = carry.conflicts().count();
        if terms.strict && count > 0 {
            let name = name.clone();
            return Err(Refusal::Conflicts { name, count }.into());
        }
        let before = before(session, inv, &env, terms)?;
        let applied = apply(session, &carry, terms.interrupted)?;
        session.store.top.sync()?;
        remember(session, name, &dir, bases)?;
        Ok(Over {
            carry,
            applied,
            before,
        })
    });
    let work = Path::new(Paths::NEW).join(name.as_str());
    let discarded = match session.store.dir.exists(work)? {
        true => discard_new(session, name.as_str()),
        false => Ok(()),
    };
    let done = held?;
    discarded?;
    Ok(done)
}

/// An environment works: how it was before something was carried into it is not needed any more.
///
/// # Errors
/// When the snapshot cannot be deleted.
pub fn forget(session: &Session, name: &EnvName, lock: &Lock) -> Result<()> {
    let inv = session.observe()?;
    let before = SnapName::parse(BEFORE).map_err(anyhow::Error::msg)?;
    let taken = inv.get(name)?.record.snapshot(&before);
    let Some(taken) = taken.filter(|taken| is_before(taken)) else {
        return Ok(());
    };
    let removal = plan::SnapshotRemoval::new(Named::snapshot(name, &before), taken);
    let plan = plan::Plan {
        steps: vec![plan::Step::RemoveSnapshot(removal)],
        notes: Vec::new(),
    };
    execute(session, inv, &plan, lock)?;
    Ok(())
}

/// Read-only snapshots of the running subvolumes, and what the record is to say of them.
fn hold(session: &Session, inv: &Inventory, env: &Environment) -> Result<Vec<(String, Base)>> {
    let store = &session.store;
    let running = inv.running()?;
    let work = Path::new(Paths::NEW).join(env.name().as_str());
    store.dir.mkdir_all(&work, 0o700)?;
    let mut found = Vec::new();
    let mut sources = Vec::new();
    let members = env.record.subvolumes.iter();
    for member in members.filter(|m| m.policy == Policy::Cloned) {
        let here = inv.counterpart(running, &member.mount);
        let here = here.context("it is not there on the running system")?;
        sources.push(here.uuid.clone());
        if let Some(base) = &member.base {
            sources.push(base.of.clone());
        }
        found.push((member.mount.clone(), member.place(), here.clone()));
    }
    let place = |base: &Path| Paths::environment(env.name()).join("base").join(base);
    for (_, at, _) in &found {
        // The one that is there lies here at the end, and has to be known by then.
        if let Ok(base) = store.dir.sub(place(at)) {
            let parent = be_btrfs::subvolume_info(&base)?.parent_uuid;
            sources.extend(parent.map(|uuid| uuid.to_string()));
        }
    }
    let work_dir = store.dir.sub(&work)?;
    work_dir.set_attribute(SOURCES, sources.join(",").as_bytes())?;
    let mut bases = Vec::new();
    for (mount, at, here) in found {
        let from = store.root_of(&here.path)?;
        let at = Path::new("base").join(at);
        let (info, _) = make_snapshot(session, &work_dir, &at, &from, Mode::ReadOnly)?;
        bases.push((
            mount,
            Base {
                uuid: info.uuid.to_string(),
                of: here.uuid,
                generation: info.otransid,
            },
        ));
    }
    Ok(bases)
}

/// Keep the environment as it is; if something was carried before, as it was before that.
fn before(
    session: &Session,
    inv: Inventory,
    env: &Environment,
    terms: &Terms<'_>,
) -> Result<Named> {
    let name = SnapName::parse(BEFORE).map_err(anyhow::Error::msg)?;
    let named = Named::snapshot(env.name(), &name);
    if let Some(there) = env.record.snapshot(&name) {
        return match is_before(there) {
            true => Ok(named),
            // Somebody else's: it tells of another moment.
            false => Err(Refusal::SnapshotExists { name: named }.into()),
        };
    }
    let request = plan::Snapshot {
        env: env.name().clone(),
        layout: session.layout(&inv, Some(&env.name().clone().into()))?,
        name,
        description: DESCRIPTION.into(),
        now: terms.now,
    };
    let planned = plan::snapshot(&inv, &request)?;
    execute(session, inv, &planned, terms.lock)?;
    Ok(named)
}

/// The snapshots take the places of the bases: what is newer than they are is what is carried
/// the next time.
fn remember(
    session: &Session,
    name: &EnvName,
    dir: &Path,
    bases: Vec<(String, Base)>,
) -> Result<()> {
    let store = &session.store;
    let home = Paths::environment(name);
    let mut record: Record = store.record_of(name)?;
    for (mount, base) in bases {
        let member = record.subvolumes.iter_mut().find(|m| m.mount == mount);
        member
            .with_context(|| format!("{name} has no {mount}"))?
            .next_base = Some(base);
    }
    store.write_record(&home, &record)?;
    // All at once, and with the directory: what is read-only cannot leave the one it is in.
    store.dir.exchange(dir, home.join("base"))?;
    // The record must not be newer on the disk than what it tells of.
    store.top.sync()?;
    for member in &mut record.subvolumes {
        member.take_next_base();
    }
    store.write_record(&home, &record)
}
