//! Ebuild repositories: where they are, and what their files say of them (PMS chapter 4;
//! `metadata/layout.conf` and `repos.conf` are Portage's, portage(5)).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::tree::Tree;
use super::updates::{self, Updates};
use crate::files::{self, Links};

/// Where the cache of metadata is that Portage writes by default (PMS 14.3).
pub const CACHE: &str = "metadata/md5-cache";

/// The main repository where `repos.conf` names none.
const MAIN: &str = "gentoo";

/// The directories at the top of a repository that are no categories.
const NO_CATEGORIES: [&str; 5] = ["eclass", "licenses", "metadata", "profiles", "scripts"];

/// A repository.
#[derive(Debug)]
pub struct Repository {
    /// Its name.
    pub name: String,
    /// Its path, as it is shown.
    pub path: PathBuf,
    /// Where it is in the system, if it is one of a system.
    pub location: Option<PathBuf>,
    /// Whether it is the one that all others build upon where they name none.
    pub main: bool,
    /// The names of the repositories that it builds upon.
    pub masters: Vec<String>,
    /// The EAPI of its profiles directory.
    eapi: String,
    pub(super) tree: Tree,
    /// What its cache is read from in the place of `tree`.
    cache: Option<Tree>,
}

impl Repository {
    /// Open the repository in a directory that the caller vouches for.
    ///
    /// # Errors
    /// It is no repository, or it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let dir = files::open_trusted(path);
        let dir = dir.with_context(|| format!("cannot open {}", path.display()))?;
        Self::read(Tree(dir), path, None)
    }

    /// Read its cache from another directory, which has it at the same path as the repository.
    #[must_use]
    pub fn with_cache(mut self, dir: OwnedFd) -> Self {
        self.cache = Some(Tree(dir));
        self
    }

    /// Open the repository in a directory, or else all that lie in it, side by side.
    ///
    /// # Errors
    /// There is none, or one cannot be read.
    pub fn open_all(path: &Path) -> Result<Vec<Self>> {
        let whole = Self::open(path);
        let Ok(dir) = files::open_trusted(path) else {
            return whole.map(|one| vec![one]);
        };
        if whole.is_ok() || is_repository(&Tree(dir)) {
            return whole.map(|one| vec![one]);
        }
        let entries = std::fs::read_dir(path);
        let entries = entries.with_context(|| format!("cannot list {}", path.display()))?;
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if files::open_trusted(&path).is_ok_and(|dir| is_repository(&Tree(dir))) {
                found.push(Self::open(&path)?);
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        match found.is_empty() {
            true => whole.map(|one| vec![one]),
            false => Ok(found),
        }
    }

    /// Open all repositories that `repos.conf` names, in the system whose root directory is
    /// `root`; sorted by name. One that is not there is left out.
    ///
    /// # Errors
    /// Something that is there cannot be read.
    pub fn configured(root: &Path) -> Result<Vec<Self>> {
        Self::configured_by(root, |_| Ok(None), |_| Ok(()))
    }

    /// As [`Repository::configured`]; what `elsewhere` gives for a location is opened there, and
    /// `missing` is told of one that is not there.
    ///
    /// # Errors
    /// As for [`Repository::configured`], and those of `elsewhere` and `missing`.
    pub fn configured_by(
        root: &Path,
        elsewhere: impl Fn(&Path) -> Result<Option<OwnedFd>>,
        missing: impl Fn(&str) -> Result<()>,
    ) -> Result<Vec<Self>> {
        let what = || format!("cannot read repos.conf in {}", root.display());
        let system = Tree(files::open_trusted(root).with_context(what)?);
        let mut found = Vec::new();
        let configured = configured(&system).with_context(what)?;
        for (name, location) in configured.locations {
            let inside = location.trim_start_matches('/');
            let path = root.join(inside);
            let what = || format!("cannot open {}", path.display());
            let other = elsewhere(Path::new(&location)).with_context(what)?;
            let system = other.as_ref().map_or(system.0.as_fd(), |dir| dir.as_fd());
            let dir = files::subdir(system, Path::new(inside), Links::InRoot);
            if let Some(dir) = dir.with_context(what)? {
                let mut repository = Self::read(Tree(dir), &path, Some(&name))?;
                repository.main = name == configured.main;
                repository.location = Some(location.into());
                found.push(repository);
            } else {
                missing(&location)?;
            }
        }
        Ok(found)
    }

    fn read(tree: Tree, path: &Path, configured: Option<&str>) -> Result<Self> {
        let what = || format!("cannot read the repository {}", path.display());
        let text = |file: &str| tree.text(file).with_context(what);
        let layout = text("metadata/layout.conf")?;
        let repo_name = text("profiles/repo_name")?;
        let known = layout.is_some() || repo_name.is_some() || configured.is_some();
        ensure!(
            known,
            "{} is no ebuild repository: it has no profiles/repo_name",
            path.display()
        );
        let layout = layout.unwrap_or_default();
        let own = |key| setting(&layout, key);
        let name = configured
            .or_else(|| repo_name.as_deref().and_then(first_word))
            .or_else(|| own("repo-name"))
            .or_else(|| path.file_name()?.to_str())
            .unwrap_or("unnamed")
            .to_owned();
        let eapi = text("profiles/eapi")?;
        Ok(Repository {
            masters: own("masters")
                .unwrap_or_default()
                .split_ascii_whitespace()
                .map(str::to_owned)
                .collect(),
            eapi: eapi
                .as_deref()
                .and_then(first_word)
                .unwrap_or("0")
                .to_owned(),
            path: path.to_owned(),
            location: None,
            main: false,
            name,
            tree,
            cache: None,
        })
    }

    /// Its updates.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn updates(&self) -> Result<Updates> {
        updates::load(&self.tree.0, &self.eapi, &self.path)
            .with_context(|| format!("cannot read {}", self.path.join(updates::UPDATES).display()))
    }

    /// The entry of its cache for `category/name-version`.
    pub(super) fn cached(&self, cpv: &str) -> io::Result<Option<String>> {
        let tree = self.cache.as_ref().unwrap_or(&self.tree);
        tree.text(&format!("{CACHE}/{cpv}"))
    }

    /// The directories at its top that may be categories.
    pub(super) fn categories(&self) -> io::Result<Vec<String>> {
        let entries = self.tree.entries(".")?.into_iter();
        let categories = entries.filter(|(name, is_dir)| {
            *is_dir && crate::version::is_category(name) && !NO_CATEGORIES.contains(&name.as_str())
        });
        Ok(categories.map(|(name, _)| name).collect())
    }

    /// The versions of a package, `category/name`.
    pub(super) fn versions(&self, name: &str) -> io::Result<Vec<String>> {
        let (_, package) = name.split_once('/').unwrap_or_default();
        let files = self.tree.entries(name)?.into_iter();
        let versions = files.filter_map(|(file, _)| {
            let pf = file.strip_suffix(".ebuild")?;
            let (own, version) = crate::version::split_pf(pf)?;
            (own == package).then(|| version.to_owned())
        });
        Ok(versions.collect())
    }
}

