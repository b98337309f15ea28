//! The steps of `be layout split`; the plan tells their order, and why.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use be_btrfs::rooted::Copied;
use be_btrfs::{Mode, Root, SubvolumeInfo, TopLevel, Uuid};
use serde::{Deserialize, Serialize};

use super::clone::check_fstab;
use super::remove::{SOURCES, in_use};
use crate::fstab::{Change, Entry, Fstab};
use crate::layout::{ATTRIBUTE, MARK, Mark, written};
use crate::name::EnvName;
use crate::observe::MAX_TEXT;
use crate::plan::SplitSpec;
use crate::record::Member;
use crate::refusal::{NoSplit, Refusal};
use crate::session::Session;
use crate::store::Paths;

const FSTAB: &str = "etc/fstab";

/// The extended attribute on the directory of a split at work that tells what it is about.
const ABOUT: &str = "trusted.be.about";

/// What it holds, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct About {
    mount: PathBuf,
    /// Where the subvolume is to be, from the top level.
    to: PathBuf,
    /// The root that has the fstab, from the top level.
    root: PathBuf,
    owner: Option<EnvName>,
    /// It takes the place of an earlier copy.
    again: bool,
}

fn work_of(to: &Path) -> PathBuf {
    Path::new(Paths::SPLIT).join(to.file_name().unwrap_or(OsStr::new("split")))
}

/// Copy the directory, and publish the copy; gives what a person should know of it.
pub(super) fn split(session: &Session, number: &str, spec: &SplitSpec) -> Result<Option<String>> {
    let work = work_of(&spec.to);
    let made = make(session, number, spec, &work);
    if made.is_err() {
        // The failure is what counts; what stays is swept by the next be.
        let _swept = sweep_one(session, number, &work);
    }
    let copied = made?;
    Ok((copied.separated > 0).then(|| {
        format!(
            "files in {} that have other names outside of it, from which they are apart in the \
             copy: {}",
            spec.mount.display(),
            copied.separated
        )
    }))
}

fn make(session: &Session, number: &str, spec: &SplitSpec, work: &Path) -> Result<Copied> {
    let store = &session.store;
    store.dir.mkdir_all(work, 0o700)?;
    let dir = store.dir.sub(work)?;
    let about = About {
        mount: spec.mount.clone(),
        to: spec.to.clone(),
        root: spec.root.clone(),
        owner: spec.owner.clone(),
        again: spec.replaces.is_some(),
    };
    dir.set_attribute(ABOUT, &serde_json::to_vec(&about)?)?;
    let (info, copied) = copy(session, spec, &dir)?;
    if let Some(old) = &spec.replaces {
        exchange(session, number, spec, old, (&work.join("new"), &info))?;
        sweep_one(session, number, work)?;
        return Ok(copied);
    }
    if let Some(above) = spec.to.parent().filter(|p| !p.as_os_str().is_empty()) {
        store.dir.mkdir_all(above, 0o700)?;
    }
    store
        .dir
        .rename_noreplace(work.join("new"), &spec.to)
        .with_context(|| format!("cannot publish /{}", spec.to.display()))?;
    if let Some(owner) = &spec.owner {
        let mut record = session.store.record_of(owner)?;
        let mount = spec.mount.to_string_lossy();
        record.subvolumes.retain(|m| m.mount != mount);
        let member = Member::new(&mount, spec.policy, info.uuid.to_string());
        record.subvolumes.push(member);
        store.write_record(&Paths::environment(owner), &record)?;
    }
    store.top.commit()?;
    Ok(copied)
}

