//! What moves on a terminal while an upgrade works: the phase, and below it a bar and a line
//! for each package that is worked on.

use std::time::Duration;

use be_core::upgrade::{Job, Merging};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// How often the time in it moves on.
const TICK: Duration = Duration::from_millis(250);

/// So many packages have a line; of the others the number is shown.
const MOST_LINES: usize = 6;

/// The moving lines at the end of a terminal.
#[derive(Debug)]
pub struct Display {
    all: MultiProgress,
    head: Option<ProgressBar>,
    jobs: Vec<ProgressBar>,
    phase: String,
}

impl Display {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            all: MultiProgress::new(),
            head: None,
            jobs: Vec::new(),
            phase: String::new(),
        }
    }

    /// A phase begins; gives the one that has ended, with the time that it took.
    pub fn phase(&mut self, text: &str) -> Option<String> {
        let ended = self.ended();
        self.phase = text.to_owned();
        let bar = ProgressBar::no_length().with_message(text.to_owned());
        self.set_head(bar.with_style(style("{spinner} {msg}  {elapsed_precise}")));
        ended
    }

    /// One line that tells how far something is, in the place of the one before.
    pub fn head(&mut self, text: &str) {
        if self.head.is_none() {
            let bar = ProgressBar::no_length();
            self.set_head(bar.with_style(style("{spinner} {wide_msg}")));
        }
        if let Some(head) = &self.head {
            head.set_message(text.to_owned());
        }
    }

    /// Take all away; gives the phase that was shown, with the time that it took.
    pub fn end(mut self) -> Option<String> {
        self.ended()
    }

    fn ended(&mut self) -> Option<String> {
        self.lines(&[]);
        let head = self.head.take()?;
        head.finish_and_clear();
        self.all.remove(&head);
        let took = i64::try_from(head.elapsed().as_secs()).unwrap_or(0);
        let phase = std::mem::take(&mut self.phase);
        (!phase.is_empty()).then(|| format!("{phase} ({})", clock(took)))
    }

    fn set_head(&mut self, bar: ProgressBar) {
        let bar = self.all.insert(0, bar);
        bar.enable_steady_tick(TICK);
        self.head = Some(bar);
    }

    /// How far the merge is.
    pub fn merging(&mut self, merging: &Merging) {
        if merging.total == 0 {
            return;
        }
        let has_bar = |head: &&ProgressBar| head.length().is_some();
        if self.head.as_ref().filter(has_bar).is_none() {
            let elapsed = self.head.as_ref().map(ProgressBar::elapsed);
            let phase = self.phase.clone();
            self.ended();
            self.phase = phase;
            let bar = ProgressBar::new(merging.total.into()).with_style(style(
                "{spinner} [{bar:30}] {pos} of {len}  {elapsed_precise}{msg}",
            ));
            self.set_head(bar.with_elapsed(elapsed.unwrap_or_default()));
        }
        if let Some(head) = &self.head {
            let left = merging.seconds_left();
            let left = left.map(|left| format!("  {}", rest(left)));
            head.set_message(left.unwrap_or_default());
            head.set_length(merging.total.into());
            head.set_position(merging.done.into());
        }
        let shown = merging.jobs.len().min(MOST_LINES);
        let mut lines: Vec<_> = merging.jobs[..shown]
            .iter()
            .map(|job| line(job, merging.now))
            .collect();
        if shown < merging.jobs.len() {
            lines.push(format!("and {} more", merging.jobs.len() - shown));
        }
        self.lines(&lines);
    }

    fn lines(&mut self, lines: &[String]) {
        while self.jobs.len() > lines.len() {
            if let Some(job) = self.jobs.pop() {
                job.finish_and_clear();
                self.all.remove(&job);
            }
        }
        while self.jobs.len() < lines.len() {
            let job = self.all.add(ProgressBar::no_length());
            job.set_style(style("    {wide_msg}"));
            self.jobs.push(job);
        }
        for (job, line) in self.jobs.iter().zip(lines) {
            job.set_message(line.clone());
        }
    }

    /// Print something above it.
    pub fn above<T>(&self, print: impl FnOnce() -> T) -> T {
        self.all.suspend(print)
    }
}

fn style(template: &str) -> ProgressStyle {
    // A template of ours that is wrong costs the look, not the upgrade.
    let style = ProgressStyle::with_template(template);
    style
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("#>-")
        .tick_chars("|/-\\ ")
}

/// `app-misc/hello-2  configure  0:01:12`.
fn line(job: &Job, now: i64) -> String {
    let took = clock(now.saturating_sub(job.started));
    format!("{}  {}  {took}", job.package, job.phase)
}

/// `h:mm:ss`.
fn clock(seconds: i64) -> String {
    let s = seconds.max(0);
    format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

/// An estimate, in hours and minutes, rounded up.
fn rest(seconds: u64) -> String {
    let minutes = seconds.div_ceil(60);
    format!("~{}:{:02} left", minutes / 60, minutes % 60)
}

/// All in one line, as of `now`, in seconds since 1970:
/// `3 of 10, app-misc/hello-2 configure 0:01:12 (+1), ~0:12 left`.
pub fn in_words(merging: &Merging, now: i64) -> String {
    let mut text = format!("{} of {}", merging.done, merging.total);
    if let Some(job) = merging.jobs.first() {
        let took = clock(now.saturating_sub(job.started));
        text = format!("{} of {}, ", job.number, merging.total);
        text += &format!("{} {} {took}", job.package, job.phase);
        if merging.jobs.len() > 1 {
            text += &format!(" (+{})", merging.jobs.len() - 1);
        }
    }
    let left = merging.until.map(|until| until.saturating_sub(now));
    let left = left.and_then(|left| u64::try_from(left).ok());
    match left {
        Some(left) => format!("{text}, {}", rest(left)),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(package: &str, number: u32) -> Job {
        Job {
            package: package.into(),
            number,
            phase: "configure".into(),
            started: 1000,
        }
    }

    #[test]
    fn words() {
        let mut merging = Merging {
            done: 2,
            total: 10,
            jobs: vec![job("app-misc/hello-2", 3)],
            until: Some(1792),
            now: 1060,
        };
        let one = "3 of 10, app-misc/hello-2 configure 0:01:12, ~0:12 left";
        assert_eq!(in_words(&merging, 1072), one);
        // Later than the estimate, and a clock that was set back.
        let late = "3 of 10, app-misc/hello-2 configure 0:33:20";
        assert_eq!(in_words(&merging, 3000), late);
        let early = "3 of 10, app-misc/hello-2 configure 0:00:00, ~10:00 left";
        merging.until = Some(36_900);
        assert_eq!(in_words(&merging, 900), early);
        merging.until = None;
        merging.jobs.push(job("app-misc/bye-1", 4));
        let two = "3 of 10, app-misc/hello-2 configure 0:00:00 (+1)";
        assert_eq!(in_words(&merging, 1000), two);
        merging.jobs.clear();
        assert_eq!(in_words(&merging, 1000), "2 of 10");
    }
}
