//! From where to where something is carried, and what both sides once were.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::model::{Environment, Inventory, Subvolume};
use crate::name::{EnvName, SnapName};
use crate::record::Policy;
use crate::refusal::Refusal;
use crate::store::Store;
use crate::whole::Whole;

/// The snapshot of an environment as it was when it was about to boot for the first time.
pub const ACTIVATED: &str = "as-activated";

/// From the running environment into another one.
#[derive(Debug, Clone)]
pub struct Route {
    /// The environment that runs.
    pub from: EnvName,
    /// The one that it goes into.
    pub to: EnvName,
    /// Back into what an upgrade was made from: what was carried is not the base of a next time.
    pub(super) back: bool,
    /// Only these and what is below them; all if there are none.
    pub(super) only: Vec<PathBuf>,
    pub(super) legs: Vec<Leg>,
}

/// A subvolume in both; paths are from the top level.
#[derive(Debug, Clone)]
pub(super) struct Leg {
    /// Where it is mounted.
    pub mount: String,
    /// What changed is told from this read-only snapshot.
    pub base: PathBuf,
    pub here: Subvolume,
    pub there: PathBuf,
}

impl Route {
    /// Into a clone of what runs, since it was cloned or something was carried into it last.
    ///
    /// # Errors
    /// [`Refusal::NotFromRunning`].
    pub fn into_clone(inv: &Inventory, env: &Environment) -> Result<Self, Refusal> {
        let running = inv.running()?;
        let refused = || Refusal::NotFromRunning {
            name: env.name().clone(),
            running: running.name().clone(),
        };
        if running.name() == env.name() {
            return Err(refused());
        }
        let home = crate::store::Paths::environment(env.name());
        let members = env.record.subvolumes.iter();
        let legs = members
            .filter(|m| m.policy == Policy::Cloned)
            .map(|member| {
                let base = member.base.as_ref();
                let pair = base.zip(inv.counterpart(running, &member.mount));
                let (_, here) = pair.filter(|(base, here)| base.of == here.uuid)?;
                Some(Leg {
                    mount: member.mount.clone(),
                    base: home.join("base").join(member.place()),
                    here: here.clone(),
                    there: home.join(member.place()),
                })
            });
        Ok(Self {
            from: running.name().clone(),
            to: env.name().clone(),
            back: false,
            only: Vec::new(),
            legs: legs.collect::<Option<_>>().ok_or_else(refused)?,
        })
    }

    /// Back into another environment, since the running one was about to boot for the first
    /// time; `only` these paths, absolute, or all.
    ///
    /// # Errors
    /// [`Refusal::NothingKept`].
    pub fn back(inv: &Inventory, env: &Environment, only: &[PathBuf]) -> Result<Self, Refusal> {
        let running = inv.running()?;
        let unknown = || Refusal::NothingKept {
            running: running.name().clone(),
            name: env.name().clone(),
        };
        let snapshot = SnapName::parse(ACTIVATED).ok();
        let taken = snapshot.and_then(|name| running.snapshot(&name).ok());
        let (taken, found) = taken
            .filter(|_| running.name() != env.name())
            .ok_or_else(unknown)?;
        let mut legs = Vec::new();
        for (member, there) in env.record.subvolumes.iter().zip(&env.subvolumes) {
            let mut all = taken.subvolumes.iter().zip(&found.subvolumes);
            let base =
                all.find_map(|(of, base)| base.as_ref().filter(|_| of.mount == member.mount));
            let here = inv.counterpart(running, &member.mount);
            if member.policy == Policy::Cloned
                && let ((Some(base), Some(here)), Some(there)) = ((base, here), there)
            {
                legs.push(Leg {
                    mount: member.mount.clone(),
                    base: base.path.clone(),
                    here: here.clone(),
                    there: there.path.clone(),
                });
            }
        }
        if !legs.iter().any(|leg| leg.mount == "/") {
            return Err(unknown());
        }
        let relative = |path: &PathBuf| path.strip_prefix("/").unwrap_or(path).to_owned();
        Ok(Self {
            from: running.name().clone(),
            to: env.name().clone(),
            back: true,
            only: only.iter().map(relative).collect(),
            legs,
        })
    }

    /// The system as it was when both were one.
    pub(super) fn whole_base(&self, store: &Store) -> Result<Whole> {
        self.whole(store, |leg| leg.base.clone())
    }

    /// What runs, held still by snapshots in this directory.
    pub(super) fn whole_held(&self, store: &Store, dir: &Path) -> Result<Whole> {
        self.whole(store, |leg| dir.join(crate::record::place(&leg.mount)))
    }

    fn whole(&self, store: &Store, at: impl Fn(&Leg) -> PathBuf) -> Result<Whole> {
        let root = self.legs.iter().find(|leg| leg.mount == "/");
        let root = at(root.context("there is no root")?);
        let others = self.legs.iter().filter(|leg| leg.mount != "/");
        let volumes = others.map(|leg| (PathBuf::from(&leg.mount), at(leg)));
        Whole::open(store, &root, volumes.collect())
    }

    /// Whether a path, from the root of the system, is wanted: chosen, or on the way to what is.
    pub(super) fn wants(&self, path: &Path, is_new_dir: bool) -> bool {
        let chosen =
            |only: &PathBuf| path.starts_with(only) || (is_new_dir && only.starts_with(path));
        self.only.is_empty() || self.only.iter().any(chosen)
    }
}
