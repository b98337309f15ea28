//! What must hold for any text: for the fuzz targets, and for the plain test of the corpus.

use be_portage::moves::atom::{Atom, name_in};
use be_portage::moves::depend::{Depend, rewrite};
use be_portage::moves::map::{Moves, Packages};
use be_portage::moves::updates::{Command, Updates};

/// More names than this are not followed: one run is to be short.
const FOLLOWED: usize = 50;

/// A file of updates is read or named line by line, and no name is followed for ever.
pub fn updates(text: &str) {
    let mut found = Updates::default();
    found.parse("1Q-2026", text);
    let lines = text.lines().filter(|line| !line.trim_ascii().is_empty());
    assert_eq!(found.updates.len() + found.malformed.len(), lines.count());
    for update in &found.updates {
        let line = match &update.command {
            Command::Move { old, new } => format!("move {old} {new}"),
            Command::Slot { spec, old, new } => format!("slotmove {spec} {old} {new}"),
        };
        let source = text.lines().nth(update.place.line - 1).unwrap_or_default();
        let words: Vec<_> = source.split_ascii_whitespace().collect();
        assert_eq!(words.join(" "), line);
    }
    let moves = Moves::new(found.updates.clone());
    for update in found.updates.iter().take(FOLLOWED) {
        if let Command::Move { old, new } = &update.command {
            let way = moves.follow(old.as_str(), |name| name == new.as_str());
            assert_eq!(way.is_some(), old != new);
            assert_eq!(moves.follow(old.as_str(), |_| false), None);
        }
    }
}

/// `a/new` is all there is.
struct Small;

impl Packages for Small {
    fn have(&self, name: &str) -> bool {
        name == "a/new"
    }

    fn match_atom(&self, atom: &Atom) -> Option<bool> {
        Some(atom.name().as_str() == "a/new" && atom.slot().is_none_or(|slot| slot == "1"))
    }
}

/// An atom reads as it was written; a dependency string changes in its atoms alone, once.
pub fn depend(text: &str) {
    for word in text.split_ascii_whitespace() {
        let name = name_in(word);
        if let Ok(atom) = word.parse::<Atom>() {
            assert_eq!(atom.to_string(), word);
            assert_eq!(name, Some(atom.name().as_str()));
        }
    }
    let mut updates = Updates::default();
    updates.parse(
        "1Q-2026",
        "move a/old a/mid\nmove a/mid a/new\nslotmove a/new 0 1\n",
    );
    let moves = Moves::new(updates.updates);
    let replace = |word: &str| {
        let new = moves.replace(&word.parse().ok()?, None, &Small)?;
        Some(new.atom.to_string())
    };
    let Ok(Some(new)) = rewrite(text, replace) else {
        return;
    };
    assert_eq!(rewrite(&new, replace), Ok(None));
    let (old, structure) = (Depend::parse(text), Depend::parse(&new));
    let groups = |depend: Result<Depend, _>| depend.map(|depend| depend.groups);
    assert_eq!(groups(old), groups(structure));
    if !text.contains("||") {
        let blanks =
            |text: &str| -> String { text.chars().filter(char::is_ascii_whitespace).collect() };
        assert_eq!(blanks(text), blanks(&new));
        let words = text
            .split_ascii_whitespace()
            .zip(new.split_ascii_whitespace());
        for (old, new) in words {
            assert!(old == new || replace(old).as_deref() == Some(new));
        }
    }
}
