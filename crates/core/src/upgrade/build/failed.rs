//! A build that failed.

use std::fmt;

use chrono::{DateTime, FixedOffset};

use super::super::report::later;
use super::super::{Work, is_nothing_begun};
use super::{Binhost, Build, Kind};
use crate::name::EnvName;
use crate::record::State;

/// A build that failed; the builder is held, and what was published is as it was.
#[derive(Debug, Clone)]
pub struct BuildFailed {
    /// The builder.
    pub name: EnvName,
    /// What went wrong, in one line.
    pub why: String,
    /// Until when it is held; none if the next build begins anew.
    pub until: Option<DateTime<FixedOffset>>,
    /// There is no room for packages any more.
    pub full: bool,
}

impl fmt::Display for BuildFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, why) = (&self.name, &self.why);
        write!(
            f,
            "the build in {name} failed: {why}. Nothing was published; "
        )?;
        match self.until {
            Some(until) => write!(f, "{name} is held until {}", until.format("%Y-%m-%d %H:%M")),
            None => write!(f, "what was finished is kept"),
        }
    }
}

impl std::error::Error for BuildFailed {}

impl BuildFailed {
    /// What to do next.
    pub fn hint(&self) -> String {
        let name = &self.name;
        match self.until {
            Some(_) => format!(
                "be log {name} shows what happened\n\
                 be build shell to look inside and mend\n\
                 be build continue to go on\n\
                 be build drop to throw it away"
            ),
            None => "be build continue to go on, or be build run to begin anew".into(),
        }
    }
}

impl Work<'_> {
    /// What becomes of a builder in which something went wrong.
    pub(super) fn build_failed(
        &mut self,
        error: anyhow::Error,
        request: &Build,
        host: &Binhost,
    ) -> anyhow::Error {
        let new = matches!(request.kind, Kind::New { .. });
        // Nothing was built, and a person could mend nothing.
        if new && is_nothing_begun(&error) {
            return match self.discard() {
                Ok(()) => error,
                Err(e) => error.context(format!("{e:#}")),
            };
        }
        let (name, mut why) = (self.record.name.clone(), format!("{error:#}"));
        let full = host.has_room(self.session).err();
        if let Some(full) = &full {
            why = format!("{why}; {full:#}");
        }
        let interrupted = self.interrupted.came();
        // One that was cut off is not held, as after a kill.
        if !interrupted {
            self.record.state = State::Failed;
        }
        let ended = later(request.now);
        let upgrade = self.upgrade();
        upgrade.error = Some(why.clone());
        upgrade.ended = Some(ended);
        let kept = self.write_record();
        self.end_report(&Err(error));
        let hold = self.session.config.build.hold.duration();
        let hold = chrono::TimeDelta::from_std(hold).unwrap_or_default();
        let until = (!interrupted).then(|| ended + hold);
        let full = full.is_some();
        let failed = anyhow::Error::new(BuildFailed {
            name,
            why,
            until,
            full,
        });
        match kept {
            Err(e) => failed.context(format!("the record could not be written: {e:#}")),
            Ok(()) => failed,
        }
    }
}
