//! Running programs inside an environment, in a mount and PID namespace of their own.
//!
//! Four processes, each needed:
//!
//! ```text
//! be                 asks for it and waits
//!  └ be __supervise  makes the namespaces; dies with be
//!     └ be __init    PID 1 of the new PID namespace, outside the chroot; dies with
//!                    __supervise, and the kernel then ends all below it
//!        └ be __enter -> the program, in the chroot
//! ```
//!
//! PID 1 must stay outside: Gentoo's installkernel and systemd compare `/proc/1/root`
//! with `/` to learn that they are in a chroot. `be` starts itself again for each role
//! because the standard library can then do all of it without unsafe code.

mod beside;
pub(crate) mod capture;
mod cover;
mod group;
mod init;
mod mounts;
mod role;
mod wait;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::record::Boot;

pub use beside::{Beside, beside};
pub use capture::Captured;
pub use cover::uncover;
pub use group::{Group, stop};
pub use init::{enter, init, supervise};
pub(crate) use role::{again, told};
pub use wait::{Interrupted, take_terminal_back, wait, wait_within};

/// Something that is mounted in the environment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bind {
    /// What, or where it is now.
    pub source: PathBuf,
    /// Where it goes in the environment.
    pub target: PathBuf,
}

/// A program that a job finds in the place of what is there, or where nothing is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cover {
    /// Its path.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
}

/// A program to be run in an environment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// A device of the filesystem.
    pub device: PathBuf,
    /// The root subvolume, by its path from the top level.
    pub root: PathBuf,
    /// Its other subvolumes, by their paths from the top level, and where they are mounted.
    pub volumes: Vec<Bind>,
    /// Its /boot, if that is on another filesystem.
    #[serde(default)]
    pub boot: Option<Boot>,
    /// What it shares with the running system.
    pub binds: Vec<Bind>,
    /// A subvolume for what is built, by its path from the top level, and its place below /run.
    #[serde(default)]
    pub built: Option<Bind>,
    /// Programs that only this job sees. Where nothing is, an empty file without any permission
    /// is made for each to be mounted at; see [`uncover`].
    #[serde(default)]
    pub covers: Vec<Cover>,
    /// Directories of the environment that this job sees in the place of others of it.
    #[serde(default)]
    pub inside: Vec<Bind>,
    /// Nothing of the environment can be written to.
    #[serde(default)]
    pub read_only: bool,
    /// Text for the resolver, where the environment's own resolv.conf is a link into /run.
    pub resolv_conf: Option<String>,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole process environment.
    pub env: Vec<(String, String)>,
    /// The control group that it runs in.
    #[serde(default)]
    pub group: Option<PathBuf>,
    /// Set by `start`: the process that everything dies with.
    #[serde(default)]
    parent: u32,
}

impl Job {
    /// A job that runs `argv` with a clean process environment.
    pub fn new(device: &Path, root: &Path, argv: Vec<String>) -> Self {
        Self {
            device: device.to_owned(),
            root: root.to_owned(),
            volumes: Vec::new(),
            boot: None,
            binds: Vec::new(),
            built: None,
            covers: Vec::new(),
            inside: Vec::new(),
            read_only: false,
            resolv_conf: None,
            argv,
            env: base_environment(),
            group: None,
            parent: 0,
        }
    }

    /// Start it.
    ///
    /// # Errors
    /// When the supervisor cannot be started. All later failures are its exit status.
    pub fn start(&self, output: Output) -> Result<Child> {
        let mut role = again("__supervise", &self.for_child())?;
        let command = &mut role.command;
        match output {
            Output::Inherited => {}
            Output::ToStderr => {
                command.stdout(std::io::stderr());
            }
            Output::Log(out) => {
                let err = out.try_clone().context("cannot duplicate the log")?;
                command.stdin(Stdio::null()).stdout(out).stderr(err);
            }
            Output::Files { out, err } => {
                command.stdin(Stdio::null()).stdout(out).stderr(err);
            }
        }
        command
            .spawn()
            .context("cannot start the supervisor of the chroot")
    }

    fn for_child(&self) -> Self {
        let mut job = self.clone();
        job.parent = std::process::id();
        job
    }
}

/// Where a program's output goes.
#[derive(Debug)]
pub enum Output {
    /// Where ours goes.
    Inherited,
    /// All to standard error: standard output is for our own document.
    ToStderr,
    /// Both streams to a file, with no input.
    Log(std::fs::File),
    /// Each stream to a file of its own, with no input.
    Files {
        /// Standard output.
        out: std::fs::File,
        /// Standard error.
        err: std::fs::File,
    },
}

/// What every program in a chroot gets; Portage replaces HOME and PATH by itself.
fn base_environment() -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = [
        (
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ),
        ("HOME", "/root"),
        ("USER", "root"),
        ("LOGNAME", "root"),
        ("SYSTEMD_OFFLINE", "1"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .to_vec();
    for key in [
        "TERM",
        "LANG",
        "LC_ALL",
        "COLORTERM",
        "http_proxy",
        "https_proxy",
        "no_proxy",
    ] {
        if let Ok(value) = std::env::var(key) {
            env.push((key.to_owned(), value));
        }
    }
    env
}

/// The code a shell would give for this status: 128 + signal for a killed program.
pub fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
