//! The file systems of one system, and the whole of it mounted.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::chroot::Chroot;
use crate::layout::{Layout, Source};
use crate::loopdev::{Loop, Mount};
use crate::run::{cmd, run};

/// A file system on a device of its own.
#[derive(Debug)]
pub struct Volume {
    /// The device.
    pub device: Loop,
    /// The file system's UUID.
    pub uuid: String,
}

impl Volume {
    /// The file system that is on a device.
    pub(crate) fn of(device: Loop) -> Result<Self> {
        let uuid = run(cmd("blkid", ["-p", "-o", "value", "-s", "UUID"]).arg(device.node()))?;
        let uuid = uuid.trim().to_owned();
        Ok(Self { device, uuid })
    }

    /// Makes a btrfs with the subvolumes of a layout; `target` is an empty
    /// directory to mount it on.
    pub(crate) fn make_btrfs(device: Loop, layout: Layout, target: &Path) -> Result<Self> {
        run(cmd("mkfs.btrfs", ["--quiet", "--label", "lab"]).arg(device.node()))?;
        let this = Self::of(device)?;
        let top = Mount::new(this.device.node(), target, "btrfs", "subvolid=5")?;
        for name in layout.subvolumes() {
            let path = top.path().join(name);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
            }
            run(cmd("btrfs", ["--quiet", "subvolume", "create"]).arg(path))?;
        }
        if layout.is_default() {
            run(cmd("btrfs", ["subvolume", "set-default"]).arg(top.path().join(layout.root())))?;
        }
        Ok(this)
    }

    /// Makes an ext4.
    pub(crate) fn make_ext4(device: Loop) -> Result<Self> {
        run(cmd("mkfs.ext4", ["-q", "-L", "boot"]).arg(device.node()))?;
        Self::of(device)
    }

    /// Makes a FAT of this many bits.
    pub(crate) fn make_fat(device: Loop, bits: u32) -> Result<Self> {
        run(cmd("mkfs.vfat", ["-I", "-n", "ESP", "-F"])
            .arg(bits.to_string())
            .arg(device.node()))?;
        Self::of(device)
    }
}

/// All file systems of one system.
#[derive(Debug)]
pub struct Volumes {
    /// The btrfs that the root is on.
    pub root: Volume,
    /// The ext4 of /boot.
    pub boot: Option<Volume>,
    /// The EFI system partition.
    pub esp: Option<Volume>,
}

impl Volumes {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Volume> {
        [Some(&self.root), self.boot.as_ref(), self.esp.as_ref()]
            .into_iter()
            .flatten()
    }

    fn of(&self, source: Source) -> Result<&Volume> {
        match source {
            Source::Subvolume(_) => Some(&self.root),
            Source::Boot => self.boot.as_ref(),
            Source::Esp => self.esp.as_ref(),
        }
        .with_context(|| format!("this image has no {source:?}"))
    }

    /// Mounts the whole system, as its fstab says, on the directory `target`.
    ///
    /// # Errors
    /// A mount fails, or the kernel does not know a file system.
    pub fn mount(&self, layout: Layout, target: &Path) -> Result<Mounted> {
        ensure!(
            layout.is_mountable(),
            "this machine's kernel does not know every file system of {layout:?}"
        );
        self.mount_but(layout, target, None)
    }

    /// As [`Volumes::mount`], without what comes from `left_out`.
    pub(crate) fn mount_but(
        &self,
        layout: Layout,
        target: &Path,
        left_out: Option<Source>,
    ) -> Result<Mounted> {
        let root = Mount::new(self.root.device.node(), target, "btrfs", &layout.options())?;
        let mut mounted = Mounted::from(root);
        for (path, source) in layout.below() {
            if Some(*source) == left_out {
                continue;
            }
            let point = target.join(path.trim_start_matches('/'));
            fs::create_dir_all(&point).with_context(|| format!("make {}", point.display()))?;
            let device = self.of(*source)?.device.node();
            let options = match source {
                Source::Subvolume(path) => format!("subvol=/{path}"),
                Source::Boot => String::new(),
                Source::Esp => "umask=0077".to_owned(),
            };
            mounted.add(Mount::new(device, &point, source.fstype(), &options)?);
        }
        Ok(mounted)
    }

    /// Commands in a root, with all its devices.
    #[must_use]
    pub fn chroot(&self, root: &Path) -> Chroot {
        self.all().fold(Chroot::new(root), |chroot, volume| {
            chroot.device(&volume.device, &volume.uuid)
        })
    }

    /// What fstab says of a system whose root is mounted at `root`.
    pub(crate) fn fstab(&self, layout: Layout, root: &Path) -> Result<String> {
        let uuid = &self.root.uuid;
        let mut text = match layout {
            Layout::FedoraRoot => {
                let id = run(cmd("btrfs", ["inspect-internal", "rootid"]).arg(root))?;
                format!(
                    "UUID={uuid} / btrfs subvol=root,subvolid={},noatime 0 0\n",
                    id.trim()
                )
            }
            Layout::TopLevel | Layout::Suse => format!("UUID={uuid} / btrfs noatime 0 0\n"),
            _ => format!(
                "UUID={uuid} / btrfs subvol=/{},noatime 0 0\n",
                layout.root()
            ),
        };
        for (path, source) in layout.below() {
            let uuid = &self.of(*source)?.uuid;
            text += &match source {
                // Fedora's installer writes it without the slash.
                Source::Subvolume(name) if layout == Layout::FedoraRoot => {
                    format!("UUID={uuid} {path} btrfs subvol={name},noatime 0 0\n")
                }
                Source::Subvolume(name) => {
                    format!("UUID={uuid} {path} btrfs subvol=/{name},noatime 0 0\n")
                }
                Source::Boot => format!("UUID={uuid} {path} ext4 noatime 0 2\n"),
                Source::Esp => format!("UUID={uuid} {path} vfat noatime,umask=0077 0 2\n"),
            };
        }
        let placed = layout
            .below()
            .iter()
            .any(|(_, source)| *source == Source::Esp);
        if let Some(esp) = self.esp.as_ref().filter(|_| !placed) {
            text += &format!("UUID={} /efi vfat noatime,umask=0077 0 2\n", esp.uuid);
        }
        Ok(text)
    }
}

/// Mounts that belong together. Dropped, the last one is the first to go.
#[derive(Debug)]
pub struct Mounted {
    root: PathBuf,
    mounts: Vec<Mount>,
}

impl From<Mount> for Mounted {
    fn from(mount: Mount) -> Self {
        Self {
            root: mount.path().to_owned(),
            mounts: vec![mount],
        }
    }
}

impl Mounted {
    /// Where the first one is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn add(&mut self, mount: Mount) {
        self.mounts.push(mount);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        while let Some(mount) = self.mounts.pop() {
            drop(mount);
        }
    }
}
