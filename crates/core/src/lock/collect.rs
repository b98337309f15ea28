//! From an environment to its lock.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use be_btrfs::Root;
use be_portage::{portageq, vdb};
use chrono::{DateTime, FixedOffset};

use super::{
    Flags, Index, Lock, Move, Package, Place, Schema, Sha256, Toolchain, Word, configuration,
    owned::{Owned, settled},
    profile, repositories, settings,
};
use crate::chroot::Captured;
use crate::layout;
use crate::manager::Manager;
use crate::model::{Environment, Inventory};
use crate::name::EnvName;
use crate::observe::MAX_TEXT;
use crate::record::Record;
use crate::refusal::{NoLock, Refusal};
use crate::report::Moved;
use crate::session::Session;
use crate::store::{Paths, Store};
use crate::upgrade::fd_path;
use crate::upgrade::inputs::files;
use crate::whole::Whole;

/// What is read of a lock at the most, in bytes. That of two thousand packages has one megabyte.
pub const MAX_LOCK: u64 = 256 << 20;

/// What is read of the output of a program, in bytes.
const MOST: u64 = 16 << 20;

const WORLD: &str = "var/lib/portage/world";
const WORLD_SETS: &str = "var/lib/portage/world_sets";

/// Where Portage keeps the indexes of remote binary packages.
pub(crate) const BINHOSTS: &str = "var/cache/edb/binhost";

/// The name of an index of binary packages.
pub(crate) const INDEX: &str = "Packages";

/// What an index is at the most, in bytes.
pub(crate) const MAX_INDEX: u64 = 1 << 30;

/// What packages are built with: compilers, linkers, C libraries, interpreters, Portage.
const TOOLCHAIN: [&str; 17] = [
    "dev-lang/go",
    "dev-lang/perl",
    "dev-lang/python",
    "dev-lang/rust",
    "dev-lang/rust-bin",
    "llvm-core/clang",
    "llvm-core/lld",
    "llvm-core/llvm",
    "sys-apps/portage",
    "sys-devel/binutils",
    "sys-devel/clang",
    "sys-devel/gcc",
    "sys-devel/llvm",
    "sys-kernel/linux-headers",
    "sys-libs/glibc",
    "sys-libs/libcxx",
    "sys-libs/musl",
];

/// Tools of which several may be installed: the files in /etc/env.d/NAME tell the chosen one.
const SELECTED: [&str; 2] = ["binutils", "gcc"];

/// Where it lies, from the top level.
pub(crate) fn path(name: &EnvName) -> PathBuf {
    Paths::environment(name).join("log/lock.json")
}

/// Write what made an environment. It is on disk on return.
pub(crate) fn write(store: &Store, lock: &Lock) -> Result<()> {
    let text = lock.to_text()?;
    store
        .dir
        .write_atomic(path(&lock.environment), text.as_bytes(), 0o600)
        .with_context(|| format!("cannot write the lock of {}", lock.environment))
}

/// What made an environment, if that was written down.
///
/// # Errors
/// It cannot be read.
pub fn recorded(store: &Store, name: &EnvName) -> Result<Option<Lock>> {
    let what = || format!("cannot read the lock of {name}");
    let text = match store.dir.read_to_string(path(name), MAX_LOCK) {
        Ok(text) => text,
        Err(e) if e.is_not_found() => return Ok(None),
        Err(e) => return Err(e).with_context(what),
    };
    let mut lock = Lock::parse(&text).with_context(what)?;
    // It may have been renamed since.
    lock.environment = name.clone();
    Ok(Some(lock))
}

/// The lock of an environment: what was written down when it was made, or else what is there.
///
/// # Errors
/// [`NoLock::NotPortage`] where another package manager rules, or it cannot be read.
pub fn of(
    session: &Session,
    inv: &Inventory,
    env: &Environment,
    now: DateTime<FixedOffset>,
) -> Result<Lock> {
    match recorded(&session.store, env.name())? {
        Some(lock) => Ok(lock),
        None => current(session, inv, env, now),
    }
}

/// The lock of an environment as it is now.
///
/// # Errors
/// As [`of`].
pub fn current(
    session: &Session,
    inv: &Inventory,
    env: &Environment,
    now: DateTime<FixedOffset>,
) -> Result<Lock> {
    let scene = Scene::new(session, inv, env)?;
    let what = || format!("cannot tell what {} is made from", env.name());
    let made = Made::take(&scene).with_context(what)?;
    let mut lock = made.into_lock(&scene, now).with_context(what)?;
    lock.recorded = false;
    Ok(lock)
}

