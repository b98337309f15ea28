//! Making an environment: two snapshots of each subvolume, the few changes that make a clone
//! whole, one rename.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use be_btrfs::{Mode, Root, SubvolumeInfo};

use super::remove::{SOURCES, discard_new, in_use};
use crate::bootfs;
use crate::fstab::{Change, Fstab};
use crate::layout::Source;
use crate::menu::{self, Prepared};
use crate::model::{Environment, Inventory, STORE, Subvolume};
use crate::name::EnvName;
use crate::observe::MAX_TEXT;
use crate::plan::{CloneSpec, Step};
use crate::record::{Base, Boot, Late, Member, Policy, Record, place};
use crate::refusal::Refusal;
use crate::session::Session;
use crate::store::Paths;

/// Make a clone, with `meanwhile` at work on its base; gives what that comes to.
pub(super) fn clone<T: Send>(
    session: &Session,
    spec: &CloneSpec,
    meanwhile: impl FnOnce(&Root) -> Result<T> + Send,
) -> Result<T> {
    let made = make_clone(session, spec, meanwhile);
    if made.is_err() {
        // The failure is what counts; what stays is swept by the next be.
        let _swept = discard_new(session, spec.record.name.as_str());
    }
    made
}

fn make_clone<T: Send>(
    session: &Session,
    spec: &CloneSpec,
    meanwhile: impl FnOnce(&Root) -> Result<T> + Send,
) -> Result<T> {
    let dir = &session.store.dir;
    let work = Path::new(Paths::NEW).join(spec.record.name.as_str());
    dir.mkdir_all(work.join("log"), 0o700)?;
    let work_dir = dir.sub(&work)?;
    let uuids: Vec<_> = spec.sources.iter().map(|s| s.uuid.as_str()).collect();
    work_dir.set_attribute(SOURCES, uuids.join(",").as_bytes())?;
    let Some((root, others)) = spec.sources.split_first() else {
        bail!("an environment needs a root");
    };
    let based = take_base(session, &work_dir, root)?;
    let base_root = based.base.try_clone()?;
    let rest = || -> Result<()> {
        let mut record = spec.record.clone();
        let (member, clone) = finish_clone(session, &work_dir, root, based)?;
        record.subvolumes.push(member);
        for source in others {
            let (member, _) = match source.policy {
                Policy::Late => late_clone(session, &work_dir, source)?,
                _ => {
                    let based = take_base(session, &work_dir, source)?;
                    finish_clone(session, &work_dir, source, based)?
                }
            };
            record.subvolumes.push(member);
        }
        if let Some(boot) = &spec.boot {
            copy_boot(session, boot, &clone)?;
        }
        rewrite_fstab(&clone, &spec.fstab)?;
        session.store.write_new_record(&work, &record)
    };
    // The rest waits for the disk, most of the time.
    let (made, meanwhile) = std::thread::scope(|threads| {
        let other = threads.spawn(|| meanwhile(&base_root));
        let made = rest();
        let joined = other.join();
        (
            made,
            joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        )
    });
    made?;
    let meanwhile = meanwhile?;
    dir.rename_noreplace(&work, Paths::environment(&spec.record.name))
        .with_context(|| format!("cannot publish {}", spec.record.name))?;
    Ok(meanwhile)
}

/// A source with the read-only snapshot that was taken of it.
struct Based {
    from: Root,
    base: Root,
    info: SubvolumeInfo,
}

fn open_source(session: &Session, source: &Source) -> Result<Root> {
    let from = session.store.root_of(&source.from)?;
    if be_btrfs::subvolume_info(&from)?.uuid.to_string() != source.uuid {
        bail!("/{} is another subvolume by now", source.from.display());
    }
    Ok(from)
}

/// Make a snapshot at a place in the directory of an environment that is being made.
pub(crate) fn snapshot(
    session: &Session,
    home: &Root,
    place: &Path,
    of: &Root,
    mode: Mode,
) -> Result<(SubvolumeInfo, Root)> {
    let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else {
        bail!("{} is no place for a subvolume", place.display());
    };
    home.mkdir_all(parent, 0o700)?;
    let parent = home.sub(parent)?;
    let info = session
        .store
        .top
        .snapshot(of.fd(), parent.fd(), name, mode)?;
    Ok((info, parent.sub(name)?))
}

fn take_base(session: &Session, home: &Root, source: &Source) -> Result<Based> {
    let from = open_source(session, source)?;
    let place = Path::new("base").join(place(&source.mount));
    let (info, base) = snapshot(session, home, &place, &from, Mode::ReadOnly)?;
    Ok(Based { from, base, info })
}

