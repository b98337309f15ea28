//! The processes of a job as a group: how much of the machine they get, and that they can be
//! stopped and let go on, all together.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::mountinfo;

/// The control group of the job of one `be`, by its process id.
const PREFIX: &str = "be-job-";
/// A tenth of what everybody else has (100 is the default; cgroup-v2 of the kernel's
/// documentation, `cpu.weight` and `io.weight`).
const WEIGHTS: [(&str, &str); 2] = [("cpu.weight", "10"), ("io.weight", "default 10")];
/// Processes that start others while they are being stopped are stopped in the next round.
const ROUNDS: usize = 20;

/// A control group (version 2) for the processes of one job. It is gone with this value.
#[derive(Debug)]
pub struct Group {
    dir: PathBuf,
}

impl Group {
    /// Make one; none where control groups of version 2 are not mounted or cannot be made.
    /// Nothing is switched on for that: weights are set where the machine has them.
    pub fn make(polite: bool, memory_high: Option<u64>) -> Option<Self> {
        let text = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let rows = mountinfo::parse(&text);
        let top = rows.into_iter().find(|row| row.fstype == "cgroup2")?.target;
        sweep(&top);
        let dir = top.join(format!("{PREFIX}{}", std::process::id()));
        match fs::create_dir(&dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return None,
            _ => {}
        }
        let group = Self { dir };
        if !group.dir.join("cgroup.freeze").exists() {
            return None;
        }
        let mut wanted: Vec<(&str, String)> = Vec::new();
        if polite {
            wanted.extend(WEIGHTS.map(|(file, value)| (file, value.to_owned())));
        }
        wanted.extend(memory_high.map(|bytes| ("memory.high", bytes.to_string())));
        for (file, value) in wanted {
            // A machine without that controller does without.
            let _absent = fs::write(group.dir.join(file), value);
        }
        Some(group)
    }

    /// Its directory, for [`join`].
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn freeze(&self, stop: bool) -> Result<()> {
        let file = self.dir.join("cgroup.freeze");
        fs::write(&file, if stop { "1" } else { "0" })
            .with_context(|| format!("cannot write {}", file.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last processes of a namespace that was ended take a moment to go.
        for _ in 0..ROUNDS {
            if fs::remove_dir(&self.dir).is_ok() || !self.dir.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Take away the groups of every `be` that was killed.
fn sweep(top: &Path) {
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // One that still has processes stays.
            let _used = fs::remove_dir(entry.path());
        }
    }
}

/// Put this process, and all that it starts from now on, into a group.
pub(super) fn join(dir: &Path) {
    // Without it the job runs like any other program.
    let _gone = fs::write(dir.join("cgroup.procs"), "0");
}

/// Stop the processes of a job, or let them go on: by their group, or where there is none one
/// by one. `supervisor` is the process that [`super::Job::start`] gave.
///
/// # Errors
/// When the group does not take it, or /proc cannot be read.
pub fn stop(group: Option<&Group>, supervisor: u32, stop: bool) -> Result<()> {
    if let Some(group) = group {
        return group.freeze(stop);
    }
    let namespace = fs::read_link(format!("/proc/{supervisor}/ns/pid_for_children"))
        .context("cannot find the namespace of a job")?;
    let signal = if stop {
        Signal::SIGSTOP
    } else {
        Signal::SIGCONT
    };
    for _ in 0..ROUNDS {
        let mut more = false;
        for entry in fs::read_dir("/proc")
            .context("cannot read /proc")?
            .flatten()
        {
            let dir = entry.path();
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            let inside = fs::read_link(dir.join("ns/pid")).is_ok_and(|ns| ns == namespace);
            if inside && is_stopped(&dir) != stop {
                more = true;
                // It may have ended by now.
                let _gone = kill(Pid::from_raw(pid), signal);
            }
        }
        if !more {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The state is the first word after the name, which is in brackets (proc_pid_stat(5)).
fn is_stopped(process: &Path) -> bool {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    state.starts_with(['T', 'Z', 'X'])
}
