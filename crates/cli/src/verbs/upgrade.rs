//! `be upgrade`

use std::path::PathBuf;

use anyhow::Result;
use be_core::chroot::Interrupted;
use be_core::config::Unbooted;
use be_core::gates::{Found, Gate};
use be_core::manager::{self, Manager};
use be_core::menu::Written;
use be_core::name::{EnvName, Named};
use be_core::portage::pretend::Planned;
use be_core::refusal::exit;
use be_core::upgrade::{self, Kind, Outcome as Upgraded, Pretended, Request};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::json;

pub(super) mod show;
pub(super) mod unattended;

use self::show::Show;
use super::activate::{self, Trial};
use super::diff::locked;
use crate::complete;
use crate::context::Context;
use crate::reporter::Outcome;

/// Upgrade a clone of the running system with its package manager, and make it boot next.
///
/// The running system is not touched. Everything after -- goes to emerge; without a
/// package or set there, @world is upgraded. Another package manager gets it as well.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name for the new environment; the date of today if not given.
    #[arg(conflicts_with = "continued")]
    name: Option<EnvName>,
    /// Clone this environment instead of the running one.
    #[arg(
        short = 'e',
        long,
        value_name = "ENV[@SNAP]",
        conflicts_with = "continued",
        add = complete::both()
    )]
    origin: Option<Named>,
    /// Go on with an upgrade that failed or was cut off.
    #[arg(long = "continue", value_name = "NAME", add = complete::environments())]
    continued: Option<EnvName>,
    /// Show what would be merged, and leave nothing behind.
    #[arg(long, conflicts_with = "continued")]
    pretend: bool,
    /// Leave what boots next as it is.
    #[arg(long, overrides_with = "activate", conflicts_with = "trial")]
    no_activate: bool,
    /// Make the result boot next (this is the default).
    #[arg(long, overrides_with = "no_activate")]
    activate: bool,
    #[command(flatten)]
    trial: Trial,
    /// Upgrade also if the very same failed or did not boot before, or waits to be booted.
    #[arg(long)]
    again: bool,
    /// What becomes of the result of an earlier upgrade that was never booted: it is deleted
    /// once the new one is ready, both are kept, or the upgrade goes on in it.
    #[arg(long, value_name = "WHAT", conflicts_with = "continued")]
    unbooted: Option<Earlier>,
    /// For a timer or cron: say nothing while it works and where there is nothing to do, go by
    /// [nightly] of be.toml, and prune afterwards.
    #[arg(long, conflicts_with = "pretend")]
    unattended: bool,
    /// Wait a random time first, up to so many minutes.
    #[arg(long, value_name = "MINUTES", requires = "unattended")]
    delay: Option<u32>,
    /// Reboot when it is done, if nobody is logged in.
    #[arg(long, requires = "unattended")]
    reboot_if_idle: bool,
    /// Wait until another upgrade that runs has ended, instead of exit code 4.
    #[arg(long)]
    wait: bool,
    /// Do not ask this gate; --continue remembers it.
    #[arg(long = "no-gate", value_name = "GATE", value_parser = gate())]
    no_gates: Vec<Gate>,
    /// Remove what nothing needs any more, once all is merged; kernels stay.
    #[arg(long, conflicts_with = "pretend")]
    depclean: bool,
    /// For who will not reboot: build in a clone, then merge the finished packages into the
    /// running system, in one short window. It is cloned just before, to go back to.
    #[arg(
        long,
        conflicts_with_all = ["activate", "no_activate", "trial", "origin", "unattended", "depclean", "lock"]
    )]
    live: bool,
    /// Make it as this lock says, which be lock has printed: repositories at its commits, its
    /// configuration and its packages. Exit code 7 if it did not come out the same.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["continued", "unattended", "unbooted", "depclean"]
    )]
    lock: Option<PathBuf>,
    /// Options and packages for emerge, or for another package manager.
    #[arg(last = true, value_name = "EMERGE-OPTION")]
    options: Vec<String>,
}

