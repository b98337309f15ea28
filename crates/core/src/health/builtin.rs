//! What every system must be: up, with the root that was meant and all that fstab lists.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Place;
use crate::fstab::{Entry, Fstab};

/// Between two looks.
const MOMENT: Duration = Duration::from_millis(500);

/// Where OpenRC keeps the state of services: a link a service, in a directory a state.
const OPENRC: &str = "/run/openrc";

/// The service that runs the checks.
const SERVICE: &str = "be-confirm";

/// The services of OpenRC in a state, by name.
fn services(dir: &Path, state: &str) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join(state)).into_iter().flatten();
    let names = entries
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// What an init has reached when the system is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// systemd's default target.
    Systemd,
    /// OpenRC's default runlevel.
    OpenRc,
}

/// What this init can be asked for; none of one that is not known.
pub(super) fn target() -> Option<Target> {
    // sd_booted(3); OpenRC writes the other before it starts anything.
    if Path::new("/run/systemd/system").exists() {
        Some(Target::Systemd)
    } else if Path::new(OPENRC).join("softlevel").exists() {
        Some(Target::OpenRc)
    } else {
        None
    }
}

impl Target {
    pub(super) fn name(self) -> &'static str {
        match self {
            Target::Systemd => "the default target is reached",
            Target::OpenRc => "the default runlevel is reached",
        }
    }

    /// Wait for it.
    pub(super) fn reached(self, patience: Duration) -> Result<(), String> {
        let start = Instant::now();
        while !self.is_reached() {
            if start.elapsed() > patience {
                let (what, seconds) = (self.name(), patience.as_secs());
                return Err(format!("after {seconds} s it is not so that {what}"));
            }
            sleep(MOMENT);
        }
        Ok(())
    }

    fn is_reached(self) -> bool {
        match self {
            Target::Systemd => Command::new("systemctl")
                .args(["is-active", "--quiet", "default.target"])
                .stdin(Stdio::null())
                .status()
                .is_ok_and(|s| s.success()),
            Target::OpenRc => {
                let level = std::fs::read_to_string(OPENRC.to_owned() + "/softlevel");
                // The service that asks is one of the level itself, and the last of it.
                let others = services(Path::new(OPENRC), "starting");
                let others = others.iter().filter(|name| *name != SERVICE);
                level.is_ok_and(|l| l.trim() == "default") && others.count() == 0
            }
        }
    }

    /// Services that failed: whether that matters, only their owner knows.
    pub(super) fn complaints(self) -> Vec<String> {
        let Target::Systemd = self else {
            let failed = services(Path::new(OPENRC), "failed").into_iter();
            return failed.map(|name| format!("{name} has failed")).collect();
        };
        let output = Command::new("systemctl")
            .args([
                "list-units",
                "--failed",
                "--plain",
                "--no-legend",
                "--no-pager",
            ])
            .stdin(Stdio::null())
            .output();
        let text = output.map_or_else(|_| Vec::new(), |o| o.stdout);
        let text = String::from_utf8_lossy(&text);
        let units = text.lines().filter_map(|l| l.split_whitespace().next());
        units.map(|unit| format!("{unit} has failed")).collect()
    }
}

/// Whether the root is the one on the kernel command line: a fstab or an initramfs that says
/// otherwise would boot another environment under the name of this one.
pub(super) fn root(cmdline: &str, root: &str) -> Result<(), String> {
    match be_grub::cmdline::subvolume(cmdline) {
        Some(meant) if meant != root.trim_matches('/') => Err(format!(
            "the root is subvol={root}, and GRUB named subvol=/{meant}"
        )),
        _ => Ok(()),
    }
}

/// Filesystems of other machines, without the `fuse.` before some.
const REMOTE: [&str; 10] = [
    "afs",
    "ceph",
    "cifs",
    "smb3",
    "smbfs",
    "glusterfs",
    "9p",
    "sshfs",
    "davfs",
    "lustre",
];

/// Whether it cannot be mounted without a network.
fn is_remote(entry: &Entry) -> bool {
    let fstype = entry.fstype.strip_prefix("fuse.").unwrap_or(&entry.fstype);
    fstype.starts_with("nfs")
        || REMOTE.contains(&fstype)
        || entry.options.iter().any(|o| o == "_netdev")
}

/// What fstab wants mounted at boot, and is not; in a guest only what needs no network.
pub(super) fn not_mounted(fstab: &Fstab, mounts: &[&Path], place: Place) -> Vec<String> {
    let optional = ["noauto", "nofail", "x-systemd.automount", "bg"];
    let wanted = fstab.entries().filter(|entry| {
        entry.target.is_absolute()
            && entry.fstype != "swap"
            && (place == Place::Machine || !is_remote(entry))
            && !entry.options.iter().any(|o| optional.contains(&&**o))
    });
    wanted
        .filter(|entry| !mounts.contains(&&*entry.target))
        .map(|entry| entry.target.display().to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_the_last_one_that_the_kernel_was_told() {
        let line = "ro rootflags=subvol=@ rootflags=noatime,subvol=/@be/new/root quiet";
        assert_eq!(root(line, "/@be/new/root"), Ok(()));
        assert!(root(line, "/@").unwrap_err().contains("/@be/new/root"));
        assert_eq!(root("rootflags=subvol=/", "/"), Ok(()));
        assert_eq!(root("quiet", "/@"), Ok(()));
    }

    #[test]
    fn services_of_openrc_by_state() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(services(dir.path(), "failed"), [""; 0]);
        std::fs::create_dir(dir.path().join("failed")).unwrap();
        for name in ["sshd", "cronie"] {
            let link = dir.path().join("failed").join(name);
            std::os::unix::fs::symlink("/etc/init.d", link).unwrap();
        }
        assert_eq!(services(dir.path(), "failed"), ["cronie", "sshd"]);
    }

    #[test]
    fn only_what_must_be_mounted_is_missed() {
        let fstab = Fstab::parse(
            "UUID=a / btrfs subvol=@ 0 0\nUUID=a /home btrfs subvol=@home 0 0\n\
             UUID=b /boot ext4 noauto 0 0\nUUID=c /efi vfat nofail 0 0\nUUID=d none swap sw 0 0\n\
             UUID=e /srv xfs x-systemd.automount 0 0\n",
        );
        let root = Path::new("/");
        let missing = |mounts: &[&Path]| not_mounted(&fstab, mounts, Place::Machine);
        assert_eq!(missing(&[root]), ["/home"]);
        assert_eq!(missing(&[root, Path::new("/home")]), [""; 0]);
    }

    #[test]
    fn a_guest_misses_nothing_of_other_machines() {
        let fstab = Fstab::parse(
            "nas:/a /a nfs4 defaults 0 0\n//nas/b /b cifs ro 0 0\nme@nas: /c fuse.sshfs ro 0 0\n\
             UUID=d /d ext4 _netdev 0 0\nshare /e 9p trans=tcp 0 0\nUUID=f /f ext4 ro 0 0\n",
        );
        assert_eq!(not_mounted(&fstab, &[], Place::Guest), ["/f"]);
        assert_eq!(not_mounted(&fstab, &[], Place::Machine).len(), 6);
    }
}
