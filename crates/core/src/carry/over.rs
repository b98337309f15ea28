//! The whole of it: the running system held still, what it changed put into the environment, and
//! what was carried remembered as the base of the next time.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use be_btrfs::Mode;
use be_portage::diff::PackageDiff;
use chrono::{DateTime, FixedOffset};

use super::Carry;
use super::apply::{Applied, apply};
use super::replay::{Replayed, replay};
use super::route::{ACTIVATED, Route};
use super::survey::{Origin, survey};
use crate::chroot::Interrupted;
use crate::execute::{SOURCES, discard_new, execute, make_snapshot};
use crate::gates::{self, Gate};
use crate::log;
use crate::model::{Environment, Inventory};
use crate::name::{EnvName, Named, SnapName};
use crate::plan;
use crate::record::{Base, Record, Snapshot, place};
use crate::refusal::Refusal;
use crate::session::Session;
use crate::store::{Claim, Lock, Paths};

/// The snapshot of the environment as it was before anything was carried into it.
pub const BEFORE: &str = "before-carry";

/// What its description says: it is ours.
const DESCRIPTION: &str = "before the running system was carried into it";

/// The same of one that is gone back to; with a number where there was one already.
const BEFORE_ROLLBACK: &str = "before-rollback";

/// What the description of [`ACTIVATED`] says.
const AS_ACTIVATED: &str = "as it was when it was activated";

fn is_activated(snapshot: &Snapshot) -> bool {
    snapshot.name.as_str() == ACTIVATED && snapshot.description == AS_ACTIVATED
}

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
    /// What became of packages; none if they were not to be touched.
    pub replayed: Option<Replayed>,
    /// The environment as it was before; none if there was no room for that, or somebody else's
    /// snapshot has that name.
    pub before: Option<Named>,
}

/// Look once more at what configuration can break that a person or a program changed, in an
/// environment into which something goes by itself.
///
/// # Errors
/// [`Refusal::Closed`].
pub fn still_good(session: &Session, name: &EnvName, interrupted: &Interrupted) -> Result<()> {
    let record = session.store.record_of(name)?;
    let off = record.upgrade.as_ref().map(|u| u.no_gates.clone());
    let off = off.unwrap_or_default();
    let found = gates::examine(session, &record, &[Gate::Sshd], &off, interrupted)?;
    match found.iter().find(|found| found.failed()) {
        None => Ok(()),
        Some(closed) => Err(Refusal::Closed {
            name: record.name,
            gate: closed.gate.name(),
            why: closed.short(),
        }
        .into()),
    }
}

impl Over {
    /// For be log.
    fn write_down(&self, session: &Session, terms: &Terms<'_>) -> Result<()> {
        let mut text = format!("=== {} carry\n", terms.now.format("%Y-%m-%d %H:%M:%S"));
        text.extend(self.sentences().iter().map(|s| format!("{s}\n")));
        let mut log = log::append(&session.store, &self.carry.to)?;
        log.write_all(text.as_bytes())
            .context("cannot write the log")
    }

    /// In short, for who did not ask for it.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let mut sentences = self.carry.sentences();
        sentences.extend(self.packages());
        sentences.extend(self.carry.notes.iter().cloned());
        sentences
    }

    /// What became of packages, in a sentence each; nothing if none changed.
    #[must_use]
    pub fn packages(&self) -> Vec<String> {
        let (from, to) = (&self.carry.from, &self.carry.to);
        let Some(replayed) = &self.replayed else {
            let changed = (!self.carry.packages.is_empty()).then(|| {
                let packages = self.carry.packages.join(", ");
                format!("packages that changed in {from}, and not in {to}: {packages}")
            });
            return changed.into_iter().collect();
        };
        let mut sentences = Vec::new();
        if !replayed.done.is_empty() {
            let done = replayed.done.join(", ");
            sentences.push(format!("packages as in {from}, in {to} too: {done}"));
        }
        let left = replayed.left.iter();
        sentences.extend(left.map(|(package, why)| format!("not in {to}: {package}: {why}")));
        sentences
    }
}

/// On what terms something goes over.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Not if a person has to look at something.
    pub strict: bool,
    /// Packages are installed and removed, too, which takes a while.
    pub packages: bool,
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
        && is_fresh(env)
        && Route::into_clone(inv, env).is_ok()
        && inv.system.swapfiles.is_empty()
}

/// Whether it is the result of an upgrade, and was not booted yet.
fn is_fresh(env: &Environment) -> bool {
    env.record.upgrade.is_some() && env.is_unbooted()
}

/// Whether something is to go over by itself before an environment boots next.
pub fn is_due(session: &Session, inv: &Inventory, env: &Environment) -> bool {
    let Ok(route) = Route::into_clone(inv, env) else {
        return false;
    };
    // What changes while it is looked at is looked at again where it is held still.
    let found = || survey(session, inv, &route, Origin::Live);
    goes_by_itself(session, inv, env)
        && (env.record.packages_wait.is_some()
            || found().map_or(true, |f| !f.is_empty() || !f.packages.is_empty()))
}

