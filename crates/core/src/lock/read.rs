//! Reading a lock. It comes from elsewhere and may be edited: an error names the line.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::{Entry, Kind, Lock, Schema, Sha256, Withheld, configuration};

/// Why a text is no lock; in one line, with the number of the line where that can be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLock(pub String);

impl fmt::Display for BadLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadLock {}

/// What a lock of any version has.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "schema")]
    _schema: Schema,
}

impl Lock {
    /// Read the text of a lock.
    ///
    /// # Errors
    /// It is no JSON, of a later format, or says what cannot be.
    pub fn parse(text: &str) -> Result<Self, BadLock> {
        let bad = |e: serde_json::Error| BadLock(e.to_string());
        if let Ok(Value::Object(other)) = serde_json::from_str(text)
            && other.get("schema").is_some_and(|s| s == "be/v1")
        {
            let why = "it is a document of be --json, and no lock: be lock prints one without it";
            return Err(BadLock(why.to_owned()));
        }
        // The version first: of a later one nothing else can be judged.
        let _head: Head = serde_json::from_str(text).map_err(bad)?;
        let lock: Lock = serde_json::from_str(text).map_err(bad)?;
        lock.check().map_err(|(word, why)| {
            BadLock(match line(text, &word) {
                Some(line) => format!("{why} at line {line}"),
                None => why,
            })
        })?;
        Ok(lock)
    }

    /// What no single word tells; an error has the word that is wrong first.
    fn check(&self) -> Result<(), (String, String)> {
        let mut seen: BTreeMap<&str, Kind> = BTreeMap::new();
        for entry in &self.configuration.entries {
            let path: &str = &entry.path;
            let wrong = |why: &str| Err((path.to_owned(), format!("{path}: {why}")));
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            let in_directory = parent == super::CONFIGURATION
                || seen
                    .get(parent)
                    .is_some_and(|kind| *kind == Kind::Directory);
            if !in_directory {
                return wrong("what it lies in is no directory of the lock that comes before it");
            }
            if seen.insert(path, entry.kind).is_some() {
                return wrong("it is there twice");
            }
            if let Err(why) = entry.check() {
                return wrong(why);
            }
        }
        let all = configuration::digest(&self.configuration.entries);
        if all != self.configuration.sha256 {
            let given = self.configuration.sha256.to_string();
            let why = "the digest of the configuration is not that of its entries";
            return Err((given, why.to_owned()));
        }
        let mut names = std::collections::BTreeSet::new();
        for repository in &self.repositories {
            let name = repository.name.to_string();
            if !names.insert(name.clone()) {
                let why = format!("the repository {name} is there twice");
                return Err((name, why));
            }
        }
        Ok(())
    }
}

impl Entry {
    fn check(&self) -> Result<(), &'static str> {
        if (self.kind == Kind::Link) != self.target.is_some() {
            return Err("a link has a target, and nothing else has");
        }
        if self.kind == Kind::Link && (self.owner.is_some() || self.group.is_some()) {
            return Err("a link has no owner here");
        }
        let is_private = self.withheld == Some(Withheld::Private);
        let has_digest = self.sha256.is_some();
        if (self.kind == Kind::File) != (has_digest || is_private) {
            return Err("a file has a digest, unless it is private, and nothing else has");
        }
        let Some(text) = &self.text else {
            return match self.kind == Kind::File && self.withheld.is_none() {
                true => Err("a file has its text, or says why not"),
                false => Ok(()),
            };
        };
        match self.sha256 == Some(Sha256::new(text.as_bytes())) {
            true => Ok(()),
            false => Err("its digest is not that of its text"),
        }
    }
}

/// The number of the last line that has this word as a value: in a list of what is there twice
/// the second one is meant.
fn line(text: &str, word: &str) -> Option<usize> {
    let quoted = serde_json::to_string(word).ok()?;
    let at = text
        .lines()
        .enumerate()
        .filter(|(_, l)| l.contains(&quoted));
    at.last().map(|(number, _)| number + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = include_str!("../../tests/fixtures/be-lock-1.json");

    #[test]
    fn version_1_is_frozen() {
        let lock = Lock::parse(LOCK).unwrap();
        assert_eq!(lock.to_text().unwrap(), LOCK);
    }

    /// The error after a change of the fixture.
    fn error(from: &str, to: &str) -> String {
        assert!(LOCK.contains(from), "{from}");
        let text = LOCK.replacen(from, to, 1);
        Lock::parse(&text).unwrap_err().to_string()
    }

    /// The number of the line that a text of the fixture is in.
    fn at(what: &str) -> String {
        let found = LOCK.lines().position(|line| line.contains(what)).unwrap();
        format!("line {}", found + 1)
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let cases = [
            // A later format, with a field that this one has not.
            (
                "\"schema\": \"be-lock/v1\"",
                "\"more\": 1, \"schema\": \"be-lock/v2\"",
                "be-lock/v1",
            ),
            ("\"recorded\": true", "\"recorded\": \"yes\"", "boolean"),
            ("\"recorded\": true", "\"recorder\": true", "recorder"),
            (
                "\"commit\": \"0123",
                "\"commit\": \"master",
                "commit in full",
            ),
            (
                "\"/etc/portage/make.conf\"",
                "\"/etc/portage/../shadow\"",
                "below /etc/portage",
            ),
            (
                "\"/etc/portage/make.conf\"",
                "\"/etc/shadow\"",
                "below /etc/portage",
            ),
            (
                "\"/var/db/repos/gentoo\"",
                "\"/../../gentoo\"",
                "absolute path",
            ),
            (
                "\"https://example.org/gentoo.git\"",
                "\"ext::sh -c reboot\"",
                "address",
            ),
            (
                "\"https://example.org/gentoo.git\"",
                "\"--upload-pack=x\"",
                "address",
            ),
            (
                "\"app-misc/hello-2\"",
                "\"app-misc/hello\"",
                "package with its version",
            ),
            ("\"nls ssl\"", "\"nls;ssl\"", "USE flags"),
            (
                "\"app-misc/hello\"",
                "\"app-misc/hello\\nevil\"",
                "one word",
            ),
            ("\"0644\"", "\"rw\"", "octal"),
        ];
        for (from, to, words) in cases {
            let error = error(from, to);
            assert!(error.contains(words), "{to}: {error}");
            assert!(error.contains(&at(from)), "{to}: {error}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_named_with_its_line() {
        let error1 = error("USE=\\\"nls\\\"", "USE=\\\"evil\\\"");
        assert!(
            error1.contains("/etc/portage/make.conf: its digest"),
            "{error1}"
        );
        assert!(
            error1.ends_with(&at("\"/etc/portage/make.conf\"")),
            "{error1}"
        );
        // A link in the place of the directory that another entry lies in.
        let from = "\"path\": \"/etc/portage/package.use\",\n        \"kind\": \"directory\"";
        let to = "\"path\": \"/etc/portage/package.use\",\n        \"target\": \"/usr/bin\",\n        \
                  \"kind\": \"link\"";
        let error2 = error(from, to);
        assert!(
            error2.contains("/etc/portage/package.use/x: what it lies in"),
            "{error2}"
        );
        let error3 = error("\"mode\": \"0644\"", "\"mode\": \"0666\"");
        assert!(error3.contains("digest of the configuration"), "{error3}");
        assert!(
            Lock::parse("{\"schema\": \"be/v1\"}")
                .unwrap_err()
                .0
                .contains("--json")
        );
        assert!(Lock::parse("").unwrap_err().0.contains("line"));
    }
}
