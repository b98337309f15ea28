//! The checks of the machine's owner: programs in /etc/be/health.d.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::{Findings, Place, path};
use crate::log;
use crate::name::EnvName;
use crate::session::Session;

/// Where they are: those in `required` decide, those in `wanted` are only told.
pub const DIRECTORY: &str = "/etc/be/health.d";

/// Between two looks at a check that runs.
const MOMENT: Duration = Duration::from_millis(50);

/// How long one that was killed may take to go.
const GRACE: Duration = Duration::from_secs(5);

/// Run all of them, one after the other, in the order of their names.
pub(super) fn run(
    session: &Session,
    name: &EnvName,
    place: Place,
    limit: Duration,
    found: &mut Findings,
) -> Result<()> {
    for (kind, decides) in [("required", true), ("wanted", false)] {
        for program in programs(&Path::new(DIRECTORY).join(kind)) {
            let what = format!(
                "{kind}/{}",
                program.file_name().unwrap_or_default().display()
            );
            let mut out = log::append_to(&session.store, &path(name))?;
            writeln!(out, "--- {what}").context("cannot write the log of the health checks")?;
            let mut command = Command::new(&program);
            tell(&mut command, place);
            match one(command, name, out, limit) {
                Ok(()) => found.well.push(what),
                Err(why) if decides => found.failures.push(format!("{what} {why}")),
                Err(why) => found.warnings.push(format!("{what} {why}")),
            }
        }
    }
    Ok(())
}

/// What a check may ask for: a guest has no network, and other hardware.
fn tell(command: &mut Command, place: Place) {
    match place {
        Place::Guest => command.env("BE_TEST", "1"),
        Place::Machine => command.env_remove("BE_TEST"),
    };
}

/// The executable files in a directory, by name.
fn programs(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut programs: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            let hidden = path
                .file_name()
                .is_none_or(|n| n.as_encoded_bytes()[0] == b'.');
            let meta = std::fs::metadata(path);
            !hidden && meta.is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        })
        .collect();
    programs.sort();
    programs
}

/// One check, with its own limit; what it leaves running in its group goes with it.
fn one(
    mut command: Command,
    name: &EnvName,
    out: std::fs::File,
    limit: Duration,
) -> Result<(), String> {
    let err = out
        .try_clone()
        .map_err(|e| format!("cannot be started: {e}"))?;
    let mut child = command
        .env("BE_ENVIRONMENT", name.as_str())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .process_group(0)
        .spawn()
        .map_err(|e| format!("cannot be started: {e}"))?;
    let status = wait(&mut child, limit);
    // The group has the number of its first process.
    if let Ok(group) = i32::try_from(child.id()) {
        let _gone = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    match status {
        None => {
            // In an uninterruptible wait it stays: there is nothing that could be done.
            let _stays = wait(&mut child, GRACE);
            Err(format!("did not end within {} s", limit.as_secs()))
        }
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("says no ({status})")),
    }
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if start.elapsed() >= limit {
            return None;
        }
        sleep(MOMENT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn sh(script: &str, limit: Duration) -> (Result<(), String>, String) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        let name = EnvName::parse("new").unwrap();
        let found = one(command, &name, file.reopen().unwrap(), limit);
        (found, std::fs::read_to_string(file.path()).unwrap())
    }

    #[test]
    fn a_check_says_yes_or_no_and_its_output_is_kept() {
        let (found, output) = sh("echo $BE_ENVIRONMENT", MINUTE);
        assert_eq!((found, output.as_str()), (Ok(()), "new\n"));
        let (found, output) = sh("echo why >&2; exit 3", MINUTE);
        assert!(found.unwrap_err().contains('3'));
        assert_eq!(output, "why\n");
    }

    #[test]
    fn a_check_in_a_guest_is_told() {
        for (place, said) in [(Place::Guest, "1\n"), (Place::Machine, "\n")] {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "echo $BE_TEST"]);
            tell(&mut command, place);
            let output = command.output().unwrap().stdout;
            assert_eq!(String::from_utf8(output).unwrap(), said);
        }
    }

    #[test]
    fn one_that_hangs_is_ended_with_all_that_it_started() {
        let (found, output) = sh("sh -c 'sleep 600' & echo $!; wait", Duration::from_secs(3));
        assert!(found.unwrap_err().contains("did not end"));
        let child: i32 = output.trim().parse().unwrap();
        let gone = || {
            let status = std::fs::read_to_string(format!("/proc/{child}/stat"));
            status.map_or(true, |s| s.contains(") Z "))
        };
        let start = Instant::now();
        while !gone() && start.elapsed() < MINUTE {
            sleep(MOMENT);
        }
        assert!(gone());
    }

    #[test]
    fn only_programs_are_checks() {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [("b", 0o755), ("a", 0o755), ("README", 0o644), (".x", 0o755)] {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        std::fs::create_dir(dir.path().join("c")).unwrap();
        let names = programs(dir.path());
        assert_eq!(names, [dir.path().join("a"), dir.path().join("b")]);
    }
}
