//! Nobody at the machine: its timer starts an upgrade, and it boots the result by itself.

use anyhow::{Context, Result, ensure};
use be_tests::vm::{LONG, Machine, emulated};
use xtask::image::{Layout, Tree};
use xtask::lab::inits::Init;
use xtask::vm::Firmware;

use crate::distribution::{boots, machine, start};

/// What the unit does beside the shipped one: two packages are enough here, and nobody reads
/// the journal of this small system.
const UNIT: &str = "[Service]\nExecStart=\n\
    ExecStart=be upgrade --unattended --reboot-if-idle -- app-misc/hello\n\
    StandardOutput=append:/var/log/nights\nStandardError=append:/var/log/nights\n";

/// The environment that boots next.
fn next(machine: &mut Machine) -> Result<String> {
    let status = machine.json("status")?;
    let next = status["next"].as_str().context("nothing boots next")?;
    Ok(next.to_owned())
}

/// Each takes a machine minutes.
mod thorough {
    use super::*;

    #[test]
    #[ignore = "needs root and QEMU"]
    fn a_timer_upgrades_and_reboots_when_nobody_is_there() -> Result<()> {
        emulated(|| {
            let mut machine = machine(
                Init::Systemd,
                Layout::BootExt4,
                Firmware::Bios,
                |disk, be| {
                    be.run(&["init", "--nightly"]).done();
                    disk.write("/etc/systemd/system/be-upgrade.service.d/lab.conf", UNIT)
                },
            )?;
            start(&mut machine, Init::Systemd)?;
            let timers = machine.sh("systemctl list-timers --no-pager be-upgrade.timer")?;
            ensure!(timers.contains("be-upgrade.service"), "{timers}");

            // The night: somebody has a shell open.
            let night = "systemctl start be-upgrade.service; systemctl show --value \
                         -p Result -p ExecMainStatus be-upgrade.service; cat /var/log/nights";
            let said = machine.vm().check(night, LONG)?;
            ensure!(said.starts_with("success\n0\n"), "{said}");
            ensure!(said.contains("runs on a terminal"), "{said}");
            ensure!(said.contains("app-misc/hello"), "{said}");
            let name = next(&mut machine)?;
            ensure!(name != "default", "{said}");

            // The next one: a login manager says that nobody is logged in.
            machine.sh("mkdir -p /run/systemd/sessions && rm /var/log/nights")?;
            machine
                .vm()
                .send("systemctl start --no-block be-upgrade.service\n")?;
            boots(&mut machine, Init::Systemd, &name, "be.boot=trial")?;
            ensure!(machine.sh("hello")? == "hello 2\n");
            ensure!(next(&mut machine)? == name);
            Ok(())
        })
    }
}
