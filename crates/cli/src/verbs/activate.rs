//! `be activate`

use anyhow::Result;
use be_core::name::{EnvName, Named};
use be_core::plan;
use be_core::stale::{LeftBehind, left_behind};
use serde_json::{Value, json};

use super::environment;
use crate::complete;
use crate::context::{Context, Work};
use crate::reporter::Outcome;

/// Choose the environment that boots by default; nothing else is changed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For the next boot only.
    #[arg(short = 't', long)]
    once: bool,
    /// Undo -t.
    #[arg(short = 'T', long, conflicts_with = "once")]
    undo_once: bool,
    /// Which one.
    #[arg(required_unless_present = "undo_once", add = complete::environments())]
    name: Option<Named>,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let name = args.name.as_ref().map(|n| environment(n, "activated"));
    match name.transpose()? {
        Some(name) if !args.undo_once => activate(ctx, &name, args.once),
        name => {
            let inv = ctx.session.observe()?;
            inv.initialised()?;
            if let Some(name) = name {
                inv.get(&name)?;
            }
            Ok(Outcome::new(json!({ "once": null }))
                .text("no environment is chosen for one boot only\n"))
        }
    }
}

/// Make `name` boot by default.
pub fn activate(ctx: &mut Context, name: &EnvName, once: bool) -> Result<Outcome> {
    let work = ctx.begin()?;
    switch(ctx, work, name, once)
}

/// Make `name` boot by default, with what was taken to do so.
pub fn switch(ctx: &mut Context, work: Work, name: &EnvName, once: bool) -> Result<Outcome> {
    let inv = &work.inv;
    let env = inv.get(name)?;
    let problems = match env.root {
        Some(_) => ctx.session.examine(inv, env)?.problems,
        None => Vec::new(),
    };
    let request = plan::Activate {
        name: name.clone(),
        once,
        problems,
    };
    let planned = plan::activate(inv, &request)?;
    let already = if env.next { " already" } else { "" };
    let stays = left_behind(&ctx.session, inv, env).unwrap_or_else(|e| {
        // It is for information: the switch does not depend on it.
        ctx.reporter
            .note(&format!("what stays behind is not known: {e:#}"));
        LeftBehind::default()
    });
    let stays = stays.after(&planned);
    let done = match ctx.carry_out(work, &planned)? {
        Ok(done) => done,
        Err(shown) => return Ok(shown.notes(stays.sentences())),
    };
    Ok(Outcome::new(json!({
        "environment": name,
        "left_behind": stays.counts().into_iter().map(|(k, v)| (k, json!(v))).collect::<serde_json::Map<String, Value>>(),
    }))
    .text(format!("{name} boots next{already}\n"))
    .notes(done.notes.clone())
    .notes(stays.sentences()))
}
