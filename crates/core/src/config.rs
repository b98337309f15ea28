//! /etc/be/be.toml. Every key is optional; an unknown key or a bad value is an error.

use serde::Deserialize;

/// Where the configuration is, below the system's root.
pub const PATH: &str = "etc/be/be.toml";

/// The whole configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[upgrade]`
    pub upgrade: Upgrade,
    /// `[menu]`
    pub menu: Menu,
}

/// How `be upgrade` works.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upgrade {
    /// Synchronise the repositories first.
    pub sync: bool,
    /// Options added to every emerge that computes or merges packages.
    pub emerge_options: Vec<String>,
    /// Activate the environment when all went well.
    pub activate: bool,
    /// MiB that have to be free before anything begins.
    pub min_free_mib: u64,
}

impl Default for Upgrade {
    fn default() -> Self {
        Self {
            sync: true,
            emerge_options: Vec::new(),
            activate: true,
            min_free_mib: 1024,
        }
    }
}

/// What GRUB's menu gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Menu {
    /// Kernel arguments, instead of those of /etc/default/grub.
    pub kernel_arguments: Option<String>,
}

impl Config {
    /// Read the text of be.toml.
    ///
    /// # Errors
    /// A text for people that names the line and shows it.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn unknown_keys_and_bad_values_name_their_line() {
        let error = Config::parse("[upgrade]\nsnyc = true\n").unwrap_err();
        assert!(
            error.contains("line 2") && error.contains("snyc"),
            "{error}"
        );
        let error = Config::parse("[upgrade]\n\nmin_free_mib = \"x\"\n").unwrap_err();
        assert!(error.contains("line 3"), "{error}");
    }
}
