//! `be destroy`: only what `be` made, and nothing that is in use.

use std::path::{Path, PathBuf};

use super::create::default;
use super::{Member, Plan, Proofs, Removal, SnapshotRemoval, Step};
use crate::model::{Environment, Inventory, STORE};
use crate::name::{EnvName, Named, SnapName};
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
    /// Which environments and snapshots.
    pub names: Vec<Named>,
    /// Unmount what is mounted in this namespace first.
    pub unmount: bool,
    /// What grub-reboot chose.
    pub chosen: Option<EnvName>,
    /// Files in the directories of these environments that `be` did not make.
    pub strangers: Vec<(EnvName, Vec<PathBuf>)>,
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
    let mut wanted = request.names.clone();
    // An environment before its snapshots, which go with it.
    wanted.sort();
    wanted.dedup();
    for Named { env, snapshot } in &wanted {
        let found = inv.get(env)?;
        let (removal, targets) = match snapshot {
            None => {
                let mut strangers = request.strangers.iter();
                if let Some((name, paths)) = strangers.find(|(name, _)| name == env) {
                    let (name, paths) = (name.clone(), paths.clone());
                    return Err(Refusal::Nested { name, paths });
                }
                if request.chosen.as_ref() == Some(env) {
                    return Err(Refusal::Chosen { name: env.clone() });
                }
                let (removal, targets) = one(inv, uses, found, request.unmount)?;
                names.push(env.clone());
                (Step::Remove(removal), targets)
            }
            Some(snapshot) => {
                let (removal, targets) = of_one(uses, found, snapshot, request.unmount)?;
                if names.contains(env) {
                    continue;
                }
                (Step::RemoveSnapshot(removal), targets)
            }
        };
        removals.push(removal);
        unmounts.extend(targets);
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
    plan.steps.extend(removals);
    Ok(plan)
}

/// A snapshot that is to go. It is always of our making, also that of an adopted system.
fn of_one(
    uses: &[Use],
    env: &Environment,
    snapshot: &SnapName,
    unmount: bool,
) -> Result<(SnapshotRemoval, Vec<PathBuf>), Refusal> {
    let (taken, found) = env.snapshot(snapshot)?;
    let name = Named::snapshot(env.name(), snapshot);
    if env.busy {
        return Err(Refusal::Busy {
            what: format!("an upgrade works in {}", env.name()),
        });
    }
    let own = Path::new(STORE)
        .join(env.name().as_str())
        .join(taken.place());
    let (below, own): (_, Vec<_>) = (
        Path::new("snap").join(snapshot.as_str()),
        found
            .subvolumes
            .iter()
            .flatten()
            .map(|s| &s.path)
            .chain([&own])
            .collect(),
    );
    let nested = env.foreign.iter().filter(|f| f.starts_with(&below));
    let nested: Vec<_> = nested.cloned().collect();
    if !nested.is_empty() {
        return Err(Refusal::Nested {
            name: env.name().clone(),
            paths: nested,
        });
    }
    let used = uses
        .iter()
        .filter(|u| own.iter().any(|path| u.subvolume.starts_with(path)));
    let targets = unmounts(used, &name, unmount)?;
    Ok((SnapshotRemoval::new(name, taken), targets))
}

