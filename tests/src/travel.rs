//! Two systems, and a stream between them.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Result, ensure};
use xtask::fingerprint::Fingerprint;
use xtask::run::{cmd, run};

use crate::be::Outcome;
use crate::system::System;

impl System {
    /// `be send`, its stream in a file; gives that and what `be` said.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn send(&self, file: &str, args: &[&str]) -> Result<(PathBuf, Outcome)> {
        let path = self.dir().join(file);
        let mut command = self.be.command(&[&["send"][..], args].concat());
        command.stdout(File::create(&path)?);
        let output = command.output()?;
        Ok((path, Outcome::from_output(&command, &output)))
    }

    /// `be receive` of a stream that comes by a pipe.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn receive(&self, stream: &[u8], args: &[&str]) -> Result<Outcome> {
        let mut command = self.be.command(&[&["receive"][..], args].concat());
        let piped = (Stdio::piped(), Stdio::piped(), Stdio::piped());
        let mut child = command
            .stdin(piped.0)
            .stdout(piped.1)
            .stderr(piped.2)
            .spawn()?;
        let stdin = child.stdin.take();
        let stream = stream.to_vec();
        let writer = std::thread::spawn(move || {
            // One that refuses reads no further.
            let _closed = stdin.map(|mut to| to.write_all(&stream));
        });
        let output = child.wait_with_output()?;
        ensure!(writer.join().is_ok(), "the writer panicked");
        Ok(Outcome::from_output(&command, &output))
    }

    /// Sends an environment to another system; gives what `be receive` said.
    ///
    /// # Errors
    /// It cannot be sent.
    pub fn send_to(&self, other: &System, send: &[&str], receive: &[&str]) -> Result<Outcome> {
        let (path, sent) = self.send("stream.be", send)?;
        sent.done();
        other.receive(&fs::read(path)?, receive)
    }

    /// What a snapshot of an environment has at one of its places, `root` or `vol/...`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn kept(&self, env: &str, snapshot: &str, place: &str) -> Result<Fingerprint> {
        Fingerprint::of(
            &self.top(&format!("@be/{env}/snap/{snapshot}/{place}")),
            &[],
        )
    }
}

/// Fills a directory with all kinds of files, and with names that are none to a shell.
///
/// # Errors
/// They cannot be made.
pub fn fill(dir: &Path) -> Result<()> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    fs::create_dir_all(dir.join("deep/er"))?;
    fs::write(dir.join("text"), "one\ntwo\n")?;
    let numbers: Vec<u8> = (0..3_000_000u32)
        .flat_map(|n| (n / 7).to_le_bytes())
        .collect();
    fs::write(dir.join("large"), &numbers)?;
    fs::write(dir.join(OsStr::from_bytes(b"odd \xff\n%20")), "odd")?;
    fs::hard_link(dir.join("text"), dir.join("deep/second name"))?;
    symlink("/etc/passwd", dir.join("leads out"))?;
    fs::set_permissions(dir.join("deep"), fs::Permissions::from_mode(0o1750))?;
    std::os::unix::fs::chown(dir.join("deep/er"), Some(1234), Some(5678))?;
    let sparse = File::create(dir.join("sparse"))?;
    sparse.set_len(5 << 20)?;
    let at = |name: &str| dir.join(name).into_os_string();
    run(cmd("cp", ["--reflink=always"])
        .arg(at("large"))
        .arg(at("shares its data")))?;
    run(cmd("mknod", [at("device")]).args(["c", "1", "3"]))?;
    run(&mut cmd("mkfifo", [at("fifo")]))?;
    xattr(&dir.join("text"), "user.note", b"kept")?;
    xattr(&dir.join("leads out"), "trusted.note", b"of a link")?;
    Ok(())
}

fn xattr(path: &Path, name: &str, value: &[u8]) -> Result<()> {
    use rustix::fs::{XattrFlags, lsetxattr};
    Ok(lsetxattr(path, name, value, XattrFlags::empty())?)
}

/// Changes what [`fill`] has made, in all ways.
///
/// # Errors
/// It cannot be changed.
pub fn change(dir: &Path) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let file = File::options().write(true).open(dir.join("large"))?;
    file.write_at(b"another", 5_000_000)?;
    fs::write(dir.join("text"), "one\ntwo\nthree\n")?;
    fs::rename(dir.join("deep"), dir.join("renamed"))?;
    fs::write(dir.join("renamed/new"), "new")?;
    fs::remove_file(dir.join("leads out"))?;
    fs::create_dir(dir.join("leads out"))?;
    fs::remove_file(dir.join("fifo"))?;
    fs::rename(dir.join("sparse"), dir.join("fifo"))?;
    let at = |name: &str| dir.join(name).into_os_string();
    rustix::fs::lremovexattr(dir.join("text"), "user.note")?;
    xattr(&dir.join("large"), "user.more", b"2")?;
    run(cmd("cp", ["--reflink=always"])
        .arg(at("large"))
        .arg(at("a copy")))?;
    fs::set_permissions(dir.join("renamed"), fs::Permissions::from_mode(0o700))?;
    Ok(())
}
