//! A root that is encrypted: what GRUB needs to get at its menu and its kernels.
//!
//! GRUB asks for the passphrase and opens the container by itself, before anything of the
//! system runs. What is read here is what decides whether it can: the header of the container
//! (LUKS1: `struct luks_phdr`, LUKS2: `struct luks2_hdr_disk` and its JSON, both in the
//! specifications of cryptsetup), the version of GRUB, and what grub-install is told.

use std::fs::File;
use std::io::Read;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

use be_grub::default_grub::parse_default_grub;
use be_grub::place::Version;
use rustix::fs::{major, minor};
use serde_json::Value;

use crate::block::{SYS, grub_version};
use crate::boot::default_grub_text;
use crate::model::Inventory;
use crate::session::Session;

/// The first GRUB that derives keys by Argon2, too.
const ARGON2: Version = Version {
    major: 2,
    minor: 14,
};

/// The longest header that is read; cryptsetup writes 16 KiB, and 4 MiB at most.
const LONGEST: u64 = 4 << 20;

/// An encrypted device below a filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The device that is encrypted.
    pub device: PathBuf,
    /// What its header says, if it is LUKS and can be read.
    pub luks: Option<Luks>,
}

/// The header of a LUKS container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Luks {
    /// 1 or 2.
    pub version: u16,
    /// How the passphrase of each key slot becomes a key: `pbkdf2`, `argon2id`. Of LUKS2.
    pub kdfs: Vec<String>,
}

/// What is known of an encrypted root that GRUB has to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encryption {
    /// The devices, one for each of the filesystem's.
    pub containers: Vec<Container>,
    /// The GRUB that boots, if that is known.
    pub grub: Option<Version>,
    /// Whether /etc/default/grub lets GRUB's tools deal with encrypted disks; none if only a
    /// shell could tell.
    pub cryptodisk: Option<bool>,
}

/// What may keep GRUB out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// A stable name.
    pub id: &'static str,
    /// What it is about.
    pub object: String,
    /// What is wrong.
    pub text: String,
    /// What mends it.
    pub remedy: String,
}

/// Look at the devices of the running system; none if they are not encrypted, or are not for
/// GRUB to open because /boot lies elsewhere.
pub fn look(session: &Session, inv: &Inventory) -> Option<Encryption> {
    if inv
        .system
        .layout
        .boot
        .as_ref()
        .is_some_and(|b| b.locked_root)
    {
        return None;
    }
    let devices = session.store.top.devices().unwrap_or_default();
    let containers: Vec<_> = devices.iter().flat_map(|d| containers(d)).collect();
    (!containers.is_empty()).then(|| Encryption {
        containers,
        grub: grub_version(session, inv),
        cryptodisk: default_grub_text(&session.root).and_then(|text| {
            let grub = parse_default_grub(&text).ok()?;
            Some(grub.cryptodisk? == "y")
        }),
    })
}

/// The encrypted devices that a device is made of.
pub(crate) fn containers(device: &Path) -> Vec<Container> {
    let number = std::fs::metadata(device).map(|meta| meta.st_rdev());
    number.map_or_else(|_| Vec::new(), |number| below(Path::new(SYS), number))
}

/// As [`containers`], by its number: without udev its name is not that which the kernel gave.
/// `sys` is where sysfs is mounted.
fn below(sys: &Path, number: u64) -> Vec<Container> {
    let mut devices = vec![sys.join(format!("dev/block/{}:{}", major(number), minor(number)))];
    let mut found = Vec::new();
    while let Some(device) = devices.pop() {
        let uuid = std::fs::read_to_string(device.join("dm/uuid")).unwrap_or_default();
        let slaves = std::fs::read_dir(device.join("slaves"));
        let names = slaves
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name());
        match uuid.starts_with("CRYPT-") {
            true => found.extend(names.map(|name| container(&Path::new("/dev").join(name)))),
            false => devices.extend(names.map(|name| sys.join("class/block").join(name))),
        }
    }
    found
}

fn container(device: &Path) -> Container {
    let read = || {
        let mut bytes = Vec::new();
        let file = File::open(device).ok()?;
        file.take(LONGEST).read_to_end(&mut bytes).ok()?;
        Luks::parse(&bytes)
    };
    Container {
        device: device.to_owned(),
        luks: read(),
    }
}

impl Luks {
    /// Reads the start of a device.
    fn parse(bytes: &[u8]) -> Option<Self> {
        const JSON: usize = 4096;
        let rest = bytes.strip_prefix(b"LUKS\xba\xbe")?;
        let version = u16::from_be_bytes(rest.get(..2)?.try_into().ok()?);
        let mut kdfs = Vec::new();
        if version == 2 {
            let size = u64::from_be_bytes(rest.get(2..10)?.try_into().ok()?);
            let json = bytes.get(JSON..usize::try_from(size).ok()?)?;
            let json = json.split(|byte| *byte == 0).next()?;
            let json: Value = serde_json::from_slice(json).ok()?;
            let slots = json["keyslots"].as_object()?.values();
            kdfs.extend(slots.filter_map(|slot| Some(slot["kdf"]["type"].as_str()?.to_owned())));
        }
        Some(Self { version, kdfs })
    }

