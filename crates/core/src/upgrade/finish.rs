//! The end of an upgrade: checks, the record, the menu. The menu's rename is the switch.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use be_portage::{diff, state, vdb};

use super::report::{Report, later};
use super::{Outcome, Request, Work};
use crate::execute::execute;
use crate::log;
use crate::plan::{self, How, Plan, Step};
use crate::record::{Phase, State};
use crate::refusal::Refusal;
use crate::stale::left_behind;

impl Work<'_> {
    pub(super) fn finish(&mut self, request: &Request) -> Result<Outcome> {
        let root = self.root()?;
        let base = self.session.whole_base(&self.record)?;
        let before = vdb::load_root(&fd_path(&base)).context("cannot read the packages before")?;
        let after = vdb::load_root(&fd_path(&root)).context("cannot read the packages after")?;
        let debt = state::debt(&fd_path(&root))?;

        let lock = self.lock()?;
        let inv = self.session.observe()?;
        let env = inv.get(&self.record.name)?;
        let found = self.session.examine(&inv, env)?;
        let bootable = found.problems.is_empty();
        let wanted = self.upgrade().activate.unwrap_or(true);
        let activate = wanted && bootable && inv.menu.hooked;

        self.record.state = State::Ready;
        let upgrade = self.upgrade();
        upgrade.phase = Phase::Done;
        upgrade.failed.clear();
        upgrade.ended = Some(later(request.now));
        let how = self.how();
        let switch =
            activate.then(|| plan::switch(&inv, env, &self.session.switch(&inv, env, how)));
        let switch = switch.transpose()?;
        let (switch, way) = switch.unzip();
        let mut plan = Plan::default();
        plan.steps.push(Step::Update(Box::new(self.record.clone())));
        let steps = switch.as_ref().map_or(&[][..], |s| &s.steps);
        if !matches!(steps.first(), Some(Step::WriteMenu { .. })) {
            // If what comes first fails, the environment has its entry all the same.
            plan.steps
                .push(Step::menu(&plan::default(&inv, &self.record.name)));
        }
        plan.steps.extend_from_slice(steps);
        plan.notes = switch.map(|s| s.notes).unwrap_or_default();
        let mut notes = match activate {
            true => left_behind(self.session, &inv, env).map_or_else(
                |e| vec![format!("{e:#}")],
                |left| left.after(&plan).sentences(),
            ),
            false => Vec::new(),
        };
        let unhooked = (!inv.menu.hooked).then(|| inv.menu.config.clone());
        let done = execute(self.session, inv, &plan, &lock)?;
        notes.extend(done.notes);
        let mut report = Report {
            name: self.record.name.clone(),
            packages: diff::diff(&before, &after),
            kernel: found.kernels.first().map(|k| k.version.clone()),
            debt,
            activated: way,
            menu: done.menu,
            notes,
        };
        // The switch is made: what fails now does not undo it.
        if let Err(e) = self.log_report(&report) {
            report
                .notes
                .push(format!("the log lacks the report: {e:#}"));
        }
        if !bootable {
            return Err(Refusal::NotBootable {
                name: self.record.name.clone().into(),
                problems: found.problems,
            }
            .into());
        }
        if let Some(config) = unhooked.filter(|_| wanted) {
            let config = config.map_or_else(|| "grub.cfg".into(), |c| c.shown);
            return Err(Refusal::NotHooked { config }.into());
        }
        Ok(Outcome::Ready(Box::new(report)))
    }
}

impl Work<'_> {
    fn how(&mut self) -> How {
        match self.upgrade().trial {
            Some(true) => How::Trial,
            Some(false) => How::Default,
            None => How::Auto,
        }
    }

    fn log_report(&self, report: &Report) -> Result<()> {
        let mut out = log::append(&self.session.store, &self.record.name)?;
        Ok(out.write_all(report.text().as_bytes())?)
    }
}

/// An open directory as a path, for a library that wants one.
pub(crate) fn fd_path(root: &be_btrfs::Root) -> PathBuf {
    Path::new("/proc/self/fd").join(root.fd().as_raw_fd().to_string())
}
