//! Two trees of files side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use be_btrfs::{FileType, Root};

use super::entry::{self, Aspect, Meta, Reading};
use crate::chroot::Interrupted;
use crate::model::STORE;

/// What became of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is only in the second tree.
    Added,
    /// It is only in the first.
    Removed,
    /// It is in both, and differs in these ways.
    Changed(Vec<Aspect>),
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// From the root of the environment, without a leading slash; empty for the root.
    pub path: PathBuf,
    /// What it is, in the second tree if it is there.
    pub kind: FileType,
    /// What became of it.
    pub change: Change,
}

/// Compares two trees. What it finds is kept by path, so that nothing is told twice.
///
/// Subvolumes nested in the trees are no part of them, and are left out; so is the store
/// where a root is the top level.
#[derive(Debug)]
pub struct Walk<'a> {
    a: Side<'a>,
    b: Side<'a>,
    /// When they parted, in seconds since 1970.
    parted: Option<i64>,
    reading: Reading,
    interrupted: Option<&'a Interrupted>,
    found: BTreeMap<PathBuf, (FileType, Change)>,
}

#[derive(Debug)]
struct Side<'a> {
    root: BorrowedFd<'a>,
    dev: u64,
    btrfs: bool,
}

impl<'a> Side<'a> {
    fn new(root: &'a Root) -> Result<Self> {
        Ok(Self {
            root: root.fd(),
            dev: root.metadata("")?.dev,
            btrfs: be_btrfs::is_btrfs(root)?,
        })
    }

    fn open(&self, dir: &Path) -> Result<Option<OwnedFd>> {
        entry::open_dir(self.root, dir).with_context(|| format!("cannot open /{}", dir.display()))
    }

    /// What is at the name; nothing if that is no part of this tree.
    fn own(&self, at: Option<Meta>) -> Option<Meta> {
        at.filter(|meta| !meta.is_foreign(self.dev, self.btrfs))
    }
}

/// The same directory on both sides, each if it is there.
struct Dirs {
    path: PathBuf,
    a: Option<OwnedFd>,
    b: Option<OwnedFd>,
}

impl<'a> Walk<'a> {
    /// Compare two roots. `parted` is when the one, or both, were cloned.
    pub fn new(a: &'a Root, b: &'a Root, parted: Option<i64>) -> Result<Self> {
        Ok(Self {
            a: Side::new(a)?,
            b: Side::new(b)?,
            parted,
            reading: Reading::All,
            interrupted: None,
            found: BTreeMap::new(),
        })
    }

    /// Find out like this whether files have the same content.
    pub fn reading(self, reading: Reading) -> Self {
        Self { reading, ..self }
    }

    /// Give up when somebody interrupts it.
    pub fn until(self, interrupted: Option<&'a Interrupted>) -> Self {
        Self {
            interrupted,
            ..self
        }
    }

    fn go_on(&self) -> Result<()> {
        self.interrupted.map_or(Ok(()), Interrupted::go_on)
    }

    /// What was found, sorted by path.
    pub fn changes(self) -> Vec<FileChange> {
        let changes = self.found.into_iter();
        changes
            .map(|(path, (kind, change))| FileChange { path, kind, change })
            .collect()
    }

    /// Compare all that is at and below a path, which need not be there.
    pub fn tree(&mut self, path: &Path) -> Result<()> {
        let Some(name) = path.file_name() else {
            self.root()?;
            return self.below(vec![PathBuf::new()]);
        };
        let dirs = self.open(path.parent().unwrap_or(Path::new("")))?;
        let below = self.entry(&dirs, name)?;
        self.below(Vec::from_iter(below))
    }

    /// Compare only where something changed since the two were one: `newer` are the paths
    /// of all inodes of either side that were written since.
    pub fn newer(&mut self, newer: &BTreeSet<PathBuf>) -> Result<()> {
        let mut dirs: Option<Dirs> = None;
        for path in newer {
            self.go_on()?;
            if path.starts_with(STORE) {
                continue;
            }
            let Some(name) = path.file_name() else {
                self.root()?;
                self.names_of(Path::new(""))?;
                continue;
            };
            let parent = path.parent().unwrap_or(Path::new(""));
            let open = match dirs.take().filter(|dirs| dirs.path == parent) {
                Some(open) => open,
                None => self.open(parent)?,
            };
            // Where it is on one side only, its directory was written as well.
            let both = open.a.is_some() && open.b.is_some();
            if both && self.entry(&open, name)?.is_some() {
                self.names_of(path)?;
            }
            dirs = Some(open);
        }
        Ok(())
    }

