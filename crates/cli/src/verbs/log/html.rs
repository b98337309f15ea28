//! The report as one page: it fetches nothing and needs no script. All text of an environment
//! is escaped by the template engine, and free of what would not be shown.

use anyhow::{Context, Result};
use be_core::portage::elog::Message;
use be_core::record::{GateRecord, Phase};
use be_core::report::{self, Report, Time, Verdict};
use be_core::upgrade::owed;
use handlebars::Handlebars;
use serde::Serialize;

use super::packages::{Row, rows, short, summary};
use super::timeline::{self, Timeline};
use super::words;
use crate::reporter::count;
use crate::verbs::diff::text::{growth_text, size_text};

const PAGE: &str = include_str!("../../../templates/report.html.hbs");
const STYLE: &str = include_str!("../../../templates/report.css");
const TIMELINE: &str = include_str!("../../../templates/timeline.svg.hbs");

/// So many packages are in the list of those that took longest.
const LONGEST: usize = 10;

/// What the template sees: every text is shown as it is.
#[derive(Serialize)]
struct View {
    name: String,
    state: &'static str,
    verdict: &'static str,
    headline: String,
    facts: Vec<String>,
    figures: Vec<Figure>,
    timeline: Option<Timeline>,
    longest: Vec<Longest>,
    failures: Vec<FailureView>,
    gates: Vec<GateView>,
    config: Vec<ConfigView>,
    left: Vec<String>,
    messages: Vec<Said>,
    rows: Vec<Row>,
    /// Why there are no rows.
    no_rows: &'static str,
    phases: Vec<Step>,
    programs: Vec<Step>,
    attempts: Vec<Step>,
    repositories: Vec<RepositoryView>,
    moves: Vec<String>,
    options: String,
    inputs: Option<String>,
    version: &'static str,
    made: String,
}

#[derive(Serialize)]
struct Figure {
    label: &'static str,
    value: String,
    note: String,
    /// Where on the page more of it is.
    link: &'static str,
    class: &'static str,
}

#[derive(Serialize)]
struct Longest {
    package: String,
    time: String,
    /// Of the longest, in percent.
    width: String,
    failed: bool,
}

#[derive(Serialize)]
struct FailureView {
    what: String,
    stage: &'static str,
    at: String,
    log: Option<String>,
    text: String,
}

#[derive(Serialize)]
struct GateView {
    name: String,
    verdict: String,
    why: String,
    failed: bool,
}

#[derive(Serialize)]
struct ConfigView {
    path: String,
    what: &'static str,
}

#[derive(Serialize)]
struct Said {
    package: String,
    class: String,
    phase: String,
    text: String,
    /// Worth being shown at once.
    open: bool,
}

/// Something that ran: what, when, how long, how it ended.
#[derive(Serialize)]
struct Step {
    what: String,
    at: String,
    took: String,
    end: String,
}

#[derive(Serialize)]
struct RepositoryView {
    path: String,
    state: String,
    before: Option<String>,
}

/// The page.
///
/// # Errors
/// When the templates are damaged.
pub fn render(report: &Report, now: Time) -> Result<String> {
    let mut engine = Handlebars::new();
    engine.set_strict_mode(true);
    engine.register_escape_fn(|text| handlebars::html_escape(&report::clean(text)));
    for (name, text) in [("style", STYLE), ("timeline", TIMELINE)] {
        engine
            .register_partial(name, text)
            .context("cannot render the report")?;
    }
    engine
        .render_template(PAGE, &view(report, now))
        .context("cannot render the report")
}

