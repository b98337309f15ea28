//! Who else refers to an extent, by the extent tree.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;

use crate::ioctl::{Key, Range, Searcher};
use crate::tree::le64;

/// `BTRFS_EXTENT_TREE_OBJECTID`.
const EXTENT_TREE: u64 = 2;
// Key types of `linux/btrfs_tree.h`, and types of references within an item.
const EXTENT_ITEM: u8 = 168;
const METADATA_ITEM: u8 = 169;
const EXTENT_OWNER_REF: u8 = 172;
const TREE_BLOCK_REF: u8 = 176;
const EXTENT_DATA_REF: u8 = 178;
const SHARED_BLOCK_REF: u8 = 182;
const SHARED_DATA_REF: u8 = 184;
/// `BTRFS_EXTENT_FLAG_TREE_BLOCK`.
const TREE_BLOCK: u64 = 2;

/// Extents with less between them are looked up in one search, in bytes.
const NEAR: u64 = 64 << 10;

/// One reference to an extent or to a tree block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reference {
    /// By a tree, from a block that is its own.
    Tree(u64),
    /// By a block, whoever has it.
    Block(u64),
}

/// What refers to an extent.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct References {
    /// How many references the extent tree has, not counting how often each.
    pub count: usize,
    /// Whether one is from elsewhere.
    pub foreign: bool,
}

/// Reads the extent tree.
pub(super) struct Backrefs<'a> {
    fd: BorrowedFd<'a>,
    searcher: Searcher,
    /// The trees that are not elsewhere: with each, all those that it could
    /// share blocks with.
    home: &'a HashSet<u64>,
    /// Blocks, and whether they are in those trees.
    known: HashMap<u64, bool>,
}

impl<'a> Backrefs<'a> {
    pub(super) fn new(fd: BorrowedFd<'a>, home: &'a HashSet<u64>) -> Backrefs<'a> {
        Backrefs {
            fd,
            searcher: Searcher::new(),
            home,
            known: HashMap::new(),
        }
    }

    /// What refers to each of these data extents, which are in order. Nothing
    /// refers to one that is gone by now.
    pub(super) fn of(&mut self, extents: &[u64]) -> io::Result<Vec<References>> {
        let mut all = vec![References::default(); extents.len()];
        let mut shared: Vec<(usize, u64)> = Vec::new();
        let mut first = 0;
        for near in extents.chunk_by(|a, b| b - a <= NEAR) {
            let home = self.home;
            let mut at = first;
            let range = (near[0], near[near.len() - 1]);
            search(&mut self.searcher, self.fd, range, |key, data| {
                while at + 1 < first + near.len() && extents[at] < key.0 {
                    at += 1;
                }
                if extents[at] != key.0 {
                    return;
                }
                each_reference(key, data, |reference| {
                    all[at].count += 1;
                    match reference {
                        Reference::Tree(id) => all[at].foreign |= !home.contains(&id),
                        Reference::Block(block) => shared.push((at, block)),
                    }
                });
            })?;
            first += near.len();
        }
        for (at, block) in shared {
            all[at].foreign = all[at].foreign || !self.is_home(block)?;
        }
        Ok(all)
    }

    /// Whether the trees that have this block are of ours. Trees that have a
    /// block in common are related, so one of them speaks for all; but one that
    /// is being deleted is nobody's and says nothing.
    fn is_home(&mut self, block: u64) -> io::Result<bool> {
        let mut seen = HashSet::new();
        let mut waiting = vec![block];
        let mut home = false;
        while let Some(block) = waiting.pop() {
            if let Some(&known) = self.known.get(&block) {
                home = known;
                if home { break } else { continue }
            }
            if !seen.insert(block) {
                continue;
            }
            let trees = self.home;
            search(&mut self.searcher, self.fd, (block, block), |key, data| {
                each_reference(key, data, |reference| match reference {
                    Reference::Tree(id) => home |= trees.contains(&id),
                    Reference::Block(parent) => waiting.push(parent),
                });
            })?;
            if home {
                break;
            }
        }
        self.known.insert(block, home);
        Ok(home)
    }
}

/// All items of the extents from the first to the last of the range.
fn search(
    searcher: &mut Searcher,
    fd: BorrowedFd<'_>,
    (first, last): (u64, u64),
    mut each: impl FnMut(Key, &[u8]),
) -> io::Result<()> {
    let range = Range {
        tree: EXTENT_TREE,
        from: (first, EXTENT_ITEM, 0),
        to: (last, SHARED_DATA_REF, u64::MAX),
        since: 0,
    };
    searcher.search(fd, &range, |item| {
        each(item.key, item.data);
        ControlFlow::Continue(())
    })
}

