//! GRUB's own files in a subvolume of their own: the loader is installed from there, and what
//! lay in the environment is gone.

use anyhow::{Result, ensure};
use be_tests::vm::{LONG, Machine, emulated};
use xtask::image::Layout;
use xtask::vm::Firmware;

const OLD_FILES_GO: &str = "mount -o subvolid=5 \"$(findmnt -n -o SOURCE / | sed 's/\\[.*//')\" /mnt && \
    rm -r /mnt/@/boot/grub/* /mnt/@be/new/root/boot/grub/* && umount /mnt && sync";

mod thorough {
    use super::*;

    #[test]
    #[ignore = "needs root and QEMU"]
    fn bios_grub_moves_out_of_the_environments() -> Result<()> {
        emulated(|| {
            let mut machine = Machine::new(Layout::AtSubvol, Firmware::Bios, |_, be| {
                be.run(&["init"]).done();
                Ok(())
            })?;
            machine.on()?;
            assert_eq!(machine.boots()?.root, "/@");
            let moved = machine.sh("be init --move-grub 2>&1")?;
            let words = "mount /boot/grub && grub-install /dev/vda";
            ensure!(
                moved.contains("/boot/grub is /@boot-grub from the next boot on")
                    && moved.contains(words),
                "{moved}"
            );
            machine.sh("be create new && be activate --no-trial new")?;

            // Until somebody installs it, the old one goes on.
            machine.vm().reboot()?;
            assert_eq!(machine.boots()?.root, "/@be/new/root");
            assert_eq!(
                machine.sh("findmnt -no FSROOT /boot/grub")?,
                "/@boot-grub\n"
            );

            machine.vm().check("grub-install /dev/vda", LONG)?;
            machine
                .vm()
                .check("grub-mkconfig -o /boot/grub/grub.cfg", LONG)?;
            machine.sh(OLD_FILES_GO)?;
            machine.vm().reboot()?;
            let titles = machine.titles()?;
            ensure!(
                titles.iter().any(|t| t.starts_with("default: ")),
                "{titles:?}"
            );
            assert_eq!(machine.choose("default")?.root, "/@");
            ensure!(machine.sh("be status")?.contains("default"));
            let (_, doctor) = machine.vm().shell("be doctor 2>&1", LONG)?;
            ensure!(!doctor.contains("grub"), "{doctor}");
            let again = machine.vm().shell("be init --move-grub", LONG)?;
            assert_eq!(again.0, 77, "{}", again.1);
            Ok(())
        })
    }
}
