//! Doing what was decided: every name by itself, complete or not at all. Done again after it was
//! cut off, it ends in the same tree.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use be_btrfs::rooted::{Content, Parts};
use be_btrfs::{FileType, Root};

use super::survey::Volume;
use super::{Carry, Conflict, Decision, From, Item, Mix};
use crate::chroot::Interrupted;
use crate::diff::entry::{self, Reading};
use crate::diff::{Aspect, Change};
use crate::session::Session;

/// A file of the running system beside another of the new environment, outside of /etc.
const BESIDE: &str = ".be-running";

/// So many files wait for a decision in one directory at most, as for etc-update(1).
const MOST_WAITING: u32 = 9999;

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// How many names were made as they should be.
    pub done: usize,
    /// Files of the running system that lie beside others now, from the root of the system.
    pub beside: Vec<PathBuf>,
    /// Directories that were removed on the running system, and are not empty there.
    pub kept: Vec<PathBuf>,
}

/// Make the new environment as the survey says; nothing is written anywhere else.
///
/// # Errors
/// The first name that cannot be made; or when somebody interrupts it. The rest is as it was,
/// and doing it again goes on.
pub(super) fn apply(
    session: &Session,
    carry: &Carry,
    interrupted: &Interrupted,
) -> Result<Applied> {
    let mut work = Work {
        links: Links::of_all(session, carry)?,
        done: HashSet::new(),
        mixed: HashMap::new(),
        applied: Applied::default(),
        carry,
    };
    // What is below a directory goes before it does.
    for item in carry.items.iter().rev() {
        interrupted.go_on()?;
        work.clear(item).with_context(|| failed(item))?;
    }
    for item in &carry.items {
        interrupted.go_on()?;
        work.make(item).with_context(|| failed(item))?;
    }
    // Times of directories change with what is in them.
    for item in carry.items.iter().rev() {
        let volume = work.volume(item);
        if item.kind.is_dir() && takes(item) && item.change != Change::Removed {
            volume.new.put_times(&item.place.1, &volume.running).ok();
        }
    }
    Ok(work.applied)
}

fn failed(item: &Item) -> String {
    format!("cannot carry /{}", item.path.display())
}

/// Whether it becomes as on the running system.
fn takes(item: &Item) -> bool {
    matches!(item.decision, Decision::Take | Decision::Running(_))
}

struct Work<'a> {
    carry: &'a Carry,
    links: Links,
    /// Names that are as on the running system now, by volume.
    done: HashSet<(usize, PathBuf)>,
    /// Names that have something of both, by volume and inode on either side.
    mixed: HashMap<(usize, u64, u64), Vec<&'a Item>>,
    applied: Applied,
}

impl<'a> Work<'a> {
    fn volume(&self, item: &Item) -> &Volume {
        &self.carry.volumes[item.place.0]
    }

    /// Take away what has to go, or is in the way of something else.
    fn clear(&mut self, item: &Item) -> Result<()> {
        let is_other = match &item.change {
            Change::Removed => true,
            Change::Changed(aspects) => aspects.contains(&Aspect::Type),
            Change::Added => false,
        };
        if !takes(item) || !is_other {
            return Ok(());
        }
        let (new, path) = (&self.volume(item).new, &item.place.1);
        let there = look(new, path)?;
        let Some(there) = there else { return Ok(()) };
        // Done before it was cut off.
        if item.change != Change::Removed && there.kind == item.kind {
            return Ok(());
        }
        match new.take_away(path)? {
            true if item.change == Change::Removed => self.applied.done += 1,
            true => {}
            false => self.applied.kept.push(item.path.clone()),
        }
        Ok(())
    }

