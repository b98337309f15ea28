//! The switch, seen from outside: the entries, and which root and kernel they boot.

use anyhow::{Context, Result, ensure};
use be_tests::vm::{LONG, Machine, emulated, root_of};
use xtask::image::{Layout, Tree};
use xtask::vm::{Booted, Firmware};

#[test]
#[ignore = "needs root and QEMU"]
fn bios_the_root_in_a_subvolume() -> Result<()> {
    emulated(|| each_boots_its_own(Layout::AtSubvol, Firmware::Bios))
}

/// Both environments with what has to boot when they are chosen.
struct Both {
    machine: Machine,
    default: Booted,
    new: Booted,
}

fn each_boots_its_own(layout: Layout, firmware: Firmware) -> Result<()> {
    let machine = Machine::new(layout, firmware, |_, be| {
        be.run(&["init"]).done();
        be.run(&["upgrade", "new"]).done();
        Ok(())
    })?;
    let lab = &machine.disk.lab;
    let (old, new) = (
        lab.old_kernel.release.clone(),
        lab.new_kernel.release.clone(),
    );
    assert_ne!(old, new);
    let mut both = Both {
        default: Booted {
            root: format!("/{}", layout.root()),
            kernel: old,
        },
        new: Booted {
            root: root_of("new"),
            kernel: new,
        },
        machine,
    };
    both.machine.on()?;
    let is = |what: Result<Booted>, wanted: &Booted| -> Result<()> {
        assert_eq!(&what?, wanted);
        Ok(())
    };

    is(both.machine.boots(), &both.new)?;
    both.verbs_agree("new", "new")?;

    both.machine.vm().reboot()?;
    both.entries_are_there()?;
    is(both.machine.choose("default"), &both.default)?;
    both.verbs_agree("default", "new")?;
    both.machine.sh("be activate default")?;

    both.machine.vm().reboot()?;
    is(both.machine.choose("new"), &both.new)?;
    both.verbs_agree("new", "default")?;
    both.machine.sh("be activate new")?;

    both.machine.vm().reboot()?;
    is(both.machine.boots(), &both.new)?;
    both.machine.sh("be rollback")?;

    both.machine.vm().reboot()?;
    is(both.machine.boots(), &both.default)?;
    both.verbs_agree("default", "default")
}

impl Both {
    /// The environments come last, the newest first, below the user's own entries; then their
    /// submenu.
    fn entries_are_there(&mut self) -> Result<()> {
        let titles = self.machine.titles()?;
        let (own, ours) = titles.split_at(titles.len().saturating_sub(3));
        ensure!(
            own.iter().any(|title| title == "Gentoo GNU/Linux"),
            "{titles:?}"
        );
        for (title, name, kernel) in [
            (&ours[0], "new", &self.new.kernel),
            (&ours[1], "default", &self.default.kernel),
        ] {
            let start = format!("{name}: Linux {kernel}, 20");
            ensure!(title.starts_with(&start), "{start}: {titles:?}");
        }
        ensure!(ours[2] == "Older kernels and rescue", "{titles:?}");
        Ok(())
    }

    /// What `be` says in the guest of what runs and of what boots next.
    fn verbs_agree(&mut self, running: &str, next: &str) -> Result<()> {
        let kernel = match running {
            "new" => &self.new.kernel,
            _ => &self.default.kernel,
        };
        let uname = self.machine.sh("uname -r")?;
        ensure!(uname.trim() == kernel, "{uname}");

        let status = self.machine.json("status")?;
        ensure!(status["running"] == running, "{status}");
        ensure!(status["next"] == next, "{status}");
        ensure!(status["hooked"] == true, "{status}");

        let list = self.machine.sh("be list -H")?;
        for name in ["default", "new"] {
            let line = list
                .lines()
                .map(|line| line.split('\t').collect::<Vec<_>>())
                .find(|fields| fields[0] == name)
                .with_context(|| format!("no {name}: {list}"))?;
            let active = match (name == running, name == next) {
                (true, true) => "NR",
                (true, false) => "N",
                (false, true) => "R",
                (false, false) => "-",
            };
            ensure!(line[1] == active, "{list}");
            ensure!(line[2] == if name == running { "/" } else { "-" }, "{list}");
            self.machine.sh(&format!("be check {name}"))?;
        }
        Ok(())
    }
}

/// In the real root of a system that has booted, and not in a chroot of it.
#[test]
#[ignore = "needs root and QEMU"]
fn packages_are_merged_into_what_runs() -> Result<()> {
    emulated(|| {
        let mut machine = Machine::new(Layout::AtSubvol, Firmware::Bios, |_, _| Ok(()))?;
        machine.on()?;
        machine.boots()?;
        machine.sh("be init")?;
        ensure!(machine.sh("hello")? == "hello 1\n");
        let live = "be upgrade --live new -- app-misc/hello";
        let told = machine.vm().check(live, LONG)?;
        ensure!(told.contains("be rollback before-new"), "{told}");
        ensure!(machine.sh("hello")? == "hello 2\n");
        // What only emerge saw is not there.
        machine.sh("! mountpoint -q /run/be/built && test -z \"$(ls /run/be/built)\"")?;

        machine.sh("be rollback")?;
        machine.vm().reboot()?;
        assert_eq!(machine.boots()?.root, root_of("before-new"));
        ensure!(machine.sh("hello")? == "hello 1\n");
        Ok(())
    })
}

/// What others show in another setting.
mod thorough {
    use super::*;

    #[test]
    #[ignore = "needs root and QEMU"]
    fn an_upgrade_in_the_machine_itself() -> Result<()> {
        emulated(|| {
            let mut machine = Machine::new(Layout::FedoraRoot, Firmware::Bios, |_, _| Ok(()))?;
            machine.on()?;
            assert_eq!(machine.boots()?.root, "/root");
            machine.sh("be init")?;
            let start = std::time::Instant::now();
            let told = machine
                .vm()
                .check("be upgrade new -- app-misc/hello", LONG)?;
            xtask::say(&format!("upgrade in the machine: {:.0?}", start.elapsed()));
            ensure!(told.contains("new boots next"), "{told}");
            ensure!(machine.sh("hello")? == "hello 1\n");

            machine.vm().reboot()?;
            assert_eq!(machine.boots()?.root, root_of("new"));
            ensure!(machine.sh("hello")? == "hello 2\n");
            // The other subvolume of this layout belongs to both.
            machine.sh("mountpoint -q /home")?;
            let status = machine.json("status")?;
            ensure!(
                status["running"] == "new" && status["next"] == "new",
                "{status}"
            );
            let built = "mount -o ro,subvolid=5 \"$(findmnt -n -o SOURCE / | sed 's/\\[.*//')\" /mnt && \
                         ls /mnt/@be/.built; umount /mnt";
            assert_eq!(machine.sh(built)?.lines().count(), 1);
            machine.sh("be confirm")?;
            assert_eq!(machine.sh(built)?, "");
            machine.cut()?;
            let top = machine.mount("")?;
            ensure!(top.path("/root/usr/bin/hello").is_file());
            ensure!(!top.path("/@be/.work/new/new").exists());
            Ok(())
        })
    }

    #[test]
    #[ignore = "needs root and QEMU"]
    fn uefi_the_root_is_the_top_level() -> Result<()> {
        emulated(|| each_boots_its_own(Layout::TopLevel, Firmware::Uefi))
    }
}
