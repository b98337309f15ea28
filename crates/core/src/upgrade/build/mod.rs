//! `be build`: a clone in which packages are built for other machines, and the directory that
//! they are published in.
//!
//! The clone has the configuration of the system that it was cloned from, so that it cannot
//! differ from it. It is gone once the packages are published; what could not be built is held
//! for a person. What is done in it is done as in an upgrade, by the same [`Work`].

mod binhost;
mod failed;
mod request;
mod status;

use anyhow::{Context, Result, bail};
use be_portage::emerge;
use be_portage::pretend::{self, Planned};
use chrono::{DateTime, FixedOffset};

use super::built::{Built, TARGET};
use super::farm::Farm;
use super::portage::boot_id;
use super::report::later;
use super::{
    Kind as Upgrades, PATIENCE, Request, Watch, Work, claim, journal, moves, options, unused,
};
use crate::chroot::{Bind, Interrupted, Job};
use crate::config;
use crate::execute::{execute, finish_rename, sweep};
use crate::lock::Lock;
use crate::manager::Manager;
use crate::name::{EnvName, Named};
use crate::record::{Builder, Phase, Record};
use crate::refusal::{NothingToDo, Refusal};
use crate::session::Session;

pub use binhost::{Binhost, LOCK_FILE, Published};
pub(super) use binhost::{inside, real};
pub use failed::BuildFailed;
pub use request::{builders, give_up, held_until, is_held, plan};
pub use status::{Status, status};

/// Where a builder sees the directory of gpg.
const GPG_HOME: &str = "/run/be/gnupg";

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Build {
    /// A new builder, or the one that is held.
    pub kind: Kind,
    /// Build for the system that this lock is of: with its repositories, configuration, toolchain
    /// and world.
    pub lock: Option<Box<Lock>>,
    /// Where to publish; as be.toml says, without.
    pub packages: Option<String>,
    /// Only if `[build] every` has passed since the last build that ended well.
    pub due: bool,
    /// Also what is installed as it would be built.
    pub all: bool,
    /// Wait for another upgrade to end.
    pub wait: bool,
    /// Options and packages for emerge.
    pub options: Vec<String>,
    /// The time.
    pub now: DateTime<FixedOffset>,
}

/// A new builder or the one that there is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Clone one.
    New {
        /// Its name; `build-` and a date without one.
        name: Option<EnvName>,
        /// What to clone; the running one without one.
        origin: Option<Named>,
    },
    /// Go on in the one that is held.
    Continue,
}

/// Build, and publish.
///
/// # Errors
/// [`BuildFailed`] with the builder kept; [`NothingToDo`] if no package is new; every refusal
/// with nothing touched.
pub fn run(
    session: &Session,
    request: &Build,
    interrupted: &Interrupted,
    watch: &mut dyn Watch,
) -> Result<Published> {
    is_due(session, request)?;
    run_due(session, request, interrupted, watch).map_err(|error| match error.downcast_ref() {
        // Whoever asks again and again is told once that it failed.
        Some(refused @ (Refusal::BuilderHeld { .. } | Refusal::Busy { .. })) if request.due => {
            NothingToDo(format!("no build is due yet: {refused}")).into()
        }
        _ => error,
    })
}

fn run_due(
    session: &Session,
    request: &Build,
    interrupted: &Interrupted,
    watch: &mut dyn Watch,
) -> Result<Published> {
    let _upgrades = claim(session, request.wait, interrupted, watch)?;
    let lock = session.store.lock_within(PATIENCE)?;
    for note in sweep(session, &lock)? {
        watch.note(&note);
    }
    let (inv, note) = finish_rename(session, session.observe()?, &lock)?;
    let cut = builders(&inv).any(|env| is_torn(&env.record));
    let (planned, plan) = plan(session, &inv, request)?;
    if matches!(request.kind, Kind::Continue) {
        unused(session, &inv, &planned.name)?;
    }
    if let Some(note) = note {
        watch.note(&note);
    }
    let place = planned.builder.as_ref().map(|b| b.packages.clone());
    let host = Binhost::make(session, &place.unwrap_or_default())?;
    host.has_room(session)?;
    for note in execute(session, inv, &plan, &lock)?.notes {
        watch.note(&note);
    }
    let claim = session.store.claim(&planned.name)?;
    drop(lock);
    if cut {
        host.forget_unpublished()?;
    }
    let record = session.store.record_of(&planned.name)?;
    let as_upgrade = as_upgrade(request, &record);
    let manager = Manager::Portage;
    let mut work = Work {
        session,
        interrupted,
        watch,
        options: options(session, &manager, &as_upgrade)?,
        record,
        manager,
        built: None,
        binds: Vec::new(),
        moved: moves::Moved::default(),
        farm: Farm::default(),
        pretend: false,
        at: None,
        noted: journal::Noted::default(),
        made: None,
        wanted: None,
        supervisor: None,
        claim,
    };
    work.begin_report(&as_upgrade, matches!(request.kind, Kind::Continue));
    match work.build(request, &host) {
        Ok(published) => work.built_well(&host, published, request),
        Err(error) => Err(work.build_failed(error, request, &host)),
    }
}

