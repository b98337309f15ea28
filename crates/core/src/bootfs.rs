//! A /boot that is not in the root subvolume: finding it, reading it whether it is mounted
//! or not, and giving its kernels to a clone.
//!
//! A clone has its kernels in its own root subvolume, where GRUB reads them through btrfs:
//! what one environment installs can then never replace what another one boots, no small
//! partition fills up, and the same image in two environments is stored once.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use be_btrfs::{FileType, Root};
use rustix::fs::{Mode, OFlags, major, minor, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::mountinfo::Row;
use crate::observe::read_mountinfo;
use crate::record::Boot;
use crate::store::Store;

/// What belongs to the boot loader or to the filesystem, not to an environment.
const NOT_COPIED: [&str; 7] = [
    "grub",
    "grub2",
    "efi",
    "EFI",
    "lost+found",
    "System Volume Information",
    "@be",
];

/// The largest file that is compared with those of other environments, in bytes.
const MOST: u64 = 1 << 30;

/// A /boot, open. It stays readable as long as this lives.
#[derive(Debug)]
pub struct BootDir {
    /// The files.
    pub root: Root,
    /// UUID of the filesystem that they lie on, as GRUB finds it.
    pub fs_uuid: String,
    /// Its path from the top of that filesystem, with a leading slash.
    pub path: PathBuf,
    /// Keeps a mount of our own.
    _mount: Option<OwnedFd>,
}

/// Open a /boot, to read it, or to write in it as well.
///
/// # Errors
/// When its filesystem is not there, or cannot be mounted.
pub fn open(store: &Store, boot: &Boot, writable: bool) -> Result<BootDir> {
    if let Some(subvolume) = &boot.subvolume {
        return Ok(BootDir {
            root: store.root_of(subvolume)?,
            fs_uuid: store.top.fs_uuid().to_string(),
            path: Path::new("/").join(subvolume),
            _mount: None,
        });
    }
    let device = find_device(&format!("UUID={}", boot.uuid))?;
    let dir = |root, mount| BootDir {
        root,
        fs_uuid: boot.uuid.clone(),
        path: PathBuf::from("/"),
        _mount: mount,
    };
    if let Some(root) = mounted_at(&device, &read_mountinfo("self")?, writable)? {
        return Ok(dir(root, None));
    }
    let mount = detached(&boot.fstype, &device, writable)
        .with_context(|| format!("cannot mount /boot from {}", device.display()))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = openat(&mount, ".", flags, Mode::empty()).context("cannot open /boot")?;
    Ok(dir(Root::from_fd(fd)?, Some(mount)))
}

/// A mount of a /boot on another filesystem, to be attached somewhere and written to.
pub(crate) fn mount(boot: &Boot) -> Result<OwnedFd> {
    let device = find_device(&format!("UUID={}", boot.uuid))?;
    detached(&boot.fstype, &device, true)
        .with_context(|| format!("cannot mount /boot from {}", device.display()))
}

/// The device that a first field of fstab stands for (blkid(8)).
pub(crate) fn find_device(source: &str) -> Result<PathBuf> {
    if source.starts_with('/') {
        return Ok(PathBuf::from(source));
    }
    if let Some(uuid) = source.strip_prefix("UUID=") {
        let link = Path::new("/dev/disk/by-uuid").join(uuid.trim_matches('"'));
        if link.exists() {
            return Ok(link);
        }
    }
    // Without its cache, which believes in devices that are others by now.
    let output = Command::new("blkid")
        .args(["-c", "/dev/null", "-l", "-o", "device", "-t", source])
        .output()
        .context("cannot start blkid")?;
    if output.status.success() {
        return Ok(PathBuf::from(
            String::from_utf8_lossy(&output.stdout).trim_end(),
        ));
    }
    // It looks only at what /proc/partitions lists, and misses now and then what another
    // process attaches or detaches meanwhile.
    let (tag, value) = source.split_once('=').unwrap_or_default();
    device_with(tag, value.trim_matches('"'))
        .with_context(|| format!("there is no filesystem {source}"))
}

/// The device whose filesystem or partition has this tag: of those that are mounted, and of
/// all that have a node directly below /dev or /dev/mapper.
fn device_with(tag: &str, value: &str) -> Option<PathBuf> {
    let mounted = read_mountinfo("self").unwrap_or_default().into_iter();
    let mut devices: Vec<_> = mounted.map(|row| PathBuf::from(row.source)).collect();
    for dir in ["/dev", "/dev/mapper"] {
        let nodes = std::fs::read_dir(dir).into_iter().flatten().flatten();
        devices.extend(nodes.map(|node| node.path()));
    }
    devices.retain(|path| {
        let kind = std::fs::metadata(path).map(|meta| meta.file_type());
        path.starts_with("/dev") && kind.is_ok_and(|kind| kind.is_block_device())
    });
    devices.sort();
    devices.dedup();
    let is_it = |device: &PathBuf| probe(device, tag).is_ok_and(|found| found == value);
    devices.into_iter().find(is_it)
}

/// What `blkid` finds on a device: its `UUID`, `LABEL`, `PARTUUID` or `PARTLABEL`.
pub(crate) fn probe(device: &Path, tag: &str) -> Result<String> {
    let field = match tag {
        "PARTUUID" => "PART_ENTRY_UUID",
        "PARTLABEL" => "PART_ENTRY_NAME",
        other => other,
    };
    let output = Command::new("blkid")
        .args(["-p", "-o", "value", "-s", field])
        .arg(device)
        .output()
        .context("cannot start blkid")?;
    let found = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure!(!found.is_empty(), "{} has no {tag}", device.display());
    Ok(found)
}

/// The UUID of the filesystem that a first field of fstab stands for (blkid(8)).
pub(crate) fn uuid_of(source: &str) -> Result<String> {
    let device = find_device(source)?;
    if let Some(uuid) = source.strip_prefix("UUID=") {
        return Ok(uuid.trim_matches('"').to_owned());
    }
    probe(&device, "UUID")
}

/// The directory where the whole of a device is mounted, if nothing covers it there.
fn mounted_at(device: &Path, rows: &[Row], writable: bool) -> Result<Option<Root>> {
    let real = device
        .canonicalize()
        .with_context(|| format!("there is no {}", device.display()))?;
    let rdev = std::fs::metadata(&real)?.st_rdev();
    let number = format!("{}:{}", major(rdev), minor(rdev));
    let fits = |row: &&Row| {
        row.device == number
            && row.root == Path::new("/")
            && (!writable || row.options.split(',').any(|o| o == "rw"))
    };
    for row in rows.iter().filter(fits) {
        let root = Root::open(&row.target)?;
        if root.metadata("")?.dev == rdev {
            return Ok(Some(root));
        }
    }
    Ok(None)
}

fn detached(fstype: &str, device: &Path, writable: bool) -> rustix::io::Result<OwnedFd> {
    let attempt = |read_only: bool| {
        let fs = fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&fs, "source", device)?;
        if read_only {
            fsconfig_set_flag(&fs, "ro")?;
        }
        fsconfig_create(&fs)?;
        let flags = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags)
    };
    match attempt(!writable) {
        // Mounted already, in a namespace that we do not see, and the other way.
        Err(Errno::BUSY) => attempt(writable),
        done => done,
    }
}

