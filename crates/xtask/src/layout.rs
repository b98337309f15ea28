//! How a system is spread over file systems and subvolumes.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::vm::Firmware;

/// How the system is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// The root in `@`.
    AtSubvol,
    /// Fedora's: the root in `root`, /home in `home`; fstab also has `subvolid=`.
    FedoraRoot,
    /// The root is the top level, subvolume 5: what Gentoo's handbook gives.
    TopLevel,
    /// `@`, `@home`, `@var_log`, `@var_cache` side by side, and in `@` the
    /// subvolumes that docker, systemd and a database's owner have made.
    AtMany,
    /// openSUSE's: the root is a snapshot and the default subvolume, fstab names
    /// none for it; /var, /opt and others are subvolumes below `@`.
    Suse,
    /// The root in `@`, /boot on ext4, and GRUB's own files with it.
    BootExt4,
    /// The root in `@`; the ESP is /boot, with the kernels and GRUB's own files.
    EspBoot,
}

/// What is mounted on a directory below the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A subvolume beside the root, by its path from the top level.
    Subvolume(&'static str),
    /// An ext4 of its own.
    Boot,
    /// The EFI system partition.
    Esp,
}

impl Source {
    /// The type of the file system.
    #[must_use]
    pub fn fstype(self) -> &'static str {
        match self {
            Self::Subvolume(_) => "btrfs",
            Self::Boot => "ext4",
            Self::Esp => "vfat",
        }
    }
}

impl Layout {
    /// Every layout.
    pub const ALL: [Self; 7] = [
        Self::AtSubvol,
        Self::FedoraRoot,
        Self::TopLevel,
        Self::AtMany,
        Self::Suse,
        Self::BootExt4,
        Self::EspBoot,
    ];

    /// The name in file names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AtSubvol => "at",
            Self::FedoraRoot => "fedora",
            Self::TopLevel => "top",
            Self::AtMany => "many",
            Self::Suse => "suse",
            Self::BootExt4 => "bootext4",
            Self::EspBoot => "espboot",
        }
    }

    /// The root's subvolume from the top level, without a leading slash; empty
    /// for the top level itself.
    #[must_use]
    pub fn root(self) -> &'static str {
        match self {
            Self::AtSubvol | Self::AtMany | Self::BootExt4 | Self::EspBoot => "@",
            Self::FedoraRoot => "root",
            Self::TopLevel => "",
            Self::Suse => "@/.snapshots/1/snapshot",
        }
    }

    /// The mount options that lead to the root.
    #[must_use]
    pub fn options(self) -> String {
        format!("subvol=/{}", self.root())
    }

    /// What fstab mounts below the root, in this order; without the ESP of a
    /// disk where that is at /efi.
    #[must_use]
    pub fn below(self) -> &'static [(&'static str, Source)] {
        use Source::{Boot, Esp, Subvolume};
        match self {
            Self::AtSubvol | Self::TopLevel => &[],
            Self::FedoraRoot => &[("/home", Subvolume("home"))],
            Self::AtMany => &[
                ("/home", Subvolume("@home")),
                ("/var/cache", Subvolume("@var_cache")),
                ("/var/log", Subvolume("@var_log")),
            ],
            Self::Suse => &[
                ("/.snapshots", Subvolume("@/.snapshots")),
                ("/boot/grub2/i386-pc", Subvolume("@/boot/grub2/i386-pc")),
                (
                    "/boot/grub2/x86_64-efi",
                    Subvolume("@/boot/grub2/x86_64-efi"),
                ),
                ("/home", Subvolume("@/home")),
                ("/opt", Subvolume("@/opt")),
                ("/root", Subvolume("@/root")),
                ("/srv", Subvolume("@/srv")),
                ("/usr/local", Subvolume("@/usr/local")),
                ("/var", Subvolume("@/var")),
            ],
            Self::BootExt4 => &[("/boot", Boot)],
            Self::EspBoot => &[("/boot", Esp)],
        }
    }

    /// The subvolumes of an empty system, parents first.
    #[must_use]
    pub fn subvolumes(self) -> Vec<&'static str> {
        let above: &[&str] = match self {
            Self::Suse => &["@", "@/.snapshots"],
            _ => &[],
        };
        let below = self.below().iter().filter_map(|(_, source)| match source {
            Source::Subvolume(path) => Some(*path),
            Source::Boot | Source::Esp => None,
        });
        let mut all: Vec<&str> = Vec::new();
        for path in above.iter().copied().chain([self.root()]).chain(below) {
            if !path.is_empty() && !all.contains(&path) {
                all.push(path);
            }
        }
        all
    }

    /// Whether the root is the default subvolume, as fstab expects it.
    #[must_use]
    pub fn is_default(self) -> bool {
        self == Self::Suse
    }

    /// Whether /boot is on a file system of its own.
    #[must_use]
    pub fn boot_apart(self) -> bool {
        matches!(self, Self::BootExt4 | Self::EspBoot)
    }

    /// The path of the system's /boot from the top of the file system that it
    /// is on, as GRUB sees it; empty where it is the top.
    #[must_use]
    pub fn boot_home(self) -> String {
        match self.root() {
            _ if self.boot_apart() => String::new(),
            "" => "/boot".to_owned(),
            root => format!("/{root}/boot"),
        }
    }

    /// The path of the system's /boot/grub from the top of the file system that
    /// it is on.
    #[must_use]
    pub fn grub_home(self) -> String {
        self.boot_home() + "/grub"
    }

    /// What a disk of this layout boots with.
    #[must_use]
    pub fn firmwares(self) -> &'static [Firmware] {
        match self {
            Self::EspBoot => &[Firmware::Uefi],
            _ => &[Firmware::Bios, Firmware::Uefi],
        }
    }

    /// Whether this machine's kernel knows all its file systems; FAT is not in
    /// every one. The lab's own kernels do.
    #[must_use]
    pub fn is_mountable(self) -> bool {
        self.below()
            .iter()
            .all(|(_, source)| kernel_knows(source.fstype()))
    }
}

/// Whether the kernel knows a type of file system, or has a module for it.
fn kernel_knows(fstype: &str) -> bool {
    let listed = || {
        fs::read_to_string(Path::new("/proc/filesystems"))
            .is_ok_and(|text| text.split_whitespace().any(|word| word == fstype))
    };
    let load = || Command::new("modprobe").args(["-q", fstype]).output();
    listed() || load().is_ok_and(|_| listed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_before_their_subvolumes() {
        for layout in Layout::ALL {
            let all = layout.subvolumes();
            for (index, path) in all.iter().enumerate() {
                let later = &all[index..];
                assert!(
                    !later.iter().any(|other| path.len() > other.len()
                        && Path::new(path).starts_with(other)),
                    "{layout:?}: {path} in {all:?}"
                );
            }
        }
        assert_eq!(Layout::TopLevel.subvolumes(), [""; 0]);
        assert_eq!(Layout::FedoraRoot.subvolumes(), ["root", "home"]);
    }

    #[test]
    fn where_grub_finds_its_files() {
        assert_eq!(Layout::AtMany.grub_home(), "/@/boot/grub");
        assert_eq!(Layout::TopLevel.grub_home(), "/boot/grub");
        assert_eq!(Layout::EspBoot.grub_home(), "/grub");
    }

    #[test]
    fn the_kernel_knows_what_it_runs_from() {
        assert!(kernel_knows("proc"));
        assert!(!kernel_knows("nosuchfs"));
    }
}
