//! What `be` needs of btrfs, and paths inside an environment.
//!
//! * [`TopLevel`]: the top level of a filesystem through a private, detached
//!   mount, and what is done there: snapshots, deletion by identity, space,
//!   changed files.
//! * [`Tree`]: every subvolume of the filesystem, read in one search.
//! * [`frozen`]: a filesystem as it was at one commit, while it goes on being written.
//! * [`stream`]: what `btrfs send` writes: made, read and carried out.
//! * [`rooted`]: paths that cannot leave the directory they are relative to.
//!
//! Snapshots, creation, the default subvolume and commits go through
//! btrfsutil. What it lacks, or what needs more than a path to be safe, is in
//! a small module of ioctls (the only one with unsafe code). Numbers and
//! layouts come from `linux/btrfs.h` and `linux/btrfs_tree.h`.
//!
//! Unless a function says otherwise it needs `CAP_SYS_ADMIN`, and those that
//! go through btrfsutil need `/proc`. Nothing here prints or reads the
//! environment.

mod changed;
mod cleaned;
mod error;
mod exclusive;
pub mod frozen;
mod info;
mod ioctl;
pub mod rooted;
mod space;
pub mod stream;
mod subvolume;
mod swap;
mod top;
mod tree;
mod unshared;
mod uuid;

pub use changed::ChangedFile;
pub use error::{Error, Reason, Result};
pub use exclusive::{Gone, Usage};
pub use info::{
    SubvolumeInfo, Within, checkpoint_journal, is_btrfs, is_subvolume_root, subvolume_info,
    subvolume_of, uuid_of,
};
pub use rooted::{FileType, Root};
pub use space::{BlockGroups, Device, Space};
pub use subvolume::Mode;
pub use swap::active_swapfiles;
pub use top::TopLevel;
pub use tree::{Node, Tree};
pub use unshared::unshared;
pub use uuid::{ParseError as ParseUuidError, Uuid};

/// The id of the top level subvolume (`BTRFS_FS_TREE_OBJECTID`).
pub const TOP_LEVEL_ID: u64 = 5;
