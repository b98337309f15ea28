//! The compilers of a lock: those that it has in use build its packages.

use std::path::{Path, PathBuf};

use anyhow::Result;
use be_portage::emerge::Emerge;

use super::Work;
use super::locked::Tell;
use crate::lock::Lock;
use crate::observe::MAX_TEXT;

/// Tools of which several may be installed, each with a program that chooses one (gcc-config(8),
/// binutils-config(8)) and notes it in /etc/env.d.
const TOOLS: [(&str, &str); 2] = [("binutils", "binutils-config"), ("gcc", "gcc-config")];

/// The directory of what can be chosen.
fn place(tool: &str) -> PathBuf {
    Path::new("etc/env.d").join(tool)
}

impl Work<'_> {
    /// What packages are built with becomes what the lock says. With its repositories and its
    /// configuration the clone is then one of that system, as far as that decides what a package
    /// looks like; see [`crate::lock::decides`].
    pub(super) fn take_toolchain(&mut self, lock: &Lock) -> Result<()> {
        let atoms = self.lacking(lock, &lock.toolchain.packages, Tell::All)?;
        if !atoms.is_empty() {
            self.exactly(&atoms)?;
        }
        self.select(lock)
    }

    /// Have the lock's compilers in use before anything else is built; whether others were.
    pub(super) fn use_compilers(&mut self, lock: &Lock) -> Result<bool> {
        if self.unselected(lock)?.is_empty() {
            return Ok(false);
        }
        self.take_toolchain(lock)?;
        Ok(true)
    }

    /// What the lock has in use and the environment has not: the program that chooses it, and
    /// what.
    fn unselected(&self, lock: &Lock) -> Result<Vec<(&'static str, String)>> {
        let root = self.root()?;
        let Some(host) = lock.settings.get("CHOST").filter(|host| is_name(host)) else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for (tool, program) in TOOLS {
            let wanted = lock.toolchain.selected.get(tool);
            let Some(wanted) = wanted.filter(|wanted| is_name(wanted)) else {
                continue;
            };
            let noted = place(tool).join(format!("config-{host}"));
            let text = match root.read_to_string(noted, MAX_TEXT) {
                Err(e) if e.is_not_found() => String::new(),
                text => text?,
            };
            let mut lines = text.lines();
            let chosen = lines.find_map(|line| line.strip_prefix("CURRENT="));
            if chosen.map(str::trim) != Some(wanted.as_str()) {
                found.push((program, wanted.clone()));
            }
        }
        Ok(found)
    }

    fn select(&mut self, lock: &Lock) -> Result<()> {
        for (program, wanted) in self.unselected(lock)? {
            let choose = Emerge {
                args: vec![program.to_owned(), wanted.clone()],
                env: Vec::new(),
            };
            let code = self.emerge(&choose, |_| ())?;
            if code != 0 {
                self.watch.note(&format!(
                    "{wanted}, which the lock has in use, is not ({program}: exit {code}): what is \
                     built may come out otherwise"
                ));
            }
        }
        Ok(())
    }
}

/// Whether it is one name, and neither a path nor an option.
fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains('/') && !text.starts_with(['-', '.'])
}
