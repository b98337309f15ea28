//! Another package manager than Portage at work in the clone, by the commands of its profile.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use be_portage::emerge::Emerge;
use be_portage::vdb::Installed;

use super::follow::Lines;
use super::sync::SyncFailed;
use super::{Kind, Request, Work};
use crate::manager::{Count, Planned, Profile, Step};
use crate::record::Phase;
use crate::report::{Event, ProgramKind};

impl Work<'_> {
    /// All phases up to the check; what would be upgraded, if only that is wanted.
    pub(super) fn by_profile(
        &mut self,
        profile: &Profile,
        request: &Request,
    ) -> Result<Option<Vec<Planned>>> {
        let continued = !matches!(request.kind, Kind::New { .. });
        let synced = self.upgrade().phase > Phase::Sync;
        if self.session.config.upgrade.sync && !synced {
            self.enter(Phase::Sync)?;
            self.sync_by(profile)?;
        }
        self.enter(Phase::Preview)?;
        if continued {
            self.mend(profile)?;
        }
        let planned = self.preview_by(profile)?;
        if request.pretend {
            return Ok(Some(planned));
        }
        if planned.is_empty() && !continued {
            return Err(self.nothing()?);
        }
        if !continued {
            self.take_inputs_of(profile, &planned)?;
            self.is_known(request)?;
        }
        if !planned.is_empty() {
            self.upgrade_by(profile, continued, planned.len())?;
        }
        if self.manager.looks_after_files() {
            self.enter(Phase::Configuration)?;
            self.configuration()?;
        }
        Ok(None)
    }

    fn sync_by(&mut self, profile: &Profile) -> Result<()> {
        let step = &profile.sync;
        let code = self.step(profile, step, false)?;
        match step.good.contains(&code) || step.nothing.contains(&code) {
            true => Ok(()),
            false => {
                let command = shown(step);
                let why =
                    format!("the repositories could not be synchronised ({command}: exit {code})");
                Err(SyncFailed(why).into())
            }
        }
    }

    /// Make whole what was left in part, before anything is computed from it.
    fn mend(&mut self, profile: &Profile) -> Result<()> {
        let Some(step) = &profile.mend else {
            return Ok(());
        };
        let name = shown(step);
        self.watch.note(&format!("{}: {name}", self.record.name));
        let kind = ProgramKind::Chore;
        self.journal(Event::Run {
            kind,
            name: name.clone(),
        });
        let before = self.session.packages_of_base(&self.record)?;
        let code = self.step(profile, step, false)?;
        let well = step.good.contains(&code) || step.nothing.contains(&code);
        self.journal(Event::Ran { well });
        if !well {
            return self.went_wrong(&name, code, &before);
        }
        self.session.store.top.sync()?;
        self.upgrade().failed.clear();
        self.upgrade().in_part = false;
        self.write_record()
    }

    fn preview_by(&mut self, profile: &Profile) -> Result<Vec<Planned>> {
        let preview = &profile.preview;
        let step = Step {
            command: preview.command.clone(),
            good: preview.good.clone(),
            nothing: preview.nothing.clone(),
        };
        let from = self.log_length()?;
        let code = self.step(profile, &step, true)?;
        if step.nothing.contains(&code) {
            return Ok(Vec::new());
        }
        if !step.good.contains(&code) {
            let name = &profile.name;
            bail!(
                "{name} finds no way to upgrade ({}: exit {code})",
                shown(&step)
            );
        }
        let mut planned = profile.planned(&self.log_since(from)?);
        let installed = self.installed()?;
        for one in planned.iter_mut().filter(|one| one.old.is_empty()) {
            let versions = installed.packages.iter();
            let versions = versions.filter(|p| p.name == one.package);
            one.old = versions.map(|p| p.version.clone()).collect();
        }
        Ok(planned)
    }

    fn upgrade_by(&mut self, profile: &Profile, continued: bool, planned: usize) -> Result<()> {
        self.enter(Phase::Fetch)?;
        if let Some(step) = &profile.fetch {
            let command = self.command(profile, step, true);
            let good = [&step.good[..], &step.nothing].concat();
            self.fetch_by(&command, &good, &shown(step))?;
        }
        self.enter(Phase::Merge)?;
        let before = self.installed()?;
        let step = &profile.upgrade;
        self.upgrade().in_part = true;
        self.write_record()?;
        let command = self.command(profile, step, true);
        let mut lines = Lines::new(self, Count::new(&profile.progress, planned))?;
        let code = self.emerge(&command, |work| lines.tick(work));
        // What it printed last.
        lines.tick(self);
        let code = code?;
        self.session.store.top.sync()?;
        self.upgrade().in_part = false;
        self.write_record()?;
        let nothing = step.nothing.contains(&code);
        if !nothing && !step.good.contains(&code) {
            return self.went_wrong(&shown(step), code, &before);
        }
        // What was announced may be held back, excluded or impossible.
        if !continued && (nothing || self.installed()? == before) {
            return Err(self.nothing()?);
        }
        Ok(())
    }

    /// Note which packages are there in part, and give up.
    fn went_wrong(&mut self, name: &str, code: i32, before: &Installed) -> Result<()> {
        let broken = self.installed()?.interrupted;
        let new = broken
            .into_iter()
            .filter(|p| !before.interrupted.contains(p));
        let new: BTreeSet<String> = new.collect();
        self.upgrade().failed.clear();
        self.add_failed(new.iter().cloned().collect());
        let part: Vec<String> = new.iter().map(|p| self.manager.in_part(p)).collect();
        match part.is_empty() {
            true => bail!("{name}: exit {code}"),
            false => bail!("{name}: exit {code}; {}", part.join(", ")),
        }
    }

    /// Run a command of the profile, with the options of this upgrade if it takes them.
    fn step(&mut self, profile: &Profile, step: &Step, options: bool) -> Result<i32> {
        let command = self.command(profile, step, options);
        self.emerge(&command, |_| ())
    }

    fn command(&mut self, profile: &Profile, step: &Step, options: bool) -> Emerge {
        let mut args = step.command.0.clone();
        if options {
            args.extend(self.upgrade().options.iter().cloned());
        }
        Emerge {
            args,
            env: profile.variables(),
        }
    }
}

/// A command as it is told.
fn shown(step: &Step) -> String {
    step.command.0.join(" ")
}
