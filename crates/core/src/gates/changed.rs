//! What an upgrade has changed below the directories of programs, as btrfs itself knows it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use be_btrfs::{FileType, Root};

use crate::record::Record;
use crate::session::Session;
use crate::store::Paths;

/// Where programs and libraries are.
pub(super) const PROGRAMS: [&str; 8] = [
    "bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "opt",
];

/// What lies below and is none; kernel modules are ELF, too.
const OTHERS: [&str; 8] = [
    "usr/share",
    "usr/src",
    "usr/include",
    "usr/lib/debug",
    "usr/lib/modules",
    "usr/lib/firmware",
    "lib/modules",
    "lib/firmware",
];

/// Two lists of paths, without directories.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// What was written, made or renamed.
    pub(super) now: BTreeSet<PathBuf>,
    /// What was there and is not any more.
    pub(super) gone: BTreeSet<PathBuf>,
    /// The configuration of the dynamic linker is another.
    pub(super) linker: bool,
}

impl Changes {
    /// All that differs from the base of an environment.
    pub(super) fn of(
        session: &Session,
        record: &Record,
        before: &Root,
        after: &Root,
    ) -> Result<Self> {
        let home = Paths::environment(&record.name);
        let mut found = Self::default();
        for member in &record.subvolumes {
            // Since it was cloned, whatever was carried into it later.
            let base = member.cloned_from.as_ref().or(member.base.as_ref());
            let Some(base) = base else { continue };
            let mount = Path::new(member.mount.trim_start_matches('/'));
            let id = |path: PathBuf| -> Result<u64> {
                Ok(be_btrfs::subvolume_info(&session.store.root_of(&path)?)?.id)
            };
            let now = id(home.join(member.place()))?;
            let then = id(home.join("base").join(member.place()))?;
            let changed = session
                .store
                .top
                .changed_files(now, base.generation, Some(then), &[])?;
            for file in changed {
                let path = match file.path.as_os_str().is_empty() {
                    true => mount.to_owned(),
                    false => mount.join(&file.path),
                };
                found
                    .add(&path, file.kind, before, after)
                    .with_context(|| format!("cannot compare /{}", path.display()))?;
            }
        }
        Ok(found)
    }

    fn add(&mut self, path: &Path, kind: FileType, before: &Root, after: &Root) -> Result<()> {
        self.linker |= path.starts_with("etc/ld.so.conf.d")
            || path == Path::new(super::search::CONFIGURATION)
            || path.to_string_lossy().starts_with("etc/ld-musl-");
        let top = path.as_os_str().is_empty();
        if !top && !is_program(path) {
            return Ok(());
        }
        if !kind.is_dir() {
            self.now.insert(path.to_owned());
            return Ok(());
        }
        let then = before.lstat(path).ok();
        let names = match then {
            Some(meta) if meta.kind.is_dir() => before.list(path)?,
            _ => Vec::new(),
        };
        // One that came from elsewhere brought what is in it, unchanged.
        if then.map(|m| m.ino) != after.lstat(path).ok().map(|m| m.ino) && !top {
            walk(after, path, &mut self.now)?;
        }
        let still = after.list(path)?;
        for (name, was) in names {
            let below = path.join(&name);
            if !is_program(&below) {
                continue;
            }
            match kind_of(&still, &name) {
                Some(is) if is.is_dir() == was.is_dir() => {}
                _ if was.is_dir() => walk(before, &below, &mut self.gone)?,
                _ => drop(self.gone.insert(below)),
            }
        }
        Ok(())
    }
}

fn kind_of(list: &[(OsString, FileType)], name: &OsString) -> Option<FileType> {
    let at = list.binary_search_by(|(other, _)| other.cmp(name)).ok()?;
    list.get(at).map(|(_, kind)| *kind)
}

fn is_program(path: &Path) -> bool {
    PROGRAMS.iter().any(|dir| path.starts_with(dir))
        && !OTHERS.iter().any(|dir| path.starts_with(dir))
}

/// Everything below a directory, without the directories, links not followed.
pub(super) fn walk(root: &Root, dir: &Path, found: &mut BTreeSet<PathBuf>) -> Result<()> {
    // A loop, not a recursion: depth has no limit.
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for (name, kind) in root.list(&dir)? {
            let path = dir.join(name);
            match kind {
                _ if !is_program(&path) => {}
                FileType::Dir => todo.push(path),
                _ => drop(found.insert(path)),
            }
        }
    }
    Ok(())
}

/// All programs and libraries of a system, without directories.
pub(super) fn programs(root: &Root) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for dir in PROGRAMS {
        // Where it is a link, what it leads to is among them.
        if root.lstat(dir).is_ok_and(|m| m.kind.is_dir()) {
            walk(root, Path::new(dir), &mut found)?;
        }
    }
    Ok(found)
}
