//! What the checks need and the inventory does not have. It reads and never writes.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::grub::{self, GrubFiles};
use crate::crypt::{self, Encryption};
use crate::files;
use crate::fstab::Fstab;
use crate::hook::{self, Script};
use crate::layout::{self, Pending};
use crate::menu::{self, Written};
use crate::model::{Environment, Inventory, STORE};
use crate::name::EnvName;
use crate::observe::{MAX_TEXT, read_config, subvolume_at};
use crate::plan;
use crate::session::Session;
use crate::store::Paths;
use crate::upgrade::farm::{self, Engine};

/// How much to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What takes no time: nothing inside the environments.
    Quick,
    /// Everything.
    Full,
}

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// The parts of the store, with owner and mode.
    pub modes: Vec<Mode>,
    /// Names in the store that are neither environments nor be's own.
    pub strangers: Vec<PathBuf>,
    /// Directories in the place of environments, without any record.
    pub recordless: Vec<String>,
    /// Subvolumes in the store, outside of all environments and of be's work.
    pub orphans: Vec<PathBuf>,
    /// The paths of all subvolumes, from the top level.
    pub subvolumes: Vec<PathBuf>,
    /// The ids of all subvolumes, in the same order.
    pub ids: Vec<u64>,
    /// What was split and is not mounted yet.
    pub pending: Vec<Pending>,
    /// Swapfiles in the root subvolume.
    pub swapfiles: Vec<Swapfile>,
    /// Programs of the host that are missing.
    pub missing_tools: Vec<&'static str>,
    /// What `[farm]` asks for and the running system has not.
    pub missing_engines: Vec<Engine>,
    /// Why `be upgrade` finds no package manager in the system.
    pub no_manager: Option<String>,
    /// Bytes of metadata that can be written.
    pub metadata_free: u64,
    /// Bytes that an upgrade wants to be free.
    pub wanted_free: u64,
    /// Bytes of all devices.
    pub size: u64,
    /// What grub-reboot chose: `next_entry` of GRUB's environment block.
    pub next_entry: Option<String>,
    /// The arguments of the running kernel, if it is that of this system.
    pub kernel_arguments: Option<Vec<String>>,
    /// What is known of the root's encryption, if GRUB has to open it.
    pub encryption: Option<Encryption>,
    /// The text of grub.cfg.
    pub grub_cfg: Option<String>,
    /// Our script in the running system and in the environments.
    pub scripts: Vec<ScriptFact>,
    /// Our services and hooks in the running system and in the environments.
    pub files: Vec<FilesFact>,
    /// What is in the environments; empty for a quick look.
    pub environments: Vec<EnvFacts>,
    /// GRUB's files in the environments; empty for a quick look.
    pub grub: Vec<GrubFiles>,
    /// The menu as it is and as it should be; none for a quick look.
    pub menu: Option<MenuFacts>,
}

/// Owner and mode of a part of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mode {
    /// From the top level.
    pub path: PathBuf,
    /// Its mode.
    pub mode: u32,
    /// The most that its mode may allow.
    pub most: u32,
    /// It belongs to root, user and group.
    pub of_root: bool,
}

/// A swapfile in the root subvolume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swapfile {
    /// Where.
    pub path: PathBuf,
    /// In use now; else only listed in fstab.
    pub active: bool,
}

/// Our script in one /etc/grub.d.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptFact {
    /// The environment and its root from the top level; none for the running system.
    pub of: Option<(EnvName, PathBuf)>,
    /// How it is.
    pub script: Script,
}

/// Our services and hooks in one system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesFact {
    /// The environment and its root from the top level; none for the running system.
    pub of: Option<(EnvName, PathBuf)>,
    /// Those that it should have.
    pub files: Vec<files::Fact>,
}

/// What is in an environment.
#[derive(Debug, Clone)]
pub struct EnvFacts {
    /// Which one.
    pub name: EnvName,
    /// Its fstab, if it has one.
    pub fstab: Option<Fstab>,
    /// Why it would not boot.
    pub problems: Vec<String>,
}

/// The menu.
#[derive(Debug, Clone)]
pub struct MenuFacts {
    /// The file; none if there is none.
    pub text: Option<String>,
    /// What would be written now, or why nothing could be.
    pub wanted: Result<Written, String>,
}

