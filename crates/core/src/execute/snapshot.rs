//! Snapshots of environments: taken, deleted, and put in the place of what they are of.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use be_btrfs::{Mode, Root, Uuid};

use super::clone::placeholder;
use super::remove::{SOURCES, delete, discard_new, in_use};
use crate::carry;
use crate::fstab::Fstab;
use crate::name::{EnvName, Named};
use crate::observe::MAX_TEXT;
use crate::plan::{RestoreSpec, SnapshotRemoval, SnapshotSpec};
use crate::record::{Record, Snapshot, SnapshotMember, place};
use crate::refusal::Refusal;
use crate::session::Session;
use crate::store::Paths;

/// What lies beside the subvolumes of an environment and stays when they are replaced.
const KEPT: [&str; 3] = ["base", "snap", "log"];

/// Take a snapshot: the subvolumes under `.work`, the record, then one rename.
pub(super) fn take(session: &Session, spec: &SnapshotSpec) -> Result<()> {
    let name = Named::snapshot(&spec.env, &spec.snapshot.name).to_string();
    let taken = make(session, spec, &name);
    if taken.is_err() {
        // The failure is what counts; what stays is swept by the next be.
        let _swept = discard_new(session, &name);
    }
    taken
}

fn make(session: &Session, spec: &SnapshotSpec, name: &str) -> Result<()> {
    let store = &session.store;
    let work = Path::new(Paths::NEW).join(name);
    store.dir.mkdir_all(&work, 0o700)?;
    let uuids: Vec<_> = spec.members.iter().map(|m| m.uuid.as_str()).collect();
    store
        .dir
        .sub(&work)?
        .set_attribute(SOURCES, uuids.join(",").as_bytes())?;
    let mut snapshot = spec.snapshot.clone();
    for member in &spec.members {
        let from = store.root_of(&member.from)?;
        if be_btrfs::subvolume_info(&from)?.uuid.to_string() != member.uuid {
            bail!("/{} is another subvolume by now", member.from.display());
        }
        let made = copy(
            session,
            &from,
            &work.join(place(&member.mount)),
            Mode::ReadOnly,
        )?;
        let member = SnapshotMember::new(&member.mount, made.to_string(), member.nested.clone());
        snapshot.subvolumes.push(member);
    }
    let mut record = session.store.record_of(&spec.env)?;
    record.snapshots.push(snapshot.clone());
    store.write_record(&Paths::environment(&spec.env), &record)?;
    publish(session, &spec.env, &snapshot, &work)
}

/// A snapshot of one subvolume at this path; gives its UUID.
fn copy(session: &Session, from: &Root, to: &Path, mode: Mode) -> Result<Uuid> {
    let store = &session.store;
    let (dir, name) = (to.parent(), to.file_name());
    let (dir, name) = dir.zip(name).context("a subvolume has no name")?;
    store.dir.mkdir_all(dir, 0o700)?;
    let dir = store.dir.sub(dir)?;
    let made = store
        .top
        .snapshot(from.fd(), dir.fd(), OsStr::new(name), mode)?;
    Ok(made.uuid)
}

fn publish(session: &Session, env: &EnvName, snapshot: &Snapshot, work: &Path) -> Result<()> {
    let store = &session.store;
    let home = Paths::environment(env);
    store.dir.mkdir_all(home.join("snap"), 0o700)?;
    store
        .dir
        .rename_noreplace(work, home.join(snapshot.place()))
        .with_context(|| format!("cannot publish {env}@{}", snapshot.name))
}

/// A snapshot that was being taken, named by its directory: published if the record knows
/// it, which was the last step but one. False if it does not.
pub(super) fn finish_new(session: &Session, name: &Named) -> Result<bool> {
    let work = Path::new(Paths::NEW).join(name.to_string());
    let Some(snapshot) = recorded(session, name) else {
        return Ok(false);
    };
    for (path, uuid) in snapshot.made() {
        let info = be_btrfs::subvolume_info(&session.store.dir.sub(work.join(path))?)?;
        if info.uuid.to_string() != uuid {
            return Ok(false);
        }
    }
    publish(session, &name.env, &snapshot, &work)?;
    Ok(true)
}

/// What the record of the environment says of this snapshot.
fn recorded(session: &Session, name: &Named) -> Option<Snapshot> {
    let record = session.store.record(name.env.as_str()).ok()?;
    record.snapshot(name.snapshot.as_ref()?).cloned()
}

/// Delete a snapshot. The record proves what is ours, so it forgets it last.
pub(super) fn remove(session: &Session, number: &str, removal: &SnapshotRemoval) -> Result<()> {
    let store = &session.store;
    let snapshot = removal
        .name
        .snapshot
        .as_ref()
        .context("no snapshot is named")?;
    let home = Paths::environment(&removal.name.env);
    let place = home.join(crate::record::snapshot_place(snapshot));
    let gone = Path::new(Paths::GONE).join(removal.name.to_string());
    store.dir.mkdir_all(Paths::GONE, 0o700)?;
    if store.dir.exists(&place)? {
        store.dir.rename_noreplace(&place, &gone)?;
        // As for an environment: who mounted it meanwhile is seen here.
        if let Some(by) = in_use(number, &gone)? {
            store.dir.rename_noreplace(&gone, &place)?;
            let name = removal.name.clone();
            return Err(Refusal::InUse { name, by }.into());
        }
        store.top.commit()?;
    }
    finish_gone(session, &removal.name)
}

