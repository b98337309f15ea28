//! GRUB for a bootable disk, BIOS and UEFI, as its own installer would leave it.
//!
//! The images are made by the root's own grub-mkimage. They are put in place by
//! hand because grub-install works only on disks that the machine itself has.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::chroot::Chroot;
use crate::run::{cmd, run};

const SECTOR: u64 = 512;
/// In boot.img (grub include/grub/i386/pc/boot.h, GRUB_BOOT_MACHINE_*): where
/// the first sector of core.img is noted, and where the partition table is.
const KERNEL_SECTOR: usize = 0x5c;
const TABLE: std::ops::Range<usize> = 440..512;
/// The last entry of the block list in the first sector of core.img, and the
/// segment that the rest is loaded to.
const BLOCKLIST: usize = 512 - 12;
const CORE_SEGMENT: u16 = 0x820;

/// The modules that reach and read a btrfs partition of a GPT disk.
const CORE: &[&str] = &["part_gpt", "btrfs", "fat", "search_fs_uuid"];

/// Puts GRUB's own files into the root's /boot/grub, where grub-install puts them.
pub fn install_files(root: &Path) -> Result<()> {
    let grub = root.join("boot/grub");
    fs::create_dir_all(&grub).with_context(|| format!("make {}", grub.display()))?;
    for platform in ["i386-pc", "x86_64-efi"] {
        run(cmd("cp", ["-r"])
            .arg(root.join("usr/lib/grub").join(platform))
            .arg(&grub))?;
    }
    let env = grub.join("grubenv");
    if !env.exists() {
        Chroot::new(root).run(&["grub-editenv", "/boot/grub/grubenv", "create"])?;
    }
    Ok(())
}

/// Installs for the BIOS: boot.img into the first sector, core.img into the
/// BIOS boot partition of `sectors` sectors at `first`. `home` is the path of
/// /boot/grub from the top of the file system on partition `partition`.
pub fn bios(
    disk: &Path,
    root: &Path,
    partition: u32,
    home: &str,
    first: u64,
    sectors: u64,
) -> Result<()> {
    let inside = "/boot/grub/i386-pc/core.img";
    let mut argv = vec!["grub-mkimage", "-O", "i386-pc", "-o", inside, "-p"];
    let prefix = format!("(,gpt{partition}){home}");
    argv.push(&prefix);
    argv.push("biosdisk");
    argv.extend(CORE);
    Chroot::new(root).run(&argv)?;
    let core_path = root.join(inside.trim_start_matches('/'));
    let mut core = fs::read(&core_path).with_context(|| format!("read {}", core_path.display()))?;
    core.resize(core.len().next_multiple_of(SECTOR as usize), 0);
    let length = core.len() as u64 / SECTOR;
    if length > sectors {
        bail!("core.img needs {length} sectors, the BIOS boot partition has {sectors}");
    }
    core[BLOCKLIST..BLOCKLIST + 8].copy_from_slice(&(first + 1).to_le_bytes());
    let rest = u16::try_from(length - 1).context("core.img is too long")?;
    core[BLOCKLIST + 8..BLOCKLIST + 10].copy_from_slice(&rest.to_le_bytes());
    core[BLOCKLIST + 10..BLOCKLIST + 12].copy_from_slice(&CORE_SEGMENT.to_le_bytes());

    let boot_path = root.join("usr/lib/grub/i386-pc/boot.img");
    let mut boot = fs::read(&boot_path).with_context(|| format!("read {}", boot_path.display()))?;
    let file = File::options()
        .read(true)
        .write(true)
        .open(disk)
        .with_context(|| format!("open {}", disk.display()))?;
    let mut table = [0; TABLE.end - TABLE.start];
    file.read_exact_at(&mut table, TABLE.start as u64)?;
    boot[TABLE].copy_from_slice(&table);
    boot[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&first.to_le_bytes());
    file.write_all_at(&boot, 0)?;
    file.write_all_at(&core, first * SECTOR)
        .with_context(|| format!("write {}", disk.display()))
}

/// Installs for UEFI on the removable path of the ESP on the device `esp`, with
/// mtools: not every kernel that builds a lab knows FAT.
pub fn efi(esp: &Path, root: &Path, uuid: &str, home: &str) -> Result<()> {
    let config = root.join("boot/grub/x86_64-efi/load.cfg");
    fs::write(
        &config,
        format!("search.fs_uuid {uuid} root\nset prefix=($root)'{home}'\n"),
    )
    .with_context(|| format!("write {}", config.display()))?;
    let core = "/boot/grub/x86_64-efi/core.efi";
    let mut argv = vec!["grub-mkimage", "-O", "x86_64-efi", "-o", core, "-p", home];
    argv.extend(["-c", "/boot/grub/x86_64-efi/load.cfg"]);
    argv.extend(CORE);
    Chroot::new(root).run(&argv)?;
    run(cmd("mmd", ["-i"]).arg(esp).args(["::/EFI", "::/EFI/BOOT"]))?;
    run(cmd("mcopy", ["-i"])
        .arg(esp)
        .arg(root.join(core.trim_start_matches('/')))
        .arg("::/EFI/BOOT/BOOTX64.EFI"))?;
    Ok(())
}
