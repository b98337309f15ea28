//! Finding what changed on the running system, and deciding about each name. Only read.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use be_btrfs::{FileType, Root};
use be_portage::config_files::contents;
use be_portage::diff::{self, PackageDiff};
use be_portage::vdb;

use super::decide::{Delta, From, Three, Verdict, decide};
use super::route::Route;
use super::rules::{Class, Why, class_of};
use super::{Carry, Clash, Conflict, Decision, Item, Mix};
use super::{rotated, text};
use crate::chroot::Interrupted;
use crate::diff::entry::{self, Meta, Reading};
use crate::diff::{Aspect, Change, Family, FileChange, files};
use crate::fstab::{Entry, Fstab};
use crate::layout;
use crate::manager::Manager;
use crate::model::{Environment, Inventory};
use crate::record::place;
use crate::session::Session;
use crate::upgrade::{farm, fd_path};
use crate::whole::Whole;

const VDB: &str = "var/db/pkg";

/// Texts that are larger are not merged, in bytes; logs may be longer.
const MAX_MERGED: u64 = 16 << 20;
pub(super) const MAX_LOG: u64 = 64 << 20;

/// What packages have installed is not read from a list that is larger, in bytes.
const MAX_CONTENTS: u64 = 256 << 20;

/// A subvolume in three states.
#[derive(Debug)]
pub(super) struct Volume {
    /// Where it is mounted, from the root of the system.
    pub mount: PathBuf,
    pub base: Root,
    pub running: Root,
    pub new: Root,
    /// When base and new environment parted, in seconds since 1970.
    parted: Option<i64>,
}

/// Where the running system is read from.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// The running system itself, which goes on meanwhile: to show what would be carried.
    Live,
    /// Snapshots of its subvolumes, in this directory, by [`crate::record::place`]; until
    /// somebody interrupts it.
    Snapshots(&'a Path, &'a Interrupted),
}

/// Find out what would go from the running system into an environment.
///
/// # Errors
/// When one of the trees cannot be read, or somebody interrupts it.
pub fn survey(
    session: &Session,
    inv: &Inventory,
    route: &Route,
    origin: Origin<'_>,
) -> Result<Carry> {
    let family = Family::new(&session.store, inv)?;
    let mut carry = Carry {
        from: route.from.clone(),
        to: route.to.clone(),
        items: Vec::new(),
        packages: Vec::new(),
        notes: Vec::new(),
        diff: PackageDiff::default(),
        volumes: volumes(session, route, &family, origin)?,
    };
    let of_packages = packages(session, route, origin, &family, &mut carry)?;
    let split = layout::split_parts(session, inv)?;
    let split: Vec<PathBuf> = split.into_iter().map(|part| part.mount.clone()).collect();
    for path in &split {
        carry.notes.push(format!(
            "{} has become a subvolume of the running system: what is in it is not carried",
            path.display()
        ));
    }
    let caches = farm::caches(session);
    let interrupted = match origin {
        Origin::Live => None,
        Origin::Snapshots(_, interrupted) => Some(interrupted),
    };
    let mut found = Vec::new();
    for (number, volume) in carry.volumes.iter().enumerate() {
        let changes = files(
            &volume.base,
            &volume.running,
            Some(&family),
            Reading::Unshared,
            interrupted,
        )
        .with_context(|| format!("cannot compare /{}", volume.mount.display()))?;
        let mut looking = Looking::new(volume, session, (&split, &caches));
        for change in changes {
            interrupted.map_or(Ok(()), Interrupted::go_on)?;
            let is_new_dir = change.kind.is_dir() && change.change == Change::Added;
            if route.wants(&volume.mount.join(&change.path), is_new_dir) {
                let item = looking.item(number, change, &of_packages);
                found.extend(item.transpose());
            }
        }
    }
    carry.items = found.into_iter().collect::<Result<_>>()?;
    carry.items.sort_by(|a, b| a.path.cmp(&b.path));
    leave_to_packages(session, inv.get(&route.to)?, route, &mut carry)?;
    rotated::follow(&mut carry)?;
    Ok(carry)
}

