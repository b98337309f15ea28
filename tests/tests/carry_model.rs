//! `be carry` beside a model of it: trees made at random, changed at random on both sides, and
//! what be(8) says of them put as simply as it can be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use be_tests::Seeded;
use be_tests::system::System;
use rustix::fs::{CWD, XattrFlags};
use xtask::image::Tree;

const LABEL: &str = "user.label";

/// What is at a name, by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    what: What,
    mode: u32,
    owner: u32,
    label: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    File(String),
    Dir,
    Link(PathBuf),
    Fifo,
}

impl What {
    fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

type Nodes = BTreeMap<PathBuf, Node>;

/// A tree, and which inode each of its files is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    nodes: Nodes,
    inodes: BTreeMap<PathBuf, u64>,
}

impl Seen {
    fn of(dir: &Path) -> Result<Self> {
        let (mut nodes, mut inodes) = (Nodes::new(), BTreeMap::new());
        for path in below(dir)? {
            let at = dir.join(&path);
            let meta = at.symlink_metadata()?;
            let what = match meta.file_type() {
                kind if kind.is_dir() => What::Dir,
                kind if kind.is_symlink() => What::Link(fs::read_link(&at)?),
                kind if kind.is_file() => What::File(fs::read_to_string(&at)?),
                _ => What::Fifo,
            };
            let mut value = [0; 64];
            let length = rustix::fs::lgetxattr(&at, LABEL, &mut value).unwrap_or(0);
            let node = Node {
                mode: meta.mode() & 0o7777,
                owner: meta.uid(),
                label: String::from_utf8_lossy(&value[..length]).into_owned(),
                what,
            };
            if meta.is_file() {
                inodes.insert(path.clone(), meta.ino());
            }
            nodes.insert(path, node);
        }
        Ok(Self { nodes, inodes })
    }

    /// Pairs of names of one file.
    fn pairs(&self) -> BTreeSet<(&Path, &Path)> {
        let mut found = BTreeSet::new();
        for (a, one) in &self.inodes {
            for (b, other) in &self.inodes {
                if a < b && one == other {
                    found.insert((a.as_path(), b.as_path()));
                }
            }
        }
        found
    }
}

/// All paths below a directory, from it.
fn below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(&at)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                todo.push(entry.path());
            }
            found.push(entry.path().strip_prefix(dir)?.to_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// Which rules hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rules {
    Configuration,
    Data,
}

/// What becomes of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// It stays as the environment has it.
    Stays,
    /// As on the running system.
    Running,
    Mixed(Node),
    /// Both are kept.
    Beside,
    /// Both are kept, below a directory beside what is in the way.
    Aside,
}

/// A name in a directory for what the running system has, beside all that is kept already.
fn spot(dir: &Path, name: &str, here: &Node, free: bool, out: &Nodes) -> Option<String> {
    let beside = (1..).map(|number| match number {
        1 => format!("{name}.be-running"),
        _ => format!("{name}.be-running-{number}"),
    });
    for name in free.then(|| name.to_owned()).into_iter().chain(beside) {
        match out.get(&dir.join(&name)) {
            None => return Some(name),
            Some(there) if !there.what.is_like(&here.what) => {}
            Some(there) => match &there.what {
                What::Dir => return Some(name),
                what if *what == here.what => return None,
                _ => {}
            },
        }
    }
    None
}

struct Model<'a> {
    base: &'a Nodes,
    running: &'a Nodes,
    new: &'a Nodes,
    rules: Rules,
}

