//! The lab's root on a btrfs file system of its own.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::chroot::Chroot;
use crate::lab::{Lab, base};
use crate::loopdev::{Loop, Mount};
use crate::run::{cmd, run};
use crate::temp;

/// Bytes of a plain image, most of them never written.
const SIZE: u64 = 4 << 30;

/// How the file system is divided into subvolumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// The root in `@`.
    AtSubvol,
    /// Fedora's: the root in `root`, /home in `home`; fstab also has `subvolid=`.
    FedoraRoot,
    /// The root is the top level, subvolume 5: what Gentoo's handbook gives.
    TopLevel,
}

impl Layout {
    /// Every layout.
    pub const ALL: [Self; 3] = [Self::AtSubvol, Self::FedoraRoot, Self::TopLevel];

    /// The name in file names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AtSubvol => "at",
            Self::FedoraRoot => "fedora",
            Self::TopLevel => "top",
        }
    }

    /// The root's subvolume from the top level, without a leading slash; empty
    /// for the top level itself.
    #[must_use]
    pub fn root(self) -> &'static str {
        match self {
            Self::AtSubvol => "@",
            Self::FedoraRoot => "root",
            Self::TopLevel => "",
        }
    }

    /// The mount options that lead to the root.
    #[must_use]
    pub fn options(self) -> String {
        format!("subvol=/{}", self.root())
    }

    /// The path of the root's /boot/grub from the top level.
    #[must_use]
    pub fn grub_home(self) -> String {
        match self.root() {
            "" => "/boot/grub".to_owned(),
            root => format!("/{root}/boot/grub"),
        }
    }
}

/// A tree that a test reads and changes: paths are given as they are inside,
/// and symbolic links at the end of a path are followed by the host, so only
/// ours belong there.
pub trait Tree {
    /// Where the root lies on the host.
    fn root(&self) -> &Path;

    /// The host's path of a path inside.
    fn path(&self, inside: &str) -> PathBuf {
        self.root().join(inside.trim_start_matches('/'))
    }

    /// Reads a text file.
    ///
    /// # Errors
    /// It cannot be read.
    fn read(&self, inside: &str) -> Result<String> {
        let path = self.path(inside);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// Writes a file, and its directory where that is missing.
    ///
    /// # Errors
    /// It cannot be written.
    fn write(&self, inside: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(inside);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))
    }

    /// Appends to a file.
    ///
    /// # Errors
    /// It cannot be written.
    fn append(&self, inside: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(inside);
        File::options()
            .append(true)
            .create(true)
            .open(&path)
            .and_then(|mut file| file.write_all(content.as_ref()))
            .with_context(|| format!("append to {}", path.display()))
    }

    /// Copies the built `be` to /usr/bin/be.
    ///
    /// # Errors
    /// It cannot be copied.
    fn put_binary(&self, be: &Path) -> Result<()> {
        let target = self.path("/usr/bin/be");
        fs::copy(be, &target)
            .with_context(|| format!("copy {} to {}", be.display(), target.display()))?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// Puts an installed package, such as `app-misc/slow`, into the world, so
    /// that the next upgrade of @world concerns it.
    ///
    /// # Errors
    /// The world file cannot be written.
    fn add_to_world(&self, package: &str) -> Result<()> {
        self.append("/var/lib/portage/world", format!("{package}\n"))
    }
}

/// A file system directly on a loop device, filled with the lab's root and
/// mounted: for tests that boot nothing. Dropped, it is gone.
#[derive(Debug)]
pub struct LoopImage {
    // Dropped in this order.
    mount: Mount,
    device: Loop,
    dir: temp::Dir,
    layout: Layout,
    uuid: String,
    /// The lab that it was filled from.
    pub lab: Lab,
}

impl Tree for LoopImage {
    fn root(&self) -> &Path {
        self.mount.path()
    }
}

impl LoopImage {
    /// A new image with its grub.cfg, made by the root's own grub-mkconfig.
    ///
    /// # Errors
    /// The lab cannot be built, or there is no permission or room.
    pub fn plain(layout: Layout) -> Result<Self> {
        let lab = Lab::ensure()?;
        let dir = temp::dir(1 << 30)?;
        let file = dir.path().join("disk.img");
        sparse_file(&file, SIZE)?;
        let device = Loop::attach(&file)?;
        let target = dir.path().join("root");
        fs::create_dir(&target)?;
        let uuid = make_filesystem(&device, layout, &target)?;
        let mount = Mount::new(device.node(), &target, "btrfs", &layout.options())?;
        let this = Self {
            mount,
            device,
            dir,
            layout,
            uuid,
            lab,
        };
        fill(
            this.root(),
            &this.lab.root_tar,
            &this.device,
            layout,
            &this.uuid,
            None,
        )?;
        Ok(this)
    }

