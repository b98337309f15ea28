//! A disk whose btrfs lies inside LUKS, /boot with it: GRUB asks for the passphrase, and the
//! initramfs has a key of its own.
//!
//! It is made in a machine: not every kernel that builds a lab has device mapper.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cache::{Key, artifact};
use crate::chroot::Chroot;
use crate::image::{Layout, Tree};
use crate::lab::debian::Apt;
use crate::lab::disk::{self, Disk};
use crate::lab::kernel::{self, More};
use crate::lab::{Kernel, Lab, base, recipes};
use crate::run::{cmd, run};
use crate::temp;
use crate::vm::{BOOT_TIME, Firmware, Options, Vm};

/// What GRUB asks for.
pub const PASSPHRASE: &str = "open sesame";
/// What the initramfs opens the container with.
const KEY: &str = "the key of the lab, which is no secret";
/// Beside those of every kernel of the lab.
const MODULES: &[&str] = &["dm-crypt", "xts"];
const PACKAGES: [&str; 4] = [
    "cryptsetup-bin",
    "libcryptsetup12",
    "libjson-c5",
    "libpopt0",
];
const CRYPTSETUP: &str = "/usr/sbin/cryptsetup";
/// The whole root is read, encrypted and written; it is emulated.
const LIMIT: Duration = Duration::from_secs(900);

/// The format of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Luks {
    /// LUKS1.
    One,
    /// LUKS2, its keys derived as GRUB 2.12 can: by PBKDF2.
    Two,
}

impl Luks {
    /// The name in file names.
    fn name(self) -> &'static str {
        match self {
            Self::One => "luks1",
            Self::Two => "luks2",
        }
    }
}

/// The cached disk: a directory with `disk.img` and `uuid`, of [`Layout::AtSubvol`] and for
/// UEFI.
///
/// # Errors
/// Something cannot be fetched, or a machine does not do what it should.
pub(super) fn ensure(lab: &Lab, luks: Luks) -> Result<PathBuf> {
    let plain = disk::ensure(lab, Layout::AtSubvol)?;
    let plain = plain.file_name().context("a cache without a name")?;
    let name = format!("disk-{}", luks.name());
    let key = Key::new(&name)
        .with(include_str!("luks.rs"))
        .with(include_str!("debian.rs"))
        .with(plain.as_encoded_bytes())
        .with_tree(&recipes().join("luks"))?;
    artifact(&name, key, |out| build(out, luks))
}

fn build(out: &Path, luks: Luks) -> Result<()> {
    let disk = Disk::new(Layout::AtSubvol)?;
    let room = disk.add_partition()?;
    let temp = temp::dir(1 << 29)?;
    let kernel = prepare(&disk, temp.path())?;
    let boot = temp.path().join(&kernel.package).join("boot");
    let file = |name: &str| boot.join(name).display().to_string();
    let options = Options {
        extra: vec![
            "-kernel".to_owned(),
            file(&format!("vmlinuz-{}", kernel.release)),
            "-initrd".to_owned(),
            file(&format!("initramfs-{}.img", kernel.release)),
            "-append".to_owned(),
            format!(
                "root=UUID={} rootflags={} ro console=ttyS0 panic=2 no_timer_check quiet",
                disk.uuid(),
                disk.layout().options()
            ),
        ],
        ..Options::default()
    };
    let mut vm = Vm::boot(&disk.path(), Firmware::Uefi, &options)?;
    vm.wait_boot(BOOT_TIME)?;
    for command in commands(luks, disk.uuid(), room) {
        vm.check(&command, LIMIT)?;
    }
    vm.poweroff()?;
    disk.forget_plain()?;
    fs::write(out.join("uuid"), disk.uuid())?;
    run(cmd("cp", ["--sparse=always"]).arg(disk.path()).arg(out))?;
    Ok(())
}

/// Puts cryptsetup and a kernel that can unlock into the root; the kernel's tree is below
/// `temp` as well.
fn prepare(disk: &Disk, temp: &Path) -> Result<Kernel> {
    let mount = disk.mount_subvolume(disk.layout().root())?;
    let root = mount.root();
    let apt = Apt::new(base::SUITE, temp)?;
    for package in PACKAGES {
        apt.unpack(package, root)?;
    }
    let files = temp.join("files");
    unlocker(root, &files)?;
    let work = temp.join("kernel");
    fs::create_dir(&work)?;
    let (full, package) = kernel::fetch(base::SUITE, &work)?;
    let more = More {
        modules: MODULES,
        files: Some(&files),
    };
    let kernel = kernel::reduce(&full, package, &more, temp, &work)?;
    run(
        cmd("find", [root.join("boot"), root.join("usr/lib/modules")])
            .args(["-mindepth", "1", "-maxdepth", "1"])
            .args([
                "(",
                "-name",
                "*-cloud-*",
                ")",
                "-exec",
                "rm",
                "-r",
                "{}",
                "+",
            ]),
    )?;
    let tree = temp.join(&kernel.package);
    for (from, to) in [("boot/.", "boot"), ("lib/modules/.", "usr/lib/modules")] {
        run(cmd("cp", ["-r"]).arg(tree.join(from)).arg(root.join(to)))?;
    }
    Ok(kernel)
}

/// What the initramfs needs beside modules: cryptsetup with its libraries, the key, and the
/// script that uses them.
fn unlocker(root: &Path, files: &Path) -> Result<()> {
    let libraries = Chroot::new(root).run(&["ldd", CRYPTSETUP])?;
    let libraries = libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for path in libraries.chain([CRYPTSETUP]) {
        let target = files.join(path.trim_start_matches('/'));
        let dir = target.parent().context("a program in no directory")?;
        fs::create_dir_all(dir)?;
        run(cmd("cp", ["-L"])
            .arg(root.join(path.trim_start_matches('/')))
            .arg(&target))?;
    }
    fs::copy(recipes().join("luks/unlock"), files.join("unlock")).context("copy unlock")?;
    fs::write(files.join("key"), KEY).context("write the key")
}

/// Encrypts the running root: it moves into the container while it is in use.
fn commands(luks: Luks, uuid: &str, partition: u32) -> Vec<String> {
    let device = format!("/dev/vda{partition}");
    let (format, kdf) = match luks {
        Luks::One => ("luks1", ""),
        Luks::Two => ("luks2", "--pbkdf pbkdf2"),
    };
    let options = format!("-q {kdf} --pbkdf-force-iterations 1000");
    let passphrase = "/run/passphrase";
    vec![
        format!("printf %s '{PASSPHRASE}' >{passphrase} && printf %s '{KEY}' >/run/key"),
        format!("cryptsetup luksFormat --type {format} {options} {device} {passphrase}"),
        format!("cryptsetup luksAddKey {options} --key-file {passphrase} {device} /run/key"),
        format!("cryptsetup open --key-file /run/key {device} root"),
        "btrfs replace start -B -f 1 /dev/mapper/root /".to_owned(),
        format!("ln -sfn /dev/mapper/root /dev/disk/by-uuid/{uuid}"),
        format!(
            "sed -i \"s/^GRUB_CMDLINE_LINUX=\\\"/&crypt_root=UUID=$(cryptsetup luksUUID {device}) /\" \
             /etc/default/grub && echo GRUB_ENABLE_CRYPTODISK=y >>/etc/default/grub"
        ),
        "grub-install --target=x86_64-efi --efi-directory=/efi --boot-directory=/boot \
         --removable --no-nvram"
            .to_owned(),
        "grub-mkconfig -o /boot/grub/grub.cfg".to_owned(),
    ]
}
