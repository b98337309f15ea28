//! Single packages of Debian's, unpacked and not installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::run::{cmd, run};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The packages of a suite, by an apt whose configuration and state are all private: the
/// host's stay as they are.
#[derive(Debug)]
pub(super) struct Apt {
    options: Vec<String>,
    work: PathBuf,
}

impl Apt {
    /// Those of `suite`, with everything below `work`.
    ///
    /// # Errors
    /// The lists cannot be fetched.
    pub(super) fn new(suite: &str, work: &Path) -> Result<Self> {
        let source = work.join("sources.list");
        fs::write(
            &source,
            format!("deb [signed-by={KEYRING}] http://deb.debian.org/debian {suite} main\n"),
        )?;
        for dir in ["state/lists/partial", "cache/archives/partial", "etc"] {
            fs::create_dir_all(work.join(dir))?;
        }
        let options: Vec<String> = [
            ("Dir::Etc", work.join("etc")),
            ("Dir::Etc::sourcelist", source),
            ("Dir::State", work.join("state")),
            ("Dir::State::status", "/dev/null".into()),
            ("Dir::Cache", work.join("cache")),
        ]
        .into_iter()
        .map(|(name, path)| format!("-o{name}={}", path.display()))
        .chain(
            [
                "APT::Sandbox::User=root",
                "APT::Architecture=amd64",
                "Acquire::Languages=none",
            ]
            .map(|option| format!("-o{option}")),
        )
        .collect();
        run(cmd("apt-get", &options).arg("update"))?;
        let work = work.to_owned();
        Ok(Self { options, work })
    }

    /// What the lists say of a package.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn show(&self, package: &str) -> Result<String> {
        run(cmd("apt-cache", &self.options).args(["show", package]))
    }

    /// Downloads a package and unpacks it below `target`.
    ///
    /// # Errors
    /// It cannot be fetched.
    pub(super) fn unpack(&self, package: &str, target: &Path) -> Result<()> {
        let dir = self.work.join(package);
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        run(cmd("apt-get", &self.options)
            .args(["download", package])
            .current_dir(&dir))?;
        let deb = fs::read_dir(&dir)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|ext| ext == "deb"))
            .with_context(|| format!("no package in {}", dir.display()))?;
        run(cmd("dpkg-deb", ["--extract"]).arg(deb).arg(target))?;
        Ok(())
    }
}
