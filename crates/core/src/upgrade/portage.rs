//! Portage at work in the clone.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use be_portage::emerge::{self, Emerge, Exit};
use be_portage::eta::History;
use be_portage::failure::{Stage, failures, mark_installed};
use be_portage::log::Progress;
use be_portage::pretend::{self, Kind, Planned};
use be_portage::state::{drop_resume, resume_list};
use be_portage::vdb::{self, Installed};
use nix::libc::SIGKILL;

use super::Work;
use crate::chroot::{Output, exit_code, wait};
use crate::log;
use crate::observe::MAX_TEXT;
use crate::whole::Whole;

const MTIMEDB: &str = "var/cache/edb/mtimedb";
const EMERGE_LOG: &str = "var/log/emerge.log";
const VDB: &str = "var/db/pkg";

/// What is kept of emerge's output to find out what failed, in bytes.
const OUTPUT: u64 = 1 << 20;

impl Work<'_> {
    /// What the clone must not inherit: a merge list that the running system would resume.
    pub(super) fn prepare(&mut self) -> Result<()> {
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

    pub(super) fn sync(&mut self) -> Result<()> {
        let code = self.emerge(&emerge::sync(), |_| ())?;
        if code != 0 {
            bail!("the repositories could not be synchronised (emerge --sync: exit {code})");
        }
        Ok(())
    }

    /// What would be merged.
    pub(super) fn preview(&mut self) -> Result<Vec<Planned>> {
        let from = self.log_length()?;
        let code = self.emerge(&emerge::pretend(&self.options), |_| ())?;
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

    /// Build and merge. Packages that failed before are merged again first: Portage itself
    /// takes one whose pkg_postinst failed for installed.
    pub(super) fn merge(&mut self, planned: &[Planned]) -> Result<()> {
        let again = self.upgrade().failed.clone();
        for package in again {
            if self.root()?.is_dir(Path::new(VDB).join(&package))? {
                let mut once = emerge::upgrade(&self.options);
                once.args.retain(|a| a != "@world");
                once.args
                    .extend(["--oneshot".into(), format!("={package}")]);
                once.args
                    .retain(|a| a != "--update" && a != "--deep" && a != "--newuse");
                self.run_merge(&once, std::slice::from_ref(&package))?;
            }
            // As for a phase: first the work, then the record.
            self.session.store.top.sync()?;
            self.upgrade().failed.retain(|p| *p != package);
            self.write_record()?;
        }
        let plan: Vec<String> = planned
            .iter()
            .filter(|p| matches!(p.kind, Kind::Ebuild | Kind::Binary))
            .map(|p| p.package.clone())
            .collect();
        if plan.is_empty() {
            return Ok(());
        }
        self.run_merge(&emerge::upgrade(&self.options), &plan)
    }

    fn run_merge(&mut self, command: &Emerge, plan: &[String]) -> Result<()> {
        let from = self.log_length()?;
        let before = self.installed()?;
        let root = self.emerge_log()?;
        let start = root.metadata(EMERGE_LOG).map_or(0, |m| m.size);
        self.upgrade().log_start = Some(start);
        self.write_record()?;
        let mut follow = Follow::new(root, start);
        let code = self.emerge(command, |work| follow.tick(work, plan))?;
        follow.read();
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

    /// Run one emerge in the clone, its output going to the log.
    fn emerge(&mut self, command: &Emerge, mut tick: impl FnMut(&mut Self)) -> Result<i32> {
        if self.interrupted.came() {
            bail!("it was interrupted");
        }
        let inv = self.session.observe()?;
        let env = inv.get(&self.record.name)?;
        let mut job = self.session.job(&inv, env, command.args.clone())?;
        job.env
            .retain(|(k, _)| !command.env.iter().any(|(c, _)| c == k));
        job.env.extend(command.env.iter().cloned());
        let add = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        job.env.extend([
            add("BE_ENVIRONMENT", self.record.name.as_str()),
            // A kernel's install hook must not write to the GRUB that boots now.
            add("GRUB_CFG", "/run/grub.cfg"),
            add("DONT_MOUNT_BOOT", "1"),
        ]);
        let mut out = log::append(&self.session.store, &self.record.name)?;
        let now = chrono::Local::now().format("%Y-%m-%d %H:%M:%S");
        writeln!(out, ">>> {now} {}", command.args.join(" ")).context("cannot write the log")?;
        let mut child = job.start(Output::Log(out))?;
        let interrupted = self.interrupted.clone();
        let status = wait(&mut child, &interrupted, || tick(self))?;
        if self.interrupted.came() {
            bail!("it was interrupted");
        }
        Ok(exit_code(status))
    }

    pub(super) fn root(&self) -> Result<Whole> {
        self.session.whole_of(&self.record)
    }

    fn installed(&self) -> Result<Installed> {
        let root = self.root()?;
        vdb::load_root(&super::finish::fd_path(&root)).context("cannot read the packages")
    }

    fn log_length(&self) -> Result<u64> {
        let path = log::path(&self.record.name);
        Ok(self.session.store.dir.metadata(path).map_or(0, |m| m.size))
    }

    fn log_since(&self, from: u64) -> Result<String> {
        let most = self.log_length()?.saturating_sub(from).min(OUTPUT);
        let path = log::path(&self.record.name);
        let bytes = log::tail(&self.session.store, &path, most)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Where emerge writes its log: in the clone, or in a mount that it shares.
    fn emerge_log(&self) -> Result<Whole> {
        let inv = self.session.observe()?;
        let full = Path::new("/").join(EMERGE_LOG);
        let shared = crate::layout::shared(&inv.system);
        match shared.iter().any(|target| full.starts_with(target)) {
            true => Ok(self.session.root.try_clone()?.into()),
            false => self.root(),
        }
    }

    /// What was begun since the merge started, and is not known to have been completed: a
    /// package is recorded as installed before its pkg_postinst, and Portage then never
    /// runs that again.
    pub(super) fn note_unfinished(&mut self) -> Result<()> {
        let Some(start) = self.upgrade().log_start else {
            return Ok(());
        };
        let mut follow = Follow::new(self.emerge_log()?, start);
        follow.read();
        let begun: Vec<String> = follow
            .progress
            .unfinished()
            .into_iter()
            .map(str::to_owned)
            .collect();
        self.add_failed(begun);
        Ok(())
    }

    fn add_failed(&mut self, packages: Vec<String>) {
        let failed = &mut self.upgrade().failed;
        for package in packages {
            if !failed.contains(&package) {
                failed.push(package);
            }
        }
    }
}

/// Follows emerge.log while emerge writes it.
struct Follow {
    root: Whole,
    file: Option<File>,
    start: u64,
    history: History,
    progress: Progress,
}

impl Follow {
    /// Follow it from this offset on, in bytes; what comes before is history.
    fn new(root: Whole, start: u64) -> Self {
        let file = root.file(EMERGE_LOG).ok();
        let history = match &file {
            Some(file) => History::read(file.take(start)).unwrap_or_default(),
            None => History::default(),
        };
        Self {
            root,
            file,
            start,
            history,
            progress: Progress::default(),
        }
    }

    fn tick(&mut self, work: &mut Work<'_>, plan: &[String]) {
        if self.file.is_none() {
            self.file = self.root.file(EMERGE_LOG).ok();
        }
        self.read();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(0));
        let left = self.history.remaining(&self.progress, plan, now);
        work.watch.progress(&self.progress, left, now);
    }

    fn read(&mut self) {
        let Some(file) = &mut self.file else { return };
        let mut new = Vec::new();
        // A log that cannot be read costs the progress line, not the upgrade.
        let read = file
            .seek(SeekFrom::Start(self.start))
            .and_then(|_| file.read_to_end(&mut new));
        if read.is_ok() {
            self.start += new.len() as u64;
            self.progress.feed(&new);
        }
    }
}
