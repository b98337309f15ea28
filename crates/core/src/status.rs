//! `be status`: where this machine is. It takes no lock, and waits for no disk: it works
//! while an upgrade runs.

use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::Result;
use be_grub::place::NoPlace;
use be_grub::selection::Boot;
use be_portage::state::{self, Debt};
use chrono::{DateTime, FixedOffset};
use serde::Serialize;

use crate::block;
use crate::doctor::{self, Depth, Severity};
use crate::health;
use crate::model::{Environment, Inventory};
use crate::name::EnvName;
use crate::record::{Phase, State};
use crate::session::Session;
use crate::shutdown;
use crate::stale::{LeftBehind, left_behind_at_last_commit};
use crate::upgrade::Merging;

/// Where this machine is.
#[derive(Debug, Clone)]
pub struct Status {
    /// The running environment.
    pub running: Option<EnvName>,
    /// The root subvolume that runs, as a value for `subvol=`.
    pub root: String,
    /// The running kernel, if it is that of this system.
    pub kernel: Option<String>,
    /// What boots next.
    pub next: Next,
    /// What did not come up, so that this boot is a fallback, and why, if that is known.
    pub fallback: Option<(String, Option<String>)>,
    /// Why an environment cannot be tried on this machine; none if it can.
    pub no_trial: Option<NoPlace>,
    /// What is unfinished.
    pub pending: Vec<Pending>,
    /// What stays behind when the environment boots that is to come.
    pub left_behind: Option<LeftBehind>,
    /// What upgrades left for a person, by environment.
    pub debts: Vec<(EnvName, Debt)>,
    /// What was kept beside something else when the running system was carried, and is still
    /// there, by environment; absolute paths. Without what waits beside configuration files.
    pub beside: Vec<(EnvName, Vec<String>)>,
    /// Room, in bytes.
    pub space: Space,
    /// How many environments there are.
    pub environments: usize,
    /// How the machine is set up.
    pub setup: Setup,
    /// What could not be found out, a sentence each.
    pub notes: Vec<String>,
}

/// Room, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Space {
    /// For the content of files.
    pub data: u64,
    /// For everything else.
    pub metadata: u64,
}

/// How many things are wrong, as far as a quick look finds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Setup {
    /// What does not work.
    pub errors: usize,
    /// What will go wrong one day.
    pub warnings: usize,
}

/// What boots next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// The environment that boots when nothing is chosen for one time.
    pub default: Option<EnvName>,
    /// On trial, with so many boots left; then the other one boots.
    pub trial: Option<(u8, Option<EnvName>)>,
    /// What becomes the default when that one has come up.
    pub back: Option<EnvName>,
    /// What was chosen for one time, which goes before: the id of an entry.
    pub once: Option<String>,
    /// That choice stays until somebody takes it back.
    pub sticks: bool,
    /// Which of them it is.
    pub why: Why,
}

/// Why something boots next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The menu says so.
    Default,
    /// It is on trial.
    Trial,
    /// `be activate -t` chose it.
    Once,
    /// grub-reboot chose it.
    GrubReboot,
    /// It is switched to when this system shuts down; why an earlier shutdown did not, if one was
    /// to.
    AtShutdown(Option<String>),
    /// GRUB does not read the menu: its own configuration decides.
    NotHooked,
    /// The menu has no default: GRUB's own configuration decides.
    NoDefault,
    /// The menu cannot be read.
    Unknown(String),
}

impl Why {
    /// The word for scripts.
    pub fn as_str(&self) -> &'static str {
        match self {
            Why::Default => "default",
            Why::Trial => "trial",
            Why::Once | Why::GrubReboot => "once",
            Why::AtShutdown(_) => "at-shutdown",
            Why::NotHooked | Why::NoDefault => "grub.cfg",
            Why::Unknown(_) => "unknown",
        }
    }
}

