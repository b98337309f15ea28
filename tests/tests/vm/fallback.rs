//! An environment that does not come up: the machine is back in the one before by itself, says so, and stays there.
//! What is healthy is confirmed and stays, too. All by the verbs of `be`, as a user of it would see it.
//!
//! The lab's init has a hook for boots, which stands for the health service here.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Result, ensure};
use be_tests::vm::{LONG, Machine, SHORT, emulated, initramfs, root_of};
use serde_json::{Value, json};
use xtask::image::{Layout, Tree};
use xtask::lab::grub::{newer, older};
use xtask::run::{cmd, run};
use xtask::vm::Firmware;

/// What a kernel says when its first process ends, or cannot be started.
const PANIC: &str = "Kernel panic - not syncing";

/// Makes an environment whose first process ends at once.
const PANICS: &str = "be create panics && be activate --trial panics && d=$(be mount panics) && \
                      printf '#!/bin/sh\\nexit 1\\n' >$d/usr/sbin/init && be umount panics";

/// Makes one that has none.
const NO_INIT: &str = "be create initless && be activate --trial initless && \
                       d=$(be mount initless) && rm $d/usr/sbin/init && be umount initless";

#[test]
#[ignore = "needs root and QEMU"]
fn uefi_what_is_not_well_falls_back_and_what_is_well_stays() -> Result<()> {
    emulated(|| {
        let mut machine = machine(Layout::AtSubvol, Firmware::Uefi)?;
        boots(&mut machine, "/@", "")?;
        machine.sh("be init")?;
        let status = machine.json("status")?;
        ensure!(status["trials"]["possible"] == true, "{status}");

        machine.sh("be create good")?;
        let activated = machine.json("activate --trial good")?;
        ensure!(
            activated["way"] == "trial" && activated["tries"] == 2,
            "{activated}"
        );
        ensure!(activated["fallback"] == "default", "{activated}");
        is(&mut machine, "good", "trial", true)?;
        is(&mut machine, "default", "confirmed", false)?;
        machine.vm().reboot()?;
        boots(&mut machine, &root_of("good"), "be.boot=trial be.left=1")?;
        is(&mut machine, "good", "confirmed", true)?;
        let status = machine.json("status")?;
        ensure!(
            status["next_why"] == "default" && status["trial"].is_null(),
            "{status}"
        );

        machine.sh(PANICS)?;
        let panics = machine.vm().transcript().matches(PANIC).count();
        machine.vm().reboot()?;
        boots(
            &mut machine,
            &root_of("good"),
            "be.boot=fallback be.failed=panics",
        )?;
        let seen = machine.vm().transcript().matches(PANIC).count();
        assert_eq!(seen - panics, 2);
        fell_back(&mut machine, "panics", "crashed or hung")?;

        machine.sh("be create hangs && be activate --trial hangs")?;
        let check = "$d/etc/be/health.d/required/slow";
        machine.sh(&format!(
            "d=$(be mount hangs) && mkdir -p ${{d}}/etc/be/health.d/required && \
             printf '#!/bin/sh\\necho here; sleep 1000\\n' >{check} && chmod +x {check} && \
             be umount hangs"
        ))?;
        machine.vm().reboot()?;
        boots(
            &mut machine,
            &root_of("good"),
            "be.boot=fallback be.failed=hangs",
        )?;
        fell_back(
            &mut machine,
            "hangs",
            "required/slow did not end within 3 s",
        )?;
        let log = machine.sh("be log hangs")?;
        assert_eq!(log.matches("here").count(), 2, "{log}");

        // No loop, and what was told is told once.
        machine.vm().reboot()?;
        boots(&mut machine, &root_of("good"), "be.boot=default")?;
        machine.sh("be status && ! [ -e /run/motd.d/be ]")?;

        machine.sh("be create other && be activate -t other")?;
        let listed = listed(&mut machine, "other")?;
        ensure!(
            listed["once"] == true && listed["next"] == false,
            "{listed}"
        );
        machine.vm().reboot()?;
        boots(&mut machine, &root_of("other"), "be.boot=once")?;
        is(&mut machine, "other", "confirmed", false)?;
        machine.vm().reboot()?;
        boots(&mut machine, &root_of("good"), "be.boot=default")
    })
}

