//! What a short program in an environment prints.

use std::fs::File;
use std::io::{Read, Seek};

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, memfd_create};

use super::{Job, Output, exit_code};

/// What a program printed.
#[derive(Debug)]
pub struct Captured {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Job {
    /// Run it to its end, with no input; of what it prints, at the most so many bytes are taken
    /// of each stream.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn capture(&self, most: u64) -> Result<Captured> {
        let (out, err) = (memory()?, memory()?);
        let output = Output::Files {
            out: out.try_clone()?,
            err: err.try_clone()?,
        };
        let mut child = self.start(output)?;
        let code = exit_code(child.wait().context("cannot wait for a child")?);
        Ok(Captured {
            code,
            out: read(out, most)?,
            err: read(err, most)?,
        })
    }
}

/// A file in memory, for what a program prints.
pub(crate) fn memory() -> Result<File> {
    let fd = memfd_create("be-output", MemfdFlags::CLOEXEC);
    Ok(File::from(fd.context("cannot keep the output")?))
}

/// What is in it, at the most so many bytes; what is not UTF-8 is replaced.
pub(crate) fn read(mut file: File, most: u64) -> Result<String> {
    file.rewind().context("cannot read the output")?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
