//! Temporary directories of the lab: in memory when there is room.
//!
//! A process that is killed drops no guard. Each directory therefore holds a
//! file that its owner has locked, and whoever comes next and finds one
//! unlocked removes it, with the mounts and loop devices in it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::umount;
use tempfile::TempDir;

use crate::loopdev;

/// The start of the name of every temporary directory of the lab.
pub const PREFIX: &str = "be-lab.";
const LOCK: &str = ".owner";
/// Younger ones may be just about to be locked.
const YOUNG: Duration = Duration::from_secs(60);

/// A temporary directory. Dropped, it is gone.
#[derive(Debug)]
pub struct Dir {
    // Dropped in this order: as long as it exists it is locked.
    dir: TempDir,
    _lock: Flock<File>,
}

impl Dir {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// A new temporary directory with room for `bytes`: in /dev/shm when twice that
/// is free there, else below `$TMPDIR`.
///
/// # Errors
/// It cannot be made.
pub fn dir(bytes: u64) -> Result<Dir> {
    let parent = parents()
        .into_iter()
        .find(|parent| free(parent).is_some_and(|free| free / 2 >= bytes))
        .unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::Builder::new()
        .prefix(PREFIX)
        .tempdir_in(&parent)
        .with_context(|| format!("make a temporary directory in {}", parent.display()))?;
    let lock = crate::cache::lock(&dir.path().join(LOCK))?;
    Ok(Dir { dir, _lock: lock })
}

/// Removes what killed processes have left.
pub fn sweep() {
    for parent in parents() {
        let Ok(entries) = fs::read_dir(&parent) else {
            continue;
        };
        for entry in entries.flatten() {
            let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
            if is_ours && is_abandoned(&entry.path()) {
                let path = entry.path();
                crate::say(&format!(
                    "removing {}, left by a killed process",
                    path.display()
                ));
                if let Err(error) = remove(&path) {
                    crate::say(&format!("{error:#}"));
                }
            }
        }
    }
}

fn is_abandoned(dir: &Path) -> bool {
    if let Ok(file) = File::options().write(true).open(dir.join(LOCK)) {
        return Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok();
    }
    fs::metadata(dir)
        .and_then(|meta| meta.modified())
        .is_ok_and(|time| time.elapsed().is_ok_and(|age| age > YOUNG))
}

fn remove(dir: &Path) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let mut points: Vec<PathBuf> = points
        .map(PathBuf::from)
        .filter(|point| point.starts_with(dir))
        .collect();
    // The last one mounted is the first one to go. A failure keeps everything:
    // what is still mounted must not be deleted into.
    points.reverse();
    for point in points {
        // A disk may lie on a disk.
        loopdev::detach_below(&point)?;
        umount(&point).with_context(|| format!("unmount {}", point.display()))?;
    }
    loopdev::detach_below(dir)?;
    fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))
}

fn parents() -> Vec<PathBuf> {
    vec!["/dev/shm".into(), std::env::temp_dir()]
}

fn free(path: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    Some(stat.blocks_available() * stat.fragment_size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_use_is_not_abandoned() {
        let dir = dir(1).unwrap();
        assert!(!is_abandoned(dir.path()));
        let other = tempfile::tempdir().unwrap();
        assert!(!is_abandoned(other.path()), "too young");
        fs::write(other.path().join(LOCK), "").unwrap();
        assert!(is_abandoned(other.path()));
    }
}
