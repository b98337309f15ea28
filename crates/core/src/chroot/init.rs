//! The three helpers behind a [`Job`], in the order in which they start each other.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, chroot};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::wait::{Interrupted, wait};
use super::{Job, exit_code, group, mounts};
use super::{again, told};

/// `be __supervise JOB`: make the namespaces, start PID 1, wait for it.
///
/// # Errors
/// When a namespace cannot be made; otherwise the exit code of the program.
pub fn supervise(argument: &OsString) -> Result<i32> {
    let job: Job = told(argument)?;
    die_with_parent(job.parent)?;
    if let Some(dir) = &job.group {
        group::join(dir);
    }
    let interrupted = Interrupted::watch()?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)
        .context("cannot make a mount and PID namespace")?;
    nix::mount::mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .context("cannot make the mounts private")?;
    let mut child = again("__init", &job.for_child())?
        .command
        .spawn()
        .context("cannot start PID 1 of the namespace")?;
    Ok(exit_code(wait(&mut child, &interrupted, || ())?))
}

/// What [`enter`] has to know.
#[derive(Serialize, Deserialize)]
struct Enter {
    root: std::path::PathBuf,
    ready: i32,
    argv: Vec<String>,
    env: Vec<(String, String)>,
}

/// `be __init JOB`: PID 1. Builds the mounts, starts the program in the chroot, drops
/// everything of the host, then reaps.
///
/// # Errors
/// When a mount fails; otherwise the exit code of the program.
pub fn init(argument: &OsString) -> Result<i32> {
    let job: Job = told(argument)?;
    die_with_parent(job.parent)?;
    let mut signals = Signals::new([SIGCHLD, SIGTERM, SIGINT, SIGHUP])?;
    let stage = mounts::build(&job)?;

    let (ready, child_end) = pipe()?;
    let enter = Enter {
        root: stage.environment(),
        ready: child_end.as_raw_fd(),
        argv: job.argv.clone(),
        env: job.env.clone(),
    };
    let child = again("__enter", &enter)?
        .command
        .spawn()
        .context("cannot start the program")?;
    drop(child_end);
    let child = Pid::from_raw(i32::try_from(child.id())?);
    // pivot_root moves every process whose root is the old one: wait until the program
    // has its own, or its dynamic linker would look for libraries in an empty tmpfs.
    if read_byte(&ready)? {
        stage.pivot()?;
    }
    reap(child, &mut signals)
}

/// `be __enter …`: go into the chroot and become the program.
///
/// # Errors
/// Always, if it returns: the program could not be started.
pub fn enter(argument: &OsString) -> Result<i32> {
    let enter: Enter = told(argument)?;
    chroot(&enter.root).context("cannot enter the chroot")?;
    chdir("/")?;
    std::fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/self/fd/{}", enter.ready))
        .and_then(|mut ready| std::io::Write::write_all(&mut ready, b"."))
        .context("cannot report to PID 1")?;
    nix::unistd::close(enter.ready)?;
    let Some((program, arguments)) = enter.argv.split_first() else {
        bail!("no program was named");
    };
    let error = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(enter.env)
        .exec();
    // As shells have it: 127 for a program that is not there, 126 for one that cannot run.
    let code = if error.kind() == std::io::ErrorKind::NotFound {
        127
    } else {
        126
    };
    tracing::error!("cannot run {program} in the environment: {error}");
    Ok(code)
}

fn die_with_parent(parent: u32) -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("cannot tie this process to its parent")?;
    // It may have died before. /proc still shows the PID namespace outside; of a zombie it
    // has the directory, but no program any more.
    if std::fs::read_link(format!("/proc/{parent}/exe")).is_err() {
        bail!("the process that asked for this is gone");
    }
    Ok(())
}

/// A pipe whose writing end survives an exec.
fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    let (read, write) = nix::unistd::pipe().context("cannot make a pipe")?;
    fcntl(&read, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok((read, write))
}

/// Whether a byte came before the other end was closed.
fn read_byte(fd: &OwnedFd) -> Result<bool> {
    let mut byte = [0];
    loop {
        match nix::unistd::read(fd, &mut byte) {
            Ok(n) => return Ok(n == 1),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e).context("cannot read from the program's pipe"),
        }
    }
}

/// Reap everything until `child` ends; its code is ours. What is left then dies with us.
fn reap(child: Pid, signals: &mut Signals) -> Result<i32> {
    loop {
        loop {
            let code = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == child => code,
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => 128 + signal as i32,
                Ok(WaitStatus::StillAlive) => break,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(e) => return Err(e).context("cannot wait for the program"),
            };
            return Ok(code);
        }
        for signal in signals.wait() {
            if signal == SIGTERM || signal == SIGHUP {
                // To all: a shell without a terminal passes nothing on to its children.
                let _none_left = kill(Pid::from_raw(-1), Signal::SIGTERM);
            }
        }
    }
}
