//! What the repositories have, read only where it is asked for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::atom::Atom;
use super::map::Packages;
use super::repository::Repository;

/// One version of a package in one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    repository: usize,
    version: String,
    /// The slot and the sub-slot, if they are known.
    slot: Option<(String, String)>,
}

/// The packages of some repositories. What cannot be read is not there.
#[derive(Debug)]
pub struct Stock<'a> {
    repositories: &'a [Repository],
    known: RefCell<HashMap<String, Rc<[Version]>>>,
    slots: RefCell<HashMap<String, Rc<[Version]>>>,
}

impl<'a> Stock<'a> {
    /// Those of these repositories.
    #[must_use]
    pub fn new(repositories: &'a [Repository]) -> Self {
        Stock {
            repositories,
            known: RefCell::default(),
            slots: RefCell::default(),
        }
    }

    /// All versions of a package, without their slots.
    fn versions(&self, name: &str) -> Rc<[Version]> {
        if let Some(known) = self.known.borrow().get(name) {
            return Rc::clone(known);
        }
        let found: Rc<[Version]> = self
            .repositories
            .iter()
            .enumerate()
            .flat_map(|(repository, of)| {
                let versions = of.versions(name).unwrap_or_default().into_iter();
                versions.map(move |version| Version {
                    repository,
                    version,
                    slot: None,
                })
            })
            .collect();
        let mut known = self.known.borrow_mut();
        known.insert(name.to_owned(), Rc::clone(&found));
        found
    }

    /// All versions of a package.
    fn slotted(&self, name: &str) -> Rc<[Version]> {
        if let Some(known) = self.slots.borrow().get(name) {
            return Rc::clone(known);
        }
        let versions = self.versions(name);
        let slotted: Rc<[Version]> = versions
            .iter()
            .map(|v| Version {
                slot: slot(&self.repositories[v.repository], name, &v.version),
                ..v.clone()
            })
            .collect();
        let mut slots = self.slots.borrow_mut();
        slots.insert(name.to_owned(), Rc::clone(&slotted));
        slotted
    }
}

/// The slot of a version: by the cache, or by a line of the ebuild that computes nothing.
fn slot(repository: &Repository, name: &str, version: &str) -> Option<(String, String)> {
    let cached = repository.cached(&format!("{name}-{version}"));
    let cached = cached.ok().flatten();
    let line = cached.as_deref().and_then(|text| value(text, "SLOT"));
    if let Some(slot) = line {
        return Some(split(slot));
    }
    let (_, package) = name.split_once('/')?;
    let ebuild = repository
        .tree
        .text(&format!("{name}/{package}-{version}.ebuild"));
    let ebuild = ebuild.ok().flatten()?;
    let slot = value(&ebuild, "SLOT")?.trim_matches(['"', '\'']);
    let plain = slot.split('/').all(super::atom::is_slot);
    plain.then(|| split(slot))
}

/// The slot and the sub-slot, which is the slot where none is named (PMS 7.2).
fn split(slot: &str) -> (String, String) {
    let (slot, subslot) = slot.split_once('/').unwrap_or((slot, slot));
    (slot.to_owned(), subslot.to_owned())
}

/// The value of the only line `key=value`.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut lines = text.lines();
    let mut values = lines.by_ref().filter_map(|line| {
        let rest = line.trim_start().strip_prefix(key)?;
        rest.strip_prefix('=')
    });
    let only = values.next()?;
    values.next().is_none().then_some(only)
}

impl Packages for Stock<'_> {
    fn have(&self, name: &str) -> bool {
        !self.versions(name).is_empty()
    }

    fn match_atom(&self, atom: &Atom) -> Option<bool> {
        let name = atom.name().as_str();
        let all = match atom.slot() {
            Some(_) => self.slotted(name),
            None => self.versions(name),
        };
        let candidates = all.iter().filter(|v| {
            let named = atom.repository();
            atom.versions().contain(&v.version)
                && named.is_none_or(|named| self.repositories[v.repository].name == named)
        });
        let Some(wanted) = atom.slot() else {
            return Some(candidates.count() > 0);
        };
        let mut unknown = false;
        for version in candidates {
            match &version.slot {
                None => unknown = true,
                Some((slot, subslot)) => {
                    if slot == wanted && atom.subslot().is_none_or(|named| named == subslot) {
                        return Some(true);
                    }
                }
            }
        }
        (!unknown).then_some(false)
    }
}
