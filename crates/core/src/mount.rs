//! Mounting an environment where the caller can see it.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use be_btrfs::Root;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, move_mount};

use crate::model::Inventory;
use crate::model::volumes;
use crate::name::Named;
use crate::observe::read_mountinfo;
use crate::refusal::Refusal;
use crate::session::Session;

/// Mount points that `be` makes itself, and removes again.
const OWN: &str = "/run/be";

/// Where an environment is to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// It is mounted there already.
    Already(PathBuf),
    /// To be mounted there.
    New(PathBuf),
}

/// What is to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// An environment, or a snapshot of one.
    pub name: Named,
    /// Its root subvolume, from the top level.
    root: PathBuf,
    /// Its other subvolumes, each with the place where it is mounted, sorted by that.
    volumes: Vec<(PathBuf, PathBuf)>,
    /// Where that is mounted already.
    mounted: Vec<PathBuf>,
}

/// Find what is to be mounted.
///
/// # Errors
/// A name that nothing has; [`Refusal::RootMissing`], [`Refusal::SnapshotGone`].
pub fn subject(inv: &Inventory, name: &Named) -> Result<Subject, Refusal> {
    let env = inv.get(&name.env)?;
    let (root, mounted) = match &name.snapshot {
        None => {
            let gone = || Refusal::RootMissing {
                name: name.env.clone(),
            };
            (env.root.as_ref().ok_or_else(gone)?, &env.mounted)
        }
        Some(snapshot) => {
            let (_, found) = env.snapshot(snapshot)?;
            let gone = || Refusal::SnapshotGone { name: name.clone() };
            (found.root().ok_or_else(gone)?, &found.mounted)
        }
    };
    let volumes = match &name.snapshot {
        None => env.volumes(),
        Some(snapshot) => {
            let (taken, found) = env.snapshot(snapshot)?;
            let mounts = taken.subvolumes.iter().map(|m| m.mount.as_str());
            volumes(mounts.zip(&found.subvolumes))
        }
    };
    Ok(Subject {
        name: name.clone(),
        volumes,
        root: root.path.clone(),
        mounted: mounted.clone(),
    })
}

/// Choose where to mount it.
///
/// # Errors
/// [`Refusal::MountTarget`].
pub fn choose(subject: &Subject, dir: Option<&Path>) -> Result<Target, Refusal> {
    let Some(dir) = dir else {
        return Ok(match subject.mounted.first() {
            Some(there) => Target::Already(there.clone()),
            None => Target::New(own_place(&subject.name)),
        });
    };
    let bad = |why: &str| Refusal::MountTarget {
        dir: dir.to_owned(),
        why: why.to_owned(),
    };
    let real = dir.canonicalize().map_err(|e| bad(&e.to_string()))?;
    if subject.mounted.contains(&real) {
        return Ok(Target::Already(real));
    }
    if !real.is_dir() {
        return Err(bad("it is not a directory"));
    }
    if !is_empty(&real) {
        return Err(bad("it is not empty"));
    }
    Ok(Target::New(real))
}

/// A directory of our own that nothing is mounted on: of several filesystems, each may
/// have an environment of this name.
fn own_place(name: &Named) -> PathBuf {
    let dir = Path::new(OWN);
    let first = dir.join(name.to_string());
    let others = (2..).map(|n| dir.join(format!("{name}.{n}")));
    let free = |path: &PathBuf| !path.exists() || (is_empty(path) && !is_mount_point(path));
    // It ends: nobody has that many mounts.
    let mut places = std::iter::once(first.clone()).chain(others);
    places.find(free).unwrap_or(first)
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

fn is_mount_point(dir: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).ok();
    dir.parent()
        .is_some_and(|above| device(above) != device(dir))
}

/// Mount it at `target`: its root, and its other subvolumes in their places; gives where. Of our
/// own directories it is the one that is free now.
///
/// # Errors
/// When something of it cannot be mounted; nothing is then.
pub fn mount(session: &Session, subject: &Subject, target: &Path) -> Result<PathBuf> {
    if !target.starts_with(OWN) {
        mount_at(session, subject, target)?;
        return Ok(target.to_owned());
    }
    // As the store: it has programs in it that were mended since.
    let make = |dir: &Path| {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir);
        made.with_context(|| format!("cannot make {}", dir.display()))
    };
    make(Path::new(OWN))?;
    fs::set_permissions(OWN, fs::Permissions::from_mode(0o700))?;
    let _own = lock_own(target)?;
    let target = own_place(&subject.name);
    make(&target)?;
    mount_at(session, subject, &target)?;
    Ok(target)
}

/// One `be` at a time chooses one of our directories, or takes it away: it may belong to another
/// filesystem, of which neither the store nor its lock is known.
fn lock_own(target: &Path) -> Result<Option<Flock<File>>> {
    if !target.starts_with(OWN) {
        return Ok(None);
    }
    let dir = File::open(OWN).with_context(|| format!("cannot open {OWN}"))?;
    let locked = Flock::lock(dir, FlockArg::LockExclusive);
    let locked = locked.map_err(|(_, e)| e);
    Ok(Some(locked.with_context(|| format!("cannot lock {OWN}"))?))
}

