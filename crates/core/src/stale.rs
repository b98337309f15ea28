//! What was changed on the running system since an environment was cloned from it, and is
//! therefore not in that environment.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::fstab::Fstab;
use crate::layout;
use crate::model::{Environment, Inventory};
use crate::observe::MAX_TEXT;
use crate::plan::{Plan, Step};
use crate::record::Policy;
use crate::session::Session;

/// Where people and daemons keep what would be missed.
const WATCHED: [&str; 3] = ["etc", "root", "var/lib"];

/// What stays behind when the environment boots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftBehind {
    /// Changed, new and renamed files; directories in which something was removed.
    pub paths: Vec<PathBuf>,
    /// The environment that has them.
    pub running: String,
    /// The environment that lacks them.
    pub target: String,
    /// Nothing was compared, because the one is not a clone of the other.
    pub unrelated: bool,
}

impl LeftBehind {
    /// How many paths changed, by directory.
    pub fn counts(&self) -> Vec<(String, usize)> {
        let count = |dir: &str| self.paths.iter().filter(|p| p.starts_with(dir)).count();
        WATCHED
            .iter()
            .map(|dir| (format!("/{dir}"), count(dir)))
            .collect()
    }

    /// Without what this plan is about to clone once more.
    #[must_use]
    pub fn after(mut self, plan: &Plan) -> Self {
        for step in &plan.steps {
            if let Step::CloneLate { sources, .. } = step {
                let below = |path: &PathBuf| {
                    let mounts = sources.iter().map(|s| s.mount.trim_matches('/'));
                    mounts.into_iter().any(|mount| path.starts_with(mount))
                };
                self.paths.retain(|path| !below(path));
            }
        }
        self
    }

    /// For a person; empty if nothing stays behind.
    pub fn sentences(&self) -> Vec<String> {
        if self.unrelated {
            return vec![format!(
                "{} is no clone of {}: what was changed in the one is not in the other",
                self.target, self.running
            )];
        }
        if self.paths.is_empty() {
            return Vec::new();
        }
        let mut counts: Vec<_> = self
            .counts()
            .into_iter()
            .filter(|(_, n)| *n > 0)
            .map(|(dir, n)| format!("{n} below {dir}"))
            .collect();
        let elsewhere = |p: &&PathBuf| !WATCHED.iter().any(|dir| p.starts_with(dir));
        match self.paths.iter().filter(elsewhere).count() {
            0 => {}
            n => counts.push(format!("{n} in what is cloned late")),
        }
        let mut sentences = vec![format!(
            "changed in {} since {} was cloned, and not in it: {}",
            self.running,
            self.target,
            counts.join(", ")
        )];
        let shown = 8;
        sentences.extend(
            self.paths
                .iter()
                .take(shown)
                .map(|p| format!("  /{}", p.display())),
        );
        if self.paths.len() > shown {
            sentences.push(format!("  and {} more", self.paths.len() - shown));
        }
        sentences
    }
}

/// Compare the running system with the moment when `env` was cloned.
///
/// # Errors
/// When the filesystem's trees cannot be read.
pub fn left_behind(session: &Session, inv: &Inventory, env: &Environment) -> Result<LeftBehind> {
    session.store.top.sync()?;
    left_behind_at_last_commit(session, inv, env)
}

