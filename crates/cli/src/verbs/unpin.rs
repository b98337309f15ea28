//! `be unpin`

use anyhow::Result;
use be_core::name::EnvName;

use super::pin::set;
use crate::complete;
use crate::context::Context;
use crate::reporter::Outcome;

/// Undo be pin: an environment may be destroyed and pruned again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which one.
    #[arg(add = complete::environments())]
    env: EnvName,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    set(&args.env, false, ctx)
}
