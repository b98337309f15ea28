//! Directories that were turned into subvolumes of their own, and have not been mounted as
//! such yet: the switch is at the next boot.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use be_btrfs::{FileType, Root};
use serde::{Deserialize, Serialize};

use super::{Part, default_policy};
use crate::model::{Inventory, STORE, Subvolume};
use crate::observe::subvolume_at;
use crate::plan::{self, Found};
use crate::processes::{self, Holder};
use crate::record::{Policy, place};
use crate::session::Session;
use crate::store::Store;

/// The extended attribute on the root of a subvolume that `be layout split` made, complete:
/// it tells of what it is a copy. A snapshot of it has it, too, with a UUID that is not its
/// own, and counts for nothing.
pub(crate) const MARK: &str = "trusted.be.split";

/// The inode of the root of every subvolume.
const SUBVOLUME_INODE: u64 = 256;

/// What the attribute holds, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// The UUID of the copy itself.
    pub uuid: String,
    /// The UUID of the subvolume that the directory lies in.
    pub of: String,
    /// The directory, as a path in it.
    pub within: PathBuf,
    /// The transaction of the copy: what is newer in the original is not in it.
    pub since: u64,
    /// When that was, in seconds since 1970.
    pub taken: i64,
    /// The transaction that completed it: what is newer in the copy was written into it.
    pub complete: u64,
    /// When the content of its root directory changed.
    pub mtime: (i64, u32),
}

impl Mark {
    /// That of this subvolume itself.
    pub(crate) fn of(root: &Root) -> Result<Option<Mark>> {
        let Some(text) = root.attribute(MARK)? else {
            return Ok(None);
        };
        let uuid = be_btrfs::subvolume_info(root)?.uuid.to_string();
        let mark = serde_json::from_slice::<Mark>(&text).ok();
        Ok(mark.filter(|m| m.uuid == uuid))
    }
}

/// A split that takes effect at the next boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Where.
    pub mount: PathBuf,
    /// The copy.
    pub subvolume: Subvolume,
    /// The policy of it.
    pub policy: Policy,
    /// Files that were changed since in the old directory, which are not in the copy so.
    pub changed: usize,
    /// The copy itself was written to: an environment uses it already.
    pub written: bool,
}

impl Pending {
    /// For a person; none if the copy is as new as the directory.
    pub fn behind(&self) -> Option<String> {
        let mount = self.mount.display();
        let what = match self.changed {
            0 => return None,
            1 => "1 file was".to_owned(),
            n => format!("{n} files were"),
        };
        Some(format!(
            "{what} changed in {mount} since it was split, and will not be there after the \
             reboot: be layout split {mount} copies it anew"
        ))
    }
}

/// All of them.
///
/// # Errors
/// When the filesystem's trees cannot be read.
pub fn pending(session: &Session, inv: &Inventory) -> Result<Vec<Pending>> {
    let mut found = Vec::new();
    for part in &inv.system.layout.parts {
        if let Some(pending) = pending_at(session, inv, part)? {
            found.push(pending);
        }
    }
    Ok(found)
}

/// What is to be said where environments are made or chosen: in a copy that is behind they
/// would find old data. It is for information; what cannot be told is left out.
pub fn behind(session: &Session) -> Vec<String> {
    let found = session.observe().and_then(|inv| pending(session, &inv));
    let found = found.unwrap_or_default().into_iter();
    found
        .filter(|p| !p.written)
        .filter_map(|p| p.behind())
        .collect()
}

/// Whether this part is one of them.
///
/// # Errors
/// When the filesystem's trees cannot be read.
pub fn pending_at(session: &Session, inv: &Inventory, part: &Part) -> Result<Option<Pending>> {
    let store = &session.store;
    let Some((copy, mark)) = waits(session, inv, part)? else {
        return Ok(None);
    };
    store.top.sync()?;
    let tree = store.top.tree()?;
    let of = mark.of.parse().ok().and_then(|uuid| tree.by_uuid(uuid));
    let changed = match of {
        Some(node) => {
            let old = store.root_of(&node.path)?;
            changed(store, (&old, node.id), &copy, &mark)?
        }
        None => 0,
    };
    Ok(Some(Pending {
        mount: part.mount.clone(),
        written: written(store, &copy, &mark)?,
        subvolume: part.subvolume.clone(),
        policy: part.policy,
        changed,
    }))
}

