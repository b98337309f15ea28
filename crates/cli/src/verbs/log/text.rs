//! The report for a terminal.

use std::fmt::Write;

use be_core::report::{Report, clean};
use be_core::upgrade::owed;

use super::packages::{Row, rows, summary};
use super::words;
use crate::verbs::diff::text::{growth_text, size_text};

pub fn render(report: &Report) -> String {
    let mut text = head(report);
    let mut group = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            let lines: String = lines.iter().map(|l| format!("  {l}\n")).collect();
            let _infallible = write!(text, "\n{title}\n{lines}");
        }
    };
    group("Packages", packages(report));
    group("Kernels", kernels(report));
    group("Gates", gates(report));
    group("Configuration files", config_files(report));
    group("Left for you", left(report));
    group("Said by packages", messages(report));
    group("Time", times(report));
    group("Made from", inputs(report));
    group("Old names", words::moves(report));
    group("Failed", failures(report));
    clean(&text)
}

fn head(report: &Report) -> String {
    let verdict = words::verdict(report.verdict);
    let mut text = format!("\n{}: {verdict}\n", report.environment);
    let _infallible = writeln!(text, "{}", words::headline(report));
    let first = report.attempts.first();
    let from = report.origin.as_ref().map(|o| format!(" from {o}"));
    if let Some(first) = first {
        let attempts = match report.attempts.len() {
            1 => String::new(),
            n => format!(" in {n} attempts"),
        };
        let _infallible = writeln!(
            text,
            "cloned{} at {}; worked {}{attempts}",
            from.unwrap_or_default(),
            words::moment(first.started),
            words::duration(words::worked(report)),
        );
    }
    if let Some(space) = report.result.space {
        let (own, all) = (size_text(space.exclusive), size_text(space.referenced));
        let _infallible = writeln!(text, "takes {own} of its own, of {all}");
    }
    text
}

fn packages(report: &Report) -> Vec<String> {
    let rows = rows(report);
    let width = |of: fn(&Row) -> usize| rows.iter().map(of).max().unwrap_or(0).min(44);
    let (name, time) = (
        width(|r| r.package.chars().count()),
        width(|r| r.time.chars().count()),
    );
    let line = |r: &Row| {
        let versions = match (r.from.is_empty(), r.to.is_empty()) {
            (false, false) => format!("{} -> {}", r.from, r.to),
            _ => format!("{}{}", r.from, r.to),
        };
        let notes = [&r.on[..], &r.off, &r.moves].concat().join(" ");
        let what = match r.change {
            "upgraded" => String::new(),
            other => format!("  {other}"),
        };
        let text = format!("{:name$}  {:>time$}  {versions}{what}", r.package, r.time);
        let text = format!("{text}  {}  {notes}", r.growth);
        text.trim_end().to_owned()
    };
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    if let Some(diff) = report.result.packages.as_ref().filter(|d| !d.is_empty()) {
        lines.push(format!(
            "{} ({})",
            summary(diff),
            growth_text(diff.growth())
        ));
    }
    lines
}

fn gates(report: &Report) -> Vec<String> {
    let lines = report.gates.iter().map(|gate| match gate.why.is_empty() {
        true => format!("{:9}  {}", gate.name, gate.verdict),
        false => format!("{:9}  {}: {}", gate.name, gate.verdict, gate.why),
    });
    lines.collect()
}

fn config_files(report: &Report) -> Vec<String> {
    let files = words::config_files(&report.config).into_iter();
    files
        .map(|(path, what)| format!("{path}  {what}"))
        .collect()
}

fn kernels(report: &Report) -> Vec<String> {
    let (before, after) = (&report.kernels.before, &report.kernels.after);
    if before == after {
        return after.first().cloned().into_iter().collect();
    }
    let show = |list: &[String]| list.join(", ");
    vec![format!("{} -> {}", show(before), show(after))]
}

fn left(report: &Report) -> Vec<String> {
    report
        .result
        .debt
        .as_ref()
        .map(|debt| owed(debt, &report.environment))
        .unwrap_or_default()
}

fn messages(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for message in &report.result.messages {
        let class = message.class.to_lowercase();
        lines.push(format!("{} ({class}, {}):", message.package, message.phase));
        lines.extend(message.lines.iter().map(|l| format!("    {l}")));
    }
    lines
}

fn times(report: &Report) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for run in &report.phases {
        let took = words::span(run.started, run.ended);
        lines.push(format!("{:13}  {took}", run.phase.as_str()));
    }
    for program in &report.programs {
        let took = program.ended.map(|end| words::span(program.started, end));
        let end = match program.well {
            Some(true) => "",
            Some(false) => ", failed",
            None => ", cut off",
        };
        lines.push(format!(
            "{}  {}{end}",
            program.name,
            took.unwrap_or_default()
        ));
    }
    lines
}

fn inputs(report: &Report) -> Vec<String> {
    let repositories = report.repositories.iter().map(|r| {
        let state = r.state.as_deref().unwrap_or("without a version");
        match r.before.as_deref().filter(|before| *before != state) {
            Some(before) => format!("{}  {before} -> {state}", r.path.display()),
            None => format!("{}  {state}", r.path.display()),
        }
    });
    let options = Some(&report.options).filter(|o| !o.is_empty());
    let options = options.map(|o| format!("emerge {}", o.join(" ")));
    repositories.chain(options).collect()
}

fn failures(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for failure in &report.failures {
        let stage = words::stage(failure.stage);
        lines.push(format!("{} ({stage})", failure.what));
        lines.extend(failure.log.iter().map(|log| format!("  the end of {log}:")));
        lines.extend(failure.lines.iter().map(|l| format!("    {l}")));
    }
    lines
}