fn mount_at(session: &Session, subject: &Subject, target: &Path) -> Result<()> {
    let tree = session.store.top.clone_mount(&subject.root)?;
    move_mount(
        &tree,
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .with_context(|| format!("cannot mount {} at {}", subject.name, target.display()))?;
    let done = mount_volumes(session, subject, target);
    if done.is_err() {
        // The failure is what counts.
        let _undone = take_down(target);
    }
    done
}

fn mount_volumes(session: &Session, subject: &Subject, target: &Path) -> Result<()> {
    let root = Root::open(target)?;
    for (place, path) in &subject.volumes {
        let tree = session.store.top.clone_mount(path)?;
        let at = root.mount_point(place)?;
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&tree, "", &at, "", flags)
            .with_context(|| format!("cannot mount {} of {}", place.display(), subject.name))?;
    }
    Ok(())
}

/// The mounts that `be umount WHAT` is to end, innermost first.
///
/// # Errors
/// [`Refusal::NotMounted`], and [`Refusal::Running`] for the system itself.
pub fn find(inv: &Inventory, what: &str) -> Result<Vec<PathBuf>, Refusal> {
    let not_mounted = || Refusal::NotMounted {
        what: what.to_owned(),
    };
    let named = what.parse::<Named>().ok();
    let known = named
        .as_ref()
        .and_then(|n| Some((n, inv.get(&n.env).ok()?)));
    let (env, mut found) = match (known, &named) {
        (Some((name, env)), _) => match &name.snapshot {
            None => (env, env.mounted.clone()),
            Some(snapshot) => (env, env.snapshot(snapshot)?.1.mounted.clone()),
        },
        (None, Some(name)) if !Path::new(what).exists() => {
            return Err(inv.get(&name.env).err().unwrap_or_else(not_mounted));
        }
        (None, _) => {
            let dir = Path::new(what).canonicalize().map_err(|_| not_mounted())?;
            let mut environments = inv.environments.iter();
            let env = environments
                .find(|e| {
                    let snapshots = e.snapshots.iter().flat_map(|s| &s.mounted);
                    e.mounted.iter().chain(snapshots).any(|m| *m == dir)
                })
                .ok_or_else(not_mounted)?;
            (env, vec![dir])
        }
    };
    found.retain(|dir| *dir != inv.sysroot);
    if found.is_empty() {
        let itself = named.as_ref().is_none_or(|n| n.snapshot.is_none());
        return Err(match env.running && itself {
            true => Refusal::Running {
                name: env.name().clone(),
            },
            false => not_mounted(),
        });
    }
    found.sort_by_key(|dir| std::cmp::Reverse(dir.components().count()));
    Ok(found)
}

/// Unmount it with its other subvolumes, and remove the directory if `be` made it.
///
/// # Errors
/// [`Refusal::MountBusy`] if something works there: nothing is unmounted lazily.
pub fn unmount(target: &Path) -> Result<()> {
    let _own = lock_own(target)?;
    take_down(target)
}

fn take_down(target: &Path) -> Result<()> {
    for volume in volumes_below(target)? {
        unmount_one(&volume)?;
    }
    unmount_one(target)?;
    remove_own(target)
}

/// The subvolumes of the same filesystem that are mounted below a mount, innermost first;
/// none if something else is mounted there, which is not ours to unmount.
fn volumes_below(target: &Path) -> Result<Vec<PathBuf>> {
    let rows = read_mountinfo("self")?;
    let Some(root) = rows.iter().rev().find(|r| r.target == target) else {
        return Ok(Vec::new());
    };
    let below = rows
        .iter()
        .filter(|r| r.target != target && r.target.starts_with(target));
    let (ours, others): (Vec<_>, Vec<_>) = below.partition(|r| r.device == root.device);
    if !others.is_empty() {
        return Ok(Vec::new());
    }
    let mut targets: Vec<_> = ours.into_iter().map(|r| r.target.clone()).collect();
    targets.sort_by_key(|t| std::cmp::Reverse(t.components().count()));
    Ok(targets)
}

fn unmount_one(target: &Path) -> Result<()> {
    match nix::mount::umount2(target, nix::mount::MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => {}
        Err(Errno::EBUSY) => {
            return Err(Refusal::MountBusy {
                dir: target.to_owned(),
            }
            .into());
        }
        Err(e) => return Err(e).with_context(|| format!("cannot unmount {}", target.display())),
    }
    Ok(())
}

/// Unmount it where something works there: it is gone from the tree at once, and what works
/// there keeps it until it ends. False if nothing did, and it is unmounted for good.
///
/// # Errors
/// When it is no mount point.
pub fn detach(target: &Path) -> Result<bool> {
    let _own = lock_own(target)?;
    match take_down(target) {
        Err(e) if matches!(e.downcast_ref(), Some(Refusal::MountBusy { .. })) => {}
        other => return other.map(|()| false),
    }
    let flags = nix::mount::MntFlags::MNT_DETACH | nix::mount::MntFlags::UMOUNT_NOFOLLOW;
    nix::mount::umount2(target, flags)
        .with_context(|| format!("cannot unmount {}", target.display()))?;
    remove_own(target)?;
    Ok(true)
}

fn remove_own(target: &Path) -> Result<()> {
    if target.starts_with(OWN) {
        fs::remove_dir(target).with_context(|| format!("cannot remove {}", target.display()))?;
    }
    Ok(())
}
