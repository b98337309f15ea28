//! Package managers: Portage, which is built in, and others, which are data.

mod list;
mod packaged;
mod pattern;
mod profile;
mod progress;
mod source;
mod versions;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use be_btrfs::Root;
use be_portage::config_files::waiting::Beside;
use be_portage::diff::Order;
use be_portage::version::version_cmp;
use serde::Serialize;

pub use profile::{Packages, Profile, Step};
pub(crate) use progress::{At, Count};
pub use source::{Places, Source};

use crate::chroot::Cover;
use crate::observe::MAX_TEXT;
use crate::refusal::Refusal;
use crate::session::Session;

/// Where the owner's profiles are.
pub const DIRECTORY: &str = "etc/be/managers.d";

/// What be.toml says for: the one that is found.
pub const AUTO: &str = "auto";

/// The name of the one that is built in.
pub const PORTAGE: &str = "portage";

/// Those that come with `be`, in the order in which they are looked for.
const BUILT_IN: [(&str, &str); 3] = [
    ("apt", include_str!("apt.toml")),
    ("dnf", include_str!("dnf.toml")),
    ("pacman", include_str!("pacman.toml")),
];

/// Who installs packages in a system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Manager {
    /// Portage.
    #[default]
    Portage,
    /// Another, of which `be` knows the commands.
    Profile(Arc<Profile>),
}

impl Manager {
    /// Its name, as in be.toml.
    pub fn name(&self) -> &str {
        match self {
            Self::Portage => PORTAGE,
            Self::Profile(profile) => &profile.name,
        }
    }

    /// How its versions are compared.
    pub fn order(&self) -> Order {
        match self {
            Self::Portage => version_cmp,
            Self::Profile(profile) => profile.versions.function(),
        }
    }

    /// What it leaves beside configuration files, other than Portage.
    pub fn beside(&self) -> Beside {
        match self {
            Self::Portage => Beside::default(),
            Self::Profile(profile) => profile.config_files.clone(),
        }
    }

    /// Whether new versions of configuration files can be found, and merged, after it.
    pub fn looks_after_files(&self) -> bool {
        *self == Self::Portage || self.beside() != Beside::default()
    }

    /// What is said of a package that is installed in part.
    pub fn in_part(&self, package: &str) -> String {
        match self {
            Self::Portage => {
                format!("the merge of {package} was cut off; merging it again repairs that")
            }
            Self::Profile(_) => format!("{package} is installed in part"),
        }
    }

    /// What its commands see in the place of what is there.
    pub fn covers(&self) -> Vec<Cover> {
        let Self::Profile(profile) = self else {
            return Vec::new();
        };
        let files = profile.files.iter();
        files
            .map(|(path, text)| Cover {
                path: path.clone(),
                text: text.clone(),
            })
            .collect()
    }

    /// Whether a command of its own tells the packages.
    fn is_asked(&self) -> bool {
        matches!(self, Self::Profile(p) if matches!(p.packages, Packages::Lines { .. }))
    }
}

impl Profile {
    /// The variables for its commands.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let all = self.environment.iter();
        all.map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// The packages that the output of its preview names, sorted.
    pub(crate) fn planned(&self, output: &str) -> Vec<Planned> {
        let mut planned: Vec<Planned> = output
            .lines()
            .filter_map(|line| self.preview.lines.iter().find_map(|p| p.find(line)))
            .map(|found| Planned {
                package: found.package,
                old: found.old.into_iter().collect(),
                new: found.new,
            })
            .collect();
        planned.sort_by(|a, b| a.package.cmp(&b.package));
        planned
    }
}

/// A package that another manager than Portage would install, upgrade or remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// Its name.
    pub package: String,
    /// The versions that are installed.
    pub old: Vec<String>,
    /// The version that comes; none if it goes.
    pub new: Option<String>,
}

impl Session {
    /// The package manager of a system; none if there is none that `be` knows. That of be.toml
    /// counts, and need not be found.
    ///
    /// # Errors
    /// [`Refusal::UnknownManager`], [`Refusal::BadManager`].
    pub fn manager_of(&self, tree: &Root) -> Result<Option<Manager>> {
        let wanted = self.config.upgrade.manager.as_str();
        if wanted == PORTAGE || wanted == AUTO && has_portage(tree) {
            return Ok(Some(Manager::Portage));
        }
        let mut profiles = profiles(&self.root)?;
        let at = match wanted {
            AUTO => profiles.iter().position(|profile| profile.is_in(tree)),
            name => {
                let at = profiles.iter().position(|profile| profile.name == name);
                if at.is_none() {
                    let mut known = vec![AUTO.to_owned(), PORTAGE.to_owned()];
                    known.extend(profiles.into_iter().map(|profile| profile.name));
                    let name = name.to_owned();
                    return Err(Refusal::UnknownManager { name, known }.into());
                }
                at
            }
        };
        Ok(at.map(|at| Manager::Profile(Arc::new(profiles.swap_remove(at)))))
    }

