//! The GRUB side of `be`: what GRUB is told, and how it comes to read it.
//!
//! - [`menu`]: the menu file, rendered and read back
//! - [`access`]: what of it needs a password
//! - [`quote`]: any text as one safe word of GRUB's language
//! - [`hook`]: the few lines in `grub.cfg` that source the menu file
//! - [`selection`]: what the menu boots by itself: once, on trial, and back
//! - [`envblk`]: the few variables that GRUB can write, in a file or in the header of a btrfs
//! - [`place`]: where GRUB can write them
//! - [`validate`]: `grub-script-check`, the only process started here
//! - [`cmdline`], [`default_grub`]: kernel arguments
//! - [`kernel`]: kernels and their initramfs images in a `/boot`
//!
//! Everything but [`validate`], [`envblk::file`] and [`envblk::device`] is pure: text in, text out.

pub mod access;
pub mod cmdline;
pub mod default_grub;
pub mod envblk;
pub mod hook;
pub mod kernel;
pub mod menu;
pub mod place;
pub mod quote;
pub mod selection;
mod shell;
pub mod validate;
