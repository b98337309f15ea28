//! Logs that were rotated on the running system meanwhile: what the environment has written goes
//! to where the old lines went.

use std::path::Path;

use anyhow::Result;
use be_btrfs::Root;

use super::survey::MAX_LOG;
use super::text::{self, List};
use super::{Carry, Conflict, Decision, From, Item, Mix};
use crate::diff::entry;

const LOGS: &str = "var/log";

const AS_RUNNING: Mix = Mix {
    content: From::Running,
    mode: From::Running,
    owner: From::Running,
    attributes: From::Running,
    contested: false,
};

/// Finds them among the logs of which both would be kept.
pub(super) fn follow(carry: &mut Carry) -> Result<()> {
    for at in 0..carry.items.len() {
        let item = &carry.items[at];
        let both = item.decision == Decision::Beside(Conflict::Content);
        if !both || !item.path.starts_with(LOGS) {
            continue;
        }
        let Some(moved) = moved(carry, item)? else {
            continue;
        };
        carry.items[at].decision = Decision::Take;
        if let Moved::To(old, text) = moved {
            carry.items[old].decision = Decision::Merge(text, AS_RUNNING);
            // The lines are there before the log is another one: it may be cut off in between.
            if at < old {
                carry.items[at..=old].rotate_right(1);
            }
        }
    }
    Ok(())
}

/// Where the old lines of a log are.
enum Moved {
    /// In this item, which is to be made like this.
    To(usize, Vec<u8>),
    /// Where the environment has all of them already: it was cut off after that.
    Done,
}

fn moved(carry: &Carry, log: &Item) -> Result<Option<Moved>> {
    let volume = &carry.volumes[log.place.0];
    let path = log.place.1.as_path();
    let (Some(base), Some(new)) = (lines(&volume.base, path)?, lines(&volume.new, path)?) else {
        return Ok(None);
    };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(None);
    };
    let Some(dir) = entry::open_dir(volume.running.fd(), parent)? else {
        return Ok(None);
    };
    for (other, _) in entry::names(&dir)? {
        // `messages.1`, `messages-20261130`.
        let is_older = other
            .as_encoded_bytes()
            .starts_with(name.as_encoded_bytes());
        if !is_older || other == name || base.is_empty() {
            continue;
        }
        let other = parent.join(other);
        let old = lines(&volume.running, &other)?.filter(|old| old.starts_with(&base));
        let text = old.and_then(|old| text::merge(&base, &old, &new, Some(List::Log)));
        let Some(text) = text else { continue };
        if lines(&volume.new, &other)?.as_ref() == Some(&text) {
            return Ok(Some(Moved::Done));
        }
        let place = (log.place.0, other);
        let taken = |item: &Item| item.place == place && item.decision == Decision::Take;
        if let Some(number) = carry.items.iter().position(taken) {
            return Ok(Some(Moved::To(number, text)));
        }
    }
    Ok(None)
}

fn lines(root: &Root, path: &Path) -> Result<Option<Vec<u8>>> {
    match root.strict_read(path, MAX_LOG) {
        Err(e) if e.is_not_found() => Ok(None),
        other => Ok(other?),
    }
}
