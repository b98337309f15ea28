//! What two locks differ in, and how that is told.

use std::fmt;

use serde::Serialize;

/// What a difference is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// What is in a repository, and what it builds upon.
    Repository,
    /// Where a repository lies, and where it comes from.
    Location,
    /// Something in /etc/portage.
    Configuration,
    /// The chain of profiles.
    Profile,
    /// What is wanted: world and its sets.
    World,
    /// A setting, as Portage computes it.
    Setting,
    /// What packages are built with.
    Toolchain,
    /// The version of Portage.
    Portage,
    /// The index of a host of binary packages.
    Binhost,
    /// An installed package.
    Package,
}

/// One thing in which two locks differ, from the first to the second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// In what.
    pub part: Part,
    /// The name of it: of a repository, a path, a setting, `category/name:slot`.
    pub what: String,
    /// How.
    pub change: Change,
}

/// How two locks differ in one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Only the second has it.
    Added(String),
    /// Only the first has it.
    Removed(String),
    /// It has another value.
    Value {
        /// In the first.
        from: String,
        /// In the second.
        to: String,
    },
    /// Words of a list came and went.
    Words {
        /// Those that only the second has.
        added: Vec<String>,
        /// Those that only the first has.
        removed: Vec<String>,
    },
    /// A file has another content.
    Content,
    /// It is something else: a file, a directory, a link.
    Kind {
        /// In the first.
        from: &'static str,
        /// In the second.
        to: &'static str,
    },
    /// It has other permissions.
    Mode {
        /// In the first.
        from: String,
        /// In the second.
        to: String,
    },
    /// It belongs to somebody else, `USER:GROUP`.
    Owner {
        /// In the first.
        from: String,
        /// In the second.
        to: String,
    },
    /// A link points elsewhere.
    Target {
        /// In the first.
        from: String,
        /// In the second.
        to: String,
    },
    /// The package was built with other USE flags.
    Use {
        /// The package, `category/name-version`.
        package: String,
        /// On only in the second.
        enabled: Vec<String>,
        /// On only in the first.
        disabled: Vec<String>,
    },
    /// The package comes from another repository.
    From {
        /// The package, `category/name-version`.
        package: String,
        /// In the first.
        from: String,
        /// In the second.
        to: String,
    },
}

impl fmt::Display for Difference {
    /// In one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = &self.what;
        let subject = match self.part {
            Part::Repository => format!("repository {what}"),
            Part::Location => format!("place of {what}"),
            Part::Toolchain => format!("toolchain {what}"),
            Part::Binhost => format!("index {what}"),
            Part::Setting
            | Part::World
            | Part::Profile
            | Part::Portage
            | Part::Configuration
            | Part::Package => what.clone(),
        };
        let quoted = |text: &String| match self.part {
            Part::Setting => format!("{text:?}"),
            Part::Repository | Part::Binhost => short(text),
            _ => text.clone(),
        };
        match &self.change {
            Change::Added(now) => write!(f, "{subject}: added ({})", quoted(now)),
            Change::Removed(was) => write!(f, "{subject}: gone ({})", quoted(was)),
            Change::Value { from, to } => {
                write!(f, "{subject}: {} -> {}", quoted(from), quoted(to))
            }
            Change::Words { added, removed } => {
                write!(f, "{subject}: {}", signed(added, removed))
            }
            Change::Content => write!(f, "{subject}: content"),
            Change::Kind { from, to } => write!(f, "{subject}: {from} -> {to}"),
            Change::Mode { from, to } => write!(f, "{subject}: mode {from} -> {to}"),
            Change::Owner { from, to } => write!(f, "{subject}: owner {from} -> {to}"),
            Change::Target { from, to } => write!(f, "{subject}: link to {from} -> {to}"),
            Change::Use {
                package,
                enabled,
                disabled,
            } => {
                write!(f, "USE of {package}: {}", signed(enabled, disabled))
            }
            Change::From { package, from, to } => {
                write!(f, "repository of {package}: {from} -> {to}")
            }
        }
    }
}

/// A text in which every commit and digest is shortened.
fn short(text: &str) -> String {
    const SHOWN: usize = 12;
    let is_long = |word: &str| word.len() >= 40 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let words = text.split(' ').map(|word| match is_long(word) {
        true => format!("{}..", &word[..SHOWN]),
        false => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn signed(added: &[String], removed: &[String]) -> String {
    let added = added.iter().map(|word| format!("+{word}"));
    let all: Vec<_> = added
        .chain(removed.iter().map(|word| format!("-{word}")))
        .collect();
    all.join(" ")
}
