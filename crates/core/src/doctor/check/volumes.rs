//! Checks of the subvolumes besides the root: those of environments, and what their fstabs
//! mount.

use std::path::{Path, PathBuf};

use super::{Problem, REPAIR, Repair, Severity, problem};
use crate::doctor::{EnvFacts, Observation};
use crate::fstab::{Entry, Fstab};
use crate::model::{Environment, Inventory, STORE, Subvolume};
use crate::record::Member;

/// The subvolumes of an environment besides its root.
fn members(env: &Environment) -> impl Iterator<Item = (&Member, Option<&Subvolume>)> {
    let found = env.subvolumes.iter().map(Option::as_ref);
    let all = env.record.subvolumes.iter().zip(found);
    all.filter(|(member, _)| member.mount != "/")
}

/// The environments that be made, with their fstabs.
fn facts<'a>(
    inv: &'a Inventory,
    seen: &'a Observation,
) -> impl Iterator<Item = (&'a Environment, &'a Fstab)> {
    let of = |facts: &'a EnvFacts| {
        let env = inv.environments.iter().find(|e| *e.name() == facts.name)?;
        Some((env, facts.fstab.as_ref()?)).filter(|_| !env.busy)
    };
    seen.environments.iter().filter_map(of)
}

/// Subvolumes that a record names, and that are gone. Those of an adopted system are its
/// owner's affair: what counts there is its fstab.
pub(super) fn gone(inv: &Inventory, _: &Observation) -> Vec<Problem> {
    let made = inv.environments.iter().filter(|e| !e.record.adopted);
    made.flat_map(|env| {
        let name = env.name();
        members(env)
            .filter(|(_, found)| found.is_none())
            .map(move |(member, _)| {
                let place = format!("/{STORE}/{name}/{}", member.place().display());
                let other = env.foreign.contains(&member.place());
                let text = match other {
                    true => format!(
                        "another subvolume stands in the place of its {}",
                        member.mount
                    ),
                    false => format!("its subvolume for {} is gone", member.mount),
                };
                problem(
                    "volume-missing",
                    Severity::Error,
                    name.to_string(),
                    text,
                    format!("put the right one there: {place}; or be destroy {name}"),
                )
            })
    })
    .collect()
}

/// Subvolumes that were being replaced when be was cut off.
pub(super) fn replacements(inv: &Inventory, _: &Observation) -> Vec<Problem> {
    let mut problems = Vec::new();
    for env in &inv.environments {
        let left = env.record.subvolumes.iter();
        for member in left.filter(|m| m.replacement.is_some()) {
            problems.push(
                problem(
                    "replacement-left",
                    Severity::Warning,
                    env.name().to_string(),
                    format!(
                        "be was cut off while it cloned {} anew: the record names both",
                        member.mount
                    ),
                    REPAIR,
                )
                .repair(Repair::Sweep),
            );
        }
    }
    problems
}

/// The lines of fstab for the subvolumes of an environment that be made: they are where be
/// put them, so that it can mend the lines.
pub(super) fn own_lines(inv: &Inventory, seen: &Observation) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (env, fstab) in facts(inv, seen).filter(|(env, _)| !env.record.adopted) {
        let Some(root) = &env.root else { continue };
        for (member, found) in members(env) {
            let Some(is) = found else { continue };
            let target = Path::new(&member.mount);
            let lines = fstab.entries().filter(|e| e.target == target);
            let mut lines = lines.filter(|e| e.is_btrfs()).peekable();
            if lines.peek().is_none() {
                problems.push(problem(
                    "fstab-missing",
                    Severity::Error,
                    env.name().to_string(),
                    format!(
                        "its /etc/fstab does not mount its {}, which is {}",
                        member.mount,
                        is.option()
                    ),
                    format!("be shell {}, and add the line", env.name()),
                ));
                continue;
            }
            let Some((id, severity, text)) = lines.find_map(|e| own_line(e, is)) else {
                continue;
            };
            problems.push(
                problem(id, severity, env.name().to_string(), text, REPAIR).repair(Repair::Fstab {
                    name: env.name().clone(),
                    root: root.path.clone(),
                    target: target.to_owned(),
                    subvol: is.option(),
                }),
            );
        }
    }
    problems
}

