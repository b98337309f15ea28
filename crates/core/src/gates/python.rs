//! The gate `python`: what the upgrade installed for an interpreter can be imported.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use be_btrfs::Root;
use serde::Deserialize;

use super::changed::Changes;
use super::run::Place;
use super::{Outcome, Scene};

const PROGRAM: &str = include_str!("import.py");

/// How long the import of one module may take, in seconds.
const MODULE: u64 = 60;

/// How many modules one run of an interpreter tries, and how long that may take.
const BATCH: usize = 100;
const LIMIT: Duration = Duration::from_secs(900);

/// Names at the top that packages install by mistake, and that nobody imports.
const STRAY: [&str; 9] = [
    "test",
    "tests",
    "doc",
    "docs",
    "example",
    "examples",
    "benchmarks",
    "setup",
    "conftest",
];

/// An interpreter, by its version: `3.13`.
type Version = String;

pub(super) fn check(scene: &Scene<'_>) -> Result<Outcome> {
    let changed = modules(&scene.after, scene.changes()?);
    let mut tried = 0;
    let mut broken = Vec::new();
    for version in interpreters(&scene.after)? {
        let Some(names) = changed.for_interpreter(&version) else {
            continue;
        };
        tried += names.len();
        let failed = import(scene, Place::Environment, &version, &names)?;
        if failed.is_empty() {
            continue;
        }
        let names: Vec<String> = failed.iter().map(|f| f.module.clone()).collect();
        let before = failed_before(scene, &names)?;
        let new = failed.iter().filter(|f| !before.contains(&f.module));
        broken.extend(
            new.map(|f| format!("python{version} cannot import {}: {}", f.module, f.error)),
        );
    }
    Ok(match (tried, broken.is_empty()) {
        (0, _) => Outcome::Skipped("no module of Python changed".to_owned()),
        (_, true) => Outcome::Passed(format!("{tried} changed modules tried")),
        (_, false) => Outcome::Failed(broken),
    })
}

/// Which of these could not be imported before either, by an interpreter that had them.
fn failed_before(scene: &Scene<'_>, names: &[String]) -> Result<BTreeSet<String>> {
    let mut failed = BTreeSet::new();
    for version in interpreters(&scene.before)? {
        let dirs = directories(&scene.before, Some(&version));
        let had = names.iter().filter(|name| {
            dirs.iter()
                .any(|dir| is_module(&scene.before, &dir.join(name.replace('.', "/"))))
        });
        let had: Vec<String> = had.cloned().collect();
        let found = import(scene, Place::Base, &version, &had)?;
        failed.extend(found.into_iter().map(|f| f.module));
    }
    Ok(failed)
}

/// A line of what the program prints.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Line {
    Failed(Failed),
    Done { tried: usize },
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Failed {
    module: String,
    error: String,
}

fn import(scene: &Scene<'_>, place: Place, version: &str, names: &[String]) -> Result<Vec<Failed>> {
    let mut failed = Vec::new();
    for batch in names.chunks(BATCH) {
        let python = format!("/usr/bin/python{version}");
        // Isolated, and without writing what it compiles.
        let mut argv = [&python, "-I", "-B", "-c", PROGRAM]
            .map(str::to_owned)
            .to_vec();
        argv.push(MODULE.to_string());
        argv.extend(batch.iter().cloned());
        let ran = scene.run(place, argv, LIMIT)?;
        let lines = ran
            .output
            .lines()
            .filter_map(|l| serde_json::from_str(l).ok());
        let mut done = false;
        for line in lines {
            match line {
                Line::Failed(one) => failed.push(one),
                Line::Done { tried } => done = tried == batch.len(),
            }
        }
        if !done {
            bail!("{python} did not get on with it: {}", ran.end(LIMIT));
        }
    }
    Ok(failed)
}

/// `3.N` of each /usr/bin/python3.N.
fn interpreters(root: &Root) -> Result<Vec<Version>> {
    let names = root.list("usr/bin")?;
    let names = names.iter().filter_map(|(name, _)| name.to_str());
    let versions = names.filter_map(|name| name.strip_prefix("python"));
    let versions = versions.filter(|v| is_version(v));
    Ok(versions
        .filter(|v| root.is_file(format!("usr/bin/python{v}")).unwrap_or(false))
        .map(str::to_owned)
        .collect())
}

