//! Who still runs code that is not on the disk any more, after packages were replaced beneath
//! running programs: they go on with what they have, and fail when they load the rest.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};
use serde::Serialize;

/// A service, or a program outside of all services, that runs old code.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct OldCode {
    /// The service as the init names it: `sshd.service`, or `sshd` with OpenRC.
    pub service: Option<String>,
    /// The name of its first process, as the kernel has it.
    pub program: String,
    /// Its processes.
    pub processes: Vec<u32>,
    /// What was deleted or replaced and is still in use, as the process sees its path. What is
    /// not UTF-8 in it is replaced.
    pub files: Vec<String>,
}

impl std::fmt::Display for OldCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.service.as_ref().unwrap_or(&self.program);
        let processes: Vec<String> = self.processes.iter().map(u32::to_string).collect();
        let word = match processes.len() {
            1 => "process",
            _ => "processes",
        };
        let files = match &self.files[..] {
            [first, rest @ ..] if rest.len() > 2 => format!("{first} and {} more", rest.len()),
            files => files.join(", "),
        };
        write!(f, "{name} ({word} {}): {files}", processes.join(", "))
    }
}

/// Everybody who has code mapped, or runs, of a file without a name on one of these devices: the
/// device numbers of subvolumes, as stat(2) tells them.
///
/// # Errors
/// When /proc cannot be read. A process that ends meanwhile runs nothing.
pub fn running(devices: &HashSet<u64>) -> Result<Vec<OldCode>> {
    let own = std::process::id();
    let mut found: BTreeMap<_, (Vec<u32>, BTreeSet<String>)> = BTreeMap::new();
    for process in fs::read_dir("/proc").context("cannot read /proc")? {
        let dir = process.context("cannot read /proc")?;
        let Some(pid) = dir.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let files = old_files(&dir.path(), devices);
        if pid == own || files.is_empty() {
            continue;
        }
        let text = |file: &str| fs::read_to_string(dir.path().join(file)).unwrap_or_default();
        let service = service(&text("cgroup"));
        let program = text("comm").trim().to_owned();
        let key = match &service {
            Some(_) => (service, String::new()),
            None => (None, format!("{program} {pid}")),
        };
        let (processes, all) = found.entry(key).or_default();
        processes.push(pid);
        all.extend(files);
    }
    let mut found: Vec<OldCode> = found
        .into_iter()
        .map(|((service, _), (mut processes, files))| {
            processes.sort_unstable();
            let comm = format!("/proc/{}/comm", processes[0]);
            let program = fs::read_to_string(comm).unwrap_or_default();
            OldCode {
                service,
                program: program.trim().to_owned(),
                processes,
                files: files.into_iter().collect(),
            }
        })
        .collect();
    // Services first: they are restarted by a command.
    found.sort_by_key(|old| (old.service.is_none(), old.service.clone(), old.processes[0]));
    Ok(found)
}

/// The executable mappings (proc_pid_maps(5)) and the program itself.
fn old_files(process: &Path, devices: &HashSet<u64>) -> BTreeSet<String> {
    let text = fs::read(process.join("maps")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut links: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (range, access) = (words.next()?, words.next()?);
            (access.contains('x') && line.ends_with(" (deleted)"))
                .then(|| process.join("map_files").join(range))
        })
        .collect();
    links.push(process.join("exe"));
    let nameless = |link: &&std::path::PathBuf| {
        statx(
            CWD,
            link.as_path(),
            AtFlags::STATX_DONT_SYNC,
            StatxFlags::NLINK,
        )
        .is_ok_and(|s| {
            s.stx_nlink == 0 && devices.contains(&makedev(s.stx_dev_major, s.stx_dev_minor))
        })
    };
    let files = links.iter().filter(nameless);
    files
        .filter_map(|link| {
            let path = fs::read_link(link).ok()?;
            let path = path.to_string_lossy();
            let path = path.strip_suffix(" (deleted)").unwrap_or(&path);
            Some(path.to_owned())
        })
        .collect()
}

/// The service in /proc/PID/cgroup (cgroups(7)): with systemd the last part of the path that is a
/// service, with OpenRC `openrc.NAME`.
fn service(cgroup: &str) -> Option<String> {
    let paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let parts: Vec<&str> = paths.flat_map(|path| path.rsplit('/')).collect();
    let named = |part: &&&str| part.ends_with(".service") && !part.starts_with("user@");
    if let Some(service) = parts.iter().find(named) {
        return Some((*service).to_owned());
    }
    let openrc = parts.iter().find_map(|part| part.strip_prefix("openrc."));
    openrc.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_of_both_inits() {
        for (cgroup, expected) in [
            ("0::/system.slice/sshd.service\n", Some("sshd.service")),
            (
                "0::/system.slice/system-getty.slice/getty@tty1.service\n",
                Some("getty@tty1.service"),
            ),
            (
                "0::/user.slice/user-0.slice/user@0.service/app.slice/x.scope\n",
                None,
            ),
            ("0::/user.slice/user-0.slice/session-3.scope\n", None),
            ("1:name=openrc:/sshd\n0::/openrc.sshd\n", Some("sshd")),
            ("0::/\n", None),
            ("", None),
        ] {
            assert_eq!(service(cgroup).as_deref(), expected, "{cgroup}");
        }
    }

    #[test]
    fn what_is_told() {
        let mut old = OldCode {
            service: Some("sshd.service".into()),
            program: "sshd".into(),
            processes: vec![1, 2],
            files: vec!["/usr/lib/liba.so".into()],
        };
        assert_eq!(
            old.to_string(),
            "sshd.service (processes 1, 2): /usr/lib/liba.so"
        );
        old.service = None;
        old.processes.pop();
        old.files.extend(["b".into(), "c".into(), "d".into()]);
        assert_eq!(
            old.to_string(),
            "sshd (process 1): /usr/lib/liba.so and 3 more"
        );
    }
}
