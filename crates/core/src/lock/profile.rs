//! The chain of profiles: make.profile and what its `parent` files name (PMS 5.2.1; the form
//! `repository:path` is of the profile format `portage-2`, portage(5)).

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, ensure};
use be_btrfs::Root;

use super::Repository;
use crate::observe::MAX_TEXT;

/// Where the link to the first profile is; the second place is the older one.
const PLACES: [&str; 2] = ["/etc/portage/make.profile", "/etc/make.profile"];

/// What a person adds to the profile.
const OWN: &str = "/etc/portage/profile";

/// No chain has so many.
const MOST: usize = 1000;

/// Links that are followed.
const LINKS: usize = 40;

/// The chain in the order in which Portage reads it. `tree` gives the root in which a path of the
/// environment is found.
///
/// # Errors
/// A profile that is there cannot be read, or the chain has no end.
pub(super) fn chain<'a>(
    tree: &dyn Fn(&Path) -> &'a Root,
    repositories: &[Repository],
) -> Result<Vec<String>> {
    let mut walk = Walk {
        tree,
        repositories,
        found: Vec::new(),
        above: Vec::new(),
    };
    for place in PLACES {
        let start = walk.follow(Path::new(place))?;
        if walk.is_there(&start) {
            walk.add(&start)?;
            break;
        }
    }
    if walk.is_there(Path::new(OWN)) {
        walk.found.push(OWN.to_owned());
    }
    Ok(walk.found)
}

struct Walk<'a, 'b> {
    tree: &'b dyn Fn(&Path) -> &'a Root,
    repositories: &'b [Repository],
    found: Vec<String>,
    above: Vec<PathBuf>,
}

impl Walk<'_, '_> {
    /// What a path leads to, which may be in another tree than a link to it.
    fn follow(&self, place: &Path) -> Result<PathBuf> {
        let mut path = place.to_owned();
        for _ in 0..LINKS {
            let Ok(target) = (self.tree)(&path).readlink(inside(&path)) else {
                return Ok(path);
            };
            path = plain(&path.parent().unwrap_or(Path::new("/")).join(target));
        }
        anyhow::bail!("{} is a link that leads nowhere", place.display())
    }

    fn is_there(&self, path: &Path) -> bool {
        (self.tree)(path).is_dir(inside(path)).unwrap_or(false)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let is_endless = self.found.len() >= MOST || self.above.iter().any(|above| above == path);
        ensure!(
            !is_endless,
            "the profile {} is above itself",
            path.display()
        );
        self.above.push(path.to_owned());
        let file = path.join("parent");
        let text = match (self.tree)(path).read_to_string(inside(&file), MAX_TEXT) {
            Ok(text) => text,
            Err(e) if e.is_not_found() => String::new(),
            Err(e) => return Err(e).context("cannot read a profile"),
        };
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                let parent = self.parent(path, line)?;
                self.add(&parent)?;
            }
        }
        self.above.pop();
        self.found.push(self.shown(path));
        Ok(())
    }

    /// What a line of the `parent` file of a profile stands for.
    fn parent(&self, path: &Path, line: &str) -> Result<PathBuf> {
        let Some((name, rest)) = line.split_once(':') else {
            return Ok(plain(&path.join(line)));
        };
        let own = || self.home(path);
        let named = || self.repositories.iter().find(|r| *r.name == *name);
        let repository = if name.is_empty() { own() } else { named() };
        let repository = repository.with_context(|| {
            format!(
                "{}/parent names a repository that is not there: {line}",
                path.display()
            )
        })?;
        Ok(plain(
            &Path::new(&*repository.location).join("profiles").join(rest),
        ))
    }

    /// The repository that a path lies in.
    fn home(&self, path: &Path) -> Option<&Repository> {
        let holding = self.repositories.iter();
        let holding = holding.filter(|r| path.starts_with(&*r.location));
        holding.max_by_key(|r| r.location.len())
    }

    fn shown(&self, path: &Path) -> String {
        let known = self.home(path).and_then(|r| {
            let profiles = Path::new(&*r.location).join("profiles");
            let rest = path.strip_prefix(profiles).ok()?;
            Some(format!("{}:{}", r.name, rest.display()))
        });
        known.unwrap_or_else(|| path.display().to_string())
    }
}

/// A path without `.` and `..`, by its text alone: so does Portage (`normalize_path`).
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::Normal(name) => plain.push(name),
            _ => {}
        }
    }
    plain
}

fn inside(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::State;
    use super::*;

    fn repository(name: &str, location: &str) -> Repository {
        Repository {
            name: name.to_owned().try_into().unwrap(),
            location: location.to_owned().try_into().unwrap(),
            sync_uri: None,
            masters: Vec::new(),
            eclass_overrides: Vec::new(),
            state: State::Missing,
        }
    }

    #[test]
    fn parents_come_first_and_have_the_names_of_their_repositories() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("repos/gentoo/profiles/base/eapi", "8\n");
        put("repos/gentoo/profiles/arch/amd64/parent", "../../base\n");
        put(
            "srv/own/profiles/desktop/parent",
            "# all\ngentoo:arch/amd64 # x\n:common\n",
        );
        put("srv/own/profiles/common/eapi", "8\n");
        put("etc/portage/profile/use.mask", "x\n");
        let link = dir.path().join("etc/portage/make.profile");
        symlink("../../srv/own/profiles/desktop", &link).unwrap();
        let repositories = [
            repository("gentoo", "/repos/gentoo"),
            repository("own", "/srv/own"),
        ];
        let root = Root::open(dir.path()).unwrap();
        let found = || chain(&|_| &root, &repositories);
        let all = [
            "gentoo:base",
            "gentoo:arch/amd64",
            "own:common",
            "own:desktop",
            "/etc/portage/profile",
        ];
        assert_eq!(found().unwrap(), all);
        // One that is a directory, and one that has no end.
        fs::remove_file(&link).unwrap();
        put("etc/portage/make.profile/parent", "gentoo:base\n");
        assert_eq!(
            found().unwrap()[..2],
            ["gentoo:base", "/etc/portage/make.profile"]
        );
        put("repos/gentoo/profiles/base/parent", "../arch/amd64\n");
        assert!(found().unwrap_err().to_string().contains("above itself"));
        put("repos/gentoo/profiles/base/parent", "gone:x\n");
        assert!(found().unwrap_err().to_string().contains("gone:x"));
    }
}
