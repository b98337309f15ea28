//! The whole of it: the running system held still, what it changed put into the environment, and
//! what was carried remembered as the base of the next time.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context, Result};
use be_btrfs::{Mode, Root};
use chrono::{DateTime, FixedOffset};

use super::{Applied, Carry, Origin, apply::apply, survey};
use crate::chroot::Interrupted;
use crate::execute::{SOURCES, discard_new, execute};
use crate::model::{Environment, Inventory};
use crate::name::{EnvName, Named, SnapName};
use crate::plan;
use crate::record::{Base, Policy, Record};
use crate::refusal::Refusal;
use crate::session::Session;
use crate::store::{Lock, Paths};

/// The snapshot of the environment as it was before anything was carried into it.
pub const BEFORE: &str = "before-carry";

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

/// Carry what changed on the running system into an environment. Cut off at any point, the
/// environment boots, and doing it again ends in the same tree.
///
/// # Errors
/// [`Refusal::NotFromRunning`], [`Refusal::Conflicts`] where `strict` and a person has to look;
/// both with nothing written in the environment. Whatever else fails leaves the rest as it was.
pub fn over(
    session: &Session,
    inv: Inventory,
    name: &EnvName,
    strict: bool,
    now: DateTime<FixedOffset>,
    (lock, interrupted): (&Lock, &Interrupted),
) -> Result<Over> {
    let env = inv.get(name)?.clone();
    if env.busy {
        let what = format!("an upgrade works in {name}");
        return Err(Refusal::Busy { what }.into());
    }
    if let Some(path) = inv.system.swapfiles.first() {
        return Err(Refusal::Swapfile { path: path.clone() }.into());
    }
    let claim = session.store.claim(name)?;
    let held = hold(session, &inv, &env).and_then(|bases| {
        let dir = Path::new(Paths::NEW).join(name.as_str()).join("base");
        let carry = survey(session, &inv, &env, Origin::Snapshots(&dir))?;
        let count = carry.conflicts().count();
        if strict && count > 0 {
            let name = name.clone();
            return Err(Refusal::Conflicts { name, count }.into());
        }
        let before = before(session, inv, &env, now, lock)?;
        let applied = apply(session, &carry, interrupted)?;
        session.store.top.sync()?;
        remember(session, name, &dir, bases)?;
        Ok(Over {
            carry,
            applied,
            before,
        })
    });
    drop(claim);
    let discarded = match session
        .store
        .dir
        .exists(Path::new(Paths::NEW).join(name.as_str()))?
    {
        true => discard_new(session, name.as_str()),
        false => Ok(()),
    };
    let done = held?;
    discarded?;
    Ok(done)
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
        let here = match member.mount.as_str() {
            "/" => running.root.as_ref(),
            mount => {
                let part = inv.system.layout.part_at(Path::new(mount));
                part.map(|part| &part.subvolume)
            }
        };
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
        let info = read_only(session, &work_dir, &Path::new("base").join(at), &from)?;
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

fn read_only(
    session: &Session,
    work: &Root,
    at: &Path,
    from: &Root,
) -> Result<be_btrfs::SubvolumeInfo> {
    let dir = at.parent().unwrap_or(Path::new(""));
    let name = at.file_name().unwrap_or(OsStr::new("root"));
    work.mkdir_all(dir, 0o700)?;
    let dir = work.sub(dir)?;
    let top = &session.store.top;
    Ok(top.snapshot(from.fd(), dir.fd(), name, Mode::ReadOnly)?)
}

/// Keep the environment as it is; if something was carried before, as it was before that.
fn before(
    session: &Session,
    inv: Inventory,
    env: &Environment,
    now: DateTime<FixedOffset>,
    lock: &Lock,
) -> Result<Named> {
    let name = SnapName::parse(BEFORE).map_err(anyhow::Error::msg)?;
    let named = Named::snapshot(env.name(), &name);
    if env.record.snapshot(&name).is_some() {
        return Ok(named);
    }
    let request = plan::Snapshot {
        env: env.name().clone(),
        layout: session.layout(&inv, Some(&env.name().clone().into()))?,
        name,
        description: "before the running system was carried into it".into(),
        now,
    };
    let planned = plan::snapshot(&inv, &request)?;
    execute(session, inv, &planned, lock)?;
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