    fn make(&mut self, item: &'a Item) -> Result<()> {
        let number = item.place.0;
        let (volume, path) = (self.volume(item), item.place.1.as_path());
        let (running, new) = (&volume.running, &volume.new);
        match &item.decision {
            Decision::Left(_) | Decision::New(_) => return Ok(()),
            Decision::Beside(_) => return self.put_beside(item),
            Decision::Take | Decision::Running(_) if item.change == Change::Removed => {
                return Ok(());
            }
            Decision::Take | Decision::Running(_) => {
                // Not empty there: neither takes the place of the other.
                if self.applied.kept.contains(&item.path) {
                    return self.put_beside(item);
                }
                if item.kind.is_dir() {
                    if !path.as_os_str().is_empty() {
                        parents(new, running, path)?;
                    }
                    match path.as_os_str().is_empty() {
                        true => {
                            new.put_properties(path, Some(running), Some(running), Some(running))?
                        }
                        false => new.put_directory(path, running)?,
                    }
                } else {
                    parents(new, running, path)?;
                    match self.other_name(number, path, running, new)? {
                        Some(first) => new.put_link(path, &first)?,
                        None => new.put(path, &Parts::of(running))?,
                    }
                }
            }
            // Nothing but a word to a person.
            Decision::Mix(mix) if mix.is_new() => return Ok(()),
            Decision::Mix(_) | Decision::Merge(..) => {
                self.mix(item)?;
                self.applied.done += 1;
                return Ok(());
            }
        }
        self.done.insert((number, path.to_owned()));
        self.applied.done += 1;
        Ok(())
    }

    /// Make a name of which the parts come from both sides. Another name of the same file has them
    /// only if they are to be the same, and it was the same file on both.
    fn mix(&mut self, item: &'a Item) -> Result<()> {
        let volume = &self.carry.volumes[item.place.0];
        let path = item.place.1.as_path();
        let (running, new) = (&volume.running, &volume.new);
        let (here, there) = (look(running, path)?, look(new, path)?);
        let here = here.context("it is gone")?;
        let inode = there.map_or(0, |meta| meta.ino);
        let names = self.mixed.entry((item.place.0, here.ino, inode));
        let names = names.or_default();
        let first = names.iter().find(|other| other.decision == item.decision);
        if let Some(first) = first.filter(|_| item.kind.is_file()) {
            return Ok(new.put_link(path, &first.place.1)?);
        }
        let is_alone = item.kind.is_dir() || there.is_none_or(|meta| meta.nlink < 2);
        match &item.decision {
            Decision::Merge(text, mix) => {
                new.put(path, &parts(mix, Content::Bytes(text), running, new))?;
            }
            Decision::Mix(mix) if mix.content == From::Running => {
                new.put(path, &parts(mix, Content::Of(running), running, new))?;
            }
            Decision::Mix(mix) if is_alone => {
                let of = |from| (from == From::Running).then_some(running);
                new.put_properties(path, of(mix.mode), of(mix.owner), of(mix.attributes))?;
            }
            // Its other names stay as they are.
            Decision::Mix(mix) => new.put(path, &parts(mix, Content::Of(new), running, new))?,
            _ => return Ok(()),
        }
        names.push(item);
        Ok(())
    }

    fn put_beside(&mut self, item: &Item) -> Result<()> {
        let volume = &self.carry.volumes[item.place.0];
        let path = item.place.1.as_path();
        let is_below = item.decision == Decision::Beside(Conflict::Way);
        if is_below || item.kind.is_dir() {
            let to = put_aside(volume, path)?;
            let to = to.map(|to| volume.mount.join(to));
            self.applied.beside.extend(to);
            return Ok(());
        }
        if let Some(name) = beside(item, volume)? {
            let there = path.with_file_name(&name);
            let all = Parts::of(&volume.running);
            volume.new.put_as(&there, &all, path)?;
            self.applied.beside.push(item.path.with_file_name(name));
        }
        Ok(())
    }

    /// Another name of the same file, which is there already as it should be.
    fn other_name(
        &self,
        number: usize,
        path: &Path,
        running: &Root,
        new: &Root,
    ) -> Result<Option<PathBuf>> {
        for name in self.links.of(number, path).iter().filter(|n| *n != path) {
            if self.done.contains(&(number, name.clone())) || is_same(running, new, name)? {
                return Ok(Some(name.clone()));
            }
        }
        Ok(None)
    }
}

fn parts<'a>(mix: &Mix, content: Content<'a>, running: &'a Root, new: &'a Root) -> Parts<'a> {
    let of = |from| match from {
        From::Running => running,
        From::New => new,
    };
    Parts {
        content,
        mode: of(mix.mode),
        owner: of(mix.owner),
        attributes: of(mix.attributes),
    }
}

