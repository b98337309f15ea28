//! `be status`

use anyhow::Result;
use be_core::record::State;
use serde_json::json;

use crate::context::Context;
use crate::reporter::Outcome;

/// Say where this machine is: what runs, what boots next, what is unfinished.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let inv = ctx.session.observe()?;
    inv.initialised()?;
    let running = inv.environments.iter().find(|e| e.running);
    let next = inv.environments.iter().find(|e| e.next);
    let name = |e: Option<&be_core::model::Environment>| e.map(|e| e.name().to_string());
    let mut text = String::new();
    let mut line = |label: &str, value: &str| text.push_str(&format!("{label:9} {value}\n"));
    match running {
        Some(env) => line("running", env.name().as_str()),
        None => line(
            "running",
            &format!("{} (not an environment: be init)", inv.system.root.option()),
        ),
    }
    let why = match (&inv.menu.damage, next, inv.menu.hooked) {
        (Some(why), ..) => {
            format!("unknown: the menu cannot be read ({why}); be menu writes it anew")
        }
        (_, _, false) => "as your grub.cfg says: it does not read the menu of be (be init)".into(),
        (_, None, _) => "as your grub.cfg says: the menu has no default".into(),
        (_, Some(env), _) if running.is_some_and(|r| r.name() == env.name()) => {
            format!("{} (no change)", env.name())
        }
        (_, Some(env), _) => format!("{} (activated)", env.name()),
    };
    line("next", &why);
    line("free", &format!("{} MiB", inv.fs.free >> 20));
    let mut pending = Vec::new();
    for env in &inv.environments {
        let upgrade = env.record.upgrade.as_ref();
        let phase = upgrade.map_or("clone", |u| u.phase.as_str());
        match env.state() {
            State::Building => {
                pending.push(format!("{}: an upgrade is running ({phase})", env.name()))
            }
            State::Failed => {
                let why = upgrade.and_then(|u| u.error.clone());
                let why = why.unwrap_or_else(|| "it was cut off".into());
                pending.push(format!(
                    "{0}: the upgrade failed in phase {phase}: {why} (be upgrade --continue {0}, or be destroy {0})",
                    env.name()
                ));
            }
            State::Ready if !env.running && upgrade.is_some() => {
                pending.push(format!("{}: upgraded, not booted yet", env.name()));
            }
            _ => {}
        }
        let listed = inv.menu.entries.iter().any(|e| e == env.name().as_str());
        if env.usable() && env.root.is_some() && !listed {
            pending.push(format!(
                "{}: no entry in the menu (be menu writes it, or says why not)",
                env.name()
            ));
        }
        if env.root.is_none() {
            pending.push(format!("{}: its root subvolume is gone", env.name()));
        }
    }
    for (name, why) in &inv.damaged {
        pending.push(format!("{name}: its record cannot be read: {why}"));
    }
    for name in &inv.leftovers {
        pending.push(format!(
            "{name}: interrupted; the next command that changes something cleans up"
        ));
    }
    for p in &pending {
        line("pending", p);
    }
    Ok(Outcome::new(json!({
        "running": name(running),
        "next": name(next),
        "hooked": inv.menu.hooked,
        "free": inv.fs.free,
        "pending": pending,
    }))
    .text(text))
}
