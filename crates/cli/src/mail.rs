//! Mails about what nobody watched.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use be_core::log;
use be_core::name::EnvName;
use be_core::session::Session;

/// Lines of the log in the mail about what failed.
const LINES: usize = 30;

/// The last lines of the log of an environment.
pub fn end_of_log(session: &Session, name: &EnvName) -> String {
    let all = log::read(&session.store, name);
    let all = all.ok().flatten().unwrap_or_default();
    let lines: Vec<&str> = all.lines().collect();
    let mut text = "\nThe end of its log:\n".to_owned();
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        text.push_str(&format!("  {line}\n"));
    }
    text
}

/// Hand a message to the mail system, if be.toml names somebody.
///
/// # Errors
/// There is none, or it does not take it.
pub fn send(to: &str, subject: &str, text: &str) -> Result<()> {
    if to.is_empty() {
        return Ok(());
    }
    // Nothing of a package's log ends up in a header.
    let subject: String = subject.chars().filter(|c| !c.is_control()).collect();
    let message = format!("To: {to}\nSubject: {subject}\n\n{text}");
    let mut child = Command::new("sendmail")
        .args(["-i", "-t"])
        .stdin(Stdio::piped())
        .spawn()
        .context("no mail was sent: cannot run sendmail")?;
    let mut input = child.stdin.take().context("sendmail takes no input")?;
    // Should it end before it has read all, its exit code says so.
    let _ended = std::io::Write::write_all(&mut input, message.as_bytes());
    drop(input);
    let status = child.wait().context("cannot wait for sendmail")?;
    match status.success() {
        true => Ok(()),
        false => bail!("no mail was sent: sendmail: {status}"),
    }
}
