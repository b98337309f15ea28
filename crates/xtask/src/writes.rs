//! The writes of a machine's disk in the order in which it did them, and the disk as
//! it was after any of them.
//!
//! QEMU's driver `blklogwrites` records them in the format of Linux's dm-log-writes
//! (drivers/md/dm-log-writes.c, `struct log_write_super` and `log_write_entry`; QEMU:
//! block/blklogwrites.c). All numbers are little-endian. The first sector holds what is
//! counted, then each entry takes one sector, its data the sectors after it. QEMU records a
//! request when the disk has done it, and before the guest hears of that.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// Bytes of a sector of the disk and of the log; QEMU is told so.
pub const SECTOR: u64 = 512;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;

/// What the disk did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It wrote, to its cache at least.
    Write,
    /// It emptied its cache: what it had written before is safe.
    Flush,
    /// The content does not matter any more.
    Discard,
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What was asked for.
    pub kind: Kind,
    /// The first sector on the disk.
    pub sector: u64,
    /// How many sectors.
    pub sectors: u64,
    /// Where in the log the data lies, in bytes.
    data: u64,
}

impl Entry {
    fn bytes(&self) -> Result<usize> {
        Ok(usize::try_from(self.sectors * SECTOR)?)
    }
}

/// A log. It has what was counted by the last flush: nothing that came later.
#[derive(Debug)]
pub struct Log {
    file: File,
    entries: Vec<Entry>,
}

impl Log {
    /// Reads a log whose machine has ended.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Self> {
        let open = || -> Result<Self> {
            let file = File::open(path)?;
            let entries = entries(&file)?;
            Ok(Self { file, entries })
        };
        open().with_context(|| format!("read the log of writes {}", path.display()))
    }

    /// The requests, in order.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What a request wrote; zeroes for a discard, which nobody may rely on.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn data(&self, entry: &Entry) -> Result<Vec<u8>> {
        let mut data = vec![0; entry.bytes()?];
        if entry.kind == Kind::Write {
            self.file.read_exact_at(&mut data, entry.data)?;
        }
        Ok(data)
    }
}

fn entries(file: &File) -> Result<Vec<Entry>> {
    let head = words(file, 0)?;
    ensure!(head[0] == MAGIC, "its magic number is {:#x}", head[0]);
    ensure!(head[1] == VERSION, "its version is {}", head[1]);
    let sector = head[3] & u64::from(u32::MAX);
    ensure!(sector == SECTOR, "its sectors have {sector} bytes");
    let mut at = SECTOR;
    let mut entries = Vec::new();
    for number in 0..head[2] {
        let entry = entry(file, at).with_context(|| format!("request {number}"))?;
        at = entry.data;
        if entry.kind == Kind::Write {
            at += entry.sectors * SECTOR;
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn entry(file: &File, at: u64) -> Result<Entry> {
    let [sector, sectors, flags, _] = words(file, at)?;
    let kind = match flags {
        0 if sectors > 0 => Kind::Write,
        FLUSH if sectors == 0 => Kind::Flush,
        DISCARD if sectors > 0 => Kind::Discard,
        // A disk that can do so would make one write safe and no other; virtio cannot.
        _ if flags & (FUA | MARK) != 0 => bail!("not a request of a virtio disk: {flags:#x}"),
        _ => bail!("{sectors} sectors with the flags {flags:#x}"),
    };
    Ok(Entry {
        kind,
        sector,
        sectors,
        data: at + SECTOR,
    })
}

fn words(file: &File, at: u64) -> Result<[u64; 4]> {
    let mut bytes = [0; 32];
    file.read_exact_at(&mut bytes, at)?;
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into()?);
    }
    Ok(words)
}

/// A copy of a disk, as it was before the log began, to which the log is done again.
#[derive(Debug)]
pub struct Replay<'a> {
    log: &'a Log,
    path: PathBuf,
    image: File,
    next: usize,
}

