//! One error for the crate: what was tried, on what, and why it failed.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use crate::Uuid;

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure, as "cannot snapshot /@: No space left on device".
#[derive(Debug)]
pub struct Error {
    op: &'static str,
    path: PathBuf,
    // Boxed: most results are small, and an error should not make them large.
    reason: Box<Reason>,
}

/// Why it failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Reason {
    /// The system call failed.
    Io(io::Error),
    /// btrfsutil failed: what it says, and the errno it left (or 0).
    Util(btrfsutil::BtrfsUtilError, io::Error),
    /// It is on another kind of filesystem.
    NotBtrfs,
    /// It is not the root directory of a subvolume.
    NotSubvolume,
    /// The subvolume there is not the one that was meant; nothing was done.
    WrongSubvolume {
        /// The UUID that the caller asked for.
        expected: Uuid,
        /// The UUID that was found in its place.
        found: Uuid,
    },
    /// No device of the filesystem has a node under /dev.
    NoDevice,
    /// The device holds another filesystem than the path lies on.
    OtherFilesystem {
        /// The filesystem of the path.
        expected: Uuid,
        /// The filesystem of the device.
        found: Uuid,
    },
    /// Not one name in a directory: empty, `.`, `..`, over 255 bytes, or with
    /// a slash or NUL in it.
    BadName,
    /// Another subvolume or a mount lies below; nothing was removed.
    Crossing(PathBuf),
    /// The file is larger than this many bytes.
    TooLarge(u64),
    /// The file is not UTF-8.
    NotUtf8,
    /// A stream of `btrfs send` has something in it that it may not have.
    BadStream(&'static str),
}

impl Error {
    pub(crate) fn new(op: &'static str, path: impl Into<PathBuf>, reason: Reason) -> Error {
        Error {
            op,
            path: path.into(),
            reason: Box::new(reason),
        }
    }

    /// What was tried, as a verb: "snapshot", "open".
    pub fn op(&self) -> &'static str {
        self.op
    }

    /// The object. Paths of a detached mount are relative to the top level and
    /// start with a slash; those of a [`crate::Root`] are as the caller gave them.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Why.
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// The errno, if a system call failed.
    pub fn errno(&self) -> Option<i32> {
        let errno = self.io().and_then(io::Error::raw_os_error);
        errno.filter(|&errno| errno != 0)
    }

    /// The kind of a failed system call, [`io::ErrorKind::Other`] for the rest.
    pub fn io_kind(&self) -> io::ErrorKind {
        self.io().map_or(io::ErrorKind::Other, io::Error::kind)
    }

    /// Whether the object, or a directory on the way to it, does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.io_kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        )
    }

    /// Whether the path is not on btrfs.
    pub fn is_not_btrfs(&self) -> bool {
        matches!(*self.reason, Reason::NotBtrfs)
    }

    fn io(&self) -> Option<&io::Error> {
        match &*self.reason {
            Reason::Io(error) | Reason::Util(_, error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: ", self.op, Shown(&self.path))?;
        match &*self.reason {
            Reason::Io(error) => write!(f, "{}", os_text(error)),
            // What the C library finds wrong by itself has no errno.
            Reason::Util(said, error) if error.raw_os_error() == Some(0) => write!(f, "{said}"),
            Reason::Util(said, error) => write!(f, "{} ({said})", os_text(error)),
            Reason::NotBtrfs => f.write_str("it is not on btrfs"),
            Reason::NotSubvolume => f.write_str("it is not a subvolume"),
            Reason::WrongSubvolume { expected, found } => {
                write!(f, "its UUID is {found}, not {expected}")
            }
            Reason::NoDevice => f.write_str("no device of its filesystem is under /dev"),
            Reason::OtherFilesystem { expected, found } => {
                write!(f, "its device holds the filesystem {found}, not {expected}")
            }
            Reason::BadName => f.write_str("it is not a valid name"),
            Reason::Crossing(at) => {
                write!(f, "a subvolume or mount lies below it: {}", Shown(at))
            }
            Reason::TooLarge(limit) => write!(f, "it is larger than {limit} bytes"),
            Reason::NotUtf8 => f.write_str("it is not UTF-8"),
            Reason::BadStream(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {
    // The text of the cause is in this one's text: a chain would print it twice.
}

/// The system's text without Rust's " (os error 28)".
fn os_text(error: &io::Error) -> String {
    let text = error.to_string();
    match (error.raw_os_error(), text.rfind(" (os error ")) {
        (Some(_), Some(end)) => text[..end].to_owned(),
        _ => text,
    }
}

/// A path for a message: quoted if a control character or invalid UTF-8 in it
/// could break the line or the terminal.
struct Shown<'a>(&'a Path);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.to_str() {
            Some("") => f.write_str("the root directory"),
            Some(text) if !text.chars().any(char::is_control) => f.write_str(text),
            _ => write!(f, "{:?}", self.0),
        }
    }
}

/// Names a descriptor for a message. Only called on failure: it costs a readlink.
pub(crate) fn path_of(fd: BorrowedFd<'_>) -> PathBuf {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    std::fs::read_link(&link).unwrap_or_else(|_| link.into())
}

/// Adds the verb and the object to a failed system call.
pub(crate) trait Context<T> {
    fn on(self, op: &'static str, path: impl Into<PathBuf>) -> Result<T>;
    fn on_fd(self, op: &'static str, fd: BorrowedFd<'_>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn on(self, op: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|error| Error::new(op, path, Reason::Io(error.into())))
    }

    fn on_fd(self, op: &'static str, fd: BorrowedFd<'_>) -> Result<T> {
        self.map_err(|error| Error::new(op, path_of(fd), Reason::Io(error.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_with_verb_object_and_cause() {
        let error = Error::new(
            "snapshot",
            "/@",
            Reason::Io(io::Error::from_raw_os_error(28)),
        );
        assert_eq!(
            error.to_string(),
            "cannot snapshot /@: No space left on device"
        );
        assert_eq!(error.errno(), Some(28));
        assert_eq!(error.io_kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_path_cannot_break_the_line() {
        let error = Error::new("open", "a\nb", Reason::NotBtrfs);
        assert_eq!(
            error.to_string(),
            "cannot open \"a\\nb\": it is not on btrfs"
        );
        assert!(error.is_not_btrfs());
        assert_eq!(error.errno(), None);
    }
}
