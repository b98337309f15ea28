//! `be build`

use std::path::{Path, PathBuf};

use anyhow::Result;
use be_core::chroot::Interrupted;
use be_core::lock::Lock;
use be_core::name::{EnvName, Named};
use be_core::refusal::{NothingToDo, Refusal};
use be_core::upgrade::build::{self, Build, BuildFailed, Kind, Published};
use chrono::Local;
use serde_json::json;

mod client;

use super::upgrade::show::Show;
use super::upgrade::unattended::Silent;
use super::{exec, shell};
use crate::complete;
use crate::context::Context;
use crate::mail;
use crate::reporter::{Outcome, count};

/// Build packages for other machines in a clone, and publish them as a binary package host.
///
/// The clone has the configuration of the system that it is made of, and is gone once its
/// packages are published. What fails is held, to be mended: be build shell, be build continue.
/// Any HTTP server serves the directory; be build client prints what a client needs.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Build @world, or what is named, in a new clone, and publish the packages.
    Run(Run),
    /// Go on with a build that failed, and publish.
    Continue {
        /// Wait until another upgrade that runs has ended, instead of exit code 4.
        #[arg(long)]
        wait: bool,
    },
    /// Show the builder, and what is published.
    Status,
    /// Open a shell in the builder, to mend what failed.
    Shell {
        /// A command to run there instead.
        #[arg(last = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Delete the builder. Packages that are finished are kept.
    Drop,
    /// Print what a client puts into /etc/portage/binrepos.conf.
    Client(client::Args),
}

#[derive(Debug, clap::Args)]
struct Run {
    /// Name for the builder; build- and the date of today if not given.
    name: Option<EnvName>,
    /// Build for this environment instead of the running one, or for the system that a lock is
    /// of, which be lock has printed there: what has a / in it, or is no environment, is a file.
    #[arg(long, value_name = "ENV[@SNAP]|FILE", alias = "from", add = complete::both())]
    profile_from: Option<PathBuf>,
    /// Publish in this directory; be.toml says where without this.
    #[arg(long, value_name = "DIR")]
    packages: Option<String>,
    /// Build also what is installed already (emerge --emptytree).
    #[arg(long)]
    all: bool,
    /// Only if the time [build] every of be.toml has passed since the last build that ended
    /// well: for cron, or a timer.
    #[arg(long)]
    due: bool,
    /// Say nothing while it works, and send a mail to [build] mail of be.toml if it fails.
    #[arg(long)]
    unattended: bool,
    /// Wait until another upgrade that runs has ended, instead of exit code 4.
    #[arg(long)]
    wait: bool,
    /// Packages, and options for emerge; @world without a package.
    #[arg(last = true, value_name = "ATOM")]
    options: Vec<String>,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    match &args.action {
        Action::Run(args) => {
            let (origin, lock) = match &args.profile_from {
                Some(from) => profile(from, ctx)?,
                None => (None, None),
            };
            let request = Build {
                kind: Kind::New {
                    name: args.name.clone(),
                    origin,
                },
                lock,
                packages: args.packages.clone(),
                due: args.due,
                all: args.all,
                wait: args.wait,
                options: args.options.clone(),
                now: ctx.now,
            };
            work(&request, args.unattended, ctx)
        }
        Action::Continue { wait } => {
            let request = Build {
                kind: Kind::Continue,
                lock: None,
                packages: None,
                due: false,
                all: false,
                wait: *wait,
                options: Vec::new(),
                now: ctx.now,
            };
            work(&request, false, ctx)
        }
        Action::Status => status(ctx),
        Action::Shell { command } => enter(command, ctx),
        Action::Drop => give_up(ctx),
        Action::Client(args) => client::run(args, ctx),
    }
}

/// The environment, or the lock, that `--profile-from` means.
fn profile(from: &Path, ctx: &Context) -> Result<(Option<Named>, Option<Box<Lock>>)> {
    let text = from.to_string_lossy();
    let named = text.parse::<Named>();
    let inv = ctx.session.observe()?;
    let is_one = |named: &Named| inv.get(&named.env).is_ok();
    match named {
        Ok(named) if is_one(&named) || !from.exists() => Ok((Some(named), None)),
        _ => Ok((None, Some(Box::new(super::lock::read(from)?)))),
    }
}

fn work(request: &Build, unattended: bool, ctx: &mut Context) -> Result<Outcome> {
    if ctx.dry_run {
        return dry_run(request, ctx);
    }
    if unattended {
        ctx.reporter.silence_nothing();
    }
    // Gives the lock back: a build takes it itself.
    drop(ctx.begin_unconfirmed()?);
    let interrupted = Interrupted::watch()?;
    let done = match unattended {
        true => build::run(&ctx.session, request, &interrupted, &mut Silent),
        false => {
            let mut show = Show::new(ctx.reporter);
            build::run(&ctx.session, request, &interrupted, &mut show)
        }
    };
    match done {
        Ok(published) => Ok(report(&published)),
        Err(error) => {
            if unattended && !error.is::<NothingToDo>() {
                tell_failure(ctx, &error);
            }
            Err(error)
        }
    }
}

