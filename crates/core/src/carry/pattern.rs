//! Patterns for paths, in be.toml.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::glob;

/// A pattern: with a slash at the beginning a path, and all below it; without any slash the
/// name of a file, wherever it is. `*` stands for any text but a slash, `?` for one character.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPattern(String);

impl TryFrom<String> for PathPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts = text.split('/').skip(1);
        if text.trim_matches('/').is_empty() || parts.clone().any(|p| p == "." || p == "..") {
            return Err(format!("the pattern {text:?} names no path"));
        }
        match text.starts_with('/') || !text.contains('/') {
            true => Ok(Self(text)),
            false => Err(format!(
                "the pattern {text:?} is neither a path (begin it with a slash) nor a name"
            )),
        }
    }
}

impl From<PathPattern> for String {
    fn from(pattern: PathPattern) -> Self {
        pattern.0
    }
}

impl PathPattern {
    /// Whether it means this path, from the root of the system without a leading slash.
    #[must_use]
    pub fn matches(&self, path: &Path) -> bool {
        let names = path.iter().map(OsStrExt::as_bytes);
        if !self.0.starts_with('/') {
            let mut names = names;
            return names.any(|name| glob::matches(self.0.as_bytes(), name));
        }
        let mut names = names;
        let mut parts = self.0.split('/').filter(|part| !part.is_empty());
        parts.all(|part| {
            let name = names.next();
            name.is_some_and(|name| glob::matches(part.as_bytes(), name))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        let pattern = PathPattern::try_from(pattern.to_owned()).unwrap();
        pattern.matches(Path::new(path))
    }

    #[test]
    fn paths_and_names() {
        for (pattern, path, expected) in [
            ("/var/lib/docker", "var/lib/docker/x/y", true),
            ("/var/lib/docker", "var/lib/docker2", false),
            ("/var/lib/docker/", "var/lib", false),
            ("/home/*/.cache", "home/me/.cache/x", true),
            ("/home/*/.cache", "home/me/sub/.cache/x", false),
            ("*.iso", "home/me/a.iso", true),
            ("node_modules", "home/me/node_modules/x/y", true),
            ("*.iso", "home/me/a.iso2", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn what_is_no_pattern() {
        for text in ["", "/", "a/b", "/a/../b"] {
            assert!(PathPattern::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
