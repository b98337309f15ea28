//! `be init`

use anyhow::Result;
use be_core::layout::describe;
use be_core::name::EnvName;
use be_core::plan;
use be_core::refusal::{NothingToDo, Refusal};
use serde_json::json;

use crate::context::{Context, Work};
use crate::reporter::Outcome;

/// Adopt the running system as the first environment; nothing is moved.
///
/// Says what was found, and what environments cannot protect.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name for the running system.
    #[arg(long, value_name = "NAME", default_value = "default")]
    name: EnvName,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let store = &ctx.session.store;
    let request = plan::Init {
        name: args.name.clone(),
        now: ctx.now,
        script_installed: be_core::hook::script_installed(&ctx.session.root),
    };
    // Once without the lock: it lies in the store, which is not made before all rules are met.
    let inv = ctx.session.observe()?;
    plan::init(&inv, &request)?;
    let work = if ctx.dry_run {
        Work { lock: None, inv }
    } else {
        store.make()?;
        ctx.begin()?
    };
    let inv = &work.inv;
    let planned = plan::init(inv, &request)?;
    let found = describe(&inv.system);
    let text: String = found
        .found
        .iter()
        .map(|(label, value)| format!("{label:22} {value}\n"))
        .chain(found.unprotected.iter().map(|u| format!("note: {u}\n")))
        .collect();
    if planned.steps.is_empty() {
        let name = inv.running()?.name();
        return Err(NothingToDo(format!("this system is environment {name} already")).into());
    }
    let done = match ctx.carry_out(work, &planned)? {
        Ok(done) => done,
        Err(shown) => return Ok(shown),
    };
    let after = ctx.session.observe()?;
    let name = after.running().map_err(|e: Refusal| e)?.name().clone();
    let facts: serde_json::Map<_, _> = found
        .found
        .iter()
        .map(|(k, v)| (k.clone(), json!(v)))
        .collect();
    Ok(Outcome::new(json!({
        "environment": name,
        "found": facts,
        "unprotected": found.unprotected,
    }))
    .text(format!(
        "{text}This system is environment {name} now. Next: be upgrade\n"
    ))
    .notes(done.notes.clone()))
}
