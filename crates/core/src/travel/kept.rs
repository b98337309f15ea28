//! What was sent or received before and is kept: found again, and known to be unchanged.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result};
use be_btrfs::{Root, SubvolumeInfo};
use nix::fcntl::{Flock, FlockArg};
use rustix::fs::{Mode, OFlags};

use super::Travel;
use crate::model::{Environment, Inventory, SnapshotState};
use crate::name::{EnvName, Named, SnapName};
use crate::record::{Snapshot, SnapshotMember, snapshot_place};
use crate::refusal::Refusal;
use crate::session::Session;
use crate::store::Paths;

/// One subvolume that travelled, and is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// The snapshot that it is of.
    pub(super) named: Named,
    /// What the record says of it.
    pub(super) member: SnapshotMember,
    /// Its path from the top level.
    pub(super) path: PathBuf,
}

/// The UUID by which a stream names it, wherever it was made.
pub(super) fn identity(member: &SnapshotMember) -> &str {
    let received = member.travelled.as_ref().and_then(|t| t.received.as_ref());
    received.unwrap_or(&member.uuid)
}

/// Whether all of a snapshot travelled.
pub(super) fn travelled(snapshot: &Snapshot) -> bool {
    !snapshot.subvolumes.is_empty() && snapshot.subvolumes.iter().all(|m| m.travelled.is_some())
}

/// Whether it was received, and not sent.
pub(super) fn was_received(snapshot: &Snapshot) -> bool {
    let received = |m: &SnapshotMember| m.travelled.as_ref()?.received.clone();
    snapshot.subvolumes.iter().any(|m| received(m).is_some())
}

/// What of an environment travelled last, as far as it is there.
pub(super) fn latest(env: &Environment) -> Option<Vec<Kept>> {
    let all = env.record.snapshots.iter().zip(&env.snapshots);
    let mut last = all.filter(|(snapshot, _)| travelled(snapshot));
    let (snapshot, found) = last.next_back()?;
    Some(of(env.name(), snapshot, found))
}

/// What of one of its snapshots travelled, as far as it is there.
pub(super) fn chosen(env: &Environment, name: &SnapName) -> Result<Option<Vec<Kept>>, Refusal> {
    let (snapshot, found) = env.snapshot(name)?;
    Ok(travelled(snapshot).then(|| of(env.name(), snapshot, found)))
}

/// The subvolumes of a snapshot that are there.
pub(super) fn of(env: &EnvName, snapshot: &Snapshot, found: &SnapshotState) -> Vec<Kept> {
    let all = snapshot.subvolumes.iter().zip(&found.subvolumes);
    all.filter_map(|(member, found)| {
        Some(Kept {
            named: Named::snapshot(env, &snapshot.name),
            member: member.clone(),
            path: found.as_ref()?.path.clone(),
        })
    })
    .collect()
}

/// What a stream calls so.
pub(super) fn find(inv: &Inventory, uuid: &str) -> Option<Kept> {
    let all = inv.environments.iter().rev().flat_map(|env| {
        let snapshots = env.record.snapshots.iter().zip(&env.snapshots).rev();
        let snapshots = snapshots.filter(|(snapshot, _)| travelled(snapshot));
        snapshots.flat_map(|(snapshot, found)| of(env.name(), snapshot, found))
    });
    let mut all = all.filter(|kept| identity(&kept.member) == uuid || kept.member.uuid == uuid);
    all.next()
}

impl Kept {
    /// Open it, when nobody has written to it since.
    ///
    /// # Errors
    /// [`Travel::ParentChanged`].
    pub(super) fn open(&self, session: &Session) -> Result<(Root, SubvolumeInfo)> {
        let root = session.store.root_of(&self.path)?;
        let info = be_btrfs::subvolume_info(&root)?;
        match self.changed(&info) {
            None => Ok((root, info)),
            Some(why) => Err(Travel::ParentChanged {
                name: self.named.clone(),
                why: format!("{} {why}", self.member.mount),
            }
            .into()),
        }
    }

    fn changed(&self, info: &SubvolumeInfo) -> Option<&'static str> {
        let travelled = self.member.travelled.as_ref()?;
        let received = info.received_uuid.map(|uuid| uuid.to_string());
        if info.uuid.to_string() != self.member.uuid {
            Some("is another subvolume")
        } else if !info.read_only {
            Some("can be written")
        } else if received != travelled.received {
            Some("has lost of what it is a copy, as it does when it is made writable")
        } else if info.ctransid != travelled.changed {
            Some("was written since")
        } else {
            None
        }
    }
}

/// That somebody sends a snapshot, or what is relative to it: it stays meanwhile.
#[derive(Debug)]
pub(super) struct Held(#[allow(dead_code)] Flock<File>);

impl Held {
    /// Hold a snapshot, beside others who do.
    ///
    /// # Errors
    /// It is not there.
    pub(super) fn of(session: &Session, name: &Named) -> Result<Self> {
        let held = lock(session, name, FlockArg::LockSharedNonblock)?;
        Ok(Self(held.context("it is held")?))
    }
}

/// Whether nobody sends it, or what is relative to it. Who asks has the lock of the store.
pub(super) fn is_idle(session: &Session, name: &Named) -> bool {
    matches!(
        lock(session, name, FlockArg::LockExclusiveNonblock),
        Ok(Some(_))
    )
}

fn lock(session: &Session, name: &Named, how: FlockArg) -> Result<Option<Flock<File>>> {
    let snapshot = name.snapshot.as_ref().context("a snapshot has a name")?;
    let dir = Paths::environment(&name.env).join(snapshot_place(snapshot));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(session.store.top.fd(), &dir, flags, Mode::empty())
        .with_context(|| format!("cannot open /{}", dir.display()))?;
    Ok(Flock::lock(File::from(fd), how).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fixture::{env, inventory, name, snapshot};
    use crate::record::Travelled;

    fn travelling(received: Option<&str>) -> impl Fn(&mut Environment) + use<'_> {
        move |e| {
            snapshot(e, "first", 400);
            snapshot(e, "sent", 401);
            snapshot(e, "other", 402);
            e.record.snapshots[1].subvolumes[0].travelled = Some(Travelled {
                received: received.map(str::to_owned),
                changed: 7,
            });
        }
    }

    #[test]
    fn found_by_its_own_uuid_or_that_of_what_it_is_a_copy_of() {
        let inv = inventory(vec![
            env("default", 256).running(),
            env("a", 300).with(travelling(None)),
            env("b", 301).with(travelling(Some("there"))),
        ]);
        let kept = latest(inv.get(&name("a")).unwrap()).unwrap();
        assert_eq!(kept[0].named.to_string(), "a@sent");
        assert_eq!(latest(inv.get(&name("default")).unwrap()), None);
        assert_eq!(identity(&kept[0].member), "uuid-401");
        let there = find(&inv, "there").unwrap();
        assert_eq!(there.named.to_string(), "b@sent");
        assert!(find(&inv, "uuid-401").is_some());
        assert_eq!(find(&inv, "uuid-400"), None, "it did not travel");
        assert!(was_received(&inv.environments[2].record.snapshots[1]));
    }
}
