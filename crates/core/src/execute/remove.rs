//! Taking environments away, and what interrupted commands left. Only what is proven to be
//! ours is deleted, by its UUID.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use be_btrfs::Uuid;

use super::{rename, snapshot, split};
use crate::name::{EnvName, Named};
use crate::observe::{self, MAX_TEXT};
use crate::plan::Removal;
use crate::record::Record;
use crate::refusal::Refusal;
use crate::session::Session;
use crate::store::{Lock, Paths};
use crate::travel;
use crate::vm::hold;

/// The extended attribute on the directory of an unfinished clone that holds the UUIDs of
/// what is cloned, with commas between. It is on the disk as soon as a snapshot is.
pub(crate) const SOURCES: &str = "trusted.be.sources";

pub(super) fn remove(session: &Session, number: &str, removal: &Removal) -> Result<()> {
    let dir = &session.store.dir;
    dir.mkdir_all(Paths::GONE, 0o700)?;
    let gone = Path::new(Paths::GONE).join(removal.name.as_str());
    let home = Paths::environment(&removal.name);
    let paths = session.strangers(&removal.name)?;
    if !paths.is_empty() {
        let name = removal.name.clone();
        return Err(Refusal::Nested { name, paths }.into());
    }
    dir.rename_noreplace(&home, &gone)?;
    // Whoever mounts it from now on finds no environment; whoever did so while the plan was
    // made is seen here, because a mount follows the rename.
    if let Some(by) = in_use(number, &gone)? {
        dir.rename_noreplace(&gone, &home)?;
        let name = removal.name.clone().into();
        return Err(Refusal::InUse { name, by }.into());
    }
    session.store.top.commit()?;
    let subvolumes: Vec<(PathBuf, Uuid)> = removal
        .subvolumes
        .iter()
        .map(|m| Ok((m.path.clone(), m.uuid.parse().context("a UUID is damaged")?)))
        .collect::<Result<_>>()?;
    delete(session, &gone, &subvolumes)
}

/// Who has mounted something below this directory of the store; `number` is
/// [`crate::model::Filesystem::number`].
pub(super) fn in_use(number: &str, at: &Path) -> Result<Option<String>> {
    let found = observe::uses(number)?
        .into_iter()
        .find(|u| u.subvolume.starts_with(at));
    Ok(found.map(|u| {
        format!(
            "it is mounted at {} for process {}",
            u.target.display(),
            u.pid
        )
    }))
}

/// Delete these subvolumes, then the directory if nothing else is in it. The caller syncs.
pub(crate) fn delete(session: &Session, at: &Path, subvolumes: &[(PathBuf, Uuid)]) -> Result<()> {
    delete_subvolumes(session, at, subvolumes)?;
    let dir = &session.store.dir;
    dir.remove_tree(at)
        .with_context(|| format!("/{} is left behind", at.display()))
}

/// Delete these subvolumes where they are there.
pub(super) fn delete_subvolumes(
    session: &Session,
    at: &Path,
    subvolumes: &[(PathBuf, Uuid)],
) -> Result<()> {
    let dir = &session.store.dir;
    for (path, uuid) in subvolumes {
        let path = at.join(path);
        if !dir.exists(&path)? {
            continue;
        }
        let (parent, name) = session.store.parent_of(&path)?;
        // One that was being replaced may be either.
        let found = be_btrfs::subvolume_info(&parent.sub(name)?)?.uuid;
        let other = |(p, u): &(PathBuf, Uuid)| at.join(p) == path && *u == found;
        if found != *uuid && subvolumes.iter().any(other) {
            continue;
        }
        session
            .store
            .top
            .delete_subvolume(parent.fd(), name, *uuid)?;
    }
    Ok(())
}

/// Whether a file of this name is what a killed process had not renamed yet.
pub(crate) fn is_unfinished(name: &str) -> bool {
    name.starts_with(".be-") && name.ends_with(".tmp")
}

/// Take away what an interrupted `be` left. Gives a sentence for each thing done.
///
/// # Errors
/// Nothing is an error here but the store being unreadable: what cannot be proven to be
/// ours is left and named.
pub fn sweep(session: &Session, _lock: &Lock) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for name in session.store.work(Paths::GRUB) {
        // What a killed process had not renamed yet; whoever has the lock has none there.
        if is_unfinished(&name) {
            session
                .store
                .dir
                .remove_file(Path::new(Paths::GRUB).join(name))?;
        }
    }
    sweep_links(session)?;
    for name in session.store.work(Paths::NEW) {
        if let Some(snapshot) = snapshot_named(&name)
            && matches!(snapshot::finish_new(session, &snapshot), Ok(true))
        {
            notes.push(format!("finished the snapshot {name}"));
            continue;
        }
        notes.push(match discard_new(session, &name) {
            Ok(()) => format!("removed what an interrupted command left of {name}"),
            Err(e) => format!("left /{}/{name} alone: {e:#}", Paths::NEW),
        });
    }
    for name in session.store.work(Paths::GONE) {
        notes.push(match finish_gone(session, &name) {
            Ok(()) => format!("finished the removal of {name}"),
            Err(e) => format!("left /{}/{name} alone: {e:#}", Paths::GONE),
        });
    }
    notes.extend(split::sweep(session)?);
    notes.extend(hold::sweep(session));
    notes.extend(travel::sweep(session));
    notes.extend(settle(session)?);
    Ok(notes)
}

