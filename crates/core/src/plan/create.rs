//! `be create`: a clone of an environment.

use chrono::{DateTime, FixedOffset};

use super::activate::{Switch, Way, switch};
use super::{CloneSpec, Plan, Step};
use crate::layout::{self, Layout, Source};
use crate::model::{Environment, Inventory, Subvolume};
use crate::name::{EnvName, Named, SnapName};
use crate::record::{Record, State, Upgrade};
use crate::refusal::Refusal;

/// Free bytes without which nothing is begun: a clone itself needs next to nothing, but
/// btrfs refuses small writes long before a snapshot.
pub const MIN_FREE: u64 = 16 << 20;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Create {
    /// Name of the new environment; a date without one.
    pub name: Option<EnvName>,
    /// What the origin consists of.
    pub layout: Layout,
    /// The environment, or the snapshot, to be cloned; the running one without one.
    pub origin: Option<Named>,
    /// What its owner says of it.
    pub description: String,
    /// The time.
    pub now: DateTime<FixedOffset>,
    /// An upgrade will run in it.
    pub upgrade: Option<Upgrade>,
    /// How it boots next, if it is to; the caller has seen that its origin boots.
    pub switch: Option<Switch>,
    /// Bytes that have to be free.
    pub min_free: u64,
}

/// Plan a clone. The new environment gets its entry in the menu, the default stays.
///
/// # Errors
/// Every rule that forbids it.
pub fn create(inv: &Inventory, request: &Create) -> Result<(EnvName, Plan, Option<Way>), Refusal> {
    inv.writable()?;
    inv.undamaged()?;
    let origin = match &request.origin {
        Some(name) => inv.get(&name.env)?,
        None => inv.running()?,
    };
    let snapshot = request.origin.as_ref().and_then(|n| n.snapshot.as_ref());
    let (root, root_state) = source(origin, snapshot)?;
    let is_running = origin.running && snapshot.is_none();
    origin.no_builder()?;
    if !root_state.is_usable() && !is_running {
        return Err(Refusal::NotReady {
            name: origin.name().clone(),
            state: root_state.as_str(),
        });
    }
    layout::readable(&request.layout)?;
    if is_running {
        if let Some(refusal) = Refusal::merged_in_part(inv) {
            return Err(refusal);
        }
        layout::supported(&inv.system)?;
        if let Some(path) = inv.system.swapfiles.first() {
            return Err(Refusal::Swapfile { path: path.clone() });
        }
    }
    let name = match &request.name {
        Some(name) => name.clone(),
        None => date_name(inv, request.now),
    };
    inv.free_name(&name)?;
    if request.switch.is_some() {
        inv.hooked()?;
    }
    let boot = request.layout.boot.as_ref().map_or(0, |b| b.size);
    let needed = request.min_free.saturating_add(boot);
    if inv.fs.free < needed {
        return Err(Refusal::NoSpace {
            free: inv.fs.free,
            needed,
        });
    }

    let state = match request.upgrade {
        Some(_) => State::Building,
        None => State::Ready,
    };
    let mut record = Record::new(name.clone(), request.now, state);
    record.origin = Some(origin.name().clone());
    record.description.clone_from(&request.description);
    record.upgrade.clone_from(&request.upgrade);

    let mut plan = Plan::default();
    if inv.fs.quotas {
        plan.notes.push(
            "quotas are on, which makes removing environments very slow: btrfs quota disable /"
                .into(),
        );
    }
    plan.steps.push(Step::Clone(Box::new(CloneSpec {
        sources: sources(origin, root, snapshot, &request.layout),
        fstab: layout::changes(&request.layout, &name, &inv.fs.uuid),
        boot: request.layout.boot.as_ref().map(|b| b.place.clone()),
        record: record.clone(),
    })));
    if state == State::Building {
        return Ok((name, plan, None));
    }
    let Some(how) = &request.switch else {
        plan.steps.push(Step::menu(&default(inv, origin.name())));
        return Ok((name, plan, None));
    };
    let (then, way) = switch(inv, &Environment::new(record, None), how)?;
    plan.steps.extend(then.steps);
    plan.notes.extend(then.notes);
    Ok((name, plan, Some(way)))
}

/// The root that is to be cloned, and the state that the system in it was in.
fn source<'a>(
    origin: &'a Environment,
    snapshot: Option<&SnapName>,
) -> Result<(&'a Subvolume, State), Refusal> {
    let Some(name) = snapshot else {
        let root = origin.root.as_ref().ok_or_else(|| Refusal::RootMissing {
            name: origin.name().clone(),
        })?;
        return Ok((root, origin.state()));
    };
    let (taken, found) = origin.snapshot(name)?;
    let root = found.root().ok_or_else(|| Refusal::SnapshotGone {
        name: Named::snapshot(origin.name(), name),
    })?;
    Ok((root, taken.state))
}

/// What is to be cloned; where that are snapshots, also of what.
fn sources(
    origin: &Environment,
    root: &Subvolume,
    snapshot: Option<&SnapName>,
    layout: &Layout,
) -> Vec<Source> {
    let mut sources = layout::sources(root, layout);
    if snapshot.is_some() {
        for source in &mut sources {
            let original = origin.record.subvolumes.iter();
            let mut original = original.filter(|m| m.mount == source.mount);
            source.original = original.next().map(|m| m.uuid.clone());
        }
        sources[0].holds_store = origin.root.as_ref().is_some_and(Subvolume::is_top_level);
    }
    sources
}

/// What the menu boots by default now; before there is a menu, the running environment.
pub fn default(inv: &Inventory, fallback: &EnvName) -> EnvName {
    let next = inv.environments.iter().find(|e| e.default);
    let running = inv.environments.iter().find(|e| e.running);
    next.or(running)
        .map_or_else(|| fallback.clone(), |e| e.name().clone())
}

