//! What packages have installed in /etc/portage, such as what savedconfig.eclass keeps there: it
//! comes and goes with them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use anyhow::Result;
use be_btrfs::Root;
use be_portage::config_files::contents;

use super::{CONFIGURATION, Configuration, Entry, Kind, configuration};
use crate::upgrade::fd_path;

/// The paths that packages own.
#[derive(Debug, Default)]
pub(super) struct Owned(BTreeSet<String>);

impl Owned {
    /// Those of the system with this root.
    ///
    /// # Errors
    /// What a package has installed cannot be read.
    pub(super) fn read(root: &Root) -> Result<Self> {
        let inside = format!("{CONFIGURATION}/");
        let wanted = |path: &[u8]| path.starts_with(inside.as_bytes());
        let found = contents::owned(&fd_path(root), wanted)?.into_iter();
        Ok(Self(
            found.filter_map(|p| String::from_utf8(p).ok()).collect(),
        ))
    }

    /// With those of another system.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Whether this is one, or a directory that has one in it.
    pub(super) fn has(&self, path: &str) -> bool {
        let inside = format!("{path}/");
        let from = (Bound::Included(inside.as_str()), Bound::Unbounded);
        self.0.contains(path)
            || self
                .0
                .range::<str, _>(from)
                .next()
                .is_some_and(|first| first.starts_with(&inside))
    }
}

/// What an environment is made from when it is complete: of all that has changed since `made` was
/// read, that which packages own is as they left it `now`.
pub(super) fn settled(made: Configuration, now: Configuration, owned: &Owned) -> Configuration {
    let by_path = |all: Configuration| -> BTreeMap<String, Entry> {
        let entries = all.entries.into_iter();
        entries.map(|e| (e.path.to_string(), e)).collect()
    };
    let mut all = by_path(made);
    let mut now = by_path(now);
    let paths: BTreeSet<String> = all.keys().chain(now.keys()).cloned().collect();
    for path in paths.iter().filter(|path| owned.has(path)) {
        match now.remove(path) {
            Some(entry) => all.insert(path.clone(), entry),
            None => all.remove(path),
        };
    }
    let mut directories = BTreeSet::from([CONFIGURATION.to_owned()]);
    let mut entries = Vec::new();
    // A directory comes before what is in it.
    for (path, entry) in all {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        if !directories.contains(parent) {
            continue;
        }
        if entry.kind == Kind::Directory {
            directories.insert(path);
        }
        entries.push(entry);
    }
    let sha256 = configuration::digest(&entries);
    Configuration { sha256, entries }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Have a package own these paths.
    pub(in crate::lock) fn own(dir: &Path, paths: &[&str]) {
        let db = dir.join("var/db/pkg/sys-kernel/kernel-1");
        fs::create_dir_all(&db).unwrap();
        let md5 = "0".repeat(32);
        let lines = paths.iter().map(|p| format!("obj {p} {md5} 1\n"));
        let text: String = lines.collect();
        fs::write(db.join("CONTENTS"), format!("dir /etc/portage\n{text}")).unwrap();
        fs::write(db.join("SLOT"), "0\n").unwrap();
    }

    fn put(dir: &Path, path: &str, content: &str) {
        let path = dir.join("etc/portage").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn what_packages_write_is_as_they_left_it_and_all_else_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let saved = |name: &str| format!("/etc/portage/savedconfig/sys-kernel/{name}");
        put(dir.path(), "make.conf", "a");
        put(dir.path(), "bashrc", "a");
        put(dir.path(), "savedconfig/sys-kernel/kernel-0", "old");
        put(dir.path(), "savedconfig/sys-kernel/mine", "mine");
        own(dir.path(), &[&saved("kernel-0")]);
        let made = configuration::read(&root).unwrap();
        let before = Owned::read(&root).unwrap();
        // The package is replaced, and a person's files change meanwhile.
        fs::remove_file(dir.path().join(&saved("kernel-0")[1..])).unwrap();
        put(dir.path(), "savedconfig/sys-kernel/kernel-1", "new");
        put(dir.path(), "repo.postsync.d/q", "x");
        put(dir.path(), "make.conf", "b");
        put(dir.path(), "extra/file", "x");
        fs::remove_file(dir.path().join("etc/portage/bashrc")).unwrap();
        own(
            dir.path(),
            &[&saved("kernel-1"), "/etc/portage/repo.postsync.d/q"],
        );
        let now = configuration::read(&root).unwrap();
        let owned = before.and(Owned::read(&root).unwrap());
        let lock = settled(made.clone(), now.clone(), &owned);
        let shown: Vec<&str> = lock.entries.iter().map(|e| &e.path[13..]).collect();
        assert_eq!(
            shown,
            [
                "bashrc",
                "make.conf",
                "repo.postsync.d",
                "repo.postsync.d/q",
                "savedconfig",
                "savedconfig/sys-kernel",
                "savedconfig/sys-kernel/kernel-1",
                "savedconfig/sys-kernel/mine",
            ]
        );
        assert_eq!(lock.entries[1].text.as_deref(), Some("a"));
        assert_eq!(lock.sha256, configuration::digest(&lock.entries));
        // Nothing but a person's changes is left to be told.
        let own = settled(now.clone(), now.clone(), &owned);
        assert_eq!(own, now);
    }
}
