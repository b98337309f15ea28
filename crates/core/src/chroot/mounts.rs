//! The mounts of the chroot: built on a tmpfs of our own, which then becomes the root of
//! the namespace, so that no filesystem of the host stays pinned for the hours of a build.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use be_btrfs::{Root, TopLevel};
use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_remount, move_mount,
    open_tree, unmount,
};

use super::{Job, cover};
use crate::bootfs;

/// Where the tmpfs is attached until it becomes the root. It exists on every system, and
/// nothing that is needed before the pivot lies below it.
const STAGE: &str = "/run";

/// mtimedb and Portage's other notes on what is installed.
const EDB: &str = "/var/cache/edb";

/// The finished mounts, not yet the root of the namespace.
pub(super) struct Stage;

impl Stage {
    /// The environment's root, as long as the host's root is ours.
    pub(super) fn environment(&self) -> PathBuf {
        Path::new(STAGE).join("env")
    }

    /// Make the stage the root and let go of everything that came from the host.
    pub(super) fn pivot(&self) -> Result<()> {
        rustix::process::chdir(STAGE).context("cannot enter the stage")?;
        rustix::process::pivot_root(".", ".").context("cannot pivot to the stage")?;
        // Lazily, because this process still runs a file of the old root.
        unmount(".", UnmountFlags::DETACH).context("cannot let go of the host's mounts")?;
        rustix::process::chdir("/").context("cannot enter the new root")
    }
}

/// Build all mounts of `job`.
pub(super) fn build(job: &Job) -> Result<Stage> {
    // Opened before the tmpfs covers /run, where a device node may be linked to.
    let top = TopLevel::open_device(&job.device)?;
    let root = top.clone_mount(&job.root)?;
    let volumes = job
        .volumes
        .iter()
        .map(|volume| Ok((top.clone_mount(&volume.source)?, relative(&volume.target))))
        .collect::<Result<Vec<_>>>()?;
    let boot = job.boot.as_ref().map(bootfs::mount).transpose()?;
    let binds = job
        .binds
        .iter()
        .map(|bind| Ok((host_mount(&bind.source)?, relative(&bind.target))))
        .collect::<Result<Vec<_>>>()?;
    let built = job.built.as_ref();
    let built = built.map(|b| Ok::<_, anyhow::Error>((top.clone_mount(&b.source)?, &b.target)));
    let built = built.transpose()?;
    tmpfs(Path::new(STAGE), 0o755, Some(16 << 20))?;
    let covers = cover::make(&job.covers, Path::new(STAGE))?;
    let stage = Stage;
    let env = stage.environment();
    fs::create_dir(&env).context("cannot make the mount point of the environment")?;
    attach_at(&root, CWD, &env)?;
    let env = Root::open(&env)?;
    for (tree, to) in &volumes {
        attach(tree, &target(&env, to)?)?;
    }
    if job.read_only {
        let mounts = volumes.iter().map(|(_, to)| *to);
        for at in mounts.chain([Path::new("")]) {
            read_only(&target(&env, at)?)?;
        }
    }
    if let Some(tree) = &boot {
        attach(tree, &target(&env, "boot")?)?;
    }

    mount("proc", target(&env, "proc")?.path(), "proc", nosuid(), None)
        .context("cannot mount /proc")?;
    let sys = nosuid() | MountFlags::RDONLY;
    mount("sysfs", target(&env, "sys")?.path(), "sysfs", sys, None).context("cannot mount /sys")?;
    // One by one and not recursively: below /dev/shm anything may be mounted.
    for dir in ["dev", "dev/pts"] {
        attach(&host_mount(&Path::new("/").join(dir))?, &target(&env, dir)?)?;
    }
    tmpfs(&target(&env, "dev/shm")?.path(), 0o1777, None)?;
    // Portage's own state belongs to the packages, also where /var/cache is shared.
    let edb = relative(Path::new(EDB));
    let own_edb = match binds.iter().any(|(_, to)| edb.starts_with(to)) {
        true => Some(clone_dir(&target(&env, edb)?)?),
        false => None,
    };
    let (in_run, binds): (Vec<_>, Vec<_>) = binds.iter().partition(|(_, to)| to.starts_with("run"));
    for (tree, to) in binds {
        attach(tree, &target(&env, to)?)?;
    }
    if let Some(tree) = own_edb {
        attach(&tree, &target(&env, edb)?)?;
    }
    tmpfs(&target(&env, "run")?.path(), 0o755, None)?;
    // The tmpfs covers what `target` opened: look again.
    let run = target(&env, "run")?;
    fs::create_dir(run.path().join("lock")).context("cannot make /run/lock")?;
    if let Some((tree, to)) = &built {
        attach(tree, &target(&env, relative(to))?)?;
    }
    for (tree, to) in in_run {
        attach(tree, &target(&env, to)?)?;
    }
    for (made, path) in &covers {
        let place = relative(path);
        cover::place(&env, place)?;
        attach(&host_mount(made)?, &target(&env, place)?)?;
    }
    for bind in &job.inside {
        let tree = clone_dir(&target(&env, relative(&bind.source))?)?;
        attach(&tree, &target(&env, relative(&bind.target))?)?;
    }
    resolver(&env, job.resolv_conf.as_deref())?;
    Ok(stage)
}

