//! `be send`

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write, stdout};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use be_core::execute::execute;
use be_core::name::{EnvName, Named};
use be_core::plan;
use be_core::travel::{self, Moved, Outgoing, Travel};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};
use rustix::io::Errno;
use serde_json::json;
use tempfile::NamedTempFile;

use crate::complete;
use crate::context::Context;
use crate::reporter::{Amount, Outcome};

/// Write an environment to standard output, for be receive on another machine.
///
/// With --since only what is different from another environment, which that machine has sent
/// or received before. What was sent is kept as ENV@sent.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    be send web | ssh strong be receive\n  \
    ssh strong be send web-new --since web | be receive\n  \
    be send web -o /mnt/usb/web.be")]
pub struct Args {
    /// Only what is different from this one, as it was sent or received last, or from this
    /// snapshot that was.
    #[arg(long, value_name = "ENV[@SNAP]", add = complete::both())]
    since: Option<Named>,
    /// Write to this file, which appears when it is complete.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Which one.
    #[arg(add = complete::environments())]
    env: EnvName,
}

impl Args {
    /// Whether standard output is for the stream.
    pub fn takes_stdout(&self) -> bool {
        self.output.is_none()
    }
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    match &args.output {
        None if stdout().is_terminal() && !ctx.dry_run => return Err(Travel::ToTerminal.into()),
        Some(file) if file.exists() => {
            let path = file.display().to_string();
            return Err(Travel::FileExists { path }.into());
        }
        _ => {}
    }
    let work = ctx.begin()?;
    let request = travel::Send {
        env: args.env.clone(),
        layout: ctx
            .session
            .layout(&work.inv, Some(&args.env.clone().into()))?,
        since: args.since.clone(),
        now: ctx.now,
    };
    let sending = travel::plan_send(&work.inv, &request)?;
    let Some(lock) = work.lock else {
        return show(args, &sending, ctx);
    };
    let outgoing = travel::prepare(&ctx.session, work.inv, &sending, ctx.now, &lock)?;
    drop(lock);
    let sent = stream(args, ctx, &outgoing);
    let snapshot = outgoing.snapshot.clone();
    let notes = finish(ctx, outgoing, sent.is_ok());
    let moved = sent?;
    Ok(Outcome::new(json!({
        "environment": args.env,
        "snapshot": snapshot,
        "since": sending.since,
        "bytes": moved.bytes,
        "stream_bytes": moved.stream,
    }))
    .notes([format!(
        "sent {}, in a stream of {}; it is kept as {snapshot}",
        Amount(moved.bytes),
        Amount(moved.stream),
    )])
    .notes(notes))
}

fn show(args: &Args, sending: &travel::Sending, ctx: &Context) -> Result<Outcome> {
    let size = sending.size(&ctx.session)?;
    let since = sending.since.as_ref();
    let since = since.map_or(String::new(), |since| format!(", relative to {since}"));
    let text = format!("would send about {}{since}\n", Amount(size));
    Ok(Outcome::new(json!({
        "dry_run": true,
        "environment": args.env,
        "since": sending.since,
        "bytes": size,
    }))
    .text(text))
}

fn stream(args: &Args, ctx: &mut Context, outgoing: &Outgoing) -> Result<Moved> {
    let Some(path) = &args.output else {
        // Without the buffer that looks for the ends of lines.
        let to = File::from(stdout().as_fd().try_clone_to_owned()?);
        return stream_to(args, ctx, outgoing, to);
    };
    let cannot = || format!("cannot write {}", path.display());
    let output = Output::beside(path).with_context(cannot)?;
    let moved = stream_to(args, ctx, outgoing, output.file().try_clone()?)?;
    output.file().sync_all().with_context(cannot)?;
    match output.publish(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let path = path.display().to_string();
            Err(Travel::FileExists { path }.into())
        }
        done => done.with_context(cannot).map(|()| moved),
    }
}

/// A file that appears when it is complete.
enum Output {
    /// It has no name, so that nothing is left of it by who is killed.
    Unnamed(File),
    /// Where a filesystem knows no files without names, FAT for one.
    Named(NamedTempFile),
}

impl Output {
    fn beside(path: &Path) -> io::Result<Self> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.unwrap_or(Path::new("."));
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        match open(dir, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => Ok(Self::Unnamed(fd.into())),
            // Who does not know the flag takes it for a directory.
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::ISDIR) => {
                NamedTempFile::new_in(dir).map(Self::Named)
            }
            Err(e) => Err(e.into()),
        }
    }

    fn file(&self) -> &File {
        match self {
            Self::Unnamed(file) => file,
            Self::Named(file) => file.as_file(),
        }
    }

    /// Give it its name, if that is free.
    fn publish(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Unnamed(file) => {
                let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
                Ok(linkat(CWD, unnamed, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
            }
            Self::Named(file) => match file.persist_noclobber(path) {
                Ok(_) => Ok(()),
                Err(e) => Err(e.error),
            },
        }
    }
}

fn stream_to(args: &Args, ctx: &mut Context, outgoing: &Outgoing, to: impl Write) -> Result<Moved> {
    let reporter = &mut *ctx.reporter;
    let what = format!("sending {}", args.env);
    let mut watch = |moved| reporter.moved(&what, moved);
    let sent = outgoing.stream(&ctx.session, to, &mut watch);
    ctx.reporter.moved_all();
    sent
}

/// Write down what was sent, and delete what is not needed any more. That this cannot be done
/// now is no failure of sending.
fn finish(ctx: &mut Context, outgoing: Outgoing, sent: bool) -> Vec<String> {
    let try_all = || -> Result<()> {
        let work = match sent {
            true => ctx.begin_patiently()?,
            false => ctx.begin()?,
        };
        let lock = work.lock.context("the lock is held")?;
        if sent {
            outgoing.mark(&ctx.session, &work.inv, &lock)?;
        }
        let names = travel::tidy(&ctx.session, &work.inv, outgoing, sent);
        if names.is_empty() {
            return Ok(());
        }
        let request = plan::Destroy {
            names,
            unmount: false,
            chosen: None,
            strangers: Vec::new(),
        };
        let uses = ctx.session.uses(&work.inv)?;
        let plan = plan::destroy(&work.inv, &uses, &request)?;
        execute(&ctx.session, work.inv, &plan, &lock)?;
        Ok(())
    };
    match try_all() {
        Ok(()) => Vec::new(),
        Err(e) => vec![format!(
            "that it was sent, and what is not needed any more, waits for the next be send: {e:#}"
        )],
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn with_a_name_before_or_without_it_appears_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.be");
        for named in [true, false] {
            let output = || match named {
                true => Output::Named(NamedTempFile::new_in(dir.path()).unwrap()),
                false => Output::beside(&path).unwrap(),
            };
            let first = output();
            first.file().write_all(b"all of it").unwrap();
            assert!(!path.exists());
            first.publish(&path).unwrap();
            let second = output().publish(&path).unwrap_err();
            assert_eq!(second.kind(), ErrorKind::AlreadyExists);
            assert_eq!(fs::read(&path).unwrap(), b"all of it");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
            fs::remove_file(&path).unwrap();
        }
    }
}
