//! `be describe`, `be pin` and `be unpin`: what the owner of an environment says of it.

use super::create::default;
use super::{Plan, Step};
use crate::model::{Environment, Inventory};
use crate::name::{EnvName, Named};
use crate::refusal::Refusal;

/// Plan another description; the menu shows it, too.
///
/// # Errors
/// Every rule that forbids it.
pub fn describe(inv: &Inventory, name: &Named, text: &str) -> Result<Plan, Refusal> {
    inv.writable()?;
    let env = idle(inv, &name.env)?;
    let mut record = env.record.clone();
    let mut plan = Plan::default();
    let Some(snapshot) = &name.snapshot else {
        if record.description != text {
            text.clone_into(&mut record.description);
            plan.steps.push(Step::Update(Box::new(record)));
            let listed = inv.menu.entries.iter().any(|e| e == name.env.as_str());
            if listed && inv.menu.damage.is_none() {
                plan.steps.push(Step::menu(&default(inv, &name.env)));
            }
        }
        return Ok(plan);
    };
    env.snapshot(snapshot)?;
    for found in &mut record.snapshots {
        if found.name == *snapshot {
            text.clone_into(&mut found.description);
        }
    }
    if record != env.record {
        plan.steps.push(Step::Update(Box::new(record)));
    }
    Ok(plan)
}

/// Plan that an environment is kept, or no longer; no steps if it is as asked for.
///
/// # Errors
/// Every rule that forbids it.
pub fn pin(inv: &Inventory, name: &EnvName, pinned: bool) -> Result<Plan, Refusal> {
    inv.writable()?;
    let mut record = idle(inv, name)?.record.clone();
    let mut plan = Plan::default();
    if record.pinned != pinned {
        record.pinned = pinned;
        plan.steps.push(Step::Update(Box::new(record)));
    }
    Ok(plan)
}

/// An upgrade writes the record of its environment again and again, from what it knew.
fn idle<'a>(inv: &'a Inventory, name: &EnvName) -> Result<&'a Environment, Refusal> {
    let env = inv.get(name)?;
    match env.busy {
        true => Err(Refusal::Busy {
            what: format!("an upgrade works in {name}"),
        }),
        false => Ok(env),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{env, inventory, name};
    use super::*;

    #[test]
    fn a_description_is_in_the_record_and_in_the_menu() {
        let mut inv = inventory(vec![env("default", 256).running().next(), env("old", 300)]);
        inv.menu.entries = vec!["default".into()];
        let steps = |n: &str, text| describe(&inv, &n.parse().unwrap(), text).map(|p| p.steps);
        let both = steps("default", "why").unwrap();
        let [Step::Update(record), Step::WriteMenu { default, .. }] = &both[..] else {
            panic!("{both:?}");
        };
        assert_eq!(
            (record.description.as_str(), default.as_str()),
            ("why", "default")
        );
        assert_eq!(steps("old", "why").unwrap().len(), 1);
        assert_eq!(steps("old", "").unwrap(), []);
        assert!(matches!(
            steps("old@x", ""),
            Err(Refusal::UnknownSnapshot { .. })
        ));
    }

    #[test]
    fn pinning_twice_changes_nothing() {
        let inv = inventory(vec![
            env("old", 300),
            env("busy", 301).with(|e| e.busy = true),
        ]);
        let refusal = pin(&inv, &name("busy"), true).unwrap_err();
        assert_eq!(refusal.exit_code(), 4);
        assert_eq!(pin(&inv, &name("old"), true).unwrap().steps.len(), 1);
        assert_eq!(pin(&inv, &name("old"), false).unwrap(), Plan::default());
        assert!(pin(&inv, &name("nope"), true).is_err());
    }
}
