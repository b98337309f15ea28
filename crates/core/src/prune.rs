//! `be prune` at work: first what the rules do not keep, all with one menu; then, while
//! space is short, one after the other of what the rules only spare.

use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, TimeZone};

use crate::doctor;
use crate::execute::execute;
use crate::model::Inventory;
use crate::name::EnvName;
use crate::plan::{self, Reason};
use crate::policy::Judgement;
use crate::session::Session;
use crate::store::Lock;

/// How long to wait for the space of what was deleted.
const SPACE: Duration = Duration::from_secs(120);

/// Bytes by which free space has to grow for a deletion to have been of use.
const GAIN: u64 = 1 << 20;

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Pruned {
    /// Deleted because no rule keeps them.
    pub deleted: Vec<EnvName>,
    /// Deleted because space was short.
    pub for_space: Vec<EnvName>,
    /// What was decided, in which those of `for_space` are spare.
    pub judgement: Judgement,
    /// Bytes that can be written now.
    pub free: u64,
    /// A sentence each.
    pub notes: Vec<String>,
}

/// Decide, and do nothing.
///
/// # Errors
/// As for [`plan::judge`], and when the mounts of the machine cannot be read.
pub fn judge<Tz: TimeZone>(
    session: &Session,
    inv: &Inventory,
    now: &DateTime<Tz>,
) -> Result<Judgement> {
    let uses = session.uses(inv)?;
    let also = reasons(session, inv);
    Ok(plan::judge(inv, &uses, &also, &session.config.prune, now)?)
}

/// Why some have to stay that the inventory does not know.
fn reasons(session: &Session, inv: &Inventory) -> Vec<Reason> {
    let reason = |why: &'static str| {
        move |name| Reason {
            name,
            why: why.to_owned(),
        }
    };
    let chosen = doctor::chosen_by_grub_reboot(session, inv);
    doctor::grub_installed_in(session, inv)
        .into_iter()
        .map(reason(
            "grub-install was run in it: GRUB may read its own files from there",
        ))
        .chain(chosen.map(reason("grub-reboot chose it: it boots next")))
        .collect()
}

/// Delete what a new environment supersedes; gives their names, and a sentence for each that
/// has to stay. The lock proves that nobody else works.
///
/// # Errors
/// As for [`run`].
pub(crate) fn supersede(
    session: &Session,
    new: &EnvName,
    lock: &Lock,
) -> Result<(Vec<EnvName>, Vec<String>)> {
    let inv = session.observe()?;
    let uses = session.uses(&inv)?;
    let also = reasons(session, &inv);
    let (gone, stay) = plan::superseded(&inv, &uses, &also, inv.get(new)?);
    let mut notes: Vec<String> = stay
        .iter()
        .map(|r| format!("{} was never booted and is kept: {}", r.name, r.why))
        .collect();
    if !gone.is_empty() {
        delete(session, inv, &gone, lock, &mut notes)?;
    }
    Ok((gone, notes))
}

/// Whether less is free than the configuration wants.
pub fn is_short(session: &Session, free: u64) -> bool {
    free < session.config.prune.min_free_mib << 20
}

/// Prune. The lock proves that nobody else does.
///
/// # Errors
/// As for [`judge`], and the first deletion that fails; what was deleted before is gone.
pub fn run<Tz: TimeZone>(
    session: &Session,
    inv: Inventory,
    now: &DateTime<Tz>,
    lock: &Lock,
) -> Result<Pruned> {
    let judgement = judge(session, &inv, now)?;
    let mut done = Pruned {
        deleted: judgement.deleted(),
        ..Pruned::default()
    };
    if !done.deleted.is_empty() {
        delete(session, inv, &done.deleted, lock, &mut done.notes)?;
    }
    let mut room = session.store.top.space()?;
    let (mut helped, mut stopped) = (true, false);
    for name in &judgement.spare {
        if !is_short(session, free(&room)) {
            break;
        }
        if !helped && room.metadata_available() < room.data_available() {
            done.notes.push(
                "metadata is short, not data, and deleting gives none back: \
                 btrfs balance start -dusage=20 / may, then: be prune"
                    .into(),
            );
            stopped = true;
            break;
        }
        let inv = session.observe()?;
        // Somebody may have begun to use it meanwhile: judged anew.
        let again = judge(session, &inv, now)?;
        if again.spare.contains(name) {
            delete(
                session,
                inv,
                std::slice::from_ref(name),
                lock,
                &mut done.notes,
            )?;
            done.for_space.push(name.clone());
            let before = free(&room);
            room = session.store.top.space()?;
            helped = free(&room) >= before + GAIN;
        }
    }
    done.free = free(&room);
    if is_short(session, done.free) && !stopped {
        let stay = judgement.verdicts.len() - done.deleted.len() - done.for_space.len();
        done.notes.push(format!(
            "{} MiB are free, {} are wanted (min_free_mib), and no more may be deleted: \
             be prune -n says why each of the {stay} stays",
            done.free >> 20,
            session.config.prune.min_free_mib,
        ));
    }
    done.judgement = judgement;
    Ok(done)
}

pub(crate) fn delete(
    session: &Session,
    inv: Inventory,
    names: &[EnvName],
    lock: &Lock,
    notes: &mut Vec<String>,
) -> Result<()> {
    let uses = session.uses(&inv)?;
    let planned = plan::prune(&inv, &uses, names)?;
    let tree = session.store.top.tree()?;
    let uuids = planned.steps.iter().filter_map(|step| match step {
        plan::Step::Remove(removal) => Some(&removal.subvolumes),
        _ => None,
    });
    let ids: Vec<u64> = uuids
        .flatten()
        .filter_map(|member| tree.by_uuid(member.uuid.parse().ok()?).map(|n| n.id))
        .collect();
    let done = execute(session, inv, &planned, lock)?;
    notes.extend(done.notes);
    notes.extend(done.menu.iter().flat_map(crate::menu::Written::notes));
    // Only who has a goal has to know how near it is.
    if session.config.prune.min_free_mib > 0 && !session.store.top.wait_cleaned(&ids, SPACE)? {
        notes.push("the space of what was deleted is not back yet".into());
    }
    Ok(())
}

/// What can be written: data or metadata, whichever ends first.
fn free(space: &be_btrfs::Space) -> u64 {
    space.data_available().min(space.metadata_available())
}
