//! The caches of compilers: directories of the running system.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use be_btrfs::Root;
use be_portage::conf::plain_value;

use super::super::build::{inside, real};
use super::super::inputs::{CONFIGURATION, files};
use super::Engine;
use crate::config::Wanted;
use crate::observe::MAX_TEXT;
use crate::session::Session;

/// One that has a cache.
pub(super) struct Cache {
    pub(super) engine: Engine,
    /// The variable that names its directory.
    pub(super) variable: &'static str,
    /// Where it is if neither be.toml nor make.conf says: where Gentoo's wiki has it.
    usual: &'static str,
}

pub(super) const CCACHE: Cache = Cache {
    engine: Engine::new("ccache", "dev-util/ccache"),
    variable: "CCACHE_DIR",
    usual: "/var/cache/ccache",
};

pub(super) const SCCACHE: Cache = Cache {
    engine: Engine::new("sccache", "dev-util/sccache"),
    variable: "SCCACHE_DIR",
    usual: "/var/cache/sccache",
};

/// Group id that Gentoo gives the group `portage`, for a system without that group.
const PORTAGE: u32 = 250;

/// The directories of the caches that environments are built with, from the root of the running
/// system: they belong to it alone.
pub(crate) fn caches(session: &Session) -> Vec<PathBuf> {
    let config = &session.config.farm;
    let conf = make_conf(&session.root);
    let used = [(&CCACHE, &config.ccache), (&SCCACHE, &config.sccache)].into_iter();
    let used = used.filter(|(_, wanted)| wanted.is_on());
    used.filter_map(|(cache, wanted)| {
        let path = directory(cache, wanted, &conf);
        let path = inside(&path).ok()?;
        Some(session.root.canonicalize(path).unwrap_or(path.into()))
    })
    .collect()
}

/// Where a cache is: as be.toml says, or make.conf.
pub(super) fn directory(cache: &Cache, wanted: &Wanted, conf: &str) -> String {
    let said = wanted.with().or_else(|| plain_value(conf, cache.variable));
    said.unwrap_or(cache.usual).to_owned()
}

/// Where an environment sees a cache.
pub(super) fn place(cache: &Cache) -> PathBuf {
    Path::new("/run/be").join(cache.engine.program)
}

/// The directory of a cache in the running system, as a path of the machine. One that is not
/// there is made as Portage has it: its group may write, and so may whoever builds.
pub(super) fn open(session: &Session, path: &str) -> Result<PathBuf> {
    let (root, inside) = (&session.root, inside(path)?);
    if !root.exists(inside)? {
        root.mkdir_all(inside, 0o755)?;
        root.chown(inside, 0, group(root))?;
        root.chmod(inside, 0o2775)?;
    }
    let dir = root.sub(inside)?;
    real(&dir).context("its place is not known")
}

/// The group `portage` of a system (group(5)).
fn group(root: &Root) -> u32 {
    let text = root
        .read_to_string("etc/group", MAX_TEXT)
        .unwrap_or_default();
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("portage:"));
    let mut ids = lines.filter_map(|rest| rest.split(':').nth(1)?.parse().ok());
    ids.next_back().unwrap_or(PORTAGE)
}

/// All that is written in make.conf; nothing if it cannot be read.
pub(in crate::upgrade) fn make_conf(root: &Root) -> String {
    let conf = Path::new(CONFIGURATION).join("make.conf");
    let mut texts = files(root, &conf).unwrap_or_default();
    if texts.is_empty() {
        texts.push(conf);
    }
    let read = |path| root.read_to_string(path, MAX_TEXT).unwrap_or_default();
    texts.into_iter().map(read).collect::<Vec<_>>().join("\n")
}
