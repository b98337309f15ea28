//! /proc/PID/mountinfo (format: proc_pid_mountinfo(5)). The ready-made parsers fail on an
//! empty source or leave `\040` in paths.

use std::path::PathBuf;

use crate::fstab::unescape;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// `major:minor` of the superblock: one for all subvolumes of a btrfs.
    pub device: String,
    /// What of the filesystem is mounted; for btrfs the path from the top level.
    pub root: PathBuf,
    /// Where, as seen from the root of the process.
    pub target: PathBuf,
    /// Options of this mount.
    pub options: String,
    /// Type of filesystem.
    pub fstype: String,
    /// Source, often a device.
    pub source: String,
    /// Options of the superblock.
    pub super_options: String,
}

/// Read a whole mountinfo; later rows lie over earlier ones. Lines that are not of the
/// format are left out.
pub fn parse(text: &str) -> Vec<Row> {
    text.lines().filter_map(row).collect()
}

fn row(line: &str) -> Option<Row> {
    let (before, after) = line.split_once(" - ")?;
    let mut left = before.split(' ').skip(2);
    let (device, root, target, options) = (left.next()?, left.next()?, left.next()?, left.next()?);
    // An empty source is an empty field: split at single blanks, not at white space.
    let mut right = after.split(' ');
    Some(Row {
        device: device.to_owned(),
        root: PathBuf::from(unescape(root)),
        target: PathBuf::from(unescape(target)),
        options: options.to_owned(),
        fstype: right.next()?.to_owned(),
        source: unescape(right.next()?),
        super_options: right.next().unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let text = "22 1 0:30 /@ / rw,noatime shared:1 - btrfs /dev/sda2 rw,subvolid=256,subvol=/@\n\
                    29 22 0:31 / /run/a\\040b rw - tmpfs  rw,size=1k\n\
                    nonsense\n";
        let rows = parse(text);
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].root, PathBuf::from("/@"));
        assert_eq!(rows[0].device, "0:30");
        assert_eq!(rows[0].super_options, "rw,subvolid=256,subvol=/@");
        assert_eq!(rows[1].target, PathBuf::from("/run/a b"));
        assert_eq!(rows[1].source, "");
    }
}
