//! The window: a way back, then the merge, then what is left.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use be_portage::diff::diff;
use be_portage::emerge::{self, Emerge, Options};
use be_portage::pretend::{self, Planned};
use be_portage::vdb::Installed;
use rustix::fs::{AtFlags, StatxFlags, makedev, statx};

use super::super::built;
use super::super::portage::{OUTPUT, is_merged};
use super::super::report::later;
use super::super::request::options;
use super::super::{PATIENCE, Request, Watch};
use super::begun::Begun;
use super::{Live, LiveFailed, unchanged};
use crate::chroot::{Beside, Bind, Interrupted, Output, exit_code, wait};
use crate::execute::execute;
use crate::log;
use crate::manager::Manager;
use crate::model::{Environment, Inventory};
use crate::name::EnvName;
use crate::old_code::{self, OldCode};
use crate::plan::{self, Plan, Step};
use crate::prune;
use crate::record::{LiveMerge, Record};
use crate::refusal::Refusal;
use crate::session::Session;
use crate::store::{Claim, Lock, Paths};

/// Merge what was built in this environment into the one that runs.
pub(super) fn open(
    session: &Session,
    name: &EnvName,
    request: &Request,
    interrupted: &Interrupted,
    watch: &mut dyn Watch,
) -> Result<Live> {
    let claim = session.store.claim(name)?;
    let lock = session.store.lock_within(PATIENCE)?;
    let inv = session.observe()?;
    let record = inv.get(name)?.record.clone();
    let given = record.upgrade.as_ref();
    let request = Request {
        options: given.map(|u| u.options.clone()).unwrap_or_default(),
        ..request.clone()
    };
    let gone = || Refusal::NotLive {
        name: name.clone(),
        why: "its packages are not there any more".to_owned(),
    };
    let packages = record.upgrade.as_ref().and_then(built::packed);
    let packages = packages.ok_or_else(gone)?;
    if !session.store.dir.is_dir(&packages.source).unwrap_or(false) {
        return Err(gone().into());
    }
    let mut options = options(session, &Manager::Portage, &request)?;
    options.packages = Some(built::TARGET.to_owned());
    let merge = Merge {
        session,
        interrupted,
        claim,
        options,
        built: session.packages_of(&record)?,
        packages,
        record,
    };
    merge.refuse_if_changed(&inv)?;
    let planned = merge.preview(&inv)?;
    let again = merge.in_doubt(&inv)?;
    let way_back = merge.way_back(inv, &request, &lock)?;
    // What a kernel's hook or another be wants to do meanwhile has to go on.
    drop(lock);
    let packages = super::packages(planned.len() + again.len());
    watch.note(&format!("merging {packages} into the running system"));
    let live = merge.through(&way_back, (&planned, &again), &request)?;
    for note in merge.drop_clone(&live) {
        watch.note(&note);
    }
    Ok(live)
}

struct Merge<'a> {
    session: &'a Session,
    interrupted: &'a Interrupted,
    claim: Claim,
    /// Of the environment that the packages were built in.
    record: Record,
    options: Options,
    /// What is installed there.
    built: Installed,
    /// Where they are.
    packages: Bind,
}

