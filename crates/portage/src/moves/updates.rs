//! The lines of a repository's `profiles/updates`: PMS 4.4.4.
//!
//! PMS leaves the order of the files open; lines of one file ascend. Here the files named
//! after a quarter come in the order of time, and then the others by name.

use std::fmt::{self, Display};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::atom::{Atom, QualifiedName, SlotDep, is_slot};
use crate::files::{self, Links};

/// Where the files lie in a repository.
pub const UPDATES: &str = "profiles/updates";

/// What an update says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `move OLD NEW`: a package has another name.
    Move {
        /// The name it had.
        old: QualifiedName,
        /// The name it has.
        new: QualifiedName,
    },
    /// `slotmove SPEC OLD NEW`: packages that match have another slot.
    Slot {
        /// Which ones.
        spec: Atom,
        /// The slot they had.
        old: String,
        /// The slot they have.
        new: String,
    },
}

/// A place in a file: `FILE:LINE`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The path.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// One line of a file of updates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// What it says.
    pub command: Command,
    /// Where it says so.
    pub place: Place,
}

/// A line that is no update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// Where it is.
    pub place: Place,
    /// What is wrong.
    pub why: String,
}

impl Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.why)
    }
}

impl std::error::Error for Malformed {}

/// What files of updates hold. A line that is wrong spoils no other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Updates {
    /// The lines, in order.
    pub updates: Vec<Update>,
    /// The lines that are none.
    pub malformed: Vec<Malformed>,
    /// Files that are not read, and why, a sentence each.
    pub unread: Vec<String>,
}

impl Updates {
    /// Add the lines of a file with this path.
    pub fn parse(&mut self, file: &str, text: &str) {
        for (at, line) in text.lines().enumerate() {
            let place = || Place {
                file: file.to_owned(),
                line: at + 1,
            };
            match command(line) {
                Ok(None) => {}
                Ok(Some(command)) => {
                    let place = place();
                    self.updates.push(Update { command, place });
                }
                Err(why) => {
                    let place = place();
                    self.malformed.push(Malformed { place, why });
                }
            }
        }
    }

    /// Add those of another repository.
    pub fn append(&mut self, mut other: Self) {
        self.updates.append(&mut other.updates);
        self.malformed.append(&mut other.malformed);
        self.unread.append(&mut other.unread);
    }
}

/// What a line says; nothing if it is blank.
fn command(line: &str) -> Result<Option<Command>, String> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let command = match words.as_slice() {
        [] => return Ok(None),
        ["move", old, new] => Command::Move {
            old: name(old)?,
            new: name(new)?,
        },
        ["slotmove", spec, old, new] => Command::Slot {
            spec: spec_of_slotmove(spec)?,
            old: slot(old)?,
            new: slot(new)?,
        },
        ["move", ..] => return Err("it is not: move OLD NEW".to_owned()),
        ["slotmove", ..] => return Err("it is not: slotmove SPEC OLDSLOT NEWSLOT".to_owned()),
        [other, ..] => return Err(format!("{other:?} is neither move nor slotmove")),
    };
    Ok(Some(command))
}

fn name(text: &str) -> Result<QualifiedName, String> {
    text.parse::<QualifiedName>().map_err(|e| e.to_string())
}

/// An atom with a name, versions and at most a plain slot.
fn spec_of_slotmove(text: &str) -> Result<Atom, String> {
    let spec: Atom = text
        .parse()
        .map_err(|e: super::atom::NoAtom| e.to_string())?;
    let slot_is_plain = match spec.slot_dep() {
        None => true,
        Some(SlotDep::Named { subslot, bound, .. }) => subslot.is_none() && !bound,
        Some(_) => false,
    };
    let plain = spec.blocker().is_none() && spec.use_deps().is_empty() && slot_is_plain;
    match plain {
        true => Ok(spec),
        false => Err(format!("{text:?} names no range of versions")),
    }
}

/// A slot. A sub-slot may not be named (PMS 4.4.4).
fn slot(text: &str) -> Result<String, String> {
    match is_slot(text) {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is no slot")),
    }
}

/// The year and the quarter in the name of a file, `[1-4]Q-YYYY`.
fn quarter(name: &str) -> Option<(u16, u8)> {
    let (quarter, year) = name.split_once("Q-")?;
    let quarter = quarter.parse().ok().filter(|q| (1..=4).contains(q))?;
    let digits = year.len() == 4 && year.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| Some((year.parse().ok()?, quarter)))?
}

/// Has every file a name after a quarter (PMS table 4.2)? Else, every regular file counts
/// whose name does not begin with a dot.
fn only_quarters(eapi: &str) -> bool {
    matches!(eapi, "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7")
}

