//! Carrying out a plan, step by step. Every step can be cut off at any point: what it left
//! is either complete, or lies in `.work` and is swept by the next `be`.

mod clone;
mod remove;
mod rename;
mod snapshot;
mod split;

use std::path::Path;

use anyhow::{Context, Result, bail};
use be_btrfs::Root;
use chrono::{DateTime, FixedOffset};

use crate::block;
use crate::bootfs;
use crate::files;
use crate::health;
use crate::host;
use crate::layout::ATTRIBUTE;
use crate::menu::{self, Prepared, Written};
use crate::model::{GrubConfig, Inventory, Place};
use crate::mount;
use crate::name::EnvName;
use crate::observe::read_config;
use crate::plan::{self, Plan, Proofs, Renaming, Step};
use crate::record::{Record, State};
use crate::session::Session;
use crate::store::{Lock, Paths};
use crate::upgrade::{self, inputs};

pub(crate) use clone::snapshot as make_snapshot;
pub use remove::sweep;
pub(crate) use remove::{SOURCES, delete, discard_new, is_unfinished};

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
        number: inv.fs.number.clone(),
        inv: Some(inv),
        prepared: None,
        done: Done {
            menu: None,
            notes: plan.notes.clone(),
        },
        announced: None,
    };
    let next = plan.steps.iter().skip(1).map(Some).chain([None]);
    for (step, next) in plan.steps.iter().zip(next) {
        tracing::info!("{step}");
        if let Err(e) = work.run_on_full_disk(step, next) {
            if let Some(names) = &work.announced {
                rename::undo(session, names);
            }
            if matches!(step, Step::Remove(_)) {
                work.give_entries_back(plan);
            }
            return Err(e).with_context(|| format!("could not {step}"));
        }
    }
    let removes = plan.steps.iter().any(|s| matches!(s, Step::Remove(_)));
    if work.done.menu.is_none() || removes {
        // One for all that was removed: it also wakes the cleaner, so that the space comes
        // back soon.
        session.store.top.sync()?;
    }
    Ok(work.done)
}

/// A plan at work.
struct Work<'a> {
    session: &'a Session,
    /// Of the filesystem, as mountinfo has it.
    number: String,
    /// What is known of the system; none if a step changed more than it can tell.
    inv: Option<Inventory>,
    /// The menu that the next step writes.
    prepared: Option<Prepared>,
    done: Done,
    /// A rename that can still be undone: the menu does not have the new name yet.
    announced: Option<Renaming>,
}

