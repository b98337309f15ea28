//! A block in a file, written as GRUB writes it: in place.
//!
//! GRUB keeps nothing between boots: `save_env` reads the file, notes the sectors that it came from, and writes the
//! same sectors again (`grub-core/commands/loadenv.c`). A file with a new inode is therefore fine for GRUB. What it
//! cannot write is a file whose bytes are not simply on the disk: a hole, compressed or encrypted data, data inside
//! the inode, anything on LVM, RAID or LUKS.
//!
//! The file is made once and never replaced all the same. After a rename on ext4 the new directory entry is in the
//! journal, which GRUB does not replay: after a power cut GRUB would read the old file, and write sectors that
//! belong to nothing, or to another file by now. An overwrite of a file that has its blocks changes no metadata that
//! GRUB reads, and the data does not go through the journal (but with `data=journal`, see [`crate::place`]).
//! The variables of `be` fit into the first of the two sectors, so a write is as atomic as a sector is.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Advice, AtFlags, OFlags, SeekFrom, StatxAttributes, StatxFlags};

use super::{EnvBlock, FILE_SIZE};

/// The longest file that is read as a block.
const LARGEST: u64 = 1 << 16;

/// Makes the file with an empty block in it, and its directory, on the disk when this returns. One that holds a block
/// stays as it is; one that holds none is made anew.
///
/// On ext4 GRUB may find it only after the next clean unmount, because of the journal; until then it boots the default.
///
/// # Errors
/// The file cannot be written, or it holds a block that GRUB could not write.
pub fn create(path: &Path) -> Result<()> {
    let inside = || format!("cannot make {}", path.display());
    match open(path, true) {
        Ok(file) if read_from(&file).is_ok() => {
            return check_writable(&file).with_context(inside);
        }
        Ok(_) => std::fs::remove_file(path).with_context(inside)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(inside),
    }
    let dir = path.parent().context("a path without a directory")?;
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(inside);
        }
        _ => {}
    }
    let file = File::create_new(path).with_context(inside)?;
    file.write_all_at(&EnvBlock::new(FILE_SIZE).render(), 0)
        .and_then(|()| file.sync_all())
        .with_context(inside)?;
    for dir in [Some(dir), dir.parent()].into_iter().flatten() {
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .with_context(inside)?;
    }
    check_writable(&file).with_context(inside)
}

/// Reads the block, from the disk: what GRUB has written before this system was resumed from hibernation is not in
/// its cache.
///
/// # Errors
/// The file cannot be read or holds no block.
pub fn read(path: &Path) -> Result<EnvBlock> {
    open(path, false)
        .map_err(anyhow::Error::from)
        .and_then(|file| read_from(&file))
        .with_context(|| format!("cannot read {}", path.display()))
}

/// Changes the block where it is, if `change` does change it; it is on the disk when this returns.
///
/// # Errors
/// `change` fails, the file holds no block, or GRUB could not write it; then nothing is changed.
pub fn update(path: &Path, change: impl FnOnce(&mut EnvBlock) -> Result<()>) -> Result<()> {
    let inside = || format!("cannot change {}", path.display());
    let file = open(path, true).with_context(inside)?;
    let before = read_from(&file).with_context(inside)?;
    check_writable(&file).with_context(inside)?;
    let mut after = before.clone();
    change(&mut after)?;
    if after != before {
        file.write_all_at(&after.render(), 0)
            .and_then(|()| file.sync_data())
            .with_context(inside)?;
    }
    Ok(())
}

fn open(path: &Path, write: bool) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

fn read_from(file: &File) -> Result<EnvBlock> {
    let meta = file.metadata()?;
    ensure!(meta.is_file(), "it is not a file");
    ensure!(
        meta.len() <= LARGEST,
        "it has {} bytes, too many for a GRUB environment block",
        meta.len()
    );
    // Only a hint, and only for what is not dirty: a read from the cache is the worst that follows.
    let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
    let mut bytes = vec![0; usize::try_from(meta.len())?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(EnvBlock::parse(&bytes)?)
}

/// Whether the bytes of the file are on the disk as they are, as far as the kernel tells.
fn check_writable(file: &File) -> Result<()> {
    let length = file.metadata()?.len();
    if rustix::fs::seek(file, SeekFrom::Hole(0))? != length {
        bail!("it has a hole, and GRUB does not write sparse files");
    }
    let attributes =
        rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?.stx_attributes;
    for (bad, says) in [
        (StatxAttributes::COMPRESSED, "compressed"),
        (StatxAttributes::ENCRYPTED, "encrypted"),
        (StatxAttributes::IMMUTABLE, "immutable (chattr +i)"),
        (StatxAttributes::APPEND, "append-only (chattr +a)"),
        (StatxAttributes::VERITY, "protected by fs-verity"),
    ] {
        ensure!(!attributes.contains(bad), "it is {says}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn is_made_once_and_changed_in_place() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("be/block");
        assert!(read(&path).is_err());
        assert!(create(&dir.path().join("no/such/block")).is_err());
        create(&path).expect("made");
        let inode = fs::metadata(&path).expect("made").ino();
        assert_eq!(read(&path).expect("a block"), EnvBlock::new(FILE_SIZE));
        update(&path, |block| Ok(block.set("be_once", "new")?)).expect("changed");
        create(&path).expect("is there");
        let block = read(&path).expect("a block");
        assert_eq!(block.get("be_once").as_deref(), Some("new"));
        let meta = fs::metadata(&path).expect("there");
        assert_eq!((meta.ino(), meta.len()), (inode, 1024));
        let failed = update(&path, |block| {
            block.unset("be_once");
            bail!("no")
        });
        assert!(failed.is_err());
        assert_eq!(read(&path).expect("a block"), block);
    }

    #[test]
    fn what_grub_could_not_write_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("block");
        // 64 KiB of padding, with a hole where a file system knows holes.
        let text = [super::super::SIGNATURE, b"a=b\n"].concat();
        fs::write(&path, &text).expect("written");
        File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(LARGEST))
            .expect("a hole");
        assert!(update(&path, |_| Ok(())).is_err());
        create(&path).expect("made anew");
        assert_eq!(fs::metadata(&path).expect("there").len(), 1024);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("a link");
        assert!(read(&link).is_err() && create(&link).is_err());
        assert!(read(dir.path()).is_err());
    }
}
