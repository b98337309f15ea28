//! `be doctor`

use anyhow::Result;
use be_core::doctor::{self, Depth, Problem, Repair, Severity};
use be_core::refusal::exit;
use serde_json::{Value, json};

use crate::context::Context;
use crate::reporter::{Outcome, count};

/// Look for wrong states of the store, the menu and the system, and name what mends each.
///
/// Exit code 1 if errors or warnings remain; notes do not count.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Mend what is safe to mend, and say each thing done.
    #[arg(long)]
    repair: bool,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let before = look(ctx)?;
    let wanted = match args.repair {
        true => doctor::repairs(&before),
        false => Vec::new(),
    };
    if ctx.dry_run && args.repair {
        let text: String = wanted.iter().map(|r| format!("would {r}\n")).collect();
        let steps: Vec<String> = wanted.iter().map(Repair::to_string).collect();
        return Ok(Outcome::new(json!({
            "dry_run": true,
            "clean": doctor::is_clean(&before),
            "problems": documents(&before),
            "steps": steps,
        }))
        .text(text)
        .code(code(&before)));
    }
    if wanted.is_empty() {
        return Ok(report(before, &[], &[]));
    }
    let (repaired, failed) = mend(ctx, &wanted)?;
    Ok(report(look(ctx)?, &repaired, &failed))
}

fn look(ctx: &Context) -> Result<Vec<Problem>> {
    let inv = ctx.session.observe()?;
    inv.initialised()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let seen = doctor::observe(&ctx.session, &inv, Depth::Full, &path)?;
    Ok(doctor::check(&inv, &seen))
}

/// Gives what was done and what failed, a sentence each.
fn mend(ctx: &mut Context, wanted: &[Repair]) -> Result<(Vec<String>, Vec<String>)> {
    let (mut repaired, mut failed) = (Vec::new(), Vec::new());
    // Mending says nothing of the running environment: it is not confirmed by it.
    let work = ctx.begin_unconfirmed()?;
    let Some(lock) = &work.lock else {
        return Ok((repaired, failed));
    };
    for repair in wanted {
        match doctor::repair(&ctx.session, repair, lock) {
            Ok(notes) => {
                repaired.push(repair.to_string());
                repaired.extend(notes);
            }
            Err(e) => failed.push(format!("could not {repair}: {e:#}")),
        }
    }
    Ok((repaired, failed))
}

fn report(problems: Vec<Problem>, repaired: &[String], failed: &[String]) -> Outcome {
    let mut text: String = repaired.iter().map(|r| format!("done: {r}\n")).collect();
    for problem in &problems {
        text.push_str(&format!(
            "{:8} {}: {}\n         next: {}\n",
            problem.severity.as_str(),
            problem.object,
            problem.text,
            problem.remedy
        ));
    }
    text.push_str(&sum(&problems));
    let code = match failed.is_empty() {
        true => code(&problems),
        false => exit::FAILED,
    };
    Outcome::new(json!({
        "clean": doctor::is_clean(&problems),
        "problems": documents(&problems),
        "repaired": repaired,
        "failed": failed,
    }))
    .text(text)
    .notes(failed.iter().cloned())
    .code(code)
}

fn code(problems: &[Problem]) -> u8 {
    match doctor::is_clean(problems) {
        true => exit::DONE,
        false => exit::FAILED,
    }
}

fn sum(problems: &[Problem]) -> String {
    let of = |s: Severity| problems.iter().filter(|p| p.severity == s).count();
    let mendable = problems.iter().filter(|p| p.repair.is_some()).count();
    if doctor::is_clean(problems) {
        return "nothing is wrong\n".to_owned();
    }
    let mut sum = format!(
        "{}, {}",
        count(of(Severity::Error), "error"),
        count(of(Severity::Warning), "warning")
    );
    if mendable > 0 {
        sum.push_str(&format!("; be doctor --repair mends {mendable}"));
    }
    sum + "\n"
}

fn documents(problems: &[Problem]) -> Vec<Value> {
    problems
        .iter()
        .map(|p| {
            json!({
                "id": p.id,
                "severity": p.severity,
                "object": p.object,
                "text": p.text,
                "remedy": p.remedy,
                "repairable": p.repair.is_some(),
            })
        })
        .collect()
}
