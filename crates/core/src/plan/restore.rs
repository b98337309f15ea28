//! `be rollback ENV@SNAP`: an environment that nothing uses goes back to a snapshot.

use chrono::{DateTime, FixedOffset};

use super::create::default;
use super::{Plan, Proofs, RestoreSpec, Snapshot, Step, Use, snapshot};
use crate::layout::Layout;
use crate::model::{Environment, Inventory, STORE};
use crate::name::{EnvName, Named, SnapName};
use crate::record::{Policy, SnapshotMember};
use crate::refusal::Refusal;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Restore {
    /// What the environment consists of.
    pub layout: Layout,
    /// Which environment.
    pub env: EnvName,
    /// To which snapshot of it.
    pub snapshot: SnapName,
    /// The time.
    pub now: DateTime<FixedOffset>,
}

/// Plan to put an environment back. What it is now is kept as a snapshot, too; the plan's
/// notes name it.
///
/// # Errors
/// Every rule that forbids it: what runs, boots next or is mounted is not replaced.
pub fn restore(inv: &Inventory, uses: &[Use], request: &Restore) -> Result<Plan, Refusal> {
    inv.writable()?;
    inv.undamaged()?;
    let env = inv.get(&request.env)?;
    let (taken, found) = env.snapshot(&request.snapshot)?;
    let name = Named::snapshot(&request.env, &request.snapshot);
    if found.subvolumes.iter().any(Option::is_none) {
        return Err(Refusal::SnapshotGone { name });
    }
    replaceable(inv, uses, env).map_err(|why| Refusal::NoRestore {
        name: name.clone(),
        why,
    })?;
    let came = |m: &SnapshotMember| m.travelled.as_ref().is_some_and(|t| t.received.is_some());
    if taken.subvolumes.iter().any(came) {
        let why = "that is as another machine sent it".to_owned();
        return Err(Refusal::NoRestore { name, why });
    }
    let own = env.record.subvolumes.iter();
    let own = own.filter(|m| m.policy != Policy::Shared).map(|m| &m.mount);
    if !own.eq(taken.subvolumes.iter().map(|m| &m.mount)) {
        let why = "it has other subvolumes by now".to_owned();
        return Err(Refusal::NoRestore { name, why });
    }
    let kept = kept_name(env, request.now);
    let mut plan = snapshot(
        inv,
        &Snapshot {
            env: request.env.clone(),
            layout: request.layout.clone(),
            name: kept.clone(),
            description: format!("before be rollback {name}"),
            now: request.now,
        },
    )?;
    // Out of the menu while its kernels are not what the menu says.
    if inv.menu.entries.iter().any(|e| e == request.env.as_str()) {
        plan.steps.push(Step::WriteMenu {
            default: default(inv, &request.env),
            without: vec![request.env.clone()],
            proofs: Proofs::Kept,
        });
    }
    plan.steps.push(Step::Restore(RestoreSpec {
        env: request.env.clone(),
        snapshot: taken.clone(),
    }));
    plan.steps.push(Step::menu(&default(inv, &request.env)));
    plan.notes.push(format!(
        "what {0} was until now is kept as {0}@{kept}; be destroy {0}@{kept} lets go of it",
        request.env
    ));
    Ok(plan)
}

/// Why an environment cannot be replaced as it stands.
fn replaceable(inv: &Inventory, uses: &[Use], env: &Environment) -> Result<(), String> {
    let no = |why: &str| Err(why.to_owned());
    if env.running {
        return no("it is running");
    }
    if env.next || env.once {
        return no("it boots next");
    }
    if env.default {
        return no("it boots when the trial of another fails");
    }
    if env.record.adopted {
        return no("it was there before be, which replaces only what it made");
    }
    if env.busy {
        return no("an upgrade works in it");
    }
    let Some(root) = &env.root else {
        return no("its root subvolume is gone");
    };
    if root.id == inv.fs.default_subvolume {
        return no("it is the default subvolume of the filesystem");
    }
    if let Some(path) = env.foreign.first() {
        return Err(format!(
            "{} is a subvolume that be did not make",
            path.display()
        ));
    }
    let home = std::path::Path::new(STORE).join(env.name().as_str());
    let in_use = uses
        .iter()
        .find(|u| u.subvolume.starts_with(&home) && !u.subvolume.starts_with(home.join("snap")));
    match in_use {
        Some(u) => Err(format!(
            "it is mounted at {} for process {}",
            u.target.display(),
            u.pid
        )),
        None => Ok(()),
    }
}

