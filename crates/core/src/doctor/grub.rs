//! Where GRUB's own files really are. What can be known: grub-install writes a core image
//! beside GRUB's modules, and a clone keeps the times of the files that it was made with.
//! The one with the newest core image is the one that grub-install was run in last.

use std::path::{Path, PathBuf};

use be_btrfs::Root;

use crate::model::{Environment, Inventory};
use crate::name::EnvName;
use crate::session::Session;

/// The directories of GRUB's own files in /boot, by distribution.
const HOMES: [&str; 2] = ["grub", "grub2"];

/// GRUB's files in the /boot of one environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrubFiles {
    /// Which one.
    pub name: EnvName,
    /// Their directory, as seen from the root.
    pub home: String,
    /// When grub-install last wrote a core image there, in seconds since 1970.
    pub installed: Option<i64>,
    /// When grub.cfg was last written, in seconds since 1970.
    pub configured: Option<i64>,
}

/// Look into every environment.
pub(super) fn files(session: &Session, inv: &Inventory) -> Vec<GrubFiles> {
    let look = |env: &Environment| match session.boot_of(env).ok()? {
        Some(boot) => files_of(&boot.root, Path::new(""), env.name()),
        None => {
            let root = session.store.root_of(&env.root.as_ref()?.path).ok()?;
            files_of(&root, Path::new("boot"), env.name())
        }
    };
    inv.environments.iter().filter_map(look).collect()
}

/// The environment whose /boot has GRUB's own files, by its record.
pub(super) fn holder(inv: &Inventory) -> Option<&Environment> {
    let mut all = inv.environments.iter();
    all.find(|e| e.record.grub_home.is_some() || e.record.boot.is_some())
}

fn files_of(root: &Root, boot: &Path, name: &EnvName) -> Option<GrubFiles> {
    let name_of = HOMES
        .into_iter()
        .find(|h| root.is_dir(boot.join(h)).unwrap_or(false))?;
    let home = boot.join(name_of);
    let time = |path: &Path| root.lstat(path).ok().map(|m| m.mtime.0);
    let platforms = root.list(&home).unwrap_or_default();
    let cores = platforms
        .iter()
        .filter(|(_, kind)| kind.is_dir())
        .flat_map(|(name, _)| ["core.img", "core.efi"].map(|core| PathBuf::from(name).join(core)))
        .filter_map(|core| time(&home.join(core)));
    Some(GrubFiles {
        name: name.clone(),
        home: format!("boot/{name_of}"),
        installed: cores.max(),
        configured: time(&home.join("grub.cfg")),
    })
}

/// The environments in which grub-install was run after it was run in the one that is known
/// to hold GRUB's own files: GRUB may read its files from there.
pub fn grub_installed_in(session: &Session, inv: &Inventory) -> Vec<EnvName> {
    installed_later(inv, &files(session, inv))
}

/// The same of what was seen.
pub(super) fn installed_later(inv: &Inventory, files: &[GrubFiles]) -> Vec<EnvName> {
    let of = |name: &EnvName| files.iter().find(|f| f.name == *name);
    let Some(holder) = holder(inv) else {
        return Vec::new();
    };
    let known = of(holder.name()).and_then(|f| f.installed);
    files
        .iter()
        .filter(|f| f.name != *holder.name() && f.installed.is_some() && f.installed > known)
        .map(|f| f.name.clone())
        .collect()
}
