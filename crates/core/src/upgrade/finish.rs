//! The end of an upgrade: checks, the record, the menu. The menu's rename is the switch.

use std::fmt;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use be_portage::state;
use chrono::{DateTime, FixedOffset};

use super::report::{Report, later};
use super::{Outcome, Request, Work};
use crate::carry::{self, Route, Terms};
use crate::config_files::Stamp;
use crate::execute::{Done, execute};
use crate::gates::{self, Gate};
use crate::log;
use crate::plan::{self, How, Plan, Step, Way};
use crate::record::{Phase, State};
use crate::refusal::Refusal;
use crate::stale::left_behind;
use crate::store::Lock;

/// Gates that the environment does not pass.
#[derive(Debug)]
pub(super) struct GatesFailed {
    pub(super) gates: Vec<Gate>,
    /// For each, in one line.
    why: Vec<String>,
}

impl fmt::Display for GatesFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = self.gates.iter().zip(&self.why);
        let each = each.map(|(gate, why)| format!("{} ({}): {why}", gate.name(), gate.reason()));
        let each: Vec<_> = each.collect();
        let gates = if each.len() == 1 { "gate" } else { "gates" };
        write!(f, "it does not pass the {gates} {}", each.join("; "))
    }
}

impl std::error::Error for GatesFailed {}

impl Work<'_> {
    pub(super) fn finish(&mut self, request: &Request) -> Result<Outcome> {
        let root = self.root()?;
        let packages = self.session.packages_changed(&self.record)?;
        let debt = state::debt(&fd_path(&root), &self.manager.beside())?;

        let off = self.upgrade().no_gates.clone();
        let switched = &Gate::SWITCHED;
        let mut gates =
            gates::examine(self.session, &self.record, switched, &off, self.interrupted)?;
        let deviations = self.deviations()?;
        let recorded = self.complete_lock(request);
        let lock = self.lock()?;
        let inv = self.session.observe()?;
        let env = inv.get(&self.record.name)?;
        let found = self.session.examine(&inv, env)?;
        gates.insert(0, gates::Found::bootable(&found));
        self.told(&gates)?;
        let wanted = self.upgrade().activate.unwrap_or(true);
        // What is another than was asked for is for a person to judge.
        let activate = wanted && inv.menu.hooked && deviations.is_empty();

        self.write_lock(recorded.as_ref());
        self.record.state = State::Ready;
        let upgrade = self.upgrade();
        upgrade.phase = Phase::Done;
        upgrade.failed.clear();
        upgrade.ended = Some(later(request.now));
        // Whatever comes now, the environment has its entry.
        let plan = Plan {
            steps: vec![
                Step::Update(Box::new(self.record.clone())),
                Step::menu(&plan::default(&inv, &self.record.name)),
            ],
            notes: Vec::new(),
        };
        let unhooked = (!inv.menu.hooked).then(|| inv.menu.config.clone());
        let mut done = execute(self.session, inv, &plan, &lock)?;
        let mut notes: Vec<_> = gates.iter().filter_map(gates::Found::warning).collect();
        let mut way = None;
        if activate {
            let (switched, how) = self.activate(&lock, request.now, &mut notes)?;
            done = switched;
            way = Some(how);
        }
        notes.append(&mut done.notes);
        let (replaced, more) = self.replace(request, &lock);
        notes.extend(more);
        let report = Report {
            name: self.record.name.clone(),
            packages,
            kernel: found.kernels.first().map(|k| k.version.clone()),
            sources: self.upgrade().sources.clone().unwrap_or_default(),
            config: self.upgrade().config.clone().unwrap_or_default(),
            kept: Stamp::new(self.upgrade().started).dir(),
            debt,
            activated: way,
            deviations,
            menu: done.menu,
            replaced,
            gates,
            live: None,
            notes,
        };
        if let Some(config) = unhooked.filter(|_| wanted) {
            let config = config.map_or_else(|| "grub.cfg".into(), |c| c.shown);
            return Err(Refusal::NotHooked { config }.into());
        }
        Ok(Outcome::Ready(Box::new(report)))
    }
}

impl Work<'_> {
    /// Make it boot next, with what changed on the running system meanwhile.
    fn activate(
        &mut self,
        lock: &Lock,
        now: DateTime<FixedOffset>,
        notes: &mut Vec<String>,
    ) -> Result<(Done, Way)> {
        let (session, name) = (self.session, self.record.name.clone());
        let kept = || format!("{name} is complete, and was not activated");
        let mut inv = session.observe()?;
        if carry::is_due(session, &inv, inv.get(&name)?) {
            let terms = Terms {
                strict: false,
                packages: true,
                now,
                lock,
                interrupted: self.interrupted,
            };
            let route = Route::into_clone(&inv, inv.get(&name)?)?;
            let over = carry::over_claimed(session, inv, &route, &terms, &self.claim);
            self.record = session.store.record_of(&name)?;
            notes.extend(over.with_context(kept)?.sentences());
            carry::still_good(session, &name, self.interrupted).with_context(kept)?;
        }
        carry::keep_activated(session, &name, now, lock);
        inv = session.observe()?;
        let env = inv.get(&name)?;
        let how = self.how();
        let request = plan::Activate {
            problems: session.examine(&inv, env)?.problems,
            switch: session.switch(&inv, env, how),
            name: name.clone(),
        };
        // A menu that is not hooked is told by who calls.
        let (plan, way) = match inv.menu.hooked {
            true => plan::activate(&inv, &request).with_context(kept)?,
            false => plan::switch(&inv, env, &request.switch)?,
        };
        notes.extend(left_behind(session, &inv, env).map_or_else(
            |e| vec![format!("{e:#}")],
            |left| left.after(&plan).sentences(),
        ));
        let done = execute(session, inv, &plan, lock)?;
        self.record = session.store.record_of(&name)?;
        Ok((done, way))
    }

    fn how(&mut self) -> How {
        match self.upgrade().trial {
            Some(true) => How::Trial,
            Some(false) => How::Default,
            None => How::Auto,
        }
    }

    /// Note what the gates said; an error if one of them failed.
    fn told(&mut self, gates: &[gates::Found]) -> Result<()> {
        self.upgrade().gates = gates.iter().map(gates::Found::record).collect();
        let text: String = gates.iter().map(gates::Found::text).collect();
        let mut out = log::append(&self.session.store, &self.record.name)?;
        out.write_all(text.as_bytes())
            .context("cannot write the log")?;
        let failed: Vec<_> = gates.iter().filter(|found| found.failed()).collect();
        match failed.is_empty() {
            true => Ok(()),
            false => Err(GatesFailed {
                gates: failed.iter().map(|found| found.gate).collect(),
                why: failed.iter().map(|found| found.short()).collect(),
            }
            .into()),
        }
    }
}

/// An open directory as a path, for a library that wants one.
pub(crate) fn fd_path(root: &be_btrfs::Root) -> PathBuf {
    Path::new("/proc/self/fd").join(root.fd().as_raw_fd().to_string())
}