/// The subvolumes that are in both.
fn volumes(
    session: &Session,
    route: &Route,
    family: &Family<'_>,
    origin: Origin<'_>,
) -> Result<Vec<Volume>> {
    let store = &session.store;
    let mut found = Vec::new();
    for leg in &route.legs {
        let running = match origin {
            Origin::Live => store.root_of(&leg.here.path)?,
            Origin::Snapshots(dir, _) => store.root_of(&dir.join(place(&leg.mount)))?,
        };
        let new = store.root_of(&leg.there)?;
        let base = store.root_of(&leg.base);
        let base = base.with_context(|| format!("/{} is gone", leg.base.display()))?;
        let parted = family.parted(&base, &new)?.map(|parted| parted.time);
        found.push(Volume {
            mount: leg.mount.trim_matches('/').into(),
            running,
            new,
            parted,
            base,
        });
    }
    Ok(found)
}

/// What became of packages on the running system, and which files belong to those.
fn packages(
    session: &Session,
    route: &Route,
    origin: Origin<'_>,
    family: &Family<'_>,
    carry: &mut Carry,
) -> Result<OfPackages> {
    let mut owned = HashSet::new();
    match session.manager_of(&session.root)? {
        Some(Manager::Portage) => {}
        // Which package a file belongs to is not asked of others: none of theirs goes over.
        Some(Manager::Profile(_)) => return Ok(OfPackages::All),
        None => return Ok(OfPackages::These(owned)),
    }
    let base = route.whole_base(&session.store)?;
    let running = match origin {
        Origin::Live => Whole::from(session.root.try_clone()?),
        Origin::Snapshots(dir, _) => route.whole_held(&session.store, dir)?,
    };
    // Of one volume btrfs knows when it parted from its base.
    let time = match &carry.volumes[..] {
        [volume] => family.parted(&volume.base, &volume.running)?,
        _ => None,
    };
    let time = time.map(|parted| parted.time);
    let changed = vdb::load_changed(&fd_path(&base), &fd_path(&running), time)?;
    let diff = diff::diff(&changed.before, &changed.after);
    let links = links(&running)?;
    carry.packages = diff.lines();
    let mut add = |root: &Root, name: &str, version: &str| -> Result<()> {
        let file = Path::new(VDB).join(format!("{name}-{version}/CONTENTS"));
        let text = match root.read(&file, MAX_CONTENTS) {
            Ok(text) => text,
            Err(e) if e.is_not_found() => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        for path in contents::paths(&text).map(as_path) {
            owned.extend(links.iter().filter_map(|link| link.followed(&path)));
            owned.insert(path);
        }
        Ok(())
    };
    for entry in &diff.added {
        add(&running, &entry.package, &entry.version)?;
    }
    for entry in &diff.removed {
        add(&base, &entry.package, &entry.version)?;
    }
    let others = [&diff.upgraded, &diff.downgraded, &diff.rebuilt];
    for change in others.into_iter().flatten() {
        add(&base, &change.package, &change.from)?;
        add(&running, &change.package, &change.to)?;
    }
    carry.diff = diff;
    Ok(OfPackages::These(owned))
}

/// Files that belong to packages which changed on the running system.
enum OfPackages {
    These(HashSet<PathBuf>),
    /// All where packages put their files.
    All,
}

/// Where packages put their files, from the root of the system.
const OF_PACKAGES: [&str; 8] = [
    "bin", "lib", "lib32", "lib64", "libx32", "sbin", "usr", "opt",
];

/// Where nobody but the owner of the machine does.
const OF_OWNER: &str = "usr/local";

fn is_for_packages(path: &Path) -> bool {
    let below = OF_PACKAGES.iter().any(|dir| path.starts_with(dir));
    below && !path.starts_with(OF_OWNER)
}

impl OfPackages {
    fn has(&self, path: &Path) -> bool {
        match self {
            OfPackages::These(paths) => paths.contains(path),
            OfPackages::All => is_for_packages(path),
        }
    }
}

/// A directory of the root that is a link into another, as /lib64 is where /usr was merged;
/// packages name their files by way of it.
struct Link {
    from: PathBuf,
    to: PathBuf,
}

impl Link {
    /// A path by way of it, by its other name.
    fn followed(&self, path: &Path) -> Option<PathBuf> {
        Some(self.to.join(path.strip_prefix(&self.from).ok()?))
    }
}

fn links(root: &Root) -> Result<Vec<Link>> {
    let mut found = Vec::new();
    for name in [
        "bin",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "sbin",
        "usr/sbin",
        "usr/lib64",
    ] {
        let from = PathBuf::from(name);
        let is_link = match root.lstat(&from) {
            Ok(meta) => meta.kind.is_symlink(),
            Err(e) if e.is_not_found() => false,
            Err(e) => return Err(e.into()),
        };
        if is_link && let Ok(to) = root.canonicalize(&from) {
            found.push(Link { from, to });
        }
    }
    Ok(found)
}

fn as_path(absolute: &[u8]) -> PathBuf {
    let path = absolute.strip_prefix(b"/").unwrap_or(absolute);
    std::ffi::OsString::from_vec(path.to_vec()).into()
}

/// The directory in question, open in all three trees.
struct Dirs {
    path: PathBuf,
    base: Option<OwnedFd>,
    running: Option<OwnedFd>,
    new: Option<OwnedFd>,
    /// In the new environment something on the way is no directory.
    blocked: bool,
}

/// One volume at work: the directory that was looked into last stays open.
struct Looking<'a> {
    volume: &'a Volume,
    session: &'a Session,
    /// Directories of the running system that have become subvolumes of their own.
    split: &'a [PathBuf],
    /// Directories of the running system with what compilers have made for all environments.
    caches: &'a [PathBuf],
    dirs: Option<Dirs>,
    /// A directory that takes the place of something else: what is in it comes with it.
    replaced: Option<PathBuf>,
}

