//! `be lock`

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Result;
use be_core::lock::{self, CONFIGURATION, Entry, Lock};
use be_core::name::EnvName;
use be_core::refusal::{NoLock, Refusal};
use serde_json::json;

use crate::complete;
use crate::context::Context;
use crate::reporter::Outcome;

/// Print what an environment was made from, and what it came to: its lock, as JSON.
///
/// Repositories with their commits, /etc/portage, profile, world, settings, toolchain and
/// packages. What be upgrade made has a lock from when it was complete ("recorded": true); any
/// other one is computed from what is there. For be upgrade --lock and be diff --lock.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    be lock >machine.lock                      of the running environment\n  \
    be diff --lock machine.lock                what has changed since\n  \
    be upgrade --lock machine.lock same        the same once more, here or elsewhere")]
pub struct Args {
    /// Which one; the running one if not given.
    #[arg(add = complete::environments())]
    env: Option<EnvName>,
    /// As it is now, and not as it was made.
    #[arg(long)]
    now: bool,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let inv = ctx.session.observe()?;
    let env = inv.origin(args.env.as_ref())?;
    let lock = match args.now {
        true => lock::current(&ctx.session, &inv, env, ctx.now)?,
        false => lock::of(&ctx.session, &inv, env, ctx.now)?,
    };
    let (links, files): (Vec<_>, Vec<_>) = lock.withheld().partition(|e| e.leads_out());
    let paths = |all: Vec<&Entry>| {
        let paths = all.iter().map(|e| e.path.to_string());
        paths.collect::<Vec<_>>().join(", ")
    };
    let mut notes = Vec::new();
    if !files.is_empty() {
        notes.push(format!(
            "of these the lock has no content, only a digest: {}",
            paths(files)
        ));
    }
    if !links.is_empty() {
        notes.push(format!(
            "these are links to what is outside of {CONFIGURATION} and not in the lock: {}",
            paths(links)
        ));
    }
    let digest = lock.configuration_digest();
    Ok(
        Outcome::new(json!({ "lock": lock, "configuration_digest": digest }))
            .text(lock.to_text()?)
            .notes(notes),
    )
}

/// The lock in a file.
///
/// # Errors
/// [`NoLock::Bad`].
pub fn read(file: &Path) -> Result<Lock, Refusal> {
    let bad = |why: String| {
        let file = file.to_owned();
        Refusal::NoLock(NoLock::Bad { file, why })
    };
    let mut text = String::new();
    File::open(file)
        .and_then(|open| open.take(lock::MAX_LOCK).read_to_string(&mut text))
        .map_err(|e| bad(e.to_string()))?;
    Lock::parse(&text).map_err(|e| bad(e.to_string()))
}
