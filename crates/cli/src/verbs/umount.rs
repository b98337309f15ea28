//! `be umount`

use anyhow::Result;
use be_core::mount::{detach, find, unmount};
use serde_json::json;

use crate::complete;
use crate::context::Context;
use crate::reporter::Outcome;

/// Unmount an environment wherever it is mounted, or one mount point.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also where something works there; what does keeps it until it ends.
    #[arg(short, long)]
    force: bool,
    /// An environment, a snapshot or a directory.
    #[arg(value_name = "ENV|DIR", add = complete::both())]
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
    let mut notes = Vec::new();
    for dir in &found {
        if !args.force {
            unmount(dir)?;
        } else if detach(dir)? {
            notes.push(format!(
                "{} is unmounted, and something still works in what was there",
                dir.display()
            ));
        }
    }
    Ok(Outcome::new(json!({ "unmounted": found })).notes(notes))
}
