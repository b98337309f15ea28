//! Which packages an `emerge` failed on.
//!
//! Three sources, none complete. emerge.log has what was begun and not completed, which
//! includes what the failure of another package cut off; a failed `pkg_postinst` counts as
//! completed there. The merge list in mtimedb has what was still to do, unless `--keep-going`
//! went on. emerge's own output names each failure and its kind (`Scheduler.py`,
//! `_failed_pkg_msg`, 3.0.83), but it is text for people:
//!
//! ```text
//! >>> Failed to emerge app-misc/hello-2, Log file:
//! >>> Jobs: 0 of 2 complete, 1 running                 Load avg: 0.87, 1.23, 0.75
//! >>>  '/var/tmp/portage/app-misc/hello-2/temp/build.log'
//! ```
//!
//! A failed `pkg_postinst` has two faces: the package counts as completed, or it is said to
//! have failed to install (seen with 3.0.83). It is recorded as installed in both;
//! [`mark_installed`] knows it by that.

use serde::{Deserialize, Serialize};

use crate::log::Progress;
use crate::pretend::strip_ansi;
use crate::vdb::Installed;
use crate::version::split_cpv;

/// Where a package failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It was not fetched or built.
    Build,
    /// It was built, and failed while it was installed.
    Install,
    /// It is installed and recorded, and its `pkg_postinst` failed. The next upgrade takes it
    /// for done and does not run that again.
    Postinst,
    /// Begun and not completed; nothing says why. Killed, for one.
    Unknown,
}

/// A package that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// `category/name-version`.
    pub package: String,
    /// Where it failed.
    pub stage: Stage,
    /// Its build log, as a path inside the environment.
    pub log: Option<String>,
}

/// Put together which packages failed, in an `emerge` that did not exit with 0.
///
/// `log` is what emerge.log gained, `resume` is [`crate::state::resume_list`] of mtimedb
/// after the run, `output` what emerge printed. Where the output names failures, whatever
/// else was begun was only cut off by them, unless emerge was killed; where it names none,
/// all that was begun is returned, or the first of the merge list. An empty answer means a
/// failure of another kind: dependencies, arguments.
#[must_use]
pub fn failures(log: &Progress, resume: &[String], output: &str) -> Vec<Failure> {
    let mut failures: Vec<Failure> = Vec::new();
    for failure in named(output) {
        // Named at once, and again in the summary.
        match failures.iter_mut().find(|f| f.package == failure.package) {
            Some(known) => known.log = known.log.take().or(failure.log),
            None => failures.push(failure),
        }
    }
    let mut begun = Vec::new();
    if failures.is_empty() {
        begun = log.unfinished();
        if begun.is_empty() && log.exit.is_some_and(|code| code != 0) {
            begun.extend(resume.first().map(String::as_str));
        }
    } else if log.exit.is_none() {
        begun.extend(log.running.iter().map(|job| job.package.as_str()));
    }
    for package in begun {
        if failures.iter().all(|f| f.package != package) {
            failures.push(Failure {
                package: package.to_owned(),
                stage: Stage::Unknown,
                log: None,
            });
        }
    }
    failures
}

/// Find the failed packages that are installed nevertheless, as the failure of their
/// `pkg_postinst` leaves them: in `after` and not, or from another build, in `before`.
pub fn mark_installed(failures: &mut [Failure], before: &Installed, after: &Installed) {
    for failure in failures {
        let package = &failure.package;
        if after.find(package).is_some() && after.find(package) != before.find(package) {
            failure.stage = Stage::Postinst;
        }
    }
}