/// `new` in the directory of the split: complete, marked as such, and on the disk.
fn copy(session: &Session, spec: &SplitSpec, dir: &Root) -> Result<(SubvolumeInfo, Copied)> {
    let top = &session.store.top;
    let source = session.store.root_of(&spec.from.path)?;
    if be_btrfs::subvolume_info(&source)?.uuid.to_string() != spec.from.uuid {
        bail!("/{} is another subvolume by now", spec.from.path.display());
    }
    dir.set_attribute(SOURCES, spec.from.uuid.as_bytes())?;
    let from = OsStr::new("from");
    let taken = top.snapshot(source.fd(), dir.fd(), from, Mode::ReadOnly)?;
    let info = top.create_subvolume(dir.fd(), OsStr::new("new"))?;
    let known = format!("{},{}", spec.from.uuid, info.uuid);
    dir.set_attribute(SOURCES, known.as_bytes())?;
    let new = dir.sub("new")?;
    let copied = new
        .copy_from(&dir.sub(from)?.sub(&spec.within)?)
        .with_context(|| format!("cannot copy {}", spec.mount.display()))?;
    new.set_attribute(ATTRIBUTE, spec.policy.as_str().as_bytes())?;
    top.delete_subvolume(dir.fd(), from, taken.uuid)?;
    top.sync()?;
    let mark = Mark {
        uuid: info.uuid.to_string(),
        of: spec.from.uuid.clone(),
        within: spec.within.clone(),
        since: taken.otransid,
        taken: taken.otime,
        complete: be_btrfs::subvolume_info(&new)?.generation,
        mtime: new.metadata("")?.mtime,
    };
    new.set_attribute(MARK, &serde_json::to_vec(&mark)?)?;
    top.commit()?;
    Ok((info, copied))
}

/// Put a fresh copy in the place of one that nobody uses.
fn exchange(
    session: &Session,
    number: &str,
    spec: &SplitSpec,
    old: &str,
    (new, info): (&Path, &SubvolumeInfo),
) -> Result<()> {
    let store = &session.store;
    let there = store.dir.sub(&spec.to)?;
    let mark = Mark::of(&there)?.filter(|mark| mark.uuid == old);
    let Some(mark) = mark else {
        bail!("/{} is another subvolume by now", spec.to.display());
    };
    let refuse = |why| Refusal::NoSplit {
        path: spec.mount.clone(),
        why,
    };
    if let Some(by) = in_use(number, &spec.to)? {
        return Err(refuse(NoSplit::InUse { by: vec![by] }).into());
    }
    if written(store, &there, &mark)? {
        let name = spec.to.clone();
        return Err(refuse(NoSplit::Written { name }).into());
    }
    let note = |uuid: Option<String>, replacement: Option<String>| -> Result<()> {
        let Some(owner) = &spec.owner else {
            return Ok(());
        };
        let mut record = session.store.record_of(owner)?;
        let mut members = record.subvolumes.iter_mut();
        if let Some(member) = members.find(|m| Path::new(&m.mount) == spec.mount) {
            member.uuid = uuid.unwrap_or_else(|| member.uuid.clone());
            member.replacement = replacement;
        }
        store.write_record(&Paths::environment(owner), &record)
    };
    note(None, Some(info.uuid.to_string()))?;
    store.dir.exchange(new, &spec.to)?;
    // The record must not be newer on the disk than what it tells of.
    store.top.sync()?;
    note(Some(info.uuid.to_string()), None)
}

/// Add the line to the fstab of the running system: this is what switches, at its next boot.
pub(super) fn add_mount(session: &Session, spec: &SplitSpec, entry: &Entry) -> Result<()> {
    let root = session.store.root_of(&spec.root)?;
    let text = match root.read_to_string(FSTAB, MAX_TEXT) {
        Err(e) if e.is_not_found() => String::new(),
        other => other?,
    };
    let old = Fstab::parse(&text);
    let changes = [Change::Add(entry.clone())];
    let new = old.changed(&changes);
    let added = check_fstab(&old, &new, &changes)
        .context("the fstab could not be changed, and stays as it was")
        .and_then(|()| Ok(root.write_atomic(FSTAB, new.to_text().as_bytes(), 0o644)?));
    let work = work_of(&spec.to);
    if let Err(e) = added {
        // Nothing mounts the copy: it goes, if that can be done.
        let number = session.observe()?.fs.number;
        let _swept = sweep_one(session, &number, &work);
        return Err(e);
    }
    session.store.top.commit()?;
    Ok(session.store.dir.remove_tree(&work)?)
}

/// What an interrupted split left, a sentence each.
pub(super) fn sweep(session: &Session) -> Result<Vec<String>> {
    let names = session.store.work(Paths::SPLIT);
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let number = session.observe()?.fs.number;
    let one = |name: &String| {
        let work = Path::new(Paths::SPLIT).join(name);
        match sweep_one(session, &number, &work) {
            Ok(said) => said,
            Err(e) => format!("left /{} alone: {e:#}", work.display()),
        }
    };
    Ok(names.iter().map(one).collect())
}

