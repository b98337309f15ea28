//! `be carry`

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use be_core::carry::{self, Carry, Decision, Item, Origin, Over, Route, Terms, over};
use be_core::chroot::Interrupted;
use be_core::diff::{Aspect, Change};
use be_core::model::Inventory;
use be_core::name::{EnvName, Named};
use be_core::refusal::{NothingToDo, Refusal};
use be_core::shutdown;
use serde_json::{Value, json};

use super::{confirm, environment};
use crate::args::Global;
use crate::complete;
use crate::context::{Context, Work};
use crate::reporter::{Outcome, count};

/// Show what changed on the running system since ENV was cloned, and what of it goes over.
///
/// Marks: + new, - removed, M changed on the running system. What was changed in both is put
/// together where that is safe; behind ! is what a person should look at.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Carry it over.
    ///
    /// The environment as it was before stays as its snapshot before-carry.
    #[arg(long)]
    apply: bool,
    /// Change nothing if there is something that a person should look at.
    #[arg(long, requires = "apply")]
    strict: bool,
    /// For the service that runs at shutdown: carry and switch, if an environment waits for it.
    #[arg(long, conflicts_with_all = ["apply", "strict", "all", "name"])]
    at_shutdown: bool,
    /// Name every path that is left, too.
    #[arg(long)]
    all: bool,
    /// Into which one; what boots next if not given.
    #[arg(value_name = "ENV", add = complete::environments())]
    name: Option<Named>,
}

/// The service runs at every shutdown, also where nothing is managed.
pub fn has_nothing_to_do(args: &Args, global: &Global) -> bool {
    args.at_shutdown && super::confirm::is_not_managed(global)
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    if args.at_shutdown {
        return at_shutdown(ctx);
    }
    if !args.apply || ctx.dry_run {
        let inv = ctx.session.observe()?;
        let name = target(args, &inv)?;
        let found = {
            let route = Route::into_clone(&inv, inv.get(&name)?)?;
            carry::survey(&ctx.session, &inv, &route, Origin::Live)?
        };
        let text = text(&found, args.all, false);
        return Ok(Outcome::new(document(&found)).text(text).notes(found.notes));
    }
    let work = ctx.begin()?;
    let name = target(args, &work.inv)?;
    let Some(lock) = &work.lock else {
        return Ok(Outcome::new(json!({})));
    };
    let interrupted = Interrupted::watch()?;
    let terms = Terms {
        strict: args.strict,
        packages: true,
        now: ctx.now,
        lock,
        interrupted: &interrupted,
    };
    let route = Route::into_clone(&work.inv, work.inv.get(&name)?)?;
    let done = over(&ctx.session, work.inv, &route, &terms)?;
    let Over { carry, applied, .. } = &done;
    if applied.done == 0
        && applied.beside.is_empty()
        && carry.is_empty()
        && done.packages().is_empty()
    {
        let why = format!("nothing changed that {} has not", carry.to);
        return Err(NothingToDo(why).into());
    }
    Ok(carried(args.all, done))
}

/// How long a shutdown waits for another be, which ends as well.
const LAST_PATIENCE: Duration = Duration::from_secs(15);

/// The most that be.toml can give it, in seconds: the service ends a little later.
const LAST_LIMIT: u64 = 70;

fn at_shutdown(ctx: &mut Context) -> Result<Outcome> {
    // What is left may be bad: it is not confirmed by that.
    let work = confirm::begin(ctx, LAST_PATIENCE)?;
    let nothing = || Outcome::new(json!({ "environment": null }));
    let Some(lock) = &work.lock else {
        let waiting = shutdown::waiting(&work.inv);
        let text = waiting.map_or_else(
            || "would do nothing: no environment waits for it\n".to_owned(),
            |(env, _)| format!("would carry what is due into {}, and switch\n", env.name()),
        );
        return Ok(nothing().text(text));
    };
    let interrupted = Interrupted::watch()?;
    let limit = ctx.session.config.carry.shutdown_seconds.min(LAST_LIMIT);
    interrupted.after(Duration::from_secs(limit));
    let terms = Terms {
        strict: false,
        packages: false,
        now: ctx.now,
        lock,
        interrupted: &interrupted,
    };
    Ok(
        match shutdown::last_moment(&ctx.session, work.inv, &terms)? {
            None => nothing(),
            Some(last) => Outcome::new(json!({ "environment": last.name }))
                .text(format!("{} has what changed, and boots next\n", last.name))
                .notes(last.carried)
                .notes(last.notes),
        },
    )
}

