//! The words of a lock. A lock comes from elsewhere: each is checked when it is read, so that
//! the error names its line, and nothing that follows has to look again.

use std::fmt;
use std::ops::Deref;

use be_portage::version::split_cpv;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Where Portage's configuration is; all paths of a lock's configuration are below.
pub const CONFIGURATION: &str = "/etc/portage";

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident is $what:literal if $check:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(into = "String")]
        pub struct $name(String);

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                let check: fn(&str) -> bool = $check;
                match check(&text) {
                    true => Ok(Self(text)),
                    false => Err(format!("{text:?} is not {}", $what)),
                }
            }
        }

        // Not by `try_from`: of an error that comes after the text, another line is told.
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($what)
                    }

                    fn visit_str<E: Error>(self, text: &str) -> Result<$name, E> {
                        $name::try_from(text.to_owned()).map_err(E::custom)
                    }
                }
                from.deserialize_str(Text)
            }
        }

        impl From<$name> for String {
            fn from(word: $name) -> String {
                word.0
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

words! {
    /// An absolute path without `.`, `..` or empty parts.
    Place is "an absolute path without . and .. in it" if is_place;
    /// A [`Place`] below /etc/portage.
    Inside is "a path below /etc/portage without . and .. in it" if |text| {
        is_place(text) && text.strip_prefix(CONFIGURATION).is_some_and(|t| t.starts_with('/'))
    };
    /// The name of a commit of git, in full: SHA-1 or SHA-256.
    Commit is "a commit in full (40 or 64 hexadecimal digits)" if |text| {
        matches!(text.len(), 40 | 64) && is_hex(text)
    };
    /// A SHA-256 in hexadecimal digits.
    Sha256 is "a SHA-256 (64 hexadecimal digits)" if |text| text.len() == 64 && is_hex(text);
    /// Where a repository is synchronised from.
    Uri is "an address of a repository" if |text| {
        // `ext::COMMAND` of gitremote-helpers(7) would be run.
        let helper = |head: &str| head.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        is_word(text) && !text.starts_with('-')
            && !text.split_once("::").is_some_and(|(head, _)| helper(head))
    };
    /// The name of a repository (PMS 3.1.5).
    RepositoryName is "the name of a repository" if |text| {
        !text.starts_with('-') && !text.is_empty()
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
    };
    /// `category/name-version`.
    Cpv is "a package with its version (category/name-version)" if |text| {
        split_cpv(text).is_some()
    };
    /// A slot, with its subslot if it has one (PMS 3.1.3).
    Slot is "a slot" if |text| text.split('/').count() < 3 && text.split('/').all(is_slot);
    /// USE flags (PMS 3.1.4), separated by a space each, sorted.
    Flags is "a list of USE flags" if |text| {
        text.is_empty() || text.split(' ').all(is_flag)
    };
    /// One word of the world file or of world_sets: no white space, nothing that is not shown.
    Word is "one word" if is_word;
    /// Permission bits in four octal digits.
    Mode is "permissions in four octal digits" if |text| {
        text.len() == 4 && text.bytes().all(|b| (b'0'..=b'7').contains(&b))
    };
    /// The name of a user or a group; the number of one that has no name.
    Account is "the name of a user or a group" if |text| is_word(text) && !text.contains(':');
    /// The target of a link; it is text, and nothing that `be` follows.
    Target is "the target of a link" if |text| !text.is_empty() && !text.contains('\0');
    /// The version of the format.
    Schema is "be-lock/v1, the format that this be knows" if |text| text == super::SCHEMA;
}

impl Mode {
    /// Of these bits.
    pub fn new(bits: u32) -> Self {
        Self(format!("{:04o}", bits & 0o7777))
    }

    /// The bits.
    pub fn bits(&self) -> u32 {
        u32::from_str_radix(&self.0, 8).unwrap_or(0)
    }
}

impl Default for Schema {
    fn default() -> Self {
        Self(super::SCHEMA.to_owned())
    }
}

impl Sha256 {
    /// What a hash came to.
    pub(crate) fn of(hash: sha2::Sha256) -> Self {
        Self(crate::upgrade::inputs::hex(hash))
    }

    /// The digest of a content.
    pub fn new(content: &[u8]) -> Self {
        use sha2::Digest;
        Self::of(sha2::Sha256::new_with_prefix(content))
    }
}

impl Flags {
    /// Of these flags.
    pub fn new(flags: &[String]) -> Self {
        Self(flags.join(" "))
    }

    /// One by one.
    pub fn each(&self) -> impl Iterator<Item = &str> {
        self.0.split_whitespace()
    }
}

impl Cpv {
    /// Category, name and version.
    pub fn parts(&self) -> (&str, &str, &str) {
        split_cpv(&self.0).unwrap_or_default()
    }

    /// `category/name`.
    pub fn cp(&self) -> &str {
        let (_, _, version) = self.parts();
        let end = self.0.len().saturating_sub(version.len() + 1);
        &self.0[..end]
    }
}

impl Slot {
    /// Without the subslot.
    pub fn main(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }
}

fn is_place(text: &str) -> bool {
    let part = |p: &str| !matches!(p, "" | "." | "..");
    let Some(rest) = text.strip_prefix('/') else {
        return false;
    };
    !text.contains('\0') && rest.split('/').all(part)
}

fn is_hex(text: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.bytes().all(hex)
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

fn is_slot(text: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || "+_.-".contains(c);
    !text.is_empty() && !text.starts_with(['-', '.', '+']) && text.chars().all(rest)
}

fn is_flag(text: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || "+_@-".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(rest)
}
