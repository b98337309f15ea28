//! Carrying out a plan, step by step. Every step can be cut off at any point: what it left
//! is either complete, or lies in `.work` and is swept by the next `be`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use be_btrfs::{Mode, Root, Tree, Uuid};

use crate::fstab::Fstab;
use crate::menu::{self, Written};
use crate::model::{Environment, GrubConfig, Inventory, Place, STORE, Subvolume};
use crate::mount;
use crate::name::EnvName;
use crate::observe::{MAX_TEXT, read_config};
use crate::plan::{CloneSpec, Plan, Proofs, Removal, Step};
use crate::record::{Base, Member, Policy, Record, State};
use crate::session::Session;
use crate::store::{Lock, Paths};

/// What came of a plan.
#[derive(Debug, Default)]
pub struct Done {
    /// The menu, if it was written.
    pub menu: Option<Written>,
    /// A sentence each.
    pub notes: Vec<String>,
}

/// Carry out a plan, and bring it to the disk. The lock proves that nobody else does;
/// `inv` is what the plan was made from.
///
/// # Errors
/// The first step that fails; the steps before it stand.
pub fn execute(session: &Session, inv: Inventory, plan: &Plan, _lock: &Lock) -> Result<Done> {
    let mut work = Work {
        session,
        inv: Some(inv),
        committed: false,
        done: Done {
            menu: None,
            notes: plan.notes.clone(),
        },
    };
    for step in &plan.steps {
        tracing::info!("{step}");
        work.run(step)
            .with_context(|| format!("could not {step}"))?;
    }
    if work.done.menu.is_none() {
        session.store.top.sync()?;
    }
    Ok(work.done)
}

/// A plan at work.
struct Work<'a> {
    session: &'a Session,
    /// What is known of the system; none if a step changed more than it can tell.
    inv: Option<Inventory>,
    /// A commit came after everything that others may have written.
    committed: bool,
    done: Done,
}

impl Work<'_> {
    fn run(&mut self, step: &Step) -> Result<()> {
        let session = self.session;
        match step {
            Step::MakeStore => {
                self.inv = None;
                session.store.make()
            }
            Step::InstallScript => install_script(&session.root),
            Step::HookConfig { config } => hook(session, config),
            Step::Adopt(record) => {
                self.inv = None;
                adopt(session, record)
            }
            Step::Clone(spec) => {
                let env = clone(session, spec)?;
                self.committed = true;
                if let Some(inv) = &mut self.inv {
                    inv.environments.push(env);
                }
                Ok(())
            }
            Step::Update(record) => {
                let known = self.inv.as_mut().and_then(|inv| {
                    let mut all = inv.environments.iter_mut();
                    all.find(|e| e.record.name == record.name)
                });
                if let Some(env) = known {
                    env.record = (**record).clone();
                }
                let dir = Paths::environment(&record.name);
                session.store.write_record(&dir, record)
            }
            Step::WriteMenu {
                default,
                without,
                proofs,
            } => {
                // Generations, by which proofs are kept, are as of the last commit.
                if *proofs == Proofs::Kept && !self.committed {
                    session.store.top.sync()?;
                    self.inv = None;
                }
                let inv = match self.inv.take() {
                    Some(mut inv) => {
                        refresh(&mut inv, &session.store.top.tree()?);
                        inv
                    }
                    None => session.observe()?,
                };
                let written = menu::write(session, &inv, default, without, *proofs)?;
                self.done.menu = Some(written);
                Ok(())
            }
            Step::Remove(removal) => remove(session, removal),
        }
    }
}

/// Take over the generations of a tree that was read later.
fn refresh(inv: &mut Inventory, tree: &Tree) {
    let roots = inv.environments.iter_mut().filter_map(|e| e.root.as_mut());
    for root in roots {
        if let Some(node) = tree.by_id(root.id) {
            root.generation = node.generation;
        }
    }
}

fn install_script(root: &Root) -> Result<()> {
    root.mkdir_all("etc/grub.d", 0o755)?;
    let path = Path::new("etc/grub.d").join(be_grub::hook::SCRIPT_NAME);
    Ok(root.write_atomic(path, be_grub::hook::SCRIPT.as_bytes(), 0o755)?)
}

