//! Which processes work in a directory, so that what they write there next would be missed.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};

/// `O_ACCMODE`.
const ACCESS: u64 = 0o3;

/// A process, and what it does there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// What it does.
    pub what: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (process {}, {})", self.name, self.pid, self.what)
    }
}

/// Who has files open for writing, mapped to be written, or a working directory or root,
/// among these inodes of the subvolume with this device number. Inodes and not paths: a
/// container has other paths for them.
///
/// # Errors
/// When /proc cannot be read.
pub fn working_in(device: u64, inodes: &HashSet<u64>) -> Result<Vec<Holder>> {
    let own = std::process::id();
    let mut holders = Vec::new();
    for process in fs::read_dir("/proc").context("cannot read /proc")? {
        let dir = process.context("cannot read /proc")?;
        let Some(pid) = dir.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        if pid == own {
            continue;
        }
        let there = |link: &Path| {
            // Without asking a server that may be gone.
            let flags = AtFlags::STATX_DONT_SYNC;
            statx(CWD, link, flags, StatxFlags::INO).is_ok_and(|s| {
                makedev(s.stx_dev_major, s.stx_dev_minor) == device && inodes.contains(&s.stx_ino)
            })
        };
        if let Some(what) = work_of(&dir.path(), &there) {
            let name = fs::read_to_string(dir.path().join("comm")).unwrap_or_default();
            let name = name.trim().to_owned();
            holders.push(Holder { pid, name, what });
        }
    }
    holders.sort_by_key(|h| h.pid);
    Ok(holders)
}

/// A process that ends meanwhile does nothing there.
fn work_of(process: &Path, there: &dyn Fn(&Path) -> bool) -> Option<String> {
    let told = |link: &Path| {
        let path = fs::read_link(link).unwrap_or_default();
        path.display().to_string()
    };
    for (name, what) in [("cwd", "its working directory"), ("root", "its root")] {
        if there(&process.join(name)) {
            return Some(format!("{what} is {}", told(&process.join(name))));
        }
    }
    let writing = descriptors(process).unwrap_or_default().into_iter();
    let mapped = mappings(process).unwrap_or_default().into_iter();
    let link = writing.chain(mapped).find(|link| there(link))?;
    Some(format!("writes {}", told(&link)))
}

/// The descriptors that are open for writing (`flags` of fdinfo, proc_pid_fdinfo(5)).
fn descriptors(process: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(process.join("fd"))? {
        let name = entry?.file_name();
        let info = fs::read_to_string(process.join("fdinfo").join(&name)).unwrap_or_default();
        let flags = info.lines().find_map(|l| l.strip_prefix("flags:"));
        let flags = flags.and_then(|f| u64::from_str_radix(f.trim(), 8).ok());
        if flags.is_some_and(|f| f & ACCESS != 0) {
            found.push(process.join("fd").join(name));
        }
    }
    Ok(found)
}

/// The shared mappings that can be written (proc_pid_maps(5)).
fn mappings(process: &Path) -> io::Result<Vec<PathBuf>> {
    let text = fs::read(process.join("maps"))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(access)) = (words.next(), words.next()) else {
            continue;
        };
        if access.contains('w') && access.ends_with('s') {
            found.push(process.join("map_files").join(range));
        }
    }
    Ok(found)
}