/// An environment that is looked at.
pub(crate) struct Scene<'a> {
    session: &'a Session,
    inv: &'a Inventory,
    env: &'a Environment,
    whole: Whole,
    shared: Vec<PathBuf>,
}

impl<'a> Scene<'a> {
    pub(crate) fn new(
        session: &'a Session,
        inv: &'a Inventory,
        env: &'a Environment,
    ) -> Result<Self> {
        let whole = session.whole(env)?;
        let manager = session.manager_of(&whole)?;
        if !matches!(manager, Some(Manager::Portage)) {
            let name = env.name().clone();
            return Err(Refusal::NoLock(NoLock::NotPortage { name }).into());
        }
        Ok(Self {
            session,
            inv,
            env,
            whole,
            shared: layout::shared(&inv.system),
        })
    }

    /// The root in which an absolute path of the environment is found: its own, or that of the
    /// running system for what all share.
    pub(super) fn tree(&self, path: &Path) -> &Root {
        match self.shared.iter().any(|target| path.starts_with(target)) {
            true => &self.session.root,
            false => &self.whole,
        }
    }

    /// Run a program in the environment, where it can write nothing; gives its exit code and
    /// what it printed.
    pub(super) fn ask(&self, argv: Vec<String>) -> Result<(i32, String)> {
        let shown = argv.join(" ");
        let found = self.run(argv)?;
        if found.code != 0 && found.out.is_empty() {
            let last = found
                .err
                .trim()
                .lines()
                .last()
                .unwrap_or_default()
                .to_owned();
            bail!("{shown}: exit {}: {last}", found.code);
        }
        Ok((found.code, found.out))
    }

    /// The same, whatever its exit code.
    pub(crate) fn run(&self, argv: Vec<String>) -> Result<Captured> {
        let mut job = self.session.job(self.inv, self.env, argv)?;
        job.read_only = true;
        // The words of people are in no other language than the rest.
        job.env
            .retain(|(name, _)| !["LANG", "LC_ALL", "TERM"].contains(&name.as_str()));
        job.env.push(("LC_ALL".into(), "C.UTF-8".into()));
        // There Portage works out what no cache has of an ebuild: all else is read-only.
        job.env.push(("PORTAGE_TMPDIR".into(), "/dev/shm".into()));
        job.capture(MOST)
    }

    fn text(&self, path: &str) -> Result<String> {
        let absolute = Path::new("/").join(path);
        match self.tree(&absolute).read_to_string(path, MAX_TEXT) {
            Ok(text) => Ok(text),
            Err(e) if e.is_not_found() => Ok(String::new()),
            Err(e) => Err(e.into()),
        }
    }

    fn words(&self, path: &str) -> Result<Vec<Word>> {
        let text = self.text(path)?;
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut words: Vec<Word> = lines
            .filter_map(|line| line.to_owned().try_into().ok())
            .collect();
        words.sort();
        words.dedup();
        Ok(words)
    }
}

/// What an environment is made from; which packages it comes to is open.
#[derive(Debug)]
pub(crate) struct Made {
    /// Complete but for all that is known only in the end.
    lock: Lock,
}

impl Made {
    pub(crate) fn take(scene: &Scene<'_>) -> Result<Self> {
        let ask = |argv| scene.ask(argv).map(|(_, output)| output);
        let configured = portageq::repositories(&ask(portageq::ask_repositories())?);
        let repositories = repositories::read(scene, &configured)?;
        let version = ask(portageq::ask_version())?;
        let own = Path::new(super::CONFIGURATION);
        let configuration = configuration::read(scene.tree(own))?;
        let chain = profile::chain(&|path| scene.tree(path), &repositories)?;
        let settings = settings::of(portageq::settings(&ask(portageq::ask_settings())?));
        let record = &scene.env.record;
        Ok(Self {
            lock: Lock {
                schema: Schema::default(),
                environment: record.name.clone(),
                recorded: true,
                created: record.created,
                be: env!("CARGO_PKG_VERSION").to_owned(),
                origin: record.origin.clone(),
                portage: portageq::version(&version).unwrap_or_default().to_owned(),
                repositories,
                configuration,
                profile: chain,
                world: Vec::new(),
                world_sets: Vec::new(),
                settings,
                toolchain: Toolchain {
                    packages: Vec::new(),
                    selected: BTreeMap::new(),
                },
                binhosts: Vec::new(),
                moves: Vec::new(),
                options: Vec::new(),
                packages: Vec::new(),
                start: None,
            },
        })
    }

