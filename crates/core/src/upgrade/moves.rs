//! Package moves do not break other repositories than the main one: where their ebuilds still
//! have old names, Portage finds other entries in the metadata cache, by mounts that only its
//! own namespace has. The repositories stay as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use be_btrfs::Root;
use be_portage::emerge::Emerge;
use be_portage::moves::map::Moves;
use be_portage::moves::packages::Stock;
use be_portage::moves::repository::Repository;
use be_portage::moves::scan::{Change, mends};
use be_portage::moves::stand_in::{Survey, survey};
use be_portage::moves::updates::Updates;
use be_portage::moves::{probe, query};

use super::Work;
use super::finish::fd_path;
use super::inputs::CONFIGURATION;
use crate::chroot::{Bind, Cover, uncover};
use crate::layout;
use crate::observe::MAX_TEXT;
use crate::report::{Event, Moved as Told, Place};

/// Where what stands in for something is, in the root of the environment. It belongs to no
/// package, and is gone when the upgrade is.
const STAGE: &str = ".be-moves";

/// What a repository has besides its ebuilds (PMS 4.1).
const METADATA: &str = "metadata";
const LAYOUT: &str = "layout.conf";
const CACHE: &str = "md5-cache";

/// What every phase of an ebuild reads, in Portage's configuration.
const BASHRC: &str = "bashrc";

/// A larger one of the owner's is not extended, in bytes: it is handed on as an argument.
const MAX_BASHRC: u64 = 32 << 10;

/// How many names of a repository are told while it works; all are in the report.
const SHOWN: usize = 10;

/// What a job sees in the place of what is there.
#[derive(Debug, Default)]
pub(super) struct Moved {
    pub(super) inside: Vec<Bind>,
    pub(super) covers: Vec<Cover>,
}

/// A repository in which something is to be resolved.
struct Need {
    name: String,
    /// What stands in for its metadata, in the root of the environment.
    home: PathBuf,
    /// Where its metadata is in the environment, without a link on the way.
    metadata: PathBuf,
    /// Packages that have to be cached first.
    uncached: BTreeSet<String>,
}

