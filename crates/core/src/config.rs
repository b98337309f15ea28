//! /etc/be/be.toml. Every key is optional; an unknown key or a bad value is an error.

mod build;
mod farm;

use be_portage::chores::Chore;
use serde::{Deserialize, Serialize};

use crate::carry::PathPattern;
use crate::glob::Glob;

pub use build::{Build, Span};
pub use farm::{Farm, Wanted};

/// Where the configuration is, below the system's root.
pub const PATH: &str = "etc/be/be.toml";

/// The whole configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[upgrade]`
    pub upgrade: Upgrade,
    /// `[build]`
    pub build: Build,
    /// `[farm]`
    pub farm: Farm,
    /// `[nightly]`
    pub nightly: Nightly,
    /// `[menu]`
    pub menu: Menu,
    /// `[prune]`
    pub prune: Prune,
    /// `[trial]`
    pub trial: Trial,
    /// `[health]`
    pub health: Health,
    /// `[gates]`
    pub gates: Gates,
    /// `[test]`
    pub test: Test,
    /// `[carry]`
    pub carry: Carry,
}

/// What goes from the running system into a new environment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Carry {
    /// Paths that stay where they are.
    pub exclude: Vec<PathPattern>,
    /// Paths that go over although they are usually left.
    pub include: Vec<PathPattern>,
    /// What is in /var/log goes over.
    pub logs: bool,
    /// What is in /var/cache goes over.
    pub caches: bool,
    /// Packages that were installed or removed are, in the environment, too.
    pub packages: bool,
    /// It goes over by itself when an environment is activated.
    pub automatic: bool,
    /// How long a shutdown waits for what changed last, in seconds.
    pub shutdown_seconds: u64,
}

impl Default for Carry {
    fn default() -> Self {
        Self {
            exclude: Vec::new(),
            include: Vec::new(),
            logs: true,
            caches: false,
            packages: true,
            automatic: true,
            shutdown_seconds: 30,
        }
    }
}

/// The virtual machine of `be test`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Test {
    /// How long the boot may take, in seconds.
    pub timeout_seconds: u64,
    /// How much memory it has, in MiB.
    pub memory_mib: u64,
}

impl Default for Test {
    fn default() -> Self {
        Self {
            timeout_seconds: 600,
            memory_mib: 1024,
        }
    }
}

/// Which gates an upgrade has to pass, by their names; see [`crate::gates`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gates {
    /// [`crate::gates::Gate::Packages`]
    pub packages: bool,
    /// [`crate::gates::Gate::Linking`]
    pub linking: bool,
    /// [`crate::gates::Gate::Python`]
    pub python: bool,
    /// [`crate::gates::Gate::Services`]
    pub services: bool,
    /// [`crate::gates::Gate::Sshd`]
    pub sshd: bool,
    /// [`crate::gates::Gate::BootTest`]
    #[serde(rename = "boot-test")]
    pub boot_test: bool,
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            packages: true,
            linking: true,
            python: true,
            services: true,
            sshd: true,
            boot_test: false,
        }
    }
}

/// The first boots of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trial {
    /// Boot what was never booted on trial, where GRUB can count boots.
    pub enabled: bool,
    /// How many boots it gets to be confirmed in, 1 to 9.
    #[serde(deserialize_with = "tries")]
    pub tries: u8,
}

impl Default for Trial {
    fn default() -> Self {
        Self {
            enabled: true,
            tries: 2,
        }
    }
}

fn tries<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
    let tries = u8::deserialize(from)?;
    match (1..=be_grub::selection::MAX_TRIES).contains(&tries) {
        true => Ok(tries),
        false => Err(serde::de::Error::custom(format!(
            "GRUB counts 1 to {} boots, not {tries}",
            be_grub::selection::MAX_TRIES
        ))),
    }
}

/// What `be confirm --boot` looks at.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// How long a check in /etc/be/health.d may take, in seconds.
    pub check_seconds: u64,
    /// How long the system may take to reach its default target or runlevel, in seconds.
    pub boot_seconds: u64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            check_seconds: 60,
            boot_seconds: 300,
        }
    }
}

/// How `be upgrade` works.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upgrade {
    /// The package manager: a name, or `auto` for the one that is found.
    pub manager: String,
    /// Synchronise the repositories first.
    pub sync: bool,
    /// Old names of packages and slots in other repositories than the main one, and in
    /// /etc/portage, are taken for the new ones.
    pub moves: bool,
    /// How often fetching is tried before it counts as failed; at least 1.
    pub fetch_tries: u32,
    /// How long to wait before it is tried again, in seconds.
    pub fetch_pause_seconds: u64,
    /// What is done after the packages are merged, in this order, where it is due.
    pub chores: Vec<Chore>,
    /// Merge new versions of configuration files where that is safe.
    pub merge_config: bool,
    /// Keep what was built until an upgrade has ended well, so that nothing is built twice.
    pub keep_built: bool,
    /// Take binary packages from the hosts that Portage knows.
    pub binhost: bool,
    /// What to do where one of them builds with another configuration.
    pub binhost_differs: OtherHost,
    /// Let everything else on the machine go first.
    pub polite: bool,
    /// MiB of memory from which on the kernel takes back what the programs of an upgrade have
    /// (`memory.high`); 0 for no such limit.
    pub memory_high_mib: u64,
    /// Pause while the machine runs on battery.
    pub pause_on_battery: bool,
    /// Options added to every emerge that computes or merges packages.
    pub emerge_options: Vec<String>,
    /// Activate the environment when all went well.
    pub activate: bool,
    /// What becomes of an earlier result that was never booted.
    pub unbooted: Unbooted,
    /// MiB that have to be free before anything begins.
    pub min_free_mib: u64,
}