impl<'a> Looking<'a> {
    fn new(
        volume: &'a Volume,
        session: &'a Session,
        (split, caches): (&'a [PathBuf], &'a [PathBuf]),
    ) -> Self {
        Self {
            volume,
            session,
            split,
            caches,
            dirs: None,
            replaced: None,
        }
    }

    /// What becomes of a changed name; nothing if the new environment has it like that.
    fn item(
        &mut self,
        number: usize,
        change: FileChange,
        of_packages: &OfPackages,
    ) -> Result<Option<Item>> {
        let path = self.volume.mount.join(&change.path);
        let class = match self.caches.iter().any(|cache| path.starts_with(cache)) {
            true => Class::Left(Why::Cache),
            false => class_of(&path, &self.session.config.carry),
        };
        let mut item = Item {
            kind: change.kind,
            change: change.change,
            decision: Decision::Take,
            place: (number, change.path),
            path,
        };
        let in_package = of_packages.has(&item.path) && !item.path.starts_with("etc");
        let decision = match class {
            Class::Left(why) => Some(Decision::Left(why)),
            _ if in_package => Some(Decision::Left(Why::OfPackage)),
            class => {
                let looked = self.decision(&item, class);
                looked.with_context(|| format!("cannot compare /{}", item.path.display()))?
            }
        };
        let becomes_dir = item.kind.is_dir()
            && matches!(&item.change, Change::Changed(a) if a.contains(&Aspect::Type));
        if becomes_dir && matches!(decision, Some(Decision::Take | Decision::Running(_))) {
            self.replaced = Some(item.place.1.clone());
            // It was seen as what it is no more.
            self.dirs = None;
        }
        Ok(decision.map(|decision| {
            item.decision = decision;
            item
        }))
    }

    fn decision(&mut self, item: &Item, class: Class) -> Result<Option<Decision>> {
        let path = item.place.1.as_path();
        let parent = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().unwrap_or(OsStr::new("."));
        if self.dirs.as_ref().is_none_or(|dirs| dirs.path != parent) {
            self.dirs = Some(self.open(parent)?);
        }
        let Some(dirs) = &self.dirs else {
            return Ok(None);
        };
        if dirs.blocked {
            return Ok(match item.change {
                Change::Removed => None,
                _ => Some(Decision::Beside(Conflict::Way)),
            });
        }
        let stat = |dir: &Option<OwnedFd>| -> Result<Option<Meta>> {
            Ok(match dir {
                Some(dir) => entry::stat(dir.as_fd(), name)?,
                None => None,
            })
        };
        let (base, running, new) = (stat(&dirs.base)?, stat(&dirs.running)?, stat(&dirs.new)?);
        if running.is_some_and(|meta| meta.is_socket()) {
            return Ok(Some(Decision::Left(Why::Socket)));
        }
        let compare = |a: (&Option<OwnedFd>, Option<Meta>), b: (&Option<OwnedFd>, Option<Meta>)| {
            let (Some(dir_a), Some(a)) = (a.0.as_ref(), a.1) else {
                return Ok(Vec::new());
            };
            let (Some(dir_b), Some(b)) = (b.0.as_ref(), b.1) else {
                return Ok(Vec::new());
            };
            entry::aspects(
                (dir_a.as_fd(), &a),
                (dir_b.as_fd(), &b),
                name,
                Reading::Unshared,
            )
        };
        let there = match (base, new) {
            (None, None) => Delta::Same,
            (None, Some(_)) => Delta::Added,
            (Some(_), None) => Delta::Removed,
            (Some(a), Some(b)) if a.is_untouched(&b, self.volume.parted) => Delta::Same,
            (a, b) => match compare((&dirs.base, a), (&dirs.new, b))? {
                aspects if aspects.is_empty() => Delta::Same,
                aspects => Delta::Changed(aspects),
            },
        };
        let here = match &item.change {
            Change::Added => Delta::Added,
            Change::Removed => Delta::Removed,
            Change::Changed(aspects) => Delta::Changed(aspects.clone()),
        };
        let apart = match there {
            Delta::Same => Vec::new(),
            _ => compare((&dirs.running, running), (&dirs.new, new))?,
        };
        let three = Three {
            running: here,
            new: there,
            apart,
        };
        let prefer = match class {
            Class::Configuration(_) => From::New,
            _ => From::Running,
        };
        self.resolve(item, class, decide(&three, prefer))
    }