/// The references in an item of the extent tree: those within the item of the
/// extent itself, or the one that an item of its own is.
fn each_reference(key: Key, data: &[u8], mut found: impl FnMut(Reference)) {
    match key.1 {
        EXTENT_ITEM | METADATA_ITEM => {
            // `struct btrfs_extent_item`: refs, generation, flags (u64); then, in
            // an EXTENT_ITEM of a tree block, `struct btrfs_tree_block_info`.
            let is_block = le64(data, 16).is_some_and(|flags| flags & TREE_BLOCK != 0);
            let skip = if is_block && key.1 == EXTENT_ITEM {
                18
            } else {
                0
            };
            let mut rest = data.get(24 + skip..).unwrap_or_default();
            while let Some((&kind, body)) = rest.split_first() {
                let Some(size) = size_of_reference(kind) else {
                    return;
                };
                let Some(number) = le64(body, 0) else { return };
                match kind {
                    TREE_BLOCK_REF | EXTENT_DATA_REF => found(Reference::Tree(number)),
                    SHARED_BLOCK_REF | SHARED_DATA_REF => found(Reference::Block(number)),
                    _ => {}
                }
                rest = body.get(size..).unwrap_or_default();
            }
        }
        TREE_BLOCK_REF => found(Reference::Tree(key.2)),
        EXTENT_DATA_REF => {
            if let Some(root) = le64(data, 0) {
                found(Reference::Tree(root));
            }
        }
        SHARED_BLOCK_REF | SHARED_DATA_REF => found(Reference::Block(key.2)),
        _ => {}
    }
}

/// Of `struct btrfs_extent_inline_ref`, after the type. A data reference is a
/// `struct btrfs_extent_data_ref` (root, inode, offset, u32 count) or a block
/// and a u32 count; the others are one number.
fn size_of_reference(kind: u8) -> Option<usize> {
    match kind {
        EXTENT_DATA_REF => Some(28),
        SHARED_DATA_REF => Some(12),
        TREE_BLOCK_REF | SHARED_BLOCK_REF | EXTENT_OWNER_REF => Some(8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(key: Key, data: &[u8]) -> Vec<Reference> {
        let mut all = Vec::new();
        each_reference(key, data, |r| all.push(r));
        all
    }

    fn inline(kind: u8, number: u64) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend(number.to_le_bytes());
        bytes.resize(1 + size_of_reference(kind).unwrap(), 0);
        bytes
    }

    #[test]
    fn references_in_the_item_of_the_extent() {
        let mut data = vec![0; 24];
        data[16] = 1;
        data.extend(inline(EXTENT_OWNER_REF, 9));
        data.extend(inline(EXTENT_DATA_REF, 256));
        data.extend(inline(SHARED_DATA_REF, 4096));
        let both = [Reference::Tree(256), Reference::Block(4096)];
        assert_eq!(references((1, EXTENT_ITEM, 2), &data), both);
        data.pop();
        data.truncate(data.len() - 12);
        assert_eq!(references((1, EXTENT_ITEM, 2), &data), both[..1], "cut");
    }

    #[test]
    fn references_to_a_tree_block() {
        let mut data = vec![0; 24];
        data[16] = 2;
        data.extend(inline(TREE_BLOCK_REF, 256));
        data.extend(inline(SHARED_BLOCK_REF, 4096));
        let both = [Reference::Tree(256), Reference::Block(4096)];
        assert_eq!(references((1, METADATA_ITEM, 0), &data), both);
        // Without skinny metadata there is a key and a level before them.
        data.splice(24..24, [0; 18]);
        assert_eq!(references((1, EXTENT_ITEM, 2), &data), both);
    }

    #[test]
    fn references_as_items_of_their_own() {
        for (key, data, expected) in [
            (
                (1, EXTENT_DATA_REF, 77),
                vec![5; 28],
                Reference::Tree(0x0505_0505_0505_0505),
            ),
            ((1, SHARED_DATA_REF, 77), vec![1; 4], Reference::Block(77)),
            ((1, TREE_BLOCK_REF, 77), vec![], Reference::Tree(77)),
            ((1, SHARED_BLOCK_REF, 77), vec![], Reference::Block(77)),
        ] {
            assert_eq!(references(key, &data), [expected]);
        }
    }
}
