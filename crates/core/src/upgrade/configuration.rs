//! The phase in which new versions of configuration files are merged, where that is safe.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use be_portage::config_files::Decision;

use super::Work;
use crate::config_files::{self, Item, Lineage, Meanwhile, Stamp};
use crate::record::ConfigFiles;

/// What became of one.
enum Done {
    Merged,
    Taken,
    Left,
}

impl Work<'_> {
    pub(super) fn configuration(&mut self) -> Result<()> {
        let root = self.root()?;
        let base = self.session.whole_base(&self.record)?;
        let manager = self.manager.clone();
        let waiting = config_files::waiting(&root, &manager);
        let waiting = waiting.context("cannot look for new versions")?;
        // What is not known is left for a person: no reason to give an upgrade up.
        let lineage = config_files::lineage(&base, &manager, &waiting).unwrap_or_else(|e| {
            let what = "what configuration files were made from is not known";
            self.watch.note(&format!("{what}: {e:#}"));
            Lineage::default()
        });
        self.files().left.clear();
        for item in config_files::survey(&root, &manager, &lineage)? {
            if self.interrupted.came() {
                bail!("it was interrupted");
            }
            self.configure(&item)?;
        }
        if let Err(e) = config_files::learn(&root, &manager, &lineage) {
            let what = "not all versions of configuration files are kept for the next upgrade";
            self.watch.note(&format!("{what}: {e:#}"));
        }
        let files = self.files();
        let counts = [
            (files.merged.len(), "merged"),
            (files.taken.len(), "taken"),
            (files.left.len(), "left for you"),
        ];
        if counts.iter().any(|(n, _)| *n > 0) {
            let counts = counts.map(|(n, what)| format!("{n} {what}"));
            let name = self.record.name.clone();
            self.watch.note(&format!(
                "{name}: configuration files: {}",
                counts.join(", ")
            ));
        }
        self.write_record()
    }

    /// Decide about one, and do it.
    fn configure(&mut self, item: &Item) -> Result<()> {
        let root = self.root()?;
        let stamp = Stamp::new(self.upgrade().started);
        let merged = config_files::already_merged(&root, item, &stamp);
        // What was carried is the person's, and no new version of a package.
        let carried = |file: &PathBuf| {
            let shown = format!("/{}", file.to_string_lossy().trim_start_matches('/'));
            self.record.beside.contains(&shown)
        };
        let carried = item.files.iter().any(carried);
        let (mut done, content) = match (&item.decision, self.session.config.upgrade.merge_config) {
            _ if carried => (Done::Left, None),
            (_, true) if merged => (Done::Merged, None),
            (Decision::Merge(result), true) => (Done::Merged, Some(result)),
            (Decision::Take, true) => (Done::Taken, item.theirs.as_ref()),
            (Decision::Leave(_), _) | (_, false) => (Done::Left, None),
        };
        if let Some(content) = content {
            let path = item.target.display();
            match config_files::put(&root, item, content, &stamp) {
                Ok(_kept) => {}
                // One that somebody has locked, by chattr(1), or of which several versions wait.
                Err(e) if is_denied(&e) || e.is::<Meanwhile>() => {
                    self.watch.note(&format!("{path} is left as it is: {e:#}"));
                    done = Done::Left;
                }
                Err(e) => return Err(e.context(format!("cannot write the new {path}"))),
            }
        }
        let path = item.path();
        let files = self.files();
        let list = match done {
            Done::Merged => &mut files.merged,
            Done::Taken => &mut files.taken,
            Done::Left => {
                files.left.push(path);
                return Ok(());
            }
        };
        // In no list twice, after a merge that was cut off.
        let known: BTreeSet<_> = list.drain(..).chain([path]).collect();
        list.extend(known);
        // The report is not to lack what nothing else tells any more.
        self.write_record()?;
        config_files::done_with(&root, item)
    }

    fn files(&mut self) -> &mut ConfigFiles {
        self.upgrade().config.get_or_insert_default()
    }
}

fn is_denied(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<be_btrfs::Error>().map(|e| e.io_kind());
    kind == Some(ErrorKind::PermissionDenied)
}
