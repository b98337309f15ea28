//! Reading the system: everything that a decision may depend on, once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use be_btrfs::{Node, Root, Tree, Uuid};
use nix::libc;

use crate::fstab::Fstab;
use crate::model::{
    Environment, Filesystem, GrubConfig, Inventory, MenuState, Mount, Place, STORE, Subvolume,
    System,
};
use crate::mountinfo::{self, Row};
use crate::plan::Use;
use crate::record::{Record, State};
use crate::refusal::Refusal;
use crate::store::{Paths, Store};

/// The longest text file that is read whole, in bytes.
pub(crate) const MAX_TEXT: u64 = 4 << 20;

const GRUB_HOMES: [&str; 2] = ["boot/grub", "boot/grub2"];

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
    let next = header
        .as_ref()
        .ok()
        .and_then(|h| h.as_ref()?.default.clone());

    let uuids = known_uuids(&readable);
    let in_store = by_environment(&tree);
    let mut environments: Vec<_> = readable
        .into_iter()
        .map(|record| {
            let root_node = root_of(&tree, &record);
            let path = root_node.map(|n| Path::new("/").join(&n.path));
            let mounted = rows
                .iter()
                .filter(|r| r.device == device && Some(&r.root) == path.as_ref())
                .map(|r| r.target.clone())
                .collect();
            let nested = root_node.map_or_else(Vec::new, |n| nested_in(&tree, n, &uuids));
            let below = in_store.get(OsStr::new(record.name.as_str()));
            let foreign = foreign_in(below.map_or(&[], Vec::as_slice), &record);
            Environment {
                running: root_node.is_some_and(|n| n.id == root.id),
                next: next.as_deref() == Some(record.name.as_str()),
                busy: record.state == State::Building && store.is_claimed(&record.name),
                root: root_node.map(subvolume),
                mounted,
                nested,
                foreign,
                record,
            }
        })
        .collect();
    environments.sort_by(|a, b| (a.record.created, a.name()).cmp(&(b.record.created, b.name())));

    let system = observe_system(&root_dir, root, &tree, (&rows, &device), sysroot, &uuids);
    let menu = menu_state(store, &root_dir, &system, &environments, header);
    let mut leftovers = store.work(Paths::NEW);
    leftovers.extend(store.work(Paths::GONE));
    Ok(Inventory {
        sysroot: sysroot.to_owned(),
        fs: filesystem(store, device)?,
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

fn subvolume(node: &Node) -> Subvolume {
    Subvolume {
        id: node.id,
        uuid: node.uuid.to_string(),
        path: node.path.clone(),
        generation: node.generation,
    }
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

fn known_uuids(records: &[Record]) -> HashSet<Uuid> {
    records
        .iter()
        .flat_map(|r| &r.subvolumes)
        .flat_map(|m| [Some(&m.uuid), m.base.as_ref().map(|b| &b.uuid)])
        .flatten()
        .filter_map(|u| u.parse().ok())
        .collect()
}

/// Subvolumes below `root`, as paths in it. What lies in the store is not part of the
/// system even where the store lies in its root (a root that is the top level).
fn nested_in(tree: &Tree, root: &Node, known: &HashSet<Uuid>) -> Vec<PathBuf> {
    let mut paths: Vec<_> = tree
        .descendants(root.id)
        .iter()
        .filter(|n| !known.contains(&n.uuid))
        .filter(|n| root.id != be_btrfs::TOP_LEVEL_ID || !n.path.starts_with(STORE))
        .filter_map(|n| n.path.strip_prefix(&root.path).ok().map(Path::to_owned))
        .collect();
    paths.sort();
    paths
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

fn observe_system(
    dir: &Root,
    root: &Node,
    tree: &Tree,
    (rows, device): (&[Row], &str),
    sysroot: &Path,
    known: &HashSet<Uuid>,
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
    let fstab = dir
        .read_to_string("etc/fstab", MAX_TEXT)
        .unwrap_or_default();
    System {
        nested: nested_in(tree, root, known),
        swapfiles: swapfiles_in(root, sysroot),
        portage: is_there(dir, Path::new("usr/bin/emerge")),
        fstab: Fstab::parse(&fstab),
        root: subvolume(root),
        mounts,
        grub_home,
    }
}

/// Which subvolume a path lies in.
fn subvolume_at(path: &Path) -> Option<u64> {
    let file = std::fs::File::open(path).ok()?;
    be_btrfs::subvolume_of(&file).ok().map(|within| within.id)
}

/// Active swapfiles that lie in the root subvolume itself.
fn swapfiles_in(root: &Node, sysroot: &Path) -> Vec<PathBuf> {
    let text = std::fs::read("/proc/swaps").unwrap_or_default();
    be_btrfs::active_swapfiles(&text)
        .into_iter()
        .filter(|path| path.starts_with(sysroot))
        .filter(|path| subvolume_at(path) == Some(root.id))
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

fn menu_state(
    store: &Store,
    sysroot: &Root,
    system: &System,
    environments: &[Environment],
    header: Result<Option<be_grub::menu::Header>, String>,
) -> MenuState {
    let config = grub_config(sysroot, system, environments);
    let text = config
        .as_ref()
        .and_then(|c| read_config(store, sysroot, c).ok());
    let uuid = store.top.fs_uuid().to_string();
    let (damage, header) = match header {
        Ok(header) => (None, header),
        Err(why) => (Some(why), None),
    };
    MenuState {
        damage,
        default: header.as_ref().and_then(|h| h.default.clone()),
        entries: header.map(|h| h.environments).unwrap_or_default(),
        hooked: text.is_some_and(|t| be_grub::hook::is_hooked(&t, &uuid)),
        config,
    }
}

/// The grub.cfg that GRUB itself reads: that of the environment which holds GRUB's files,
/// not the copy that a clone has of it.
fn grub_config(
    sysroot: &Root,
    system: &System,
    environments: &[Environment],
) -> Option<GrubConfig> {
    let holder = environments.iter().find_map(|e| {
        let home = e.record.grub_home.as_ref()?;
        Some((e.root.as_ref()?, home, e.running, e.name().as_str()))
    });
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

/// The text of GRUB's configuration.
pub(crate) fn read_config(store: &Store, sysroot: &Root, config: &GrubConfig) -> Result<String> {
    let text = match &config.place {
        Place::InRoot { root, path } => store.root_of(root)?.read_to_string(path, MAX_TEXT),
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
    for process in std::fs::read_dir("/proc")
        .context("cannot read /proc")?
        .flatten()
    {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let read = || -> std::io::Result<_> {
            let namespace = std::fs::read_link(process.path().join("ns/mnt"))?;
            // A chroot shows only what is mounted below it.
            let root = std::fs::read_link(process.path().join("root"))?;
            let text = std::fs::read(process.path().join("mountinfo"))?;
            Ok((namespace, root, text))
        };
        let (namespace, root, text) = match read() {
            Ok(found) => found,
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
        let here = namespace == own;
        let place = (namespace, root);
        if seen.contains(&place) {
            continue;
        }
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
