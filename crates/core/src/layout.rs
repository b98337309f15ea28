//! Which ways to lay out a system are understood, and what a clone of its root leaves out.

use std::path::{Path, PathBuf};

use crate::model::{STORE, System};
use crate::refusal::Refusal;

/// Directories that belong to packages: they have to lie in the root subvolume, together
/// with the database that describes them. What lies below them has to as well, but for
/// [`APART`].
const OF_PACKAGES: [&str; 10] = [
    "/usr",
    "/etc",
    "/opt",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/lib32",
    "/var/db/pkg",
    "/var/lib/portage",
];

/// Below the directories of packages, but the user's own.
const APART: [&str; 3] = ["/usr/local", "/usr/portage", "/opt/local"];

/// Filesystems that hold nothing that lasts.
const VIRTUAL: [&str; 16] = [
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "tmpfs",
    "ramfs",
    "cgroup",
    "cgroup2",
    "mqueue",
    "hugetlbfs",
    "debugfs",
    "tracefs",
    "securityfs",
    "efivarfs",
    "autofs",
    "swap",
];

/// Whether an environment of this system would be complete.
///
/// # Errors
/// [`Refusal::Unsupported`] with the reason for the first thing that would be half done.
pub fn supported(system: &System) -> Result<(), Refusal> {
    for target in separate(system) {
        if target == Path::new("/boot") {
            return Err(Refusal::Unsupported {
                what: "a separate /boot".into(),
                why: "all environments would share its kernels, and an upgrade in one would \
                      replace those of another"
                    .into(),
            });
        }
        // A parent counts too: with /var apart, /var/db/pkg is apart.
        let splits = OF_PACKAGES
            .iter()
            .any(|p| target.starts_with(p) || Path::new(p).starts_with(&target));
        let apart = APART.iter().any(|p| target.starts_with(p));
        if splits && !apart {
            return Err(Refusal::Unsupported {
                what: format!("{} apart from the root subvolume", target.display()),
                why: "installed packages and the database that describes them would be \
                      separated"
                    .into(),
            });
        }
    }
    Ok(())
}

/// Everything below the root that is not in the root subvolume: mounted, to be mounted by
/// fstab, or a nested subvolume.
fn separate(system: &System) -> Vec<PathBuf> {
    let mounted = system
        .mounts
        .iter()
        .filter(|m| !VIRTUAL.contains(&m.fstype.as_str()) && !m.of_root)
        .map(|m| m.target.clone());
    let listed = system
        .fstab
        .entries()
        .filter(|e| !VIRTUAL.contains(&e.fstype.as_str()))
        .filter(|e| e.target.is_absolute())
        .map(|e| e.target.clone());
    let nested = system.nested.iter().map(|p| Path::new("/").join(p));
    let mut all: Vec<_> = mounted
        .chain(listed)
        .chain(nested)
        .filter(|t| t != Path::new("/"))
        .collect();
    all.sort();
    all.dedup();
    all
}

/// What is said of a system: what it consists of, and what its environments leave out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// One fact a line: label and value.
    pub found: Vec<(String, String)>,
    /// What environments cannot protect, a sentence each.
    pub unprotected: Vec<String>,
}

/// Describe a system for its owner.
pub fn describe(system: &System) -> Description {
    let mut d = Description::default();
    let mut found = |label: &str, value: String| d.found.push((label.to_owned(), value));
    found(
        "root",
        if system.root.is_top_level() {
            "the top level of the filesystem (subvolume 5)".to_owned()
        } else {
            format!("subvolume {}", system.root.option())
        },
    );
    found("/boot", "in the root subvolume".to_owned());
    match esp(system) {
        Some(target) => found("EFI system partition", format!("at {}", target.display())),
        None => found("EFI system partition", "none mounted".to_owned()),
    }
    match &system.grub_home {
        Some(home) => found(
            "GRUB's own files",
            format!("in the root subvolume, /{home}"),
        ),
        None => found("GRUB's own files", "outside the root subvolume".to_owned()),
    }
    for path in &system.nested {
        d.unprotected.push(format!(
            "/{} is a subvolume of its own: not in any environment",
            path.display()
        ));
    }
    for mount in &system.mounts {
        if VIRTUAL.contains(&mount.fstype.as_str()) || mount.target == Path::new("/") {
            continue;
        }
        if Some(&mount.target) == esp(system) {
            d.unprotected.push(format!(
                "{} is one for all environments: the boot loader itself is not versioned",
                mount.target.display()
            ));
        } else if system.fstab.at(&mount.target).is_some() {
            d.unprotected.push(format!(
                "{} is shared by all environments",
                mount.target.display()
            ));
        }
    }
    if let Some(home) = &system.grub_home {
        d.unprotected.push(format!(
            "GRUB goes on reading /{home} of this environment, which is therefore never destroyed"
        ));
    }
    if system.root.is_top_level() {
        d.unprotected.push(format!(
            "the store is visible in this environment, at /{STORE}: leave it out of backups and \
             of updatedb"
        ));
    }
    d
}

