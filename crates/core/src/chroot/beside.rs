//! Running a program in the system that runs, which sees one directory more than others do.
//!
//! It is no chroot, and what it does is done: its mounts are a copy of the machine's, with one
//! added, and end with it. If `be` dies, it goes on: half done would be worse.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use be_btrfs::TopLevel;
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, move_mount};
use serde::{Deserialize, Serialize};

use super::{Bind, base_environment};
use super::{again, told};
use crate::store::Claim;

/// A program to be run in the system that runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Beside {
    /// A device of the filesystem.
    device: PathBuf,
    /// A subvolume, by its path from the top level, and where the program alone sees it.
    seen: Option<Bind>,
    /// Program and arguments.
    argv: Vec<String>,
    /// The whole process environment.
    env: Vec<(String, String)>,
}

impl Beside {
    /// A program with a clean process environment, and these variables besides.
    pub fn new(
        device: PathBuf,
        seen: Option<Bind>,
        argv: Vec<String>,
        variables: &[(String, String)],
    ) -> Self {
        let mut env = base_environment();
        // Its services are there to be told.
        env.retain(|(k, _)| k != "SYSTEMD_OFFLINE" && !variables.iter().any(|(v, _)| v == k));
        env.extend(variables.iter().cloned());
        Self {
            device,
            seen,
            argv,
            env,
        }
    }

    /// Start it, both of its streams going to a file, with no input. If `be` dies, the claim
    /// stays until the program has ended.
    ///
    /// # Errors
    /// When it cannot be started. All later failures are its exit status.
    pub fn start(&self, out: std::fs::File, claim: Option<&Claim>) -> Result<Child> {
        let err = out.try_clone().context("cannot duplicate the log")?;
        let _inherited = claim.map(Claim::inherited).transpose()?;
        again("__beside", self)?
            .command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .context("cannot start a program in the running system")
    }
}

/// `be __beside …`: add the mount and become the program.
///
/// # Errors
/// Always, if it returns: a mount failed or the program could not be started.
pub fn beside(argument: &OsString) -> Result<i32> {
    let job: Beside = told(argument)?;
    if let Some(seen) = &job.seen {
        unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
        // What is mounted on the machine meanwhile is seen; ours is seen by nobody else.
        let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
            .context("cannot make the mounts private")?;
        let tree = TopLevel::open_device(&job.device)?.clone_mount(&seen.source)?;
        let target = &seen.target;
        std::fs::create_dir_all(target)
            .with_context(|| format!("cannot make {}", target.display()))?;
        move_mount(
            &tree,
            "",
            CWD,
            target,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .with_context(|| format!("cannot mount at {}", target.display()))?;
    }
    let Some((program, arguments)) = job.argv.split_first() else {
        bail!("no program was named");
    };
    let error = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(job.env)
        .current_dir("/")
        .exec();
    Err(error).with_context(|| format!("cannot run {program}"))
}
