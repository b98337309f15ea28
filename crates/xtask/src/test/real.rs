//! The tests that need real file systems and machines: every one a process of its own, as many
//! at a time as there are processors, whatever file it is in. So none waits for the slowest of
//! another file, and each one's time is said.

use std::collections::VecDeque;
use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::Uid;
use serde::Deserialize;

use super::Extent;
use crate::run::{cmd, run};
use crate::say;

/// The module, in any file, of tests that repeat what others show in another setting.
const THOROUGH: &str = "thorough::";

/// Files whose tests take longest: started first, so that the end is short.
const LONG: [&str; 4] = ["vm", "boot_test", "power", "managers"];

/// At most so many at a time: each may hold a machine of a gigabyte.
const MOST: usize = 4;

/// A program that holds tests.
struct Binary {
    path: PathBuf,
    /// As cargo names the target.
    name: String,
    /// Where its tests expect to be started: the directory of its package.
    directory: PathBuf,
}

struct Test<'a> {
    binary: &'a Binary,
    name: String,
}

/// Runs them all, also after one has failed.
///
/// # Errors
/// One does not build, none is found, or some fail: each one's output is shown when it ends.
pub(super) fn run_all(extent: Extent) -> Result<()> {
    let binaries = build()?;
    let tests = in_order(&binaries, extent)?;
    ensure!(!tests.is_empty(), "no test asks for a real file system");
    let workers = thread::available_parallelism().map_or(2, usize::from);
    let workers = workers.clamp(2, MOST);
    say(&format!("{} tests, {workers} at a time", tests.len()));
    let waiting = Mutex::new(tests);
    let failed = Mutex::new(Vec::new());
    let next = || waiting.lock().ok()?.pop_front();
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(test) = next() {
                    if let Err(error) = test.run() {
                        say(&format!("{error:#}"));
                        failed.lock().map(|mut all| all.push(test.title())).ok();
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_default();
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

impl Test<'_> {
    fn title(&self) -> String {
        format!("{} {}", self.binary.name, self.name)
    }

    fn run(&self) -> Result<()> {
        let start = Instant::now();
        let mut command = self.binary.command();
        command.args(["--ignored", "--exact", &self.name]);
        let ended = run(&mut command);
        let seconds = start.elapsed().as_secs();
        let verdict = if ended.is_ok() { "ok" } else { "FAILED" };
        say(&format!("{verdict} {seconds:>4} s  {}", self.title()));
        ended.map(drop)
    }
}

impl Binary {
    /// The program, with privileges, in its package's directory.
    fn command(&self) -> Command {
        let mut command = if Uid::effective().is_root() {
            Command::new(&self.path)
        } else {
            let mut sudo = cmd("sudo", ["-E"]);
            sudo.arg(&self.path);
            sudo
        };
        command.current_dir(&self.directory);
        command.env("CARGO_MANIFEST_DIR", &self.directory);
        // The end of what a failed test says is shown: its message, and not the way to it.
        command.env("RUST_BACKTRACE", "0");
        command
    }

    /// The names of its tests that plain `cargo test` leaves out.
    fn tests(&self) -> Result<Vec<String>> {
        let said = run(self
            .command()
            .args(["--ignored", "--list", "--format", "terse"]))?;
        let names = said.lines().filter_map(|line| line.strip_suffix(": test"));
        Ok(names.map(str::to_owned).collect())
    }
}

/// Tests in the order in which they are started.
fn in_order(binaries: &[Binary], extent: Extent) -> Result<VecDeque<Test<'_>>> {
    let rank = |binary: &Binary| LONG.iter().position(|name| *name == binary.name);
    let mut sorted: Vec<&Binary> = binaries.iter().collect();
    sorted.sort_by_key(|binary| rank(binary).unwrap_or(LONG.len()));
    let mut tests = VecDeque::new();
    for binary in sorted {
        let mut names = binary.tests()?;
        if extent == Extent::Usual {
            names.retain(|name| !name.contains(THOROUGH));
        }
        tests.extend(names.into_iter().map(|name| Test { binary, name }));
    }
    Ok(tests)
}

/// What cargo says of each thing it has built.
#[derive(Deserialize)]
struct Artifact {
    manifest_path: PathBuf,
    target: Target,
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds every program that holds tests.
fn build() -> Result<Vec<Binary>> {
    let args = [
        "test",
        "--workspace",
        "--quiet",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ];
    let mut cargo = super::cargo(&args);
    let mut child = cargo
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo")?;
    let mut binaries = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for line in std::io::BufReader::new(stdout).lines() {
            binaries.extend(binary(&line.context("read what cargo says")?)?);
        }
    }
    let ended = child.wait().context("wait for cargo")?;
    if !ended.success() {
        bail!("cargo {}: {ended}", args.join(" "));
    }
    Ok(binaries)
}

/// A program with tests, out of a line of cargo's machine-readable messages
/// (The Cargo Book, "External tools").
fn binary(line: &str) -> Result<Option<Binary>> {
    // Other reasons have other fields, and an artifact that is no test is no program of ours.
    let message: serde_json::Value = serde_json::from_str(line).context("cargo's messages")?;
    if message.get("reason").and_then(|reason| reason.as_str()) != Some("compiler-artifact") {
        return Ok(None);
    }
    let artifact: Artifact = serde_json::from_value(message).context("cargo's messages")?;
    let Some(path) = artifact.executable.filter(|_| artifact.profile.test) else {
        return Ok(None);
    };
    let directory = artifact.manifest_path.parent().map(Path::to_owned);
    Ok(Some(Binary {
        path,
        name: artifact.target.name,
        directory: directory.context("a package in no directory")?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARTIFACT: &str = r#"{"reason":"compiler-artifact","package_id":"x",
        "manifest_path":"/p/tests/Cargo.toml","target":{"kind":["test"],"name":"power"},
        "profile":{"test":true},"filenames":[],"executable":"/t/power-1","fresh":true}"#;

    #[test]
    fn a_program_with_tests_is_told_from_what_else_is_built() {
        let found = binary(ARTIFACT).unwrap().unwrap();
        assert_eq!(found.name, "power");
        assert_eq!(found.path, Path::new("/t/power-1"));
        assert_eq!(found.directory, Path::new("/p/tests"));
        let plain = ARTIFACT.replace(r#""test":true"#, r#""test":false"#);
        assert!(binary(&plain).unwrap().is_none());
        let library = ARTIFACT.replace(r#""/t/power-1""#, "null");
        assert!(binary(&library).unwrap().is_none());
        let end = r#"{"reason":"build-finished","success":true}"#;
        assert!(binary(end).unwrap().is_none());
        assert!(binary("no JSON").is_err());
    }
}
