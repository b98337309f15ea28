//! What a path is: which rules hold for it, and what is never carried.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::Serialize;

use super::pattern::PathPattern;
use super::text::List;
use crate::config;

/// What a path is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Below /etc, or a list that is kept like that: both versions are kept where they do not go
    /// together.
    Configuration(Option<List>),
    /// Written by programs that only ever add to it.
    Log,
    /// What programs make from other files: it goes over only where the environment has not made
    /// its own.
    Generated,
    /// Everything else: what somebody made on the running system is right, unless it belongs
    /// to a package.
    Data,
    /// Never carried.
    Left(Why),
}

/// Why a path is not carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// It means nothing after a reboot.
    Volatile,
    /// Programs make it again when they need it.
    Cache,
    /// A program makes it from other files, and has done so in the environment.
    Generated,
    /// It tells which packages are installed, or comes with the repositories.
    Packages,
    /// It is a kernel, its modules, or belongs to the boot loader.
    Boot,
    /// It belongs to a package that was installed, removed or built again meanwhile.
    OfPackage,
    /// be.toml says so.
    Excluded,
    /// A socket: it is nothing without the program behind it.
    Socket,
}

impl Why {
    /// For people.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Why::Volatile => "means nothing after a reboot",
            Why::Cache => "a cache",
            Why::Generated => "made from other files",
            Why::Packages => "belongs to the package manager",
            Why::Boot => "belongs to a kernel or the boot loader",
            Why::OfPackage => "belongs to a package that changed on the running system",
            Why::Excluded => "excluded in be.toml",
            Why::Socket => "a socket",
        }
    }
}

/// What is left, from the root of the system, with all below it.
const LEFT: [(&str, Why); 30] = [
    ("dev", Why::Volatile),
    ("lost+found", Why::Volatile),
    ("proc", Why::Volatile),
    ("run", Why::Volatile),
    ("sys", Why::Volatile),
    ("tmp", Why::Volatile),
    ("var/lock", Why::Volatile),
    ("var/run", Why::Volatile),
    ("var/tmp", Why::Volatile),
    ("var/lib/systemd/random-seed", Why::Volatile),
    ("var/cache", Why::Cache),
    ("var/db/pkg", Why::Packages),
    ("var/db/repos", Why::Packages),
    ("var/lib/portage", Why::Packages),
    ("boot", Why::Boot),
    ("efi", Why::Boot),
    ("lib/modules", Why::Boot),
    ("usr/lib/modules", Why::Boot),
    ("var/lib/dpkg", Why::Packages),
    ("var/lib/rpm", Why::Packages),
    ("usr/lib/sysimage", Why::Packages),
    ("var/lib/apt", Why::Packages),
    ("var/lib/dnf", Why::Packages),
    ("var/lib/selinux", Why::Packages),
    ("var/lib/PackageKit", Why::Packages),
    ("vmlinuz", Why::Boot),
    ("vmlinuz.old", Why::Boot),
    ("initrd.img", Why::Boot),
    ("initrd.img.old", Why::Boot),
    ("var/lib/pacman", Why::Packages),
];

/// Files that programs make from others.
const GENERATED: [&str; 6] = [
    "etc/ld.so.cache",
    "etc/ld.so.conf",
    "etc/profile.env",
    "etc/csh.env",
    "etc/environment.d/10-gentoo-env.conf",
    "usr/lib/locale/locale-archive",
];

/// Lists, with what they are lists of. Those that lie where the rest is left are carried.
const LISTS: [(&str, List); 13] = [
    ("etc/fstab", List::Filesystems),
    ("etc/passwd", List::Accounts),
    ("etc/passwd-", List::Accounts),
    ("etc/group", List::Accounts),
    ("etc/group-", List::Accounts),
    ("etc/shadow", List::Secrets),
    ("etc/shadow-", List::Secrets),
    ("etc/gshadow", List::Secrets),
    ("etc/gshadow-", List::Secrets),
    ("etc/subgid", List::Secrets),
    ("etc/subuid", List::Secrets),
    ("var/lib/portage/world", List::Lines),
    ("var/lib/portage/world_sets", List::Lines),
];

