//! `be prune`

use anyhow::Result;
use be_core::policy::{Fate, Judgement};
use be_core::prune::{self, Pruned};
use be_core::refusal::{Refusal, exit};
use be_core::{host, name::EnvName};
use chrono::Local;
use serde_json::{Value, json};

use crate::context::Context;
use crate::reporter::Outcome;

/// Delete the environments that the rules of be.toml do not keep.
///
/// With --dry-run or --verbose it says of each why it is kept or deleted. What runs, boots
/// next, is pinned, in use or the way back is always kept. Exit code 77 if nothing is to be
/// deleted.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: &Args, ctx: &mut Context) -> Result<Outcome> {
    if !host::sees_the_machine() {
        return Err(Refusal::Blind.into());
    }
    let work = ctx.begin()?;
    // The rules go by the calendar of this machine.
    let now = ctx.now.with_timezone(&Local);
    let Some(lock) = work.lock else {
        let judged = prune::judge(&ctx.session, &work.inv, &now)?;
        let short = prune::is_short(&ctx.session, work.inv.fs.free);
        return Ok(preview(ctx, &judged, work.inv.fs.free, short));
    };
    let pruned = prune::run(&ctx.session, work.inv, &now, &lock)?;
    Ok(report(ctx, &pruned))
}

/// Prune after something else that went well: what goes wrong here is only told.
pub fn afterwards(ctx: &mut Context) -> Vec<String> {
    if !host::sees_the_machine() {
        return vec![format!("nothing is pruned: {}", Refusal::Blind)];
    }
    let done = ctx.begin_unconfirmed().and_then(|work| {
        let now = Local::now();
        let lock = work.lock.as_ref();
        lock.map(|lock| prune::run(&ctx.session, work.inv, &now, lock))
            .unwrap_or_else(|| Ok(Pruned::default()))
    });
    match done {
        Ok(pruned) => {
            let all = gone(&pruned);
            let told = (!all.is_empty()).then(|| format!("pruned: {}", names(&all)));
            told.into_iter().chain(pruned.notes).collect()
        }
        Err(e) => vec![format!("nothing more is pruned: {e:#}; be prune")],
    }
}

fn preview(ctx: &Context, judged: &Judgement, free: u64, short: bool) -> Outcome {
    let mut text = explain(judged);
    let goal = ctx.session.config.prune.min_free_mib;
    if short {
        text.push_str(&format!(
            "{} MiB are free, {goal} are wanted (min_free_mib)\n",
            free >> 20
        ));
        if !judged.spare.is_empty() {
            text.push_str(&format!(
                "as long as that is so, these go as well, in this order: {}\n",
                names(&judged.spare)
            ));
        }
    }
    let deleted = judged.deleted();
    let some = !deleted.is_empty() || (short && !judged.spare.is_empty());
    Outcome::new(json!({
        "dry_run": true,
        "environments": documents(judged),
        "deleted": deleted,
        "while_short": if short { judged.spare.clone() } else { Vec::new() },
        "free": free,
        "min_free": goal << 20,
    }))
    .text(text)
    .code(if some { exit::DONE } else { exit::NOTHING })
}

fn report(ctx: &Context, pruned: &Pruned) -> Outcome {
    let all = gone(pruned);
    let goal = ctx.session.config.prune.min_free_mib << 20;
    let mut text = match ctx.verbose {
        0 => String::new(),
        _ => explain(&pruned.judgement),
    };
    let mut notes = pruned.notes.clone();
    if !pruned.for_space.is_empty() {
        notes.push(format!(
            "deleted because space was short: {}",
            names(&pruned.for_space)
        ));
    }
    match all.is_empty() {
        true => notes.push("there is nothing to prune".into()),
        false => text.push_str(&format!(
            "deleted {}: {}; {} are kept\n",
            all.len(),
            names(&all),
            pruned.judgement.verdicts.len() - all.len()
        )),
    }
    // Less than an upgrade wants: there is a rule for that.
    let upgrade = ctx.session.config.upgrade.min_free_mib << 20;
    if goal == 0 && pruned.free < upgrade {
        notes.push(format!(
            "{} MiB are free, less than an upgrade wants: with prune.min_free_mib in be.toml, \
             prune goes further while space is short",
            pruned.free >> 20
        ));
    }
    Outcome::new(json!({
        "environments": documents(&pruned.judgement),
        "deleted": all,
        "for_space": pruned.for_space,
        "free": pruned.free,
        "min_free": goal,
    }))
    .text(text)
    .notes(notes)
    .code(if all.is_empty() {
        exit::NOTHING
    } else {
        exit::DONE
    })
}

fn gone(pruned: &Pruned) -> Vec<EnvName> {
    let all = pruned.deleted.iter().chain(&pruned.for_space);
    all.cloned().collect()
}

fn names(all: &[EnvName]) -> String {
    all.iter()
        .map(EnvName::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

/// One line for each.
fn explain(judged: &Judgement) -> String {
    let width = judged.verdicts.iter().map(|v| v.name.as_str().len()).max();
    let width = width.unwrap_or(0);
    let line = |v: &be_core::policy::Verdict| {
        let created = v.created.with_timezone(&Local).format("%Y-%m-%d %H:%M");
        let fate = match v.fate {
            Fate::Delete => "delete",
            Fate::Keep | Fate::Spare => "keep",
        };
        format!("{fate:6}  {:width$}  {created}  {}\n", v.name, v.why)
    };
    judged.verdicts.iter().map(line).collect()
}

fn documents(judged: &Judgement) -> Vec<Value> {
    judged
        .verdicts
        .iter()
        .map(|v| {
            json!({
                "name": v.name,
                "created": v.created.to_rfc3339(),
                "fate": v.fate.as_str(),
                "why": v.why,
            })
        })
        .collect()
}
