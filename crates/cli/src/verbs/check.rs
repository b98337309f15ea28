//! `be check`

use anyhow::Result;
use be_core::name::EnvName;
use be_core::refusal::exit;
use serde_json::json;

use crate::complete;
use crate::context::Context;
use crate::reporter::Outcome;

/// Prove that an environment boots: kernel, modules, initramfs, init, fstab, menu entry.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which one; the running one if not given.
    #[arg(add = complete::environments())]
    env: Option<EnvName>,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let inv = ctx.session.observe()?;
    let env = match &args.env {
        Some(name) => inv.get(name)?,
        None => inv.running()?,
    };
    let mut found = ctx.session.examine(&inv, env)?;
    if inv.menu.entries.iter().any(|e| e == env.name().as_str()) {
        found.proven.push(format!(
            "entry {} in the menu",
            be_core::entry_id(env.name())
        ));
    } else if env.usable() {
        found
            .problems
            .push("it has no entry in the menu (be menu writes it)".into());
    } else {
        found.warnings.push(format!(
            "it is {}: it has no entry in the menu",
            env.state().as_str()
        ));
    }
    if !inv.menu.hooked {
        found
            .problems
            .push("GRUB does not read the menu of be (be init mends it)".into());
    }
    let mut text = String::new();
    for (mark, lines) in [
        ("ok     ", &found.proven),
        ("note   ", &found.warnings),
        ("PROBLEM", &found.problems),
    ] {
        for line in lines {
            text.push_str(&format!("{mark}  {line}\n"));
        }
    }
    let good = found.problems.is_empty();
    text.push_str(&format!(
        "{} {}\n",
        env.name(),
        if good {
            "is bootable"
        } else {
            "would not boot"
        }
    ));
    Ok(Outcome::new(json!({
        "environment": env.name(),
        "bootable": good,
        "kernels": found.kernels.iter().map(|k| &k.version).collect::<Vec<_>>(),
        "arguments": found.kernels.first().map(|k| &k.arguments),
        "proven": found.proven,
        "warnings": found.warnings,
        "problems": found.problems,
    }))
    .text(text)
    .code(if good { exit::DONE } else { exit::NOT_BOOTABLE }))
}
