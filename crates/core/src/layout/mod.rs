//! Which subvolumes a system consists of, what becomes of each in a clone, and which ways to
//! lay out a system would give clones that are not complete.

mod clone;
mod parts;
mod policy;
mod split;

use std::path::{Path, PathBuf};

use crate::fstab::Fstab;
use crate::model::{STORE, System};
use crate::record::Policy;
use crate::refusal::Refusal;

pub(crate) use clone::{ADDED, added_options, source};
pub use clone::{Source, changes, sources};
pub use parts::Part;
pub(crate) use parts::{Names, SUBDIR, find, is_volume, subvolume};
pub use policy::{ATTRIBUTE, default_policy, holds_packages};
pub(crate) use split::{MARK, Mark, written};
pub use split::{Pending, behind, location, pending, pending_at, request as split_request};
pub(crate) use split::{is_split, shared_location};
pub(crate) use split::{split_parts, waiting};

/// What a system consists of besides its root subvolume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// Its /etc/fstab.
    pub fstab: Fstab,
    /// The subvolumes that lie in its root, as paths in it, outermost only; the store is
    /// left out. A clone has an unusable empty directory in the place of each.
    pub nested: Vec<PathBuf>,
    /// The places where other subvolumes are seen, sorted.
    pub parts: Vec<Part>,
    /// Its /boot, if that is not in the root subvolume.
    pub boot: Option<Boot>,
    /// Why its fstab cannot be read, if it is there.
    pub damage: Option<String>,
}

/// A /boot that is not in the root subvolume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// Where to find it.
    pub place: crate::record::Boot,
    /// Bytes of the files that an environment needs of it.
    pub size: u64,
    /// The root is encrypted, and GRUB opens it only where it has to for its own files.
    pub locked_root: bool,
}

impl Layout {
    /// The part that is seen at exactly this place.
    pub fn part_at(&self, mount: &Path) -> Option<&Part> {
        self.parts.iter().find(|p| p.mount == mount)
    }
}

/// Where the filesystem is mounted that a directory of the system lies in.
pub(crate) fn mount_over(inv: &crate::model::Inventory, path: &Path) -> PathBuf {
    let parts = inv.system.layout.parts.iter().map(|p| &p.mount);
    let mut over = parts.filter(|at| *at != path && path.starts_with(at));
    over.next_back().cloned().unwrap_or_else(|| "/".into())
}

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
/// [`Refusal::LockedRoot`], or [`Refusal::Unsupported`] and [`Refusal::Split`] with the reason for the first thing that
/// would be half done.
pub fn supported(system: &System) -> Result<(), Refusal> {
    readable(&system.layout)?;
    if system.layout.boot.as_ref().is_some_and(|b| b.locked_root) {
        return Err(Refusal::LockedRoot);
    }
    for target in separate(system) {
        if target == Path::new("/boot") && system.layout.boot.is_none() {
            return Err(Refusal::Unsupported {
                what: "this /boot".into(),
                why: "the filesystem that fstab names for it cannot be found, or is another btrfs"
                    .into(),
            });
        }
        let part = system.layout.part_at(&target);
        if !holds_packages(&target) || part.is_some_and(Part::is_own) {
            continue;
        }
        return Err(match part {
            Some(part) if part.within.as_os_str().is_empty() => Refusal::Split { path: target },
            _ => Refusal::Unsupported {
                what: format!("{} apart from the root's filesystem", target.display()),
                why: "installed packages and the database that describes them would be \
                      separated"
                    .into(),
            },
        });
    }
    Ok(())
}

