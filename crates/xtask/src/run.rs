//! Child processes whose error carries the end of what they said.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// A command from a program and its arguments.
pub fn cmd<I, S>(program: impl AsRef<OsStr>, args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// Runs a command to its end and returns its standard output.
///
/// # Errors
/// The program cannot be started or fails; the message ends with its last lines.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {}", show(command)))?;
    finish(command, &output)
}

/// As [`run`], with `input` on the program's standard input.
///
/// # Errors
/// As [`run`].
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", show(command)))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(input)
            .with_context(|| format!("write to {}", show(command)))?;
    }
    let output = child.wait_with_output()?;
    finish(command, &output)
}

/// Whether a program of this name is in the search path (or in an sbin).
#[must_use]
pub fn have(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .any(|dir| dir.join(program).is_file())
}

/// A program that cargo has built next to the one that is running, which may
/// be a test.
///
/// # Errors
/// It is not there: it has not been built with the same profile.
pub fn built(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    let dir = own.parent().context("this program is in no directory")?;
    let dirs = [Some(dir), dir.parent()];
    let mut paths = dirs.into_iter().flatten().map(|dir| dir.join(name));
    paths
        .find(|path| path.is_file())
        .with_context(|| format!("no {name} near {}: cargo build -p {name}", own.display()))
}

/// How a command is shown to a person.
#[must_use]
pub fn show(command: &Command) -> String {
    let mut text = Path::new(command.get_program()).display().to_string();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

/// Runs a command whose output goes where ours does.
///
/// # Errors
/// The program cannot be started or fails.
pub fn status(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("start {}", show(command)))?;
    if !status.success() {
        bail!("{}: {status}", show(command));
    }
    Ok(())
}

fn finish(command: &Command, output: &Output) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    bail!(
        "{}: {}\n{}",
        show(command),
        output.status,
        last_lines(&said, 40)
    )
}

/// The last `count` lines of a text.
#[must_use]
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_tells_what_the_program_said() {
        let error = run(&mut cmd("sh", ["-c", "echo why >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
    }

    #[test]
    fn input_reaches_the_program() {
        assert_eq!(
            run_with_input(&mut Command::new("cat"), b"abc").unwrap(),
            "abc"
        );
    }

    #[test]
    fn the_end_of_a_text() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
    }
}
