//! What would be free if a set of subvolumes were deleted, without quotas.
//!
//! A data extent is exclusive to a set if every file extent item that refers to
//! it is in a subvolume of the set. Whose they are is found in three steps:
//!
//! 1. The file extents of all subvolumes that can share blocks with one of a
//!    set: of one of each lineage all of them, of each other one only the
//!    difference from a relative (`lineage`, `delta`). The cost is that of the
//!    changes, but for the one that is read in full.
//! 2. For every extent that is in a difference, the subvolumes that have it.
//!    One that is in no difference is in all of a lineage.
//! 3. Of those that only one set has, the references in the extent tree: they
//!    name every other lineage that has a reflink (`refs`).

mod delta;
mod lineage;
mod refs;

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::Context;
use crate::info::ROOT_INODE;
use crate::ioctl::{Range, Searcher};
use crate::tree::le64;
use crate::{Result, TopLevel, Tree};

use delta::{Extent, Reader};
pub use lineage::Gone;
use lineage::Step;
use refs::Backrefs;

/// How often it is tried again if a subvolume is deleted meanwhile.
const ATTEMPTS: usize = 8;

/// The file data of a set of subvolumes, in bytes; that of files that are small
/// enough to lie in the metadata is not counted, as nobody counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// What the files of each of its subvolumes consist of, summed up: without
    /// holes, before compression, reflinked as often as it occurs. Of one
    /// subvolume the column "Total" of `btrfs filesystem du -s`.
    pub referenced: u64,
    /// What only the set has, each byte once: before compression, and without
    /// what of an extent no file uses any more.
    pub exclusive: u64,
    /// What the extents of `exclusive` take on the disk, in one copy: after
    /// compression, and with what no file uses.
    pub disk: u64,
}

impl TopLevel {
    /// What would be free if the subvolumes of a set were deleted, for each of
    /// these sets of ids; a subvolume may be in several, and one that is not
    /// there counts as nothing.
    ///
    /// As of the last commit: what was written since may be missing
    /// ([`TopLevel::sync`] first for exact numbers). What only a subvolume that
    /// is just being deleted still has besides may or may not be counted until
    /// that is done. `gone` names snapshots that are not there any more, as far
    /// as known; it has to be true and makes it faster.
    pub fn usage(&self, sets: &[Vec<u64>], gone: &[Gone]) -> Result<Vec<Usage>> {
        let mut attempt = 1;
        loop {
            let tree = self.tree()?;
            match usage(self.fd(), &tree, sets, gone) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS => attempt += 1,
                done => return done.on("read the space of", self.device()),
            }
        }
    }
}

fn usage(
    fd: BorrowedFd<'_>,
    tree: &Tree,
    sets: &[Vec<u64>],
    gone: &[Gone],
) -> io::Result<Vec<Usage>> {
    let steps = related(fd, lineage::groups(tree, gone), sets)?;
    let deltas = deltas(fd, &steps)?;
    let mut sets_of = vec![Vec::new(); steps.len()];
    let places: HashMap<u64, usize> = steps.iter().enumerate().map(|(at, s)| (s.id, at)).collect();
    for (set, ids) in sets.iter().enumerate() {
        let distinct: HashSet<usize> = ids
            .iter()
            .filter_map(|id| places.get(id).copied())
            .collect();
        for place in distinct {
            sets_of[place].push(set);
        }
    }
    let mut usage = vec![Usage::default(); sets.len()];
    for (bytes, of) in referenced(&steps, &deltas).into_iter().zip(&sets_of) {
        for &set in of {
            usage[set].referenced += bytes;
        }
    }
    let ends: Vec<usize> = steps.iter().map(|s| s.end).collect();
    let candidates = held_by_one_set(&ends, &sets_of, deltas);
    let home: HashSet<u64> = steps.iter().map(|s| s.id).collect();
    let places: Vec<u64> = candidates.iter().map(|c| c.bytenr).collect();
    let references = Backrefs::new(fd, &home).of(&places)?;
    for (candidate, references) in candidates.iter().zip(references) {
        if references.foreign || references.count == 0 {
            continue;
        }
        for &set in &candidate.sets {
            let usage = &mut usage[set];
            usage.exclusive += candidate.bytes;
            usage.disk += candidate.disk;
        }
    }
    Ok(usage)
}

