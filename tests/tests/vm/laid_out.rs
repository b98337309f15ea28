//! The layouts whose systems are spread over several subvolumes or file systems, from
//! power-on through the whole life of an environment.

use anyhow::{Context, Result, ensure};
use be_tests::vm::{LONG, Machine, SHORT, emulated, root_of};
use serde_json::{Value, json};
use xtask::image::{DATABASE, Layout, Source, Tree, nested};
use xtask::lab::disk::Disk;
use xtask::run::{cmd, run};
use xtask::vm::{Booted, Firmware};

/// With /boot left behind, everything goes on as before.
fn kernels_are_its_own(machine: &mut Machine) -> Result<()> {
    let release = machine.disk.lab.new_kernel.release.clone();
    machine.sh(&format!("test -s /boot/vmlinuz-{release}"))?;
    machine.sh("be check default && be create third && be check third && be menu")?;
    machine.sh("be create -e default fourth && be activate fourth && be activate new")?;
    machine.sh(&format!("be exec third -- test -s /boot/vmlinuz-{release}"))?;
    machine.sh("be destroy -y third fourth")?;
    // The one way from here to a new grub.cfg: the same, to be read by GRUB.
    let write = "grub-mkconfig 2>/dev/null | diff - /boot/grub/grub.cfg";
    let command = format!("be exec default -- sh -c '{write} | grep -v part_gpt | grep ^[\\<\\>]'");
    let (status, differs) = machine.vm().shell(&command, LONG)?;
    ensure!(status == 1 && differs.is_empty(), "{status}: {differs}");
    Ok(())
}

/// A life to be lived, and what has to be so in its environments.
struct Life<'a> {
    layout: Layout,
    firmware: Firmware,
    /// In the upgraded one.
    in_new: &'a dyn Fn(&mut Machine) -> Result<()>,
    /// In the old one, after it.
    in_old: &'a dyn Fn(&mut Machine) -> Result<()>,
}

