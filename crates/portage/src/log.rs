//! Progress, from what `emerge` appends to `/var/log/emerge.log`.
//!
//! Lines are `EPOCH: TEXT`, written one at a time under a lock (`_emerge/emergelog.py`,
//! 3.0.83). The texts that count here, from `MergeListItem.py`, `EbuildBuild.py`, `Binpkg.py`,
//! `EbuildMerge.py`, `post_emerge.py`, `actions.py` and `main.py`:
//!
//! ```text
//! 1757000000: Started emerge on: Sep 04, 2025 15:33:20
//! 1757000001:  >>> emerge (4 of 10) app-misc/hello-2 to /
//! 1757000001:  === (4 of 10) Cleaning (app-misc/hello-2::/var/db/repos/...)
//! 1757000002:  === (4 of 10) Compiling/Merging (app-misc/hello-2::...)
//! 1757000004:  --- (5 of 10) Fetching Binary (app-misc/bye-1::...)
//! 1757000005:  === (5 of 10) Merging Binary (app-misc/bye-1::...)
//! 1757000070:  === (4 of 10) Merging (app-misc/hello-2::...)
//! 1757000072:  === (4 of 10) Post-Build Cleaning (app-misc/hello-2::...)
//! 1757000072:  ::: completed emerge (4 of 10) app-misc/hello-2 to /
//! 1757000099:  *** exiting unsuccessfully with status '1'.
//! 1757000099:  *** terminating.
//! ```

use std::fmt;

use crate::jobs::Task;
use crate::version::split_cpv;

/// A longer line is not one of Portage's; the rest of it is dropped.
const MAX_LINE: usize = 16 << 10;

/// What a package is going through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Begun; nothing more is known. Sources are fetched in this phase.
    Start,
    /// A binary package is fetched.
    Fetch,
    /// Only [`crate::jobs`] tells these from compiling.
    Unpack,
    /// Patched.
    Prepare,
    /// Configured.
    Configure,
    /// Compiled; of the log alone: all from unpacking to installing.
    Compile,
    /// Tested.
    Test,
    /// Installed into its image.
    Install,
    /// Built, and waits for others to be merged.
    Wait,
    /// Written to the system. Of a binary package also its unpacking.
    Merge,
    /// Installed; the build directory is removed.
    Clean,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Phase::Start => "start",
            Phase::Fetch => "fetch",
            Phase::Unpack => "unpack",
            Phase::Prepare => "prepare",
            Phase::Configure => "configure",
            Phase::Compile => "compile",
            Phase::Test => "test",
            Phase::Install => "install",
            Phase::Wait => "wait",
            Phase::Merge => "merge",
            Phase::Clean => "clean",
        })
    }
}

