use super::*;
use crate::moves::updates::Updates;

/// Packages, `category/name-version slot` each.
struct Have(Vec<(Atom, String, String)>);

impl Have {
    fn of(list: &[&str]) -> Self {
        let packages = list.iter().map(|line| {
            let (cpv, slot) = line.split_once(' ').unwrap_or((line, "0"));
            let (name, version) = crate::moves::cache::split_name(cpv).unwrap();
            (name.parse().unwrap(), version.to_owned(), slot.to_owned())
        });
        Have(packages.collect())
    }
}

impl Packages for Have {
    fn have(&self, name: &str) -> bool {
        self.0
            .iter()
            .any(|(atom, _, _)| atom.name().as_str() == name)
    }

    fn match_atom(&self, atom: &Atom) -> Option<bool> {
        Some(self.0.iter().any(|(have, version, slot)| {
            have.name() == atom.name()
                && atom.versions().contain(version)
                && atom.slot().is_none_or(|wanted| wanted == slot)
        }))
    }
}

fn moves(text: &str) -> Moves {
    let mut updates = Updates::default();
    updates.parse("f", text);
    assert_eq!(updates.malformed, []);
    Moves::new(updates.updates)
}

/// What an atom becomes, and the lines by which it does.
fn becomes(moves: &Moves, have: &Have, atom: &str) -> Option<(String, Vec<usize>, bool)> {
    let new = moves.replace(&atom.parse().unwrap(), None, have)?;
    let lines = new.by.iter().map(|update| update.place.line).collect();
    Some((new.atom.to_string(), lines, new.satisfied))
}

fn check(text: &str, have: &[&str], cases: &[(&str, &str)]) {
    let (moves, have) = (moves(text), Have::of(have));
    for (old, new) in cases {
        let became = becomes(&moves, &have, old);
        let became = became.as_ref().map_or(*old, |(atom, _, _)| atom);
        assert_eq!(became, *new, "{old}");
    }
}

#[test]
fn names_are_followed_to_the_first_that_is_there() {
    let chain = "move a/3 a/4\nmove a/1 a/2\nmove a/2 a/3\n";
    check(
        chain,
        &["a/4-1"],
        &[
            ("a/1", "a/4"),
            (">=a/2-1:0=[x]", ">=a/4-1:0=[x]"),
            ("a/3", "a/4"),
            ("a/4", "a/4"),
            ("a/1-x", "a/1-x"),
        ],
    );
    let found = becomes(&moves(chain), &Have::of(&["a/4-1"]), "a/1").unwrap();
    assert_eq!(found.1, [2, 3, 1]);
    // A name on the way came back.
    check(
        chain,
        &["a/4-1", "a/3-1"],
        &[("a/1", "a/3"), ("a/3", "a/3")],
    );
    // Nothing is there at the end.
    check(chain, &["a/1-1"], &[("a/1", "a/1"), ("a/2", "a/2")]);
}

#[test]
fn cycles_end_where_a_package_is() {
    let cycle = "move a/1 a/2\nmove a/2 a/3\nmove a/3 a/1\nmove b/1 b/1\n";
    check(
        cycle,
        &["a/1-1"],
        &[("a/1", "a/1"), ("a/2", "a/1"), ("a/3", "a/1")],
    );
    check(cycle, &["a/2-1"], &[("a/1", "a/2"), ("a/3", "a/2")]);
    check(cycle, &["x/y-1"], &[("a/1", "a/1"), ("b/1", "b/1")]);
}

#[test]
fn of_two_moves_the_newer_counts_if_it_leads_anywhere() {
    let twice = "move a/1 a/2\nmove a/1 a/3\n";
    check(twice, &["a/2-1", "a/3-1"], &[("a/1", "a/3")]);
    check(twice, &["a/2-1"], &[("a/1", "a/2")]);
}

#[test]
fn a_dependency_is_satisfied_or_the_name_alone_is_wrong() {
    let (moves, have) = (moves("move a/1 a/2\n"), Have::of(&["a/2-3 1"]));
    let satisfied = |atom| becomes(&moves, &have, atom).map(|(_, _, satisfied)| satisfied);
    assert_eq!(satisfied(">=a/1-3:1"), Some(true));
    assert_eq!(satisfied(">a/1-3"), Some(false));
    assert_eq!(satisfied("a/1:2"), Some(false));
    assert_eq!(satisfied("!>a/1-3"), Some(true));
}

