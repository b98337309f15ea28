//! Puts the lab's root into an empty system.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::cache::hex;
use crate::lab::base;
use crate::layout::{Layout, Source};
use crate::run::{cmd, run};
use crate::volumes::Volumes;

/// Fills the volumes, by way of the empty directory `target`: all but grub.cfg,
/// which says what the root's own grub-mkconfig finds once all is mounted.
pub(crate) fn fill(target: &Path, tar: &Path, layout: Layout, volumes: &Volumes) -> Result<()> {
    // FAT has no owners that tar could set.
    let mounted = volumes.mount_but(layout, target, Some(Source::Esp))?;
    let root = mounted.root();
    base::unpack(tar, root)?;
    let path = root.join("etc/fstab");
    fs::write(&path, volumes.fstab(layout, root)?)
        .with_context(|| format!("write {}", path.display()))?;
    let grub = root.join("boot/grub");
    fs::create_dir_all(&grub).with_context(|| format!("make {}", grub.display()))?;
    if layout == Layout::AtMany {
        nest(root)?;
    }
    if let (Layout::EspBoot, Some(esp)) = (layout, &volumes.esp) {
        move_to_fat(&root.join("boot"), esp.device.node())?;
    }
    Ok(())
}

/// Writes grub.cfg by the root's own grub-mkconfig; the whole system is mounted
/// at `root`.
pub(crate) fn configure(root: &Path, volumes: &Volumes) -> Result<()> {
    let argv = ["grub-mkconfig", "-o", "/boot/grub/grub.cfg"];
    volumes.chroot(root).run(&argv).map(|_| ())
}

/// The subvolumes that [`Layout::AtMany`] has in its root, as paths in it, each
/// with the one that it is a snapshot of.
#[must_use]
pub fn nested() -> Vec<(PathBuf, Option<PathBuf>)> {
    // Docker's graph driver names layers at random and makes each from the one
    // below it, a container's by way of a `-init` one.
    let layer = |number: u8, suffix: &str| {
        let name = hex(&Sha256::digest([number])) + suffix;
        Path::new("var/lib/docker/btrfs/subvolumes").join(name)
    };
    let layers = [
        (layer(1, ""), None),
        (layer(2, ""), Some(layer(1, ""))),
        (layer(3, ""), Some(layer(2, ""))),
        (layer(4, "-init"), Some(layer(3, ""))),
        (layer(4, ""), Some(layer(4, "-init"))),
    ];
    // As tmpfiles.d/systemd-nspawn.conf and portables.conf make them; the
    // machine is one that machinectl has put there.
    let others = [
        "var/lib/machines",
        "var/lib/machines/guest",
        "var/lib/portables",
        "var/lib/postgresql",
    ];
    let others = others.map(|path| (path.into(), None));
    layers.into_iter().chain(others).collect()
}

/// A file of the database in [`nested`], as a path in the root, and its content.
pub const DATABASE: (&str, &str) = ("var/lib/postgresql/data/base/1/1259", "rows\n");

fn nest(root: &Path) -> Result<()> {
    for (path, parent) in nested() {
        let target = root.join(&path);
        let dir = target.parent().context("a subvolume without a parent")?;
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        match parent {
            None => run(cmd("btrfs", ["--quiet", "subvolume", "create"]).arg(&target))?,
            Some(parent) => run(cmd("btrfs", ["--quiet", "subvolume", "snapshot"])
                .arg(root.join(parent))
                .arg(&target))?,
        };
        let content = [path.as_os_str().as_bytes(), b"\n"].concat();
        fs::write(target.join("made"), content)
            .with_context(|| format!("write into {}", target.display()))?;
    }
    let (file, content) = DATABASE;
    let data = root.join("var/lib/postgresql/data");
    fs::create_dir(&data).with_context(|| format!("make {}", data.display()))?;
    // As the wiki of every distribution advises for databases.
    run(cmd("chattr", ["+C"]).arg(&data))?;
    let file = root.join(file);
    let dir = file.parent().context("a file without a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    fs::write(&file, content).with_context(|| format!("write {}", file.display()))
}

/// Moves what is in a directory onto a FAT, with mtools: not every kernel that
/// builds a lab knows FAT.
fn move_to_fat(dir: &Path, device: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        run(cmd("mcopy", ["-s", "-Q", "-i"])
            .arg(device)
            .arg(&path)
            .arg("::/"))?;
        match path.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        }
        .with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}