fn view(report: &Report, now: Time) -> View {
    let left = report
        .result
        .debt
        .as_ref()
        .map(|debt| owed(debt, &report.environment))
        .unwrap_or_default();
    View {
        name: report.environment.to_string(),
        state: match report.verdict {
            Verdict::Ready => "well",
            Verdict::Held | Verdict::Running => "open",
            Verdict::Failed | Verdict::CutOff => "bad",
        },
        verdict: words::verdict(report.verdict),
        headline: words::headline(report),
        facts: facts(report),
        figures: figures(report, left.len()),
        timeline: timeline::draw(report, now),
        longest: longest(report),
        failures: failures(report),
        gates: gates(report),
        config: config(report),
        left,
        messages: messages(report).map(said).collect(),
        rows: rows(report),
        no_rows: match &report.result.packages {
            Some(_) => "No package differs from what it was cloned from.",
            None => "Which packages it has could not be read.",
        },
        phases: phases(report),
        programs: programs(report),
        attempts: attempts(report),
        repositories: repositories(report),
        moves: words::moves(report),
        options: report.options.join(" "),
        inputs: report.inputs.clone(),
        version: env!("CARGO_PKG_VERSION"),
        made: words::moment(now),
    }
}

fn gates(report: &Report) -> Vec<GateView> {
    let view = |gate: &GateRecord| GateView {
        name: gate.name.clone(),
        verdict: gate.verdict.clone(),
        why: gate.why.clone(),
        failed: gate.verdict == "failed",
    };
    report.gates.iter().map(view).collect()
}

fn config(report: &Report) -> Vec<ConfigView> {
    let files = words::config_files(&report.config).into_iter();
    let view = |(path, what): (&str, _)| ConfigView {
        path: path.to_owned(),
        what,
    };
    files.map(view).collect()
}

fn facts(report: &Report) -> Vec<String> {
    let mut facts = Vec::new();
    if let Some(origin) = &report.origin {
        facts.push(format!("cloned from {origin}"));
    }
    if let (Some(first), Some(last)) = (report.attempts.first(), report.attempts.last()) {
        let format = match first.started.date_naive() == last.ended.date_naive() {
            true => "%H:%M",
            false => "%Y-%m-%d %H:%M",
        };
        let end = last.ended.format(format);
        facts.push(format!("{} – {end}", words::moment(first.started)));
    }
    facts
}

fn figures(report: &Report, left: usize) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut add = |label, value: String, note: String, link, class| {
        figures.push(Figure {
            label,
            value,
            note,
            link,
            class,
        });
    };
    if !report.failures.is_empty() {
        let what = report.failures.iter().map(|f| short(&f.what).to_owned());
        let mut what: Vec<String> = what.collect();
        what.dedup();
        // A command is long.
        let first = what.first().map(|w| w.chars().take(40).collect());
        let more = what.len().saturating_sub(1);
        let first: String = first.unwrap_or_default();
        let note = match more {
            0 => first,
            n => format!("{first} and {n} more"),
        };
        let bad = match report.verdict {
            Verdict::Ready => "",
            _ => "bad",
        };
        add(
            "failures",
            report.failures.len().to_string(),
            note,
            "#failures",
            bad,
        );
    }
    let packages = report.result.packages.as_ref();
    add(
        "packages changed",
        packages.map_or("–".into(), |d| d.len().to_string()),
        packages.map(summary).unwrap_or_default(),
        "#packages",
        "",
    );
    let merged = report.phases.iter().filter(|p| p.phase == Phase::Merge);
    let merged: i64 = merged
        .map(|p| (p.ended - p.started).num_milliseconds())
        .sum();
    let note = match (report.attempts.len(), merged) {
        (1, 0) => String::new(),
        (1, merged) => format!("{} of it merging", words::duration(merged)),
        (n, _) => format!("in {n} attempts"),
    };
    add(
        "time",
        words::duration(words::worked(report)),
        note,
        "#time",
        "",
    );
    let (before, after) = (report.kernels.before.first(), report.kernels.after.first());
    let note = match (before, after) {
        (Some(before), Some(after)) if before != after => format!("was {before}"),
        (None, Some(_)) => "new".into(),
        _ => "as before".into(),
    };
    let kernel = after.cloned().unwrap_or("–".into());
    let class = if kernel.len() > 12 { "long" } else { "" };
    add("kernel", kernel, note, "", class);
    if let Some(space) = report.result.space {
        let growth = packages.map(|d| d.growth()).filter(|g| *g != 0);
        let growth = growth.map(|g| format!(", packages {}", growth_text(g)));
        let note = format!(
            "of {}{}",
            size_text(space.referenced),
            growth.unwrap_or_default()
        );
        add("space of its own", size_text(space.exclusive), note, "", "");
    }
    let said = messages(report).count();
    let note = match said {
        0 => String::new(),
        n => count(n, "message"),
    };
    add("left for you", left.to_string(), note, "#left", "");
    figures
}

