//! `be confirm`

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use be_core::carry;
use be_core::execute::came_up;
use be_core::health::{self, Place};
use be_core::host;
use be_core::name::EnvName;
use be_core::plan;
use be_core::reboot;
use be_core::record::AtShutdown;
use be_core::refusal::Refusal;
use be_core::selection::Boot;
use be_core::session::Session;
use be_core::shutdown;
use be_core::store::Paths;
use be_core::vm;
use serde_json::json;

use crate::args::Global;
use crate::context::{Context, Work};
use crate::reporter::{Outcome, count};

/// How long the service waits for another be, and between two looks.
const PATIENCE: Duration = Duration::from_secs(600);
const MOMENT: Duration = Duration::from_secs(1);

/// Say that the running environment works: its trial has ended, and it boots from now on.
///
/// Until then an environment on trial falls back to the last confirmed one. The health
/// service says it when all checks have passed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For the health service: check first; if it is on trial and not well, reboot.
    #[arg(long)]
    boot: bool,
}

/// The test that this virtual machine was booted for by `be test`, if it was.
pub fn tested(args: &Args) -> Option<String> {
    vm::token().filter(|_| args.boot)
}

/// Tell who watches the test whether all is well, and confirm nothing.
pub fn for_test(token: &str, global: &Global) -> Result<Outcome> {
    let failures = match look(global) {
        Ok(found) => found.failures,
        Err(e) => vec![format!("its health cannot be checked: {e:#}")],
    };
    vm::tell(token, &failures)?;
    Ok(Outcome::new(
        json!({ "well": failures.is_empty(), "failures": failures }),
    ))
}

fn look(global: &Global) -> Result<health::Findings> {
    let session = Session::open(&global.sysroot)?;
    let inv = session.observe()?;
    let name = inv.running()?.name().clone();
    health::check(&session, &inv, &name, Place::Guest)
}

/// The service runs on every boot, also where nothing is managed.
pub fn has_nothing_to_do(args: &Args, global: &Global) -> bool {
    args.boot && is_not_managed(global)
}

/// Whether there is no environment where the options point to.
pub fn is_not_managed(global: &Global) -> bool {
    let foreign = |error: &anyhow::Error| {
        let refusal = error.downcast_ref();
        matches!(
            refusal,
            Some(Refusal::NotBtrfs { .. } | Refusal::NotASystem { .. })
        )
    };
    match Session::open(&global.sysroot) {
        Ok(session) => !session.store.exists(),
        Err(error) => foreign(&error),
    }
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    match args.boot {
        true => after_boot(ctx),
        false => by_hand(ctx),
    }
}

fn by_hand(ctx: &mut Context) -> Result<Outcome> {
    let work = ctx.begin_unconfirmed()?;
    if !is_up(&work) {
        return Err(Refusal::NotUp.into());
    }
    let work = take_as_it_is(ctx, work)?;
    let outcome = confirm(ctx, work)?;
    health::withdraw();
    Ok(outcome)
}

/// A person says that it works, although packages were merged into it only in part.
fn take_as_it_is(ctx: &mut Context, mut work: Work) -> Result<Work> {
    let mut record = work.inv.running()?.record.clone();
    let merge = record.live.as_mut().filter(|live| live.ended.is_none());
    if let (Some(live), Some(_)) = (merge, &work.lock) {
        live.ended = Some(ctx.now);
        let name = record.name.clone();
        let note = format!("{name} is taken as it is: not all may have been merged into it");
        ctx.reporter.note(&note);
        let home = Paths::environment(&name);
        ctx.session.store.write_record(&home, &record)?;
        work.inv = ctx.session.observe()?;
    }
    Ok(work)
}

/// Whether this machine has booted what is managed here.
fn is_up(work: &Work) -> bool {
    work.inv.sysroot == std::path::Path::new("/") && host::sees_the_machine()
}

fn confirm(ctx: &mut Context, work: Work) -> Result<Outcome> {
    let planned = plan::confirm(&work.inv)?;
    let record = work.inv.running()?.record.clone();
    let name = record.name.clone();
    let text = match planned.steps.is_empty() {
        true => format!("{name} is confirmed already\n"),
        false => format!("{name} is confirmed\n"),
    };
    let done = match ctx.carry_out(work, &planned)? {
        Ok(done) => done,
        Err(shown) => return Ok(shown),
    };
    came_up(&ctx.session, &record)?;
    let lock = ctx.session.store.lock();
    let forgotten = lock.and_then(|lock| carry::forget(&ctx.session, &name, &lock));
    if let Err(e) = forgotten {
        // It works all the same.
        ctx.reporter
            .note(&format!("{name}@{} stays: {e:#}", carry::BEFORE));
    }
    Ok(
        Outcome::new(json!({ "environment": name, "confirmed": true }))
            .text(text)
            .notes(done.notes),
    )
}

/// As [`Context::begin_unconfirmed`], waiting for whoever works with the store now: what is
/// well must not be given up because an upgrade began with the boot.
pub fn begin(ctx: &mut Context, patience: Duration) -> Result<Work> {
    let start = Instant::now();
    loop {
        match ctx.begin_unconfirmed() {
            Err(e) if is_busy(&e) && start.elapsed() < patience => sleep(MOMENT),
            done => return done,
        }
    }
}