/// The life of an environment: made, upgraded, activated, booted, left by a rollback and
/// destroyed. The emulated machine is slow: what comes before the first boot is done on
/// the host where that can mount the system.
fn life(life: Life<'_>) -> Result<()> {
    let Life {
        layout, firmware, ..
    } = life;
    let on_host = layout.is_mountable();
    let upgrade = match on_host {
        true => "upgrade --no-activate new",
        false => "upgrade --no-activate new -- app-misc/hello sys-kernel/lab-kernel",
    };
    let commands = ["init", "create spare", upgrade];
    let mut before = None;
    let mut machine = Machine::new(layout, firmware, |mount, be| {
        if on_host {
            let root = mount.root().display().to_string();
            before = Some(foreign(&root, |command| {
                run(&mut cmd("sh", ["-c", command]))
            })?);
            for command in commands {
                let words: Vec<&str> = command.split(' ').collect();
                be.run(&words).done();
            }
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
    let is_uefi = machine.vm().shell("test -d /sys/firmware/efi", SHORT)?.0 == 0;
    assert_eq!(is_uefi, firmware == Firmware::Uefi);
    all_is_mounted(layout, None, &mut machine)?;
    let fstab = machine.sh("cat /etc/fstab")?;
    let before = match before {
        Some(before) => before,
        None => {
            let before = foreign("/", |command| machine.sh(command))?;
            for command in commands {
                machine.vm().check(&format!("be {command}"), LONG)?;
            }
            before
        }
    };
    // The machine itself finds what grub.cfg says; a host that wrote it saw no partition
    // table.
    machine.vm().check("grub-mkconfig -o /tmp/grub.cfg", LONG)?;
    let here = "grep -v 'insmod part_gpt'";
    machine.sh(&format!(
        "diff <({here} /tmp/grub.cfg) <({here} /boot/grub/grub.cfg)"
    ))?;
    assert_eq!(
        active(&mut machine)?,
        [("default", "NR"), ("new", "-"), ("spare", "-")].map(pair)
    );
    ensure!(machine.sh("hello")? == "hello 1\n");
    machine.sh("be activate new")?;

    // The switch is on the disk, and so is what it leads to.
    machine.cut()?;
    machine.on()?;
    assert_eq!(machine.boots()?, new);
    let status = machine.json("status")?;
    for (key, wanted) in [
        ("running", json!("new")),
        ("next", json!("new")),
        ("hooked", json!(true)),
    ] {
        ensure!(status[key] == wanted, "{key}: {status:#}");
    }
    assert_eq!(
        active(&mut machine)?,
        [("default", "-"), ("new", "NR"), ("spare", "-")].map(pair)
    );
    ensure!(machine.sh("hello")? == "hello 2\n");
    all_is_mounted(layout, Some("new"), &mut machine)?;
    machine.sh("be check new && be check default")?;
    nothing_is_wrong(layout, &mut machine)?;
    (life.in_new)(&mut machine)?;
    machine.sh("be rollback")?;

    machine.vm().reboot()?;
    assert_eq!(machine.boots()?, old);
    ensure!(machine.sh("hello")? == "hello 1\n");
    all_is_mounted(layout, None, &mut machine)?;
    (life.in_old)(&mut machine)?;
    machine.sh("be destroy -y spare new")?;
    assert_eq!(active(&mut machine)?, [("default", "NR")].map(pair));
    assert_eq!(machine.sh("cat /etc/fstab")?, fstab);
    machine.sh("be check default")?;
    nothing_is_wrong(layout, &mut machine)?;
    assert_eq!(foreign("/", |command| machine.sh(command))?, before);

    // What is on the disk now is what boots.
    machine.cut()?;
    machine.on()?;
    assert_eq!(machine.boots()?, old);
    Ok(())
}

fn as_installed(layout: Layout, disk: &Disk) -> Booted {
    Booted {
        root: format!("/{}", layout.root()),
        kernel: disk.lab.old_kernel.release.clone(),
    }
}

fn nothing_is_wrong(layout: Layout, machine: &mut Machine) -> Result<()> {
    let found = machine.sh("be --json doctor 2>/dev/null || true")?;
    let found: Value = serde_json::from_str(&found).with_context(|| found.clone())?;
    let problems = found["problems"].as_array().context("no list")?;
    let mut wrong = problems.iter().filter(|p| p["severity"] != "note");
    // As it was installed, its root is whatever the default subvolume is.
    let known = |p: &Value| layout == Layout::Suse && p["id"] == "fstab-subvol";
    ensure!(wrong.all(known), "{found:#}");
    Ok(())
}

/// What is not be's, of the system at `root`: its subvolumes, and all in /boot but for
/// GRUB's environment block for be, be's own lines in grub.cfg and what upgrades have built.
fn foreign(root: &str, mut sh: impl FnMut(&str) -> Result<String>) -> Result<[String; 2]> {
    let subvolumes = format!(
        "btrfs subvolume list -u '{root}' | sed '/ path @be.[.]built/d; s/^.* uuid //' | sort"
    );
    let boot = format!(
        "cd '{root}'/boot; find . -type f ! -name grub.cfg ! -path './be/*.env' -exec sha256sum {{}} + | sort -k 2; \
         sed '/^### BEGIN .*45_be/,/^### END .*45_be/d; /^$/d' grub/grub.cfg"
    );
    Ok([sh(&subvolumes)?, sh(&boot)?])
}

/// The type and the place in its file system of what is mounted at a path; nothing if
/// that is no mount point.
fn mounted(machine: &mut Machine, path: &str) -> Result<String> {
    let command = format!("findmnt -rno FSTYPE,FSROOT {path} || ! mountpoint -q {path}");
    Ok(machine.sh(&command)?.trim().to_owned())
}

/// Everything that fstab promises below the root is there: in the system that was
/// installed, or in an environment of it.
fn all_is_mounted(layout: Layout, name: Option<&str>, machine: &mut Machine) -> Result<()> {
    for (path, source) in layout.below() {
        let is = mounted(machine, path)?;
        let wanted = match (source, name) {
            // What belongs to packages.
            (Source::Subvolume(_), Some(name)) if ["/opt", "/var"].contains(path) => {
                format!("btrfs /@be/{name}/vol{path}")
            }
            (Source::Subvolume(subvolume), _) => format!("btrfs /{subvolume}"),
            (Source::Boot | Source::Esp, None) => format!("{} /", source.fstype()),
            (Source::Boot | Source::Esp, Some(_)) => String::new(),
        };
        assert_eq!(is, wanted, "{path}");
    }
    let at_boot = layout.below().contains(&("/boot", Source::Esp)) && name.is_none();
    let efi = if at_boot { "" } else { "vfat /" };
    assert_eq!(mounted(machine, "/efi")?, efi);
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

/// What other tests have already shown in parts, in another setting.
mod thorough {
    use super::*;

    #[test]
    #[ignore = "needs root and QEMU"]
    fn the_life_of_a_boot_on_ext4() -> Result<()> {
        emulated(|| {
            life(Life {
                layout: Layout::BootExt4,
                firmware: Firmware::Bios,
                in_new: &kernels_are_its_own,
                in_old: &|_| Ok(()),
            })
        })
    }

    #[test]
    #[ignore = "needs root and QEMU"]
    fn the_life_of_many_subvolumes() -> Result<()> {
        emulated(|| {
            let (file, content) = DATABASE;
            let file = format!("/{file}");
            life(Life {
                layout: Layout::AtMany,
                firmware: Firmware::Bios,
                in_new: &|machine| {
                    // One for all environments, also where the root of the origin held it.
                    for (path, _) in nested() {
                        let path = path.display();
                        ensure!(machine.sh(&format!("cat '/{path}/made'"))? == format!("{path}\n"));
                    }
                    ensure!(machine.sh(&format!("cat {file}"))? == content);
                    for (path, how) in [
                        ("/var/lib/docker", "/@/var/lib/docker"),
                        ("/var/lib/machines", "/@/var/lib/machines"),
                        ("/var/lib/portables", "/@/var/lib/portables"),
                        ("/var/lib/postgresql", "/@/var/lib/postgresql"),
                    ] {
                        ensure!(mounted(machine, path)? == format!("btrfs {how}"), "{path}");
                    }
                    machine.sh(&format!(
                        "echo more >>{file}; echo new >/var/lib/docker/new; echo mine >/etc/mine"
                    ))?;
                    Ok(())
                },
                in_old: &|machine| {
                    let all = machine.sh(&format!("cat {file} /var/lib/docker/new"))?;
                    ensure!(all == format!("{content}more\nnew\n"), "{all}");
                    machine
                        .sh("rm /var/lib/docker/new; test ! -e /etc/mine")
                        .map(drop)
                },
            })
        })
    }

    #[test]
    #[ignore = "needs root and QEMU"]
    fn the_life_of_a_boot_on_the_esp() -> Result<()> {
        emulated(|| {
            life(Life {
                layout: Layout::EspBoot,
                firmware: Firmware::Uefi,
                in_new: &|machine| {
                    machine.sh("test -e /efi/EFI/BOOT/BOOTX64.EFI -a ! -e /boot/EFI")?;
                    let lab = &machine.disk.lab;
                    let (old, new) = (lab.old_kernel.release.clone(), &lab.new_kernel.release);
                    let own = format!("test -s /boot/vmlinuz-{new}");
                    machine.sh(&own)?;
                    machine.sh(&format!("be exec default -- test -s /boot/vmlinuz-{old}"))?;
                    machine
                        .sh("be create -e default third && be check third && be destroy -y third")
                        .map(drop)
                },
                in_old: &|_| Ok(()),
            })
        })
    }

    #[test]
    #[ignore = "needs root and QEMU"]
    fn the_life_of_suse() -> Result<()> {
        emulated(|| {
            life(Life {
                layout: Layout::Suse,
                firmware: Firmware::Uefi,
                in_new: &|machine| {
                    machine.sh("test -d /var/db/pkg/app-misc/hello-2")?;
                    machine.sh("test ! -e /var/db/pkg/app-misc/hello-1")?;
                    machine
                        .sh("for d in opt var srv home; do echo new >/$d/new; done")
                        .map(drop)
                },
                in_old: &|machine| {
                    machine.sh("test -d /var/db/pkg/app-misc/hello-1")?;
                    machine.sh("test ! -e /var/db/pkg/app-misc/hello-2")?;
                    machine
                        .sh("test ! -e /opt/new -a ! -e /var/new && rm /srv/new /home/new")
                        .map(drop)
                },
            })
        })
    }
}
