//! Reading the system: everything that a decision may depend on, once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use be_btrfs::{Node, Root, Tree, Uuid};
use be_grub::access::Access;
use nix::libc;

use crate::block;
use crate::bootfs;
use crate::crypt;
use crate::fstab::Fstab;
use crate::layout::{self, Layout, Names, subvolume};
use crate::model::{
    Block, Environment, Filesystem, GrubConfig, Inventory, MenuState, Mount, Place, STORE,
    SnapshotState, System,
};
use crate::mountinfo::{self, Row};
use crate::name::{EnvName, Named, SnapName};
use crate::plan::Use;
use crate::record::{self, Member, Policy, Record, Snapshot, State};
use crate::refusal::Refusal;
use crate::store::{Paths, Store};

/// The longest text file that is read whole, in bytes.
pub(crate) const MAX_TEXT: u64 = 4 << 20;

/// Where GRUB's own files are, from the root.
pub(crate) const GRUB_HOMES: [&str; 2] = ["boot/grub", "boot/grub2"];

/// Read everything about the system mounted at `sysroot`.
///
/// # Errors
/// [`Refusal::NotASystem`], or whatever cannot be read.
pub fn observe(store: &Store, sysroot: &Path) -> Result<Inventory> {
    let rows = read_mountinfo("self")?;
    let tree = store.top.tree()?;
    let root_dir = Root::open(sysroot)?;
    let root = system_root(&tree, &root_dir, sysroot)?;
    let initialised = store.exists();
    let device = device_of(&rows, sysroot)
        .with_context(|| format!("{} is below no mount", sysroot.display()))?;
    let records = if initialised {
        store.records()?
    } else {
        Vec::new()
    };

    let mut damaged = Vec::new();
    let mut readable = Vec::new();
    for (name, record) in records {
        match record {
            Ok(record) => readable.push(record),
            Err(why) => damaged.push((name, why)),
        }
    }
    let header = if initialised {
        read_menu(store)
    } else {
        Ok(None)
    };
    let read = header.as_ref().ok().and_then(Option::as_ref);
    let block = read.and_then(|h| h.block.clone()).map(|at| Block {
        choice: block::read(store, &at).map_err(|e| format!("{e:#}")),
        at,
    });
    let chosen = chosen(read, block.as_ref());

    let in_store = by_environment(&tree);
    let merges = readable.iter().filter_map(Record::unfinished_merge);
    let merged: HashSet<EnvName> = merges.map(|live| live.from.clone()).collect();
    let mut environments: Vec<_> = readable
        .into_iter()
        .map(|record| {
            let root_node = root_of(&tree, &record);
            let mounted = |node: Option<&Node>| {
                let path = node.map(|n| Path::new("/").join(&n.path));
                rows.iter()
                    .filter(|r| r.device == device && Some(&r.root) == path.as_ref())
                    .map(|r| r.target.clone())
                    .collect::<Vec<_>>()
            };
            let members = record.subvolumes.iter();
            let subvolumes = members
                .map(|m| member_of(&tree, &record, m).map(subvolume))
                .collect();
            let snapshots = record.snapshots.iter().map(|s| {
                let found = snapshot_of(&tree, &record.name, s);
                SnapshotState {
                    mounted: mounted(found.first().copied().flatten()),
                    subvolumes: found.into_iter().map(|n| n.map(subvolume)).collect(),
                }
            });
            let snapshots = snapshots.collect();
            let below = in_store.get(OsStr::new(record.name.as_str()));
            let foreign = foreign_in(below.map_or(&[], Vec::as_slice), &record);
            let is = |name: &Option<String>| {
                let name = name.as_deref();
                name.is_some_and(|name| names(&record).any(|n| n.as_str() == name))
            };
            Environment {
                running: root_node.is_some_and(|n| n.id == root.id),
                next: is(&chosen.next),
                default: is(&chosen.default),
                once: is(&chosen.once),
                trial: chosen.trial.as_ref().and_then(|(name, left)| {
                    let on_trial = names(&record).any(|n| n.as_str() == name);
                    on_trial.then_some(*left)
                }),
                busy: (record.state == State::Building || merged.contains(&record.name))
                    && store.is_claimed(&record.name),
                paused: record.state == State::Building && store.is_paused(&record.name),
                root: root_node.map(subvolume),
                mounted: mounted(root_node),
                subvolumes,
                snapshots,
                foreign,
                lent: Vec::new(),
                record,
            }
        })
        .collect();
    lend(store, &tree, &mut environments);
    let running = root.uuid.to_string();
    if environments
        .iter()
        .any(|env| env.waits_for_shutdown(&running))
    {
        for env in &mut environments {
            env.next = env.waits_for_shutdown(&running);
        }
    }
    environments.sort_by(|a, b| (a.record.created, a.name()).cmp(&(b.record.created, b.name())));

    let fs = filesystem(store, device)?;
    let mut system = observe_system(&root_dir, root, (&rows, &fs.number), sysroot);
    system.layout = layout_of(store, &fs, &tree, root, Some(&system.mounts))?;
    // What lies below a directory that fstab would mount something on is not what GRUB reads.
    let hidden = |home: &String| {
        let home = Path::new("/").join(home);
        let mut entries = system.layout.fstab.entries().map(|e| &e.target);
        entries.any(|t| t != Path::new("/") && home.starts_with(t))
    };
    system.grub_home = system.grub_home.filter(|home| !hidden(home));
    let own = system.layout.parts.iter().filter(|p| p.is_own());
    let cloned: Vec<u64> = own.map(|p| p.subvolume.id).chain([root.id]).collect();
    system.swapfiles = swapfiles_in(&cloned, sysroot);
    let menu = menu_state(store, &root_dir, &system, &environments, header, block);
    let mut leftovers = store.work(Paths::NEW);
    leftovers.extend(store.work(Paths::GONE));
    leftovers.extend(store.work(Paths::SPLIT));
    let renaming = environments.iter().filter(|e| e.record.renaming.is_some());
    leftovers.extend(renaming.map(|e| e.name().to_string()));
    Ok(Inventory {
        sysroot: sysroot.to_owned(),
        fs,
        system,
        initialised,
        environments,
        damaged,
        leftovers,
        menu,
    })
}

