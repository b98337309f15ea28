//! What a clone of a system consists of, and what its fstab says.

use std::path::{Path, PathBuf};

use super::{Layout, Part, SUBDIR};
use crate::fstab::{Change, Entry};
use crate::model::{STORE, Subvolume};
use crate::name::EnvName;
use crate::record::{Policy, place};

/// The option that marks a line of fstab as made by `be`; mount(8) takes it for a comment.
pub(crate) const ADDED: &str = "x-be.added";

/// A subvolume that is to be cloned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where it is mounted in the environment.
    pub mount: String,
    /// What its owner wants.
    pub policy: Policy,
    /// Which one, by its path from the top level.
    pub from: PathBuf,
    /// Its UUID.
    pub uuid: String,
    /// The UUID of what it is a snapshot of, if a snapshot is cloned.
    pub original: Option<String>,
    /// Subvolumes in it, outermost only: a clone shows them as unusable empty directories.
    pub nested: Vec<PathBuf>,
    /// A clone has a copy of the store in it, to be taken out.
    pub holds_store: bool,
}

/// What is to be cloned; the root comes first.
pub fn sources(root: &Subvolume, layout: &Layout) -> Vec<Source> {
    let own = layout.parts.iter().filter(|p| p.is_own());
    let root = source_of(Path::new("/"), Policy::Cloned, root, &layout.nested);
    std::iter::once(root).chain(own.map(source)).collect()
}

/// A part as a source.
pub(crate) fn source(part: &Part) -> Source {
    source_of(&part.mount, part.policy, &part.subvolume, &part.nested)
}

fn source_of(mount: &Path, policy: Policy, subvolume: &Subvolume, nested: &[PathBuf]) -> Source {
    Source {
        mount: mount.to_string_lossy().into_owned(),
        policy,
        from: subvolume.path.clone(),
        uuid: subvolume.uuid.clone(),
        original: None,
        nested: nested.to_vec(),
        holds_store: subvolume.is_top_level(),
    }
}

/// How the fstab of the clone `name` differs from that of its origin; `fs_uuid` is the
/// filesystem's.
pub fn changes(layout: &Layout, name: &EnvName, fs_uuid: &str) -> Vec<Change> {
    let subvol = |mount: &str| format!("/{STORE}/{name}/{}", place(mount).display());
    let mut changes = vec![Change::Subvol {
        target: "/".into(),
        source: None,
        subvol: subvol("/"),
    }];
    let options = added_options(layout);
    for part in &layout.parts {
        let own = part.is_own();
        let from = match own {
            true => subvol(&part.mount.to_string_lossy()),
            false => part.subvolume.option(),
        };
        match (own, part.listed) {
            (true, true) => changes.push(Change::Subvol {
                target: part.mount.clone(),
                source: part.source.clone(),
                subvol: from,
            }),
            (false, true) => {}
            (_, false) => changes.push(Change::Add(added(part, &options, &from, fs_uuid))),
        }
    }
    if let Some(boot) = &layout.boot {
        let target = PathBuf::from("/boot");
        let free = |p: &str| layout.fstab.at(Path::new(p)).is_none();
        let esp = boot.place.fstype == "vfat" && free("/efi") && free("/boot/efi");
        changes.push(match esp {
            // An EFI system partition: programs look for it at /efi, too.
            true => Change::Target {
                from: target,
                to: "/efi".into(),
            },
            false => Change::Comment { target },
        });
    }
    changes
}

/// The options of the root that make sense for another subvolume: btrfs has most of them
/// once for the whole filesystem.
fn added_options(layout: &Layout) -> Vec<String> {
    let root = layout.fstab.at(Path::new("/"));
    root.map(|e| e.options.as_slice())
        .unwrap_or_default()
        .iter()
        .filter(|o| !o.starts_with("subvol") && !o.starts_with("x-") && !o.starts_with("X-"))
        .filter(|o| !["defaults", "ro", "noauto", ""].contains(&o.as_str()))
        .cloned()
        .collect()
}

fn added(part: &Part, options: &[String], subvol: &str, fs_uuid: &str) -> Entry {
    let mut options = options.to_vec();
    if !part.is_own() {
        // A system without somebody's data comes up all the same.
        options.push("nofail".into());
    }
    options.push(format!("subvol={subvol}"));
    options.push(ADDED.into());
    if !part.within.as_os_str().is_empty() {
        options.push(format!("{SUBDIR}={}", part.within.display()));
    }
    Entry {
        source: format!("UUID={fs_uuid}"),
        target: part.mount.clone(),
        fstype: "btrfs".into(),
        options,
    }
}
