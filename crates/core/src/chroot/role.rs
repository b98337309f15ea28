//! `be` starts itself in other roles, each in a process of its own.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Linux takes no argument of 128 KiB, but many of them (execve(2), `MAX_ARG_STRLEN`), and the
/// packages of a whole system are longer.
const MOST: usize = 100 << 10;

/// This very program in a hidden role, which is told what to do in its arguments.
pub(crate) fn again(verb: &str, job: &impl Serialize) -> Result<Command> {
    let mut command = Command::new("/proc/self/exe");
    let job = serde_json::to_vec(job)?;
    command
        .arg(verb)
        .args(job.chunks(MOST).map(OsStr::from_bytes));
    Ok(command)
}

/// What the role was told.
pub(crate) fn told<T: DeserializeOwned>(arguments: &[OsString]) -> Result<T> {
    let parts: Vec<&[u8]> = arguments.iter().map(|part| part.as_bytes()).collect();
    serde_json::from_slice(&parts.concat()).context("cannot read what is to be done")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_arrives_as_it_was() {
        let job: Vec<String> = (0..MOST).map(|n| format!("ä{n}\0")).collect();
        let command = again("__role", &job).unwrap();
        let mut arguments = command.get_args().map(OsString::from);
        assert_eq!(arguments.next().as_deref(), Some("__role".as_ref()));
        let parts: Vec<OsString> = arguments.collect();
        assert!(parts.iter().all(|part| part.len() <= MOST) && parts.len() > 5);
        assert_eq!(told::<Vec<String>>(&parts).unwrap(), job);
    }
}