/// The groups that can share blocks with a subvolume of a set, in one sequence.
fn related(fd: BorrowedFd<'_>, groups: Vec<Vec<Step>>, sets: &[Vec<u64>]) -> io::Result<Vec<Step>> {
    let wanted: HashSet<u64> = sets.iter().flatten().copied().collect();
    let mut searcher = Searcher::new();
    let mut identities = Vec::with_capacity(groups.len());
    for group in &groups {
        // All of a group have the same.
        identities.push(identity(&mut searcher, fd, group[0].id)?);
    }
    let is_wanted = |group: &Vec<Step>| group.iter().any(|step| wanted.contains(&step.id));
    let ours: HashSet<&Identity> = groups
        .iter()
        .zip(&identities)
        .filter_map(|(group, identity)| is_wanted(group).then_some(identity))
        .collect();
    let mut steps: Vec<Step> = Vec::new();
    for (group, identity) in groups.iter().zip(&identities) {
        if ours.contains(identity) {
            let first = steps.len();
            steps.extend(group.iter().map(|step| Step {
                id: step.id,
                base: step.base.map(|(at, since)| (at + first, since)),
                end: step.end + first,
            }));
        }
    }
    Ok(steps)
}

/// What a snapshot never loses: when the root directory was made, as
/// transaction and time.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Identity {
    transaction: u64,
    time: [u8; 12],
}

/// `struct btrfs_inode_item`: generation (0), otime (148).
fn identity(searcher: &mut Searcher, fd: BorrowedFd<'_>, tree: u64) -> io::Result<Identity> {
    const INODE_ITEM: u8 = 1;
    let key = (ROOT_INODE, INODE_ITEM, 0);
    let range = Range {
        tree,
        from: key,
        to: key,
        since: 0,
    };
    let mut found = None;
    searcher.search(fd, &range, |item| {
        let time = item.data.get(148..).and_then(|rest| rest.first_chunk());
        found = le64(item.data, 0).zip(time.copied());
        ControlFlow::Break(())
    })?;
    let (transaction, time) =
        found.ok_or_else(|| io::Error::other("a subvolume has no root directory"))?;
    Ok(Identity { transaction, time })
}

/// A file extent item that a subvolume has and its base has not, or the
/// other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    bytenr: u64,
    /// The place of the subvolume among the steps.
    step: usize,
    start: u64,
    len: u64,
    disk: u64,
    gained: bool,
}

/// By what every subvolume differs from its base. A thread for each processor.
fn deltas(fd: BorrowedFd<'_>, steps: &[Step]) -> io::Result<Vec<Change>> {
    let next = AtomicUsize::new(0);
    let all = Mutex::new((Vec::new(), None));
    let work = || {
        let mut reader = Reader::new(fd);
        let mut changes = Vec::new();
        let mut failed = None;
        while failed.is_none() {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(step) = steps.get(at) else { break };
            failed = delta(&mut reader, steps, at, step, &mut changes).err();
        }
        // A thread that panicked has left nothing half done in it.
        let mut all = all.lock().unwrap_or_else(|e| e.into_inner());
        all.0.append(&mut changes);
        all.1 = all.1.take().or(failed);
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 1..threads.min(steps.len()) {
            scope.spawn(work);
        }
        work();
    });
    match all.into_inner().unwrap_or_else(|e| e.into_inner()) {
        (_, Some(error)) => Err(error),
        (changes, None) => Ok(changes),
    }
}

fn delta(
    reader: &mut Reader<'_>,
    steps: &[Step],
    at: usize,
    step: &Step,
    changes: &mut Vec<Change>,
) -> io::Result<()> {
    let (lost, gained) = match step.base {
        None => (Vec::new(), reader.all(step.id)?),
        Some((base, since)) => reader.between(steps[base].id, step.id, since)?,
    };
    let change = |extent: Extent, gained| Change {
        bytenr: extent.bytenr,
        step: at,
        start: extent.start,
        len: extent.len,
        disk: extent.disk,
        gained,
    };
    changes.extend(lost.into_iter().map(|e| change(e, false)));
    changes.extend(gained.into_iter().map(|e| change(e, true)));
    Ok(())
}