/// Directories on the way that the new environment has not, as the running system has them.
fn parents(new: &Root, running: &Root, path: &Path) -> Result<()> {
    let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) else {
        return Ok(());
    };
    if entry::open_dir(new.fd(), parent)?.is_some() {
        return Ok(());
    }
    parents(new, running, parent)?;
    Ok(new.put_directory(parent, running)?)
}

/// What is at a path, no link followed; none if it is not there.
fn look(root: &Root, path: &Path) -> Result<Option<entry::Meta>> {
    let parent = path.parent().unwrap_or(Path::new(""));
    let name = path.file_name().unwrap_or(OsStr::new("."));
    match entry::open_dir(root.fd(), parent)? {
        Some(dir) => Ok(entry::stat(dir.as_fd(), name)?),
        None => Ok(None),
    }
}

fn is_same(a: &Root, b: &Root, path: &Path) -> Result<bool> {
    let parent = path.parent().unwrap_or(Path::new(""));
    let name = path.file_name().unwrap_or(OsStr::new("."));
    let (Some(one), Some(other)) = (
        entry::open_dir(a.fd(), parent)?,
        entry::open_dir(b.fd(), parent)?,
    ) else {
        return Ok(false);
    };
    let (Some(in_a), Some(in_b)) = (
        entry::stat(one.as_fd(), name)?,
        entry::stat(other.as_fd(), name)?,
    ) else {
        return Ok(false);
    };
    let aspects = entry::aspects(
        (one.as_fd(), &in_a),
        (other.as_fd(), &in_b),
        name,
        Reading::Unshared,
    )?;
    Ok(aspects.is_empty())
}

/// Put a directory of the running system, or what is in it, below the name of what the environment
/// has in its place, with [`BESIDE`] behind it. Gives where it is; none if it was there.
fn put_aside(volume: &Volume, path: &Path) -> Result<Option<PathBuf>> {
    let (running, new) = (&volume.running, &volume.new);
    let (mut from, mut to) = (PathBuf::new(), PathBuf::new());
    let mut is_aside = false;
    for name in path {
        from.push(name);
        let there = look(new, &to.join(name))?;
        let is_other = there.is_some_and(|meta| !meta.kind.is_dir());
        if !is_aside && !is_other {
            to.push(name);
            continue;
        }
        let was_aside = std::mem::replace(&mut is_aside, true);
        let Some(name) = spot(volume, &from, &to, name, was_aside)? else {
            return Ok(None);
        };
        to.push(name);
        match look(running, &from)?.is_some_and(|meta| meta.kind.is_dir()) {
            true if look(new, &to)?.is_some() => {}
            true => new.put_directory_as(&to, running, &from)?,
            false => new.put_as(&to, &Parts::of(running), &from)?,
        }
    }
    Ok(Some(to))
}

/// A name in `to` of the environment for what the running system has at `from`, which takes
/// nothing from anything else that is kept: the very one, if that is `free`, or with [`BESIDE`]
/// and a number behind it. None if the same is kept there.
fn spot(
    volume: &Volume,
    from: &Path,
    to: &Path,
    name: &OsStr,
    free: bool,
) -> Result<Option<OsString>> {
    let (running, new) = (&volume.running, &volume.new);
    let here = look(running, from)?.context("it is gone")?;
    let names = (1..MOST_WAITING).map(|number| {
        let mut other = name.to_owned();
        other.push(BESIDE);
        if number > 1 {
            other.push(format!("-{number}"));
        }
        other
    });
    for name in free.then(|| name.to_owned()).into_iter().chain(names) {
        let Some(there) = look(new, &to.join(&name))? else {
            return Ok(Some(name));
        };
        match there.kind {
            kind if kind != here.kind => {}
            FileType::Dir => return Ok(Some(name)),
            _ if is_known_same((new, &to.join(&name)), (running, from))? => return Ok(None),
            _ => {}
        }
    }
    anyhow::bail!("too many versions of it wait")
}

