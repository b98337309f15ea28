//! `be shell`

use anyhow::Result;
use be_core::name::Named;

use super::environment;
use super::exec::enter;
use crate::complete;
use crate::context::Context;
use crate::reporter::Outcome;

/// Open a shell in an environment: a chroot in a mount and PID namespace of its own.
///
/// Nothing of it is left when the shell ends. Afterwards: be check ENV.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which one.
    #[arg(add = complete::environments())]
    env: Named,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let word = format!("you are in {}; leave it with exit", args.env);
    let env = environment(&args.env, "entered")?;
    enter(&env, login(), Some(word), ctx)
}

/// The login shell of root in the environment, not of the caller: it must exist there.
pub fn login() -> Vec<String> {
    let command = [
        "/bin/sh",
        "-c",
        "exec \"$(command -v bash || echo /bin/sh)\" -l",
    ];
    command.map(str::to_owned).to_vec()
}