fn hook(session: &Session, config: &GrubConfig) -> Result<()> {
    let old = read_config(&session.store, &session.root, config)?;
    let new = be_grub::hook::insert(&old, &session.store.top.fs_uuid().to_string());
    be_grub::validate::validate(&new)
        .with_context(|| format!("{} stays as it was", config.shown))?;
    let (root, path) = match &config.place {
        Place::TopLevel(path) => (&session.store.dir, path),
        Place::SystemRoot(path) => (&session.root, path),
    };
    root.write_atomic(path, new.as_bytes(), 0o600)?;
    Ok(session.store.top.sync()?)
}

fn adopt(session: &Session, record: &Record) -> Result<()> {
    let work = Path::new(Paths::NEW).join(record.name.as_str());
    let dir = &session.store.dir;
    dir.mkdir_all(work.join("log"), 0o700)?;
    session.store.write_new_record(&work, record)?;
    Ok(dir.rename_noreplace(&work, Paths::environment(&record.name))?)
}

fn clone(session: &Session, spec: &CloneSpec) -> Result<Environment> {
    let made = make_clone(session, spec);
    if made.is_err() {
        // The failure is what counts; what stays is swept by the next be.
        let _swept = discard_new(session, spec.record.name.as_str());
    }
    made
}

fn make_clone(session: &Session, spec: &CloneSpec) -> Result<Environment> {
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
    let root = store
        .top
        .snapshot(base_root.fd(), work_dir.fd(), name, Mode::Writable)?;

    let clone = work_dir.sub(name)?;
    tidy(&clone, &from, spec)?;
    rewrite_fstab(&clone, &spec.record)?;

    let mut member = Member::new("/", Policy::Cloned, root.uuid.to_string());
    member.base = Some(Base {
        uuid: base.uuid.to_string(),
        of: spec.from_uuid.clone(),
        generation: base.otransid,
    });
    let mut record = spec.record.clone();
    record.subvolumes = vec![member];
    store.write_new_record(&work, &record)?;
    dir.rename_noreplace(&work, Paths::environment(&record.name))
        .with_context(|| format!("cannot publish {}", record.name))?;
    Ok(Environment {
        root: Some(Subvolume {
            id: root.id,
            uuid: root.uuid.to_string(),
            path: Paths::environment(&record.name).join(name),
            generation: root.generation,
        }),
        record,
        running: false,
        next: false,
        busy: false,
        mounted: Vec::new(),
        nested: Vec::new(),
    })
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

fn placeholder(clone: &Root, from: &Root, path: &Path) -> Result<()> {
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
        .filter(|e| e.target == Path::new("/") && e.fstype == "btrfs")
        .any(|e| e.subvol() != Some(subvol.trim_matches('/')) || e.subvolid().is_some());
    if wrong || again.entries().count() != old.entries().count() {
        bail!("the fstab of the clone could not be rewritten; nothing was kept");
    }
    if new != old {
        clone.write_later(FSTAB, new.to_text().as_bytes(), 0o644)?;
    }
    Ok(())
}

fn remove(session: &Session, removal: &Removal) -> Result<()> {
    for target in &removal.unmount {
        mount::unmount(target)?;
    }
    let dir = &session.store.dir;
    dir.mkdir_all(Paths::GONE, 0o700)?;
    let gone = Path::new(Paths::GONE).join(removal.name.as_str());
    dir.rename_noreplace(Paths::environment(&removal.name), &gone)?;
    session.store.top.commit()?;
    let subvolumes: Vec<(PathBuf, Uuid)> = removal
        .subvolumes
        .iter()
        .map(|m| Ok((m.path.clone(), m.uuid.parse().context("a UUID is damaged")?)))
        .collect::<Result<_>>()?;
    delete(session, &gone, &subvolumes)
}

/// Delete these subvolumes, then the directory if nothing else is in it.
fn delete(session: &Session, at: &Path, subvolumes: &[(PathBuf, Uuid)]) -> Result<()> {
    let dir = &session.store.dir;
    for (path, uuid) in subvolumes {
        let path = at.join(path);
        if !dir.exists(&path)? {
            continue;
        }
        let (parent, name) = session.store.parent_of(&path)?;
        session
            .store
            .top
            .delete_subvolume(parent.fd(), name, *uuid)?;
    }
    dir.remove_tree(at)
        .with_context(|| format!("/{} is left behind", at.display()))?;
    // Also wakes the cleaner, so that the space comes back soon.
    Ok(session.store.top.sync()?)
}

/// An environment that `be` is used in has come up: mark it as known to work. Gives its
/// name if it was not marked before.
///
/// # Errors
/// When its record cannot be written.
pub fn confirm_running(
    session: &Session,
    inv: &mut Inventory,
    _lock: &Lock,
) -> Result<Option<EnvName>> {
    // A system that is only mounted somewhere has not come up.
    if inv.sysroot != Path::new("/") {
        return Ok(None);
    }
    let running = inv
        .environments
        .iter_mut()
        .find(|e| e.running && matches!(e.record.state, State::Ready | State::Trial));
    let Some(env) = running else {
        return Ok(None);
    };
    env.record.state = State::Confirmed;
    let dir = Paths::environment(&env.record.name);
    session.store.write_record(&dir, &env.record)?;
    Ok(Some(env.record.name.clone()))
}

/// Take away what an interrupted `be` left. Gives a sentence for each thing done.
///
/// # Errors
/// Nothing is an error here but the store being unreadable: what cannot be proven to be
/// ours is left and named.
pub fn sweep(session: &Session, _lock: &Lock) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for name in session.store.work(Paths::NEW) {
        notes.push(match discard_new(session, &name) {
            Ok(()) => format!("removed what an interrupted command left of {name}"),
            Err(e) => format!("left /{}/{name} alone: {e:#}", Paths::NEW),
        });
    }
    for name in session.store.work(Paths::GONE) {
        notes.push(match finish_gone(session, &name) {
            Ok(()) => format!("finished the removal of {name}"),
            Err(e) => format!("left /{}/{name} alone: {e:#}", Paths::GONE),
        });
    }
    Ok(notes)
}

