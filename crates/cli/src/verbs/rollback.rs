//! `be rollback`

use anyhow::Result;
use be_core::name::EnvName;
use be_core::plan;

use super::activate::switch;
use crate::context::Context;
use crate::reporter::Outcome;

/// Boot the last confirmed environment that is not running, or the one named.
///
/// It changes what boots next, as activate does; then reboot.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which one.
    name: Option<EnvName>,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    // What is left behind may be bad: it is not confirmed by that.
    let work = ctx.begin_unconfirmed()?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => plan::rollback_target(&work.inv)?,
    };
    switch(ctx, work, &name, false)
}