/// The rest of it, also after it was cut off.
pub(super) fn finish_gone(session: &Session, name: &Named) -> Result<()> {
    let store = &session.store;
    let gone = Path::new(Paths::GONE).join(name.to_string());
    if let Some(snapshot) = recorded(session, name) {
        let made = snapshot.made();
        let ours = made.filter_map(|(path, uuid)| Some((path, uuid.parse().ok()?)));
        super::remove::delete_subvolumes(session, &gone, &ours.collect::<Vec<_>>())?;
        let mut record = session.store.record_of(&name.env)?;
        record.snapshots.retain(|s| s.name != snapshot.name);
        let home = Paths::environment(&name.env);
        store.write_record(&home, &record)?;
        if record.snapshots.is_empty() {
            // Only tidier: a directory that is not empty stays.
            let _not_empty = store.dir.rmdir(home.join("snap"));
        }
    }
    if store.dir.exists(&gone)? {
        delete(session, &gone, &[])?;
    }
    Ok(store.top.sync()?)
}

/// Put an environment back: a whole new one is built from the snapshot under `.work`, and
/// exchanged with it by one rename.
pub(super) fn restore(session: &Session, number: &str, spec: &RestoreSpec) -> Result<()> {
    let store = &session.store;
    let name = spec.env.as_str();
    let work = Path::new(Paths::NEW).join(name);
    let home = Paths::environment(&spec.env);
    let build = || -> Result<()> {
        store.dir.mkdir_all(&work, 0o700)?;
        let record = restored(session, spec, &work)?;
        store.write_new_record(&work, &record)?;
        store.top.sync()?;
        Ok(store.dir.exchange(&work, &home)?)
    };
    if let Err(e) = build() {
        // The failure is what counts; what stays is swept by the next be.
        let _swept = discard_new(session, name);
        return Err(e);
    }
    // A mount follows the rename: who mounted it while the plan was made is seen here.
    for part in ["root", "vol", "base"] {
        if let Some(by) = in_use(number, &work.join(part))? {
            store.dir.exchange(&work, &home)?;
            let _swept = discard_new(session, name);
            let name = spec.env.clone().into();
            return Err(Refusal::InUse { name, by }.into());
        }
    }
    store.top.commit()?;
    discard_new(session, name)
}

/// The subvolumes of the environment as they will be, in `work`; and its record.
fn restored(session: &Session, spec: &RestoreSpec, work: &Path) -> Result<Record> {
    let store = &session.store;
    let from = Paths::environment(&spec.env).join(spec.snapshot.place());
    let mut record = session.store.record_of(&spec.env)?;
    record.state = spec.snapshot.state;
    if record
        .upgrade
        .as_ref()
        .is_some_and(|u| u.started > spec.snapshot.created)
    {
        record.upgrade = None;
    }
    let is_before = carry::is_before(&spec.snapshot);
    for taken in &spec.snapshot.subvolumes {
        let place = place(&taken.mount);
        let source = store.dir.sub(from.join(&place))?;
        if be_btrfs::subvolume_info(&source)?.uuid.to_string() != taken.uuid {
            bail!(
                "/{} is another subvolume by now",
                from.join(place).display()
            );
        }
        let taken_at = be_btrfs::subvolume_info(&source)?.otransid;
        let made = copy(session, &source, &work.join(&place), Mode::Writable)?;
        for member in record
            .subvolumes
            .iter_mut()
            .filter(|m| m.mount == taken.mount)
        {
            member.uuid = made.to_string();
            // What was carried later is not in it, and nobody holds the base of before.
            if let Some(base) = &mut member.base
                && member.cloned_from.is_some()
                && (is_before || base.generation > taken_at)
            {
                base.of = Uuid::from_bytes([0; 16]).to_string();
            }
        }
        let root = store.dir.sub(work.join(&place))?;
        for path in &taken.nested {
            placeholder(&root, &source, path)
                .with_context(|| format!("cannot make /{} usable", path.display()))?;
        }
        if taken.mount == "/" {
            rewrite_fstab(&root, &spec.env)?;
        }
    }
    Ok(record)
}

/// The environment may have been renamed since the snapshot was taken.
fn rewrite_fstab(root: &Root, name: &EnvName) -> Result<()> {
    const FSTAB: &str = "etc/fstab";
    let text = match root.read_to_string(FSTAB, MAX_TEXT) {
        Ok(text) => text,
        Err(e) if e.is_not_found() => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let old = Fstab::parse(&text);
    let new = old.with_environment(name);
    if new != old {
        root.write_synced(FSTAB, new.to_text().as_bytes(), 0o644)?;
    }
    Ok(())
}

/// What an exchange left under `.work`: what is to be kept goes back to the environment,
/// which has none of it, and the record there proves the rest to be ours.
pub(super) fn finish_exchange(session: &Session, name: &EnvName) -> Result<bool> {
    let store = &session.store;
    let work = Path::new(Paths::NEW).join(name.as_str());
    let home = Paths::environment(name);
    if !store.dir.exists(work.join("be.json"))? || !store.dir.exists(home.join("be.json"))? {
        return Ok(false);
    }
    let text = store.dir.read_to_string(work.join("be.json"), MAX_TEXT)?;
    let record = Record::parse(&text, name.as_str())
        .map_err(|why| anyhow::anyhow!("its record cannot be read: {why}"))?;
    for dir in KEPT {
        if store.dir.exists(work.join(dir))? && !store.dir.exists(home.join(dir))? {
            store.dir.rename_noreplace(work.join(dir), home.join(dir))?;
        }
    }
    store.top.commit()?;
    let ours: Vec<_> = record
        .subvolumes
        .iter()
        .filter_map(|m| Some((m.place(), m.uuid.parse().ok()?)))
        .collect();
    delete(session, &work, &ours)?;
    store.top.sync()?;
    Ok(true)
}
