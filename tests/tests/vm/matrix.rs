//! What the inits of distributions make of a boot that is for one time only, and of one that
//! is not well, wherever GRUB can write and where it cannot.
//!
//! systemd with /boot on ext4 and OpenRC with an ESP, which do more, are in `inits`.

use anyhow::{Result, ensure};
use be_tests::vm::{LONG, Machine, emulated, root_of};
use xtask::image::{Layout, Tree};
use xtask::lab::disk::DiskMount;
use xtask::lab::inits::Init;
use xtask::vm::Firmware;

use crate::distribution::{SICK, boots, boots_once, machine, start};

/// Where GRUB keeps what it has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    /// Nowhere: it cannot write on btrfs, and there is nothing else.
    Nowhere,
    /// In /boot.
    Ext4,
    /// On the EFI system partition.
    Esp,
}

fn once_and_back(init: Init, block: Block) -> Result<()> {
    let (layout, firmware) = match block {
        Block::Nowhere => (Layout::AtSubvol, Firmware::Bios),
        Block::Ext4 => (Layout::BootExt4, Firmware::Bios),
        Block::Esp => (Layout::AtSubvol, Firmware::Uefi),
    };
    emulated(|| {
        let mut machine = machine(init, layout, firmware, |mount, _| prepare(mount, block))?;
        start(&mut machine, init)?;
        machine.sh("be init && be create well")?;
        if block == Block::Nowhere {
            return by_userspace_alone(&mut machine, init);
        }
        machine.sh("be activate -t well")?;
        boots_once(&mut machine, init, ["be.boot=once", "be.boot=default"])?;
        what_is_sick_falls_back(&mut machine, init)
    })
}

/// One boot on trial is enough to fall back from.
fn prepare(mount: &DiskMount, block: Block) -> Result<()> {
    mount.write("/etc/be/be.toml", "[trial]\ntries = 1\n")?;
    if block == Block::Nowhere {
        let fstab = mount.read("/etc/fstab")?;
        let lines = fstab.lines().filter(|line| !line.contains(" /efi "));
        let left: String = lines.flat_map(|line| [line, "\n"]).collect();
        ensure!(left != fstab, "{fstab}");
        mount.write("/etc/fstab", left)?;
    }
    Ok(())
}

fn by_userspace_alone(machine: &mut Machine, init: Init) -> Result<()> {
    let refused = machine.sh("be activate --trial well 2>&1; echo code $?")?;
    for words in ["code 3", "GRUB can write nowhere", "EFI system partition"] {
        ensure!(refused.contains(words), "{words}: {refused}");
    }
    let told = machine.sh("be activate -t well 2>&1")?;
    ensure!(told.contains("until it has come up"), "{told}");
    boots_once(machine, init, ["/@be/well/root", "subvol=/@ "])
}

fn what_is_sick_falls_back(machine: &mut Machine, init: Init) -> Result<()> {
    machine.sh(SICK)?;
    machine.sh("be activate --trial sick")?;
    machine.vm().reboot()?;
    let booted = machine.vm().wait_boot(LONG)?;
    assert_eq!(booted.root, root_of("sick"));
    let words = "be.boot=fallback be.failed=sick be.why=tries-used";
    boots(machine, init, "default", words)?;
    let sick = machine.json("list sick")?["environments"][0].clone();
    ensure!(sick["state"] == "bad" && sick["next"] == false, "{sick}");
    // Its own check has seen how it was booted.
    let log = machine.sh("be log sick")?;
    ensure!(log.contains("be.boot=trial be.left=0"), "{log}");
    Ok(())
}

/// What other tests have already shown in parts, in another setting.
mod thorough {
    use super::*;

    #[test]
    #[ignore = "needs root and QEMU"]
    fn systemd_uefi() -> Result<()> {
        once_and_back(Init::Systemd, Block::Esp)
    }

    #[test]
    #[ignore = "needs root and QEMU"]
    fn openrc_bios_btrfs() -> Result<()> {
        once_and_back(Init::OpenRc, Block::Nowhere)
    }

    #[test]
    #[ignore = "needs root and QEMU"]
    fn openrc_bios_ext4() -> Result<()> {
        once_and_back(Init::OpenRc, Block::Ext4)
    }

    #[test]
    #[ignore = "needs root and QEMU"]
    fn systemd_bios_btrfs() -> Result<()> {
        once_and_back(Init::Systemd, Block::Nowhere)
    }
}