/// Finish one split if fstab has its line already, else undo it: until then the old
/// directory is the one that counts, and may have changed meanwhile.
fn sweep_one(session: &Session, number: &str, work: &Path) -> Result<String> {
    let store = &session.store;
    let dir = store.dir.sub(work)?;
    let about = dir.attribute(ABOUT)?.unwrap_or_default();
    let about: Option<About> = serde_json::from_slice(&about).ok();
    if let Some(by) = in_use(number, work)? {
        bail!("{by}");
    }
    let known = dir.attribute(SOURCES)?.unwrap_or_default();
    let known: Vec<Uuid> = String::from_utf8_lossy(&known)
        .split(',')
        .filter_map(|uuid| uuid.parse().ok())
        .collect();
    for name in ["from", "new"] {
        if store.dir.exists(work.join(name))? {
            discard(&store.top, &dir, OsStr::new(name), &known)?;
        }
    }
    let mut said = "removed what an interrupted command left".to_owned();
    if let Some(about) = &about {
        let mount = about.mount.display();
        said = format!("removed what an interrupted split of {mount} left");
        if !about.again && is_mounted_by_fstab(session, about)? {
            said = format!("finished the split of {mount}");
        } else if !about.again {
            undo(session, number, about, &known)?;
        }
    }
    store.dir.remove_tree(work)?;
    store.top.sync()?;
    Ok(said)
}

/// Delete a subvolume of a split: known by its UUID or as a snapshot of what was to be
/// copied, marked by itself, or with nothing in it.
fn discard(top: &TopLevel, dir: &Root, name: &OsStr, known: &[Uuid]) -> Result<()> {
    let root = dir.sub(name)?;
    let info = be_btrfs::subvolume_info(&root)?;
    let snapshot = info.parent_uuid.is_some_and(|uuid| known.contains(&uuid));
    let ours = known.contains(&info.uuid)
        || (name == "from" && snapshot)
        || Mark::of(&root)?.is_some()
        || root.list("")?.is_empty();
    if !ours {
        bail!("{} is not known to be made by be", name.display());
    }
    Ok(top.delete_subvolume(dir.fd(), name, info.uuid)?)
}

/// Whether a system mounts the copy. What cannot be read may do so.
fn is_mounted_by_fstab(session: &Session, about: &About) -> Result<bool> {
    let mut roots = vec![about.root.clone()];
    let inv = session.observe()?;
    roots.extend(
        inv.environments
            .iter()
            .filter_map(|e| Some(e.root.as_ref()?.path.clone())),
    );
    for path in roots {
        let text = match session
            .store
            .root_of(&path)?
            .read_to_string(FSTAB, MAX_TEXT)
        {
            Err(e) if e.is_not_found() => continue,
            other => other?,
        };
        let fstab = Fstab::parse(&text);
        if fstab
            .entries()
            .any(|e| e.subvol().map(Path::new) == Some(&about.to))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Take away a copy that nothing mounts, and what the record says of it.
fn undo(session: &Session, number: &str, about: &About, known: &[Uuid]) -> Result<()> {
    let store = &session.store;
    let there = store.dir.exists(&about.to)?;
    let ours = there && {
        let root = store.dir.sub(&about.to)?;
        let own = be_btrfs::is_subvolume_root(&root)?;
        own && Mark::of(&root)?.is_some_and(|m| m.uuid.parse().is_ok_and(|u| known.contains(&u)))
    };
    if let Some(by) = in_use(number, &about.to)?.filter(|_| ours) {
        bail!("{by}");
    }
    if let Some(owner) = &about.owner {
        let mut record = session.store.record_of(owner)?;
        let own = |m: &Member| m.uuid.parse().is_ok_and(|uuid| known.contains(&uuid));
        let before = record.subvolumes.len();
        record
            .subvolumes
            .retain(|m| Path::new(&m.mount) != about.mount || !own(m));
        if record.subvolumes.len() != before {
            store.write_record(&Paths::environment(owner), &record)?;
        }
    }
    if ours {
        let (parent, name) = store.parent_of(&about.to)?;
        let uuid = be_btrfs::subvolume_info(&parent.sub(name)?)?.uuid;
        store.top.delete_subvolume(parent.fd(), name, uuid)?;
    }
    Ok(())
}
