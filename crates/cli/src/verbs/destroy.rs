//! `be destroy`

use std::path::PathBuf;

use anyhow::Result;
use be_core::doctor;
use be_core::host;
use be_core::model::Inventory;
use be_core::name::{EnvName, Named};
use be_core::plan;
use be_core::refusal::Refusal;
use be_core::session::Session;
use serde_json::json;

use crate::complete;
use crate::context::Context;
use crate::reporter::Outcome;

/// Delete environments with all that be made for them, or snapshots.
///
/// All are checked before the first one goes: one that may not be destroyed keeps all.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Unmount them first where they are mounted.
    #[arg(short = 'f', long = "force-unmount")]
    unmount: bool,
    /// Do not ask.
    #[arg(short = 'y', long, short_alias = 'F')]
    yes: bool,
    /// Which ones.
    #[arg(required = true, value_name = "ENV[@SNAP]", add = complete::both())]
    names: Vec<Named>,
    /// As beadm has it: snapshots always go with their environment.
    #[arg(short = 's', hide = true)]
    _snapshots: bool,
}

/// What lies in the directories of these environments and is not be's.
fn strangers(session: &Session, names: &[Named]) -> Vec<(EnvName, Vec<PathBuf>)> {
    let environments = names.iter().filter(|n| n.snapshot.is_none());
    environments
        .filter_map(|n| Some((n.env.clone(), session.strangers(&n.env).ok()?)))
        .filter(|(_, paths)| !paths.is_empty())
        .collect()
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    if !host::sees_the_machine() {
        return Err(Refusal::Blind.into());
    }
    let request = |ctx: &Context, inv: &Inventory| plan::Destroy {
        names: args.names.clone(),
        unmount: args.unmount,
        chosen: doctor::chosen_by_grub_reboot(&ctx.session, inv),
        strangers: strangers(&ctx.session, &args.names),
    };
    if !args.yes && !ctx.dry_run {
        // The rules first: no question about what will be refused anyway.
        let inv = ctx.session.observe()?;
        plan::destroy(&inv, &ctx.session.uses(&inv)?, &request(ctx, &inv))?;
        let names: Vec<_> = args.names.iter().map(Named::to_string).collect();
        if !ctx
            .reporter
            .confirm(&format!("destroy {}?", names.join(", ")))
        {
            let name = args.names[0].clone();
            return Err(Refusal::NotConfirmed { name }.into());
        }
    }
    let work = ctx.begin()?;
    let inv = &work.inv;
    let planned = plan::destroy(inv, &ctx.session.uses(inv)?, &request(ctx, inv))?;
    let done = match ctx.carry_out(work, &planned)? {
        Ok(done) => done,
        Err(shown) => return Ok(shown),
    };
    Ok(Outcome::new(json!({ "destroyed": args.names })).notes(done.notes.clone()))
}
