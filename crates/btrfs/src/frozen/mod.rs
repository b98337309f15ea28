//! A filesystem as it was at one commit, while it goes on being written.
//!
//! Whoever reads the devices of a mounted btrfs beside the kernel sees a superblock and, a
//! moment later, trees of which blocks have been given to others: a block that a transaction
//! frees is written again as soon as the next one is committed. [`Copier`] therefore copies
//! the blocks of those trees and proves each by its checksum, its address and the generation
//! that its parent names. When one has been replaced meanwhile it begins again from the new
//! superblock; address and generation identify a block for ever, so that each time only what
//! is new is read, and the last round is short enough to see one commit alone.
//!
//! Data is not copied. What a snapshot refers to is never written while the snapshot is
//! there, and the same goes for the blocks of its tree: of a subvolume with a snapshot only
//! the blocks that are newer have to be copied, see [`Wanted`].
//!
//! Layouts are those of `linux/btrfs_tree.h`.

mod chunks;
mod copy;
mod device;
mod node;
mod superblock;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;

pub use copy::Copier;
pub use device::Device;

/// Which trees of files and directories are copied, and what of them: a block is, if its
/// generation is above this one, and the topmost block in any case. With a snapshot that is
/// the transaction in which it was taken, without one 0. All other trees of the filesystem are
/// copied whole, and of the subvolumes that are not named here nothing is.
pub type Wanted = HashMap<u64, u64>;

/// What was copied.
#[derive(Debug)]
pub struct Frozen {
    /// The transaction that it shows.
    pub generation: u64,
    /// Where the copies belong.
    pub pieces: Vec<Piece>,
    /// Bytes that were copied, and how often it was begun again.
    pub bytes: u64,
    /// See `bytes`.
    pub rounds: u32,
}

/// Some bytes of a device, and where their copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The device, by its place in the list that was given.
    pub device: usize,
    /// From its start, in bytes; a multiple of 4096.
    pub at: u64,
    /// How many; a multiple of 4096.
    pub length: u64,
    /// Where they are in the file of copies; a multiple of 4096.
    pub copy: u64,
}

/// Why there is no copy.
#[derive(Debug)]
pub enum NotFrozen {
    /// Blocks were replaced faster than they could be read.
    Changing,
    /// A deleted subvolume is not gone: the cleaner has not come to its end, or somebody has files
    /// of it open.
    Dropping,
    /// Somebody asked to stop.
    Interrupted,
    /// This is not known how to be read.
    Unknown(&'static str),
    /// A block is not what its parent says, and no copy of it is.
    Damaged(u64),
    /// The device cannot be read.
    Device(PathBuf, io::Error),
    /// The copies cannot be written.
    Copies(io::Error),
}

impl fmt::Display for NotFrozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changing => f.write_str("it changes faster than it can be read"),
            Self::Dropping => f.write_str(
                "a deleted subvolume is still in use: btrfs subvolume sync, or end what has files of \
                 it open",
            ),
            Self::Interrupted => f.write_str("it was interrupted"),
            Self::Unknown(what) => write!(f, "{what}"),
            Self::Damaged(block) => write!(f, "the block {block} of its trees is damaged"),
            Self::Device(path, e) => write!(f, "cannot read {}: {e}", path.display()),
            Self::Copies(e) => write!(f, "cannot write the copies: {e}"),
        }
    }
}

impl std::error::Error for NotFrozen {}