fn finish_clone(
    session: &Session,
    home: &Root,
    source: &Source,
    based: Based,
) -> Result<(Member, Root)> {
    let place = place(&source.mount);
    let (info, clone) = snapshot(session, home, &place, &based.base, Mode::Writable)?;
    tidy(&clone, &based.from, source)?;
    let mut member = Member::new(&source.mount, source.policy, info.uuid.to_string());
    let taken = be_btrfs::subvolume_info(&based.from)?;
    // What the original wrote since is newer than the snapshot, not than its base.
    let original = source.original.as_ref();
    let original =
        original.filter(|uuid| taken.parent_uuid.is_some_and(|p| p.to_string() == **uuid));
    let (of, generation) = match original {
        Some(original) => (original, taken.otransid),
        None => (&source.uuid, based.info.otransid),
    };
    member.base = Some(Base {
        uuid: based.info.uuid.to_string(),
        of: of.clone(),
        generation,
    });
    Ok((member, clone))
}

/// A clone that will be made anew when it is needed: it is never merged, so it has no base.
fn late_clone(session: &Session, home: &Root, source: &Source) -> Result<(Member, Root)> {
    let from = open_source(session, source)?;
    let (info, clone) = snapshot(session, home, &place(&source.mount), &from, Mode::Writable)?;
    tidy(&clone, &from, source)?;
    let mut member = Member::new(&source.mount, source.policy, info.uuid.to_string());
    member.late = Some(Late {
        of: source.uuid.clone(),
        since: info.otransid,
        written: be_btrfs::subvolume_info(&clone)?.ctransid,
    });
    Ok((member, clone))
}

/// Clone once more what is cloned late: a new one is made under `.work`, the record names
/// it beside the old one, and one exchange puts it in its place. What somebody wrote in the
/// meantime is kept, which is said in a sentence each.
pub(super) fn clone_late(
    session: &Session,
    number: &str,
    name: &EnvName,
    sources: &[Source],
) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for source in sources {
        if let Some(note) = clone_one_late(session, number, name, source)? {
            notes.push(note);
        }
    }
    Ok(notes)
}

fn clone_one_late(
    session: &Session,
    number: &str,
    name: &EnvName,
    source: &Source,
) -> Result<Option<String>> {
    let store = &session.store;
    let home = Paths::environment(name);
    let work = Path::new(Paths::NEW).join(name.as_str());
    let place = place(&source.mount);
    let (old, new) = (home.join(&place), work.join(&place));
    let used = |at: &Path| -> Result<()> {
        match in_use(number, at)? {
            Some(by) => {
                let name = name.clone().into();
                Err(Refusal::InUse { name, by }.into())
            }
            None => Ok(()),
        }
    };
    used(&old)?;
    let mut record = store.record_of(name)?;
    let mut members = record.subvolumes.iter();
    let Some(at) = members.position(|m| m.mount == source.mount) else {
        bail!("{name} has no {}", source.mount);
    };
    let mut known = vec![source.uuid.clone()];
    let is_there = store.dir.exists(&old)?;
    if is_there {
        let info = be_btrfs::subvolume_info(&store.dir.sub(&old)?)?;
        let written = record.subvolumes[at].late.as_ref().map(|late| late.written);
        if written.is_none_or(|written| info.ctransid > written) {
            return Ok(Some(format!(
                "{} of {name} was written since it was cloned, and is kept as it is",
                source.mount
            )));
        }
        known.extend(info.parent_uuid.map(|uuid| uuid.to_string()));
    }
    store.dir.mkdir_all(&work, 0o700)?;
    let work_dir = store.dir.sub(&work)?;
    work_dir.set_attribute(SOURCES, known.join(",").as_bytes())?;
    let (member, _) = late_clone(session, &work_dir, source)?;
    record.subvolumes[at].replacement = Some(member.uuid.clone());
    store.write_record(&home, &record)?;
    match is_there {
        true => store.dir.exchange(&new, &old)?,
        false => store.dir.rename_noreplace(&new, &old)?,
    }
    // A mount follows the exchange: who mounted it meanwhile is seen here.
    if let Err(e) = used(&new) {
        store.dir.exchange(&new, &old)?;
        record.subvolumes[at].replacement = None;
        store.write_record(&home, &record)?;
        discard_new(session, name.as_str())?;
        return Err(e);
    }
    // The record must not be newer on the disk than what it tells of.
    store.top.sync()?;
    record.subvolumes[at] = member;
    store.write_record(&home, &record)?;
    discard_new(session, name.as_str())?;
    Ok(None)
}

/// With how many other environments a clone's copy of /boot is compared.
const RELATIVES: usize = 8;

/// Give the clone the kernels of a /boot that is not in the root of its origin.
fn copy_boot(session: &Session, boot: &Boot, clone: &Root) -> Result<()> {
    let from = bootfs::open(&session.store, boot, false)?;
    let mut names: Vec<_> = session.store.records()?.into_iter().map(|r| r.0).collect();
    // Mostly dates: the newest first.
    names.sort_by(|a, b| b.cmp(a));
    let others: Vec<Root> = names
        .iter()
        .take(RELATIVES)
        .filter_map(|name| {
            let root = Path::new(STORE).join(name).join("root");
            session.store.root_of(&root).ok()
        })
        .collect();
    bootfs::copy(&from.root, clone, &others).context("cannot copy /boot into the clone")
}

