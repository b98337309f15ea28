//! A directory whose files are read; no link leads out of it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::files::{self, Links};

/// Deeper below a directory nothing is looked for: links may go round in a circle.
const MAX_DEPTH: usize = 12;

/// An open directory.
#[derive(Debug)]
pub(super) struct Tree(pub OwnedFd);

impl Tree {
    /// The content of a file, if it is there.
    pub fn bytes(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        match files::read(&self.0, Path::new(path), Links::InRoot) {
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => Ok(None),
            content => content,
        }
    }

    /// The text of a file, if it is there.
    pub fn text(&self, path: &str) -> io::Result<Option<String>> {
        let text = self.bytes(path)?.map(String::from_utf8).transpose();
        text.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    /// What is in a directory, and whether each is itself a directory; sorted. A directory
    /// that is not there has nothing.
    pub fn entries(&self, path: &str) -> io::Result<Vec<(String, bool)>> {
        match files::subdir(&self.0, Path::new(path), Links::InRoot) {
            Ok(Some(dir)) => files::entries(dir),
            Ok(None) => Ok(Vec::new()),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// The paths of all files below a directory, or of the file itself; sorted. What begins
    /// with a dot or ends as a backup is left out, as by Portage.
    pub fn files(&self, path: &str) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        self.walk(path, MAX_DEPTH, &mut found)?;
        found.sort_unstable();
        Ok(found)
    }

    fn walk(&self, path: &str, depth: usize, found: &mut Vec<String>) -> io::Result<()> {
        let dir = match files::subdir(&self.0, Path::new(path), Links::InRoot) {
            Ok(Some(dir)) => dir,
            Ok(None) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                found.push(path.to_owned());
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        for (name, _) in files::entries(dir)? {
            if !name.starts_with('.') && !name.ends_with('~') && depth > 0 {
                self.walk(&format!("{path}/{name}"), depth - 1, found)?;
            }
        }
        Ok(())
    }
}
