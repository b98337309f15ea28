//! `be` as a person or a script runs it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;

/// The program, told to manage the system at one directory.
#[derive(Debug, Clone)]
pub struct Be {
    program: PathBuf,
    sysroot: PathBuf,
    /// What it finds at /sys/dev/block.
    block_devices: Option<PathBuf>,
}

/// Covers /sys/dev/block for one program alone.
const COVERED: &str = "mount --bind \"$0\" /sys/dev/block && exec \"$@\"";

impl Be {
    /// The program that was built with the tests, or `$BE_BIN`.
    ///
    /// # Errors
    /// It has not been built.
    pub fn at(sysroot: &Path) -> Result<Self> {
        let program = match std::env::var_os("BE_BIN") {
            Some(path) => path.into(),
            None => xtask::run::built("be")?,
        };
        Ok(Self {
            program,
            sysroot: sysroot.to_owned(),
            block_devices: None,
        })
    }

    /// The same, which finds what is in `dir` at /sys/dev/block.
    #[must_use]
    pub fn with_block_devices(mut self, dir: PathBuf) -> Self {
        self.block_devices = Some(dir);
        self
    }

    /// Where the program is.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A command that has not been started.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = match &self.block_devices {
            Some(dir) => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", COVERED]);
                command.arg(dir).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command
            .arg("--sysroot")
            .arg(&self.sysroot)
            .args(args)
            .stdin(Stdio::null())
            .env_remove("BE_SYSROOT")
            .env("LC_ALL", "C.UTF-8");
        command
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Outcome {
        Outcome::of(&mut self.command(args))
    }

    /// Starts it in a process group of its own, its output going to nobody.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Running> {
        Running::of(&mut self.command(args))
    }
}

/// What a run of `be` came to.
#[derive(Debug)]
pub struct Outcome {
    shown: String,
    /// The exit code; 128 + signal for a killed one, as shells have it.
    pub code: i32,
    /// What it printed as its result.
    pub stdout: String,
    /// What it told a person.
    pub stderr: String,
}

impl Outcome {
    /// Runs a command to its end.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn of(command: &mut Command) -> Self {
        let shown = xtask::run::show(command);
        let output = command
            .output()
            .unwrap_or_else(|e| panic!("cannot start {shown}: {e}"));
        Self::new(shown, &output)
    }

    /// Of a command that has ended.
    #[must_use]
    pub fn from_output(command: &Command, output: &Output) -> Self {
        Self::new(xtask::run::show(command), output)
    }

    fn new(shown: String, output: &Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let killed = || 128 + output.status.signal().unwrap_or(0);
        Self {
            shown,
            code: output.status.code().unwrap_or_else(killed),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The same, if it ended with this code.
    ///
    /// # Panics
    /// It ended with another one.
    #[track_caller]
    #[must_use]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "{}\nstdout: {}\nstderr: {}",
            self.shown, self.stdout, self.stderr
        );
        self
    }

    /// The same, if it was done.
    ///
    /// # Panics
    /// It was not.
    #[track_caller]
    pub fn done(self) -> Self {
        self.exits(0)
    }

    /// The same, if all of these words are in what it told a person.
    ///
    /// # Panics
    /// One is missing.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(
                self.stderr.contains(word),
                "{}: nothing of {word:?} in {}",
                self.shown,
                self.stderr
            );
        }
        self
    }

    /// Its one error message.
    ///
    /// # Panics
    /// There is none, there are several, or there is a result.
    #[track_caller]
    #[must_use]
    pub fn error(&self) -> &str {
        let is_error = |line: &&str| line.starts_with("be: ") || line.starts_with("error: ");
        let errors: Vec<&str> = self.stderr.lines().filter(is_error).collect();
        assert_eq!(errors.len(), 1, "{}: {}", self.shown, self.stderr);
        assert_eq!(self.stdout, "", "{}", self.shown);
        errors[0]
    }

    /// Its one JSON document.
    ///
    /// # Panics
    /// It is none.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        let value: Value = serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{}: {e}: {}", self.shown, self.stdout));
        assert_eq!(value["schema"], "be/v1", "{}", self.stdout);
        value
    }
}

/// A `be` at work. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
    peak: u64,
}

impl Running {
    /// Starts a command, as [`Be::start`].
    ///
    /// # Errors
    /// It cannot be started.
    pub fn of(command: &mut Command) -> Result<Self> {
        let child = command
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start be")?;
        let child = Some(child);
        Ok(Self { child, peak: 0 })
    }

    /// Its number.
    ///
    /// # Panics
    /// It has ended.
    #[must_use]
    pub fn pid(&self) -> Pid {
        let id = self.child.as_ref().map(Child::id).expect("it has ended");
        Pid::from_raw(id.cast_signed())
    }

    /// Sends a signal to it alone.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal).context("signal be")
    }

    /// Sends a signal to it and to all that it started, as a terminal does.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal_group(&self, signal: Signal) -> Result<()> {
        killpg(self.pid(), signal).context("signal the group of be")
    }

    /// Waits until `ready` gives something.
    ///
    /// # Errors
    /// `be` ends before, or it takes longer than five minutes.
    pub fn until<T>(&mut self, what: &str, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
        let start = Instant::now();
        loop {
            if let Some(found) = ready() {
                return Ok(found);
            }
            if self.has_ended()? {
                let outcome = self.end()?;
                bail!("be ended before {what}: {}", outcome.stderr);
            }
            if start.elapsed() > Duration::from_secs(300) {
                bail!("five minutes went by without {what}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether it has ended; notes its memory while it has not.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn has_ended(&mut self) -> Result<bool> {
        let pid = self.pid();
        if let Some(kilobytes) = held(pid) {
            self.peak = self.peak.max(kilobytes);
        }
        let child = self.child.as_mut().context("it has ended")?;
        Ok(child.try_wait().context("wait for be")?.is_some())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn end(&mut self) -> Result<Outcome> {
        let child = self.child.take().context("it has ended")?;
        let output = child.wait_with_output().context("wait for be")?;
        Ok(Outcome::new("be".to_owned(), &output))
    }

    /// Waits for its end, looking at its memory all the time. Gives the most
    /// that it held, in kB, of this process alone.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn end_with_peak(&mut self) -> Result<(Outcome, u64)> {
        while !self.has_ended()? {
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok((self.end()?, self.peak))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ended = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// `RssAnon` of a process (proc_pid_status(5)), in kB: without the pages of its program, which
/// the kernel can read again, and which are many without optimisation.
fn held(pid: Pid) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"))?;
    line.split_whitespace().next()?.parse().ok()
}