/// The copy and what it tells of itself, if fstab mounts it and that has not been done yet.
fn waits(session: &Session, inv: &Inventory, part: &Part) -> Result<Option<(Root, Mark)>> {
    if !part.listed || !part.within.as_os_str().is_empty() {
        return Ok(None);
    }
    let copy = session.store.root_of(&part.subvolume.path)?;
    let Some(mark) = Mark::of(&copy)? else {
        return Ok(None);
    };
    let seen = part.mount.strip_prefix("/").unwrap_or(&part.mount);
    let now = subvolume_at(&inv.sysroot.join(seen));
    Ok((now != Some(part.subvolume.id)).then_some((copy, mark)))
}

/// The parts that were split from a directory, and are mounted by now.
pub(crate) fn split_parts<'a>(session: &Session, inv: &'a Inventory) -> Result<Vec<&'a Part>> {
    let mut split = Vec::new();
    for part in inv.system.layout.parts.iter().filter(|p| p.listed) {
        let root = session.store.root_of(&part.subvolume.path)?;
        if Mark::of(&root)?.is_some() && waits(session, inv, part)?.is_none() {
            split.push(part);
        }
    }
    Ok(split)
}

/// The parts that were split from a directory and are not mounted.
pub(crate) fn waiting<'a>(session: &Session, inv: &'a Inventory) -> Result<Vec<&'a Part>> {
    let mut waiting = Vec::new();
    for part in &inv.system.layout.parts {
        if waits(session, inv, part)?.is_some() {
            waiting.push(part);
        }
    }
    Ok(waiting)
}

/// Whether somebody wrote into a copy since it was complete.
pub(crate) fn written(store: &Store, copy: &Root, mark: &Mark) -> Result<bool> {
    if copy.metadata("")?.mtime != mark.mtime {
        return Ok(true);
    }
    let id = be_btrfs::subvolume_info(copy)?.id;
    let newer = store.top.changed_files(id, mark.complete, None, &[])?;
    // The attributes of its root directory are be's own doing.
    Ok(newer.iter().any(|c| !c.path.as_os_str().is_empty()))
}

/// How many files below the old directory are not in the copy as they are.
fn changed(store: &Store, (old, id): (&Root, u64), copy: &Root, mark: &Mark) -> Result<usize> {
    let under = mark.within.as_path();
    let mut newer = store
        .top
        .committed_changes(id, mark.since, None, &[under])
        .context("cannot find what changed since")?;
    newer.retain(|file| {
        let inner = file.path.strip_prefix(under).unwrap_or(&file.path);
        let (Ok(now), Ok(then)) = (look(old, &file.path), look(copy, inner)) else {
            return true;
        };
        // A file that was only read is newer, too.
        let alike = |m: &be_btrfs::rooted::Metadata| {
            let size = if m.kind == FileType::Dir { 0 } else { m.size };
            (m.kind, m.mode, m.uid, m.gid, size, m.mtime)
        };
        alike(&now) != alike(&then) || now.ctime.0 >= mark.taken
    });
    let paths: Vec<_> = newer.iter().map(|c| &c.path).collect();
    // A directory above a changed file is only the way to it.
    let counts = newer.iter().enumerate().filter(|(i, c)| {
        let next = paths.get(i + 1);
        !c.kind.is_dir() || !next.is_some_and(|next| next.starts_with(&c.path))
    });
    Ok(counts.count())
}

fn look(root: &Root, path: &Path) -> be_btrfs::Result<be_btrfs::rooted::Metadata> {
    match path.as_os_str().is_empty() {
        true => root.metadata(""),
        false => root.lstat(path),
    }
}