/// Look at the system. `path`: the directories in which programs are found, as in `$PATH`.
///
/// # Errors
/// When btrfs or the store itself cannot be read.
pub fn observe(
    session: &Session,
    inv: &Inventory,
    depth: Depth,
    path: &OsStr,
) -> Result<Observation> {
    let store = &session.store;
    let tree = store.top.tree()?;
    let space = store.top.space()?;
    let mut seen = Observation {
        subvolumes: tree.iter().map(|n| n.path.clone()).collect(),
        ids: tree.iter().map(|n| n.id).collect(),
        swapfiles: swapfiles(inv),
        missing_tools: missing_tools(path),
        missing_engines: farm::missing(session),
        no_manager: session
            .upgrader_of(&session.root)
            .err()
            .map(|e| e.to_string()),
        metadata_free: space.metadata_available(),
        wanted_free: session.config.upgrade.min_free_mib << 20,
        size: space.devices.iter().map(|d| d.total).sum(),
        next_entry: next_entry(session, inv),
        kernel_arguments: kernel_arguments(inv),
        encryption: crypt::look(session, inv),
        grub_cfg: inv
            .menu
            .config
            .as_ref()
            .and_then(|c| read_config(store, &session.root, c).ok()),
        scripts: vec![ScriptFact {
            of: None,
            script: hook::script(&session.root),
        }],
        files: vec![FilesFact {
            of: None,
            files: files::look(&session.root, files::Asked::default()),
        }],
        ..Observation::default()
    };
    if inv.initialised {
        look_at_store(session, inv, &mut seen)?;
    }
    if depth == Depth::Full {
        for env in &inv.environments {
            look_into(session, inv, env, &mut seen);
        }
        seen.pending = layout::pending(session, inv)?;
        seen.grub = grub::files(session, inv);
        seen.menu = Some(menu_facts(session, inv));
    }
    Ok(seen)
}

fn look_at_store(session: &Session, inv: &Inventory, seen: &mut Observation) -> Result<()> {
    let dir = &session.store.dir;
    let mut look = |path: PathBuf, most: u32| {
        if let Ok(m) = dir.lstat(&path) {
            seen.modes.push(Mode {
                path,
                mode: m.mode & 0o7777,
                most,
                of_root: (m.uid, m.gid) == (0, 0),
            });
        }
    };
    look(STORE.into(), 0o700);
    look("@be/.work".into(), 0o700);
    look(Paths::GRUB.into(), 0o755);
    look(Paths::MENU.into(), 0o644);
    look(Paths::LOCK.into(), 0o600);
    for env in &inv.environments {
        let home = Paths::environment(env.name());
        look(home.join("be.json"), 0o600);
        look(home, 0o700);
    }
    for (name, kind) in dir.list(STORE)? {
        let path = Path::new(STORE).join(&name);
        let own = [".work", ".grub", ".built", ".bad.json", "lock"];
        let own = own.iter().any(|n| name == *n);
        let environment = name.to_str().is_some_and(|n| EnvName::parse(n).is_ok());
        if environment && kind.is_dir() {
            let name = name.to_string_lossy().into_owned();
            if !dir.exists(path.join("be.json")).unwrap_or(true) {
                seen.recordless.push(name);
            }
        } else if !own {
            seen.strangers.push(path);
        }
    }
    let homes: Vec<_> = inv
        .environments
        .iter()
        .map(|e| Paths::environment(e.name()))
        .chain(inv.damaged.iter().filter_map(|(name, _)| {
            // What a record that cannot be read would prove is not known.
            let recordless = seen.recordless.contains(name);
            (!recordless).then(|| Path::new(STORE).join(name))
        }))
        .chain([Paths::NEW, Paths::GONE, Paths::SPLIT, Paths::BUILT].map(PathBuf::from))
        .collect();
    let orphan = |path: &&PathBuf| {
        path.starts_with(STORE) && !homes.iter().any(|home| path.starts_with(home))
    };
    seen.orphans = seen.subvolumes.iter().filter(orphan).cloned().collect();
    Ok(())
}

