//! The inits of distributions: what `be init` gives them, and what they do with it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use anyhow::{Context, Result, ensure};
use be_tests::vm::{LONG, Machine, emulated};
use xtask::image::{Layout, Tree};
use xtask::lab::inits::Init;
use xtask::vm::Firmware;

use crate::distribution::{SICK, boots, boots_once, leave, machine, start};

/// Prints GRUB's menu as it lies on the disk.
const MENU: &str = "mount -o ro,subvolid=5 \"$(findmnt -n -o SOURCE / | sed 's/\\[.*//')\" /mnt && \
                    cat /mnt/@be/.grub/menu.cfg; umount /mnt";

#[test]
#[ignore = "needs root and QEMU"]
fn systemd_judges_a_boot_when_it_is_over() -> Result<()> {
    emulated(|| {
        let mut machine = systemd()?;
        new_kernel(&mut machine, |new, release| {
            format!(
                "cd /srv/lab/kernels/{new} && cp -a boot/. /boot && cp -a lib/. /usr/lib && \
                 installkernel {release} /boot/vmlinuz-{release}"
            )
        })?;

        machine.sh("be create well && be activate -t well")?;
        machine.vm().reboot()?;
        boots(&mut machine, Init::Systemd, "well", "be.boot=once")?;
        let judged = moment(&mut machine, "be-confirm.service", "InactiveExit")?;
        let reached = moment(&mut machine, "multi-user.target", "ActiveEnter")?;
        ensure!(reached > 0 && judged >= reached, "{judged} {reached}");
        assert_eq!(moment(&mut machine, "be-stuck.service", "InactiveExit")?, 0);
        Ok(())
    })
}

/// A machine with systemd that has adopted what runs.
fn systemd() -> Result<Machine> {
    let mut machine = machine(Init::Systemd, Layout::BootExt4, Firmware::Bios, |_, _| {
        Ok(())
    })?;
    start(&mut machine, Init::Systemd)?;
    let done = machine.sh("be init")?;
    ensure!(done.contains("/be-confirm.service"), "{done}");
    Ok(machine)
}

mod thorough {
    use super::*;

    #[test]
    #[ignore = "needs root and QEMU"]
    fn systemd_goes_elsewhere_and_comes_back_from_what_hangs() -> Result<()> {
        emulated(|| {
            let mut machine = systemd()?;
            switches_at_once(&mut machine)?;
            a_hang_falls_back(&mut machine)?;
            systemd_judges_what_does_not_come_up(&mut machine)
        })
    }

    #[test]
    #[ignore = "needs root and QEMU"]
    fn openrc_comes_back_from_what_is_sick() -> Result<()> {
        emulated(|| {
            let mut machine = openrc()?;
            machine.sh(SICK)?;
            leave(
                &mut machine,
                "be activate --now sick",
                "switching to it now, by reboot",
            )?;
            for _ in 0..2 {
                let booted = machine.vm().wait_boot(LONG)?;
                assert_eq!(booted.root, "/@be/sick/root");
            }
            boots(&mut machine, Init::OpenRc, "default", "be.boot=fallback")?;
            assert_eq!(cold_boots(&mut machine)?, [(true, false), (true, false)]);
            Ok(())
        })
    }
}

/// A soft-reboot into what is well, and kexec into what is not, which comes back by itself.
fn switches_at_once(machine: &mut Machine) -> Result<()> {
    machine.sh("be create next")?;
    let booted = machine.sh("cat /proc/sys/kernel/random/boot_id")?;
    leave(
        machine,
        "be activate --now next",
        "switching to it now, by soft-reboot",
    )?;
    boots(machine, Init::Systemd, "next", "/@be/next/root")?;
    assert_eq!(machine.sh("cat /proc/sys/kernel/random/boot_id")?, booted);
    let default = machine.json("list next")?["environments"][0]["next"].clone();
    assert_eq!(default, true);

    machine.sh(SICK)?;
    leave(
        machine,
        "be activate --now sick",
        "switching to it now, by kexec",
    )?;
    for _ in 0..3 {
        let booted = machine.vm().wait_boot(LONG)?;
        assert_eq!(booted.root, "/@be/sick/root");
    }
    boots(machine, Init::Systemd, "next", "be.boot=fallback")?;
    // GRUB was not asked the first time.
    assert_eq!(
        cold_boots(machine)?,
        [(false, true), (true, false), (true, false)]
    );
    Ok(())
}

/// Of the boots of what is sick, as its check saw them: whether GRUB did it, and whether all
/// boots of the trial were to come. It is known to have failed.
fn cold_boots(machine: &mut Machine) -> Result<Vec<(bool, bool)>> {
    let status = machine.vm().shell("be status", LONG)?;
    ensure!(status.0 == 1 && status.1.contains("cold"), "{status:?}");
    let log = machine.sh("be log sick")?;
    let told = log.lines().filter(|l| l.contains("lab.cold"));
    Ok(told
        .map(|l| (l.contains("BOOT_IMAGE="), l.contains("be.left=2")))
        .collect())
}

