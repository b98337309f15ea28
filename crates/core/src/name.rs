//! Names of environments.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest name accepted, in bytes.
pub const MAX_NAME: usize = 64;

/// The name of an environment: one directory below the store, one word in GRUB's menu,
/// one value in a mount option. It can only be made by [`EnvName::parse`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EnvName(String);

/// Why a text is not the name of an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameError {
    /// The text is empty.
    Empty,
    /// The text has more than [`MAX_NAME`] bytes; here is how many.
    TooLong(usize),
    /// The first character is neither a letter nor a digit.
    BadStart(char),
    /// A character that is not allowed anywhere.
    BadChar(char),
    /// The store itself uses this name.
    Reserved(String),
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::Empty => write!(f, "the name is empty"),
            NameError::TooLong(n) => {
                write!(f, "the name has {n} bytes; {MAX_NAME} are the most")
            }
            NameError::BadStart(c) => {
                write!(f, "a name starts with a letter or a digit, not with {c:?}")
            }
            NameError::BadChar(c) => write!(
                f,
                "{c:?} is not allowed in a name; letters, digits and . _ : + - are"
            ),
            NameError::Reserved(name) => write!(f, "the name {name:?} is used by the store itself"),
        }
    }
}

impl std::error::Error for NameError {}

/// The rules that names of environments and of snapshots share.
fn check(text: &str) -> Result<(), NameError> {
    let first = text.chars().next().ok_or(NameError::Empty)?;
    if !first.is_ascii_alphanumeric() {
        return Err(NameError::BadStart(first));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._:+-".contains(c);
    if let Some(c) = text.chars().find(|&c| !allowed(c)) {
        return Err(NameError::BadChar(c));
    }
    match text.len() {
        long if long > MAX_NAME => Err(NameError::TooLong(long)),
        _ => Ok(()),
    }
}

impl EnvName {
    /// Check a text and make a name of it.
    ///
    /// # Errors
    /// See [`NameError`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check(text)?;
        if text == "lock" {
            return Err(NameError::Reserved(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name that is not taken yet: `stem`, else `stem-2`, `stem-3` and so on.
    ///
    /// `stem` is a date in practice; two environments of one day therefore never collide.
    pub fn free(stem: &str, taken: &[&str]) -> Result<Self, NameError> {
        let mut name = stem.to_owned();
        let mut n = 1;
        while taken.contains(&name.as_str()) {
            n += 1;
            name = format!("{stem}-{n}");
        }
        Self::parse(&name)
    }
}

impl fmt::Display for EnvName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for EnvName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<EnvName> for String {
    fn from(name: EnvName) -> Self {
        name.0
    }
}

impl std::str::FromStr for EnvName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

/// The name of a snapshot of an environment, by the same rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapName(String);

impl SnapName {
    /// Check a text and make a name of it.
    ///
    /// # Errors
    /// See [`NameError`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check(text)?;
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for SnapName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<SnapName> for String {
    fn from(name: SnapName) -> Self {
        name.0
    }
}

/// What a command line names: an environment, or a snapshot of one (`ENV@SNAP`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// The environment.
    pub env: EnvName,
    /// The snapshot of it that is meant.
    pub snapshot: Option<SnapName>,
}

impl Named {
    /// A snapshot of an environment.
    pub fn snapshot(env: &EnvName, snapshot: &SnapName) -> Self {
        Self {
            env: env.clone(),
            snapshot: Some(snapshot.clone()),
        }
    }
}

impl From<EnvName> for Named {
    fn from(env: EnvName) -> Self {
        Self {
            env,
            snapshot: None,
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.snapshot {
            Some(snapshot) => f.pad(&format!("{}@{snapshot}", self.env)),
            None => self.env.fmt(f),
        }
    }
}

impl std::str::FromStr for Named {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (env, snapshot) = match text.split_once('@') {
            Some((env, snapshot)) => (env, Some(SnapName::parse(snapshot)?)),
            None => (text, None),
        };
        Ok(Self {
            env: EnvName::parse(env)?,
            snapshot,
        })
    }
}

impl Serialize for Named {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_people_type() {
        for name in [
            "default",
            "2026-11-20",
            "a",
            "9",
            "before_gcc-15.2",
            "a:b+c",
        ] {
            assert_eq!(EnvName::parse(name).unwrap().as_str(), name);
        }
        assert!(EnvName::parse(&"x".repeat(64)).is_ok());
    }

    #[test]
    fn refuses_what_could_leave_the_store_or_the_menu() {
        use NameError::*;
        for (text, error) in [
            ("", Empty),
            ("..", BadStart('.')),
            (".work", BadStart('.')),
            ("-x", BadStart('-')),
            ("a/b", BadChar('/')),
            ("a b", BadChar(' ')),
            ("a\nb", BadChar('\n')),
            ("a'b", BadChar('\'')),
            ("a\"b", BadChar('"')),
            ("a,b", BadChar(',')),
            ("a@b", BadChar('@')),
            ("grün", BadChar('ü')),
            ("lock", Reserved("lock".into())),
        ] {
            assert_eq!(EnvName::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(EnvName::parse(&"x".repeat(300)), Err(TooLong(300)));
    }

    #[test]
    fn free_names_count_up() {
        assert_eq!(EnvName::free("d", &[]).unwrap().as_str(), "d");
        assert_eq!(EnvName::free("d", &["d", "d-2"]).unwrap().as_str(), "d-3");
    }

    #[test]
    fn an_environment_or_a_snapshot_of_one() {
        let named: Named = "x@before-1".parse().unwrap();
        assert_eq!(named.env.as_str(), "x");
        assert_eq!(named.snapshot.as_ref().unwrap().as_str(), "before-1");
        assert_eq!(named.to_string(), "x@before-1");
        assert_eq!("x".parse::<Named>().unwrap().snapshot, None);
        // A snapshot may be called what no environment may be.
        assert!("x@lock".parse::<Named>().is_ok());
        for bad in ["", "@", "x@", "@a", "x@a@b", "x@a/b", "x@.a"] {
            assert!(bad.parse::<Named>().is_err(), "{bad:?}");
        }
    }
}