/// Before a switch: carry, if that is wanted. Gives what was taken, read anew.
pub fn before_switch(
    ctx: &mut Context,
    mut work: Work,
    name: &EnvName,
    wanted: Wanted,
) -> Result<(Work, Vec<String>)> {
    let session = &ctx.session;
    let env = work.inv.get(name)?;
    let due = match wanted.carry {
        Some(asked) => asked,
        None => carry::is_due(session, &work.inv, env),
    };
    let mut notes = Vec::new();
    let Some(lock) = &work.lock else {
        if due {
            let route = Route::into_clone(&work.inv, env)?;
            let found = carry::survey(session, &work.inv, &route, Origin::Live)?;
            notes.push(format!("would carry {} first", count(found.over(), "path")));
        }
        return Ok((work, notes));
    };
    let by_itself = wanted.carry != Some(false) && carry::goes_by_itself(session, &work.inv, env);
    if due || by_itself {
        let kept = || format!("{name} was not activated");
        let interrupted = Interrupted::watch()?;
        if due {
            let terms = Terms {
                strict: wanted.strict,
                packages: true,
                now: ctx.now,
                lock,
                interrupted: &interrupted,
            };
            let route = Route::into_clone(&work.inv, env)?;
            let done = over(session, work.inv, &route, &terms).with_context(kept)?;
            notes = done.sentences();
        }
        carry::still_good(session, name, &interrupted).with_context(kept)?;
    }
    carry::keep_activated(session, name, ctx.now, lock);
    work.inv = session.observe()?;
    Ok((work, notes))
}

/// Whether to carry before a switch.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// Carry at all; if nobody says, what is due.
    pub carry: Option<bool>,
    /// Not if a person has to look at something.
    pub strict: bool,
}

/// What was carried, as the outcome of a verb.
pub fn carried(all: bool, done: Over) -> Outcome {
    let packages = done.packages();
    let Over {
        carry,
        applied,
        replayed,
        before,
    } = done;
    let mut text = text(&carry, all, true);
    for path in &applied.beside {
        text.push_str(&format!("put beside another: /{}\n", path.display()));
    }
    for path in &applied.kept {
        let name = &carry.to;
        text.push_str(&format!(
            "not empty in {name}, and kept: /{}\n",
            path.display()
        ));
    }
    let mut fields = document(&carry);
    fields["applied"] = json!({
        "done": applied.done,
        "beside": paths(&applied.beside),
        "kept": paths(&applied.kept),
        "before": before,
    });
    let replayed = replayed.unwrap_or_default();
    let left = replayed.left.iter();
    let left = left.map(|(package, why)| json!({ "package": package, "why": why }));
    fields["applied"]["packages"] = replayed.done.into();
    fields["applied"]["packages_left"] = left.collect();
    let back = before.map(|before| format!("before it: {before}"));
    let notes = packages.into_iter().chain(carry.notes).chain(back);
    Outcome::new(fields).text(text).notes(notes)
}

fn paths(paths: &[std::path::PathBuf]) -> Vec<String> {
    paths.iter().map(|p| format!("/{}", p.display())).collect()
}

/// The one that is named, or boots next.
fn target(args: &Args, inv: &Inventory) -> Result<EnvName> {
    if let Some(name) = &args.name {
        return Ok(environment(name, "carried into")?);
    }
    let next = inv.environments.iter().find(|e| e.next && !e.running);
    let next = next.ok_or(Refusal::NothingBootsNext)?;
    Ok(next.name().clone())
}

