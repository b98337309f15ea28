//! A package manager as data: its commands, and how what they say reads.

use std::collections::BTreeMap;
use std::path::PathBuf;

use be_btrfs::Root;
use be_portage::config_files::waiting::Beside;
use serde::Deserialize;

use super::pattern::Pattern;
use super::progress::Progress;
use super::versions::Order;

/// A package manager.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The name in be.toml and in messages: that of its file.
    #[serde(skip)]
    pub name: String,
    /// A system has it where all of these paths exist.
    #[serde(default)]
    pub recognise: Vec<PathBuf>,
    /// How its versions are compared.
    pub versions: Order,
    /// Whether what is typed after `--` is added to its commands that compute, fetch and
    /// upgrade.
    #[serde(default)]
    pub options: bool,
    /// Whether it finishes, after [`Profile::mend`], what it was cut off in.
    #[serde(default)]
    pub resumes: bool,
    /// Where the list of installed packages is.
    pub packages: Packages,
    /// Bring the lists of packages up to date.
    pub sync: Step,
    /// Tell what would be upgraded, and do nothing.
    pub preview: Preview,
    /// Download what will be installed.
    #[serde(default)]
    pub fetch: Option<Step>,
    /// Upgrade, without a question.
    pub upgrade: Step,
    /// Make whole what an earlier upgrade left in part; before one that failed goes on.
    #[serde(default)]
    pub mend: Option<Step>,
    /// How it tells what it works on while it upgrades.
    #[serde(default)]
    pub progress: Progress,
    /// What it leaves beside configuration files.
    #[serde(default)]
    pub config_files: Beside,
    /// Variables for all of its commands.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Programs that only its commands see, by their paths: no trace of them stays.
    #[serde(default)]
    pub files: BTreeMap<PathBuf, String>,
}

/// Where a list of installed packages is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "format", rename_all = "lowercase", deny_unknown_fields)]
pub enum Packages {
    /// A file as dpkg writes it.
    Dpkg {
        /// The file.
        file: PathBuf,
    },
    /// Directories as pacman makes them.
    Pacman {
        /// What they are in.
        directory: PathBuf,
    },
    /// What a command prints: a line for each, with tabs between its name and its version,
    /// and, where they are known, its architecture, its size in bytes and the time at which it
    /// was built in seconds since 1970. The command runs where it can write nothing.
    Lines {
        /// Program and arguments.
        command: Command,
    },
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Program and arguments.
    pub command: Command,
    /// The exit codes that mean success.
    #[serde(default = "success")]
    pub good: Vec<i32>,
    /// The exit codes that mean that there is nothing to do.
    #[serde(default)]
    pub nothing: Vec<i32>,
}

/// The command that tells what would be upgraded.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preview {
    /// Program and arguments.
    pub command: Command,
    /// As [`Step::good`].
    #[serde(default = "success")]
    pub good: Vec<i32>,
    /// As [`Step::nothing`].
    #[serde(default)]
    pub nothing: Vec<i32>,
    /// How a line reads that names a package; the first that fits counts.
    pub lines: Vec<Pattern>,
}

fn success() -> Vec<i32> {
    vec![0]
}

/// Program and arguments: at least one word.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Command(pub Vec<String>);

impl TryFrom<Vec<String>> for Command {
    type Error = &'static str;

    fn try_from(words: Vec<String>) -> Result<Self, Self::Error> {
        match words.is_empty() {
            true => Err("a command has at least one word"),
            false => Ok(Self(words)),
        }
    }
}

impl Profile {
    /// Read the text of a profile.
    ///
    /// # Errors
    /// A text for people that names the line and shows it.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut profile: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        name.clone_into(&mut profile.name);
        Ok(profile)
    }

    /// Whether a system has this package manager.
    pub fn is_in(&self, root: &Root) -> bool {
        let is_there = |path: &PathBuf| {
            let path = path.strip_prefix("/").unwrap_or(path);
            root.exists(path).unwrap_or(false)
        };
        !self.recognise.is_empty() && self.recognise.iter().all(is_there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let apt = include_str!("apt.toml");
        assert_eq!(Profile::parse("apt", apt).unwrap().name, "apt");
        for (from, to, why) in [
            ("options = true", "option = true", "option"),
            ("versions = \"debian\"", "versions = \"x\"", "debian"),
            ("\"Remv {package}", "\"Remv {pakage}", "pakage"),
            (
                "[\"apt-get\", \"--simulate\", \"dist-upgrade\"]",
                "[]",
                "one word",
            ),
            ("format = \"dpkg\"", "format = \"x\"", "pacman"),
            ("\".dpkg-new\"", "\"dpkg-new\"", "ending"),
            ("[\"configure\", ", "[\"setup\", ", "none of the steps"),
        ] {
            assert!(apt.contains(from), "{from}");
            let error = Profile::parse("apt", &apt.replace(from, to)).unwrap_err();
            assert!(error.contains("line") && error.contains(why), "{error}");
        }
    }
}