/// The bytes that the files of every subvolume consist of.
fn referenced(steps: &[Step], changes: &[Change]) -> Vec<u64> {
    let mut bytes = vec![0i128; steps.len()];
    for change in changes {
        let len = i128::from(change.len);
        bytes[change.step] += if change.gained { len } else { -len };
    }
    for at in 0..steps.len() {
        if let Some((base, _)) = steps[at].base {
            bytes[at] += bytes[base];
        }
    }
    let known = bytes.into_iter().map(|b| u64::try_from(b).unwrap_or(0));
    known.collect()
}

/// An extent that nobody in the lineages has outside of these sets.
#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    bytenr: u64,
    disk: u64,
    /// What of it is used by files, each byte once.
    bytes: u64,
    sets: Vec<usize>,
}

/// A part of an extent: start, length, how many items refer to it.
type Part = (u64, u64, i64);

/// All extents that only subvolumes of one set have, by address. `ends` is the
/// end of the steps that build on each, `sets_of` the sets that each is in.
fn held_by_one_set(
    ends: &[usize],
    sets_of: &[Vec<usize>],
    mut changes: Vec<Change>,
) -> Vec<Candidate> {
    changes.sort_unstable();
    let mut candidates = Vec::new();
    let mut holders = Holders::default();
    for extent in changes.chunk_by(|a, b| a.bytenr == b.bytenr) {
        if !holders.find(ends, sets_of, extent) || holders.parts.is_empty() {
            continue;
        }
        candidates.push(Candidate {
            bytenr: extent[0].bytenr,
            disk: extent[0].disk,
            bytes: union(&mut holders.parts),
            sets: holders.sets.clone(),
        });
    }
    candidates
}

/// Who has an extent. Kept from one to the next for its memory.
#[derive(Debug, Default)]
struct Holders {
    /// The sets that all of the holders so far are in.
    sets: Vec<usize>,
    /// What of the extent they use.
    parts: Vec<(u64, u64)>,
    /// What of it the subvolume at hand and those that it builds on have: the
    /// end of the steps that this holds for, and where its parts begin in
    /// `stack`.
    open: Vec<(usize, usize)>,
    stack: Vec<Part>,
}

impl Holders {
    /// Finds them by the changes of one extent, in the order of steps; false as
    /// soon as they are in no set together.
    fn find(&mut self, ends: &[usize], sets_of: &[Vec<usize>], changes: &[Change]) -> bool {
        self.sets.clear();
        self.parts.clear();
        self.open.clear();
        self.stack.clear();
        let mut at = 0;
        for of_step in changes.chunk_by(|a, b| a.step == b.step) {
            let step = of_step[0].step;
            if !self.advance(&mut at, step, sets_of) {
                return false;
            }
            let from = self.open.last().map_or(self.stack.len(), |&(_, from)| from);
            let begin = self.stack.len();
            self.stack.extend_from_within(from..begin);
            for change in of_step {
                self.apply(begin, change);
            }
            self.open.push((ends[step], begin));
        }
        self.advance(&mut at, ends.len(), sets_of)
    }

    fn apply(&mut self, begin: usize, change: &Change) {
        let by = if change.gained { 1 } else { -1 };
        let mine = &mut self.stack[begin..];
        match mine
            .iter_mut()
            .find(|part| (part.0, part.1) == (change.start, change.len))
        {
            Some(part) => part.2 += by,
            None => self.stack.push((change.start, change.len, by)),
        }
    }

    /// Takes all steps before `to` for holders of what is open for them.
    fn advance(&mut self, at: &mut usize, to: usize, sets_of: &[Vec<usize>]) -> bool {
        while *at < to {
            let Some(&(end, begin)) = self.open.last() else {
                *at = to;
                break;
            };
            let until = end.min(to);
            let used = self.stack[begin..].iter().filter(|part| part.2 > 0);
            let before = self.parts.len();
            if *at < until {
                self.parts.extend(used.map(|part| (part.0, part.1)));
            }
            if self.parts.len() > before {
                for sets in &sets_of[*at..until] {
                    if before == 0 && self.sets.is_empty() {
                        self.sets.extend(sets);
                    }
                    self.sets.retain(|set| sets.contains(set));
                    if self.sets.is_empty() {
                        return false;
                    }
                }
            }
            *at = until;
            if end == until {
                self.open.pop();
                self.stack.truncate(begin);
            }
        }
        // What ends here is not open for what comes next.
        while let Some(&(end, begin)) = self.open.last()
            && end <= to
        {
            self.open.pop();
            self.stack.truncate(begin);
        }
        true
    }
}