fn is_version(text: &str) -> bool {
    let minor = text.strip_prefix("3.").unwrap_or_default();
    !minor.is_empty() && minor.bytes().all(|b| b.is_ascii_digit())
}

/// Where packages put modules for an interpreter, or with none for all of them.
fn directories(root: &Root, version: Option<&str>) -> Vec<PathBuf> {
    let python = |v: &str| format!("python{v}");
    let names = [Some(python("3")), version.map(python)];
    let mut found = Vec::new();
    for lib in ["usr/lib", "usr/lib64", "usr/local/lib"] {
        for name in names.iter().flatten() {
            for kind in ["site-packages", "dist-packages"] {
                let dir = Path::new(lib).join(name).join(kind);
                if root.is_dir(&dir).unwrap_or(false) {
                    found.push(dir);
                }
            }
        }
    }
    found
}

/// Modules by the directory of Python's that they are for: `3`, `3.13`.
#[derive(Debug, Default)]
pub(super) struct Modules(BTreeMap<Version, BTreeSet<String>>);

impl Modules {
    /// Those that an interpreter could import; none if there is none.
    pub(super) fn for_interpreter(&self, version: &str) -> Option<Vec<String>> {
        let sets = ["3", version].into_iter().filter_map(|v| self.0.get(v));
        let names: BTreeSet<&String> = sets.flatten().collect();
        (!names.is_empty()).then(|| names.into_iter().cloned().collect())
    }
}

/// The modules that were changed, at the top of where packages put them.
pub(super) fn modules(root: &Root, changes: &Changes) -> Modules {
    let mut found = Modules::default();
    let mut looked = BTreeSet::new();
    for path in &changes.now {
        let Some((version, dir, rest)) = split(path) else {
            continue;
        };
        let mut at = dir.to_owned();
        let mut name: Vec<&str> = Vec::new();
        for part in rest {
            let Some(part) = identifier(part).filter(|p| !name.is_empty() || !STRAY.contains(p))
            else {
                break;
            };
            at.push(part);
            name.push(part);
            // What is no module by itself may hold some: a namespace.
            if !looked.insert(at.clone()) {
                if found.has(version, &name.join(".")) {
                    break;
                }
                continue;
            }
            if is_module(root, &at) {
                let of = found.0.entry(version.to_owned()).or_default();
                of.insert(name.join("."));
                break;
            }
        }
    }
    found
}

impl Modules {
    fn has(&self, version: &str, name: &str) -> bool {
        self.0
            .get(version)
            .is_some_and(|names| names.contains(name))
    }
}

/// A path below site-packages: the directory's version, itself, and the names below it.
fn split(path: &Path) -> Option<(&str, &Path, Vec<&str>)> {
    let text = path.to_str()?;
    let at = ["/site-packages/", "/dist-packages/"]
        .iter()
        .find_map(|kind| text.find(kind).map(|at| at + kind.len()))?;
    let (dir, rest) = text.split_at(at);
    let dir = dir.trim_end_matches('/');
    let home = dir.rsplit('/').nth(1)?;
    let version = home
        .strip_prefix("python")
        .filter(|v| *v == "3" || is_version(v))?;
    if rest.contains("__pycache__") {
        return None;
    }
    Some((version, Path::new(dir), rest.split('/').collect()))
}

/// The name of a module by that of its file or directory.
fn identifier(file: &str) -> Option<&str> {
    let name = match file.split_once('.') {
        Some((name, "py")) => name,
        Some((name, rest)) if rest == "so" || rest.ends_with(".so") => name,
        Some(_) => return None,
        None => file,
    };
    let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let digit = name.bytes().next().is_none_or(|b| b.is_ascii_digit());
    (letters && !digit).then_some(name)
}

/// Whether there is a module: a file, an extension, or a package.
fn is_module(root: &Root, path: &Path) -> bool {
    let file = |end: &str| {
        root.is_file(format!("{}{end}", path.display()))
            .unwrap_or(false)
    };
    file(".py") || file("/__init__.py") || is_extension(root, path)
}

/// Its name has that of the interpreter in it, mostly.
fn is_extension(root: &Root, path: &Path) -> bool {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return false;
    };
    let name = name.to_string_lossy();
    let names = root.list(dir).unwrap_or_default();
    names.iter().filter_map(|(n, _)| n.to_str()).any(|file| {
        let rest = file.strip_prefix(&*name).unwrap_or_default();
        rest.starts_with('.') && rest.ends_with(".so")
    })
}
