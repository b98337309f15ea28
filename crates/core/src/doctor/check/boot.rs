//! Checks of what boots an environment: its fstab, its files, its entry in the menu.

use be_grub::menu::body;

use super::{Problem, REPAIR, Repair, Severity, problem};
use crate::doctor::{EnvFacts, Observation};
use crate::fstab::Entry;
use crate::model::{Inventory, Subvolume};

/// The root lines of the fstabs.
pub(super) fn fstabs(inv: &Inventory, seen: &Observation) -> Vec<Problem> {
    let of = |facts: &EnvFacts| {
        let env = inv.environments.iter().find(|e| e.name() == &facts.name)?;
        let root = env.root.as_ref().filter(|_| !env.busy)?;
        let entries = facts.fstab.as_ref()?.entries();
        let lines = entries.filter(|e| e.is_btrfs_root());
        lines
            .filter_map(|e| root_line(inv, root, e))
            .next()
            .map(|found| (env, root, found))
    };
    seen.environments
        .iter()
        .filter_map(of)
        .map(|(env, root, (id, severity, text))| {
            problem(id, severity, env.name().to_string(), text, REPAIR).repair(Repair::Fstab {
                name: env.name().clone(),
                root: root.path.clone(),
                subvol: root.option(),
            })
        })
        .collect()
}

fn root_line(
    inv: &Inventory,
    root: &Subvolume,
    entry: &Entry,
) -> Option<(&'static str, Severity, String)> {
    let is = root.option();
    match (entry.subvol(), entry.subvolid()) {
        (Some(theirs), _) if theirs != is.trim_matches('/') => Some((
            "fstab-subvol",
            Severity::Error,
            format!("its /etc/fstab mounts the root from subvol=/{theirs}, and it is {is}"),
        )),
        (_, Some(id)) if id != root.id.to_string() => Some((
            "fstab-subvolid",
            Severity::Error,
            format!(
                "its /etc/fstab mounts the root from subvolid={id}, and it is {}",
                root.id
            ),
        )),
        (_, Some(id)) => Some((
            "fstab-subvolid",
            Severity::Warning,
            format!(
                "its /etc/fstab names the root by subvolid={id}: true today, and wrong in every \
                 copy of it that be does not make"
            ),
        )),
        (None, None) if root.id != inv.fs.default_subvolume => Some((
            "fstab-subvol",
            Severity::Error,
            format!("its /etc/fstab mounts the default subvolume as root, and it is {is}"),
        )),
        // The top level is the default of every new filesystem.
        (None, None) if !root.is_top_level() => Some((
            "fstab-subvol",
            Severity::Warning,
            format!(
                "its /etc/fstab mounts the default subvolume as root, which is {is} only as long \
                 as nobody changes it"
            ),
        )),
        _ => None,
    }
}

/// Environments that would not boot for other reasons.
pub(super) fn bootable(inv: &Inventory, seen: &Observation) -> Vec<Problem> {
    let of = |facts: &EnvFacts| {
        let env = inv.environments.iter().find(|e| e.name() == &facts.name)?;
        let mut why = facts.problems.clone();
        // Told by itself, with its repair.
        why.retain(|p| !p.starts_with("/etc/fstab "));
        let severity = match env.next || env.running {
            true => Severity::Error,
            false => Severity::Warning,
        };
        (!why.is_empty()).then(|| {
            problem(
                "not-bootable",
                severity,
                env.name().to_string(),
                format!("it would not boot: {}", why.join("; ")),
                format!(
                    "be shell {0}, mend it, then: be check {0}, be menu",
                    env.name()
                ),
            )
        })
    };
    seen.environments.iter().filter_map(of).collect()
}

