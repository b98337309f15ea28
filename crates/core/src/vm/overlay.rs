//! A disk as the guest sees it: what is on the real one, what was copied of it, and what the
//! guest has written. The real one is open for reading alone.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use be_btrfs::frozen::{Device, Piece};
use rustix::fs::{CWD, Mode, OFlags, fstatvfs, openat};

use crate::name::EnvName;

/// What is looked up, in bytes.
const BLOCK: u64 = 4096;

/// Where copies lie: a file without a name, which is gone with the process.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) file: File,
    end: AtomicU64,
    /// Bytes that it may have: half of what was free where it lies.
    pub(super) limit: u64,
    place: PathBuf,
    /// What is tested.
    name: EnvName,
    /// What went wrong first.
    trouble: OnceLock<String>,
}

impl Scratch {
    /// Make it in this directory, for the test of this environment.
    ///
    /// # Errors
    /// When no file can be made there.
    pub(super) fn new(dir: &Path, name: &EnvName) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file = File::from(openat(CWD, dir, flags, Mode::RUSR | Mode::WUSR)?);
        let there = fstatvfs(&file)?;
        Ok(Self {
            file,
            end: AtomicU64::new(0),
            limit: there.f_bavail.saturating_mul(there.f_frsize) / 2,
            place: dir.to_owned(),
            name: name.clone(),
            trouble: OnceLock::new(),
        })
    }

    /// What lies before this is taken.
    pub(super) fn set_end(&self, end: u64) {
        self.end.store(end, Ordering::Relaxed);
    }

    fn take(&self) -> io::Result<u64> {
        let at = self.end.fetch_add(BLOCK, Ordering::Relaxed);
        match at + BLOCK > self.limit {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(at),
        }
    }

    /// What went wrong first with it or with a disk; the guest saw an error then.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.get().map(String::as_str)
    }

    /// Why it cannot be used, and what to do.
    pub(super) fn why(&self, e: &io::Error) -> String {
        let (place, name) = (self.place.display(), &self.name);
        let why = match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                format!("there is no room in {place}, of which half may be filled")
            }
            _ => format!("the file in {place} cannot be used ({e})"),
        };
        format!("{why}: TMPDIR=DIR be test {name}")
    }

    fn note<T>(&self, done: io::Result<T>) -> io::Result<T> {
        done.inspect_err(|e| {
            // Only the first one counts.
            let _known = self.trouble.set(self.why(e));
        })
    }
}

/// One disk.
#[derive(Debug)]
pub(super) struct Overlay<'a> {
    disk: Device,
    node: PathBuf,
    pub(super) size: u64,
    scratch: &'a Scratch,
    /// Where the copy of a block is.
    blocks: HashMap<u64, u64>,
    /// Copies from here on are this guest's, and not shared with another block.
    own: u64,
}

