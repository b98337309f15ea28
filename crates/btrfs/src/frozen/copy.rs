//! Copying the trees: level by level, so that each level is read in the order of the device.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::chunks::{CHUNK_ITEM, Chunks, Place};
use super::node::{Pointer, children, items};
use super::superblock::{self, Superblock};
use super::{Device, Frozen, NotFrozen, Piece, Wanted};
use crate::tree::{ROOT_ITEM, le32, le64};
use crate::{TOP_LEVEL_ID, TopLevel};

/// Threads that read, and blocks that are read at a time.
const READERS: usize = 8;
const BATCH: usize = 1024;
/// What the cleaner gets to delete a subvolume before it is looked again.
const PAUSE: Duration = Duration::from_millis(200);
/// How long the cleaner gets for all of them.
const CLEANING: Duration = Duration::from_secs(20);

/// Subvolumes beside the top level (`BTRFS_FIRST_FREE_OBJECTID`, `BTRFS_LAST_FREE_OBJECTID`).
const SUBVOLUMES: std::ops::RangeInclusive<u64> = 256..=-256i64 as u64;
/// `BTRFS_TREE_RELOC_OBJECTID`: block groups are being moved.
const RELOCATION: u64 = -8i64 as u64;

/// Copies the trees of one filesystem.
pub struct Copier<'a> {
    top: &'a TopLevel,
    paths: &'a [PathBuf],
    devices: Vec<Device>,
    /// Where copies go, and where the next one does.
    copies: &'a File,
    end: u64,
    /// Copies by address and generation.
    known: HashMap<(u64, u64), u64>,
    /// No copy may reach beyond this byte.
    limit: u64,
    stop: &'a (dyn Fn() -> bool + Sync),
}

/// One attempt.
struct Round {
    superblock: Superblock,
    /// By the ids of btrfs.
    devices: HashMap<u64, usize>,
    chunks: Chunks,
    /// Blocks, and from which generation on what is below them was looked at.
    seen: HashMap<u64, u64>,
    /// Addresses with their copies.
    blocks: Vec<(u64, u64)>,
}

/// A block with the generation above which what is below it is wanted.
type Next = (Pointer, u64);

/// What ends a round.
enum Ended {
    /// The filesystem has gone on.
    Changed,
    /// A deleted subvolume is still there.
    Dropping,
    Failed(NotFrozen),
}

impl From<NotFrozen> for Ended {
    fn from(why: NotFrozen) -> Self {
        Self::Failed(why)
    }
}

impl<'a> Copier<'a> {
    /// For the filesystem on these devices, all of its. Copies are appended to `copies`
    /// from the byte `end` on. When `stop` says so it ends.
    ///
    /// # Errors
    /// A device cannot be opened.
    pub fn new(
        top: &'a TopLevel,
        paths: &'a [PathBuf],
        copies: &'a File,
        end: u64,
        stop: &'a (dyn Fn() -> bool + Sync),
    ) -> Result<Self, NotFrozen> {
        let open =
            |path: &PathBuf| Device::open(path).map_err(|e| NotFrozen::Device(path.clone(), e));
        Ok(Self {
            top,
            paths,
            devices: paths.iter().map(open).collect::<Result<_, _>>()?,
            copies,
            end,
            known: HashMap::new(),
            limit: u64::MAX,
            stop,
        })
    }

    /// Copies may lie before this byte only.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Where the next copy would go.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Commit, and copy the trees of that moment or of a later one.
    ///
    /// # Errors
    /// See [`NotFrozen`]; [`NotFrozen::Changing`] after `limit`, [`NotFrozen::Dropping`] after 20 s
    /// at most.
    pub fn copy(&mut self, wanted: &Wanted, limit: Duration) -> Result<Frozen, NotFrozen> {
        let start = Instant::now();
        let mut dropping = None;
        for rounds in 1.. {
            // What cannot be committed is found out by whoever writes.
            let _read_only = self.top.sync();
            match self.round(wanted) {
                Ok(round) => return self.frozen(round, rounds),
                Err(Ended::Failed(why)) => return Err(why),
                Err(Ended::Dropping) => {
                    let since = *dropping.get_or_insert_with(Instant::now);
                    if since.elapsed() > CLEANING.min(limit) {
                        return Err(NotFrozen::Dropping);
                    }
                    // Who mounts it would go on deleting what is deleted here meanwhile.
                    std::thread::sleep(PAUSE);
                }
                Err(Ended::Changed) if start.elapsed() > limit => break,
                Err(Ended::Changed) => {}
            }
        }
        Err(NotFrozen::Changing)
    }

