//! The checks. Each is a pure function of what was seen.

mod boot;
mod grub;
mod store;
mod system;
mod volumes;

#[cfg(test)]
mod tests;

pub(super) use grub::choice_sticks;

use super::{Observation, Problem, Repair, Severity};
use crate::model::{Environment, Inventory};

type Check = fn(&Inventory, &Observation) -> Vec<Problem>;

/// All of them, in the order in which problems of one severity are told.
pub(super) const ALL: &[Check] = &[
    system::read_only,
    system::not_adopted,
    system::tools,
    system::engines,
    system::files,
    system::foreign_files,
    store::records,
    store::roots,
    store::permissions,
    store::leftovers,
    store::orphans,
    store::nested_in_environments,
    volumes::gone,
    volumes::replacements,
    boot::fstabs,
    volumes::own_lines,
    volumes::other_lines,
    volumes::pending,
    boot::bootable,
    boot::menu,
    boot::menu_default,
    boot::menu_entries,
    grub::hook,
    grub::scripts,
    grub::grub_home,
    grub::grub_elsewhere,
    grub::grub_cfg_entries,
    grub::grub_choice,
    grub::default_subvolume,
    grub::encryption,
    system::layout,
    system::swapfiles,
    system::space,
    system::quotas,
    system::uncovered,
];

const REPAIR: &str = "be doctor --repair";

fn problem(
    id: &'static str,
    severity: Severity,
    object: impl Into<String>,
    text: impl Into<String>,
    remedy: impl Into<String>,
) -> Problem {
    Problem {
        id,
        severity,
        object: object.into(),
        text: text.into(),
        remedy: remedy.into(),
        repair: None,
    }
}

impl Problem {
    fn repair(mut self, repair: impl Into<Option<Repair>>) -> Self {
        self.repair = repair.into();
        self
    }
}

fn running(inv: &Inventory) -> Option<&Environment> {
    inv.environments.iter().find(|e| e.running)
}

/// A list that stays on one line.
fn some<T: AsRef<str>>(all: &[T]) -> String {
    const SHOWN: usize = 4;
    let list: Vec<&str> = all.iter().take(SHOWN).map(AsRef::as_ref).collect();
    match all.len().saturating_sub(SHOWN) {
        0 => list.join(", "),
        more => format!("{} and {more} more", list.join(", ")),
    }
}
