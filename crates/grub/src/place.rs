//! Where GRUB can write: the choice of a place for the environment block, from facts that others have gathered.

use std::fmt;

use crate::selection::{Format, Place};

/// A version of GRUB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 2.
    pub major: u32,
    /// 12 of 2.12.
    pub minor: u32,
}

/// The first GRUB that writes a block in the header of a btrfs.
const WRITES_HEADER: Version = Version {
    major: 2,
    minor: 14,
};

impl Version {
    /// Reads `modinfo.sh`, which grub-install copies to the modules (`/boot/grub/x86_64-efi`). That is the GRUB that
    /// boots; a newer package may be installed and not in use.
    pub fn of_modinfo(text: &str) -> Option<Self> {
        let value = |line: &str| -> Option<Self> {
            let value = line.strip_prefix("grub_version=")?;
            Self::parse(value.trim().trim_matches('"'))
        };
        text.lines().find_map(value)
    }

    /// Reads what `grub-install --version` prints: `grub-install (GRUB) 2.12-9+deb13u2`.
    pub fn of_program(text: &str) -> Option<Self> {
        Self::parse(text.lines().next()?.rsplit(' ').next()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (major, rest) = text.split_once('.')?;
        let end = rest.find(|c: char| !c.is_ascii_digit());
        Some(Self {
            major: major.parse().ok()?,
            minor: rest[..end.unwrap_or(rest.len())].parse().ok()?,
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.major, self.minor)
    }
}

/// A mounted filesystem that GRUB may be able to write to: /boot, an ESP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Where it is mounted.
    pub mount_point: String,
    /// What of it is mounted there, from its top; `/` but for a bind mount.
    pub root: String,
    /// Its type, as in mountinfo: `ext4`, `vfat`.
    pub fs_type: String,
    /// Its UUID as blkid knows it.
    pub fs_uuid: Option<String>,
    /// The options of the mount and of the superblock, separated by commas.
    pub options: String,
    /// Whether its device is a plain disk or a partition of one; see [`crate::envblk::device::is_plain`].
    pub plain: bool,
}

/// What is known of the btrfs that holds the environments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Btrfs {
    /// Its UUID.
    pub fs_uuid: String,
    /// The number of its devices.
    pub devices: u64,
    /// As for [`Candidate::plain`].
    pub plain: bool,
    /// Whether its device is zoned.
    pub zoned: bool,
}

/// All that the choice depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The GRUB that boots, if that is known.
    pub grub: Option<Version>,
    /// What is mounted, the best first: /boot, for GRUB reads that anyway, then every ESP.
    pub candidates: Vec<Candidate>,
    /// The btrfs that holds the environments.
    pub btrfs: Btrfs,
}

/// A place for the block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// As the menu is told.
    pub place: Place,
    /// The file as this system sees it; none for the header of the btrfs.
    pub file: Option<String>,
}

/// Why GRUB cannot write to a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// A file on btrfs.
    Btrfs,
    /// A filesystem that is neither ext2, ext3, ext4 nor FAT.
    Unproven(String),
    /// The device is no plain disk.
    NotPlain,
    /// Mounted read-only: `be` cannot write there.
    ReadOnly,
    /// ext4 that journals data: GRUB would not see the last write, and the journal would undo GRUB's.
    DataJournal,
    /// It has no UUID that GRUB could look for.
    NoUuid,
    /// The btrfs header, and a GRUB that is too old, or of a version that is not known.
    Grub(Option<Version>),
    /// The header of one device of several.
    Devices(u64),
    /// The header of a zoned device.
    Zoned,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Btrfs => f.write_str("GRUB cannot write files on btrfs"),
            Self::Unproven(fs_type) => write!(
                f,
                "it is {fs_type}; GRUB is only known to write to ext2, ext3, ext4 and FAT"
            ),
            Self::NotPlain => f.write_str("GRUB cannot write to LVM, RAID, LUKS and the like"),
            Self::ReadOnly => f.write_str("it is mounted read-only"),
            Self::DataJournal => f.write_str("it is mounted with data=journal"),
            Self::NoUuid => f.write_str("it has no UUID"),
            Self::Grub(Some(version)) => {
                write!(f, "GRUB {version} cannot write there, {WRITES_HEADER} can")
            }
            Self::Grub(None) => write!(
                f,
                "GRUB before {WRITES_HEADER} cannot write there, and which one boots is not known"
            ),
            Self::Devices(count) => write!(f, "it is spread over {count} devices"),
            Self::Zoned => f.write_str("its device is zoned"),
        }
    }
}