    fn resolve(&self, item: &Item, class: Class, verdict: Verdict) -> Result<Option<Decision>> {
        let configuration = matches!(class, Class::Configuration(_));
        Ok(Some(match verdict {
            Verdict::Already => return Ok(None),
            // Made from other files on the running system alone: it would be missing.
            _ if class == Class::Generated && verdict != Verdict::Take => {
                Decision::Left(Why::Generated)
            }
            // Each environment has lines of its own, whoever changed the file.
            Verdict::Take if is_fstab(class) && item.change != Change::Removed => {
                let mix = Mix {
                    content: From::Running,
                    mode: From::Running,
                    owner: From::Running,
                    attributes: From::Running,
                    contested: false,
                };
                match self.merged(item, class)? {
                    Some((text, _)) => Decision::Merge(text, mix),
                    None => Decision::Beside(Conflict::Content),
                }
            }
            Verdict::Take => Decision::Take,
            Verdict::Mix(mix) => Decision::Mix(mix),
            Verdict::Merge(mix) => match self.merged(item, class)? {
                Some((text, is_new)) if is_new && !mix.contested => {
                    // What is in it is done; perhaps the rest is, too.
                    let parts = [mix.mode, mix.owner, mix.attributes];
                    if !parts.contains(&From::Running) {
                        return Ok(None);
                    }
                    Decision::Merge(text, mix)
                }
                Some((text, _)) => Decision::Merge(text, mix),
                None if configuration || class == Class::Log => Decision::Beside(Conflict::Content),
                None => Decision::Running(Conflict::Content),
            },
            Verdict::Clash(Clash::RemovedHere) => Decision::New(Conflict::Removed),
            // The only version that there is.
            Verdict::Clash(Clash::RemovedThere) => Decision::Running(Conflict::Gone),
            Verdict::Clash(Clash::Type) => {
                let is_new = match &item.change {
                    Change::Changed(aspects) => aspects.contains(&Aspect::Type),
                    _ => true,
                };
                match item.kind {
                    // Nothing but its permissions or its owner would be beside.
                    FileType::Dir if !is_new => Decision::New(Conflict::Type),
                    _ => Decision::Beside(Conflict::Type),
                }
            }
        }))
    }

    /// The contents put together, and whether the new environment has them already.
    fn merged(&self, item: &Item, class: Class) -> Result<Option<(Vec<u8>, bool)>> {
        let list = match class {
            Class::Configuration(list) => list,
            Class::Log => Some(text::List::Log),
            Class::Data | Class::Generated | Class::Left(_) => return Ok(None),
        };
        let path = item.place.1.as_path();
        let most = match class {
            Class::Log => MAX_LOG,
            _ => MAX_MERGED,
        };
        let read = |root: &Root| root.strict_read(path, most);
        let base = match item.change {
            // New on both sides: what they were made from is empty.
            Change::Added => Some(Vec::new()),
            _ => read(&self.volume.base)?,
        };
        let (Some(base), Some(running), Some(new)) =
            (base, read(&self.volume.running)?, read(&self.volume.new)?)
        else {
            return Ok(None);
        };
        let running = match is_fstab(class) {
            true => self.without_split(running),
            false => running,
        };
        let merged = text::merge(&base, &running, &new, list);
        Ok(merged.map(|text| {
            let is_new = text == new;
            (text, is_new)
        }))
    }