impl Work<'_> {
    /// See to it that old names in other repositories are taken for the new ones. Where that
    /// cannot be, Portage says what it always says.
    pub(super) fn moves(&mut self) -> Result<()> {
        self.forget_moves()?;
        if !self.session.config.upgrade.moves {
            return Ok(());
        }
        let Err(e) = self.resolve_moves() else {
            return Ok(());
        };
        if self.interrupted.came() {
            return Err(e);
        }
        self.forget_moves()?;
        self.watch.note(&format!(
            "old names of packages are left as they are: {e:#}"
        ));
        Ok(())
    }

    /// Take away what stands in for something, also what was left by a job that was killed.
    pub(super) fn forget_moves(&mut self) -> Result<()> {
        self.moved = Moved::default();
        let root = self.root()?;
        let bashrc = Path::new("/").join(CONFIGURATION).join(BASHRC);
        let cover = |path| Cover {
            path,
            text: String::new(),
        };
        uncover(&root, &[cover(bashrc)])?;
        match root.exists(STAGE)? {
            true => Ok(root.remove_tree(STAGE)?),
            false => Ok(()),
        }
    }

    /// All of it; what was done is told and noted.
    fn resolve_moves(&mut self) -> Result<()> {
        let mut told = Vec::new();
        let done = self.resolve_all(&mut told);
        for one in &told {
            let (place, names) = (&one.place, one.names(SHOWN));
            self.watch.note(&match place {
                Place::Repository(_) => format!("old names in {place} are resolved: {names}"),
                Place::File(_) => format!("old names in {place} are replaced: {names}"),
            });
        }
        self.noted.moves.clone_from(&told);
        if !told.is_empty() {
            self.journal(Event::Moves { moves: told });
        }
        done
    }

    fn resolve_all(&mut self, told: &mut Vec<Told>) -> Result<()> {
        let repositories = self.repositories()?;
        let mut updates = Updates::default();
        for repository in &repositories {
            updates.append(repository.updates()?);
        }
        let moves = Moves::new(updates.updates);
        let stock = Stock::new(&repositories);
        if !moves.matter(&stock) {
            return Ok(());
        }
        self.mend_settings(&moves, &stock, told)?;
        let (mut needs, mut asked) = (Vec::new(), BTreeMap::new());
        for repository in repositories.iter().filter(|r| !r.main) {
            if self.interrupted.came() {
                bail!("it was interrupted");
            }
            let found = survey(repository, &repositories, &moves, &stock)?;
            asked.extend(found.asked);
            if found.entries.is_empty() && found.uncached.is_empty() {
                continue;
            }
            let name = &repository.name;
            match self.metadata_of(repository) {
                Ok(metadata) => needs.push(Need {
                    name: name.clone(),
                    home: Path::new(STAGE).join(needs.len().to_string()),
                    metadata,
                    uncached: found.uncached,
                }),
                Err(e) => self.left(name, &e),
            }
        }
        drop(stock);
        let main = repositories.iter().find(|r| r.main);
        let main = main.map(|r| r.name.clone()).unwrap_or_default();
        if !needs.is_empty() {
            self.resolve_in(repositories, needs, &moves, told)?;
        }
        if !asked.is_empty()
            && let Err(e) = self.answer(&asked, &main)
        {
            self.watch.note(&format!(
                "ebuilds that ask for an installed package by an old name are not answered: {e:#}"
            ));
        }
        Ok(())
    }

    /// Put new names into the settings below /etc/portage: Portage's own changes to them would
    /// wait to be merged, and leave out much.
    fn mend_settings(
        &mut self,
        moves: &Moves,
        stock: &Stock<'_>,
        told: &mut Vec<Told>,
    ) -> Result<()> {
        let root = self.root()?;
        let settings = root.canonicalize(CONFIGURATION)?;
        for mend in mends(&fd_path(&root), moves, stock)? {
            // A link may lead into a repository, which stays as it is.
            let real = root.canonicalize(&mend.path);
            if !real.is_ok_and(|real| real.starts_with(&settings)) {
                self.watch.note(&format!(
                    "/{} leads elsewhere, and is left as it is",
                    mend.path
                ));
                continue;
            }
            let done = match &mend.change {
                Change::Text(text) => root.write_atomic(&mend.path, text.as_bytes(), 0o644),
                Change::Rename(to) => rename(&root, &mend.path, to),
            };
            let path = format!("/{}", mend.path);
            match done {
                Ok(()) => told.push(Told::new(Place::File(path), mend.names)),
                Err(e) => self.watch.note(&format!("{path} is left as it is: {e:#}")),
            }
        }
        Ok(())
    }

    /// The repositories as the environment sees them.
    fn repositories(&self) -> Result<Vec<Repository>> {
        let root = self.root()?;
        let shared = layout::shared(&self.session.observe()?.system);
        Repository::configured_by(
            &fd_path(&root),
            |location| {
                let is_shared = shared.iter().any(|target| location.starts_with(target));
                let running = || self.session.root.fd().try_clone_to_owned();
                Ok(is_shared.then(running).transpose()?)
            },
            |location| bail!("the repository {location} is nowhere in the environment"),
        )
    }

    /// Where a repository's metadata is, without a link on the way.
    fn metadata_of(&self, repository: &Repository) -> Result<PathBuf> {
        let location = repository.location.as_deref().context("it is nowhere")?;
        let location = Path::new("/").join(location);
        let tree = self.session.seen_by(&self.record, &location)?;
        let real = tree.canonicalize(inside(&location))?;
        let metadata = real.join(METADATA);
        let kind = tree.lstat(&metadata).map(|meta| meta.kind);
        ensure!(
            kind.is_ok_and(|kind| kind.is_dir()),
            "it has no directory {METADATA}"
        );
        Ok(Path::new("/").join(metadata))
    }

    fn left(&mut self, repository: &str, why: &anyhow::Error) {
        self.watch.note(&format!(
            "old names of packages in {repository} are left as they are: {why:#}"
        ));
    }

    /// Have other entries stand in for those with old names.
    fn resolve_in(
        &mut self,
        repositories: Vec<Repository>,
        needs: Vec<Need>,
        moves: &Moves,
        told: &mut Vec<Told>,
    ) -> Result<()> {
        if !self.is_honoured(&repositories)? {
            self.watch.note(
                "old names of packages are left as they are: this Portage does not take \
                 dependencies from the metadata cache of a repository",
            );
            self.forget_moves()?;
            return Ok(());
        }
        let mut staged = Vec::new();
        for need in needs {
            match self.stage(&need) {
                Ok(()) => staged.push(need),
                Err(e) => self.left(&need.name, &e),
            }
        }
        for need in &staged {
            self.cache(need)?;
        }
        let root = self.root()?;
        let with_cache =
            |repository: Repository| match staged.iter().find(|n| n.name == repository.name) {
                Some(need) => {
                    Ok(repository.with_cache(root.sub(&need.home)?.fd().try_clone_to_owned()?))
                }
                None => Ok(repository),
            };
        let repositories = repositories.into_iter().map(with_cache);
        let repositories = repositories.collect::<Result<Vec<_>>>()?;
        let stock = Stock::new(&repositories);
        for repository in &repositories {
            let Some(need) = staged.iter().find(|n| n.name == repository.name) else {
                continue;
            };
            let found = survey(repository, &repositories, moves, &stock)?;
            self.put_entries(&root, need, &found)?;
            if !found.uncached.is_empty() {
                let packages: Vec<_> = found.uncached.iter().map(String::as_str).collect();
                let why = anyhow::anyhow!("{} cannot be cached", packages.join(", "));
                self.left(&need.name, &why);
            }
            let names = found.names();
            if !names.is_empty() {
                told.push(Told::new(Place::Repository(need.name.clone()), names));
            }
        }
        Ok(())
    }

    /// Put the entries of a repository into what stands in for its metadata; nothing stands in
    /// where none is needed.
    fn put_entries(&mut self, root: &Root, need: &Need, found: &Survey<'_>) -> Result<()> {
        if found.entries.is_empty() {
            self.moved
                .inside
                .retain(|bind| bind.target != need.metadata);
        }
        for entry in &found.entries {
            let path = need.home.join(&entry.path);
            root.write_later(&path, entry.text.as_bytes(), 0o644)?;
        }
        Ok(())
    }

    /// Whether this Portage takes its dependencies from what stands in for a cache.
    fn is_honoured(&mut self, repositories: &[Repository]) -> Result<bool> {
        let root = self.root()?;
        let home = Path::new(STAGE).join(".probe");
        let metadata = Path::new(STAGE).join(".probe-metadata");
        for (path, text) in probe::files() {
            write(&root, &home.join(path), text)?;
        }
        for (path, text) in probe::metadata() {
            write(&root, &metadata.join(path), &text)?;
        }
        let there = home.join(probe::METADATA);
        root.mkdir_all(&there, 0o755)?;
        self.moved.inside.push(Bind {
            source: Path::new("/").join(metadata),
            target: Path::new("/").join(there),
        });
        let home = Path::new("/").join(home);
        let from = self.log_length()?;
        self.emerge(
            &probe::question(&home.to_string_lossy(), repositories),
            |_| (),
        )?;
        self.moved.inside.clear();
        Ok(probe::is_honoured(&self.log_since(from)?))
    }

    /// Have a copy of a repository's metadata stand in for it.
    fn stage(&mut self, need: &Need) -> Result<()> {
        let root = self.root()?;
        let metadata = need.home.join(METADATA);
        root.mkdir_all(&metadata, 0o755)?;
        let real = self.session.seen_by(&self.record, &need.metadata)?;
        let copy = root.sub(&metadata)?;
        copy.copy_from(&real.sub(inside(&need.metadata))?)?;
        copy.mkdir_all(CACHE, 0o755)?;
        if let Ok(text) = copy.read_to_string(LAYOUT, MAX_TEXT) {
            copy.write_later(LAYOUT, with_this_cache(&text).as_bytes(), 0o644)?;
        }
        self.moved.inside.push(Bind {
            source: Path::new("/").join(metadata),
            target: need.metadata.clone(),
        });
        Ok(())
    }

    /// Have Portage write the entries that are missing, into what stands in for the cache.
    fn cache(&mut self, need: &Need) -> Result<()> {
        if need.uncached.is_empty() {
            return Ok(());
        }
        let args = ["egencache", "--update", "--repo", &need.name];
        let args = args.into_iter().map(str::to_owned);
        let command = Emerge {
            args: args.chain(need.uncached.iter().cloned()).collect(),
            env: vec![("NO_COLOR".to_owned(), "1".to_owned())],
        };
        // What has no entry then is told of.
        self.emerge(&command, |_| ())?;
        Ok(())
    }

    /// Have ebuilds that ask for an installed package by an old name be told of the new one.
    fn answer(&mut self, asked: &BTreeMap<String, String>, main: &str) -> Result<()> {
        let root = self.root()?;
        let place = Path::new(CONFIGURATION).join(BASHRC);
        let shared = layout::shared(&self.session.observe()?.system);
        let absolute = Path::new("/").join(&place);
        ensure!(
            !shared.iter().any(|target| absolute.starts_with(target)),
            "/{CONFIGURATION} is shared with the running system"
        );
        // A link that leads to something shared, or to nothing.
        let is_link = root.lstat(&place).is_ok_and(|meta| meta.kind.is_symlink());
        ensure!(
            !is_link || root.exists(&place)?,
            "/{CONFIGURATION}/{BASHRC} is a link that leads out of the environment"
        );
        let own = match root.read_to_string(&place, MAX_BASHRC) {
            Ok(text) => text,
            Err(e) if e.is_not_found() => String::new(),
            Err(e) => return Err(e).context("cannot read the bashrc of Portage"),
        };
        // A link would be mounted at.
        let place = match root.exists(&place)? {
            true => root.canonicalize(&place)?,
            false => root.canonicalize(CONFIGURATION)?.join(BASHRC),
        };
        self.moved.covers.push(Cover {
            path: Path::new("/").join(place),
            text: query::wrappers(asked, main) + &own,
        });
        Ok(())
    }
}

/// A path of the environment, from its root.
fn inside(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn rename(root: &Root, from: &str, to: &str) -> Result<(), be_btrfs::Error> {
    if let Some(category) = Path::new(to).parent() {
        root.mkdir_all(category, 0o755)?;
    }
    root.rename_noreplace(from, to)
}

fn write(root: &Root, path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        root.mkdir_all(parent, 0o755)?;
    }
    Ok(root.write_later(path, text.as_bytes(), 0o644)?)
}

/// The text of a layout.conf with no other format of the cache than the one that stands in.
fn with_this_cache(text: &str) -> String {
    let is_other = |line: &&str| line.split('=').next().map(str::trim) != Some("cache-formats");
    let lines = text.lines().filter(is_other);
    let lines = lines.chain(["cache-formats = md5-dict"]);
    lines.map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_names_the_format_that_stands_in() {
        assert_eq!(
            with_this_cache("masters = gentoo\ncache-formats = pms\nx = y"),
            "masters = gentoo\nx = y\ncache-formats = md5-dict\n"
        );
    }
}
