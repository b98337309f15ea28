//! A person at a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::pty::openpty;

use crate::be::Outcome;

/// Runs a command at a terminal of its own, where somebody types these lines. What it prints
/// there is in `stderr`, without the carriage returns.
///
/// # Errors
/// There is no terminal, or the command cannot be started.
pub fn at_terminal(command: &mut Command, typed: &[&str]) -> Result<Outcome> {
    let pty = openpty(None, None).context("make a terminal")?;
    let (mut master, slave) = (File::from(pty.master), File::from(pty.slave));
    command.stdin(slave.try_clone()?).stderr(slave);
    command.stdout(Stdio::piped());
    let child = command.spawn().context("start it at a terminal")?;
    // Ours would keep the terminal open.
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let mut screen = master.try_clone()?;
    let reader = std::thread::spawn(move || {
        let mut shown = Vec::new();
        // It ends with an error when nobody is at the other side any more.
        let _closed = screen.read_to_end(&mut shown);
        shown
    });
    for line in typed {
        master.write_all(format!("{line}\n").as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let shown = reader
        .join()
        .map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    let mut outcome = Outcome::from_output(command, &output);
    outcome.stderr = String::from_utf8_lossy(&shown).replace('\r', "");
    Ok(outcome)
}
