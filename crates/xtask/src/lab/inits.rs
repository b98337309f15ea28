//! The inits of distributions, to be laid over the lab's root in the place of its own.
//!
//! Only what the root lacks comes from Debian's packages; their scripts are not run.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{base, recipes, root};
use crate::cache::{Key, artifact};
use crate::chroot::Chroot;
use crate::run::{cmd, run};
use crate::temp;

/// An init that a distribution comes with. Both start the lab's shell on the serial line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Init {
    /// systemd, with udev; its default target is multi-user.target.
    Systemd,
    /// OpenRC below sysvinit, with the runlevels and the inittab that Gentoo has.
    OpenRc,
}

const MIRROR: &str = "http://deb.debian.org/debian";

/// What nothing in the lab reads.
const TRIM: &[&str] = &[
    "etc/apt",
    "etc/dpkg",
    "etc/fstab",
    "etc/hostname",
    "etc/init.d",
    "etc/kernel",
    "etc/rc.conf",
    "etc/resolv.conf",
    "etc/runlevels",
    "usr/lib/kernel/install.d/55-initrd.install",
    "usr/lib/udev/hwdb.bin",
    "usr/lib/udev/hwdb.d",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/lib/x86_64-linux-gnu/perl-base",
    "usr/share",
    "var",
];

/// Units that take time at boot and do nothing for a test.
const MASKED: &[&str] = &[
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "getty.target",
    "grub-common.service",
    "kmod-static-nodes.service",
    "ldconfig.service",
    "modprobe@.service",
    "run-lock.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-journal-flush.service",
    "systemd-logind.service",
    "systemd-modules-load.service",
    "systemd-networkd.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-sysctl.service",
    "systemd-sysusers.service",
    "systemd-timesyncd.service",
    "systemd-tmpfiles-setup-dev-early.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-tmpfiles-setup.service",
    "systemd-udev-load-credentials.service",
    "systemd-update-done.service",
    "systemd-user-sessions.service",
    "tmp.mount",
];

/// The services of a runlevel of OpenRC.
const RUNLEVELS: &[(&str, &[&str])] = &[
    ("sysinit", &["lab-devices"]),
    ("boot", &["localmount"]),
    ("default", &["lab-shell"]),
    ("nonetwork", &[]),
    ("shutdown", &[]),
];

impl Init {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Systemd, Self::OpenRc];

    /// The name in file names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::OpenRc => "openrc",
        }
    }

    fn packages(self) -> &'static str {
        match self {
            Self::Systemd => "systemd,systemd-sysv,udev,kexec-tools",
            Self::OpenRc => "openrc,sysvinit-core",
        }
    }

    /// A command that waits until the boot is over.
    #[must_use]
    pub fn wait(self) -> &'static str {
        match self {
            // Its status says whether a unit has failed, which is not asked here.
            Self::Systemd => "systemctl is-system-running --wait || true",
            Self::OpenRc => {
                "until [ \"$(rc-status -r)\" = default ] && [ ! -e /run/openrc/rc.starting ]; \
                 do sleep 1; done"
            }
        }
    }

    /// Makes it the init of the lab's root that is mounted at `root`.
    ///
    /// # Errors
    /// It cannot be fetched or written.
    pub fn install(self, root: &Path) -> Result<()> {
        let tar = ensure(self, &base::ensure()?)?;
        base::unpack(&tar, root)?;
        if self == Self::Systemd {
            Chroot::new(root).run(&["systemd-sysusers"])?;
        }
        Ok(())
    }
}

/// The tar of what an init adds to the root.
pub fn ensure(init: Init, base: &Path) -> Result<PathBuf> {
    let name = format!("init-{}", init.name());
    let key = Key::new(&name)
        .with(include_str!("inits.rs"))
        .with(root::parent_name(base)?)
        .with_tree(&recipes().join("inits"))?;
    Ok(artifact(&name, key, |out| build(out, init, base))?.join("init.tar"))
}

fn build(out: &Path, init: Init, base_tar: &Path) -> Result<()> {
    let temp = temp::dir(1 << 28)?;
    let root = temp.path().join("root");
    run(cmd(
        "mmdebstrap",
        ["--variant=extract", "--quiet", "--format=directory"],
    )
    .arg(format!("--include={}", init.packages()))
    .args([base::SUITE.as_ref(), root.as_os_str(), MIRROR.as_ref()])
    .env("TMPDIR", temp.path()))?;
    let trimmed = TRIM.iter().map(|path| root.join(path));
    run(cmd("rm", ["-rf"]).args(trimmed))?;
    let own = root.join("usr/sbin/init");
    let init_itself = temp.path().join("init");
    fs::rename(&own, &init_itself).context("set init aside")?;
    drop_known(&root, base_tar)?;
    fs::create_dir_all(root.join("usr/sbin"))?;
    fs::rename(&init_itself, &own).context("put init back")?;
    for part in ["common", init.name()] {
        run(cmd("cp", ["-r", "--no-preserve=ownership"])
            .arg(recipes().join("inits").join(part).join("."))
            .arg(&root))?;
    }
    match init {
        Init::Systemd => enable_units(&root)?,
        Init::OpenRc => fill_runlevels(&root)?,
    }
    base::pack(&root, &out.join("init.tar"), "none")
}

/// Removes what the root has already.
pub(super) fn drop_known(root: &Path, base_tar: &Path) -> Result<()> {
    let listing = run(cmd("tar", ["--list", "--file"]).arg(base_tar))?;
    let known: HashSet<&str> = listing.lines().collect();
    let files = run(cmd("find", [".", "-not", "-type", "d"]).current_dir(root))?;
    for path in files.lines().filter(|path| known.contains(path)) {
        fs::remove_file(root.join(path)).with_context(|| format!("remove {path}"))?;
    }
    run(cmd(
        "find",
        [".", "-mindepth", "1", "-type", "d", "-empty", "-delete"],
    )
    .current_dir(root))?;
    Ok(())
}

fn enable_units(root: &Path) -> Result<()> {
    let units = root.join("etc/systemd/system");
    let link = |target: &str, path: &str| {
        let path = units.join(path);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        symlink(target, &path).with_context(|| format!("link {}", path.display()))
    };
    for unit in MASKED {
        link("/dev/null", unit)?;
    }
    link(
        "/usr/lib/systemd/system/multi-user.target",
        "default.target",
    )?;
    link(
        "../lab-shell.service",
        "multi-user.target.wants/lab-shell.service",
    )
}

fn fill_runlevels(root: &Path) -> Result<()> {
    for (level, services) in RUNLEVELS {
        let dir = root.join("etc/runlevels").join(level);
        fs::create_dir_all(&dir)?;
        for service in *services {
            symlink(format!("/etc/init.d/{service}"), dir.join(service))?;
        }
    }
    Ok(())
}
