//! Entries of the metadata cache (PMS 14.3) with other names in their dependencies.
//!
//! Portage takes the dependencies of an ebuild from its entry as long as the entry knows the
//! checksums of the ebuild and its eclasses (`_md5_`, `_eclasses_`). With nothing but the
//! dependencies changed, the ebuild and its Manifest stay valid, and Portage resolves,
//! builds and records the new names.

use anyhow::{Context, Result};
use md5::{Digest, Md5};

use super::atom::{Atom, name_in};
use super::depend;
use super::map::{Moves, Packages, Parent, Replacement};
use super::range::Versions;
use super::repository::{CACHE, Repository};
use crate::version::split_pf;

/// The variables that name other packages (PMS 8.1).
pub const VARIABLES: [&str; 5] = ["BDEPEND", "DEPEND", "IDEPEND", "PDEPEND", "RDEPEND"];

/// One atom that is to be another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<'a> {
    /// The variable that it is in.
    pub variable: &'static str,
    /// The atom that is there.
    pub old: String,
    /// What should be there.
    pub new: Replacement<'a>,
}

/// An entry that needs other names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// `category/name-version`.
    pub cpv: String,
    /// The path below the repository.
    pub path: String,
    /// The whole entry as it should be.
    pub text: String,
    /// What was changed.
    pub changes: Vec<Change<'a>>,
}

/// What the cache of a repository comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewritten<'a> {
    /// The entries that need other names.
    pub entries: Vec<Entry<'a>>,
    /// Entries that would need some, and that Portage does not read, because their ebuild is
    /// another one or gone.
    pub outdated: Vec<String>,
    /// Entries that are no readable text or have no readable dependencies, and why.
    pub invalid: Vec<String>,
}

/// The entries of the cache of a repository that need other names; nothing is written.
///
/// Where no update has an effect, no entry is read.
///
/// # Errors
/// The cache cannot be listed.
pub fn rewritten<'a>(
    repository: &Repository,
    moves: &'a Moves,
    packages: &impl Packages,
) -> Result<Rewritten<'a>> {
    let mut found = Rewritten::default();
    if !moves.matter(packages) {
        return Ok(found);
    }
    let what = || format!("cannot list the cache of {}", repository.path.display());
    for (category, is_dir) in repository.tree.entries(CACHE).with_context(what)? {
        if !is_dir {
            continue;
        }
        let path = format!("{CACHE}/{category}");
        for (pf, _) in repository.tree.entries(&path).with_context(what)? {
            let cpv = format!("{category}/{pf}");
            match entry(repository, &cpv, moves, packages) {
                Ok(None) => {}
                Ok(Some(entry)) => match is_current(repository, &cpv, &entry.text) {
                    true => found.entries.push(entry),
                    false => found.outdated.push(cpv),
                },
                Err(e) => found.invalid.push(format!("{cpv}: {e:#}")),
            }
        }
    }
    Ok(found)
}

/// The entry of one package, if it needs other names.
fn entry<'a>(
    repository: &Repository,
    cpv: &str,
    moves: &'a Moves,
    packages: &impl Packages,
) -> Result<Option<Entry<'a>>> {
    match repository.cached(cpv)? {
        Some(text) => in_text(cpv, &text, moves, packages),
        None => Ok(None),
    }
}

/// The same, from the text of the entry.
pub(super) fn in_text<'a>(
    cpv: &str,
    text: &str,
    moves: &'a Moves,
    packages: &impl Packages,
) -> Result<Option<Entry<'a>>> {
    let Some((name, version)) = split_name(cpv) else {
        return Ok(None);
    };
    let parent = Parent {
        name,
        version,
        slot: field(text, "SLOT").map(|slot| slot.split('/').next().unwrap_or(slot)),
    };
    let rewritten = rewrite(text, parent, moves, packages)?;
    Ok(rewritten.map(|(text, changes)| Entry {
        cpv: cpv.to_owned(),
        path: format!("{CACHE}/{cpv}"),
        text,
        changes,
    }))
}

/// `category/name` and the version.
pub(super) fn split_name(cpv: &str) -> Option<(&str, &str)> {
    let (_, pf) = cpv.split_once('/')?;
    let (_, version) = split_pf(pf)?;
    Some((&cpv[..cpv.len() - version.len() - 1], version))
}

/// The value of a field of an entry.
pub(super) fn field<'a>(entry: &'a str, key: &str) -> Option<&'a str> {
    let mut lines = entry.lines();
    lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