/// What becomes of an earlier result.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Earlier {
    Replace,
    Keep,
    Continue,
}

impl From<Earlier> for Unbooted {
    fn from(earlier: Earlier) -> Self {
        match earlier {
            Earlier::Replace => Self::Replace,
            Earlier::Keep => Self::Keep,
            Earlier::Continue => Self::Continue,
        }
    }
}

/// The gates that can be switched off, by their names.
fn gate() -> impl TypedValueParser<Value = Gate> {
    let names = PossibleValuesParser::new(Gate::SWITCHED.map(Gate::name));
    names.try_map(|name| Gate::parse(&name).ok_or("there is no such gate"))
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let kind = match &args.continued {
        Some(name) => Kind::Continue(name.clone()),
        None => Kind::New {
            name: args.name.clone(),
            origin: args.origin.clone(),
        },
    };
    let boots = args.activate || args.trial.wanted() == Some(true);
    let live = args.live || (!boots && is_live(args, ctx)?);
    let lock = args.lock.as_deref().map(super::lock::read).transpose()?;
    let request = Request {
        kind,
        pretend: args.pretend,
        activate: match (boots, args.no_activate) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ if live => Some(false),
            _ => None,
        },
        trial: args.trial.wanted(),
        again: args.again,
        unbooted: args.unbooted.map(Unbooted::from),
        wait: args.wait,
        no_gates: args.no_gates.clone(),
        depclean: args.depclean,
        live,
        lock: lock.map(Box::new),
        options: args.options.clone(),
        now: ctx.now,
    };
    if ctx.dry_run {
        return dry_run(ctx, &request);
    }
    if args.unattended {
        return unattended::run(args, &request, ctx);
    }
    // Confirms the running environment and gives the lock back: an upgrade takes it itself.
    drop(ctx.begin()?);
    let interrupted = Interrupted::watch()?;
    let mut show = Show::new(ctx.reporter);
    let run = match live {
        true => upgrade::run_live,
        false => upgrade::run,
    };
    let done = run(&ctx.session, &request, &interrupted, &mut show)?;
    let wanted = matches!(done, Upgraded::Ready(_)) && ctx.session.config.prune.after_upgrade;
    let pruned = match wanted {
        true => super::prune::afterwards(ctx),
        false => Vec::new(),
    };
    outcome(done, pruned)
}

/// Whether what is to be gone on with was begun with --live.
fn is_live(args: &Args, ctx: &Context) -> Result<bool> {
    let Some(name) = &args.continued else {
        return Ok(false);
    };
    let inv = ctx.session.observe()?;
    let upgrade = inv.get(name).ok().and_then(|e| e.record.upgrade.as_ref());
    Ok(upgrade.is_some_and(|u| u.live))
}

/// What it came to, with what was pruned after it.
fn outcome(done: Upgraded, pruned: Vec<String>) -> Result<Outcome> {
    let report = match done {
        Upgraded::Pretended(planned) => {
            let lines: Vec<String> = match &planned {
                Pretended::Portage(planned) => planned.iter().map(line).collect(),
                Pretended::Profile(planned) => planned.iter().map(plain_line).collect(),
            };
            let text: String = lines.into_iter().map(|line| line + "\n").collect();
            return Ok(Outcome::new(json!({ "pretended": planned })).text(text));
        }
        Upgraded::Merged(live) => {
            let text: String = live.lines().into_iter().map(|line| line + "\n").collect();
            return Ok(Outcome::new(json!({ "live": live })).text(text));
        }
        Upgraded::Ready(report) => report,
    };
    let menu: Vec<String> = report.menu.iter().flat_map(Written::notes).collect();
    Ok(Outcome::new(json!({
        "environment": report.name,
        "packages": report.packages,
        "kernel": report.kernel,
        "sources": report.sources,
        "config": report.config,
        "debt": report.debt,
        "replaced": report.replaced,
        "deviations": report.deviations.iter().map(locked::document).collect::<Vec<_>>(),
        "gates": report.gates.iter().map(Found::record).collect::<Vec<_>>(),
        "live": report.live,
        "activated": report.activated.is_some(),
        "boot": report.activated.as_ref().map(activate::document),
    }))
    .text(report.text())
    .code(match report.deviations.is_empty() {
        true => exit::DONE,
        false => exit::CONFLICTS,
    })
    .notes(report.notes.clone())
    .notes(menu)
    .notes(pruned))
}

