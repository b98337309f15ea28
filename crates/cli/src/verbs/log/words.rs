//! How times, phases and fates are said to a person.

use be_core::portage::builds::Fate;
use be_core::portage::failure::Stage;
use be_core::record::ConfigFiles;
use be_core::report::{BuildRun, Moved, Report, Time, Verdict};

/// `0.4 s`, `12 s`, `4 min 10 s`, `2 h 05 min`.
pub fn duration(milliseconds: i64) -> String {
    let ms = milliseconds.max(0);
    let s = (ms + 500) / 1000;
    match s {
        _ if ms < 9950 && ms % 1000 != 0 => format!("{:.1} s", ms as f64 / 1000.0),
        0..60 => format!("{s} s"),
        60..3600 if s % 60 == 0 => format!("{} min", s / 60),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3600, s / 60 % 60),
    }
}

/// Between two times.
pub fn span(from: Time, to: Time) -> String {
    duration((to - from).num_milliseconds())
}

/// How long all attempts took together, in milliseconds.
pub fn worked(report: &Report) -> i64 {
    let each = report.attempts.iter().map(|a| a.ended - a.started);
    each.map(|took| took.num_milliseconds()).sum()
}

pub fn moment(time: Time) -> String {
    time.format("%Y-%m-%d %H:%M").to_string()
}

pub fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Running => "at work",
        Verdict::CutOff => "cut off",
        Verdict::Failed => "failed",
        Verdict::Held => "complete, not activated",
        Verdict::Ready => "ready",
    }
}

/// What became of a package, as one word.
pub fn fate(build: &BuildRun) -> &'static str {
    match (build.fate, build.ended, build.binary) {
        (Fate::Merged, _, true) => "from a binary package",
        (Fate::Merged, _, false) => "merged",
        (Fate::Failed, ..) => "failed",
        (Fate::GivenUp, ..) => "given up",
        (Fate::Begun, Some(_), _) => "cut off",
        (Fate::Begun, None, _) => "at work",
    }
}

/// Where it failed.
pub fn stage(stage: Option<Stage>) -> &'static str {
    match stage {
        Some(Stage::Build) => "build",
        Some(Stage::Install) => "installation",
        Some(Stage::Postinst) => "pkg_postinst; it is installed",
        Some(Stage::Unknown) => "cut off",
        None => "command",
    }
}

/// In one line, what a person wants to know first.
pub fn headline(report: &Report) -> String {
    let last = report.attempts.last();
    match last.and_then(|a| a.words.as_deref()) {
        Some(words) => words.to_owned(),
        None => match report.verdict {
            Verdict::Running => "The upgrade is at work.".to_owned(),
            _ => format!(
                "The upgrade ended without a word: be upgrade --continue {} goes on.",
                report.environment
            ),
        },
    }
}

/// What became of configuration files: each path with what was done.
pub fn config_files(files: &ConfigFiles) -> Vec<(&str, &'static str)> {
    let groups = [
        (&files.merged, "merged"),
        (&files.taken, "new version taken"),
        (&files.left, "left for you"),
    ];
    let each = groups.into_iter();
    each.flat_map(|(paths, what)| paths.iter().map(move |path| (path.as_str(), what)))
        .collect()
}

/// Old names that were taken for new ones, a line for each place.
pub fn moves(report: &Report) -> Vec<String> {
    let moves = report.moves.iter();
    let line = |m: &Moved| format!("{}  {}", m.place, m.names(usize::MAX));
    moves.map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (ms, text) in [
            (-5, "0 s"),
            (0, "0 s"),
            (420, "0.4 s"),
            (3000, "3 s"),
            (59_400, "59 s"),
            (59_600, "1 min"),
            (250_000, "4 min 10 s"),
            (7_530_000, "2 h 05 min"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }
}