/// A machine that is booted by the GRUB in this directory from the second boot on. That for
/// UEFI is no other one, and `be` goes by the oldest.
fn by_another(mut machine: Machine, grub: &Path, install: &str, version: &str) -> Result<()> {
    {
        let root = machine.mount("@")?;
        run(cmd("cp", ["-r"]).arg(grub).arg(root.path("/opt/grub")))?;
    }
    machine.on()?;
    boots(&mut machine, "/@", "")?;
    machine.vm().check(
        &format!(
            "rm -r /boot/grub/x86_64-efi && {install} --target=i386-pc --boot-directory=/boot \
             --directory=/opt/grub/usr/lib/grub/i386-pc /dev/vda"
        ),
        LONG,
    )?;
    machine.sh("be init && be create good && be activate --trial good")?;
    machine.vm().reboot()?;
    boots(&mut machine, &root_of("good"), "be.boot=trial be.left=1")?;
    let version = format!("version {version}");
    ensure!(machine.vm().transcript().contains(&version));
    is(&mut machine, "good", "confirmed", true)?;

    machine.sh(NO_INIT)?;
    machine.vm().reboot()?;
    boots(
        &mut machine,
        &root_of("good"),
        "be.boot=fallback be.failed=initless be.why=tries-used",
    )?;
    machine.sh("be create gone && be activate --trial gone && \
             rm $(be mount gone)/boot/vmlinuz-* && be umount gone")?;
    machine.vm().reboot()?;
    boots(
        &mut machine,
        &root_of("good"),
        "be.boot=fallback be.failed=gone be.why=load-failed",
    )?;
    machine.sh("be create other && be activate -t other")?;
    machine.vm().reboot()?;
    boots(&mut machine, &root_of("other"), "be.boot=once")?;
    machine.vm().reboot()?;
    boots(&mut machine, &root_of("good"), "be.boot=default")
}

/// Takes away all that GRUB before 2.14 could write to.
fn without_esp(machine: &mut Machine) -> Result<()> {
    let take = "umount /efi; sed -i '/ \\/efi /d' /etc/fstab\n";
    machine.mount("@")?.append("/etc/lab.start", take)
}

fn machine(layout: Layout, firmware: Firmware) -> Result<Machine> {
    let mut machine = new_machine(layout, firmware)?;
    if layout != Layout::AtSubvol || firmware != Firmware::Bios {
        machine.on()?;
    }
    Ok(machine)
}

fn new_machine(layout: Layout, firmware: Firmware) -> Result<Machine> {
    Machine::new(layout, firmware, |mount, _| {
        let hook = mount.path("/etc/lab.start");
        fs::write(&hook, "#!/bin/sh\nbe confirm --boot >/run/confirm 2>&1\n")?;
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))?;
        mount.write("/etc/be/be.toml", "[health]\ncheck_seconds = 3\n")
    })
}

fn boots(machine: &mut Machine, root: &str, words: &str) -> Result<()> {
    // Up to three boots, one after the other.
    let booted = machine.vm().wait_boot(LONG)?;
    let line = machine.sh("cat /proc/cmdline /run/confirm")?;
    ensure!(
        booted.root == root,
        "{root} was to boot, and not {}: {line}",
        booted.root
    );
    ensure!(line.contains(words), "{words}: {line}");
    Ok(())
}

fn listed(machine: &mut Machine, name: &str) -> Result<Value> {
    let list = machine.json(&format!("list {name}"))?;
    Ok(list["environments"][0].clone())
}

fn is(machine: &mut Machine, name: &str, state: &str, next: bool) -> Result<()> {
    let listed = listed(machine, name)?;
    assert_eq!(
        (&listed["state"], &listed["next"]),
        (&json!(state), &json!(next)),
        "{listed}"
    );
    Ok(())
}

/// It is said wherever somebody looks.
fn fell_back(machine: &mut Machine, failed: &str, why: &str) -> Result<()> {
    let status = machine
        .vm()
        .check("be --json status 2>/dev/null; echo code $?", SHORT)?;
    let (document, code) = status.rsplit_once("code ").unwrap_or_default();
    assert_eq!(code.trim(), "1", "{status}");
    let status: Value = serde_json::from_str(document)?;
    ensure!(status["fallback"]["failed"] == failed, "{status}");
    let told = status["fallback"]["why"].as_str().unwrap_or_default();
    ensure!(told.contains(why), "{status}");
    is(machine, failed, "bad", false)?;
    let message = machine.sh("cat /run/motd.d/be")?;
    ensure!(
        message.contains(failed) && message.contains(why),
        "{message}"
    );
    Ok(())
}

