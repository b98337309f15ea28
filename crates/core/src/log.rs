//! The logs of an environment, in `NAME/log`.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags};

use crate::name::EnvName;
use crate::store::{Paths, Store};

/// What is read of a log for people at the most, in bytes, from its end.
const SHOWN: u64 = 2 << 20;

/// The log of upgrades, from the top level.
pub fn path(name: &EnvName) -> PathBuf {
    Paths::environment(name).join("log/upgrade.log")
}

/// Open the log of upgrades to append to it.
pub(crate) fn append(store: &Store, name: &EnvName) -> Result<File> {
    append_to(store, &path(name))
}

/// Open a log to append to it.
pub(crate) fn append_to(store: &Store, path: &Path) -> Result<File> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(store.top.fd(), path, flags, Mode::RUSR | Mode::WUSR)
        .with_context(|| format!("cannot open /{}", path.display()))?;
    Ok(fd.into())
}

/// The log of upgrades of an environment; none if nothing ran in it.
///
/// # Errors
/// When it is there and cannot be read.
pub fn read(store: &Store, name: &EnvName) -> Result<Option<String>> {
    let bytes = tail(store, &path(name), SHOWN)?;
    Ok(bytes.map(|b| {
        let text = be_portage::pretend::strip_ansi(&String::from_utf8_lossy(&b));
        match b.len() as u64 == SHOWN {
            true => format!("(the end of /{})\n{text}", path(name).display()),
            false => text,
        }
    }))
}

/// Open a log to read it; none if it is not there.
fn open(store: &Store, path: &Path) -> Result<Option<File>> {
    match store.dir.file(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// What was written to the log of an environment from this byte on; nothing without a log.
///
/// # Errors
/// When it cannot be read.
pub fn since(store: &Store, name: &EnvName, from: u64) -> Result<Vec<u8>> {
    let Some(mut file) = open(store, &path(name))? else {
        return Ok(Vec::new());
    };
    let mut new = Vec::new();
    file.seek(SeekFrom::Start(from))
        .and_then(|_| file.read_to_end(&mut new))
        .context("cannot read the log")?;
    Ok(new)
}

/// The last `most` bytes of a file; none if it is not there.
pub(crate) fn tail(store: &Store, path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    let Some(mut file) = open(store, path)? else {
        return Ok(None);
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}
