//! Machines with the init of a distribution: how they boot, and what may be wrong with them.

use std::time::Instant;

use anyhow::{Result, ensure};
use be_tests::be::Be;
use be_tests::vm::{LONG, Machine};
use xtask::image::{Layout, Tree};
use xtask::lab::disk::DiskMount;
use xtask::lab::inits::Init;
use xtask::vm::Firmware;

/// Makes an environment that is told something else, and has a check that fails.
pub(super) const SICK: &str = "be create sick && d=$(be mount sick) && mkdir -p $d/etc/be/health.d/required && \
    printf '#!/bin/sh\\ncat /proc/cmdline\\nexit 1\\n' >$d/etc/be/health.d/required/cold && \
    chmod +x $d/etc/be/health.d/required/cold && \
    echo 'GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX lab.cold\"' >>$d/etc/default/grub && \
    be umount sick";

/// A machine with `be` and this init.
pub(super) fn machine(
    init: Init,
    layout: Layout,
    firmware: Firmware,
    prepare: impl FnOnce(&DiskMount, &Be) -> Result<()>,
) -> Result<Machine> {
    Machine::new(layout, firmware, |mount, be| {
        init.install(mount.root())?;
        prepare(mount, be)
    })
}

/// Waits until it has booted, to the end.
pub(super) fn start(machine: &mut Machine, init: Init) -> Result<()> {
    let start = Instant::now();
    if machine.is_off() {
        machine.on()?;
    }
    machine.vm().wait_boot(LONG)?;
    let shell = start.elapsed();
    machine.vm().check(init.wait(), LONG)?;
    let all = start.elapsed();
    xtask::say(&format!(
        "{init:?}: a shell after {shell:.1?}, all after {all:.1?}"
    ));
    Ok(())
}

/// What boots, to the end, by itself.
pub(super) fn boots(machine: &mut Machine, init: Init, name: &str, words: &str) -> Result<()> {
    start(machine, init)?;
    let line = machine.sh("cat /proc/cmdline; findmnt -no FSROOT /")?;
    ensure!(line.contains(words), "{words}: {line}");
    let listed = machine.json(&format!("list {name}"))?["environments"][0].clone();
    let wanted = (true.into(), "confirmed".into());
    let found = (&listed["running"], &listed["state"]);
    let log = machine.sh(&format!("be log {name} || true"))?;
    assert_eq!(found, (&wanted.0, &wanted.1), "{listed} {line} {log}");
    Ok(())
}

/// `well` boots this time only, is confirmed by the service in it, and `default` boots again.
pub(super) fn boots_once(machine: &mut Machine, init: Init, words: [&str; 2]) -> Result<()> {
    machine.vm().reboot()?;
    boots(machine, init, "well", words[0])?;
    let default = machine.json("list default")?["environments"][0].clone();
    ensure!(default["next"] == true, "{default}");
    machine.vm().reboot()?;
    boots(machine, init, "default", words[1])
}

/// A command that ends the running system after it has said this.
pub(super) fn leave(machine: &mut Machine, command: &str, says: &str) -> Result<()> {
    machine.vm().send(&format!("{command}\n"))?;
    machine.vm().expect(says, LONG)?;
    Ok(())
}
