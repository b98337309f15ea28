//! What was proven of environments before, so that a menu of two hundred is written
//! without looking into two hundred. Kept beside the menu; it can be deleted at any time.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::boot::Kernel;
use crate::config::Config;
use crate::model::{Environment, Filesystem, Subvolume};
use crate::observe::MAX_TEXT;
use crate::store::Store;

const FILE: &str = "@be/.grub/proven.json";

/// Why one proof does not hold for another moment: any of these differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    version: String,
    fs_uuid: String,
    partuuid: Option<String>,
    uuid: String,
    path: String,
    /// The transaction that last wrote the root: the same one, the same content.
    generation: u64,
    default_subvolume: u64,
    config: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Proof {
    key: Key,
    /// Newest first; there is one.
    kernels: Vec<Kernel>,
}

/// How many packages there were when the subvolume with the record of them was last written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Count {
    generation: u64,
    packages: Option<u32>,
}

/// What was found out.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Proven {
    /// By the name of the environment.
    proofs: BTreeMap<String, Proof>,
    /// By the UUID of the subvolume: other subvolumes than the root have no proof, and a
    /// count stays true where a proof does not, as after a rename.
    counts: BTreeMap<String, Count>,
}

impl Proven {
    /// What is there; anything that cannot be read is as good as nothing.
    pub(crate) fn read(store: &Store) -> Self {
        store
            .dir
            .read_to_string(FILE, MAX_TEXT)
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default()
    }

    /// Keep it; lost in a power cut, it is made again.
    pub(crate) fn write(&self, store: &Store) -> Result<()> {
        let text = serde_json::to_vec(self)?;
        Ok(store.dir.write_later(FILE, &text, 0o600)?)
    }

    /// The kernels that were proven, if nothing was written in the environment since.
    pub(crate) fn get(
        &self,
        env: &Environment,
        fs: &Filesystem,
        config: &Config,
    ) -> Option<&[Kernel]> {
        let proof = self.proofs.get(env.name().as_str())?;
        (proof.key == key(env, fs, config)?).then_some(&proof.kernels)
    }

    /// Remember a proof.
    pub(crate) fn put(
        &mut self,
        env: &Environment,
        fs: &Filesystem,
        config: &Config,
        kernels: &[Kernel],
    ) {
        if let Some(key) = key(env, fs, config) {
            let kernels = kernels.to_vec();
            self.proofs
                .insert(env.name().to_string(), Proof { key, kernels });
        }
    }

    /// The number of packages in a subvolume, if nothing was written there since they were
    /// counted.
    pub(crate) fn packages(&self, subvolume: &Subvolume) -> Option<Option<u32>> {
        let count = self.counts.get(&subvolume.uuid)?;
        (count.generation == subvolume.generation).then_some(count.packages)
    }

    /// Remember a number of packages.
    pub(crate) fn put_packages(&mut self, subvolume: &Subvolume, packages: Option<u32>) {
        let generation = subvolume.generation;
        let count = Count {
            generation,
            packages,
        };
        self.counts.insert(subvolume.uuid.clone(), count);
    }
}

fn key(env: &Environment, fs: &Filesystem, config: &Config) -> Option<Key> {
    let root = env.root.as_ref()?;
    if env.record.boot.is_some() || env.record.subvolumes.len() > 1 {
        // The root's generation does not tell of what lies elsewhere.
        return None;
    }
    Some(Key {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        fs_uuid: fs.uuid.clone(),
        partuuid: fs.partuuid.clone(),
        uuid: root.uuid.clone(),
        path: root.option(),
        generation: root.generation,
        default_subvolume: fs.default_subvolume,
        config: format!("{:?}", config.menu),
    })
}
