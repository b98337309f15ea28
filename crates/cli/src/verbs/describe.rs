//! `be describe`

use anyhow::Result;
use be_core::name::Named;
use be_core::plan;
use be_core::record::no_description;
use serde_json::json;

use crate::complete;
use crate::context::Context;
use crate::reporter::Outcome;

/// Say what an environment or a snapshot is for; shown in the list and in the menu.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which one.
    #[arg(value_name = "ENV[@SNAP]", add = complete::both())]
    name: Named,
    /// The text, as one argument; an empty one takes the description away.
    #[arg(value_parser = description)]
    text: String,
}

/// A description as somebody types it.
pub(super) fn description(text: &str) -> Result<String, &'static str> {
    match no_description(text) {
        Some(why) => Err(why),
        None => Ok(text.to_owned()),
    }
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let work = ctx.begin()?;
    let planned = plan::describe(&work.inv, &args.name, &args.text)?;
    let done = match ctx.carry_out(work, &planned)? {
        Ok(done) => done,
        Err(shown) => return Ok(shown),
    };
    Ok(Outcome::new(json!({ "name": args.name, "description": args.text })).notes(done.notes))
}
