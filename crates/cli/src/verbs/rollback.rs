//! `be rollback`

use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};
use be_core::carry::{self, Carry, Decision, Item, Origin, Route, Terms};
use be_core::chroot::Interrupted;
use be_core::host;
use be_core::name::{EnvName, Named, SnapName};
use be_core::plan;
use be_core::refusal::Refusal;
use serde_json::json;

use super::activate::{When, planned, switch};
use super::carry::{carried, text};
use crate::complete;
use crate::context::{Context, Work};
use crate::reporter::{Outcome, count};

/// Boot the last confirmed environment that is not running, or the one named.
///
/// It changes what boots next, as activate does; then reboot. What changed since the running
/// one was activated stays behind, unless --carry takes it along. With ENV@SNAP instead: put an
/// environment that nothing uses back to a snapshot of it; what it was is kept as another.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Carry along what changed since the running environment was activated: all of it, or
    /// these paths.
    ///
    /// The environment as it was before stays as its snapshot before-rollback.
    #[arg(long, value_name = "PATH", num_args = 0.., value_parser = absolute, conflicts_with = "snapshot")]
    carry: Option<Vec<PathBuf>>,
    /// Refuse if something was changed on both sides that a person should look at.
    #[arg(long, requires = "carry")]
    strict: bool,
    /// Which one, or which snapshot.
    #[arg(value_name = "ENV[@SNAP]", add = complete::both())]
    name: Option<Named>,
    /// The snapshot, as beadm has it: now, or ENV@now.
    #[arg(hide = true, requires = "name", value_parser = snapshot)]
    snapshot: Option<Named>,
}

/// `SNAP` or `ENV@SNAP`; the environment of the first is the other argument.
fn snapshot(text: &str) -> Result<Named, String> {
    let text = match text.contains('@') {
        true => text.to_owned(),
        // Any environment: the other argument names it.
        false => format!("any@{text}"),
    };
    text.parse()
        .map_err(|e: be_core::name::NameError| e.to_string())
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let named = match (&args.name, &args.snapshot) {
        (Some(name), Some(snapshot)) => Some(Named {
            env: name.env.clone(),
            snapshot: snapshot.snapshot.clone(),
        }),
        (name, _) => name.clone(),
    };
    // What is left behind may be bad: it is not confirmed by that.
    let work = ctx.begin_unconfirmed()?;
    match named {
        Some(Named {
            env,
            snapshot: Some(snapshot),
        }) => restore(ctx, work, &Named::snapshot(&env, &snapshot), snapshot),
        Some(Named { env, .. }) => go_back(args, ctx, work, &env),
        None => {
            let name = plan::rollback_target(&work.inv)?;
            go_back(args, ctx, work, &name)
        }
    }
}

/// An absolute path, so that no name of an environment is taken for one.
fn absolute(text: &str) -> Result<PathBuf, String> {
    let path: PathBuf = Path::new(text).components().collect();
    let plain = path.is_absolute() && !path.components().any(|c| c == Component::ParentDir);
    match plain {
        true => Ok(path),
        false => {
            Err("it has to be an absolute path; the name of an environment comes first".into())
        }
    }
}

fn go_back(args: &Args, ctx: &mut Context, work: Work, name: &EnvName) -> Result<Outcome> {
    let only = args.carry.as_deref().unwrap_or_default();
    let route = Route::back(&work.inv, work.inv.get(name)?, only);
    let mut when = When::as_it_is();
    if args.carry.is_none() {
        // It is for information: the way back does not depend on it.
        let found = route
            .map_err(anyhow::Error::from)
            .and_then(|route| carry::survey(&ctx.session, &work.inv, &route, Origin::Live));
        when.stays_told = found.is_ok();
        let told = found.map_or_else(
            |e| match e.downcast_ref() {
                Some(Refusal::NothingKept { .. }) => Vec::new(),
                _ => vec![format!("what stays behind is not known: {e:#}")],
            },
            |found| stays(&found),
        );
        return Ok(switch(ctx, work, name, when)?.notes(told));
    }
    let route = route?;
    when.stays_told = true;
    // What is refused is refused before anything goes over.
    planned(ctx, &work, name, when)?;
    let Some(lock) = &work.lock else {
        let found = carry::survey(&ctx.session, &work.inv, &route, Origin::Live)?;
        let text = text(&found, false, false);
        return Ok(switch(ctx, work, name, when)?.more(&text));
    };
    let interrupted = Interrupted::watch()?;
    let terms = Terms {
        strict: args.strict,
        packages: false,
        now: ctx.now,
        lock,
        interrupted: &interrupted,
    };
    let done = carry::over(&ctx.session, work.inv, &route, &terms)
        .with_context(|| format!("{name} was not activated"))?;
    let work = Work {
        inv: ctx.session.observe()?,
        lock: work.lock,
    };
    let over = carried(false, done);
    let mut outcome = switch(ctx, work, name, when)?;
    outcome.fields.insert("carried".into(), over.fields.into());
    outcome.text.insert_str(0, &over.text);
    Ok(outcome.notes(over.notes))
}

/// How many paths that stay behind are named.
const NAMED: usize = 8;

/// What would be missing, for people.
fn stays(found: &Carry) -> Vec<String> {
    let left = |item: &&Item| matches!(item.decision, Decision::Left(_));
    let paths: Vec<_> = found.items.iter().filter(|item| !left(item)).collect();
    if paths.is_empty() {
        return Vec::new();
    }
    let (from, to) = (&found.from, &found.to);
    let mut sentences = vec![format!(
        "changed in {from} since it was activated, and not in {to}: {}; be rollback {to} --carry \
         takes it along",
        count(paths.len(), "path")
    )];
    let named = paths.iter().take(NAMED);
    sentences.extend(named.map(|item| format!("  /{}", item.path.display())));
    if paths.len() > NAMED {
        sentences.push(format!("  and {} more", paths.len() - NAMED));
    }
    sentences
}

fn restore(ctx: &mut Context, work: Work, name: &Named, snapshot: SnapName) -> Result<Outcome> {
    if !host::sees_the_machine() {
        return Err(Refusal::Blind.into());
    }
    let inv = &work.inv;
    let request = plan::Restore {
        layout: ctx.session.layout(inv, Some(&name.env.clone().into()))?,
        env: name.env.clone(),
        snapshot,
        now: ctx.now,
    };
    let planned = plan::restore(inv, &ctx.session.uses(inv)?, &request)?;
    let done = match ctx.carry_out(work, &planned)? {
        Ok(done) => done,
        Err(shown) => return Ok(shown),
    };
    Ok(
        Outcome::new(json!({ "environment": name.env, "snapshot": request.snapshot }))
            .text(format!("{} is as {name} was\n", name.env))
            .notes(done.notes),
    )
}
