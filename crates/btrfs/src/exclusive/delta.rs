//! By which file extents two related subvolumes differ.
//!
//! Read are only leaves that are newer than the moment at which they parted,
//! and what these say has changed:
//!
//! * An inode that lost or got an extent was written to, so that its item has a
//!   newer transaction.
//! * An inode that is there in one only was made since, or its name was removed
//!   from a directory, so that the directory's item has a newer transaction and
//!   the other one still has the name. A directory that is there in one only is
//!   compared in turn.
//! * An inode that was already without a name when they parted, because it was
//!   open, is among the orphans of the one that still has it.
//!
//! Balance moves extents without a trace in the inodes, but in all trees alike.

use std::collections::HashSet;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;

use crate::info::ROOT_INODE;
use crate::ioctl::{Item, Key, Range, Searcher, next_key};
use crate::tree::{le32, le64};

// Key types and object ids of `linux/btrfs_tree.h`.
const INODE_ITEM: u8 = 1;
const ORPHAN_ITEM: u8 = 48;
const DIR_ITEM: u8 = 84;
const DIR_INDEX: u8 = 96;
const EXTENT_DATA: u8 = 108;
const ROOT_ITEM: u8 = 132;
const LAST_INODE: u64 = -256i64 as u64;
const ORPHANS: u64 = -5i64 as u64;

/// Inodes with fewer between them are read in one search.
const NEAR: u64 = 8;

/// Of the buffer, in bytes: what is not wanted of a directory is copied only to
/// its end.
const BUFFER: usize = 32 << 10;

/// One file extent item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Extent {
    /// Where the data extent is.
    pub bytenr: u64,
    /// How many bytes it takes there.
    pub disk: u64,
    /// The part that the item uses, in bytes as files see them: from here,
    pub start: u64,
    /// so many.
    pub len: u64,
}

/// An inode that is newer.
struct Newer {
    inode: u64,
    dir: bool,
    /// It was not there before.
    new: bool,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    inode: u64,
    dir: bool,
}

/// Reads subvolumes.
pub(super) struct Reader<'a> {
    fd: BorrowedFd<'a>,
    searcher: Searcher,
}

impl<'a> Reader<'a> {
    pub(super) fn new(fd: BorrowedFd<'a>) -> Reader<'a> {
        let searcher = Searcher::sized(BUFFER);
        Reader { fd, searcher }
    }

    /// All extents of a subvolume.
    pub(super) fn all(&mut self, tree: u64) -> io::Result<Vec<Extent>> {
        let mut extents = Vec::new();
        let range = Range {
            tree,
            from: (ROOT_INODE, 0, 0),
            to: (LAST_INODE, u8::MAX, u64::MAX),
            since: 0,
        };
        self.each(&range, |item| extents.extend(extent(&item)))?;
        Ok(extents)
    }

    /// The extents that only `a` has, and those that only `b` has, if both were
    /// the same at the end of the transaction `since`. Some that both have may
    /// be in both.
    pub(super) fn between(
        &mut self,
        a: u64,
        b: u64,
        since: u64,
    ) -> io::Result<(Vec<Extent>, Vec<Extent>)> {
        let (newer_a, mut only_a) = self.newer(a, since)?;
        let (newer_b, mut only_b) = self.newer(b, since)?;
        let mut changed: HashSet<u64> = HashSet::new();
        let newer = || newer_a.iter().chain(&newer_b);
        changed.extend(newer().filter(|n| !n.dir).map(|n| n.inode));
        let old_dirs = newer().filter(|n| n.dir && !n.new).map(|n| n.inode);
        self.removed(a, b, old_dirs.collect(), &mut changed)?;
        let (orphans_a, orphans_b) = (self.orphans(a)?, self.orphans(b)?);
        changed.extend(orphans_a.symmetric_difference(&orphans_b));
        for (tree, newer, extents) in [(a, newer_a, &mut only_a), (b, newer_b, &mut only_b)] {
            let have: HashSet<u64> = newer.iter().filter(|n| n.new).map(|n| n.inode).collect();
            let mut missing: Vec<u64> = changed.difference(&have).copied().collect();
            missing.sort_unstable();
            self.extents(tree, &missing, extents)?;
        }
        Ok((only_a, only_b))
    }

    /// The inodes of a tree that are newer, and the extents of the new ones.
    fn newer(&mut self, tree: u64, since: u64) -> io::Result<(Vec<Newer>, Vec<Extent>)> {
        let mut newer: Vec<Newer> = Vec::new();
        let mut extents = Vec::new();
        let range = Range {
            tree,
            from: (ROOT_INODE, 0, 0),
            to: (LAST_INODE, u8::MAX, u64::MAX),
            since: since.saturating_add(1),
        };
        self.each(&range, |item| match item.key.1 {
            INODE_ITEM if le64(item.data, 8).is_some_and(|transid| transid > since) => {
                let new = le64(item.data, 0).is_some_and(|generation| generation > since);
                let dir = le32(item.data, 52).is_some_and(|mode| mode & 0o170_000 == 0o040_000);
                newer.push(Newer {
                    inode: item.key.0,
                    dir,
                    new,
                });
            }
            // All items of a new inode are in new leaves, its own item first.
            EXTENT_DATA if newer.last().is_some_and(|n| n.new && n.inode == item.key.0) => {
                extents.extend(extent(&item));
            }
            _ => {}
        })?;
        Ok((newer, extents))
    }

    /// What is in these directories in one tree only, and in directories that
    /// are themselves so.
    fn removed(
        &mut self,
        a: u64,
        b: u64,
        mut dirs: Vec<u64>,
        found: &mut HashSet<u64>,
    ) -> io::Result<()> {
        let mut seen: HashSet<u64> = HashSet::new();
        while let Some(dir) = dirs.pop() {
            if !seen.insert(dir) {
                continue;
            }
            let (in_a, in_b) = (self.entries(a, dir)?, self.entries(b, dir)?);
            for (some, others) in [(&in_a, &in_b), (&in_b, &in_a)] {
                for entry in some.iter().filter(|e| others.binary_search(e).is_err()) {
                    if entry.dir {
                        dirs.push(entry.inode);
                    } else {
                        found.insert(entry.inode);
                    }
                }
            }
        }
        Ok(())
    }

    /// What is in a directory, in the order of inodes; not the subvolumes.
    fn entries(&mut self, tree: u64, dir: u64) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let range = Range {
            tree,
            from: (dir, DIR_INDEX, 0),
            to: (dir, DIR_INDEX, u64::MAX),
            since: 0,
        };
        self.searcher.search(self.fd, &range, |item| {
            entries.extend(entry(item.data));
            ControlFlow::Continue(())
        })?;
        entries.sort_unstable();
        Ok(entries)
    }