/// The menu file as a whole.
pub(super) fn menu(inv: &Inventory, seen: &Observation) -> Vec<Problem> {
    let wrong = |id, severity, text: String| {
        let repair = menu_repair(inv, seen);
        vec![problem(id, severity, "menu", text, menu_remedy(&repair)).repair(repair)]
    };
    if let Some(why) = &inv.menu.damage {
        let text = format!("the menu cannot be read: {why}");
        return wrong("menu-unreadable", Severity::Error, text);
    }
    let Some(facts) = &seen.menu else {
        return Vec::new();
    };
    let Some(text) = &facts.text else {
        let text = "there is no menu, so that GRUB shows no environment".to_owned();
        return wrong("menu-missing", Severity::Error, text);
    };
    let wanted = match &facts.wanted {
        Ok(wanted) => wanted,
        // Told by itself, as what it follows from.
        Err(_) if inv.running().is_err() => return Vec::new(),
        Err(why) => {
            let text = format!("no menu can be made: {why}");
            return wrong("menu-impossible", Severity::Error, text);
        }
    };
    let mut entries = (inv.menu.entries.clone(), wanted.entries.clone());
    entries.0.sort();
    entries.1.sort();
    // An entry too many or too few is told by itself.
    let same = body(text).eq(body(&wanted.text));
    if same || entries.0 != entries.1 || inv.menu.default.is_none() {
        return Vec::new();
    }
    wrong(
        "menu-stale",
        Severity::Error,
        "it is not what would be written now: a kernel, its arguments or a description changed, \
         or somebody edited it"
            .to_owned(),
    )
}

/// What boots by default.
pub(super) fn menu_default(inv: &Inventory, seen: &Observation) -> Vec<Problem> {
    let Some(facts) = &seen.menu else {
        return Vec::new();
    };
    let (Ok(wanted), Some(_), None) = (&facts.wanted, &facts.text, &inv.menu.damage) else {
        return Vec::new();
    };
    let Some(default) = &inv.menu.default else {
        let text = "the menu has no default: GRUB boots what grub.cfg says";
        let remedy = "be activate NAME";
        return vec![problem("no-default", Severity::Error, "menu", text, remedy)];
    };
    let lost = || {
        problem(
            "default-lost",
            Severity::Error,
            default.clone(),
            "it boots by default, and has no right to an entry any more",
            format!("be check {default} says why; be activate another one"),
        )
    };
    let listed = wanted.entries.contains(default);
    (!listed).then(lost).into_iter().collect()
}

/// Entries without an environment, environments without an entry.
pub(super) fn menu_entries(inv: &Inventory, seen: &Observation) -> Vec<Problem> {
    let Some(facts) = &seen.menu else {
        return Vec::new();
    };
    let (Ok(wanted), Some(_), None) = (&facts.wanted, &facts.text, &inv.menu.damage) else {
        return Vec::new();
    };
    let why = |name: &String| {
        let left_out = wanted.left_out.iter().find(|(n, _)| n == name);
        left_out.map_or("there is no such environment".to_owned(), |(_, w)| {
            w.clone()
        })
    };
    let unreadable = |name: &&String| inv.damaged.iter().any(|(n, _)| n == *name);
    let dead = inv
        .menu
        .entries
        .iter()
        .filter(|name| !wanted.entries.contains(name))
        .filter(|name| !unreadable(name))
        .map(|name| {
            let text = format!(
                "it has an entry in the menu that does not boot: {}",
                why(name)
            );
            let repair = menu_repair(inv, seen);
            problem(
                "entry-dead",
                Severity::Error,
                name,
                text,
                menu_remedy(&repair),
            )
            .repair(repair)
        });
    let missing = wanted
        .entries
        .iter()
        .filter(|name| !inv.menu.entries.contains(name))
        .map(|name| {
            let text = "it boots, and has no entry in the menu";
            let repair = menu_repair(inv, seen);
            problem(
                "entry-missing",
                Severity::Error,
                name,
                text,
                menu_remedy(&repair),
            )
            .repair(repair)
        });
    dead.chain(missing).collect()
}

/// A menu is only written anew by itself where nothing is lost by it: not the entry of an
/// environment whose record cannot be read now, and not what boots by default.
fn menu_repair(inv: &Inventory, seen: &Observation) -> Option<Repair> {
    let facts = seen.menu.as_ref()?;
    let wanted = facts.wanted.as_ref().ok()?;
    let hidden = inv
        .damaged
        .iter()
        .any(|(name, _)| inv.menu.entries.contains(name) || !seen.recordless.contains(name));
    (!hidden && wanted.lost_default.is_none()).then_some(Repair::Menu)
}

fn menu_remedy(repair: &Option<Repair>) -> &'static str {
    match repair {
        Some(_) => "be menu",
        None => "mend what else is wrong first, then: be menu",
    }
}
