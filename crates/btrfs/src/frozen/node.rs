//! A block of a tree (`struct btrfs_header` and what follows it).

use super::superblock::{Superblock, is_sound};
use crate::tree::{le32, le64};

/// `sizeof(struct btrfs_header)`, `btrfs_key_ptr` and `btrfs_item`.
const HEADER: usize = 101;
const KEY_POINTER: usize = 33;
const ITEM: usize = 25;

/// What a parent says of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Pointer {
    /// Its logical address.
    pub(super) block: u64,
    /// The transaction that wrote it.
    pub(super) generation: u64,
    /// 0 for a leaf.
    pub(super) level: u8,
}

impl Pointer {
    pub(super) fn new(block: u64, generation: u64, level: u8) -> Self {
        Self {
            block,
            generation,
            level,
        }
    }

    /// Whether these bytes are that block.
    pub(super) fn is(&self, bytes: &[u8], of: &Superblock) -> bool {
        bytes.len() == of.node
            && bytes[32..48] == of.uuid
            && le64(bytes, 48) == Some(self.block)
            && le64(bytes, 80) == Some(self.generation)
            && bytes[100] == self.level
            && (!of.crc32c || is_sound(bytes))
    }
}

/// objectid, type, offset.
pub(super) type Key = (u64, u8, u64);

/// A key at the start of these bytes (`struct btrfs_disk_key`, 17 bytes).
pub(super) fn key(bytes: &[u8]) -> Option<Key> {
    Some((le64(bytes, 0)?, *bytes.get(8)?, le64(bytes, 9)?))
}

fn count(bytes: &[u8]) -> usize {
    le32(bytes, 96).unwrap_or(0) as usize
}

/// The blocks below one that is no leaf.
pub(super) fn children(bytes: &[u8]) -> Vec<Pointer> {
    let level = bytes[100].saturating_sub(1);
    let pointers = bytes[HEADER..].chunks_exact(KEY_POINTER);
    let read = |at: &[u8]| Some(Pointer::new(le64(at, 17)?, le64(at, 25)?, level));
    pointers.take(count(bytes)).filter_map(read).collect()
}

/// The items of a leaf.
pub(super) fn items(bytes: &[u8]) -> Vec<(Key, &[u8])> {
    let headers = bytes[HEADER..].chunks_exact(ITEM);
    let read = |at: &[u8]| {
        let start = HEADER + le32(at, 17)? as usize;
        let length = le32(at, 21)? as usize;
        Some((key(at)?, bytes.get(start..start.checked_add(length)?)?))
    };
    let items = headers.take(count(bytes));
    items.filter_map(read).collect()
}
