//! What became of a name or a slot, by all updates of all repositories together.
//!
//! Portage goes through the updates once, in the order that it finds them; a chain over two
//! files is then followed or not by luck. Here every name is followed to the first one that
//! some repository has: chains, cycles, a name that was given twice, and one that came back
//! all have an answer that does not depend on an order.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;

use super::atom::{Atom, QualifiedName};
use super::range::Versions;
use super::updates::{Command, Update};

/// What there is to be had in the repositories that are in use.
pub trait Packages {
    /// Does any of them have a package of this name?
    fn have(&self, name: &str) -> bool;

    /// Does any package match this atom, its USE dependencies apart? `None` if a slot that
    /// matters is not known.
    fn match_atom(&self, atom: &Atom) -> Option<bool>;
}

/// The package that a dependency belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Parent<'a> {
    /// `category/name`.
    pub name: &'a str,
    /// The version with its revision.
    pub version: &'a str,
    /// The slot, if it is known.
    pub slot: Option<&'a str>,
}

impl Parent<'_> {
    /// Could this atom mean the package itself?
    fn may_match(&self, atom: &Atom) -> bool {
        let slot = self.slot.zip(atom.slot());
        atom.name().as_str() == self.name
            && atom.versions().contain(self.version)
            && slot.is_none_or(|(own, named)| own == named)
    }
}

/// What takes the place of an atom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement<'a> {
    /// The new atom.
    pub atom: Atom,
    /// By which updates, in the order in which they are followed.
    pub by: Vec<&'a Update>,
    /// Whether some package matches it. Without one, the old name is wrong all the same,
    /// but the new one does not help. Always true of a blocker.
    pub satisfied: bool,
}

/// All updates.
#[derive(Debug, Clone, Default)]
pub struct Moves {
    updates: Vec<Update>,
    moves: HashMap<QualifiedName, Vec<usize>>,
    slots: HashMap<QualifiedName, Vec<usize>>,
}

impl Moves {
    /// All of these updates, older ones first.
    #[must_use]
    pub fn new(updates: Vec<Update>) -> Self {
        let mut moves: HashMap<_, Vec<_>> = HashMap::new();
        let mut slots: HashMap<_, Vec<_>> = HashMap::new();
        // The newest is tried first.
        for (at, update) in updates.iter().enumerate().rev() {
            match &update.command {
                Command::Move { old, .. } => moves.entry(old.clone()).or_default().push(at),
                Command::Slot { spec, .. } => {
                    slots.entry(spec.name().clone()).or_default().push(at);
                }
            }
        }
        Moves {
            updates,
            moves,
            slots,
        }
    }

    /// Whether any update is about this name: no other is worth a closer look.
    #[must_use]
    pub fn concern(&self, name: &str) -> bool {
        self.moves.contains_key(name) || self.slots.contains_key(name)
    }

    /// The names that were given up for others, each with the one that has taken its place.
    pub(super) fn renamed(&self, packages: &impl Packages) -> Vec<(&str, &str)> {
        let old = self.moves.keys().map(QualifiedName::as_str);
        let both = old.filter_map(|name| {
            let way = self.follow(name, |name| packages.have(name))?;
            match &way.last()?.command {
                Command::Move { new, .. } => Some((name, new.as_str())),
                Command::Slot { .. } => None,
            }
        });
        both.collect()
    }

    /// Whether any update has an effect, given these packages. Where none has, no
    /// dependency is worth a look.
    #[must_use]
    pub fn matter(&self, packages: &impl Packages) -> bool {
        let mut moved = self.moves.keys().map(QualifiedName::as_str);
        let mut slots = self.slots.keys().map(QualifiedName::as_str);
        moved.any(|name| self.follow(name, |name| packages.have(name)).is_some())
            || slots.any(|name| packages.have(name))
    }

