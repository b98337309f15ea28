//! `be upgrade`

use anyhow::Result;
use be_core::chroot::Interrupted;
use be_core::menu::Written;
use be_core::name::{EnvName, Named};
use be_core::portage::log::{Progress, render};
use be_core::portage::pretend::Planned;
use be_core::record::Phase;
use be_core::upgrade::{self, Kind, Outcome as Upgraded, Request, Watch};
use serde_json::json;

use super::activate::{self, Trial};
use crate::complete;
use crate::context::Context;
use crate::reporter::{Outcome, Reporter};

/// Upgrade a clone of the running system with Portage, and make it boot next.
///
/// The running system is not touched. Everything after -- goes to emerge; without a
/// package or set there, @world is upgraded.
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
    /// Upgrade also if the very same did not boot before.
    #[arg(long)]
    again: bool,
    /// Options and packages for emerge.
    #[arg(last = true, value_name = "EMERGE-OPTION")]
    options: Vec<String>,
}

/// Shows an upgrade at work.
struct Show<'a> {
    reporter: &'a mut Reporter,
    last: String,
}

impl Watch for Show<'_> {
    fn note(&mut self, text: &str) {
        self.reporter.note(text);
    }

    fn phase(&mut self, name: &EnvName, phase: Phase) {
        let what = match phase {
            Phase::Clone => "cloning",
            Phase::Sync => "synchronising the repositories",
            Phase::Preview => "computing what to merge",
            Phase::Merge => "merging",
            Phase::Check => "checking the result",
            Phase::Done => "done",
        };
        self.reporter.note(&format!("{name}: {what}"));
        self.reporter.progress(
            &json!({ "schema": "be/v1", "event": "phase", "environment": name, "phase": phase }),
        );
    }

    fn progress(&mut self, progress: &Progress, left: Option<u64>, now: i64) {
        let line = render(progress, now, left, 79);
        if line == self.last {
            return;
        }
        self.reporter.status_line(&line);
        self.reporter.progress(&json!({
            "schema": "be/v1",
            "event": "merge",
            "done": progress.done,
            "total": progress.total,
            "package": progress.current().map(|job| &job.package),
            "seconds_left": left,
        }));
        self.last = line;
    }
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let kind = match &args.continued {
        Some(name) => Kind::Continue(name.clone()),
        None => Kind::New {
            name: args.name.clone(),
            origin: args.origin.clone(),
        },
    };
    let request = Request {
        kind,
        pretend: args.pretend,
        activate: match (
            args.activate || args.trial.wanted() == Some(true),
            args.no_activate,
        ) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        },
        trial: args.trial.wanted(),
        again: args.again,
        options: args.options.clone(),
        now: ctx.now,
    };
    if ctx.dry_run {
        return dry_run(ctx, &request);
    }
    // Confirms the running environment and gives the lock back: an upgrade takes it itself.
    drop(ctx.begin()?);
    let interrupted = Interrupted::watch()?;
    let mut show = Show {
        reporter: ctx.reporter,
        last: String::new(),
    };
    match upgrade::run(&ctx.session, &request, &interrupted, &mut show)? {
        Upgraded::Pretended(planned) => {
            let text: String = planned.iter().map(|p| line(p) + "\n").collect();
            Ok(Outcome::new(json!({ "pretended": planned })).text(text))
        }
        Upgraded::Ready(report) => {
            let menu: Vec<String> = report.menu.iter().flat_map(Written::notes).collect();
            let pruned = match ctx.session.config.prune.after_upgrade {
                true => super::prune::afterwards(ctx),
                false => Vec::new(),
            };
            Ok(Outcome::new(json!({
                "environment": report.name,
                "packages": report.packages,
                "kernel": report.kernel,
                "debt": report.debt,
                "activated": report.activated.is_some(),
                "boot": report.activated.as_ref().map(activate::document),
            }))
            .text(report.text())
            .notes(report.notes.clone())
            .notes(menu)
            .notes(pruned))
        }
    }
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

fn dry_run(ctx: &Context, request: &Request) -> Result<Outcome> {
    let (record, plan) = upgrade::plan(&ctx.session, &ctx.session.observe()?, request)?;
    let name = &record.name;
    let mut steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
    if ctx.session.config.upgrade.sync {
        steps.push(format!("synchronise the repositories in {name}"));
    }
    steps.push(format!("compute what to merge in {name}"));
    if !request.pretend {
        steps.push(format!("merge it in {name}"));
        steps.push(format!("check that {name} boots"));
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
    let text: String = steps.iter().map(|s| format!("would {s}\n")).collect();
    Ok(Outcome::new(json!({ "dry_run": true, "steps": steps }))
        .text(text)
        .notes(plan.notes))
}