/// What hangs is reset by the watchdog that `be init --watchdog` sets up, and counts as
/// failed. The lab's kernel has one in software; it hangs by what freezes systemd itself.
fn a_hang_falls_back(machine: &mut Machine) -> Result<()> {
    machine.sh("modprobe softdog && be init --watchdog")?;
    machine.sh("be create hung && d=$(be mount hung) && \
         mkdir -p $d/etc/be/health.d/required $d/etc/systemd/system.conf.d && \
         sed -i 's/60s/10s/' $d/etc/systemd/system.conf.d/*be*.conf && \
         printf 'modprobe softdog\\n' >>$d/etc/lab.start && chmod +x $d/etc/lab.start && \
         printf '#!/bin/sh\\ncat /sys/class/watchdog/watchdog0/state >/dev/ttyS0\\n\
                 echo 1 >/sys/fs/cgroup/init.scope/cgroup.freeze\\nsleep 600\\n' \
             >$d/etc/be/health.d/required/hangs && \
         chmod +x $d/etc/be/health.d/required/hangs && be umount hung && \
         be activate --trial hung")?;
    machine.vm().reboot()?;
    for _ in 0..2 {
        assert_eq!(machine.vm().wait_boot(LONG)?.root, "/@be/hung/root");
        machine.vm().expect("active", LONG)?;
    }
    boots(
        machine,
        Init::Systemd,
        "next",
        "be.boot=fallback be.failed=hung",
    )?;
    let status = machine.vm().shell("be status", LONG)?;
    ensure!(
        status.1.contains("hung before its health checks"),
        "{status:?}"
    );
    Ok(())
}

/// A boot that hangs, in small, and the emergency shell. What judges is replaced: this is
/// about when it is asked.
fn systemd_judges_what_does_not_come_up(machine: &mut Machine) -> Result<()> {
    machine.sh("set -e; cd /run/systemd/system
        printf '[Service]\\nType=oneshot\\nExecStart=sleep infinity\\n' >hang.service
        mkdir be-confirm.service.d be-stuck.service.d
        printf '[Unit]\\nAfter=hang.service\\nJobTimeoutSec=3\\n' >be-confirm.service.d/x.conf
        printf '[Service]\\nRemainAfterExit=no\\nExecStart=\\nExecStart=touch /run/judged\\n' \
            >be-stuck.service.d/x.conf
        systemctl daemon-reload
        systemctl stop be-confirm.service
        rm -rf /run/be-confirm
        systemctl start --no-block hang.service be-confirm.service")?;
    let wait = "for _ in $(seq 60); do [ -e /run/judged ] && exit; sleep 1; done; exit 1";
    machine.sh(wait).context("a boot that hangs")?;
    machine.sh("test ! -e /run/be-confirm")?;
    machine.sh("rm /run/judged; systemctl isolate --no-block emergency.target")?;
    machine.sh(wait).context("the emergency shell")?;
    Ok(())
}

#[test]
#[ignore = "needs root and QEMU"]
fn openrc_judges_a_boot_when_it_is_over() -> Result<()> {
    emulated(|| {
        let mut machine = openrc()?;
        let log = machine.sh("cat /run/lab-rc.log")?;
        let at = |words: &str| log.find(words).with_context(|| log.clone());
        ensure!(at("slow")? < at("Judging the boot")?, "{log}");
        // The service itself has confirmed what runs, and the menu can choose by now.
        let judged = machine.sh("be log default")?;
        ensure!(
            judged.contains("the default runlevel is reached"),
            "{judged}"
        );
        ensure!(!judged.contains("failed: "), "{judged}");
        new_kernel(&mut machine, |new, _| {
            format!(
                "git -C /var/db/repos/gentoo pull -q && emerge --oneshot --nodeps --quiet \
                 =sys-kernel/lab-kernel-{new}"
            )
        })?;

        machine.sh("be create well && be activate -t well")?;
        let words = ["be.boot=once", "be.boot=default"];
        boots_once(&mut machine, Init::OpenRc, words)
    })
}

/// A machine with OpenRC that has adopted what runs, after its first boot.
fn openrc() -> Result<Machine> {
    // Sorts behind be-confirm, and takes its time.
    const SLOW: &str = "#!/sbin/openrc-run\nstart() {\n\tebegin slow; sleep 2; eend 0\n}\n";
    let mut machine = machine(
        Init::OpenRc,
        Layout::AtSubvol,
        Firmware::Uefi,
        |mount, be| {
            fs::create_dir_all(mount.path("/etc/kernel/postinst.d"))?;
            mount.write("/etc/init.d/zz-slow", SLOW)?;
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(mount.path("/etc/init.d/zz-slow"), mode)?;
            let link = mount.path("/etc/runlevels/default/zz-slow");
            symlink("/etc/init.d/zz-slow", link)?;
            let done = be.run(&["init"]).done().stdout;
            ensure!(done.contains("/etc/runlevels/default/be-confirm"), "{done}");
            Ok(())
        },
    )?;
    start(&mut machine, Init::OpenRc)?;
    Ok(machine)
}

/// When something happened to a unit, in microseconds since the kernel started.
fn moment(machine: &mut Machine, unit: &str, what: &str) -> Result<u64> {
    let show = format!("systemctl show --value -p {what}TimestampMonotonic {unit}");
    let text = machine.sh(&show)?;
    text.trim()
        .parse()
        .with_context(|| format!("{unit}: {text}"))
}

/// Installs the newer kernel in the running system: the menu has it then.
fn new_kernel(machine: &mut Machine, install: impl Fn(&str, &str) -> String) -> Result<()> {
    let new = machine.disk.lab.new_kernel.clone();
    let entry = format!("default: Linux {}", new.release);
    let before = machine.sh(MENU)?;
    ensure!(
        before.contains("default: Linux ") && !before.contains(&entry),
        "{before}"
    );
    let command = install(&new.package, &new.release);
    let said = machine.vm().check(&command, LONG)?;
    let after = machine.sh(MENU)?;
    ensure!(after.contains(&entry), "{said}\n{after}");
    Ok(())
}