/// Bytes of the files that a clone gets.
///
/// # Errors
/// When they cannot be read.
pub fn size(from: &Root) -> Result<u64> {
    size_below(from, Path::new(""))
}

fn size_below(from: &Root, dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for (path, kind) in to_copy(from, dir)? {
        sum += match kind {
            FileType::Dir => size_below(from, &path)?,
            _ => from.lstat(&path)?.size,
        };
    }
    Ok(sum)
}

fn to_copy(from: &Root, dir: &Path) -> Result<Vec<(PathBuf, FileType)>> {
    let is_top = dir.as_os_str().is_empty();
    let list = from.list(dir)?;
    Ok(list
        .into_iter()
        .filter(|(name, _)| !is_top || !NOT_COPIED.iter().any(|n| name == n))
        .filter(|(_, kind)| *kind != FileType::Special)
        .map(|(name, kind)| (dir.join(name), kind))
        .collect())
}

/// Give `clone` the kernels of `from`, in its own /boot. What one of the `others` has in its
/// /boot as well takes no more space.
///
/// # Errors
/// When something cannot be read or written.
pub fn copy(from: &Root, clone: &Root, others: &[Root]) -> Result<()> {
    const BOOT: &str = "boot";
    // What lay hidden below the mount.
    if clone.exists(BOOT)? {
        for (name, kind) in clone.list(BOOT)? {
            let path = Path::new(BOOT).join(name);
            match kind {
                FileType::Dir => clone.remove_tree(&path)?,
                _ => clone.remove_file(&path)?,
            }
        }
    }
    clone.mkdir_all(BOOT, 0o755)?;
    let boot = clone.sub(BOOT)?;
    let others: Vec<Root> = others.iter().filter_map(|o| o.sub(BOOT).ok()).collect();
    copy_below(from, &boot, &others, Path::new(""))
}

fn copy_below(from: &Root, to: &Root, others: &[Root], dir: &Path) -> Result<()> {
    for (path, kind) in to_copy(from, dir)? {
        match kind {
            FileType::Dir => {
                to.mkdir(&path, 0o755)?;
                copy_below(from, to, others, &path)?;
            }
            FileType::Symlink => to.symlink(from.readlink(&path)?, &path)?,
            _ => copy_file(from, to, others, &path)
                .with_context(|| format!("cannot copy /boot/{}", path.display()))?,
        }
    }
    Ok(())
}

fn copy_file(from: &Root, to: &Root, others: &[Root], path: &Path) -> Result<()> {
    let meta = from.metadata(path)?;
    let mut source = from.file(path)?;
    // A FAT filesystem shows what its mount options say; nothing here is executed.
    let mut target = to.create_new(path, meta.mode & 0o666)?;
    for other in others {
        let Ok(same) = other.file(path) else { continue };
        if meta.size > 0
            && meta.size <= MOST
            && same.metadata()?.len() == meta.size
            && equal(&source, &same)?
            && rustix::fs::ioctl_ficlone(&target, &same).is_ok()
        {
            return Ok(());
        }
    }
    let copied = std::io::copy(&mut source, &mut target)?;
    if copied != meta.size {
        bail!("{copied} of {} bytes were read", meta.size);
    }
    Ok(())
}

/// Whether two files of the same size have the same content.
fn equal(a: &File, b: &File) -> Result<bool> {
    use std::os::unix::fs::FileExt;
    let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut at = 0;
    loop {
        let n = a.read_at(&mut left, at)?;
        if n == 0 {
            return Ok(true);
        }
        b.read_exact_at(&mut right[..n], at)?;
        if left[..n] != right[..n] {
            return Ok(false);
        }
        at += n as u64;
    }
}