/// What cannot be looked at counts as missing.
fn is_there(dir: &Root, path: &Path) -> bool {
    dir.exists(path).unwrap_or(false)
}

fn filesystem(store: &Store, number: String) -> Result<Filesystem> {
    let space = store.top.space()?;
    let devices = store.top.devices()?;
    Ok(Filesystem {
        uuid: store.top.fs_uuid().to_string(),
        device: store.top.device().to_owned(),
        number,
        partuuid: match devices.len() {
            1 => partuuid(store.top.device()),
            // The kernel alone cannot put several devices together.
            _ => None,
        },
        read_only: store.top.is_read_only()?,
        free: space.data_available().min(space.metadata_available()),
        default_subvolume: store.top.default_subvolume()?,
        quotas: store.top.has_quotas(),
    })
}

/// The PARTUUID of a device, as udev's links have it.
fn partuuid(device: &Path) -> Option<String> {
    let device = device.canonicalize().ok()?;
    std::fs::read_dir("/dev/disk/by-partuuid")
        .ok()?
        .flatten()
        .find(|link| link.path().canonicalize().is_ok_and(|d| d == device))?
        .file_name()
        .into_string()
        .ok()
}

fn system_root<'a>(tree: &'a Tree, dir: &Root, sysroot: &Path) -> Result<&'a Node> {
    if !be_btrfs::is_subvolume_root(dir)? {
        return Err(Refusal::NotASystem {
            path: sysroot.to_owned(),
            why: "it is not the root of a subvolume".into(),
        }
        .into());
    }
    let id = be_btrfs::subvolume_of(dir)?.id;
    tree.by_id(id)
        .with_context(|| format!("subvolume {id} is not in the tree of roots"))
}

