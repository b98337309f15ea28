//! The script by which a regenerated grub.cfg goes on reading our menu.

use std::path::{Path, PathBuf};

use be_btrfs::Root;

/// How our script in /etc/grub.d is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// As this `be` would write it.
    Good,
    /// There, with another text.
    Changed,
    /// There, and grub-mkconfig passes over it.
    NotExecutable,
    /// Not there, or not readable.
    Missing,
}

/// Look at the script of the system with this root.
pub fn script(root: &Root) -> Script {
    let path = path();
    let Ok(text) = root.read_to_string(&path, 1 << 16) else {
        return Script::Missing;
    };
    let executable = root.metadata(&path).is_ok_and(|m| m.mode & 0o111 == 0o111);
    match (text == be_grub::hook::SCRIPT, executable) {
        (true, true) => Script::Good,
        (true, false) => Script::NotExecutable,
        (false, _) => Script::Changed,
    }
}

/// Whether /etc/grub.d has our script, as this `be` would write it.
pub fn script_installed(root: &Root) -> bool {
    script(root) == Script::Good
}

/// Where it is, in the root of a system.
pub fn path() -> PathBuf {
    Path::new("etc/grub.d").join(be_grub::hook::SCRIPT_NAME)
}
