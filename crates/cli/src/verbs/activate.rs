//! `be activate`

use anyhow::{Context as _, Result};
use be_core::host;
use be_core::layout;
use be_core::name::{EnvName, Named};
use be_core::plan::{self, How, Left, Plan, Way as Booting};
use be_core::reboot;
use be_core::refusal::Refusal;
use be_core::selection;
use be_core::stale::{LeftBehind, left_behind};
use serde_json::{Map, Value, json};

use super::carry::{self, Wanted};
use super::environment;
use crate::complete;
use crate::context::{Context, Work};
use crate::reporter::{Outcome, count};

/// Choose the environment that boots by default.
///
/// Into the result of an upgrade that was not booted yet goes first what changed on the running
/// system meanwhile. Where the service be-carry runs, the switch comes when this system shuts
/// down, with the last changes. Any other environment stays as it is.
///
/// One that was never confirmed boots on trial where GRUB can count boots: if it is not
/// confirmed in a few of them, the machine falls back by itself.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For the next boot only.
    #[arg(short = 't', long, conflicts_with_all = ["trial", "no_trial"])]
    once: bool,
    /// Undo -t.
    #[arg(short = 'T', long, conflicts_with_all = ["once", "trial", "no_trial"])]
    undo_once: bool,
    #[command(flatten)]
    trial: Trial,
    /// Switch to it at once, on trial: all that runs here ends.
    ///
    /// By a soft-reboot where systemd can and the kernel stays the same, else by kexec where that
    /// is installed, else by a plain reboot.
    #[arg(long, conflicts_with_all = ["once", "undo_once", "no_trial"])]
    now: bool,
    #[command(flatten)]
    carry: Carry,
    /// Refuse if something was changed on both sides that a person should look at.
    #[arg(long, conflicts_with_all = ["undo_once", "no_carry"])]
    strict: bool,
    /// Which one.
    #[arg(required_unless_present = "undo_once", add = complete::environments())]
    name: Option<Named>,
}

/// What changed on the running system since the environment was cloned goes over first, by
/// itself; see be carry.
#[derive(Debug, clap::Args)]
pub struct Carry {
    /// Carry over first what changed on the running system, whatever the environment is.
    #[arg(long, overrides_with = "no_carry", conflicts_with = "undo_once")]
    carry: bool,
    /// Leave the environment as it is, now and when this system shuts down.
    #[arg(long, overrides_with = "carry")]
    no_carry: bool,
}

impl Carry {
    fn wanted(&self) -> Option<bool> {
        match (self.carry, self.no_carry) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    }
}

/// Whether on trial; where neither is given, what was never confirmed is, if it can be.
#[derive(Debug, clap::Args)]
pub struct Trial {
    /// On trial, or not at all.
    #[arg(long, overrides_with = "no_trial")]
    trial: bool,
    /// By default at once, without a trial.
    #[arg(long, overrides_with = "trial")]
    no_trial: bool,
}

impl Trial {
    /// What was asked for.
    pub fn wanted(&self) -> Option<bool> {
        match (self.trial, self.no_trial) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    }

    fn how(&self) -> How {
        match self.wanted() {
            Some(true) => How::Trial,
            Some(false) => How::Default,
            None => How::Auto,
        }
    }
}

impl Args {
    fn how(&self) -> How {
        match self.once {
            true => How::Once,
            false => self.trial.how(),
        }
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            carry: self.carry.wanted(),
            strict: self.strict,
        }
    }
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let name = args.name.as_ref().map(|n| environment(n, "activated"));
    match name.transpose()? {
        Some(name) if !args.undo_once => match args.now {
            true => at_once(ctx, &name, args.wanted()),
            false => {
                let work = ctx.begin()?;
                let when = When::new(args.how(), args.wanted());
                switch_with(ctx, work, &name, when, args.wanted())
            }
        },
        name => undo_once(ctx, name.as_ref()),
    }
}

fn undo_once(ctx: &mut Context, name: Option<&EnvName>) -> Result<Outcome> {
    let work = ctx.begin()?;
    if let Some(name) = name {
        work.inv.get(name)?;
    }
    let planned = plan::undo_once(&work.inv)?;
    let done = match ctx.carry_out(work, &planned)? {
        Ok(done) => done,
        Err(shown) => return Ok(shown),
    };
    Ok(Outcome::new(json!({ "once": null }))
        .text("no environment is chosen for one boot only\n")
        .notes(done.notes))
}

/// Make `name` boot next, and leave what runs for it.
fn at_once(ctx: &mut Context, name: &EnvName, wanted: Wanted) -> Result<Outcome> {
    let work = ctx.begin()?;
    let inv = &work.inv;
    if inv.sysroot != std::path::Path::new("/") || !host::sees_the_machine() {
        return Err(Refusal::NotHere.into());
    }
    let env = inv.get(name)?.clone();
    if env.running {
        let when = When::of(How::Auto);
        return Ok(switch(ctx, work, name, when)?.more("it runs already\n"));
    }
    let kernel = match env.root {
        Some(_) => ctx.session.examine(inv, &env)?.kernels.into_iter().next(),
        None => None,
    };
    let trial = selection::Trial {
        name: name.to_string(),
        left: ctx.session.config.trial.tries,
    };
    let when = When {
        at_once: true,
        ..When::new(How::Trial, wanted)
    };
    let mut outcome = switch_with(ctx, work, name, when, wanted)?;
    // What does not boot is not activated.
    let kernel = kernel.context("it has no kernel")?;
    let ways = reboot::ways(&ctx.session, &env, &kernel);
    let mut way = ways.best();
    let mut reasons = ways.reasons();
    if ctx.dry_run {
        outcome.fields.insert("now".into(), json!(way.to_string()));
        return Ok(outcome
            .more(&format!("would switch to it at once, by {way}\n"))
            .notes(reasons));
    }
    if let Err(e) = reboot::prepare(&ctx.session, &env, &kernel, &trial, way) {
        reboot::forget(way);
        reasons.push(format!("no {way}: {e:#}"));
        way = reboot::Way::Reboot;
    }
    if let Err(e) = reboot::now(way) {
        reboot::forget(way);
        return Err(e.context(format!("{name} boots next, and this did not end: reboot")));
    }
    outcome.fields.insert("now".into(), json!(way.to_string()));
    Ok(outcome
        .more(&format!("switching to it now, by {way}\n"))
        .notes(reasons))
}

