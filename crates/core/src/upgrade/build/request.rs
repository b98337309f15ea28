//! From what is asked for to the plan of a build.

use anyhow::Result;
use chrono::{DateTime, FixedOffset, TimeDelta};

use super::super::locked;
use super::binhost::inside;
use super::{Build, Kind, as_upgrade, is_due, options};
use crate::config::Span;
use crate::host;
use crate::lock::Sha256;
use crate::manager::Manager;
use crate::model::{Environment, Inventory};
use crate::name::{EnvName, Named};
use crate::plan::{self, Plan, Step};
use crate::record::{Builder, Record, State, Upgrade};
use crate::refusal::{NothingToDo, Refusal};
use crate::session::Session;

/// The builders, the newest last; there is more than one only if somebody made it so.
pub fn builders(inv: &Inventory) -> impl Iterator<Item = &Environment> {
    let all = inv.environments.iter();
    all.filter(|env| env.record.builder.is_some())
}

/// Until when a build that failed is kept.
pub fn held_until(env: &Environment, hold: Span) -> DateTime<FixedOffset> {
    let upgrade = env.record.upgrade.as_ref();
    let ended = upgrade.and_then(|u| u.ended.or(Some(u.started)));
    let hold = TimeDelta::from_std(hold.duration()).unwrap_or(TimeDelta::MAX);
    let ended = ended.unwrap_or(env.record.created);
    ended.checked_add_signed(hold).unwrap_or(ended)
}

/// Whether it waits for a person. One that was cut off does not: the next one begins anew.
pub fn is_held(env: &Environment, hold: Span, now: DateTime<FixedOffset>) -> bool {
    env.record.state == State::Failed && now < held_until(env, hold)
}

/// The plan of a build, as far as it is known before anything ran.
///
/// # Errors
/// Every rule that forbids it.
pub fn plan(session: &Session, inv: &Inventory, request: &Build) -> Result<(Record, Plan)> {
    is_due(session, request)?;
    let (record, plan) = match &request.kind {
        Kind::New { name, origin } => new(session, inv, request, name.as_ref(), origin.as_ref()),
        Kind::Continue => continued(inv),
    }?;
    // Before anything is made.
    options(session, &Manager::Portage, &as_upgrade(request, &record))?;
    Ok((record, plan))
}

fn new(
    session: &Session,
    inv: &Inventory,
    request: &Build,
    name: Option<&EnvName>,
    origin: Option<&Named>,
) -> Result<(Record, Plan)> {
    for env in builders(inv) {
        may_go(session, env, request)?;
    }
    let mut plan = removal(session, inv)?;
    let mut after = inv.clone();
    let gone = after.environments.iter();
    let gone = gone.filter(|env| env.record.builder.is_some());
    plan.notes
        .extend(gone.map(|env| format!("{} is given up", env.name())));
    after
        .environments
        .retain(|env| env.record.builder.is_none());
    let inv = &after;
    by_portage(session, inv, origin)?;
    if let Some(lock) = &request.lock {
        locked::check(inv, lock)?;
    }
    let mut options = request.options.clone();
    if request.all {
        options.insert(0, "--emptytree".to_owned());
    }
    let packages = packages(session, request);
    inside(&packages)?;
    let mut upgrade = Upgrade::start(request.now, &options);
    if let Some(lock) = &request.lock {
        upgrade.lock = Some(Sha256::new(lock.to_text()?.as_bytes()).to_string());
    }
    let create = plan::Create {
        name: Some(match name {
            Some(name) => name.clone(),
            None => free_name(inv, request)?,
        }),
        layout: session.layout(inv, origin)?,
        origin: origin.cloned(),
        description: "packages are built in it".to_owned(),
        now: request.now,
        upgrade: Some(upgrade),
        switch: None,
        min_free: session.config.upgrade.min_free_mib << 20,
    };
    let (_, created, _) = plan::create(inv, &create)?;
    plan.notes.extend(created.notes);
    let mut made = None;
    for step in created.steps {
        let Step::Clone(mut spec) = step else {
            continue;
        };
        spec.record.builder = Some(Builder::new(packages.clone()));
        made = Some(spec.record.clone());
        plan.steps.push(Step::Clone(spec));
    }
    let record = made.ok_or_else(|| anyhow::anyhow!("there is no clone in the plan"))?;
    Ok((record, plan))
}

