//! `be destroy`: only what `be` made, and nothing that is in use.

use std::path::PathBuf;

use super::create::default;
use super::{Member, Plan, Proofs, Removal, Step};
use crate::model::{Environment, Inventory};
use crate::name::EnvName;
use crate::record::Record;
use crate::refusal::Refusal;

/// A mount of the filesystem in any mount namespace of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// What is mounted, from the top level, without a leading slash.
    pub subvolume: PathBuf,
    /// Where, as that namespace sees it.
    pub target: PathBuf,
    /// A process that sees it.
    pub pid: u32,
    /// It is the namespace that this `be` runs in.
    pub here: bool,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Destroy {
    /// Which environments.
    pub names: Vec<EnvName>,
    /// Unmount what is mounted in this namespace first.
    pub unmount: bool,
}

/// Plan the removal of all of them, or of none.
///
/// # Errors
/// The first rule that any of them breaks.
pub fn destroy(inv: &Inventory, uses: &[Use], request: &Destroy) -> Result<Plan, Refusal> {
    inv.writable()?;
    inv.undamaged()?;
    let mut names: Vec<EnvName> = Vec::new();
    let mut removals = Vec::new();
    let mut unmounts = Vec::new();
    for name in &request.names {
        if !names.contains(name) {
            let (removal, targets) = one(inv, uses, inv.get(name)?, request.unmount)?;
            removals.push(removal);
            unmounts.extend(targets);
            names.push(name.clone());
        }
    }
    let mut plan = Plan::default();
    // First, because it is what can still be refused: something works there.
    plan.steps.extend(unmounts.into_iter().map(Step::Unmount));
    let with_entry = |n: &EnvName| inv.menu.entries.iter().any(|e| e == n.as_str());
    if names.iter().any(with_entry) {
        plan.steps.push(Step::WriteMenu {
            default: default(inv, &names[0]),
            without: names,
            proofs: Proofs::Kept,
        });
    }
    plan.steps.extend(removals.into_iter().map(Step::Remove));
    Ok(plan)
}

/// What of an environment is to be deleted.
pub(crate) fn removal_list(record: &Record) -> Vec<Member> {
    let made = record.made().into_iter();
    made.map(|(path, uuid)| Member {
        path,
        uuid: uuid.to_owned(),
    })
    .collect()
}

fn one(
    inv: &Inventory,
    uses: &[Use],
    env: &Environment,
    unmount: bool,
) -> Result<(Removal, Vec<PathBuf>), Refusal> {
    let name = env.name().clone();
    if env.running {
        return Err(Refusal::Running { name });
    }
    if env.next {
        return Err(Refusal::Next { name });
    }
    if let Some(path) = env.record.grub_home.clone() {
        return Err(Refusal::GrubHome { name, path });
    }
    if env.record.adopted {
        return Err(Refusal::NotMade { name });
    }
    if env.busy {
        return Err(Refusal::Busy {
            what: format!("an upgrade works in {name}"),
        });
    }
    let root = env.root.as_ref();
    if root.is_some_and(|r| r.id == inv.fs.default_subvolume) {
        return Err(Refusal::DefaultSubvolume { name });
    }
    if !env.foreign.is_empty() {
        let paths = env.foreign.clone();
        return Err(Refusal::Nested { name, paths });
    }
    let home = PathBuf::from(crate::model::STORE).join(name.as_str());
    let (mine, foreign): (Vec<_>, Vec<_>) = uses
        .iter()
        .filter(|u| u.subvolume.starts_with(&home))
        .partition(|u| u.here && unmount);
    if let Some(u) = foreign.first() {
        return Err(Refusal::InUse {
            by: if u.here {
                format!("it is mounted at {}", u.target.display())
            } else {
                format!(
                    "it is mounted at {} in the mount namespace of process {}",
                    u.target.display(),
                    u.pid
                )
            },
            name,
        });
    }
    let mut unmount: Vec<_> = mine.iter().map(|u| u.target.clone()).collect();
    // Innermost first.
    unmount.sort_by_key(|t| std::cmp::Reverse(t.components().count()));
    let subvolumes = removal_list(&env.record);
    Ok((Removal { name, subvolumes }, unmount))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::fixture::{env, inventory, name};
    use super::*;

    fn request(names: &[&str]) -> Destroy {
        Destroy {
            names: names.iter().map(|n| name(n)).collect(),
            unmount: false,
        }
    }

    #[test]
    fn the_entry_goes_before_the_subvolumes() {
        let mut inv = inventory(vec![env("default", 256).running().next(), env("old", 300)]);
        inv.menu.entries = vec!["default".into(), "old".into()];
        let plan = destroy(&inv, &[], &request(&["old", "old"])).unwrap();
        let [
            Step::WriteMenu {
                default, without, ..
            },
            Step::Remove(removal),
        ] = &plan.steps[..]
        else {
            panic!("{plan:?}");
        };
        assert_eq!(
            (default.as_str(), &without[..]),
            ("default", &[name("old")][..])
        );
        assert_eq!(removal.subvolumes[0].uuid, "uuid-300");
    }

    #[test]
    fn one_bad_name_and_nothing_is_removed() {
        let inv = inventory(vec![
            env("default", 256).running(),
            env("next", 299).next(),
            env("old", 300),
            env("adopted", 301).with(|e| e.record.adopted = true),
            env("grub", 302).with(|e| e.record.grub_home = Some("boot/grub".into())),
            env("busy", 303).with(|e| e.busy = true),
            env("nest", 304).with(|e| e.foreign = vec!["root/var/lib/machines".into()]),
            env("set-default", 5),
        ]);
        let refused = |n: &str| destroy(&inv, &[], &request(&["old", n])).unwrap_err();
        assert!(matches!(refused("default"), Refusal::Running { .. }));
        assert!(matches!(refused("next"), Refusal::Next { .. }));
        assert!(matches!(refused("adopted"), Refusal::NotMade { .. }));
        assert!(matches!(refused("grub"), Refusal::GrubHome { .. }));
        assert!(matches!(refused("busy"), Refusal::Busy { .. }));
        assert!(matches!(refused("nest"), Refusal::Nested { .. }));
        assert!(matches!(
            refused("set-default"),
            Refusal::DefaultSubvolume { .. }
        ));
        assert!(matches!(refused("nowhere"), Refusal::Unknown { .. }));
    }

    #[test]
    fn a_mount_anywhere_stops_it_and_force_unmounts_only_ours() {
        let inv = inventory(vec![env("default", 256).running().next(), env("old", 300)]);
        let at = |here| Use {
            subvolume: "@be/old/root".into(),
            target: "/mnt".into(),
            pid: 7,
            here,
        };
        let mut force = request(&["old"]);
        assert!(destroy(&inv, &[at(true)], &force).is_err());
        force.unmount = true;
        let plan = destroy(&inv, &[at(true)], &force).unwrap();
        let [Step::Unmount(target), Step::Remove(_)] = &plan.steps[..] else {
            panic!("{plan:?}");
        };
        assert_eq!(target, Path::new("/mnt"));
        let refusal = destroy(&inv, &[at(false)], &force).unwrap_err();
        assert!(refusal.to_string().contains("process 7"), "{refusal}");
        let other = Use {
            subvolume: "@be/older/root".into(),
            ..at(false)
        };
        assert!(destroy(&inv, &[other], &force).is_ok());
    }
}
