//! Which files of a subvolume changed since a transaction.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::Context;
use crate::info::ROOT_INODE;
use crate::ioctl::{Range, Searcher};
use crate::tree::{le32, le64};
use crate::{FileType, Result, TopLevel};

// Key types of `linux/btrfs_tree.h`.
const INODE_ITEM: u8 = 1;
const INODE_REF: u8 = 12;
const INODE_EXTREF: u8 = 13;
const EXTENT_DATA: u8 = 108;
/// `BTRFS_LAST_FREE_OBJECTID`.
const LAST_INODE: u64 = -256i64 as u64;
/// `sizeof(struct btrfs_inode_item)`.
const INODE_SIZE: usize = 160;

/// One name of a changed file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangedFile {
    /// From the root of the subvolume, without a leading slash; empty for the
    /// root directory itself.
    pub path: PathBuf,
    /// What it is. A changed directory had a name made, removed or renamed in
    /// it, or its own owner, mode, times or attributes changed.
    pub kind: FileType,
    /// Its inode number.
    pub inode: u64,
}

impl TopLevel {
    /// The files of the subvolume with the id `subvolume` that changed after
    /// the transaction `since`, by path.
    ///
    /// `since` is the `otransid` of the snapshot to compare with. With the id of
    /// that snapshot as `base`, files of which only the access time is new are
    /// left out; without it they are reported too. `under` names the
    /// directories of interest, relative to the subvolume; if empty, all.
    ///
    /// Content, owner, mode, attribute and link changes, new files and renames
    /// are found by the inode's transaction or a newer extent (so a
    /// defragmented file counts as changed). What was deleted is found as a
    /// change of its directory. Subvolumes nested in this one are not entered.
    /// A file with several names is reported by each.
    ///
    /// Everything is written to disk first ([`TopLevel::sync`]), as changes in
    /// memory cannot be seen. Errors: `ENOENT` if there is no such subvolume.
    pub fn changed_files(
        &self,
        subvolume: u64,
        since: u64,
        base: Option<u64>,
        under: &[&Path],
    ) -> Result<Vec<ChangedFile>> {
        self.sync()?;
        self.committed_changes(subvolume, since, base, under)
    }

    /// As [`TopLevel::changed_files`] without writing to disk first: what is only in
    /// memory is not seen. For who must not wait for a busy disk.
    ///
    /// Errors: `ENOENT` if there is no such subvolume.
    pub fn committed_changes(
        &self,
        subvolume: u64,
        since: u64,
        base: Option<u64>,
        under: &[&Path],
    ) -> Result<Vec<ChangedFile>> {
        Scan::new(self.fd(), subvolume)
            .changed(since, base, under)
            .on("find what changed in the subvolume", subvolume.to_string())
    }

    /// All paths of these inodes of the subvolume with the id `subvolume`, in the order of the
    /// inodes; of one that is not there, none. What is only in memory is not seen.
    ///
    /// Errors: `ENOENT` if there is no such subvolume.
    pub fn paths_of(&self, subvolume: u64, inodes: &BTreeSet<u64>) -> Result<Vec<(u64, PathBuf)>> {
        Scan::new(self.fd(), subvolume)
            .paths_of(inodes)
            .on("find files in the subvolume", subvolume.to_string())
    }
}

/// An inode and its names, each with the directory it is in.
struct Inode {
    item: [u8; INODE_SIZE],
    references: Vec<(u64, PathBuf)>,
}

struct Scan<'a> {
    fd: BorrowedFd<'a>,
    tree: u64,
    searcher: Searcher,
    /// The path of each directory looked up so far; None if it has no name.
    dirs: HashMap<u64, Option<PathBuf>>,
}

impl<'a> Scan<'a> {
    fn new(fd: BorrowedFd<'a>, tree: u64) -> Self {
        Self {
            fd,
            tree,
            searcher: Searcher::new(),
            dirs: HashMap::from([(ROOT_INODE, Some(PathBuf::new()))]),
        }
    }

