//! What has to stand in for the metadata cache of a repository, for Portage to take its old
//! names for the new ones.
//!
//! An entry helps only as long as Portage reads it: while it knows the checksums of the ebuild
//! and of all its eclasses. What has none that is read, and may have an old name, needs one
//! first.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result};

use super::cache::{self, Entry, field, is_entry_of, md5_of};
use super::map::{Moves, Packages};
use super::repository::Repository;
use super::scan::labels;
use super::source::references;
use crate::version::split_pf;

/// Functions that ask for what is installed (PMS 12.3.8).
const QUERIES: [&str; 2] = ["has_version", "best_version"];

/// What a repository needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey<'a> {
    /// The entries that need other names, and are read.
    pub entries: Vec<Entry<'a>>,
    /// Packages, `category/name`, of which an ebuild has no entry that is read and may have an
    /// old name.
    pub uncached: BTreeSet<String>,
    /// Old names by which ebuilds or eclasses ask for installed packages, and the new ones.
    pub asked: BTreeMap<String, String>,
    /// What cannot be read, and why.
    pub invalid: Vec<String>,
}

impl Survey<'_> {
    /// The names, or names and slots, that the entries have and that they should have.
    #[must_use]
    pub fn names(&self) -> BTreeSet<(String, String)> {
        let changes = self.entries.iter().flat_map(|entry| &entry.changes);
        let both = changes.filter_map(|change| {
            let old = change.old.parse().ok()?;
            change.new.satisfied.then(|| labels(&old, &change.new.atom))
        });
        both.collect()
    }
}

/// Look into a repository, one of `all`; nothing is written.
///
/// # Errors
/// A directory of it cannot be listed.
pub fn survey<'a>(
    repository: &Repository,
    all: &[Repository],
    moves: &'a Moves,
    packages: &impl Packages,
) -> Result<Survey<'a>> {
    let what = || format!("cannot list {}", repository.name);
    let mut look = Look {
        repository,
        moves,
        packages,
        eclasses: Eclasses::of(repository, all),
        renamed: moves.renamed(packages),
        tainted: BTreeSet::new(),
        found: Survey::default(),
    };
    look.taint().with_context(what)?;
    for category in repository.categories().with_context(what)? {
        let packages = repository.tree.entries(&category).with_context(what)?;
        for (package, _) in packages.into_iter().filter(|(_, is_dir)| *is_dir) {
            let name = format!("{category}/{package}");
            let files = repository.tree.entries(&name).with_context(what)?;
            for (file, _) in files {
                let pf = file.strip_suffix(".ebuild");
                let own = pf.filter(|pf| split_pf(pf).is_some_and(|(own, _)| own == package));
                if let Some(pf) = own {
                    look.ebuild(
                        &name,
                        &format!("{category}/{pf}"),
                        &format!("{name}/{file}"),
                    );
                }
            }
        }
    }
    Ok(look.found)
}

struct Look<'a, 'b, P> {
    repository: &'b Repository,
    moves: &'a Moves,
    packages: &'b P,
    eclasses: Eclasses<'b>,
    renamed: Vec<(&'a str, &'a str)>,
    /// Eclasses that may bring an old name into what inherits them.
    tainted: BTreeSet<String>,
    found: Survey<'a>,
}

impl<P: Packages> Look<'_, '_, P> {
    fn ebuild(&mut self, name: &str, cpv: &str, file: &str) {
        let text = match self.repository.tree.text(file) {
            Ok(text) => text.unwrap_or_default(),
            Err(e) => return self.found.invalid.push(format!("{cpv}: {e}")),
        };
        self.asks(&text);
        let entry = self.repository.cached(cpv).ok().flatten();
        let read = entry
            .filter(|entry| is_entry_of(entry, text.as_bytes()) && self.eclasses.agree_with(entry));
        let Some(entry) = read else {
            let inherits = || inherited(&text).any(|name| self.tainted.contains(name));
            if self.may_have_old(&text) || inherits() {
                self.found.uncached.insert(name.to_owned());
            }
            return;
        };
        match cache::in_text(cpv, &entry, self.moves, self.packages) {
            Ok(entry) => self.found.entries.extend(entry),
            Err(e) => self.found.invalid.push(format!("{cpv}: {e:#}")),
        }
    }

