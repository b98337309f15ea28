//! When each package was built and merged, from emerge.log ([`crate::log`]).

use serde::{Deserialize, Serialize};

use crate::log::{Event, Lines, Phase};

/// What became of a package that was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It is being worked on, or nothing is known of its end.
    Begun,
    /// It is installed.
    Merged,
    /// It failed, or was given up because another failed: the log does not tell which.
    GivenUp,
    /// It failed, as [`crate::failure`] knows.
    Failed,
}

/// One package at work. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// `category/name-version`.
    pub package: String,
    /// When it was begun.
    pub started: i64,
    /// When it was compiled; none of a binary package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compiled: Option<i64>,
    /// When it began to be written to the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged: Option<i64>,
    /// When it was done or given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<i64>,
    /// What became of it.
    pub fate: Fate,
}

impl Build {
    /// How long it took, in seconds, if it has ended.
    #[must_use]
    pub fn seconds(&self) -> Option<u64> {
        let took = self.ended?.saturating_sub(self.started);
        Some(u64::try_from(took).unwrap_or(0))
    }

    /// Whether a binary package was merged.
    #[must_use]
    pub fn is_binary(&self) -> bool {
        self.compiled.is_none() && self.merged.is_some()
    }
}

/// All packages of one run of `emerge`. Feed it what the log gained since that began.
#[derive(Debug, Clone, Default)]
pub struct Builds {
    all: Vec<Build>,
    lines: Lines,
    /// The last numbers of Portage's count.
    last: (u32, u32),
}

impl Builds {
    /// Take the next bytes of the log; lines may be cut anywhere.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.events(bytes, |time, event| self.apply(time, event));
        self.lines = lines;
    }

    /// The packages, in the order in which they were begun.
    #[must_use]
    pub fn all(&self) -> &[Build] {
        &self.all
    }

    fn apply(&mut self, time: i64, event: &Event<'_>) {
        match *event {
            Event::Begin(n, of, package) => {
                if self.last.1 != 0 && (of != self.last.1 || n <= self.last.0) {
                    // --keep-going went on without what failed: Portage counts from 1 again.
                    self.give_up(time);
                }
                self.last = (n, of);
                self.all.push(Build {
                    package: package.to_owned(),
                    started: time,
                    compiled: None,
                    merged: None,
                    ended: None,
                    fate: Fate::Begun,
                });
            }
            Event::Phase(package, phase) => {
                if let Some(build) = self.open(package) {
                    match phase {
                        Phase::Compile => build.compiled = Some(time),
                        Phase::Merge => build.merged = Some(time),
                        _ => {}
                    }
                }
            }
            Event::Completed(package) => {
                if let Some(build) = self.open(package) {
                    (build.ended, build.fate) = (Some(time), Fate::Merged);
                }
            }
            Event::Session | Event::Exit(_) | Event::Terminating => self.give_up(time),
        }
    }

    fn open(&mut self, package: &str) -> Option<&mut Build> {
        let mut open = self.all.iter_mut().rev();
        open.find(|b| b.package == package && b.fate == Fate::Begun)
    }

    fn give_up(&mut self, time: i64) {
        for build in self.all.iter_mut().filter(|b| b.fate == Fate::Begun) {
            (build.ended, build.fate) = (Some(time), Fate::GivenUp);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(log: &str) -> Vec<Build> {
        let mut builds = Builds::default();
        // Cut anywhere.
        log.as_bytes()
            .chunks(7)
            .for_each(|bytes| builds.feed(bytes));
        builds.all
    }

    fn short(builds: &[Build]) -> Vec<(&str, i64, Option<i64>, Fate)> {
        let short = |b: &Build| (b.started, b.ended, b.fate);
        let each = builds.iter().map(|b| (b.package.as_str(), short(b)));
        each.map(|(p, (s, e, f))| (p, s, e, f)).collect()
    }

    #[test]
    fn side_by_side_and_from_a_binary_package() {
        let builds = of("\
100: Started emerge on: Sep 04, 2025 15:33:20
101:  >>> emerge (1 of 2) app-misc/hello-2 to /
102:  >>> emerge (2 of 2) app-misc/bye-1 to /
103:  === (1 of 2) Compiling/Merging (app-misc/hello-2::/x)
104:  === (2 of 2) Merging Binary (app-misc/bye-1::/x)
105:  ::: completed emerge (2 of 2) app-misc/bye-1 to /
107:  === (1 of 2) Merging (app-misc/hello-2::/x)
109:  ::: completed emerge (1 of 2) app-misc/hello-2 to /
110:  *** exiting successfully.
111:  *** terminating.
");
        let (hello, bye) = (&builds[0], &builds[1]);
        assert_eq!((hello.compiled, hello.merged), (Some(103), Some(107)));
        assert_eq!((hello.seconds(), bye.seconds()), (Some(8), Some(3)));
        assert!(bye.is_binary() && !hello.is_binary());
    }

    #[test]
    fn what_failed_ends_where_portage_goes_on_or_gives_up() {
        let builds = of("\
1:  >>> emerge (1 of 3) a/b-1 to /
5:  >>> emerge (1 of 2) a/c-1 to /
6:  ::: completed emerge (1 of 2) a/c-1 to /
6:  >>> emerge (2 of 2) a/d-1 to /
9:  *** exiting unsuccessfully with status '1'.
");
        assert_eq!(
            short(&builds),
            [
                ("a/b-1", 1, Some(5), Fate::GivenUp),
                ("a/c-1", 5, Some(6), Fate::Merged),
                ("a/d-1", 6, Some(9), Fate::GivenUp),
            ]
        );
        let killed = of("1:  >>> emerge (1 of 3) a/b-1 to /\n2:  >>> eme");
        assert_eq!(short(&killed), [("a/b-1", 1, None, Fate::Begun)]);
    }
}
