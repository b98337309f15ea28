//! What a set of subvolumes alone has: against `btrfs filesystem du`, against a
//! model over all items as `btrfs inspect-internal dump-tree` shows them, and
//! against what is free after they are deleted.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use be_btrfs::{Gone, Mode, SubvolumeInfo, TopLevel, Usage, subvolume_info};
use common::{Loop, run};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::fs::{FallocateFlags, copy_file_range, fallocate};

const BLOCK: u64 = 4096;
/// Small nodes: few files fill many leaves.
const MKFS: [&str; 2] = ["--nodesize", "4096"];

#[derive(Debug, Clone)]
enum Op {
    Write {
        at: Place,
        block: u64,
        len: u64,
        dull: bool,
    },
    Inline(Place),
    Reflink {
        from: Place,
        to: Place,
        block: u64,
        to_block: u64,
        blocks: u64,
    },
    Preallocate(Place, u64, u64),
    Punch(Place, u64, u64),
    Truncate(Place, u64),
    Remove(Place),
    Rename(Place, Place),
    Link(Place, Place),
    RemoveDir(Place),
    RenameDir(Place, usize),
    /// Removed while open, until the end.
    Hold(Place),
    Sync,
    Snapshot(usize, bool),
    Delete(usize),
    NewSubvolume,
}

/// A file: the subvolume, taken modulo how many there are, directory, name.
#[derive(Debug, Clone, Copy)]
struct Place(usize, usize, usize);

fn place() -> impl Strategy<Value = Place> {
    (0..64usize, 0..5usize, 0..9usize).prop_map(|(s, d, f)| Place(s, d, f))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (place(), 0..70u64, 1..300_000u64, any::<bool>())
            .prop_map(|(at, block, len, dull)| Op::Write { at, block, len, dull }),
        1 => place().prop_map(Op::Inline),
        5 => (place(), place(), 0..20u64, 0..40u64, 1..40u64).prop_map(
            |(from, to, block, to_block, blocks)| Op::Reflink { from, to, block, to_block, blocks }
        ),
        1 => (place(), 0..20u64, 1..40u64).prop_map(|(p, at, n)| Op::Preallocate(p, at, n)),
        1 => (place(), 0..20u64, 1..20u64).prop_map(|(p, at, n)| Op::Punch(p, at, n)),
        1 => (place(), 0..200_000u64).prop_map(|(p, n)| Op::Truncate(p, n)),
        2 => place().prop_map(Op::Remove),
        1 => (place(), place()).prop_map(|(a, b)| Op::Rename(a, b)),
        1 => (place(), place()).prop_map(|(a, b)| Op::Link(a, b)),
        1 => place().prop_map(Op::RemoveDir),
        1 => (place(), 0..5usize).prop_map(|(p, to)| Op::RenameDir(p, to)),
        1 => place().prop_map(Op::Hold),
        1 => Just(Op::Sync),
        4 => (0..64usize, any::<bool>()).prop_map(|(s, ro)| Op::Snapshot(s, ro)),
        2 => (0..64usize).prop_map(Op::Delete),
        1 => Just(Op::NewSubvolume),
    ]
}

/// A filesystem with subvolumes that are changed at random.
struct World {
    top: TopLevel,
    subvolumes: Vec<(String, bool)>,
    gone: Vec<SubvolumeInfo>,
    /// With the name of the subvolume.
    held: Vec<(String, File)>,
    made: usize,
    seed: u64,
    // Dropped last: an open file would keep it mounted.
    fs: Loop,
}

impl World {
    fn new(files: usize) -> World {
        let fs = Loop::with(512, &MKFS);
        fs.remount("compress=zstd");
        let top = TopLevel::open(&fs.mnt).unwrap();
        let mut world = World {
            top,
            subvolumes: Vec::new(),
            gone: Vec::new(),
            held: Vec::new(),
            made: 0,
            seed: 1,
            fs,
        };
        world.create();
        for number in 0..files {
            let name = format!("s0/d{}/many{number}", number % 5);
            let len = if number % 3 == 0 { 100 } else { 5000 };
            let content = world.content(len, number % 2 == 0);
            fs::write(world.fs.path(&name), content).unwrap();
        }
        world
    }

