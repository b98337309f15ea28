//! The layouts whose systems are spread over several subvolumes or file systems,
//! from power-on: by themselves, and through the whole life of an environment.

use anyhow::{Context, Result, ensure};
use be_tests::vm::{LONG, Machine, SHORT, root_of};
use xtask::image::{DATABASE, Layout, Source, nested};
use xtask::lab::disk::Disk;
use xtask::vm::{Booted, Firmware, Options, Vm};

#[test]
#[ignore = "needs root and QEMU"]
fn many_subvolumes_boot_by_themselves() -> Result<()> {
    boots_by_itself(Layout::AtMany)
}

#[test]
#[ignore = "needs root and QEMU"]
fn suse_boots_by_itself() -> Result<()> {
    boots_by_itself(Layout::Suse)
}

#[test]
#[ignore = "needs root and QEMU"]
fn boot_on_ext4_boots_by_itself() -> Result<()> {
    boots_by_itself(Layout::BootExt4)
}

#[test]
#[ignore = "needs root and QEMU"]
fn boot_on_the_esp_boots_by_itself() -> Result<()> {
    boots_by_itself(Layout::EspBoot)
}

#[test]
#[ignore = "needs root and QEMU"]
fn the_life_of_many_subvolumes() -> Result<()> {
    life(Layout::AtMany, Firmware::Bios, |machine| {
        for (path, _) in nested() {
            let path = path.display();
            // Left out of the clone: an empty directory, or nothing in an empty one.
            machine.sh(&format!("! ls -A '/{path}' 2>/dev/null | grep ."))?;
        }
        Ok(())
    })
}

/// The image boots through its own grub.cfg, with every firmware that it is for.
fn boots_by_itself(layout: Layout) -> Result<()> {
    for firmware in layout.firmwares() {
        let disk = Disk::new(layout)?;
        let mut vm = Vm::boot(&disk.path(), *firmware, &Options::default())?;
        let booted = vm.wait_boot(LONG)?;
        assert_eq!(booted, as_installed(layout, &disk));
        all_is_mounted(layout, |command| vm.check(command, SHORT))?;
        let is_uefi = vm.shell("test -d /sys/firmware/efi", SHORT)?.0 == 0;
        assert_eq!(is_uefi, *firmware == Firmware::Uefi);
        if layout == Layout::AtMany {
            let (file, content) = DATABASE;
            assert_eq!(vm.check(&format!("cat /{file}"), SHORT)?, content);
        }
        // The machine finds what its own grub.cfg says; the host that wrote it saw
        // no partition table.
        vm.check("grub-mkconfig -o /tmp/grub.cfg", LONG)?;
        let here = "grep -v 'insmod part_gpt'";
        vm.check(
            &format!("diff <({here} /tmp/grub.cfg) <({here} /boot/grub/grub.cfg)"),
            SHORT,
        )?;
        vm.check("echo kept >/boot/mark", SHORT)?;
        vm.poweroff()?;
        let mut vm = Vm::boot(&disk.path(), *firmware, &Options::default())?;
        assert_eq!(vm.wait_boot(LONG)?, as_installed(layout, &disk));
        assert_eq!(vm.check("cat /boot/mark", SHORT)?, "kept\n");
        vm.poweroff()?;
    }
    Ok(())
}

fn as_installed(layout: Layout, disk: &Disk) -> Booted {
    Booted {
        root: format!("/{}", layout.root()),
        kernel: disk.lab.old_kernel.release.clone(),
    }
}

/// Everything that fstab promises below the root is there.
fn all_is_mounted(layout: Layout, mut sh: impl FnMut(&str) -> Result<String>) -> Result<()> {
    for (path, source) in layout.below() {
        let what = sh(&format!("findmnt -rno FSTYPE,FSROOT {path}"))?;
        let inside = match source {
            Source::Subvolume(name) => format!("/{name}"),
            Source::Boot | Source::Esp => "/".to_owned(),
        };
        assert_eq!(
            what.trim(),
            format!("{} {inside}", source.fstype()),
            "{path}"
        );
    }
    Ok(())
}

/// The life of an environment: made, upgraded, activated, booted, left by a
/// rollback and destroyed. `look` is called in the upgraded one. The emulated
/// machine is slow: what comes before the first boot is done on the host where
/// that can mount the system.
fn life(
    layout: Layout,
    firmware: Firmware,
    look: impl FnOnce(&mut Machine) -> Result<()>,
) -> Result<()> {
    let commands = ["init", "create spare", "upgrade --no-activate new"];
    let on_host = layout.is_mountable();
    let mut machine = Machine::new(layout, firmware, |_, be| {
        for command in commands.iter().filter(|_| on_host) {
            let words: Vec<&str> = command.split(' ').collect();
            be.run(&words).done();
        }
        Ok(())
    })?;
    let old = as_installed(layout, &machine.disk);
    let new = Booted {
        root: root_of("new"),
        kernel: machine.disk.lab.new_kernel.release.clone(),
    };
    machine.on()?;
    assert_eq!(machine.boots()?, old);
    let fstab = machine.sh("cat /etc/fstab")?;
    for command in commands.iter().filter(|_| !on_host) {
        machine.vm().check(&format!("be {command}"), LONG)?;
    }
    assert_eq!(
        active(&mut machine)?,
        [("default", "NR"), ("new", "-"), ("spare", "-")].map(pair)
    );
    ensure!(machine.sh("hello")? == "hello 1\n");
    machine.sh("be activate new")?;

    machine.vm().reboot()?;
    assert_eq!(machine.boots()?, new);
    assert_eq!(
        active(&mut machine)?,
        [("default", "-"), ("new", "NR"), ("spare", "-")].map(pair)
    );
    ensure!(machine.sh("hello")? == "hello 2\n");
    all_is_mounted(layout, |command| machine.sh(command))?;
    machine.sh("be check new")?;
    look(&mut machine)?;
    machine.sh("be rollback")?;

    machine.vm().reboot()?;
    assert_eq!(machine.boots()?, old);
    ensure!(machine.sh("hello")? == "hello 1\n");
    all_is_mounted(layout, |command| machine.sh(command))?;
    machine.sh("be destroy -y spare new")?;
    assert_eq!(active(&mut machine)?, [("default", "NR")].map(pair));
    assert_eq!(machine.sh("cat /etc/fstab")?, fstab);

    machine.vm().reboot()?;
    assert_eq!(machine.boots()?, old);
    machine.sh("be check default")?;
    Ok(())
}

fn pair((name, active): (&str, &str)) -> (String, String) {
    (name.to_owned(), active.to_owned())
}

/// Names and the column `Active`, by name.
fn active(machine: &mut Machine) -> Result<Vec<(String, String)>> {
    let list = machine.sh("be list -H")?;
    let fields = |line: &str| {
        let mut fields = line.split('\t');
        let (name, active) = (fields.next(), fields.next());
        name.zip(active).map(pair)
    };
    let mut rows: Vec<_> = list
        .lines()
        .map(|line| fields(line).with_context(|| format!("be list: {line}")))
        .collect::<Result<_>>()?;
    rows.sort();
    Ok(rows)
}