/// How many bytes are in at least one of these parts.
fn union(parts: &mut [(u64, u64)]) -> u64 {
    parts.sort_unstable();
    let mut bytes = 0;
    let mut covered = 0;
    for &mut (start, len) in parts {
        let end = start.saturating_add(len);
        bytes += end.saturating_sub(start.max(covered));
        covered = covered.max(end);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(bytenr: u64, step: usize, part: (u64, u64), gained: bool) -> Change {
        Change {
            bytenr,
            step,
            start: part.0,
            len: part.1,
            disk: 100,
            gained,
        }
    }

    fn found(ends: &[usize], sets: &[Vec<usize>], changes: &[Change]) -> Vec<(u64, u64, usize)> {
        let found = held_by_one_set(ends, sets, changes.to_vec());
        let sets = |c: &Candidate| c.sets.iter().map(|&s| (c.bytenr, c.bytes, s)).collect();
        found.iter().flat_map::<Vec<_>, _>(sets).collect()
    }

    /// 0 with the clones 1 and 2, and 3, which is not related. Set 0 is 0, set 1
    /// is 1 and 2, set 2 is 2, set 3 is all.
    const ENDS: [usize; 4] = [3, 2, 3, 4];
    fn sets() -> Vec<Vec<usize>> {
        vec![vec![0, 3], vec![1, 3], vec![1, 2, 3], vec![3]]
    }

    #[test]
    fn what_nobody_changed_is_in_all() {
        let changes = [change(9, 0, (0, 4), true)];
        assert_eq!(found(&ENDS, &sets(), &changes), [(9, 4, 3)]);
        let changes = [change(9, 3, (0, 4), true)];
        assert_eq!(found(&ENDS, &sets(), &changes), [(9, 4, 3)]);
    }

    #[test]
    fn what_the_clones_lost_is_the_origins() {
        let lost = |step| change(9, step, (0, 4), false);
        let changes = [change(9, 0, (0, 4), true), lost(1), lost(2)];
        assert_eq!(found(&ENDS, &sets(), &changes), [(9, 4, 0), (9, 4, 3)]);
        assert_eq!(
            found(&ENDS, &sets(), &[changes[0], changes[1]]),
            [(9, 4, 3)]
        );
    }

    #[test]
    fn what_two_have_is_the_sets_that_both_are_in() {
        let gained = |step, part| change(9, step, part, true);
        let changes = [gained(1, (0, 4)), gained(2, (2, 4))];
        assert_eq!(found(&ENDS, &sets(), &changes), [(9, 6, 1), (9, 6, 3)]);
        let changes = [gained(2, (0, 4)), gained(2, (0, 4)), gained(2, (8, 1))];
        assert_eq!(
            found(&ENDS, &sets(), &changes),
            [(9, 5, 1), (9, 5, 2), (9, 5, 3)]
        );
        let changes = [gained(2, (0, 4)), gained(3, (0, 4))];
        assert_eq!(found(&ENDS, &sets(), &changes), [(9, 4, 3)]);
    }

    #[test]
    fn a_part_that_stays_keeps_the_extent() {
        let changes = [
            change(9, 0, (0, 2), true),
            change(9, 0, (2, 2), true),
            change(9, 1, (0, 2), false),
            change(9, 2, (0, 2), false),
            change(9, 2, (2, 2), false),
        ];
        assert_eq!(found(&ENDS, &sets(), &changes), [(9, 4, 3)]);
        // Seen on both sides, it is no change.
        let changes = [change(9, 1, (0, 2), true), change(9, 1, (0, 2), false)];
        assert_eq!(found(&ENDS, &sets(), &changes), []);
    }

    #[test]
    fn bytes_count_once() {
        assert_eq!(union(&mut [(4, 4), (0, 5), (6, 1), (20, 1)]), 9);
        assert_eq!(union(&mut []), 0);
    }
}
