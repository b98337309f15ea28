//! Is the system that has just booted well? The checks of `be confirm --boot`, what they
//! found, and what becomes of it.

mod builtin;
mod custom;
mod message;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use be_grub::selection::{Boot, Cause};
use chrono::{DateTime, FixedOffset};

use crate::log;
use crate::model::Inventory;
use crate::name::EnvName;
use crate::reboot;
use crate::session::Session;
use crate::store::{Paths, Store};

pub use custom::DIRECTORY;
pub use message::{announce, withdraw};

/// Starts the line that says what was wrong.
const FAILED: &str = "failed: ";

/// What is read of the log of the checks, in bytes from its end.
const END: u64 = 64 << 10;

/// What the system that is checked runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Its own machine.
    Machine,
    /// The virtual machine of `be test`, which has no network.
    Guest,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// What is well.
    pub well: Vec<String>,
    /// What is not, and does not matter for the verdict.
    pub warnings: Vec<String>,
    /// What must be, and is not.
    pub failures: Vec<String>,
}

impl Findings {
    fn add(&mut self, what: &str, found: Result<(), String>) {
        match found {
            Ok(()) => self.well.push(what.to_owned()),
            Err(why) => self.failures.push(why),
        }
    }
}

/// How this machine was booted, as GRUB has told the kernel; none where our menu did not
/// choose, or for a system that is only mounted.
pub fn boot(inv: &Inventory) -> Option<Boot> {
    if inv.sysroot != Path::new("/") || !crate::host::sees_the_machine() {
        return None;
    }
    Boot::parse(&reboot::cmdline(&inv.system.root.option()))
}

/// Look whether the running system is well; this waits for it to have come up.
///
/// # Errors
/// When the log of the checks cannot be written.
pub fn check(session: &Session, inv: &Inventory, name: &EnvName, place: Place) -> Result<Findings> {
    let limits = &session.config.health;
    let mut found = Findings::default();
    let patience = Duration::from_secs(limits.boot_seconds);
    if let Some(target) = builtin::target() {
        found.add(target.name(), target.reached(patience));
        found.warnings.extend(target.complaints());
    }
    let subvolume = inv.system.root.option();
    let root = builtin::root(&reboot::cmdline(&subvolume), &subvolume);
    found.add("the root is the one that GRUB named", root);
    let mounts: Vec<_> = inv.system.mounts.iter().map(|m| &*m.target).collect();
    let missing = builtin::not_mounted(&inv.system.layout.fstab, &mounts, place);
    let mounted = match missing.is_empty() {
        true => Ok(()),
        false => Err(format!("not mounted: {}", missing.join(", "))),
    };
    found.add("what fstab lists is mounted", mounted);
    let limit = Duration::from_secs(limits.check_seconds);
    custom::run(session, name, place, limit, &mut found)?;
    Ok(found)
}

/// Write down what was found, for `be log` and for whoever asks why a trial failed.
///
/// # Errors
/// When the log cannot be written.
pub fn note(
    store: &Store,
    name: &EnvName,
    found: &Findings,
    now: DateTime<FixedOffset>,
) -> Result<()> {
    let mut text = format!("=== {} health checks\n", now.format("%Y-%m-%d %H:%M:%S"));
    let lines = [("well: ", &found.well), ("warning: ", &found.warnings)];
    for (word, list) in lines.into_iter().chain([(FAILED, &found.failures)]) {
        for line in list {
            text.push_str(&format!("{word}{line}\n"));
        }
    }
    let mut out = log::append_to(store, &path(name))?;
    out.write_all(text.as_bytes())
        .and_then(|()| out.sync_data())
        .context("cannot write the log of the health checks")
}

/// The log of the health checks of an environment, from the top level.
pub fn path(name: &EnvName) -> PathBuf {
    Paths::environment(name).join("log/health.log")
}

/// What is known of the checks of an environment, the last boots only.
///
/// # Errors
/// When the log is there and cannot be read.
pub fn read(store: &Store, name: &EnvName) -> Result<Option<String>> {
    let bytes = log::tail(store, &path(name), END)?;
    Ok(bytes.map(|b| String::from_utf8_lossy(&b).into_owned()))
}

/// A trial begins: what earlier ones found says nothing of it.
pub(crate) fn forget(store: &Store, name: &EnvName) {
    // A log that stays says what failed before, which is better than nothing.
    let _kept = store.dir.remove_file(path(name));
}

/// Why GRUB has given up an environment, in one sentence.
pub(crate) fn why(session: &Session, name: &EnvName, cause: Option<Cause>) -> String {
    if cause == Some(Cause::LoadFailed) {
        return "GRUB could not load its kernel or initramfs".to_owned();
    }
    let log = read(&session.store, name).ok().flatten();
    if let Some(failed) = log.as_deref().and_then(last_failure) {
        return failed;
    }
    // What is older than the environment was another's.
    let record = session.store.record_of(name);
    let since = record.map_or(SystemTime::UNIX_EPOCH, |r| r.created.into());
    let panics = ["/sys/fs/pstore", "/var/lib/systemd/pstore"];
    if let Some(panic) = panics
        .iter()
        .find_map(|dir| panic_in(Path::new(dir), since))
    {
        return format!("its kernel panicked: {panic}");
    }
    "it was not confirmed in its trial boots: it crashed or hung before its health checks".into()
}

/// The failures of the last run in a log.
fn last_failure(log: &str) -> Option<String> {
    let last = log.rsplit("=== ").next()?;
    let failures: Vec<_> = last
        .lines()
        .filter_map(|l| l.strip_prefix(FAILED))
        .collect();
    (!failures.is_empty()).then(|| failures.join("; "))
}

/// The newest panic that the firmware has kept (Documentation/ABI/testing/pstore).
fn panic_in(dir: &Path, since: SystemTime) -> Option<String> {
    const WORDS: &str = "Kernel panic - not syncing: ";
    let files = std::fs::read_dir(dir).ok()?.flatten();
    let mut files: Vec<_> = files
        .filter_map(|f| Some((f.metadata().ok()?.modified().ok()?, f.path())))
        .filter(|(modified, _)| *modified >= since)
        .collect();
    files.sort();
    files.iter().rev().find_map(|(_, path)| {
        let text = String::from_utf8_lossy(&std::fs::read(path).ok()?).into_owned();
        let (_, after) = text.split_once(WORDS)?;
        Some(after.lines().next()?.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_run_says_what_is_wrong() {
        let log = "=== 1 health checks\nfailed: a\n=== 2 health checks\nwell: x\nfailed: b\n\
                   failed: c\n";
        assert_eq!(last_failure(log).as_deref(), Some("b; c"));
        let well = format!("{log}=== 3 health checks\nwell: x\n");
        assert_eq!(last_failure(&well), None);
        assert_eq!(last_failure(""), None);
    }

    #[test]
    fn a_panic_is_found_where_the_firmware_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let since = SystemTime::now() - Duration::from_secs(60);
        assert_eq!(panic_in(dir.path(), since), None);
        let text = "<0>[1.2] x\n<0>[1.3] Kernel panic - not syncing: Attempted to kill init!\n<4>y";
        std::fs::write(dir.path().join("dmesg-efi-1"), text).unwrap();
        assert_eq!(
            panic_in(dir.path(), since).as_deref(),
            Some("Attempted to kill init!")
        );
        let later = SystemTime::now() + Duration::from_secs(60);
        assert_eq!(panic_in(dir.path(), later), None);
    }
}
