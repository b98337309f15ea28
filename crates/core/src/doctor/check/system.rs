//! Checks of the system and its filesystem.

use super::{Problem, REPAIR, Repair, Severity, problem, some};
use crate::doctor::{FilesFact, Observation};
use crate::files;
use crate::layout;
use crate::model::Inventory;
use crate::refusal::Refusal;
use crate::upgrade::farm::Engine;

/// Bytes of metadata without which btrfs refuses writes soon.
const METADATA: u64 = 128 << 20;

/// Of a small filesystem, one part in so many.
const METADATA_PART: u64 = 20;

fn refused(id: &'static str, object: &str, refusal: &Refusal) -> Problem {
    problem(
        id,
        Severity::Error,
        object,
        refusal.to_string(),
        refusal.hint(),
    )
}

/// Nothing can be changed.
pub(super) fn read_only(inv: &Inventory, _: &Observation) -> Vec<Problem> {
    let refused = || refused("read-only", "filesystem", &Refusal::ReadOnly);
    inv.fs.read_only.then(refused).into_iter().collect()
}

/// The running system is no environment.
pub(super) fn not_adopted(inv: &Inventory, _: &Observation) -> Vec<Problem> {
    let refusal = inv.running().err();
    let refused = |r: Refusal| refused("not-adopted", &inv.system.root.option(), &r);
    refusal.map(refused).into_iter().collect()
}

/// Programs that be or its user needs.
pub(super) fn tools(_: &Inventory, seen: &Observation) -> Vec<Problem> {
    let mut problems: Vec<_> = seen
        .missing_tools
        .iter()
        .map(|tool| match *tool {
            "grub-script-check" => problem(
                "tool-missing",
                Severity::Error,
                *tool,
                "it is not installed, and without it no menu is written",
                "install GRUB: sys-boot/grub, or grub-common",
            ),
            tool => problem(
                "tool-missing",
                Severity::Note,
                tool,
                "it is not installed",
                "install GRUB where it is needed: sys-boot/grub, or grub-common",
            ),
        })
        .collect();
    if let Some(why) = &seen.no_manager {
        problems.push(problem(
            "tool-missing",
            Severity::Note,
            "package manager",
            format!("{why}, so be upgrade is refused"),
            "describe it, as be-managers(5) tells; or be create, then upgrade by hand: be shell NAME",
        ));
    }
    problems
}

/// Engines that environments were to be built with.
pub(super) fn engines(_: &Inventory, seen: &Observation) -> Vec<Problem> {
    let of = |engine: &Engine| {
        problem(
            "engine-missing",
            Severity::Note,
            engine.program,
            "it is not installed: environments are built without it, though [farm] in be.toml asks \
             for it",
            format!("emerge {}, or take it out of be.toml", engine.package),
        )
    };
    seen.missing_engines.iter().map(of).collect()
}

/// Services and hooks of ours that a system lacks, or has of another version.
pub(super) fn files(_: &Inventory, seen: &Observation) -> Vec<Problem> {
    let of = |fact: &FilesFact| {
        let wanted = files::missing(&fact.files);
        let list: Vec<String> = wanted.map(|file| format!("/{}", file.path)).collect();
        let object = match &fact.of {
            None => "/etc".to_owned(),
            Some((name, _)) => format!("/etc in {name}"),
        };
        let found = || {
            problem(
                "files",
                Severity::Warning,
                object,
                format!(
                    "services and hooks of be are missing, or are of another version: {}",
                    some(&list)
                ),
                REPAIR,
            )
            .repair(Repair::Files {
                of: fact.of.clone(),
            })
        };
        (!list.is_empty()).then(found)
    };
    seen.files.iter().filter_map(of).collect()
}

/// What somebody else wrote in their places.
pub(super) fn foreign_files(_: &Inventory, seen: &Observation) -> Vec<Problem> {
    let own = seen.files.iter().filter(|fact| fact.of.is_none());
    let list = own.flat_map(|fact| files::foreign(&fact.files));
    list.map(|file| {
        problem(
            "file-foreign",
            Severity::Note,
            format!("/{}", file.path),
            "be did not write it and leaves it as it is: what it is there for may not happen",
            "remove it, then: be init, if that was not what you wanted",
        )
    })
    .collect()
}

/// A layout of which no complete environment can be made.
pub(super) fn layout(inv: &Inventory, _: &Observation) -> Vec<Problem> {
    let refusal = layout::supported(&inv.system).err();
    let refused = |r: Refusal| refused("layout-unsupported", "layout", &r);
    refusal.map(refused).into_iter().collect()
}

/// A swapfile in the root keeps it from being cloned, or is cloned and then of no use.
pub(super) fn swapfiles(_: &Inventory, seen: &Observation) -> Vec<Problem> {
    let of = |file: &crate::doctor::Swapfile| {
        let path = file.path.display();
        let (severity, text) = match file.active {
            true => (
                Severity::Error,
                "an active swapfile in the root subvolume, which cannot be cloned meanwhile",
            ),
            false => (
                Severity::Warning,
                "a swapfile of fstab in the root subvolume: once that has been cloned, neither \
                 of the two can be switched on",
            ),
        };
        problem(
            "swapfile",
            severity,
            path.to_string(),
            text,
            format!("swapoff {path}; move it to a subvolume of its own, and mend /etc/fstab"),
        )
    };
    seen.swapfiles.iter().map(of).collect()
}

/// Data and metadata.
pub(super) fn space(inv: &Inventory, seen: &Observation) -> Vec<Problem> {
    let mut problems = Vec::new();
    let metadata = METADATA.min(seen.size / METADATA_PART);
    if seen.metadata_free < metadata {
        problems.push(problem(
            "metadata-low",
            Severity::Warning,
            "filesystem",
            format!(
                "{} MiB of metadata can be written; btrfs refuses all writes when none can",
                seen.metadata_free >> 20
            ),
            "be prune, or: btrfs balance start -dusage=20 /",
        ));
    } else if inv.fs.free < seen.wanted_free {
        problems.push(problem(
            "space-low",
            Severity::Warning,
            "filesystem",
            format!(
                "{} MiB are free, and an upgrade wants {} (upgrade.min_free_mib)",
                inv.fs.free >> 20,
                seen.wanted_free >> 20
            ),
            "be prune, or be destroy NAME",
        ));
    }
    problems
}

/// Quotas make deletions slow.
pub(super) fn quotas(inv: &Inventory, _: &Observation) -> Vec<Problem> {
    let on = || {
        problem(
            "quotas",
            Severity::Warning,
            "filesystem",
            "quotas are on, which makes removing environments very slow",
            "btrfs quota disable /",
        )
    };
    inv.fs.quotas.then(on).into_iter().collect()
}

/// What no environment protects.
pub(super) fn uncovered(inv: &Inventory, _: &Observation) -> Vec<Problem> {
    let list: Vec<_> = inv
        .system
        .layout
        .parts
        .iter()
        .filter(|p| !p.listed && !p.is_own())
        .map(|p| p.mount.display().to_string())
        .collect();
    let found = || {
        problem(
            "not-covered",
            Severity::Note,
            some(&list),
            "subvolumes that lie in the system are shared by all environments, which keep no \
             older state of them",
            "be layout shows them, be layout set PATH cloned changes it",
        )
    };
    (!list.is_empty()).then(found).into_iter().collect()
}
