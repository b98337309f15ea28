//! `be prune`: the destruction of what the rules do not keep. What `be destroy` would
//! refuse is protected, whatever the rules say.

use chrono::{DateTime, TimeZone};

use super::Plan;
use super::activate::rollback_target;
use super::destroy::{Destroy, Use, destroy};
use crate::config::Prune;
use crate::model::{Environment, Inventory};
use crate::name::{EnvName, Named};
use crate::policy::{self, Candidate, Judgement, Kind};
use crate::record::State;
use crate::refusal::Refusal;

/// An environment that must stay for a reason which the inventory does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// Which one.
    pub name: EnvName,
    /// Why, in a few words.
    pub why: String,
}

/// Decide about every environment.
///
/// # Errors
/// The rules for destroying anything at all: what cannot be read cannot be kept safe, and
/// without a running environment it is not known where this machine is.
pub fn judge<Tz: TimeZone>(
    inv: &Inventory,
    uses: &[Use],
    also: &[Reason],
    rules: &Prune,
    now: &DateTime<Tz>,
) -> Result<Judgement, Refusal> {
    inv.writable()?;
    inv.undamaged()?;
    inv.running()?;
    let back = rollback_target(inv).ok();
    let candidates: Vec<_> = inv
        .environments
        .iter()
        .map(|env| Candidate {
            name: env.name().clone(),
            created: env.record.created,
            kind: kind(env),
            protected: protection(inv, uses, also, env, back.as_ref()),
        })
        .collect();
    Ok(policy::judge(rules, &candidates, now))
}

/// Plan the destruction of these: one menu, then the removals.
///
/// # Errors
/// As for [`destroy`].
pub fn prune(inv: &Inventory, uses: &[Use], names: &[EnvName]) -> Result<Plan, Refusal> {
    let request = Destroy {
        names: names.iter().cloned().map(Named::from).collect(),
        unmount: false,
        chosen: None,
        strangers: Vec::new(),
    };
    destroy(inv, uses, &request)
}

/// What a new environment supersedes: the results of earlier upgrades from the same origin
/// that were never booted, oldest first, and why some of them have to stay all the same.
pub fn superseded(
    inv: &Inventory,
    uses: &[Use],
    also: &[Reason],
    new: &Environment,
) -> (Vec<EnvName>, Vec<Reason>) {
    let (mut gone, mut stay) = (Vec::new(), Vec::new());
    let earlier = new.record.origin.as_ref().into_iter();
    let earlier = earlier.flat_map(|origin| inv.unbooted(origin));
    for env in earlier.filter(|env| env.name() != new.name()) {
        let name = env.name().clone();
        match protection(inv, uses, also, env, None) {
            Some(why) => stay.push(Reason { name, why }),
            None => gone.push(name),
        }
    }
    (gone, stay)
}

fn kind(env: &Environment) -> Kind {
    let record = &env.record;
    let upgrade = record.upgrade.as_ref();
    let last = upgrade
        .into_iter()
        .flat_map(|u| [Some(u.started), u.ended])
        .flatten()
        .fold(record.created, std::cmp::max);
    match env.state() {
        State::Ready | State::Trial | State::Confirmed => Kind::Boots,
        State::Building | State::Failed => Kind::Unfinished(last),
        State::Bad => Kind::Bad(last),
    }
}

fn protection(
    inv: &Inventory,
    uses: &[Use],
    also: &[Reason],
    env: &Environment,
    back: Option<&EnvName>,
) -> Option<String> {
    if let Err(refusal) = prune(inv, uses, std::slice::from_ref(env.name())) {
        return Some(in_short(&refusal));
    }
    if env.record.builder.is_some() {
        return Some("a builder: be build drop".into());
    }
    if env.record.pinned {
        return Some("pinned".into());
    }
    if back == Some(env.name()) {
        return Some("the last confirmed one that is not running: be rollback goes there".into());
    }
    if let Some(reason) = also.iter().find(|r| r.name == *env.name()) {
        return Some(reason.why.clone());
    }
    // Whatever became of it, a person should see it.
    env.root
        .is_none()
        .then(|| format!("its root subvolume is gone: be destroy {}", env.name()))
}

