//! What was changed on the running system since an environment was cloned from it, and is
//! therefore not in that environment.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::model::{Environment, Inventory};
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
        let counts: Vec<_> = self
            .counts()
            .into_iter()
            .filter(|(_, n)| *n > 0)
            .map(|(dir, n)| format!("{n} below {dir}"))
            .collect();
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
    let base = env.record.root().and_then(|m| m.base.as_ref());
    let Some((base, root)) = base
        .zip(running.root.as_ref())
        .filter(|(b, r)| b.of == r.uuid)
    else {
        left.unrelated = true;
        return Ok(left);
    };
    let base_id = base
        .uuid
        .parse()
        .ok()
        .and_then(|uuid| session.store.top.tree().ok()?.by_uuid(uuid).map(|n| n.id));
    let under: Vec<_> = WATCHED.iter().map(Path::new).collect();
    let changed = session
        .store
        .top
        .committed_changes(root.id, base.generation, base_id, &under)?;
    // A directory above a changed file is only the way to it.
    let all: Vec<_> = changed.iter().map(|c| &c.path).collect();
    left.paths = changed
        .iter()
        .enumerate()
        .filter(|(i, c)| {
            !c.kind.is_dir() || !all.get(i + 1).is_some_and(|next| next.starts_with(&c.path))
        })
        .map(|(_, c)| c.path.clone())
        .collect();
    Ok(left)
}
