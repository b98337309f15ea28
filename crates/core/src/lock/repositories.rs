//! The repositories, and what is in them.

use std::path::Path;

use anyhow::Result;
use be_portage::portageq::Configured;
use sha2::Digest;

use super::collect::Scene;
use super::secret;
use super::{Commit, Place, Repository, RepositoryName, Sha256, State};
use crate::upgrade::inputs::{files, head, stamps};

/// What is read of a file of a repository at the most, in bytes.
const MOST: u64 = 256 << 20;

/// What is made from the rest of a repository, or tells only its time.
const DERIVED: [&str; 2] = [".git", "metadata/md5-cache"];

/// Read them; sorted by name. One whose name or place Portage itself would not take is left out.
pub(super) fn read(scene: &Scene<'_>, configured: &[Configured]) -> Result<Vec<Repository>> {
    let mut found = Vec::new();
    for one in configured {
        let location = one.get("location").unwrap_or_default();
        let location = format!("/{}", location.trim_matches('/'));
        let name = RepositoryName::try_from(one.name.clone());
        let (Ok(name), Ok(location)) = (name, Place::try_from(location)) else {
            continue;
        };
        let names = |key: &str| {
            let all = one.get(key).unwrap_or_default().split_whitespace();
            all.filter_map(|name| name.to_owned().try_into().ok())
                .collect()
        };
        found.push(Repository {
            state: state(scene, &location)?,
            sync_uri: one
                .get("sync-uri")
                .and_then(|uri| secret::without(uri).try_into().ok()),
            masters: names("masters"),
            eclass_overrides: names("eclass-overrides"),
            name,
            location,
        });
    }
    Ok(found)
}

pub(crate) fn state(scene: &Scene<'_>, location: &Place) -> Result<State> {
    let absolute = Path::new(&**location);
    let (tree, path) = (scene.tree(absolute), &absolute.strip_prefix("/")?);
    if !tree.is_dir(path).unwrap_or(false) {
        return Ok(State::Missing);
    }
    if let Some(commit) = head(tree, path).and_then(|head| Commit::try_from(head).ok()) {
        let modified = is_modified(scene, location);
        return Ok(State::Git { commit, modified });
    }
    let (commit, timestamp) = stamps(tree, path);
    if commit.is_some() || timestamp.is_some() {
        let commit = commit.and_then(|commit| commit.try_into().ok());
        return Ok(State::Mirror { commit, timestamp });
    }
    let root = tree.sub(path)?;
    let mut hash = sha2::Sha256::new();
    for file in files(&root, Path::new(""))? {
        if DERIVED.iter().any(|derived| file.starts_with(derived)) {
            continue;
        }
        let content = match root.lstat(&file)?.kind.is_file() {
            true => root.read(&file, MOST)?,
            false => Vec::new(),
        };
        let name = file.to_string_lossy();
        for part in [name.as_bytes(), &content] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    let sha256 = Sha256::of(hash);
    Ok(State::Tree { sha256 })
}

/// Whether files of a checkout are not as in its commit, but for the cache of metadata, which
/// is made from them. None where git does not tell.
fn is_modified(scene: &Scene<'_>, location: &Place) -> Option<bool> {
    let command = [
        "git",
        "--no-optional-locks",
        "-c",
        "safe.directory=*",
        "-C",
        location,
    ];
    let rest = [
        "status",
        "--porcelain",
        "--",
        ":/",
        ":(top,exclude)metadata/md5-cache",
    ];
    let command = command.iter().chain(&rest).map(|&a| a.to_owned()).collect();
    let (code, output) = scene.ask(command).ok()?;
    // What is printed besides belongs to a failure.
    (code == 0).then(|| !output.trim().is_empty())
}
