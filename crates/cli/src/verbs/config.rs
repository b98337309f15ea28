//! `be config`

mod list;
mod walk;

use std::path::{Path, PathBuf};

use anyhow::Result;
use be_core::config_files::{Desk, Item, Kept, Stamp};
use be_core::model::Environment;
use be_core::name::{EnvName, Named};
use be_core::portage::config_files::accounts;
use be_core::portage::config_files::waiting::Kind;
use be_core::refusal::{NothingToDo, Refusal, exit};
use clap::ValueHint;
use serde_json::{Value, json};

use super::environment;
use crate::complete;
use crate::context::Context;
use crate::reporter::Outcome;

/// Deal with configuration files of which a new version waits (._cfg0000_NAME), and with what
/// other package managers leave beside them (NAME.dpkg-dist, NAME.rpmsave, NAME.pacnew).
///
/// At a terminal it shows what differs, and asks about each. Elsewhere it lists them; the
/// exit code is 7 if there are any, 77 if there are none. What a file was before is kept in
/// /var/lib/be/config/before of the environment.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which one; the running one if not given.
    #[arg(add = complete::environments())]
    env: Option<Named>,
    /// List them, and ask nothing.
    #[arg(long, conflicts_with_all = ["keep", "take"])]
    list: bool,
    /// Keep this file as it is; what waits beside it goes.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    keep: Vec<PathBuf>,
    /// Put what waits in the place of this file.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    take: Vec<PathBuf>,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let name = match &args.env {
        Some(named) => environment(named, "changed")?,
        None => ctx.session.observe()?.running()?.name().clone(),
    };
    let orders = !args.keep.is_empty() || !args.take.is_empty();
    let walks = !args.list && !orders && !ctx.dry_run && ctx.reporter.can_ask();
    if !(orders || walks) || ctx.dry_run {
        return match orders {
            true => dry_run(args, &name, ctx),
            false => look(args, &name, ctx),
        };
    }
    // Confirms the running environment; whoever thinks for long has the environment alone.
    drop(ctx.begin()?);
    let inv = ctx.session.observe()?;
    let env = inv.get(&name)?;
    let desk = Desk::open(&ctx.session, &inv, env)?;
    let stamp = Stamp::new(ctx.now);
    match walks {
        true => walk::run(&desk, env, &stamp, ctx),
        false => carry_out(args, &desk, env, &stamp),
    }
}

fn look(args: &Args, name: &EnvName, ctx: &Context) -> Result<Outcome> {
    let inv = ctx.session.observe()?;
    let desk = Desk::look(&ctx.session, &inv, inv.get(name)?)?;
    let listed = list::outcome(name, &desk.items);
    match (args.list || ctx.dry_run, desk.items.is_empty()) {
        (true, _) => Ok(listed),
        (false, false) => Ok(listed.code(exit::CONFLICTS)),
        (false, true) => Err(nothing(name)),
    }
}

fn nothing(name: &EnvName) -> anyhow::Error {
    NothingToDo(format!(
        "nothing waits beside a configuration file in {name}"
    ))
    .into()
}

/// What is asked for, each found.
fn orders<'a>(args: &'a Args, desk: &'a Desk, env: &Environment) -> Result<Vec<(Order, &'a Item)>> {
    let keep = args.keep.iter().map(|path| (Order::Keep, path));
    let take = args.take.iter().map(|path| (Order::Take, path));
    let mut orders: Vec<(Order, &Item)> = Vec::new();
    for (order, path) in keep.chain(take) {
        let item = desk.find(env, path)?;
        if order == Order::Take && accounts::is_list(&item.path()) {
            return Err(Refusal::Accounts {
                name: env.name().clone(),
                path: item.target.clone(),
            }
            .into());
        }
        // Named twice, the first counts.
        if !orders.iter().any(|(_, known)| *known == item) {
            orders.push((order, item));
        }
    }
    Ok(orders)
}

#[derive(Clone, Copy, PartialEq)]
enum Order {
    Keep,
    Take,
}

fn dry_run(args: &Args, name: &EnvName, ctx: &Context) -> Result<Outcome> {
    let inv = ctx.session.observe()?;
    let env = inv.get(name)?;
    let desk = Desk::look(&ctx.session, &inv, env)?;
    let step = |(order, item): (Order, &Item)| {
        let path = item.target.display();
        match order {
            Order::Keep => format!("keep {path} in {name}"),
            Order::Take if item.kind == Kind::Old => {
                let file = item.files.last().unwrap_or(&item.target);
                format!("replace {path} in {name} by {}", file.display())
            }
            Order::Take => format!("replace {path} in {name} by its new version"),
        }
    };
    let steps: Vec<String> = orders(args, &desk, env)?.into_iter().map(step).collect();
    let text: String = steps.iter().map(|s| format!("would {s}\n")).collect();
    Ok(Outcome::new(json!({ "dry_run": true, "steps": steps })).text(text))
}

fn carry_out(args: &Args, desk: &Desk, env: &Environment, stamp: &Stamp) -> Result<Outcome> {
    let mut done = Done::default();
    for (order, item) in orders(args, desk, env)? {
        match order {
            Order::Keep => {
                done.keep(item, &desk.keep(item, stamp)?);
            }
            Order::Take => {
                done.note(item, &desk.take(item, stamp)?);
                done.taken.push(item.path());
            }
        }
    }
    Ok(done.outcome(env.name(), desk.items.len()))
}

/// What was done.
#[derive(Default)]
struct Done {
    kept: Vec<String>,
    taken: Vec<String>,
    merged: Vec<String>,
    notes: Vec<String>,
}

impl Done {
    /// The file stays; what waited may be elsewhere now.
    fn keep(&mut self, item: &Item, waited: &Kept) {
        if let (Some(file), Some(kept)) = (item.files.last(), waited) {
            let (file, kept) = (file.display(), kept.display());
            self.notes.push(format!("{file} is there now: {kept}"));
        }
        self.kept.push(item.path());
    }

    fn note(&mut self, item: &Item, before: &Kept) {
        if let Some(before) = before {
            let (path, before) = (item.target.display(), before.display());
            self.notes.push(format!("what {path} was before: {before}"));
        }
    }

    fn outcome(self, name: &EnvName, of: usize) -> Outcome {
        let done = self.kept.len() + self.taken.len() + self.merged.len();
        let left = of - done;
        let lines = |word: &str, paths: &[String]| -> String {
            paths
                .iter()
                .map(|path| format!("{word}: {}\n", shown(path)))
                .collect()
        };
        let text = lines("kept", &self.kept)
            + &lines("taken", &self.taken)
            + &lines("merged", &self.merged);
        Outcome::new(json!({
            "environment": name,
            "kept": self.kept,
            "taken": self.taken,
            "merged": self.merged,
            "left": left,
        }))
        .text(text)
        .notes(self.notes)
    }
}

/// A path that cannot be mistaken for several, or for an order to the terminal.
fn shown(path: &str) -> String {
    match path.chars().any(char::is_control) {
        true => format!("{path:?}"),
        false => path.to_owned(),
    }
}

fn strings(paths: &[PathBuf]) -> Value {
    json!(
        paths
            .iter()
            .map(|p| Path::to_string_lossy(p))
            .collect::<Vec<_>>()
    )
}