/// Carry what changed on the running system into an environment. Cut off at any point, the
/// environment boots, and doing it again ends in the same tree.
///
/// # Errors
/// [`Refusal::Busy`] if somebody works in it, [`Refusal::Swapfile`], [`Refusal::Conflicts`]
/// where that is asked for and a person has to look; all with nothing written in the
/// environment. Whatever else fails leaves the rest as it was.
pub fn over(session: &Session, inv: Inventory, route: &Route, terms: &Terms<'_>) -> Result<Over> {
    let claim = session.store.claim(&route.to)?;
    over_claimed(session, inv, route, terms, &claim)
}

/// As [`over`], for who works in the environment already.
pub(crate) fn over_claimed(
    session: &Session,
    inv: Inventory,
    route: &Route,
    terms: &Terms<'_>,
    _claim: &Claim,
) -> Result<Over> {
    let name = &route.to;
    let env = inv.get(name)?.clone();
    if let Some(path) = inv.system.swapfiles.first() {
        return Err(Refusal::Swapfile { path: path.clone() }.into());
    }
    let held = hold(session, route, &env).and_then(|bases| {
        let dir = Path::new(Paths::NEW).join(name.as_str()).join("base");
        let from = Origin::Snapshots(&dir, terms.interrupted);
        let carry = survey(session, &inv, route, from)?;
        let count = carry.conflicts().count();
        if terms.strict && count > 0 {
            let name = name.clone();
            return Err(Refusal::Conflicts { name, count }.into());
        }
        let before = match route.back {
            true => Some(before_rollback(session, inv, &env, terms)?),
            false => before(session, inv, &env, terms)?,
        };
        let applied = apply(session, &carry, terms.interrupted)?;
        let packages = terms.packages && session.config.carry.packages;
        let replayed = match packages && !route.back {
            true => {
                let mut diff = env.record.packages_wait.clone().unwrap_or_default();
                add(&mut diff, &carry.diff);
                Some(replay(session, route, &diff, terms)?)
            }
            false => None,
        };
        keep_in_mind(session, name, &applied)?;
        session.store.top.sync()?;
        let over = Over {
            carry,
            applied,
            replayed,
            before,
        };
        // Whatever happens after this: it will not be found again.
        over.write_down(session, terms)?;
        if !route.back {
            packages_wait(session, &over)?;
            remember(session, name, &dir, bases)?;
        }
        Ok(over)
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

/// Note down the packages that are to go over when there is time for it: they will not be found
/// again.
fn packages_wait(session: &Session, over: &Over) -> Result<()> {
    let name = &over.carry.to;
    let mut record = session.store.record_of(name)?;
    let before = record.packages_wait.clone();
    record.packages_wait = match &over.replayed {
        Some(_) => None,
        None if session.config.carry.packages && !over.carry.packages.is_empty() => {
            let mut all = before.clone().unwrap_or_default();
            add(&mut all, &over.carry.diff);
            Some(all)
        }
        None => before.clone(),
    };
    if record.packages_wait == before {
        return Ok(());
    }
    session
        .store
        .write_record(&Paths::environment(name), &record)
}

/// More changes, after others.
fn add(all: &mut PackageDiff, more: &PackageDiff) {
    all.added.extend(more.added.iter().cloned());
    all.removed.extend(more.removed.iter().cloned());
    for (all, more) in [
        (&mut all.upgraded, &more.upgraded),
        (&mut all.downgraded, &more.downgraded),
        (&mut all.rebuilt, &more.rebuilt),
    ] {
        all.extend(more.iter().cloned());
    }
}

/// Keep the result of an upgrade as it is when it is about to boot for the first time: what is
/// newer in it can be taken back one day.
///
/// That it cannot be taken keeps nothing from booting.
pub fn keep_activated(session: &Session, name: &EnvName, now: DateTime<FixedOffset>, lock: &Lock) {
    if let Err(e) = try_keep_activated(session, name, now, lock) {
        tracing::warn!("{name}@{ACTIVATED} was not taken: {e:#}");
    }
}

fn try_keep_activated(
    session: &Session,
    name: &EnvName,
    now: DateTime<FixedOffset>,
    lock: &Lock,
) -> Result<()> {
    let inv = session.observe()?;
    let env = inv.get(name)?;
    // It must be possible to boot it on a full disk.
    if !is_fresh(env) || inv.fs.free < plan::MIN_FREE {
        return Ok(());
    }
    let snapshot = SnapName::parse(ACTIVATED).map_err(anyhow::Error::msg)?;
    let inv = match env.record.snapshot(&snapshot) {
        Some(there) if !is_activated(there) => return Ok(()),
        Some(_) => remove(session, inv, name, &snapshot, lock)?,
        None => inv,
    };
    take(session, inv, name, (snapshot, AS_ACTIVATED), now, lock)
}

/// The running environment works: how it was before something was carried into it is not needed
/// any more, nor how others were when they were activated.
///
/// # Errors
/// When a snapshot cannot be deleted.
pub fn forget(session: &Session, name: &EnvName, lock: &Lock) -> Result<()> {
    let mut inv = session.observe()?;
    let mut unneeded = Vec::new();
    for env in &inv.environments {
        let ours = env
            .record
            .snapshots
            .iter()
            .filter(|taken| match env.name() == name {
                true => is_before(taken),
                false => is_activated(taken) && !is_fresh(env),
            });
        unneeded.extend(ours.map(|taken| (env.name().clone(), taken.name.clone())));
    }
    for (name, snapshot) in unneeded {
        inv = remove(session, inv, &name, &snapshot, lock)?;
    }
    Ok(())
}

fn remove(
    session: &Session,
    inv: Inventory,
    name: &EnvName,
    snapshot: &SnapName,
    lock: &Lock,
) -> Result<Inventory> {
    if let Some(taken) = inv.get(name)?.record.snapshot(snapshot) {
        let removal = plan::SnapshotRemoval::new(Named::snapshot(name, snapshot), taken);
        let plan = plan::Plan {
            steps: vec![plan::Step::RemoveSnapshot(removal)],
            notes: Vec::new(),
        };
        execute(session, inv, &plan, lock)?;
    }
    session.observe()
}

fn take(
    session: &Session,
    inv: Inventory,
    env: &EnvName,
    (name, description): (SnapName, &str),
    now: DateTime<FixedOffset>,
    lock: &Lock,
) -> Result<()> {
    let request = plan::Snapshot {
        env: env.clone(),
        layout: session.layout(&inv, Some(&env.clone().into()))?,
        name,
        description: description.to_owned(),
        now,
    };
    let planned = plan::snapshot(&inv, &request)?;
    execute(session, inv, &planned, lock)?;
    Ok(())
}

/// Read-only snapshots of the running subvolumes, and what the record is to say of them.
fn hold(session: &Session, route: &Route, env: &Environment) -> Result<Vec<(String, Base)>> {
    let store = &session.store;
    let work = Path::new(Paths::NEW).join(env.name().as_str());
    store.dir.mkdir_all(&work, 0o700)?;
    let mut sources: Vec<_> = route.legs.iter().map(|leg| leg.here.uuid.clone()).collect();
    if !route.back {
        // The bases that are there lie here at the end, and have to be known by then.
        let members = env.record.subvolumes.iter();
        sources.extend(members.filter_map(|m| Some(m.base.as_ref()?.of.clone())));
        for leg in &route.legs {
            let base = store.root_of(&leg.base)?;
            let parent = be_btrfs::subvolume_info(&base)?.parent_uuid;
            sources.extend(parent.map(|uuid| uuid.to_string()));
        }
    }
    let work_dir = store.dir.sub(&work)?;
    work_dir.set_attribute(SOURCES, sources.join(",").as_bytes())?;
    let mut bases = Vec::new();
    for leg in &route.legs {
        let from = store.root_of(&leg.here.path)?;
        let at = Path::new("base").join(place(&leg.mount));
        let (info, _) = make_snapshot(session, &work_dir, &at, &from, Mode::ReadOnly)?;
        bases.push((
            leg.mount.clone(),
            Base {
                uuid: info.uuid.to_string(),
                of: leg.here.uuid.clone(),
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
) -> Result<Option<Named>> {
    let name = SnapName::parse(BEFORE).map_err(anyhow::Error::msg)?;
    let named = Named::snapshot(env.name(), &name);
    if let Some(there) = env.record.snapshot(&name) {
        // Somebody else's tells of another moment.
        return Ok(is_before(there).then_some(named));
    }
    if inv.fs.free < plan::MIN_FREE {
        return Ok(None);
    }
    let what = (name, DESCRIPTION);
    take(session, inv, env.name(), what, terms.now, terms.lock)?;
    Ok(Some(named))
}

/// Keep the environment as it is; each time anew, as it is one that somebody has worked with.
fn before_rollback(
    session: &Session,
    inv: Inventory,
    env: &Environment,
    terms: &Terms<'_>,
) -> Result<Named> {
    let names = (1..).map(|n| match n {
        1 => BEFORE_ROLLBACK.to_owned(),
        n => format!("{BEFORE_ROLLBACK}-{n}"),
    });
    let mut names = names.filter_map(|name| SnapName::parse(&name).ok());
    let free = names.find(|name| env.record.snapshot(name).is_none());
    let name = free.context("no name is free")?;
    let named = Named::snapshot(env.name(), &name);
    let what = (name, DESCRIPTION);
    take(session, inv, env.name(), what, terms.now, terms.lock)?;
    Ok(named)
}

/// Note down what was put beside something else, until it is gone.
fn keep_in_mind(session: &Session, name: &EnvName, applied: &Applied) -> Result<()> {
    if applied.beside.is_empty() {
        return Ok(());
    }
    let mut record = session.store.record_of(name)?;
    let known = record.beside.iter().cloned();
    let new = applied.beside.iter();
    let new = new.map(|path| format!("/{}", path.to_string_lossy()));
    let all: BTreeSet<_> = known.chain(new).collect();
    record.beside = all.into_iter().collect();
    session
        .store
        .write_record(&Paths::environment(name), &record)
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
