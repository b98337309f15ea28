//! `be confirm`: the running environment works.

use be_grub::selection::Choice;
use chrono::{DateTime, FixedOffset};

use super::{Plan, Step};
use crate::model::Inventory;
use crate::name::EnvName;
use crate::record::{How, State, TrialFailure};
use crate::refusal::Refusal;

/// Plan that the running environment is confirmed. If it was on trial, it is the default
/// from now on, and the trial has ended. No steps if all of that is so.
///
/// # Errors
/// Every rule that forbids it.
pub fn confirm(inv: &Inventory) -> Result<Plan, Refusal> {
    inv.writable()?;
    let env = inv.running()?;
    let mut plan = Plan::default();
    let mut record = env.record.clone();
    if env.usable() {
        record.state = State::Confirmed;
        record.trial_failure = None;
    }
    record.at_shutdown = None;
    let then = env.record.at_shutdown.as_ref().and_then(|then| then.switch);
    let was_chosen = then.is_some_and(|how| how != How::Once);
    if was_chosen && !env.default && env.trial.is_none() {
        // Somebody did by hand what the shutdown was to do. Before that is forgotten.
        plan.steps.push(Step::menu(env.name()));
    }
    if record != env.record {
        plan.steps.push(Step::Update(Box::new(record)));
    }
    let choice = inv.choice();
    let named = |name: &Option<String>| name.as_deref() == Some(env.name().as_str());
    if choice
        .trial
        .as_ref()
        .is_some_and(|t| t.name == env.name().as_str())
    {
        // The default first: cut off between the two, the trial of a default is none.
        plan.steps.push(Step::menu(env.name()));
        let failed = choice.failed.clone();
        let failed = failed.filter(|f| !named(&Some(f.name.clone())));
        plan.steps.push(Step::Choose(Choice {
            trial: None,
            failed,
            ..choice
        }));
    } else if let Some(back) = inv.menu.back.as_ref().filter(|_| env.default) {
        plan.steps.push(Step::menu(back));
    }
    Ok(plan)
}

/// Plan to take note of what GRUB has given up: it is bad. No steps if there is nothing.
///
/// # Errors
/// Every rule that forbids it.
pub fn note_failed(
    inv: &Inventory,
    why: impl FnOnce(&EnvName) -> String,
    now: DateTime<FixedOffset>,
) -> Result<(Plan, Option<EnvName>), Refusal> {
    let mut plan = Plan::default();
    let choice = inv.choice();
    let Some(failed) = &choice.failed else {
        return Ok((plan, None));
    };
    inv.writable()?;
    let env = inv
        .environments
        .iter()
        .find(|e| e.name().as_str() == failed.name);
    let known = env.filter(|e| e.record.state != State::Confirmed || !e.running);
    if let Some(env) = known {
        let mut record = env.record.clone();
        record.state = State::Bad;
        record.trial_failure = Some(TrialFailure::new(now, why(env.name())));
        record.at_shutdown = None;
        plan.steps.push(Step::Update(Box::new(record)));
    }
    plan.steps.push(Step::Choose(Choice {
        failed: None,
        ..choice
    }));
    Ok((plan, known.map(|e| e.name().clone())))
}

#[cfg(test)]
mod tests {
    use be_grub::selection::{Cause, Failed, Place, Trial};

    use super::super::fixture::{env, inventory, name, now};
    use super::*;
    use crate::model::Block;

    fn with_choice(mut inv: Inventory, choice: Choice) -> Inventory {
        inv.menu.block = Some(Block {
            at: Place::Header.block("f"),
            choice: Ok(choice),
        });
        inv
    }

    #[test]
    fn what_was_on_trial_becomes_the_default_before_the_trial_ends() {
        let inv = inventory(vec![
            env("old", 256).next(),
            env("new", 300).running().state(State::Ready),
        ]);
        let plan = confirm(&inv).unwrap();
        let [Step::Update(record)] = &plan.steps[..] else {
            panic!("{plan:?}");
        };
        assert_eq!(record.state, State::Confirmed);
        let choice = Choice {
            trial: Some(Trial {
                name: "new".into(),
                left: 0,
            }),
            ..Choice::default()
        };
        let plan = confirm(&with_choice(inv, choice)).unwrap();
        let [
            Step::Update(_),
            Step::WriteMenu { default, .. },
            Step::Choose(choice),
        ] = &plan.steps[..]
        else {
            panic!("{plan:?}");
        };
        assert_eq!((default.as_str(), &choice.trial), ("new", &None));
    }

    #[test]
    fn what_is_confirmed_is_left_alone_and_a_boot_for_once_is_set_back() {
        let mut inv = inventory(vec![env("old", 256), env("new", 300).running().next()]);
        assert_eq!(confirm(&inv).unwrap(), Plan::default());
        inv.menu.back = Some(name("old"));
        let plan = confirm(&inv).unwrap();
        assert_eq!(plan.steps, [Step::menu(&name("old"))]);
    }

    #[test]
    fn what_was_given_up_is_bad_and_told_once() {
        let inv = inventory(vec![
            env("old", 256).running().next(),
            env("new", 300).state(State::Ready),
        ]);
        let (plan, failed) = note_failed(&inv, |_| "x".into(), now()).unwrap();
        assert_eq!((plan, failed), (Plan::default(), None));
        let choice = |name: &str| Choice {
            failed: Some(Failed {
                name: name.into(),
                cause: Cause::TriesUsed,
            }),
            ..Choice::default()
        };
        let inv = with_choice(inv, choice("new"));
        let (plan, failed) = note_failed(&inv, |_| "it panicked".into(), now()).unwrap();
        assert_eq!(failed, Some(name("new")));
        let [Step::Update(record), Step::Choose(after)] = &plan.steps[..] else {
            panic!("{plan:?}");
        };
        assert_eq!(record.state, State::Bad);
        assert_eq!(record.trial_failure.as_ref().unwrap().why, "it panicked");
        assert_eq!(*after, Choice::default());
        // One that is gone is forgotten.
        let inv = with_choice(inv, choice("gone"));
        let (plan, failed) = note_failed(&inv, |_| "x".into(), now()).unwrap();
        assert_eq!((plan.steps.len(), failed), (1, None));
    }
}