/// The name of an environment, and the one that it is getting: the menu has either.
fn names(record: &Record) -> impl Iterator<Item = &EnvName> {
    std::iter::once(&record.name).chain(&record.renaming)
}

/// A subvolume of a record, as [`root_of`].
fn member_of<'a>(tree: &'a Tree, record: &Record, member: &Member) -> Option<&'a Node> {
    if member.mount == "/" {
        return root_of(tree, record);
    }
    if record.adopted {
        return tree.by_uuid(member.uuid.parse().ok()?);
    }
    let uuids = std::iter::once(&member.uuid).chain(&member.replacement);
    let mut uuids = uuids.filter_map(|uuid| uuid.parse::<Uuid>().ok());
    tree.by_path(Paths::environment(&record.name).join(member.place()))
        .filter(|n| uuids.any(|uuid| n.uuid == uuid))
}

/// The subvolumes of a snapshot that are at their place, with the UUIDs of the record.
fn snapshot_of<'a>(tree: &'a Tree, env: &EnvName, snapshot: &Snapshot) -> Vec<Option<&'a Node>> {
    let dir = Paths::environment(env).join(snapshot.place());
    let made = snapshot.made();
    made.map(|(path, uuid)| {
        let uuid: Uuid = uuid.parse().ok()?;
        tree.by_path(dir.join(path)).filter(|n| n.uuid == uuid)
    })
    .collect()
}

/// The root subvolume of a record: by its UUID where it was adopted (its owner may have
/// renamed it), else at its place in the store and with its UUID.
fn root_of<'a>(tree: &'a Tree, record: &Record) -> Option<&'a Node> {
    let uuid: Uuid = record.root()?.uuid.parse().ok()?;
    if record.adopted {
        if uuid.is_nil() {
            return tree
                .by_id(be_btrfs::TOP_LEVEL_ID)
                .filter(|n| n.uuid.is_nil());
        }
        return tree.by_uuid(uuid);
    }
    tree.by_path(Paths::environment(&record.name).join("root"))
        .filter(|n| n.uuid == uuid)
}

/// What the system with this root subvolume consists of; `mounts` if it is mounted.
///
/// # Errors
/// When its root cannot be opened.
fn layout_of(
    store: &Store,
    fs: &Filesystem,
    tree: &Tree,
    root: &Node,
    mounts: Option<&[Mount]>,
) -> Result<Layout> {
    let dir = store.root_of(&root.path)?;
    let (fstab, damage) = match dir.read_to_string("etc/fstab", MAX_TEXT) {
        Ok(text) => (Fstab::parse(&text), None),
        Err(e) if e.is_not_found() => (Fstab::default(), None),
        Err(e) => (Fstab::default(), Some(e.to_string())),
    };
    let names = Names {
        uuid: fs.uuid.clone(),
        devices: store.top.devices()?,
        default_subvolume: fs.default_subvolume,
        resolve: Some(|source| bootfs::uuid_of(source).ok()),
    };
    let chosen = |node: &Node| chosen_policy(store, &node.path);
    let (nested, mut parts) = layout::find(tree, root, &fstab, &names, &chosen);
    let own_boot = parts
        .iter()
        .position(|p| p.mount == Path::new("/boot"))
        .map(|at| parts.remove(at));
    let place = match own_boot {
        Some(part) => Some(record::Boot::new(
            fs.uuid.clone(),
            "btrfs".into(),
            Some(part.subvolume.path),
        )),
        None => separate_boot(&fstab, mounts.unwrap_or_default()),
    };
    let boot = place.map(|place| boot_at(&names.devices, place));
    Ok(Layout {
        fstab,
        nested,
        parts,
        boot,
        damage,
    })
}

fn boot_at(devices: &[PathBuf], place: record::Boot) -> layout::Boot {
    layout::Boot {
        locked_root: place.subvolume.is_none()
            && devices.iter().any(|d| !crypt::containers(d).is_empty()),
        place,
        size: 0,
    }
}