/// What has to be unmounted, innermost first, if that is wanted and can be done from here.
fn unmounts<'a>(
    uses: impl Iterator<Item = &'a Use>,
    name: &Named,
    unmount: bool,
) -> Result<Vec<PathBuf>, Refusal> {
    let (mine, foreign): (Vec<_>, Vec<_>) = uses.partition(|u| u.here && unmount);
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
            name: name.clone(),
        });
    }
    let mut targets: Vec<_> = mine.iter().map(|u| u.target.clone()).collect();
    targets.sort_by_key(|t| std::cmp::Reverse(t.components().count()));
    Ok(targets)
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
    if env.once {
        return Err(Refusal::Once { name });
    }
    if env.default || inv.menu.back.as_ref() == Some(&name) {
        return Err(Refusal::Fallback { name });
    }
    if let Some(path) = env.record.grub_home.clone() {
        return Err(Refusal::GrubHome { name, path });
    }
    if env.record.adopted {
        return Err(Refusal::NotMade { name });
    }
    if env.record.pinned {
        return Err(Refusal::Pinned { name });
    }
    if inv.is_in_merge(&name)
        && let Some(refusal) = Refusal::merged_in_part(inv)
    {
        return Err(refusal);
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
    if let Some(refusal) = Refusal::lent(env) {
        return Err(refusal);
    }
    if !env.foreign.is_empty() {
        let paths = env.foreign.clone();
        return Err(Refusal::Nested { name, paths });
    }
    let home = Path::new(STORE).join(name.as_str());
    let used = uses.iter().filter(|u| u.subvolume.starts_with(&home));
    let unmount = unmounts(used, &name.clone().into(), unmount)?;
    let subvolumes = removal_list(&env.record);
    Ok((Removal { name, subvolumes }, unmount))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{env, inventory, name, snapshot};
    use super::*;

    fn request(names: &[&str]) -> Destroy {
        Destroy {
            names: names.iter().map(|n| n.parse().unwrap()).collect(),
            unmount: false,
            chosen: None,
            strangers: Vec::new(),
        }
    }

    #[test]
    fn what_another_environment_mounts_keeps_it() {
        let lent = (name("new"), "@be/old/root/srv".into());
        let inv = inventory(vec![
            env("default", 256).running().next(),
            env("old", 300).with(|e| e.lent = vec![lent]),
        ]);
        let refused = destroy(&inv, &[], &request(&["old"])).unwrap_err();
        assert!(matches!(&refused, Refusal::Lent { .. }));
        assert!(
            refused
                .to_string()
                .contains("/@be/old/root/srv lies in old, and new mounts")
        );
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
            env("pinned", 305).with(|e| e.record.pinned = true),
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
        assert!(matches!(refused("pinned"), Refusal::Pinned { .. }));
        assert!(matches!(
            refused("old@nope"),
            Refusal::UnknownSnapshot { .. }
        ));
        assert!(matches!(
            refused("pinned@nope"),
            Refusal::UnknownSnapshot { .. }
        ));
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

    #[test]
    fn snapshots_go_alone_or_with_their_environment() {
        let inv = inventory(vec![
            env("default", 256).running().next().with(|e| {
                e.record.adopted = true;
                snapshot(e, "a", 400);
            }),
            env("old", 300).with(|e| snapshot(e, "b", 401)),
        ]);
        let steps = |names: &[&str]| destroy(&inv, &[], &request(names)).unwrap().steps;
        let [Step::RemoveSnapshot(removal)] = &steps(&["default@a", "default@a"])[..] else {
            panic!();
        };
        assert_eq!(removal.name.to_string(), "default@a");
        assert_eq!(removal.subvolumes[0].path, Path::new("root"));
        let [Step::Remove(removal)] = &steps(&["old@b", "old"])[..] else {
            panic!();
        };
        let paths: Vec<_> = removal
            .subvolumes
            .iter()
            .map(|m| m.path.to_str().unwrap())
            .collect();
        assert_eq!(paths, ["root", "snap/b/root"]);
        let mounted = Use {
            subvolume: "@be/old/snap/b/root".into(),
            target: "/mnt".into(),
            pid: 7,
            here: true,
        };
        for names in [&["old"][..], &["old@b"], &["default@a", "old@b"]] {
            let uses = [mounted.clone()];
            let refusal = destroy(&inv, &uses, &request(names)).unwrap_err();
            assert!(matches!(refusal, Refusal::InUse { .. }), "{refusal:?}");
            let mut force = request(names);
            force.unmount = true;
            let plan = destroy(&inv, &uses, &force).unwrap();
            assert!(matches!(plan.steps[0], Step::Unmount(_)));
        }
    }
}
