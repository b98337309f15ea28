//! Lists of installed packages, in the formats of their managers.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use be_btrfs::{FileType, Root};
use be_portage::diff::Order;
use be_portage::vdb::{Installed, Package};
use std::path::Path;

/// What is read of one file at the most, in bytes: dpkg's has 2 KB for each package.
pub(super) const MOST: u64 = 256 << 20;

/// The architecture of what runs anywhere, and of what has none.
const ANY: [&str; 5] = ["all", "noarch", "any", "(none)", ""];

/// One installed package, as every manager knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct One {
    name: String,
    version: String,
    arch: String,
    /// In bytes.
    size: Option<u64>,
    /// In seconds since 1970.
    built: Option<i64>,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct List {
    packages: Vec<One>,
    /// The names of those that were not installed to the end.
    in_part: Vec<String>,
    /// Why something could not be read, one line each.
    invalid: Vec<String>,
}

impl List {
    /// In the form that packages are compared in. The architecture is the slot, unless it is
    /// the usual one of this system: a name may be there once for each.
    pub(super) fn installed(self, order: Order) -> Installed {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for one in &self.packages {
            *counts.entry(&one.arch).or_default() += 1;
        }
        counts.retain(|arch, _| !ANY.contains(arch));
        let usual = counts.iter().max_by_key(|(_, count)| **count);
        let usual = usual.map(|(arch, _)| (*arch).to_owned());
        let mut packages: Vec<Package> = self
            .packages
            .into_iter()
            .map(|one| Package {
                name: one.name,
                version: one.version,
                slot: match ANY.contains(&one.arch.as_str()) || Some(&one.arch) == usual.as_ref() {
                    true => "0".to_owned(),
                    false => one.arch,
                },
                size: one.size,
                build_time: one.built,
                ..Package::default()
            })
            .collect();
        packages.sort_by(|a, b| {
            a.name
                .cmp(&b.name)
                .then_with(|| order(&a.version, &b.version))
                .then_with(|| a.slot.cmp(&b.slot))
        });
        Installed {
            packages,
            interrupted: self.in_part,
            invalid: self.invalid,
        }
    }
}

/// The file of dpkg(1): paragraphs of `Key: value`.
pub(super) fn dpkg(text: &str) -> List {
    let mut list = List::default();
    for paragraph in text.split("\n\n") {
        let field = |key: &str| {
            let mut lines = paragraph.lines();
            lines.find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim()))
        };
        let Some(name) = field("Package") else {
            continue;
        };
        // What is wanted, a flag for errors, and how far it is: dpkg-query(1).
        let status = field("Status").unwrap_or_default();
        match status.split_whitespace().nth(2).unwrap_or_default() {
            "not-installed" | "config-files" => continue,
            // Triggers are run at the next occasion; files and scripts of it are done.
            "installed" | "triggers-awaited" | "triggers-pending" => {}
            _ => list.in_part.push(name.to_owned()),
        }
        let size = field("Installed-Size").and_then(|kib| kib.parse::<u64>().ok());
        list.packages.push(One {
            name: name.to_owned(),
            version: field("Version").unwrap_or_default().to_owned(),
            arch: field("Architecture").unwrap_or_default().to_owned(),
            size: size.map(|kib| kib * 1024),
            built: None,
        });
    }
    list
}

/// What a command has printed; see [`super::profile::Packages::Lines`].
pub(super) fn lines(text: &str) -> List {
    let mut list = List::default();
    for line in text.lines() {
        let mut fields = line.split('\t').map(str::trim);
        let (Some(name), Some(version)) = (fields.next(), fields.next()) else {
            // A warning between the lines.
            continue;
        };
        let (arch, size, built) = (fields.next(), fields.next(), fields.next());
        // rpm's own entries for keys.
        if arch == Some("(none)") {
            continue;
        }
        list.packages.push(One {
            name: name.to_owned(),
            version: version.to_owned(),
            arch: arch.unwrap_or_default().to_owned(),
            size: size.and_then(|size| size.parse().ok()),
            built: built.and_then(|time| time.parse().ok()),
        });
    }
    list
}