    /// Old names that were taken for new ones.
    pub(crate) fn moved(&mut self, moves: &[Moved]) {
        let moves = moves.iter().map(|one| Move {
            place: one.place.clone(),
            names: one.names.clone(),
        });
        self.lock.moves = moves.collect();
    }

    /// The lock, with what the environment has come to.
    pub(crate) fn into_lock(self, scene: &Scene<'_>, now: DateTime<FixedOffset>) -> Result<Lock> {
        let mut lock = self.lock;
        let record = &scene.env.record;
        lock.created = now;
        let here = configuration::read(scene.tree(Path::new(super::CONFIGURATION)))?;
        if here != lock.configuration {
            let mut owned = Owned::read(&scene.whole)?;
            if has_base(record) {
                let base = scene.session.whole_base(record)?;
                owned = owned.and(Owned::read(&base)?);
            }
            lock.configuration = settled(lock.configuration, here, &owned);
        }
        lock.world = scene.words(WORLD)?;
        lock.world_sets = scene.words(WORLD_SETS)?;
        let upgrade = record.upgrade.as_ref();
        lock.options = upgrade.map(|u| u.options.clone()).unwrap_or_default();
        lock.packages = packages(&scene.whole)?;
        lock.toolchain = toolchain(scene, &lock)?;
        lock.binhosts = indexes(scene)?;
        lock.start = start(scene.session, record)?;
        Ok(lock)
    }
}

fn packages(root: &Root) -> Result<Vec<Package>> {
    let installed = vdb::load_root(&fd_path(root)).context("cannot read the packages")?;
    let packages = installed.packages.into_iter().filter_map(|package| {
        let slot = match &package.subslot {
            Some(subslot) => format!("{}/{subslot}", package.slot),
            None => package.slot.clone(),
        };
        Some(Package {
            cpv: package.cpv().try_into().ok()?,
            slot: slot.try_into().ok()?,
            repository: package.repository.and_then(|name| name.try_into().ok()),
            use_flags: Flags::new(&package.use_flags),
            build_id: package.build_id,
            build_time: package.build_time,
        })
    });
    Ok(packages.collect())
}

fn has_base(record: &Record) -> bool {
    record.root().is_some_and(|root| root.base.is_some())
}

/// The packages of what it was cloned from, as long as that is kept.
fn start(session: &Session, record: &Record) -> Result<Option<Vec<Package>>> {
    match has_base(record) {
        true => Ok(Some(packages(&*session.whole_base(record)?)?)),
        false => Ok(None),
    }
}

fn toolchain(scene: &Scene<'_>, lock: &Lock) -> Result<Toolchain> {
    let packages = lock.packages.iter();
    let tools = packages.filter(|package| TOOLCHAIN.contains(&package.cpv.cp()));
    let mut selected = BTreeMap::new();
    if let Some(host) = lock.settings.get("CHOST").filter(|h| !h.contains('/')) {
        for tool in SELECTED {
            let text = scene.text(&format!("etc/env.d/{tool}/config-{host}"))?;
            let chosen = text.lines().find_map(|line| line.strip_prefix("CURRENT="));
            selected.extend(chosen.map(|chosen| (tool.to_owned(), chosen.trim().to_owned())));
        }
    }
    Ok(Toolchain {
        packages: tools.cloned().collect(),
        selected,
    })
}

/// The indexes of the hosts of binary packages that Portage has asked.
fn indexes(scene: &Scene<'_>) -> Result<Vec<Index>> {
    let tree = scene.tree(&Path::new("/").join(BINHOSTS));
    let mut found = Vec::new();
    for file in files(tree, Path::new(BINHOSTS))? {
        let is_index = file.file_name().is_some_and(|name| name == INDEX);
        let shown = format!("/{}", file.display());
        if let (true, Ok(path)) = (is_index, Place::try_from(shown)) {
            let sha256 = Sha256::new(&tree.read(&file, MAX_INDEX)?);
            found.push(Index { path, sha256 });
        }
    }
    Ok(found)
}
