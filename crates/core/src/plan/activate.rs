//! `be activate` and `be rollback`: they change what boots next, and nothing else.

use std::path::Path;

use be_grub::place::NoPlace;
use be_grub::selection::{Choice, Trial};

use super::create::default;
use super::{Plan, Step};
use crate::layout;
use crate::model::{Environment, Inventory};
use crate::name::EnvName;
pub use crate::record::How;
use crate::record::{AtShutdown, Policy, State};
use crate::refusal::Refusal;

/// How to switch, with what this machine can do.
#[derive(Debug, Clone)]
pub struct Switch {
    /// How it is to boot.
    pub how: How,
    /// How many boots a trial has.
    pub tries: u8,
    /// Why GRUB can write nowhere; none if it can.
    pub no_place: Option<NoPlace>,
    /// A service in the environment confirms it when it has come up.
    pub judged: bool,
    /// What is left to the shutdown of the running system.
    pub left: Left,
}

/// What the shutdown of the running system has to do for an environment that boots next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Nothing: there is no service for it, or nothing goes over by itself.
    Nothing,
    /// To carry what changes until then.
    Carry,
    /// To carry that, and to switch.
    Switch,
}

/// What is asked for, with what was found out about the environment.
#[derive(Debug, Clone)]
pub struct Activate {
    /// Which environment.
    pub name: EnvName,
    /// How it is to boot.
    pub switch: Switch,
    /// Why it would not boot; empty if it would.
    pub problems: Vec<String>,
}

/// How an environment will boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// By default.
    Default,
    /// On trial.
    Trial {
        /// So many times at the most.
        tries: u8,
        /// What boots after that.
        fallback: EnvName,
    },
    /// The next time only; GRUB sees to that.
    Once,
    /// By default until it has come up; then this one again.
    UntilUp {
        /// The default after that.
        back: EnvName,
    },
    /// The switch comes when this system shuts down, after what changed until then.
    AtShutdown {
        /// What boots if the machine goes down in another way.
        until: EnvName,
    },
}

/// Plan a change of what boots next.
///
/// # Errors
/// Every rule that forbids it.
pub fn activate(inv: &Inventory, request: &Activate) -> Result<(Plan, Way), Refusal> {
    inv.writable()?;
    let env = inv.get(&request.name)?;
    if env.root.is_none() {
        return Err(Refusal::RootMissing {
            name: request.name.clone(),
        });
    }
    if env.busy {
        return Err(Refusal::Busy {
            what: format!("an upgrade works in {}", request.name),
        });
    }
    env.no_builder()?;
    if !env.usable() {
        return Err(Refusal::NotReady {
            name: request.name.clone(),
            state: env.state().as_str(),
        });
    }
    if !request.problems.is_empty() {
        return Err(Refusal::NotBootable {
            name: request.name.clone().into(),
            problems: request.problems.clone(),
        });
    }
    inv.hooked()?;
    switch(inv, env, &request.switch)
}

