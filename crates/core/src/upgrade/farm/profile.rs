//! Where Portage finds what a job is built with, unless the owner says otherwise.

use std::path::PathBuf;

use anyhow::Result;
use be_btrfs::Root;

use super::super::inputs::CONFIGURATION;

/// A larger file of the owner's is not extended, in bytes: it is handed on as an argument.
const MAX_DEFAULTS: u64 = 32 << 10;

/// The last of Portage's profiles, which is the owner's (portage(5)): make.conf and package.env
/// count for more than what is in it, and the process environment counts for more than both.
#[derive(Debug)]
pub(super) struct Profile {
    /// Its directory, if that is only there for us.
    pub(super) made: Option<PathBuf>,
    /// Its make.defaults, from the root of the environment; there is no link in it.
    pub(super) file: PathBuf,
    /// What is in that.
    pub(super) text: String,
}

impl Profile {
    /// Where it is in an environment, be it there or not.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn find(env: &Root) -> Result<Self> {
        let followed = |path: PathBuf| match env.lstat(&path) {
            Ok(meta) if meta.kind.is_symlink() => env.canonicalize(path).map(Some),
            Ok(_) => Ok(Some(path)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        };
        let dir = env.canonicalize(CONFIGURATION)?.join("profile");
        let there = followed(dir.clone())?;
        let file = there.as_ref().unwrap_or(&dir).join("make.defaults");
        let (file, text) = match followed(file.clone())? {
            Some(file) => {
                let text = env.read_to_string(&file, MAX_DEFAULTS)?;
                (file, text)
            }
            None => (file, String::new()),
        };
        Ok(Self {
            made: there.is_none().then_some(dir),
            file,
            text,
        })
    }
}