impl<'a> Replay<'a> {
    /// Begins before the first request.
    ///
    /// # Errors
    /// The image cannot be opened.
    pub fn new(log: &'a Log, image: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).open(image);
        Ok(Self {
            log,
            path: image.to_owned(),
            image: file.with_context(|| format!("open {}", image.display()))?,
            next: 0,
        })
    }

    /// The image.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Goes on until so many requests are done; says whether that changed anything.
    ///
    /// # Errors
    /// It is further already; the log cannot be read, or the image not written.
    pub fn to(&mut self, count: usize) -> Result<bool> {
        ensure!(self.next <= count, "{} are done, not {count}", self.next);
        let mut changed = false;
        for index in self.next..count {
            changed |= self.write(index)?.is_some();
        }
        self.next = count;
        Ok(changed)
    }

    /// Looks at the image as it is with these later requests done as well, and no other;
    /// None if they change nothing.
    ///
    /// # Errors
    /// As for [`Replay::to`], and those of the look.
    pub fn with<T>(
        &mut self,
        also: &[usize],
        look: impl FnOnce(&Path) -> Result<T>,
    ) -> Result<Option<T>> {
        let mut undo = Vec::new();
        for index in also {
            undo.extend(self.write(*index)?);
        }
        let seen = match undo.is_empty() {
            true => None,
            false => Some(look(&self.path)),
        };
        for (at, old) in undo.iter().rev() {
            self.image.write_all_at(old, *at)?;
        }
        seen.transpose()
    }

    /// Gives what was there before, and where, if that was something else.
    fn write(&self, index: usize) -> Result<Option<(u64, Vec<u8>)>> {
        let entry = self.log.entries.get(index).context("no such request")?;
        let (at, new) = (entry.sector * SECTOR, self.log.data(entry)?);
        let mut old = vec![0; new.len()];
        self.image.read_exact_at(&mut old, at)?;
        if old == new {
            return Ok(None);
        }
        self.image.write_all_at(&new, at)?;
        Ok(Some((at, old)))
    }
}

/// What lies between two flushes of a log: a disk may have done any of its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// So many requests are done and safe.
    pub safe: usize,
    /// These may be done or not.
    pub open: Range<usize>,
}

