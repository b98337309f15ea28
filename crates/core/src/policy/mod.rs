//! Which environments to keep. Pure: the time and all facts come from the caller.

mod prune;

pub use prune::{Candidate, Fate, Judgement, Kind, UNFINISHED_DAYS, Verdict, judge};

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
