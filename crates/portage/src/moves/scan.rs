//! Where old names still stand: in repositories, in the configuration, and in the packages
//! that are installed.

mod repositories;
mod system;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

pub use system::{Change, Mend, mends};

use super::atom::Atom;
use super::map::{Moves, Replacement};
use super::packages::Stock;
use super::repository::Repository;
use super::updates::{Malformed, Updates};

/// What kind of a place an old name stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An ebuild, its own text or what its eclasses add.
    Ebuild,
    /// An eclass.
    Eclass,
    /// A file below `profiles`.
    Profile,
    /// A file below `/etc/portage`.
    Config,
    /// The packages and sets that a person asked for.
    World,
    /// An installed package.
    Installed,
}

/// An old name in one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The name; with its slot, if that is what is old.
    pub old: String,
    /// What should be there.
    pub new: String,
    /// What kind of a place it is.
    pub kind: Kind,
    /// The repository, if it is in one.
    pub repository: Option<String>,
    /// The file, below the repository or from the root of the system.
    pub file: String,
    /// The lines, counted from 1. None if the name is not in the text: it comes from an
    /// eclass or from variables.
    pub lines: Vec<usize>,
    /// The variables that it is in, if that is known.
    pub variables: Vec<String>,
    /// The lines of updates that say so.
    pub moved_by: Vec<String>,
    /// Whether there is a package that matches what is asked for under the new name.
    pub satisfied: bool,
}

/// What a repository could change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Patch {
    /// The name of the repository.
    pub repository: String,
    /// Where it is.
    pub directory: String,
    /// A unified diff, for `patch -p1` in it.
    pub diff: String,
    /// Packages whose Manifest is to be made anew for that.
    pub manifests: Vec<String>,
}

/// All that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// The old names, sorted.
    pub findings: Vec<Finding>,
    /// What the repositories that were asked for could change.
    pub patches: Vec<Patch>,
    /// Lines of updates that are none, a sentence each.
    pub malformed: Vec<String>,
    /// What was not looked at, and why, a sentence each.
    pub unseen: Vec<String>,
}

/// Find old names in the repositories of which `asked` is true, knowing of all the updates
/// and packages of all `repositories`; and in the system whose root directory is `root`.
///
/// # Errors
/// Something cannot be listed. A single file that cannot be read is in [`Scan::unseen`].
pub fn scan(
    repositories: &[Repository],
    asked: impl Fn(&Repository) -> bool,
    root: Option<&Path>,
) -> Result<Scan> {
    let mut scan = Scan::default();
    let mut updates = Updates::default();
    for repository in repositories {
        updates.append(repository.updates()?);
    }
    scan.malformed
        .extend(updates.malformed.iter().map(Malformed::to_string));
    scan.unseen.append(&mut updates.unread);
    let known = Known {
        moves: &Moves::new(updates.updates),
        stock: &Stock::new(repositories),
    };
    for repository in repositories.iter().filter(|r| asked(r)) {
        scan.missing_masters(repository, repositories);
        repositories::scan(repository, known, &mut scan)?;
    }
    if let Some(root) = root {
        system::scan(root, known, &mut scan)?;
    }
    scan.findings.sort();
    Ok(scan)
}

/// What is known of moves.
#[derive(Clone, Copy)]
struct Known<'a> {
    moves: &'a Moves,
    stock: &'a Stock<'a>,
}

impl<'a> Known<'a> {
    fn replace(&self, atom: &Atom) -> Option<Replacement<'a>> {
        self.moves.replace(atom, None, self.stock)
    }
}

impl Scan {
    fn missing_masters(&mut self, repository: &Repository, all: &[Repository]) {
        let known = |name: &String| all.iter().any(|r| r.name == *name);
        for master in repository.masters.iter().filter(|m| !known(m)) {
            self.unseen.push(format!(
                "moves of {master}, which {} builds upon: it is not among the repositories",
                repository.name
            ));
        }
    }
}

/// The old names of one place.
#[derive(Default)]
struct Names(BTreeMap<(String, String), Uses>);

struct Uses {
    lines: BTreeSet<usize>,
    variables: BTreeSet<String>,
    moved_by: Vec<String>,
    satisfied: bool,
}

impl Names {
    fn add(
        &mut self,
        old: &Atom,
        new: &Replacement<'_>,
        line: Option<usize>,
        variable: Option<&str>,
    ) {
        let uses = self
            .0
            .entry(labels(old, &new.atom))
            .or_insert_with(|| Uses {
                lines: BTreeSet::new(),
                variables: BTreeSet::new(),
                moved_by: new
                    .by
                    .iter()
                    .map(|update| update.place.to_string())
                    .collect(),
                satisfied: true,
            });
        uses.lines.extend(line);
        uses.variables.extend(variable.map(str::to_owned));
        uses.satisfied &= new.satisfied;
    }

    /// As findings in this place.
    fn into_findings(
        self,
        kind: Kind,
        repository: Option<&str>,
        file: &str,
    ) -> impl Iterator<Item = Finding> {
        self.0.into_iter().map(move |((old, new), uses)| Finding {
            old,
            new,
            kind,
            repository: repository.map(str::to_owned),
            file: file.to_owned(),
            lines: uses.lines.into_iter().collect(),
            variables: uses.variables.into_iter().collect(),
            moved_by: uses.moved_by,
            satisfied: uses.satisfied,
        })
    }
}

/// What to call two atoms by: their names, and their slots where these differ.
pub(super) fn labels(old: &Atom, new: &Atom) -> (String, String) {
    let slots = old.slot().zip(new.slot()).filter(|(a, b)| a != b);
    match slots {
        None => (old.name().to_string(), new.name().to_string()),
        Some((a, b)) => (format!("{}:{a}", old.name()), format!("{}:{b}", new.name())),
    }
}

/// An atom at the beginning of a line of a list, with what may stand before it there: `-`
/// takes back what another list has, `*` is of profiles.
fn listed(line: &str) -> Option<(usize, Atom)> {
    let word = line.split_ascii_whitespace().next()?;
    let text = word.trim_start_matches(['-', '*']);
    let at = text.as_ptr() as usize - line.as_ptr() as usize;
    let atom = text.parse::<Atom>().ok();
    // Lists of what is provided have versions and no operators.
    let atom = atom.or_else(|| format!("={text}").parse().ok())?;
    Some((at, atom))
}

/// The old names in a list of atoms, one a line, and the list without them.
fn in_list(text: &str, known: Known<'_>) -> (Names, String) {
    let mut names = Names::default();
    let mut new = String::with_capacity(text.len());
    for (n, line) in text.split_inclusive('\n').enumerate() {
        let found = listed(line).and_then(|(at, atom)| Some((at, known.replace(&atom)?, atom)));
        let Some((at, replacement, atom)) = found else {
            new.push_str(line);
            continue;
        };
        names.add(&atom, &replacement, Some(n + 1), None);
        let word = line[at..].split_ascii_whitespace().next().unwrap_or("");
        let written = replacement.atom.to_string();
        let written = match word.starts_with('=') {
            true => written.as_str(),
            false => written.trim_start_matches('='),
        };
        new.push_str(&line[..at]);
        new.push_str(written);
        new.push_str(&line[at + word.len()..]);
    }
    (names, new)
}