fn own_line(entry: &Entry, is: &Subvolume) -> Option<(&'static str, Severity, String)> {
    let target = entry.target.display();
    let option = is.option();
    match (entry.subvol(), entry.subvolid()) {
        (Some(theirs), _) if Path::new(theirs) != is.path => Some((
            "fstab-subvol",
            Severity::Error,
            format!("its /etc/fstab mounts {target} from subvol=/{theirs}, and it is {option}"),
        )),
        (None, None) => Some((
            "fstab-subvol",
            Severity::Error,
            format!("its /etc/fstab mounts the default subvolume at {target}, and it is {option}"),
        )),
        (_, Some(id)) if id != is.id.to_string() => Some((
            "fstab-subvolid",
            Severity::Error,
            format!(
                "its /etc/fstab mounts {target} from subvolid={id}, and it is {}",
                is.id
            ),
        )),
        (_, Some(id)) => Some((
            "fstab-subvolid",
            Severity::Warning,
            format!(
                "its /etc/fstab names {target} by subvolid={id}: true today, and wrong when it is \
                 cloned anew"
            ),
        )),
        _ => None,
    }
}

/// The other lines of fstab that mount something of this filesystem: what is shared.
pub(super) fn other_lines(inv: &Inventory, seen: &Observation) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (env, fstab) in facts(inv, seen) {
        let own = |e: &&Entry| {
            !env.record.adopted && members(env).any(|(m, _)| Path::new(&m.mount) == e.target)
        };
        let like = fstab.at(Path::new("/")).map(|e| e.source.as_str());
        let here = |e: &&Entry| {
            let uuid = e.source.strip_prefix("UUID=").map(|u| u.trim_matches('"'));
            uuid.is_some_and(|u| u.eq_ignore_ascii_case(&inv.fs.uuid))
                || Some(e.source.as_str()) == like
        };
        let lines = fstab
            .entries()
            .filter(|e| e.is_btrfs() && e.target != Path::new("/"));
        for entry in lines.filter(here).filter(|e| !own(e)) {
            problems.extend(other_line(seen, env, entry));
        }
    }
    problems
}

fn other_line(seen: &Observation, env: &Environment, entry: &Entry) -> Option<Problem> {
    let target = entry.target.display();
    let all = || seen.subvolumes.iter().zip(&seen.ids);
    let by_path = entry.subvol().map(Path::new);
    let by_id = entry.subvolid().and_then(|id| id.parse::<u64>().ok());
    let id_of = |path: &Path| all().find(|(p, _)| *p == path).map(|(_, id)| *id);
    let what = match (by_path, by_id) {
        (Some(path), _) if id_of(path).is_none() => format!("subvol=/{}", path.display()),
        (Some(path), Some(id)) if id_of(path) != Some(id) => {
            format!("subvol=/{} with subvolid={id}", path.display())
        }
        (None, Some(id)) if all().all(|(_, i)| *i != id) => format!("subvolid={id}"),
        _ => return None,
    };
    let optional = ["nofail", "noauto"]
        .iter()
        .any(|o| entry.options.iter().any(|e| e == o));
    let severity = match optional {
        true => Severity::Warning,
        false => Severity::Error,
    };
    let moved = by_path.map(|path| moved(seen, path)).unwrap_or_default();
    let remedy = match moved.first() {
        Some(found) => format!(
            "it may be /{} now: look, and mend the line",
            found.display()
        ),
        None => format!("be shell {}, and mend the line or take it out", env.name()),
    };
    Some(problem(
        "fstab-gone",
        severity,
        env.name().to_string(),
        format!("its /etc/fstab mounts {target} from {what}, which is not there"),
        remedy,
    ))
}

/// Where a subvolume that lay in an environment may be since that was renamed: at the same
/// place in another one. There may be others that only look like it.
fn moved(seen: &Observation, path: &Path) -> Vec<PathBuf> {
    let place = |path: &Path| {
        let below = path.strip_prefix(STORE).ok()?;
        let mut parts = below.components();
        parts.next()?;
        Some(parts.as_path().to_owned())
    };
    let wanted = place(path);
    let alike = |p: &&PathBuf| wanted.is_some() && place(p) == wanted;
    seen.subvolumes.iter().filter(alike).cloned().collect()
}

/// Directories that were split, and are still in use as they were.
pub(super) fn pending(_: &Inventory, seen: &Observation) -> Vec<Problem> {
    let waiting = seen.pending.iter().filter(|p| !p.written);
    waiting
        .map(|p| {
            let mount = p.mount.display();
            match p.behind() {
                Some(text) => problem(
                    "split-behind",
                    Severity::Warning,
                    mount.to_string(),
                    text,
                    format!("be layout split {mount}"),
                ),
                None => problem(
                    "split-pending",
                    Severity::Note,
                    mount.to_string(),
                    format!("it is {} from the next boot on", p.subvolume.option()),
                    "reboot; change nothing in it meanwhile",
                ),
            }
        })
        .collect()
}