fn date_name(inv: &Inventory, now: DateTime<FixedOffset>) -> EnvName {
    let stem = now.format("%Y-%m-%d").to_string();
    // A date is always a valid name, and so is a date with a number.
    EnvName::free(&stem, &inv.names()).expect("a date is a valid name")
}

#[cfg(test)]
mod tests {
    use super::super::activate::{How, Left};
    use super::super::fixture::{env, inventory, name, now, snapshot};
    use super::*;

    fn request(text: Option<&str>) -> Create {
        Create {
            name: text.map(name),
            origin: None,
            layout: Layout::default(),
            description: "why".into(),
            now: now(),
            upgrade: None,
            switch: None,
            min_free: MIN_FREE,
        }
    }

    #[test]
    fn clones_the_running_environment_and_keeps_the_default() {
        let inv = inventory(vec![env("default", 256).running().next()]);
        let (name, plan, _) = create(&inv, &request(None)).unwrap();
        assert_eq!(name.as_str(), "2026-11-20");
        let [Step::Clone(spec), Step::WriteMenu { default, .. }] = &plan.steps[..] else {
            panic!("{plan:?}");
        };
        assert_eq!(default.as_str(), "default");
        assert_eq!(spec.record.origin.as_ref().unwrap().as_str(), "default");
        assert_eq!(spec.record.state, State::Ready);
        assert!(!spec.sources[0].holds_store);
    }

    #[test]
    fn an_upgrade_has_no_entry_before_it_is_done() {
        let inv = inventory(vec![env("default", 256).running().next()]);
        let mut request = request(Some("new"));
        request.upgrade = Some(Upgrade::start(now(), &[]));
        let (_, plan, _) = create(&inv, &request).unwrap();
        assert_eq!(plan.steps.len(), 1);
    }

    #[test]
    fn one_that_is_to_boot_is_on_trial() {
        let mut inv = inventory(vec![env("default", 256).running().next()]);
        inv.menu.entries = vec!["default".into()];
        let mut request = request(Some("new"));
        request.switch = Some(Switch {
            how: How::Auto,
            tries: 3,
            no_place: None,
            judged: true,
            left: Left::Nothing,
        });
        let (_, plan, way) = create(&inv, &request).unwrap();
        let fallback = name("default");
        assert_eq!(way, Some(Way::Trial { tries: 3, fallback }));
        let [
            Step::Clone(_),
            Step::WriteMenu { default, .. },
            Step::Choose(choice),
        ] = &plan.steps[..]
        else {
            panic!("{plan:?}");
        };
        assert_eq!(default.as_str(), "default");
        assert_eq!(choice.trial.as_ref().unwrap().name, "new");
    }

    #[test]
    fn refusals() {
        let good = inventory(vec![env("default", 256).running().next()]);
        let refused = |inv: &Inventory, text| create(inv, &request(Some(text))).unwrap_err();

        assert!(matches!(refused(&good, "default"), Refusal::Exists { .. }));
        let mut inv = good.clone();
        inv.fs.free = 1 << 20;
        assert!(matches!(refused(&inv, "new"), Refusal::NoSpace { .. }));
        let mut inv = good.clone();
        inv.fs.read_only = true;
        assert_eq!(refused(&inv, "new"), Refusal::ReadOnly);
        let mut inv = good.clone();
        inv.system.swapfiles = vec!["/swap".into()];
        assert!(matches!(refused(&inv, "new"), Refusal::Swapfile { .. }));
        let mut inv = good.clone();
        inv.damaged = vec![("x".into(), "y".into())];
        assert!(matches!(refused(&inv, "new"), Refusal::Damaged { .. }));
        assert!(matches!(refused(&inv, "x"), Refusal::Damaged { .. }));
        let inv = inventory(vec![env("other", 300)]);
        assert!(matches!(refused(&inv, "new"), Refusal::NotAdopted { .. }));
        let mut inv = inventory(Vec::new());
        inv.initialised = false;
        assert_eq!(refused(&inv, "new"), Refusal::NotInitialised);
        let mut from = request(Some("new"));
        from.origin = Some(name("defautl").into());
        let refusal = create(&good, &from).unwrap_err();
        assert!(refusal.hint().contains("default"), "{refusal:?}");
    }

    #[test]
    fn a_failed_environment_is_no_origin() {
        let inv = inventory(vec![
            env("default", 256).running().next(),
            env("broken", 300).state(State::Failed),
        ]);
        let mut from = request(Some("new"));
        from.origin = Some(name("broken").into());
        assert!(matches!(create(&inv, &from), Err(Refusal::NotReady { .. })));
    }

    #[test]
    fn a_snapshot_is_cloned_as_it_was() {
        let inv = inventory(vec![
            env("default", 256).running().next(),
            // It was well then, whatever became of it.
            env("broken", 300)
                .state(State::Failed)
                .with(|e| snapshot(e, "good", 400)),
        ]);
        let mut from = request(Some("new"));
        from.origin = Some("broken@good".parse().unwrap());
        let (_, plan, _) = create(&inv, &from).unwrap();
        let Step::Clone(spec) = &plan.steps[0] else {
            panic!("{plan:?}");
        };
        let source = &spec.sources[0];
        assert_eq!(source.from.to_str(), Some("@be/broken/snap/good/root"));
        assert_eq!(source.uuid, "uuid-400");
        assert_eq!(source.original.as_deref(), Some("uuid-300"));
        assert_eq!(spec.record.origin.as_ref().unwrap().as_str(), "broken");
        from.origin = Some("broken@nope".parse().unwrap());
        assert!(matches!(
            create(&inv, &from),
            Err(Refusal::UnknownSnapshot { .. })
        ));
    }
}