/// As [`left_behind`], without what is only in memory: it does not wait for the disk.
///
/// # Errors
/// When the filesystem's trees cannot be read.
pub fn left_behind_at_last_commit(
    session: &Session,
    inv: &Inventory,
    env: &Environment,
) -> Result<LeftBehind> {
    let mut left = LeftBehind {
        target: env.name().to_string(),
        ..LeftBehind::default()
    };
    let Some(running) = inv.environments.iter().find(|e| e.running) else {
        return Ok(left);
    };
    left.running = running.name().to_string();
    if running.name() == env.name() {
        return Ok(left);
    }
    let here = |mount: &str| inv.counterpart(running, mount);
    let tree = session.store.top.tree()?;
    let mut changed = Vec::new();
    for member in &env.record.subvolumes {
        let base = member.base.as_ref().zip(here(&member.mount));
        let mount = Path::new(member.mount.trim_matches('/'));
        if let Some((late, now)) = member.late.as_ref().zip(here(&member.mount)) {
            // All of it counts: its owner wants it as new as possible.
            if late.of == now.uuid {
                let top = &session.store.top;
                let found = top.committed_changes(now.id, late.since, None, &[])?;
                changed.extend(found.into_iter().map(|file| below_mount(file, mount)));
            }
            continue;
        }
        let Some((base, now)) = base.filter(|(base, now)| base.of == now.uuid) else {
            left.unrelated |= member.policy != Policy::Late;
            continue;
        };
        let base_node = base.uuid.parse().ok().and_then(|uuid| tree.by_uuid(uuid));
        let under: Vec<_> = WATCHED.iter().filter_map(|dir| below(dir, mount)).collect();
        if under.is_empty() {
            continue;
        }
        let found = session.store.top.committed_changes(
            now.id,
            base.generation,
            base_node.map(|n| n.id),
            &under,
        )?;
        changed.extend(found.into_iter().map(|file| below_mount(file, mount)));
    }
    let split = split_since(session, inv, env)?;
    changed.sort_by(|a, b| a.path.cmp(&b.path));
    // A directory above a changed file is only the way to it.
    let all: Vec<_> = changed.iter().map(|c| &c.path).collect();
    left.paths = changed
        .iter()
        .enumerate()
        .filter(|(i, c)| {
            !c.kind.is_dir() || !all.get(i + 1).is_some_and(|next| next.starts_with(&c.path))
        })
        .map(|(_, c)| c.path.clone())
        .filter(|path| !split.contains(path))
        .collect();
    left.paths.extend(split.iter().cloned());
    left.paths.sort();
    Ok(left)
}

/// A changed file of the subvolume mounted at `mount`, by its path in the system.
fn below_mount(mut file: be_btrfs::ChangedFile, mount: &Path) -> be_btrfs::ChangedFile {
    file.path = mount.join(&file.path);
    file
}

/// Watched directories that were split from the running system, and are in the root of the
/// environment as they were before.
fn split_since(session: &Session, inv: &Inventory, env: &Environment) -> Result<Vec<PathBuf>> {
    let split = layout::split_parts(session, inv)?;
    let Some(root) = env.root.as_ref().filter(|_| !split.is_empty()) else {
        return Ok(Vec::new());
    };
    let text = session.store.root_of(&root.path)?;
    let text = text.read_to_string("etc/fstab", MAX_TEXT);
    let fstab = Fstab::parse(&text.unwrap_or_default());
    let lacking = split.iter().filter(|part| fstab.at(&part.mount).is_none());
    let paths = lacking.map(|part| part.mount.strip_prefix("/").unwrap_or(&part.mount));
    let watched = paths.filter(|path| WATCHED.iter().any(|dir| path.starts_with(dir)));
    Ok(watched.map(Path::to_owned).collect())
}

/// The part of a directory of the system that lies in the subvolume mounted at `mount`, as
/// a path in it.
fn below(dir: &'static str, mount: &Path) -> Option<&'static Path> {
    let dir = Path::new(dir);
    match dir.strip_prefix(mount) {
        Ok(inside) => Some(inside),
        Err(_) if mount.starts_with(dir) => Some(Path::new("")),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_in_other_subvolumes() {
        let below = |dir, mount| below(dir, Path::new(mount)).map(|p| p.to_str().unwrap());
        assert_eq!(below("var/lib", ""), Some("var/lib"));
        assert_eq!(below("var/lib", "var"), Some("lib"));
        assert_eq!(below("var/lib", "var/lib"), Some(""));
        assert_eq!(below("var/lib", "var/lib/x"), Some(""));
        assert_eq!(below("etc", "var"), None);
    }
}
