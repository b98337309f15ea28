//! `be diff`

mod document;
pub mod locked;
mod script;
pub mod text;

use std::path::PathBuf;

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
///
/// With --lock, what differs from the lock in FILE to ENV, as it is now.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The one to begin with.
    #[arg(
        value_name = "ENV[@SNAP]",
        required_unless_present = "lock",
        add = complete::both()
    )]
    a: Option<Named>,
    /// The one to end with; the running one if not given.
    #[arg(value_name = "ENV[@SNAP]", conflicts_with = "lock", add = complete::both())]
    b: Option<Named>,
    /// Begin with this lock, as be lock prints it; then one environment at the most is named.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["files", "script"])]
    lock: Option<PathBuf>,
    /// Show every path that differs as well.
    #[arg(long)]
    files: bool,
    /// For scripts: tabs, a line each, bytes.
    #[arg(short = 'H', long, conflicts_with = "json")]
    script: bool,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    if let Some(file) = &args.lock {
        return locked::run(file, args.a.as_ref(), ctx);
    }
    let inv = ctx.session.observe()?;
    let a = side(&ctx.session, &inv, args.a.as_ref())?;
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
