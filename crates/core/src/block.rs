//! GRUB's environment block, by which the menu boots once or on trial: where it can be on
//! this machine, and what is in it.

use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use be_btrfs::Root;
use be_grub::envblk::device::{Header, is_plain};
use be_grub::envblk::file;
use be_grub::place::{self, Btrfs, Candidate, Facts, NoPlace, Version};
use be_grub::selection::{BlockAt, Choice, Place};

use crate::bootfs::{self, BootDir};
use crate::model::{self, Inventory};
use crate::mountinfo::Row;
use crate::observe::{MAX_TEXT, read_mountinfo};
use crate::record::Boot;
use crate::session::Session;
use crate::store::Store;
use crate::upgrade::fd_path;

/// Where sysfs is.
pub(crate) const SYS: &str = "/sys";

/// Where an EFI system partition is mounted, and a /boot of its own.
const POINTS: [&str; 5] = ["/boot", "/efi", "/boot/efi", "/esp", "/boot/EFI"];

/// A block, open.
enum Block {
    File { dir: BootDir, path: PathBuf },
    Header(Header),
}

impl Block {
    fn open(store: &Store, at: &BlockAt, writable: bool) -> Result<Self> {
        match at.place() {
            Place::Header => Ok(Self::Header(Header::open(
                store.top.device(),
                Path::new(SYS),
            )?)),
            Place::File {
                fs_uuid,
                path,
                format,
            } => {
                let boot = Boot::new(fs_uuid, format.fs_type().to_owned(), None);
                let dir = bootfs::open(store, &boot, writable)?;
                let path = fd_path(&dir.root).join(path.trim_start_matches('/'));
                Ok(Self::File { dir, path })
            }
        }
    }

    fn choice(&self) -> Result<Choice> {
        Ok(match self {
            Self::File { path, .. } => Choice::read(&file::read(path)?),
            Self::Header(header) => header
                .read()?
                .map_or_else(Choice::default, |block| Choice::read(&block)),
        })
    }

    fn choose(&self, choice: &Choice) -> Result<()> {
        match self {
            Self::File { path, .. } => file::update(path, |block| choice.write(block)),
            Self::Header(header) => header.update(|block| choice.write(block)),
        }
    }

    fn create(&self) -> Result<()> {
        let Self::File { dir, path } = self else {
            return Ok(());
        };
        file::create(path)?;
        rustix::fs::syncfs(dir.root.fd())?;
        // GRUB replays no journal. Where this cannot be done it finds the file after the next
        // clean unmount, and boots the default until then.
        if let Err(e) = be_btrfs::checkpoint_journal(dir.root.fd()) {
            tracing::debug!("the journal is not flushed: {e}");
        }
        Ok(())
    }
}

/// What the block says.
///
/// # Errors
/// When it cannot be read.
pub fn read(store: &Store, at: &BlockAt) -> Result<Choice> {
    Block::open(store, at, false)?
        .choice()
        .context("cannot read GRUB's environment block")
}

/// Write a choice into the block. It is on the disk on return.
///
/// # Errors
/// When it cannot be written; GRUB finds what was there before.
pub fn write(store: &Store, at: &BlockAt, choice: &Choice) -> Result<()> {
    Block::open(store, at, true)?
        .choose(choice)
        .context("cannot write GRUB's environment block")
}

/// Make the block, if it is not there.
///
/// # Errors
/// When it cannot be made, or GRUB could not write it.
pub fn create(store: &Store, at: &BlockAt) -> Result<()> {
    Block::open(store, at, true)?.create()
}

/// Where GRUB can write: where the menu says, else the best place there is.
///
/// # Errors
/// [`NoPlace`] with every place that was looked at.
pub fn place(session: &Session, inv: &Inventory) -> Result<Place, NoPlace> {
    if let Some(block) = &inv.menu.block
        && block.choice.is_ok()
    {
        return Ok(block.at.place());
    }
    place::choose(&facts(session, inv)).map(|chosen| chosen.place)
}

fn facts(session: &Session, inv: &Inventory) -> Facts {
    let rows = read_mountinfo("self").unwrap_or_default();
    let devices = session.store.top.devices().unwrap_or_default();
    let number = std::fs::metadata(&inv.fs.device).map(|m| m.st_rdev());
    let candidates = POINTS
        .iter()
        .filter_map(|point| candidate(session, inv, &rows, Path::new(point)));
    Facts {
        grub: grub_version(session, inv),
        candidates: candidates.collect(),
        btrfs: Btrfs {
            fs_uuid: inv.fs.uuid.clone(),
            devices: devices.len() as u64,
            plain: number.is_ok_and(|n| is_plain(Path::new(SYS), n).unwrap_or(false)),
            // What it is on is looked at when the header is opened.
            zoned: false,
        },
    }
}

/// What is, or would be, mounted at a place of the system.
fn candidate(session: &Session, inv: &Inventory, rows: &[Row], point: &Path) -> Option<Candidate> {
    let below = point.strip_prefix("/").unwrap_or(point);
    let target = session.sysroot.join(below);
    let row = rows.iter().rev().find(|r| r.target == target);
    let row = row.filter(|r| r.fstype != "autofs");
    let entry = inv.system.layout.fstab.at(point);
    let (source, fs_type, options, root) = match (row, entry) {
        (Some(row), _) => (
            row.source.clone(),
            row.fstype.clone(),
            format!("{},{}", row.options, row.super_options),
            row.root.display().to_string(),
        ),
        (None, Some(entry)) => (
            entry.source.clone(),
            entry.fstype.clone(),
            entry.options.join(","),
            "/".to_owned(),
        ),
        (None, None) => return None,
    };
    if fs_type == "btrfs" {
        return None;
    }
    let device = bootfs::find_device(&source).ok()?;
    let number = std::fs::metadata(&device).ok()?.st_rdev();
    Some(Candidate {
        mount_point: point.display().to_string(),
        root,
        fs_type,
        fs_uuid: bootfs::probe(&device, "UUID").ok(),
        options,
        plain: is_plain(Path::new(SYS), number).unwrap_or(false),
    })
}

/// The oldest GRUB among those that were installed beside the grub.cfg that is read.
pub(crate) fn grub_version(session: &Session, inv: &Inventory) -> Option<Version> {
    let config = inv.menu.config.as_ref()?;
    let (root, dir) = match &config.place {
        model::Place::InRoot { root, path } => (session.store.root_of(root).ok()?, path.parent()?),
        model::Place::Boot { boot, path } => (
            bootfs::open(&session.store, boot, false).ok()?.root,
            path.parent()?,
        ),
        model::Place::SystemRoot(path) => (Root::open(&session.sysroot).ok()?, path.parent()?),
    };
    let platforms = root.list(dir).ok()?.into_iter();
    let versions = platforms.filter_map(|(name, _)| {
        let file = dir.join(name).join("modinfo.sh");
        Version::of_modinfo(&root.read_to_string(file, MAX_TEXT).ok()?)
    });
    versions.min()
}
