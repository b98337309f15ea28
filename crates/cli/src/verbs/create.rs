//! `be create`

use anyhow::Result;
use be_core::layout;
use be_core::name::{EnvName, Named, SnapName};
use be_core::plan::{self, How};
use be_core::refusal::Refusal;
use serde_json::json;

use super::{activate, describe};
use crate::complete;
use crate::context::Context;
use crate::reporter::Outcome;

/// Clone an environment; the running one unless -e names another.
///
/// With ENV@SNAP instead of a name: take a read-only snapshot of an environment.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Activate it, too.
    #[arg(short, long, conflicts_with = "once")]
    activate: bool,
    /// Activate it for the next boot only.
    #[arg(short = 't', long)]
    once: bool,
    /// What it is for; shown in the list and in the menu.
    #[arg(
        short,
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        value_parser = describe::description
    )]
    description: String,
    /// The environment, or the snapshot of one, to clone.
    #[arg(short = 'e', long, value_name = "ENV[@SNAP]", add = complete::both())]
    origin: Option<Named>,
    /// As bectl has it: a clone has all subvolumes of an environment anyway.
    #[arg(short = 'r', hide = true)]
    _recursive: bool,
    /// Its name; the date of today if not given.
    #[arg(value_name = "NAME|ENV@SNAP")]
    name: Option<Named>,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let name = match &args.name {
        Some(Named {
            env,
            snapshot: Some(snapshot),
        }) => return take(args, ctx, env, snapshot),
        name => name.as_ref().map(|n| n.env.clone()),
    };
    let work = ctx.begin()?;
    let inv = &work.inv;
    let how = match (args.activate, args.once) {
        (true, _) => Some(How::Auto),
        (_, true) => Some(How::Once),
        _ => None,
    };
    let from = inv.origin(args.origin.as_ref().map(|n| &n.env))?;
    let request = plan::Create {
        name,
        layout: ctx.session.layout(inv, args.origin.as_ref())?,
        origin: args.origin.clone(),
        description: args.description.clone(),
        now: ctx.now,
        upgrade: None,
        switch: how.map(|how| ctx.session.switch(inv, from, how)),
        min_free: plan::MIN_FREE,
    };
    let (name, planned, way) = plan::create(inv, &request)?;
    if way.is_some() {
        ctx.session.bootable(inv, args.origin.as_ref())?;
    }
    let done = match ctx.carry_out(work, &planned)? {
        Ok(done) => done,
        Err(shown) => return Ok(shown),
    };
    let mut fields = way.as_ref().map(activate::document).unwrap_or_default();
    fields.insert("environment".into(), json!(name));
    let how = way.map(|way| activate::sentence(&name, &way, ""));
    Ok(Outcome::new(fields.into())
        .text(format!("{name}\n"))
        .notes(how.map(|text| text.trim_end().to_owned()))
        .notes(done.notes)
        .notes(layout::behind(&ctx.session)))
}

fn take(args: &Args, ctx: &mut Context, env: &EnvName, name: &SnapName) -> Result<Outcome> {
    let taken = Named::snapshot(env, name);
    let option = [
        (args.activate, "activated"),
        (args.once, "activated"),
        (args.origin.is_some(), "made from another one"),
    ];
    if let Some((_, what)) = option.iter().find(|(given, _)| *given) {
        return Err(Refusal::IsSnapshot { name: taken, what }.into());
    }
    let work = ctx.begin()?;
    let request = plan::Snapshot {
        env: env.clone(),
        layout: ctx.session.layout(&work.inv, Some(&env.clone().into()))?,
        name: name.clone(),
        description: args.description.clone(),
        now: ctx.now,
    };
    let planned = plan::snapshot(&work.inv, &request)?;
    let done = match ctx.carry_out(work, &planned)? {
        Ok(done) => done,
        Err(shown) => return Ok(shown),
    };
    Ok(
        Outcome::new(json!({ "environment": env, "snapshot": name }))
            .text(format!("{taken}\n"))
            .notes(done.notes),
    )
}