/// The rule for what is to be cloned: its fstab says what it consists of.
///
/// # Errors
/// [`Refusal::Unsupported`].
pub(crate) fn readable(layout: &Layout) -> Result<(), Refusal> {
    match &layout.damage {
        Some(why) => Err(Refusal::Unsupported {
            what: "an /etc/fstab that cannot be read".into(),
            why: why.clone(),
        }),
        None => Ok(()),
    }
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
        .layout
        .fstab
        .entries()
        .filter(|e| !VIRTUAL.contains(&e.fstype.as_str()))
        .filter(|e| e.target.is_absolute())
        .map(|e| e.target.clone());
    let lying = system.layout.parts.iter().map(|p| p.mount.clone());
    let mut all: Vec<_> = mounted
        .chain(listed)
        .chain(lying)
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
    found(
        "/boot",
        match &system.layout.boot {
            None => "in the root subvolume".to_owned(),
            Some(boot) => format!(
                "{} {}; environments have their kernels in their own root",
                boot.place.fstype, boot.place.uuid
            ),
        },
    );
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
    for part in &system.layout.parts {
        let at = part.mount.display();
        match part.policy {
            Policy::Cloned => d.found.push((
                part.mount.display().to_string(),
                format!("subvolume {}, cloned", part.subvolume.option()),
            )),
            Policy::Late => d.found.push((
                part.mount.display().to_string(),
                format!(
                    "subvolume {}, cloned when an environment is activated",
                    part.subvolume.option()
                ),
            )),
            Policy::Shared => d
                .unprotected
                .push(format!("{at} is shared by all environments")),
        }
    }
    for mount in &system.mounts {
        if VIRTUAL.contains(&mount.fstype.as_str())
            || mount.target == Path::new("/")
            || system.layout.part_at(&mount.target).is_some()
        {
            continue;
        }
        if Some(&mount.target) == esp(system) {
            d.unprotected.push(format!(
                "{} is one for all environments: the boot loader itself is not versioned",
                mount.target.display()
            ));
        } else if mount.target != Path::new("/boot")
            && system.layout.fstab.at(&mount.target).is_some()
        {
            d.unprotected.push(format!(
                "{} is shared by all environments",
                mount.target.display()
            ));
        }
    }
    if let Some(home) = &system.grub_home {
        d.unprotected.push(format!(
            "GRUB goes on reading /{home} of this environment, which is therefore never destroyed; \
             be init --move-grub makes that a subvolume of its own"
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

pub(crate) fn esp(system: &System) -> Option<&PathBuf> {
    system
        .mounts
        .iter()
        .filter(|m| m.fstype == "vfat")
        .map(|m| &m.target)
        .find(|t| {
            ["/efi", "/boot", "/boot/efi", "/boot/EFI"]
                .iter()
                .any(|e| t == &Path::new(e))
        })
}

/// The mounts that a chroot into an environment gets: what fstab mounts and is mounted now,
/// but for directories of the running root itself and for what is cloned, which the
/// environment has as its own.
pub fn shared(system: &System) -> Vec<PathBuf> {
    system
        .mounts
        .iter()
        .filter(|m| m.target != Path::new("/") && !m.of_root)
        .filter(|m| !VIRTUAL.contains(&m.fstype.as_str()) && Some(&m.target) != esp(system))
        .filter(|m| !m.target.starts_with("/boot"))
        .filter(|m| !system.layout.part_at(&m.target).is_some_and(Part::is_own))
        .filter(|m| system.layout.fstab.at(&m.target).is_some())
        .map(|m| m.target.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Mount, Subvolume};

    fn part(mount: &str, policy: Policy) -> Part {
        Part {
            mount: mount.into(),
            subvolume: Subvolume {
                id: 300,
                uuid: "p".into(),
                path: mount.trim_start_matches('/').into(),
                generation: 1,
            },
            within: PathBuf::new(),
            listed: true,
            source: None,
            policy,
            chosen: false,
            nested: Vec::new(),
        }
    }

    fn system(fstab: &str, parts: Vec<Part>) -> System {
        System {
            root: Subvolume {
                id: 256,
                uuid: "u".into(),
                path: "@".into(),
                generation: 1,
            },
            layout: Layout {
                fstab: Fstab::parse(fstab),
                parts,
                ..Layout::default()
            },
            mounts: Vec::new(),
            grub_home: Some("boot/grub".into()),
            swapfiles: Vec::new(),
        }
    }

    #[test]
    fn ordinary_layouts_are_supported() {
        let fstab = "UUID=x / btrfs subvol=@ 0 0\nUUID=x /home btrfs subvol=@home 0 0\n\
                     UUID=y /efi vfat defaults 0 0\ntmpfs /var/tmp tmpfs size=8G 0 0\n\
                     UUID=x /var/log btrfs subvol=@log 0 0\nUUID=z none swap sw 0 0\n";
        let parts = vec![
            part("/home", Policy::Shared),
            part("/var", Policy::Cloned),
            part("/var/log", Policy::Shared),
            part("/var/lib/machines", Policy::Shared),
        ];
        assert_eq!(supported(&system(fstab, parts)), Ok(()));
    }

    #[test]
    fn what_would_be_half_done_is_refused() {
        for (fstab, shared, what) in [
            ("UUID=b /boot ext4 defaults 0 2", "", "/boot"),
            ("UUID=b /usr ext4 defaults 0 2", "", "/usr apart"),
            ("UUID=b /var xfs defaults 0 2", "", "/var apart"),
            ("UUID=b /usr/lib ext4 defaults 0 2", "", "/usr/lib apart"),
            ("", "/var", "/var"),
            ("", "/opt", "/opt"),
        ] {
            let parts = match shared {
                "" => Vec::new(),
                mount => vec![part(mount, Policy::Shared)],
            };
            let refusal = supported(&system(fstab, parts)).unwrap_err().to_string();
            assert!(refusal.contains(what), "{fstab} {shared:?}: {refusal}");
        }
        assert_eq!(
            supported(&system("UUID=b /usr/local ext4 x 0 0", Vec::new())),
            Ok(())
        );
    }

    #[test]
    fn a_chroot_gets_what_fstab_mounts_and_is_not_cloned() {
        let mut s = system(
            "UUID=x /home btrfs subvol=@home 0 0\nnas:/dist /var/cache/distfiles nfs ro 0 0\n\
             /data /srv none bind 0 0\nUUID=y /boot vfat defaults 0 0\n\
             UUID=x /var btrfs subvol=@var 0 0\n",
            vec![part("/home", Policy::Shared), part("/var", Policy::Cloned)],
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
            mount("/var", "btrfs", false),
            mount("/boot", "vfat", false),
            mount("/var/cache/distfiles", "nfs", false),
        ];
        assert_eq!(
            shared(&s),
            ["/home", "/var/cache/distfiles"].map(PathBuf::from)
        );
    }
}
