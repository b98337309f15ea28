//! The bootable disk, from power-on: needs root and QEMU,
//! `cargo test -p xtask -- --ignored`.

use std::time::{Duration, Instant};

use anyhow::Result;
use xtask::image::{Layout, Tree};
use xtask::lab::disk::Disk;
use xtask::vm::{BOOT_TIME, Firmware, Options, Vm};

const SHORT: Duration = Duration::from_secs(240);
/// Those on one file system with at most one other subvolume; how the others
/// boot is looked at more closely in tests/tests/vm/laid_out.rs.
const PLAIN: [Layout; 3] = [Layout::AtSubvol, Layout::FedoraRoot, Layout::TopLevel];

fn boots(layout: Layout, firmware: Firmware) -> Result<()> {
    let start = Instant::now();
    let disk = Disk::new(layout)?;
    let made = start.elapsed();
    let mut vm = Vm::boot(&disk.path(), firmware, &Options::default())?;
    let booted = vm.wait_boot(BOOT_TIME)?;
    let up = start.elapsed() - made;
    xtask::say(&format!(
        "{layout:?} {firmware:?}: disk {made:.1?}, boot {up:.1?}"
    ));
    assert_eq!(booted.root, format!("/{}", layout.root()));
    assert_eq!(booted.kernel, disk.lab.old_kernel.release);

    let is_uefi = vm.shell("test -d /sys/firmware/efi", SHORT)?.0 == 0;
    assert_eq!(is_uefi, firmware == Firmware::Uefi);
    assert_eq!(
        vm.shell("echo \"a'b\"; echo c >&2; exit 3", SHORT)?,
        (3, "a'b\nc\n".to_owned())
    );
    assert_eq!(vm.check("mountpoint -q /efi && hello", SHORT)?, "hello 1\n");
    let long = "x".repeat(10_000);
    assert_eq!(vm.check(&format!("printf %s {long}"), SHORT)?, long);
    vm.check("echo kept >/root/mark", SHORT)?;
    vm.poweroff()?;
    assert_eq!(disk.mount()?.read("/root/mark")?, "kept\n");
    Ok(())
}

#[test]
#[ignore = "needs root and QEMU"]
fn bios_boots_the_plain_layouts() -> Result<()> {
    PLAIN
        .into_iter()
        .try_for_each(|layout| boots(layout, Firmware::Bios))
}

#[test]
#[ignore = "needs root and QEMU"]
fn uefi_boots_the_plain_layouts() -> Result<()> {
    PLAIN
        .into_iter()
        .try_for_each(|layout| boots(layout, Firmware::Uefi))
}

#[test]
#[ignore = "needs root and QEMU"]
fn the_menu_is_obeyed_and_a_panic_returns_to_it() -> Result<()> {
    let disk = Disk::new(Layout::AtSubvol)?;
    {
        let mount = disk.mount()?;
        let entry = |title: &str, init: &str| {
            format!(
                "menuentry '{title}' {{\n\
                 linux /@/boot/vmlinuz-{0} root=UUID={1} rootflags=subvol=@ ro \
                 console=ttyS0 panic=2 quiet init={init}\n\
                 initrd /@/boot/initramfs-{0}.img\n}}\n",
                disk.lab.old_kernel.release,
                disk.uuid()
            )
        };
        mount.append("/boot/grub/grub.cfg", entry("dead one", "/nowhere"))?;
        for number in 1..=20 {
            mount.append(
                "/boot/grub/grub.cfg",
                format!("menuentry 'filler {number}' {{ true; }}\n"),
            )?;
        }
        mount.append("/boot/grub/grub.cfg", "submenu 'more below' {\n")?;
        mount.append("/boot/grub/grub.cfg", entry("good one", "/sbin/init"))?;
        mount.append("/boot/grub/grub.cfg", "}\n")?;
    }
    for firmware in [Firmware::Bios, Firmware::Uefi] {
        let mut vm = Vm::boot(&disk.path(), firmware, &Options::default())?;
        vm.select("dead one", SHORT)?;
        vm.expect("no /nowhere in the root", BOOT_TIME)?;
        vm.select("more below", SHORT)?;
        vm.select("good one", SHORT)?;
        assert_eq!(vm.wait_boot(BOOT_TIME)?.root, "/@");
        assert!(
            vm.check("cat /proc/cmdline", SHORT)?
                .contains("init=/sbin/init")
        );
        vm.reboot()?;
        assert_eq!(vm.wait_menu(SHORT)?[0].title, "Gentoo GNU/Linux");
        vm.kill()?;
    }
    Ok(())
}
