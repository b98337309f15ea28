//! Waiting until the space of deleted subvolumes is back.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::error::Context;
use crate::ioctl::{Range, Searcher};
use crate::tree::{ROOT_ITEM, ROOT_TREE};
use crate::{Result, TopLevel};

/// How long to wait between two looks.
const PAUSE: Duration = Duration::from_millis(20);

impl TopLevel {
    /// Waits until the cleaner has freed all of these deleted subvolumes, but at most for
    /// `limit`; whether it has. The space that they alone used is free then. One
    /// [`TopLevel::sync`] wakes the cleaner; `SUBVOL_SYNC_WAIT` does not.
    pub fn wait_cleaned(&self, ids: &[u64], limit: Duration) -> Result<bool> {
        self.sync()?;
        let start = Instant::now();
        let mut left = ids.to_vec();
        loop {
            let mut still = Vec::new();
            for id in left {
                if has_root_item(self.fd(), id).on("look for a subvolume of", self.device())? {
                    still.push(id);
                }
            }
            if still.is_empty() {
                // What was freed counts with the commit that says so.
                self.sync()?;
                return Ok(true);
            }
            if start.elapsed() >= limit {
                return Ok(false);
            }
            left = still;
            std::thread::sleep(PAUSE);
        }
    }
}

/// The root item of a subvolume stays until the last of its blocks is freed.
fn has_root_item(fd: BorrowedFd<'_>, id: u64) -> io::Result<bool> {
    let range = Range {
        tree: ROOT_TREE,
        from: (id, ROOT_ITEM, 0),
        to: (id, ROOT_ITEM, u64::MAX),
        since: 0,
    };
    let mut found = false;
    Searcher::new().search(fd, &range, |item| {
        found = item.key.0 == id;
        ControlFlow::Break(())
    })?;
    Ok(found)
}