#[test]
fn a_slot_moves_for_atoms_that_mean_nothing_else() {
    let text = "slotmove =a/foo-2* 0 2\n";
    check(
        text,
        &["a/foo-2.1 2", "a/foo-3 3"],
        &[
            // The range is larger: it may mean what was not moved.
            (">=a/foo-1:0", ">=a/foo-1:0"),
            ("a/foo:0", "a/foo:0"),
            ("<a/foo-3:0", "<a/foo-3:0"),
            // This one cannot.
            ("=a/foo-2*:0", "=a/foo-2*:2"),
            ("=a/foo-2.1:0=", "=a/foo-2.1:2="),
            ("~a/foo-2.1:0/0", "~a/foo-2.1:2/2"),
            // It names another slot, or none.
            ("=a/foo-2*:3", "=a/foo-2*:3"),
            ("=a/foo-2*", "=a/foo-2*"),
            ("=a/foo-2*:=", "=a/foo-2*:="),
            // Nothing is there.
            ("=a/foo-2.9:0", "=a/foo-2.9:0"),
        ],
    );
    // It still matches where it is.
    check(
        text,
        &["a/foo-2.1 2", "a/foo-2.0 0"],
        &[("=a/foo-2*:0", "=a/foo-2*:0")],
    );
}

#[test]
fn slots_are_followed_like_names() {
    let text = "slotmove a/foo 0 1\nslotmove a/foo 1 2\nslotmove a/foo 2 0\n";
    check(
        text,
        &["a/foo-1 2"],
        &[("a/foo:0", "a/foo:2"), ("a/foo:1", "a/foo:2")],
    );
    check(
        text,
        &["a/foo-1 0"],
        &[("a/foo:0", "a/foo:0"), ("a/foo:1", "a/foo:0")],
    );
    check(text, &["a/foo-1 9"], &[("a/foo:0", "a/foo:0")]);
}

#[test]
fn first_the_name_then_the_slot() {
    // As in 3Q-2021: the slot is moved under the new name.
    let text = "move p/soup p/soup4\nslotmove p/soup4 4 0\nslotmove p/other 4 0\n";
    check(
        text,
        &["p/soup4-4.9 0"],
        &[
            ("p/soup:4", "p/soup4:0"),
            (">=p/soup-4.9:4[x]", ">=p/soup4-4.9:0[x]"),
            ("p/soup", "p/soup4"),
            ("!<p/soup-4:4", "!<p/soup4-4:0"),
        ],
    );
    // Under the old name, and the new one has a slot that fits already.
    let before = "slotmove p/soup 4 0\nmove p/soup p/soup4\n";
    check(before, &["p/soup4-4 0"], &[("p/soup:4", "p/soup4:0")]);
    check(before, &["p/soup4-4 4"], &[("p/soup:4", "p/soup4:4")]);
}

#[test]
fn a_blocker_never_blocks_its_own_package() {
    let moves = moves("move a/old a/new\nslotmove a/new 0 1\n");
    let have = Have::of(&["a/new-2 1"]);
    let blocks = |atom: &str, name, version, slot| {
        let parent = Parent {
            name,
            version,
            slot,
        };
        let new = moves.replace(&atom.parse().unwrap(), Some(parent), &have);
        new.map(|new| new.atom.to_string())
    };
    let none = None;
    assert_eq!(blocks("!a/old", "a/new", "2", none), None);
    assert_eq!(blocks("!!a/old", "a/new", "2", none), None);
    assert_eq!(
        blocks("!a/old", "b/c", "2", none).as_deref(),
        Some("!a/new")
    );
    assert_eq!(
        blocks("!<a/old-2", "a/new", "2", none).as_deref(),
        Some("!<a/new-2")
    );
    assert_eq!(blocks("!<a/old-3", "a/new", "2", none), None);
    assert_eq!(blocks("!a/old:0", "a/new", "2", Some("1")), None);
    assert_eq!(
        blocks("!a/old:0", "a/new", "2", Some("2")).as_deref(),
        Some("!a/new:1")
    );
    // A dependency on itself is no blocker.
    assert_eq!(
        blocks("a/old", "a/new", "2", none).as_deref(),
        Some("a/new")
    );
}

