//! The kernels of two environments.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use be_grub::kernel::{BootFiles, compare_versions};
use serde::Serialize;

use super::{Side, entry};
use crate::boot;

/// A kernel in /boot, not proven to boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// By its file name.
    pub version: String,
    /// The name of its file.
    pub file: String,
    /// The name of its initramfs, if there is one.
    pub initramfs: Option<String>,
    /// A copy that was set aside when another of this version was installed.
    pub set_aside: bool,
}

/// What became of the kernels, each list from the oldest to the newest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KernelDiff {
    /// Only in the second.
    pub added: Vec<Kernel>,
    /// Only in the first.
    pub removed: Vec<Kernel>,
    /// In both, with another content, or with another initramfs.
    pub changed: Vec<Kernel>,
}

impl KernelDiff {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }

    /// Compare what lies in /boot. `parted` is as for [`super::walk::Walk::new`].
    pub(super) fn read(a: &Side, b: &Side, parted: Option<i64>) -> Result<Self> {
        let files = |side: &Side| boot::boot_files_in(&side.whole, side.boot.as_ref());
        let (before, after) = (files(a), files(b));
        // A /boot of its own has another history than the root.
        let parted = parted.filter(|_| a.boot.is_none() && b.boot.is_none());
        let same = |a: &BootFiles, b: &BootFiles, dirs: &(OwnedFd, OwnedFd)| -> Result<bool> {
            if a.initrd != b.initrd {
                return Ok(false);
            }
            for name in [Some(&a.linux), a.initrd.as_ref()].into_iter().flatten() {
                if !same_file(dirs, OsStr::new(name), parted)
                    .with_context(|| format!("cannot compare /boot/{name}"))?
                {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let dirs = match (boot_dir(a)?, boot_dir(b)?) {
            (Some(a), Some(b)) => Some((a, b)),
            _ => None,
        };
        let mut diff = Self::default();
        for old in &before {
            match after.iter().find(|new| new.linux == old.linux) {
                None => diff.removed.push(kernel(old)),
                Some(new) => {
                    if let Some(dirs) = &dirs
                        && !same(old, new, dirs)?
                    {
                        diff.changed.push(kernel(new));
                    }
                }
            }
        }
        let is_new = |new: &&BootFiles| !before.iter().any(|old| old.linux == new.linux);
        diff.added.extend(after.iter().filter(is_new).map(kernel));
        for list in [&mut diff.added, &mut diff.removed, &mut diff.changed] {
            list.sort_by(|a, b| {
                compare_versions(&a.version, &b.version).then_with(|| a.file.cmp(&b.file))
            });
        }
        Ok(diff)
    }
}

fn boot_dir(side: &Side) -> Result<Option<OwnedFd>> {
    let dir = match &side.boot {
        Some(boot) => entry::open_dir(boot.root.fd(), Path::new(".")),
        None => entry::open_dir(side.whole.fd(), Path::new("boot")),
    };
    dir.context("cannot open /boot")
}

fn same_file(
    (a, b): &(OwnedFd, OwnedFd),
    name: &OsStr,
    parted: Option<i64>,
) -> std::io::Result<bool> {
    let (Some(old), Some(new)) = (entry::stat(a.as_fd(), name)?, entry::stat(b.as_fd(), name)?)
    else {
        return Ok(false);
    };
    Ok(old.is_untouched(&new, parted) || entry::same_content(a.as_fd(), b.as_fd(), name)?)
}

fn kernel(files: &BootFiles) -> Kernel {
    Kernel {
        version: files.version.clone(),
        file: files.linux.clone(),
        initramfs: files.initrd.clone(),
        set_aside: files.old,
    }
}