    fn orphans(&mut self, tree: u64) -> io::Result<HashSet<u64>> {
        let mut orphans = HashSet::new();
        let range = Range {
            tree,
            from: (ORPHANS, ORPHAN_ITEM, 0),
            to: (ORPHANS, ORPHAN_ITEM, u64::MAX),
            since: 0,
        };
        self.each(&range, |item| orphans.extend([item.key.2]))?;
        Ok(orphans)
    }

    /// The extents of these inodes, which are in order.
    fn extents(&mut self, tree: u64, inodes: &[u64], found: &mut Vec<Extent>) -> io::Result<()> {
        for near in inodes.chunk_by(|a, b| b - a <= NEAR) {
            let (Some(&first), Some(&last)) = (near.first(), near.last()) else {
                continue;
            };
            let range = Range {
                tree,
                from: (first, EXTENT_DATA, 0),
                to: (last, EXTENT_DATA, u64::MAX),
                since: 0,
            };
            self.each(&range, |item| {
                if item.key.1 == EXTENT_DATA && near.binary_search(&item.key.0).is_ok() {
                    found.extend(extent(&item));
                }
            })?;
        }
        Ok(())
    }

    /// Every item of the range but some of what is in directories.
    fn each(&mut self, range: &Range, mut each: impl FnMut(Item<'_>)) -> io::Result<()> {
        self.searcher.search_by(self.fd, range, past_dir, |item| {
            each(item);
            ControlFlow::Continue(())
        })
    }
}

/// Where to go on after a key: behind the rest of a directory, which has no
/// extents.
fn past_dir(key: Key) -> Option<Key> {
    match key.1 {
        DIR_ITEM | DIR_INDEX => Some((key.0.checked_add(1)?, 0, 0)),
        _ => next_key(key),
    }
}

/// `struct btrfs_file_extent_item`: type (20), disk_bytenr (21), disk_num_bytes
/// (29), offset (37), num_bytes (45). None for another item, for data that is
/// in the item itself, and for a hole.
fn extent(item: &Item<'_>) -> Option<Extent> {
    const INLINE: u8 = 0;
    if item.key.1 != EXTENT_DATA || *item.data.get(20)? == INLINE {
        return None;
    }
    let extent = Extent {
        bytenr: le64(item.data, 21)?,
        disk: le64(item.data, 29)?,
        start: le64(item.data, 37)?,
        len: le64(item.data, 45)?,
    };
    (extent.bytenr != 0).then_some(extent)
}

/// `struct btrfs_dir_item`: the key of what it names (17 bytes), transid (u64),
/// data_len, name_len (u16), type (u8).
fn entry(data: &[u8]) -> Option<Entry> {
    const DIRECTORY: u8 = 2;
    let kind = *data.get(8)?;
    (kind != ROOT_ITEM).then_some(Entry {
        inode: le64(data, 0)?,
        dir: *data.get(29)? == DIRECTORY,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(kind: u8, data: &[u8]) -> Item<'_> {
        Item {
            key: (257, kind, 0),
            data,
        }
    }

    #[test]
    fn only_what_takes_space_is_an_extent() {
        let mut data = vec![0; 53];
        data[20] = 1;
        assert_eq!(extent(&item(EXTENT_DATA, &data)), None, "a hole");
        (data[21], data[29], data[37], data[45]) = (1, 2, 3, 4);
        let expected = Extent {
            bytenr: 1,
            disk: 2,
            start: 3,
            len: 4,
        };
        assert_eq!(extent(&item(EXTENT_DATA, &data)), Some(expected));
        assert_eq!(extent(&item(INODE_ITEM, &data)), None);
        assert_eq!(extent(&item(EXTENT_DATA, &data[..52])), None, "cut");
        data[20] = 0;
        assert_eq!(extent(&item(EXTENT_DATA, &data)), None, "inline");
    }

    #[test]
    fn a_nested_subvolume_is_no_entry() {
        let mut data = vec![0; 31];
        (data[0], data[8], data[29]) = (7, INODE_ITEM, 2);
        let (inode, dir) = (7, true);
        assert_eq!(entry(&data), Some(Entry { inode, dir }));
        data[8] = ROOT_ITEM;
        assert_eq!(entry(&data), None);
    }
}