/// Do its files say so?
fn is_repository(tree: &Tree) -> bool {
    let has = |file| tree.bytes(file).is_ok_and(|content| content.is_some());
    has("profiles/repo_name") || has("metadata/layout.conf")
}

fn first_word(text: &str) -> Option<&str> {
    text.split_ascii_whitespace().next()
}

/// The value of `key = value`.
fn setting<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim())
}

/// What `repos.conf` says.
struct Configured {
    /// The name of the main repository.
    main: String,
    /// The repositories and their locations, sorted by name.
    locations: Vec<(String, String)>,
}

/// The files of `repos.conf`: Portage's own defaults, then those of the system.
fn configured(system: &Tree) -> io::Result<Configured> {
    let mut texts = Vec::new();
    for path in [
        "usr/share/portage/config/repos.conf",
        "etc/portage/repos.conf",
    ] {
        for file in system.files(path)? {
            texts.extend(system.text(&file)?);
        }
    }
    Ok(settings(&texts))
}

/// What these texts say; what comes later counts.
fn settings(texts: &[String]) -> Configured {
    let mut found = std::collections::BTreeMap::new();
    let mut main = MAIN.to_owned();
    for text in texts {
        let mut section = None;
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = Some(name);
            } else if let (Some(name), Some((key, value))) = (section, line.split_once('=')) {
                let value = value.trim().to_owned();
                match (name, key.trim()) {
                    ("DEFAULT", "main-repo") => main = value,
                    ("DEFAULT", _) => {}
                    (_, "location") => drop(found.insert(name.to_owned(), value)),
                    _ => {}
                }
            }
        }
    }
    Configured {
        main,
        locations: found.into_iter().collect(),
    }
}
