//! The space that environments take: without quotas, from the extents themselves.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use be_btrfs::{Gone, Tree, Usage, Uuid};

use crate::model::{Environment, Inventory};
use crate::name::EnvName;
use crate::record::{Policy, Record};
use crate::store::Store;

/// What an environment or a subvolume takes, in bytes of files, before compression.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Space {
    /// What only it has: would be free without it.
    pub exclusive: u64,
    /// What its files consist of, shared or not.
    pub referenced: u64,
}

/// The space of everything.
#[derive(Debug, Clone, Default)]
pub struct Spaces {
    environments: BTreeMap<EnvName, Space>,
    subvolumes: BTreeMap<u64, Space>,
}

impl Spaces {
    /// Of an environment. What is exclusive is so to all that is destroyed with it: its
    /// subvolumes, its base, its snapshots; together they can have more than the sum of
    /// each. What is referenced are the files that it consists of, those of its base and
    /// its snapshots left out.
    pub fn environment(&self, name: &EnvName) -> Option<Space> {
        self.environments.get(name).copied()
    }

    /// Of one subvolume of an environment alone, by its id.
    pub fn subvolume(&self, id: u64) -> Option<Space> {
        self.subvolumes.get(&id).copied()
    }
}

/// The space of all environments, as of the last commit. The time that it takes grows with
/// what changed between them, and with the size of one system.
///
/// # Errors
/// When btrfs cannot be read.
pub fn of(store: &Store, inv: &Inventory) -> Result<Spaces> {
    let tree = store.top.tree()?;
    let owned: Vec<Owned> = inv.environments.iter().map(|e| owned(&tree, e)).collect();
    let single: BTreeSet<u64> = owned.iter().flat_map(|o| &o.all).copied().collect();
    let sets: Vec<Vec<u64>> = owned
        .iter()
        .flat_map(|o| [&o.all, &o.own])
        .map(|ids| ids.iter().copied().collect())
        .chain(single.iter().map(|&id| vec![id]))
        .collect();
    let usage = store
        .top
        .usage(&sets, &gone(inv.environments.iter().map(|e| &e.record)))?;
    let (of_environments, of_subvolumes) = usage.split_at(2 * owned.len());
    let space = |exclusive: &Usage, referenced: &Usage| Space {
        exclusive: exclusive.exclusive,
        referenced: referenced.referenced,
    };
    let names = inv.environments.iter().map(|e| e.name().clone());
    Ok(Spaces {
        environments: names
            .zip(of_environments.chunks_exact(2))
            .map(|(name, usage)| (name, space(&usage[0], &usage[1])))
            .collect(),
        subvolumes: single
            .into_iter()
            .zip(of_subvolumes)
            .map(|(id, usage)| (id, space(usage, usage)))
            .collect(),
    })
}

/// The ids of the subvolumes of an environment.
struct Owned {
    /// What its files are in.
    own: BTreeSet<u64>,
    /// With its base and its snapshots.
    all: BTreeSet<u64>,
}

fn owned(tree: &Tree, env: &Environment) -> Owned {
    let id = |uuid: &str| {
        let uuid: Uuid = uuid.parse().ok()?;
        tree.by_uuid(uuid).map(|node| node.id)
    };
    let members = env.record.subvolumes.iter();
    let members = members.filter(|m| m.policy != Policy::Shared);
    let root = env.root.as_ref().map(|root| root.id);
    let own: BTreeSet<u64> = root
        .into_iter()
        .chain(members.filter_map(|m| id(&m.uuid)))
        .collect();
    let made = env.record.made();
    let made = made.iter().filter_map(|(_, uuid)| id(uuid));
    let all = own.iter().copied().chain(made).collect();
    Owned { own, all }
}

/// The bases that the records name. Those that are gone tell how environments are related
/// that btrfs itself has no link between any more.
fn gone<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<Gone> {
    records
        .flat_map(|record| &record.subvolumes)
        .filter_map(|member| member.base.as_ref())
        .filter_map(|base| {
            Some(Gone {
                uuid: base.uuid.parse().ok()?,
                of: base.of.parse().ok()?,
                otransid: base.generation,
            })
        })
        .collect()
}
