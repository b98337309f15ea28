//! The disks that the guest gets: those of the filesystem, and what else its fstab wants to
//! mount. Each whole, for partitions are found by what the table of the disk says of them,
//! and at a controller like the real one: an initramfs may have no other driver.

use std::collections::BTreeMap;
use std::fs;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{major, minor};

use crate::block::SYS;
use crate::bootfs::find_device;
use crate::fstab::Fstab;
use crate::mountinfo::Row;
use crate::name::EnvName;
use crate::refusal::Refusal;

/// What a disk is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    Virtio,
    VirtioScsi,
    Nvme,
    Ahci,
    Usb,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) node: PathBuf,
    pub(super) controller: Controller,
    /// Bytes of a sector, as its partition table counts.
    pub(super) sector: u64,
}

/// A device of the filesystem: the name of its disk, and where on it it begins, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) disk: String,
    pub(super) start: u64,
}

/// All of them, by the names that the kernel gives them, and so in its order.
#[derive(Debug, Default)]
pub(super) struct Disks {
    pub(super) disks: BTreeMap<String, Disk>,
    /// The devices of the filesystem, in the order in which they were given.
    pub(super) parts: Vec<Part>,
}

impl Disks {
    /// Those that a filesystem on these devices needs, and an fstab.
    ///
    /// # Errors
    /// [`Refusal::NoTest`] for what no guest can be given.
    pub(super) fn of(name: &EnvName, devices: &[PathBuf], fstab: &Fstab) -> Result<Self> {
        let mut this = Self::default();
        for device in devices {
            let part = this.add(name, device)?;
            this.parts.push(part);
        }
        for entry in fstab.entries() {
            let named = entry.source.starts_with("/dev/") || entry.source.contains('=');
            let wanted = !entry.options.iter().any(|o| o == "noauto" || o == "nofail");
            if !named || !wanted || entry.fstype.starts_with("nfs") {
                continue;
            }
            // What is not there now will be missed then, and shown.
            if let Ok(device) = find_device(&entry.source) {
                this.add(name, &device)?;
            }
        }
        Ok(this)
    }

    fn add(&mut self, env: &EnvName, device: &Path) -> Result<Part> {
        let refused = |why: String| Refusal::NoTest {
            name: env.clone(),
            why: format!("{} {why}", device.display()),
        };
        let number = fs::metadata(device)
            .with_context(|| format!("cannot look at {}", device.display()))?
            .st_rdev();
        let link = Path::new(SYS).join(format!("dev/block/{}:{}", major(number), minor(number)));
        let entry = fs::canonicalize(&link)
            .with_context(|| format!("{} is no block device", device.display()))?;
        if let Some(why) = stacked(&entry) {
            return Err(refused(why).into());
        }
        let is_part = is_part(&entry);
        let whole = whole(&entry);
        let name = name(whole);
        let node = match is_part {
            true => Path::new("/dev").join(&name),
            false => device.to_owned(),
        };
        let start = number_in(&entry.join("start")).filter(|_| is_part);
        let start = start.unwrap_or(0) * 512;
        if !start.is_multiple_of(4096) {
            return Err(refused("does not begin at a multiple of 4 KiB".into()).into());
        }
        let controller = controller(whole, &name).ok_or_else(|| {
            let driver = driver(whole).map_or_else(String::new, |driver| format!(" ({driver})"));
            refused(format!(
                "is at a controller that no virtual machine has{driver}: its initramfs may have \
                 drivers for that alone"
            ))
        })?;
        let disk = Disk {
            node,
            controller,
            sector: number_in(&whole.join("queue/logical_block_size")).unwrap_or(512),
        };
        self.disks.entry(name.clone()).or_insert(disk);
        Ok(Part { disk: name, start })
    }

    /// Whether one of these mounts writes to one of them by another filesystem than btrfs:
    /// then no snapshot keeps what the guest reads of it.
    pub(super) fn are_written(&self, mounts: &[Row]) -> bool {
        let writable = |row: &&Row| {
            row.fstype != "btrfs" && row.super_options.split(',').any(|option| option == "rw")
        };
        mounts.iter().filter(writable).any(|row| {
            let link = Path::new(SYS).join("dev/block").join(&row.device);
            fs::canonicalize(link).is_ok_and(|entry| self.disks.contains_key(&name(whole(&entry))))
        })
    }
}

fn is_part(entry: &Path) -> bool {
    entry.join("partition").exists()
}

/// The disk of a partition, or what is none itself.
fn whole(entry: &Path) -> &Path {
    match is_part(entry) {
        true => entry.parent().unwrap_or(entry),
        false => entry,
    }
}

/// As the kernel calls it; sysfs has no slash in a name.
fn name(whole: &Path) -> String {
    let name = whole.file_name().unwrap_or_default().to_string_lossy();
    name.replace('!', "/")
}

/// The driver of the controller: the nearest above the disk and the bus of disks.
fn driver(whole: &Path) -> Option<String> {
    let links = whole.ancestors().map(|dir| dir.join("driver"));
    let mut names = links
        .filter_map(|link| fs::canonicalize(link).ok())
        .filter_map(|driver| Some(driver.file_name()?.to_string_lossy().into_owned()));
    names.find(|name| name != "sd")
}