fn data(of: &str) -> Updates {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/updates");
    let dir = std::path::Path::new(dir).join(of);
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    let mut found = Updates::default();
    for path in names {
        let text = std::fs::read_to_string(&path).unwrap();
        found.parse(path.file_name().unwrap().to_str().unwrap(), &text);
    }
    found
}

fn old_and_new(update: &Update) -> Option<(&str, &str)> {
    match &update.command {
        Command::Move { old, new } => Some((old.as_str(), new.as_str())),
        Command::Slot { .. } => None,
    }
}

#[test]
fn all_that_gentoo_has_is_read() {
    let found = data("current");
    assert_eq!(found.malformed, []);
    let pairs: Vec<_> = found.updates.iter().filter_map(old_and_new).collect();
    assert_eq!((pairs.len(), found.updates.len()), (477, 532));
    let moves = Moves::new(found.updates.clone());
    let there: HashSet<_> = pairs.iter().map(|(_, new)| *new).collect();
    for (old, new) in pairs {
        // Each is one hop.
        let path = moves.follow(old, |name| there.contains(name)).unwrap();
        assert_eq!(path.len(), 1);
        assert_eq!(old_and_new(path[0]).unwrap().1, new);
    }
}

#[test]
fn all_that_gentoo_has_dropped_is_survived() {
    let mut found = data("dropped");
    assert_eq!(found.malformed, []);
    assert_eq!(found.updates.len(), 4440);
    found.append(data("current"));
    let moves = Moves::new(found.updates.clone());
    let names: Vec<_> = found.updates.iter().filter_map(old_and_new).collect();
    let old: HashSet<_> = names.iter().map(|(old, _)| *old).collect();
    let (mut longest, mut nowhere) = (0, 0);
    for (name, _) in &names {
        // Those are there that were never moved away.
        let there = |n: &str| !old.contains(n);
        match moves.follow(name, there) {
            Some(path) => longest = longest.max(path.len()),
            None => nowhere += 1,
        }
        // Nothing is there, and everything is there.
        assert_eq!(moves.follow(name, |_| false), None);
        assert_eq!(moves.follow(name, |_| true), None);
    }
    assert!(longest >= 3, "{longest}");
    assert!(nowhere > 20, "{nowhere}");
}

#[test]
fn a_long_chain_is_no_matter() {
    let text: String = (0..20_000)
        .map(|n| format!("move a/n{n}x a/n{}x\n", n + 1))
        .collect();
    let (moves, have) = (moves(&text), Have::of(&["a/n20000x-1"]));
    let found = becomes(&moves, &have, "a/n0x").unwrap();
    assert_eq!((found.0.as_str(), found.1.len()), ("a/n20000x", 20_000));
}

/// All that was not moved away, in every slot that was not.
struct AllElse<'a>(&'a [Update]);

impl Packages for AllElse<'_> {
    fn have(&self, name: &str) -> bool {
        let mut moves = self.0.iter().filter_map(old_and_new);
        moves.all(|(old, _)| old != name)
    }

    fn match_atom(&self, atom: &Atom) -> Option<bool> {
        let gone = self.0.iter().any(|update| match &update.command {
            Command::Slot { spec, old, .. } => {
                spec.name() == atom.name()
                    && *spec.versions() == Versions::All
                    && atom.slot() == Some(old)
            }
            Command::Move { .. } => false,
        });
        Some(!gone)
    }
}

#[test]
fn dependencies_become_what_portage_makes_of_them() {
    // Made by running Portage's own update_dbentry; the first line of the file says so.
    let lines = include_str!("../../../tests/data/moved.txt");
    let lines: Vec<&str> = lines.lines().skip(1).collect();
    let updates = data("current").updates;
    let (moves, packages) = (Moves::new(updates.clone()), AllElse(&updates));
    let mut changed = 0;
    for pair in lines.chunks(2) {
        let new = crate::moves::depend::rewrite(pair[0], |word| {
            let new = moves.replace(&word.parse().ok()?, None, &packages)?;
            Some(new.atom.to_string())
        });
        let new = new.unwrap();
        changed += usize::from(new.is_some());
        assert_eq!(new.as_deref().unwrap_or(pair[0]), pair[1], "{}", pair[0]);
    }
    assert!(changed > 100, "{changed}");
}
