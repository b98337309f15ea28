//! Which paths a stream has written to, by the names that they have in the end.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::ops::Bound;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::Command;

/// The paths that were made or changed by the commands so far, and are there. Both sides of a
/// stream come to the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// As bytes: what lies in a directory follows it in one piece, from `dir/` to `dir0`.
    paths: BTreeSet<Vec<u8>>,
}

impl Touched {
    /// Takes note of a command that is carried out.
    pub fn note(&mut self, command: &Command<'_>) {
        match *command {
            Command::Subvolume { .. } | Command::Snapshot { .. } | Command::End => {}
            Command::MakeFile(path)
            | Command::MakeDir(path)
            | Command::MakeNode { path, .. }
            | Command::Symlink { path, .. }
            | Command::Link { path, .. } => {
                self.add(path);
                self.add_parent(path);
            }
            Command::Rename { from, to } => {
                self.add_parent(from);
                self.rename(from, to);
                self.add_parent(to);
            }
            Command::Unlink(path) | Command::RemoveDir(path) => {
                self.take(path);
                self.add_parent(path);
            }
            Command::SetXattr { path, .. }
            | Command::RemoveXattr { path, .. }
            | Command::Write { path, .. }
            | Command::Clone { path, .. }
            | Command::Truncate { path, .. }
            | Command::Chmod { path, .. }
            | Command::Chown { path, .. }
            | Command::Times { path, .. } => self.add(path),
        }
    }

    /// All of them, from the root of the subvolume, in one order.
    pub fn into_paths(self) -> impl Iterator<Item = PathBuf> {
        let paths = self.paths.into_iter();
        paths.map(|path| PathBuf::from(OsString::from_vec(path)))
    }

    /// Names in the root directory as the kernel gives them to what has no other name for a
    /// while, `oINODE-GENERATION-NUMBER` (`gen_unique_name` of `fs/btrfs/send.c`).
    pub fn orphans(&self) -> impl Iterator<Item = &Path> {
        let number = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
        let orphan = move |path: &[u8]| {
            let rest = path.strip_prefix(b"o").unwrap_or_default();
            let parts: Vec<_> = rest.split(|b| *b == b'-').collect();
            parts.len() == 3 && parts.into_iter().all(number)
        };
        let all = self.paths.iter().filter(move |path| orphan(path));
        all.map(|path| Path::new(OsStr::from_bytes(path)))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    fn add(&mut self, path: &Path) {
        let path = path.as_os_str().as_bytes();
        if !self.paths.contains(path) {
            self.paths.insert(path.to_vec());
        }
    }

    fn add_parent(&mut self, path: &Path) {
        if let Some(parent) = path.parent() {
            self.add(parent);
        }
    }

    /// Take out a path and all that lies below it.
    fn take(&mut self, path: &Path) -> Vec<Vec<u8>> {
        let path = path.as_os_str().as_bytes();
        let (from, to) = ([path, b"/"].concat(), [path, b"0"].concat());
        let range = (Bound::Included(from), Bound::Excluded(to));
        let mut taken: Vec<_> = self.paths.range(range).cloned().collect();
        taken.push(path.to_vec());
        for path in &taken {
            self.paths.remove(path);
        }
        taken
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        // What is replaced is gone.
        self.take(to);
        let length = from.as_os_str().len();
        for path in self.take(from) {
            let to = [to.as_os_str().as_bytes(), &path[length..]].concat();
            self.paths.insert(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(commands: &[Command<'_>]) -> Vec<String> {
        let mut touched = Touched::default();
        for command in commands {
            touched.note(command);
        }
        let paths = touched.into_paths();
        paths.map(|p| p.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn what_was_left_without_a_name() {
        let mut touched = Touched::default();
        for path in [
            "o1-2-0", "o1-2", "o1-2-x", "o1-2-3-4", "o1--0", "p1-2-0", "d/o1-2-0",
        ] {
            touched.note(&Command::Unlink(Path::new(&format!("{path}/x"))));
        }
        let found: Vec<_> = touched.orphans().collect();
        assert_eq!(found, [Path::new("o1-2-0")]);
    }

    #[test]
    fn by_the_name_in_the_end() {
        let p = Path::new;
        let chmod = |path| Command::Chmod {
            path: p(path),
            mode: 0,
        };
        let rename = |from, to| Command::Rename {
            from: p(from),
            to: p(to),
        };
        assert_eq!(
            touched(&[
                Command::MakeDir(p("o257-7-0")),
                rename("o257-7-0", "d"),
                Command::MakeFile(p("o258-7-0")),
                rename("o258-7-0", "d/f"),
                chmod("d/f"),
                chmod("d.x"),
                chmod("d0"),
                rename("d", "e/g"),
            ]),
            ["", "d.x", "d0", "e", "e/g", "e/g/f"]
        );
        assert_eq!(
            touched(&[
                chmod("a/b/c"),
                chmod("a/x"),
                Command::Unlink(p("a/x")),
                rename("a/b", "o1-2-0"),
                Command::RemoveDir(p("o1-2-0")),
            ]),
            ["", "a"]
        );
    }
}