/// `app-misc/hello 1 -> 2`, or the new package alone.
fn line(planned: &Planned) -> String {
    match (planned.cp(), planned.old.is_empty()) {
        (Some(cp), false) => {
            let new = planned.package.strip_prefix(&format!("{cp}-"));
            let new = new.unwrap_or(&planned.package);
            format!("{cp} {} -> {new}", planned.old.join(" "))
        }
        _ => planned.package.clone(),
    }
}

/// The same of another package manager: `hello 1 -> 2`.
fn plain_line(planned: &manager::Planned) -> String {
    let (package, old) = (&planned.package, planned.old.join(" "));
    match (&planned.new, old.is_empty()) {
        (Some(new), true) => format!("{package} {new} (new)"),
        (Some(new), false) => format!("{package} {old} -> {new}"),
        (None, _) => format!("{package} {old} (removed)"),
    }
}

fn dry_run(ctx: &Context, request: &Request) -> Result<Outcome> {
    let (record, plan) = upgrade::plan(&ctx.session, &ctx.session.observe()?, request)?;
    let name = &record.name;
    let mut steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
    if request.lock.is_some() {
        steps.push(format!(
            "bring the repositories in {name} to the commits of the lock"
        ));
        steps.push(format!(
            "make /etc/portage and world in {name} as the lock says"
        ));
    } else if ctx.session.config.upgrade.sync && !request.live {
        steps.push(format!("synchronise the repositories in {name}"));
    }
    steps.push(format!("compute what to merge in {name}"));
    if !request.pretend {
        steps.push(format!("fetch what is needed in {name}"));
        steps.push(format!("merge it in {name}"));
        if request.lock.is_some() {
            steps.push(format!("remove from {name} what the lock does not have"));
        }
        let manager = ctx.session.manager_of(&ctx.session.root)?;
        let manager = manager.unwrap_or_default();
        if manager == Manager::Portage {
            steps.push(format!("do the chores that are due in {name}"));
        }
        if manager.looks_after_files() && ctx.session.config.upgrade.merge_config {
            steps.push(format!("merge configuration files in {name}"));
        }
        steps.push(format!("check that {name} boots"));
        if request.lock.is_some() {
            steps.push(format!("compare {name} with the lock"));
        }
        let gates = &ctx.session.config.gates;
        let asked = Gate::SWITCHED.into_iter();
        let asked = asked.filter(|g| g.is_on(gates) && !request.no_gates.contains(g));
        let asked: Vec<_> = asked.map(Gate::name).collect();
        if !asked.is_empty() {
            steps.push(format!(
                "take {name} through the gates {}",
                asked.join(", ")
            ));
        }
        steps.push(
            match request
                .activate
                .unwrap_or(ctx.session.config.upgrade.activate)
            {
                true => format!("write the menu; {name} boots next"),
                false => "write the menu; the default stays".to_owned(),
            },
        );
    }
    if request.live && !request.pretend {
        let sync = ctx.session.config.upgrade.sync;
        steps.splice(
            0..0,
            sync.then(|| "synchronise the repositories of the running system".into()),
        );
        steps.push("clone the running system, to go back to".into());
        steps.push("merge the finished packages into the running system".into());
    }
    let text: String = steps.iter().map(|s| format!("would {s}\n")).collect();
    Ok(Outcome::new(json!({ "dry_run": true, "steps": steps }))
        .text(text)
        .notes(plan.notes))
}