/// GRUB can write nowhere: why, place by place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoPlace {
    /// Each place, as people call it, with the reason.
    pub places: Vec<(String, Why)>,
}

impl fmt::Display for NoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GRUB can write nowhere on this machine, so it could not count boots: ")?;
        for (index, (place, why)) in self.places.iter().enumerate() {
            let comma = if index > 0 { "; " } else { "" };
            write!(f, "{comma}{place}: {why}")?;
        }
        Ok(())
    }
}

impl std::error::Error for NoPlace {}

impl NoPlace {
    /// What a person can do about it.
    pub fn remedy(&self) -> String {
        let header = self.places.iter().map(|(_, why)| why);
        let mut remedies: Vec<String> = Vec::new();
        for (place, why) in &self.places {
            match why {
                Why::ReadOnly => remedies.push(format!("mount -o remount,rw {place}")),
                Why::DataJournal => {
                    remedies.push(format!("mount {place} without data=journal (/etc/fstab)"));
                }
                _ => {}
            }
        }
        if remedies.is_empty() {
            remedies.push("mount an EFI system partition, or a FAT or ext4 /boot".to_owned());
        }
        if header.into_iter().any(|why| matches!(why, Why::Grub(_))) {
            remedies.push(format!(
                "install GRUB {WRITES_HEADER} or newer and run grub-install"
            ));
        }
        remedies.join(", or ")
    }
}

/// The place for the block: the first mounted filesystem that GRUB can write to, else the header of the btrfs.
///
/// # Errors
/// There is none; every place that was looked at is named with the reason.
pub fn choose(facts: &Facts) -> Result<Chosen, NoPlace> {
    let mut places = Vec::new();
    for candidate in &facts.candidates {
        match candidate.file_for(&facts.btrfs.fs_uuid) {
            Ok(chosen) => return Ok(chosen),
            Err(why) => places.push((candidate.mount_point.clone(), why)),
        }
    }
    match header(facts) {
        Ok(chosen) => Ok(chosen),
        Err(why) => {
            places.push(("the header of the btrfs".to_owned(), why));
            Err(NoPlace { places })
        }
    }
}

impl Candidate {
    /// A file named after the btrfs: several systems may share an ESP.
    fn file_for(&self, btrfs: &str) -> Result<Chosen, Why> {
        let format = match self.fs_type.as_str() {
            "ext2" | "ext3" | "ext4" => Format::Ext,
            "vfat" | "msdos" => Format::Fat,
            "btrfs" => return Err(Why::Btrfs),
            other => return Err(Why::Unproven(other.to_owned())),
        };
        if !self.plain {
            return Err(Why::NotPlain);
        }
        let has = |wanted: &str| self.options.split(',').any(|option| option == wanted);
        if has("ro") {
            return Err(Why::ReadOnly);
        }
        if has("data=journal") {
            return Err(Why::DataJournal);
        }
        let fs_uuid = self.fs_uuid.clone().ok_or(Why::NoUuid)?;
        let below = |dir: &str| format!("{}/be/{btrfs}.env", dir.trim_end_matches('/'));
        Ok(Chosen {
            place: Place::File {
                fs_uuid,
                path: below(&self.root),
                format,
            },
            file: Some(below(&self.mount_point)),
        })
    }
}

