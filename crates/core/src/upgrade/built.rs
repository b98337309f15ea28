//! What upgrades have built, as binary packages beside the environments: an upgrade that goes
//! on, or a new one after one that failed, builds nothing twice. Once an upgraded environment
//! has come up nobody needs them any more.
//!
//! They lie in one subvolume for one state of /etc/portage. It is known to be made by `be` by
//! its own UUID in an attribute of it, which no copy of it has.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use be_btrfs::{Root, Uuid};
use be_portage::conf::has_feature;
use be_portage::version::split_cpv;
use sha2::{Digest, Sha256};

use super::Work;
use super::inputs::{CONFIGURATION, files, hash_configuration, hex};
use crate::chroot::Bind;
use crate::model::{Environment, Inventory};
use crate::observe::MAX_TEXT;
use crate::record::{State, Upgrade};
use crate::session::Session;
use crate::store::Paths;

/// Where an environment sees them.
pub(super) const TARGET: &str = "/run/be/built";

/// The index of binary packages where Portage keeps them by itself.
const INDEX: &str = "var/cache/binpkgs/Packages";

const ATTRIBUTE: &str = "trusted.be.built";

/// How much of the hash names the directory, in digits.
const DIGITS: usize = 16;

/// Where an upgrade keeps what it builds.
pub(super) struct Built {
    /// The directory.
    pub(super) dir: Root,
    /// How the environment sees it.
    pub(super) bind: Bind,
    /// The source of the bind is a path from the top level.
    pub(super) in_store: bool,
}

impl Work<'_> {
    /// Where to keep what is built, if that is wanted; what was built with other settings goes.
    pub(super) fn keep_built(&mut self) -> Result<()> {
        let root = self.root()?;
        let live = self.upgrade().live;
        let kept = self.session.config.upgrade.keep_built && !keeps_itself(&root)?;
        if self.pretend || !(kept || live) {
            return Ok(());
        }
        let key = match self.upgrade().packed.clone() {
            // What was packed is to be merged, whatever was written to /etc/portage since.
            Some(key) => key,
            None => key(&root)?,
        };
        if live {
            self.upgrade().packed = Some(key.clone());
        }
        let lock = self.lock()?;
        clear_but(self.session, Some(&key))?;
        make(self.session, &key).context("cannot make room for what is built")?;
        drop(lock);
        self.options.packages = Some(TARGET.to_owned());
        let bind = place(&key);
        self.built = Some(Built {
            dir: self.session.store.dir.sub(&bind.source)?,
            bind,
            in_store: true,
        });
        Ok(())
    }

    /// Let go of what was built of a package that failed: what is wrong may be in it.
    pub(super) fn forget_built(&self, package: &str) -> Result<()> {
        let Some(built) = &self.built else {
            return Ok(());
        };
        for path in self.built_of(package) {
            built.dir.remove_file(path)?;
        }
        Ok(())
    }

    /// Whether this package was built, and is kept.
    pub(super) fn has_built(&self, package: &str) -> bool {
        !self.built_of(package).is_empty()
    }

    /// What is kept of a package, as paths below where it is kept.
    fn built_of(&self, package: &str) -> Vec<PathBuf> {
        let Some((kept, (category, name, version))) = self.built.as_ref().zip(split_cpv(package))
        else {
            return Vec::new();
        };
        let dir = Path::new(category).join(name);
        let pf = format!("{name}-{version}");
        let entries = kept.dir.list(&dir).unwrap_or_default();
        let files = entries.iter().filter_map(|(file, _)| file.to_str());
        let is_one = |file: &&str| {
            let rest = file.strip_prefix(&pf);
            rest.is_some_and(|rest| rest.starts_with(['-', '.']))
        };
        files.filter(is_one).map(|file| dir.join(file)).collect()
    }
}

fn place(key: &str) -> Bind {
    Bind {
        source: Path::new(Paths::BUILT).join(key),
        target: TARGET.into(),
    }
}

/// Where the packages lie that are to be merged into the running system.
pub(super) fn packed(upgrade: &Upgrade) -> Option<Bind> {
    upgrade.packed.as_deref().map(place)
}