/// What the owner of a subvolume chose for it.
fn chosen_policy(store: &Store, path: &Path) -> Option<Policy> {
    let value = store
        .root_of(path)
        .ok()?
        .attribute(layout::ATTRIBUTE)
        .ok()??;
    Policy::parse(std::str::from_utf8(&value).ok()?)
}

/// A /boot on another filesystem: from fstab, or as it is mounted.
fn separate_boot(fstab: &Fstab, mounts: &[Mount]) -> Option<record::Boot> {
    let target = Path::new("/boot");
    let mounted = mounts
        .iter()
        .rev()
        .find(|m| m.target == target && !m.of_root && m.fstype != "autofs");
    let (source, fstype) = match (fstab.at(target), mounted) {
        (Some(entry), _) if entry.fstype != "auto" => (&entry.source, &entry.fstype),
        (_, Some(mount)) => (&mount.source, &mount.fstype),
        _ => return None,
    };
    if fstype == "btrfs" {
        // Of another filesystem, with a subvolume that would have to be minded.
        return None;
    }
    let uuid = bootfs::uuid_of(source).ok()?;
    Some(record::Boot::new(uuid, fstype.clone(), None))
}

/// What an environment, which need not be running, consists of, with the size of what a
/// clone of it would get.
///
/// # Errors
/// [`Refusal::RootMissing`], or what cannot be read.
pub fn layout(store: &Store, inv: &Inventory, env: &Environment) -> Result<Layout> {
    let mut layout = match (&env.root, env.running) {
        (_, true) => inv.system.layout.clone(),
        (None, false) => {
            let name = env.name().clone();
            return Err(Refusal::RootMissing { name }.into());
        }
        (Some(root), false) => {
            let tree = store.top.tree()?;
            let node = tree
                .by_id(root.id)
                .with_context(|| format!("subvolume {} is gone", root.id))?;
            layout_of(store, &inv.fs, &tree, node, None)?
        }
    };
    if layout.boot.is_none() {
        // One that is mounted by other means than fstab, and not now.
        let recorded = env.record.boot.clone();
        let devices = store.top.devices()?;
        layout.boot = recorded.map(|place| boot_at(&devices, place));
    }
    if let Some(boot) = &mut layout.boot {
        boot.size = bootfs::size(&bootfs::open(store, &boot.place, false)?.root)?;
    }
    Ok(layout)
}

/// As [`layout`], of a snapshot of an environment.
///
/// # Errors
/// [`Refusal::UnknownSnapshot`], [`Refusal::SnapshotGone`], or what cannot be read.
pub fn layout_of_snapshot(
    store: &Store,
    inv: &Inventory,
    env: &Environment,
    name: &SnapName,
) -> Result<Layout> {
    let (taken, found) = env.snapshot(name)?;
    let root = found.root().ok_or_else(|| Refusal::SnapshotGone {
        name: Named::snapshot(env.name(), name),
    })?;
    // What is shared is where it is now.
    let mut layout = match env.root {
        Some(_) => layout(store, inv, env)?,
        None => {
            let tree = store.top.tree()?;
            let node = tree.by_id(root.id).context("the snapshot is gone")?;
            layout_of(store, &inv.fs, &tree, node, None)?
        }
    };
    let text = store
        .root_of(&root.path)?
        .read_to_string("etc/fstab", MAX_TEXT);
    layout.fstab = Fstab::parse(&text.unwrap_or_default());
    let members: Vec<_> = taken.subvolumes.iter().zip(&found.subvolumes).collect();
    let at = |mount: &Path| members.iter().find(|(m, _)| Path::new(&m.mount) == mount);
    layout.nested = at(Path::new("/")).map_or_else(Vec::new, |(m, _)| m.nested.clone());
    layout.parts.retain_mut(|part| {
        part.listed = layout.fstab.at(&part.mount).is_some();
        match at(&part.mount) {
            _ if !part.is_own() => true,
            Some((member, Some(subvolume))) => {
                part.subvolume = subvolume.clone();
                part.nested.clone_from(&member.nested);
                true
            }
            _ => false,
        }
    });
    Ok(layout)
}

