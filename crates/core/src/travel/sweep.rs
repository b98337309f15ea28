//! What a receiver has left that was killed or cut off. Only what be made is deleted.

use std::fs::File;
use std::path::Path;

use anyhow::{Result, bail};
use be_btrfs::{Root, Uuid};
use nix::fcntl::{Flock, FlockArg};
use rustix::fs::{Mode, OFlags};

use crate::execute::delete;
use crate::session::Session;
use crate::store::Paths;

/// The extended attribute of the directory of an environment that is being received: the
/// UUIDs of the subvolumes that were made there and of the snapshots of what was there before,
/// with commas between.
const MADE: &str = "trusted.be.made";

/// Write down that a subvolume is ours.
pub(super) fn note(home: &Root, uuid: Uuid) -> Result<()> {
    let mut made = noted(home)?;
    made.push(uuid);
    let text: Vec<String> = made.iter().map(Uuid::to_string).collect();
    Ok(home.set_attribute(MADE, text.join(",").as_bytes())?)
}

fn noted(home: &Root) -> Result<Vec<Uuid>> {
    let text = home.attribute(MADE)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(text
        .split(',')
        .filter_map(|uuid| uuid.parse().ok())
        .collect())
}

/// Delete what nobody receives any more, whoever has the lock; a sentence for each.
pub(crate) fn sweep(session: &Session) -> Vec<String> {
    let mut notes = Vec::new();
    for name in session.store.work(Paths::COMING) {
        let dir = Path::new(Paths::COMING).join(&name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = session.store.top.fd();
        let Ok(fd) = rustix::fs::openat(top, &dir, flags, Mode::empty()) else {
            continue;
        };
        let Ok(_claim) = Flock::lock(File::from(fd), FlockArg::LockExclusiveNonblock) else {
            continue;
        };
        notes.push(match discard(session, &dir) {
            Ok(()) => format!("removed what had come of {name}, which was cut off"),
            Err(e) => format!("left /{} alone: {e:#}", dir.display()),
        });
    }
    notes
}

/// Delete a directory with what be made there: what is written down, or was made a moment
/// before that and is still empty, snapshots of what an environment keeps, and snapshots of
/// these.
pub(super) fn discard(session: &Session, dir: &Path) -> Result<()> {
    let store = &session.store;
    let mut ours = noted(&store.dir.sub(dir)?)?;
    let records = store.records()?;
    let records = records
        .iter()
        .filter_map(|(_, record)| record.as_ref().ok());
    let kept = records
        .flat_map(|r| &r.snapshots)
        .flat_map(|s| &s.subvolumes);
    let mut ancestors: Vec<Uuid> = kept.filter_map(|m| m.uuid.parse().ok()).collect();
    ancestors.extend(&ours);
    let tree = store.top.tree()?;
    let mut found: Vec<_> = tree
        .iter()
        .filter(|node| node.path.starts_with(dir))
        .collect();
    // What a snapshot is of before the snapshot.
    found.sort_by_key(|node| node.id);
    let mut doomed = Vec::new();
    for node in found {
        let descends = node
            .parent_uuid
            .is_some_and(|uuid| ancestors.contains(&uuid));
        let empty = || -> Result<bool> {
            let root = store.root_of(&node.path)?;
            Ok(node.parent_uuid.is_none() && root.list(".")?.is_empty())
        };
        if !ours.contains(&node.uuid) && !descends && !empty()? {
            bail!("/{} is not known to be made by be", node.path.display());
        }
        ours.push(node.uuid);
        ancestors.push(node.uuid);
        doomed.push((node.path.strip_prefix(dir)?.to_owned(), node.uuid));
    }
    delete(session, dir, &doomed)?;
    Ok(store.top.sync()?)
}