    /// An fstab without the lines of subvolumes that only the running system has.
    fn without_split(&self, fstab: Vec<u8>) -> Vec<u8> {
        match String::from_utf8(fstab) {
            Ok(text) => {
                let own = |e: &Entry| self.split.contains(&e.target);
                Fstab::parse(&text).without(own).to_text().into_bytes()
            }
            Err(e) => e.into_bytes(),
        }
    }

    fn open(&self, parent: &Path) -> Result<Dirs> {
        let open = |root: &Root| entry::open_dir(root.fd(), parent);
        let new = open(&self.volume.new)?;
        let is_made = self
            .replaced
            .as_ref()
            .is_some_and(|r| parent.starts_with(r));
        let blocked = new.is_none() && !is_made && is_blocked(&self.volume.new, parent)?;
        Ok(Dirs {
            path: parent.to_owned(),
            base: open(&self.volume.base)?,
            running: open(&self.volume.running)?,
            new,
            blocked,
        })
    }
}

fn is_fstab(class: Class) -> bool {
    class == Class::Configuration(Some(text::List::Filesystems))
}

/// Whether something on the way to a directory is there and is none.
fn is_blocked(root: &Root, dir: &Path) -> Result<bool> {
    let mut at = PathBuf::new();
    for name in dir {
        let Some(open) = entry::open_dir(root.fd(), &at)? else {
            return Ok(false);
        };
        match entry::stat(open.as_fd(), name)? {
            None => return Ok(false),
            Some(meta) if !meta.kind.is_dir() => return Ok(true),
            Some(_) => at.push(name),
        }
    }
    Ok(false)
}

/// Where both sides changed a file that belongs to a package, outside of /etc, that of the
/// new environment stays: it goes with the rest of the package.
fn leave_to_packages(
    session: &Session,
    env: &Environment,
    route: &Route,
    carry: &mut Carry,
) -> Result<()> {
    let is_asked = |item: &Item| {
        matches!(item.decision, Decision::Running(_) | Decision::Beside(_))
            && !item.path.starts_with("etc")
    };
    let asked: HashSet<PathBuf> = carry
        .items
        .iter()
        .filter(|item| is_asked(item))
        .map(|item| item.path.clone())
        .collect();
    if asked.is_empty() {
        return Ok(());
    }
    let mut owned = HashSet::new();
    for root in [session.whole(env)?, route.whole_base(&session.store)?] {
        let links = links(&root)?;
        let names = |path: &[u8]| {
            let path = as_path(path);
            let others: Vec<_> = links.iter().filter_map(|l| l.followed(&path)).collect();
            others.into_iter().chain([path])
        };
        let wanted = |path: &[u8]| names(path).any(|path| asked.contains(&path));
        let found = contents::owned(&fd_path(&root), wanted)?;
        owned.extend(found.iter().flat_map(|path| names(path)));
    }
    for item in carry.items.iter_mut().filter(|item| is_asked(item)) {
        // What nobody owns there is made by packages, too, when they are installed.
        let of_package = owned.contains(&item.path) || is_for_packages(&item.path);
        if of_package
            && let Decision::Running(conflict) | Decision::Beside(conflict) = item.decision
        {
            item.decision = Decision::New(conflict);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_name_their_files_by_way_of_links() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("usr/lib64")).unwrap();
        std::os::unix::fs::symlink("usr/lib64", dir.path().join("lib64")).unwrap();
        let links = links(&Root::open(dir.path()).unwrap()).unwrap();
        let followed = |path: &str| links.iter().find_map(|l| l.followed(Path::new(path)));
        assert_eq!(
            followed("lib64/libc.so.6"),
            Some("usr/lib64/libc.so.6".into())
        );
        assert_eq!(followed("usr/lib64/libc.so.6"), None);
    }

    #[test]
    fn where_packages_put_their_files() {
        for (path, expected) in [
            ("usr/share/glib-2.0/schemas/gschemas.compiled", true),
            ("lib64/libc.so.6", true),
            ("usr/local/bin/mine", false),
            ("home/usr/x", false),
            ("etc/x", false),
        ] {
            assert_eq!(is_for_packages(Path::new(path)), expected, "{path}");
        }
    }
}
