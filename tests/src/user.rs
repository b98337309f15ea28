//! Processes that use something of a system while a test goes on.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// A process that uses something. Dropped, it is gone.
#[derive(Debug)]
pub struct User(pub Child);

impl User {
    /// In a mount namespace of its own, once this script of sh(1) has run there.
    ///
    /// # Errors
    /// The script fails.
    pub fn elsewhere(script: &str) -> Result<Self> {
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c"])
            .arg(format!("{script} && exec sleep 600"))
            .stdin(Stdio::null())
            .spawn()?;
        let this = Self(child);
        let start = Instant::now();
        let comm = format!("/proc/{}/comm", this.0.id());
        while fs::read_to_string(&comm)?.trim() != "sleep" {
            ensure!(start.elapsed() < Duration::from_secs(60), "no sleep");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(this)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}
