//! The inits of distributions: what `be init` gives them, and what they do with it.

use std::time::Instant;

use anyhow::{Result, ensure};
use be_tests::vm::{LONG, Machine, emulated};
use xtask::image::{Layout, Tree};
use xtask::lab::inits::Init;
use xtask::vm::Firmware;

#[test]
#[ignore = "needs root and QEMU"]
fn systemd() -> Result<()> {
    emulated(|| boots(Init::Systemd, Layout::BootExt4, Firmware::Bios))
}

#[test]
#[ignore = "needs root and QEMU"]
fn openrc() -> Result<()> {
    emulated(|| boots(Init::OpenRc, Layout::AtSubvol, Firmware::Uefi))
}

fn boots(init: Init, layout: Layout, firmware: Firmware) -> Result<()> {
    let mut machine = Machine::new(layout, firmware, |mount, _| init.install(mount.root()))?;
    let start = Instant::now();
    machine.on()?;
    machine.boots()?;
    xtask::say(&format!("shell after {:.1?}", start.elapsed()));
    machine.vm().check(init.wait(), LONG)?;
    xtask::say(&format!("over after {:.1?}", start.elapsed()));
    machine.vm().reboot()?;
    let start = Instant::now();
    machine.boots()?;
    xtask::say(&format!("shell again after {:.1?}", start.elapsed()));
    ensure!(machine.sh("hello")? == "hello 1\n");
    Ok(())
}
