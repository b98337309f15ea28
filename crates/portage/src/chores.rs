//! What is to be done after the packages of an upgrade are merged, and when.

use serde::{Deserialize, Serialize};

use crate::emerge::{Emerge, depclean, of_set, tool};
use crate::vdb::{Installed, Package};

/// A chore of Gentoo's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Chore {
    /// Rebuild what uses libraries that are kept for it alone: `@preserved-rebuild`.
    PreservedRebuild,
    /// Rebuild the modules of other packages when a kernel is another: `@module-rebuild`.
    ModuleRebuild,
    /// Rebuild what is installed for an older Perl: `perl-cleaner`.
    PerlCleaner,
    /// Rebuild what is broken by a new GHC: `haskell-updater`.
    HaskellUpdater,
    /// Remove what nothing needs any more: `emerge --depclean`. Kernels stay.
    Depclean,
}

/// What a chore is decided by.
#[derive(Debug)]
pub struct Situation<'a> {
    /// The packages before the upgrade.
    pub before: &'a Installed,
    /// The packages now.
    pub after: &'a Installed,
    /// How many libraries are kept for programs that use them.
    pub preserved: usize,
}

impl Chore {
    /// Its name, as in be.toml.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PreservedRebuild => "preserved-rebuild",
            Self::ModuleRebuild => "module-rebuild",
            Self::PerlCleaner => "perl-cleaner",
            Self::HaskellUpdater => "haskell-updater",
            Self::Depclean => "depclean",
        }
    }

    /// Whether there is something to do.
    #[must_use]
    pub fn is_due(self, now: &Situation<'_>) -> bool {
        match self {
            Self::PreservedRebuild => now.preserved > 0,
            Self::ModuleRebuild => now.changed("sys-kernel", |name| !name.contains("headers")),
            Self::PerlCleaner => now.changed("dev-lang", |name| name == "perl"),
            Self::HaskellUpdater => now.changed("dev-lang", |name| name == "ghc"),
            Self::Depclean => true,
        }
    }

    /// The program that it needs besides emerge, as a path in the system.
    #[must_use]
    pub fn program(self) -> Option<&'static str> {
        match self {
            Self::PreservedRebuild | Self::ModuleRebuild | Self::Depclean => None,
            Self::PerlCleaner => Some("usr/sbin/perl-cleaner"),
            Self::HaskellUpdater => Some("usr/sbin/haskell-updater"),
        }
    }

    /// How it is done, where these packages are installed.
    #[must_use]
    pub fn command(self, installed: &Installed) -> Emerge {
        match self {
            Self::PreservedRebuild => of_set("@preserved-rebuild"),
            Self::ModuleRebuild => of_set("@module-rebuild"),
            Self::PerlCleaner => tool(&["perl-cleaner", "--all", "--"], &[]),
            Self::HaskellUpdater => tool(&["haskell-updater", "--"], &[]),
            Self::Depclean => depclean(&kernels(installed)),
        }
    }
}

/// What a kernel that boots may need, as `category/name`.
fn kernels(installed: &Installed) -> Vec<String> {
    let all = installed.packages.iter();
    let kernels = all.filter(|p| p.category == "sys-kernel" && !p.name.contains("headers"));
    let mut names: Vec<_> = kernels.map(Package::cp).collect();
    names.dedup();
    names
}

impl Situation<'_> {
    /// Whether packages that were there are there in other versions.
    fn changed(&self, category: &str, is_one: impl Fn(&str) -> bool) -> bool {
        let versions = |installed: &Installed| -> Vec<(String, String)> {
            let all = installed.packages.iter();
            let these = all.filter(|p| p.category == category && is_one(&p.name));
            these.map(|p| (p.name.clone(), p.version.clone())).collect()
        };
        let before = versions(self.before);
        !before.is_empty() && before != versions(self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(packages: &[(&str, &str, &str)]) -> Installed {
        let package = |(category, name, version): &(&str, &str, &str)| Package {
            category: (*category).into(),
            name: (*name).into(),
            version: (*version).into(),
            ..Package::default()
        };
        Installed {
            packages: packages.iter().map(package).collect(),
            ..Installed::default()
        }
    }

    #[test]
    fn a_chore_is_due_when_what_it_is_about_has_changed() {
        use Chore::{HaskellUpdater, ModuleRebuild, PerlCleaner, PreservedRebuild};
        let all = [PreservedRebuild, ModuleRebuild, PerlCleaner, HaskellUpdater];
        let old = installed(&[
            ("dev-lang", "perl", "5.40"),
            ("sys-kernel", "gentoo-kernel", "6.6.1"),
            ("sys-kernel", "linux-headers", "6.6"),
        ]);
        let due = |after: &Installed, preserved| -> Vec<Chore> {
            let now = Situation {
                before: &old,
                after,
                preserved,
            };
            all.into_iter().filter(|chore| chore.is_due(&now)).collect()
        };
        assert_eq!(due(&old, 0), []);
        assert_eq!(due(&old, 2), [PreservedRebuild]);
        let mut new = old.clone();
        new.packages[2].version = "6.12".into();
        assert_eq!(due(&new, 0), []);
        new.packages[1].version = "6.12.1".into();
        assert_eq!(due(&new, 0), [ModuleRebuild]);
        new.packages[0].version = "5.42".into();
        assert_eq!(due(&new, 0), [ModuleRebuild, PerlCleaner]);
        // What is new has nothing that was built for an older one.
        new = old.clone();
        new.packages
            .extend(installed(&[("dev-lang", "ghc", "9")]).packages);
        assert_eq!(due(&new, 0), []);
    }

    #[test]
    fn what_is_rebuilt_is_built() {
        let some = installed(&[
            ("sys-kernel", "gentoo-kernel", "6.6.1"),
            ("sys-kernel", "gentoo-kernel", "6.12.1"),
            ("sys-kernel", "linux-firmware", "1"),
            ("sys-kernel", "linux-headers", "6.6"),
        ]);
        let line = |chore: Chore| chore.command(&some).args.join(" ");
        assert_eq!(
            line(Chore::Depclean),
            "emerge --depclean --ask=n --color=n \
             --exclude=sys-kernel/gentoo-kernel --exclude=sys-kernel/linux-firmware"
        );
        assert_eq!(
            line(Chore::PreservedRebuild),
            "emerge --quiet-build=y --usepkg=n --ask=n --color=n @preserved-rebuild"
        );
        assert_eq!(
            line(Chore::PerlCleaner),
            "perl-cleaner --all -- --quiet-build=y --usepkg=n --ask=n --color=n"
        );
    }
}
