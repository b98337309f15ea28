//! Taking environments away, and what interrupted commands left. Only what is proven to be
//! ours is deleted, by its UUID.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use be_btrfs::Uuid;

use crate::observe::{self, MAX_TEXT};
use crate::plan::Removal;
use crate::record::Record;
use crate::refusal::Refusal;
use crate::session::Session;
use crate::store::{Lock, Paths};

pub(super) fn remove(session: &Session, number: &str, removal: &Removal) -> Result<()> {
    let dir = &session.store.dir;
    dir.mkdir_all(Paths::GONE, 0o700)?;
    let gone = Path::new(Paths::GONE).join(removal.name.as_str());
    let home = Paths::environment(&removal.name);
    dir.rename_noreplace(&home, &gone)?;
    // Whoever mounts it from now on finds no environment; whoever did so while the plan was
    // made is seen here, because a mount follows the rename.
    if let Some(by) = in_use(number, &gone)? {
        dir.rename_noreplace(&gone, &home)?;
        let name = removal.name.clone();
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
fn in_use(number: &str, at: &Path) -> Result<Option<String>> {
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
fn delete(session: &Session, at: &Path, subvolumes: &[(PathBuf, Uuid)]) -> Result<()> {
    let dir = &session.store.dir;
    for (path, uuid) in subvolumes {
        let path = at.join(path);
        if !dir.exists(&path)? {
            continue;
        }
        let (parent, name) = session.store.parent_of(&path)?;
        session
            .store
            .top
            .delete_subvolume(parent.fd(), name, *uuid)?;
    }
    dir.remove_tree(at)
        .with_context(|| format!("/{} is left behind", at.display()))
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
        if name.starts_with(".be-") && name.ends_with(".tmp") {
            session
                .store
                .dir
                .remove_file(Path::new(Paths::GRUB).join(name))?;
        }
    }
    for name in session.store.work(Paths::NEW) {
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
    Ok(notes)
}

/// An unfinished clone: its base is ours if it descends from an environment, and its root
/// if it descends from that base. Nobody else makes snapshots at these paths.
pub(super) fn discard_new(session: &Session, name: &str) -> Result<()> {
    let work = Path::new(Paths::NEW).join(name);
    let dir = &session.store.dir;
    let mut ancestors: Vec<Uuid> = session
        .store
        .records()?
        .iter()
        .filter_map(|(_, record)| record.as_ref().ok()?.root()?.uuid.parse().ok())
        .collect();
    let mut ours = Vec::new();
    for path in ["base/root", "root"] {
        let at = work.join(path);
        if !dir.exists(&at)? {
            continue;
        }
        let info = be_btrfs::subvolume_info(&dir.sub(&at)?)?;
        if !info
            .parent_uuid
            .is_some_and(|uuid| ancestors.contains(&uuid))
        {
            bail!("/{} is not known to be made by be", at.display());
        }
        ancestors = vec![info.uuid];
        ours.push((PathBuf::from(path), info.uuid));
    }
    delete(session, &work, &ours)?;
    Ok(session.store.top.sync()?)
}

fn finish_gone(session: &Session, name: &str) -> Result<()> {
    let gone = Path::new(Paths::GONE).join(name);
    if let Some(by) = in_use(&session.observe()?.fs.number, &gone)? {
        bail!("{by}");
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
