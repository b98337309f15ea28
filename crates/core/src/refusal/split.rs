//! Why a directory is not turned into a subvolume of its own.

use std::fmt;
use std::path::{Path, PathBuf};

/// The rule that forbids it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoSplit {
    /// The root, what boots it, or what the kernel fills.
    Fixed,
    /// Packages own it.
    Packages,
    /// GRUB's own files, which only can be shared.
    Grub,
    /// It is no directory, or not there.
    NotDirectory,
    /// A link leads elsewhere.
    Link {
        /// Where.
        to: PathBuf,
    },
    /// It is one already.
    Subvolume,
    /// It lies in something that is one for all environments.
    Shared {
        /// Where that is mounted.
        part: PathBuf,
    },
    /// It is a mount, lies in one, or fstab says so.
    Mounted {
        /// Where.
        at: PathBuf,
    },
    /// Mounts or subvolumes lie in it.
    Holds {
        /// Where.
        paths: Vec<PathBuf>,
    },
    /// Processes work in it.
    InUse {
        /// Which ones, a word each.
        by: Vec<String>,
    },
    /// What it would be called is there already.
    Taken {
        /// From the top level.
        name: PathBuf,
    },
    /// Its copy was written to, so that a fresh one cannot replace it.
    Written {
        /// The copy, from the top level.
        name: PathBuf,
    },
}

impl NoSplit {
    /// What to do next.
    pub(super) fn hint(&self, path: &Path) -> String {
        let path = path.display();
        match self {
            NoSplit::Fixed | NoSplit::Packages | NoSplit::NotDirectory => {
                "see be layout split in be(8); a directory that holds only data can be split".into()
            }
            NoSplit::Grub => format!("be layout split {path} shared"),
            NoSplit::Link { to } => format!("be layout split {}", to.display()),
            NoSplit::Subvolume => format!("be layout set {path} cloned, late or shared"),
            NoSplit::Shared { .. } => "be layout shows what is shared".into(),
            NoSplit::Mounted { at } => {
                format!("unmount {0}, and take {0} out of /etc/fstab", at.display())
            }
            NoSplit::Holds { .. } => {
                "unmount or move them, or split a directory that has none in it".into()
            }
            NoSplit::InUse { .. } => "stop it first; it may run again after the reboot".into(),
            NoSplit::Taken { .. } => "rename what is there, on the top level".into(),
            NoSplit::Written { .. } => {
                "reboot to use it; or take its line out of /etc/fstab and rename it".into()
            }
        }
    }
}

impl fmt::Display for NoSplit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |words: &[String]| words.join(", ");
        match self {
            NoSplit::Fixed => write!(f, "every environment needs its own in its root"),
            NoSplit::Packages => write!(
                f,
                "packages own what is in it, and it goes into every environment with the root"
            ),
            NoSplit::Grub => write!(f, "one GRUB boots all environments: it can only be shared"),
            NoSplit::NotDirectory => write!(f, "there is no such directory"),
            NoSplit::Link { to } => write!(f, "a link leads to {}", to.display()),
            NoSplit::Subvolume => write!(f, "it is a subvolume already"),
            NoSplit::Shared { part } => write!(
                f,
                "it lies in {}, which is shared by all environments",
                part.display()
            ),
            NoSplit::Mounted { at } => write!(f, "{} is a mount", at.display()),
            NoSplit::Holds { paths } => {
                let paths: Vec<_> = paths.iter().map(|p| p.display().to_string()).collect();
                write!(f, "it has mounts or subvolumes in it: {}", list(&paths))
            }
            NoSplit::InUse { by } => write!(f, "it is in use by {}", list(by)),
            NoSplit::Taken { name } => write!(f, "/{} exists already", name.display()),
            NoSplit::Written { name } => write!(
                f,
                "its copy, /{}, was written to since, which a fresh copy would lose",
                name.display()
            ),
        }
    }
}