/// Something unfinished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pending {
    /// Which environment, or what was to become one.
    pub environment: String,
    /// One word for scripts.
    pub kind: &'static str,
    /// The phase of its upgrade.
    pub phase: Option<Phase>,
    /// How far it is, where packages are merged right now.
    pub merging: Option<Merging>,
    /// Since when.
    pub since: Option<DateTime<FixedOffset>>,
    /// What it is, in one sentence.
    pub text: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// Find out. `path`: as for [`doctor::observe`].
///
/// # Errors
/// When the filesystem or the store cannot be read.
pub fn status(session: &Session, inv: &Inventory, path: &OsStr) -> Result<Status> {
    let running = inv.environments.iter().find(|e| e.running);
    let mut notes = Vec::new();
    let seen = doctor::observe(session, inv, Depth::Quick, path)?;
    let problems = doctor::check(inv, &seen);
    let count = |s: Severity| problems.iter().filter(|p| p.severity == s).count();
    let space = session.store.top.space()?;
    let to_come = to_come(inv);
    let left_behind = to_come.and_then(|env| {
        left_behind_at_last_commit(session, inv, env)
            .inspect_err(|e| notes.push(format!("what stays behind is not known: {e:#}")))
            .ok()
    });
    let mut debts = Vec::new();
    for env in running.into_iter().chain(to_come) {
        match debt(session, env) {
            Ok(debt) if debt != Debt::default() => debts.push((env.name().clone(), debt)),
            Ok(_) => {}
            Err(e) => notes.push(format!(
                "what is left to do in {} is not known: {e:#}",
                env.name()
            )),
        }
    }
    Ok(Status {
        running: running.map(|e| e.name().clone()),
        root: inv.system.root.option(),
        kernel: kernel(inv),
        next: unless_nobody_does_it(session, inv, next(inv, seen.next_entry)),
        fallback: fallback(inv, health::boot(inv)),
        no_trial: block::place(session, inv).err(),
        pending: now_merging(session, inv, pending(inv)),
        left_behind,
        debts,
        beside: beside(session, running.into_iter().chain(to_come)),
        space: Space {
            data: space.data_available(),
            metadata: space.metadata_available(),
        },
        environments: inv.environments.len(),
        setup: Setup {
            errors: count(Severity::Error),
            warnings: count(Severity::Warning),
        },
        notes,
    })
}

/// The environment that will run one day: the one that boots next, else the newest upgrade
/// that nobody booted yet. A mere clone may be there to be gone back to.
fn to_come(inv: &Inventory) -> Option<&Environment> {
    let next = inv.environments.iter().find(|e| e.next && !e.running);
    let ready =
        |e: &&Environment| e.record.upgrade.is_some() && e.is_unbooted() && e.root.is_some();
    next.or_else(|| inv.environments.iter().rev().find(ready))
}

/// What is still there of what was kept beside something else.
fn beside<'a>(
    session: &Session,
    environments: impl Iterator<Item = &'a Environment>,
) -> Vec<(EnvName, Vec<String>)> {
    let still = environments.filter_map(|env| {
        let is_config = |path: &&String| Path::new(path).starts_with("/etc");
        let mut paths = env
            .record
            .beside
            .iter()
            .filter(|p| !is_config(p))
            .peekable();
        paths.peek()?;
        let root = session.whole(env).ok()?;
        let there = paths.filter(|path| root.lstat(path.trim_start_matches('/')).is_ok());
        let there: Vec<_> = there.cloned().collect();
        (!there.is_empty()).then(|| (env.name().clone(), there))
    });
    still.collect()
}

fn debt(session: &Session, env: &Environment) -> Result<Debt> {
    if env.running {
        // Through its mounts: news may lie on a filesystem of their own.
        return state::debt(&session.sysroot, &session.beside(&session.root)?);
    }
    if env.root.is_none() {
        return Ok(Debt::default());
    }
    let root = session.whole(env)?;
    let fd = root.fd().as_raw_fd().to_string();
    state::debt(
        &Path::new("/proc/self/fd").join(fd),
        &session.beside(&root)?,
    )
}

