//! `struct btrfs_super_block`, and the checksum of it and of every block.

use super::NotFrozen;
use super::node::Pointer;
use crate::tree::{le32, le64};

/// Where the first one is on every device (`BTRFS_SUPER_INFO_OFFSET`), and its size.
pub(super) const AT: u64 = 64 << 10;
pub(super) const SIZE: usize = 4096;

const MAGIC: &[u8] = b"_BHRfS_M";
/// `BTRFS_CSUM_TYPE_CRC32`.
const CRC32C: u16 = 0;
/// The bytes at the start of a block that hold its checksum.
const CHECKSUM: usize = 32;
const LOG_ROOT: usize = 96;
const LOG_ROOT_LEVEL: usize = 200;
/// `btrfs_dev_item.devid` of `dev_item`.
const DEVICE: usize = 201;
const CHUNKS: usize = 811;

/// `BTRFS_FEATURE_INCOMPAT_METADATA_UUID`.
const METADATA_UUID: u64 = 1 << 10;
/// Features that put things elsewhere (`BTRFS_FEATURE_INCOMPAT_*`): zoned devices, the second
/// format of the extent tree, the tree of stripes.
const ELSEWHERE: u64 = 1 << 12 | 1 << 13 | 1 << 14;

/// What one device says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    bytes: Vec<u8>,
    pub(super) generation: u64,
    pub(super) devid: u64,
    pub(super) devices: u64,
    /// Bytes of a block of a tree.
    pub(super) node: usize,
    /// What blocks name as their filesystem.
    pub(super) uuid: [u8; 16],
    /// Blocks can be proven by their checksums.
    pub(super) crc32c: bool,
    pub(super) root: Pointer,
    pub(super) chunk_root: Pointer,
}

impl Superblock {
    /// Read it from its 4096 bytes; none if it is torn, or none.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>, NotFrozen> {
        if bytes.len() < SIZE || &bytes[64..72] != MAGIC {
            return Ok(None);
        }
        let long = |at| le64(bytes, at).unwrap_or(0);
        let incompat = long(188);
        if incompat & ELSEWHERE != 0 {
            return Err(NotFrozen::Unknown("it has a format that is not known"));
        }
        let crc32c = u16::from_le_bytes([bytes[196], bytes[197]]) == CRC32C;
        if crc32c && !is_sound(&bytes[..SIZE]) {
            return Ok(None);
        }
        let uuid = if incompat & METADATA_UUID != 0 {
            571
        } else {
            32
        };
        let generation = long(72);
        let node = le32(bytes, 148).unwrap_or(0) as usize;
        if !(4096..=65536).contains(&node) || !node.is_power_of_two() {
            return Err(NotFrozen::Unknown(
                "its blocks have a size that is not known",
            ));
        }
        Ok(Some(Self {
            generation,
            devid: long(DEVICE),
            devices: long(136),
            node,
            uuid: bytes[uuid..uuid + 16].try_into().unwrap_or_default(),
            crc32c,
            root: Pointer::new(long(80), generation, bytes[198]),
            chunk_root: Pointer::new(long(88), long(164), bytes[199]),
            bytes: bytes[..SIZE].to_vec(),
        }))
    }

    /// `sys_chunk_array`: where the blocks of the chunk tree are.
    pub(super) fn chunks(&self) -> &[u8] {
        let length = le32(&self.bytes, 160).unwrap_or(0) as usize;
        self.bytes.get(CHUNKS..CHUNKS + length).unwrap_or_default()
    }

    /// The same without the log of files that were synced since the commit: it lies in
    /// blocks that come and go. None where that takes a checksum that is not known here.
    pub(super) fn without_log(&self) -> Option<Vec<u8>> {
        let mut bytes = self.bytes.clone();
        if le64(&bytes, LOG_ROOT) == Some(0) {
            return Some(bytes);
        }
        if !self.crc32c {
            return None;
        }
        bytes[LOG_ROOT..LOG_ROOT + 8].fill(0);
        bytes[LOG_ROOT_LEVEL] = 0;
        let sum = crc32c(&bytes[CHECKSUM..]).to_le_bytes();
        bytes[..CHECKSUM].fill(0);
        bytes[..4].copy_from_slice(&sum);
        Some(bytes)
    }
}

/// Whether the checksum at the start of a block is that of the rest.
pub(super) fn is_sound(block: &[u8]) -> bool {
    let sum = crc32c(&block[CHECKSUM..]).to_le_bytes();
    block[..4] == sum && block[4..CHECKSUM].iter().all(|byte| *byte == 0)
}

/// RFC 3720, the polynomial of Castagnoli.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32, byte: &u8| TABLE[usize::from(sum as u8 ^ byte)] ^ (sum >> 8);
    !bytes.iter().fold(!0, step)
}

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 {
                0x82f6_3b78 ^ (sum >> 1)
            } else {
                sum >> 1
            };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    /// A superblock with a log.
    fn superblock() -> Vec<u8> {
        let mut bytes = vec![0; SIZE];
        bytes[64..72].copy_from_slice(MAGIC);
        bytes[72] = 9;
        bytes[LOG_ROOT] = 1;
        bytes[148..152].copy_from_slice(&16384u32.to_le_bytes());
        let sum = crc32c(&bytes[CHECKSUM..]).to_le_bytes();
        bytes[..4].copy_from_slice(&sum);
        bytes
    }

    #[test]
    fn the_log_is_taken_out() {
        let read = Superblock::parse(&superblock()).unwrap().unwrap();
        assert_eq!((read.generation, read.node), (9, 16384));
        let without = read.without_log().unwrap();
        assert!(is_sound(&without));
        let again = Superblock::parse(&without).unwrap().unwrap();
        assert_eq!(again.without_log().unwrap(), without);
        assert_eq!(le64(&without, LOG_ROOT), Some(0));
    }

    #[test]
    fn what_is_torn_or_strange_is_not_read() {
        let mut torn = superblock();
        torn[2000] = 1;
        assert_eq!(Superblock::parse(&torn).unwrap(), None);
        assert_eq!(Superblock::parse(&[0; SIZE]).unwrap(), None);
        let mut zoned = superblock();
        zoned[189] = 1 << 4;
        assert!(matches!(
            Superblock::parse(&zoned),
            Err(NotFrozen::Unknown(_))
        ));
    }
}