/// What other tests have already shown in parts, in another setting.
mod thorough {
    use super::*;

    /// GRUB cannot write on btrfs: it is said, and not pretended.
    #[test]
    #[ignore = "needs root and QEMU"]
    fn bios_btrfs_there_are_no_trials_and_userspace_boots_once() -> Result<()> {
        emulated(|| {
            let mut machine = machine(Layout::AtSubvol, Firmware::Bios)?;
            without_esp(&mut machine)?;
            machine.on()?;
            boots(&mut machine, "/@", "")?;
            machine.sh("be init && be create new")?;
            let refused = machine.sh("be activate --trial new 2>&1; echo code $?")?;
            ensure!(
                refused.contains("code 3") && refused.contains("btrfs"),
                "{refused}"
            );
            ensure!(refused.contains("EFI system partition"), "{refused}");
            let status = machine.json("status")?;
            ensure!(status["trials"]["possible"] == false, "{status}");

            let told = machine.sh("be activate -t new 2>&1")?;
            ensure!(told.contains("until it has come up"), "{told}");
            machine.vm().reboot()?;
            boots(&mut machine, &root_of("new"), "")?;
            is(&mut machine, "default", "confirmed", true)?;
            machine.vm().reboot()?;
            boots(&mut machine, "/@", "")?;

            // Without a trial it boots all the same, and it is said what to do if not.
            let told = machine.sh("be create newer && be activate newer 2>&1")?;
            ensure!(told.contains("not on trial"), "{told}");
            machine.vm().reboot()?;
            boots(&mut machine, &root_of("newer"), "")
        })
    }

    /// The menu is read, and the boots are counted, by the GRUB of an older distribution, too.
    /// That of a newer one writes into the header of btrfs, and needs nothing else.
    #[test]
    #[ignore = "needs root and QEMU"]
    fn bios_btrfs_grub_2_14_falls_back_too() -> Result<()> {
        emulated(|| {
            let mut machine = new_machine(Layout::AtSubvol, Firmware::Bios)?;
            without_esp(&mut machine)?;
            by_another(machine, &newer()?, "grub-install", "2.14")
        })
    }

    #[test]
    #[ignore = "needs root and QEMU"]
    fn bios_ext4_what_grub_cannot_load_falls_back_at_once() -> Result<()> {
        emulated(|| {
            let mut machine = machine(Layout::BootExt4, Firmware::Bios)?;
            boots(&mut machine, "/@", "")?;
            machine.sh("be init && be create nokernel && be create gone && be create torn")?;

            machine.sh(
                "be activate --trial nokernel && rm $(be mount nokernel)/boot/vmlinuz-*; be umount nokernel",
            )?;
            machine.vm().reboot()?;
            boots(
                &mut machine,
                "/@",
                "be.boot=fallback be.failed=nokernel be.why=load-failed",
            )?;
            fell_back(&mut machine, "nokernel", "GRUB could not load")?;

            machine.sh("be activate --trial gone && mkdir -p /run/top && \
                 mount -o subvolid=5 $(findmnt -no SOURCE / | sed 's/\\[.*//') /run/top && \
                 btrfs -q subvolume delete /run/top/@be/gone/root && btrfs filesystem sync /run/top && \
                 umount /run/top")?;
            machine.vm().reboot()?;
            boots(
                &mut machine,
                "/@",
                "be.boot=fallback be.failed=gone be.why=load-failed",
            )?;
            fell_back(&mut machine, "gone", "GRUB could not load")?;

            let torn = initramfs(&machine.disk.lab.old_kernel.release.clone());
            machine.sh(&format!(
                "be activate --trial torn && truncate -s 4096 $(be mount torn)/{torn}; be umount torn"
            ))?;
            machine.vm().reboot()?;
            boots(
                &mut machine,
                "/@",
                "be.boot=fallback be.failed=torn be.why=tries-used",
            )?;
            fell_back(&mut machine, "torn", "crashed or hung")
        })
    }

    #[test]
    #[ignore = "needs root and QEMU"]
    fn bios_ext4_grub_2_06_falls_back_too() -> Result<()> {
        emulated(|| {
            let machine = new_machine(Layout::BootExt4, Firmware::Bios)?;
            by_another(
                machine,
                &older()?,
                "/opt/grub/usr/sbin/grub-install",
                "2.06",
            )
        })
    }
}
