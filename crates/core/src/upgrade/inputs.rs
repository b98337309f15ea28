//! What an upgrade is made from. The same inputs give the same environment: one that did not
//! boot is not built again until something has changed. That is remembered beside the
//! environments, so that it outlives them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use be_btrfs::{FileType, Root};
use chrono::{DateTime, FixedOffset};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::Work;
use crate::manager::{Planned, Profile};
use crate::name::EnvName;
use crate::observe::MAX_TEXT;
use crate::record::Record;
use crate::report::{Event, Repository};
use crate::session::Session;

/// The file, from the top level.
const FILE: &str = "@be/.bad.json";

/// How many are remembered.
const MOST: usize = 20;

pub(super) const CONFIGURATION: &str = "etc/portage";
/// Keys of hosts, in [`CONFIGURATION`]. They are of one machine, and none of its configuration:
/// getuto makes there a key of its own, and fetches the others again every day.
pub(crate) const KEYS: &str = "gnupg";
pub(super) const WORLD: [&str; 2] = ["var/lib/portage/world", "var/lib/portage/world_sets"];
const REPOSITORIES: &str = "var/db/repos";
const PACKAGES: &str = "var/db/pkg";

/// What did not boot.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Memory {
    schema: u32,
    bad: Vec<Bad>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Bad {
    environment: EnvName,
    noticed: DateTime<FixedOffset>,
    inputs: String,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl Work<'_> {
    /// Note down what this upgrade is made from; the repositories are synchronised.
    pub(super) fn take_inputs(&mut self) -> Result<()> {
        let base = self.session.whole_base(&self.record)?;
        let root = self.root()?;
        let options = self.upgrade().options.clone();
        let added = self.session.config.upgrade.emerge_options.clone();
        let lock = self
            .upgrade()
            .lock
            .iter()
            .map(|lock| format!("lock {lock}"));
        let all = [options, added, lock.collect()].concat();
        let inputs = inputs(&root, &self.session.root, &base, &all)?;
        self.upgrade().inputs.clone_from(&inputs);
        self.journal(Event::Inputs {
            hash: inputs,
            repositories: repositories(&root, &self.session.root, &base)?,
        });
        Ok(())
    }

    /// Why there is no point in going on: the same did not boot.
    pub(super) fn known_to_fail(&mut self) -> Result<Option<String>> {
        let Some(inputs) = self.upgrade().inputs.clone() else {
            return Ok(None);
        };
        let known = read(self.session)?.bad.into_iter().rev();
        let mut same = known.filter(|bad| bad.inputs == inputs);
        Ok(same.next().map(|bad| {
            format!(
                "the same upgrade, {}, did not come up on {}; repositories, configuration, world \
                 and packages are as they were then. To build it all the same: be upgrade --again",
                bad.environment,
                bad.noticed.format("%Y-%m-%d")
            )
        }))
    }
}

impl Work<'_> {
    /// As [`Work::take_inputs`], for another manager than Portage: what is installed and what
    /// would be decides.
    pub(super) fn take_inputs_of(&mut self, profile: &Profile, planned: &[Planned]) -> Result<()> {
        let mut hash = Sha256::new();
        add(&mut hash, "manager", &profile.name);
        for package in self.session.packages_of_base(&self.record)?.packages {
            add(&mut hash, "package", &package.cpv());
        }
        for Planned { package, new, .. } in planned {
            let new = new.as_deref().unwrap_or_default();
            add(&mut hash, package, new);
        }
        for option in &self.upgrade().options {
            add(&mut hash, "option", option);
        }
        let inputs = Some(hex(hash));
        self.upgrade().inputs.clone_from(&inputs);
        self.journal(Event::Inputs {
            hash: inputs,
            repositories: Vec::new(),
        });
        Ok(())
    }
}

/// Remember what an environment was made from that did not come up.
pub(crate) fn remember(
    session: &Session,
    record: &Record,
    noticed: DateTime<FixedOffset>,
) -> Result<()> {
    let inputs = record.upgrade.as_ref().and_then(|u| u.inputs.clone());
    let Some(inputs) = inputs else { return Ok(()) };
    let mut memory = read(session)?;
    memory.schema = 1;
    memory.bad.retain(|bad| bad.inputs != inputs);
    memory.bad.push(Bad {
        environment: record.name.clone(),
        noticed,
        inputs,
        extra: Map::new(),
    });
    let surplus = memory.bad.len().saturating_sub(MOST);
    memory.bad.drain(..surplus);
    write(session, &memory)
}

/// It has come up after all.
pub(crate) fn forget(session: &Session, record: &Record) -> Result<()> {
    let inputs = record.upgrade.as_ref().and_then(|u| u.inputs.clone());
    let mut memory = read(session)?;
    let before = memory.bad.len();
    memory
        .bad
        .retain(|bad| Some(&bad.inputs) != inputs.as_ref());
    match memory.bad.len() == before {
        true => Ok(()),
        false => write(session, &memory),
    }
}

