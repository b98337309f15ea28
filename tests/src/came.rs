//! What an upgrade came to: one that was disturbed and went on has to come to the same as one
//! that was not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use xtask::fingerprint::Fingerprint;

/// What differs between any two upgrades: logs, times, and what is made of both.
const WITHOUT: [&str; 7] = [
    "var/log",
    "var/cache",
    "var/db/pkg",
    "var/db/repos",
    "var/tmp",
    "tmp",
    "var/lib/portage",
];

/// An environment after its upgrade.
#[derive(Debug)]
pub struct Came {
    /// By package: the paths it has, and what they contain.
    packages: BTreeMap<String, Vec<String>>,
    files: Fingerprint,
    /// How often each package was compiled.
    compiled: BTreeMap<String, usize>,
}

impl Came {
    /// What the environment with this root is now.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of(root: &Path) -> Result<Self> {
        Ok(Self {
            packages: packages(root)?,
            files: Fingerprint::of(root, &WITHOUT)?.without_times(),
            compiled: Merged::of(root).compiled,
        })
    }

    /// It has the packages of the upgrade that nobody disturbed, and the content of each of
    /// its files.
    ///
    /// # Errors
    /// It has not: all that differs.
    pub fn is_as(&self, undisturbed: &Self) -> Result<()> {
        let names = |came: &Self| came.packages.keys().cloned().collect::<Vec<_>>();
        ensure!(names(self) == names(undisturbed), "{:?}", names(self));
        for (package, contents) in &undisturbed.packages {
            let found = &self.packages[package];
            ensure!(
                found == contents,
                "{package}: {contents:#?} became {found:#?}"
            );
        }
        let changes = undisturbed.files.diff(&self.files);
        ensure!(changes.is_empty(), "{changes:#?}");
        Ok(())
    }

    /// Each of these packages was compiled as often as without the disturbance, or so many
    /// times more.
    ///
    /// # Errors
    /// One was not.
    pub fn built_no_more(
        &self,
        done: &BTreeSet<String>,
        undisturbed: &Self,
        more: usize,
    ) -> Result<()> {
        for package in done {
            let times = |came: &Self| came.compiled.get(package).copied().unwrap_or(0);
            let (expected, found) = (times(undisturbed), times(self));
            ensure!(
                (expected..=expected + more).contains(&found),
                "{package} was built {found} times, not {expected}"
            );
        }
        Ok(())
    }
}

fn packages(root: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let mut packages = BTreeMap::new();
    for category in fs::read_dir(root.join("var/db/pkg"))? {
        let category = category?;
        for package in fs::read_dir(category.path())? {
            let package = package?;
            let file = package.path().join("CONTENTS");
            let text = fs::read_to_string(&file);
            let text = text.with_context(|| format!("read {}", file.display()))?;
            let mut contents: Vec<String> = text.lines().map(without_time).collect();
            contents.sort();
            let (category, name) = (category.file_name(), package.file_name());
            let name = Path::new(&category).join(name).display().to_string();
            packages.insert(name, contents);
        }
    }
    Ok(packages)
}

/// A line of CONTENTS without the time in its end, see PMS on the format.
fn without_time(line: &str) -> String {
    match line.split_once(' ') {
        Some(("dir", _)) | None => line.to_owned(),
        Some(_) => line
            .rsplit_once(' ')
            .map_or(line, |(head, _)| head)
            .to_owned(),
    }
}

/// What was merged in an environment, according to emerge's log.
#[derive(Debug, Default)]
pub struct Merged {
    /// How often each package was compiled.
    pub compiled: BTreeMap<String, usize>,
    /// The packages that are complete after that.
    pub done: BTreeSet<String>,
}

impl Merged {
    /// In the environment with this root; nothing where there is no log yet.
    #[must_use]
    pub fn of(root: &Path) -> Self {
        let log = fs::read_to_string(root.join("var/log/emerge.log"));
        let mut merged = Self::default();
        for line in log.unwrap_or_default().lines() {
            merged.line(line);
        }
        merged
    }

    fn line(&mut self, line: &str) {
        if let Some((_, rest)) = line.split_once(") Compiling/") {
            let package = rest.split_once('(').map_or(rest, |(_, package)| package);
            let package = package.split("::").next().unwrap_or(package);
            *self.compiled.entry(package.to_owned()).or_default() += 1;
        }
        let package = |head: &str| {
            let (_, rest) = line.split_once(head)?;
            rest.split(") ").nth(1)?.split(' ').next()
        };
        if let Some(package) = package("::: completed emerge (") {
            self.done.insert(package.to_owned());
        } else if let Some(package) = package(">>> emerge (") {
            // Once more, for a chore.
            self.done.remove(package);
        }
    }
}
