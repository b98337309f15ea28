//! From what is asked for to the plan of an upgrade.

use anyhow::Result;
use be_portage::emerge::{BadOption, Options};

use super::{Kind, Request, locked, unbooted};
use crate::block;
use crate::gates::Gate;
use crate::lock::Sha256;
use crate::manager::Manager;
use crate::model::Inventory;
use crate::plan::{self, Plan, Step};
use crate::record::{Record, State, Upgrade};
use crate::refusal::{NoLock, Refusal};
use crate::session::Session;

/// The plan of an upgrade, as far as it is known before anything ran.
///
/// # Errors
/// Every rule that forbids it.
pub fn plan(session: &Session, inv: &Inventory, request: &Request) -> Result<(Record, Plan)> {
    let request = &unbooted::go_on(session, inv, request);
    let manager = upgrader(session, inv, request)?;
    let all = options(session, &manager, request)?;
    let mut upgrade = Upgrade::start(request.now, &request.options);
    if let Some(lock) = &request.lock {
        locked::check(inv, lock)?;
        // Their own packages would come besides those of the lock.
        if let (Manager::Profile(_), _) | (_, Some(_)) = (&manager, all.targets().first()) {
            return Err(not_by_lock(&manager, all.targets()).into());
        }
        upgrade.lock = Some(Sha256::new(lock.to_text()?.as_bytes()).to_string());
    }
    let activate = request.activate.unwrap_or(session.config.upgrade.activate);
    upgrade.activate = Some(activate);
    upgrade.trial = request.trial;
    add_gates(&mut upgrade, &request.no_gates);
    upgrade.depclean = request.depclean;
    upgrade.live = request.live;
    if request.trial == Some(true)
        && let Err(none) = block::place(session, inv)
    {
        return Err(Refusal::no_trial(&none).into());
    }
    match &request.kind {
        Kind::New { name, origin } => {
            let create = plan::Create {
                name: name.clone(),
                layout: session.layout(inv, origin.as_ref())?,
                origin: origin.clone(),
                description: String::new(),
                now: request.now,
                upgrade: Some(upgrade),
                switch: None,
                min_free: session.config.upgrade.min_free_mib << 20,
            };
            let (name, plan, _) = plan::create(inv, &create)?;
            // Better now than after twelve hours.
            session.bootable(inv, origin.as_ref())?;
            if activate {
                inv.hooked()?;
            }
            Ok((Record::new(name, request.now, State::Building), plan))
        }
        Kind::Continue(name) | Kind::Unbooted(name) => {
            inv.writable()?;
            let env = inv.get(name)?;
            env.no_builder()?;
            if env.busy {
                let what = format!("another be works in {name}");
                return Err(Refusal::Busy { what }.into());
            }
            let state = env.state();
            let wanted = match request.kind {
                Kind::Unbooted(_) => State::Ready,
                _ => State::Failed,
            };
            let upgrade = env.record.upgrade.as_ref();
            let Some(old) = upgrade.filter(|_| state == wanted) else {
                let state = state.as_str();
                let name = name.clone();
                return Err(Refusal::NothingToContinue { name, state }.into());
            };
            if request.live && !old.live {
                let why = "it was not begun with --live".to_owned();
                let name = name.clone();
                return Err(Refusal::NotLive { name, why }.into());
            }
            if let Manager::Profile(profile) = &manager
                && old.in_part
                && !profile.resumes
            {
                let (name, manager) = (name.clone(), profile.name.clone());
                return Err(Refusal::CutOff { name, manager }.into());
            }
            let mut plan = Plan::default();
            let mut upgrade = old.clone();
            if state == State::Ready {
                plan = unbooted::out_of_the_menu(session, inv, env)?;
                unbooted::begin_again(&mut upgrade);
            }
            let mut record = env.record.clone();
            record.state = State::Building;
            record.at_shutdown = None;
            (upgrade.ended, upgrade.error) = (None, None);
            upgrade.activate = request.activate.or(upgrade.activate);
            upgrade.trial = request.trial.or(upgrade.trial);
            upgrade.gates.clear();
            add_gates(&mut upgrade, &request.no_gates);
            upgrade.depclean |= request.depclean;
            if !request.options.is_empty() {
                upgrade.options.clone_from(&request.options);
            }
            record.upgrade = Some(upgrade);
            plan.steps.push(Step::Update(Box::new(record.clone())));
            Ok((record, plan))
        }
    }
}

/// A gate that was switched off for an environment stays so.
fn add_gates(upgrade: &mut Upgrade, gates: &[Gate]) {
    for name in gates.iter().map(|gate| gate.name()) {
        if !upgrade.no_gates.iter().any(|known| known == name) {
            upgrade.no_gates.push(name.to_owned());
        }
    }
}

/// Why nothing can be made from a lock with this manager, or with these packages besides.
fn not_by_lock(manager: &Manager, targets: &[String]) -> Refusal {
    match manager {
        Manager::Portage => Refusal::BadEmergeOption {
            why: format!(
                "a lock says which packages there are, and {} comes besides",
                targets.join(" ")
            ),
        },
        Manager::Profile(profile) => Refusal::NoLock(NoLock::Manager {
            manager: profile.name.clone(),
        }),
    }
}

/// The package manager of what is to be upgraded.
fn upgrader(session: &Session, inv: &Inventory, request: &Request) -> Result<Manager> {
    let env = match &request.kind {
        Kind::New { origin, .. } => inv.origin(origin.as_ref().map(|n| &n.env)),
        Kind::Continue(name) | Kind::Unbooted(name) => inv.get(name),
    };
    // Of what is not there, something else is told.
    match env.ok().map(|env| session.whole(env)) {
        Some(Ok(tree)) => session.upgrader_of(&tree),
        _ => session.upgrader_of(&session.root),
    }
}

/// What emerge gets besides what it always does; another manager takes it as it is.
pub(super) fn options(session: &Session, manager: &Manager, request: &Request) -> Result<Options> {
    if let Manager::Profile(profile) = manager {
        if !request.options.is_empty() && !profile.options {
            let manager = profile.name.clone();
            return Err(Refusal::NoOptions { manager }.into());
        }
        if request.depclean {
            let manager = profile.name.clone();
            return Err(Refusal::NoDepclean { manager }.into());
        }
        return Ok(Options::default());
    }
    let mut all = session.config.upgrade.emerge_options.clone();
    all.extend(request.options.iter().cloned());
    let bad = |bad: BadOption| Refusal::BadEmergeOption {
        why: bad.to_string(),
    };
    let mut options = Options::parse(&all).map_err(bad)?;
    options.polite = session.config.upgrade.polite;
    options.binhost = session.config.upgrade.binhost.then_some(true);
    Ok(options)
}
