//! The last moment of the running system: what changed until then goes into the environment that
//! boots next, what is cloned late is cloned once more, and only then comes the switch. If that
//! does not happen, for want of time or of power, what was the default boots.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::carry::{self, Route, Terms};
use crate::execute::{Done, execute};
use crate::host;
use crate::log;
use crate::model::{Environment, Inventory};
use crate::name::EnvName;
use crate::plan::{self, Left, Plan, Step};
use crate::record::AtShutdown;
use crate::session::Session;

/// There while the service runs that does this when it is stopped.
const ARMED: &str = "/run/be-carry";

/// Whether something is done when the managed system shuts down.
pub fn is_armed(session: &Session, inv: &Inventory) -> bool {
    session.config.carry.shutdown_seconds > 0
        && inv.sysroot == Path::new("/")
        && host::sees_the_machine()
        && Path::new(ARMED).exists()
}

/// Whether only userspace or the kernel starts anew, and GRUB is not asked, as far as systemd
/// says so.
fn goes_around_grub() -> bool {
    let jobs = Command::new("systemctl")
        .args(["list-jobs", "--no-legend", "--no-pager"])
        .output();
    let jobs = jobs.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let targets = ["soft-reboot.target", "kexec.target"];
    jobs.is_ok_and(|jobs| targets.iter().any(|target| jobs.contains(target)))
}

/// The environment that waits for the shutdown, with what is to be done.
pub fn waiting(inv: &Inventory) -> Option<(&Environment, &AtShutdown)> {
    let root = &inv.system.root.uuid;
    let waits = |env: &&Environment| match &env.record.at_shutdown {
        Some(then) if then.switch.is_some() => env.waits_for_shutdown(root),
        // That of be activate --now.
        Some(_) => Route::into_clone(inv, env).is_ok() && env.usable(),
        None => false,
    };
    let waiting = inv.environments.iter().rev().filter(waits);
    let mut waiting = waiting.filter_map(|env| Some((env, env.record.at_shutdown.as_ref()?)));
    waiting.next()
}

/// Carry, clone late and switch.
///
/// # Errors
/// Whatever keeps one of them from being done; the default is as it was, and the environment
/// goes on waiting, for the next shutdown.
pub fn last_moment(session: &Session, inv: Inventory, terms: &Terms<'_>) -> Result<Option<Last>> {
    let Some((env, then)) = waiting(&inv) else {
        return Ok(None);
    };
    // That of be activate --now is the one that boots by it.
    if inv.sysroot == Path::new("/") && then.switch.is_some() && goes_around_grub() {
        return Ok(None);
    }
    let (name, then) = (env.name().clone(), then.clone());
    let done = carry_and_switch(session, inv, &name, &then, terms);
    let late = || format!("no time was left for {name}");
    let done = match terms.interrupted.came() {
        true => done.with_context(late),
        false => done,
    };
    if let Err(e) = write_down(session, &name, &done, terms) {
        tracing::warn!("what was done is not written down: {e:#}");
    }
    if let Err(e) = &done {
        let why = format!("{e:#}").replace('\n', " ");
        let mut then = then;
        then.failed = Some(why);
        let plan = Plan {
            steps: vec![Step::at_shutdown(&name, Some(then))],
            notes: Vec::new(),
        };
        let told = session.observe();
        let told = told.and_then(|inv| execute(session, inv, &plan, terms.lock));
        if let Err(e) = told {
            tracing::warn!("that it failed is not noted down: {e:#}");
        }
    }
    done.map(Some)
}

/// Nobody sees what is said at a shutdown: be log shows it later. What was carried is there
/// already.
fn write_down(
    session: &Session,
    name: &EnvName,
    done: &Result<Last>,
    terms: &Terms<'_>,
) -> Result<()> {
    let mut text = format!("=== {} shutdown\n", terms.now.format("%Y-%m-%d %H:%M:%S"));
    match done {
        Ok(last) => text.extend(last.notes.iter().map(|note| format!("{note}\n"))),
        Err(e) => text.push_str(&format!("not switched to: {e:#}\n")),
    }
    let mut log = log::append(&session.store, name)?;
    log.write_all(text.as_bytes())
        .context("cannot write the log")
}

/// What was done at the last moment.
#[derive(Debug)]
pub struct Last {
    /// The environment that boots now.
    pub name: EnvName,
    /// What was carried, a sentence each.
    pub carried: Vec<String>,
    /// What there is to say of the switch, a sentence each.
    pub notes: Vec<String>,
}

fn carry_and_switch(
    session: &Session,
    mut inv: Inventory,
    name: &EnvName,
    then: &AtShutdown,
    terms: &Terms<'_>,
) -> Result<Last> {
    let env = inv.get(name)?;
    let route = Route::into_clone(&inv, env)?;
    let mut carried = Vec::new();
    if carry::goes_by_itself(session, &inv, env) {
        carried = carry::over(session, inv, &route, terms)?.sentences();
        carry::still_good(session, name, terms.interrupted)?;
        carry::keep_activated(session, name, terms.now, terms.lock);
        inv = session.observe()?;
    }
    if terms.interrupted.came() {
        anyhow::bail!("it was interrupted");
    }
    let env = inv.get(name)?;
    let plan = match then.switch {
        Some(how) => {
            let request = plan::Activate {
                name: name.clone(),
                switch: plan::Switch {
                    left: Left::Nothing,
                    ..session.switch(&inv, env, how)
                },
                problems: session.examine(&inv, env)?.problems,
            };
            plan::activate(&inv, &request)?.0
        }
        None => Plan {
            steps: plan::clone_late(&inv, env)
                .into_iter()
                .chain([Step::at_shutdown(name, None)])
                .collect(),
            notes: Vec::new(),
        },
    };
    let done: Done = execute(session, inv, &plan, terms.lock).context("it was not switched to")?;
    Ok(Last {
        name: name.clone(),
        carried,
        notes: done.notes,
    })
}
