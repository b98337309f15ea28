//! Programs that gates run in the environment, or in its base, which they cannot write to.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{MemfdFlags, memfd_create};

use super::Scene;
use crate::chroot::{Bind, Output, exit_code, wait_within};
use crate::log;
use crate::store::Paths;

/// What is read of a program's output at the most, in bytes.
const OUTPUT: u64 = 1 << 20;

/// Where a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the environment.
    Environment,
    /// In what it was cloned from.
    Base,
}

/// What came of it.
pub(super) struct Ran {
    /// None if it took too long.
    pub(super) code: Option<i32>,
    /// Both streams.
    pub(super) output: String,
}

impl Ran {
    pub(super) fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    /// How it ended.
    pub(super) fn end(&self, limit: Duration) -> String {
        match self.code {
            Some(code) => format!("exit {code}"),
            None => format!("did not end within {} s", limit.as_secs()),
        }
    }
}

impl Scene<'_> {
    /// Run a program to its end; its output goes to the log as well.
    pub(super) fn run(&self, place: Place, argv: Vec<String>, limit: Duration) -> Result<Ran> {
        let inv = self.session.observe()?;
        let env = inv.get(&self.record.name)?;
        let mut job = self.session.job(&inv, env, argv)?;
        if place == Place::Base {
            let base = Paths::environment(&self.record.name).join("base");
            job.root = base.join("root");
            let members = self.record.subvolumes.iter();
            let volumes = members.filter(|m| m.mount != "/" && m.base.is_some());
            job.volumes = volumes
                .map(|m| Bind {
                    source: base.join(m.place()),
                    target: Path::new(&m.mount).to_owned(),
                })
                .collect();
            job.boot = None;
        }
        // Nothing that a module does when it is imported is to stay.
        job.env.retain(|(key, _)| key != "HOME");
        job.env.push(("HOME".to_owned(), "/run".to_owned()));
        let fd = memfd_create("be-gate", MemfdFlags::CLOEXEC).context("cannot keep the output")?;
        let mut kept = File::from(fd);
        let mut child = job.start(Output::Log(kept.try_clone()?))?;
        let status = wait_within(&mut child, self.interrupted, limit)?;
        if self.interrupted.came() {
            bail!("it was interrupted");
        }
        kept.rewind().context("cannot read the output")?;
        let mut output = Vec::new();
        kept.take(OUTPUT).read_to_end(&mut output)?;
        let mut out = log::append(&self.session.store, &self.record.name)?;
        let of = match place {
            Place::Environment => "",
            Place::Base => " (in the base)",
        };
        let program = job.argv.first().map_or("", String::as_str);
        writeln!(out, ">>> gate: {program}{of}").context("cannot write the log")?;
        out.write_all(&output).context("cannot write the log")?;
        Ok(Ran {
            code: status.map(exit_code),
            output: String::from_utf8_lossy(&output).into_owned(),
        })
    }
}
