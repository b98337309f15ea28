//! Waiting for a child while passing signals on to it.

use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// How long a program may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(20);

/// A signal came that asks to stop. Set by the handlers, read by whoever works.
#[derive(Debug, Clone)]
pub struct Interrupted {
    /// Ctrl-C: the terminal has sent it to the whole foreground group already.
    int: Arc<AtomicBool>,
    /// SIGTERM or SIGHUP: sent to this process alone, to be passed on.
    term: Arc<AtomicBool>,
}

impl Interrupted {
    /// Install the handlers; the process no longer ends by these signals. One that the
    /// caller ignores, as nohup does, stays ignored.
    ///
    /// # Errors
    /// When a handler cannot be installed.
    pub fn watch() -> Result<Self> {
        let this = Self {
            int: Arc::default(),
            term: Arc::default(),
        };
        let ignored = ignored();
        for (signal, flag) in [
            (SIGINT, &this.int),
            (SIGTERM, &this.term),
            (SIGHUP, &this.term),
        ] {
            if ignored & (1 << (signal - 1)) == 0 {
                flag::register(signal, flag.clone()).context("cannot watch for signals")?;
            }
        }
        Ok(this)
    }

    /// As if somebody asked to stop when this time is over.
    pub fn after(&self, limit: Duration) {
        let term = self.term.clone();
        let stop = move || term.store(true, Ordering::Relaxed);
        if limit.is_zero() {
            return stop();
        }
        std::thread::spawn(move || {
            std::thread::sleep(limit);
            stop();
        });
    }

    /// Whether any of the signals has come.
    pub fn came(&self) -> bool {
        self.int.load(Ordering::Relaxed) || self.term.load(Ordering::Relaxed)
    }

    /// Go on, if none of the signals has come.
    ///
    /// # Errors
    /// One has.
    pub fn go_on(&self) -> Result<()> {
        anyhow::ensure!(!self.came(), "it was interrupted");
        Ok(())
    }

    fn must_pass_on(&self) -> bool {
        self.term.load(Ordering::Relaxed)
    }
}

/// The signals that this process ignores, as the mask in proc_pid_status(5).
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok())
        .unwrap_or(0)
}

/// Wait for `child`, calling `tick` about ten times a second.
///
/// After SIGTERM or SIGHUP the child is asked to end, and killed when it has not within
/// [`GRACE`]. Ctrl-C has reached it already, from the terminal; what it makes of it is its
/// own affair.
///
/// # Errors
/// When waiting itself fails.
pub fn wait(
    child: &mut Child,
    interrupted: &Interrupted,
    mut tick: impl FnMut(),
) -> Result<ExitStatus> {
    let mut nap = Duration::from_micros(500);
    let mut asked: Option<Instant> = None;
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a child")? {
            return Ok(status);
        }
        match asked {
            None if interrupted.must_pass_on() => {
                pass_on(child);
                asked = Some(Instant::now());
            }
            // The supervisor's death ends the PID namespace with all in it.
            Some(since) if since.elapsed() > GRACE => {
                child.kill().context("cannot kill a child")?;
            }
            _ => {}
        }
        tick();
        std::thread::sleep(nap);
        nap = (nap * 2).min(Duration::from_millis(100));
    }
}

/// As [`wait`], but for no longer than `limit`: then it is killed, with all that it started,
/// and there is no status.
///
/// # Errors
/// When waiting itself fails.
pub fn wait_within(
    child: &mut Child,
    interrupted: &Interrupted,
    limit: Duration,
) -> Result<Option<ExitStatus>> {
    let supervisor = i32::try_from(child.id()).ok().map(Pid::from_raw);
    let start = Instant::now();
    let mut late = false;
    let status = wait(child, interrupted, || {
        if start.elapsed() > limit && !late {
            late = true;
            // Its death ends the PID namespace; nobody but `wait` reaps it.
            let _gone = supervisor.map(|pid| kill(pid, Signal::SIGKILL));
        }
    })?;
    Ok((!late).then_some(status))
}

fn pass_on(child: &Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // It may have ended in this moment, which the next try_wait shows.
        let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

/// Make our process group the one in the foreground of the terminal again: a shell in the
/// chroot cannot, because it does not see the group that was there before.
pub fn take_terminal_back() {
    use nix::sys::signal::{SigSet, Signal};
    let stdin = std::io::stdin();
    if !std::io::IsTerminal::is_terminal(&stdin) {
        return;
    }
    let mut background = SigSet::empty();
    background.add(Signal::SIGTTOU);
    // Without the terminal there is nothing to take back.
    let _none = background
        .thread_block()
        .and_then(|()| nix::unistd::tcsetpgrp(&stdin, nix::unistd::getpgrp()))
        .and_then(|()| background.thread_unblock());
}
