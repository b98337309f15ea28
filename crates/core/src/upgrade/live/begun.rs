//! When the first package was merged: before that emerge only computes and unpacks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use be_btrfs::Root;
use be_portage::pretend::Planned;

use crate::session::Session;

const VDB: &str = "var/db/pkg";

/// How the entry of a package begins that is being merged (`MERGING_IDENTIFIER` of Portage).
const MERGING: &[u8] = b"-MERGING-";

pub(super) struct Begun {
    /// The running system.
    root: Root,
    /// Where an entry of a package that is planned would be.
    categories: BTreeSet<PathBuf>,
    /// Entries that are not there yet: one that is has been merged between two looks.
    planned: Vec<PathBuf>,
    at: Option<Instant>,
}

impl Begun {
    pub(super) fn new(session: &Session, planned: &[Planned]) -> Result<Self> {
        let root = session.root.try_clone()?;
        let entries = planned.iter().map(|p| Path::new(VDB).join(&p.package));
        let entries: Vec<PathBuf> = entries.collect();
        let categories = entries.iter().filter_map(|entry| entry.parent());
        let categories = categories.map(Path::to_owned).collect();
        let new = entries.into_iter();
        let planned = new
            .filter(|entry| !root.is_dir(entry).unwrap_or(false))
            .collect();
        Ok(Self {
            root,
            categories,
            planned,
            at: None,
        })
    }

    /// Whether it was by now.
    pub(super) fn look(&mut self) {
        if self.at.is_some() {
            return;
        }
        let merging = self.categories.iter().any(|category| {
            let entries = self.root.list(category).unwrap_or_default();
            let mut names = entries.iter().map(|(name, _)| name.as_encoded_bytes());
            names.any(|name| name.starts_with(MERGING))
        });
        let there = |entry: &PathBuf| self.root.is_dir(entry).unwrap_or(false);
        self.at = (merging || self.planned.iter().any(there)).then(Instant::now);
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.at.map_or(Duration::ZERO, |at| at.elapsed())
    }
}