    /// Find the eclasses with old names: the repository's own and those of the others that it
    /// builds upon, but for the main one, which follows its own moves.
    fn taint(&mut self) -> std::io::Result<()> {
        let mut texts = Vec::new();
        for of in self.eclasses.repositories.iter().filter(|r| !r.main) {
            for (file, _) in of.tree.entries("eclass")? {
                if let Some(name) = file.strip_suffix(".eclass")
                    && let Ok(Some(text)) = of.tree.text(&format!("eclass/{file}"))
                {
                    texts.push((name.to_owned(), text));
                }
            }
        }
        for (name, text) in &texts {
            self.asks(text);
            if self.may_have_old(text) {
                self.tainted.insert(name.clone());
            }
        }
        // What inherits one of these is one, too.
        loop {
            let before = self.tainted.len();
            for (name, text) in &texts {
                if inherited(text).any(|name| self.tainted.contains(name)) {
                    self.tainted.insert(name.clone());
                }
            }
            if self.tainted.len() == before {
                return Ok(());
            }
        }
    }

    /// Whether a text may name something by an old name, as far as that can be told without
    /// running it. Rather too often than not.
    fn may_have_old(&self, text: &str) -> bool {
        let is_old = |atom| {
            let new = self.moves.replace(atom, None, self.packages);
            new.is_some_and(|new| new.satisfied)
        };
        references(text).iter().any(|found| is_old(&found.atom))
            || composed(text)
                .any(|begin| self.renamed.iter().any(|(old, _)| old.starts_with(begin)))
    }

    fn asks(&mut self, text: &str) {
        if !QUERIES.iter().any(|query| text.contains(query)) {
            return;
        }
        for found in references(text) {
            let name = found.atom.name().as_str();
            if let Some((old, new)) = self.renamed.iter().find(|(old, _)| *old == name) {
                let (old, new) = ((*old).to_owned(), (*new).to_owned());
                self.found.asked.insert(old, new);
            }
        }
    }
}

/// The eclasses that a text asks for.
fn inherited(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().map(str::trim_start);
    let lines = lines.filter_map(|line| line.strip_prefix("inherit "));
    lines.flat_map(str::split_ascii_whitespace)
}

/// The begins of names of packages that go on with a variable: `category/` and what follows.
fn composed(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices('/').filter_map(|(at, _)| {
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || "+_-".contains(c);
        let after = text[at + 1..].find(|c| !is_of_name(c))? + at + 1;
        let before = text[..at].rfind(|c| !is_of_name(c)).map_or(0, |n| n + 1);
        let whole = before < at && text[after..].starts_with('$');
        whole.then(|| text.get(before..after)).flatten()
    })
}

/// What a repository inherits from: itself before its masters, the last of these first, as in
/// Portage.
struct Eclasses<'a> {
    repositories: Vec<&'a Repository>,
    sums: RefCell<HashMap<String, Option<String>>>,
}

impl<'a> Eclasses<'a> {
    fn of(repository: &'a Repository, all: &'a [Repository]) -> Self {
        let named = repository.masters.iter().rev();
        let masters = named.filter_map(|name| all.iter().find(|r| r.name == *name));
        let mut repositories: Vec<_> = std::iter::once(repository).chain(masters).collect();
        if repository.masters.is_empty() {
            repositories.extend(all.iter().find(|r| r.main));
        }
        Self {
            repositories,
            sums: RefCell::default(),
        }
    }

    /// Does an entry know all of its eclasses as they are now?
    fn agree_with(&self, entry: &str) -> bool {
        let listed = field(entry, "_eclasses_").unwrap_or_default();
        let parts: Vec<&str> = listed.split('\t').filter(|p| !p.is_empty()).collect();
        parts
            .chunks(2)
            .all(|pair| pair.len() == 2 && self.sum(pair[0]).as_deref() == Some(pair[1]))
    }

    fn sum(&self, name: &str) -> Option<String> {
        if let Some(known) = self.sums.borrow().get(name) {
            return known.clone();
        }
        let file = format!("eclass/{name}.eclass");
        let mut contents = self.repositories.iter();
        let content = contents.find_map(|r| r.tree.bytes(&file).ok().flatten());
        let sum = content.map(|content| md5_of(&content));
        let mut sums = self.sums.borrow_mut();
        sums.insert(name.to_owned(), sum.clone());
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_go_on_with_a_variable_are_seen() {
        let text = "RDEPEND=\"dev-libs/${PN}-x dev-python/py-$V a/b\"\nS=${W}/${P} /$x x/";
        let found: Vec<_> = composed(text).collect();
        assert_eq!(found, ["dev-libs/", "dev-python/py-"]);
    }

    #[test]
    fn inherited_eclasses_are_seen() {
        let text = "EAPI=8\ninherit a b-1\n  inherit c\n# inherit d\n";
        assert_eq!(inherited(text).collect::<Vec<_>>(), ["a", "b-1", "c"]);
    }
}
