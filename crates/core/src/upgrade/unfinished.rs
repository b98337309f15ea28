//! What to make of an upgrade that was cut off, by a signal or by the power.
//!
//! Portage writes a package's files, then its entry in the database, runs its pkg_postinst, has
//! all of it written to disk (`FEATURES=merge-sync`), and then logs that it is complete. What is
//! not logged so may be anything: installed without its pkg_postinst, which Portage never runs
//! again, or, after a power cut, have files and an entry of which the names are on disk and the
//! content is not.

use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result};
use be_portage::log::{Event, Lines};
use be_portage::vdb::{self, Installed, Package};

use super::Work;
use super::finish::fd_path;
use super::portage::{EMERGE_LOG, boot_id};
use super::progress::Follow;

/// How much of a log is read at once, in bytes.
const PIECE: usize = 64 << 10;

/// What an upgrade has merged, as far as its log tells.
#[derive(Default)]
struct Completed {
    /// `category/name-version`.
    packages: BTreeSet<String>,
    /// When the last of them was complete, in seconds since 1970.
    last: Option<i64>,
}

impl Work<'_> {
    /// Have all merged again that is not known to be complete.
    pub(super) fn note_unfinished(&mut self) -> Result<()> {
        let Some(start) = self.upgrade().log_start else {
            return Ok(());
        };
        let mut follow = Follow::new(self.emerge_log()?, start);
        follow.read();
        let unfinished = follow.progress.unfinished().into_iter();
        let unfinished: Vec<String> = unfinished.map(str::to_owned).collect();
        self.journal_cut_off(&unfinished);
        self.add_failed(unfinished);
        // Portage takes the old entry of a package away before the new one has its name.
        self.add_failed(self.installed()?.interrupted);
        // As long as the machine has not gone down, all that was written is there.
        if self.upgrade().log_boot != boot_id() {
            self.note_torn()?;
        }
        Ok(())
    }

    /// After a power cut: what is new and not logged as complete, also where the log itself
    /// ends early.
    fn note_torn(&mut self) -> Result<()> {
        let completed = self.completed()?;
        let base = self.session.whole_base(&self.record)?;
        let before = vdb::load_root(&fd_path(&base)).context("cannot read the packages before")?;
        let now = self.installed()?.packages.into_iter();
        let new = now.filter(|package| !has(&before, package));
        let torn = new.map(|package| package.cpv());
        let torn = torn.filter(|cpv| !completed.packages.contains(cpv));
        self.add_failed(torn.collect());
        let started = self.upgrade().started.timestamp();
        self.forget_built_since(completed.last.unwrap_or(started))
    }

    fn completed(&mut self) -> Result<Completed> {
        let first = self.upgrade().log_first.unwrap_or(0);
        let mut completed = Completed::default();
        let Ok(mut log) = self.emerge_log()?.file(EMERGE_LOG) else {
            return Ok(completed);
        };
        log.seek(SeekFrom::Start(first))?;
        let (mut lines, mut piece) = (Lines::default(), vec![0; PIECE]);
        loop {
            let n = log.read(&mut piece).context("cannot read emerge.log")?;
            if n == 0 {
                return Ok(completed);
            }
            lines.events(&piece[..n], |time, event| match *event {
                Event::Completed(package) => {
                    completed.packages.insert(package.to_owned());
                    completed.last = Some(time);
                }
                // Merged once more, and not complete.
                Event::Begin(_, _, package) => drop(completed.packages.remove(package)),
                _ => {}
            });
        }
    }

    pub(super) fn add_failed(&mut self, packages: Vec<String>) {
        let failed = &mut self.upgrade().failed;
        for package in packages {
            if !failed.contains(&package) {
                failed.push(package);
            }
        }
    }

    /// Let go of binary packages that were written at this time, in seconds since 1970, or
    /// later: they may be cut off.
    fn forget_built_since(&self, time: i64) -> Result<()> {
        let Some(kept) = &self.built else {
            return Ok(());
        };
        let built = &kept.dir;
        let mut dirs = vec![Path::new("").to_owned()];
        while let Some(dir) = dirs.pop() {
            for (name, kind) in built.list(&dir)? {
                let path = dir.join(name);
                if kind.is_dir() {
                    dirs.push(path);
                } else if kind.is_file() && built.metadata(&path)?.mtime.0 >= time {
                    built.remove_file(&path)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether it was built before. A package that was moved to another name or slot since is the
/// same build.
fn has(before: &Installed, package: &Package) -> bool {
    let same = |old: &&Package| {
        old.version == package.version
            && old.build_time == package.build_time
            && old.build_id == package.build_id
            && old.size == package.size
    };
    before.packages.iter().any(|old| same(&old))
}