/// The subvolumes in the store, by the directory there: looked for once and not for each
/// of a thousand environments.
fn by_environment(tree: &Tree) -> HashMap<&OsStr, Vec<&Node>> {
    let mut found: HashMap<&OsStr, Vec<&Node>> = HashMap::new();
    for node in tree {
        if let Ok(below) = node.path.strip_prefix(STORE)
            && let Some(name) = below.iter().next()
        {
            found.entry(name).or_default().push(node);
        }
    }
    found
}

/// Those of the subvolumes below the directory of an environment that its record does not
/// prove to be its own, as paths in that directory.
fn foreign_in(below: &[&Node], record: &Record) -> Vec<PathBuf> {
    let home = Paths::environment(&record.name);
    let own: Vec<(PathBuf, Uuid)> = record
        .made()
        .into_iter()
        .filter_map(|(path, uuid)| Some((home.join(path), uuid.parse().ok()?)))
        .collect();
    let mut foreign: Vec<_> = below
        .iter()
        .filter(|n| {
            !own.iter()
                .any(|(path, uuid)| *path == n.path && *uuid == n.uuid)
        })
        .filter_map(|n| n.path.strip_prefix(&home).ok().map(Path::to_owned))
        .collect();
    foreign.sort();
    foreign
}

/// Find out which environments mount subvolumes of others. Where all consist of their roots
/// alone nothing can be lent.
fn lend(store: &Store, tree: &Tree, environments: &mut [Environment]) {
    let alone = |e: &Environment| e.foreign.is_empty() && e.record.subvolumes.len() < 2;
    if environments.iter().filter(|e| !e.record.adopted).all(alone) {
        return;
    }
    let mut lent: Vec<(EnvName, PathBuf)> = Vec::new();
    for env in environments.iter() {
        let Some(root) = &env.root else { continue };
        let text = store.root_of(&root.path).map(|dir| {
            dir.read_to_string("etc/fstab", MAX_TEXT)
                .unwrap_or_default()
        });
        let fstab = Fstab::parse(&text.unwrap_or_default());
        for entry in fstab.entries().filter(|e| e.is_btrfs()) {
            let by_id = || tree.by_id(entry.subvolid()?.parse().ok()?);
            let node = match entry.subvol() {
                Some(path) => tree.by_path(path),
                None => by_id(),
            };
            let home = Paths::environment(env.name());
            if let Some(node) = node.filter(|n| !n.path.starts_with(home)) {
                lent.push((env.name().clone(), node.path.clone()));
            }
        }
    }
    for env in environments {
        let home = Paths::environment(env.name());
        let of = |(_, path): &&(EnvName, PathBuf)| path.starts_with(&home);
        env.lent = lent.iter().filter(of).cloned().collect();
    }
}

fn observe_system(
    dir: &Root,
    root: &Node,
    (rows, device): (&[Row], &str),
    sysroot: &Path,
) -> System {
    let mut mounts: BTreeMap<PathBuf, Mount> = BTreeMap::new();
    for row in rows {
        let Ok(below) = row.target.strip_prefix(sysroot) else {
            continue;
        };
        let target = Path::new("/").join(below);
        let of_root = row.device == device && subvolume_at(&row.target) == Some(root.id);
        let mount = Mount {
            target: target.clone(),
            fstype: row.fstype.clone(),
            source: row.source.clone(),
            of_root,
        };
        mounts.insert(target, mount);
    }
    let mounts: Vec<_> = mounts.into_values().collect();
    let apart = |home: &str| {
        let home = Path::new("/").join(home);
        mounts
            .iter()
            .any(|m| m.target != Path::new("/") && home.starts_with(&m.target))
    };
    let grub_home = GRUB_HOMES
        .into_iter()
        .find(|h| is_there(dir, &Path::new(h).join("grub.cfg")))
        .filter(|h| !apart(h))
        .map(str::to_owned);
    System {
        swapfiles: Vec::new(),
        layout: Layout::default(),
        root: subvolume(root),
        mounts,
        grub_home,
    }
}

