//! `be list`

mod forms;

use anyhow::Result;
use be_core::model::{Environment, Inventory};
use be_core::name::EnvName;
use be_core::space;
use chrono::{DateTime, FixedOffset, Local};
use clap::ValueEnum;
use serde_json::{Value, json};

use self::forms::{Form, Row, Rows};
use crate::complete;
use crate::context::Context;
use crate::reporter::Outcome;
use crate::spelling::Spelling;

/// List the environments.
///
/// Active: N is running now, R boots next (on trial, or by default), T the next time only.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For scripts: tabs, no header, seconds since 1970, bytes.
    #[arg(short = 'H', long, conflicts_with = "json")]
    script: bool,
    /// With the subvolumes and the snapshots of each.
    #[arg(short, long)]
    all: bool,
    /// With the subvolumes of each.
    #[arg(short = 'd', long)]
    subvolumes: bool,
    /// With the snapshots of each.
    #[arg(short, long)]
    snapshots: bool,
    /// As a tree: below each environment those that were cloned from it.
    #[arg(
        long,
        conflicts_with_all = ["script", "all", "subvolumes", "snapshots", "ascending", "descending"]
    )]
    tree: bool,
    /// Sort by KEY.
    #[arg(
        short = 'k',
        short_alias = 'c',
        value_name = "KEY",
        conflicts_with = "descending"
    )]
    ascending: Option<Key>,
    /// Sort by KEY, backwards.
    #[arg(short = 'K', short_alias = 'C', value_name = "KEY")]
    descending: Option<Key>,
    /// Find out the space that would be free without each: takes a while.
    #[arg(long)]
    space: bool,
    /// Only this one.
    #[arg(add = complete::environments())]
    name: Option<EnvName>,
}

/// What to sort by.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Key {
    /// By name.
    Name,
    /// By creation.
    #[value(alias = "date", alias = "creation")]
    Created,
    /// By the space that would be free without it.
    #[value(alias = "used")]
    Space,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let inv = ctx.session.observe()?;
    inv.initialised()?;
    let by_space = matches!(args.ascending.or(args.descending), Some(Key::Space));
    let spaces = match args.space || by_space {
        true => space::of(&ctx.session.store, &inv)?,
        false => space::Spaces::default(),
    };
    let environments: Vec<&Environment> = match &args.name {
        Some(name) => vec![inv.get(name)?],
        None => inv.environments.iter().collect(),
    };
    let kernels = ctx.session.kernels(&inv, &environments);
    let mut rows: Vec<Row> = environments
        .into_iter()
        .zip(kernels)
        .map(|(env, kernel)| Row {
            env,
            kernel,
            space: spaces.environment(env.name()),
        })
        .collect();
    match args.ascending.or(args.descending) {
        Some(Key::Name) => rows.sort_by_key(|r| r.env.name().clone()),
        Some(Key::Space) => rows.sort_by_key(|r| r.space.map(|s| s.exclusive)),
        Some(Key::Created) | None => {}
    }
    if args.descending.is_some() {
        rows.reverse();
    }
    let rows = Rows {
        subvolumes: args.all || args.subvolumes,
        snapshots: args.all || args.snapshots,
        spaces,
        rows,
    };
    let text = rows.text(match (args.script, args.tree) {
        (true, _) if ctx.spelling == Spelling::Beadm => Form::Beadm,
        (true, _) => Form::Script,
        (_, true) => Form::Tree(&local),
        (_, false) => Form::Table(&local),
    });
    // Of a thousand it takes longer than to find them.
    let environments: Vec<Value> = match ctx.json {
        true => rows.rows.iter().map(forms::document).collect(),
        false => Vec::new(),
    };
    Ok(Outcome::new(json!({ "environments": environments }))
        .text(text)
        .notes(damage(&inv)))
}

fn local(time: DateTime<FixedOffset>) -> String {
    let time = time.with_timezone(&Local);
    time.format("%Y-%m-%d %H:%M").to_string()
}

fn damage(inv: &Inventory) -> Vec<String> {
    let damaged = inv.damaged.iter();
    damaged
        .map(|(name, why)| format!("{name} is left out, its record cannot be read: {why}"))
        .collect()
}
