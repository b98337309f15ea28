//! `be exec`

use anyhow::Result;
use be_core::chroot::{Interrupted, Output, exit_code, take_terminal_back, wait};
use be_core::name::{EnvName, Named};
use be_core::upgrade::{build, farm};
use serde_json::json;

use super::environment;
use crate::complete;
use crate::context::Context;
use crate::reporter::Outcome;

/// Run a command in an environment: a chroot in a mount and PID namespace of its own.
///
/// Its exit code becomes that of be.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which one.
    #[arg(add = complete::environments())]
    env: Named,
    /// The command.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let env = environment(&args.env, "entered")?;
    enter(&env, args.command.clone(), None, ctx)
}

/// Run `command` in the environment `name`, at this terminal, after a word about it.
pub fn enter(
    name: &EnvName,
    command: Vec<String>,
    word: Option<String>,
    ctx: &mut Context,
) -> Result<Outcome> {
    let inv = ctx.session.observe()?;
    let env = inv.get(name)?;
    if ctx.dry_run {
        let step = format!("run {} in {name}", command.join(" "));
        return Ok(Outcome::new(json!({ "dry_run": true, "steps": [step] }))
            .text(format!("would {step}\n")));
    }
    let mut job = ctx.session.job(&inv, env, command.clone())?;
    job.env.push(("BE_ENVIRONMENT".into(), name.to_string()));
    if let Some(builder) = &env.record.builder {
        build::furnish(&ctx.session, builder, &mut job)?;
    }
    let farm = farm::of_mended(&ctx.session, env)?;
    farm.give(&mut job);
    for word in word.iter().chain(&farm.notes) {
        ctx.reporter.note(word);
    }
    let interrupted = Interrupted::watch()?;
    let mut child = job.start(match ctx.reporter.is_json() {
        true => Output::ToStderr,
        false => Output::Inherited,
    })?;
    let code = exit_code(wait(&mut child, &interrupted, || ())?);
    take_terminal_back();
    farm.clear(&ctx.session, env)?;
    Ok(
        Outcome::new(json!({ "environment": name, "command": command, "exit": code }))
            .code(u8::try_from(code).unwrap_or(1)),
    )
}