/// The order of files.
fn order(name: &str) -> impl Ord + use<> {
    let quarter = quarter(name);
    (quarter.is_none(), quarter, name.to_owned())
}

/// Read the updates of the repository that is open here. `eapi` is that of its profiles
/// directory, and `shown` the path of the repository in messages.
pub(super) fn load(repository: &OwnedFd, eapi: &str, shown: &Path) -> io::Result<Updates> {
    let mut found = Updates::default();
    let Some(dir) = files::subdir(repository, Path::new(UPDATES), Links::InRoot)? else {
        return Ok(found);
    };
    let mut names: Vec<String> = files::entries(&dir)?
        .into_iter()
        .filter(|(name, is_dir)| !is_dir && !name.starts_with('.'))
        .map(|(name, _)| name)
        .collect();
    names.sort_by_key(|name| order(name));
    for name in names {
        let path = shown.join(UPDATES).join(&name).display().to_string();
        if only_quarters(eapi) && quarter(&name).is_none() {
            let sentence = format!("{path}: in EAPI {eapi} it would be named [1-4]Q-YYYY");
            found.unread.push(sentence);
            continue;
        }
        match files::read(&dir, Path::new(&name), Links::No) {
            Ok(Some(text)) => found.parse(&path, &String::from_utf8_lossy(&text)),
            Ok(None) => {}
            Err(e) => found.unread.push(format!("{path}: {e}")),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Updates {
        let mut updates = Updates::default();
        updates.parse("1Q-2026", text);
        updates
    }

    #[test]
    fn lines() {
        let found = parse(
            "move a/b c/d\n\n slotmove\t=a/b-1*  0 1 \nmove a/b\nslotmove !a/b 0 1\n\
             slotmove a/b 0/1 2\n# no comment\nmove =a/b-1 c/d\nmove a/b-1 c/d\n\
             slotmove a/b[x] 0 1\nslotmove a/b:= 0 1\nslotmove a/b 0\nslotmove a/b:0 0 1\n",
        );
        assert_eq!(found.updates.len(), 3, "{found:?}");
        assert_eq!(found.updates[1].place.to_string(), "1Q-2026:3");
        let errors: Vec<_> = found.malformed.iter().map(Malformed::to_string).collect();
        assert_eq!(
            errors,
            [
                "1Q-2026:4: it is not: move OLD NEW",
                "1Q-2026:5: \"!a/b\" names no range of versions",
                "1Q-2026:6: \"0/1\" is no slot",
                "1Q-2026:7: \"#\" is neither move nor slotmove",
                "1Q-2026:8: \"=a/b-1\": it is not CATEGORY/NAME",
                "1Q-2026:9: \"a/b-1\": it is not CATEGORY/NAME",
                "1Q-2026:10: \"a/b[x]\" names no range of versions",
                "1Q-2026:11: \"a/b:=\" names no range of versions",
                "1Q-2026:12: it is not: slotmove SPEC OLDSLOT NEWSLOT",
            ]
        );
    }

    #[test]
    fn files_come_in_the_order_of_time() {
        let mut names = ["zz", "2Q-2020", "aa", "1Q-2021", "4Q-2019", "5Q-2020"];
        names.sort_by_key(|name| order(name));
        assert_eq!(
            names,
            ["4Q-2019", "2Q-2020", "1Q-2021", "5Q-2020", "aa", "zz"]
        );
        for name in ["0Q-2020", "1Q-20", "1q-2020", "1Q-+202", "11Q-2020"] {
            assert_eq!(quarter(name), None, "{name}");
        }
    }

    #[test]
    fn which_files_count_depends_on_the_eapi() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join(UPDATES);
        std::fs::create_dir_all(dir.join("directory")).unwrap();
        for (name, line) in [
            ("3Q-2020", "move a/a a/b"),
            ("mine", "move b/a b/b"),
            (".hidden", "move c/a c/b"),
        ] {
            std::fs::write(dir.join(name), line).unwrap();
        }
        let repository = files::open_trusted(tmp.path()).unwrap();
        let count = |eapi| {
            let found = load(&repository, eapi, Path::new("/r")).unwrap();
            (found.updates.len(), found.unread)
        };
        let unread = "/r/profiles/updates/mine: in EAPI 7 it would be named [1-4]Q-YYYY";
        assert_eq!(count("7"), (1, vec![unread.to_owned()]));
        assert_eq!(count("8"), (2, vec![]));
        assert_eq!(count("9"), (2, vec![]));
    }
}
