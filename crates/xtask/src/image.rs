//! The lab's root on file systems of its own.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::chroot::Chroot;
use crate::fill::{configure, fill};
use crate::lab::Lab;
use crate::loopdev::{Loop, Mount};
use crate::temp;
use crate::volumes::{Mounted, Volume, Volumes};

pub use crate::fill::{DATABASE, nested};
pub use crate::layout::{Layout, Source};

/// Bytes of a plain image, most of them never written.
const SIZE: u64 = 4 << 30;
/// Bytes of a /boot of its own, ext4 or FAT.
pub(crate) const BOOT_SIZE: u64 = 512 << 20;

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

/// A system on loop devices, filled with the lab's root and mounted as a whole:
/// for tests that boot nothing. Dropped, it is gone.
#[derive(Debug)]
pub struct LoopImage {
    // Dropped in this order.
    mounted: Mounted,
    volumes: Volumes,
    dir: temp::Dir,
    layout: Layout,
    /// The lab that it was filled from.
    pub lab: Lab,
}

impl Tree for LoopImage {
    fn root(&self) -> &Path {
        self.mounted.root()
    }
}

impl LoopImage {
    /// A new image with its grub.cfg, made by the root's own grub-mkconfig.
    ///
    /// # Errors
    /// The lab cannot be built, there is no permission or room, or the layout is
    /// not [mountable](Layout::is_mountable) on this machine.
    pub fn plain(layout: Layout) -> Result<Self> {
        let lab = Lab::ensure()?;
        let dir = temp::dir(1 << 30)?;
        let target = dir.path().join("root");
        fs::create_dir(&target)?;
        let volumes = make_volumes(dir.path(), layout, &target)?;
        fill(&target, &lab.root_tar, layout, &volumes)?;
        let this = Self {
            mounted: volumes.mount(layout, &target)?,
            volumes,
            dir,
            layout,
            lab,
        };
        configure(this.root(), &this.volumes)?;
        Ok(this)
    }

    /// The layout.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The UUID of its btrfs.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.volumes.root.uuid
    }

    /// The device of its btrfs: `/dev/loopN`, mounted by its other name
    /// `/dev/be-labN`.
    #[must_use]
    pub fn device(&self) -> &Loop {
        &self.volumes.root.device
    }

    /// All its file systems.
    #[must_use]
    pub fn volumes(&self) -> &Volumes {
        &self.volumes
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
        Mount::new(self.device().node(), &target, "btrfs", &options)
    }

    /// Commands inside the running root, not by way of `be`.
    #[must_use]
    pub fn chroot(&self) -> Chroot {
        self.volumes.chroot(self.root())
    }
}

/// Makes a sparse file.
pub(crate) fn sparse_file(path: &Path, size: u64) -> Result<()> {
    File::create_new(path)
        .and_then(|file| file.set_len(size))
        .with_context(|| format!("make {}", path.display()))
}

/// Makes the empty file systems of a layout, each in a file of its own.
fn make_volumes(dir: &Path, layout: Layout, target: &Path) -> Result<Volumes> {
    let attach = |name: &str, size: u64| -> Result<Loop> {
        let file = dir.join(name);
        sparse_file(&file, size)?;
        Loop::attach(&file)
    };
    let has = |wanted: Source| layout.below().iter().any(|(_, source)| *source == wanted);
    let boot = match has(Source::Boot) {
        true => Some(Volume::make_ext4(attach("boot.img", BOOT_SIZE)?)?),
        false => None,
    };
    let esp = match has(Source::Esp) {
        true => Some(Volume::make_fat(attach("esp.img", BOOT_SIZE)?, 32)?),
        false => None,
    };
    let root = Volume::make_btrfs(attach("disk.img", SIZE)?, layout, target)?;
    Ok(Volumes { root, boot, esp })
}
