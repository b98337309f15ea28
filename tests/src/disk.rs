//! A disk that is full.

use std::fs;

use anyhow::{Result, ensure};
use xtask::image::Tree;
use xtask::run::{cmd, run};

use crate::system::System;

impl System {
    /// Fills the disk but for `parts` parts of 8 MiB; [`System::empty`] undoes it.
    /// Not in the root: a clone of it would keep what fills it.
    ///
    /// # Errors
    /// There is less room than that.
    pub fn fill(&self, parts: usize) -> Result<()> {
        let dir = self.top("filler");
        fs::create_dir(&dir)?;
        let part = |name: &str, size: &str| -> Result<bool> {
            let path = dir.join(name);
            let made = cmd("fallocate", ["-l", size]).arg(&path).output()?;
            if !made.status.success() {
                let _made_before_it_failed = fs::remove_file(&path);
            }
            Ok(made.status.success())
        };
        for number in 0..parts {
            ensure!(part(&format!("room.{number}"), "8M")?, "it is full already");
        }
        for size in ["64M", "8M", "1M"] {
            let mut number = 0;
            while part(&format!("{size}.{number}"), size)? {
                number += 1;
            }
        }
        for number in 0..parts {
            fs::remove_file(dir.join(format!("room.{number}")))?;
        }
        self.sync()
    }

    /// Takes away what [`System::fill`] has made.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn empty(&self) -> Result<()> {
        fs::remove_dir_all(self.top("filler"))?;
        self.sync()?;
        // Else the empty block groups go back to metadata only in a while.
        run(cmd("btrfs", ["balance", "start", "-dusage=0"]).arg(self.root()))?;
        Ok(())
    }

    /// Brings everything to the disk; space is free only then.
    ///
    /// # Errors
    /// It fails.
    pub fn sync(&self) -> Result<()> {
        run(cmd("btrfs", ["filesystem", "sync"]).arg(self.root()))?;
        Ok(())
    }
}
