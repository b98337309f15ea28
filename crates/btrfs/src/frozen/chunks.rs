//! Where on the devices a logical address is (`struct btrfs_chunk`).

use std::collections::BTreeMap;

use super::NotFrozen;
use super::node::key;
use crate::tree::le64;

/// `BTRFS_CHUNK_ITEM_KEY`.
pub(super) const CHUNK_ITEM: u8 = 228;
/// `sizeof(struct btrfs_disk_key)`, of a chunk without its stripes, and of a stripe.
const KEY: usize = 17;
const CHUNK: usize = 48;
const STRIPE: usize = 32;

/// Bits of its type: the profiles.
const RAID0: u64 = 1 << 3;
const RAID10: u64 = 1 << 6;
const PARITY: u64 = 1 << 7 | 1 << 8;

/// A device, by its id, and a place on it in bytes.
pub(super) type Place = (u64, u64);

#[derive(Debug, Clone)]
struct Chunk {
    length: u64,
    stripe_length: u64,
    kind: u64,
    /// How many stripes hold the same, of RAID10.
    copies: usize,
    stripes: Vec<Place>,
}

/// All that are known.
#[derive(Debug, Clone, Default)]
pub(super) struct Chunks(BTreeMap<u64, Chunk>);

impl Chunks {
    /// Those of the superblock, each after its key.
    pub(super) fn of_superblock(mut bytes: &[u8]) -> Self {
        let mut chunks = Self::default();
        while let Some((_, CHUNK_ITEM, at)) = key(bytes) {
            let Some(length) = chunks.add(at, &bytes[KEY..]) else {
                break;
            };
            bytes = &bytes[KEY + length..];
        }
        chunks
    }

    /// Add one; how many bytes it has.
    pub(super) fn add(&mut self, at: u64, bytes: &[u8]) -> Option<usize> {
        let short = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let count = usize::from(short(44)?);
        let stripes = bytes.get(CHUNK..CHUNK + count * STRIPE)?;
        let stripes = stripes.chunks_exact(STRIPE);
        let chunk = Chunk {
            length: le64(bytes, 0)?,
            stripe_length: le64(bytes, 16)?.max(1),
            kind: le64(bytes, 24)?,
            copies: usize::from(short(46)?).max(1),
            stripes: stripes
                .filter_map(|s| Some((le64(s, 0)?, le64(s, 8)?)))
                .collect(),
        };
        self.0.insert(at, chunk);
        Some(CHUNK + count * STRIPE)
    }

    /// All places where a block is. Blocks do not cross the end of a stripe.
    pub(super) fn places(&self, block: u64) -> Result<Vec<Place>, NotFrozen> {
        let found = self.0.range(..=block).next_back();
        let found = found.filter(|(start, chunk)| block - **start < chunk.length);
        let (start, chunk) = found.ok_or(NotFrozen::Damaged(block))?;
        let offset = block - start;
        if chunk.kind & PARITY != 0 {
            return Err(NotFrozen::Unknown("its metadata is RAID5 or RAID6"));
        }
        let width = match chunk.kind & (RAID0 | RAID10) {
            0 => {
                let places = chunk.stripes.iter();
                return Ok(places.map(|(device, at)| (*device, at + offset)).collect());
            }
            RAID0 => 1,
            _ => chunk.copies,
        };
        let number = offset / chunk.stripe_length;
        let rows = (chunk.stripes.len() / width).max(1) as u64;
        let first = (number % rows) as usize * width;
        let within = number / rows * chunk.stripe_length + offset % chunk.stripe_length;
        let places = chunk.stripes.iter().skip(first).take(width);
        Ok(places.map(|(device, at)| (*device, at + within)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(kind: u64, copies: u16, stripes: &[Place]) -> Vec<u8> {
        let mut bytes = vec![0; CHUNK];
        bytes[..8].copy_from_slice(&(1u64 << 30).to_le_bytes());
        bytes[16..24].copy_from_slice(&(64u64 << 10).to_le_bytes());
        bytes[24..32].copy_from_slice(&kind.to_le_bytes());
        bytes[44..46].copy_from_slice(&(stripes.len() as u16).to_le_bytes());
        bytes[46..48].copy_from_slice(&copies.to_le_bytes());
        for (device, at) in stripes {
            bytes.extend(device.to_le_bytes());
            bytes.extend(at.to_le_bytes());
            bytes.extend([0; 16]);
        }
        bytes
    }

    fn places(kind: u64, copies: u16, stripes: &[Place], block: u64) -> Vec<Place> {
        let mut chunks = Chunks::default();
        chunks.add(1 << 20, &chunk(kind, copies, stripes)).unwrap();
        chunks.places(block).unwrap()
    }

    #[test]
    fn every_profile_has_its_places() {
        const K: u64 = 64 << 10;
        let at = |offset: u64| (1 << 20) + offset;
        let two = [(1, 10 * K), (2, 20 * K)];
        let four = [(1, 0), (2, 0), (3, 0), (4, 0)];
        // DUP and RAID1: every stripe has it.
        assert_eq!(places(0, 1, &two, at(K)), [(1, 11 * K), (2, 21 * K)]);
        assert_eq!(places(RAID0, 1, &two, at(K)), [(2, 20 * K)]);
        assert_eq!(places(RAID0, 1, &two, at(2 * K + 5)), [(1, 11 * K + 5)]);
        assert_eq!(places(RAID10, 2, &four, at(K)), [(3, 0), (4, 0)]);
        assert_eq!(places(RAID10, 2, &four, at(2 * K)), [(1, K), (2, K)]);
    }

    #[test]
    fn the_array_of_the_superblock_is_read_to_its_end() {
        let mut bytes = Vec::new();
        for at in [1u64 << 20, 1 << 31] {
            bytes.extend(256u64.to_le_bytes());
            bytes.push(CHUNK_ITEM);
            bytes.extend(at.to_le_bytes());
            bytes.extend(chunk(0, 1, &[(1, at)]));
        }
        let chunks = Chunks::of_superblock(&bytes);
        assert_eq!(chunks.places(1 << 31).unwrap(), [(1, 1 << 31)]);
        assert!(matches!(chunks.places(1 << 40), Err(NotFrozen::Damaged(_))));
    }
}