/// Which subvolume a path lies in.
pub(crate) fn subvolume_at(path: &Path) -> Option<u64> {
    let file = std::fs::File::open(path).ok()?;
    be_btrfs::subvolume_of(&file).ok().map(|within| within.id)
}

/// Active swapfiles that lie in these subvolumes.
fn swapfiles_in(cloned: &[u64], sysroot: &Path) -> Vec<PathBuf> {
    let text = std::fs::read("/proc/swaps").unwrap_or_default();
    be_btrfs::active_swapfiles(&text)
        .into_iter()
        .filter(|path| path.starts_with(sysroot))
        .filter(|path| subvolume_at(path).is_some_and(|id| cloned.contains(&id)))
        .collect()
}

fn read_menu(store: &Store) -> Result<Option<be_grub::menu::Header>, String> {
    match store.dir.read_to_string(Paths::MENU, MAX_TEXT) {
        Ok(text) => be_grub::menu::parse_header(&text)
            .map(Some)
            .map_err(|e| format!("{e:#}")),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e.to_string()),
    }
}

/// What boots next, by name.
#[derive(Default)]
struct Chosen {
    next: Option<String>,
    default: Option<String>,
    once: Option<String>,
    trial: Option<(String, u8)>,
}

/// The menu looks at the block only where it has a default to fall back to, and boots
/// nothing that has no entry.
fn chosen(header: Option<&be_grub::menu::Header>, block: Option<&Block>) -> Chosen {
    let Some(header) = header else {
        return Chosen::default();
    };
    let default = header.default.clone();
    let choice = block.and_then(|b| b.choice.clone().ok());
    let choice = choice.filter(|_| default.is_some()).unwrap_or_default();
    let trial = choice.trial.map(|trial| (trial.name, trial.left));
    let trial = trial.filter(|(name, _)| Some(name) != default.as_ref());
    let to_try = trial
        .as_ref()
        .filter(|(name, left)| *left > 0 && header.environments.contains(name));
    Chosen {
        next: to_try.map(|(name, _)| name.clone()).or(default.clone()),
        default,
        once: choice.once,
        trial,
    }
}

fn menu_state(
    store: &Store,
    sysroot: &Root,
    system: &System,
    environments: &[Environment],
    header: Result<Option<be_grub::menu::Header>, String>,
    block: Option<Block>,
) -> MenuState {
    let config = grub_config(store, sysroot, system, environments);
    let text = config
        .as_ref()
        .and_then(|c| read_config(store, sysroot, c).ok());
    let uuid = store.top.fs_uuid().to_string();
    let (damage, header) = match header {
        Ok(header) => (None, header),
        Err(why) => (Some(why), None),
    };
    // Of an environment that is being renamed the menu may have the new name already.
    let renaming: Vec<_> = environments
        .iter()
        .map(|e| &e.record)
        .filter(|r| r.renaming.is_some())
        .collect();
    let current = |name: &String| {
        let known = renaming
            .iter()
            .find(|r| names(r).any(|n| n.as_str() == name));
        known.map_or_else(|| name.clone(), |r| r.name.to_string())
    };
    let entries = header.as_ref().map(|h| h.environments.iter().map(current));
    let left_out = header.as_ref().map(|h| h.left_out.iter().map(current));
    MenuState {
        damage,
        default: header
            .as_ref()
            .and_then(|h| h.default.as_ref().map(current)),
        entries: entries.map(Iterator::collect).unwrap_or_default(),
        left_out: left_out.map(Iterator::collect).unwrap_or_default(),
        back: header
            .as_ref()
            .and_then(|h| EnvName::parse(&current(h.back.as_ref()?)).ok()),
        block,
        hooked: text
            .as_ref()
            .is_some_and(|t| be_grub::hook::is_hooked(t, &uuid)),
        access: text
            .as_ref()
            .map_or_else(Access::default, |t| be_grub::access::read(t)),
        packages: header
            .into_iter()
            .flat_map(|h| h.packages)
            .map(|(name, count)| (current(&name), count))
            .collect(),
        config,
    }
}