impl<'a> Overlay<'a> {
    /// The disk at this node, unchanged.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn new(node: &Path, scratch: &'a Scratch) -> io::Result<Self> {
        let disk = Device::open(node)?;
        Ok(Self {
            size: disk.size()?,
            disk,
            node: node.to_owned(),
            scratch,
            blocks: HashMap::new(),
            own: scratch.end.load(Ordering::Relaxed),
        })
    }

    /// Show this copy; `start` is where on the disk the device begins that it is of.
    pub(super) fn put(&mut self, piece: &Piece, start: u64) {
        for offset in (0..piece.length).step_by(BLOCK as usize) {
            let block = (start + piece.at + offset) / BLOCK;
            self.blocks.insert(block, piece.copy + offset);
        }
    }

    /// Some bytes, at any place.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(super) fn read(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let (first, end) = (at / BLOCK, (at + length as u64).div_ceil(BLOCK));
        let mut bytes = Vec::with_capacity(((end - first) * BLOCK) as usize);
        let mut block = first;
        while block < end {
            let here = self.blocks.get(&block).copied();
            let mut next = block + 1;
            // As far as it goes on in one piece.
            while next < end {
                let follows = match (here, self.blocks.get(&next)) {
                    (None, None) => true,
                    (Some(copy), Some(there)) => *there == copy + (next - block) * BLOCK,
                    _ => false,
                };
                if !follows {
                    break;
                }
                next += 1;
            }
            let length = ((next - block) * BLOCK) as usize;
            match here {
                None => bytes.extend(self.on_disk(block * BLOCK, length)?),
                Some(copy) => {
                    let start = bytes.len();
                    bytes.resize(start + length, 0);
                    let read = self.scratch.file.read_exact_at(&mut bytes[start..], copy);
                    self.scratch.note(read)?;
                }
            }
            block = next;
        }
        bytes.drain(..(at - first * BLOCK) as usize);
        bytes.truncate(length);
        Ok(bytes)
    }

    fn on_disk(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        self.disk.read(at, length).inspect_err(|e| {
            let why = format!("{} cannot be read: {e}", self.node.display());
            let _known = self.scratch.trouble.set(why);
        })
    }

    /// Write some bytes, at any place.
    ///
    /// # Errors
    /// When there is no room.
    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let here = at + done as u64;
            let (block, within) = (here / BLOCK, (here % BLOCK) as usize);
            let part = &bytes[done..bytes.len().min(done + BLOCK as usize - within)];
            let whole = match part.len() as u64 == BLOCK {
                true => part.to_vec(),
                false => {
                    let mut whole = self.read(block * BLOCK, BLOCK as usize)?;
                    whole[within..within + part.len()].copy_from_slice(part);
                    whole
                }
            };
            let own = self.blocks.get(&block).filter(|copy| **copy >= self.own);
            let own = own.copied().map(Ok);
            let copy = own.unwrap_or_else(|| self.scratch.note(self.scratch.take()))?;
            let written = self.scratch.file.write_all_at(&whole, copy);
            self.scratch.note(written)?;
            self.blocks.insert(block, copy);
            done += part.len();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_stays_and_the_guest_sees_what_it_wrote() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("disk");
        let real: Vec<u8> = (0..5 * BLOCK).map(|at| (at / 512) as u8).collect();
        std::fs::write(&path, &real).unwrap();
        let name = EnvName::parse("new").unwrap();
        let scratch = Scratch::new(dir.path(), &name).unwrap();
        scratch.file.write_all_at(&[0xaa; 8192], 0).unwrap();
        scratch.set_end(8192);
        let mut overlay = Overlay::new(&path, &scratch).unwrap();
        // Two places with one copy, as in two mirrors.
        for at in [BLOCK, 3 * BLOCK] {
            let (device, length, copy) = (0, BLOCK, 4096);
            overlay.put(
                &Piece {
                    device,
                    at,
                    length,
                    copy,
                },
                0,
            );
        }
        assert_eq!(overlay.size, 5 * BLOCK);
        assert_eq!(overlay.read(512, 1024).unwrap(), real[512..1536]);
        assert_eq!(overlay.read(BLOCK - 1, 2).unwrap(), [7, 0xaa]);

        overlay.write(BLOCK + 10, &[1; 4100]).unwrap();
        let seen = overlay.read(0, 5 * BLOCK as usize).unwrap();
        assert_eq!(seen[4096..4106], [0xaa; 10]);
        assert_eq!(seen[4106..8206], [1; 4100]);
        assert_eq!(seen[8206..12288], real[8206..12288]);
        assert_eq!(seen[12288..16384], [0xaa; 4096], "the other mirror");
        assert_eq!(seen[16384..], real[16384..]);
        overlay.write(BLOCK, &[2; 1]).unwrap();
        assert_eq!(overlay.read(BLOCK, 2).unwrap(), [2, 0xaa]);
        assert_eq!(std::fs::read(&path).unwrap(), real);
    }

    #[test]
    fn no_room_is_an_error_that_is_kept() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, [0; 4 * BLOCK as usize]).unwrap();
        let name = EnvName::parse("new").unwrap();
        let mut scratch = Scratch::new(dir.path(), &name).unwrap();
        assert!(scratch.limit > 0);
        scratch.limit = BLOCK + 100;
        let mut overlay = Overlay::new(&path, &scratch).unwrap();
        overlay.write(0, &[1; 100]).unwrap();
        assert_eq!(scratch.trouble(), None);
        let failed = overlay.write(BLOCK, &[1; 100]).unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::StorageFull);
        let said = scratch.trouble().unwrap();
        assert!(said.contains("no room in /var/tmp"), "{said}");
        assert!(said.ends_with("TMPDIR=DIR be test new"), "{said}");
        // What is there may be written anew, and what failed first stays.
        overlay.write(0, &[2; 100]).unwrap();
        let _fails = overlay.read(4 * BLOCK, 1);
        assert!(scratch.trouble().unwrap().contains("no room"));
    }
}
