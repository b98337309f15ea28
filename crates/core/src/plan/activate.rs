//! `be activate` and `be rollback`: they change what boots next, and nothing else.

use std::path::Path;

use super::{Plan, Proofs, Step};
use crate::layout;
use crate::model::{Environment, Inventory};
use crate::name::EnvName;
use crate::record::{Policy, State};
use crate::refusal::Refusal;

/// What is asked for, with what was found out about the environment.
#[derive(Debug, Clone)]
pub struct Activate {
    /// Which environment.
    pub name: EnvName,
    /// For the next boot only.
    pub once: bool,
    /// Why it would not boot; empty if it would.
    pub problems: Vec<String>,
}

/// Plan a change of what boots next.
///
/// # Errors
/// Every rule that forbids it.
pub fn activate(inv: &Inventory, request: &Activate) -> Result<Plan, Refusal> {
    inv.writable()?;
    let env = inv.get(&request.name)?;
    if request.once {
        return Err(Refusal::NoOnce);
    }
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
    let mut plan = Plan::default();
    plan.steps.extend(clone_late(inv, env));
    // Also when it boots next already: the menu may be stale.
    plan.steps.push(Step::WriteMenu {
        default: request.name.clone(),
        without: Vec::new(),
        proofs: Proofs::Kept,
    });
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
    inv.environments
        .iter()
        .rev()
        .find(|e| !e.running && e.state() == State::Confirmed && e.root.is_some())
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
    use super::super::fixture::{env, inventory, name};
    use super::*;

    fn request(text: &str) -> Activate {
        Activate {
            name: name(text),
            once: false,
            problems: Vec::new(),
        }
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
