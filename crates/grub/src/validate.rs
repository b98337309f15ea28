//! Checking a menu with GRUB's own parser, `grub-script-check`: the only process that this crate starts.
//!
//! The check takes some milliseconds, so it can be started, left to run beside the sync of the disk, and
//! collected before the rename.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::process::{Child, Command, Stdio};

use rustix::fs::MemfdFlags;

/// The names under which distributions install the program.
const PROGRAMS: [&str; 2] = ["grub-script-check", "grub2-script-check"];

/// How many of the last lines of its complaint are kept.
const LINES: usize = 5;

/// Why a menu did not pass.
#[derive(Debug)]
pub enum ValidateError {
    /// Neither `grub-script-check` nor `grub2-script-check` is installed.
    NoChecker,
    /// GRUB would not read the text; the last lines of the complaint.
    Syntax(String),
    /// The check itself could not be made.
    Io(io::Error),
}

impl fmt::Display for ValidateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoChecker => f.write_str(
                "grub-script-check is not installed, so the GRUB menu cannot be checked",
            ),
            Self::Syntax(text) => write!(f, "GRUB would not read the menu: {text}"),
            Self::Io(_) => f.write_str("cannot check the GRUB menu"),
        }
    }
}

impl std::error::Error for ValidateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// Checks the text of a GRUB script. A text without any command does not pass.
///
/// # Errors
/// See [`ValidateError`].
pub fn validate(text: &str) -> Result<(), ValidateError> {
    Checker::spawn(text)?.finish()
}

/// A check under way. Dropped without [`Checker::finish`], it is ended.
#[derive(Debug)]
pub struct Checker {
    child: Child,
}

impl Checker {
    /// Starts the check and returns at once.
    ///
    /// # Errors
    /// [`ValidateError::NoChecker`] and [`ValidateError::Io`].
    pub fn spawn(text: &str) -> Result<Self, ValidateError> {
        for program in PROGRAMS {
            match Self::spawn_program(program, text) {
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(ValidateError::Io(error)),
                Ok(checker) => return Ok(checker),
            }
        }
        Err(ValidateError::NoChecker)
    }

    fn spawn_program(program: &str, text: &str) -> io::Result<Self> {
        let child = Command::new(program)
            .env("LC_ALL", "C")
            .stdin(memory_file(text)?)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Self { child })
    }

    /// Waits for the verdict.
    ///
    /// # Errors
    /// [`ValidateError::Syntax`] and [`ValidateError::Io`].
    pub fn finish(mut self) -> Result<(), ValidateError> {
        let mut complaint = Vec::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr
                .read_to_end(&mut complaint)
                .map_err(ValidateError::Io)?;
        }
        let status = self.child.wait().map_err(ValidateError::Io)?;
        if status.success() {
            return Ok(());
        }
        let complaint = String::from_utf8_lossy(&complaint);
        let lines: Vec<&str> = complaint
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let last = lines[lines.len().saturating_sub(LINES)..].join("; ");
        Err(ValidateError::Syntax(if last.is_empty() {
            status.to_string()
        } else {
            last
        }))
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        // After `finish` the child is reaped, and both calls do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The text as an open file that is on no disk. A pipe would not do: nobody may write to it while the caller syncs.
fn memory_file(text: &str) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("be-menu", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

/// Also what is said of a program that is nowhere on a PATH with a directory that may not
/// be looked into.
fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_good_text_and_names_the_fault_in_bad() {
        match validate("insmod btrfs\n") {
            Err(ValidateError::NoChecker) => return,
            other => other.expect("good text"),
        }
        let error = validate("if true; then\necho a\n").expect_err("no fi");
        assert!(
            matches!(&error, ValidateError::Syntax(text) if text.contains("yntax error")),
            "{error}"
        );
        let error = validate("menuentry 'a' {\necho 'b\n}\n").expect_err("unclosed quote");
        assert!(matches!(error, ValidateError::Syntax(_)));
    }

    #[test]
    fn a_program_that_is_not_there_is_told_apart() {
        let error = Checker::spawn_program("be-no-such-program", "x").expect_err("no such program");
        assert!(is_missing(&error), "{error}");
    }

    #[test]
    fn a_large_text_neither_blocks_nor_fails() {
        let text = "echo 'a line that fills more than any pipe'\n".repeat(10_000);
        match validate(&text) {
            Err(ValidateError::NoChecker) => {}
            other => other.expect("large text"),
        }
    }
}
