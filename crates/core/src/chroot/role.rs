//! `be` starts itself in other roles, each in a process of its own.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, memfd_create};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// This very program in a hidden role, ready to be started.
#[derive(Debug)]
pub(crate) struct Role {
    /// How.
    pub(crate) command: Command,
    /// What it is told. It inherits it, so it has to be there when that is started.
    _told: File,
}

/// This program in another role. What it is told is in memory that it inherits, and not in its
/// arguments: these everybody can read, and a password of a proxy may be in it; nor is one of them
/// as long as the packages of a whole system (execve(2), `MAX_ARG_STRLEN`).
pub(crate) fn again(verb: &str, job: &impl Serialize) -> Result<Role> {
    // It has to outlive the execve(2).
    let memory = memfd_create("be", MemfdFlags::empty());
    let mut told = File::from(memory.context("cannot hand over what is to be done")?);
    told.write_all(&serde_json::to_vec(job)?)
        .context("cannot hand over what is to be done")?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(verb).arg(told.as_raw_fd().to_string());
    Ok(Role {
        command,
        _told: told,
    })
}

/// What the role was told. Whatever it starts knows nothing of that.
pub(crate) fn told<T: DeserializeOwned>(argument: &OsString) -> Result<T> {
    let number = argument.to_str().and_then(|text| text.parse().ok());
    let number: i32 = number.context("this is a role that be starts by itself")?;
    let bytes = std::fs::read(format!("/proc/self/fd/{number}"))
        .context("cannot read what is to be done")?;
    nix::unistd::close(number)?;
    serde_json::from_slice(&bytes).context("cannot understand what is to be done")
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn what_is_long_arrives_as_it_was_and_is_no_argument() {
        let job: Vec<String> = (0..100_000).map(|n| format!("ä{n}\0")).collect();
        let role = again("__role", &job).unwrap();
        let arguments: Vec<OsString> = role.command.get_args().map(OsString::from).collect();
        assert_eq!(arguments[0], "__role");
        assert!(arguments[1].len() < 10 && arguments.len() == 2);
        assert_eq!(told::<Vec<String>>(&arguments[1]).unwrap(), job);
        // It was closed by who was told.
        let _closed = role._told.into_raw_fd();
    }
}
