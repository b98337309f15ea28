//! What people are told who log in after a fallback.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// For pam_motd(8) after the login, and for agetty(8) before it. Both are gone with the next
/// boot.
const FILES: [&str; 2] = ["/run/motd.d/be", "/run/issue.d/be.issue"];

/// Tell it.
///
/// # Errors
/// When it cannot be written.
pub fn announce(text: &str) -> Result<()> {
    for file in FILES.map(Path::new) {
        let dir = file.parent().unwrap_or(Path::new("/run"));
        fs::create_dir_all(dir)
            .and_then(|()| fs::write(file, format!("\n{text}\n\n")))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Take it back: it is not so any more.
pub fn withdraw() {
    for file in FILES {
        // What is not there need not go.
        let _gone = fs::remove_file(file);
    }
}