fn read(session: &Session) -> Result<Memory> {
    match session.store.dir.read_to_string(FILE, MAX_TEXT) {
        // It only saves work: what is damaged is forgotten.
        Ok(text) => Ok(serde_json::from_str(&text).unwrap_or_default()),
        Err(e) if e.is_not_found() => Ok(Memory::default()),
        Err(e) => Err(e).context("cannot read what did not boot"),
    }
}

fn write(session: &Session, memory: &Memory) -> Result<()> {
    let text = serde_json::to_string_pretty(memory)? + "\n";
    let dir = &session.store.dir;
    dir.write_atomic(FILE, text.as_bytes(), 0o600)
        .context("cannot write what did not boot")
}

/// A hash of what decides about an upgrade; none where the state of the repositories cannot
/// be told. `shared` is where repositories are that all environments share, `base` the
/// system that was cloned.
fn inputs(root: &Root, shared: &Root, base: &Root, options: &[String]) -> Result<Option<String>> {
    let mut hash = Sha256::new();
    let mut repositories = 0;
    for path in locations(root)? {
        let state = match state(root, &path)? {
            None => state(shared, &path)?,
            state => state,
        };
        if let Some(state) = state {
            repositories += 1;
            add(&mut hash, &path.to_string_lossy(), &state);
        }
    }
    if repositories == 0 {
        return Ok(None);
    }
    hash_configuration(root, &mut hash)?;
    for path in WORLD {
        let text = root.read_to_string(path, MAX_TEXT);
        add(&mut hash, path, &text.unwrap_or_default());
    }
    for category in sorted(base, Path::new(PACKAGES))? {
        for package in sorted(base, &category)? {
            add(&mut hash, "package", &package.to_string_lossy());
        }
    }
    for option in options {
        add(&mut hash, "option", option);
    }
    Ok(Some(hex(hash)))
}

