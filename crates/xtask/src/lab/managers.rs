//! Roots of Debian's with a package manager that works, for upgrades by it: its own, or
//! another's that Debian has a package of.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{Key, artifact};
use crate::lab::base::{ROOM, SUITE, pack};
use crate::run::{cmd, run};
use crate::temp;

const MIRROR: &str = "http://deb.debian.org/debian";

/// What nothing reads, and the sources of packages: tests have their own.
const TRIM: &[&str] = &[
    "etc/apt/sources.list",
    "etc/apt/sources.list.d",
    "etc/hostname",
    "etc/resolv.conf",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/share/zoneinfo",
    "var/cache/apt",
    "var/lib/apt/lists",
];

/// A package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Managed {
    /// apt and dpkg.
    Apt,
    /// dnf and rpm, with what builds packages and repositories.
    Dnf,
    /// pacman, with what builds packages and repositories.
    Pacman,
}

impl Managed {
    fn name(self) -> &'static str {
        match self {
            Self::Apt => "manager-apt",
            Self::Dnf => "manager-dnf",
            Self::Pacman => "manager-pacman",
        }
    }

    /// The packages that it takes.
    fn include(self) -> &'static str {
        match self {
            Self::Apt => "apt",
            Self::Dnf => "dnf,rpm,createrepo-c",
            Self::Pacman => "pacman-package-manager,makepkg,libarchive-tools,fakeroot,zstd",
        }
    }
}

/// The tar of a root; built if need be, which takes a minute or two.
///
/// # Errors
/// Packages cannot be fetched, or there is no room.
pub fn ensure(managed: Managed) -> Result<PathBuf> {
    let key = Key::new(managed.name()).with(include_str!("managers.rs"));
    let dir = artifact(managed.name(), key, |out| build(managed, out))?;
    Ok(dir.join("root.tar.zst"))
}

fn build(managed: Managed, out: &Path) -> Result<()> {
    let temp = temp::dir(ROOM)?;
    let root = temp.path().join("root");
    run(cmd(
        "mmdebstrap",
        ["--variant=apt", "--quiet", "--format=directory"],
    )
    .arg(format!("--include={}", managed.include()))
    .arg("--dpkgopt=path-exclude=/usr/share/doc/*")
    .arg("--dpkgopt=path-exclude=/usr/share/man/*")
    .arg("--dpkgopt=path-exclude=/usr/share/locale/*")
    .args([SUITE.as_ref(), root.as_os_str(), MIRROR.as_ref()])
    .env("TMPDIR", temp.path()))?;
    for path in TRIM {
        let path = root.join(path);
        let removed = match fs::symlink_metadata(&path) {
            Err(_) => Ok(()),
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
        };
        removed.with_context(|| format!("remove {}", path.display()))?;
    }
    pack(&root, &out.join("root.tar.zst"), "zstd")
}
