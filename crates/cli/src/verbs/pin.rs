//! `be pin`

use anyhow::Result;
use be_core::name::EnvName;
use be_core::plan;
use serde_json::json;

use crate::complete;
use crate::context::Context;
use crate::reporter::Outcome;

/// Keep an environment: it is neither destroyed nor pruned until be unpin.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which one.
    #[arg(add = complete::environments())]
    env: EnvName,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    set(&args.env, true, ctx)
}

/// Pin an environment, or let go of it. As asked for already is no error.
pub fn set(name: &EnvName, pinned: bool, ctx: &mut Context) -> Result<Outcome> {
    let work = ctx.begin()?;
    let planned = plan::pin(&work.inv, name, pinned)?;
    let done = match ctx.carry_out(work, &planned)? {
        Ok(done) => done,
        Err(shown) => return Ok(shown),
    };
    Ok(Outcome::new(json!({ "environment": name, "pinned": pinned })).notes(done.notes))
}
