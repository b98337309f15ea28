//! `be rename`: another name for an environment, also for the one that runs or boots next.
//!
//! At no moment may the menu name a path that is not there. So for a while both names lead
//! to the environment, by a symlink, which the kernel's `subvol=` and GRUB follow:
//!
//! 1. the new name becomes a link to the old one, and the record notes it down;
//! 2. fstab and the menu get the new name; all of it is brought to the disk;
//! 3. the two names are exchanged, which is atomic: the directory has the new name, and
//!    the old one is a link to itself;
//! 4. the record gets the new name, and the old one goes.
//!
//! Cut off anywhere, it is finished by the next `be` from what the record says.

use super::create::default;
use super::{Plan, Proofs, Renaming, Step};
use crate::model::{Environment, Inventory};
use crate::name::EnvName;
use crate::refusal::Refusal;

/// What is asked for, with what was found out about the environment.
#[derive(Debug, Clone)]
pub struct Rename {
    /// Its name.
    pub from: EnvName,
    /// The other one.
    pub to: EnvName,
    /// A file of a GRUB that was installed from this environment, as a path in it.
    pub grub: Option<String>,
}

/// Plan a rename.
///
/// # Errors
/// Every rule that forbids it.
pub fn rename(inv: &Inventory, request: &Rename) -> Result<Plan, Refusal> {
    inv.writable()?;
    inv.undamaged()?;
    let env = inv.get(&request.from)?;
    inv.free_name(&request.to)?;
    if env.root.is_none() {
        return Err(Refusal::RootMissing {
            name: request.from.clone(),
        });
    }
    if env.busy {
        return Err(Refusal::Busy {
            what: format!("an upgrade works in {}", request.from),
        });
    }
    if let Some(refusal) = Refusal::lent(env) {
        return Err(refusal);
    }
    if let Some(path) = request.grub.clone().filter(|_| !env.record.adopted) {
        let name = request.from.clone();
        return Err(Refusal::GrubInstalled { name, path });
    }
    let names = Renaming {
        from: request.from.clone(),
        to: request.to.clone(),
    };
    let mut plan = Plan::default();
    if env.running && !env.record.adopted {
        plan.notes.push(format!(
            "/etc/fstab of the running system names {} now; nothing else of it was written",
            request.to
        ));
    }
    plan.steps = steps(inv, env, &names);
    Ok(plan)
}

/// The rest of a rename that was cut off.
pub fn unfinished(inv: &Inventory) -> Option<(Renaming, Plan)> {
    let env = inv
        .environments
        .iter()
        .find(|e| e.record.renaming.is_some())?;
    let to = env.record.renaming.clone()?;
    let plan = |steps| Plan {
        steps,
        notes: Vec::new(),
    };
    if env.name() == &to {
        // Without its old name nothing of it is left but the note in the record.
        let from = env.record.renamed_from.clone();
        let from = from.unwrap_or_else(|| to.clone());
        let names = Renaming { from, to };
        let steps = after_the_move(inv, &names);
        return Some((names, plan(steps)));
    }
    let from = env.name().clone();
    let names = Renaming { from, to };
    let steps = steps(inv, env, &names);
    Some((names, plan(steps)))
}

fn steps(inv: &Inventory, env: &Environment, names: &Renaming) -> Vec<Step> {
    let next = default(inv, &names.from);
    let mut steps = vec![Step::Announce(names.clone())];
    // The subvolumes of an adopted system stay where they are.
    if !env.record.adopted {
        steps.push(Step::RewriteFstab(names.clone()));
    }
    steps.push(Step::WriteMenu {
        default: match next == names.from {
            true => names.to.clone(),
            false => next,
        },
        without: Vec::new(),
        proofs: Proofs::Kept,
    });
    // From here on the menu knows the new name only: GRUB boots the default until the block
    // has it as well.
    steps.extend(choice(inv, names));
    steps.push(Step::Move(names.clone()));
    steps.extend(children(inv, names));
    steps.push(Step::EndRename(names.clone()));
    steps
}

/// What boots once or on trial, under its new name.
fn choice(inv: &Inventory, names: &Renaming) -> Option<Step> {
    let before = inv.choice();
    let mut after = before.clone();
    let once = after.once.iter_mut();
    let trial = after.trial.iter_mut().map(|t| &mut t.name);
    let failed = after.failed.iter_mut().map(|f| &mut f.name);
    for name in once.chain(trial).chain(failed) {
        if *name == names.from.as_str() {
            *name = names.to.to_string();
        }
    }
    (after != before).then_some(Step::Choose(after))
}

fn after_the_move(inv: &Inventory, names: &Renaming) -> Vec<Step> {
    let mut steps = children(inv, names);
    // If it was cut off before that was written.
    steps.extend(choice(inv, names));
    steps.push(Step::EndRename(names.clone()));
    steps
}