impl Work<'_> {
    /// A removal failed after the menu was written without all that were to go: those that
    /// are still there have entries again. The failure is what counts.
    fn give_entries_back(&mut self, plan: &Plan) {
        for step in &plan.steps {
            if let Step::WriteMenu { default, .. } = step {
                let again = Step::menu(default);
                if let Err(e) = self.run(&again, None) {
                    tracing::warn!("the menu lacks what was not removed: {e:#}; be menu");
                }
            }
        }
    }

    /// What changes the menu must work on a full disk too: it is the way to make room.
    fn run_on_full_disk(&mut self, step: &Step, next: Option<&Step>) -> Result<()> {
        let first = self.run(step, next);
        let repeatable = matches!(
            step,
            Step::WriteMenu { .. } | Step::Update(_) | Step::AtShutdown { .. } | Step::EndRename(_)
        );
        match first {
            Err(e) if repeatable && is_full(&e) && self.session.store.use_reserve()? => {
                self.run(step, next)
            }
            other => other,
        }
    }

    fn run(&mut self, step: &Step, next: Option<&Step>) -> Result<()> {
        let session = self.session;
        match step {
            Step::MakeStore => session.store.make(),
            Step::InstallScript => install_script(&session.root),
            Step::InstallFile(file) => files::install(&session.root, file),
            Step::HookConfig { config } => hook(session, config),
            Step::Adopt(record) => adopt(session, record),
            Step::Clone(spec) => {
                let inv = self.inv.take();
                let prepare = |base: &Root| clone::prepare_with(session, inv, spec, base, next);
                self.prepared = clone::clone(session, spec, prepare)?;
                Ok(())
            }
            Step::CloneLate { name, sources } => {
                let notes = clone::clone_late(session, &self.number, name, sources)?;
                self.done.notes.extend(notes);
                Ok(())
            }
            Step::SetPolicy {
                subvolume,
                uuid,
                policy,
                ..
            } => {
                let root = session.store.root_of(subvolume)?;
                if be_btrfs::subvolume_info(&root)?.uuid.to_string() != *uuid {
                    bail!("/{} is another subvolume by now", subvolume.display());
                }
                Ok(root.set_attribute(ATTRIBUTE, policy.as_str().as_bytes())?)
            }
            Step::Update(record) => {
                let dir = Paths::environment(&record.name);
                session.store.write_record(&dir, record)
            }
            Step::WriteMenu {
                default,
                without,
                proofs,
            } => {
                let prepared = match self.prepared.take() {
                    Some(prepared) => prepared,
                    None => {
                        // Generations, by which proofs are kept, are as of the last commit.
                        session.store.top.sync()?;
                        let request = menu::Request {
                            default,
                            without,
                            proofs: *proofs,
                            unborn: None,
                            back: None,
                        };
                        menu::prepare(session, &session.observe()?, &request)?
                    }
                };
                self.done.menu = Some(prepared.write(session)?);
                self.announced = None;
                Ok(())
            }
            Step::BootOnce { name, back } => {
                session.store.top.sync()?;
                let request = menu::Request {
                    default: name,
                    without: &[],
                    proofs: Proofs::Kept,
                    unborn: None,
                    back: Some(back),
                };
                let prepared = menu::prepare(session, &session.observe()?, &request)?;
                self.done.menu = Some(prepared.write(session)?);
                Ok(())
            }
            Step::Choose(choice) => choose(session, choice),
            Step::AtShutdown { name, then } => {
                let mut record = session.store.record_of(name)?;
                record.at_shutdown.clone_from(then);
                session
                    .store
                    .write_record(&Paths::environment(name), &record)
            }
            Step::Split(spec) => {
                let note = split::split(session, &self.number, spec)?;
                self.done.notes.extend(note);
                Ok(())
            }
            Step::AddMount { spec, entry } => split::add_mount(session, spec, entry),
            Step::Unmount(target) => mount::unmount(target),
            Step::Remove(removal) => remove::remove(session, &self.number, removal),
            Step::RemoveSnapshot(removal) => snapshot::remove(session, &self.number, removal),
            Step::Snapshot(spec) => snapshot::take(session, spec),
            Step::Restore(spec) => snapshot::restore(session, &self.number, spec),
            Step::Announce(names) => {
                self.announced = Some(names.clone());
                rename::announce(session, names)
            }
            Step::RewriteFstab(names) => rename::rewrite_fstab(session, names),
            Step::Move(names) => rename::exchange(session, names),
            Step::EndRename(names) => rename::end(session, names),
        }
    }
}

/// The block lies outside the filesystem that it speaks of: everything there is brought to
/// the disk first.
fn choose(session: &Session, choice: &be_grub::selection::Choice) -> Result<()> {
    session.store.top.commit()?;
    let block = session.observe()?.menu.block;
    let block = block.context("the menu cannot choose by itself: be status says why")?;
    let starts = choice.trial.as_ref().filter(|t| t.left > 0);
    if let Some(name) = starts.and_then(|t| EnvName::parse(&t.name).ok()) {
        health::forget(&session.store, &name);
    }
    block::write(&session.store, &block.at, choice)
}

/// Whether there was no room.
fn is_full(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|e| e.downcast_ref::<be_btrfs::Error>())
        .any(|e| e.io_kind() == std::io::ErrorKind::StorageFull)
}

pub(crate) fn install_script(root: &Root) -> Result<()> {
    root.mkdir_all("etc/grub.d", 0o755)?;
    let path = Path::new("etc/grub.d").join(be_grub::hook::SCRIPT_NAME);
    root.write_atomic(&path, be_grub::hook::SCRIPT.as_bytes(), 0o755)?;
    // A file that was there hands on its mode, and grub-mkconfig passes over what is not
    // executable.
    Ok(root.chmod(path, 0o755)?)
}

