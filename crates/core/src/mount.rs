//! Mounting an environment where the caller can see it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, move_mount};

use crate::model::{Environment, Inventory};
use crate::name::EnvName;
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

/// Choose where to mount an environment.
///
/// # Errors
/// [`Refusal::MountTarget`], [`Refusal::RootMissing`].
pub fn choose(env: &Environment, dir: Option<&Path>) -> Result<Target, Refusal> {
    if env.root.is_none() {
        return Err(Refusal::RootMissing {
            name: env.name().clone(),
        });
    }
    let Some(dir) = dir else {
        return Ok(match env.mounted.first() {
            Some(there) => Target::Already(there.clone()),
            None => Target::New(Path::new(OWN).join(env.name().as_str())),
        });
    };
    let bad = |why: &str| Refusal::MountTarget {
        dir: dir.to_owned(),
        why: why.to_owned(),
    };
    let real = dir.canonicalize().map_err(|e| bad(&e.to_string()))?;
    if env.mounted.contains(&real) {
        return Ok(Target::Already(real));
    }
    if !real.is_dir() {
        return Err(bad("it is not a directory"));
    }
    let empty = fs::read_dir(&real).is_ok_and(|mut entries| entries.next().is_none());
    if !empty {
        return Err(bad("it is not empty"));
    }
    Ok(Target::New(real))
}

/// Mount the root of an environment at `target`.
pub fn mount(session: &Session, env: &Environment, target: &Path) -> Result<()> {
    if target.starts_with(OWN) {
        fs::create_dir_all(target).with_context(|| format!("cannot make {}", target.display()))?;
    }
    let root = env
        .root
        .as_ref()
        .map(|r| r.path.clone())
        .unwrap_or_default();
    let tree = session.store.top.clone_mount(&root)?;
    move_mount(
        &tree,
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .with_context(|| format!("cannot mount {} at {}", env.name(), target.display()))
}

/// The mounts that `be umount WHAT` is to end, innermost first.
///
/// # Errors
/// [`Refusal::NotMounted`], and [`Refusal::Running`] for the system itself.
pub fn find(inv: &Inventory, what: &str) -> Result<Vec<PathBuf>, Refusal> {
    let not_mounted = || Refusal::NotMounted {
        what: what.to_owned(),
    };
    let name = EnvName::parse(what).ok();
    let known = name.as_ref().and_then(|name| inv.get(name).ok());
    let (env, mut found) = match (known, &name) {
        (Some(env), _) => (env, env.mounted.clone()),
        (None, Some(name)) if !Path::new(what).exists() => {
            return Err(inv.get(name).err().unwrap_or_else(not_mounted));
        }
        (None, _) => {
            let dir = Path::new(what).canonicalize().map_err(|_| not_mounted())?;
            let env = inv
                .environments
                .iter()
                .find(|e| e.mounted.contains(&dir))
                .ok_or_else(not_mounted)?;
            (env, vec![dir])
        }
    };
    found.retain(|dir| *dir != inv.sysroot);
    if found.is_empty() {
        return Err(match env.running {
            true => Refusal::Running {
                name: env.name().clone(),
            },
            false => not_mounted(),
        });
    }
    found.sort_by_key(|dir| std::cmp::Reverse(dir.components().count()));
    Ok(found)
}

/// Unmount, and remove the directory if `be` made it.
///
/// # Errors
/// [`Refusal::InUse`] if something works there: nothing is unmounted lazily.
pub fn unmount(target: &Path) -> Result<()> {
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
    if target.starts_with(OWN) {
        fs::remove_dir(target).with_context(|| format!("cannot remove {}", target.display()))?;
    }
    Ok(())
}