/// GRUB's own files in a subvolume of their own, from the top level, if they were split from
/// `home`: where the running system mounts it, or what they were split from is gone.
fn moved_home(
    store: &Store,
    system: &System,
    home: &str,
    holder: Option<&Path>,
) -> Option<PathBuf> {
    let place = Path::new("/").join(home);
    let moved = layout::shared_location(&place);
    let root = store.root_of(&moved).ok()?;
    if !layout::is_split(&root) || !is_there(&root, Path::new("grub.cfg")) {
        return None;
    }
    let part = system.layout.part_at(&place);
    let mounts = part.is_some_and(|p| p.subvolume.path == moved);
    let stays = || {
        let old = holder.and_then(|path| store.root_of(path).ok());
        old.is_some_and(|old| is_there(&old, &Path::new(home).join("grub.cfg")))
    };
    (mounts || !stays()).then_some(moved)
}

/// The grub.cfg that GRUB itself reads, or does once it is installed from where it was moved
/// to: that of the environment which holds GRUB's files, not the copy that a clone has of it.
fn grub_config(
    store: &Store,
    sysroot: &Root,
    system: &System,
    environments: &[Environment],
) -> Option<GrubConfig> {
    let holder = environments.iter().find_map(|e| {
        let home = e.record.grub_home.as_ref()?;
        Some((e.root.as_ref()?, home, e.running, e.name().as_str()))
    });
    let own = holder.map(|(root, home, ..)| (home.as_str(), Some(root.path.as_path())));
    let anywhere = GRUB_HOMES.into_iter().map(|home| (home, None));
    let mut homes = own.into_iter().chain(anywhere.filter(|_| own.is_none()));
    let moved = homes.find_map(|(home, old)| {
        let moved = moved_home(store, system, home, old)?;
        Some((home.to_owned(), moved))
    });
    if let Some((home, root)) = moved {
        return Some(GrubConfig {
            shown: format!("/{home}/grub.cfg"),
            place: Place::InRoot {
                root,
                path: "grub.cfg".into(),
            },
        });
    }
    if let Some((root, home, running, name)) = holder {
        let file = Path::new(home).join("grub.cfg");
        return Some(GrubConfig {
            shown: match running {
                true => format!("/{}", file.display()),
                false => format!("/{} of {name}", file.display()),
            },
            place: Place::InRoot {
                root: root.path.clone(),
                path: file,
            },
        });
    }
    let recorded = environments.iter().find_map(|e| e.record.boot.as_ref());
    let here = system.layout.boot.as_ref().map(|b| &b.place);
    if let Some(boot) = recorded.or(here) {
        return boot_config(store, boot);
    }
    let found = GRUB_HOMES
        .into_iter()
        .map(|h| Path::new(h).join("grub.cfg"))
        .find(|f| is_there(sysroot, f))?;
    Some(GrubConfig {
        shown: format!("/{}", found.display()),
        place: match &system.grub_home {
            Some(_) => Place::InRoot {
                root: system.root.path.clone(),
                path: found,
            },
            None => Place::SystemRoot(found),
        },
    })
}

fn boot_config(store: &Store, boot: &record::Boot) -> Option<GrubConfig> {
    let dir = bootfs::open(store, boot, false).ok()?;
    let path = ["grub", "grub2"]
        .into_iter()
        .map(|home| Path::new(home).join("grub.cfg"))
        .find(|file| is_there(&dir.root, file))?;
    Some(GrubConfig {
        shown: format!("/boot/{}", path.display()),
        place: Place::Boot {
            boot: boot.clone(),
            path,
        },
    })
}

