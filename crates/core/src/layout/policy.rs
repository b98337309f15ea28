//! What becomes of a subvolume when an environment is created: what its owner chose, else
//! what is usual for the place where it is mounted.

use std::path::Path;

use crate::record::Policy;

/// The extended attribute on the root directory of a subvolume that holds its owner's
/// choice: `cloned`, `late` or `shared`. It goes along with snapshots and send/receive.
pub const ATTRIBUTE: &str = "trusted.be.policy";

/// Directories that belong to packages: they have to go into every environment, together
/// with the database that describes them. What lies below them has to as well, but for
/// [`APART`].
const OF_PACKAGES: [&str; 10] = [
    "/usr",
    "/etc",
    "/opt",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/lib32",
    "/var/db",
    "/var/lib/portage",
];

/// Below the directories of packages, but the user's own.
const APART: [&str; 4] = ["/usr/local", "/usr/portage", "/opt/local", "/var/db/repos"];

/// Directories in which a program keeps many subvolumes of its own, with notes on them
/// beside: they only make sense as a whole.
pub(super) const STORES: [&str; 10] = [
    "/var/lib/docker",
    "/var/lib/containers",
    "/var/lib/containerd",
    "/var/lib/machines",
    "/var/lib/portables",
    "/var/lib/lxc",
    "/var/lib/lxd",
    "/var/lib/incus",
    "/var/lib/libvirt",
    "/var/lib/kubelet",
];

/// Whether packages own what is mounted there, in whole or in part: with `/var` apart,
/// `/var/db/pkg` is apart.
pub fn holds_packages(mount: &Path) -> bool {
    let packages = |p: &&str| mount.starts_with(*p) || Path::new(p).starts_with(mount);
    OF_PACKAGES.iter().any(packages) && !APART.iter().any(|p| mount.starts_with(p))
}

/// What is usual for a place: what belongs to packages is cloned, data is shared.
pub fn default_policy(mount: &Path) -> Policy {
    if holds_packages(mount) || mount.starts_with("/var/db") {
        Policy::Cloned
    } else {
        Policy::Shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_places() {
        for (mount, policy) in [
            ("/", Policy::Cloned),
            ("/usr", Policy::Cloned),
            ("/usr/local", Policy::Shared),
            ("/opt", Policy::Cloned),
            ("/var", Policy::Cloned),
            ("/var/lib", Policy::Cloned),
            ("/var/db", Policy::Cloned),
            ("/var/db/repos", Policy::Cloned),
            ("/var/log", Policy::Shared),
            ("/var/lib/docker", Policy::Shared),
            ("/home", Policy::Shared),
            ("/root", Policy::Shared),
            ("/srv/www", Policy::Shared),
            ("/boot/grub2/x86_64-efi", Policy::Shared),
            ("/.snapshots", Policy::Shared),
        ] {
            assert_eq!(default_policy(Path::new(mount)), policy, "{mount}");
        }
        assert!(!holds_packages(Path::new("/var/log")));
        assert!(!holds_packages(Path::new("/var/db/repos/gentoo")));
    }
}
