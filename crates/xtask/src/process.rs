//! The processes that work in a system.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The processes that hold something of a file system: their root, working
/// directory, program or an open file lies below `dir`, or their mount
/// namespace is not ours and has one of `devices` mounted outside of `dir`.
/// A namespace that is only a copy of ours, as any other test makes them, has
/// it mounted at the same place as we do. One line each, `PID COMMAND`.
///
/// # Errors
/// /proc cannot be read.
pub fn holding(dir: &Path, devices: &[PathBuf]) -> Result<Vec<String>> {
    let own = fs::read_link("/proc/self/ns/mnt").context("read our namespace")?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("read /proc")? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process that ends meanwhile holds nothing.
        let Ok(command) = fs::read_to_string(entry.path().join("comm")) else {
            continue;
        };
        let process = entry.path();
        let elsewhere = fs::read_link(process.join("ns/mnt")).is_ok_and(|ns| ns != own);
        let holds = match elsewhere {
            true => has_mounted(&process, dir, devices),
            false => pid != std::process::id() && has_open(&process, dir),
        };
        if holds {
            found.push(format!("{pid} {}", command.trim()));
        }
    }
    Ok(found)
}

fn has_open(process: &Path, dir: &Path) -> bool {
    let points_in = |link: PathBuf| fs::read_link(link).is_ok_and(|to| to.starts_with(dir));
    ["root", "cwd", "exe"]
        .into_iter()
        .any(|name| points_in(process.join(name)))
        || fs::read_dir(process.join("fd"))
            .is_ok_and(|files| files.flatten().any(|file| points_in(file.path())))
}

/// Format: proc_pid_mountinfo(5).
fn has_mounted(process: &Path, dir: &Path, devices: &[PathBuf]) -> bool {
    fs::read_to_string(process.join("mountinfo")).is_ok_and(|table| {
        table.lines().any(|line| {
            let point = line.split(' ').nth(4).map(Path::new);
            let tail = line.split_once(" - ").map(|(_, tail)| tail);
            let source = tail.and_then(|t| t.split(' ').nth(1)).map(Path::new);
            let ours = source.is_some_and(|source| devices.iter().any(|d| d == source));
            ours && point.is_some_and(|point| !point.starts_with(dir))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_an_open_directory_is_found() {
        let dir = tempfile::tempdir().unwrap();
        assert!(holding(dir.path(), &[]).unwrap().is_empty());
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .current_dir(dir.path())
            .spawn()
            .unwrap();
        let found = holding(dir.path(), &[]).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // Its command is this test's until the kernel has done with the exec
        // that spawn already tells of.
        let [only] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert!(only.starts_with(&format!("{} ", child.id())), "{only}");
    }
}