/// The same of an environment that is known to be ready for it.
///
/// # Errors
/// [`Refusal::NoTrial`] and [`Refusal::NoFallback`], where a trial was asked for.
pub(crate) fn switch(
    inv: &Inventory,
    env: &Environment,
    request: &Switch,
) -> Result<(Plan, Way), Refusal> {
    let mut plan = Plan::default();
    let mut way = way(inv, env, request, &mut plan.notes)?;
    let mut then = (request.left == Left::Carry).then(|| AtShutdown::new(None));
    if request.left == Left::Switch {
        // What there is to say of it is said when it comes.
        plan.notes.clear();
        then = Some(AtShutdown::new(Some(request.how)));
        way = Way::AtShutdown {
            until: default(inv, inv.running()?.name()),
        };
    }
    plan.steps.extend(clone_late(inv, env));
    let name = env.name().to_string();
    let before = inv.choice();
    let waits = |other: &&Environment| other.record.at_shutdown.is_some();
    let waiting = inv.environments.iter().filter(waits);
    let others = waiting.clone().filter(|other| other.name() != env.name());
    plan.notes.extend(
        others.map(|other| format!("{} does not wait for the shutdown any more", other.name())),
    );
    let waiting = waiting.map(|other| Step::at_shutdown(other.name(), None));
    // The menu is written also when it stays as it is: it may be stale.
    match &way {
        Way::Default => {
            let after = Choice {
                once: None,
                trial: None,
                ..before.clone()
            };
            // First, so that GRUB never has a trial beside a default that was chosen.
            if after != before {
                plan.steps.push(Step::Choose(after));
            }
            plan.steps.push(Step::menu(env.name()));
        }
        Way::Trial { tries, fallback } => {
            plan.steps.push(Step::menu(fallback));
            let left = *tries;
            plan.steps.push(Step::Choose(Choice {
                once: None,
                trial: Some(Trial { name, left }),
                ..before
            }));
        }
        Way::Once => {
            plan.steps.push(Step::menu(&default(inv, env.name())));
            plan.steps.push(Step::Choose(Choice {
                once: Some(name),
                ..before
            }));
        }
        Way::UntilUp { back } => plan.steps.push(Step::BootOnce {
            name: env.name().clone(),
            back: back.clone(),
        }),
        Way::AtShutdown { until } => {
            let choice = without_others(inv, &before).map(Step::Choose);
            plan.steps.extend(choice);
            plan.steps.push(Step::menu(until));
        }
    }
    plan.steps.extend(waiting);
    let then = then.map(|then| Step::at_shutdown(env.name(), Some(then)));
    plan.steps.extend(then);
    Ok((plan, way))
}

/// GRUB's choice without what was to boot in the place of the default; none if that is so. The
/// running environment may be on trial itself.
fn without_others(inv: &Inventory, before: &Choice) -> Option<Choice> {
    let mut after = before.clone();
    let running = |trial: &Trial| {
        inv.environments
            .iter()
            .any(|e| e.running && e.is(&trial.name))
    };
    after.once = None;
    after.trial = after.trial.filter(running);
    (after != *before).then_some(after)
}

fn way(
    inv: &Inventory,
    env: &Environment,
    request: &Switch,
    notes: &mut Vec<String>,
) -> Result<Way, Refusal> {
    let name = env.name();
    let tries = request.tries;
    // What runs has come up.
    let unproven = env.record.state != State::Confirmed && !env.running;
    match (request.how, &request.no_place) {
        (How::Once, None) => Ok(Way::Once),
        (How::Once, Some(none)) => {
            let back = inv.menu.back.clone();
            let back = back.unwrap_or_else(|| default(inv, name));
            if back == *name {
                return Ok(Way::Default);
            }
            notes.push(format!(
                "{none}. So {name} boots until it has come up and makes {back} the default \
                 again; if it does not come up, choose {back} in the menu"
            ));
            Ok(Way::UntilUp { back })
        }
        (How::Trial, Some(none)) => Err(Refusal::no_trial(none)),
        (How::Trial, None) => {
            let Some(fallback) = fallback(inv, env) else {
                return Err(Refusal::NoFallback { name: name.clone() });
            };
            if !request.judged {
                notes.push(format!(
                    "no service in {name} confirms it: say be confirm when it has booted"
                ));
            }
            Ok(Way::Trial { tries, fallback })
        }
        (How::Auto, none) if unproven => match (none, fallback(inv, env)) {
            (None, Some(fallback)) if request.judged => Ok(Way::Trial { tries, fallback }),
            (none, found) => {
                let why = match (none, &found) {
                    (Some(none), _) => none.to_string(),
                    (None, None) => "no other environment is confirmed".to_owned(),
                    // It would fall back while it works.
                    (None, Some(_)) => "no service in it would confirm it (be init enables one, \
                                        --trial leaves it to be confirm)"
                        .to_owned(),
                };
                let instead = found.map_or_else(|| "another".to_owned(), |f| f.to_string());
                notes.push(format!(
                    "{name} is not on trial: {why}. If it does not come up, choose {instead} in \
                     the menu"
                ));
                Ok(Way::Default)
            }
        },
        (How::Auto | How::Default, _) => Ok(Way::Default),
    }
}