/// A line of emerge.log that means something here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// An emerge began. One that only pretends writes nothing.
    Session,
    /// A package began: its number, of how many, `category/name-version`.
    Begin(u32, u32, &'a str),
    /// A package entered a phase.
    Phase(&'a str, Phase),
    /// A package is installed.
    Completed(&'a str),
    /// emerge is done, with this exit code.
    Exit(i32),
    /// The last line of every emerge that was not killed.
    Terminating,
}

/// `(4 of 10) rest`.
fn count(text: &str) -> Option<(u32, u32, &str)> {
    let (count, rest) = text.strip_prefix('(')?.split_once(") ")?;
    let (n, of) = count.split_once(" of ")?;
    Some((n.parse().ok()?, of.parse().ok()?, rest))
}

fn package(text: &str) -> Option<&str> {
    split_cpv(text).map(|_| text)
}

/// Read one line: when it was written, in seconds since 1970, and what it means.
#[must_use]
pub fn parse_line(line: &str) -> Option<(i64, Event<'_>)> {
    let (time, text) = line.split_once(": ")?;
    Some((time.parse().ok()?, event(text.trim())?))
}

fn event(text: &str) -> Option<Event<'_>> {
    if let Some(rest) = text.strip_prefix(">>> emerge ") {
        let (n, of, rest) = count(rest)?;
        return Some(Event::Begin(n, of, package(rest.split(' ').next()?)?));
    }
    if let Some(rest) = text.strip_prefix("::: completed emerge ") {
        let (_, _, rest) = count(rest)?;
        return Some(Event::Completed(package(rest.split(' ').next()?)?));
    }
    if let Some(rest) = text.strip_prefix("=== ").or(text.strip_prefix("--- ")) {
        let (_, _, rest) = count(rest)?;
        let (what, rest) = rest.split_once(" (")?;
        let phase = match what {
            "Cleaning" => Phase::Start,
            "Fetching Binary" => Phase::Fetch,
            "Compiling/Merging" | "Compiling/Packaging" => Phase::Compile,
            "Merging" | "Merging Binary" => Phase::Merge,
            "Post-Build Cleaning" => Phase::Clean,
            _ => return None,
        };
        return Some(Event::Phase(package(rest.split("::").next()?)?, phase));
    }
    if let Some(rest) = text.strip_prefix("*** exiting unsuccessfully with status '") {
        return Some(Event::Exit(rest.split('\'').next()?.parse().ok()?));
    }
    match text {
        "*** exiting successfully." => Some(Event::Exit(0)),
        "*** terminating." => Some(Event::Terminating),
        _ => text
            .starts_with("Started emerge on")
            .then_some(Event::Session),
    }
}

/// Cuts what is read from a growing file into lines. Bytes that are not UTF-8 become
/// U+FFFD; emerge.log has them escaped, a damaged one may not.
#[derive(Debug, Clone, Default)]
pub struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Call `each` with every event, and its time in seconds since 1970, that `bytes` completes.
    pub fn events(&mut self, bytes: &[u8], mut each: impl FnMut(i64, &Event<'_>)) {
        self.feed(bytes, |line| {
            if let Some((time, event)) = parse_line(line) {
                each(time, &event);
            }
        });
    }

    /// Call `each` with every line that `bytes` completes.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            let room = MAX_LINE.saturating_sub(self.partial.len());
            match piece.split_last() {
                Some((b'\n', line)) => {
                    self.partial.extend(&line[..line.len().min(room)]);
                    each(&String::from_utf8_lossy(&self.partial));
                    self.partial.clear();
                }
                _ => self.partial.extend(&piece[..piece.len().min(room)]),
            }
        }
    }
}

/// A package that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// `category/name-version`.
    pub package: String,
    /// Its number, from 1, counted over the whole run.
    pub number: u32,
    /// When it began, in seconds since 1970.
    pub started: i64,
    /// What it is going through, as the log has it.
    pub phase: Phase,
    /// What emerge itself told last.
    told: Option<Phase>,
}

impl Job {
    /// What it is going through, as far as it is known. The log is written at once, but has
    /// one word for a whole build.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.phase {
            Phase::Compile => self.told.unwrap_or(Phase::Compile),
            phase => phase,
        }
    }
}

/// How far one run of `emerge` is. Feed it what the log gained since the run began; a new
/// run in the same log starts it over.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// How many packages are installed.
    pub done: u32,
    /// How many there are to install; 0 as long as that is not known. After a failure under
    /// `--keep-going` Portage counts anew; the numbers here go on.
    pub total: u32,
    /// The packages being worked on, in the order in which they began.
    pub running: Vec<Job>,
    /// The packages that were begun and given up when `--keep-going` went on without them.
    pub given_up: Vec<String>,
    /// The packages that are installed, `category/name-version`, with the seconds each took.
    pub finished: Vec<(String, u64)>,
    /// The exit code that emerge wrote, once it has.
    pub exit: Option<i32>,
    /// emerge wrote its last line. Without it and without a process, it was killed.
    pub terminated: bool,
    lines: Lines,
    /// What to add to Portage's own count, and the last numbers of that.
    offset: u32,
    last: (u32, u32),
}

