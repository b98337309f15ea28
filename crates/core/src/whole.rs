//! An environment as one tree, to read it and to write single files in it: what lies in
//! several subvolumes, in one root for paths.

use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use be_btrfs::Root;
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount, unmount,
};
use rustix::process::{chdir, pivot_root};

use crate::store::Store;

/// Where the root is attached until it is the root of the namespace.
const STAGE: &str = "/run";

/// A root for paths, through which the other subvolumes are seen.
#[derive(Debug)]
pub struct Whole {
    root: Root,
    /// The mount namespace in which the others are attached; nobody is in it.
    _namespace: Option<OwnedFd>,
}

impl Whole {
    /// Put a root subvolume and others together; the paths are from the top level, each
    /// with the place where it is mounted.
    ///
    /// # Errors
    /// When one is gone, or its place cannot be mounted at.
    pub fn open(store: &Store, root: &Path, mut volumes: Vec<(PathBuf, PathBuf)>) -> Result<Self> {
        if volumes.is_empty() {
            return Ok(Self {
                root: store.root_of(root)?,
                _namespace: None,
            });
        }
        volumes.sort();
        // The way there may be the second name that a rename gives for a while.
        let real = |path: &Path| store.dir.canonicalize(path);
        let tree = store.top.clone_mount(&real(root)?)?;
        let volumes = volumes
            .into_iter()
            .map(|(place, path)| Ok((place, store.top.clone_mount(&real(&path)?)?)))
            .collect::<Result<Vec<_>>>()?;
        // Only this thread leaves the namespace of the process.
        let assemble = move || assemble(&tree, &volumes);
        std::thread::spawn(assemble)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            .context("cannot put the subvolumes of the environment together")
    }
}

impl From<Root> for Whole {
    fn from(root: Root) -> Self {
        Self {
            root,
            _namespace: None,
        }
    }
}

impl Deref for Whole {
    type Target = Root;

    fn deref(&self) -> &Root {
        &self.root
    }
}

fn assemble(tree: &OwnedFd, volumes: &[(PathBuf, OwnedFd)]) -> Result<Whole> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)
        .context("cannot make a mount namespace")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("cannot make the mounts private")?;
    let from_fd = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(tree, "", CWD, STAGE, from_fd).context("cannot attach the root")?;
    let root = Root::open(Path::new(STAGE))?;
    for (place, volume) in volumes {
        let at = root.mount_point(place)?;
        let flags = from_fd | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(volume, "", &at, "", flags)
            .with_context(|| format!("cannot attach {}", place.display()))?;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = open("/proc/thread-self/ns/mnt", flags, Mode::empty())
        .context("cannot hold the mount namespace")?;
    // No filesystem of the host stays pinned.
    chdir(STAGE).context("cannot enter the root")?;
    pivot_root(".", ".").context("cannot make it the root")?;
    unmount(".", UnmountFlags::DETACH).context("cannot let go of the host's mounts")?;
    Ok(Whole {
        root,
        _namespace: Some(namespace),
    })
}
