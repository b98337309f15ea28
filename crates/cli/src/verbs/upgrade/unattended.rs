//! `be upgrade --unattended`: for a timer or cron, which nobody watches.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use be_core::chroot::Interrupted;
use be_core::config::Nightly;
use be_core::model::Inventory;
use be_core::name::EnvName;
use be_core::record::{Phase, State};
use be_core::refusal::{NothingToDo, Refusal};
use be_core::upgrade::{self, Merging, Outcome as Upgraded, Report, Request, UpgradeFailed, Watch};
use be_core::{host, idle, reboot};

use super::Args;
use crate::context::Context;
use crate::mail;
use crate::reporter::{Outcome, count};

/// Says nothing while it works; what matters is in the report.
pub struct Silent;

impl Watch for Silent {
    fn note(&mut self, _text: &str) {}
    fn phase(&mut self, _name: &EnvName, _phase: Phase) {}
    fn progress(&mut self, _merging: &Merging) {}
}

pub fn run(args: &Args, request: &Request, ctx: &mut Context) -> Result<Outcome> {
    // Where there is nothing to do nobody gets a mail.
    ctx.reporter.silence_nothing();
    let interrupted = Interrupted::watch()?;
    delay(args.delay.unwrap_or(0), &interrupted)?;
    let rules = ctx.session.config.nightly.clone();
    if let Some(why) = not_now(&rules) {
        return Err(NothingToDo(why).into());
    }
    {
        // A program is nobody who knows that the running system works.
        let work = ctx.begin_unconfirmed()?;
        let running = work.inv.running()?;
        if running.state() != State::Confirmed {
            let name = running.name().clone();
            return Err(Refusal::Unproven { name }.into());
        }
    }
    match upgrade::run(&ctx.session, request, &interrupted, &mut Silent) {
        Ok(done) => finished(args, &rules, done, ctx),
        Err(error) => {
            let nothing = error.is::<NothingToDo>();
            if !nothing {
                tell_failure(ctx, &rules, &error);
            } else if args.reboot_if_idle {
                // What waited for the machine to be idle the night before.
                let reboot = Reboot::of(&ctx.session.observe()?);
                let failed = reboot.now();
                for note in reboot.note.into_iter().chain(failed) {
                    ctx.reporter.note(&note);
                }
            }
            Err(error)
        }
    }
}

fn finished(args: &Args, rules: &Nightly, done: Upgraded, ctx: &mut Context) -> Result<Outcome> {
    let pruned = super::super::prune::afterwards(ctx);
    let Upgraded::Ready(report) = done else {
        return super::outcome(done, pruned);
    };
    let mut text = format!("{}\n\n{}", headline(&report), report.text());
    let mut notes = pruned;
    let reboot = match args.reboot_if_idle && report.activated.is_some() {
        true => Reboot::of(&ctx.session.observe()?),
        false => Reboot::default(),
    };
    notes.extend(reboot.note.clone());
    for note in report.notes.iter().chain(&notes) {
        text.push_str(&format!("{note}\n"));
    }
    let unsent = mail::send(&rules.mail, &headline(&report), &text).err();
    // Not before the mail is on its way.
    let failed = reboot.now();
    let unsent = unsent.map(|e| format!("{e:#}"));
    let outcome = super::outcome(Upgraded::Ready(report), notes)?;
    Ok(Outcome {
        text,
        notes: unsent.into_iter().chain(failed).collect(),
        ..outcome
    })
}

/// One line that says what came of it.
fn headline(report: &Report) -> String {
    let what = count(report.packages.len(), "change");
    let next = match report.activated {
        Some(_) => ", boots next",
        None => "",
    };
    format!("be: {what} in {}{next}", report.name)
}

fn tell_failure(ctx: &mut Context, rules: &Nightly, error: &anyhow::Error) {
    let mut text = format!("{error:#}\n");
    if let Some(failed) = error.downcast_ref::<UpgradeFailed>() {
        text = format!("{failed}\n\n{}\n", failed.hint());
        text.push_str(&mail::end_of_log(&ctx.session, &failed.name));
    }
    if let Err(e) = mail::send(&rules.mail, "be: the upgrade failed", &text) {
        ctx.reporter.note(&format!("{e:#}"));
    }
}

/// Wait a random time, so that not all machines ask the mirrors at once.
fn delay(minutes: u32, interrupted: &Interrupted) -> Result<()> {
    let mut random = [0; 8];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut random))
        .context("cannot read /dev/urandom")?;
    let most = u64::from(minutes) * 60_000;
    let wait = Duration::from_millis(u64::from_le_bytes(random) % (most + 1));
    let start = Instant::now();
    while start.elapsed() < wait {
        if interrupted.came() {
            bail!("it was interrupted before it began");
        }
        std::thread::sleep(Duration::from_millis(200).min(wait));
    }
    Ok(())
}

/// Why tonight is no good time.
fn not_now(rules: &Nightly) -> Option<String> {
    if !rules.on_battery && host::is_on_battery(Path::new(host::POWER)) {
        return Some("the machine runs on battery (nightly.on_battery in be.toml)".into());
    }
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    // Of one, five and fifteen minutes.
    let load: f64 = load.split(' ').nth(2)?.parse().ok()?;
    (rules.max_load > 0 && load > f64::from(rules.max_load)).then(|| {
        let most = rules.max_load;
        format!("the load is {load}, more than {most} (nightly.max_load in be.toml)")
    })
}

/// Whether to boot what is to come.
#[derive(Default)]
struct Reboot {
    wanted: bool,
    /// What there is to say of it.
    note: Option<String>,
}

impl Reboot {
    /// It is booted if nobody uses the machine.
    fn of(inv: &Inventory) -> Self {
        let next = inv.environments.iter().find(|env| env.next && !env.running);
        let Some(next) = next.map(|env| env.name()) else {
            return Self::default();
        };
        let then = inv
            .get(next)
            .ok()
            .and_then(|e| e.record.at_shutdown.as_ref());
        if let Some(why) = then.and_then(|then| then.failed.as_ref()) {
            // It would be so every night.
            return Self {
                wanted: false,
                note: Some(format!(
                    "not rebooted: {next} could not be switched to: {why}"
                )),
            };
        }
        let users = idle::users(Path::new("/"));
        let why_not = match inv.sysroot != Path::new("/") || !host::sees_the_machine() {
            true => Some(Refusal::Blind.to_string()),
            false => users.into_iter().next(),
        };
        let note = match &why_not {
            Some(why) => format!("not rebooted into {next}: {why}"),
            None => format!("nobody uses the machine: it reboots into {next}"),
        };
        Self {
            wanted: why_not.is_none(),
            note: Some(note),
        }
    }

    /// Reboot, if that is wanted; gives why it cannot be done.
    fn now(&self) -> Option<String> {
        let done = self.wanted.then(|| reboot::now(reboot::Way::Reboot));
        done?.err().map(|e| format!("not rebooted: {e:#}"))
    }
}