fn number_in(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// What a device is made of that the guest would have to put together by itself.
fn stacked(entry: &Path) -> Option<String> {
    let text = |file: &str| fs::read_to_string(entry.join(file)).ok();
    if let Some(uuid) = text("dm/uuid") {
        return Some(match uuid.starts_with("CRYPT-") {
            true => "is encrypted (LUKS): the virtual machine would ask for its passphrase".into(),
            false => {
                "is a volume of the device mapper (LVM), which no virtual machine is given".into()
            }
        });
    }
    text("md/level").map(|_| "is a RAID of md, which no virtual machine is given".into())
}

/// By the place of the disk in the tree of devices; none for one that QEMU does not have. A
/// disk of NVMe with several ways to it has its place below `virtual`.
fn controller(whole: &Path, name: &str) -> Option<Controller> {
    let path = whole.to_string_lossy();
    let has = |part: &str| path.contains(part);
    let is = |start: &str| name.starts_with(start);
    match name {
        _ if has("/nvme-fabrics/") => None,
        _ if is("nvme") => Some(Controller::Nvme),
        _ if is("loop") && has("/virtual/") => Some(Controller::Virtio),
        _ if is("vd") && has("/virtio") => Some(Controller::Virtio),
        _ if is("sd") && has("/virtio") => Some(Controller::VirtioScsi),
        _ if is("sd") && has("/usb") => Some(Controller::Usb),
        _ if is("sd") && has("/ata") => Some(Controller::Ahci),
        _ if is("xvd") => Some(Controller::Virtio),
        _ => None,
    }
}

impl Controller {
    /// What QEMU has to be told for the disk number `number`, which it knows as `diskN`.
    pub(super) fn arguments(self, number: usize, sector: u64) -> Vec<String> {
        let drive = format!("drive=disk{number}");
        let sizes = format!(
            "logical_block_size={sector},physical_block_size={}",
            sector.max(512)
        );
        let bus = |controller: &str| vec!["-device".into(), format!("{controller},id=bus{number}")];
        let device = |text: String| vec!["-device".to_owned(), format!("{text},{drive},{sizes}")];
        match self {
            Self::Virtio => device("virtio-blk-pci".into()),
            Self::Nvme => device(format!("nvme,serial=be-{number}")),
            Self::VirtioScsi => {
                let hd = device(format!("scsi-hd,bus=bus{number}.0"));
                [bus("virtio-scsi-pci"), hd].concat()
            }
            Self::Ahci => [
                bus("ich9-ahci"),
                device(format!("ide-hd,bus=bus{number}.0")),
            ]
            .concat(),
            Self::Usb => {
                let hd = device(format!("usb-storage,bus=bus{number}.0"));
                [bus("qemu-xhci"), hd].concat()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_attached_as_the_real_one() {
        let pci = "/sys/devices/pci0000:00/0000:00:17.0";
        for (path, name, wanted) in [
            (
                "ata1/host0/target0:0:0/0:0:0:0/block/sda",
                "sda",
                Controller::Ahci,
            ),
            ("nvme/nvme0/nvme0n1", "nvme0n1", Controller::Nvme),
            ("virtio2/block/vda", "vda", Controller::Virtio),
            (
                "virtio2/host2/target2:0:0/2:0:0:0/block/sda",
                "sda",
                Controller::VirtioScsi,
            ),
            ("usb2/2-1/2-1:1.0/host4/block/sdb", "sdb", Controller::Usb),
        ] {
            let path = format!("{pci}/{path}");
            assert_eq!(controller(Path::new(&path), name), Some(wanted), "{path}");
        }
        for (path, name, wanted) in [
            ("virtual/block/loop0", "loop0", Controller::Virtio),
            ("vbd-51712/block/xvda", "xvda", Controller::Virtio),
            (
                "virtual/nvme-subsystem/nvme-subsys0/nvme0n1",
                "nvme0n1",
                Controller::Nvme,
            ),
        ] {
            let path = format!("/sys/devices/{path}");
            assert_eq!(controller(Path::new(&path), name), Some(wanted), "{path}");
        }
    }

    #[test]
    fn what_no_virtual_machine_has_is_not_taken_for_another() {
        for path in [
            // MegaRAID, a card, Hyper-V, VMware, iSCSI, bcache.
            "pci0000:00/0000:00:1c.0/0000:02:00.0/host0/target0:2:0/0:2:0:0/block/sda",
            "pci0000:00/0000:00:1a.0/mmc_host/mmc0/mmc0:0001/block/mmcblk0",
            "LNXSYSTM:00/ACPI0004:00/VMBUS:00/f8b3781a/host0/target0:0:0/0:0:0:0/block/sda",
            "pci0000:00/0000:00:10.0/host0/target0:0:1/0:0:1:0/block/sdb",
            "platform/host7/session1/target7:0:0/7:0:0:1/block/sdc",
            "virtual/block/bcache0",
        ] {
            let path = Path::new("/sys/devices").join(path);
            assert_eq!(controller(&path, &name(&path)), None, "{}", path.display());
        }
    }

    #[test]
    fn what_is_mounted_elsewhere_is_not_written_here() {
        let row = "1 1 0:1 / /x rw - ext4 /dev/x rw\n";
        assert!(!Disks::default().are_written(&crate::mountinfo::parse(row)));
    }

    #[test]
    fn what_lies_below_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(stacked(dir.path()), None);
        fs::create_dir(dir.path().join("dm")).unwrap();
        fs::write(dir.path().join("dm/uuid"), "CRYPT-LUKS2-1\n").unwrap();
        assert!(stacked(dir.path()).unwrap().contains("LUKS"));
        fs::write(dir.path().join("dm/uuid"), "LVM-1\n").unwrap();
        assert!(stacked(dir.path()).unwrap().contains("LVM"));
    }
}
