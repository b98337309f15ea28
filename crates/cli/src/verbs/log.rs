//! `be log`

mod html;
mod packages;
mod text;
mod timeline;
mod words;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use be_core::chroot::Interrupted;
use be_core::name::EnvName;
use be_core::refusal::NothingToDo;
use be_core::report;
use be_core::upgrade::Merging;
use chrono::Local;
use serde_json::json;

use crate::complete;
use crate::context::Context;
use crate::reporter::Outcome;

/// An upgrade that merges tells every second how far it is; what is older, in seconds, is over.
const STALE: i64 = 5;

/// How often it is looked whether there is more of a log.
const FOLLOW: Duration = Duration::from_millis(300);

/// Show what ran in an environment, its output, what its health checks found, and the report
/// of its upgrade.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which one; the newest that has a log if not given.
    #[arg(add = complete::environments())]
    env: Option<EnvName>,
    /// Go on showing what comes, until the upgrade has ended.
    #[arg(short = 'f', long, conflicts_with = "html")]
    follow: bool,
    /// The report alone, as one page for a browser.
    #[arg(long)]
    html: bool,
    /// Where to write the page; standard output if not given.
    #[arg(short = 'o', long, value_name = "FILE", requires = "html")]
    output: Option<PathBuf>,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let inv = ctx.session.observe()?;
    inv.initialised()?;
    let candidates = match &args.env {
        Some(name) => vec![inv.get(name)?],
        None => inv.environments.iter().rev().collect(),
    };
    for env in candidates {
        let (name, store) = (env.name(), &ctx.session.store);
        let found = report::read(&ctx.session, env, ctx.now)?;
        if args.html {
            match found {
                Some(found) => return page(args, &html::render(&found, ctx.now)?, name),
                None => continue,
            }
        }
        let upgrade = be_core::log::read(store, name)?;
        let checks = be_core::health::read(store, name)?;
        if upgrade.is_none() && checks.is_none() && found.is_none() {
            continue;
        }
        if args.follow && !ctx.json {
            let name = name.clone();
            follow(&name, ctx)?;
            let inv = ctx.session.observe()?;
            let found = report::read(&ctx.session, inv.get(&name)?, ctx.now)?;
            let shown = found.as_ref().map(text::render).unwrap_or_default();
            return Ok(Outcome::default().text(shown));
        }
        let log = upgrade.unwrap_or_default() + &checks.unwrap_or_default();
        let mut shown = log.clone();
        if let Some(found) = &found {
            // Where the eyes are when all has gone by.
            shown.push_str(&text::render(found));
        }
        let document = json!({ "environment": name, "log": log, "report": found });
        return Ok(Outcome::new(document).text(shown));
    }
    let what = if args.html { "report" } else { "log" };
    let of = args
        .env
        .as_ref()
        .map_or_else(|| "any environment".into(), ToString::to_string);
    Err(NothingToDo(format!("there is no {what} of {of}")).into())
}

/// Show the log of an environment while somebody works in it.
fn follow(name: &EnvName, ctx: &mut Context) -> Result<()> {
    let interrupted = Interrupted::watch()?;
    let mut shown = 0;
    loop {
        // Asked first, so that nothing of the last moment is missed.
        let works = ctx.session.store.is_claimed(name);
        let mut new = be_core::log::since(&ctx.session.store, name, shown)?;
        if works {
            // Below what moves there is no place for half a line.
            let whole = new
                .iter()
                .rposition(|b| *b == b'\n')
                .map_or(0, |end| end + 1);
            new.truncate(whole);
        }
        shown += new.len() as u64;
        let read = ctx.reporter.stream(&new);
        if !works || !read || interrupted.came() {
            return Ok(());
        }
        let told = ctx.session.store.told(name);
        let is_now = |merging: &Merging| Local::now().timestamp() - merging.now < STALE;
        ctx.reporter.watch(told.filter(is_now).as_ref());
        std::thread::sleep(FOLLOW);
    }
}

fn page(args: &Args, page: &str, name: &EnvName) -> Result<Outcome> {
    let Some(file) = &args.output else {
        return Ok(Outcome::new(json!({ "environment": name, "html": page })).text(page));
    };
    fs::write(file, page).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(Outcome::new(json!({ "environment": name, "file": file })))
}

#[cfg(test)]
mod tests;
