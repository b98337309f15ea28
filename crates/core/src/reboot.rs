//! Leaving the running environment: a reboot, or one of the ways past firmware and GRUB.

use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use be_btrfs::Root;
use be_grub::cmdline::split_args;
use be_grub::kernel::is_build;
use be_grub::selection::Trial;
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, move_mount};

use crate::boot::Kernel;
use crate::bootfs::BootDir;
use crate::menu::COMES_BACK;
use crate::model::Environment;
use crate::session::Session;

/// Where systemd looks for the next root, systemd-soft-reboot.service(8).
const NEXT_ROOT: &str = "/run/nextroot";

/// What the kernel would have been told, had it been booted for the environment that a
/// soft-reboot went to. /run stays.
const HANDOVER: &str = "/run/be.cmdline";

/// In seconds, to the reboot after a panic (Documentation/admin-guide/sysctl/kernel.rst); 0 for never.
const PANIC: &str = "/proc/sys/kernel/panic";

/// The first systemd that knows soft-reboot.
const SOFT_REBOOT: u32 = 254;

/// A way to leave what runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// systemd starts again in the other root; the kernel goes on.
    SoftReboot,
    /// The kernel starts the other one, without the firmware and GRUB.
    Kexec,
    /// Through the firmware and GRUB.
    Reboot,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SoftReboot => "soft-reboot",
            Self::Kexec => "kexec",
            Self::Reboot => "reboot",
        })
    }
}

/// What speaks for a way and against it, a sentence each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ways {
    /// Why a soft-reboot does not do; none if it does.
    pub no_soft_reboot: Option<String>,
    /// Why kexec does not do; none if it does.
    pub no_kexec: Option<String>,
}

impl Ways {
    /// The fastest that does.
    pub fn best(&self) -> Way {
        match (&self.no_soft_reboot, &self.no_kexec) {
            (None, _) => Way::SoftReboot,
            (_, None) => Way::Kexec,
            _ => Way::Reboot,
        }
    }

    /// Why it is not a faster one.
    pub fn reasons(&self) -> Vec<String> {
        let faster = [
            (Way::SoftReboot, &self.no_soft_reboot),
            (Way::Kexec, &self.no_kexec),
        ];
        let faster = faster.into_iter().take_while(|(_, why)| why.is_some());
        faster
            .filter_map(|(way, why)| Some(format!("no {way}: {}", why.as_ref()?)))
            .collect()
    }
}

/// Find out how the running system can be left for this environment, with this kernel of it.
pub fn ways(session: &Session, env: &Environment, kernel: &Kernel) -> Ways {
    let Some(version) = systemd() else {
        let why = || Some("the running init is not systemd".to_owned());
        return Ways {
            no_soft_reboot: why(),
            no_kexec: why(),
        };
    };
    let soft = || -> Result<Option<String>> {
        if version < SOFT_REBOOT {
            return Ok(Some(format!(
                "systemd {version} is older than {SOFT_REBOOT}"
            )));
        }
        let root = session.whole(env)?;
        if !root.is_file("usr/lib/systemd/systemd").unwrap_or(false) {
            return Ok(Some(format!("the init of {} is not systemd", env.name())));
        }
        let uname = nix::sys::utsname::uname()?;
        let boot = session.boot_of(env)?;
        let mut image = open(&root, boot.as_ref(), &kernel.linux)?;
        let mut header = Vec::new();
        image.by_ref().take(64 << 10).read_to_end(&mut header)?;
        let (release, build) = (uname.release(), uname.version());
        if !is_build(
            &header,
            &release.to_string_lossy(),
            &build.to_string_lossy(),
        ) {
            return Ok(Some(format!(
                "its kernel {} does not run yet",
                kernel.version
            )));
        }
        let line = fs::read_to_string("/proc/cmdline")?;
        Ok(
            (own_arguments(&split_args(&line)) != own_arguments(&kernel.arguments))
                .then(|| "the running kernel has other arguments".to_owned()),
        )
    };
    let kexec = || {
        let found = Command::new("kexec").arg("--version").output();
        found
            .is_err()
            .then(|| "there is no kexec (kexec-tools has it)".to_owned())
    };
    Ways {
        no_soft_reboot: soft().unwrap_or_else(|e| Some(format!("{e:#}"))),
        no_kexec: kexec(),
    }
}

