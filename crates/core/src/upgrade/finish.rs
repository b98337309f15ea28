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
use crate::plan::{Plan, Proofs, Step};
use crate::record::{Phase, State};
use crate::refusal::Refusal;
use crate::stale::left_behind;
use crate::store::Paths;

impl Work<'_> {
    pub(super) fn finish(&mut self, request: &Request) -> Result<Outcome> {
        let root = self.root()?;
        let base = Paths::environment(&self.record.name).join("base/root");
        let base = self.session.store.root_of(&base)?;
        let before = vdb::load_root(&fd_path(&base)).context("cannot read the packages before")?;
        let after = vdb::load_root(&fd_path(&root)).context("cannot read the packages after")?;
        let debt = state::debt(&fd_path(&root))?;

        let lock = self.lock()?;
        let inv = self.session.observe()?;
        let env = inv.get(&self.record.name)?;
        let found = self.session.examine(&inv, env)?;
        let bootable = found.problems.is_empty();
        let activate = request.activate && bootable && inv.menu.hooked;

        self.record.state = State::Ready;
        let upgrade = self.upgrade();
        upgrade.phase = Phase::Done;
        upgrade.failed.clear();
        upgrade.ended = Some(later(request.now));
        let next = inv.environments.iter().find(|e| e.next);
        let running = inv.running()?;
        let default = match activate {
            true => self.record.name.clone(),
            false => next.unwrap_or(running).name().clone(),
        };
        let plan = Plan {
            steps: vec![
                Step::Update(Box::new(self.record.clone())),
                Step::WriteMenu {
                    default,
                    without: Vec::new(),
                    proofs: Proofs::Kept,
                },
            ],
            notes: Vec::new(),
        };
        let mut notes = match activate {
            true => left_behind(self.session, &inv, env)?.sentences(),
            false => Vec::new(),
        };
        let unhooked = (!inv.menu.hooked).then(|| inv.menu.config.clone());
        let done = execute(self.session, inv, &plan, &lock)?;
        notes.extend(done.notes);
        let report = Report {
            name: self.record.name.clone(),
            packages: diff::diff(&before, &after),
            kernel: found.kernels.first().map(|k| k.version.clone()),
            debt,
            activated: activate,
            menu: done.menu,
            notes,
        };
        let mut out = log::append(&self.session.store, &self.record.name)?;
        out.write_all(report.text().as_bytes())
            .context("cannot write the log")?;
        if !bootable {
            return Err(Refusal::NotBootable {
                name: self.record.name.clone(),
                problems: found.problems,
            }
            .into());
        }
        if let Some(config) = unhooked.filter(|_| request.activate) {
            let config = config.map_or_else(|| "grub.cfg".into(), |c| c.shown);
            return Err(Refusal::NotHooked { config }.into());
        }
        Ok(Outcome::Ready(Box::new(report)))
    }
}

/// An open directory as a path, for a library that wants one.
pub(super) fn fd_path(root: &be_btrfs::Root) -> PathBuf {
    Path::new("/proc/self/fd").join(root.fd().as_raw_fd().to_string())
}
