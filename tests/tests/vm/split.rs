//! A directory becomes a subvolume at the next boot, also when the power goes before.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use be_tests::Seeded;
use be_tests::vm::{Machine, SHORT, emulated, root_of};
use xtask::image::Layout;
use xtask::vm::Firmware;

/// How many times the power is cut.
const CUTS: usize = 5;

fn machine() -> Result<Machine> {
    Machine::new(Layout::AtSubvol, Firmware::Bios, |_, be| {
        be.run(&["init"]).done();
        Ok(())
    })
}

/// What other tests have already shown in parts, in another setting.
mod thorough {
    use super::*;

    #[test]
    #[ignore = "needs root and QEMU"]
    fn the_switch_is_at_the_next_boot() -> Result<()> {
        emulated(|| {
            let mut machine = machine()?;
            machine.on()?;
            machine.boots()?;
            machine.sh("mkdir -p /srv/db && echo 1 >/srv/db/rows")?;
            let split = machine.json("layout split /srv/db late")?;
            assert_eq!(split["subvolume"], "/@srv-db");
            machine.sh("! grep -q ' /srv/db ' /proc/mounts && be layout | grep -q 'next boot'")?;
            machine.vm().reboot()?;
            machine.boots()?;
            machine.sh("grep ' /srv/db ' /proc/mounts | grep -q subvol=/@srv-db")?;
            machine.sh("! be layout | grep -q 'next boot' && grep -q 1 /srv/db/rows")?;
            machine.sh("be create new && echo 2 >/srv/db/rows && be activate new")?;
            // The command that is printed takes the old files, and no others.
            machine.sh(
                "mount --bind / /mnt && find /mnt/srv/db -xdev -mindepth 1 -delete; \
             ! ls -A /mnt/srv/db | grep . && umount /mnt && grep -q 2 /srv/db/rows",
            )?;
            machine.vm().reboot()?;
            assert_eq!(machine.boots()?.root, root_of("new"));
            machine.sh("grep ' /srv/db ' /proc/mounts | grep -q /@be/new/vol/srv-db")?;
            machine.sh("grep -q 2 /srv/db/rows")?;
            Ok(())
        })
    }

    #[test]
    #[ignore = "needs root and QEMU"]
    fn the_power_fails_while_it_is_split() -> Result<()> {
        emulated(|| {
            let mut machine = machine()?;
            let mut seeded = Seeded::new(1_122);
            machine.on()?;
            machine.boots()?;
            machine.sh("mkdir -p /srv/db && cp -a /usr/share /srv/db/ && sync")?;
            let sum = "cd /srv/db && find . -type f | sort | xargs -d '\\n' md5sum | md5sum; cd /";
            let good = machine.sh(sum)?;
            let mut split = 0;
            for cut in 0..CUTS {
                let command = "be layout split /srv/db cloned && printf 'it has %s\\n' ended\n";
                machine.vm().send(command)?;
                let after = Duration::from_millis(seeded.below(5000));
                match cut {
                    // What has ended is on the disk.
                    0 => drop(machine.vm().expect("it has ended", SHORT)?),
                    _ => sleep(after),
                }
                machine.cut()?;
                machine.on()?;
                machine.boots()?;
                assert_eq!(machine.sh(sum)?, good);
                machine.sh("be describe default x")?;
                machine.sh("! be doctor --json | grep -q leftover")?;
                let mounted = machine.sh("grep -c ' /srv/db ' /proc/mounts || true")?;
                xtask::say(&format!("{after:?}: {} mounts", mounted.trim()));
                ensure!(cut > 0 || mounted.trim() == "1", "it was done");
                if mounted.trim() == "1" {
                    split += 1;
                    // From the beginning.
                    machine.sh("umount /srv/db && sed -i '/@srv-db/d' /etc/fstab")?;
                    machine.sh(
                        "mount -o subvolid=5 /dev/disk/by-uuid/$(findmnt -no UUID /) /mnt && \
                     btrfs subvolume delete /mnt/@srv-db && umount /mnt && sync",
                    )?;
                }
            }
            xtask::say(&format!("{split} of {CUTS} were complete"));
            ensure!(split > 0);
            Ok(())
        })
    }
}