impl Merge<'_> {
    fn refused(&self, why: String) -> anyhow::Error {
        let name = self.record.name.clone();
        Refusal::NotLive { name, why }.into()
    }

    fn refuse_if_changed(&self, inv: &Inventory) -> Result<()> {
        let running = inv.running()?;
        if self.record.origin.as_ref() != Some(running.name()) {
            return Err(self.refused(format!("it is no clone of {}", running.name())));
        }
        let changed = unchanged::what_changed(self.session, running, &self.record)?;
        match changed.is_empty() {
            true => Ok(()),
            false => Err(self.refused(format!(
                "{} has changed since it was cloned: {}",
                running.name(),
                changed.join(", ")
            ))),
        }
    }

    /// What would be merged, if that is what was built and nothing else.
    fn preview(&self, inv: &Inventory) -> Result<Vec<Planned>> {
        let from = self.log_length();
        let command = emerge::from_packages(&self.options, jobs(), true);
        let code = self.emerge(inv, &command, || ())?;
        let planned = pretend::parse(&self.log_since(from)?);
        if code != 0 {
            let why = format!(
                "not all of it can be installed from the packages (emerge --pretend: exit {code})"
            );
            return Err(self.refused(why));
        }
        let planned: Vec<Planned> = planned.into_iter().filter(is_merged).collect();
        let other = |p: &&Planned| self.built.find(&p.package).is_none();
        if let Some(strange) = planned.iter().find(other) {
            let package = &strange.package;
            return Err(self.refused(format!("{package} would be merged, which it has not")));
        }
        let changed = diff(
            &unchanged::packages(self.session, inv.running()?)?,
            &self.built,
        );
        let newer = changed.upgraded.iter().chain(&changed.downgraded);
        let newer = newer.map(|change| format!("{}-{}", change.package, change.to));
        let missing: Vec<String> = newer
            .filter(|cpv| !planned.iter().any(|p| p.package == *cpv))
            .collect();
        match missing.is_empty() {
            true => Ok(planned),
            false => Err(self.refused(format!(
                "emerge would not merge all that was built: {}",
                missing.join(", ")
            ))),
        }
    }

    /// What a merge that did not end has merged already: it may lack its pkg_postinst, or be on
    /// disk in part, and Portage takes it for installed.
    fn in_doubt(&self, inv: &Inventory) -> Result<Vec<String>> {
        let running = inv.running()?;
        if running.record.unfinished_merge().is_none() {
            return Ok(Vec::new());
        }
        let now = unchanged::packages(self.session, running)?;
        let changed = diff(&self.session.packages_of_base(&self.record)?, &now);
        let added = changed.added.iter().map(|e| (&e.package, &e.version));
        let others = [&changed.upgraded, &changed.downgraded, &changed.rebuilt];
        let others = others.into_iter().flatten().map(|c| (&c.package, &c.to));
        Ok(added
            .chain(others)
            .map(|(package, version)| format!("{package}-{version}"))
            .collect())
    }

    /// The running system as it is now; where a merge was cut off, as it was before that.
    fn way_back(&self, inv: Inventory, request: &Request, lock: &Lock) -> Result<EnvName> {
        let running = inv.running()?.name().clone();
        let mut record = inv.running()?.record.clone();
        let begun = record.unfinished_merge();
        if let Some(live) = begun.filter(|live| live.from == self.record.name) {
            return Ok(live.way_back.clone());
        }
        let wanted = format!("before-{}", self.record.name);
        let name = EnvName::free(&wanted, &inv.names()).map_err(anyhow::Error::msg)?;
        let create = plan::Create {
            name: Some(name.clone()),
            layout: self.session.layout(&inv, None)?,
            origin: None,
            description: format!("{running} before {} was merged into it", self.record.name),
            now: later(request.now),
            upgrade: None,
            switch: None,
            min_free: plan::MIN_FREE,
        };
        let (_, plan, _) = plan::create(&inv, &create)?;
        execute(self.session, inv, &plan, lock)?;
        record.live = Some(LiveMerge::begin(
            self.record.name.clone(),
            name.clone(),
            later(request.now),
        ));
        let home = Paths::environment(&running);
        self.session.store.write_record(&home, &record)?;
        self.session.store.top.sync()?;
        Ok(name)
    }

    /// The merge itself, and what follows it.
    fn through(
        &self,
        way_back: &EnvName,
        (planned, again): (&[Planned], &[String]),
        request: &Request,
    ) -> Result<Live> {
        let inv = self.session.observe()?;
        let running = inv.running()?;
        let into = running.name().clone();
        let failed = |why: String| {
            anyhow::Error::new(LiveFailed {
                into: into.clone(),
                from: self.record.name.clone(),
                way_back: way_back.clone(),
                why,
            })
        };
        let jobs = jobs();
        let mut commands = Vec::new();
        if !again.is_empty() {
            commands.push(emerge::from_packages_again(&self.options, jobs, again));
        }
        commands.push(emerge::from_packages(&self.options, jobs, false));
        let mut begun = Begun::new(self.session, planned)?;
        for command in commands {
            let code = self
                .emerge(&inv, &command, || begun.look())
                .map_err(|e| failed(format!("{e:#}")))?;
            if code != 0 {
                return Err(failed(format!("emerge: exit {code}")));
            }
        }
        let window = begun.elapsed();
        // Written to disk before the record says that it is done.
        let synced = self.session.store.top.sync();
        synced.map_err(|e| failed(format!("{e:#}")))?;
        self.end(&into, request)
            .with_context(|| format!("{into} is upgraded; what it was is {way_back}"))?;
        let left = unchanged::packages(self.session, running).map_or_else(
            |e| vec![format!("{e:#}")],
            |now| diff(&now, &self.built).lines(),
        );
        // Only told: what was done is done.
        let old_code = self.old_code(running).unwrap_or_else(|e| {
            tracing::warn!("who runs old code is not known: {e:#}");
            Vec::new()
        });
        let live = Live {
            into: into.clone(),
            from: self.record.name.clone(),
            way_back: way_back.clone(),
            window,
            merged: planned.len() + again.len(),
            left,
            old_code,
        };
        if let Err(e) = self.write_down(&live) {
            tracing::warn!("{e:#}");
        }
        Ok(live)
    }

    /// Note that it is done.
    fn end(&self, into: &EnvName, request: &Request) -> Result<()> {
        let lock = self.session.store.lock_within(PATIENCE)?;
        let inv = self.session.observe()?;
        let mut record = inv.running()?.record.clone();
        if let Some(merge) = &mut record.live {
            merge.ended = Some(later(request.now));
        }
        let plan = Plan {
            steps: vec![
                Step::Update(Box::new(record)),
                // A new kernel may have come.
                Step::menu(&plan::default(&inv, into)),
            ],
            notes: Vec::new(),
        };
        execute(self.session, inv, &plan, &lock)?;
        Ok(())
    }

    /// The environment that the packages were built in has done its work. What goes wrong is
    /// told: it takes nothing from what was done.
    fn drop_clone(&self, live: &Live) -> Vec<String> {
        let name = &self.record.name;
        if !live.left.is_empty() || self.record.pinned {
            return vec![format!("{name} is kept; be destroy {name} deletes it")];
        }
        let mut notes = Vec::new();
        let dropped = self.session.store.lock_within(PATIENCE).and_then(|lock| {
            self.hand_over_log(&live.into)?;
            let inv = self.session.observe()?;
            prune::delete(
                self.session,
                inv,
                std::slice::from_ref(name),
                &lock,
                &mut notes,
            )
        });
        if let Err(e) = dropped {
            notes.push(format!("{name} is kept: {e:#}"));
        }
        notes
    }

    /// What was done belongs to the running environment now.
    fn hand_over_log(&self, into: &EnvName) -> Result<()> {
        let text = log::read(&self.session.store, &self.record.name)?;
        let mut out = log::append(&self.session.store, into)?;
        out.write_all(text.unwrap_or_default().as_bytes())
            .context("cannot write the log")
    }

    fn old_code(&self, running: &Environment) -> Result<Vec<OldCode>> {
        let mut devices = HashSet::new();
        let subvolumes = running.root.iter();
        let subvolumes = subvolumes.chain(running.subvolumes.iter().flatten());
        for subvolume in subvolumes {
            let root = self.session.store.root_of(&subvolume.path)?;
            let stat = statx(root.fd(), "", AtFlags::EMPTY_PATH, StatxFlags::INO)
                .with_context(|| format!("cannot look at /{}", subvolume.path.display()))?;
            devices.insert(makedev(stat.stx_dev_major, stat.stx_dev_minor));
        }
        let mut found = old_code::running(&devices)?;
        // As the system itself names them.
        for file in found.iter_mut().flat_map(|old| &mut old.files) {
            let inside = Path::new(file.as_str()).strip_prefix(&self.session.sysroot);
            if let Ok(inside) = inside {
                *file = Path::new("/").join(inside).display().to_string();
            }
        }
        Ok(found)
    }

    /// For be log.
    fn write_down(&self, live: &Live) -> Result<()> {
        let mut out = log::append(&self.session.store, &self.record.name)?;
        let text: String = live
            .lines()
            .iter()
            .map(|line| format!("{line}\n"))
            .collect();
        out.write_all(text.as_bytes())
            .context("cannot write the log")
    }

    fn emerge(&self, inv: &Inventory, command: &Emerge, tick: impl FnMut()) -> Result<i32> {
        let mut out = log::append(&self.session.store, &self.record.name)?;
        let now = chrono::Local::now().format("%Y-%m-%d %H:%M:%S");
        let shown = command.args.join(" ");
        writeln!(out, ">>> {now} in the running system: {shown}")
            .context("cannot write the log")?;
        let built = Some((self.packages.clone(), &self.claim));
        in_running(
            self.session,
            inv,
            command,
            built,
            out,
            (self.interrupted, tick),
        )
    }

    fn log_length(&self) -> u64 {
        let path = log::path(&self.record.name);
        self.session.store.dir.metadata(path).map_or(0, |m| m.size)
    }

    fn log_since(&self, from: u64) -> Result<String> {
        let path = log::path(&self.record.name);
        let most = self.log_length().saturating_sub(from).min(OUTPUT);
        let bytes = log::tail(&self.session.store, &path, most)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Run one program in the system that runs, or, where that is not the one that `be` runs in, in a
/// chroot of it. It may see what was built in an environment, which stays claimed until it ends.
pub(super) fn in_running(
    session: &Session,
    inv: &Inventory,
    command: &Emerge,
    built: Option<(Bind, &Claim)>,
    out: File,
    (interrupted, tick): (&Interrupted, impl FnMut()),
) -> Result<i32> {
    interrupted.go_on()?;
    let (seen, claim) = built.unzip();
    let mut child = if session.sysroot == Path::new("/") {
        let (device, argv) = (inv.fs.device.clone(), command.args.clone());
        Beside::new(device, seen, argv, &command.env).start(out, claim)?
    } else {
        let mut job = session.job(inv, inv.running()?, command.args.clone())?;
        job.env
            .retain(|(k, _)| !command.env.iter().any(|(c, _)| c == k));
        job.env.extend(command.env.iter().cloned());
        job.built = seen;
        job.start(Output::Log(out))?
    };
    let status = wait(&mut child, interrupted, tick)?;
    if interrupted.came() {
        bail!("it was interrupted");
    }
    Ok(exit_code(status))
}
