//! The script by which a regenerated grub.cfg goes on reading our menu.

use std::path::Path;

use be_btrfs::Root;

/// Whether /etc/grub.d has our script, as this `be` would write it.
pub fn script_installed(root: &Root) -> bool {
    let path = Path::new("etc/grub.d").join(be_grub::hook::SCRIPT_NAME);
    root.read_to_string(path, 1 << 16)
        .is_ok_and(|text| text == be_grub::hook::SCRIPT)
}
