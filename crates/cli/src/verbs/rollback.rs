//! `be rollback`

use anyhow::Result;
use be_core::host;
use be_core::name::{Named, SnapName};
use be_core::plan;
use be_core::refusal::Refusal;
use serde_json::json;

use super::activate::{When, switch};
use crate::complete;
use crate::context::{Context, Work};
use crate::reporter::Outcome;

/// Boot the last confirmed environment that is not running, or the one named.
///
/// It changes what boots next, as activate does; then reboot. With ENV@SNAP instead: put an
/// environment that nothing uses back to a snapshot of it; what it was is kept as another.
#[derive(Debug, clap::Args)]
pub struct Args {
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
        Some(Named { env, .. }) => switch(ctx, work, &env, When::as_it_is()),
        None => {
            let name = plan::rollback_target(&work.inv)?;
            switch(ctx, work, &name, When::as_it_is())
        }
    }
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
