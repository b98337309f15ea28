//! What an environment is when its upgrade has ended.

use std::path::Path;

use anyhow::{Context, Result};
use be_btrfs::Root;
use be_portage::elog::{self, Message};
use be_portage::state;

use super::{Findings, Space};
use crate::boot;
use crate::record::Record;
use crate::session::Session;
use crate::space;
use crate::upgrade::fd_path;

/// What is read of the messages of packages, in bytes from the end.
const MOST: u64 = 1 << 20;

/// Look at the environment of this record. The messages of packages are what their file has
/// behind `messages`, in bytes. What cannot be read is left out: a report that lacks something
/// is better than none.
pub(crate) fn gather(session: &Session, record: &Record, messages: u64) -> Findings {
    let told = |what: &str, e: anyhow::Error| {
        let name = &record.name;
        tracing::warn!("the report of {name} lacks the {what}: {e:#}");
    };
    Findings {
        packages: session
            .packages_changed(record)
            .map_err(|e| told("packages", e))
            .ok(),
        debt: debt(session, record)
            .map_err(|e| told("pending work", e))
            .ok(),
        messages: said(session, record, messages).unwrap_or_else(|e| {
            told("messages of packages", e);
            Vec::new()
        }),
        kernels: session
            .whole_of(record)
            .map(|root| kernels(&root))
            .unwrap_or_default(),
        space: taken(session, record)
            .map_err(|e| told("space", e))
            .ok()
            .flatten(),
    }
}

fn debt(session: &Session, record: &Record) -> Result<state::Debt> {
    let root = session.whole_of(record)?;
    state::debt(&fd_path(&root), &session.beside(&root)?)
}

/// The versions of the kernels in an environment's /boot, the newest first.
pub(crate) fn kernels(root: &Root) -> Vec<String> {
    let files = boot::boot_files_in(root, None).into_iter();
    let mut versions: Vec<String> = files.filter(|f| !f.old).map(|f| f.version).collect();
    versions.dedup();
    versions
}

/// How long the file with the messages of packages is, in bytes.
pub(crate) fn summary_length(session: &Session, record: &Record) -> u64 {
    let full = Path::new("/").join(elog::SUMMARY);
    let root = session.seen_by(record, &full);
    root.and_then(|root| Ok(root.metadata(elog::SUMMARY)?.size))
        .unwrap_or(0)
}

fn said(session: &Session, record: &Record, from: u64) -> Result<Vec<Message>> {
    use std::io::{Read, Seek, SeekFrom};
    let full = Path::new("/").join(elog::SUMMARY);
    let mut file = match session.seen_by(record, &full)?.file(elog::SUMMARY) {
        Ok(file) => file,
        Err(e) if e.is_not_found() => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    let length = file.metadata()?.len();
    // A shorter one was begun anew meanwhile.
    let from = if length < from { 0 } else { from };
    file.seek(SeekFrom::Start(from.max(length.saturating_sub(MOST))))?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(elog::parse(&String::from_utf8_lossy(&bytes)))
}

fn taken(session: &Session, record: &Record) -> Result<Option<Space>> {
    // What is not committed is not seen.
    session.store.top.sync()?;
    let inv = session.observe()?;
    let spaces = space::of(&session.store, &inv).context("cannot measure")?;
    Ok(spaces.environment(&record.name).map(|s| Space {
        exclusive: s.exclusive,
        referenced: s.referenced,
    }))
}
