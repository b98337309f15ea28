//! Repositories at the commits of a lock, its configuration and its world: all in the clone, and
//! before anything is built.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use be_portage::emerge::Emerge;

use super::Work;
use super::locked::WORLD;
use crate::layout;
use crate::lock::{self, CONFIGURATION, Commit, Lock, Repository, Scene, State, Word};
use crate::refusal::{NoLock, Refusal};
use crate::store::Paths;
use crate::whole::Whole;

impl Work<'_> {
    /// Bring repositories, configuration and world into the state of the lock.
    pub(super) fn pin(&mut self, lock: &Lock) -> Result<()> {
        let name = self.record.name.clone();
        self.watch.note(&format!(
            "{name}: nothing newer is fetched; repositories and configuration become those of the \
             lock"
        ));
        self.fits(lock)?;
        let root = self.root()?;
        let places = lock.repositories.iter().map(|one| &*one.location);
        for place in places.chain([CONFIGURATION, WORLD]) {
            self.is_own(&root, place)?;
        }
        for one in &lock.repositories {
            self.pin_repository(one)?;
        }
        let missing = lock::apply(&root, &lock.configuration)?;
        if !missing.is_empty() {
            self.watch.note(&format!(
                "of these, or of what they lead or belong to, the lock does not have all: {}",
                missing.join(", ")
            ));
        }
        root.mkdir_all(WORLD.trim_start_matches('/'), 0o755)?;
        for (file, words) in [("world", &lock.world), ("world_sets", &lock.world_sets)] {
            self.want(&root, file, words)?;
        }
        Ok(())
    }

    /// Whether all of a path is in the environment, also where links lead.
    pub(super) fn is_own(&self, root: &Whole, place: &str) -> Result<()> {
        let shared = layout::shared(&self.session.observe()?.system);
        let mut at = PathBuf::new();
        for part in Path::new(place.trim_start_matches('/')) {
            at.push(part);
            let outside = match root.lstat(&at) {
                Ok(meta) if meta.kind.is_symlink() => match root.canonicalize(&at) {
                    Ok(real) => {
                        at = real;
                        false
                    }
                    // It leads to nothing, or to what is not in the environment.
                    Err(_) => true,
                },
                Ok(_) => false,
                Err(e) if e.is_not_found() => return Ok(()),
                Err(e) => return Err(e.into()),
            };
            let absolute = Path::new("/").join(&at);
            if outside || shared.iter().any(|target| absolute.starts_with(target)) {
                let path = place.to_owned();
                return Err(Refusal::NoLock(NoLock::Outside { path }).into());
            }
        }
        Ok(())
    }

    /// Write what is wanted, unless it is so.
    fn want(&self, root: &Whole, file: &str, words: &[Word]) -> Result<()> {
        let path = Path::new(WORLD.trim_start_matches('/')).join(file);
        if words.is_empty() && !root.exists(&path)? {
            return Ok(());
        }
        let text: String = words.iter().map(|word| format!("{word}\n")).collect();
        Ok(root.write_later(&path, text.as_bytes(), 0o644)?)
    }

    pub(super) fn pin_repository(&mut self, one: &Repository) -> Result<()> {
        let begun = self.begun(one);
        let cut_off = self.session.store.dir.exists(&begun)?;
        if cut_off {
            self.break_locks(&one.location)?;
        }
        let here = self.scene_of(|scene| scene.state(&one.location))?;
        let commit = match &one.state {
            State::Git { commit, .. } => commit,
            State::Missing => return Ok(()),
            other if *other == here => return Ok(()),
            other => return Err(not_git(one, other, &here)),
        };
        match &here {
            // What is changed was changed by the one that was cut off.
            State::Git { .. } if cut_off => {}
            State::Git {
                modified: Some(true),
                ..
            } => {
                return Err(Refusal::NoLock(NoLock::Changed {
                    repository: one.name.to_string(),
                    path: one.location.to_string(),
                })
                .into());
            }
            State::Git { commit: is, .. } if is == commit => return Ok(()),
            State::Git { .. } => {}
            State::Missing => self.clone_repository(one, commit)?,
            other => return Err(not_git(one, &one.state, other)),
        }
        self.session.store.dir.write_atomic(&begun, b"", 0o600)?;
        self.get(one, commit)?;
        let place = &*one.location;
        let code = self.git(place, &["reset", "--quiet", "--hard", commit])?;
        if code != 0 {
            return Err(self.no_commit(one, commit, 0)?);
        }
        self.give_to_owner(place)?;
        Ok(self.session.store.dir.remove_file(&begun)?)
    }

    /// What is there from before git changes a repository until that is done: whether it has
    /// changes that would be lost is known then, and not looked at again.
    fn begun(&self, one: &Repository) -> PathBuf {
        let log = Paths::environment(&self.record.name).join("log");
        log.join(format!("begun-{}", one.name))
    }

    /// Take away what a git that was killed has locked.
    fn break_locks(&self, place: &str) -> Result<()> {
        let root = self.root()?;
        let git = Path::new(place.trim_start_matches('/')).join(".git");
        for name in ["index.lock", "shallow.lock", "HEAD.lock"] {
            match root.remove_file(git.join(name)) {
                Err(e) if !e.is_not_found() => return Err(e.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Have the commit in the repository.
    fn get(&mut self, one: &Repository, commit: &Commit) -> Result<()> {
        let place = &*one.location;
        let object = format!("{commit}^{{commit}}");
        let from = self.log_length()?;
        if self.git(place, &["cat-file", "-e", &object])? == 0 {
            return Ok(());
        }
        let shallow = Path::new(place.trim_start_matches('/')).join(".git/shallow");
        let depth: &[&str] = match self.root()?.exists(shallow)? {
            true => &["--depth=1"],
            false => &[],
        };
        // Its own remote first: that one may know a password.
        for uri in ["origin"].into_iter().chain(one.sync_uri.as_deref()) {
            let fetch = ["fetch", "--quiet", "--no-tags"];
            let fetch = [&fetch, depth, &["--", uri, commit]].concat();
            if self.git(place, &fetch)? == 0 && self.git(place, &["cat-file", "-e", &object])? == 0
            {
                return Ok(());
            }
        }
        Err(self.no_commit(one, commit, from)?)
    }

    fn clone_repository(&mut self, one: &Repository, commit: &Commit) -> Result<()> {
        let from = self.log_length()?;
        let Some(uri) = one.sync_uri.as_deref() else {
            let why = "it is not there, and the lock has no address of it".to_owned();
            return Err(no_commit(one, commit, why));
        };
        // It is a repository when it is complete.
        let inside = Path::new(one.location.trim_start_matches('/'));
        let made = inside.with_file_name(format!(".be-{}", one.name));
        if self.root()?.exists(&made)? {
            self.root()?.remove_tree(&made)?;
        }
        let made_at = Path::new("/").join(&made);
        let clone = ["clone", "--quiet", "--depth=1", "--", uri];
        let made_at = made_at.to_string_lossy();
        let clone = [&clone[..], &[&made_at]].concat();
        match self.git("/", &clone)? {
            0 => Ok(self.root()?.rename(&made, inside)?),
            _ => Err(self.no_commit(one, commit, from)?),
        }
    }

    /// Run git on a repository in the environment; gives its exit code.
    fn git(&mut self, place: &str, args: &[&str]) -> Result<i32> {
        // Portage lets a repository belong to another user than root.
        let first = ["git", "-c", "safe.directory=*", "-C", place];
        let command = Emerge {
            args: first.iter().chain(args).map(|&a| a.to_owned()).collect(),
            // Nobody is there to be asked for a password.
            env: vec![("GIT_TERMINAL_PROMPT".to_owned(), "0".to_owned())],
        };
        self.emerge(&command, |_| ())
    }

    /// The error, with the last that git said since this byte of the log.
    fn no_commit(&self, one: &Repository, commit: &Commit, from: u64) -> Result<anyhow::Error> {
        let said = self.log_since(from)?;
        let mut lines = said.lines().filter(|line| !line.starts_with(">>> "));
        let why = lines
            .next_back()
            .unwrap_or("git says nothing")
            .trim()
            .to_owned();
        Ok(no_commit(one, commit, why))
    }

    /// Portage synchronises as the owner of the directory.
    fn give_to_owner(&mut self, place: &str) -> Result<()> {
        let meta = self.root()?.metadata(place.trim_start_matches('/'))?;
        if meta.uid == 0 {
            return Ok(());
        }
        let owner = format!("{}:{}", meta.uid, meta.gid);
        let args = ["chown", "-R", "-h", &owner, place].map(str::to_owned);
        let command = Emerge {
            args: args.to_vec(),
            env: Vec::new(),
        };
        match self.emerge(&command, |_| ())? {
            0 => Ok(()),
            code => bail!("{place} cannot be given to its owner (chown: exit {code})"),
        }
    }
}

fn no_commit(one: &Repository, commit: &Commit, why: String) -> anyhow::Error {
    Refusal::NoLock(NoLock::NoCommit {
        repository: one.name.to_string(),
        commit: commit.to_string(),
        why,
    })
    .into()
}

fn not_git(one: &Repository, recorded: &State, here: &State) -> anyhow::Error {
    Refusal::NoLock(NoLock::NotGit {
        repository: one.name.to_string(),
        recorded: recorded.to_string(),
        here: here.to_string(),
    })
    .into()
}

impl Scene<'_> {
    /// What is in the repository at this place.
    fn state(&self, place: &lock::Place) -> Result<State> {
        lock::state(self, place)
    }
}