/// The gaps that a part of a log goes through, from the one that it begins in.
#[must_use]
pub fn gaps(entries: &[Entry], part: Range<usize>) -> Vec<Gap> {
    let is_flush = |index: &usize| entries[*index].kind == Kind::Flush;
    let start = (0..part.start).rev().find(is_flush);
    let mut safe = start.map_or(0, |flush| flush + 1);
    let mut gaps = Vec::new();
    loop {
        let end = (safe..part.end).find(is_flush);
        gaps.push(Gap {
            safe,
            open: safe..end.unwrap_or(part.end),
        });
        match end {
            Some(flush) => safe = flush + 1,
            None => return gaps,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Bytes as QEMU writes them.
    #[derive(Default)]
    struct Bytes(Vec<u8>, u64);

    impl Bytes {
        fn sector(&mut self, words: [u64; 4]) {
            let start = self.0.len();
            self.0.extend(words.iter().flat_map(|w| w.to_le_bytes()));
            self.0.resize(start + SECTOR as usize, 0);
        }

        fn entry(&mut self, sector: u64, flags: u64, data: &[u8]) -> &mut Self {
            let sectors = data.len() as u64 / SECTOR;
            self.sector([sector, sectors, flags, 0]);
            if flags & DISCARD == 0 {
                self.0.extend(data);
            }
            self.1 += 1;
            self
        }

        fn log(&self, dir: &Path) -> Result<Log> {
            let mut all = Bytes::default();
            all.sector([MAGIC, VERSION, self.1, SECTOR]);
            all.0.extend(&self.0);
            let path = dir.join("log");
            fs::write(&path, all.0)?;
            Log::read(&path)
        }
    }

    fn filled(byte: u8, sectors: u64) -> Vec<u8> {
        vec![byte; (sectors * SECTOR) as usize]
    }

    /// One byte for each sector of the image.
    fn content(image: &Path) -> Vec<u8> {
        let bytes = fs::read(image).unwrap();
        let sectors = bytes.chunks_exact(SECTOR as usize);
        sectors.map(|sector| sector[0]).collect()
    }

    #[test]
    fn requests_are_read_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let log = Bytes::default()
            .entry(3, 0, &filled(7, 2))
            .entry(0, FLUSH, &[])
            .entry(1, DISCARD, &filled(0, 1))
            .entry(1, 0, &filled(9, 1))
            .log(dir.path())
            .unwrap();
        let found: Vec<_> = log.entries().iter().map(|e| (e.kind, e.sector)).collect();
        let expected = [
            (Kind::Write, 3),
            (Kind::Flush, 0),
            (Kind::Discard, 1),
            (Kind::Write, 1),
        ];
        assert_eq!(found, expected);
        assert_eq!(log.data(&log.entries()[0]).unwrap(), filled(7, 2));
        assert_eq!(log.data(&log.entries()[2]).unwrap(), filled(0, 1));
        assert_eq!(log.data(&log.entries()[3]).unwrap(), filled(9, 1));
    }

    #[test]
    fn what_is_no_log_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, filled(0, 1)).unwrap();
        assert!(Log::read(&path).is_err());
        fs::write(&path, "").unwrap();
        assert!(Log::read(&path).is_err());
        for flags in [FUA, FLUSH | FUA, MARK, 1 << 9] {
            let log = Bytes::default()
                .entry(0, flags, &filled(0, 1))
                .log(dir.path());
            assert!(log.is_err(), "{flags:#x}");
        }
        let mut short = Bytes::default();
        short.entry(0, 0, &filled(0, 1)).1 += 1;
        assert!(short.log(dir.path()).is_err());
    }

    #[test]
    fn the_disk_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let log = Bytes::default()
            .entry(0, 0, &filled(1, 2))
            .entry(0, FLUSH, &[])
            .entry(1, 0, &filled(2, 2))
            .entry(2, 0, &filled(3, 1))
            .entry(2, 0, &filled(3, 1))
            .log(dir.path())
            .unwrap();
        let image = dir.path().join("image");
        fs::write(&image, filled(0, 4)).unwrap();
        let mut replay = Replay::new(&log, &image).unwrap();
        assert!(replay.to(2).unwrap());
        assert_eq!(content(&image), [1, 1, 0, 0]);
        let look = |path: &Path| Ok(content(path));
        let mut with = |also: &[usize]| replay.with(also, look).unwrap();
        assert_eq!(with(&[2]), Some(vec![1, 2, 2, 0]));
        assert_eq!(with(&[3]), Some(vec![1, 1, 3, 0]));
        assert_eq!(with(&[2, 3, 4]), Some(vec![1, 2, 3, 0]));
        assert_eq!(with(&[]), None);
        assert_eq!(content(&image), [1, 1, 0, 0]);
        assert!(replay.to(4).unwrap());
        assert_eq!(content(&image), [1, 2, 3, 0]);
        assert!(!replay.to(5).unwrap());
        assert!(replay.to(4).is_err());
    }

    #[test]
    fn gaps_end_at_flushes() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = Bytes::default();
        for flags in [0, FLUSH, 0, 0, FLUSH, FLUSH, 0] {
            let data = filled(1, u64::from(flags == 0));
            bytes.entry(0, flags, &data);
        }
        let log = bytes.log(dir.path()).unwrap();
        let found = |part| -> Vec<_> {
            let gaps = gaps(log.entries(), part);
            gaps.into_iter().map(|gap| (gap.safe, gap.open)).collect()
        };
        assert_eq!(found(3..7), [(2, 2..4), (5, 5..5), (6, 6..7)]);
        assert_eq!(found(0..1), [(0, 0..1)]);
        assert_eq!(found(1..2), [(0, 0..1), (2, 2..2)]);
    }
}
