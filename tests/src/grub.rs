//! What GRUB itself makes of a disk: read by its own drivers, in which no log and no
//! journal is replayed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xtask::run::{cmd, last_lines, show};

/// The menu of `be`, from the top level of its btrfs.
pub const MENU: &str = "/@be/.grub/menu.cfg";

/// Reads a file of a disk image; `device` is GRUB's name of the file system, `loop0` or
/// `loop0,gpt3`.
///
/// # Errors
/// GRUB cannot read it.
pub fn read(image: &Path, device: &str, path: &str) -> Result<Vec<u8>> {
    read_from(&[image.to_owned()], device, path)
}

/// As [`read`], of a file system on several disks: `loop0`, `loop1` and so on.
///
/// # Errors
/// GRUB cannot read it.
pub fn read_from(images: &[PathBuf], device: &str, path: &str) -> Result<Vec<u8>> {
    let mut command = cmd("grub-fstest", ["-c"]);
    command.arg(images.len().to_string()).args(images);
    command.arg("cat").arg(format!("({device}){path}"));
    let output = command
        .output()
        .with_context(|| format!("start {}", show(&command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", show(&command), last_lines(&said, 10));
    }
    Ok(output.stdout)
}

/// An entry of a menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The environment.
    pub name: String,
    /// The UUID of the file system with its kernel.
    pub fs_uuid: String,
    /// The kernel on it.
    pub linux: String,
    /// The initramfs on it.
    pub initrd: String,
    /// The root subvolume that the kernel is told.
    pub subvolume: String,
}

impl Choice {
    /// The choice of a menu, from what GRUB executes of it.
    ///
    /// # Errors
    /// It has none, or it lacks something.
    pub fn of(menu: &str) -> Result<Self> {
        let name = menu
            .lines()
            .find_map(|line| line.trim().strip_prefix("set default='be-"))
            .context("the menu has no default")?
            .trim_end_matches('\'');
        Self::named(menu, name)
    }

    /// The entry of an environment.
    ///
    /// # Errors
    /// It has none, or it lacks something.
    pub fn named(menu: &str, name: &str) -> Result<Self> {
        let entry = menu
            .split("\nmenuentry ")
            .find(|entry| entry.contains(&format!("--id 'be-{name}'")))
            .with_context(|| format!("{name} has no entry"))?;
        let word = |from: &str| -> Result<String> {
            let (_, rest) = entry
                .split_once(from)
                .with_context(|| format!("no {from} in the entry of {name}"))?;
            let end = rest.find('\'').unwrap_or(rest.len());
            Ok(rest[..end].to_owned())
        };
        Ok(Self {
            fs_uuid: word(&format!("be_ready '{name}' '"))?,
            linux: word("linux ($be_root)'")?,
            initrd: word("initrd ($be_root)'")?,
            subvolume: word("rootflags=subvol=")?,
            name: name.to_owned(),
        })
    }
}