    fn paths_of(&mut self, inodes: &BTreeSet<u64>) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut found = Vec::new();
        for &number in inodes {
            if let Some(inode) = self.inode(self.tree, number)? {
                let paths = self.names(number, inode.references)?;
                found.extend(paths.into_iter().map(|path| (number, path)));
            }
        }
        Ok(found)
    }

    fn changed(
        &mut self,
        since: u64,
        base: Option<u64>,
        under: &[&Path],
    ) -> io::Result<Vec<ChangedFile>> {
        let mut found = Vec::new();
        for (number, extents) in self.newer(since)? {
            let Some(inode) = self.inode(self.tree, number)? else {
                continue;
            };
            // A newer extent is a change; a newer inode alone may be an access.
            if let (false, Some(base)) = (extents, base)
                && let Some(before) = self.inode(base, number)?
                && differs_by_atime_only(&before.item, &inode.item)
            {
                continue;
            }
            let kind = FileType::from_mode(le32(&inode.item, 52).unwrap_or(0));
            for path in self.names(number, inode.references)? {
                if under.is_empty() || under.iter().any(|dir| path.starts_with(dir)) {
                    found.push(ChangedFile {
                        path,
                        kind,
                        inode: number,
                    });
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// The inodes that are newer than `since`, or have an extent that is
    /// (true). No more is kept of them: there may be very many.
    fn newer(&mut self, since: u64) -> io::Result<BTreeMap<u64, bool>> {
        let mut newer = BTreeMap::new();
        let range = Range {
            tree: self.tree,
            from: (ROOT_INODE, 0, 0),
            to: (LAST_INODE, u8::MAX, u64::MAX),
            since: since.saturating_add(1),
        };
        self.searcher.search(self.fd, &range, |item| {
            let (inode, kind, _) = item.key;
            // Both structures have a transaction there: the one that last
            // wrote the inode, the one that made the extent.
            match kind {
                INODE_ITEM if le64(item.data, 8).is_some_and(|t| t > since) => {
                    newer.entry(inode).or_insert(false);
                }
                EXTENT_DATA if le64(item.data, 0).is_some_and(|t| t > since) => {
                    newer.insert(inode, true);
                }
                _ => {}
            }
            ControlFlow::Continue(())
        })?;
        Ok(newer)
    }

    /// One inode of a tree, by a search for its item and its names, which
    /// follow each other.
    fn inode(&mut self, tree: u64, inode: u64) -> io::Result<Option<Inode>> {
        let range = Range {
            tree,
            from: (inode, INODE_ITEM, 0),
            to: (inode, INODE_EXTREF, u64::MAX),
            since: 0,
        };
        let mut found = None;
        let mut references = Vec::new();
        self.searcher.search(self.fd, &range, |item| {
            match item.key.1 {
                INODE_ITEM => found = item.data.first_chunk().copied(),
                INODE_REF => parse_refs(item.key.2, item.data, &mut references),
                INODE_EXTREF => parse_extrefs(item.data, &mut references),
                _ => {}
            }
            ControlFlow::Continue(())
        })?;
        Ok(found.map(|item| Inode { item, references }))
    }

    /// All paths of an inode; none for one that is deleted but open.
    fn names(&mut self, inode: u64, references: Vec<(u64, PathBuf)>) -> io::Result<Vec<PathBuf>> {
        if inode == ROOT_INODE {
            return Ok(vec![PathBuf::new()]);
        }
        let mut paths = Vec::new();
        for (dir, name) in references {
            if let Some(dir) = self.dir(dir)? {
                paths.push(dir.join(name));
            }
        }
        Ok(paths)
    }

    /// The path of a directory. A loop, not a recursion: depth has no limit.
    fn dir(&mut self, inode: u64) -> io::Result<Option<PathBuf>> {
        let mut unknown = Vec::new();
        let mut at = inode;
        let mut path = loop {
            if let Some(known) = self.dirs.get(&at) {
                break known.clone();
            }
            // The same directory again: the tree changed under the search.
            if unknown.iter().any(|&(inode, _)| inode == at) {
                break None;
            }
            let found = self.inode(self.tree, at)?;
            match found.and_then(|mut inode| inode.references.pop()) {
                Some((parent, name)) => {
                    unknown.push((at, name));
                    at = parent;
                }
                None => break None,
            }
        };
        for (inode, name) in unknown.into_iter().rev() {
            path = path.map(|p| p.join(name));
            self.dirs.insert(inode, path.clone());
        }
        Ok(path)
    }
}

/// `struct btrfs_inode_item`: whether it is the same inode and all is as it
/// was, but for the access time (112..124), the transaction (8..16) and where
/// and how densely it is stored (24..40).
fn differs_by_atime_only(before: &[u8; INODE_SIZE], now: &[u8; INODE_SIZE]) -> bool {
    [0..8, 16..24, 40..112, 124..INODE_SIZE]
        .into_iter()
        .all(|part| before[part.clone()] == now[part])
}

/// `struct btrfs_inode_ref`, several in an item: index (u64), name_len (u16),
/// the name. The directory is the key's offset.
fn parse_refs(dir: u64, mut data: &[u8], found: &mut Vec<(u64, PathBuf)>) {
    while let Some((name, rest)) = split_name(data, 8) {
        found.push((dir, name));
        data = rest;
    }
}

/// `struct btrfs_inode_extref`, several in an item: the directory, index
/// (u64), name_len (u16), the name.
fn parse_extrefs(mut data: &[u8], found: &mut Vec<(u64, PathBuf)>) {
    while let (Some(dir), Some((name, rest))) = (le64(data, 0), split_name(data, 16)) {
        found.push((dir, name));
        data = rest;
    }
}

fn split_name(data: &[u8], len_at: usize) -> Option<(PathBuf, &[u8])> {
    let len = u16::from_le_bytes(data.get(len_at..len_at + 2)?.try_into().ok()?);
    let (name, rest) = data.get(len_at + 2..)?.split_at_checked(len.into())?;
    Some((OsStr::from_bytes(name).into(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_names_in_one_item() {
        let mut data = Vec::new();
        for name in ["a", "bc"] {
            data.extend([0; 8]);
            data.extend((name.len() as u16).to_le_bytes());
            data.extend(name.as_bytes());
        }
        let mut found = Vec::new();
        parse_refs(7, &data, &mut found);
        assert_eq!(found, [(7, "a".into()), (7, "bc".into())]);
        found.clear();
        parse_refs(7, &data[..data.len() - 1], &mut found);
        assert_eq!(found, [(7, "a".into())], "a cut name is no name");

        let mut data = 9u64.to_le_bytes().to_vec();
        data.extend([0; 8]);
        data.extend(1u16.to_le_bytes());
        data.push(b'x');
        found.clear();
        parse_extrefs(&data, &mut found);
        assert_eq!(found, [(9, "x".into())]);
    }

    #[test]
    fn an_access_is_no_change() {
        let before = [0; INODE_SIZE];
        for (at, only_atime) in [
            (112, true),
            (120, true),
            (8, true),
            (16, false),
            (52, false),
            (124, false),
            (136, false),
        ] {
            let mut now = before;
            now[at] = 1;
            assert_eq!(differs_by_atime_only(&before, &now), only_atime, "{at}");
        }
    }
}