/// Whether packages are still to be merged into the running system, or are there in part.
fn is_wanted(inv: &Inventory) -> bool {
    let waits = |env: &Environment| {
        let live = env.record.upgrade.as_ref().is_some_and(|u| u.live);
        live && matches!(env.state(), State::Ready | State::Failed)
    };
    inv.environments
        .iter()
        .any(|env| waits(env) || env.record.unfinished_merge().is_some())
}

/// Let go of all that was built. The caller has the lock.
///
/// # Errors
/// When it cannot be deleted.
pub(crate) fn clear(session: &Session) -> Result<()> {
    // Whoever upgrades now needs it.
    match session.store.claim_upgrade() {
        Ok(_claim) if !is_wanted(&session.observe()?) => clear_but(session, None),
        _ => Ok(()),
    }
}

/// Where packages of the running system are packed for a moment.
const PACKED: &str = "packed";

/// An empty place for packages that are packed now, from the top level. The caller has the lock.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn make_packed(session: &Session) -> Result<PathBuf> {
    drop_packed(session)?;
    make(session, PACKED)?;
    Ok(Path::new(Paths::BUILT).join(PACKED))
}

/// Let go of it.
///
/// # Errors
/// When it cannot be deleted.
pub(crate) fn drop_packed(session: &Session) -> Result<()> {
    drop_one(session, PACKED)
}

fn clear_but(session: &Session, kept: Option<&str>) -> Result<()> {
    for name in session.store.work(Paths::BUILT) {
        if kept != Some(name.as_str()) {
            drop_one(session, &name)?;
        }
    }
    Ok(())
}

fn drop_one(session: &Session, name: &str) -> Result<()> {
    let path = Path::new(Paths::BUILT).join(name);
    let dir = &session.store.dir;
    if !dir.exists(&path)? || !dir.is_dir(&path)? {
        return Ok(());
    }
    let Some(uuid) = made(&dir.sub(&path)?)? else {
        tracing::warn!("left /{} alone: be did not make it", path.display());
        return Ok(());
    };
    let (parent, name) = session.store.parent_of(&path)?;
    let top = &session.store.top;
    Ok(top.delete_subvolume(parent.fd(), name, uuid)?)
}

fn make(session: &Session, key: &str) -> Result<()> {
    let dir = &session.store.dir;
    dir.mkdir_all(Paths::BUILT, 0o755)?;
    let path = PathBuf::from(Paths::BUILT).join(key);
    if !dir.exists(&path)? {
        let parent = dir.sub(Paths::BUILT)?;
        let top = &session.store.top;
        top.create_subvolume(parent.fd(), OsStr::new(key))?;
    }
    let built = dir.sub(&path)?;
    if made(&built)?.is_none() {
        let uuid = be_btrfs::subvolume_info(&built)?.uuid;
        built.set_attribute(ATTRIBUTE, uuid.to_string().as_bytes())?;
    }
    Ok(())
}

/// Its UUID, if `be` made it.
fn made(built: &Root) -> Result<Option<Uuid>> {
    let noted = built.attribute(ATTRIBUTE)?.unwrap_or_default();
    let uuid = be_btrfs::subvolume_info(built)?.uuid;
    Ok((noted == uuid.to_string().as_bytes()).then_some(uuid))
}

/// What was built is good for one configuration.
fn key(root: &Root) -> Result<String> {
    let mut hash = Sha256::new();
    hash_configuration(root, &mut hash)?;
    let mut key = hex(hash);
    key.truncate(DIGITS);
    Ok(key)
}

/// Whether the owner keeps binary packages already: what is there would not be found.
fn keeps_itself(root: &Root) -> Result<bool> {
    let conf = Path::new(CONFIGURATION).join("make.conf");
    let mut texts = files(root, &conf)?;
    texts.push(conf);
    let says = |path: &PathBuf| {
        let text = root.read_to_string(path, MAX_TEXT).unwrap_or_default();
        has_feature(&text, "buildpkg") || text.lines().any(|l| l.trim().starts_with("PKGDIR="))
    };
    Ok(texts.iter().any(says) || root.exists(INDEX)?)
}
