//! Ebuild repositories: where they are, and what their files say of them (PMS chapter 4;
//! `metadata/layout.conf` and `repos.conf` are Portage's, portage(5)).

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::tree::Tree;
use super::updates::{self, Updates};
use crate::files::{self, Links};

/// Where the cache of metadata is that Portage writes by default (PMS 14.3).
pub const CACHE: &str = "metadata/md5-cache";

/// The directories at the top of a repository that are no categories.
const NO_CATEGORIES: [&str; 5] = ["eclass", "licenses", "metadata", "profiles", "scripts"];

/// A repository.
#[derive(Debug)]
pub struct Repository {
    /// Its name.
    pub name: String,
    /// Its path, as it is shown.
    pub path: PathBuf,
    /// The names of the repositories that it builds upon.
    pub masters: Vec<String>,
    /// The EAPI of its profiles directory.
    eapi: String,
    pub(super) tree: Tree,
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
        let what = || format!("cannot read repos.conf in {}", root.display());
        let system = Tree(files::open_trusted(root).with_context(what)?);
        let mut found = Vec::new();
        for (name, location) in locations(&system).with_context(what)? {
            let inside = location.trim_start_matches('/');
            let path = root.join(inside);
            let what = || format!("cannot open {}", path.display());
            let dir = files::subdir(&system.0, Path::new(inside), Links::InRoot);
            if let Some(dir) = dir.with_context(what)? {
                found.push(Self::read(Tree(dir), &path, Some(&name))?);
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
            name,
            tree,
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

/// The files of `repos.conf`: Portage's own defaults, then those of the system.
fn locations(system: &Tree) -> io::Result<Vec<(String, String)>> {
    let mut texts = Vec::new();
    for path in [
        "usr/share/portage/config/repos.conf",
        "etc/portage/repos.conf",
    ] {
        for file in system.files(path)? {
            texts.extend(system.text(&file)?);
        }
    }
    Ok(named_locations(&texts))
}

/// The repositories of these texts and their locations; what comes later counts.
fn named_locations(texts: &[String]) -> Vec<(String, String)> {
    let mut found = std::collections::BTreeMap::new();
    for text in texts {
        let mut section = None;
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = (name != "DEFAULT").then_some(name);
            } else if let (Some(name), Some((key, value))) = (section, line.split_once('='))
                && key.trim() == "location"
            {
                found.insert(name.to_owned(), value.trim().to_owned());
            }
        }
    }
    found.into_iter().collect()
}