fn is_due(session: &Session, request: &Build) -> Result<()> {
    if !request.due {
        return Ok(());
    }
    let every = session.config.build.every;
    let path = request::packages(session, request);
    let host = Binhost::open(session, &path)?;
    match host.is_none_or(|host| host.is_due(every, request.now)) {
        true => Ok(()),
        false => Err(NothingToDo("no build is due yet".into()).into()),
    }
}

/// What was built in it last may be cut off: the machine has gone down since.
fn is_torn(record: &Record) -> bool {
    let upgrade = record.upgrade.as_ref();
    let boot = upgrade.and_then(|u| u.log_start.and(u.log_boot.as_ref()));
    boot.is_some() && boot != boot_id().as_ref()
}

/// The same as an upgrade, for what they have in common.
fn as_upgrade(request: &Build, record: &Record) -> Request {
    let upgrade = record.upgrade.as_ref();
    Request {
        kind: Upgrades::Continue(record.name.clone()),
        pretend: false,
        activate: Some(false),
        trial: None,
        again: true,
        unbooted: None,
        wait: request.wait,
        no_gates: Vec::new(),
        depclean: false,
        live: false,
        lock: request.lock.clone(),
        options: upgrade.map(|u| u.options.clone()).unwrap_or_default(),
        now: request.now,
    }
}

/// What a program that runs in a builder gets besides: the packages, and the key.
///
/// # Errors
/// They are not there.
pub fn furnish(session: &Session, builder: &Builder, job: &mut Job) -> Result<()> {
    let host = Binhost::make(session, &builder.packages)?;
    job.binds.extend(binds(session, &host)?);
    let variables = variables(&session.config.build).into_iter();
    job.env
        .extend(variables.chain([("PKGDIR".into(), TARGET.into())]));
    let features = features(&session.config.build).join(" ");
    job.env.push(("FEATURES".into(), features));
    Ok(())
}

fn binds(session: &Session, host: &Binhost) -> Result<Vec<Bind>> {
    let mut binds = vec![Bind {
        source: host.workplace()?,
        target: TARGET.into(),
    }];
    let build = &session.config.build;
    if !build.sign.is_empty() {
        let missing = || Refusal::NoBuild {
            why: format!("{} (gpg_home in [build]) is no directory", build.gpg_home),
        };
        let inside = binhost::inside(&build.gpg_home)?;
        let home = session.root.sub(inside).map_err(|_| missing())?;
        binds.push(Bind {
            source: binhost::real(&home)?,
            target: GPG_HOME.into(),
        });
    }
    Ok(binds)
}

/// Files have names of their own for each build, and the index is one file: what is published
/// never changes but by a rename.
fn features(build: &config::Build) -> Vec<String> {
    let mut features = vec!["binpkg-multi-instance".to_owned(), "-compress-index".into()];
    if !build.sign.is_empty() {
        features.push("binpkg-signing".into());
    }
    features
}

fn variables(build: &config::Build) -> Vec<(String, String)> {
    let mut variables = vec![("BINPKG_FORMAT".to_owned(), "gpkg".to_owned())];
    if !build.sign.is_empty() {
        variables.push(("BINPKG_GPG_SIGNING_KEY".into(), build.sign.clone()));
        variables.push(("BINPKG_GPG_SIGNING_GPG_HOME".into(), GPG_HOME.into()));
        // Portage verifies what it has signed: by the same directory, which root alone may read.
        variables.push(("BINPKG_GPG_VERIFY_GPG_HOME".into(), GPG_HOME.into()));
        variables.push(("GPG_VERIFY_USER_DROP".into(), "root".into()));
        variables.push(("GPG_VERIFY_GROUP_DROP".into(), "root".into()));
    }
    variables
}

