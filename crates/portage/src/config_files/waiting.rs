//! What waits beside configuration files for a person: new versions, and what was in use until
//! the package manager put another one in its place.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::files::{self, Links};

/// What a file is that lies beside a configuration file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A new version, from the package.
    #[default]
    New,
    /// The same, of a package that is not installed to its end.
    Unfinished,
    /// What was in use before; the package manager has moved it away.
    Old,
}

impl Kind {
    fn is_new(&self) -> bool {
        *self == Self::New
    }
}

/// A file that waits beside a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pending {
    /// The file in use, from the root of the system: `/etc/foo.conf`.
    pub target: PathBuf,
    /// The file that waits: `/etc/._cfg0000_foo.conf`.
    pub file: PathBuf,
    /// What it is.
    #[serde(default, skip_serializing_if = "Kind::is_new")]
    pub kind: Kind,
}

/// What a package manager other than Portage leaves beside configuration files, by how the
/// names end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beside {
    /// Of [`Kind::New`].
    #[serde(default)]
    pub new: Vec<Ending>,
    /// Of [`Kind::Unfinished`].
    #[serde(default)]
    pub unfinished: Vec<Ending>,
    /// Of [`Kind::Old`].
    #[serde(default)]
    pub old: Vec<Ending>,
}

/// The end of a name, with the dot before it: `.rpmnew`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Ending(String);

impl TryFrom<String> for Ending {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // Without a dot, `fstab` might be one, and each configuration file a leftover.
        match text.strip_prefix('.') {
            Some(word) if !word.is_empty() && !word.contains('/') => Ok(Self(text)),
            _ => Err(format!("{text:?} is no ending of a name, as .rpmnew is")),
        }
    }
}

impl Beside {
    /// The file that one of this name waits for, and what it is. `._cfg0000_NAME` is one in
    /// every system: `be` itself makes those, too.
    fn waits_for<'a>(&self, name: &'a str) -> Option<(&'a str, Kind)> {
        if let Some(target) = waits_for(name) {
            return Some((target, Kind::New));
        }
        let kinds = [
            (&self.new, Kind::New),
            (&self.unfinished, Kind::Unfinished),
            (&self.old, Kind::Old),
        ];
        kinds.into_iter().find_map(|(endings, kind)| {
            let mut targets = endings.iter().filter_map(|end| name.strip_suffix(&end.0));
            let target = targets.find(|target| !target.is_empty())?;
            Some((target, kind))
        })
    }
}

/// The name of the file that `._cfg0000_NAME` waits for. The rules are those of Portage's
/// `find_updated_config_files` (`portage/util/__init__.py`).
fn waits_for(name: &str) -> Option<&str> {
    let (number, target) = name.strip_prefix("._cfg")?.split_at_checked(4)?;
    let target = target.strip_prefix('_')?;
    let backup = name.ends_with('~') || name.to_ascii_lowercase().ends_with(".bak");
    (number.bytes().all(|b| b.is_ascii_digit()) && !target.is_empty() && !backup).then_some(target)
}

/// The directories and files that Portage protects (`CONFIG_PROTECT`): always `/etc`, and
/// what packages added, from the content of `/etc/profile.env` (written by env-update).
///
/// What a user or profile adds in make.conf is not there.
#[must_use]
pub fn config_protect(profile_env: &str) -> Vec<PathBuf> {
    let set = profile_env
        .lines()
        .filter_map(|line| line.trim().strip_prefix("export CONFIG_PROTECT="))
        .flat_map(|value| {
            value
                .trim_start_matches('$')
                .trim_matches(['\'', '"'])
                .split_whitespace()
        });
    let mut paths: Vec<PathBuf> = ["/etc"].into_iter().chain(set).map(PathBuf::from).collect();
    paths.sort();
    paths.dedup();
    paths
}

/// Find what waits below the `protect`ed directories (or beside the protected files) of the
/// system whose root directory is `root`; sorted. It is what Portage leaves, and what is
/// `beside`.
///
/// # Errors
/// If something that exists cannot be read: no answer is better than one too short.
pub fn pending_config(root: &Path, protect: &[PathBuf], beside: &Beside) -> Result<Vec<Pending>> {
    let fd =
        files::open_trusted(root).with_context(|| format!("cannot open {}", root.display()))?;
    let mut search = Search {
        beside,
        found: BTreeSet::new(),
    };
    for path in protect {
        search
            .search(&fd, path)
            .with_context(|| format!("cannot search {} in {}", path.display(), root.display()))?;
    }
    Ok(search.found.into_iter().collect())
}

