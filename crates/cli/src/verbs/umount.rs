//! `be umount`

use anyhow::Result;
use be_core::mount::{find, unmount};
use serde_json::json;

use crate::context::Context;
use crate::reporter::Outcome;

/// Unmount an environment wherever it is mounted, or one mount point.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An environment or a directory.
    #[arg(value_name = "ENV|DIR")]
    what: String,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let found = find(&ctx.session.observe()?, &args.what)?;
    if ctx.dry_run {
        let steps: Vec<_> = found
            .iter()
            .map(|d| format!("unmount {}", d.display()))
            .collect();
        let text: String = steps.iter().map(|s| format!("would {s}\n")).collect();
        return Ok(Outcome::new(json!({ "dry_run": true, "steps": steps })).text(text));
    }
    for dir in &found {
        unmount(dir)?;
    }
    Ok(Outcome::new(json!({ "unmounted": found })))
}
