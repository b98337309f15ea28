//! Whether the running system is still what the clone was made of.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use be_btrfs::{FileType, Root};
use be_portage::diff::{PackageDiff, diff};
use be_portage::vdb::{self, Installed};

use super::super::finish::fd_path;
use super::super::inputs::{WORLD, configuration};
use crate::model::Environment;
use crate::observe::MAX_TEXT;
use crate::record::Record;
use crate::session::Session;

/// So many differences are named.
const MOST: usize = 5;

/// The packages of the running system.
pub(super) fn packages(session: &Session, running: &Environment) -> Result<Installed> {
    let tree = session.whole(running)?;
    vdb::load_root(&fd_path(&tree)).context("cannot read the packages of the running system")
}

/// What has changed in the running system since it was cloned, if that counts: packages, the
/// configuration of Portage, the world. Where a merge was cut off, packages may be those of the
/// clone, too.
pub(super) fn what_changed(
    session: &Session,
    running: &Environment,
    clone: &Record,
) -> Result<Vec<String>> {
    let begun = running.record.unfinished_merge();
    let cut_off = begun.is_some_and(|live| live.from == clone.name);
    let now = packages(session, running)?;
    let mut changed = diff(&session.packages_of_base(clone)?, &now);
    if cut_off {
        let built = session.packages_of(clone)?;
        changed = strange(&diff(&built, &now), changed);
    }
    let mut told = changed.lines();
    let (base, tree) = (session.whole_base(clone)?, session.whole(running)?);
    let made = session.whole_of(clone)?;
    for path in decisive(&base)?.union(&decisive(&tree)?) {
        let is = content(&tree, path)?;
        // What was merged may have put something there.
        let merged = cut_off && is == content(&made, path)?;
        if is != content(&base, path)? && !merged {
            told.push(format!("/{}", path.display()));
        }
    }
    let more = told.len().saturating_sub(MOST);
    told.truncate(MOST);
    if more > 0 {
        told.push(format!("{more} more"));
    }
    Ok(told)
}

/// Of what changed since the base, what is not as in the clone either.
fn strange(from_clone: &PackageDiff, mut since_base: PackageDiff) -> PackageDiff {
    let entries = from_clone.added.iter().chain(&from_clone.removed);
    let changes = [
        &from_clone.upgraded,
        &from_clone.downgraded,
        &from_clone.rebuilt,
    ];
    let changes = changes.into_iter().flatten().map(|c| &c.package);
    let other: HashSet<&String> = entries.map(|e| &e.package).chain(changes).collect();
    for entries in [&mut since_base.added, &mut since_base.removed] {
        entries.retain(|e| other.contains(&e.package));
    }
    for changes in [
        &mut since_base.upgraded,
        &mut since_base.downgraded,
        &mut since_base.rebuilt,
    ] {
        changes.retain(|c| other.contains(&c.package));
    }
    since_base
}

fn decisive(root: &Root) -> Result<BTreeSet<PathBuf>> {
    let found = configuration(root)?.into_iter();
    Ok(found.chain(WORLD.map(PathBuf::from)).collect())
}

/// What is in a file or where a link leads; none if it is not there.
fn content(root: &Root, path: &Path) -> Result<Option<Vec<u8>>> {
    let meta = match root.lstat(path) {
        Ok(meta) => meta,
        Err(e) if e.is_not_found() => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    Ok(Some(match meta.kind {
        FileType::Symlink => root.readlink(path)?.into_os_string().into_encoded_bytes(),
        _ => root.read(path, MAX_TEXT)?,
    }))
}