    fn create(&mut self) {
        let name = format!("s{}", self.made);
        self.made += 1;
        self.fs.subvolume(&name);
        for dir in 0..5 {
            fs::create_dir(self.fs.path(&format!("{name}/d{dir}"))).unwrap();
        }
        self.subvolumes.push((name, false));
    }

    fn content(&mut self, len: u64, dull: bool) -> Vec<u8> {
        if dull {
            return vec![b'x'; len as usize];
        }
        (0..len)
            .map(|_| {
                self.seed ^= self.seed << 13;
                self.seed ^= self.seed >> 7;
                self.seed ^= self.seed << 17;
                self.seed as u8
            })
            .collect()
    }

    fn file(&self, place: Place) -> PathBuf {
        let Place(subvolume, dir, name) = place;
        let (subvolume, _) = &self.subvolumes[subvolume % self.subvolumes.len()];
        self.fs.path(&format!("{subvolume}/d{dir}/f{name}"))
    }

    /// What cannot be done, in a read-only subvolume or without the file, is not.
    fn apply(&mut self, op: &Op) {
        let _impossible: io::Result<()> = self.try_apply(op);
    }

    fn try_apply(&mut self, op: &Op) -> io::Result<()> {
        match *op {
            Op::Write {
                at,
                block,
                len,
                dull,
            } => {
                let content = self.content(len, dull);
                let mut file = open(&self.file(at))?;
                file.seek(SeekFrom::Start(block * BLOCK))?;
                file.write_all(&content)
            }
            Op::Inline(at) => fs::write(self.file(at), "small"),
            Op::Reflink {
                from,
                to,
                block,
                to_block,
                blocks,
            } => {
                // On btrfs this is FICLONERANGE where the blocks are whole.
                let from = File::open(self.file(from))?;
                let to = open(&self.file(to))?;
                let (mut at, mut to_at) = (block * BLOCK, to_block * BLOCK);
                let len = (blocks * BLOCK) as usize;
                copy_file_range(&from, Some(&mut at), &to, Some(&mut to_at), len)?;
                Ok(())
            }
            Op::Preallocate(at, block, blocks) => {
                let file = open(&self.file(at))?;
                let (at, len) = (block * BLOCK, blocks * BLOCK);
                Ok(fallocate(&file, FallocateFlags::KEEP_SIZE, at, len)?)
            }
            Op::Punch(at, block, blocks) => {
                let file = open(&self.file(at))?;
                let flags = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE;
                Ok(fallocate(&file, flags, block * BLOCK, blocks * BLOCK)?)
            }
            Op::Truncate(at, len) => open(&self.file(at))?.set_len(len),
            Op::Remove(at) => fs::remove_file(self.file(at)),
            Op::Rename(from, to) => fs::rename(self.file(from), self.file(to)),
            Op::Link(from, to) => fs::hard_link(self.file(from), self.file(to)),
            Op::RemoveDir(at) => {
                fs::remove_dir_all(self.file(at).parent().unwrap())?;
                fs::create_dir(self.file(at).parent().unwrap())
            }
            Op::RenameDir(at, to) => {
                let from = self.file(at).parent().unwrap().to_owned();
                let to = from.parent().unwrap().join(format!("d{to}/below"));
                let deeper = from.join("again");
                fs::create_dir_all(&deeper)?;
                fs::write(deeper.join("file"), [7; 9000])?;
                fs::rename(&from, to)?;
                fs::create_dir(&from)
            }
            Op::Hold(at) => {
                let file = File::open(self.file(at))?;
                fs::remove_file(self.file(at))?;
                let subvolume = at.0 % self.subvolumes.len();
                self.held.push((self.subvolumes[subvolume].0.clone(), file));
                Ok(())
            }
            Op::Sync => {
                self.top.sync().unwrap();
                Ok(())
            }
            Op::Snapshot(of, read_only) => {
                if self.subvolumes.len() > 12 {
                    return Ok(());
                }
                let of = self.subvolumes[of % self.subvolumes.len()].0.clone();
                let name = format!("s{}", self.made);
                self.made += 1;
                let mode = if read_only {
                    Mode::ReadOnly
                } else {
                    Mode::Writable
                };
                let from = self.fs.fd(&of);
                self.top
                    .snapshot(from.as_fd(), self.top.fd(), OsStr::new(&name), mode)
                    .unwrap();
                self.subvolumes.push((name, read_only));
                Ok(())
            }
            Op::Delete(which) => {
                if self.subvolumes.len() > 2 {
                    let which = which % self.subvolumes.len();
                    self.delete(which);
                }
                Ok(())
            }
            Op::NewSubvolume => {
                if self.subvolumes.len() <= 12 {
                    self.create();
                }
                Ok(())
            }
        }
    }

