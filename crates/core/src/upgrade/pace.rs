//! An upgrade that stands back: it pauses when somebody asks for that, or on battery.

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Work;
use crate::chroot::{Group, stop};
use crate::host;
use crate::name::EnvName;
use crate::refusal::NothingToDo;
use crate::session::Session;

/// How often it is asked whether to pause.
const ASK: Duration = Duration::from_millis(500);

/// Why it pauses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Wanted,
    Battery,
}

/// The pauses of one program.
pub(super) struct Pace {
    group: Option<Group>,
    supervisor: u32,
    asked: Instant,
    paused: Option<Why>,
}

impl Pace {
    pub(super) fn new(group: Option<Group>, child: &Child) -> Self {
        Self {
            group,
            supervisor: child.id(),
            asked: Instant::now(),
            paused: None,
        }
    }

    /// Stop or go on as it is wanted now; who interrupts a program that pauses lets it go on.
    pub(super) fn keep(&mut self, work: &mut Work<'_>) {
        if self.asked.elapsed() < ASK && !work.interrupted.came() {
            return;
        }
        self.asked = Instant::now();
        let wanted = match work.interrupted.came() {
            true => None,
            false => wanted(work.session, &work.record.name),
        };
        if wanted.is_some() == self.paused.is_some() {
            return;
        }
        match stop(self.group.as_ref(), self.supervisor, wanted.is_some()) {
            Ok(()) => work.watch.note(&told(&work.record.name, wanted)),
            // It goes on, which harms nobody.
            Err(e) => work.watch.note(&format!("cannot pause: {e:#}")),
        }
        self.paused = wanted;
    }
}

fn wanted(session: &Session, name: &EnvName) -> Option<Why> {
    if session.store.is_paused(name) {
        return Some(Why::Wanted);
    }
    let minds = session.config.upgrade.pause_on_battery;
    (minds && host::is_on_battery(Path::new(host::POWER))).then_some(Why::Battery)
}

fn told(name: &EnvName, why: Option<Why>) -> String {
    match why {
        Some(Why::Wanted) => format!("{name}: paused; be resume goes on"),
        Some(Why::Battery) => format!("{name}: paused until there is power again"),
        None => format!("{name}: going on"),
    }
}

/// Want the upgrade that runs to pause, or to go on; gives its environment.
///
/// # Errors
/// [`NothingToDo`] if none runs.
pub fn pause(session: &Session, paused: bool) -> Result<EnvName> {
    let inv = session.observe()?;
    inv.initialised()?;
    let Some(env) = inv.environments.iter().find(|env| env.busy) else {
        return Err(NothingToDo("no upgrade is running".into()).into());
    };
    session.store.set_paused(env.name(), paused)?;
    Ok(env.name().clone())
}
