//! The stream of `btrfs send`, version 1 (`fs/btrfs/send.h` of the kernel): what to do to make
//! a subvolume into another one.
//!
//! It is read here and not left to `btrfs receive`, which trusts it: every path of it is
//! opened below the root of the new subvolume, with no link followed, and the parent is the
//! one that the caller has looked at. The checksums of its commands are not looked at: they
//! say nothing of what is left out, so that the caller has better ones around the whole.

mod apply;
mod command;
mod touched;

pub use apply::{Apply, Parent};
pub use command::{Command, END_LENGTH, Splitter, is_end, remove_dir};
pub use touched::Touched;