    /// Whether a GRUB can derive the key of one of its slots at least.
    fn opens_with(&self, grub: Option<Version>) -> bool {
        self.version < 2
            || self.kdfs.iter().any(|kdf| kdf == "pbkdf2")
            || grub.is_some_and(|grub| grub >= ARGON2) && !self.kdfs.is_empty()
    }
}

impl Encryption {
    /// What may keep GRUB out now, or after it is installed the next time.
    pub fn obstacles(&self) -> Vec<Obstacle> {
        let mut all = Vec::new();
        for container in &self.containers {
            let device = container.device.display();
            if container
                .luks
                .as_ref()
                .is_some_and(|l| !l.opens_with(self.grub))
            {
                all.push(Obstacle {
                    id: "luks-key",
                    object: device.to_string(),
                    text: format!(
                        "none of its key slots is for PBKDF2, the only one that GRUB before \
                         {ARGON2} knows: it cannot open the encrypted root"
                    ),
                    remedy: format!("cryptsetup luksAddKey --pbkdf pbkdf2 {device}"),
                });
            }
        }
        if self.cryptodisk == Some(false) {
            all.push(Obstacle {
                id: "grub-cryptodisk",
                object: "/etc/default/grub".into(),
                text: "it has no GRUB_ENABLE_CRYPTODISK=y, and the root is encrypted: \
                       grub-install will refuse, and grub-mkconfig leaves out what opens it"
                    .into(),
                remedy: "echo GRUB_ENABLE_CRYPTODISK=y >>/etc/default/grub".into(),
            });
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn luks2(json: &str) -> Vec<u8> {
        let mut bytes = b"LUKS\xba\xbe\0\x02".to_vec();
        bytes.extend(16384_u64.to_be_bytes());
        bytes.resize(4096, 0);
        bytes.extend(json.as_bytes());
        bytes.resize(1 << 20, 0);
        bytes
    }

    #[test]
    fn headers_are_read() {
        let json = r#"{"keyslots":{"0":{"type":"luks2","kdf":{"type":"argon2id","time":4}},
            "1":{"type":"luks2","kdf":{"type":"pbkdf2","hash":"sha256"}},
            "2":{"type":"reencrypt"}},"segments":{}}"#;
        let two = Luks::parse(&luks2(json)).unwrap();
        assert_eq!(
            (two.version, two.kdfs),
            (2, ["argon2id", "pbkdf2"].map(Into::into).into())
        );
        let one = Luks::parse(b"LUKS\xba\xbe\0\x01aes\0").unwrap();
        assert_eq!((one.version, one.kdfs.len()), (1, 0));
        let mut torn = luks2(json);
        torn[15] = 0xff;
        torn.truncate(10000);
        for bytes in [&b""[..], b"LUKS\xba\xbe", b"_BHRfS_M", &luks2("{"), &torn] {
            assert_eq!(Luks::parse(bytes), None);
        }
    }

    #[test]
    fn containers_are_found_through_what_lies_between() {
        let sys = tempfile::tempdir().unwrap();
        let device = |name: &str, number: &str, uuid: &str, slave: &str| {
            let dir = sys.path().join("class/block").join(name);
            std::fs::create_dir_all(dir.join("dm")).unwrap();
            std::fs::create_dir_all(dir.join("slaves").join(slave)).unwrap();
            std::fs::write(dir.join("dm/uuid"), uuid).unwrap();
            let numbers = sys.path().join("dev/block");
            std::fs::create_dir_all(&numbers).unwrap();
            std::os::unix::fs::symlink(dir, numbers.join(number)).unwrap();
        };
        device("dm-2", "253:2", "LVM-x", "dm-1");
        device("dm-1", "253:1", "CRYPT-LUKS2-x-root", "nosuch5");
        device("dm-3", "253:3", "LVM-x", "nosuch6");
        let found = |minor| {
            let found = below(sys.path(), rustix::fs::makedev(253, minor));
            found.into_iter().map(|c| c.device).collect::<Vec<_>>()
        };
        assert_eq!(found(2), [PathBuf::from("/dev/nosuch5")]);
        assert_eq!(found(1), found(2));
        assert!(found(3).is_empty() && found(9).is_empty());
    }

    fn obstacles(kdfs: &[&str], grub: (u32, u32), cryptodisk: Option<bool>) -> Vec<&'static str> {
        let (major, minor) = grub;
        let encryption = Encryption {
            containers: vec![Container {
                device: "/dev/sda2".into(),
                luks: Some(Luks {
                    version: 2,
                    kdfs: kdfs.iter().map(ToString::to_string).collect(),
                }),
            }],
            grub: Some(Version { major, minor }),
            cryptodisk,
        };
        encryption.obstacles().iter().map(|o| o.id).collect()
    }

    #[test]
    fn what_keeps_grub_out_is_known() {
        assert!(obstacles(&["argon2id", "pbkdf2"], (2, 12), Some(true)).is_empty());
        assert_eq!(obstacles(&["argon2id"], (2, 12), Some(true)), ["luks-key"]);
        assert!(obstacles(&["argon2id"], (2, 14), Some(true)).is_empty());
        assert_eq!(obstacles(&[], (2, 14), None), ["luks-key"]);
        assert_eq!(
            obstacles(&["pbkdf2"], (2, 12), Some(false)),
            ["grub-cryptodisk"]
        );
    }
}