/// A name for what is replaced, that no snapshot of it has.
fn kept_name(env: &Environment, now: DateTime<FixedOffset>) -> SnapName {
    let stem = format!("before-rollback-{}", now.format("%Y-%m-%d"));
    let mut number = 1;
    loop {
        let text = match number {
            1 => stem.clone(),
            n => format!("{stem}-{n}"),
        };
        // Letters, digits and dashes, and short.
        let name = SnapName::parse(&text).expect("a date is a valid name");
        if env.record.snapshot(&name).is_none() {
            return name;
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{env, inventory, name, now, snapshot as taken};
    use super::*;

    fn request(of: &str, snapshot: &str) -> Restore {
        Restore {
            layout: Layout::default(),
            env: name(of),
            snapshot: SnapName::parse(snapshot).unwrap(),
            now: now(),
        }
    }

    #[test]
    fn what_it_was_is_kept_and_the_menu_never_lies() {
        let mut inv = inventory(vec![
            env("default", 256).running().next(),
            env("old", 300).with(|e| {
                taken(e, "a", 400);
                taken(e, "before-rollback-2026-11-20", 401);
            }),
        ]);
        inv.menu.entries = vec!["default".into(), "old".into()];
        let plan = restore(&inv, &[], &request("old", "a")).unwrap();
        let [
            Step::Snapshot(kept),
            Step::WriteMenu { without, .. },
            Step::Restore(spec),
            Step::WriteMenu { default, .. },
        ] = &plan.steps[..]
        else {
            panic!("{plan:?}");
        };
        assert_eq!(kept.snapshot.name.as_str(), "before-rollback-2026-11-20-2");
        assert_eq!(without[..], [name("old")]);
        assert_eq!(spec.snapshot.name.as_str(), "a");
        assert_eq!(default.as_str(), "default");
        assert!(plan.notes[0].contains("old@before-rollback-2026-11-20-2"));
    }

    #[test]
    fn what_is_used_is_not_replaced() {
        let with = |b: super::super::fixture::Builder| b.with(|e| taken(e, "a", 400));
        let inv = inventory(vec![
            with(env("run", 256).running()),
            with(env("next", 257).next()),
            with(env("adopted", 258).with(|e| e.record.adopted = true)),
            with(env("nest", 259).with(|e| e.foreign = vec!["root/x".into()])),
            env("gone", 260).with(|e| {
                taken(e, "a", 401);
                e.snapshots[0].subvolumes = vec![None];
            }),
            with(env("old", 300)),
        ]);
        for of in ["run", "next", "adopted", "nest"] {
            let refusal = restore(&inv, &[], &request(of, "a")).unwrap_err();
            assert!(matches!(refusal, Refusal::NoRestore { .. }), "{refusal:?}");
            assert!(refusal.hint().contains(&format!("be create -e {of}@a")));
        }
        assert!(matches!(
            restore(&inv, &[], &request("gone", "a")),
            Err(Refusal::SnapshotGone { .. })
        ));
        assert!(matches!(
            restore(&inv, &[], &request("old", "b")),
            Err(Refusal::UnknownSnapshot { .. })
        ));
        let mounted = |subvolume: &str| Use {
            subvolume: subvolume.into(),
            target: "/mnt".into(),
            pid: 7,
            here: true,
        };
        let uses = [mounted("@be/old/root")];
        assert!(restore(&inv, &uses, &request("old", "a")).is_err());
        let uses = [mounted("@be/old/snap/a/root")];
        assert!(restore(&inv, &uses, &request("old", "a")).is_ok());
    }
}
