//! The picture of an upgrade: a band of phases, below it the packages, what was built side by
//! side in lanes, and an axis of time.
//!
//! Across, everything is in percent, so that the picture is as wide as the page without a
//! script; text is never scaled. What lies between two attempts is a gap.

use be_core::portage::builds::Fate;
use be_core::report::{Report, Time};
use serde::Serialize;

use super::{packages, words};

/// Heights, in pixels.
const BAND: u32 = 22;
const LANE: u32 = 22;
const GAP: u32 = 4;
const AXIS: u32 = 26;

/// Between two attempts, in percent.
const BREAK: f64 = 2.5;

/// A bar is not made narrower, in percent.
const NARROW: f64 = 0.25;

/// A bar that is wider has its name in it, in percent.
const NAMED: f64 = 5.0;

/// Labels of the axis are not nearer, in percent.
const APART: f64 = 17.0;

/// More ticks are not drawn in one attempt.
const TICKS: i64 = 6;

/// What the template draws.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Timeline {
    height: u32,
    /// Where the axis is.
    axis: u32,
    /// Where its labels are.
    labels: u32,
    phases: Vec<Bar>,
    builds: Vec<Bar>,
    ticks: Vec<Tick>,
    /// Between attempts.
    breaks: Vec<String>,
    /// What there is, in words.
    description: String,
    /// The kinds of bars that there are: class and meaning.
    legend: Vec<(&'static str, &'static str)>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Bar {
    x: String,
    width: String,
    y: u32,
    height: u32,
    class: &'static str,
    /// What a pointer that rests on it is told.
    title: String,
    /// In it; empty if there is no room.
    name: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Tick {
    x: String,
    label: String,
    anchor: &'static str,
}

/// Where a time is, in percent.
struct Scale {
    /// Of each attempt: its beginning, its length in milliseconds, and where it begins.
    attempts: Vec<(Time, f64, f64)>,
    /// Percent for a millisecond.
    unit: f64,
}

impl Scale {
    fn new(report: &Report) -> Self {
        let length = |from: Time, to: Time| ((to - from).num_milliseconds().max(1)) as f64;
        let all: f64 = report
            .attempts
            .iter()
            .map(|a| length(a.started, a.ended))
            .sum();
        // Of very many attempts the breaks would leave no room.
        let breaks = (report.attempts.len().saturating_sub(1) as f64 * BREAK).min(30.0);
        let each = breaks / (report.attempts.len().saturating_sub(1).max(1) as f64);
        let unit = (100.0 - breaks) / all;
        let mut at = 0.0;
        let mut attempts = Vec::new();
        for a in &report.attempts {
            let length = length(a.started, a.ended);
            attempts.push((a.started, length, at));
            at += length * unit + each;
        }
        Self { attempts, unit }
    }

    fn at(&self, attempt: usize, time: Time) -> f64 {
        let Some((start, length, x)) = self.attempts.get(attempt) else {
            return 0.0;
        };
        let since = (time - *start).num_milliseconds() as f64;
        x + since.clamp(0.0, *length) * self.unit
    }

    /// From one time to another, wide enough to be seen.
    fn bar(&self, attempt: usize, from: Time, to: Time) -> (f64, f64) {
        let x = self.at(attempt, from).min(100.0 - NARROW);
        (x, (self.at(attempt, to) - x).max(NARROW))
    }
}

fn percent(value: f64) -> String {
    format!("{value:.3}%")
}

/// Draw it; none if there is nothing but the clone.
pub fn draw(report: &Report, now: Time) -> Option<Timeline> {
    if report.phases.len() < 2 && report.builds.is_empty() {
        return None;
    }
    let scale = Scale::new(report);
    let (builds, lanes) = builds(report, &scale, now);
    let axis = BAND + GAP + u32::try_from(lanes).unwrap_or(u32::MAX / LANE / 2) * (LANE + GAP);
    let legend = [
        ("merged", "built"),
        ("binary", "from a binary package"),
        ("failed", "failed"),
        ("cut", "cut off"),
        ("at-work", "at work"),
    ];
    let drawn = |class: &str| builds.iter().any(|b| b.class == class);
    Some(Timeline {
        height: axis + AXIS,
        axis: axis + 2,
        labels: axis + AXIS - 6,
        phases: phases(report, &scale),
        ticks: ticks(&scale),
        breaks: breaks(&scale),
        description: describe(report, lanes),
        legend: legend
            .into_iter()
            .filter(|(class, _)| drawn(class))
            .collect(),
        builds,
    })
}

fn describe(report: &Report, lanes: usize) -> String {
    let mut text = format!(
        "{} in {}, {} side by side at the most. The phases: ",
        crate::reporter::count(report.builds.len(), "package"),
        words::duration(words::worked(report)),
        lanes,
    );
    let each = report.phases.iter().map(|p| {
        let took = words::span(p.started, p.ended);
        format!("{} {took}", p.phase.as_str())
    });
    text.push_str(&each.collect::<Vec<_>>().join(", "));
    text
}

fn phases(report: &Report, scale: &Scale) -> Vec<Bar> {
    let each = report.phases.iter().map(|run| {
        let (x, width) = scale.bar(run.attempt, run.started, run.ended);
        let name = run.phase.as_str();
        Bar {
            x: percent(x),
            width: percent(width),
            y: 0,
            height: BAND,
            class: name,
            title: format!("{name}: {}", words::span(run.started, run.ended)),
            name: named(name, width),
        }
    });
    each.collect()
}

fn named(name: &str, width: f64) -> String {
    match width >= NAMED {
        true => name.to_owned(),
        false => String::new(),
    }
}

/// The bars of the packages, and how many lanes they take.
fn builds(report: &Report, scale: &Scale, now: Time) -> (Vec<Bar>, usize) {
    // Of each lane, the attempt and the time at which it is free again.
    let mut lanes: Vec<(usize, Time)> = Vec::new();
    let mut bars = Vec::new();
    let mut sorted: Vec<_> = report.builds.iter().collect();
    sorted.sort_by_key(|build| (build.attempt, build.started));
    for build in sorted {
        let end = build.ended.unwrap_or(now).max(build.started);
        let free =
            |(attempt, until): &(usize, Time)| *attempt < build.attempt || *until <= build.started;
        let lane = match lanes.iter().position(free) {
            Some(lane) => lane,
            None => {
                lanes.push((build.attempt, end));
                lanes.len() - 1
            }
        };
        lanes[lane] = (build.attempt, end);
        let (x, width) = scale.bar(build.attempt, build.started, end);
        let row = u32::try_from(lane).unwrap_or(u32::MAX / LANE / 2);
        let took = build.seconds.and_then(|s| i64::try_from(s).ok());
        let took = took.map(|s| format!(", {}", words::duration(s.saturating_mul(1000))));
        bars.push(Bar {
            x: percent(x),
            width: percent(width),
            y: BAND + GAP + row * (LANE + GAP),
            height: LANE,
            class: match (build.fate, build.ended, build.binary) {
                (Fate::Merged, _, true) => "binary",
                (Fate::Merged, _, false) => "merged",
                (Fate::Failed, ..) => "failed",
                (Fate::Begun, None, _) => "at-work",
                _ => "cut",
            },
            title: format!(
                "{}: {}{}",
                build.package,
                words::fate(build),
                took.unwrap_or_default()
            ),
            name: named(packages::short(&build.package), width),
        });
    }
    (bars, lanes.len())
}

/// Between attempts, in the middle of the gap.
fn breaks(scale: &Scale) -> Vec<String> {
    let pairs = scale.attempts.windows(2);
    let middle = pairs.map(|pair| {
        let (_, length, x) = pair[0];
        f64::midpoint(x + length * scale.unit, pair[1].2)
    });
    middle.map(percent).collect()
}

/// Each attempt begins with the time of day; then come the minutes since.
fn ticks(scale: &Scale) -> Vec<Tick> {
    let mut ticks: Vec<Tick> = Vec::new();
    let mut last = -APART;
    for (start, length, x) in &scale.attempts {
        let mut add = |at: f64, label: String| {
            if at - last < APART || at > 97.0 {
                return;
            }
            last = at;
            ticks.push(Tick {
                x: percent(at),
                label,
                anchor: match at {
                    ..2.0 => "start",
                    88.0.. => "end",
                    _ => "middle",
                },
            });
        };
        add(*x, start.format("%H:%M").to_string());
        let step = step(*length as i64, length * scale.unit);
        for n in 1..=TICKS {
            let since = n * step;
            if since as f64 > *length {
                break;
            }
            add(
                x + since as f64 * scale.unit,
                format!("+{}", since_text(since)),
            );
        }
    }
    ticks
}

/// As short as it can be said: steps are round.
fn since_text(milliseconds: i64) -> String {
    let s = milliseconds / 1000;
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, 0) => format!("{m} min"),
        (0, m, s) => format!("{m}:{s:02} min"),
        (h, 0, _) => format!("{h} h"),
        (h, m, _) => format!("{h}:{m:02} h"),
    }
}

/// Milliseconds between ticks, so that they are far enough from each other.
fn step(length: i64, width: f64) -> i64 {
    const SECONDS: [i64; 17] = [
        1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 28_800, 86_400,
    ];
    let most = ((width / APART) as i64).clamp(1, TICKS);
    let steps = SECONDS.map(|s| s * 1000);
    let fits = steps.into_iter().find(|step| length / step <= most);
    fits.unwrap_or(length / most + 1)
}
