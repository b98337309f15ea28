//! Programs of Debian's that few tests need, to be laid over the lab's root.
//!
//! Only what the root lacks comes from the packages; their scripts are not run.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{base, inits, root};
use crate::cache::{Key, artifact};
use crate::run::{cmd, run};
use crate::temp;

/// A set of programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extra {
    /// For who serves binary packages, and who fetches them: nginx, wget, gpg.
    Binhost,
    /// For who compiles, alone or with others: gcc, distcc, ccache, sccache, icecream.
    Farm,
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

/// Sanitizers and what only link-time optimisation and profiles need: two thirds of it.
const FARM_TRIM: &[&str] = &[
    "usr/bin/gprofng",
    "usr/bin/x86_64-linux-gnu-gcov",
    "usr/bin/x86_64-linux-gnu-gprofng",
    "usr/bin/x86_64-linux-gnu-lto-dump",
    "usr/lib/gcc/x86_64-linux-gnu/14/libasan",
    "usr/lib/gcc/x86_64-linux-gnu/14/libhwasan",
    "usr/lib/gcc/x86_64-linux-gnu/14/liblsan",
    "usr/lib/gcc/x86_64-linux-gnu/14/libtsan",
    "usr/lib/gcc/x86_64-linux-gnu/14/libubsan",
    "usr/lib/x86_64-linux-gnu/libasan",
    "usr/lib/x86_64-linux-gnu/libc.a",
    "usr/lib/x86_64-linux-gnu/libgprofng",
    "usr/lib/x86_64-linux-gnu/libhwasan",
    "usr/lib/x86_64-linux-gnu/liblsan",
    "usr/lib/x86_64-linux-gnu/libm-2.41.a",
    "usr/lib/x86_64-linux-gnu/libtsan",
    "usr/lib/x86_64-linux-gnu/libubsan",
    "usr/libexec/gcc/x86_64-linux-gnu/14/lto1",
];

impl Extra {
    fn name(self) -> &'static str {
        match self {
            Self::Binhost => "binhost",
            Self::Farm => "farm",
        }
    }

    fn packages(self) -> &'static str {
        match self {
            Self::Binhost => "gpg,gpg-agent,gpgv,wget,ca-certificates,nginx-light",
            Self::Farm => "gcc,libc6-dev,distcc,ccache,sccache,icecc",
        }
    }

    /// What is taken away besides, by the beginnings of paths.
    fn trim(self) -> &'static [&'static str] {
        match self {
            Self::Binhost => &[],
            Self::Farm => FARM_TRIM,
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
    drop_beginning_with(&root, extra.trim())?;
    if extra == Extra::Farm {
        masquerade(&root)?;
    }
    inits::drop_known(&root, base_tar)?;
    base::pack(&root, &out.join("extra.tar"), "none")
}

fn drop_beginning_with(root: &Path, beginnings: &[&str]) -> Result<()> {
    for beginning in beginnings {
        let path = root.join(beginning);
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            continue;
        };
        let entries = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
        for entry in entries {
            let found = entry?;
            let begins = found
                .file_name()
                .as_encoded_bytes()
                .starts_with(name.as_encoded_bytes());
            if begins {
                fs::remove_file(found.path())
                    .with_context(|| format!("remove {}", found.path().display()))?;
            }
        }
    }
    Ok(())
}

/// Compilers by their names as the packages of Gentoo have them, which make distcc and ccache
/// come before the real ones; and icecream's, which will not pack a C compiler alone.
fn masquerade(root: &Path) -> Result<()> {
    for engine in ["ccache", "distcc"] {
        let dir = root.join("usr/lib").join(engine).join("bin");
        fs::create_dir_all(&dir)?;
        for name in ["cc", "gcc", "x86_64-linux-gnu-gcc"] {
            let link = dir.join(name);
            symlink(format!("../../../bin/{engine}"), &link)
                .with_context(|| format!("make {}", link.display()))?;
        }
    }
    symlink("gcc", root.join("usr/bin/g++")).context("make /usr/bin/g++")?;
    // Without it file(1), which icecream asks, knows nothing.
    let magic = root.join("usr/share/misc");
    fs::create_dir_all(&magic)?;
    symlink("../../lib/file/magic.mgc", magic.join("magic.mgc")).context("link the magic")
}
