//! The gate `packages`: nothing is installed in part.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{Outcome, Scene};

pub(super) fn check(scene: &Scene<'_>) -> Result<Outcome> {
    let before = scene.session.packages_of_base(scene.record)?;
    let after = scene.session.packages_of(scene.record)?;
    let manager = scene.session.manager_of(&scene.after)?.unwrap_or_default();
    let upgrade = scene.record.upgrade.as_ref();
    let failed = upgrade.map(|u| u.failed.as_slice()).unwrap_or_default();
    let mut broken: BTreeSet<String> = failed.iter().map(|p| format!("{p} failed")).collect();
    let cut = after.interrupted.iter();
    let cut = cut.filter(|package| !before.interrupted.contains(package));
    broken.extend(cut.map(|package| manager.in_part(package)));
    Ok(match broken.is_empty() {
        true => Outcome::Passed(format!("{} packages are whole", after.packages.len())),
        false => Outcome::Failed(broken.into_iter().collect()),
    })
}
