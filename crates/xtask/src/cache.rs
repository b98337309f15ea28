//! Artifacts that are cached by what they are made of.
//!
//! An artifact is a directory `NAME-KEY`, the key being a hash of all its
//! inputs: the source file that makes it is the first of them. It is made under a temporary name with a lock held and appears by
//! one rename, so an interrupted or concurrent build is never seen.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

/// Another checkout, with other recipes, may be at work on the same cache.
const UNUSED: Duration = Duration::from_secs(6 * 3600);

/// Collects the inputs of an artifact.
#[derive(Default)]
pub struct Key(Sha256);

impl Key {
    /// A key that depends on a name so far.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self::default().with(name)
    }

    /// Adds a text or bytes.
    #[must_use]
    pub fn with(mut self, input: impl AsRef<[u8]>) -> Self {
        let input = input.as_ref();
        self.0.update((input.len() as u64).to_le_bytes());
        self.0.update(input);
        self
    }

    /// Adds a file or all files below a directory: names, modes, content.
    ///
    /// # Errors
    /// Something there cannot be read.
    pub fn with_tree(self, path: &Path) -> Result<Self> {
        let meta =
            fs::symlink_metadata(path).with_context(|| format!("read {}", path.display()))?;
        let name = path.file_name().unwrap_or_default();
        let mut key = self.with(name.as_bytes());
        if meta.is_dir() {
            let mut entries: Vec<PathBuf> = fs::read_dir(path)
                .with_context(|| format!("read {}", path.display()))?
                .map(|entry| entry.map(|e| e.path()))
                .collect::<std::io::Result<_>>()?;
            entries.sort();
            key = key.with((entries.len() as u64).to_le_bytes());
            for entry in entries {
                key = key.with_tree(&entry)?;
            }
            Ok(key)
        } else {
            let content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
            let executable = meta.permissions().mode() & 0o111 != 0;
            Ok(key.with([u8::from(executable)]).with(content))
        }
    }

    /// The key as it appears in file names: 16 hexadecimal digits.
    #[must_use]
    pub fn hex(self) -> String {
        hex(&self.0.finalize()[..8])
    }
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where the lab keeps what it has built: `$BE_LAB_DIR`, else below the user's
/// cache directory.
#[must_use]
pub fn dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("BE_LAB_DIR") {
        return dir.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache"),
        PathBuf::from,
    );
    cache.join("be-lab")
}

/// The artifact's directory; made by `make(dir)` when it is not there yet.
/// Versions of the same artifact that nobody has used for hours are removed.
///
/// # Errors
/// The cache cannot be written, or `make` fails.
pub fn artifact(name: &str, key: Key, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let dir = dir();
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let path = dir.join(format!("{name}-{}", key.hex()));
    if is_there(&path) {
        return Ok(path);
    }
    let _lock = lock(&dir.join(format!("{name}.lock")))?;
    if is_there(&path) {
        return Ok(path);
    }
    let start = std::time::Instant::now();
    crate::say(&format!("building {name} in {}", dir.display()));
    sweep(&dir, name)?;
    let work = dir.join(format!(".{name}.new"));
    fs::create_dir(&work).with_context(|| format!("make {}", work.display()))?;
    make(&work).with_context(|| format!("build {name}"))?;
    fs::rename(&work, &path).with_context(|| format!("rename to {}", path.display()))?;
    crate::say(&format!(
        "built {name} in {:.1} s",
        start.elapsed().as_secs_f32()
    ));
    Ok(path)
}

/// Removes the whole cache.
///
/// # Errors
/// A file cannot be removed.
pub fn clean() -> Result<()> {
    let dir = dir();
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Takes an exclusive lock on a file and waits for it as long as it takes.
/// The file itself stays: removing it would let two processes lock two inodes.
///
/// # Errors
/// The file cannot be made or locked.
pub fn lock(path: &Path) -> Result<Flock<File>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .with_context(|| format!("lock {}", path.display()))
}

/// Whether an artifact is there; notes that it is in use.
fn is_there(path: &Path) -> bool {
    if !path.is_dir() {
        return false;
    }
    // Without permission to say so: somebody else's cache, who cares for it.
    let _ = File::open(path).and_then(|dir| dir.set_modified(SystemTime::now()));
    true
}

fn sweep(dir: &Path, name: &str) -> Result<()> {
    let prefix = format!("{name}-");
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        let file = entry.file_name();
        let file = file.to_string_lossy();
        let is_version = file
            .strip_prefix(&prefix)
            .is_some_and(|key| key.len() == 16 && key.bytes().all(|b| b.is_ascii_hexdigit()));
        let is_unused = || {
            let used = entry.metadata().and_then(|meta| meta.modified());
            used.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > UNUSED))
        };
        if is_version && is_unused() || file == format!(".{name}.new") {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_depends_on_content_name_and_mode() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        let key = || Key::new("x").with_tree(dir.path()).unwrap().hex();
        fs::write(&file, "1").unwrap();
        let first = key();
        assert_eq!(first, key());
        fs::write(&file, "2").unwrap();
        let second = key();
        assert_ne!(first, second);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let third = key();
        assert_ne!(second, third);
        fs::rename(&file, dir.path().join("b")).unwrap();
        assert_ne!(third, key());
    }

    #[test]
    fn inputs_do_not_run_together() {
        assert_ne!(
            Key::new("a").with("bc").hex(),
            Key::new("ab").with("c").hex()
        );
    }
}
