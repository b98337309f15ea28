//! What an upgrade came to, for `be upgrade`'s end, `be log` and scripts.

use be_portage::diff::PackageDiff;
use be_portage::state::Debt;
use chrono::{DateTime, FixedOffset, Local};

use crate::menu::Written;
use crate::name::EnvName;
use crate::plan::Way;

/// A finished upgrade.
#[derive(Debug)]
pub struct Report {
    /// The environment.
    pub name: EnvName,
    /// Packages, compared with the environment that it was cloned from.
    pub packages: PackageDiff,
    /// The kernel that it boots.
    pub kernel: Option<String>,
    /// What is left for a person.
    pub debt: Debt,
    /// How it boots from now on; none if what boots next is as it was.
    pub activated: Option<Way>,
    /// The menu as it was written.
    pub menu: Option<Written>,
    /// A sentence each.
    pub notes: Vec<String>,
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("{} changes in {}:\n", self.packages.len(), self.name);
        for line in self.packages.lines() {
            text.push_str(&format!("  {line}\n"));
        }
        if let Some(kernel) = &self.kernel {
            text.push_str(&format!("kernel: {kernel}\n"));
        }
        for line in debt(&self.debt) {
            text.push_str(&format!("left for you: {line}\n"));
        }
        text.push_str(&match &self.activated {
            Some(Way::Trial { tries, fallback }) => format!(
                "{} boots next, on trial: reboot when it suits you. If it is not confirmed in \
                 {tries} boots, {fallback} boots again\n",
                self.name
            ),
            Some(_) => format!("{} boots next: reboot when it suits you\n", self.name),
            None => format!(
                "{0} is complete and in the menu; be activate {0} makes it the default\n",
                self.name
            ),
        });
        text
    }
}

fn debt(debt: &Debt) -> Vec<String> {
    let mut lines = Vec::new();
    for pending in &debt.config {
        lines.push(format!("merge the new {}", pending.target.display()));
    }
    if debt.news > 0 {
        lines.push(format!(
            "{} unread news items (eselect news read)",
            debt.news
        ));
    }
    if !debt.preserved_libs.is_empty() {
        lines.push(format!(
            "{} libraries kept for old programs (emerge @preserved-rebuild)",
            debt.preserved_libs.len()
        ));
    }
    lines
}

/// The time, in the zone of `start` but never before it.
pub(super) fn later(start: DateTime<FixedOffset>) -> DateTime<FixedOffset> {
    Local::now().fixed_offset().max(start)
}