impl Default for Upgrade {
    fn default() -> Self {
        Self {
            manager: crate::manager::AUTO.to_owned(),
            sync: true,
            moves: true,
            fetch_tries: 3,
            fetch_pause_seconds: 60,
            chores: vec![
                Chore::PreservedRebuild,
                Chore::ModuleRebuild,
                Chore::PerlCleaner,
                Chore::HaskellUpdater,
            ],
            merge_config: true,
            keep_built: true,
            binhost: false,
            binhost_differs: OtherHost::GoOn,
            polite: true,
            memory_high_mib: 0,
            pause_on_battery: false,
            emerge_options: Vec::new(),
            activate: true,
            unbooted: Unbooted::default(),
            min_free_mib: 1024,
        }
    }
}

/// What an upgrade does where a host of binary packages has another configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OtherHost {
    /// Nothing is upgraded.
    Refuse,
    /// The repositories go to the commits of the host; what differs then is refused.
    Rebase,
    /// It is told, and its packages are taken where Portage finds that they fit.
    #[default]
    GoOn,
}

/// What an upgrade makes of the result of an earlier one that was never booted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unbooted {
    /// It is deleted once the new one is ready, and not before.
    #[default]
    Replace,
    /// Both are kept.
    Keep,
    /// The upgrade goes on in it.
    Continue,
}

/// When `be upgrade --unattended` does something, and whom it tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nightly {
    /// Not while the load of fifteen minutes is above this; 0 for no such limit.
    pub max_load: u32,
    /// Also while the machine runs on battery.
    pub on_battery: bool,
    /// Who gets a mail when something was done, or went wrong; nobody if empty.
    pub mail: String,
}

/// What GRUB's menu gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Menu {
    /// Kernel arguments, instead of those of /etc/default/grub.
    pub kernel_arguments: Option<String>,
}

/// What `be prune` keeps. Where several rules speak, the one that keeps goes before, but for
/// the age.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prune {
    /// How many of the newest are kept.
    pub keep: usize,
    /// How many of the newest are kept however old they are and however short the space.
    pub min_keep: usize,
    /// What is older goes, whatever the counts say; in days, 0 for no limit.
    pub max_age_days: u32,
    /// The newest of each of so many hours.
    pub hourly: usize,
    /// The newest of each of so many days.
    pub daily: usize,
    /// The newest of each of so many weeks.
    pub weekly: usize,
    /// The newest of each of so many months.
    pub monthly: usize,
    /// Names that are never pruned.
    pub keep_names: Vec<Glob>,
    /// How long what failed is kept, in days since somebody last worked on it.
    pub failed_days: u32,
    /// MiB that should be free: while they are not, the oldest go, down to `min_keep`. 0 for
    /// no such goal.
    pub min_free_mib: u64,
    /// Prune when an upgrade has ended well.
    pub after_upgrade: bool,
}

impl Default for Prune {
    fn default() -> Self {
        Self {
            keep: 5,
            min_keep: 2,
            max_age_days: 0,
            hourly: 0,
            daily: 0,
            weekly: 0,
            monthly: 0,
            keep_names: Vec::new(),
            failed_days: 7,
            min_free_mib: 0,
            after_upgrade: false,
        }
    }
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
    fn tries_are_what_grub_can_count() {
        let tries = |text: &str| Config::parse(text).map(|c| c.trial.tries);
        assert_eq!(tries("[trial]\ntries = 9\n"), Ok(9));
        assert!(
            tries("[trial]\ntries = 0\n")
                .unwrap_err()
                .contains("line 2")
        );
        assert!(tries("[trial]\ntries = 10\n").is_err());
    }

    #[test]
    fn unknown_keys_and_bad_values_name_their_line() {
        let error = Config::parse("[upgrade]\nsnyc = true\n").unwrap_err();
        assert!(
            error.contains("line 2") && error.contains("snyc"),
            "{error}"
        );
        let error = Config::parse("[prune]\nkeep_names = [\"a*\", \"b/c\"]\n").unwrap_err();
        assert!(error.contains("line 2") && error.contains("b/c"), "{error}");
        let error = Config::parse("[upgrade]\n\nmin_free_mib = \"x\"\n").unwrap_err();
        assert!(error.contains("line 3"), "{error}");
    }
}
