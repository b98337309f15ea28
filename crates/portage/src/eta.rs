//! How long packages take, from the history in emerge.log ([`crate::log`]).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, Read};

use crate::log::{Event, Lines, Progress, parse_line};
use crate::version::split_cpv;

/// So many of the latest builds of a package count. Older ones were other sources, built by
/// another compiler, maybe on another machine.
const KEEP: usize = 5;

/// The latest times that each package took.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// By `category/name`: the seconds that each build took, oldest first.
    times: BTreeMap<String, VecDeque<u64>>,
    /// By `category/name-version`: begun and not completed.
    begun: HashMap<String, i64>,
    lines: Lines,
}

impl History {
    /// Read a whole log, a piece at a time: after some years it is tens of megabytes.
    ///
    /// # Errors
    /// If reading fails.
    pub fn read(mut log: impl Read) -> io::Result<Self> {
        let mut history = History::default();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match log.read(&mut buffer) {
                Ok(0) => return Ok(history),
                Ok(n) => history.feed(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Take the next bytes of a log; lines may be cut anywhere.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.feed(bytes, |line| self.line(line));
        self.lines = lines;
    }

    fn line(&mut self, line: &str) {
        match parse_line(line) {
            Some((time, Event::Begin(_, _, package))) => {
                self.begun.insert(package.to_owned(), time);
            }
            Some((time, Event::Completed(package))) => {
                let Some(begun) = self.begun.remove(package) else {
                    return;
                };
                // The clock may have been set back.
                let Ok(took) = u64::try_from(time.saturating_sub(begun)) else {
                    return;
                };
                if let Some(name) = cp(package) {
                    let times = self.times.entry(name).or_default();
                    times.push_back(took);
                    if times.len() > KEEP {
                        times.pop_front();
                    }
                }
            }
            _ => {}
        }
    }

    /// The seconds that the latest builds of `category/name` took, oldest first.
    pub fn times(&self, name: &str) -> impl Iterator<Item = u64> + '_ {
        self.times.get(name).into_iter().flatten().copied()
    }

    /// How long `category/name` will take, in seconds: the median.
    #[must_use]
    pub fn estimate(&self, name: &str) -> Option<u64> {
        median(self.times(name).collect())
    }

    /// How long a run will still take, in seconds. `plan` are its packages,
    /// `category/name-version`; `now` is in seconds since 1970.
    ///
    /// A package without history counts as the median of those in the plan that have one; if
    /// none has, there is no estimate. Packages that are built side by side share the time.
    #[must_use]
    pub fn remaining(&self, progress: &Progress, plan: &[String], now: i64) -> Option<u64> {
        let known = |p: &str| cp(p).and_then(|name| self.estimate(&name));
        let usual = median(plan.iter().filter_map(|p| known(p)).collect())?;
        let over = |p: &str| {
            progress.finished.iter().any(|(done, _)| done == p)
                || progress.given_up.iter().any(|given_up| given_up == p)
        };
        let left: u64 = plan
            .iter()
            .filter(|p| !over(p))
            .map(|p| {
                let job = progress.running.iter().find(|job| job.package == **p);
                let spent = job.map_or(0, |job| now.saturating_sub(job.started).max(0));
                known(p)
                    .unwrap_or(usual)
                    .saturating_sub(spent.unsigned_abs())
            })
            .fold(0, u64::saturating_add);
        Some(left / (progress.running.len().max(1) as u64))
    }
}

fn cp(package: &str) -> Option<String> {
    let (category, name, _) = split_cpv(package)?;
    Some(format!("{category}/{name}"))
}

fn median(mut times: Vec<u64>) -> Option<u64> {
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(time: &mut i64, package: &str, took: i64) -> String {
        let from = *time;
        *time += took;
        format!(
            "{from}:  >>> emerge (1 of 1) {package} to /\n\
             {time}:  ::: completed emerge (1 of 1) {package} to /\n"
        )
    }

    #[test]
    fn the_latest_builds_count() {
        let mut t = 1000;
        let mut log: String = [900, 10, 30, 20, 50, 40]
            .map(|took| build(&mut t, "a/slow-1", took))
            .concat();
        // Killed, then built; and completed by somebody else.
        log += "5000:  >>> emerge (1 of 1) a/killed-1 to /\n";
        log += "9000:  >>> emerge (1 of 1) a/killed-1 to /\n";
        log += "9007:  ::: completed emerge (1 of 1) a/killed-1 to /\n";
        log += "9008:  ::: completed emerge (1 of 1) a/other-1 to /\n";
        let history = History::read(log.as_bytes()).unwrap();
        assert_eq!(
            history.times("a/slow").collect::<Vec<_>>(),
            [10, 30, 20, 50, 40]
        );
        assert_eq!(history.estimate("a/slow"), Some(30));
        assert_eq!(history.estimate("a/killed"), Some(7));
        assert_eq!(history.estimate("a/other"), None);
    }

    #[test]
    fn what_is_left() {
        let mut t = 0;
        let log = build(&mut t, "a/b-1", 100) + &build(&mut t, "a/c-1", 60);
        let history = History::read(log.as_bytes()).unwrap();
        let plan: Vec<String> = ["a/b-2", "a/c-2", "a/new-1"].map(str::to_owned).to_vec();
        let mut progress = Progress::default();
        assert_eq!(history.remaining(&progress, &plan, 0), Some(260));
        progress.feed(b"1000:  >>> emerge (1 of 3) a/b-2 to /\n");
        assert_eq!(history.remaining(&progress, &plan, 1030), Some(230));
        assert_eq!(history.remaining(&progress, &plan, 9000), Some(160));
        progress.feed(b"1110:  ::: completed emerge (1 of 3) a/b-2 to /\n");
        assert_eq!(history.remaining(&progress, &plan, 1110), Some(160));
        assert_eq!(history.remaining(&progress, &["x/y-1".into()], 0), None);
    }
}
