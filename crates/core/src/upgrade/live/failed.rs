//! A merge into the running system that did not come to its end.

use std::fmt;

use crate::name::EnvName;

/// The running system was changed in part.
#[derive(Debug, Clone)]
pub struct LiveFailed {
    /// The running environment.
    pub into: EnvName,
    /// The one that the packages were built in.
    pub from: EnvName,
    /// The running environment as it was before.
    pub way_back: EnvName,
    /// What went wrong, in one line.
    pub why: String,
}

impl fmt::Display for LiveFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (into, why) = (&self.into, &self.why);
        write!(f, "{into}, which runs, was upgraded only in part: {why}")
    }
}

impl std::error::Error for LiveFailed {}

impl LiveFailed {
    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> String {
        let (from, way_back) = (&self.from, &self.way_back);
        format!(
            "be log {from} shows what happened\n\
             be upgrade --live --continue {from} to go on\n\
             be rollback {way_back} and a reboot to have it as it was before"
        )
    }
}
