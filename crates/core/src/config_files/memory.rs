//! Packaged versions of configuration files, kept in the environment, so that a later
//! upgrade knows what a file was made from: Portage itself keeps checksums alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;
use be_btrfs::Root;
use be_portage::config_files::waiting::Kind;
use be_portage::config_files::{MAX_SIZE, checksum};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{HOME, Lineage, content as content_of, protected, waiting};
use crate::manager::Manager;
use crate::observe::MAX_TEXT;

/// The contents, named by their checksums.
const PACKAGED: &str = "packaged";
const INDEX: &str = "waiting.json";

/// Nobody but root: a file may hold a secret.
pub(super) const DIRECTORY_MODE: u32 = 0o700;
pub(super) const FILE_MODE: u32 = 0o600;

/// What is noted of the files that wait at the end of an upgrade.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    schema: u32,
    /// By path.
    files: BTreeMap<String, Noted>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    /// The version that the file in use was made from.
    made_from: String,
    /// The version that the package had then: while it has it still, nothing else has come.
    installed: String,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl Index {
    /// What is noted in a system. What cannot be read is not known.
    pub(super) fn read(root: &Root) -> Self {
        let text = root.read_to_string(home(INDEX), MAX_TEXT);
        let parsed = text.map(|text| serde_json::from_str(&text));
        match parsed {
            Ok(Ok(index)) => index,
            Err(e) if e.is_not_found() => Self::default(),
            Ok(Err(_)) | Err(_) => {
                tracing::warn!("/{} cannot be read", home(INDEX).display());
                Self::default()
            }
        }
    }

    /// The version that a file was made from for which something waits, while the package
    /// has one of these versions.
    pub(super) fn made_from(&self, path: &str, installed: &[String]) -> Option<String> {
        let noted = self.files.get(path)?;
        let same = installed == std::slice::from_ref(&noted.installed);
        same.then(|| noted.made_from.clone())
    }

    /// Let go of what is noted of a file.
    pub(super) fn forget(root: &Root, path: &str) -> Result<()> {
        let mut index = Self::read(root);
        match index.files.remove(path) {
            Some(_) => index.write(root),
            None => Ok(()),
        }
    }

    fn write(&mut self, root: &Root) -> Result<()> {
        self.schema = 1;
        let text = serde_json::to_string_pretty(self)? + "\n";
        root.mkdir_all(HOME, DIRECTORY_MODE)?;
        Ok(root.write_atomic(home(INDEX), text.as_bytes(), FILE_MODE)?)
    }
}

fn home(file: &str) -> PathBuf {
    Path::new(HOME).join(file)
}

fn packaged(sum: &str) -> PathBuf {
    Path::new(HOME).join(PACKAGED).join(sum)
}

/// The packaged version with this checksum, if it is kept, and is what it should be.
pub(super) fn content(root: &Root, sum: &str) -> Option<Vec<u8>> {
    let content = root.read(packaged(sum), MAX_SIZE).ok()?;
    (checksum(&content) == sum).then_some(content)
}

/// Keep a packaged version; it is on disk on return.
pub(super) fn keep(root: &Root, content: &[u8]) -> Result<()> {
    let sum = checksum(content);
    if self::content(root, &sum).is_none() {
        root.mkdir_all(Path::new(HOME).join(PACKAGED), DIRECTORY_MODE)?;
        root.write_atomic(packaged(&sum), content, FILE_MODE)?;
    }
    Ok(())
}

/// Keep the packaged versions of all protected files that are there: those that nobody has
/// changed, and those that wait. What no file has any more goes.
///
/// # Errors
/// When the system cannot be read or written.
pub(crate) fn learn(root: &Root, manager: &Manager, lineage: &Lineage) -> Result<()> {
    let protected = protected(root)?;
    let below = |path: &str| protected.iter().any(|dir| Path::new(path).starts_with(dir));
    let installed = manager.packaged(root, below)?;
    let waiting = waiting(root, manager)?;
    let mut index = Index::default();
    let mut needed = BTreeSet::new();
    let kept = list(root)?;
    root.mkdir_all(Path::new(HOME).join(PACKAGED), DIRECTORY_MODE)?;
    for (path, sums) in &installed {
        let [sum] = &sums[..] else { continue };
        needed.insert(sum.clone());
        if waiting.contains(path) {
            if let Some(made_from) = lineage.made_from.get(path) {
                needed.insert(made_from.clone());
                // It may be kept no more where an upgrade goes on.
                if let Some(version) = lineage.versions.get(made_from) {
                    keep(root, version)?;
                }
                let noted = Noted {
                    made_from: made_from.clone(),
                    installed: sum.clone(),
                    extra: Map::new(),
                };
                index.files.insert(path.clone(), noted);
            }
        } else if !kept.contains(sum)
            && let Some(content) = content_of(root, Path::new(path))?
            && checksum(&content) == *sum
        {
            // There may be many: all of them are on disk with the end of the phase.
            root.write_later(packaged(sum), &content, FILE_MODE)?;
        }
    }
    for item in super::survey(root, manager, lineage)? {
        if let Some(theirs) = item.theirs.as_ref().filter(|_| item.kind != Kind::Old) {
            needed.insert(checksum(theirs));
            keep(root, theirs)?;
        }
    }
    index.write(root)?;
    for sum in kept.difference(&needed) {
        root.remove_file(packaged(sum))?;
    }
    Ok(())
}

fn list(root: &Root) -> Result<BTreeSet<String>> {
    match root.list(Path::new(HOME).join(PACKAGED)) {
        Ok(list) => {
            let names = list.into_iter().map(|(name, _)| name.into_string());
            // What has another name is none of ours.
            let sum = |n: &String| n.len() == 32 && n.bytes().all(|c| c.is_ascii_hexdigit());
            Ok(names.filter_map(Result::ok).filter(sum).collect())
        }
        Err(e) if e.is_not_found() => Ok(BTreeSet::new()),
        Err(e) => Err(e.into()),
    }
}
