//! What becomes of a configuration file of which a new version waits (`._cfg0000_NAME`): the
//! decision, as data. Nothing is read or written here but by [`contents`], which reads what
//! packages have installed, and by [`waiting`], which finds what waits.
//!
//! Three versions tell it: the packaged one that the file in use was made from, the file in
//! use, and the packaged one that waits. Portage keeps only checksums of the first.

pub mod accounts;
pub mod contents;
pub mod merge;
pub mod sensitive;
pub mod waiting;

use std::fmt::Write;

use md5::{Digest, Md5};
use serde::Serialize;

use self::merge::Merged;

/// What is larger is left to a person, in bytes.
pub const MAX_SIZE: u64 = 1 << 20;

/// What is known of a file.
#[derive(Debug, Clone, Copy)]
pub struct Versions<'a> {
    /// The file, from the root of the system.
    pub path: &'a str,
    /// What is in use; none if that is no regular file that can be merged.
    pub ours: Option<&'a [u8]>,
    /// What waits; none likewise.
    pub theirs: Option<&'a [u8]>,
    /// The packaged version that the one in use was made from, if it is still there.
    pub base: Option<&'a [u8]>,
    /// Checksums ([`checksum`]) of packaged versions: what has one of these nobody has changed.
    pub pristine: &'a [String],
    /// Nobody but a person decides.
    pub sensitive: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nobody has changed the file, or in nothing that counts: what waits takes its place.
    Take,
    /// What the person and the package have changed goes together: this is the result.
    Merge(Vec<u8>),
    /// A person has to look at it.
    Leave(Why),
}

/// Why a person has to look at a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The machine depends on it.
    Sensitive,
    /// What waits is what was in use before.
    Old,
    /// The package manager has not come to it yet.
    Unfinished,
    /// One of the two is a link, a directory, not there, or too large.
    NoFile,
    /// It is no text.
    Binary,
    /// Both have changed the same lines.
    Conflict,
    /// It was changed, and what it was before is not known.
    UnknownBase,
}

impl Why {
    /// For people.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Why::Sensitive => "nobody but you decides about this file",
            Why::Old => "the package manager has moved away what was in use",
            Why::Unfinished => "the package is not installed to its end",
            Why::NoFile => "one of the two is no regular file, or too large",
            Why::Binary => "it is no text",
            Why::Conflict => "you and the package have changed the same lines",
            Why::UnknownBase => "you have changed it, and what it was before is not known",
        }
    }
}

/// Decide about one file.
#[must_use]
pub fn decide(versions: &Versions<'_>) -> Decision {
    if versions.sensitive {
        return Decision::Leave(Why::Sensitive);
    }
    let (Some(ours), Some(theirs)) = (versions.ours, versions.theirs) else {
        return Decision::Leave(Why::NoFile);
    };
    if ours == theirs || versions.pristine.contains(&checksum(ours)) {
        return Decision::Take;
    }
    if merge::is_binary(ours) || merge::is_binary(theirs) {
        return Decision::Leave(Why::Binary);
    }
    let base = versions.base.filter(|base| !merge::is_binary(base));
    let why = match base.map(|base| merge::three_way(base, ours, theirs)) {
        Some(Merged::Clean(result)) if result == theirs => return Decision::Take,
        Some(Merged::Clean(result)) => return Decision::Merge(result),
        Some(Merged::Conflicts(_)) => Why::Conflict,
        None => Why::UnknownBase,
    };
    match merge::same_but_comments(ours, theirs) {
        true => Decision::Take,
        false => Decision::Leave(why),
    }
}

/// The checksum that Portage records: MD5, in lower case digits.
#[must_use]
pub fn checksum(content: &[u8]) -> String {
    let mut text = String::with_capacity(32);
    for byte in Md5::digest(content) {
        // A string takes all.
        let _infallible = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "# foo 1\n\nport = 80\nname = a\nmode = x\nend\n";
    const V2: &str = "# foo 2\n\nport = 80\nname = a\nmode = x\nnew = 1\nend\n";

    fn versions<'a>(base: Option<&'a str>, ours: &'a str, theirs: &'a str) -> Versions<'a> {
        Versions {
            path: "/etc/foo.conf",
            ours: Some(ours.as_bytes()),
            theirs: Some(theirs.as_bytes()),
            base: base.map(str::as_bytes),
            pristine: &[],
            sensitive: false,
        }
    }

    #[test]
    fn what_becomes_of_a_file() {
        let ours = V1.replace("80", "8080");
        let merged = V2.replace("80", "8080");
        let conflict = V2.replace("80", "443");
        let leave = |why| Decision::Leave(why);
        for (base, ours, theirs, expected) in [
            (Some(V1), &*ours, V2, Decision::Merge(merged.into_bytes())),
            (Some(V1), V1, V2, Decision::Take),
            (Some(V1), &ours, &conflict, leave(Why::Conflict)),
            (None, &ours, V2, leave(Why::UnknownBase)),
            (None, V2, V2, Decision::Take),
            (
                None,
                "# mine\nport = 80\n",
                "port = 80 \n\n",
                Decision::Take,
            ),
            (Some("a\0"), "a\0b", "a\0c", leave(Why::Binary)),
            (Some("a\0"), "ab", "ac", leave(Why::UnknownBase)),
            (Some(V1), "", V2, leave(Why::Conflict)),
            (None, "", V2, leave(Why::UnknownBase)),
            (Some(""), "", V2, Decision::Take),
            // A comment of the person goes only where it cannot be kept.
            (
                Some("x\n\ny\n"),
                "# mine\nx\n\ny\n",
                "x\n\ny\n# new\n",
                Decision::Merge("# mine\nx\n\ny\n# new\n".into()),
            ),
            (Some("# a\nx\n"), "# mine\nx\n", "# b\nx\n", Decision::Take),
            // The package goes back to what it was: what the person has stays.
            (
                Some(V1),
                &ours,
                V1,
                Decision::Merge(ours.clone().into_bytes()),
            ),
        ] {
            let decided = decide(&versions(base, ours, theirs));
            assert_eq!(decided, expected, "{base:?} {ours:?} {theirs:?}");
        }
    }

    #[test]
    fn what_nobody_has_changed_is_known_by_its_checksum() {
        assert_eq!(checksum(b""), "d41d8cd98f00b204e9800998ecf8427e");
        let pristine = [checksum(b"\0\x01")];
        let mut known = versions(None, "\0\x01", "\0\x02");
        assert_eq!(decide(&known), Decision::Leave(Why::Binary));
        known.pristine = &pristine;
        assert_eq!(decide(&known), Decision::Take);
        known.sensitive = true;
        assert_eq!(decide(&known), Decision::Leave(Why::Sensitive));
        known = versions(None, "a", "b");
        known.theirs = None;
        assert_eq!(decide(&known), Decision::Leave(Why::NoFile));
    }
}