/// The version of the systemd that runs; none if something else does.
fn systemd() -> Option<u32> {
    if !is_systemd() {
        return None;
    }
    let output = Command::new("systemctl").arg("--version").output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// sd_booted(3).
fn is_systemd() -> bool {
    Path::new("/run/systemd/system").exists()
}

/// `systemd 252 (252.38-1~deb12u1)`, then lines of features.
fn parse_version(text: &str) -> Option<u32> {
    let word = text.split_whitespace().nth(1)?;
    word.split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

/// Kernel arguments without what says which environment boots, and what GRUB adds.
fn own_arguments(arguments: &[String]) -> Vec<String> {
    let ours = ["BOOT_IMAGE=", "be.", "initrd="];
    let own = arguments
        .iter()
        .filter(|a| !ours.iter().any(|prefix| a.starts_with(prefix)) && *a != COMES_BACK);
    own.filter_map(|argument| {
        let Some(flags) = argument.strip_prefix("rootflags=") else {
            return Some(argument.clone());
        };
        let rest: Vec<_> = flags
            .split(',')
            .filter(|o| !o.starts_with("subvol=") && !o.starts_with("subvolid="))
            .collect();
        (!rest.is_empty()).then(|| format!("rootflags={}", rest.join(",")))
    })
    .collect()
}

/// A file that an entry of the menu names.
fn open(root: &Root, boot: Option<&BootDir>, path: &Path) -> Result<File> {
    Ok(match boot {
        Some(boot) => boot
            .root
            .file(path.strip_prefix(&boot.path).unwrap_or(path))?,
        None => root.file(path)?,
    })
}

/// What GRUB would have told the kernel.
fn told(kernel: &Kernel, trial: &Trial) -> String {
    let mut words = kernel.arguments.clone();
    if !words.iter().any(|a| a.starts_with("panic=")) {
        words.push(COMES_BACK.to_owned());
    }
    words.push(format!("be.boot=trial be.left={}", trial.left));
    words.join(" ")
}

/// Make everything ready for [`now`], for an environment that is on trial already.
///
/// # Errors
/// When something of it fails; then a plain reboot still leads there.
pub fn prepare(
    session: &Session,
    env: &Environment,
    kernel: &Kernel,
    trial: &Trial,
    way: Way,
) -> Result<()> {
    match way {
        Way::SoftReboot => prepare_root(session, env, &told(kernel, trial)),
        Way::Kexec => load(session, env, kernel, &told(kernel, trial)),
        Way::Reboot => Ok(()),
    }
}

fn prepare_root(session: &Session, env: &Environment, told: &str) -> Result<()> {
    let root = env.root.as_ref().context("it has no root")?;
    fs::create_dir_all(NEXT_ROOT).with_context(|| format!("cannot make {NEXT_ROOT}"))?;
    let tree = session.store.top.clone_mount(&root.path)?;
    // What lies there from an earlier try is covered.
    move_mount(
        &tree,
        "",
        CWD,
        NEXT_ROOT,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .with_context(|| format!("cannot mount {} at {NEXT_ROOT}", env.name()))?;
    // This kernel goes on, and may have been told to stay where it panics.
    let stays = fs::read_to_string(PANIC).is_ok_and(|seconds| seconds.trim() == "0");
    if stays {
        fs::write(PANIC, "10").with_context(|| format!("cannot write {PANIC}"))?;
    }
    fs::write(HANDOVER, told).with_context(|| format!("cannot write {HANDOVER}"))
}

/// A kernel and its initramfs, open, for who starts it by descriptors: the files may be mounted
/// nowhere. The kernel takes several of the second, one behind the other.
///
/// # Errors
/// When one of them cannot be read.
pub(crate) fn files(
    session: &Session,
    env: &Environment,
    kernel: &Kernel,
) -> Result<(File, Option<File>)> {
    let root = session.whole(env)?;
    let boot = session.boot_of(env)?;
    let image = open(&root, boot.as_ref(), &kernel.linux)?;
    if kernel.initrd.is_empty() {
        return Ok((image, None));
    }
    let memory = rustix::fs::memfd_create("initramfs", rustix::fs::MemfdFlags::CLOEXEC);
    let mut initrd = File::from(memory.context("cannot get memory for the initramfs")?);
    for path in &kernel.initrd {
        let mut from = open(&root, boot.as_ref(), path)?;
        std::io::copy(&mut from, &mut initrd).context("cannot copy the initramfs")?;
        let length = initrd.stream_position()?;
        initrd.set_len(length.next_multiple_of(4))?;
        initrd.seek(std::io::SeekFrom::End(0))?;
    }
    Ok((image, Some(initrd)))
}

/// Load a kernel for kexec.
fn load(session: &Session, env: &Environment, kernel: &Kernel, told: &str) -> Result<()> {
    let shown = |file: &File| format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let (image, initrd) = files(session, env, kernel)?;
    let mut command = Command::new("kexec");
    command.args(["--load", "--kexec-syscall-auto"]);
    command.arg(format!("--command-line={told}"));
    if let Some(initrd) = &initrd {
        command.arg(format!("--initrd={}", shown(initrd)));
    }
    let output = command
        .arg(shown(&image))
        .output()
        .context("cannot run kexec")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("kexec does not load it: {}", said.trim());
    }
    Ok(())
}

/// The command line of the kernel, as far as it speaks of what runs now in the subvolume
/// `root`: after a soft-reboot the kernel still has that of another environment.
pub fn cmdline(root: &str) -> String {
    let handed = fs::read_to_string(HANDOVER).ok();
    let handed = handed.filter(|told| {
        be_grub::cmdline::subvolume(told).as_deref() == Some(root.trim_matches('/'))
    });
    handed.unwrap_or_else(|| fs::read_to_string("/proc/cmdline").unwrap_or_default())
}

/// Leave the running system, in the orderly way if there is one.
///
/// # Errors
/// When not even the kernel does it.
pub fn now(way: Way) -> Result<()> {
    let fast = match way {
        Way::SoftReboot => Some("soft-reboot"),
        Way::Kexec => Some("kexec"),
        Way::Reboot => None,
    };
    if let Some(verb) = fast {
        let status = Command::new("systemctl")
            .args(["--no-block", verb])
            .status()
            .context("cannot run systemctl")?;
        if !status.success() {
            bail!("systemctl {verb}: {status}");
        }
        return Ok(());
    }
    let ways: [(&str, &[&str]); 3] = [
        ("systemctl", &["--no-block", "reboot"]),
        ("openrc-shutdown", &["--reboot", "now"]),
        ("shutdown", &["-r", "now"]),
    ];
    let is_systemd = is_systemd();
    for (program, arguments) in ways {
        if (program == "systemctl") != is_systemd {
            continue;
        }
        let status = Command::new(program).args(arguments).status();
        if status.is_ok_and(|s| s.success()) {
            return Ok(());
        }
    }
    nix::unistd::sync();
    match nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_AUTOBOOT) {
        Err(e) => Err(e).context("cannot reboot"),
        Ok(never) => match never {},
    }
}

/// Undo [`prepare`].
pub fn forget(way: Way) {
    match way {
        Way::SoftReboot => {
            let _gone = fs::remove_file(HANDOVER);
            let _unmounted = nix::mount::umount2(NEXT_ROOT, nix::mount::MntFlags::MNT_DETACH);
        }
        Way::Kexec => {
            let _unloaded = Command::new("kexec").arg("--unload").output();
        }
        Way::Reboot => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_way_that_does_is_taken_and_the_others_have_reasons() {
        let no = |why: &str| Some(why.to_owned());
        let mut ways = Ways {
            no_soft_reboot: None,
            no_kexec: no("b"),
        };
        assert_eq!((ways.best(), ways.reasons()), (Way::SoftReboot, vec![]));
        ways.no_soft_reboot = no("a");
        assert_eq!(ways.best(), Way::Reboot);
        assert_eq!(ways.reasons(), ["no soft-reboot: a", "no kexec: b"]);
        ways.no_kexec = None;
        assert_eq!(ways.best(), Way::Kexec);
        assert_eq!(ways.reasons(), ["no soft-reboot: a"]);
    }

    #[test]
    fn versions_of_systemd() {
        for (text, version) in [
            ("systemd 252 (252.38-1~deb12u1)\n+PAM", Some(252)),
            ("systemd 257.9 (257.9-r1)", Some(257)),
            ("systemd v258~rc1", None),
            ("", None),
        ] {
            assert_eq!(parse_version(text), version, "{text}");
        }
    }

    #[test]
    fn arguments_are_compared_without_what_names_the_environment() {
        let running = "BOOT_IMAGE=/@/boot/vmlinuz-6 root=UUID=1 rootflags=noatime,subvol=/@ ro \
                       quiet panic=10 be.boot=default";
        let wanted = "root=UUID=1 rootflags=noatime,subvol=/@be/new/root ro quiet";
        let own = |line: &str| own_arguments(&split_args(line));
        assert_eq!(own(running), own(wanted));
        assert_eq!(
            own(wanted),
            ["root=UUID=1", "rootflags=noatime", "ro", "quiet"]
        );
        assert_ne!(own(wanted), own(&wanted.replace("quiet", "debug")));
        assert_ne!(own(wanted), own(&wanted.replace("noatime,", "")));
        assert_eq!(own("rootflags=subvol=@ ro"), ["ro"]);
    }

    #[test]
    fn the_kernel_is_told_what_grub_would_tell_it() {
        let kernel = Kernel {
            version: "6".into(),
            fs: None,
            linux: "boot/vmlinuz-6".into(),
            initrd: Vec::new(),
            arguments: ["root=UUID=1", "foo=\"a b\""].map(str::to_owned).to_vec(),
        };
        let trial = Trial {
            name: "new".into(),
            left: 2,
        };
        assert_eq!(
            told(&kernel, &trial),
            "root=UUID=1 foo=\"a b\" panic=10 be.boot=trial be.left=2"
        );
    }
}