/// Where a new build publishes.
pub(super) fn packages(session: &Session, request: &Build) -> String {
    let configured = || session.config.build.packages.clone();
    request.packages.clone().unwrap_or_else(configured)
}

/// Whether an earlier builder may give way.
fn may_go(session: &Session, env: &Environment, request: &Build) -> Result<(), Refusal> {
    let name = env.name().clone();
    if env.busy {
        let what = format!("another be build works in {name}");
        return Err(Refusal::Busy { what });
    }
    let hold = session.config.build.hold;
    match is_held(env, hold, request.now) {
        false => Ok(()),
        true => {
            let until = held_until(env, hold).format("%Y-%m-%d %H:%M").to_string();
            Err(Refusal::BuilderHeld { name, until })
        }
    }
}

/// The removal of all builders, by the rules of any environment; no step if there is none.
fn removal(session: &Session, inv: &Inventory) -> Result<Plan> {
    let names: Vec<EnvName> = builders(inv).map(|env| env.name().clone()).collect();
    if names.is_empty() {
        return Ok(Plan::default());
    }
    if !host::sees_the_machine() {
        return Err(Refusal::Blind.into());
    }
    let mut strangers = Vec::new();
    for name in &names {
        let paths = session.strangers(name)?;
        if !paths.is_empty() {
            strangers.push((name.clone(), paths));
        }
    }
    let request = plan::Destroy {
        names: names.into_iter().map(Named::from).collect(),
        unmount: false,
        chosen: None,
        strangers,
    };
    Ok(plan::destroy(inv, &session.uses(inv)?, &request)?)
}

/// Only Portage has binary packages that it builds by itself.
fn by_portage(session: &Session, inv: &Inventory, origin: Option<&Named>) -> Result<()> {
    let env = inv.origin(origin.map(|n| &n.env))?;
    match session.upgrader_of(&*session.whole(env)?)? {
        Manager::Portage => Ok(()),
        Manager::Profile(profile) => {
            let why = format!("that is for Portage, and not for {}", profile.name);
            Err(Refusal::NoBuild { why }.into())
        }
    }
}

fn free_name(inv: &Inventory, request: &Build) -> Result<EnvName> {
    let stem = request.now.format("build-%Y-%m-%d").to_string();
    EnvName::free(&stem, &inv.names()).map_err(|e| anyhow::anyhow!("{e}"))
}

fn continued(inv: &Inventory) -> Result<(Record, Plan)> {
    inv.writable()?;
    let env = builders(inv).last().ok_or(Refusal::NoBuilder)?;
    if env.busy {
        let what = format!("another be build works in {}", env.name());
        return Err(Refusal::Busy { what }.into());
    }
    let mut record = env.record.clone();
    record.state = State::Building;
    if let Some(upgrade) = &mut record.upgrade {
        (upgrade.ended, upgrade.error) = (None, None);
    }
    let mut plan = Plan::default();
    plan.steps.push(Step::Update(Box::new(record.clone())));
    Ok((record, plan))
}

/// The plan of giving up what there is.
///
/// # Errors
/// It is at work; [`NothingToDo`] if there is none.
pub fn give_up(session: &Session, inv: &Inventory) -> Result<Plan> {
    inv.writable()?;
    if let Some(env) = builders(inv).find(|env| env.busy) {
        let what = format!("be build works in {}", env.name());
        return Err(Refusal::Busy { what }.into());
    }
    let plan = removal(session, inv)?;
    match plan.steps.is_empty() {
        true => Err(NothingToDo("there is no builder".into()).into()),
        false => Ok(plan),
    }
}