    fn round(&mut self, wanted: &Wanted) -> Result<(Round, Vec<Vec<u8>>), Ended> {
        let superblocks = self.superblocks()?;
        let without_log = superblocks.iter().map(Superblock::without_log);
        let without_log = without_log.collect::<Option<_>>().ok_or(Ended::Changed)?;
        let first = superblocks[0].clone();
        let ids = superblocks.iter().enumerate().map(|(at, s)| (s.devid, at));
        let mut round = Round {
            chunks: Chunks::of_superblock(first.chunks()),
            devices: ids.collect(),
            seen: HashMap::new(),
            blocks: Vec::new(),
            superblock: first,
        };
        let mut chunks = round.chunks.clone();
        let (chunk_root, root_root) = (round.superblock.chunk_root, round.superblock.root);
        self.walk(&mut round, vec![(chunk_root, 0)], |leaf| {
            for ((_, kind, at), chunk) in items(leaf) {
                if kind == CHUNK_ITEM {
                    chunks.add(at, chunk);
                }
            }
        })?;
        round.chunks = chunks;
        let mut roots = Vec::new();
        let (mut relocating, mut dropping) = (false, false);
        self.walk(&mut round, vec![(root_root, 0)], |leaf| {
            for ((id, kind, _), item) in items(leaf) {
                relocating |= id == RELOCATION;
                if kind == ROOT_ITEM {
                    dropping |= SUBVOLUMES.contains(&id) && le32(item, 216) == Some(0);
                    roots.extend(root(id, item, wanted));
                }
            }
        })?;
        if relocating {
            return Err(NotFrozen::Unknown("a balance is at work on it").into());
        }
        if dropping {
            return Err(Ended::Dropping);
        }
        self.walk(&mut round, roots, |_| {})?;
        Ok((round, without_log))
    }

    /// Those of all devices, of one commit.
    fn superblocks(&self) -> Result<Vec<Superblock>, Ended> {
        let mut found: Vec<Superblock> = Vec::new();
        for (device, path) in self.devices.iter().zip(self.paths) {
            let bytes = device
                .read(superblock::AT, superblock::SIZE)
                .map_err(|e| NotFrozen::Device(path.clone(), e))?;
            found.push(Superblock::parse(&bytes)?.ok_or(Ended::Changed)?);
        }
        let first = found
            .first()
            .ok_or(NotFrozen::Unknown("it has no device"))?;
        if first.devices != found.len() as u64 {
            return Err(NotFrozen::Unknown("one of its devices is missing").into());
        }
        match found.iter().all(|s| s.generation == first.generation) {
            true => Ok(found),
            false => Err(Ended::Changed),
        }
    }

    /// Copy what is below these blocks and they themselves; `leaf` is shown every leaf.
    fn walk(
        &mut self,
        round: &mut Round,
        start: Vec<Next>,
        mut leaf: impl FnMut(&[u8]),
    ) -> Result<(), Ended> {
        let mut level = start;
        while !level.is_empty() {
            level.sort_by_key(|(pointer, since)| (pointer.block, *since));
            level.retain(|(pointer, since)| {
                let before = round.seen.insert(pointer.block, *since);
                before.is_none_or(|before| {
                    let less = before.min(*since);
                    round.seen.insert(pointer.block, less);
                    *since < before
                })
            });
            let mut below = Vec::new();
            for batch in level.chunks(BATCH) {
                if (self.stop)() {
                    return Err(NotFrozen::Interrupted.into());
                }
                for ((pointer, since), bytes) in batch.iter().zip(self.fetch(round, batch)?) {
                    match pointer.level {
                        0 => leaf(&bytes),
                        _ => below.extend(
                            children(&bytes)
                                .into_iter()
                                .filter(|child| child.generation > *since)
                                .map(|child| (child, *since)),
                        ),
                    }
                }
            }
            level = below;
        }
        Ok(())
    }

