//! Portage at work in the clone.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use be_portage::emerge::{self, Emerge, Exit};
use be_portage::failure::{Stage, failures, mark_installed};
use be_portage::pretend::{self, Kind, Planned};
use be_portage::state::{drop_resume, resume_list};
use be_portage::vdb::Installed;
use nix::libc::SIGKILL;

use super::Work;
use super::pace::Pace;
use super::progress::Follow;
use crate::chroot::{Group, Job, Output, exit_code, uncover, wait};
use crate::log;
use crate::name::EnvName;
use crate::observe::MAX_TEXT;
use crate::whole::Whole;

const MTIMEDB: &str = "var/cache/edb/mtimedb";
pub(super) const EMERGE_LOG: &str = "var/log/emerge.log";
const VDB: &str = "var/db/pkg";

/// What is kept of emerge's output to find out what failed, in bytes.
pub(super) const OUTPUT: u64 = 1 << 20;

impl Work<'_> {
    /// What the clone must not inherit: a merge list that the running system would resume, and what
    /// was left by one that was killed.
    pub(super) fn prepare(&mut self) -> Result<()> {
        // A wish from before it was cut off is not one of today.
        self.session.store.set_paused(&self.record.name, false)?;
        self.forget_lock()?;
        // Before the configuration is looked at, of which it is no part.
        self.forget_moves()?;
        self.sweep_farm()?;
        let root = self.root()?;
        let text = match root.read_to_string(MTIMEDB, MAX_TEXT) {
            Ok(text) => text,
            Err(e) if e.is_not_found() => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        if let Some(without) = drop_resume(&text)? {
            root.write_atomic(MTIMEDB, without.as_bytes(), 0o644)?;
        }
        Ok(())
    }

    /// What would be merged.
    pub(super) fn preview(&mut self, command: &Emerge) -> Result<Vec<Planned>> {
        let from = self.log_length()?;
        let code = self.emerge(command, |_| ())?;
        let output = self.log_since(from)?;
        let planned = pretend::parse(&output);
        if code != 0 {
            let blocked: Vec<_> = planned
                .iter()
                .filter(|p| p.unsolved)
                .map(|p| p.package.as_str())
                .collect();
            match blocked.is_empty() {
                true => bail!("Portage finds no way to upgrade (emerge --pretend: exit {code})"),
                false => bail!("blocked: {}", blocked.join(", ")),
            }
        }
        Ok(planned)
    }

    /// Fetch with this command, called `name`, of which `good` are the exit codes that mean
    /// success; again, after a pause, as often as be.toml says.
    pub(super) fn fetch_by(&mut self, command: &Emerge, good: &[i32], name: &str) -> Result<()> {
        match self.tries(command, good)? {
            None => Ok(()),
            Some(code) => {
                bail!("not all could be fetched ({name}: exit {code}); nothing was built")
            }
        }
    }

    /// As often as be.toml says; the last exit code if none of them is good.
    pub(super) fn tries(&mut self, command: &Emerge, good: &[i32]) -> Result<Option<i32>> {
        let config = &self.session.config.upgrade;
        let (tries, pause) = (config.fetch_tries, config.fetch_pause_seconds);
        let mut left = tries.max(1);
        loop {
            let code = self.emerge(command, |_| ())?;
            left -= 1;
            if good.contains(&code) {
                return Ok(None);
            }
            if left == 0 {
                return Ok(Some(code));
            }
            self.watch.note(&format!(
                "not all could be fetched: trying again in {pause} s"
            ));
            self.rest(Duration::from_secs(pause))?;
        }
    }

    /// Wait, but no longer than somebody wants it.
    fn rest(&self, time: Duration) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            if self.interrupted.came() {
                bail!("it was interrupted");
            }
            std::thread::sleep(Duration::from_millis(100).min(time));
        }
        Ok(())
    }

    /// Build and merge. Packages that failed before are merged again first: Portage itself
    /// takes one whose pkg_postinst failed for installed.
    pub(super) fn merge(&mut self, planned: &[Planned], command: &Emerge) -> Result<()> {
        self.use_farm()?;
        let again = self.upgrade().failed.clone();
        for package in again {
            let comes = planned.iter().any(|p| p.package == package);
            let in_part = !comes && self.installed()?.interrupted.contains(&package);
            if in_part || self.root()?.is_dir(Path::new(VDB).join(&package))? {
                // What failed is not among what was kept.
                let once = emerge::again(&self.options, &package, self.has_built(&package));
                self.run_merge(&once, std::slice::from_ref(&package))?;
            }
            // As for a phase: first the work, then the record.
            self.session.store.top.sync()?;
            self.upgrade().failed.retain(|p| *p != package);
            self.write_record()?;
        }
        let plan: Vec<String> = planned
            .iter()
            .filter(|p| is_merged(p))
            .map(|p| p.package.clone())
            .collect();
        if plan.is_empty() {
            return Ok(());
        }
        self.run_merge(command, &plan)
    }

    pub(super) fn run_merge(&mut self, command: &Emerge, plan: &[String]) -> Result<()> {
        self.pack_compilers()?;
        let from = self.log_length()?;
        let before = self.installed()?;
        let root = self.emerge_log()?;
        let start = root.metadata(EMERGE_LOG).map_or(0, |m| m.size);
        let upgrade = self.upgrade();
        upgrade.log_start = Some(start);
        upgrade.log_first.get_or_insert(start);
        upgrade.log_boot = boot_id();
        self.write_record()?;
        let mut follow = Follow::new(root, start);
        let code = self.emerge(command, |work| follow.tick(work, plan));
        follow.read();
        follow.note(self);
        let code = code?;
        if code == 0 && follow.progress.given_up.is_empty() {
            self.upgrade().log_start = None;
            return Ok(());
        }
        let output = self.log_since(from)?;
        let resume = self
            .root()?
            .read_to_string(MTIMEDB, MAX_TEXT)
            .ok()
            .and_then(|text| resume_list(&text).ok())
            .unwrap_or_default();
        let mut failed = failures(&follow.progress, &resume, &output);
        // A failed pkg_postinst is told by the package being there all the same.
        mark_installed(&mut failed, &before, &self.installed()?);
        self.journal_failures(&failed);
        for failure in &failed {
            self.forget_built(&failure.package)?;
        }
        self.add_failed(failed.iter().map(|f| f.package.clone()).collect());
        // All that was cut off is named among them.
        self.upgrade().log_start = None;
        let mut what: Vec<String> = failed
            .iter()
            .map(|f| match f.stage {
                Stage::Postinst => format!("{} failed in pkg_postinst", f.package),
                Stage::Install => format!("{} failed to install", f.package),
                Stage::Build | Stage::Unknown => format!("{} failed", f.package),
            })
            .collect();
        if let Exit::Killed(signal) = emerge::classify_exit(Some(code), None) {
            what.push(match signal {
                SIGKILL => "emerge was killed (out of memory?)".to_owned(),
                signal => format!("emerge was ended by signal {signal}"),
            });
        }
        if what.is_empty() {
            what.push(format!("emerge: exit {code}"));
        }
        bail!("{}", what.join(", "))
    }

    /// Run one emerge, or another program, in the clone, its output going to the log.
    pub(super) fn emerge(
        &mut self,
        command: &Emerge,
        mut tick: impl FnMut(&mut Self),
    ) -> Result<i32> {
        if self.interrupted.came() {
            bail!("it was interrupted");
        }
        let inv = self.session.observe()?;
        let env = inv.get(&self.record.name)?;
        let mut job = self.session.job(&inv, env, command.args.clone())?;
        give_variables(&mut job, command, &self.record.name);
        match &self.built {
            Some(built) if built.in_store => job.built = Some(built.bind.clone()),
            built => job.binds.extend(built.iter().map(|b| b.bind.clone())),
        }
        job.binds.extend(self.binds.iter().cloned());
        job.covers = self.manager.covers();
        job.covers.extend(self.moved.covers.iter().cloned());
        job.inside.clone_from(&self.moved.inside);
        self.farm.give(&mut job);
        let mut out = log::append(&self.session.store, &self.record.name)?;
        let now = chrono::Local::now().format("%Y-%m-%d %H:%M:%S");
        let shown = command.args.join(" ");
        writeln!(out, ">>> {now} {shown}").context("cannot write the log")?;
        self.noted.command = Some((shown, self.log_length()?));
        let config = &self.session.config.upgrade;
        let memory = (config.memory_high_mib > 0).then_some(config.memory_high_mib << 20);
        let group = Group::make(config.polite, memory);
        job.group = group.as_ref().map(|group| group.dir().to_owned());
        let mut child = job.start(Output::Log(out))?;
        let mut pace = Pace::new(group, &child);
        self.supervisor = Some(child.id());
        let interrupted = self.interrupted.clone();
        let status = wait(&mut child, &interrupted, || {
            pace.keep(self);
            tick(self);
        })?;
        uncover(&*self.root()?, &job.covers)?;
        if self.interrupted.came() {
            bail!("it was interrupted");
        }
        Ok(exit_code(status))
    }

    pub(super) fn root(&self) -> Result<Whole> {
        self.session.whole_of(&self.record)
    }

    pub(super) fn installed(&self) -> Result<Installed> {
        self.session.packages_of(&self.record)
    }

    pub(super) fn log_length(&self) -> Result<u64> {
        let path = log::path(&self.record.name);
        Ok(self.session.store.dir.metadata(path).map_or(0, |m| m.size))
    }

    pub(super) fn log_since(&self, from: u64) -> Result<String> {
        let most = self.log_length()?.saturating_sub(from).min(OUTPUT);
        let path = log::path(&self.record.name);
        let bytes = log::tail(&self.session.store, &path, most)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Where emerge writes its log: in the clone, or in a mount that it shares.
    pub(super) fn emerge_log(&self) -> Result<Whole> {
        let full = Path::new("/").join(EMERGE_LOG);
        self.session.seen_by(&self.record, &full)
    }
}

/// The variables of a program of Portage at work in an environment.
pub(crate) fn give_variables(job: &mut Job, command: &Emerge, name: &EnvName) {
    job.env
        .retain(|(k, _)| !command.env.iter().any(|(c, _)| c == k));
    job.env.extend(command.env.iter().cloned());
    let add = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    job.env.extend([
        add("BE_ENVIRONMENT", name.as_str()),
        // A kernel's install hook must not write to the GRUB that boots now.
        add("GRUB_CFG", "/run/grub.cfg"),
        add("DONT_MOUNT_BOOT", "1"),
    ]);
}

/// Which boot of the machine this is, as the kernel names it.
pub(super) fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

pub(super) fn is_merged(planned: &Planned) -> bool {
    matches!(planned.kind, Kind::Ebuild | Kind::Binary)
}
