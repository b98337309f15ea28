//! Old names in a repository.

use std::io;

use anyhow::{Context, Result};

use super::{Kind, Known, Names, Patch, Scan, in_list};
use crate::moves::cache::{self, field, is_entry_of};
use crate::moves::map::Parent;
use crate::moves::patch::unified;
use crate::moves::repository::{CACHE, Repository};
use crate::moves::source::{Reference, references, replaced};
use crate::version::split_pf;

/// Files of profiles that begin their lines with atoms (PMS 5.2).
const LISTS: [&str; 14] = [
    "package.accept_keywords",
    "package.bashrc",
    "package.deprecated",
    "package.keywords",
    "package.mask",
    "package.provided",
    "package.unmask",
    "package.use",
    "package.use.force",
    "package.use.mask",
    "package.use.stable",
    "package.use.stable.force",
    "package.use.stable.mask",
    "packages",
];

/// One repository that is gone through.
struct Search<'a> {
    repository: &'a Repository,
    known: Known<'a>,
    scan: &'a mut Scan,
    patch: Patch,
    /// How many ebuilds have no entry in the cache that is theirs.
    uncached: usize,
}

/// Find what is in a repository.
pub(super) fn scan(repository: &Repository, known: Known<'_>, scan: &mut Scan) -> Result<()> {
    let mut search = Search {
        repository,
        known,
        scan,
        patch: Patch {
            repository: repository.name.clone(),
            directory: repository.path.display().to_string(),
            diff: String::new(),
            manifests: Vec::new(),
        },
        uncached: 0,
    };
    search
        .all()
        .with_context(|| format!("cannot search {}", repository.path.display()))?;
    let Search {
        patch, uncached, ..
    } = search;
    if uncached > 0 {
        scan.unseen.push(format!(
            "what eclasses and variables add to dependencies in {}, where {uncached} of the \
             ebuilds have no entry in the metadata cache",
            repository.name
        ));
    }
    if !patch.diff.is_empty() {
        scan.patches.push(patch);
    }
    Ok(())
}

impl Search<'_> {
    fn all(&mut self) -> io::Result<()> {
        for category in self.repository.categories()? {
            for (package, is_dir) in self.repository.tree.entries(&category)? {
                if is_dir {
                    self.package(&category, &package)?;
                }
            }
        }
        for file in self.repository.tree.files("eclass")? {
            if file.ends_with(".eclass") {
                self.eclass(&file);
            }
        }
        for file in self.repository.tree.files("profiles")? {
            // A list may be a directory of files.
            let mut parts = file.split('/').skip(1);
            if parts.any(|part| LISTS.contains(&part)) {
                self.list(&file);
            }
        }
        Ok(())
    }

    fn package(&mut self, category: &str, package: &str) -> io::Result<()> {
        let before = self.patch.diff.len();
        let directory = format!("{category}/{package}");
        for (file, _) in self.repository.tree.entries(&directory)? {
            if let Some(pf) = file.strip_suffix(".ebuild")
                && let Some((name, version)) = split_pf(pf)
                && name == package
            {
                self.ebuild(&directory, version, &format!("{directory}/{file}"));
            }
        }
        if self.patch.diff.len() > before && self.has_thick_manifest(&directory) {
            self.patch.manifests.push(directory);
        }
        Ok(())
    }

    /// Does the Manifest of a package know the checksums of its ebuilds (GLEP 44)?
    fn has_thick_manifest(&self, directory: &str) -> bool {
        let manifest = self.repository.tree.text(&format!("{directory}/Manifest"));
        let manifest = manifest.ok().flatten().unwrap_or_default();
        manifest.lines().any(|line| line.starts_with("EBUILD "))
    }

    fn ebuild(&mut self, name: &str, version: &str, file: &str) {
        let Some(text) = self.text(file) else {
            return;
        };
        let entry = self
            .repository
            .tree
            .text(&format!("{CACHE}/{name}-{version}"));
        let entry = entry.ok().flatten();
        let entry = entry.filter(|entry| is_entry_of(entry, text.as_bytes()));
        let slot = entry.as_deref().and_then(|entry| field(entry, "SLOT"));
        let parent = Parent {
            name,
            version,
            slot: slot.map(|slot| slot.split('/').next().unwrap_or(slot)),
        };
        let mut names = Names::default();
        match &entry {
            None => self.uncached += 1,
            Some(entry) => {
                let Known { moves, stock } = self.known;
                for change in cache::changes(entry, parent, moves, stock) {
                    if let Ok(old) = change.old.parse() {
                        names.add(&old, &change.new, None, Some(change.variable));
                    }
                }
            }
        }
        self.source(&text, file, Some(parent), &mut names);
        self.found(names, Kind::Ebuild, file);
    }

    fn eclass(&mut self, file: &str) {
        if let Some(text) = self.text(file) {
            let mut names = Names::default();
            self.source(&text, file, None, &mut names);
            self.found(names, Kind::Eclass, file);
        }
    }

    /// What can be seen in the text of an ebuild or an eclass, and can be mended there.
    fn source(&mut self, text: &str, file: &str, parent: Option<Parent<'_>>, names: &mut Names) {
        let references = references(text);
        let mut mended: Vec<(&Reference, _)> = Vec::new();
        for reference in &references {
            let Known { moves, stock } = self.known;
            if let Some(new) = moves.replace(&reference.atom, parent, stock) {
                names.add(&reference.atom, &new, Some(reference.line), None);
                mended.push((reference, new.atom));
            }
        }
        if !mended.is_empty() {
            let mended: Vec<_> = mended.iter().map(|(old, new)| (*old, new)).collect();
            self.mend(file, text, &replaced(text, &mended));
        }
    }

    fn list(&mut self, file: &str) {
        if let Some(text) = self.text(file) {
            let (names, new) = in_list(&text, self.known);
            self.mend(file, &text, &new);
            self.found(names, Kind::Profile, file);
        }
    }

    fn mend(&mut self, file: &str, old: &str, new: &str) {
        self.patch.diff.push_str(&unified(file, old, new));
    }

    fn found(&mut self, names: Names, kind: Kind, file: &str) {
        let repository = Some(self.repository.name.as_str());
        let findings = names.into_findings(kind, repository, file);
        self.scan.findings.extend(findings);
    }

    fn text(&mut self, file: &str) -> Option<String> {
        match self.repository.tree.text(file) {
            Ok(text) => text,
            Err(e) => {
                let path = self.repository.path.join(file);
                self.scan.unseen.push(format!("{}: {e}", path.display()));
                None
            }
        }
    }
}