/// The directories of pacman(8), one for each package with a file `desc`.
///
/// # Errors
/// When they cannot be listed.
pub(super) fn pacman(root: &Root, directory: &Path) -> Result<List> {
    let mut list = List::default();
    let names = root.list(directory);
    let names = names.with_context(|| format!("cannot list /{}", directory.display()))?;
    for (name, _) in names.iter().filter(|(_, kind)| *kind == FileType::Dir) {
        let path = directory.join(name).join("desc");
        match root.read_to_string(&path, MOST) {
            Ok(text) => list.packages.extend(desc(&text)),
            // pacman writes it last: the package is there in part.
            Err(e) if e.is_not_found() => list.in_part.push(name.to_string_lossy().into_owned()),
            Err(e) => list.invalid.push(format!("/{}: {e}", path.display())),
        }
    }
    Ok(list)
}

/// `%KEY%` on a line of its own, its values on those below, an empty one after them.
fn desc(text: &str) -> Option<One> {
    let value = |key: &str| {
        let mut lines = text.lines().skip_while(|line| *line != key);
        lines.nth(1).filter(|value| !value.is_empty())
    };
    Some(One {
        name: value("%NAME%")?.to_owned(),
        version: value("%VERSION%")?.to_owned(),
        arch: value("%ARCH%").unwrap_or_default().to_owned(),
        size: value("%SIZE%").and_then(|size| size.parse().ok()),
        built: value("%BUILDDATE%").and_then(|time| time.parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    use be_portage::diff::diff_by;

    use super::super::versions;
    use super::*;

    fn debian() -> Order {
        versions::Order::Debian.function()
    }

    const STATUS: &str = "\
Package: dpkg
Status: install ok installed
Architecture: amd64
Version: 1.22

Package: libc6
Status: install ok installed
Architecture: amd64
Installed-Size: 12
Version: 2.41-12
Description: GNU C Library
 Package: not one
 .
 More.

Package: libc6
Status: install ok installed
Architecture: i386
Version: 2.41-12

Package: tzdata
Status: install ok half-configured
Architecture: all
Version: 2025b-4

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
";

    #[test]
    fn the_file_of_dpkg() {
        let installed = dpkg(STATUS).installed(debian());
        let packages = installed.packages.iter();
        let shown: Vec<_> = packages.map(|p| (p.cp(), p.slot.as_str())).collect();
        let [_, libc, i386, tzdata] = shown.as_slice() else {
            panic!("{shown:?}");
        };
        assert_eq!(libc, &("libc6".to_owned(), "0"));
        assert_eq!(i386, &("libc6".to_owned(), "i386"));
        assert_eq!(tzdata, &("tzdata".to_owned(), "0"));
        assert_eq!(installed.packages[1].size, Some(12 << 10));
        assert_eq!(installed.packages[1].cpv(), "libc6-2.41-12");
        assert_eq!(installed.interrupted, ["tzdata"]);
    }

    #[test]
    fn what_changed_is_told_in_the_order_of_the_manager() {
        let after = STATUS.replace("2.41-12", "2.41-12+deb13u1");
        let after = after.replace("2025b-4", "2025b~rc1-1");
        let load = |text: &str| dpkg(text).installed(debian());
        let found = diff_by(&load(STATUS), &load(&after), debian());
        assert_eq!(
            found.lines(),
            [
                "libc6 2.41-12 -> 2.41-12+deb13u1",
                "libc6:i386 2.41-12 -> 2.41-12+deb13u1",
                "tzdata 2025b-4 -> 2025b~rc1-1 (downgraded)",
            ]
        );
    }

    #[test]
    fn lines_of_a_command() {
        let text = "warning: something\n\
            kernel\t6.1-1\tx86_64\t100\t1700000000\n\
            kernel\t6.2-1\tx86_64\t100\t1700000000\n\
            gpg-pubkey\t1-2\t(none)\t0\t1\n\
            tool\t1:2-3\n";
        let order = versions::Order::Rpm.function();
        let installed = lines(text).installed(order);
        let shown: Vec<_> = installed.packages.iter().map(Package::cpv).collect();
        assert_eq!(shown, ["kernel-6.1-1", "kernel-6.2-1", "tool-1:2-3"]);
        assert_eq!(installed.packages[0].build_time, Some(1_700_000_000));
        assert_eq!(installed.packages[0].slot, "0");
    }
}
