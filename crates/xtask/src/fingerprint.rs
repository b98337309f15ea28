//! A tree as a comparable value: everything that a test could call a change.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::cache::hex;

/// All that is known of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fact {
    kind: &'static str,
    size: u64,
    mode: u32,
    owner: (u32, u32),
    /// Seconds and nanoseconds.
    mtime: (i64, i64),
    links: u64,
    /// The hash of a file's content, a link's target, a device's number.
    content: String,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The state of a tree: of one subvolume, without what is mounted or nested in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    facts: BTreeMap<PathBuf, Fact>,
}

impl Fingerprint {
    /// Reads a tree. Paths that begin with one of `without` (as they are below
    /// the root, such as `var/log`) are left out. Access and change times are
    /// not part of it. The tree is not written, not even its access times when
    /// it is mounted as the lab mounts.
    ///
    /// # Errors
    /// Something there cannot be read.
    pub fn of(root: &Path, without: &[&str]) -> Result<Self> {
        let device = fs::symlink_metadata(root)
            .with_context(|| format!("read {}", root.display()))?
            .dev();
        let mut facts = BTreeMap::new();
        let mut todo = vec![PathBuf::new()];
        while let Some(relative) = todo.pop() {
            if without
                .iter()
                .any(|skip| relative.starts_with(skip.trim_matches('/')))
            {
                continue;
            }
            let path = root.join(&relative);
            let context = || format!("read {}", path.display());
            let meta = fs::symlink_metadata(&path).with_context(context)?;
            let is_other = meta.dev() != device;
            let mut fact = fact(&path, &meta, is_other).with_context(context)?;
            if is_other {
                // The inside is another's; that it is there is ours.
                fact.kind = "other file system";
            } else if meta.is_dir() {
                for entry in fs::read_dir(&path).with_context(context)? {
                    todo.push(relative.join(entry.with_context(context)?.file_name()));
                }
            }
            facts.insert(relative, fact);
        }
        Ok(Self { facts })
    }

    /// The same, whenever files were written.
    #[must_use]
    pub fn without_times(mut self) -> Self {
        for fact in self.facts.values_mut() {
            fact.mtime = (0, 0);
        }
        self
    }

    /// How many paths there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.facts.len()
    }

    /// Whether there is nothing, not even the root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    /// One hash for the whole.
    #[must_use]
    pub fn hash(&self) -> String {
        hex(&Sha256::digest(format!("{:?}", self.facts)))
    }

    /// The differences, a line each, as seen from this earlier state: `+` new,
    /// `-` gone, `*` changed with what has changed.
    #[must_use]
    pub fn diff(&self, later: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, old) in &self.facts {
            match later.facts.get(path) {
                None => lines.push(format!("- /{}", path.display())),
                Some(new) if new != old => {
                    lines.push(format!("* /{}: {}", path.display(), changes(old, new)));
                }
                Some(_) => {}
            }
        }
        for path in later.facts.keys() {
            if !self.facts.contains_key(path) {
                lines.push(format!("+ /{}", path.display()));
            }
        }
        lines
    }
}

fn changes(old: &Fact, new: &Fact) -> String {
    let mut list = Vec::new();
    let mut note = |name: &str, a: String, b: String| {
        if a != b {
            list.push(format!("{name} {a} -> {b}"));
        }
    };
    note("type", old.kind.to_owned(), new.kind.to_owned());
    note("size", old.size.to_string(), new.size.to_string());
    note("mode", format!("{:o}", old.mode), format!("{:o}", new.mode));
    note(
        "owner",
        format!("{:?}", old.owner),
        format!("{:?}", new.owner),
    );
    note(
        "mtime",
        format!("{:?}", old.mtime),
        format!("{:?}", new.mtime),
    );
    note("links", old.links.to_string(), new.links.to_string());
    note("content", old.content.clone(), new.content.clone());
    note(
        "xattrs",
        format!("{:?}", old.xattrs),
        format!("{:?}", new.xattrs),
    );
    list.join(", ")
}

fn fact(path: &Path, meta: &Metadata, is_other: bool) -> Result<Fact> {
    let file_type = meta.file_type();
    let (kind, content) = if file_type.is_file() {
        ("file", content_hash(path)?)
    } else if file_type.is_symlink() {
        ("link", fs::read_link(path)?.display().to_string())
    } else if file_type.is_dir() {
        ("directory", String::new())
    } else if file_type.is_block_device() || file_type.is_char_device() {
        ("device", meta.rdev().to_string())
    } else {
        ("other", String::new())
    };
    let is_dir = file_type.is_dir();
    Ok(Fact {
        kind,
        size: if is_other { 0 } else { meta.size() },
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        mtime: if is_other {
            (0, 0)
        } else {
            (meta.mtime(), meta.mtime_nsec())
        },
        // Of a directory, btrfs always says 1 and others count the children,
        // which are facts of their own.
        links: if is_dir { 0 } else { meta.nlink() },
        content,
        xattrs: if is_other {
            BTreeMap::new()
        } else {
            xattrs(path)?
        },
    })
}

fn content_hash(path: &Path) -> Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 17];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hex(&hash.finalize()[..16]));
        }
        hash.update(&buffer[..count]);
    }
}

fn xattrs(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    // The longest list, as the largest value, that Linux allows.
    let mut names = Vec::with_capacity(1 << 16);
    let mut map = BTreeMap::new();
    match rustix::fs::llistxattr(path, rustix::buffer::spare_capacity(&mut names)) {
        // A file system without them.
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(map),
        result => result?,
    };
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = Vec::with_capacity(1 << 16);
        let name_os = std::ffi::OsStr::from_bytes(name);
        rustix::fs::lgetxattr(path, name_os, rustix::buffer::spare_capacity(&mut value))?;
        map.insert(name.to_vec(), value);
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn every_kind_of_change_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in ["same", "content", "mode", "gone"] {
            fs::write(root.join(name), "1").unwrap();
        }
        fs::create_dir_all(root.join("log/deep")).unwrap();
        symlink("a", root.join("link")).unwrap();
        let before = Fingerprint::of(root, &["log"]).unwrap();
        assert_eq!(before, Fingerprint::of(root, &["/log/"]).unwrap());
        assert_eq!(before.len(), 6);

        let mtime = fs::metadata(root.join("content"))
            .unwrap()
            .modified()
            .unwrap();
        fs::write(root.join("content"), "2").unwrap();
        File::options()
            .write(true)
            .open(root.join("content"))
            .unwrap()
            .set_modified(mtime)
            .unwrap();
        fs::set_permissions(root.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::remove_file(root.join("gone")).unwrap();
        fs::remove_file(root.join("link")).unwrap();
        symlink("b", root.join("link")).unwrap();
        fs::write(root.join("new"), "").unwrap();
        fs::write(root.join("log/deep/x"), "").unwrap();

        let after = Fingerprint::of(root, &["log"]).unwrap();
        assert_ne!(before.hash(), after.hash());
        let diff = before.diff(&after);
        let seen: Vec<&str> = diff
            .iter()
            .map(|line| line.split(':').next().unwrap())
            .collect();
        assert_eq!(
            seen,
            [
                "* /",
                "* /content",
                "- /gone",
                "* /link",
                "* /mode",
                "+ /new"
            ]
        );
        assert!(
            diff[1].contains("content ") && !diff[1].contains("mtime"),
            "{}",
            diff[1]
        );
    }
}
