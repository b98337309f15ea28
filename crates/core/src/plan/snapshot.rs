//! `be create ENV@SNAP`: a read-only snapshot of all that belongs to an environment.

use chrono::{DateTime, FixedOffset};

use super::{MIN_FREE, Plan, SnapshotSpec, Step};
use crate::layout::{self, Layout};
use crate::model::Inventory;
use crate::name::{EnvName, Named, SnapName};
use crate::record;
use crate::refusal::Refusal;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Of which environment.
    pub env: EnvName,
    /// What that consists of.
    pub layout: Layout,
    /// Its name.
    pub name: SnapName,
    /// What its owner says of it.
    pub description: String,
    /// The time.
    pub now: DateTime<FixedOffset>,
}

/// Plan a snapshot.
///
/// # Errors
/// Every rule that forbids it.
pub fn snapshot(inv: &Inventory, request: &Snapshot) -> Result<Plan, Refusal> {
    inv.writable()?;
    inv.undamaged()?;
    let env = inv.get(&request.env)?;
    if env.record.snapshot(&request.name).is_some() {
        return Err(Refusal::SnapshotExists {
            name: Named::snapshot(&request.env, &request.name),
        });
    }
    if env.busy {
        return Err(Refusal::Busy {
            what: format!("an upgrade works in {}", request.env),
        });
    }
    let root = env.root.as_ref().ok_or_else(|| Refusal::RootMissing {
        name: env.name().clone(),
    })?;
    if env.running
        && let Some(path) = inv.system.swapfiles.first()
    {
        return Err(Refusal::Swapfile { path: path.clone() });
    }
    if inv.fs.free < MIN_FREE {
        return Err(Refusal::NoSpace {
            free: inv.fs.free,
            needed: MIN_FREE,
        });
    }
    let mut snapshot = record::Snapshot::new(request.name.clone(), request.now, env.state());
    snapshot.description.clone_from(&request.description);
    Ok(Plan {
        steps: vec![Step::Snapshot(Box::new(SnapshotSpec {
            env: request.env.clone(),
            snapshot,
            members: layout::sources(root, &request.layout),
        }))],
        notes: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{env, inventory, name, now, snapshot as taken};
    use super::*;

    #[test]
    fn of_any_environment_that_is_whole() {
        let inv = inventory(vec![
            env("default", 256).running().next(),
            env("old", 300).with(|e| taken(e, "a", 400)),
            env("gone", 301).with(|e| {
                e.root = None;
                e.subvolumes = vec![None];
            }),
            env("busy", 302).with(|e| e.busy = true),
        ]);
        let request = |of: &str, text: &str| Snapshot {
            env: name(of),
            layout: Layout::default(),
            name: SnapName::parse(text).unwrap(),
            description: "why".into(),
            now: now(),
        };
        let plan = snapshot(&inv, &request("default", "a")).unwrap();
        let [Step::Snapshot(spec)] = &plan.steps[..] else {
            panic!("{plan:?}");
        };
        assert_eq!(spec.snapshot.description, "why");
        assert_eq!(spec.members[0].uuid, "uuid-256");
        assert!(snapshot(&inv, &request("old", "b")).is_ok());
        let refused = |of, text| snapshot(&inv, &request(of, text)).unwrap_err();
        assert!(matches!(
            refused("old", "a"),
            Refusal::SnapshotExists { .. }
        ));
        assert!(matches!(refused("gone", "a"), Refusal::RootMissing { .. }));
        assert!(matches!(refused("busy", "a"), Refusal::Busy { .. }));
        assert!(matches!(refused("nope", "a"), Refusal::Unknown { .. }));
        let mut full = inv.clone();
        full.fs.free = 1;
        let refusal = snapshot(&full, &request("old", "b")).unwrap_err();
        assert_eq!(refusal.exit_code(), 5);
        let mut swap = inv.clone();
        swap.system.swapfiles = vec!["/swap".into()];
        assert!(matches!(
            snapshot(&swap, &request("default", "a")),
            Err(Refusal::Swapfile { .. })
        ));
    }
}
