//! How the builder is, and what is published.

use anyhow::Result;
use chrono::{DateTime, FixedOffset};
use serde::Serialize;

use super::binhost::Binhost;
use super::request::{builders, held_until};
use crate::model::Environment;
use crate::name::EnvName;
use crate::record::{Phase, State};
use crate::session::Session;

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The builder, if there is one.
    pub builder: Option<BuilderStatus>,
    /// The directory that is served.
    pub packages: String,
    /// How many packages its index names; none before anything was published.
    pub count: Option<usize>,
    /// When a build ended well last.
    pub last: Option<DateTime<FixedOffset>>,
}

/// The builder.
#[derive(Debug, Clone, Serialize)]
pub struct BuilderStatus {
    /// Its name.
    pub name: EnvName,
    /// `building`, `held`, or `cut-off`: the next build begins anew.
    pub state: &'static str,
    /// When it began.
    pub started: DateTime<FixedOffset>,
    /// Where it is, or ended.
    pub phase: Option<Phase>,
    /// Until when it is held.
    pub until: Option<DateTime<FixedOffset>>,
    /// Packages that failed.
    pub failed: Vec<String>,
    /// Why it failed, in one line.
    pub error: Option<String>,
}

/// Look.
///
/// # Errors
/// What cannot be read.
pub fn status(session: &Session) -> Result<Status> {
    let inv = session.observe()?;
    inv.initialised()?;
    let env = builders(&inv).last();
    let configured = &session.config.build.packages;
    let noted = env.and_then(|env| env.record.builder.as_ref());
    let packages = noted.map_or(configured, |builder| &builder.packages);
    let host = Binhost::open(session, packages)?;
    let index = host.as_ref().map(Binhost::index).transpose()?;
    let index = index.filter(|index| index.timestamp.is_some());
    Ok(Status {
        builder: env.map(|env| of(session, env)),
        packages: packages.clone(),
        count: index.map(|index| index.entries.len()),
        last: host.and_then(|host| host.last()),
    })
}

fn of(session: &Session, env: &Environment) -> BuilderStatus {
    let upgrade = env.record.upgrade.as_ref();
    let held = env.record.state == State::Failed;
    BuilderStatus {
        name: env.name().clone(),
        state: match (env.busy, held) {
            (true, _) => "building",
            (false, true) => "held",
            (false, false) => "cut-off",
        },
        started: upgrade.map_or(env.record.created, |u| u.started),
        phase: upgrade.map(|u| u.phase),
        until: held.then(|| held_until(env, session.config.build.hold)),
        failed: upgrade.map(|u| u.failed.clone()).unwrap_or_default(),
        error: upgrade.and_then(|u| u.error.clone()),
    }
}
