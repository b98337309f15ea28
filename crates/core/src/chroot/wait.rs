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
    /// Install the handlers; the process no longer ends by these signals.
    ///
    /// # Errors
    /// When a handler cannot be installed.
    pub fn watch() -> Result<Self> {
        let this = Self {
            int: Arc::default(),
            term: Arc::default(),
        };
        flag::register(SIGINT, this.int.clone()).context("cannot watch for SIGINT")?;
        for signal in [SIGTERM, SIGHUP] {
            flag::register(signal, this.term.clone()).context("cannot watch for SIGTERM")?;
        }
        Ok(this)
    }

    /// Whether any of the signals has come.
    pub fn came(&self) -> bool {
        self.int.load(Ordering::Relaxed) || self.term.load(Ordering::Relaxed)
    }

    fn must_pass_on(&self) -> bool {
        self.term.load(Ordering::Relaxed)
    }
}

/// Wait for `child`, calling `tick` about ten times a second.
///
/// After SIGTERM the child is asked to end, and killed when it has not within
/// [`GRACE`]. After Ctrl-C it has been asked already, by the terminal.
///
/// # Errors
/// When waiting itself fails.
pub fn wait(
    child: &mut Child,
    interrupted: &Interrupted,
    mut tick: impl FnMut(),
) -> Result<ExitStatus> {
    let mut nap = Duration::from_micros(500);
    let mut asked = None;
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a child")? {
            return Ok(status);
        }
        if interrupted.came() {
            let since = *asked.get_or_insert_with(|| {
                if interrupted.must_pass_on() {
                    pass_on(child);
                }
                Instant::now()
            });
            if since.elapsed() > GRACE {
                // The supervisor's death ends the PID namespace with all in it.
                child.kill().context("cannot kill a child")?;
            }
        }
        tick();
        std::thread::sleep(nap);
        nap = (nap * 2).min(Duration::from_millis(100));
    }
}

fn pass_on(child: &Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // It may have ended in this moment, which the next try_wait shows.
        let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}