fn is_busy(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Refusal::Busy { .. }))
}

fn after_boot(ctx: &mut Context) -> Result<Outcome> {
    // Takes note of what GRUB has given up, and lets go of the lock: checks may take long.
    let work = match begin(ctx, PATIENCE) {
        Err(e) if matches!(e.downcast_ref(), Some(Refusal::ReadOnly)) => {
            // Forced so after an error: nothing could be confirmed or noted down.
            if let Some(Boot::Trial(left)) = health::boot(&ctx.session.observe()?) {
                try_again(
                    ctx,
                    &format!("the running environment is not well: {e}"),
                    left,
                )?;
            }
            return Err(e);
        }
        begun => begun?,
    };
    let inv = &work.inv;
    if !is_up(&work) {
        return Err(Refusal::NotUp.into());
    }
    let name = inv.running()?.name().clone();
    let boot = health::boot(inv);
    fallback(&name, boot.as_ref(), inv)?;
    if let Some(why) = lacks_the_last(inv) {
        health::announce(&format!(
            "be: what changed last before {name} was booted is not in it: {why}.\n\
             It is where it was: be diff --files shows it."
        ))?;
    }
    let on_trial = inv.running()?.trial.is_some();
    drop(work.lock);
    if ctx.dry_run {
        return Ok(
            Outcome::new(json!({ "environment": name, "dry_run": true })).text(format!(
                "would check {name}, and confirm it if it is well\n"
            )),
        );
    }
    let found = health::check(&ctx.session, &work.inv, &name, Place::Machine)?;
    health::note(&ctx.session.store, &name, &found, ctx.now)?;
    let mut outcome = match (found.failures.is_empty(), on_trial, &boot) {
        (true, ..) => {
            let work = begin(ctx, PATIENCE)?;
            confirm(ctx, work)?
        }
        (false, true, Some(Boot::Trial(left))) => {
            let why = found.failures.join("; ");
            try_again(ctx, &format!("{name} is not well: {why}"), *left)?;
            Outcome::new(json!({ "environment": name, "confirmed": false, "reboot": true })).code(1)
        }
        (false, ..) => {
            health::announce(&format!(
                "be: {name} is not well: {}.\nbe log {name} says more; be confirm, if it is.",
                found.failures.join("; ")
            ))?;
            Outcome::new(json!({ "environment": name, "confirmed": false, "reboot": false }))
                .text(format!("{name} is not confirmed\n"))
                .code(1)
        }
    };
    outcome.fields.insert("well".into(), json!(found.well));
    outcome
        .fields
        .insert("failures".into(), json!(found.failures));
    outcome
        .fields
        .insert("warnings".into(), json!(found.warnings));
    let failures = found.failures.iter().map(|f| format!("failed: {f}"));
    let warnings = found.warnings.iter().map(|w| format!("warning: {w}"));
    Ok(outcome.notes(failures.chain(warnings)))
}

/// What is on trial gets another boot, or what it falls back to boots.
fn try_again(ctx: &mut Context, why: &str, left: u8) -> Result<()> {
    let boots = count(usize::from(left), "boot");
    ctx.reporter.note(&format!(
        "{why}. It is on trial, with {boots} to come: rebooting"
    ));
    reboot::now(reboot::Way::Reboot)
}

/// Why what changed last is not in the running environment, if the shutdown was to carry it.
fn lacks_the_last(inv: &be_core::model::Inventory) -> Option<&str> {
    let record = &inv.running().ok()?.record;
    record.at_shutdown.as_ref()?.failed.as_deref()
}

/// Tell who logs in that the last shutdown was to end in another environment.
fn still_waits(next: &EnvName, then: &AtShutdown, name: &EnvName) -> Result<()> {
    let why = match &then.failed {
        Some(why) => format!("could not be done: {why}"),
        None => "was not done: the machine went down before".to_owned(),
    };
    health::announce(&format!(
        "be: {next} was to boot, with what changed until the shutdown; that {why}.\n\
         {name} runs instead. It is tried again when this system shuts down; be activate {name} \
         if it is not to be."
    ))
}

/// Tell who logs in that this is not what was to run.
fn fallback(name: &EnvName, boot: Option<&Boot>, inv: &be_core::model::Inventory) -> Result<()> {
    let Some(Boot::Fallback(failed)) = boot else {
        return match shutdown::waiting(inv) {
            Some((env, then)) if env.waits_for_shutdown(&inv.system.root.uuid) => {
                still_waits(env.name(), then, name)
            }
            _ if lacks_the_last(inv).is_some() => Ok(()),
            _ => {
                health::withdraw();
                Ok(())
            }
        };
    };
    let bad = inv
        .environments
        .iter()
        .find(|e| e.name().as_str() == failed.name);
    let why = bad.and_then(|e| e.record.trial_failure.as_ref());
    let why = why.map_or_else(String::new, |f| format!(" ({})", f.why));
    let failed = &failed.name;
    health::announce(&format!(
        "be: {failed} did not come up{why}; {name} runs instead.\n\
         be log {failed} says more, be status where this machine is."
    ))
}