/// The text of GRUB's configuration.
pub(crate) fn read_config(store: &Store, sysroot: &Root, config: &GrubConfig) -> Result<String> {
    let text = match &config.place {
        Place::InRoot { root, path } => store.root_of(root)?.read_to_string(path, MAX_TEXT),
        Place::Boot { boot, path } => {
            let dir = bootfs::open(store, boot, false)?;
            dir.root.read_to_string(path, MAX_TEXT)
        }
        Place::SystemRoot(path) => sysroot.read_to_string(path, MAX_TEXT),
    };
    text.with_context(|| format!("cannot read {}", config.shown))
}

/// Every mount of the filesystem in every mount namespace that can be seen; `number` is
/// [`Filesystem::number`].
///
/// # Errors
/// When /proc cannot be read.
pub fn uses(number: &str) -> Result<Vec<Use>> {
    let own = std::fs::read_link("/proc/self/ns/mnt").context("cannot read /proc/self/ns/mnt")?;
    let mut seen = Vec::new();
    let mut uses = Vec::new();
    for (pid, thread) in threads()? {
        let read = || -> std::io::Result<_> {
            let namespace = std::fs::read_link(thread.join("ns/mnt"))?;
            // A chroot shows only what is mounted below it.
            let root = std::fs::read_link(thread.join("root"))?;
            let here = namespace == own;
            let place = (namespace, root);
            // The kernel writes a mountinfo anew for each reader: one of each kind is enough.
            let text = match seen.contains(&place) {
                true => None,
                false => Some(std::fs::read(thread.join("mountinfo"))?),
            };
            Ok((here, place, text))
        };
        let (here, place, text) = match read() {
            Ok((here, place, Some(text))) => (here, place, text),
            Ok((_, _, None)) => continue,
            // A process that ended while we looked holds nothing. One that root may not look
            // at is an init with more rights than this root, in some virtual machines.
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::ENOENT | libc::ESRCH | libc::EINVAL | libc::EACCES | libc::EPERM)
                ) =>
            {
                continue;
            }
            Err(e) => {
                return Err(e).with_context(|| format!("cannot read the mounts of process {pid}"));
            }
        };
        seen.push(place);
        let rows = mountinfo::parse(&String::from_utf8_lossy(&text));
        uses.extend(
            rows.into_iter()
                .filter(|r| r.device == number)
                .map(|r| Use {
                    subvolume: r.root.strip_prefix("/").unwrap_or(&r.root).to_owned(),
                    target: r.target,
                    pid,
                    here,
                }),
        );
    }
    Ok(uses)
}

/// Every thread that can be seen, with the process that it is of: each may have left the
/// mount namespace of the others.
fn threads() -> Result<Vec<(u32, PathBuf)>> {
    let mut threads = Vec::new();
    let processes = std::fs::read_dir("/proc").context("cannot read /proc")?;
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        // None of one that ended meanwhile.
        let tasks = std::fs::read_dir(process.path().join("task"));
        let tasks = tasks.into_iter().flatten().flatten();
        threads.extend(tasks.map(|task| (pid, task.path())));
    }
    Ok(threads)
}

pub(crate) fn read_mountinfo(pid: &str) -> Result<Vec<Row>> {
    let path = format!("/proc/{pid}/mountinfo");
    let text = std::fs::read(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(mountinfo::parse(&String::from_utf8_lossy(&text)))
}

/// The `major:minor` of the mount that holds the system root: one for the whole filesystem.
fn device_of(rows: &[Row], sysroot: &Path) -> Option<String> {
    let holds = |row: &&Row| sysroot.starts_with(&row.target);
    rows.iter()
        .filter(holds)
        // Of equals the last: it lies over the others.
        .max_by_key(|r| r.target.components().count())
        .map(|r| r.device.clone())
}
