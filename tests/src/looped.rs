//! A program of the running system that is started again and again while something happens.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xtask::chroot::Chroot;

/// What became of it.
#[derive(Debug)]
pub struct Looped {
    /// How often it was started.
    pub times: usize,
    /// When it failed, in seconds since 1970.
    pub failed: Vec<i64>,
}

/// Ends the loop, also where a test fails.
struct Stop(PathBuf);

impl Drop for Stop {
    fn drop(&mut self) {
        let _full_disk = fs::write(&self.0, "");
    }
}

/// Starts a shell command in the root at this directory, again and again, until something has
/// happened.
///
/// # Errors
/// Those of what happens, or of the chroot.
pub fn meanwhile(
    chroot: &Chroot,
    root: &Path,
    command: &str,
    happens: impl FnOnce() -> Result<()>,
) -> Result<Looped> {
    let script = format!(
        "n=0; until [ -e /tmp/stop ]; do n=$((n+1)); {{ {command}; }} >/dev/null 2>&1 \
         || date +%s; done; echo $n"
    );
    let stop = root.join("tmp/stop");
    let said = std::thread::scope(|scope| {
        let looped = scope.spawn(|| chroot.run(&["sh", "-c", &script]));
        let guard = Stop(stop.clone());
        let happened = happens();
        drop(guard);
        let said = looped.join().unwrap_or_else(|_| bail!("the loop"))?;
        happened.map(|()| said)
    })?;
    fs::remove_file(stop)?;
    let mut numbers: Vec<i64> = said
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let times = numbers.pop().context("the loop said nothing")?;
    Ok(Looped {
        times: usize::try_from(times)?,
        failed: numbers,
    })
}