fn named(output: &str) -> Vec<Failure> {
    let output = strip_ansi(output);
    let mut lines = output.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let Some(rest) = line.trim_start().strip_prefix(">>> Failed to ") else {
            continue;
        };
        let stages = [
            ("emerge ", Stage::Build),
            ("install ", Stage::Install),
            ("execute postinst for ", Stage::Postinst),
        ];
        let Some((rest, stage)) = stages
            .into_iter()
            .find_map(|(words, stage)| Some((rest.strip_prefix(words)?, stage)))
        else {
            continue;
        };
        let package = rest.split([' ', ',']).next().unwrap_or_default();
        if split_cpv(package).is_none() {
            continue;
        }
        // Its log comes next, but the status display writes in between.
        let log = (lines.clone().take(4))
            .take_while(|line| !line.contains("Failed to "))
            .find_map(|line| line.trim_start().strip_prefix(">>>  '")?.split('\'').next())
            .filter(|_| rest.ends_with("Log file:"))
            .map(str::to_owned);
        found.push(Failure {
            package: package.to_owned(),
            stage,
            log,
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
>>> Emerging (1 of 3) app-misc/ok-1::lab
>>> Failed to emerge app-misc/broken-2, Log file:
>>>  '\x1b[32m/var/tmp/portage/app-misc/broken-2/temp/build.log\x1b[39;49;00m'
>>> Failed to emerge the world
>>> \x1b[31;01mFailed\x1b[39;49;00m to execute postinst for app-misc/post-1, Log file:
>>>  '/var/log/portage/app-misc:post-1.log'
";

    fn log(text: &str) -> Progress {
        let mut progress = Progress::default();
        progress.feed(text.as_bytes());
        progress
    }

    const LOG: &str = "\
1:  >>> emerge (1 of 3) app-misc/broken-2 to /
2:  >>> emerge (2 of 3) app-misc/beside-1 to /
3:  *** exiting unsuccessfully with status '1'.
";

    #[test]
    fn the_output_tells_what_failed_from_what_was_cut_off() {
        let resume = [
            "app-misc/broken-2".to_owned(),
            "app-misc/beside-1".to_owned(),
        ];
        let found = failures(&log(LOG), &resume, OUTPUT);
        assert_eq!(
            found,
            [
                Failure {
                    package: "app-misc/broken-2".into(),
                    stage: Stage::Build,
                    log: Some("/var/tmp/portage/app-misc/broken-2/temp/build.log".into()),
                },
                Failure {
                    package: "app-misc/post-1".into(),
                    stage: Stage::Postinst,
                    log: Some("/var/log/portage/app-misc:post-1.log".into()),
                },
            ]
        );
    }

    /// A run of Portage 3.0.83: the second of four packages fails in postinst, the third
    /// does not compile.
    #[test]
    fn a_real_run() {
        let session = include_str!("../tests/data/emerge.log");
        let output = include_str!("../tests/data/keep-going.txt");
        let mut found = failures(&log(session), &[], output);
        let told: Vec<_> = found
            .iter()
            .map(|f| (f.package.as_str(), f.stage, f.log.as_deref()))
            .collect();
        assert_eq!(
            told,
            [
                (
                    "app-misc/post-1",
                    Stage::Install,
                    Some("/var/tmp/portage/app-misc/post-1/temp/build.log")
                ),
                (
                    "app-misc/broken-1",
                    Stage::Build,
                    Some("/var/tmp/portage/app-misc/broken-1/temp/build.log")
                ),
            ]
        );
        let tmp = tempfile::tempdir().unwrap();
        let before = crate::vdb::load(tmp.path()).unwrap();
        std::fs::create_dir_all(tmp.path().join("app-misc/post-1")).unwrap();
        let after = crate::vdb::load(tmp.path()).unwrap();
        mark_installed(&mut found, &before, &after);
        let stages: Vec<_> = found.iter().map(|f| f.stage).collect();
        assert_eq!(stages, [Stage::Postinst, Stage::Build]);
    }

    #[test]
    fn killed_after_a_failure() {
        let cut = &LOG[..LOG.find("3:").unwrap()];
        let found = failures(&log(cut), &[], OUTPUT);
        let stages: Vec<_> = found.iter().map(|f| f.stage).collect();
        assert_eq!(stages, [Stage::Build, Stage::Postinst, Stage::Unknown]);
        assert_eq!(found[2].package, "app-misc/beside-1");
    }

    #[test]
    fn without_output_the_log_tells() {
        let found = failures(&log(LOG), &[], "");
        let names: Vec<_> = found.iter().map(|f| f.package.as_str()).collect();
        assert_eq!(names, ["app-misc/broken-2", "app-misc/beside-1"]);
        assert!(found.iter().all(|f| f.stage == Stage::Unknown));
    }

    #[test]
    fn the_merge_list_is_the_last_word() {
        // pkg_pretend failed: nothing was begun.
        let ended = log("3:  *** exiting unsuccessfully with status '1'.\n");
        let resume = [
            "app-misc/first-1".to_owned(),
            "app-misc/second-1".to_owned(),
        ];
        assert_eq!(failures(&ended, &resume, "")[0].package, "app-misc/first-1");
        assert_eq!(failures(&ended, &[], ""), []);
        assert_eq!(failures(&log(""), &resume, ""), []);
    }
}
