//! Files about which nobody but a person decides: a merge that is clean line by line can
//! leave a machine that does not boot, or that nobody can log in to.

/// Files, from the root of the system.
const FILES: [&str; 12] = [
    "/etc/fstab",
    "/etc/crypttab",
    "/etc/passwd",
    "/etc/passwd-",
    "/etc/group",
    "/etc/group-",
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/sudoers",
    "/etc/grub.d/45_be",
];

/// Directories.
const DIRECTORIES: [&str; 3] = ["/etc/be/", "/etc/sudoers.d/", "/etc/pam.d/"];

/// Whether a file, from the root of the system, is one of them.
#[must_use]
pub fn is_sensitive(path: &str) -> bool {
    FILES.contains(&path) || DIRECTORIES.iter().any(|dir| path.starts_with(dir))
}

#[cfg(test)]
mod tests {
    use super::is_sensitive;

    #[test]
    fn what_a_machine_depends_on() {
        for path in [
            "/etc/fstab",
            "/etc/gshadow",
            "/etc/be/be.toml",
            "/etc/pam.d/su",
        ] {
            assert!(is_sensitive(path), "{path}");
        }
        for path in [
            "/etc/fstab.d/x",
            "/opt/etc/fstab",
            "/etc/bed",
            "etc/fstab",
            "/etc/be",
        ] {
            assert!(!is_sensitive(path), "{path}");
        }
    }
}