fn header(facts: &Facts) -> Result<Chosen, Why> {
    let btrfs = &facts.btrfs;
    if btrfs.devices != 1 {
        return Err(Why::Devices(btrfs.devices));
    }
    if !btrfs.plain {
        return Err(Why::NotPlain);
    }
    if btrfs.zoned {
        return Err(Why::Zoned);
    }
    if facts.grub.is_none_or(|grub| grub < WRITES_HEADER) {
        return Err(Why::Grub(facts.grub));
    }
    Ok(Chosen {
        place: Place::Header,
        file: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "11111111-2222-3333-4444-555555555555";

    fn mounted(mount_point: &str, fs_type: &str, options: &str) -> Candidate {
        Candidate {
            mount_point: mount_point.into(),
            root: "/".into(),
            fs_type: fs_type.into(),
            fs_uuid: Some("ABCD-1234".into()),
            options: options.into(),
            plain: true,
        }
    }

    fn facts(grub: &str, candidates: Vec<Candidate>) -> Facts {
        Facts {
            grub: Version::parse(grub),
            candidates,
            btrfs: Btrfs {
                fs_uuid: UUID.into(),
                devices: 1,
                plain: true,
                zoned: false,
            },
        }
    }

    #[test]
    fn versions_are_read_and_ordered() {
        let version = |major, minor| Some(Version { major, minor });
        let modinfo = "#!/bin/bash\ngrub_bss_start_symbol=\"x\"\ngrub_version=\"2.06\"\n\
            grub_package_version=\"2.06-13+deb12u2\"\n";
        assert_eq!(Version::of_modinfo(modinfo), version(2, 6));
        assert_eq!(Version::of_modinfo("grub_version=\"\"\n"), None);
        let printed = "grub-install (GRUB) 2.12-9+deb13u2\n";
        assert_eq!(Version::of_program(printed), version(2, 12));
        assert_eq!(
            Version::of_program("grub2-install (GRUB) 2.14~rc1"),
            version(2, 14)
        );
        assert_eq!(Version::of_program(""), None);
        assert!(version(2, 6) < version(2, 12) && version(2, 12) < Some(WRITES_HEADER));
        assert_eq!(
            version(2, 6).map(|v| v.to_string()).as_deref(),
            Some("2.06")
        );
    }

    #[test]
    fn the_first_that_grub_writes_is_taken() {
        let file = |chosen: Chosen| (chosen.place, chosen.file);
        let esp = mounted("/efi", "vfat", "rw,noatime,umask=0077");
        let boot = mounted("/boot", "ext4", "rw,noatime,rw");
        let place = |format| Place::File {
            fs_uuid: "ABCD-1234".into(),
            path: format!("/be/{UUID}.env"),
            format,
        };
        let chosen = choose(&facts("2.06", vec![boot, esp.clone()])).expect("a place");
        let path = Some(format!("/boot/be/{UUID}.env"));
        assert_eq!(file(chosen), (place(Format::Ext), path));

        let on_lvm = Candidate {
            plain: false,
            ..mounted("/boot", "ext4", "rw")
        };
        let chosen = choose(&facts("2.14", vec![on_lvm, esp.clone()])).expect("a place");
        let path = Some(format!("/efi/be/{UUID}.env"));
        assert_eq!(file(chosen), (place(Format::Fat), path));

        let bind = Candidate {
            root: "/EFI/gentoo".into(),
            ..mounted("/boot", "vfat", "rw")
        };
        let chosen = choose(&facts("2.12", vec![bind])).expect("a place");
        let Place::File { path, .. } = chosen.place else {
            panic!("a file");
        };
        assert_eq!(path, format!("/EFI/gentoo/be/{UUID}.env"));

        let chosen = choose(&facts("2.14", vec![mounted("/boot", "xfs", "rw")])).expect("a place");
        assert_eq!(file(chosen), (Place::Header, None));
    }

    #[test]
    fn where_there_is_none_every_place_is_named_with_the_reason() {
        let none = choose(&facts("2.12", Vec::new())).expect_err("nowhere");
        assert_eq!(
            none.to_string(),
            "GRUB can write nowhere on this machine, so it could not count boots: \
             the header of the btrfs: GRUB 2.12 cannot write there, 2.14 can"
        );
        assert_eq!(
            none.remedy(),
            "mount an EFI system partition, or a FAT or ext4 /boot, \
             or install GRUB 2.14 or newer and run grub-install"
        );

        let mut several = facts(
            "2.14",
            vec![
                mounted("/boot", "ext4", "rw,data=journal"),
                mounted("/efi", "vfat", "ro"),
                Candidate {
                    fs_uuid: None,
                    ..mounted("/boot/efi", "vfat", "rw")
                },
                mounted("/old", "xfs", "rw"),
                mounted("/", "btrfs", "rw"),
            ],
        );
        several.btrfs.devices = 2;
        let none = choose(&several).expect_err("nowhere");
        let whys: Vec<&Why> = none.places.iter().map(|(_, why)| why).collect();
        assert_eq!(
            whys,
            [
                &Why::DataJournal,
                &Why::ReadOnly,
                &Why::NoUuid,
                &Why::Unproven("xfs".into()),
                &Why::Btrfs,
                &Why::Devices(2),
            ]
        );
        assert_eq!(
            none.remedy(),
            "mount /boot without data=journal (/etc/fstab), or mount -o remount,rw /efi"
        );
        for change in [(|b: &mut Btrfs| b.plain = false) as fn(&mut Btrfs), |b| {
            b.zoned = true
        }] {
            let mut facts = facts("2.14", Vec::new());
            change(&mut facts.btrfs);
            assert!(choose(&facts).is_err());
        }
        assert!(choose(&facts("unknown", Vec::new())).is_err());
    }
}