struct Search<'a> {
    beside: &'a Beside,
    found: BTreeSet<Pending>,
}

impl Search<'_> {
    fn search(&mut self, root: &OwnedFd, path: &Path) -> io::Result<()> {
        let slash = Path::new("/");
        let inside = path.strip_prefix(slash).unwrap_or(path);
        match files::subdir(root, inside, Links::InRoot) {
            Ok(Some(dir)) => self.walk(dir, &slash.join(inside)),
            Ok(None) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                let (Some(parent), Some(name)) = (inside.parent(), inside.file_name()) else {
                    return Ok(());
                };
                let parent_path = if parent.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    parent
                };
                let Some(dir) = files::subdir(root, parent_path, Links::InRoot)? else {
                    return Ok(());
                };
                self.collect(&dir, &slash.join(parent), Some(name.as_encoded_bytes()))?;
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// Note what waits in one directory; the names of those below it come back.
    fn collect(
        &mut self,
        dir: impl AsFd,
        path: &Path,
        only: Option<&[u8]>,
    ) -> io::Result<Vec<String>> {
        let mut below = Vec::new();
        for (name, is_dir) in files::entries(dir)? {
            if is_dir {
                // Hidden directories are skipped, as Portage does.
                if !name.starts_with('.') {
                    below.push(name);
                }
            } else if let Some((target, kind)) = self.beside.waits_for(&name)
                && only.is_none_or(|only| only == target.as_bytes())
            {
                self.found.insert(Pending {
                    target: path.join(target),
                    file: path.join(&name),
                    kind,
                });
            }
        }
        Ok(below)
    }

    fn walk(&mut self, top: OwnedFd, path: &Path) -> io::Result<()> {
        let mut todo = vec![PathBuf::new()];
        while let Some(below) = todo.pop() {
            let opened = if below.as_os_str().is_empty() {
                None
            } else {
                match files::subdir(&top, &below, Links::No)? {
                    Some(dir) => Some(dir),
                    // Removed since it was listed.
                    None => continue,
                }
            };
            let dir = opened.as_ref().unwrap_or(&top);
            let names = self.collect(dir, &path.join(&below), None)?;
            todo.extend(names.into_iter().map(|name| below.join(name)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pending_files() {
        assert_eq!(waits_for("._cfg0000_foo.conf"), Some("foo.conf"));
        assert_eq!(waits_for("._cfg0012_.hidden"), Some(".hidden"));
        for name in [
            "._cfg0000_",
            "._cfg000_foo",
            "._cfg00000_foo",
            "._cfgabcd_foo",
            "._cfg0000_foo~",
            "._cfg0000_foo.BAK",
            "._cfg\u{e9}\u{e9}_foo",
            "foo",
        ] {
            assert_eq!(waits_for(name), None, "{name}");
        }
    }

    fn endings(all: &[&str]) -> Vec<Ending> {
        let ending = |text: &&str| Ending::try_from((*text).to_owned()).unwrap();
        all.iter().map(ending).collect()
    }

    #[test]
    fn names_of_other_package_managers() {
        let beside = Beside {
            new: endings(&[".dpkg-dist", ".ucf-dist"]),
            unfinished: endings(&[".dpkg-new"]),
            old: endings(&[".dpkg-old"]),
        };
        for (name, expected) in [
            ("foo.conf.dpkg-dist", Some(("foo.conf", Kind::New))),
            ("foo.ucf-dist", Some(("foo", Kind::New))),
            ("foo.dpkg-new", Some(("foo", Kind::Unfinished))),
            ("foo.dpkg-old", Some(("foo", Kind::Old))),
            ("._cfg0000_foo", Some(("foo", Kind::New))),
            (".dpkg-dist", None),
            ("foo.dpkg-dist~", None),
            ("foo.rpmnew", None),
            ("foo", None),
        ] {
            assert_eq!(beside.waits_for(name), expected, "{name}");
        }
        assert_eq!(Beside::default().waits_for("foo.dpkg-dist"), None);
        for bad in ["", ".", "new", "./new"] {
            let error = Ending::try_from(bad.to_owned()).unwrap_err();
            assert!(error.contains("no ending"), "{error}");
        }
    }
}