/// All that the plan of a split has to know.
///
/// # Errors
/// [`Refusal::NoSplit`](crate::refusal::Refusal::NoSplit), or what cannot be read.
pub fn request(
    session: &Session,
    inv: &Inventory,
    path: &Path,
    policy: Option<Policy>,
) -> Result<plan::Split> {
    let home = inv.system.grub_home.as_deref();
    plan::may_split(path, policy, home)?;
    let mut request = plan::Split {
        path: path.to_owned(),
        policy,
        found: Found::Subvolume,
        pending: None,
        taken: false,
        holders: Vec::new(),
        grub_install: crate::loader::install_command(session, inv),
    };
    if let Some(part) = inv.system.layout.part_at(path) {
        request.pending = pending_at(session, inv, part)?;
        if request.pending.is_none() {
            return Ok(request);
        }
    }
    let (from, within) = plan::holder(inv, path)?;
    let root = session.store.root_of(&from.path)?;
    let over = super::mount_over(inv, path);
    request.found = match root.canonicalize(&within) {
        Err(e) if e.is_not_found() => Found::Nothing,
        Ok(real) if real != within => Found::Link(over.join(real)),
        Ok(_) => {
            let there = root.lstat(&within)?;
            match there.kind.is_dir() {
                false => Found::Nothing,
                true if there.ino == SUBVOLUME_INODE => Found::Subvolume,
                true => {
                    let inside = root.sub(&within)?.inside()?;
                    request.holders = holders(there.dev, &inside.inodes)?;
                    Found::Directory {
                        files: inside.inodes.len() as u64,
                        unshared: inside.swap,
                        crossings: inside.crossings.iter().map(|p| path.join(p)).collect(),
                    }
                }
            }
        }
        Err(e) => return Err(e.into()),
    };
    let policy = policy.unwrap_or_else(|| default_policy(path));
    request.taken = session.store.dir.lstat(location(inv, path, policy)).is_ok();
    Ok(request)
}

/// Who works there. A process that is being started has for a moment what the one that
/// starts it has open.
fn holders(device: u64, inodes: &HashSet<u64>) -> Result<Vec<Holder>> {
    let mut found = processes::working_in(device, inodes)?;
    for _ in 0..3 {
        if found.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        let now = processes::working_in(device, inodes)?;
        found.retain(|f| now.iter().any(|n| n.pid == f.pid));
    }
    Ok(found)
}

/// Where the subvolume for a directory is made, from the top level: what belongs to an
/// environment that be made lies with it, goes and is renamed with it; else `@` and the path.
pub fn location(inv: &Inventory, path: &Path, policy: Policy) -> PathBuf {
    let running = inv.environments.iter().find(|e| e.running);
    let text = path.to_string_lossy();
    match running {
        Some(env) if policy != Policy::Shared && !env.record.adopted => Path::new(STORE)
            .join(env.name().as_str())
            .join(place(&text)),
        _ => shared_location(path),
    }
}

/// Where [`location`] puts what all environments share.
pub(crate) fn shared_location(path: &Path) -> PathBuf {
    PathBuf::from(subvolume_name(&path.to_string_lossy()))
}

/// Whether this subvolume was split from a directory, and is complete.
pub(crate) fn is_split(root: &Root) -> bool {
    Mark::of(root).is_ok_and(|mark| mark.is_some())
}

/// `/var/lib/mysql` is `@var-lib-mysql`. A byte that could be taken for something else in
/// fstab, in a shell or on a command line is written as `%XX`.
fn subvolume_name(path: &str) -> String {
    let mut name = "@".to_owned();
    for byte in path.trim_matches('/').bytes() {
        match byte {
            b'/' => name.push('-'),
            b'.' | b'_' | b'-' | b'+' => name.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => name.push(char::from(byte)),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fixture::{env, inventory};

    #[test]
    fn names() {
        assert_eq!(subvolume_name("/var/lib/postgresql"), "@var-lib-postgresql");
        assert_eq!(subvolume_name("/srv/my data,x"), "@srv-my%20data%2Cx");
        assert_eq!(subvolume_name("/home/a/.cache"), "@home-a-.cache");
    }

    #[test]
    fn what_belongs_to_an_environment_lies_with_it() {
        let path = Path::new("/srv/db");
        let adopted = inventory(vec![env("default", 256).running().with(|e| {
            e.record.adopted = true;
        })]);
        let made = inventory(vec![env("new", 256).running()]);
        for (inv, policy, place) in [
            (&adopted, Policy::Cloned, "@srv-db"),
            (&adopted, Policy::Shared, "@srv-db"),
            (&made, Policy::Shared, "@srv-db"),
            (&made, Policy::Late, "@be/new/vol/srv-db"),
        ] {
            assert_eq!(location(inv, path, policy), Path::new(place));
        }
    }
}
