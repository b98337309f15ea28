//! `cargo xtask demo`: the main job, for a newcomer to watch. A small Gentoo-like system on
//! a loop image is adopted, upgraded by real Portage, and booted in QEMU.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::Uid;

use crate::image::{Layout, Tree};
use crate::lab::disk::Disk;
use crate::run::{built, status};
use crate::test::cargo;
use crate::vm::{Firmware, Options, Vm};
use crate::{packages, tell};

/// How long the machine may take for a step; it is emulated.
const LIMIT: Duration = Duration::from_secs(400);

/// Shows the main job.
///
/// # Errors
/// The first step that fails ends it.
pub fn run() -> Result<()> {
    packages::ensure_host_tools()?;
    tell("building be");
    status(&mut cargo(&["build", "--package", "be", "--quiet"]))?;
    let be = built("be")?;
    if !Uid::effective().is_root() {
        // Loop devices and mounts; what cargo builds stays the user's.
        let own = std::env::current_exe().context("find this program")?;
        return status(
            Command::new("sudo")
                .arg("-E")
                .arg(own)
                .arg("demo-as-root")
                .arg(be),
        );
    }
    as_root(&be)
}

/// The part that needs loop devices: everything but the build.
///
/// # Errors
/// As [`run`].
pub fn as_root(be: &Path) -> Result<()> {
    title("A small system with real Portage, on a disk image of its own");
    let disk = Disk::new(Layout::AtSubvol)?;
    let system = disk.mount()?;
    system.put_binary(be)?;
    let sysroot = system.root().to_owned();
    let be_at = |args: &[&str]| -> Result<()> {
        tell(&format!("# be {}", args.join(" ")));
        status(Command::new(be).args(args).env("BE_SYSROOT", &sysroot))
    };

    title("1. Adopt the system that is there; nothing is moved");
    be_at(&["init"])?;
    be_at(&["list"])?;

    title("2. Upgrade a clone of it: sync, preview, build, merge, check, activate");
    be_at(&["upgrade", "new"])?;

    title("3. What came of it");
    be_at(&["list"])?;
    be_at(&["status"])?;
    be_at(&["check", "new"])?;

    title("4. The menu that GRUB will show");
    be_at(&["menu", "--dry-run"])?;
    drop(system);

    title("5. Power on: GRUB, then the new environment (QEMU without KVM, half a minute)");
    let mut vm = Vm::boot(&disk.path(), Firmware::Bios, &Options::default())?;
    let menu = vm.wait_menu(LIMIT)?;
    for entry in &menu {
        tell(&format!(
            "  {} {}",
            if entry.selected { ">" } else { " " },
            entry.title
        ));
    }
    vm.select("new: ", LIMIT)?;
    let booted = vm.wait_boot(LIMIT)?;
    tell(&format!(
        "booted {} with Linux {}",
        booted.root, booted.kernel
    ));
    in_guest(&mut vm, "be list")?;
    in_guest(&mut vm, "be rollback")?;
    in_guest(&mut vm, "be list")?;

    title("6. Power on again: the way back");
    vm.reboot()?;
    let booted = vm.wait_boot(LIMIT)?;
    tell(&format!(
        "booted {} with Linux {}",
        booted.root, booted.kernel
    ));
    vm.poweroff()?;
    title("Done; the image is deleted. On your own machine: see README.md");
    Ok(())
}

fn in_guest(vm: &mut Vm, command: &str) -> Result<()> {
    tell(&format!("guest# {command}"));
    let (code, output) = vm.shell(command, LIMIT)?;
    for line in output.lines() {
        tell(&format!("  {line}"));
    }
    if code != 0 {
        bail!("{command}: exit {code}");
    }
    Ok(())
}

fn title(text: &str) {
    tell("");
    tell(&format!("== {text}"));
}
