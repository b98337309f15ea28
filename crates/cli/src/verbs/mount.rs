//! `be mount`

use std::path::PathBuf;

use anyhow::Result;
use be_core::mount::{Target, choose, mount};
use be_core::name::EnvName;
use serde_json::json;

use crate::context::Context;
use crate::reporter::Outcome;

/// Mount the root of an environment, and print where.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which one.
    env: EnvName,
    /// An empty directory; /run/be/ENV if not given.
    dir: Option<PathBuf>,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let inv = ctx.session.observe()?;
    let env = inv.get(&args.env)?;
    let target = choose(env, args.dir.as_deref())?;
    let dir = match target {
        Target::Already(dir) => dir,
        Target::New(dir) if ctx.dry_run => {
            let step = format!("mount {} at {}", args.env, dir.display());
            return Ok(Outcome::new(json!({ "dry_run": true, "steps": [step] }))
                .text(format!("would {step}\n")));
        }
        Target::New(dir) => {
            // Held for a moment, so that nobody destroys it meanwhile.
            let _lock = ctx.session.store.lock()?;
            ctx.session.observe()?.get(&args.env)?;
            mount(&ctx.session, env, &dir)?;
            dir
        }
    };
    Ok(
        Outcome::new(json!({ "environment": args.env, "mountpoint": dir }))
            .text(format!("{}\n", dir.display())),
    )
}