/// Subvolumes that were being replaced, of which the record names both: it is the one that
/// is in its place.
fn settle(session: &Session) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let records = session.store.records()?.into_iter();
    let records = records.filter_map(|(_, record)| record.ok());
    let unsettled = |r: &Record| {
        let mut members = r.subvolumes.iter();
        members.any(|m| m.replacement.is_some() || m.next_base.is_some())
    };
    for mut record in records.filter(unsettled) {
        let tree = session.store.top.tree()?;
        let home = Paths::environment(&record.name);
        let mut settled = false;
        for member in &mut record.subvolumes {
            if let Some(next) = &member.next_base {
                let found = next.uuid.parse().ok().and_then(|uuid| tree.by_uuid(uuid));
                let place = home.join("base").join(member.place());
                match found.is_some_and(|found| found.path == place) {
                    true => member.take_next_base(),
                    false => member.next_base = None,
                }
                settled = true;
            }
            let Some(new) = member.replacement.clone() else {
                continue;
            };
            let there = |uuid: &str| {
                let found = tree.by_uuid(uuid.parse().ok()?)?;
                let in_place = match record.adopted {
                    true => !found.path.starts_with("@be/.work"),
                    false => found.path == home.join(member.place()),
                };
                in_place.then_some(())
            };
            if there(&new).is_some() {
                member.uuid = new;
            } else if there(&member.uuid).is_none() {
                // Neither: its owner has to look.
                continue;
            }
            member.replacement = None;
            settled = true;
        }
        if settled {
            session.store.write_record(&home, &record)?;
            notes.push(format!(
                "the record of {} names the subvolumes that it has",
                record.name
            ));
        }
    }
    Ok(notes)
}

/// `ENV@SNAP`, as the directory of a snapshot that is at work is called.
fn snapshot_named(name: &str) -> Option<Named> {
    let named: Named = name.parse().ok()?;
    named.snapshot.is_some().then_some(named)
}

/// Second names that no rename needs any more.
fn sweep_links(session: &Session) -> Result<()> {
    let links = session.store.links()?;
    if links.is_empty() {
        return Ok(());
    }
    let records = session.store.records()?;
    if records.iter().any(|(_, record)| record.is_err()) {
        // It may be the one that needs it.
        return Ok(());
    }
    for name in links {
        let needed = |record: &Record| {
            let names = [&record.renaming, &record.renamed_from];
            names.into_iter().flatten().any(|n| *n == name)
        };
        if !records
            .iter()
            .any(|(_, record)| record.as_ref().is_ok_and(needed))
        {
            rename::remove_link(session, &name)?;
        }
    }
    Ok(())
}

/// An unfinished clone or snapshot: a subvolume is ours if it descends from what was to be
/// cloned, from an environment or one of its snapshots, or from what was found to be ours
/// here. Nobody else makes snapshots at these places.
pub(crate) fn discard_new(session: &Session, name: &str) -> Result<()> {
    if let Ok(env) = name.parse::<EnvName>()
        && snapshot::finish_exchange(session, &env)?
    {
        return Ok(());
    }
    let work = Path::new(Paths::NEW).join(name);
    let dir = &session.store.dir;
    let sources = dir.sub(&work)?.attribute(SOURCES)?.unwrap_or_default();
    let records = session.store.records()?;
    let recorded = records
        .iter()
        .filter_map(|(_, record)| record.as_ref().ok())
        .flat_map(|record| {
            let snapshots = record.snapshots.iter().flat_map(|s| &s.subvolumes);
            let own = record.subvolumes.iter().map(|m| m.uuid.as_str());
            own.chain(snapshots.map(|m| m.uuid.as_str()))
        });
    let mut ancestors: Vec<Uuid> = String::from_utf8_lossy(&sources)
        .split(',')
        .chain(recorded)
        .filter_map(|uuid| uuid.parse().ok())
        .collect();
    let tree = session.store.top.tree()?;
    let mut found: Vec<_> = tree.iter().filter(|n| n.path.starts_with(&work)).collect();
    // A base before the root that was made from it.
    found.sort_by_key(|n| n.id);
    let mut ours = Vec::new();
    for node in found {
        if !node
            .parent_uuid
            .is_some_and(|uuid| ancestors.contains(&uuid))
        {
            bail!("/{} is not known to be made by be", node.path.display());
        }
        ancestors.push(node.uuid);
        ours.push((node.path.strip_prefix(&work)?.to_owned(), node.uuid));
    }
    delete(session, &work, &ours)?;
    Ok(session.store.top.sync()?)
}

fn finish_gone(session: &Session, name: &str) -> Result<()> {
    let gone = Path::new(Paths::GONE).join(name);
    if let Some(by) = in_use(&session.observe()?.fs.number, &gone)? {
        bail!("{by}");
    }
    if let Some(snapshot) = snapshot_named(name) {
        return snapshot::finish_gone(session, &snapshot);
    }
    let record = read_record(session, &gone, name)?;
    let ours: Vec<_> = record
        .iter()
        .flat_map(Record::made)
        .filter_map(|(path, uuid)| Some((path, uuid.parse().ok()?)))
        .collect();
    delete(session, &gone, &ours)?;
    Ok(session.store.top.sync()?)
}

fn read_record(session: &Session, at: &Path, name: &str) -> Result<Option<Record>> {
    match session
        .store
        .dir
        .read_to_string(at.join("be.json"), MAX_TEXT)
    {
        Ok(text) => Record::parse(&text, name)
            .map(Some)
            .map_err(|why| anyhow::anyhow!("its record cannot be read: {why}")),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e.into()),
    }
}
