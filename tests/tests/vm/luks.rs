//! A root that lies in LUKS, /boot with it: GRUB asks for the passphrase, reads the menu and
//! the kernels of all environments, and counts their boots on the ESP, which is not encrypted.

use anyhow::{Result, ensure};
use be_tests::vm::{LONG, Machine, SHORT, emulated, root_of};
use serde_json::{Value, json};
use xtask::lab::luks::Luks;

/// The lab's init has a hook for boots, which stands for the health service here.
const CONFIRM: &str = "printf '#!/bin/sh\\nbe confirm --boot >/run/confirm 2>&1\\n' >/etc/lab.start && \
                       chmod +x /etc/lab.start";

/// Makes an environment whose first process ends at once.
const PANICS: &str = "be create panics && be activate --trial panics && d=$(be mount panics) && \
                      printf '#!/bin/sh\\nexit 1\\n' >$d/usr/sbin/init && be umount panics";

/// The ESP is /boot, which therefore is not encrypted.
const PLAIN_BOOT: &str =
    "umount /efi && sed -i 's| /efi | /boot |' /etc/fstab && mount /dev/vda2 /boot";

const NO_PLAIN_BOOT: &str =
    "umount /boot && sed -i 's| /boot | /efi |' /etc/fstab && mount /dev/vda2 /efi";

const NOT_TOLD: &str = "sed -i /CRYPTODISK/d /etc/default/grub";

const TOLD: &str = "echo GRUB_ENABLE_CRYPTODISK=y >>/etc/default/grub";

/// Leaves no key slot that GRUB 2.12 can open.
const ARGON2: &str = "printf 'open sesame' >/run/passphrase && cp /run/passphrase /run/same && \
                      cryptsetup -q luksAddKey --pbkdf argon2id --pbkdf-memory 32 --pbkdf-force-iterations 4 \
                      --key-file /run/passphrase /dev/vda5 /run/same && \
                      for slot in 0 1; do cryptsetup -q luksKillSlot /dev/vda5 $slot || exit 1; done";

const INSTALL: &str = "grub-install --target=x86_64-efi --efi-directory=/efi --boot-directory=/boot \
                       --removable --no-nvram";

/// GRUB asks, and this is what boots then.
fn boots(machine: &mut Machine, root: &str, words: &str) -> Result<()> {
    machine.unlock()?;
    let booted = machine.boots()?;
    let line = machine.sh("cat /proc/cmdline")?;
    ensure!(
        booted.root == root,
        "{root} was to boot, and not {}: {line}",
        booted.root
    );
    ensure!(line.contains(words), "{words}: {line}");
    let source = machine.sh("findmnt -n -o SOURCE /")?;
    ensure!(source.starts_with("/dev/mapper/root"), "{source}");
    Ok(())
}

fn is(machine: &mut Machine, name: &str, state: &str, next: bool) -> Result<()> {
    let list = machine.json(&format!("list {name}"))?;
    let listed = &list["environments"][0];
    assert_eq!(
        (&listed["state"], &listed["next"]),
        (&json!(state), &json!(next)),
        "{listed}"
    );
    Ok(())
}

/// What `be doctor` finds.
fn problems(machine: &mut Machine) -> Result<Vec<String>> {
    let text = machine.sh("be --json doctor 2>/dev/null; true")?;
    let document: Value = serde_json::from_str(&text)?;
    let found = document["problems"].as_array().into_iter().flatten();
    Ok(found
        .filter_map(|p| Some(p["id"].as_str()?.to_owned()))
        .collect())
}

/// What other tests have already shown in parts, in another setting.
mod thorough {
    use super::*;

    #[test]
    #[ignore = "needs root and QEMU"]
    fn luks2_trials_are_counted_and_fall_back() -> Result<()> {
        emulated(|| {
            let mut machine = Machine::encrypted(Luks::Two)?;
            machine.on_with_be()?;
            boots(&mut machine, "/@", "")?;
            machine.receive()?;
            machine.sh(CONFIRM)?;
            let told = machine.sh("be init 2>&1")?;
            ensure!(
                told.contains("GRUB asks for the passphrase at every boot"),
                "{told}"
            );
            ensure!(
                !told.contains("CRYPTODISK") && !told.contains("PBKDF2"),
                "{told}"
            );
            machine.sh("be doctor && be create new && be check new")?;
            let status = machine.json("status")?;
            ensure!(status["trials"]["possible"] == true, "{status}");
            let activated = machine.json("activate --trial new")?;
            ensure!(activated["way"] == "trial", "{activated}");
            machine.vm().reboot()?;
            boots(&mut machine, &root_of("new"), "be.boot=trial be.left=1")?;
            is(&mut machine, "new", "confirmed", true)?;

            machine.sh(PANICS)?;
            machine.vm().reboot()?;
            // Each try is a boot of its own.
            machine.unlock()?;
            machine.unlock()?;
            boots(
                &mut machine,
                &root_of("new"),
                "be.boot=fallback be.failed=panics",
            )?;
            is(&mut machine, "panics", "bad", false)?;
            is(&mut machine, "new", "confirmed", true)
        })
    }

    #[test]
    #[ignore = "needs root and QEMU"]
    fn luks1_boots_what_is_activated_or_chosen() -> Result<()> {
        emulated(|| {
            let mut machine = Machine::encrypted(Luks::One)?;
            machine.on_with_be()?;
            boots(&mut machine, "/@", "")?;
            machine.receive()?;
            machine.sh("be init && be create new && be activate -t new")?;
            machine.vm().reboot()?;
            boots(&mut machine, &root_of("new"), "be.boot=once")?;
            machine.sh("be activate --no-trial new && be doctor")?;
            machine.vm().reboot()?;
            machine.unlock()?;
            assert_eq!(machine.choose("default")?.root, "/@");
            machine.vm().reboot()?;
            boots(&mut machine, &root_of("new"), "be.boot=default")
        })
    }

    #[test]
    #[ignore = "needs root and QEMU"]
    fn luks2_what_keeps_grub_out_is_said() -> Result<()> {
        emulated(|| {
            let mut machine = Machine::encrypted(Luks::Two)?;
            machine.on_with_be()?;
            boots(&mut machine, "/@", "")?;
            machine.receive()?;
            machine.sh(PLAIN_BOOT)?;
            let refused = machine.sh("be init 2>&1; echo code $?")?;
            ensure!(
                refused.contains("the root is encrypted and /boot is on another filesystem")
                    && refused.contains("code 3"),
                "{refused}"
            );
            machine.sh(NO_PLAIN_BOOT)?;

            machine.sh(NOT_TOLD)?;
            let told = machine.sh("be init 2>&1")?;
            ensure!(told.contains("GRUB_ENABLE_CRYPTODISK=y"), "{told}");
            assert_eq!(problems(&mut machine)?, ["grub-cryptodisk"]);
            machine.vm().check(&format!("! {INSTALL}"), LONG)?;
            machine.sh(TOLD)?;
            assert_eq!(problems(&mut machine)?, [""; 0]);

            machine.sh(ARGON2)?;
            assert_eq!(problems(&mut machine)?, ["luks-key"]);
            machine.vm().reboot()?;
            machine.unlock()?;
            machine.vm().expect("rescue>", SHORT)?;
            Ok(())
        })
    }
}
