//! `be menu`

use std::path::Path;

use anyhow::Result;
use be_core::menu;
use be_core::plan::{self, Plan, Proofs, Step};
use serde_json::json;

use crate::context::Context;
use crate::reporter::Outcome;

/// Write GRUB's menu of the environments anew; for kernel hooks and after mending.
///
/// What boots by default stays. With --dry-run, print the menu.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// As the hooks of a kernel's installer call it: do nothing in a chroot or container, or
    /// before be init.
    #[arg(long)]
    hook: bool,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let work = match args.hook {
        false => ctx.begin()?,
        true if is_elsewhere(ctx) => return Ok(Outcome::new(json!({ "entries": null }))),
        // That a kernel was installed says nothing of the one that runs.
        true => ctx.begin_unconfirmed()?,
    };
    let inv = &work.inv;
    let default = plan::default(inv, inv.running()?.name());
    if ctx.dry_run {
        let written = menu::render(&ctx.session, inv, &default, menu::Packages::Counted)?;
        return Ok(Outcome::new(json!({
            "dry_run": true,
            "default": default,
            "entries": written.entries,
            "menu": written.text,
        }))
        .text(written.text));
    }
    let plan = Plan {
        steps: vec![Step::WriteMenu {
            default: default.clone(),
            without: Vec::new(),
            proofs: Proofs::Anew,
        }],
        notes: Vec::new(),
    };
    let done = match ctx.carry_out(work, &plan)? {
        Ok(done) => done,
        Err(shown) => return Ok(shown),
    };
    let entries = done
        .menu
        .as_ref()
        .map(|m| m.entries.clone())
        .unwrap_or_default();
    Ok(
        Outcome::new(json!({ "default": default, "entries": entries }))
            .text(match entries.iter().any(|name| name == default.as_str()) {
                true => format!("{} entries; {default} boots by default\n", entries.len()),
                false => format!(
                    "{} entries; {default} has none, so grub.cfg says what boots\n",
                    entries.len()
                ),
            })
            .notes(done.notes.clone()),
    )
}

/// Whether a kernel was installed where no menu is to be written: in a chroot or a container,
/// which for a chroot of `be` is done at the end, or where `be init` never ran.
fn is_elsewhere(ctx: &Context) -> bool {
    ctx.session.sysroot != Path::new("/")
        || !be_core::host::sees_the_machine()
        || !ctx.session.store.exists()
}
