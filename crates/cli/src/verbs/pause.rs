//! `be pause`

use anyhow::Result;
use be_core::upgrade;
use serde_json::json;

use crate::context::Context;
use crate::reporter::Outcome;

/// Stop the upgrade that runs until be resume, so that the machine is free for something else.
///
/// Its programs keep their memory and lose no work. Exit code 77 if no upgrade runs.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: &Args, ctx: &mut Context) -> Result<Outcome> {
    set(true, ctx)
}

/// Let the upgrade that runs pause, or go on. As asked for already is no error.
pub fn set(paused: bool, ctx: &Context) -> Result<Outcome> {
    let word = if paused { "pauses" } else { "goes on" };
    if ctx.dry_run {
        return Ok(Outcome::new(json!({ "dry_run": true }))
            .text(format!("would see to it that the upgrade {word}\n")));
    }
    let name = upgrade::pause(&ctx.session, paused)?;
    let note = format!("the upgrade in {name} {word}");
    Ok(Outcome::new(json!({ "environment": name, "paused": paused })).notes([note]))
}