    /// Copy these blocks, where that is not done; their bytes.
    fn fetch(&mut self, round: &mut Round, batch: &[Next]) -> Result<Vec<Vec<u8>>, Ended> {
        let mut wanted = Vec::new();
        for (pointer, _) in batch {
            let known = self.known.get(&(pointer.block, pointer.generation));
            let places = round.chunks.places(pointer.block)?;
            wanted.push((*pointer, places, known.copied()));
        }
        let share = wanted.len().div_ceil(READERS).max(1);
        let read = std::thread::scope(|scope| {
            let this = &*self;
            let round = &*round;
            let readers: Vec<_> = wanted
                .chunks(share)
                .map(|part| {
                    scope.spawn(move || {
                        let read = part
                            .iter()
                            .map(|(p, at, known)| this.read(round, p, at, *known));
                        read.collect::<Result<Vec<_>, NotFrozen>>()
                    })
                })
                .collect();
            let parts = readers.into_iter().map(|reader| reader.join());
            let parts = parts.map(|part| part.unwrap_or(Err(NotFrozen::Interrupted)));
            parts.collect::<Result<Vec<_>, NotFrozen>>()
        })?;
        let read: Vec<Option<Vec<u8>>> = read.into_iter().flatten().collect();
        let missing = read.iter().position(Option::is_none);
        // Without a checksum a block is proven by the commit that is still the last one: no
        // block of it is written anew before the next but one.
        if (missing.is_some() || !round.superblock.crc32c)
            && self.superblocks()?[0].generation != round.superblock.generation
        {
            return Err(Ended::Changed);
        }
        if let Some(at) = missing {
            return Err(NotFrozen::Damaged(wanted[at].0.block).into());
        }
        let mut blocks = Vec::with_capacity(read.len());
        for ((pointer, _, known), bytes) in wanted.into_iter().zip(read.into_iter().flatten()) {
            let copy = match known {
                Some(copy) => copy,
                None => {
                    let copy = self.append(&bytes)?;
                    self.known.insert((pointer.block, pointer.generation), copy);
                    copy
                }
            };
            round.blocks.push((pointer.block, copy));
            blocks.push(bytes);
        }
        Ok(blocks)
    }

    /// One block, from its copy or from the first place where it is as it should be.
    fn read(
        &self,
        round: &Round,
        pointer: &Pointer,
        places: &[Place],
        known: Option<u64>,
    ) -> Result<Option<Vec<u8>>, NotFrozen> {
        if let Some(copy) = known {
            let mut bytes = vec![0; round.superblock.node];
            self.copies
                .read_exact_at(&mut bytes, copy)
                .map_err(NotFrozen::Copies)?;
            return Ok(Some(bytes));
        }
        for (id, at) in places {
            let Some(&device) = round.devices.get(id) else {
                continue;
            };
            let bytes = self.devices[device]
                .read(*at, round.superblock.node)
                .map_err(|e| NotFrozen::Device(self.paths[device].clone(), e))?;
            if pointer.is(&bytes, &round.superblock) {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<u64, NotFrozen> {
        let at = self.end;
        if at + bytes.len() as u64 > self.limit {
            return Err(NotFrozen::Copies(io::ErrorKind::StorageFull.into()));
        }
        self.copies
            .write_all_at(bytes, at)
            .map_err(NotFrozen::Copies)?;
        self.end += bytes.len() as u64;
        Ok(at)
    }

    fn frozen(
        &mut self,
        (round, superblocks): (Round, Vec<Vec<u8>>),
        rounds: u32,
    ) -> Result<Frozen, NotFrozen> {
        let length = round.superblock.node as u64;
        let mut pieces = Vec::new();
        for (block, copy) in &round.blocks {
            for (id, at) in round.chunks.places(*block)? {
                if let Some(&device) = round.devices.get(&id) {
                    pieces.push(Piece {
                        device,
                        at,
                        length,
                        copy: *copy,
                    });
                }
            }
        }
        for (device, bytes) in superblocks.iter().enumerate() {
            pieces.push(Piece {
                device,
                at: superblock::AT,
                length: superblock::SIZE as u64,
                copy: self.append(bytes)?,
            });
        }
        Ok(Frozen {
            generation: round.superblock.generation,
            pieces,
            bytes: self.known.len() as u64 * length,
            rounds,
        })
    }
}

/// The tree of a `struct btrfs_root_item`, if it is to be copied.
fn root(id: u64, item: &[u8], wanted: &Wanted) -> Option<Next> {
    let of_files = id == TOP_LEVEL_ID || SUBVOLUMES.contains(&id);
    let since = match of_files {
        true => *wanted.get(&id)?,
        false => 0,
    };
    let pointer = Pointer::new(le64(item, 176)?, le64(item, 160)?, *item.get(238)?);
    Some((pointer, since))
}
