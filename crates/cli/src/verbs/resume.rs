//! `be resume`

use anyhow::Result;

use crate::context::Context;
use crate::reporter::Outcome;

/// Let an upgrade go on that be pause has stopped.
///
/// Exit code 77 if no upgrade runs.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: &Args, ctx: &mut Context) -> Result<Outcome> {
    super::pause::set(false, ctx)
}
