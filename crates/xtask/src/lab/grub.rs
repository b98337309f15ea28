//! Another GRUB than that of the lab's root: that of another Debian.

use std::path::PathBuf;

use anyhow::Result;

use super::debian::Apt;
use crate::cache::{Key, artifact};
use crate::temp;

/// What GRUB on a BIOS machine is installed from, and by.
const PACKAGES: [&str; 2] = ["grub-pc-bin", "grub2-common"];

/// GRUB 2.06, unpacked: `usr/lib/grub/i386-pc` and `usr/sbin/grub-install`, among others.
///
/// # Errors
/// It cannot be fetched.
pub fn older() -> Result<PathBuf> {
    unpacked("grub-2.06", "bookworm", &PACKAGES)
}

/// The modules of GRUB 2.14, in `usr/lib/grub/i386-pc`. Its programs want a newer C library
/// than the lab has; the lab's own install these modules as well.
///
/// # Errors
/// It cannot be fetched.
pub fn newer() -> Result<PathBuf> {
    unpacked("grub-2.14", "forky", &PACKAGES[..1])
}

fn unpacked(name: &str, suite: &str, packages: &[&str]) -> Result<PathBuf> {
    let key = Key::new("grub")
        .with(include_str!("grub.rs"))
        .with(include_str!("debian.rs"))
        .with(name);
    artifact(name, key, |out| {
        let temp = temp::dir(1 << 28)?;
        let apt = Apt::new(suite, temp.path())?;
        for package in packages {
            apt.unpack(package, out)?;
        }
        Ok(())
    })
}