impl Work<'_> {
    /// All phases; what the packages came to.
    fn build(&mut self, request: &Build, host: &Binhost) -> Result<Published> {
        self.prepare()?;
        self.recall(&as_upgrade(request, &self.record))?;
        self.furnish(host)?;
        if matches!(request.kind, Kind::Continue) {
            self.note_unfinished()?;
        }
        let synced = self.upgrade().phase > Phase::Sync;
        match self.wanted.clone() {
            Some(lock) if !synced => {
                self.enter(Phase::Sync)?;
                self.pin(&lock)?;
            }
            None if !synced && self.session.config.upgrade.sync => {
                self.enter(Phase::Sync)?;
                self.sync()?;
            }
            _ => {}
        }
        self.enter(Phase::Preview)?;
        self.moves()?;
        let merged = self
            .begin_merge(host, request)
            .and_then(|()| self.merge_all());
        if let Err(e) = self.forget_moves() {
            self.watch.note(&format!("/.be-moves stays: {e:#}"));
        }
        if let Err(e) = self.leave_farm() {
            self.watch.note(&format!(
                "what [farm] needed stays in the environment: {e:#}"
            ));
        }
        merged?;
        self.enter(Phase::Check)?;
        if self.interrupted.came() {
            bail!("it was interrupted");
        }
        host.forget_begun()?;
        host.forget_old()?;
        self.write_index()?;
        host.all_are_known()?;
        host.publish().context("cannot publish")
    }

    fn furnish(&mut self, host: &Binhost) -> Result<()> {
        let build = &self.session.config.build;
        self.options.packages = Some(TARGET.to_owned());
        self.options.again = true;
        // Its configuration is that of its clients, which fetch from here.
        self.options.binhost = Some(false);
        // One that fails keeps no other from being built.
        self.options.keep_going = true;
        self.options.features = features(build);
        self.options.variables = variables(build);
        let mut binds = binds(self.session, host)?;
        self.built = Some(Built {
            dir: host.packages.try_clone()?,
            bind: binds.remove(0),
            in_store: false,
        });
        self.binds = binds;
        host.take_back()
    }

    /// What packages are built with is there, and told; what is here and not on the client is
    /// built as well.
    fn begin_merge(&mut self, host: &Binhost, request: &Build) -> Result<()> {
        if let Some(lock) = self.wanted.clone()
            && self.told_before(host).is_none()
        {
            self.take_toolchain(&lock)?;
        }
        self.publish_lock(host, request.now)?;
        let Some(lock) = self.wanted.clone() else {
            return Ok(());
        };
        match self.unlike(&lock)? {
            Some(unlike) => self.options.reinstall = unlike,
            None => self.options.everything(),
        }
        Ok(())
    }

    fn merge_all(&mut self) -> Result<()> {
        let planned: Vec<Planned> = self.preview(&emerge::pretend(&self.options))?;
        let merged = |p: &Planned| matches!(p.kind, pretend::Kind::Ebuild | pretend::Kind::Binary);
        if !planned.iter().any(merged) && self.upgrade().failed.is_empty() {
            return Ok(());
        }
        self.enter(Phase::Fetch)?;
        let planned = self.fetch(planned)?;
        self.enter(Phase::Merge)?;
        self.merge(&planned, &emerge::upgrade(&self.options))
    }

    /// Have Portage write the index of what is there now.
    fn write_index(&mut self) -> Result<()> {
        let command = emerge::index(&self.options);
        match self.emerge(&command, |_| ())? {
            0 => Ok(()),
            code => bail!("the index could not be written (emaint binhost: exit {code})"),
        }
    }

    fn built_well(
        &mut self,
        host: &Binhost,
        published: Published,
        request: &Build,
    ) -> Result<Published> {
        host.note_end(later(request.now))?;
        self.discard()?;
        match published.new.is_empty() && published.gone.is_empty() {
            true => {
                let (path, count) = (&published.packages, published.count);
                let why = format!("there is nothing new to build; {path} has {count} packages");
                Err(NothingToDo(why).into())
            }
            false => Ok(published),
        }
    }
}