fn report(published: &Published) -> Outcome {
    let mut text = String::new();
    for package in &published.new {
        text.push_str(&format!("new: {package}\n"));
    }
    for package in &published.gone {
        text.push_str(&format!("gone: {package}\n"));
    }
    let (all, dir) = (count(published.count, "package"), &published.packages);
    text.push_str(&format!("{dir}: {all} published\n"));
    Outcome::new(json!({ "published": published })).text(text)
}

fn tell_failure(ctx: &mut Context, error: &anyhow::Error) {
    let mut text = format!("{error:#}\n");
    let failed = error.chain().find_map(|e| e.downcast_ref::<BuildFailed>());
    if let Some(failed) = failed {
        text = format!("{failed}\n\n{}\n", failed.hint());
        text.push_str(&mail::end_of_log(&ctx.session, &failed.name));
    }
    let to = ctx.session.config.build.mail.clone();
    if let Err(e) = mail::send(&to, "be: the build failed", &text) {
        ctx.reporter.note(&format!("{e:#}"));
    }
}

fn dry_run(request: &Build, ctx: &Context) -> Result<Outcome> {
    let (record, plan) = build::plan(&ctx.session, &ctx.session.observe()?, request)?;
    let name = &record.name;
    let mut steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
    if request.lock.is_some() {
        steps.push(format!(
            "make repositories, /etc/portage, world and toolchain in {name} as the lock says"
        ));
    } else if ctx.session.config.upgrade.sync {
        steps.push(format!("synchronise the repositories in {name}"));
    }
    steps.push(format!("fetch what is needed in {name}"));
    steps.push(format!("build it in {name}"));
    let packages = record.builder.as_ref().map(|b| b.packages.as_str());
    steps.push(format!("publish it in {}", packages.unwrap_or_default()));
    steps.push(format!("remove {name}"));
    let text: String = steps.iter().map(|s| format!("would {s}\n")).collect();
    Ok(Outcome::new(json!({ "dry_run": true, "steps": steps }))
        .text(text)
        .notes(plan.notes))
}

fn status(ctx: &Context) -> Result<Outcome> {
    let status = build::status(&ctx.session)?;
    let local = |time: &chrono::DateTime<chrono::FixedOffset>| {
        let time = time.with_timezone(&Local);
        time.format("%Y-%m-%d %H:%M").to_string()
    };
    let mut text = String::new();
    if let Some(builder) = &status.builder {
        let (name, started) = (&builder.name, local(&builder.started));
        let phase = builder.phase.map_or("clone", |phase| phase.as_str());
        text.push_str(&match (builder.state, &builder.until) {
            ("building", _) => format!("{name} is building since {started} ({phase})\n"),
            (_, Some(until)) => {
                format!(
                    "{name} failed ({phase}) and is held until {}\n",
                    local(until)
                )
            }
            _ => format!("{name} was cut off ({phase}): the next build begins anew\n"),
        });
        for package in &builder.failed {
            text.push_str(&format!("  failed: {package}\n"));
        }
        if let Some(error) = builder.error.as_ref().filter(|_| builder.failed.is_empty()) {
            text.push_str(&format!("  {error}\n"));
        }
        if builder.until.is_some() {
            text.push_str("  next: be build shell, be build continue, or be build drop\n");
        }
    }
    let dir = &status.packages;
    text.push_str(&match status.count {
        Some(n) => format!("{dir}: {} published", count(n, "package")),
        None => format!("{dir}: nothing is published"),
    });
    if let Some(last) = &status.last {
        text.push_str(&format!(", last built {}", local(last)));
    }
    text.push('\n');
    Ok(Outcome::new(json!({ "build": status })).text(text))
}

fn enter(command: &[String], ctx: &mut Context) -> Result<Outcome> {
    let inv = ctx.session.observe()?;
    inv.initialised()?;
    let env = build::builders(&inv).last().ok_or(Refusal::NoBuilder)?;
    let name = env.name().clone();
    match command.is_empty() {
        false => exec::enter(&name, command.to_vec(), None, ctx),
        true => {
            let word = format!(
                "you are in {name}; leave it with exit, then: be build continue. Packages that \
                 you build with emerge --buildpkg are published, too"
            );
            exec::enter(&name, shell::login(), Some(word), ctx)
        }
    }
}

fn give_up(ctx: &mut Context) -> Result<Outcome> {
    let work = ctx.begin_unconfirmed()?;
    let names: Vec<EnvName> = build::builders(&work.inv)
        .map(|env| env.name().clone())
        .collect();
    let planned = build::give_up(&ctx.session, &work.inv)?;
    let done = match ctx.carry_out(work, &planned)? {
        Ok(done) => done,
        Err(shown) => return Ok(shown),
    };
    Ok(Outcome::new(json!({ "destroyed": names })).notes(done.notes.clone()))
}
