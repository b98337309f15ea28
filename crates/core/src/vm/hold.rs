//! Snapshots that keep what the guest reads: as long as they are there, btrfs writes none of
//! its blocks anew.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use be_btrfs::frozen::Wanted;
use be_btrfs::{Mode, Uuid};
use nix::fcntl::{Flock, FlockArg};
use rustix::fs::{Mode as FileMode, OFlags};

use crate::bootfs::uuid_of;
use crate::execute::{SOURCES, delete};
use crate::fstab::Fstab;
use crate::model::{Environment, Inventory};
use crate::session::Session;
use crate::store::{Lock, Paths};

/// Errno of a snapshot of what has an active swap file.
const BUSY: i32 = nix::libc::ETXTBSY;

/// The snapshots of one test. They are deleted with this value, or when it was killed by the
/// next command that has the lock.
pub(super) struct Hold<'a> {
    session: &'a Session,
    dir: PathBuf,
    made: Vec<(PathBuf, Uuid)>,
    /// What has to be copied of the trees of these subvolumes.
    pub(super) wanted: Wanted,
    _claim: Flock<File>,
}

impl<'a> Hold<'a> {
    /// Take a snapshot of each of these subvolumes: their ids and paths.
    ///
    /// # Errors
    /// When one cannot be taken. One with an active swap file is left out.
    pub(super) fn take(
        session: &'a Session,
        subvolumes: &[(u64, PathBuf)],
        _lock: &Lock,
    ) -> Result<Self> {
        let store = &session.store;
        let dir = Path::new(Paths::HELD).join(std::process::id().to_string());
        store.dir.mkdir_all(&dir, 0o700)?;
        let claim = claim(session, &dir).context("another be has its snapshots there")?;
        let mut this = Self {
            session,
            dir,
            made: Vec::new(),
            wanted: Wanted::from([(be_btrfs::TOP_LEVEL_ID, 0)]),
            _claim: claim,
        };
        let roots = subvolumes.iter().map(|(_, path)| store.root_of(path));
        let roots = roots.collect::<Result<Vec<_>>>()?;
        let uuids = roots.iter().map(|root| {
            let info = be_btrfs::subvolume_info(root)?;
            Ok(info.uuid.to_string())
        });
        let uuids = uuids.collect::<Result<Vec<_>>>()?.join(",");
        let home = store.dir.sub(&this.dir)?;
        home.set_attribute(SOURCES, uuids.as_bytes())?;
        for ((id, _), root) in subvolumes.iter().zip(&roots) {
            let name = id.to_string();
            let made = store
                .top
                .snapshot(root.fd(), home.fd(), OsStr::new(&name), Mode::ReadOnly);
            let since = match made {
                Ok(made) => {
                    this.made.push((name.into(), made.uuid));
                    made.otransid
                }
                Err(e) if e.errno() == Some(BUSY) => 0,
                Err(e) => return Err(e.into()),
            };
            this.wanted.insert(*id, since);
        }
        Ok(this)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if let Err(e) = delete(self.session, &self.dir, &self.made) {
            tracing::warn!("what was held for the test stays until the next be: {e:#}");
        }
    }
}

/// What the environment reads of its filesystem when it boots.
pub(super) fn subvolumes(
    session: &Session,
    inv: &Inventory,
    env: &Environment,
    fstab: &Fstab,
) -> Result<Vec<(u64, PathBuf)>> {
    let tree = session.store.top.tree()?;
    let root = env.root.as_ref().context("it has no root")?;
    let mut ids = vec![root.id];
    let own = env.volumes().into_iter();
    ids.extend(own.filter_map(|(_, path)| Some(tree.by_path(path)?.id)));
    for entry in fstab.entries().filter(|entry| entry.is_btrfs()) {
        if uuid_of(&entry.source).is_ok_and(|uuid| uuid == inv.fs.uuid) {
            let by_path = entry.subvol().map(|path| tree.by_path(path).map(|n| n.id));
            let by_id = entry.subvolid().map(|id| id.parse().ok());
            let named = by_path.or(by_id).unwrap_or(Some(inv.fs.default_subvolume));
            ids.extend(named);
        }
    }
    ids.sort_unstable();
    ids.dedup();
    let nodes = ids.into_iter().filter_map(|id| tree.by_id(id));
    Ok(nodes.map(|node| (node.id, node.path.clone())).collect())
}

fn claim(session: &Session, dir: &Path) -> Result<Flock<File>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(session.store.top.fd(), dir, flags, FileMode::empty())
        .with_context(|| format!("cannot open /{}", dir.display()))?;
    Flock::lock(File::from(fd), FlockArg::LockExclusiveNonblock)
        .map_err(|(_, e)| e)
        .context("it is in use")
}

/// Delete what a killed test has left, whoever has the lock; a sentence for each.
pub(crate) fn sweep(session: &Session) -> Vec<String> {
    let mut notes = Vec::new();
    for name in session.store.work(Paths::HELD) {
        let dir = Path::new(Paths::HELD).join(&name);
        let Ok(_claim) = claim(session, &dir) else {
            continue;
        };
        notes.push(match discard(session, &dir) {
            Ok(()) => "removed the snapshots of a test that was killed".to_owned(),
            Err(e) => format!("left /{} alone: {e:#}", dir.display()),
        });
    }
    notes
}

/// A snapshot is ours if it is one of what the attribute names.
fn discard(session: &Session, dir: &Path) -> Result<()> {
    let sources = session.store.dir.sub(dir)?.attribute(SOURCES)?;
    let sources = String::from_utf8(sources.unwrap_or_default()).unwrap_or_default();
    let sources: Vec<Uuid> = sources.split(',').filter_map(|u| u.parse().ok()).collect();
    let tree = session.store.top.tree()?;
    let mut ours = Vec::new();
    for node in tree.iter().filter(|node| node.path.starts_with(dir)) {
        let made_of = node.parent_uuid.filter(|uuid| sources.contains(uuid));
        if made_of.is_none() || !node.read_only {
            bail!("/{} is not known to be made by be", node.path.display());
        }
        ours.push((node.path.strip_prefix(dir)?.to_owned(), node.uuid));
    }
    delete(session, dir, &ours)
}
