//! `be log`

use anyhow::Result;
use be_core::name::EnvName;
use be_core::refusal::NothingToDo;
use serde_json::json;

use crate::complete;
use crate::context::Context;
use crate::reporter::Outcome;

/// Show what ran in an environment, its output, and what its health checks found.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which one; the newest that has a log if not given.
    #[arg(add = complete::environments())]
    env: Option<EnvName>,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let inv = ctx.session.observe()?;
    inv.initialised()?;
    let candidates = match &args.env {
        Some(name) => vec![inv.get(name)?],
        None => inv.environments.iter().rev().collect(),
    };
    let mut found = None;
    for env in candidates {
        let store = &ctx.session.store;
        let upgrade = be_core::log::read(store, env.name())?;
        let checks = be_core::health::read(store, env.name())?;
        if upgrade.is_some() || checks.is_some() {
            let text = upgrade.unwrap_or_default() + &checks.unwrap_or_default();
            found = Some((env.name(), text));
            break;
        }
    }
    let Some((name, text)) = found else {
        let of = args
            .env
            .as_ref()
            .map_or_else(|| "any environment".into(), ToString::to_string);
        return Err(NothingToDo(format!("there is no log of {of}")).into());
    };
    Ok(Outcome::new(json!({ "environment": name, "log": text })).text(text))
}
