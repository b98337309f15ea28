//! The result of an earlier upgrade that was never booted: it is continued, replaced once the
//! new one is ready, or kept.

use anyhow::Result;

use super::{Kind, Request, Work};
use crate::config::Unbooted;
use crate::host;
use crate::model::{Environment, Inventory};
use crate::plan::{How, Plan, Proofs, Step, switch};
use crate::prune;
use crate::record::{Phase, State, Upgrade};
use crate::refusal::Refusal;
use crate::session::Session;
use crate::store::Lock;

/// What is asked for, with the environment to go on in if that is wanted and there is one.
/// Who names a new environment, or another origin, gets that.
pub(super) fn go_on(session: &Session, inv: &Inventory, request: &Request) -> Request {
    let mut request = request.clone();
    let new = matches!(
        &request.kind,
        Kind::New {
            name: None,
            origin: None
        }
    );
    if new
        && !request.pretend
        && request.lock.is_none()
        && wanted(session, &request) == Unbooted::Continue
        && let Ok(running) = inv.running()
        && let Some(last) = inv.unbooted(running.name()).last()
    {
        request.kind = Kind::Unbooted(last.name().clone());
    }
    request
}

fn wanted(session: &Session, request: &Request) -> Unbooted {
    let configured = session.config.upgrade.unbooted;
    request.unbooted.unwrap_or(configured)
}

/// An environment that is worked in has no entry in the menu and does not boot next: the
/// running one does.
pub(super) fn out_of_the_menu(
    session: &Session,
    inv: &Inventory,
    env: &Environment,
) -> Result<Plan, Refusal> {
    let running = inv.running()?;
    let mut plan = Plan::default();
    let mut default = crate::plan::default(inv, running.name());
    if env.next || env.default || env.once || env.trial.is_some() {
        let how = session.switch(inv, running, How::Default);
        plan = switch(inv, running, &how)?.0;
        default = running.name().clone();
        plan.notes.push(format!(
            "{default} boots next until {} is complete again",
            env.name()
        ));
    }
    plan.steps.push(Step::WriteMenu {
        default,
        without: vec![env.name().clone()],
        proofs: Proofs::Kept,
    });
    Ok(plan)
}

/// Everything is done once more, in what is there.
pub(super) fn begin_again(upgrade: &mut Upgrade) {
    upgrade.phase = Phase::Clone;
    upgrade.chores.clear();
    upgrade.inputs = None;
    upgrade.lock = None;
}

impl Work<'_> {
    /// Why there is no point in going on: an environment was made of the very same, and waits
    /// to be booted, or could not be built.
    pub(super) fn is_there_already(&mut self) -> Result<Option<String>> {
        let inputs = self.upgrade().inputs.clone();
        let Some((inputs, origin)) = inputs.zip(self.record.origin.clone()) else {
            return Ok(None);
        };
        let inv = self.session.observe()?;
        let same = |env: &&Environment| {
            let upgrade = env.record.upgrade.as_ref();
            upgrade.and_then(|u| u.inputs.as_ref()) == Some(&inputs)
        };
        const OF: &str = "is made of the same repositories, configuration, world and packages, and";
        if let Some(env) = inv.unbooted(&origin).filter(same).last() {
            return Ok(Some(format!(
                "{} {OF} was not booted yet. To make another one all the same: be upgrade --again",
                env.name()
            )));
        }
        let failed = inv.environments.iter().filter(same).rev().find(|env| {
            let upgrade = env.record.upgrade.as_ref();
            // Not what was cut off, or could not be fetched.
            let again = |u: &Upgrade| {
                !u.failed.is_empty() || u.gates.iter().any(|gate| gate.verdict == "failed")
            };
            env.state() == State::Failed && upgrade.is_some_and(again)
        });
        Ok(failed.map(|env| {
            let name = env.name();
            format!(
                "{name} {OF} failed. To go on with it: be upgrade --continue {name}; to begin \
                 anew all the same: be upgrade --again"
            )
        }))
    }

    /// Delete what this environment replaces, now that it is ready. What goes wrong is told:
    /// it takes nothing from what was done.
    pub(super) fn replace(
        &mut self,
        request: &Request,
        lock: &Lock,
    ) -> (Vec<crate::name::EnvName>, Vec<String>) {
        // What a lock made is what somebody wanted to have besides.
        if wanted(self.session, request) == Unbooted::Keep || self.wanted.is_some() {
            return (Vec::new(), Vec::new());
        }
        if !host::sees_the_machine() {
            let note = format!("nothing is replaced: {}", Refusal::Blind);
            return (Vec::new(), vec![note]);
        }
        match prune::supersede(self.session, &self.record.name, lock) {
            Ok(done) => done,
            Err(e) => (Vec::new(), vec![format!("nothing is replaced: {e:#}")]),
        }
    }
}