/// The text of an entry with other names, and what was changed; `None` if nothing is. A
/// dependency for which nothing is there under the new name either stays as it is, and so does
/// a blocker of all that has the new name, where the same entry depends on that: it was to be
/// rid of what had the old one.
///
/// # Errors
/// A dependency that needs another name stands in a group that is not closed.
pub fn rewrite<'a>(
    text: &str,
    parent: Parent<'_>,
    moves: &'a Moves,
    packages: &impl Packages,
) -> Result<Option<(String, Vec<Change<'a>>)>> {
    let mut new = String::new();
    let mut copied = 0;
    let mut changes = Vec::new();
    for line in text.split_inclusive('\n') {
        let Some((variable, value)) = dependencies(line.trim_end_matches('\n')) else {
            continue;
        };
        let mut replace = |word: &str| {
            let change = change(variable, word, parent, moves, packages)?;
            if is_contradicted(text, &change.new.atom, moves, packages) {
                return None;
            }
            let new = change.new.satisfied.then(|| change.new.atom.to_string())?;
            changes.push(change);
            Some(new)
        };
        let rewritten = depend::rewrite(value, &mut replace).context(variable)?;
        if let Some(value_now) = rewritten {
            let at = value.as_ptr() as usize - text.as_ptr() as usize;
            new.push_str(&text[copied..at]);
            new.push_str(&value_now);
            copied = at + value.len();
        }
    }
    new.push_str(&text[copied..]);
    Ok((!changes.is_empty()).then_some((new, changes)))
}

/// All atoms of an entry that should be others, those included for which the new name has
/// nothing either.
pub(super) fn changes<'a>(
    text: &str,
    parent: Parent<'_>,
    moves: &'a Moves,
    packages: &impl Packages,
) -> Vec<Change<'a>> {
    text.lines()
        .filter_map(dependencies)
        .flat_map(|(variable, value)| {
            let words = value.split_ascii_whitespace();
            words.filter_map(move |word| change(variable, word, parent, moves, packages))
        })
        .collect()
}

/// What should stand in the place of one word.
pub(super) fn change<'a>(
    variable: &'static str,
    word: &str,
    parent: Parent<'_>,
    moves: &'a Moves,
    packages: &impl Packages,
) -> Option<Change<'a>> {
    if !moves.concern(name_in(word)?) {
        return None;
    }
    let new = moves.replace(&word.parse().ok()?, Some(parent), packages)?;
    let old = word.to_owned();
    Some(Change { variable, old, new })
}

/// Does an entry depend on what this new atom would block altogether?
fn is_contradicted(entry: &str, new: &Atom, moves: &Moves, packages: &impl Packages) -> bool {
    if new.blocker().is_none() || *new.versions() != Versions::All {
        return false;
    }
    let is_it = |word: &str| {
        let Some(name) = name_in(word).filter(|_| !word.starts_with('!')) else {
            return false;
        };
        let now = || moves.replace(&word.parse().ok()?, None, packages);
        name == new.name().as_str()
            || moves.concern(name) && now().is_some_and(|now| now.atom.name() == new.name())
    };
    let values = entry.lines().filter_map(dependencies);
    values
        .flat_map(|(_, value)| value.split_ascii_whitespace())
        .any(is_it)
}

/// The variable and the value, if the line is one of dependencies.
fn dependencies(line: &str) -> Option<(&'static str, &str)> {
    let (key, value) = line.split_once('=')?;
    let variable = VARIABLES.into_iter().find(|name| *name == key)?;
    Some((variable, value))
}

/// Is the entry that of the ebuild which is there now? Portage asks for the eclasses, too.
pub(super) fn is_current(repository: &Repository, cpv: &str, entry: &str) -> bool {
    let ebuild = split_name(cpv).and_then(|(name, _)| {
        let (_, pf) = cpv.split_once('/')?;
        let ebuild = repository.tree.bytes(&format!("{name}/{pf}.ebuild"));
        ebuild.ok().flatten()
    });
    ebuild.is_some_and(|ebuild| is_entry_of(entry, &ebuild))
}

/// Does the entry know this ebuild?
pub(super) fn is_entry_of(entry: &str, ebuild: &[u8]) -> bool {
    field(entry, "_md5_") == Some(&md5_of(ebuild))
}

/// The checksum that the cache knows an ebuild or an eclass by.
pub(super) fn md5_of(content: &[u8]) -> String {
    let digest = Md5::digest(content);
    digest.iter().map(|b| format!("{b:02x}")).collect()
}