    /// The layout.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The file system's UUID.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The device: `/dev/loopN`, mounted by its other name `/dev/be-labN`.
    #[must_use]
    pub fn device(&self) -> &Loop {
        &self.device
    }

    /// The directory that everything of this image lies in; below it there is
    /// room for a test's own files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Mounts the top level for as long as the guard lives.
    ///
    /// # Errors
    /// The mount fails.
    pub fn mount_top(&self) -> Result<Mount> {
        self.mount_subvolume("/")
    }

    /// Mounts a subvolume, given by its path from the top level.
    ///
    /// # Errors
    /// The mount fails.
    pub fn mount_subvolume(&self, subvolume: &str) -> Result<Mount> {
        let target = tempfile::Builder::new()
            .prefix("mount.")
            .tempdir_in(self.dir.path())?
            .keep();
        let options = format!("subvol=/{}", subvolume.trim_start_matches('/'));
        Mount::new(self.device.node(), &target, "btrfs", &options)
    }

    /// Commands inside the running root, not by way of `be`.
    #[must_use]
    pub fn chroot(&self) -> Chroot {
        Chroot::new(self.root()).device(&self.device, &self.uuid)
    }
}

/// Makes a sparse file.
pub(crate) fn sparse_file(path: &Path, size: u64) -> Result<()> {
    File::create_new(path)
        .and_then(|file| file.set_len(size))
        .with_context(|| format!("make {}", path.display()))
}

/// Makes the file system and the layout's subvolumes; returns its UUID.
pub(crate) fn make_filesystem(device: &Loop, layout: Layout, target: &Path) -> Result<String> {
    run(cmd("mkfs.btrfs", ["--quiet", "--label", "lab"]).arg(device.node()))?;
    let uuid = uuid_of(device)?;
    let top = Mount::new(device.node(), target, "btrfs", "subvolid=5")?;
    let subvolumes: &[&str] = match layout {
        Layout::AtSubvol => &["@"],
        Layout::FedoraRoot => &["root", "home"],
        Layout::TopLevel => &[],
    };
    for name in subvolumes {
        run(cmd("btrfs", ["--quiet", "subvolume", "create"]).arg(top.path().join(name)))?;
    }
    Ok(uuid)
}

/// The UUID of the file system on a device.
pub(crate) fn uuid_of(device: &Loop) -> Result<String> {
    let uuid = run(cmd("blkid", ["-p", "-o", "value", "-s", "UUID"]).arg(device.node()))?;
    Ok(uuid.trim().to_owned())
}

/// Fills the mounted root; `esp` is the UUID of the ESP where there is one.
pub(crate) fn fill(
    root: &Path,
    tar: &Path,
    device: &Loop,
    layout: Layout,
    uuid: &str,
    esp: Option<&str>,
) -> Result<()> {
    base::unpack(tar, root)?;
    let mut fstab = match layout {
        Layout::AtSubvol => format!("UUID={uuid} / btrfs subvol=/@,noatime 0 0\n"),
        Layout::FedoraRoot => {
            let id = run(cmd("btrfs", ["inspect-internal", "rootid"]).arg(root))?;
            format!(
                "UUID={uuid} / btrfs subvol=root,subvolid={},noatime 0 0\n\
                 UUID={uuid} /home btrfs subvol=home,noatime 0 0\n",
                id.trim()
            )
        }
        Layout::TopLevel => format!("UUID={uuid} / btrfs noatime 0 0\n"),
    };
    if let Some(esp) = esp {
        fstab += &format!("UUID={esp} /efi vfat noatime,umask=0077 0 2\n");
    }
    let path = root.join("etc/fstab");
    fs::write(&path, fstab).with_context(|| format!("write {}", path.display()))?;
    let grub = root.join("boot/grub");
    fs::create_dir_all(&grub).with_context(|| format!("make {}", grub.display()))?;
    Chroot::new(root)
        .device(device, uuid)
        .run(&["grub-mkconfig", "-o", "/boot/grub/grub.cfg"])?;
    Ok(())
}
