//! What a command can leave behind on the host: mounts, loop devices, processes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::holding;
use crate::temp;

/// The host's state as far as it can leak, for a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostState {
    mounts: Vec<String>,
    loops: BTreeSet<String>,
    processes: BTreeSet<String>,
}

impl HostState {
    /// The state now, as seen by the test of the lab image whose directory is
    /// `own` ([`crate::image::LoopImage::dir`]): what belongs to the images of
    /// other tests, which run at the same time, is left out. Of processes only
    /// those count that have something to do with `own`, see [`holding`].
    ///
    /// # Errors
    /// /proc or /sys cannot be read.
    pub fn of(own: &Path) -> Result<Self> {
        let table = fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
        Ok(Self {
            mounts: mounts(&table, own),
            loops: loops(own)?,
            processes: holding(own, &devices_below(own)?)?.into_iter().collect(),
        })
    }

    /// The differences, a line each, as seen from this earlier state.
    #[must_use]
    pub fn diff(&self, later: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut compare = |name: &str, old: Vec<&String>, new: Vec<&String>| {
            let mut rest = new;
            for line in old {
                match rest.iter().position(|other| *other == line) {
                    Some(index) => {
                        rest.remove(index);
                    }
                    None => lines.push(format!("- {name} {line}")),
                }
            }
            lines.extend(rest.iter().map(|line| format!("+ {name} {line}")));
        };
        compare(
            "mount",
            self.mounts.iter().collect(),
            later.mounts.iter().collect(),
        );
        compare(
            "loop",
            self.loops.iter().collect(),
            later.loops.iter().collect(),
        );
        compare(
            "process",
            self.processes.iter().collect(),
            later.processes.iter().collect(),
        );
        lines
    }
}

/// Whether a path is in another lab image's temporary directory.
fn is_foreign(path: &str, own: &Path) -> bool {
    let path = Path::new(path);
    !path.starts_with(own)
        && path
            .components()
            .any(|part| part.as_os_str().to_string_lossy().starts_with(temp::PREFIX))
}

/// The lines of mountinfo (proc_pid_mountinfo(5)) without the numbers that
/// every mount gets anew: mount id, parent id, device, peer groups.
fn mounts(table: &str, own: &Path) -> Vec<String> {
    let mut lines: Vec<String> = table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let (root, point, options) = (fields.get(3)?, fields.get(4)?, fields.get(5)?);
            let (_, tail) = line.split_once(" - ")?;
            (!is_foreign(point, own)).then(|| format!("{root} on {point} {options} {tail}"))
        })
        .collect();
    lines.sort();
    lines
}

fn loops(own: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/sys/block").context("read /sys/block")? {
        let entry = entry?;
        if let Ok(file) = fs::read_to_string(entry.path().join("loop/backing_file"))
            && !is_foreign(file.trim(), own)
        {
            let name = entry.file_name();
            found.insert(format!("{} {}", name.to_string_lossy(), file.trim()));
        }
    }
    Ok(found)
}

/// The devices of the mounts below a directory, in our namespace.
fn devices_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
    let devices = table.lines().filter_map(|line| {
        let point = line.split(' ').nth(4)?;
        let source = line.split_once(" - ")?.1.split(' ').nth(1)?;
        let is_below = Path::new(point).starts_with(dir) && source.starts_with("/dev/");
        is_below.then(|| PathBuf::from(source))
    });
    Ok(devices.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_compared_without_their_numbers() {
        let table = "21 1 8:1 / / rw - btrfs /dev/sda1 rw\n\
            40 21 0:9 / /dev/shm/be-lab.a/root rw shared:3 - btrfs /dev/be-lab0 rw\n\
            41 21 0:9 / /dev/shm/be-lab.b/root rw shared:4 - btrfs /dev/be-lab1 rw\n";
        assert_eq!(
            mounts(table, Path::new("/dev/shm/be-lab.a")),
            [
                "/ on / rw btrfs /dev/sda1 rw",
                "/ on /dev/shm/be-lab.a/root rw btrfs /dev/be-lab0 rw"
            ]
        );
    }
}