/// A detached copy of the host's mount at this path, without what is mounted below it.
fn host_mount(path: &Path) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, path, flags)
        .with_context(|| format!("cannot clone the mount of {}", path.display()))
}

/// A directory of the environment as a mount of its own.
fn clone_dir(dir: &Target) -> Result<OwnedFd> {
    host_mount(&dir.path())
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn nosuid() -> MountFlags {
    MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC
}

/// A tmpfs of at most `size` bytes; without one, of the kernel's default.
fn tmpfs(place: &Path, mode: u32, size: Option<usize>) -> Result<()> {
    let mut options = libmount::Tmpfs::new(place).mode(mode);
    if let Some(bytes) = size {
        options = options.size_bytes(bytes);
    }
    options
        .mount()
        .map_err(|e| anyhow::anyhow!("cannot mount a tmpfs: {e}"))
}

/// A directory of the environment that something is to be mounted on.
struct Target(OwnedFd);

impl Target {
    /// A path for calls that take only paths; it leads to the very directory held open.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

/// Open a mount point, never through a symlink: an environment with `/proc -> /tmp` would
/// otherwise make us mount somewhere else. A missing directory is made.
fn target(env: &Root, path: impl AsRef<Path>) -> Result<Target> {
    let path = path.as_ref();
    let fd = match env.mount_point(path) {
        Err(e) if e.is_not_found() => {
            env.mkdir_all(path, 0o755)?;
            env.mount_point(path)
        }
        other => other,
    };
    fd.map(Target).with_context(|| {
        format!(
            "cannot use /{} of the environment as a mount point",
            path.display()
        )
    })
}

fn attach(tree: &OwnedFd, place: &Target) -> Result<()> {
    move_mount(
        tree,
        "",
        &place.0,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
    .context("cannot attach a mount in the environment")
}

fn read_only(place: &Target) -> Result<()> {
    let flags = MountFlags::BIND | MountFlags::RDONLY;
    mount_remount(place.path(), flags, "").context("cannot make a mount read-only")
}

fn attach_at(tree: &OwnedFd, dir: BorrowedFd<'_>, place: &Path) -> Result<()> {
    move_mount(
        tree,
        "",
        dir,
        place,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .with_context(|| format!("cannot mount at {}", place.display()))
}

/// systemd-resolved and others make /etc/resolv.conf a link into /run, which is empty
/// here: put the host's text where the link points to.
fn resolver(env: &Root, text: Option<&str>) -> Result<()> {
    let Some(text) = text else { return Ok(()) };
    let Ok(link) = env.readlink("etc/resolv.conf") else {
        return Ok(());
    };
    let place = normalise(&Path::new("etc").join(link));
    if !place.starts_with("run") {
        return Ok(());
    }
    if let Some(parent) = place.parent() {
        env.mkdir_all(parent, 0o755)?;
    }
    env.write_atomic(&place, text.as_bytes(), 0o644)
        .context("cannot write the resolver's file")
}

/// `etc/../run/x` and `/run/x` -> `run/x`, by text alone: the directories are just made.
fn normalise(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::Normal(name) => out.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    out
}