fn look_into(session: &Session, inv: &Inventory, env: &Environment, seen: &mut Observation) {
    let Some(subvolume) = &env.root else { return };
    let Ok(root) = session.store.root_of(&subvolume.path) else {
        return;
    };
    let fstab = root.read_to_string("etc/fstab", MAX_TEXT);
    let examined = match env.usable() {
        true => session.examine(inv, env).map(|found| found.problems),
        false => Ok(Vec::new()),
    };
    seen.environments.push(EnvFacts {
        name: env.name().clone(),
        fstab: fstab.ok().map(|text| Fstab::parse(&text)),
        problems: examined.unwrap_or_else(|e| vec![format!("{e:#}")]),
    });
    // The running one was looked at through its mounts.
    if !env.running {
        seen.files.push(FilesFact {
            of: Some((env.name().clone(), subvolume.path.clone())),
            files: files::look(&root, files::Asked::default()),
        });
    }
    if !env.running && root.is_dir("etc/grub.d").unwrap_or(false) {
        seen.scripts.push(ScriptFact {
            of: Some((env.name().clone(), subvolume.path.clone())),
            script: hook::script(&root),
        });
    }
}

fn menu_facts(session: &Session, inv: &Inventory) -> MenuFacts {
    let wanted = inv
        .running()
        .map_err(|e| e.to_string())
        .and_then(|running| {
            let default = plan::default(inv, running.name());
            // What a person merges is no fault of the menu.
            let packages = menu::Packages::AsShown;
            menu::render(session, inv, &default, packages).map_err(|e| format!("{e:#}"))
        });
    MenuFacts {
        text: session.store.dir.read_to_string(Paths::MENU, MAX_TEXT).ok(),
        wanted,
    }
}

fn swapfiles(inv: &Inventory) -> Vec<Swapfile> {
    let active = inv.system.swapfiles.iter().map(|path| Swapfile {
        path: path.clone(),
        active: true,
    });
    let listed = inv
        .system
        .layout
        .fstab
        .entries()
        .filter(|e| e.fstype == "swap")
        .map(|e| Path::new(&e.source))
        .filter(|path| path.is_absolute() && !path.starts_with("/dev"))
        .map(|path| inv.sysroot.join(path.strip_prefix("/").unwrap_or(path)))
        .filter(|path| !inv.system.swapfiles.contains(path))
        .filter(|path| subvolume_at(path) == Some(inv.system.root.id))
        .map(|path| Swapfile {
            path,
            active: false,
        });
    active.chain(listed).collect()
}

fn missing_tools(path: &OsStr) -> Vec<&'static str> {
    const TOOLS: [(&str, &str); 3] = [
        ("grub-script-check", "grub2-script-check"),
        ("grub-mkconfig", "grub2-mkconfig"),
        ("grub-install", "grub2-install"),
    ];
    let there = |name: &str| std::env::split_paths(path).any(|dir| dir.join(name).is_file());
    TOOLS
        .iter()
        .filter(|(one, other)| !there(one) && !there(other))
        .map(|(one, _)| *one)
        .collect()
}

/// The choice of grub-reboot. GRUB's environment block lies beside grub.cfg; its lines are
/// `key=value` (format: util/grub-editenv.c).
pub(crate) fn next_entry(session: &Session, inv: &Inventory) -> Option<String> {
    use crate::model::{GrubConfig, Place};
    let GrubConfig { place, shown } = inv.menu.config.as_ref()?;
    let beside = |path: &Path| path.with_file_name("grubenv");
    let block = GrubConfig {
        place: match place {
            Place::InRoot { root, path } => Place::InRoot {
                root: root.clone(),
                path: beside(path),
            },
            Place::Boot { boot, path } => Place::Boot {
                boot: boot.clone(),
                path: beside(path),
            },
            Place::SystemRoot(path) => Place::SystemRoot(beside(path)),
        },
        shown: shown.clone(),
    };
    let text = read_config(&session.store, &session.root, &block).ok()?;
    let value = text.lines().find_map(|l| l.strip_prefix("next_entry="))?;
    (!value.is_empty()).then(|| value.to_owned())
}

fn kernel_arguments(inv: &Inventory) -> Option<Vec<String>> {
    if inv.sysroot != Path::new("/") || !crate::host::sees_the_machine() {
        return None;
    }
    let line = std::fs::read_to_string("/proc/cmdline").ok()?;
    Some(be_grub::cmdline::split_args(&line))
}