/// The name for what lies beside another; none if the very same lies there already.
fn beside(item: &Item, volume: &Volume) -> Result<Option<OsString>> {
    let (running, new) = (&volume.running, &volume.new);
    let path = item.place.1.as_path();
    let name = path.file_name().context("it has no name")?;
    let parent = path.parent().unwrap_or(Path::new(""));
    if !item.path.starts_with("etc") {
        return spot(volume, path, parent, name, false);
    }
    let (Some(here), Some(there)) = (
        entry::open_dir(running.fd(), parent)?,
        entry::open_dir(new.fd(), parent)?,
    ) else {
        return Ok(None);
    };
    let mut next = 0;
    for (other, _) in entry::names(&there)? {
        let bytes = other.as_bytes();
        let Some(rest) = bytes.strip_prefix(b"._cfg") else {
            continue;
        };
        let Some((digits, rest)) = rest.split_at_checked(4) else {
            continue;
        };
        if rest.strip_prefix(b"_") != Some(name.as_bytes()) {
            continue;
        }
        let digits = std::str::from_utf8(digits).ok();
        let Some(number) = digits.and_then(|d| d.parse::<u32>().ok()) else {
            continue;
        };
        let waits = entry::stat(there.as_fd(), &other)?;
        let mine = entry::stat(here.as_fd(), name)?;
        if let (Some(waits), Some(mine)) = (waits, mine)
            && waits.kind == FileType::File
            && mine.kind == FileType::File
            && is_known_same((new, &parent.join(&other)), (running, path))?
        {
            return Ok(None);
        }
        next = next.max(number + 1);
    }
    anyhow::ensure!(next <= MOST_WAITING, "too many versions of it wait");
    let mut waiting = OsString::from(format!("._cfg{next:04}_"));
    waiting.push(name);
    Ok(Some(waiting))
}

/// Larger files than this are not compared to find out that they wait already, in bytes.
const MAX_WAITING: u64 = 16 << 20;

/// Whether two files, or links, have the same content; not known of large ones and of devices.
fn is_known_same(a: (&Root, &Path), b: (&Root, &Path)) -> Result<bool> {
    let links = [a, b].map(|(root, path)| root.readlink(path).ok());
    if let [Some(one), Some(other)] = links {
        return Ok(one == other);
    }
    let read = |(root, path): (&Root, &Path)| root.strict_read(path, MAX_WAITING);
    Ok(matches!((read(a)?, read(b)?), (Some(one), Some(other)) if one == other))
}

/// All names of the files with several that are to be made.
#[derive(Default)]
struct Links {
    /// The inode on the running system, by volume.
    inodes: HashMap<(usize, PathBuf), u64>,
    names: HashMap<(usize, u64), Vec<PathBuf>>,
}

impl Links {
    fn of_all(session: &Session, carry: &Carry) -> Result<Self> {
        let mut found = Self::default();
        for (number, volume) in carry.volumes.iter().enumerate() {
            let mut wanted = BTreeSet::new();
            let mut open: Option<(&Path, Option<OwnedFd>)> = None;
            for item in &carry.items {
                let is_made = !matches!(item.decision, Decision::Left(_) | Decision::New(_))
                    && item.change != Change::Removed;
                if !is_made || item.place.0 != number || !item.kind.is_file() {
                    continue;
                }
                let path = item.place.1.as_path();
                let parent = path.parent().unwrap_or(Path::new(""));
                let dir = match open.take().filter(|(at, _)| *at == parent) {
                    Some((_, dir)) => dir,
                    None => entry::open_dir(volume.running.fd(), parent)?,
                };
                if let (Some(dir), Some(name)) = (&dir, path.file_name())
                    && let Some(meta) = entry::stat(dir.as_fd(), name)?
                    && meta.nlink > 1
                {
                    wanted.insert(meta.ino);
                }
                open = Some((parent, dir));
            }
            if wanted.is_empty() {
                continue;
            }
            let id = be_btrfs::subvolume_info(&volume.running)?.id;
            // Not of those alone that changed: a directory may have a new name.
            for (inode, path) in session.store.top.paths_of(id, &wanted)? {
                found.inodes.insert((number, path.clone()), inode);
                found.names.entry((number, inode)).or_default().push(path);
            }
        }
        Ok(found)
    }

    /// All names of the file that has this one; none if that is the only one.
    fn of(&self, number: usize, path: &Path) -> &[PathBuf] {
        let inode = self.inodes.get(&(number, path.to_owned()));
        let names = inode.and_then(|inode| self.names.get(&(number, *inode)));
        names.map_or(&[], Vec::as_slice)
    }
}