/// What a trial falls back to: the default if that is confirmed, else what runs, else the
/// newest that is confirmed.
fn fallback(inv: &Inventory, env: &Environment) -> Option<EnvName> {
    let good = |e: &&Environment| {
        let listed = inv.menu.entries.iter().any(|n| n == e.name().as_str());
        let confirmed = e.record.state == State::Confirmed;
        confirmed && listed && e.root.is_some() && e.name() != env.name()
    };
    let all = || inv.environments.iter().rev().filter(good);
    let best = all()
        .find(|e| e.default)
        .or_else(|| all().find(|e| e.running));
    best.or_else(|| all().next()).map(|e| e.name().clone())
}

/// Plan that nothing boots for one time only; nothing if nothing was to.
///
/// # Errors
/// Every rule that forbids it.
pub fn undo_once(inv: &Inventory) -> Result<Plan, Refusal> {
    inv.writable()?;
    let mut plan = Plan::default();
    let choice = inv.choice();
    if choice.once.is_some() {
        plan.steps.push(Step::Choose(Choice {
            once: None,
            ..choice
        }));
    }
    if let Some(back) = &inv.menu.back {
        plan.steps.push(Step::menu(back));
    }
    let once = |then: &AtShutdown| then.switch == Some(How::Once);
    for env in &inv.environments {
        if env.record.at_shutdown.as_ref().is_some_and(once) {
            plan.steps.push(Step::at_shutdown(env.name(), None));
        }
    }
    Ok(plan)
}

/// What is cloned late comes from the running system once more, until the environment was
/// booted: from then on it has a life of its own.
pub(crate) fn clone_late(inv: &Inventory, env: &Environment) -> Option<Step> {
    if env.running || env.record.adopted || env.record.state.was_booted() {
        return None;
    }
    let late = env.record.subvolumes.iter();
    let late = late.filter(|m| m.policy == Policy::Late);
    let layout = &inv.system.layout;
    let sources: Vec<_> = late
        .filter_map(|m| layout.part_at(Path::new(&m.mount)))
        .filter(|part| part.is_own())
        .map(layout::source)
        .collect();
    (!sources.is_empty()).then(|| Step::CloneLate {
        name: env.name().clone(),
        sources,
    })
}