/// Carry over what is due, and make `name` boot next.
fn switch_with(
    ctx: &mut Context,
    work: Work,
    name: &EnvName,
    when: When,
    wanted: Wanted,
) -> Result<Outcome> {
    // What is refused is refused before anything goes over.
    planned(ctx, &work, name, when)?;
    let (work, carried) = carry::before_switch(ctx, work, name, wanted)?;
    Ok(switch(ctx, work, name, when)?.notes(carried))
}

/// How and when to switch.
#[derive(Debug, Clone, Copy)]
pub struct When {
    how: How,
    /// This system ends now.
    at_once: bool,
    /// Nothing goes over by itself, then or later.
    as_it_is: bool,
    /// What stays behind was told already.
    pub stays_told: bool,
}

impl When {
    /// In the usual way.
    pub fn of(how: How) -> Self {
        Self {
            how,
            at_once: false,
            as_it_is: false,
            stays_told: false,
        }
    }

    /// To go back: nothing goes over.
    pub fn as_it_is() -> Self {
        Self {
            as_it_is: true,
            ..Self::of(How::Auto)
        }
    }

    fn new(how: How, wanted: Wanted) -> Self {
        Self {
            as_it_is: wanted.carry == Some(false),
            ..Self::of(how)
        }
    }
}

/// Plan the switch.
pub fn planned(ctx: &Context, work: &Work, name: &EnvName, when: When) -> Result<(Plan, Booting)> {
    let inv = &work.inv;
    let env = inv.get(name)?;
    let problems = match env.root {
        Some(_) => ctx.session.examine(inv, env)?.problems,
        None => Vec::new(),
    };
    let mut switch = ctx.session.switch(inv, env, when.how);
    switch.left = match switch.left {
        _ if when.as_it_is => Left::Nothing,
        Left::Switch if when.at_once => Left::Carry,
        left => left,
    };
    let request = plan::Activate {
        name: name.clone(),
        switch,
        problems,
    };
    Ok(plan::activate(inv, &request)?)
}

/// Make `name` boot next, with what was taken to do so.
pub fn switch(ctx: &mut Context, work: Work, name: &EnvName, when: When) -> Result<Outcome> {
    let (planned, way) = planned(ctx, &work, name, when)?;
    let inv = &work.inv;
    let env = inv.get(name)?;
    let already = match &way {
        Booting::Default if env.default && env.next => " already",
        _ => "",
    };
    let stays = match when.stays_told {
        true => Ok(LeftBehind::default()),
        false => left_behind(&ctx.session, inv, env),
    };
    let stays = stays.unwrap_or_else(|e| {
        // It is for information: the switch does not depend on it.
        ctx.reporter
            .note(&format!("what stays behind is not known: {e:#}"));
        LeftBehind::default()
    });
    let stays = stays.after(&planned);
    let done = match ctx.carry_out(work, &planned)? {
        Ok(done) => done,
        Err(shown) => return Ok(shown.notes(stays.sentences())),
    };
    let mut fields = document(&way);
    fields.insert("environment".into(), json!(name));
    let counts: Map<String, Value> = stays
        .counts()
        .into_iter()
        .map(|(k, v)| (k, json!(v)))
        .collect();
    fields.insert("left_behind".into(), counts.into());
    Ok(Outcome::new(Value::Object(fields))
        .text(sentence(name, &way, already))
        .notes(done.notes.clone())
        .notes(layout::behind(&ctx.session))
        .notes(stays.sentences()))
}

/// How it boots, for people.
pub fn sentence(name: &EnvName, way: &Booting, already: &str) -> String {
    match way {
        Booting::Default => format!("{name} boots next{already}\n"),
        Booting::Trial { tries, fallback } => {
            let boots = count(usize::from(*tries), "boot");
            format!(
                "{name} boots next, on trial: if it is not confirmed in {boots}, {fallback} boots \
                 again\n"
            )
        }
        Booting::Once => format!("{name} boots next, for this time only\n"),
        Booting::UntilUp { back } => format!("{name} boots next, and {back} after it\n"),
        Booting::AtShutdown { until } => format!(
            "{name} boots next: what changes until this system shuts down goes over then; if it \
             goes down in another way, {until} boots\n"
        ),
    }
}

/// How it boots, for scripts.
pub fn document(way: &Booting) -> Map<String, Value> {
    let document = match way {
        Booting::Default => json!({ "way": "default" }),
        Booting::Trial { tries, fallback } => {
            json!({ "way": "trial", "tries": tries, "fallback": fallback })
        }
        Booting::Once => json!({ "way": "once" }),
        Booting::UntilUp { back } => json!({ "way": "until-up", "fallback": back }),
        Booting::AtShutdown { until } => json!({ "way": "at-shutdown", "fallback": until }),
    };
    match document {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