fn add(hash: &mut Sha256, part: &str, value: &str) {
    for text in [part, value] {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
}

pub(crate) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// The files of Portage's configuration, sorted. Keys of hosts are none: gpg writes to its
/// directory when it only verifies, and what is in it decides nothing about what is built.
pub(crate) fn configuration(root: &Root) -> Result<Vec<PathBuf>> {
    let dir = Path::new(CONFIGURATION);
    let mut found = files(root, dir)?;
    found.retain(|path| !path.starts_with(dir.join(KEYS)));
    Ok(found)
}

/// Add the names and contents of all files of the configuration.
pub(super) fn hash_configuration(root: &Root, hash: &mut Sha256) -> Result<()> {
    for path in configuration(root)? {
        let content = match root.lstat(&path)?.kind {
            FileType::Symlink => root.readlink(&path)?.to_string_lossy().into_owned(),
            // The socket of a gpg-agent, which comes and goes.
            kind if !kind.is_file() => continue,
            _ => String::from_utf8_lossy(&root.read(&path, MAX_TEXT)?).into_owned(),
        };
        add(hash, &path.to_string_lossy(), &content);
    }
    Ok(())
}

/// Where repositories are: those of repos.conf, and what lies at their usual place.
pub(super) fn locations(root: &Root) -> Result<BTreeSet<PathBuf>> {
    let mut found: BTreeSet<PathBuf> = sorted(root, Path::new(REPOSITORIES))?.collect();
    let conf = Path::new(CONFIGURATION).join("repos.conf");
    for file in files(root, &conf)?.into_iter().chain([conf]) {
        let text = root.read_to_string(&file, MAX_TEXT).unwrap_or_default();
        let values = text.lines().filter_map(|line| line.split_once('='));
        let values = values.filter(|(key, _)| key.trim() == "location");
        found.extend(values.map(|(_, value)| value.trim().trim_matches('/').into()));
    }
    Ok(found)
}

/// The repositories with their versions; see [`inputs`].
fn repositories(root: &Root, shared: &Root, base: &Root) -> Result<Vec<Repository>> {
    let found = locations(root)?.into_iter();
    let is_there = |root: &Root, path: &Path| root.is_dir(path).unwrap_or(false);
    Ok(found
        .filter_map(|path| {
            let own = is_there(root, &path);
            let place = if own { root } else { shared };
            let before = own.then(|| version(base, &path)).flatten();
            is_there(place, &path).then(|| Repository {
                state: version(place, &path),
                before,
                path: Path::new("/").join(path),
            })
        })
        .collect())
}

/// The commit or the time stamp of a repository; without either, what its files look like.
fn state(root: &Root, path: &Path) -> Result<Option<String>> {
    if !root.is_dir(path).unwrap_or(false) {
        return Ok(None);
    }
    if let Some(version) = version(root, path) {
        return Ok(Some(version));
    }
    let mut look = String::new();
    for file in files(root, path)? {
        let meta = root.lstat(&file)?;
        let (file, mtime) = (file.display(), meta.mtime);
        look.push_str(&format!("{file} {} {mtime:?}\n", meta.size));
    }
    Ok((!look.is_empty()).then_some(look))
}

/// The commit or the time stamp of a repository.
fn version(root: &Root, path: &Path) -> Option<String> {
    let stamp = || {
        let (commit, time) = stamps(root, path);
        commit.or(time)
    };
    head(root, path).or_else(stamp)
}

/// The commit that is checked out.
pub(crate) fn head(root: &Root, path: &Path) -> Option<String> {
    let text = |file: &str| root.read_to_string(path.join(file), MAX_TEXT).ok();
    let head = text(".git/HEAD")?;
    let head = head.trim();
    let Some(reference) = head.strip_prefix("ref: ") else {
        return Some(head.to_owned());
    };
    let packed = || {
        let all = text(".git/packed-refs")?;
        let mut lines = all.lines().filter_map(|line| line.split_once(' '));
        let found = lines.find(|(_, name)| *name == reference);
        found.map(|(commit, _)| commit.to_owned())
    };
    let commit = text(&format!(".git/{reference}")).or_else(packed)?;
    Some(commit.trim().to_owned())
}

/// What a mirror says of itself: the commit that it was made from, and when.
pub(crate) fn stamps(root: &Root, path: &Path) -> (Option<String>, Option<String>) {
    let text = |file: &str| root.read_to_string(path.join(file), MAX_TEXT).ok();
    // `COMMIT SECONDS TIME`, and the time alone.
    let commit = text("metadata/timestamp.commit");
    let commit = commit.and_then(|line| Some(line.split_whitespace().next()?.to_owned()));
    let time = text("metadata/timestamp.chk").map(|time| time.trim().to_owned());
    (commit, time)
}

/// All files below a directory, sorted; none if it is not there.
pub(crate) fn files(root: &Root, dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for path in sorted(root, &dir)? {
            match root.lstat(&path)?.kind {
                FileType::Dir => left.push(path),
                _ => found.push(path),
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What is in a directory, sorted; nothing if it is none.
fn sorted(root: &Root, dir: &Path) -> Result<impl Iterator<Item = PathBuf>> {
    let mut names = match root.is_dir(dir).unwrap_or(false) {
        true => root.list(dir)?,
        false => Vec::new(),
    };
    names.sort_by(|a, b| a.0.cmp(&b.0));
    let dir = dir.to_owned();
    Ok(names.into_iter().map(move |(name, _)| dir.join(name)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn system() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("etc/portage/make.conf", "USE=a\n"),
            ("etc/portage/repos.conf/x.conf", "[x]\nlocation = /srv/x\n"),
            ("srv/x/metadata/timestamp.chk", "Fri\n"),
            ("var/db/repos/gentoo/.git/HEAD", "ref: refs/heads/master\n"),
            ("var/db/repos/gentoo/.git/refs/heads/master", "abc\n"),
            ("var/lib/portage/world", "app-misc/hello\n"),
            ("var/db/pkg/app-misc/hello-1/SLOT", "0\n"),
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    #[test]
    fn what_decides_about_an_upgrade_decides_about_the_hash() {
        let (dir, root) = system();
        let hash = |options: &[&str]| {
            let options: Vec<_> = options.iter().map(|o| (*o).to_owned()).collect();
            inputs(&root, &root, &root, &options).unwrap().unwrap()
        };
        let first = hash(&[]);
        assert_eq!(hash(&[]), first);
        assert_ne!(hash(&["--with-bdeps=n"]), first);
        let mut seen = vec![first];
        for (path, text) in [
            ("etc/portage/make.conf", "USE=b\n"),
            ("srv/x/metadata/timestamp.chk", "Sat\n"),
            ("var/db/repos/gentoo/.git/refs/heads/master", "abd\n"),
            ("var/lib/portage/world", "\n"),
            ("var/db/pkg/app-misc/hello-2", ""),
            ("etc/portage/package.use", "x y\n"),
        ] {
            fs::write(dir.path().join(path), text).unwrap();
            let now = hash(&[]);
            assert!(!seen.contains(&now), "{path}");
            seen.push(now);
        }
        let keys = dir.path().join("etc/portage/gnupg");
        fs::create_dir(&keys).unwrap();
        fs::write(keys.join("random_seed"), "other\n").unwrap();
        let socket = dir.path().join("etc/portage/S.gpg-agent");
        let _listens = std::os::unix::net::UnixListener::bind(socket).unwrap();
        assert_eq!(Some(&hash(&[])), seen.last());
    }

    #[test]
    fn repositories_that_are_shared_are_looked_at_where_they_are() {
        let (clone, inside) = system();
        let (_dir, shared) = system();
        let before = inputs(&inside, &shared, &inside, &[]).unwrap();
        fs::remove_dir_all(clone.path().join("srv/x")).unwrap();
        assert_eq!(inputs(&inside, &shared, &inside, &[]).unwrap(), before);
        let (empty, nothing) = system();
        fs::remove_dir_all(empty.path().join("srv")).unwrap();
        fs::remove_dir_all(empty.path().join("var/db/repos")).unwrap();
        assert_eq!(inputs(&nothing, &nothing, &nothing, &[]).unwrap(), None);
    }
}
