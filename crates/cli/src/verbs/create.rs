//! `be create`

use anyhow::Result;
use be_core::name::EnvName;
use be_core::plan;
use be_core::refusal::Refusal;
use serde_json::json;

use crate::context::Context;
use crate::reporter::Outcome;

/// Clone an environment; the running one unless -e names another.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Activate it, too.
    #[arg(short, long, conflicts_with = "once")]
    activate: bool,
    /// Activate it for the next boot only.
    #[arg(short = 't', long)]
    once: bool,
    /// What it is for; shown in the list and in the menu.
    #[arg(
        short,
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    description: String,
    /// The environment to clone.
    #[arg(short = 'e', long, value_name = "ENV")]
    origin: Option<EnvName>,
    /// Its name; the date of today if not given.
    name: Option<EnvName>,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let work = ctx.begin()?;
    let inv = &work.inv;
    let request = plan::Create {
        name: args.name.clone(),
        layout: ctx.session.layout(inv, inv.origin(args.origin.as_ref())?)?,
        origin: args.origin.clone(),
        description: args.description.clone(),
        now: ctx.now,
        upgrade: None,
        activate: args.activate,
        min_free: plan::MIN_FREE,
    };
    let (name, planned) = plan::create(inv, &request)?;
    if args.once {
        return Err(Refusal::NoOnce.into());
    }
    if args.activate {
        ctx.session.bootable(inv, args.origin.as_ref())?;
    }
    let done = match ctx.carry_out(work, &planned)? {
        Ok(done) => done,
        Err(shown) => return Ok(shown),
    };
    Ok(Outcome::new(json!({ "environment": name }))
        .text(format!("{name}\n"))
        .notes(done.notes))
}