    fn open(&self, path: &Path) -> Result<Dirs> {
        Ok(Dirs {
            a: self.a.open(path)?,
            b: self.b.open(path)?,
            path: path.to_owned(),
        })
    }

    /// The root directories by themselves.
    fn root(&mut self) -> Result<()> {
        let dirs = self.open(Path::new(""))?;
        self.entry(&dirs, OsStr::new("."))?;
        let root = self.found.remove(Path::new("."));
        self.found.extend(root.map(|found| (PathBuf::new(), found)));
        Ok(())
    }

    /// Everything below these directories.
    fn below(&mut self, mut todo: Vec<PathBuf>) -> Result<()> {
        // A loop, not a recursion: depth has no limit.
        while let Some(path) = todo.pop() {
            let dirs = self.open(&path)?;
            for name in self.union(&dirs)?.keys() {
                self.go_on()?;
                todo.extend(self.entry(&dirs, name)?);
            }
        }
        Ok(())
    }

    /// Compare a directory that one side has written: names that are on one side only, or
    /// stand for another inode, with all below them. The others are the same, or were
    /// written themselves.
    fn names_of(&mut self, path: &Path) -> Result<()> {
        let dirs = self.open(path)?;
        for (name, (a, b)) in self.union(&dirs)? {
            if a != b
                && let Some(below) = self.entry(&dirs, &name)?
            {
                self.below(vec![below])?;
            }
        }
        Ok(())
    }

    /// The names of both, each with its inode on either side.
    fn union(&self, dirs: &Dirs) -> Result<BTreeMap<std::ffi::OsString, (u64, u64)>> {
        let list = |dir: &Option<OwnedFd>| match dir {
            Some(dir) => entry::names(dir),
            None => Ok(Vec::new()),
        };
        let lists = list(&dirs.a).and_then(|a| Ok((a, list(&dirs.b)?)));
        let (a, b) = lists.with_context(|| format!("cannot list /{}", dirs.path.display()))?;
        let mut names: BTreeMap<_, (u64, u64)> = BTreeMap::new();
        for (name, ino) in a {
            names.entry(name).or_default().0 = ino;
        }
        for (name, ino) in b {
            names.entry(name).or_default().1 = ino;
        }
        if dirs.path.as_os_str().is_empty() {
            names.remove(OsStr::new(STORE));
        }
        Ok(names)
    }

    /// Compare one name. Gives its path if there is a directory to go into.
    fn entry(&mut self, dirs: &Dirs, name: &OsStr) -> Result<Option<PathBuf>> {
        let path = dirs.path.join(name);
        let stat = |dir: &Option<OwnedFd>| match dir {
            Some(dir) => entry::stat(dir.as_fd(), name),
            None => Ok(None),
        };
        let looked = stat(&dirs.a).and_then(|a| Ok((a, stat(&dirs.b)?)));
        let (a, b) = looked.with_context(|| format!("cannot look at /{}", path.display()))?;
        let is_dir = |meta: Option<Meta>| meta.is_some_and(|m| m.kind.is_dir());
        let (own_a, own_b) = (self.a.own(a), self.b.own(b));
        // In the place of a subvolume, a clone has a directory.
        if (a.is_some() != own_a.is_some() && is_dir(b) | b.is_none())
            || (b.is_some() != own_b.is_some() && is_dir(a) | a.is_none())
        {
            return Ok(None);
        }
        let (kind, change) = match (own_a, own_b) {
            (None, None) => return Ok(None),
            (Some(a), None) => (a.kind, Change::Removed),
            (None, Some(b)) => (b.kind, Change::Added),
            (Some(a), Some(b)) if a.is_untouched(&b, self.parted) => {
                return Ok(a.kind.is_dir().then_some(path));
            }
            (Some(a), Some(b)) => {
                let (Some(dir_a), Some(dir_b)) = (&dirs.a, &dirs.b) else {
                    return Ok(None);
                };
                let aspects =
                    entry::aspects((dir_a.as_fd(), &a), (dir_b.as_fd(), &b), name, self.reading)
                        .with_context(|| format!("cannot compare /{}", path.display()))?;
                (b.kind, Change::Changed(aspects))
            }
        };
        if change != Change::Changed(Vec::new()) {
            self.found.insert(path.clone(), (kind, change));
        }
        Ok((is_dir(own_a) || is_dir(own_b)).then_some(path))
    }
}
