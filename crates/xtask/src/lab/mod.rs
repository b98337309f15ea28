//! Builds the lab's parts, each cached by the content that it is made of.

use std::path::{Path, PathBuf};
use std::sync::Once;

use anyhow::Result;

use crate::{cache, image, run, say, temp};

pub mod base;
mod boot;
mod debian;
pub mod disk;
pub mod extras;
pub mod grub;
mod guest;
pub mod inits;
mod kernel;
pub mod luks;
pub mod managers;
mod root;

pub use kernel::Kernel;

/// The parts of the lab that everything else is made from.
#[derive(Debug, Clone)]
pub struct Lab {
    /// The installed root: a compressed tar.
    pub root_tar: PathBuf,
    /// The kernel installed in it.
    pub old_kernel: Kernel,
    /// The kernel that an upgrade brings.
    pub new_kernel: Kernel,
}

impl Lab {
    /// The lab, built if need be (needs root; minutes when nothing is cached).
    ///
    /// # Errors
    /// Something cannot be fetched, built or written.
    pub fn ensure() -> Result<Self> {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(temp::sweep);
        let kernels = kernel::ensure()?;
        let base = base::ensure()?;
        let root_tar = root::ensure(&base, &kernels)?;
        let [old_kernel, new_kernel] = kernels.versions;
        Ok(Self {
            root_tar,
            old_kernel,
            new_kernel,
        })
    }
}

/// The lab's recipe files, in the source tree.
fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/lab")
}

/// Builds every part, the disks of all layouts included, and says where it is.
///
/// # Errors
/// As [`Lab::ensure`].
pub fn build_all() -> Result<()> {
    let lab = Lab::ensure()?;
    for layout in image::Layout::ALL {
        disk::ensure(&lab, layout)?;
    }
    let base = base::ensure()?;
    for init in inits::Init::ALL {
        inits::ensure(init, &base)?;
    }
    grub::older()?;
    let sizes = run::run(run::cmd("du", ["-h", "--max-depth=1"]).arg(cache::dir()))?;
    for line in sizes.lines() {
        say(line);
    }
    Ok(())
}
