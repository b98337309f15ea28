//! `be mount`

use std::path::PathBuf;

use anyhow::Result;
use be_core::mount::{Target, choose, mount, subject};
use be_core::name::Named;
use serde_json::json;

use crate::complete;
use crate::context::Context;
use crate::reporter::Outcome;

/// Mount the root of an environment or of a snapshot, and print where.
///
/// What is mounted already stays where it is; without DIR that is printed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which one; a snapshot is read-only.
    #[arg(value_name = "ENV[@SNAP]", add = complete::both())]
    name: Named,
    /// An empty directory; one below /run/be if not given.
    dir: Option<PathBuf>,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let found = subject(&ctx.session.observe()?, &args.name)?;
    let dir = match choose(&found, args.dir.as_deref())? {
        Target::Already(dir) => dir,
        Target::New(dir) if ctx.dry_run => {
            let step = format!("mount {} at {}", args.name, dir.display());
            return Ok(Outcome::new(json!({ "dry_run": true, "steps": [step] }))
                .text(format!("would {step}\n")));
        }
        Target::New(dir) => {
            // Held for a moment, so that nobody destroys it meanwhile.
            let _lock = ctx.session.store.lock()?;
            let found = subject(&ctx.session.observe()?, &args.name)?;
            mount(&ctx.session, &found, &dir)?
        }
    };
    let mut fields = json!({ "environment": args.name.env, "mountpoint": dir });
    if let Some(snapshot) = &args.name.snapshot {
        fields["snapshot"] = json!(snapshot);
    }
    Ok(Outcome::new(fields).text(format!("{}\n", dir.display())))
}