/// What a path is; from the root of the system, without a leading slash.
#[must_use]
pub fn class_of(path: &Path, config: &config::Carry) -> Class {
    let any = |patterns: &[PathPattern]| patterns.iter().any(|p| p.matches(path));
    if any(&config.exclude) {
        return Class::Left(Why::Excluded);
    }
    if let Some(why) = left(path, config).filter(|_| !any(&config.include)) {
        return Class::Left(why);
    }
    if GENERATED.iter().any(|file| path == Path::new(file)) {
        return Class::Generated;
    }
    if let Some((_, list)) = LISTS.iter().find(|(file, _)| path == Path::new(file)) {
        return Class::Configuration(Some(*list));
    }
    if is_list_of_packages(path) {
        return Class::Configuration(Some(List::Lines));
    }
    if path.starts_with("etc") {
        return Class::Configuration(None);
    }
    match path.starts_with("var/log") {
        true => Class::Log,
        false => Class::Data,
    }
}

fn left(path: &Path, config: &config::Carry) -> Option<Why> {
    if LISTS.iter().any(|(file, _)| path == Path::new(file)) {
        return None;
    }
    // A directory itself has an owner and a mode like any other.
    let is_file = |why| why == Why::Boot && path.iter().count() == 1 && !path.ends_with("boot");
    let is_file = |why| is_file(why) || path.ends_with("random-seed");
    let found = LEFT
        .iter()
        .find(|(at, why)| path.starts_with(at) && (path != Path::new(at) || is_file(*why)));
    let why = found.map(|(_, why)| *why);
    match why {
        Some(Why::Cache) if config.caches => None,
        None if path.starts_with("var/log") && !config.logs => Some(Why::Excluded),
        None if is_pid_file(path) => Some(Why::Volatile),
        other => other,
    }
}

/// package.use and its kind below /etc/portage: a line each, in any order.
fn is_list_of_packages(path: &Path) -> bool {
    let Ok(below) = path.strip_prefix("etc/portage") else {
        return false;
    };
    let first = below.components().next();
    first.is_some_and(|name| name.as_os_str().as_bytes().starts_with(b"package."))
}

fn is_pid_file(path: &Path) -> bool {
    path.starts_with("var") && path.extension().is_some_and(|e| e == "pid")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(path: &str) -> Class {
        class_of(Path::new(path), &config::Carry::default())
    }

    #[test]
    fn what_is_left_and_what_is_not() {
        for (path, why) in [
            ("run/x", Why::Volatile),
            ("var/lib/x/daemon.pid", Why::Volatile),
            ("var/cache/distfiles/x.tar", Why::Cache),
            ("var/db/pkg/a/b/CONTENTS", Why::Packages),
            ("var/lib/portage/config", Why::Packages),
            ("boot/vmlinuz", Why::Boot),
            ("usr/lib/modules/1/x.ko", Why::Boot),
        ] {
            assert_eq!(class(path), Class::Left(why), "{path}");
        }
        for path in [
            "home/me/run/x",
            "var",
            "var/cache",
            "boot",
            "srv/boot/x",
            "mnt/x",
            "etc2",
        ] {
            assert_eq!(class(path), Class::Data, "{path}");
        }
        assert_eq!(class("etc/ld.so.cache"), Class::Generated);
        assert_eq!(class("var/log/messages"), Class::Log);
        assert_eq!(class("etc/hosts"), Class::Configuration(None));
        for (path, list) in [
            ("etc/passwd", List::Accounts),
            ("etc/fstab", List::Filesystems),
            ("var/lib/portage/world", List::Lines),
            ("etc/portage/package.use/mine", List::Lines),
        ] {
            assert_eq!(class(path), Class::Configuration(Some(list)), "{path}");
        }
    }

    #[test]
    fn the_owner_has_the_last_word() {
        let text = r#"
            [carry]
            exclude = ["/var/lib/docker", "*.iso"]
            include = ["/var/cache/keep"]
            logs = false
        "#;
        let config = config::Config::parse(text).unwrap();
        let class = |path| class_of(Path::new(path), &config.carry);
        assert_eq!(class("var/lib/docker/x"), Class::Left(Why::Excluded));
        assert_eq!(class("home/me/big.iso"), Class::Left(Why::Excluded));
        assert_eq!(class("var/cache/keep/x"), Class::Data);
        assert_eq!(class("var/cache/other"), Class::Left(Why::Cache));
        assert_eq!(class("var/log/x"), Class::Left(Why::Excluded));
    }
}