impl Model<'_> {
    fn fates(&self) -> BTreeMap<PathBuf, Fate> {
        let mut fates: BTreeMap<PathBuf, Fate> = BTreeMap::new();
        let all = self.base.keys().chain(self.running.keys());
        for path in all.collect::<BTreeSet<_>>() {
            let is_in_the_way = |at: &Path| {
                let is_dir = |nodes: &Nodes| nodes.get(at).map(|n| n.what == What::Dir);
                let goes = fates.get(at) == Some(&Fate::Running);
                is_dir(self.new) == Some(false) && !(goes && is_dir(self.running) == Some(true))
            };
            let fate = match path.ancestors().skip(1).any(is_in_the_way) {
                true if self.running.get(path) == self.base.get(path) => Fate::Stays,
                true => Fate::Aside,
                false => self.fate(path),
            };
            fates.insert(path.clone(), fate);
        }
        fates
    }

    fn fate(&self, path: &Path) -> Fate {
        let at = |nodes: &'_ Nodes| nodes.get(path).cloned();
        let (base, running, new) = (at(self.base), at(self.running), at(self.new));
        if running == base || running == new {
            return Fate::Stays;
        }
        if new == base {
            return Fate::Running;
        }
        let (running, new) = match (running, new) {
            (Some(running), Some(new)) => (running, new),
            (None, _) => return Fate::Stays,
            (_, None) => return Fate::Running,
        };
        let was_other = base
            .as_ref()
            .is_some_and(|b| !b.what.is_like(&running.what));
        if !running.what.is_like(&new.what) || was_other {
            let was_dir = base.is_some_and(|b| b.what == What::Dir);
            return match running.what {
                What::Dir if was_dir => Fate::Stays,
                What::Dir => Fate::Aside,
                _ => Fate::Beside,
            };
        }
        let Some(what) = self.content(base.as_ref(), &running, &new) else {
            return match self.rules {
                Rules::Configuration => Fate::Beside,
                Rules::Data => Fate::Running,
            };
        };
        let base = base.as_ref();
        Fate::Mixed(Node {
            what,
            mode: self.part(base.map(|b| b.mode), running.mode, new.mode),
            owner: self.part(base.map(|b| b.owner), running.owner, new.owner),
            label: self.part(base.map(|b| b.label.clone()), running.label, new.label),
        })
    }

    /// From the side that changed it.
    fn part<T: PartialEq>(&self, base: Option<T>, running: T, new: T) -> T {
        let (here, there) = (base.as_ref() != Some(&running), base.as_ref() != Some(&new));
        match (here, there, self.rules) {
            (false, _, _) | (true, true, Rules::Configuration) => new,
            (true, false, _) | (true, true, Rules::Data) => running,
        }
    }

    /// None if both have changed it, and it cannot be put together.
    fn content(&self, base: Option<&Node>, running: &Node, new: &Node) -> Option<What> {
        let (running, new) = (&running.what, &new.what);
        let base = base.map(|b| &b.what);
        if running == new || base == Some(running) {
            return Some(new.clone());
        }
        if base == Some(new) {
            return Some(running.clone());
        }
        let (Some(What::File(base)), What::File(running), What::File(new), Rules::Configuration) =
            (base, running, new, self.rules)
        else {
            return None;
        };
        let lines = base.lines().zip(running.lines().zip(new.lines()));
        let lines = lines.map(|(base, (running, new))| match () {
            () if running == new || running == base => Some(new),
            () if new == base => Some(running),
            () => None,
        });
        let lines: Option<Vec<_>> = lines.collect();
        Some(What::File(lines?.join("\n") + "\n"))
    }

    fn carried(&self) -> Nodes {
        let mut fates = self.fates();
        let mut out = self.new.clone();
        let is_like = |a: Option<&Node>, b: &Node| a.is_some_and(|a| a.what.is_like(&b.what));
        for (path, fate) in fates.iter_mut().rev() {
            let (here, there) = (self.running.get(path), self.new.get(path));
            if *fate != Fate::Running || there.is_none_or(|there| is_like(here, there)) {
                continue;
            }
            // What is in it stays: so does it.
            match out.keys().any(|p| p != path && p.starts_with(path)) {
                true if here.is_some() => *fate = Fate::Beside,
                true => {}
                false => _ = out.remove(path),
            }
        }
        for (path, fate) in &fates {
            let here = self.running.get(path);
            match (fate, here) {
                (Fate::Running, Some(here)) => {
                    for dir in path.ancestors().skip(1).filter(|p| *p != Path::new("")) {
                        let dir = (dir.to_owned(), self.running[dir].clone());
                        out.entry(dir.0).or_insert(dir.1);
                    }
                    out.insert(path.clone(), here.clone());
                }
                (Fate::Mixed(node), _) => _ = out.insert(path.clone(), node.clone()),
                (Fate::Aside, Some(_)) => self.put_aside(path, &mut out),
                (Fate::Beside, Some(here)) => {
                    if let Some(beside) = self.beside(path, here, &out) {
                        out.insert(beside, here.clone());
                    }
                }
                _ => {}
            }
        }
        out
    }

    /// What the running system has at a path, and the directories on the way, below the name of
    /// what is in the way.
    fn put_aside(&self, path: &Path, out: &mut Nodes) {
        let (mut from, mut to) = (PathBuf::new(), PathBuf::new());
        let mut is_aside = false;
        for name in path {
            from.push(name);
            let there = out.get(&to.join(name));
            if !is_aside && there.is_none_or(|n| n.what == What::Dir) {
                to.push(name);
                continue;
            }
            let was_aside = std::mem::replace(&mut is_aside, true);
            let here = &self.running[&from];
            let name = name.to_string_lossy();
            let Some(name) = spot(&to, &name, here, was_aside, out) else {
                return;
            };
            to.push(name);
            out.entry(to.clone()).or_insert_with(|| here.clone());
        }
    }

    /// Where the one of the running system lies; nowhere if it waits already.
    fn beside(&self, path: &Path, here: &Node, out: &Nodes) -> Option<PathBuf> {
        let name = path.file_name()?.to_str()?;
        if self.rules == Rules::Data {
            let parent = path.parent()?;
            return Some(parent.join(spot(parent, name, here, false, out)?));
        }
        let waiting = |number| path.with_file_name(format!("._cfg{number:04}_{name}"));
        let first = (0..).find(|number| !out.contains_key(&waiting(*number)))?;
        let is_same = |other: &Node| matches!(here.what, What::File(_)) && other.what == here.what;
        match (0..first).any(|number| is_same(&out[&waiting(number)])) {
            true => None,
            false => Some(waiting(first)),
        }
    }
}