    fn delete(&mut self, which: usize) {
        let (name, _) = self.subvolumes.remove(which);
        // An open file keeps all of it.
        self.held.retain(|(of, _)| *of != name);
        self.gone.push(subvolume_info(self.fs.fd(&name)).unwrap());
        self.fs.btrfs(&["subvolume", "delete"], self.fs.path(&name));
    }

    /// Everything is written and what was deleted is gone.
    fn settle(&self) {
        let start = Instant::now();
        loop {
            self.top.sync().unwrap();
            let deleted = self.fs.btrfs(&["subvolume", "list", "-d"], &self.fs.mnt);
            if deleted.is_empty() {
                // What the model is read from.
                self.top.sync().unwrap();
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "not cleaned up");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn id(&self, name: &str) -> u64 {
        subvolume_info(self.fs.fd(name)).unwrap().id
    }

    fn ids(&self) -> Vec<u64> {
        self.subvolumes
            .iter()
            .map(|(name, _)| self.id(name))
            .collect()
    }

    /// Each alone, and some together.
    fn sets(&self) -> Vec<Vec<u64>> {
        let ids = self.ids();
        let mut sets: Vec<Vec<u64>> = ids.iter().map(|&id| vec![id]).collect();
        sets.extend(ids.windows(2).map(<[u64]>::to_vec));
        sets.extend(ids.chunks(3).map(<[u64]>::to_vec));
        sets.push(ids.iter().copied().step_by(2).collect());
        sets.push(ids);
        sets
    }

    fn gone(&self) -> Vec<Gone> {
        let gone = self.gone.iter();
        gone.filter_map(|info| {
            Some(Gone {
                uuid: info.uuid,
                of: info.parent_uuid?,
                otransid: info.otransid,
            })
        })
        .collect()
    }

    fn check_against_the_model(&self) {
        // Not of the device, of which the host may remember old blocks.
        let model = Model::of(&self.fs.mnt.with_file_name("image"));
        let sets = self.sets();
        for gone in [Vec::new(), self.gone()] {
            let usage = self.top.usage(&sets, &gone).unwrap();
            for (set, found) in sets.iter().zip(usage) {
                assert_eq!(model.usage(set), found, "{set:?} {gone:?}");
                // Now the other lineages are known by their references only.
                let alone = self.top.usage(std::slice::from_ref(set), &gone).unwrap();
                assert_eq!([found], *alone, "{set:?} alone");
            }
        }
    }

    fn check_against_du(&self) {
        let sets: Vec<Vec<u64>> = self.ids().into_iter().map(|id| vec![id]).collect();
        let usage = self.top.usage(&sets, &[]).unwrap();
        for ((name, _), usage) in self.subvolumes.iter().zip(usage) {
            assert_eq!(usage.referenced, du(&self.fs.path(name)), "{name}");
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

/// "Total". Its "Exclusive" is what FIEMAP does not call shared, which depends on what the
/// kernel has still to write where a file has a reflink of its own blocks: no oracle.
fn du(path: &Path) -> u64 {
    let out = run(Command::new("btrfs")
        .args(["filesystem", "du", "-s", "--raw"])
        .arg(path));
    let text = String::from_utf8(out.stdout).unwrap();
    let line = text.lines().last().unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Every file extent item of every subvolume.
struct Model {
    /// By address: its size on the disk, and who uses it.
    extents: BTreeMap<u64, (u64, Vec<User>)>,
}

/// A subvolume, and the part of the extent: start, length.
type User = (u64, u64, u64);

impl Model {
    fn of(image: &Path) -> Model {
        let out = run(Command::new("btrfs")
            .args(["inspect-internal", "dump-tree"])
            .arg(image));
        let text = String::from_utf8_lossy(&out.stdout);
        let mut extents: BTreeMap<u64, (u64, Vec<_>)> = BTreeMap::new();
        let mut tree = None;
        let mut at = (0, 0);
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |at: usize| words[at].parse::<u64>().unwrap();
            match words[..] {
                [_, "tree", "key", id, ..] | [_, _, "tree", "key", id, ..] => {
                    let id = id.trim_start_matches('(');
                    // By number only subvolumes are named.
                    tree = match id {
                        "FS_TREE" => Some(5),
                        id => id.parse::<u64>().ok(),
                    };
                }
                ["extent", "data", "disk", "byte", _, "nr", _] => at = (number(4), number(6)),
                ["prealloc", "data", "disk", "byte", _, "nr", _] => at = (number(4), number(6)),
                ["extent", "data", "offset", _, "nr", _, ..]
                | ["prealloc", "data", "offset", _, "nr", _, ..] => {
                    if let (Some(tree), true) = (tree, at.0 != 0) {
                        let extent = extents.entry(at.0).or_insert((at.1, Vec::new()));
                        extent.1.push((tree, number(3), number(5)));
                    }
                }
                _ => {}
            }
        }
        assert!(!extents.is_empty());
        Model { extents }
    }

    fn usage(&self, set: &[u64]) -> Usage {
        let mut usage = Usage::default();
        for (disk, users) in self.extents.values() {
            let ours = users.iter().filter(|user| set.contains(&user.0));
            usage.referenced += ours.clone().map(|user| user.2).sum::<u64>();
            if ours.clone().count() == users.len() {
                let block = |at: u64| at / BLOCK;
                let blocks: BTreeSet<u64> = ours
                    .flat_map(|user| block(user.1)..block(user.1 + user.2))
                    .collect();
                usage.exclusive += blocks.len() as u64 * BLOCK;
                usage.disk += disk;
            }
        }
        usage
    }
}

fn runner(cases: u32) -> TestRunner {
    let given = std::env::var_os("PROPTEST_CASES").is_some();
    let default = Config::default();
    TestRunner::new(Config {
        cases: if given { default.cases } else { cases },
        max_shrink_iters: 100,
        failure_persistence: None,
        ..default
    })
}

#[test]
#[ignore = "needs root and a loop device"]
fn random_changes_to_random_clones() {
    let ops = proptest::collection::vec(op(), 40..160);
    runner(30)
        .run(&(0..400usize, ops), |(files, ops)| {
            let mut world = World::new(files);
            for op in &ops {
                world.apply(op);
            }
            world.settle();
            world.check_against_the_model();
            world.held.clear();
            world.settle();
            world.check_against_the_model();
            world.check_against_du();
            if ops.len() % 4 == 0 {
                // All extents are elsewhere, and no inode tells.
                let balance = ["balance", "start", "--full-balance"];
                world.fs.btrfs(&balance, &world.fs.mnt);
                world.settle();
                world.check_against_the_model();
                world.check_against_du();
            }
            Ok(())
        })
        .unwrap();
}

#[test]
#[ignore = "needs root and a loop device"]
fn as_much_is_free_after_deletion() {
    let ops = proptest::collection::vec(op(), 60..120);
    runner(6)
        .run(&(ops, any::<u32>()), |(ops, choice)| {
            let mut world = World::new(40);
            for op in &ops {
                world.apply(op);
            }
            world.held.clear();
            world.settle();
            let chosen: Vec<usize> = (0..world.subvolumes.len())
                .filter(|at| choice >> at & 1 == 1)
                .collect();
            let ids = world.ids();
            let set = chosen.iter().map(|&at| ids[at]).collect();
            let usage = world.top.usage(&[set], &[]).unwrap()[0];
            let before = data_used(&world.top);
            for &at in chosen.iter().rev() {
                world.delete(at);
            }
            world.settle();
            assert_eq!(usage.disk, before - data_used(&world.top));
            Ok(())
        })
        .unwrap();
}

/// Bytes in block groups of data.
fn data_used(top: &TopLevel) -> u64 {
    const DATA: u64 = 1;
    let space = top.space().unwrap();
    let data = space.groups.iter().filter(|g| g.flags & DATA != 0);
    data.map(|g| g.used).sum()
}
