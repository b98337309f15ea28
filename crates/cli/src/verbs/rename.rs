//! `be rename`

use anyhow::Result;
use be_core::doctor;
use be_core::name::EnvName;
use be_core::plan;
use be_core::refusal::Refusal;
use serde_json::json;

use crate::complete;
use crate::context::Context;
use crate::reporter::Outcome;

/// Give an environment another name, also the running and the next one.
///
/// Its directory in the store, its record, its /etc/fstab and its entry in the menu get the
/// name; cut off at any moment, the machine boots it all the same.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its name.
    #[arg(value_name = "OLD", add = complete::environments())]
    from: EnvName,
    /// The new one.
    #[arg(value_name = "NEW")]
    to: EnvName,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let work = ctx.begin()?;
    let inv = &work.inv;
    if doctor::chosen_by_grub_reboot(&ctx.session, inv).as_ref() == Some(&args.from) {
        let name = args.from.clone();
        return Err(Refusal::Chosen { name }.into());
    }
    let request = plan::Rename {
        from: args.from.clone(),
        to: args.to.clone(),
        grub: ctx.session.grub_installed(inv.get(&args.from)?),
    };
    let planned = plan::rename(inv, &request)?;
    let done = match ctx.carry_out(work, &planned)? {
        Ok(done) => done,
        Err(shown) => return Ok(shown),
    };
    Ok(
        Outcome::new(json!({ "environment": args.to, "was": args.from }))
            .text(format!("{}\n", args.to))
            .notes(done.notes),
    )
}