/// Make the clone whole: no copy of the store, and usable directories where subvolumes
/// were (btrfs leaves an empty directory there in which nothing can be made).
fn tidy(clone: &Root, from: &Root, source: &Source) -> Result<()> {
    if source.holds_store {
        clone
            .remove_tree(STORE)
            .context("cannot take the store out of the clone")?;
    }
    for path in &source.nested {
        placeholder(clone, from, path)
            .with_context(|| format!("cannot make /{} usable in the clone", path.display()))?;
    }
    Ok(())
}

pub(super) fn placeholder(clone: &Root, from: &Root, path: &Path) -> Result<()> {
    let original = from.metadata(path)?;
    clone.rmdir(path)?;
    clone.mkdir(path, original.mode)?;
    clone.chown(path, original.uid, original.gid)?;
    Ok(clone.chmod(path, original.mode)?)
}

fn rewrite_fstab(clone: &Root, changes: &[Change]) -> Result<()> {
    const FSTAB: &str = "etc/fstab";
    let text = match clone.read_to_string(FSTAB, MAX_TEXT) {
        Ok(text) => text,
        Err(e) if e.is_not_found() => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let old = Fstab::parse(&text);
    let new = old.changed(changes);
    check_fstab(&old, &new, changes)
        .context("the fstab of the clone could not be rewritten; nothing was kept")?;
    for entry in new.entries() {
        let moved = changes
            .iter()
            .any(|c| matches!(c, Change::Target { to, .. } if *to == entry.target));
        if moved || (entry.target.starts_with("/boot") && !clone.exists(&entry.target)?) {
            clone.mkdir_all(&entry.target, 0o755)?;
        }
    }
    if new != old {
        clone.write_synced(FSTAB, new.to_text().as_bytes(), 0o644)?;
    }
    Ok(())
}

/// Prove a new fstab by what it reads back as.
pub(super) fn check_fstab(old: &Fstab, new: &Fstab, changes: &[Change]) -> Result<()> {
    let again = Fstab::parse(&new.to_text());
    let (mut more, mut less) = (0, 0);
    for change in changes {
        match change {
            Change::Subvol {
                target,
                source,
                subvol,
            } => {
                let wrong = again
                    .entries()
                    .filter(|e| e.is_at(target, source.as_deref()))
                    .any(|e| {
                        e.subvol() != Some(subvol.trim_matches('/')) || e.subvolid().is_some()
                    });
                ensure!(!wrong, "the line for {} is wrong", target.display());
            }
            Change::Target { to, .. } => {
                ensure!(again.at(to).is_some(), "{} is missing", to.display());
            }
            Change::Source { target, to } => {
                let wrong = again.entries().filter(|e| e.is_at(target, None));
                let wrong = wrong.filter(|e| e.source != *to).count();
                ensure!(wrong == 0, "the line for {} is wrong", target.display());
            }
            Change::Comment { target } => {
                less += old.entries().filter(|e| e.target == *target).count();
            }
            Change::Add(entry) => {
                more += 1;
                ensure!(
                    again.at(&entry.target) == Some(entry),
                    "the line for {} is wrong",
                    entry.target.display()
                );
            }
        }
    }
    let expected = old.entries().count() + more - less;
    ensure!(again.entries().count() == expected, "it has lost a line");
    Ok(())
}

/// Prepare the menu of the next step while the clone is still being made: the base is
/// there, and equals it. None if the next step is no menu.
pub(super) fn prepare_with(
    session: &Session,
    inv: Option<Inventory>,
    spec: &CloneSpec,
    base: &Root,
    next: Option<&Step>,
) -> Result<Option<Prepared>> {
    let (
        Some(mut inv),
        Some(Step::WriteMenu {
            default,
            without,
            proofs,
        }),
    ) = (inv, next)
    else {
        return Ok(None);
    };
    if spec.boot.is_some() || spec.sources.len() > 1 {
        // The base of the root has not all of it.
        return Ok(None);
    }
    // The base was made by a commit: generations read now are true.
    let tree = session.store.top.tree()?;
    let roots = inv.environments.iter_mut().filter_map(|e| e.root.as_mut());
    for root in roots {
        if let Some(node) = tree.by_id(root.id) {
            root.generation = node.generation;
        }
    }
    let env = unborn(&spec.record);
    let request = menu::Request {
        default,
        without,
        proofs: *proofs,
        unborn: Some(menu::Unborn { env: &env, base }),
        back: None,
    };
    menu::prepare(session, &inv, &request).map(Some)
}

/// An environment of which only the place is known.
fn unborn(record: &Record) -> Environment {
    let root = Subvolume {
        id: 0,
        uuid: String::new(),
        path: Paths::environment(&record.name).join("root"),
        generation: 0,
    };
    Environment::new(record.clone(), Some(root))
}
