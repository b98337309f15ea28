//! Another GRUB than that of the lab's root: that of an older Debian.

use std::path::PathBuf;

use anyhow::Result;

use super::debian::Apt;
use crate::cache::{Key, artifact};
use crate::temp;

/// The suite, which has GRUB 2.06.
const SUITE: &str = "bookworm";

/// What GRUB on a BIOS machine is installed from, and by.
const PACKAGES: [&str; 2] = ["grub-pc-bin", "grub2-common"];

/// GRUB 2.06, unpacked: `usr/lib/grub/i386-pc` and `usr/sbin/grub-install`, among others.
///
/// # Errors
/// It cannot be fetched.
pub fn older() -> Result<PathBuf> {
    let key = Key::new("grub")
        .with(include_str!("grub.rs"))
        .with(include_str!("debian.rs"));
    artifact("grub", key, |out| {
        let temp = temp::dir(1 << 28)?;
        let apt = Apt::new(SUITE, temp.path())?;
        for package in PACKAGES {
            apt.unpack(package, out)?;
        }
        Ok(())
    })
}
