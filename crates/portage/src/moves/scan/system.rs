//! Old names in the settings and the packages of a system.

use std::path::Path;

use anyhow::{Context, Result};

use super::{Kind, Known, Names, Scan, in_list, labels};
use crate::files;
use crate::moves::atom::Atom;
use crate::moves::cache::{VARIABLES, change};
use crate::moves::map::{Moves, Parent, Replacement};
use crate::moves::packages::Stock;
use crate::moves::tree::Tree;
use crate::vdb;
use crate::version::split_pf;

/// Where a system's settings are.
const CONFIG: &str = "etc/portage";

/// What below [`CONFIG`] has atoms at the beginning of lines (portage(5)); files, or
/// directories of them.
const LISTS: [&str; 14] = [
    "package.accept_keywords",
    "package.accept_restrict",
    "package.bashrc",
    "package.env",
    "package.keywords",
    "package.license",
    "package.mask",
    "package.properties",
    "package.unmask",
    "package.use",
    "package.use.force",
    "package.use.mask",
    "package.use.stable",
    "profile",
];

/// Directories that are named after packages.
const BY_NAME: [&str; 2] = ["env", "patches"];

/// What a person asked for.
const WORLD: [&str; 2] = ["var/lib/portage/world", "etc/portage/sets"];

/// The same, of which Portage changes nothing itself.
const SETS: &str = "sets";

/// Find what is in the system whose root directory is `root`.
pub(super) fn scan(root: &Path, known: Known<'_>, scan: &mut Scan) -> Result<()> {
    let what = || format!("cannot search {}", root.display());
    let system = Tree(files::open_trusted(root).with_context(what)?);
    for list in LISTS {
        lists(
            &system,
            &format!("{CONFIG}/{list}"),
            Kind::Config,
            known,
            scan,
        )
        .with_context(what)?;
    }
    for list in WORLD {
        lists(&system, list, Kind::World, known, scan).with_context(what)?;
    }
    for directory in BY_NAME {
        named(&system, directory, known, scan).with_context(what)?;
    }
    installed(root, known, scan)
}

fn lists(
    system: &Tree,
    path: &str,
    kind: Kind,
    known: Known<'_>,
    scan: &mut Scan,
) -> std::io::Result<()> {
    for file in system.files(path)? {
        match system.text(&file) {
            Ok(text) => {
                let (names, _) = in_list(&text.unwrap_or_default(), known);
                let path = format!("/{file}");
                let findings = names.into_findings(kind, None, &path);
                scan.findings.extend(findings);
            }
            Err(e) => scan.unseen.push(format!("/{file}: {e}")),
        }
    }
    Ok(())
}

/// What lies in such a directory under an old name.
fn named(system: &Tree, directory: &str, known: Known<'_>, scan: &mut Scan) -> std::io::Result<()> {
    for (path, atom, new) in by_name(system, directory, known)? {
        let mut names = Names::default();
        names.add(&atom, &new, None, None);
        let path = format!("/{path}");
        let findings = names.into_findings(Kind::Config, None, &path);
        scan.findings.extend(findings);
    }
    Ok(())
}

/// Directories and files `CATEGORY/NAME`, with `-VERSION` or `:SLOT` behind it, that have an
/// old name; what each stands for, and what should.
fn by_name<'a>(
    system: &Tree,
    directory: &str,
    known: Known<'a>,
) -> std::io::Result<Vec<(String, Atom, Replacement<'a>)>> {
    let mut found = Vec::new();
    let top = format!("{CONFIG}/{directory}");
    for (category, is_dir) in system.entries(&top)? {
        if !is_dir {
            continue;
        }
        for (entry, _) in system.entries(&format!("{top}/{category}"))? {
            let (pf, slot) = entry
                .split_once(':')
                .map_or((&*entry, ""), |(pf, s)| (pf, s));
            let operator = if split_pf(pf).is_some() { "=" } else { "" };
            let colon = if slot.is_empty() { "" } else { ":" };
            let atom = format!("{operator}{category}/{pf}{colon}{slot}").parse();
            let Ok(atom) = atom else { continue };
            if let Some(new) = known.replace(&atom) {
                found.push((format!("{top}/{category}/{entry}"), atom, new));
            }
        }
    }
    Ok(found)
}

/// What below /etc/portage is to be another, for a system to go by new names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mend {
    /// Where it is, from the root of the system.
    pub path: String,
    /// What becomes of it.
    pub change: Change,
    /// The old names, or names and slots, and the new ones.
    pub names: Vec<(String, String)>,
}

/// What becomes of a file or a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It has this text.
    Text(String),
    /// It is at this path, from the root of the system.
    Rename(String),
}

/// What would mend the settings below /etc/portage of the system whose root directory is
/// `root`; nothing is written. What cannot be read is left out.
///
/// # Errors
/// A directory cannot be listed.
pub fn mends(root: &Path, moves: &Moves, stock: &Stock<'_>) -> Result<Vec<Mend>> {
    let known = Known { moves, stock };
    let what = || format!("cannot search {}", root.display());
    let system = Tree(files::open_trusted(root).with_context(what)?);
    let mut found = Vec::new();
    for list in LISTS.into_iter().chain([SETS]) {
        for path in system
            .files(&format!("{CONFIG}/{list}"))
            .with_context(what)?
        {
            let Ok(Some(text)) = system.text(&path) else {
                continue;
            };
            let (names, new) = in_list(&text, known);
            if new != text {
                let change = Change::Text(new);
                let names = names.0.into_keys().collect();
                found.push(Mend {
                    path,
                    change,
                    names,
                });
            }
        }
    }
    for directory in BY_NAME {
        for (path, old, new) in by_name(&system, directory, known).with_context(what)? {
            let names = vec![labels(&old, &new.atom)];
            let to = new.atom.to_string();
            let to = to.trim_start_matches('=');
            let change = Change::Rename(format!("{CONFIG}/{directory}/{to}"));
            found.push(Mend {
                path,
                change,
                names,
            });
        }
    }
    Ok(found)
}

fn installed(root: &Path, known: Known<'_>, scan: &mut Scan) -> Result<()> {
    let found = vdb::load_fields(root, &VARIABLES)?;
    let unread = found.invalid.iter();
    scan.unseen
        .extend(unread.map(|why| format!("an installed package, {why}")));
    for (package, values) in found.packages {
        let mut names = Names::default();
        let name = package.cp();
        let parent = Parent {
            name: &name,
            version: &package.version,
            slot: Some(&package.slot),
        };
        if let Ok(own) = name.parse()
            && let Some(new) = known.replace(&own)
        {
            names.add(&own, &new, None, None);
        }
        let Known { moves, stock } = known;
        for (variable, value) in VARIABLES.into_iter().zip(&values) {
            let words = value.iter().flat_map(|value| value.split(' '));
            for change in words.filter_map(|word| change(variable, word, parent, moves, stock)) {
                if let Ok(old) = change.old.parse() {
                    names.add(&old, &change.new, None, Some(variable));
                }
            }
        }
        let path = format!("/var/db/pkg/{}", package.cpv());
        let findings = names.into_findings(Kind::Installed, package.repository.as_deref(), &path);
        scan.findings.extend(findings);
    }
    Ok(())
}
