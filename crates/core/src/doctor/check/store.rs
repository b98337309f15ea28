//! Checks of the store: records, what they prove, and what nothing proves.

use std::path::Path;

use super::{Problem, REPAIR, Repair, Severity, problem};
use crate::doctor::Observation;
use crate::model::{Inventory, STORE};
use crate::refusal::Refusal;

/// Records that cannot be read; directories without one.
pub(super) fn records(inv: &Inventory, seen: &Observation) -> Vec<Problem> {
    let of = |(name, why): &(String, String)| {
        let dir = format!("/{STORE}/{name}");
        if seen.recordless.contains(name) {
            return problem(
                "orphan-directory",
                Severity::Error,
                dir,
                "a directory in the store that no record proves to be an environment; nothing is \
                 made or destroyed while it is there",
                format!("look inside; if it is yours, move it out of /{STORE}"),
            );
        }
        let refusal = Refusal::Damaged {
            name: name.clone(),
            why: why.clone(),
        };
        problem(
            "record-unreadable",
            Severity::Error,
            format!("{dir}/be.json"),
            format!("the record cannot be read: {why}; nothing is made or destroyed meanwhile"),
            refusal.hint(),
        )
    };
    inv.damaged.iter().map(of).collect()
}

/// Environments whose root is gone, or is another subvolume.
pub(super) fn roots(inv: &Inventory, _: &Observation) -> Vec<Problem> {
    let lost = inv.environments.iter().filter(|e| e.root.is_none());
    lost.map(|env| {
        let name = env.name();
        let other = env.foreign.iter().any(|p| p == Path::new("root"));
        problem(
            "root-missing",
            Severity::Error,
            name.to_string(),
            match (env.record.adopted, other) {
                (true, _) => "the subvolume that it was adopted with is gone",
                (_, true) => "another subvolume stands in the place of its root",
                (_, false) => "its root subvolume is gone",
            },
            match other {
                true => format!("put the right one there: /{STORE}/{name}/root, or move it away"),
                false if env.record.adopted => format!("rm -r /{STORE}/{name}, on the top level"),
                false => format!("be destroy {name}"),
            },
        )
    })
    .collect()
}

/// Only root may look into environments: they hold copies of /etc/shadow.
pub(super) fn permissions(_: &Inventory, seen: &Observation) -> Vec<Problem> {
    let wrong = |m: &&crate::doctor::Mode| !m.of_root || m.mode & !m.most != 0;
    seen.modes
        .iter()
        .filter(wrong)
        .map(|m| {
            let gate = m.path == Path::new(STORE);
            let text = match m.of_root {
                true => format!("its mode is {:o}; {:o} is the most", m.mode, m.most),
                false => "it does not belong to root".to_owned(),
            };
            let severity = match gate || !m.of_root {
                true => Severity::Error,
                false => Severity::Warning,
            };
            problem(
                "store-permissions",
                severity,
                format!("/{}", m.path.display()),
                text,
                REPAIR,
            )
            .repair(Repair::Permissions {
                path: m.path.clone(),
                mode: m.mode & m.most,
            })
        })
        .collect()
}

/// What an interrupted command left.
pub(super) fn leftovers(inv: &Inventory, _: &Observation) -> Vec<Problem> {
    let of = |name: &String| {
        problem(
            "leftover",
            Severity::Warning,
            name,
            format!("an interrupted command left it in /{STORE}/.work"),
            format!("{REPAIR}; what that leaves alone is not proven to be be's: look inside"),
        )
        .repair(Repair::Sweep)
    };
    inv.leftovers.iter().map(of).collect()
}

/// What lies in the store and is nobody's.
pub(super) fn orphans(_: &Inventory, seen: &Observation) -> Vec<Problem> {
    let subvolumes = seen.orphans.iter().map(|path| {
        problem(
            "orphan-subvolume",
            Severity::Warning,
            format!("/{}", path.display()),
            "a subvolume in the store that no record proves to be be's own",
            "look inside; then move it out, or: btrfs subvolume delete".to_owned(),
        )
    });
    let strangers = seen
        .strangers
        .iter()
        .filter(|path| !seen.orphans.contains(path))
        .map(|path| {
            problem(
                "stranger",
                Severity::Note,
                format!("/{}", path.display()),
                "it lies in the store and is not be's",
                format!("move it out of /{STORE}"),
            )
        });
    subvolumes.chain(strangers).collect()
}

/// Subvolumes in environments that be did not make: they keep them from being destroyed.
pub(super) fn nested_in_environments(inv: &Inventory, _: &Observation) -> Vec<Problem> {
    let home = |name: &str| format!("/{STORE}/{name}");
    inv.environments
        .iter()
        .filter(|e| !e.foreign.is_empty())
        .map(|env| {
            let list: Vec<_> = env
                .foreign
                .iter()
                .map(|p| format!("{}/{}", home(env.name().as_str()), p.display()))
                .collect();
            let text = format!(
                "be did not make what is in it, and does not destroy it therefore: {}",
                super::some(&list)
            );
            // What systemd makes in a running system is no fault.
            let severity = match env.running {
                true => Severity::Note,
                false => Severity::Warning,
            };
            let refusal = Refusal::Nested {
                name: env.name().clone(),
                paths: env.foreign.clone(),
            };
            problem(
                "nested-in-environment",
                severity,
                env.name().to_string(),
                text,
                refusal.hint(),
            )
        })
        .collect()
}
