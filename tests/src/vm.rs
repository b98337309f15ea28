//! A machine of the lab with `be` on its disk.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::image::{Layout, Tree};
use xtask::lab::disk::{Disk, DiskMount};
use xtask::lab::luks::{Luks, PASSPHRASE};
use xtask::run::{cmd, run};
use xtask::vm::{BOOT_TIME, Booted, Firmware, Options, Vm};

use crate::be::Be;

/// For a command of `be` in the guest, and for GRUB to come up.
pub const SHORT: Duration = Duration::from_secs(240);
/// For Portage in the guest.
pub const LONG: Duration = Duration::from_secs(600);

/// How GRUB asks for a passphrase.
const ASKS: &str = "Enter passphrase for ";

/// A disk on which `be` is installed, and the machine on it while one runs.
pub struct Machine {
    // Dropped first.
    vm: Option<Vm>,
    /// The disk.
    pub disk: Disk,
    firmware: Firmware,
}

impl Machine {
    /// A disk with `be` in its root; what `prepare` does on the mounted disk is
    /// on it when the machine starts. Where the host knows no FAT and the layout
    /// needs it, only the root subvolume is mounted.
    ///
    /// # Errors
    /// The disk cannot be made, or the preparation fails.
    pub fn new(
        layout: Layout,
        firmware: Firmware,
        prepare: impl FnOnce(&DiskMount, &Be) -> Result<()>,
    ) -> Result<Self> {
        let disk = Disk::new(layout)?;
        {
            let mount = match layout.is_mountable() {
                true => disk.mount()?,
                false => disk.mount_subvolume(layout.root())?,
            };
            let be = Be::at(mount.root())?;
            mount.put_binary(be.program())?;
            prepare(&mount, &be)?;
        }
        let vm = None;
        Ok(Self { vm, disk, firmware })
    }

    /// A disk whose btrfs lies in LUKS. The host cannot mount it: `be` comes to it on a second
    /// one ([`Machine::receive`]).
    ///
    /// # Errors
    /// The disk cannot be made.
    pub fn encrypted(luks: Luks) -> Result<Self> {
        Ok(Self {
            vm: None,
            disk: Disk::encrypted(luks)?,
            firmware: Firmware::Uefi,
        })
    }

    /// Powers an encrypted one on, with `be` on its second disk.
    ///
    /// # Errors
    /// QEMU does not start.
    pub fn on_with_be(&mut self) -> Result<&mut Vm> {
        let be = Be::at(self.disk.dir())?;
        let tar = self.disk.dir().join("be.tar");
        run(cmd("tar", ["--create", "--owner=0", "--group=0", "--file"])
            .arg(&tar)
            .arg("-C")
            .arg(be.program().parent().context("be is in no directory")?)
            .arg(be.program().file_name().context("be has no name")?))?;
        let extra = vec![
            "-drive".to_owned(),
            format!("file={},format=raw,if=virtio", tar.display()),
        ];
        self.on_with(&Options {
            extra,
            ..Options::default()
        })
    }

    /// Takes `be` from the second disk.
    ///
    /// # Errors
    /// There is none.
    pub fn receive(&mut self) -> Result<()> {
        self.sh("tar -C /usr/local/sbin -xf /dev/vdb").map(drop)
    }

    /// Types the passphrase that GRUB asks for.
    ///
    /// # Errors
    /// It does not ask.
    pub fn unlock(&mut self) -> Result<()> {
        self.vm().expect(ASKS, SHORT)?;
        self.vm().send(&format!("{PASSPHRASE}\r"))
    }

    /// Powers it on.
    ///
    /// # Errors
    /// QEMU does not start.
    pub fn on(&mut self) -> Result<&mut Vm> {
        self.on_with(&Options::default())
    }

    /// Powers it on with other settings.
    ///
    /// # Errors
    /// QEMU does not start.
    pub fn on_with(&mut self, options: &Options) -> Result<&mut Vm> {
        let vm = Vm::boot(&self.disk.path(), self.firmware, options)?;
        Ok(self.vm.insert(vm))
    }

    /// Whether it is off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.vm.is_none()
    }

    /// Cuts its power.
    ///
    /// # Errors
    /// It does not run.
    pub fn cut(&mut self) -> Result<()> {
        self.vm.take().context("it is off")?.kill()
    }

    /// The machine that runs.
    ///
    /// # Panics
    /// It is off.
    pub fn vm(&mut self) -> &mut Vm {
        self.vm.as_mut().expect("it is off")
    }

    /// What boots when nobody touches a key.
    ///
    /// # Errors
    /// Nothing does.
    pub fn boots(&mut self) -> Result<Booted> {
        self.vm().wait_boot(BOOT_TIME)
    }

    /// Chooses the entry of an environment with the keys, and lets it boot.
    ///
    /// # Errors
    /// There is no such entry, or it does not boot.
    pub fn choose(&mut self, name: &str) -> Result<Booted> {
        self.vm().select(&format!("{name}: Linux"), SHORT)?;
        self.boots()
    }

    /// The titles in GRUB's menu, whose clock is stopped.
    ///
    /// # Errors
    /// No menu comes.
    pub fn titles(&mut self) -> Result<Vec<String>> {
        let menu = self.vm().wait_menu(SHORT)?;
        Ok(menu.into_iter().map(|entry| entry.title).collect())
    }

    /// Runs a command in the guest that has to succeed.
    ///
    /// # Errors
    /// It fails.
    pub fn sh(&mut self, command: &str) -> Result<String> {
        self.vm().check(command, SHORT)
    }

    /// Runs a verb of `be` in the guest and reads its document.
    ///
    /// # Errors
    /// It fails, or prints none.
    pub fn json(&mut self, arguments: &str) -> Result<Value> {
        let text = self.sh(&format!("be --json {arguments} 2>/dev/null"))?;
        let value: Value =
            serde_json::from_str(&text).with_context(|| format!("be {arguments}: {text}"))?;
        ensure!(value["schema"] == "be/v1", "{text}");
        Ok(value)
    }

    /// Mounts a subvolume, `""` for the top level, while the machine is off.
    ///
    /// # Errors
    /// The mount fails.
    pub fn mount(&mut self, subvolume: &str) -> Result<DiskMount> {
        ensure!(self.vm.is_none(), "the machine is on");
        self.disk.mount_subvolume(subvolume)
    }
}

/// Where the root of an environment is, as the kernel says it.
#[must_use]
pub fn root_of(name: &str) -> String {
    format!("/@be/{name}/root")
}

/// The initramfs of a kernel, from a root.
#[must_use]
pub fn initramfs(release: &str) -> String {
    format!("boot/initramfs-{release}.img")
}

/// Runs a test in an emulated machine, and once more if the guest's kernel crashed by
/// itself: the emulator, on a busy host, now and then hands it a register of somebody else.
/// What fails in any other way has failed.
///
/// # Errors
/// Those of the test.
pub fn emulated(test: impl Fn() -> Result<()>) -> Result<()> {
    match test() {
        Err(error) if format!("{error:?}").contains(" Oops: ") => {
            xtask::say(&format!("the guest's kernel crashed, once more: {error:#}"));
            test()
        }
        done => done,
    }
}