impl Progress {
    /// Take the next bytes of the log; lines may be cut anywhere.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.events(bytes, |time, event| self.apply(time, event));
        self.lines = lines;
    }

    /// Take what emerge tells of its jobs ([`crate::jobs`]).
    pub fn refine(&mut self, tasks: &[Task]) {
        for job in &mut self.running {
            let task = tasks.iter().find(|task| task.package == job.package);
            job.told = task.map(|task| task.phase).or(job.told);
        }
    }

    /// The package to show: the one that began first and is not done.
    #[must_use]
    pub fn current(&self) -> Option<&Job> {
        self.running.first()
    }

    /// What was begun and is not installed. After the end of a run: what failed, was cut off
    /// by the failure of another, or was only fetched.
    #[must_use]
    pub fn unfinished(&self) -> Vec<&str> {
        let running = self.running.iter().map(|job| job.package.as_str());
        self.given_up
            .iter()
            .map(String::as_str)
            .chain(running)
            .collect()
    }

    fn apply(&mut self, time: i64, event: &Event<'_>) {
        match *event {
            Event::Session => *self = Progress::default(),
            Event::Begin(n, of, package) => self.begin(time, (n, of), package),
            Event::Phase(package, phase) => {
                if let Some(job) = self.running.iter_mut().find(|j| j.package == package) {
                    job.phase = phase;
                }
            }
            Event::Completed(package) => {
                if let Some(at) = self.running.iter().position(|j| j.package == package) {
                    let job = self.running.remove(at);
                    let took = time.saturating_sub(job.started);
                    self.finished
                        .push((job.package, u64::try_from(took).unwrap_or(0)));
                    self.done = self.done.saturating_add(1);
                }
            }
            Event::Exit(code) => self.exit = Some(code),
            Event::Terminating => self.terminated = true,
        }
    }

    fn begin(&mut self, time: i64, (n, of): (u32, u32), package: &str) {
        if self.last.1 != 0 && (of != self.last.1 || n <= self.last.0) {
            // --keep-going went on without what failed: Portage counts from 1 again.
            self.given_up
                .extend(self.running.drain(..).map(|job| job.package));
            let given_up = u32::try_from(self.given_up.len()).unwrap_or(u32::MAX);
            self.offset = self.done.saturating_add(given_up);
        }
        self.last = (n, of);
        self.total = self.offset.saturating_add(of);
        self.running.push(Job {
            package: package.to_owned(),
            number: self.offset.saturating_add(n),
            started: time,
            phase: Phase::Start,
            told: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RUN: &str = "\
1757000000: Started emerge on: Sep 04, 2025 15:33:20
1757000000:  *** emerge --update --deep --newuse @world
1757000001:  >>> emerge (1 of 3) dev-libs/lib-1.10 to /
1757000001:  === (1 of 3) Cleaning (dev-libs/lib-1.10::/var/db/repos/gentoo/dev-libs/lib/lib-1.10.ebuild)
1757000002:  === (1 of 3) Compiling/Packaging (dev-libs/lib-1.10::/var/db/repos/gentoo/dev-libs/lib/lib-1.10.ebuild)
1757000003:  >>> emerge (2 of 3) app-misc/bye-1 to /
1757000004:  --- (2 of 3) Fetching Binary (app-misc/bye-1::/var/cache/binpkgs/app-misc/bye/bye-1-1.gpkg.tar)
1757000005:  === (2 of 3) Merging Binary (app-misc/bye-1::/var/cache/binpkgs/app-misc/bye/bye-1-1.gpkg.tar)
1757000007:  === (2 of 3) Post-Build Cleaning (app-misc/bye-1::/var/cache/x)
1757000007:  ::: completed emerge (2 of 3) app-misc/bye-1 to /
1757000060:  === (1 of 3) Merging (dev-libs/lib-1.10::/var/db/repos/gentoo/x)
1757000061: === Unmerging... (dev-libs/lib-1.9)
1757000062:  >>> unmerge success: dev-libs/lib-1.9
1757000063:  ::: completed emerge (1 of 3) dev-libs/lib-1.10 to /
1757000064:  >>> emerge (3 of 3) app-misc/hello-2 to /
1757000064:  === (3 of 3) Cleaning (app-misc/hello-2::/x)
1757000065:  === (3 of 3) Compiling/Merging (app-misc/hello-2::/x)
";

    fn fed(text: &str) -> Progress {
        let mut progress = Progress::default();
        progress.feed(text.as_bytes());
        progress
    }

    #[test]
    fn a_run_with_two_jobs() {
        let half = fed(&RUN[..RUN.find("1757000007").unwrap()]);
        assert_eq!((half.done, half.total), (0, 3));
        assert_eq!(half.current().unwrap().phase, Phase::Compile);
        assert_eq!(half.running[1].phase, Phase::Merge);
        let p = fed(RUN);
        assert_eq!((p.done, p.total, p.exit), (2, 3, None));
        assert_eq!(
            p.finished,
            [
                ("app-misc/bye-1".into(), 4),
                ("dev-libs/lib-1.10".into(), 62)
            ]
        );
        assert_eq!(p.unfinished(), ["app-misc/hello-2"]);
        let end = "1757000099:  *** exiting unsuccessfully with status '1'.\n\
                   1757000099:  *** terminating.\n";
        let p = fed(&format!("{RUN}{end}"));
        assert_eq!((p.exit, p.terminated), (Some(1), true));
    }

    #[test]
    fn what_emerge_tells_counts_while_it_builds() {
        let told = |phase| {
            [Task {
                package: "app-misc/hello-2".into(),
                phase,
            }]
        };
        let mut p = fed(RUN);
        assert_eq!(p.current().unwrap().phase(), Phase::Compile);
        p.refine(&told(Phase::Configure));
        assert_eq!(p.current().unwrap().phase(), Phase::Configure);
        // It said nothing new, and then something that the log knows better.
        p.refine(&[]);
        assert_eq!(p.current().unwrap().phase(), Phase::Configure);
        p.feed(b"1757000070:  === (3 of 3) Merging (app-misc/hello-2::/x)\n");
        p.refine(&told(Phase::Install));
        assert_eq!(p.current().unwrap().phase(), Phase::Merge);
    }

    #[test]
    fn keep_going_counts_on() {
        // Two runs of Portage 3.0.83 in one log; in the second, two of four fail.
        let log = include_str!("../tests/data/emerge.log");
        let last = log.find("  === (1 of 1) Compiling").unwrap();
        let p = fed(&log[..last]);
        assert_eq!((p.done, p.total), (1, 4));
        assert_eq!(p.current().unwrap().number, 4);
        let failed = ["app-misc/post-1", "app-misc/broken-1"];
        assert_eq!(p.given_up, failed);
        let p = fed(log);
        assert_eq!((p.done, p.total), (2, 4));
        assert_eq!((p.exit, p.terminated), (Some(1), true));
        assert_eq!(p.unfinished(), failed);
    }

    #[test]
    fn a_new_run_starts_over() {
        let p = fed(&format!(
            "{RUN}1757000100: Started emerge on: Sep 04, 2025\n"
        ));
        assert_eq!((p.done, p.total, p.running.len()), (0, 0, 0));
    }

    #[test]
    fn noise_is_passed_over() {
        let mut p = Progress::default();
        p.feed(b"\xff\xfe: garbage\n1757: >>> emerge (x of 3) a/b-1 to /\n");
        p.feed(b"1757000000:  >>> emerge (1 of 2) \xff/b-1 to /\n");
        p.feed(b"1757000000:  >>> emerge (1 of 99999999999) a/b-1 to /\n");
        p.feed(&vec![b'x'; 1 << 20]);
        assert!(p.lines.partial.len() <= MAX_LINE);
        p.feed(b"\n1757000000:  >>> emerge (1 of 2) a/b-1 to /\n");
        assert_eq!((p.total, p.running.len()), (2, 1));
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(cuts in prop::collection::vec(0..RUN.len(), 0..12)) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            cuts.push(RUN.len());
            let (mut p, mut from) = (Progress::default(), 0);
            for cut in cuts {
                p.feed(&RUN.as_bytes()[from..cut]);
                from = cut;
            }
            let whole = fed(RUN);
            prop_assert_eq!((p.done, p.total, &p.running), (whole.done, whole.total, &whole.running));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut p = Progress::default();
            p.feed(&bytes);
            prop_assert!(p.running.len() <= 5);
        }
    }
}