/// Without the name, which stands before it.
fn in_short(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Running { .. } => "running".into(),
        Refusal::Next { .. } => "boots next".into(),
        Refusal::Pinned { .. } => "pinned".into(),
        Refusal::Once { .. } => "boots once".into(),
        Refusal::Fallback { .. } => "boots when a trial fails".into(),
        Refusal::GrubHome { path, .. } => format!("GRUB's own files lie in it, at /{path}"),
        Refusal::MergedInPart { .. } => {
            "a merge into the running system that has not ended needs it".into()
        }
        Refusal::NotMade { .. } => "was there before be".into(),
        Refusal::DefaultSubvolume { .. } => "the default subvolume of the filesystem".into(),
        Refusal::InUse { by, .. } => format!("in use: {by}"),
        Refusal::Nested { paths, .. } => format!(
            "holds subvolumes that be did not make: {}",
            paths
                .iter()
                .map(|p| p.display().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        ),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::super::Step;
    use super::super::fixture::{env, inventory, name, now};
    use super::*;
    use crate::policy::Fate;
    use crate::record::Upgrade;

    fn nothing_kept() -> Prune {
        Prune {
            keep: 0,
            min_keep: 0,
            ..Prune::default()
        }
    }

    #[test]
    fn what_is_used_or_not_ours_stays_and_says_why() {
        let days = |n| now() - TimeDelta::days(n);
        let mut inv = inventory(vec![
            env("older", 299).with(|e| e.record.created = days(30)),
            env("back", 300).with(|e| e.record.created = days(20)),
            env("run", 256).running(),
            env("next", 301).next().state(State::Ready),
            env("adopted", 302)
                .state(State::Ready)
                .with(|e| e.record.adopted = true),
            env("grub", 303)
                .state(State::Ready)
                .with(|e| e.record.grub_home = Some("boot/grub".into())),
            env("busy", 304)
                .state(State::Building)
                .with(|e| e.busy = true),
            env("cut", 305).state(State::Building).with(|e| {
                e.record.created = days(9);
                e.record.upgrade = Some(Upgrade::start(days(1), &[]));
            }),
            env("pin", 306)
                .state(State::Ready)
                .with(|e| e.record.pinned = true),
            env("nest", 307)
                .state(State::Ready)
                .with(|e| e.foreign = vec!["root/x".into()]),
            env("mounted", 308).state(State::Ready),
            env("default", 309).state(State::Ready),
            env("core", 310).state(State::Ready),
            env("gone", 311).state(State::Ready).with(|e| e.root = None),
            env("junk", 312).state(State::Ready),
        ]);
        inv.fs.default_subvolume = 309;
        let uses = [Use {
            subvolume: "@be/mounted/root/etc".into(),
            target: "/mnt".into(),
            pid: 7,
            here: false,
        }];
        let also = [Reason {
            name: name("core"),
            why: "grub-install was run in it".into(),
        }];
        let found = judge(&inv, &uses, &also, &nothing_kept(), &now()).unwrap();
        for (who, why) in [
            ("back", "be rollback goes there"),
            ("run", "running"),
            ("next", "boots next"),
            ("adopted", "before be"),
            ("grub", "/boot/grub"),
            ("busy", "an upgrade works"),
            ("cut", "an unfinished upgrade"),
            ("pin", "pinned"),
            ("nest", "root/x"),
            ("mounted", "process 7"),
            ("default", "default subvolume"),
            ("core", "grub-install"),
            ("gone", "be destroy gone"),
        ] {
            let verdict = found
                .verdicts
                .iter()
                .find(|v| v.name.as_str() == who)
                .unwrap();
            assert_eq!(verdict.fate, Fate::Keep, "{who}");
            assert!(verdict.why.contains(why), "{who}: {}", verdict.why);
        }
        assert_eq!(found.deleted(), [name("older"), name("junk")]);
        inv.menu.entries = vec!["junk".into()];
        let plan = prune(&inv, &uses, &found.deleted()).unwrap();
        let [
            Step::WriteMenu { without, .. },
            Step::Remove(_),
            Step::Remove(_),
        ] = &plan.steps[..]
        else {
            panic!("{plan:?}");
        };
        assert_eq!(without.len(), 2);
    }

    #[test]
    fn one_thing_that_cannot_be_read_keeps_all() {
        let mut inv = inventory(vec![env("run", 256).running().next(), env("junk", 300)]);
        let rules = nothing_kept();
        let refused = |inv: &Inventory| judge(inv, &[], &[], &rules, &now()).unwrap_err();
        inv.damaged = vec![("x".into(), "y".into())];
        assert!(matches!(refused(&inv), Refusal::Damaged { .. }));
        inv.damaged.clear();
        inv.menu.damage = Some("z".into());
        assert!(matches!(refused(&inv), Refusal::MenuDamaged { .. }));
        inv.menu.damage = None;
        inv.environments[0].running = false;
        assert!(matches!(refused(&inv), Refusal::NotAdopted { .. }));
        inv.fs.read_only = true;
        assert_eq!(refused(&inv), Refusal::ReadOnly);
    }
}
