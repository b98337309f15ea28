//! `be upgrade --live`: for who will not reboot. All is built in a clone; then the finished
//! packages are merged into the system that runs, in one short window.
//!
//! It is the one command that writes to the running system, so what it was is cloned just
//! before; and only what was built for the very packages that are installed is merged.

mod begun;
mod failed;
mod unchanged;
mod window;

use std::time::Duration;

use anyhow::{Context, Result};
use be_portage::emerge;
use serde::Serialize;

use super::portage::OUTPUT;
use super::{Kind, Outcome, Request, SyncFailed, Watch, claim, plan, run_claimed};
use crate::chroot::{Interrupted, capture};
use crate::manager::Manager;
use crate::name::EnvName;
use crate::old_code::OldCode;
use crate::record::State;
use crate::refusal::Refusal;
use crate::session::Session;

pub use failed::LiveFailed;

/// What was merged into the running system.
#[derive(Debug, Clone, Serialize)]
pub struct Live {
    /// The running environment.
    pub into: EnvName,
    /// The one that the packages were built in.
    pub from: EnvName,
    /// The running environment as it was before, to go back to.
    pub way_back: EnvName,
    /// How long the running system was neither old nor new, in seconds.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub window: Duration,
    /// Packages that were installed.
    pub merged: usize,
    /// What differs from the environment that they were built in, all the same.
    pub left: Vec<String>,
    /// Who still runs what is not on the disk any more.
    pub old_code: Vec<OldCode>,
}

fn packages(number: usize) -> String {
    match number {
        1 => "1 package".to_owned(),
        _ => format!("{number} packages"),
    }
}

fn seconds<S: serde::Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(time.as_secs_f64())
}

impl Live {
    /// For people, a line each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let (into, merged) = (&self.into, packages(self.merged));
        let mut lines = vec![format!(
            "merged {merged} into {into}, which runs, in {:.1} s",
            self.window.as_secs_f64()
        )];
        lines.extend(self.left.iter().map(|what| format!("not merged: {what}")));
        let old = self.old_code.iter();
        lines.extend(old.map(|old| format!("still runs old code: {old}")));
        if !self.old_code.is_empty() {
            lines.push("restart these when it suits you".to_owned());
        }
        lines.push(format!(
            "{into} as it was before is {0}: be rollback {0} and a reboot go back",
            self.way_back
        ));
        lines
    }
}

/// Build in a clone, then merge into the running system.
///
/// # Errors
/// As [`super::run`], with the running system untouched but for its repositories;
/// [`Refusal::NotLive`] with the environment kept; [`LiveFailed`] with the running system
/// changed in part.
pub fn run(
    session: &Session,
    request: &Request,
    interrupted: &Interrupted,
    watch: &mut dyn Watch,
) -> Result<Outcome> {
    if session.upgrader_of(&session.root)? != Manager::Portage {
        return Err(Refusal::Unsupported {
            what: "--live".to_owned(),
            why: "only Portage installs from finished packages".to_owned(),
        }
        .into());
    }
    let upgrades = claim(session, request.wait, interrupted, watch)?;
    if let Some(name) = complete(session, request)? {
        let live = window::open(session, &name, request, interrupted, watch)?;
        return Ok(Outcome::Merged(Box::new(live)));
    }
    // What is refused is refused before anything is written.
    plan(session, &session.observe()?, request)?;
    if matches!(request.kind, Kind::New { .. }) && session.config.upgrade.sync && !request.pretend {
        sync(session, interrupted, watch)?;
    }
    let mut report = match run_claimed(session, request, interrupted, watch, &upgrades)? {
        Outcome::Ready(report) => report,
        other => return Ok(other),
    };
    let live = window::open(session, &report.name, request, interrupted, watch)?;
    report.live = Some(live);
    Ok(Outcome::Ready(report))
}

/// The environment that is asked for, if nothing is to be done any more but to merge it.
fn complete(session: &Session, request: &Request) -> Result<Option<EnvName>> {
    let Kind::Continue(name) = &request.kind else {
        return Ok(None);
    };
    let inv = session.observe()?;
    let env = inv.get(name)?;
    let live = env.record.upgrade.as_ref().is_some_and(|u| u.live);
    Ok((live && env.state() == State::Ready).then(|| name.clone()))
}

/// Bring the repositories of the running system up to date: what is merged into it later was
/// chosen by the same.
fn sync(session: &Session, interrupted: &Interrupted, watch: &mut dyn Watch) -> Result<()> {
    watch.note("synchronising the repositories of the running system");
    let inv = session.observe()?;
    let kept = capture::memory()?;
    let out = kept.try_clone().context("cannot keep the output")?;
    let code = window::in_running(
        session,
        &inv,
        &emerge::sync(),
        None,
        out,
        (interrupted, || ()),
    )?;
    if code == 0 {
        return Ok(());
    }
    let said = capture::read(kept, OUTPUT)?;
    let last = said.lines().rfind(|line| !line.trim().is_empty());
    let last = last.unwrap_or_default().trim();
    Err(SyncFailed(format!(
        "the repositories could not be synchronised (emerge --sync: exit {code}): {last}"
    ))
    .into())
}
