//! Shows an upgrade at work.

use be_core::name::EnvName;
use be_core::record::Phase;
use be_core::upgrade::{Merging, Watch};
use serde_json::json;

use crate::reporter::Reporter;

pub struct Show<'a> {
    reporter: &'a mut Reporter,
    /// The number of the package that was named last.
    named: u32,
}

impl<'a> Show<'a> {
    pub fn new(reporter: &'a mut Reporter) -> Self {
        Self { reporter, named: 0 }
    }

    /// Without a terminal: each package once, when it begins.
    fn name(&mut self, merging: &Merging) {
        let named = self.named;
        for job in merging.jobs.iter().filter(|job| job.number > named) {
            self.named = job.number;
            let (number, total, package) = (job.number, merging.total, &job.package);
            self.reporter.note(&format!("[{number}/{total}] {package}"));
        }
    }
}

impl Watch for Show<'_> {
    fn note(&mut self, text: &str) {
        self.reporter.note(text);
    }

    fn phase(&mut self, name: &EnvName, phase: Phase) {
        let what = match phase {
            Phase::Clone => "cloning",
            Phase::Sync => "synchronising the repositories",
            Phase::Preview => "computing what to merge",
            Phase::Fetch => "fetching",
            Phase::Merge => "merging",
            Phase::Chores => "doing the chores",
            Phase::Configuration => "merging configuration files",
            Phase::Check => "checking the result",
            Phase::Done => "done",
            Phase::Later => "working",
        };
        self.named = 0;
        self.reporter.phase(&format!("{name}: {what}"));
        self.reporter.progress(
            json!({ "schema": "be/v1", "event": "phase", "environment": name, "phase": phase }),
        );
    }

    fn progress(&mut self, merging: &Merging) {
        if !self.reporter.merging(merging) {
            self.name(merging);
        }
        let job = merging.jobs.first();
        self.reporter.progress(json!({
            "schema": "be/v1",
            "event": "merge",
            "done": merging.done,
            "total": merging.total,
            "package": job.map(|job| &job.package),
            "step": job.map(|job| &job.phase),
            "seconds": job.map(|job| merging.now.saturating_sub(job.started).max(0)),
            "seconds_left": merging.seconds_left(),
        }));
    }
}
