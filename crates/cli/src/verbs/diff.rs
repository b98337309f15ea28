//! `be diff`

mod document;
mod script;
pub mod text;

use anyhow::Result;
use be_core::diff::{Depth, Family, Side, compare};
use be_core::model::Inventory;
use be_core::name::Named;
use be_core::session::Session;

use crate::complete;
use crate::context::Context;
use crate::reporter::Outcome;

/// Show what differs from A to B: packages, kernels, configuration; with --files, every path.
///
/// Marks: + only in B, - only in A, U upgraded, D downgraded, R rebuilt, M changed (of a
/// package: its slot or repository). USE flags follow as +flag and -flag.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The one to begin with.
    #[arg(value_name = "ENV[@SNAP]", add = complete::both())]
    a: Named,
    /// The one to end with; the running one if not given.
    #[arg(value_name = "ENV[@SNAP]", add = complete::both())]
    b: Option<Named>,
    /// Show every path that differs as well.
    #[arg(long)]
    files: bool,
    /// For scripts: tabs, a line each, bytes.
    #[arg(short = 'H', long, conflicts_with = "json")]
    script: bool,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let inv = ctx.session.observe()?;
    let a = side(&ctx.session, &inv, Some(&args.a))?;
    let b = side(&ctx.session, &inv, args.b.as_ref())?;
    let family = Family::new(&ctx.session.store, &inv)?;
    let depth = match args.files {
        true => Depth::Files,
        false => Depth::Summary,
    };
    let diff = compare(&a, &b, Some(&family), depth)?;
    let text = match args.script {
        true => script::lines(&diff),
        false => text::render(&diff),
    };
    Ok(Outcome::new(document::of(&diff))
        .text(text)
        .notes(diff.notes))
}

/// What a name on the command line stands for; the running environment without one.
fn side(session: &Session, inv: &Inventory, name: Option<&Named>) -> Result<Side> {
    let env = inv.origin(name.map(|n| &n.env))?;
    match name.and_then(|n| n.snapshot.as_ref()) {
        Some(snapshot) => Side::of_snapshot(session, env, snapshot),
        None => Side::of(session, env),
    }
}