    /// Those of these updates that are about this name, the newest first.
    fn about<'a>(
        &'a self,
        which: &'a HashMap<QualifiedName, Vec<usize>>,
        name: &str,
    ) -> impl Iterator<Item = &'a Update> + use<'a> {
        let found = which.get(name).into_iter().flatten();
        found.map(|at| &self.updates[*at])
    }

    /// Follow a name that no repository has to the first one that some repository has, and
    /// name the updates on the way. `None` if there is nothing to follow or to arrive at.
    pub fn follow(&self, name: &str, have: impl Fn(&str) -> bool) -> Option<Vec<&Update>> {
        if !self.moves.contains_key(name) || have(name) {
            return None;
        }
        let onward = |from: &&str| {
            let moves = self.about(&self.moves, from);
            moves.filter_map(|update| match &update.command {
                Command::Move { new, .. } => Some((new.as_str(), update)),
                Command::Slot { .. } => None,
            })
        };
        search(name, onward, have)
    }

    /// What should stand in the place of this atom, in a dependency of `parent` or anywhere;
    /// `None` if it is right as it is, or if there is nothing better.
    ///
    /// An atom is left alone while a repository has its name, and while anything matches it.
    /// A slot changes only if all versions that the atom leaves are among those that were
    /// moved. A blocker never comes to block its own package.
    pub fn replace(
        &self,
        atom: &Atom,
        parent: Option<Parent<'_>>,
        packages: &impl Packages,
    ) -> Option<Replacement<'_>> {
        let old = atom.name().as_str();
        if !self.concern(old) {
            return None;
        }
        let mut by = self.follow(old, |name| packages.have(name));
        let moved = match by.as_ref().and_then(|path| path.last()) {
            Some(last) => renamed(atom, last),
            None if !packages.have(old) => return None,
            None => atom.clone(),
        };
        let by = by.get_or_insert_default();
        let mut satisfied = good(&moved, packages);
        let mut new = moved.clone();
        if satisfied == Some(false)
            && let Some(slots) = self.follow_slot(&moved, old, by, packages)
        {
            new = with_last_slot(&moved, &slots);
            satisfied = Some(true);
            by.extend(slots);
        }
        let blocks_itself = atom.blocker().is_some() && parent.is_some_and(|p| p.may_match(&new));
        (new != *atom && !blocks_itself).then(|| Replacement {
            atom: new,
            by: std::mem::take(by),
            satisfied: atom.blocker().is_some() || satisfied == Some(true),
        })
    }

    /// Follow the slot of an atom to the first one in which something matches.
    fn follow_slot(
        &self,
        atom: &Atom,
        old: &str,
        path: &[&Update],
        packages: &impl Packages,
    ) -> Option<Vec<&Update>> {
        let names: Vec<&str> = std::iter::once(old)
            .chain(path.iter().filter_map(|update| match &update.command {
                Command::Move { new, .. } => Some(new.as_str()),
                Command::Slot { .. } => None,
            }))
            .collect();
        let onward = |from: &&str| {
            let from = *from;
            // The newest name first.
            let updates = names.iter().rev();
            let updates = updates.flat_map(|name| self.about(&self.slots, name));
            let next = updates.filter_map(move |update| match &update.command {
                Command::Slot { spec, old, new }
                    if old == from
                        && spec.slot().is_none_or(|slot| slot == from)
                        && covers(spec, atom) =>
                {
                    Some((new.as_str(), update))
                }
                _ => None,
            });
            next.collect::<Vec<_>>().into_iter()
        };
        search(atom.slot()?, onward, |slot| {
            good(&atom.with_slot(slot), packages) == Some(true)
        })
    }
}

/// Whether all that an atom may mean was moved by a `slotmove` with this range.
fn covers(spec: &Atom, atom: &Atom) -> bool {
    let repository = spec.repository();
    atom.versions().within(spec.versions())
        && (repository.is_none() || repository == atom.repository())
}

fn renamed(atom: &Atom, update: &Update) -> Atom {
    match &update.command {
        Command::Move { new, .. } => atom.with_name(new),
        Command::Slot { .. } => atom.clone(),
    }
}

fn with_last_slot(atom: &Atom, path: &[&Update]) -> Atom {
    match path.last().map(|update| &update.command) {
        Some(Command::Slot { new, .. }) => atom.with_slot(new),
        _ => atom.clone(),
    }
}

/// Is this what a dependency should say? Of what is blocked, there need be none any more:
/// only its slot must be one that exists.
fn good(atom: &Atom, packages: &impl Packages) -> Option<bool> {
    match atom.blocker() {
        None => packages.match_atom(atom),
        Some(_) => packages.match_atom(&atom.with_versions(Versions::All)),
    }
}

/// The shortest way from one place to another that is wanted; every place is visited once.
fn search<'a, T, I, Next>(
    from: T,
    onward: impl Fn(&T) -> Next,
    wanted: impl Fn(T) -> bool,
) -> Option<Vec<I>>
where
    T: Copy + Eq + Hash + 'a,
    I: Copy,
    Next: Iterator<Item = (T, I)>,
{
    let mut visited = HashSet::from([from]);
    let mut came = Vec::new();
    let mut todo = VecDeque::from([(from, None)]);
    while let Some((place, by)) = todo.pop_front() {
        for (next, step) in onward(&place) {
            if !visited.insert(next) {
                continue;
            }
            came.push((step, by));
            let by = Some(came.len() - 1);
            if wanted(next) {
                return Some(way(&came, by));
            }
            todo.push_back((next, by));
        }
    }
    None
}

/// The steps to a place.
fn way<I: Copy>(came: &[(I, Option<usize>)], mut by: Option<usize>) -> Vec<I> {
    let mut steps = Vec::new();
    while let Some((step, before)) = by.map(|at| came[at]) {
        steps.push(step);
        by = before;
    }
    steps.reverse();
    steps
}

#[cfg(test)]
mod tests;