/// For people. Left paths are counted by reason; with `all` each is named.
pub fn text(carry: &Carry, all: bool, done: bool) -> String {
    let mut out = String::new();
    let is_left = |item: &&Item| matches!(item.decision, Decision::Left(_));
    for item in carry.items.iter().filter(|item| !is_left(item)) {
        out.push_str(&line(item));
    }
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    for item in carry.items.iter().filter(is_left) {
        let Decision::Left(why) = &item.decision else {
            continue;
        };
        match all {
            true => out.push_str(&line(item)),
            false => *left.entry(why.sentence()).or_default() += 1,
        }
    }
    let over = carry.over();
    let (from, to) = (&carry.from, &carry.to);
    let verb = match (done, over) {
        (true, _) => "went",
        (false, 1) => "goes",
        (false, _) => "go",
    };
    match over {
        0 => out.push_str(&format!("nothing changed in {from} that {to} has not\n")),
        _ => {
            let paths = count(over, "path");
            out.push_str(&format!("{paths} {verb} from {from} into {to}\n"));
        }
    }
    let both = carry.conflicts().count();
    if both > 0 {
        out.push_str(&format!(
            "{} to look at, marked with !\n",
            count(both, "conflict")
        ));
    }
    for (why, number) in left {
        out.push_str(&format!("left: {} ({why})\n", count(number, "path")));
    }
    // What became of them is told apart.
    for package in carry.packages.iter().filter(|_| !done) {
        out.push_str(&format!("package on the running system only: {package}\n"));
    }
    out
}

fn line(item: &Item) -> String {
    let mark = mark(&item.change);
    let flag = if item.decision.conflict().is_some() {
        '!'
    } else {
        ' '
    };
    let mut what = match &item.change {
        Change::Changed(aspects) => aspects.iter().map(|a| a.as_str()).collect(),
        _ => Vec::new(),
    };
    let decided = sentence(&item.decision);
    what.extend(decided.as_deref());
    let slash = if item.kind.is_dir() { "/" } else { "" };
    let path = format!("{flag}{mark} /{}{slash}", item.path.display());
    match what.is_empty() {
        true => format!("{path}\n"),
        false => format!("{path}: {}\n", what.join(", ")),
    }
}

fn mark(change: &Change) -> char {
    match change {
        Change::Added => '+',
        Change::Removed => '-',
        Change::Changed(_) => 'M',
    }
}

/// What becomes of it, where that is not plain.
fn sentence(decision: &Decision) -> Option<String> {
    let text =
        |conflict: &carry::Conflict, what: &str| Some(format!("{}: {what}", conflict.sentence()));
    match decision {
        Decision::Take => None,
        Decision::Mix(_) | Decision::Merge(..) => Some("put together".into()),
        Decision::Running(conflict) => text(conflict, "that of the running system counts"),
        Decision::New(conflict) => text(conflict, "that of the environment stays"),
        Decision::Beside(conflict) => text(conflict, "both are kept"),
        Decision::Left(why) => Some(format!("left: {}", why.sentence())),
    }
}

/// For scripts.
pub fn document(carry: &Carry) -> Value {
    let items: Vec<Value> = carry.items.iter().map(entry).collect();
    json!({
        "from": carry.from,
        "to": carry.to,
        "paths": items,
        "packages": carry.packages,
        "conflicts": carry.conflicts().count(),
    })
}

fn entry(item: &Item) -> Value {
    let change = match &item.change {
        Change::Added => "added",
        Change::Removed => "removed",
        Change::Changed(_) => "changed",
    };
    let aspects: &[Aspect] = match &item.change {
        Change::Changed(aspects) => aspects,
        _ => &[],
    };
    let why = match &item.decision {
        Decision::Left(why) => Some(*why),
        _ => None,
    };
    json!({
        "path": format!("/{}", item.path.display()),
        "change": change,
        "aspects": aspects,
        "decision": item.decision.as_str(),
        "conflict": item.decision.conflict(),
        "left": why,
    })
}
