//! An upgrade that failed.

use std::fmt;

use chrono::{DateTime, FixedOffset};

use super::finish::GatesFailed;
use super::{Work, report};
use crate::gates::Gate;
use crate::name::EnvName;
use crate::record::State;

/// An upgrade that failed; the environment is kept.
#[derive(Debug, Clone)]
pub struct UpgradeFailed {
    /// The environment.
    pub name: EnvName,
    /// What went wrong, in one line.
    pub why: String,
    /// The gates that it does not pass; none if something else went wrong.
    pub gates: Vec<Gate>,
}

impl fmt::Display for UpgradeFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the upgrade in {} failed: {}. The running system was not touched; {} is kept, marked failed",
            self.name, self.why, self.name
        )
    }
}

impl std::error::Error for UpgradeFailed {}

impl UpgradeFailed {
    /// What to do next.
    pub fn hint(&self) -> String {
        let name = &self.name;
        let off = self.gates.iter().filter(|g| Gate::SWITCHED.contains(g));
        let off: String = off.map(|g| format!(" --no-gate {}", g.name())).collect();
        let without = match off.is_empty() {
            true => String::new(),
            false => format!("be upgrade --continue {name}{off} to have it all the same\n"),
        };
        format!(
            "be log {name} shows what happened\n\
             be shell {name} to look inside and mend\n\
             be upgrade --continue {name} to go on\n\
             {without}\
             be destroy {name} to throw it away"
        )
    }
}

impl Work<'_> {
    /// Keep the environment as failed, and say why.
    pub(super) fn failed(
        &mut self,
        error: &anyhow::Error,
        now: DateTime<FixedOffset>,
    ) -> anyhow::Error {
        let why = format!("{error:#}");
        self.record.state = State::Failed;
        let upgrade = self.upgrade();
        upgrade.error = Some(why.clone());
        upgrade.ended = Some(report::later(now));
        let name = self.record.name.clone();
        let kept = self.write_record();
        let closed = error.downcast_ref::<GatesFailed>();
        let gates = closed
            .map(|closed| closed.gates.clone())
            .unwrap_or_default();
        let failed = anyhow::Error::new(UpgradeFailed { name, why, gates });
        match kept {
            // On a full disk even this fails; a building environment that nobody works in
            // counts as failed all the same.
            Err(e) => failed.context(format!("the record could not be written: {e:#}")),
            Ok(()) => failed,
        }
    }
}