fn longest(report: &Report) -> Vec<Longest> {
    let timed = |b: &&be_core::report::BuildRun| b.seconds.is_some_and(|s| s > 0);
    let mut builds: Vec<_> = report.builds.iter().filter(timed).collect();
    builds.sort_by_key(|b| std::cmp::Reverse(b.seconds));
    let most = builds.first().and_then(|b| b.seconds).unwrap_or(1) as f64;
    let each = builds.into_iter().take(LONGEST).map(|b| {
        let seconds = b.seconds.unwrap_or(0);
        let took = i64::try_from(seconds).unwrap_or(i64::MAX / 1000);
        Longest {
            package: b.package.clone(),
            time: words::duration(took * 1000),
            width: format!("{:.1}%", seconds as f64 / most * 100.0),
            failed: words::fate(b) == "failed",
        }
    });
    each.collect()
}

fn failures(report: &Report) -> Vec<FailureView> {
    let each = report.failures.iter().map(|f| FailureView {
        what: f.what.clone(),
        stage: words::stage(f.stage),
        at: f.at.format("%H:%M:%S").to_string(),
        log: f.log.clone(),
        text: f.lines.join("\n"),
    });
    each.collect()
}

/// What a package said of its failure is there already.
fn messages(report: &Report) -> impl Iterator<Item = &Message> {
    let failed = |m: &Message| report.failures.iter().any(|f| f.what == m.package);
    let all = report.result.messages.iter();
    all.filter(move |m| m.class != "ERROR" || !failed(m))
}

fn said(message: &Message) -> Said {
    Said {
        package: message.package.clone(),
        class: message.class.to_lowercase(),
        phase: message.phase.clone(),
        text: message.lines.join("\n"),
        open: matches!(message.class.as_str(), "ERROR" | "WARN"),
    }
}

fn phases(report: &Report) -> Vec<Step> {
    let each = report.phases.iter().map(|p| Step {
        what: p.phase.as_str().to_owned(),
        at: p.started.format("%H:%M:%S").to_string(),
        took: words::span(p.started, p.ended),
        end: String::new(),
    });
    each.collect()
}

fn programs(report: &Report) -> Vec<Step> {
    let each = report.programs.iter().map(|p| Step {
        what: p.name.clone(),
        at: p.started.format("%H:%M:%S").to_string(),
        took: p
            .ended
            .map_or("–".into(), |end| words::span(p.started, end)),
        end: match p.well {
            Some(true) => "done".into(),
            Some(false) => "failed".into(),
            None => "cut off".into(),
        },
    });
    each.collect()
}

/// Only of several: one is told by all of the page.
fn attempts(report: &Report) -> Vec<Step> {
    let each = report.attempts.iter().map(|a| Step {
        what: words::moment(a.started),
        at: words::verdict(a.verdict).to_owned(),
        took: words::span(a.started, a.ended),
        end: a.words.clone().unwrap_or_default(),
    });
    match report.attempts.len() {
        1 => Vec::new(),
        _ => each.collect(),
    }
}

fn repositories(report: &Report) -> Vec<RepositoryView> {
    let each = report.repositories.iter().map(|r| RepositoryView {
        path: r.path.display().to_string(),
        state: r
            .state
            .clone()
            .unwrap_or_else(|| "without a version".into()),
        before: r.before.clone().filter(|b| Some(b) != r.state.as_ref()),
    });
    each.collect()
}