    /// What the package manager of a system leaves beside configuration files.
    ///
    /// # Errors
    /// As [`Session::manager_of`].
    pub(crate) fn beside(&self, tree: &Root) -> Result<Beside> {
        Ok(self.manager_of(tree)?.unwrap_or_default().beside())
    }

    /// As [`Session::manager_of`], where something is to be upgraded with it.
    ///
    /// # Errors
    /// [`Refusal::NoManager`] as well.
    pub(crate) fn upgrader_of(&self, tree: &Root) -> Result<Manager> {
        match self.manager_of(tree)? {
            Some(Manager::Portage) if !has_portage(tree) => Err(Refusal::NoManager.into()),
            Some(manager) => Ok(manager),
            None => Err(Refusal::NoManager.into()),
        }
    }
}

fn has_portage(tree: &Root) -> bool {
    tree.exists("usr/bin/emerge").unwrap_or(false)
}

/// All profiles: the owner's go before those that come with `be`.
fn profiles(system: &Root) -> Result<Vec<Profile>> {
    let mut found = owners(system)?;
    for (name, text) in BUILT_IN {
        if found.iter().all(|profile| profile.name != name) {
            let bad = |why| Refusal::BadManager {
                file: name.to_owned(),
                why,
            };
            found.push(Profile::parse(name, text).map_err(bad)?);
        }
    }
    Ok(found)
}

fn owners(system: &Root) -> Result<Vec<Profile>> {
    if !system.is_dir(DIRECTORY).unwrap_or(false) {
        return Ok(Vec::new());
    }
    let mut files = system.list(DIRECTORY)?;
    files.sort();
    let mut found = Vec::new();
    for (file, _) in files {
        let file = Path::new(&file);
        let Some(name) = file.file_stem().and_then(|name| name.to_str()) else {
            continue;
        };
        if file.extension().is_none_or(|ext| ext != "toml") || name.starts_with('.') {
            continue;
        }
        let path = Path::new(DIRECTORY).join(file);
        let shown = format!("/{}", path.display());
        let text = system.read_to_string(&path, MAX_TEXT);
        let text = text.with_context(|| format!("cannot read {shown}"))?;
        let bad = |why| Refusal::BadManager { file: shown, why };
        found.push(Profile::parse(name, &text).map_err(bad)?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn built_in(name: &str) -> Profile {
        let (_, text) = BUILT_IN.iter().find(|(known, _)| *known == name).unwrap();
        Profile::parse(name, text).unwrap()
    }

    #[test]
    fn what_comes_with_be_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let all = profiles(&Root::open(dir.path()).unwrap()).unwrap();
        let names: Vec<_> = all.iter().map(|profile| profile.name.as_str()).collect();
        assert_eq!(names, ["apt", "dnf", "pacman"]);
    }

    #[test]
    fn the_owners_profiles_go_before_and_may_have_the_same_name() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join(DIRECTORY);
        fs::create_dir_all(&own).unwrap();
        let text = include_str!("dnf.toml").replace("/usr/bin/dnf", "/usr/bin/mine");
        fs::write(own.join("mine.toml"), &text).unwrap();
        fs::write(own.join("apt.toml"), &text).unwrap();
        fs::write(own.join("README"), "x").unwrap();
        let root = Root::open(dir.path()).unwrap();
        let all = profiles(&root).unwrap();
        let names: Vec<_> = all.iter().map(|profile| profile.name.as_str()).collect();
        assert_eq!(names, ["apt", "mine", "dnf", "pacman"]);
        assert!(!all[0].is_in(&root));
        fs::create_dir_all(dir.path().join("usr/bin/mine")).unwrap();
        assert!(all[0].is_in(&root) && !all[2].is_in(&root));
        fs::write(own.join("mine.toml"), "recognize = []\n").unwrap();
        let error = profiles(&root).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("/etc/be/managers.d/mine.toml"), "{error}");
        assert!(error.contains("line 1"), "{error}");
    }

    #[test]
    fn previews_are_read() {
        // Printed by apt 3.0.3 and dnf 4.23.0.
        let apt = "Reading package lists...\n\
            Inst hello [1] (2 localhost [all])\n\
            Inst more (1 localhost [all])\n\
            Remv old [3]\n\
            Conf hello (2 localhost [all])\n";
        let planned = built_in("apt").planned(apt);
        let one = |package: &str, old: &[&str], new: Option<&str>| Planned {
            package: package.to_owned(),
            old: old.iter().map(|old| (*old).to_owned()).collect(),
            new: new.map(str::to_owned),
        };
        assert_eq!(
            planned,
            [
                one("hello", &["1"], Some("2")),
                one("more", &[], Some("1")),
                one("old", &["3"], None),
            ]
        );
        let dnf = "Unable to detect release version (use '--releasever' to specify)\n\
            be-upgrade hello 2-1\n\n";
        let planned = built_in("dnf").planned(dnf);
        assert_eq!(planned, [one("hello", &[], Some("2-1"))]);
    }
}
