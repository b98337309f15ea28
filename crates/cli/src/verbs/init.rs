//! `be init`

use std::path::Path;

use anyhow::Result;
use be_core::crypt;
use be_core::files;
use be_core::layout::describe;
use be_core::model::Inventory;
use be_core::name::EnvName;
use be_core::plan::{self, Step};
use be_core::record::Policy;
use be_core::refusal::{NothingToDo, Refusal};
use serde_json::json;

use super::layout;
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

    /// Let systemd reset a machine that hangs, where there is a watchdog device.
    #[arg(long)]
    watchdog: bool,

    /// Start be upgrade --unattended every night: by a timer of systemd, or by cron.
    #[arg(long)]
    nightly: bool,

    /// Start be build run --due --unattended every hour: by a timer of systemd, or by cron.
    /// [build] every of be.toml says how often something is built.
    #[arg(long)]
    builds: bool,

    /// Give GRUB's own files a subvolume of their own, shared by all environments.
    ///
    /// They are copied, with a line in fstab; the loader goes on reading the old ones until
    /// you install it from the new ones, by the command that is printed.
    #[arg(long)]
    move_grub: bool,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    if !args.move_grub {
        return adopt(args, ctx);
    }
    let first = match adopt(args, ctx) {
        Err(e) if e.is::<NothingToDo>() => None,
        other => Some(other?),
    };
    let Some(home) = ctx.session.observe()?.system.grub_home else {
        let why = "GRUB's own files lie in no environment";
        return first.map_or_else(
            || Err(NothingToDo(why.to_owned()).into()),
            |first| Ok(first.notes([why.to_owned()])),
        );
    };
    if ctx.dry_run && first.is_some() {
        let step = format!("would split /{home} from the root subvolume\n");
        return Ok(first.unwrap_or_default().more(&step));
    }
    let moved = layout::split(ctx, &Path::new("/").join(home), Some(Policy::Shared))?;
    Ok(match first {
        Some(mut first) => {
            first.fields.insert("grub_home".into(), moved.fields.into());
            first.more(&moved.text).notes(moved.notes)
        }
        None => moved,
    })
}

fn adopt(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let store = &ctx.session.store;
    let root = &ctx.session.root;
    let request = plan::Init {
        name: args.name.clone(),
        now: ctx.now,
        script_installed: be_core::hook::script_installed(root),
        files: files::look(
            root,
            files::Asked {
                watchdog: args.watchdog,
                nightly: args.nightly,
                builds: args.builds,
            },
        ),
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
    let mut planned = plan::init(inv, &request)?;
    let no_watchdog = files::no_watchdog(&ctx.session.root).filter(|_| args.watchdog);
    planned.notes.extend(no_watchdog.map(str::to_owned));
    let timers = args.nightly || args.builds;
    let no_timer = files::no_timer(&ctx.session.root).filter(|_| timers);
    planned.notes.extend(no_timer.map(str::to_owned));
    planned.notes.extend(encryption(ctx, inv));
    let found = describe(&inv.system);
    let text: String = found
        .found
        .iter()
        .map(|(label, value)| format!("{label:22} {value}\n"))
        .chain(found.unprotected.iter().map(|u| format!("note: {u}\n")))
        .collect();
    if planned.steps.is_empty() {
        let name = inv.running()?.name();
        let mut why = format!("this system is environment {name} already");
        if let Some(no_timer) = no_timer {
            why = format!("{why}; {no_timer}");
        }
        return Err(NothingToDo(why).into());
    }
    let installed: Vec<String> = planned.steps.iter().filter_map(installed).collect();
    let done = match ctx.carry_out(work, &planned)? {
        Ok(done) => done,
        Err(shown) => return Ok(shown),
    };
    let list: String = installed
        .iter()
        .map(|path| format!("{:22} {path}\n", "installed"))
        .collect();
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
        "installed": installed,
    }))
    .text(format!(
        "{text}{list}This system is environment {name} now. Next: be upgrade\n"
    ))
    .notes(done.notes.clone()))
}

/// What it means that the root is encrypted, and what may keep GRUB out of it.
fn encryption(ctx: &Context, inv: &Inventory) -> Vec<String> {
    let Some(found) = crypt::look(&ctx.session, inv) else {
        return Vec::new();
    };
    let asks = "the root is encrypted: GRUB asks for the passphrase at every boot, those of a \
                trial and the one that falls back included";
    let obstacles = found.obstacles().into_iter();
    let obstacles = obstacles.map(|o| format!("{}: {}; {}", o.object, o.text, o.remedy));
    [asks.to_owned()].into_iter().chain(obstacles).collect()
}

/// The path that a step puts something of ours in.
fn installed(step: &Step) -> Option<String> {
    match step {
        Step::InstallScript => Some(format!("/{}", be_core::hook::path().display())),
        Step::InstallFile(file) => Some(format!("/{}", file.path)),
        _ => None,
    }
}
