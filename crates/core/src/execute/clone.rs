//! Making an environment: two snapshots, the few changes that make a clone whole, one
//! rename.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use be_btrfs::{Mode, Root};

use super::remove::discard_new;
use crate::fstab::Fstab;
use crate::menu::{self, Prepared};
use crate::model::{Environment, Inventory, STORE, Subvolume};
use crate::observe::MAX_TEXT;
use crate::plan::{CloneSpec, Step};
use crate::record::{Base, Member, Policy, Record};
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
    let store = &session.store;
    let dir = &store.dir;
    let work = Path::new(Paths::NEW).join(spec.record.name.as_str());
    dir.mkdir_all(work.join("base"), 0o700)?;
    dir.mkdir_all(work.join("log"), 0o700)?;

    let from = store.root_of(&spec.from)?;
    let source = be_btrfs::subvolume_info(&from)?;
    if source.uuid.to_string() != spec.from_uuid {
        bail!("/{} is another subvolume by now", spec.from.display());
    }
    let base_dir = dir.sub(work.join("base"))?;
    let name = OsStr::new("root");
    let base = store
        .top
        .snapshot(from.fd(), base_dir.fd(), name, Mode::ReadOnly)?;
    let base_root = base_dir.sub(name)?;
    let work_dir = dir.sub(&work)?;
    let rest = || -> Result<()> {
        let root = store
            .top
            .snapshot(base_root.fd(), work_dir.fd(), name, Mode::Writable)?;
        let clone = work_dir.sub(name)?;
        tidy(&clone, &from, spec)?;
        rewrite_fstab(&clone, &spec.record)?;
        let mut member = Member::new("/", Policy::Cloned, root.uuid.to_string());
        let original = spec.snapshot_of.as_ref();
        // What the original wrote since is newer than the snapshot, not than its base.
        let (of, generation) = match original
            .filter(|uuid| source.parent_uuid.is_some_and(|p| p.to_string() == **uuid))
        {
            Some(original) => (original, source.otransid),
            None => (&spec.from_uuid, base.otransid),
        };
        member.base = Some(Base {
            uuid: base.uuid.to_string(),
            of: of.clone(),
            generation,
        });
        let mut record = spec.record.clone();
        record.subvolumes = vec![member];
        store.write_new_record(&work, &record)
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

/// Make the clone whole: no copy of the store, and usable directories where subvolumes
/// were (btrfs leaves an empty directory there in which nothing can be made).
fn tidy(clone: &Root, from: &Root, spec: &CloneSpec) -> Result<()> {
    if spec.holds_store {
        clone
            .remove_tree(STORE)
            .context("cannot take the store out of the clone")?;
    }
    for path in &spec.nested {
        let outermost = !spec
            .nested
            .iter()
            .any(|other| other != path && path.starts_with(other));
        if outermost {
            placeholder(clone, from, path)
                .with_context(|| format!("cannot make /{} usable in the clone", path.display()))?;
        }
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

fn rewrite_fstab(clone: &Root, record: &Record) -> Result<()> {
    const FSTAB: &str = "etc/fstab";
    let text = match clone.read_to_string(FSTAB, MAX_TEXT) {
        Ok(text) => text,
        Err(e) if e.is_not_found() => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let subvol = format!("/{STORE}/{}/root", record.name);
    let old = Fstab::parse(&text);
    let new = old.with_root_subvol(&subvol);
    let again = Fstab::parse(&new.to_text());
    let wrong = again
        .entries()
        .filter(|e| e.is_btrfs_root())
        .any(|e| e.subvol() != Some(subvol.trim_matches('/')) || e.subvolid().is_some());
    if wrong || again.entries().count() != old.entries().count() {
        bail!("the fstab of the clone could not be rewritten; nothing was kept");
    }
    if new != old {
        clone.write_synced(FSTAB, new.to_text().as_bytes(), 0o644)?;
    }
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
