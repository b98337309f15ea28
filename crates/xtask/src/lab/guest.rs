//! GRUB by its own installer, in a machine whose disk this is: for a layout
//! whose /boot the host may not be able to mount, and where what the installer
//! and grub-mkconfig find out about the disk is the point.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::image::{Layout, Source};
use crate::lab::Lab;
use crate::run::{cmd, run};
use crate::temp;
use crate::vm::{BOOT_TIME, Firmware, Options, Vm};

/// The installer copies hundreds of files; it is emulated.
const LIMIT: Duration = Duration::from_secs(600);

/// Boots the disk's kernel without a boot loader, installs GRUB for what the
/// layout boots with and writes grub.cfg.
pub fn install(disk: &Path, lab: &Lab, layout: Layout, uuid: &str) -> Result<()> {
    let temp = temp::dir(1 << 24)?;
    let release = &lab.old_kernel.release;
    let [kernel, initramfs] = [
        format!("./boot/vmlinuz-{release}"),
        format!("./boot/initramfs-{release}.img"),
    ];
    run(cmd("tar", ["--extract", "--file"])
        .arg(&lab.root_tar)
        .arg("-C")
        .arg(temp.path())
        .args([&kernel, &initramfs]))
    .context("take the kernel from the root")?;
    let path = |file: &str| temp.path().join(file).display().to_string();
    let options = Options {
        extra: vec![
            "-kernel".to_owned(),
            path(&kernel),
            "-initrd".to_owned(),
            path(&initramfs),
            "-append".to_owned(),
            format!(
                "root=UUID={uuid} rootflags={} ro console=ttyS0 panic=2 no_timer_check quiet",
                layout.options()
            ),
        ],
        ..Options::default()
    };
    let mut vm = Vm::boot(disk, Firmware::Bios, &options)?;
    vm.wait_boot(BOOT_TIME)?;
    let esp = layout
        .below()
        .iter()
        .find(|(_, source)| *source == Source::Esp);
    let esp = esp.map_or("/efi", |(path, _)| path);
    for firmware in layout.firmwares() {
        let command = match firmware {
            Firmware::Bios => {
                "grub-install --target=i386-pc --boot-directory=/boot /dev/vda".to_owned()
            }
            Firmware::Uefi => format!(
                "grub-install --target=x86_64-efi --efi-directory={esp} --boot-directory=/boot \
                 --removable --no-nvram"
            ),
        };
        vm.check(&command, LIMIT)?;
    }
    vm.check("grub-mkconfig -o /boot/grub/grub.cfg", LIMIT)?;
    vm.poweroff()
}