fn esp(system: &System) -> Option<&PathBuf> {
    system
        .mounts
        .iter()
        .filter(|m| m.fstype == "vfat")
        .map(|m| &m.target)
        .find(|t| {
            ["/efi", "/boot/efi", "/boot/EFI"]
                .iter()
                .any(|e| t == &Path::new(e))
        })
}

/// The mounts that a chroot into an environment gets: what fstab mounts and is mounted now,
/// but for directories of the running root itself, which the clone has as its own.
pub fn shared(system: &System) -> Vec<PathBuf> {
    system
        .mounts
        .iter()
        .filter(|m| m.target != Path::new("/") && !m.of_root)
        .filter(|m| !VIRTUAL.contains(&m.fstype.as_str()) && Some(&m.target) != esp(system))
        .filter(|m| system.fstab.at(&m.target).is_some())
        .map(|m| m.target.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fstab::Fstab;
    use crate::model::{Mount, Subvolume};

    fn system(fstab: &str, nested: &[&str]) -> System {
        System {
            root: Subvolume {
                id: 256,
                uuid: "u".into(),
                path: "@".into(),
                generation: 1,
            },
            nested: nested.iter().map(PathBuf::from).collect(),
            mounts: Vec::new(),
            fstab: Fstab::parse(fstab),
            grub_home: Some("boot/grub".into()),
            swapfiles: Vec::new(),
            portage: true,
        }
    }

    #[test]
    fn ordinary_layouts_are_supported() {
        let fstab = "UUID=x / btrfs subvol=@ 0 0\nUUID=x /home btrfs subvol=@home 0 0\n\
                     UUID=y /efi vfat defaults 0 0\ntmpfs /var/tmp tmpfs size=8G 0 0\n\
                     UUID=x /var/log btrfs subvol=@log 0 0\nUUID=z none swap sw 0 0\n";
        assert_eq!(supported(&system(fstab, &["var/lib/machines"])), Ok(()));
    }

    #[test]
    fn what_would_be_half_done_is_refused() {
        for (fstab, nested, what) in [
            ("UUID=b /boot ext4 defaults 0 2", "", "a separate /boot"),
            ("UUID=b /boot vfat defaults 0 2", "", "a separate /boot"),
            ("UUID=b /usr btrfs subvol=@usr 0 2", "", "/usr apart"),
            ("UUID=b /var btrfs subvol=@var 0 2", "", "/var apart"),
            ("UUID=b /usr/lib ext4 defaults 0 2", "", "/usr/lib apart"),
            ("", "var", "/var apart"),
            ("", "opt", "/opt apart"),
        ] {
            let nested: Vec<_> = [nested].into_iter().filter(|n| !n.is_empty()).collect();
            let refusal = supported(&system(fstab, &nested)).unwrap_err().to_string();
            assert!(refusal.contains(what), "{fstab} {nested:?}: {refusal}");
        }
        assert_eq!(
            supported(&system("UUID=b /usr/local ext4 x 0 0", &[])),
            Ok(())
        );
    }

    #[test]
    fn a_chroot_gets_what_fstab_mounts() {
        let mut s = system(
            "UUID=x /home btrfs subvol=@home 0 0\nnas:/dist /var/cache/distfiles nfs ro 0 0\n\
             /data /srv none bind 0 0\nUUID=y /efi vfat defaults 0 0\n",
            &[],
        );
        let mount = |target: &str, fstype: &str, of_root| Mount {
            target: target.into(),
            fstype: fstype.into(),
            source: "/dev/x".into(),
            of_root,
        };
        s.mounts = vec![
            mount("/", "btrfs", true),
            mount("/home", "btrfs", false),
            mount("/mnt/top", "btrfs", false),
            mount("/srv", "btrfs", true),
            mount("/efi", "vfat", false),
            mount("/var/cache/distfiles", "nfs", false),
        ];
        assert_eq!(
            shared(&s),
            ["/home", "/var/cache/distfiles"].map(PathBuf::from)
        );
    }
}
