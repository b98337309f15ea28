//! What follows the merge, and what the owner wants to run around the phases.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use be_portage::chores::{Chore, Situation};
use be_portage::emerge::Emerge;
use be_portage::{state, vdb};

use super::Work;
use super::finish::fd_path;
use crate::record::Phase;
use crate::report::{Event, ProgramKind};

/// Where the owner's programs are: a directory each for `before-PHASE` and `after-PHASE`.
const HOOKS: &str = "etc/be/upgrade.d";

impl Work<'_> {
    /// Do what is due, each once: an upgrade that goes on goes on behind it.
    pub(super) fn chores(&mut self) -> Result<()> {
        let base = self.session.whole_base(&self.record)?;
        let before = vdb::load_root(&fd_path(&base)).context("cannot read the packages before")?;
        let mut chores = self.session.config.upgrade.chores.clone();
        if self.upgrade().depclean && !chores.contains(&Chore::Depclean) {
            chores.push(Chore::Depclean);
        }
        for chore in chores {
            if self.upgrade().chores.contains(&chore) || !self.is_due(chore, &before)? {
                continue;
            }
            self.watch
                .note(&format!("{}: {}", self.record.name, chore.name()));
            let command = chore.command(&self.installed()?);
            let command = match self.options.polite {
                true => command.polite(),
                false => command,
            };
            let live = self.upgrade().live;
            let command = match &self.options.packages {
                // What it builds again has to get into the running system, too.
                Some(directory) if live => command.packing(directory),
                _ => command,
            };
            self.journal(Event::Run {
                kind: ProgramKind::Chore,
                name: chore.name().to_owned(),
            });
            let done = self.run_merge(&command, &[]).context(chore.name());
            self.journal(Event::Ran { well: done.is_ok() });
            done?;
            // As for a phase: first the work, then the record.
            self.session.store.top.sync()?;
            self.upgrade().chores.push(chore);
            self.write_record()?;
        }
        Ok(())
    }

    fn is_due(&self, chore: Chore, before: &vdb::Installed) -> Result<bool> {
        let root = self.root()?;
        if let Some(program) = chore.program()
            && !root.is_file(program).unwrap_or(false)
        {
            return Ok(false);
        }
        let debt = state::debt(&fd_path(&root), &self.manager.beside())?;
        Ok(chore.is_due(&Situation {
            before,
            after: &self.installed()?,
            preserved: debt.preserved_libs.len(),
        }))
    }

    /// Run the owner's programs for this moment, in the order of their names.
    pub(super) fn hooks(&mut self, when: &str, phase: Phase) -> Result<()> {
        if self.pretend {
            return Ok(());
        }
        let dir = Path::new(HOOKS).join(format!("{when}-{}", phase.as_str()));
        for program in self.programs(&dir)? {
            let shown = Path::new("/").join(&program);
            let command = Emerge {
                args: vec![shown.to_string_lossy().into_owned()],
                env: vec![("BE_PHASE".to_owned(), phase.as_str().to_owned())],
            };
            self.journal(Event::Run {
                kind: ProgramKind::Hook,
                name: shown.to_string_lossy().into_owned(),
            });
            let code = self.emerge(&command, |_| ())?;
            self.journal(Event::Ran { well: code == 0 });
            if code != 0 {
                bail!("{} failed (exit {code})", shown.display());
            }
        }
        Ok(())
    }

    fn programs(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        let root = self.root()?;
        if !root.is_dir(dir).unwrap_or(false) {
            return Ok(Vec::new());
        }
        let mut programs = Vec::new();
        for (name, _) in root.list(dir)? {
            let path = dir.join(&name);
            let meta = root.metadata(&path)?;
            let hidden = name.as_encoded_bytes().starts_with(b".");
            if meta.kind.is_file() && meta.mode & 0o111 != 0 && !hidden {
                programs.push(path);
            }
        }
        programs.sort();
        Ok(programs)
    }
}