/// Those that were cloned from it know it by its new name.
fn children(inv: &Inventory, names: &Renaming) -> Vec<Step> {
    let back = |e: &Environment| e.record.live.as_ref().map(|l| l.way_back.clone());
    let others = inv.environments.iter().filter(|e| {
        (e.record.origin.as_ref() == Some(&names.from) || back(e).as_ref() == Some(&names.from))
            && ![&names.from, &names.to].contains(&e.name())
    });
    others
        .map(|e| {
            let mut record = e.record.clone();
            if record.origin.as_ref() == Some(&names.from) {
                record.origin = Some(names.to.clone());
            }
            if let Some(live) = record.live.as_mut().filter(|l| l.way_back == names.from) {
                live.way_back = names.to.clone();
            }
            Step::Update(Box::new(record))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use be_grub::selection::{Choice, Place, Trial};

    use super::super::fixture::{env, inventory, name};
    use super::*;
    use crate::model::Block;

    fn request(from: &str, to: &str) -> Rename {
        Rename {
            from: name(from),
            to: name(to),
            grub: None,
        }
    }

    #[test]
    fn the_menu_is_written_while_both_names_lead_there() {
        let inv = inventory(vec![
            env("run", 256).running(),
            env("next", 257).next(),
            env("child", 258).with(|e| e.record.origin = Some(name("next"))),
        ]);
        let plan = rename(&inv, &request("next", "new")).unwrap();
        let [
            Step::Announce(_),
            Step::RewriteFstab(_),
            Step::WriteMenu { default, .. },
            Step::Move(names),
            Step::Update(child),
            Step::EndRename(_),
        ] = &plan.steps[..]
        else {
            panic!("{plan:?}");
        };
        assert_eq!(default.as_str(), "new");
        assert_eq!(names.to.as_str(), "new");
        assert_eq!(child.origin.as_ref().unwrap().as_str(), "new");
        let plan = rename(&inv, &request("run", "new")).unwrap();
        assert!(plan.notes[0].contains("/etc/fstab"));
        assert!(
            plan.steps.iter().any(
                |s| matches!(s, Step::WriteMenu { default, .. } if default.as_str() == "next")
            )
        );
    }

    #[test]
    fn what_boots_once_or_on_trial_keeps_doing_so() {
        let mut inv = inventory(vec![env("run", 256).running().next(), env("new", 257)]);
        let choice = Choice {
            once: Some("new".into()),
            trial: Some(Trial {
                name: "new".into(),
                left: 2,
            }),
            failed: None,
        };
        inv.menu.block = Some(Block {
            at: Place::Header.block("f"),
            choice: Ok(choice),
        });
        let plan = rename(&inv, &request("new", "newer")).unwrap();
        let at = |wanted: fn(&Step) -> bool| plan.steps.iter().position(wanted).unwrap();
        let choose = at(|s| matches!(s, Step::Choose(_)));
        assert!(choose > at(|s| matches!(s, Step::WriteMenu { .. })));
        let Step::Choose(choice) = &plan.steps[choose] else {
            unreachable!();
        };
        assert_eq!(choice.once.as_deref(), Some("newer"));
        assert_eq!(choice.trial.as_ref().unwrap().name, "newer");
        // Cut off after the move.
        inv.environments[1].record.renaming = Some(name("newer"));
        inv.environments[1].record.renamed_from = Some(name("new"));
        inv.environments[1].record.name = name("newer");
        let (_, plan) = unfinished(&inv).unwrap();
        assert!(matches!(
            plan.steps[..],
            [Step::Choose(_), Step::EndRename(_)]
        ));
    }

    #[test]
    fn of_an_adopted_system_only_the_name_changes() {
        let inv = inventory(vec![
            env("default", 256)
                .running()
                .next()
                .with(|e| e.record.adopted = true),
        ]);
        let plan = rename(&inv, &request("default", "gentoo")).unwrap();
        assert!(
            !plan
                .steps
                .iter()
                .any(|s| matches!(s, Step::RewriteFstab(_)))
        );
    }

    #[test]
    fn refusals() {
        let mut inv = inventory(vec![
            env("default", 256).running().next(),
            env("old", 300),
            env("gone", 301).with(|e| e.root = None),
            env("busy", 302).with(|e| e.busy = true),
        ]);
        let refused = |from, to| rename(&inv, &request(from, to)).unwrap_err();
        assert!(matches!(refused("old", "default"), Refusal::Exists { .. }));
        assert!(matches!(refused("old", "old"), Refusal::Exists { .. }));
        assert!(matches!(refused("nope", "new"), Refusal::Unknown { .. }));
        assert!(matches!(
            refused("gone", "new"),
            Refusal::RootMissing { .. }
        ));
        assert_eq!(refused("busy", "new").exit_code(), 4);
        inv.environments[1].lent = vec![(name("default"), "@be/old/vol/srv".into())];
        let lent = rename(&inv, &request("old", "new"));
        assert!(matches!(lent, Err(Refusal::Lent { .. })));
        inv.environments[1].lent.clear();
        let mut grub = request("old", "new");
        grub.grub = Some("boot/grub/i386-pc/load.cfg".into());
        assert!(matches!(
            rename(&inv, &grub),
            Err(Refusal::GrubInstalled { .. })
        ));
    }

    #[test]
    fn what_was_cut_off_is_finished_from_where_it_was() {
        let mut inv = inventory(vec![env("default", 256).running().next(), env("old", 300)]);
        assert_eq!(unfinished(&inv), None);
        inv.environments[1].record.renaming = Some(name("new"));
        let (names, plan) = unfinished(&inv).unwrap();
        assert_eq!((names.from.as_str(), names.to.as_str()), ("old", "new"));
        assert!(matches!(plan.steps[0], Step::Announce(_)));
        inv.environments[1].record.renamed_from = Some(name("old"));
        inv.environments[1].record.name = name("new");
        let (names, plan) = unfinished(&inv).unwrap();
        assert_eq!(names.from.as_str(), "old");
        assert!(matches!(plan.steps[..], [Step::EndRename(_)]));
    }

    #[test]
    fn a_menu_in_between_has_the_new_name() {
        let mut inv = inventory(vec![env("old", 300).running().next()]);
        inv.menu.entries = vec!["old".into()];
        inv.environments[0].record.renaming = Some(name("new"));
        assert_eq!(inv.new_name(&name("old")).as_str(), "new");
        let inv = inv.renamed();
        assert_eq!(inv.environments[0].name().as_str(), "new");
        let root = inv.environments[0].root.as_ref().unwrap();
        assert_eq!(root.path.to_str(), Some("@be/new/root"));
        assert_eq!(inv.menu.entries, ["new"]);
    }
}