fn kernel(inv: &Inventory) -> Option<String> {
    if inv.sysroot != Path::new("/") || !crate::host::sees_the_machine() {
        return None;
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    Some(release.trim().to_owned())
}

/// What waits for a shutdown waits for a service, too.
fn unless_nobody_does_it(session: &Session, inv: &Inventory, mut next: Next) -> Next {
    if let (Why::AtShutdown(failed), Some(name)) = (&mut next.why, &next.default)
        && inv.sysroot == Path::new("/")
        && !shutdown::is_armed(session, inv)
    {
        let none = format!("the service be-carry does not run; be activate {name}, without it");
        failed.get_or_insert(none);
    }
    next
}

fn next(inv: &Inventory, grub_reboot: Option<String>) -> Next {
    let find = |is: fn(&Environment) -> bool| inv.environments.iter().find(|e| is(e));
    let next = find(|e| e.next);
    let once = find(|e| e.once);
    let trial = next.and_then(|e| e.trial);
    let why = match (&inv.menu.damage, inv.menu.hooked, next) {
        _ if grub_reboot.is_some() => Why::GrubReboot,
        (Some(why), ..) => Why::Unknown(why.clone()),
        (_, false, _) => Why::NotHooked,
        (_, _, None) => Why::NoDefault,
        (.., Some(env)) if env.waits_for_shutdown(&inv.system.root.uuid) => {
            let then = env.record.at_shutdown.as_ref();
            Why::AtShutdown(then.and_then(|then| then.failed.clone()))
        }
        _ if once.is_some() => Why::Once,
        _ if trial.is_some() => Why::Trial,
        _ => Why::Default,
    };
    let fallback = find(|e| e.default).map(|e| e.name().clone());
    Next {
        default: next.map(|e| e.name().clone()),
        trial: trial.map(|left| (left, fallback)),
        back: inv.menu.back.clone(),
        once: grub_reboot.or_else(|| once.map(|e| e.name().to_string())),
        sticks: doctor::choice_sticks(inv),
        why,
    }
}

/// What was to run instead of this.
fn fallback(inv: &Inventory, boot: Option<Boot>) -> Option<(String, Option<String>)> {
    let Some(Boot::Fallback(failed)) = boot else {
        return None;
    };
    let mut environments = inv.environments.iter();
    let bad = environments.find(|e| e.name().as_str() == failed.name);
    let why = bad.and_then(|e| e.record.trial_failure.as_ref());
    Some((failed.name, why.map(|f| f.why.clone())))
}

/// The same, and how far the merge is that runs.
fn now_merging(session: &Session, inv: &Inventory, mut all: Vec<Pending>) -> Vec<Pending> {
    for env in inv.environments.iter().filter(|env| env.busy) {
        let phase = env.record.upgrade.as_ref().map(|u| u.phase);
        if matches!(phase, Some(Phase::Merge | Phase::Chores)) {
            let merging = session.store.told(env.name());
            let own = all
                .iter_mut()
                .find(|p| p.environment == env.name().as_str());
            if let Some(pending) = own {
                pending.merging = merging;
            }
        }
    }
    all
}

/// What is unfinished, by environment.
pub fn pending(inv: &Inventory) -> Vec<Pending> {
    let mut all: Vec<Pending> = inv
        .environments
        .iter()
        .flat_map(|env| [of_live(inv, env), of_upgrade(env), of_menu(inv, env)])
        .flatten()
        .collect();
    all.extend(inv.damaged.iter().map(|(name, why)| Pending {
        remedy: Some("be doctor".into()),
        ..item(
            name,
            "unreadable",
            format!("its record cannot be read: {why}"),
        )
    }));
    all.extend(inv.leftovers.iter().map(|name| {
        let text = "interrupted; the next command that changes something cleans up";
        item(name, "interrupted", text.into())
    }));
    all
}

fn item(name: &str, kind: &'static str, text: String) -> Pending {
    Pending {
        environment: name.to_owned(),
        kind,
        phase: None,
        merging: None,
        since: None,
        text,
        remedy: None,
    }
}

/// Packages that are merged into it while it runs, or were in part.
fn of_live(inv: &Inventory, env: &Environment) -> Option<Pending> {
    let live = env.record.unfinished_merge()?;
    let (name, from, way_back) = (env.name().as_str(), &live.from, &live.way_back);
    let at_work = inv.get(from).is_ok_and(|env| env.busy);
    Some(Pending {
        since: Some(live.started),
        remedy: (!at_work)
            .then(|| format!("be upgrade --live --continue {from}, or be rollback {way_back}")),
        ..match at_work {
            true => item(name, "merging", format!("{from} is being merged into it")),
            false => item(
                name,
                "in-part",
                format!("{from} was merged into it in part"),
            ),
        }
    })
}

fn of_upgrade(env: &Environment) -> Option<Pending> {
    let name = env.name();
    let upgrade = env.record.upgrade.as_ref();
    let phase = upgrade.map(|u| u.phase);
    let word = phase.map_or("clone", Phase::as_str);
    let started = upgrade.map_or(env.record.created, |u| u.started);
    let ended = upgrade.and_then(|u| u.ended);
    let found = match env.state() {
        State::Building if env.record.builder.is_some() && !env.paused => Pending {
            since: Some(started),
            ..item(
                name.as_str(),
                "building-packages",
                format!("packages are built in it ({word})"),
            )
        },
        State::Building => Pending {
            since: Some(started),
            remedy: env.paused.then(|| "be resume".into()),
            ..item(
                name.as_str(),
                if env.paused { "paused" } else { "upgrading" },
                match env.paused {
                    true => format!("an upgrade pauses ({word})"),
                    false => format!("an upgrade is running ({word})"),
                },
            )
        },
        State::Failed if env.record.builder.is_some() => {
            let why = upgrade.and_then(|u| u.error.clone());
            let why = why.unwrap_or_else(|| "it was cut off".into());
            Pending {
                since: Some(ended.unwrap_or(started)),
                remedy: Some("be build status, be build continue, or be build drop".into()),
                ..item(
                    name.as_str(),
                    "build-failed",
                    format!("the build failed in phase {word}: {why}"),
                )
            }
        }
        State::Failed => {
            let why = upgrade.and_then(|u| u.error.clone());
            let why = why.unwrap_or_else(|| "it was cut off".into());
            Pending {
                since: Some(ended.unwrap_or(started)),
                remedy: Some(format!(
                    "be upgrade --continue {name}, or be destroy {name}"
                )),
                ..item(
                    name.as_str(),
                    "failed",
                    format!("the upgrade failed in phase {word}: {why}"),
                )
            }
        }
        State::Ready if !env.running && (upgrade.is_some() || env.next) => Pending {
            since: Some(ended.unwrap_or(env.record.created)),
            remedy: (!env.next).then(|| format!("be activate {name}")),
            ..match upgrade {
                Some(_) => item(
                    name.as_str(),
                    "not-booted",
                    "upgraded, not booted yet".into(),
                ),
                None => item(name.as_str(), "not-booted", "not booted yet".into()),
            }
        },
        State::Trial => Pending {
            since: ended,
            remedy: env.running.then(|| "be confirm, if it works".into()),
            ..item(
                name.as_str(),
                "trial",
                match env.trial {
                    Some(left) => format!("on trial, {left} boots left"),
                    None => "in its first boots, not confirmed yet".into(),
                },
            )
        },
        State::Bad => {
            let failure = env.record.trial_failure.as_ref();
            let why = failure.map_or_else(String::new, |f| format!(": {}", f.why));
            Pending {
                since: failure.map(|f| f.noticed).or(ended),
                remedy: Some(format!("be log {name}, or be destroy {name}")),
                ..item(name.as_str(), "bad", format!("it did not come up{why}"))
            }
        }
        State::Ready | State::Confirmed => return None,
    };
    Some(Pending { phase, ..found })
}

fn of_menu(inv: &Inventory, env: &Environment) -> Option<Pending> {
    let name = env.name();
    if env.root.is_none() {
        return Some(Pending {
            remedy: Some("be doctor".into()),
            ..item(
                name.as_str(),
                "root-gone",
                "its root subvolume is gone".into(),
            )
        });
    }
    let listed = inv.menu.entries.iter().any(|e| e == name.as_str());
    (env.usable() && !listed).then(|| Pending {
        remedy: Some("be menu writes it, or says why not".into()),
        ..item(name.as_str(), "no-entry", "no entry in the menu".into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fixture::{env, inventory, now};
    use crate::record::Upgrade;

    fn kinds(inv: &Inventory) -> Vec<(String, &'static str)> {
        let all = pending(inv);
        all.into_iter().map(|p| (p.environment, p.kind)).collect()
    }

    fn listed(mut inv: Inventory) -> Inventory {
        let names = inv.environments.iter().map(|e| e.name().to_string());
        inv.menu.entries = names.collect();
        inv
    }

    #[test]
    fn nothing_is_pending_where_all_is_confirmed() {
        let inv = listed(inventory(vec![
            env("default", 256).running().next(),
            env("old", 300),
        ]));
        assert_eq!(kinds(&inv), []);
        assert_eq!(next(&inv, None).why, Why::Default);
    }

    #[test]
    fn everything_unfinished_is_told_with_its_phase_and_when() {
        let upgraded = |phase| {
            move |e: &mut Environment| {
                let mut upgrade = Upgrade::start(now(), &[]);
                upgrade.phase = phase;
                e.record.upgrade = Some(upgrade);
            }
        };
        let mut inv = listed(inventory(vec![
            env("default", 256).running().next(),
            env("busy", 300)
                .state(State::Building)
                .with(upgraded(Phase::Merge))
                .with(|e| e.busy = true),
            env("cut", 301)
                .state(State::Building)
                .with(upgraded(Phase::Sync)),
            env("new", 302)
                .state(State::Ready)
                .with(upgraded(Phase::Done)),
            env("copy", 303).state(State::Ready),
            env("gone", 304).with(|e| e.root = None),
            env("unlisted", 305),
            env("bad", 306).state(State::Bad),
            env("trial", 307).state(State::Trial),
        ]));
        inv.menu.entries.retain(|e| e != "unlisted");
        inv.damaged = vec![("torn".into(), "EOF at line 3".into())];
        inv.leftovers = vec!["half".into()];
        let expected = [
            ("busy", "upgrading"),
            ("cut", "failed"),
            ("new", "not-booted"),
            ("gone", "root-gone"),
            ("unlisted", "no-entry"),
            ("bad", "bad"),
            ("trial", "trial"),
            ("torn", "unreadable"),
            ("half", "interrupted"),
        ];
        assert_eq!(kinds(&inv), expected.map(|(n, k)| (n.to_owned(), k)));
        let busy = &pending(&inv)[0];
        assert_eq!(busy.phase, Some(Phase::Merge));
        assert_eq!(busy.since, Some(now()));
        assert_eq!(to_come(&inv).unwrap().name().as_str(), "new");
        let at = |n: &str| inv.environments.iter().position(|e| e.name().as_str() == n);
        let copy = at("copy").unwrap();
        inv.environments[0].next = false;
        inv.environments[copy].next = true;
        assert_eq!(pending(&inv)[3].environment, "copy");
        assert_eq!(to_come(&inv).unwrap().name().as_str(), "copy");
    }

    #[test]
    fn why_something_boots_next() {
        let mut inv = inventory(vec![env("default", 256).running(), env("new", 300).next()]);
        let told =
            |inv: &Inventory, once: Option<&str>| next(inv, once.map(str::to_owned)).why.as_str();
        assert_eq!(told(&inv, None), "default");
        assert_eq!(told(&inv, Some("be-x")), "once");
        inv.menu.hooked = false;
        assert_eq!(told(&inv, None), "grub.cfg");
        inv.menu.hooked = true;
        inv.environments[1].next = false;
        assert_eq!(told(&inv, None), "grub.cfg");
        inv.menu.damage = Some("x".into());
        assert_eq!(told(&inv, None), "unknown");
    }
}