/// An unfinished clone: its base is ours if it descends from an environment, and its root
/// if it descends from that base. Nobody else makes snapshots at these paths.
fn discard_new(session: &Session, name: &str) -> Result<()> {
    let work = Path::new(Paths::NEW).join(name);
    let dir = &session.store.dir;
    let mut ancestors: Vec<Uuid> = session
        .store
        .records()?
        .iter()
        .filter_map(|(_, record)| record.as_ref().ok()?.root()?.uuid.parse().ok())
        .collect();
    let mut ours = Vec::new();
    for path in ["base/root", "root"] {
        let at = work.join(path);
        if !dir.exists(&at)? {
            continue;
        }
        let info = be_btrfs::subvolume_info(&dir.sub(&at)?)?;
        if !info
            .parent_uuid
            .is_some_and(|uuid| ancestors.contains(&uuid))
        {
            bail!("/{} is not known to be made by be", at.display());
        }
        ancestors = vec![info.uuid];
        ours.push((PathBuf::from(path), info.uuid));
    }
    delete(session, &work, &ours)
}

fn finish_gone(session: &Session, name: &str) -> Result<()> {
    let gone = Path::new(Paths::GONE).join(name);
    let mut ours = Vec::new();
    if let Some(record) = read_record(session, &gone, name)?
        && let Some(root) = record.root()
    {
        if let Ok(uuid) = root.uuid.parse() {
            ours.push((PathBuf::from("root"), uuid));
        }
        if let Some(uuid) = root.base.as_ref().and_then(|b| b.uuid.parse().ok()) {
            ours.push((PathBuf::from("base/root"), uuid));
        }
    }
    delete(session, &gone, &ours)
}

fn read_record(session: &Session, at: &Path, name: &str) -> Result<Option<Record>> {
    match session
        .store
        .dir
        .read_to_string(at.join("be.json"), MAX_TEXT)
    {
        Ok(text) => Record::parse(&text, name)
            .map(Some)
            .map_err(|why| anyhow::anyhow!("its record cannot be read: {why}")),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e.into()),
    }
}
