//! Programs of Debian's that few tests need, to be laid over the lab's root.
//!
//! Only what the root lacks comes from the packages; their scripts are not run.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{base, inits, root};
use crate::cache::{Key, artifact};
use crate::run::{cmd, run};
use crate::temp;

/// A set of programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extra {
    /// For who serves binary packages, and who fetches them: nginx, wget, gpg.
    Binhost,
}

const MIRROR: &str = "http://deb.debian.org/debian";

/// What nothing in the lab reads.
const TRIM: &[&str] = &[
    "etc/apt",
    "etc/dpkg",
    "etc/fstab",
    "etc/hostname",
    "etc/init.d",
    "etc/kernel",
    "etc/resolv.conf",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/lib/x86_64-linux-gnu/perl-base",
    "usr/share",
    "var",
];

impl Extra {
    fn name(self) -> &'static str {
        match self {
            Self::Binhost => "binhost",
        }
    }

    fn packages(self) -> &'static str {
        match self {
            Self::Binhost => "gpg,gpg-agent,gpgv,wget,ca-certificates,nginx-light",
        }
    }

    /// Lays it over the lab's root that is mounted at `root`.
    ///
    /// # Errors
    /// It cannot be fetched or written.
    pub fn install(self, root: &Path) -> Result<()> {
        base::unpack(&ensure(self, &base::ensure()?)?, root)
    }
}

/// The tar of what it adds to the root.
pub fn ensure(extra: Extra, base: &Path) -> Result<PathBuf> {
    let name = format!("extra-{}", extra.name());
    let key = Key::new(&name)
        .with(include_str!("extras.rs"))
        .with(root::parent_name(base)?);
    Ok(artifact(&name, key, |out| build(out, extra, base))?.join("extra.tar"))
}

fn build(out: &Path, extra: Extra, base_tar: &Path) -> Result<()> {
    let temp = temp::dir(1 << 30)?;
    let root = temp.path().join("root");
    run(cmd(
        "mmdebstrap",
        ["--variant=extract", "--quiet", "--format=directory"],
    )
    .arg(format!("--include={}", extra.packages()))
    .args([base::SUITE.as_ref(), root.as_os_str(), MIRROR.as_ref()])
    .env("TMPDIR", temp.path()))?;
    let trimmed = TRIM.iter().map(|path| root.join(path));
    run(cmd("rm", ["-rf"]).args(trimmed))?;
    inits::drop_known(&root, base_tar)?;
    base::pack(&root, &out.join("extra.tar"), "none")
}