/// One tree, changed at random.
struct Changing<'a> {
    dir: &'a Path,
    random: &'a mut Seeded,
}

impl Changing<'_> {
    fn pick<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        let number = self.random.below(of.len().max(1) as u64);
        of.get(number as usize).cloned()
    }

    fn digit(&mut self) -> u64 {
        self.random.below(3)
    }

    /// A path that may be there or not, in a directory that is.
    fn name(&mut self) -> Result<PathBuf> {
        let mut dirs = below(self.dir)?;
        dirs.retain(|p| self.dir.join(p).is_dir() && !self.dir.join(p).is_symlink());
        dirs.retain(|p| p.iter().count() < 3);
        dirs.push(PathBuf::new());
        let dir = self.pick(&dirs).unwrap_or_default();
        let name = ["a", "b", "c", "d", "e"][self.random.below(5) as usize];
        Ok(self.dir.join(dir).join(name))
    }

    fn there(&mut self) -> Result<Option<PathBuf>> {
        let mut all = below(self.dir)?;
        all.retain(|path| {
            let name = path.to_string_lossy();
            !name.contains("._cfg") && !name.contains("be-running")
        });
        Ok(self.pick(&all).map(|path| self.dir.join(path)))
    }

    fn text(&mut self) -> String {
        format!("{}\n=\n=\n=\n=\n{}\n", self.digit(), self.digit())
    }

    /// Something new at this path.
    fn make(&mut self, at: &Path) -> Result<()> {
        remove(at)?;
        match self.random.below(8) {
            0..4 => fs::write(at, self.text())?,
            4 | 5 => {
                fs::create_dir(at)?;
                for name in ["a", "b"] {
                    if self.digit() > 0 {
                        fs::write(at.join(name), self.text())?;
                    }
                }
            }
            6 => symlink(format!("to-{}", self.digit()), at)?,
            _ => {
                let mode = rustix::fs::Mode::from_raw_mode(0o644);
                rustix::fs::mknodat(CWD, at, rustix::fs::FileType::Fifo, mode, 0)?;
            }
        }
        Ok(())
    }

    fn change(&mut self) -> Result<()> {
        let new = self.name()?;
        let Some(at) = self.there()? else {
            return self.make(&new);
        };
        let meta = at.symlink_metadata()?;
        match self.random.below(12) {
            0 => self.make(&new)?,
            1 => self.make(&at)?,
            2 => remove(&at)?,
            3 | 4 if !new.starts_with(&at) && !at.starts_with(&new) => {
                remove(&new)?;
                fs::rename(at, new)?;
            }
            5 if meta.is_file() && at != new && !new.is_dir() => {
                remove(&new)?;
                fs::hard_link(at, new)?;
            }
            6 => lchown(at, Some(self.digit() as u32), None)?,
            7 if !meta.is_symlink() => {
                let mode = [0o644, 0o755, 0o700][self.digit() as usize];
                fs::set_permissions(at, Permissions::from_mode(mode))?;
            }
            8 if meta.is_file() || meta.is_dir() => {
                let value = self.digit().to_string();
                rustix::fs::lsetxattr(at, LABEL, value.as_bytes(), XattrFlags::empty())?;
            }
            9 if meta.is_file() => {
                // As an editor does: another file, of the same mode and owner.
                let other = self.dir.join("other");
                fs::write(&other, fs::read(&at)?)?;
                fs::set_permissions(&other, meta.permissions())?;
                lchown(&other, Some(meta.uid()), None)?;
                fs::rename(other, at)?;
            }
            _ if meta.is_file() => {
                let text = fs::read_to_string(&at)?;
                let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
                let line = [0, lines.len() - 1][self.random.below(2) as usize];
                lines[line] = self.digit().to_string();
                fs::write(at, lines.join("\n") + "\n")?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn remove(at: &Path) -> Result<()> {
    match at.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(at)?,
        Ok(_) => fs::remove_file(at)?,
        Err(_) => {}
    }
    Ok(())
}

/// One tree of its own, in three states.
struct Case {
    rules: Rules,
    /// From the root of the system.
    dir: String,
    random: Seeded,
    base: Seen,
}

impl Case {
    fn new(system: &System, seed: u64) -> Result<Self> {
        let (rules, dir) = match seed % 2 {
            0 => (Rules::Data, format!("srv/{seed}")),
            _ => (Rules::Configuration, format!("etc/{seed}")),
        };
        let at = system.path(&dir);
        fs::create_dir_all(&at)?;
        // Neighbouring numbers begin alike.
        let mut random = Seeded::new((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut changing = Changing {
            dir: &at,
            random: &mut random,
        };
        for _ in 0..4 + changing.random.below(8) {
            let new = changing.name()?;
            changing.make(&new)?;
            changing.change()?;
        }
        let base = Seen::of(&at)?;
        Ok(Self {
            rules,
            dir,
            random,
            base,
        })
    }

    fn change(&mut self, system: &System) -> Result<(Seen, Seen)> {
        let sides = [system.path(&self.dir), system.env("new", &self.dir)];
        for dir in &sides {
            let random = &mut self.random;
            let mut changing = Changing { dir, random };
            for _ in 0..1 + changing.random.below(5) {
                changing.change()?;
            }
        }
        Ok((Seen::of(&sides[0])?, Seen::of(&sides[1])?))
    }

    /// What is wrong with what came of it.
    fn faults(&self, running: &Seen, new: &Seen, found: &Seen) -> Vec<String> {
        let model = Model {
            base: &self.base.nodes,
            running: &running.nodes,
            new: &new.nodes,
            rules: self.rules,
        };
        let expected = model.carried();
        let mut faults = Vec::new();
        let paths: BTreeSet<_> = expected.keys().chain(found.nodes.keys()).collect();
        for path in paths {
            let (expected, found) = (expected.get(path), found.nodes.get(path));
            if expected != found {
                let at = |seen: &Seen| format!("{:?}", seen.nodes.get(path));
                faults.push(format!(
                    "/{}/{}:\n  base {}\n  running {}\n  new {}\n  is {found:?}\n  and not {expected:?}",
                    self.dir,
                    path.display(),
                    at(&self.base),
                    at(running),
                    at(new),
                ));
            }
        }
        let (here, there, pairs) = (running.pairs(), new.pairs(), found.pairs());
        let fates = model.fates();
        let is_taken = |path: &Path| fates[path] == Fate::Running;
        let is_alike = |path: &Path| running.nodes.get(path) == new.nodes.get(path);
        for (a, b) in &here {
            let goes = is_taken(a) && (is_taken(b) || is_alike(b)) || is_taken(b) && is_alike(a);
            let is_there = |path| found.nodes.get(path) == running.nodes.get(path);
            if goes && is_there(*a) && is_there(*b) && !pairs.contains(&(a, b)) {
                faults.push(format!("/{}: {a:?} and {b:?} are apart", self.dir));
            }
        }
        for (a, b) in pairs {
            if !is_joined(a, b, here.iter().chain(&there)) {
                faults.push(format!("/{}: {a:?} and {b:?} are one", self.dir));
            }
        }
        faults
    }
}

/// Whether pairs lead from one name to another.
fn is_joined<'a>(
    a: &Path,
    b: &Path,
    pairs: impl Iterator<Item = &'a (&'a Path, &'a Path)>,
) -> bool {
    let pairs: Vec<_> = pairs.collect();
    let mut reached = BTreeSet::from([a]);
    loop {
        let before = reached.len();
        for (one, other) in &pairs {
            if reached.contains(one) || reached.contains(other) {
                reached.extend([*one, *other]);
            }
        }
        if reached.len() == before {
            return reached.contains(b);
        }
    }
}

/// Each case is a directory: all of them go over at once, and once more after other changes.
fn carried_as_in_the_model(seeds: std::ops::Range<u64>) -> Result<()> {
    let system = System::adopted_small()?;
    let cases = seeds.map(|seed| Case::new(&system, seed));
    let mut cases = cases.collect::<Result<Vec<_>>>()?;
    // So that what is not touched afterwards is not looked into: times have their limits.
    std::thread::sleep(std::time::Duration::from_secs(3));
    system.be.run(&["create", "new"]).done();
    for round in 1..=2 {
        let changed = cases.iter_mut().map(|case| case.change(&system));
        let changed = changed.collect::<Result<Vec<_>>>()?;
        let before = system.running()?;
        system.be.run(&["carry", "new", "--apply"]).done();
        let there = |case: &Case| Seen::of(&system.env("new", &case.dir));
        let found: Vec<_> = cases.iter().map(there).collect::<Result<_>>()?;
        let faults: Vec<String> = cases
            .iter()
            .zip(changed.iter().zip(&found))
            .flat_map(|(case, ((running, new), found))| case.faults(running, new, found))
            .collect();
        ensure!(faults.is_empty(), "round {round}: {}", faults.join("\n"));
        // Done again it does nothing more, and what runs is as it was.
        let again = system.be.run(&["carry", "new", "--apply"]).exits(77);
        again.says(&["nothing changed"]);
        for (case, found) in cases.iter().zip(&found) {
            ensure!(there(case)? == *found, "/{} was carried twice", case.dir);
        }
        let changes = before.diff(&system.running()?);
        ensure!(changes.is_empty(), "{changes:?}");
        for (case, (running, _)) in cases.iter_mut().zip(changed) {
            case.base = running;
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root and loop devices"]
fn trees_made_at_random_are_carried_as_in_the_model() -> Result<()> {
    carried_as_in_the_model(0..60)
}

mod thorough {
    use super::*;

    #[test]
    #[ignore = "needs root and loop devices"]
    fn a_thousand_trees_are_carried_as_in_the_model() -> Result<()> {
        carried_as_in_the_model(60..1060)
    }
}