fn hook(session: &Session, config: &GrubConfig) -> Result<()> {
    let old = read_config(&session.store, &session.root, config)?;
    let new = be_grub::hook::insert(&old, &session.store.top.fs_uuid().to_string());
    be_grub::validate::validate(&new)
        .with_context(|| format!("{} stays as it was", config.shown))?;
    match &config.place {
        Place::InRoot { root, path } => {
            let root = session.store.root_of(root)?;
            root.write_atomic(path, new.as_bytes(), 0o600)?;
        }
        Place::Boot { boot, path } => {
            let dir = bootfs::open(&session.store, boot, true)?;
            dir.root.write_atomic(path, new.as_bytes(), 0o600)?;
            // GRUB replays no journal: it sees what is in its place on the disk.
            rustix::fs::syncfs(dir.root.fd()).context("cannot sync /boot")?;
        }
        Place::SystemRoot(path) => session.root.write_atomic(path, new.as_bytes(), 0o600)?,
    }
    Ok(session.store.top.sync()?)
}

fn adopt(session: &Session, record: &Record) -> Result<()> {
    let work = Path::new(Paths::NEW).join(record.name.as_str());
    let dir = &session.store.dir;
    dir.mkdir_all(work.join("log"), 0o700)?;
    session.store.write_new_record(&work, record)?;
    Ok(dir.rename_noreplace(&work, Paths::environment(&record.name))?)
}

/// Finish a rename that was cut off. Gives the system as it is then, and a sentence.
///
/// # Errors
/// When the system cannot be read again. That it could not be finished is no error: other
/// work goes on, and the next be tries again.
pub fn finish_rename(
    session: &Session,
    inv: Inventory,
    lock: &Lock,
) -> Result<(Inventory, Option<String>)> {
    let Some((names, rest)) = plan::unfinished(&inv) else {
        return Ok((inv, None));
    };
    let (from, to) = (&names.from, &names.to);
    let note = match execute(session, inv, &rest, lock) {
        Ok(_) => format!("finished the rename of {from} to {to}"),
        Err(e) => format!("could not finish the rename of {from} to {to}: {e:#}"),
    };
    Ok((session.observe()?, Some(note)))
}

/// Take note of what GRUB has given up, with why, as far as that can be known. Gives its
/// name.
///
/// # Errors
/// When its record or the environment block cannot be written.
pub fn note_failed(
    session: &Session,
    inv: Inventory,
    now: DateTime<FixedOffset>,
    lock: &Lock,
) -> Result<(Inventory, Option<EnvName>)> {
    if inv.choice().failed.is_none() {
        return Ok((inv, None));
    }
    let cause = inv.choice().failed.map(|f| f.cause);
    let why = |name: &EnvName| health::why(session, name, cause);
    let (plan, failed) = plan::note_failed(&inv, why, now)?;
    if let Some(env) = failed.as_ref().and_then(|name| inv.get(name).ok()) {
        inputs::remember(session, &env.record, now)?;
    }
    execute(session, inv, &plan, lock)?;
    Ok((session.observe()?, failed))
}

/// An environment has come up: what it was made from may be built again, and what it was
/// built of is not needed any more.
///
/// # Errors
/// When what is remembered cannot be written.
pub fn came_up(session: &Session, record: &Record) -> Result<()> {
    inputs::forget(session, record)?;
    upgrade::clear(session)
}

/// An environment that `be` is used in has come up: mark it as known to work. Gives its
/// name if it was not marked before. One that is on trial has its health checks for that,
/// or a person who says so.
///
/// # Errors
/// When its record cannot be written.
pub fn confirm_running(
    session: &Session,
    inv: &mut Inventory,
    _lock: &Lock,
) -> Result<Option<EnvName>> {
    // A system that is only mounted somewhere, or entered, has not come up.
    if inv.sysroot != Path::new("/") || !host::sees_the_machine() {
        return Ok(None);
    }
    let running = inv
        .environments
        .iter_mut()
        .find(|e| e.running && e.trial.is_none() && e.record.state == State::Ready);
    let Some(env) = running else {
        return Ok(None);
    };
    env.record.state = State::Confirmed;
    let dir = Paths::environment(&env.record.name);
    session.store.write_record(&dir, &env.record)?;
    upgrade::clear(session)?;
    Ok(Some(env.record.name.clone()))
}
