//! Patterns for names of environments.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A pattern: `*` stands for any text, `?` for any one character, all else for itself. It
/// can only be made by [`Glob::parse`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Glob(String);

impl Glob {
    /// Check a text and make a pattern of it.
    ///
    /// # Errors
    /// It is empty, or has a character that no name can have: it would never match.
    pub fn parse(text: &str) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._:+-*?".contains(c);
        match text.chars().find(|&c| !allowed(c)) {
            _ if text.is_empty() => Err("the pattern is empty".into()),
            Some(c) => Err(format!(
                "{c:?} in the pattern {text:?}: no name has it; * and ? are the wildcards"
            )),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// Whether a name matches as a whole.
    pub fn matches(&self, name: &str) -> bool {
        matches(self.0.as_bytes(), name.as_bytes())
    }
}

/// Whether a text matches a pattern as a whole: `*` stands for any text, `?` for one byte.
pub(crate) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where the last star stands, and what it has to leave at least.
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == b'?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for Glob {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Glob> for String {
    fn from(glob: Glob) -> Self {
        glob.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wildcards() {
        for (pattern, name, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("before-*", "before-gcc", true),
            ("before-*", "before-", true),
            ("before-*", "xbefore-", false),
            ("*", "anything", true),
            ("?", "ab", false),
            ("2026-??-01", "2026-11-01", true),
            ("*-2*-2", "a-2-2-2", true),
            ("*ab", "aab", true),
            ("*ab", "aba", false),
            ("a**b", "ab", true),
        ] {
            let glob = Glob::parse(pattern).unwrap();
            assert_eq!(glob.matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_can_never_match_is_an_error() {
        for text in ["", "a/b", "a b", "[ab]", "ü"] {
            assert!(Glob::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_name_matches_itself_and_its_parts_with_stars(
            name in "[a-z0-9][a-z0-9.-]{0,12}", at in 0usize..12
        ) {
            prop_assert!(Glob::parse(&name).unwrap().matches(&name));
            let at = at.min(name.len());
            let glob = Glob::parse(&format!("{}*{}", &name[..at], &name[at..])).unwrap();
            prop_assert!(glob.matches(&name));
            let longer = Glob::parse(&format!("{name}?")).unwrap();
            prop_assert!(!longer.matches(&name));
        }
    }
}
