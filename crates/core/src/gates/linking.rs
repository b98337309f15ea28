//! The gate `linking`: programs and libraries find the libraries that they need.
//!
//! What was written by the upgrade is looked at; only where a library has vanished by its
//! name, everything is, because anybody may have needed it. Files that no package owns count
//! as all others.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use be_btrfs::Root;

use super::changed::{Changes, programs};
use super::elf::{Elf, Machine};
use super::search::Search;
use super::{Outcome, Scene};
use crate::parallel;

/// Endings of files that are read by programs and never loaded as libraries.
const DATA: [&str; 12] = [
    "py", "pyc", "pyi", "h", "hpp", "a", "la", "o", "pm", "js", "mo", "rlib",
];

pub(super) fn check(scene: &Scene<'_>) -> Result<Outcome> {
    let changes = scene.changes()?;
    let (looked, broken) = examine(&scene.before, &scene.after, changes)?;
    Ok(match broken.is_empty() {
        true => Outcome::Passed(format!("{looked} programs and libraries looked at")),
        false => Outcome::Failed(broken),
    })
}

/// How many files were looked at, and a sentence for each library that is missing.
pub(super) fn examine(
    before: &Root,
    after: &Root,
    changes: &Changes,
) -> Result<(usize, Vec<String>)> {
    let gone = read(before, &changes.gone);
    let vanished = vanished(before, after, changes, &gone);
    let everything;
    let paths = match vanished.is_empty() && !changes.linker {
        true => &changes.now,
        false => {
            everything = programs(after)?;
            &everything
        }
    };
    let now = read(after, paths);
    let relevant = |(path, elf): &(&PathBuf, &Elf)| {
        changes.linker
            || changes.now.contains(*path)
            || elf.needed.iter().any(|n| vanished.contains(base_name(n)))
    };
    let (new, old) = (Search::of(after), Search::of(before));
    let mut missing: BTreeMap<&PathBuf, Vec<&str>> = BTreeMap::new();
    for (path, elf) in now.iter().filter(relevant) {
        let lacks = elf.needed.iter().filter(|n| !new.finds(path, elf, n));
        let lacks: Vec<_> = lacks.map(String::as_str).collect();
        if !lacks.is_empty() {
            missing.insert(path, lacks);
        }
    }
    let brought = brought(changes, &now);
    let lacked: HashSet<(&OsStr, &str)> = gone
        .iter()
        .flat_map(|(path, elf)| {
            let lacks = elf.needed.iter().filter(|n| !old.finds(path, elf, n));
            lacks.filter_map(|n| Some((path.file_name()?, n.as_str())))
        })
        .collect();
    let mut broken = Vec::new();
    for (path, names) in missing {
        let elf = &now[path];
        let then = Elf::at(before, path);
        let needed_before = |name: &str| {
            let then = then.as_ref()?;
            let needed = then.needed.iter().any(|n| n == name);
            needed.then(|| old.finds(path, then, name))
        };
        for name in names {
            let counts = match needed_before(name) {
                Some(found) => found,
                // Whoever loads a plugin has loaded the libraries that came with it.
                None => {
                    !brought.contains(&(elf.machine, name))
                        && !path
                            .file_name()
                            .is_some_and(|f| lacked.contains(&(f, name)))
                }
            };
            if counts {
                broken.push(format!(
                    "/{} needs {name}, which is not there",
                    path.display()
                ));
            }
        }
    }
    Ok((now.len(), broken))
}

/// The names by which libraries were needed that are not where they were.
fn vanished(
    before: &Root,
    after: &Root,
    changes: &Changes,
    gone: &HashMap<PathBuf, Elf>,
) -> HashSet<String> {
    let is_library = |path: &&PathBuf| base_name(&path.to_string_lossy()).contains(".so");
    let mut names = HashSet::new();
    // What was replaced may have been replaced by something else.
    for path in changes.gone.iter().chain(&changes.now).filter(is_library) {
        let Some(machine) = Machine::at(before, path) else {
            continue;
        };
        let file = base_name(&path.to_string_lossy()).to_owned();
        // A file is needed by its soname, which is mostly a link to it.
        let elf = gone
            .get(path)
            .map_or_else(|| Elf::at(before, path), |e| Some(e.clone()));
        let link = before.lstat(path).is_ok_and(|m| m.kind.is_symlink());
        let soname = elf.and_then(|e| e.soname).filter(|_| !link);
        let name = soname.unwrap_or(file);
        let dir = path.parent().unwrap_or(Path::new(""));
        if Machine::at(after, &dir.join(&name)) != Some(machine) {
            names.insert(name);
        }
    }
    names
}

/// What the upgrade has brought, by the names that others may need it by.
fn brought<'a>(changes: &Changes, now: &'a HashMap<PathBuf, Elf>) -> HashSet<(Machine, &'a str)> {
    let new = now.iter().filter(|(path, _)| changes.now.contains(*path));
    new.flat_map(|(path, elf)| {
        let file = path.file_name().and_then(OsStr::to_str);
        let names = file.into_iter().chain(elf.soname.as_deref());
        names.map(|name| (elf.machine, name))
    })
    .collect()
}

/// The ELF files among these.
fn read(root: &Root, paths: &BTreeSet<PathBuf>) -> HashMap<PathBuf, Elf> {
    let paths: Vec<&PathBuf> = paths.iter().filter(|p| may_be_elf(p)).collect();
    let read = parallel::map(&paths, |path| {
        let meta = root.lstat(path).ok()?;
        let library = path.to_string_lossy().contains(".so");
        let wanted = meta.kind.is_file() && (library || meta.mode & 0o111 != 0);
        wanted.then(|| Elf::at(root, path))?
    });
    let found = paths.into_iter().zip(read);
    found
        .filter_map(|(path, elf)| Some((path.clone(), elf?)))
        .collect()
}

fn may_be_elf(path: &Path) -> bool {
    let ending = path.extension().and_then(OsStr::to_str);
    !ending.is_some_and(|e| DATA.contains(&e))
}

fn base_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}