/// The environment that `be rollback` goes to when none is named: the newest confirmed
/// one that is not running.
///
/// # Errors
/// [`Refusal::NoWayBack`], which names the running environment if another one boots next.
pub fn rollback_target(inv: &Inventory) -> Result<EnvName, Refusal> {
    inv.initialised()?;
    // As it was before packages were merged into it while it ran: it worked then.
    let merged = inv.running().ok().and_then(|e| e.record.live.as_ref());
    let before = |e: &Environment| merged.is_some_and(|live| live.way_back == *e.name());
    inv.environments
        .iter()
        .rev()
        .find(|e| {
            let known = e.state() == State::Confirmed || (before(e) && e.state().is_usable());
            !e.running && known && e.root.is_some()
        })
        .map(|e| e.name().clone())
        .ok_or_else(|| Refusal::NoWayBack {
            running: inv
                .environments
                .iter()
                .find(|e| e.running && !e.next)
                .map(|e| e.name().clone()),
        })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{env, inventory, name, now};
    use super::*;
    use crate::record::LiveMerge;

    fn request(text: &str) -> Activate {
        Activate {
            name: name(text),
            switch: Switch {
                how: How::Auto,
                tries: 2,
                no_place: None,
                judged: true,
                left: Left::Nothing,
            },
            problems: Vec::new(),
        }
    }

    #[test]
    fn a_merge_into_what_runs_has_a_way_back_that_stays() {
        let mut inv = inventory(vec![
            env("default", 256).running().next(),
            env("confirmed", 300).state(State::Confirmed),
            env("built", 301).state(State::Ready),
            env("before", 302).state(State::Ready),
        ]);
        let merge = LiveMerge::begin(name("built"), name("before"), now());
        inv.environments[0].record.live = Some(merge);
        assert_eq!(rollback_target(&inv).unwrap().as_str(), "before");
        let destroy =
            |inv: &Inventory, text: &str| crate::plan::prune(inv, &[], &[name(text)]).map(drop);
        for text in ["built", "before"] {
            let refused = destroy(&inv, text).unwrap_err();
            assert!(matches!(refused, Refusal::MergedInPart { .. }), "{refused}");
        }
        destroy(&inv, "confirmed").unwrap();
        // When it has ended, both may go.
        let live = inv.environments[0].record.live.as_mut();
        live.unwrap().ended = Some(now());
        assert_eq!(rollback_target(&inv).unwrap().as_str(), "before");
        destroy(&inv, "built").unwrap();
        destroy(&inv, "before").unwrap();
    }

    #[test]
    fn only_what_boots_can_be_activated() {
        let inv = inventory(vec![
            env("default", 256).running().next(),
            env("new", 300).state(State::Ready),
            env("failed", 301).state(State::Failed),
            env("cut-off", 302).state(State::Building),
            env("gone", 303).with(|e| e.root = None),
        ]);
        assert!(activate(&inv, &request("new")).is_ok());
        assert!(activate(&inv, &request("default")).is_ok());
        for bad in ["failed", "cut-off"] {
            let refusal = activate(&inv, &request(bad)).unwrap_err();
            assert_eq!(
                refusal,
                Refusal::NotReady {
                    name: name(bad),
                    state: "failed"
                }
            );
        }
        assert!(matches!(
            activate(&inv, &request("gone")),
            Err(Refusal::RootMissing { .. })
        ));
        let mut broken = request("new");
        broken.problems = vec!["no kernel".into()];
        let refusal = activate(&inv, &broken).unwrap_err();
        assert_eq!(refusal.exit_code(), 8);
        let mut unhooked = inv.clone();
        unhooked.menu.hooked = false;
        assert!(matches!(
            activate(&unhooked, &request("new")),
            Err(Refusal::NotHooked { .. })
        ));
    }

    #[test]
    fn what_was_never_confirmed_boots_on_trial() {
        let mut inv = inventory(vec![
            env("old", 256),
            env("default", 257).running().next(),
            env("new", 300).state(State::Ready),
        ]);
        inv.menu.entries = ["new", "default", "old"].map(str::to_owned).to_vec();
        let ways = |inv: &Inventory, how, no_place: Option<NoPlace>| {
            let mut request = request("new");
            (request.switch.how, request.switch.no_place) = (how, no_place);
            activate(inv, &request).map(|(_, way)| way)
        };
        let (plan, way) = activate(&inv, &request("new")).unwrap();
        let trial = Way::Trial {
            tries: 2,
            fallback: name("default"),
        };
        assert_eq!(way, trial);
        let [Step::WriteMenu { default, .. }, Step::Choose(choice)] = &plan.steps[..] else {
            panic!("{plan:?}");
        };
        assert_eq!(default.as_str(), "default");
        let on_trial = Trial {
            name: "new".into(),
            left: 2,
        };
        assert_eq!(choice.trial, Some(on_trial));
        assert_eq!(ways(&inv, How::Default, None).unwrap(), Way::Default);
        assert_eq!(ways(&inv, How::Once, None).unwrap(), Way::Once);
        let mut unjudged = request("new");
        unjudged.switch.judged = false;
        let (plan, way) = activate(&inv, &unjudged).unwrap();
        assert_eq!(way, Way::Default);
        assert!(plan.notes[0].contains("no service"), "{:?}", plan.notes);
        unjudged.switch.how = How::Trial;
        let (plan, way) = activate(&inv, &unjudged).unwrap();
        assert!(matches!(way, Way::Trial { .. }));
        assert!(plan.notes[0].contains("be confirm"), "{:?}", plan.notes);
        let nowhere = || Some(NoPlace { places: Vec::new() });
        assert_eq!(ways(&inv, How::Auto, nowhere()).unwrap(), Way::Default);
        let refused = ways(&inv, How::Trial, nowhere()).unwrap_err();
        assert!(matches!(refused, Refusal::NoTrial { .. }), "{refused}");
        let back = name("default");
        assert_eq!(
            ways(&inv, How::Once, nowhere()).unwrap(),
            Way::UntilUp { back }
        );
        // A default that was never confirmed itself is nothing to fall back to.
        inv.environments[1].record.state = State::Ready;
        let fallback = name("old");
        let way = ways(&inv, How::Auto, None).unwrap();
        assert_eq!(way, Way::Trial { tries: 2, fallback });
        inv.environments[0].record.state = State::Bad;
        assert_eq!(ways(&inv, How::Auto, None).unwrap(), Way::Default);
        let refused = ways(&inv, How::Trial, None).unwrap_err();
        assert!(matches!(refused, Refusal::NoFallback { .. }), "{refused}");
    }

    #[test]
    fn another_choice_ends_the_trial_before_the_menu_changes() {
        let mut inv = inventory(vec![
            env("default", 256).running().next(),
            env("new", 300).state(State::Ready),
        ]);
        let choice = Choice {
            trial: Some(Trial {
                name: "new".into(),
                left: 1,
            }),
            ..Choice::default()
        };
        inv.menu.block = Some(crate::model::Block {
            at: be_grub::selection::Place::Header.block("f"),
            choice: Ok(choice),
        });
        let (plan, way) = activate(&inv, &request("default")).unwrap();
        assert_eq!(way, Way::Default);
        let [Step::Choose(choice), Step::WriteMenu { .. }] = &plan.steps[..] else {
            panic!("{plan:?}");
        };
        assert_eq!(*choice, Choice::default());
        assert_eq!(undo_once(&inv).unwrap(), Plan::default());
        inv.menu.back = Some(name("default"));
        assert_eq!(
            undo_once(&inv).unwrap().steps,
            [Step::menu(&name("default"))]
        );
    }

    #[test]
    fn a_switch_at_shutdown_leaves_the_default_and_takes_back_all_others() {
        let mut inv = inventory(vec![
            env("default", 256).running().next(),
            env("new", 300).state(State::Ready),
            env("other", 301).state(State::Ready).with(|e| {
                e.record.at_shutdown = Some(AtShutdown::new(Some(How::Once)));
            }),
        ]);
        let trial = Choice {
            trial: Some(Trial {
                name: "other".into(),
                left: 2,
            }),
            ..Choice::default()
        };
        inv.menu.block = Some(crate::model::Block {
            at: be_grub::selection::Place::Header.block("f"),
            choice: Ok(trial),
        });
        let mut wanted = request("new");
        wanted.switch.left = Left::Switch;
        let (plan, way) = activate(&inv, &wanted).unwrap();
        let until = name("default");
        assert_eq!(
            plan.steps,
            [
                Step::Choose(Choice::default()),
                Step::menu(&until),
                Step::at_shutdown(&name("other"), None),
                Step::at_shutdown(&name("new"), Some(AtShutdown::new(Some(How::Auto)))),
            ]
        );
        assert_eq!(way, Way::AtShutdown { until });

        // At once, and the rest later.
        wanted.switch.left = Left::Carry;
        let (plan, way) = activate(&inv, &wanted).unwrap();
        assert_eq!(way, Way::Default);
        let then = Step::at_shutdown(&name("new"), Some(AtShutdown::new(None)));
        assert_eq!(plan.steps.last(), Some(&then));
        let undone = undo_once(&inv).unwrap().steps;
        assert_eq!(undone, [Step::at_shutdown(&name("other"), None)]);
    }

    #[test]
    fn rollback_goes_to_the_newest_confirmed() {
        let inv = inventory(vec![
            env("a", 256),
            env("b", 257),
            env("c", 258).running().next(),
            env("d", 259).state(State::Ready),
        ]);
        assert_eq!(rollback_target(&inv).unwrap().as_str(), "b");
        let alone = inventory(vec![env("a", 256).running()]);
        assert_eq!(
            rollback_target(&alone),
            Err(Refusal::NoWayBack {
                running: Some(name("a"))
            })
        );
    }
}
