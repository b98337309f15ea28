//! Programs that only one job sees, in the place of what is there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use be_btrfs::Root;

use super::Cover;

/// Write them below a directory that is not in the environment; gives where each is, and where
/// it belongs.
pub(super) fn make<'a>(covers: &'a [Cover], dir: &Path) -> Result<Vec<(PathBuf, &'a Path)>> {
    let numbered = covers.iter().enumerate();
    numbered
        .map(|(i, cover)| {
            let made = dir.join(format!("cover-{i}"));
            fs::write(&made, &cover.text)
                .and_then(|()| fs::set_permissions(&made, fs::Permissions::from_mode(0o755)))
                .with_context(|| format!("cannot make {}", made.display()))?;
            Ok((made, cover.path.as_path()))
        })
        .collect()
}

/// See that there is something to mount at.
pub(super) fn place(env: &Root, path: &Path) -> Result<()> {
    if env.exists(path)? {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        env.mkdir_all(parent, 0o755)?;
    }
    let made = env.create_new(path, 0);
    made.with_context(|| format!("cannot make /{} to mount at", path.display()))?;
    Ok(())
}

/// Take away what was made to be mounted at, also by a job that was killed: an empty file
/// without any permission, which is no program.
///
/// # Errors
/// When it cannot be removed.
pub fn uncover(env: &Root, covers: &[Cover]) -> Result<()> {
    for cover in covers {
        let path = cover.path.strip_prefix("/").unwrap_or(&cover.path);
        let Ok(meta) = env.lstat(path) else { continue };
        if meta.kind.is_file() && meta.size == 0 && meta.mode & 0o7777 == 0 {
            env.remove_file(path)?;
        }
    }
    Ok(())
}
