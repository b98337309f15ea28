//! The selection in the menu, by real GRUB on what it can write: once, on trial, and back to the default.
//!
//! The environments are snapshots, the menu is rendered here and the block written as the library writes it: no verb of
//! `be` takes part.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use be_grub::envblk::device::{Header, OFFSET};
use be_grub::envblk::{EnvBlock, FILE_SIZE, HEADER_SIZE, file};
use be_grub::hook;
use be_grub::menu::{Entry, Menu, More};
use be_grub::selection::{Boot, Cause, Choice, Failed, Format, Place, Refused, Selection, Trial};
use be_tests::vm::{LONG, Machine, SHORT, emulated, root_of};
use xtask::image::{Layout, Tree};
use xtask::lab::disk::DiskMount;
use xtask::lab::grub::newer;
use xtask::loopdev::Mount;
use xtask::run::{cmd, run};
use xtask::vm::Firmware;

/// The name of the root that is there from the start.
const DEFAULT: &str = "old";
/// Snapshots of it: one as it is, one whose init ends at once, one without its kernel, one with a piece of its
/// initramfs, one with more initramfs than memory.
const OTHERS: [&str; 5] = ["good", "panics", "nokernel", "torn", "large"];

/// The block from the top of its filesystem.
const BLOCK: &str = "/be/test.env";
/// The device of the root, for the block in its header.
const HEADER: &str = "/dev/vda3";
/// What a kernel says when its first process ends, or cannot be started.
const PANIC: &str = "Kernel panic - not syncing";

struct Lab {
    machine: Machine,
    /// The block as the guest sees it.
    block: &'static str,
    /// Panics so far.
    panics: usize,
}

fn trial(name: &str, left: u8) -> Choice {
    Choice {
        trial: Some(Trial {
            name: name.into(),
            left,
        }),
        ..Choice::default()
    }
}

fn failed(name: &str, cause: Cause) -> Choice {
    Choice {
        failed: Some(Failed {
            name: name.into(),
            cause,
        }),
        ..Choice::default()
    }
}

fn fallback(name: &str, cause: Cause) -> Boot {
    Boot::Fallback(Failed {
        name: name.into(),
        cause,
    })
}

impl Lab {
    fn new(layout: Layout, firmware: Firmware, choice: &Choice) -> Result<Self> {
        let is_ext4 = layout == Layout::BootExt4;
        let block = match (is_ext4, firmware) {
            (true, _) => "/boot/be/test.env",
            (false, Firmware::Uefi) => "/efi/be/test.env",
            (false, Firmware::Bios) => "/be/test.env",
        };
        let machine = Machine::new(layout, firmware, |mount, _| {
            let (place, uuid) = prepare_block(mount, firmware, is_ext4, choice)?;
            let kernel = mount.read("/boot/grub/grub.cfg")?;
            let release = release(&kernel)?;
            let target = mount.root().with_file_name("top");
            fs::create_dir(&target)?;
            let top = Mount::new(mount.device().node(), &target, "btrfs", "subvolid=5")?;
            for name in OTHERS {
                environment(top.path(), mount.root(), name, &release)?;
            }
            let boot = mount.root().join("boot");
            let own = top.path().join("@be").join(DEFAULT).join("root/boot");
            fs::create_dir_all(&own)?;
            for file in files(&release) {
                fs::copy(boot.join(&file), own.join(&file))?;
            }
            let dir = top.path().join("@be/.grub");
            fs::create_dir_all(&dir)?;
            let mut later = place.clone();
            if !is_ext4 && firmware == Firmware::Bios {
                later = Place::Header;
                let device = File::options()
                    .read(true)
                    .write(true)
                    .open(mount.device().node())?;
                Header::of(device)?.update(|block| choice.write(block))?;
            }
            for (default, file, place) in [
                (DEFAULT, "menu.cfg", place),
                ("good", "confirmed.cfg", later),
            ] {
                let text = menu(&uuid, &release, default, place).render()?;
                be_grub::validate::validate(&text)?;
                fs::write(dir.join(file), text)?;
            }
            mount.write("/boot/grub/grub.cfg", hook::insert(&kernel, &uuid))
        })?;
        Ok(Self {
            machine,
            block,
            panics: 0,
        })
    }

    /// Waits for a boot: of which environment, how GRUB says so, and after how many panics.
    fn boots(&mut self, name: &str, how: &Boot, panics: usize) -> Result<()> {
        let start = Instant::now();
        let booted = self.machine.boots()?;
        let root = match name {
            DEFAULT => "/@".to_owned(),
            name => root_of(name),
        };
        let line = self.machine.sh("cat /proc/cmdline")?;
        ensure!(booted.root == root, "{name} was to boot: {line}");
        assert_eq!(Boot::parse(&line).as_ref(), Some(how), "{line}");
        // `panic=2` brings the machine back; only the first line of a panic is counted.
        let seen = self.machine.vm().transcript();
        let before = std::mem::replace(&mut self.panics, seen.matches(PANIC).count());
        assert_eq!(self.panics - before, panics, "{line}");
        xtask::say(&format!("{name}: {how:?} in {:.0?}", start.elapsed()));
        Ok(())
    }

    fn says(&mut self, word: &str) -> Result<()> {
        self.machine
            .sh(&format!("grep -qw {word} /proc/cmdline"))
            .map(drop)
    }

    /// What is in the block now, read by us and by grub-editenv.
    fn choice(&mut self) -> Result<Choice> {
        let file = self.block;
        if file == HEADER {
            let read = format!("dd if={file} bs=512 skip=512 count=1 status=none");
            let block = EnvBlock::parse(self.machine.sh(&read)?.as_bytes())?;
            return Ok(Choice::read(&block));
        }
        let text = self.machine.sh(&format!("cat {file}"))?;
        let block = EnvBlock::parse(text.as_bytes())?;
        let list = self.machine.sh(&format!("grub-editenv {file} list"))?;
        for line in list.lines() {
            let (name, value) = line.split_once('=').context("a variable")?;
            assert_eq!(block.get(name).as_deref(), Some(value), "{list}");
        }
        Ok(Choice::read(&block))
    }

    /// Overwrites the block where it is.
    fn write(&mut self, choice: &Choice) -> Result<()> {
        let file = self.block;
        let (size, seek) = match file {
            HEADER => (HEADER_SIZE, OFFSET),
            _ => (FILE_SIZE, 0),
        };
        let mut block = EnvBlock::new(size);
        choice.write(&mut block)?;
        let text = String::from_utf8(block.render())?;
        self.machine.sh(&format!(
            "printf %s '{text}' | dd of={file} seek={seek}B conv=notrunc,fsync status=none"
        ))?;
        Ok(())
    }

    /// Overwrites the block, and reboots.
    fn choose(&mut self, choice: &Choice) -> Result<()> {
        self.write(choice)?;
        self.machine.vm().reboot()
    }

    /// Makes `good` the default, as an activation would: by one rename.
    fn confirm(&mut self) -> Result<()> {
        self.machine.sh(
            "mkdir -p /run/top; mount -o subvolid=5 $(findmnt -no SOURCE / | sed 's/\\[.*//') /run/top; \
             cd /run/top/@be/.grub; mv confirmed.cfg menu.cfg; btrfs filesystem sync .; cd /; umount /run/top",
        )?;
        Ok(())
    }
}

/// Writes the first block: on ext4, on the ESP, or on btrfs, where it is of no use. Returns also the UUID of the btrfs.
fn prepare_block(
    mount: &DiskMount,
    firmware: Firmware,
    is_ext4: bool,
    choice: &Choice,
) -> Result<(Place, String)> {
    let volumes = mount.volumes();
    let uuid = volumes.root.uuid.clone();
    let place = |fs_uuid: &str, path: &str, format| Place::File {
        fs_uuid: fs_uuid.to_owned(),
        path: path.to_owned(),
        format,
    };
    if is_ext4 || firmware == Firmware::Bios {
        let path = mount.path(if is_ext4 { "/boot/be/test.env" } else { BLOCK });
        file::create(&path)?;
        file::update(&path, |block| choice.write(block))?;
        let place = match &volumes.boot {
            Some(boot) if is_ext4 => place(&boot.uuid, BLOCK, Format::Ext),
            _ => place(&uuid, &format!("/@{BLOCK}"), Format::Ext),
        };
        return Ok((place, uuid));
    }
    // Not every host knows FAT.
    let esp = volumes.esp.as_ref().context("no ESP")?;
    let mut block = EnvBlock::new(FILE_SIZE);
    choice.write(&mut block)?;
    let copy = mount.root().with_file_name("block");
    fs::write(&copy, block.render())?;
    run(cmd("mmd", ["-i"]).arg(esp.device.node()).arg("::/be"))?;
    run(cmd("mcopy", ["-i"])
        .arg(esp.device.node())
        .arg(&copy)
        .arg(format!("::{BLOCK}")))?;
    Ok((place(&esp.uuid, BLOCK, Format::Fat), uuid))
}

/// The release of the kernel that grub.cfg boots.
fn release(cfg: &str) -> Result<String> {
    let word = cfg
        .split_whitespace()
        .find(|word| word.starts_with('/') && word.contains("/vmlinuz-"))
        .context("no kernel in grub.cfg")?;
    let (_, release) = word.split_once("/vmlinuz-").context("no release")?;
    Ok(release.to_owned())
}

fn files(release: &str) -> [String; 2] {
    [
        format!("vmlinuz-{release}"),
        format!("initramfs-{release}.img"),
    ]
}

/// A snapshot of the root with kernels of its own, and broken as its name says.
fn environment(top: &Path, root: &Path, name: &str, release: &str) -> Result<()> {
    let dir = top.join("@be").join(name);
    fs::create_dir_all(&dir)?;
    let own = dir.join("root");
    run(cmd("btrfs", ["--quiet", "subvolume", "snapshot"])
        .arg(top.join("@"))
        .arg(&own))?;
    let boot = own.join("boot");
    let [kernel, initramfs] = files(release);
    for file in [&kernel, &initramfs] {
        fs::copy(root.join("boot").join(file), boot.join(file))?;
    }
    match name {
        "panics" => {
            let init = own.join("usr/sbin/init");
            fs::write(&init, "#!/bin/sh\nexit 1\n")?;
            fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        }
        "nokernel" => fs::remove_file(boot.join(kernel))?,
        "torn" | "large" => {
            let length = if name == "torn" { 4096 } else { 2 << 30 };
            let file = File::options().write(true).open(boot.join(initramfs))?;
            file.set_len(length)?;
        }
        _ => {}
    }
    Ok(())
}

fn menu(uuid: &str, release: &str, default: &str, place: Place) -> Menu {
    let [kernel, initramfs] = files(release);
    // GRUB's own default would be the first one.
    let names = OTHERS.iter().rev().copied().chain([DEFAULT]);
    let entries = names.map(|name| {
        let root = match name {
            DEFAULT => "@".to_owned(),
            name => root_of(name),
        };
        let dir = format!("{}/boot", root_of(name));
        Entry {
            name: name.into(),
            title: format!("Lab: {name}"),
            fs_uuid: None,
            linux: format!("{dir}/{kernel}"),
            initrd: vec![format!("{dir}/{initramfs}")],
            args: vec![
                format!("root=UUID={uuid}"),
                "ro".into(),
                format!("rootflags=subvol={root}"),
                "console=ttyS0".into(),
                "quiet".into(),
                // On a busy host the emulated timer can be too late for the kernel, which then panics on its own.
                "no_timer_check".into(),
            ],
            unrestricted: false,
        }
    });
    Menu {
        fs_uuid: uuid.to_owned(),
        default: Some(default.to_owned()),
        entries: entries.collect(),
        left_out: Vec::new(),
        modules: Vec::new(),
        selection: Some(Selection {
            place,
            unattended: vec!["panic=2".into()],
        }),
        back: None,
        more: More::default(),
        packages: BTreeMap::new(),
    }
}

/// What other tests have already shown in parts, in another setting.
mod thorough {
    use super::*;

    #[test]
    #[ignore = "needs root and QEMU"]
    fn uefi_with_the_block_on_the_esp() -> Result<()> {
        emulated(|| {
            let once = Choice {
                once: Some("good".into()),
                ..Choice::default()
            };
            let mut lab = Lab::new(Layout::AtSubvol, Firmware::Uefi, &once)?;
            lab.machine.on()?;

            lab.boots("good", &Boot::Once, 0)?;
            assert_eq!(lab.choice()?, Choice::default());
            lab.says("panic=2")?;

            // With UEFI the kernel asks for it, and GRUB finds out then.
            let mut large = trial("good", 3);
            large.once = Some("large".into());
            lab.choose(&large)?;
            lab.boots(DEFAULT, &fallback("large", Cause::LoadFailed), 0)?;
            let mut after = trial("good", 3);
            after.failed = failed("large", Cause::LoadFailed).failed;
            assert_eq!(lab.choice()?, after);

            // The trial is still to come.
            lab.machine.vm().reboot()?;
            lab.boots("good", &Boot::Trial(2), 0)
        })
    }

    #[test]
    #[ignore = "needs root and QEMU"]
    fn bios_with_the_block_on_ext4() -> Result<()> {
        emulated(|| {
            let mut lab = Lab::new(Layout::BootExt4, Firmware::Bios, &trial("torn", 2))?;
            lab.machine.on()?;

            lab.boots(DEFAULT, &fallback("torn", Cause::TriesUsed), 2)?;
            assert_eq!(lab.choice()?, failed("torn", Cause::TriesUsed));

            let mut large = trial("good", 2);
            large.once = Some("large".into());
            lab.choose(&large)?;
            lab.boots(DEFAULT, &fallback("large", Cause::LoadFailed), 0)?;

            // What grub-reboot chooses counts for nothing, and is cleared here.
            lab.machine.sh("grub-reboot be-good")?;
            lab.machine.vm().reboot()?;
            lab.boots("good", &Boot::Chosen, 0)?;
            assert_eq!(lab.choice()?.trial, trial("good", 2).trial);

            // It crashes with the journal of the block's filesystem full of what GRUB does not see, and Linux replays that
            // journal after GRUB has counted.
            lab.machine.vm().reboot()?;
            lab.boots("good", &Boot::Trial(1), 0)?;
            lab.machine.sh("touch /boot/be/test.env; for i in {1..50}; do echo $i >/boot/be/$i; done; sync; rm /boot/be/?")?;
            lab.machine.vm().send("echo c >/proc/sysrq-trigger\n")?;
            // The last of its boots, and nobody confirms it.
            lab.boots("good", &Boot::Trial(0), 1)?;
            assert_eq!(lab.choice()?.trial, trial("good", 0).trial);
            lab.machine.vm().reboot()?;
            lab.boots(DEFAULT, &fallback("good", Cause::TriesUsed), 0)?;
            assert_eq!(lab.choice()?, failed("good", Cause::TriesUsed));

            // A name without an entry does not boot the first one, and a choice by hand is told.
            lab.choose(&trial("gone", 3))?;
            lab.boots(DEFAULT, &Boot::Default(Some(Refused::NoEntry)), 0)?;
            lab.machine.vm().reboot()?;
            lab.machine.vm().select("Lab: good", SHORT)?;
            lab.boots("good", &Boot::Chosen, 0)?;

            // GRUB reads a file with a hole, and cannot write it.
            let mut both = trial("panics", 2);
            both.once = Some("panics".into());
            lab.write(&both)?;
            lab.machine
                .sh(&format!("truncate -s 16K {0}; sync {0}", lab.block))?;
            lab.machine.vm().reboot()?;
            lab.boots(DEFAULT, &Boot::Default(Some(Refused::NoSave)), 0)?;
            lab.write(&trial("panics", 2))?;
            lab.machine.vm().reboot()?;
            lab.boots(DEFAULT, &Boot::Default(Some(Refused::NoSave)), 0)?;
            lab.machine.sh(&format!("rm {}", lab.block))?;
            lab.machine.vm().reboot()?;
            lab.boots(DEFAULT, &Boot::Default(Some(Refused::NoBlock)), 0)
        })
    }

    #[test]
    #[ignore = "needs root and QEMU"]
    fn bios_with_the_block_in_the_header() -> Result<()> {
        emulated(|| {
            let modules = newer()?.join("usr/lib/grub/i386-pc");
            let mut lab = Lab::new(Layout::AtSubvol, Firmware::Bios, &Choice::default())?;
            {
                let top = lab.machine.mount("")?;
                run(cmd("cp", ["-r"]).arg(modules).arg(top.path("/@/opt/grub")))?;
            }
            lab.machine.on()?;
            lab.boots(DEFAULT, &Boot::Default(None), 0)?;
            let install = "grub-install --target=i386-pc --directory=/opt/grub --boot-directory=/boot /dev/vda";
            lab.machine.vm().check(install, LONG)?;
            lab.confirm()?;
            lab.block = HEADER;

            lab.choose(&trial("panics", 2))?;
            lab.boots("good", &fallback("panics", Cause::TriesUsed), 2)?;
            assert_eq!(lab.choice()?, failed("panics", Cause::TriesUsed));
            let mut both = trial(DEFAULT, 2);
            both.once = Some("nokernel".into());
            lab.choose(&both)?;
            lab.boots("good", &fallback("nokernel", Cause::LoadFailed), 0)?;
            lab.machine.vm().reboot()?;
            lab.boots(DEFAULT, &Boot::Trial(1), 0)?;
            lab.choose(&Choice::default())?;
            lab.boots("good", &Boot::Default(None), 0)
        })
    }

    /// This GRUB reads the header of a btrfs and files on it, and can write neither.
    #[test]
    #[ignore = "needs root and QEMU"]
    fn bios_a_block_on_btrfs_is_refused() -> Result<()> {
        emulated(|| {
            let mut lab = Lab::new(Layout::AtSubvol, Firmware::Bios, &trial("panics", 2))?;
            lab.machine.on()?;
            lab.boots(DEFAULT, &Boot::Default(Some(Refused::NoSave)), 0)?;
            assert_eq!(lab.choice()?, trial("panics", 2));

            // The other menu of this disk has its block in the header.
            lab.confirm()?;
            lab.block = HEADER;
            lab.machine.vm().reboot()?;
            lab.boots("good", &Boot::Default(Some(Refused::NoSave)), 0)?;
            assert_eq!(lab.choice()?, trial("panics", 2));
            Ok(())
        })
    }
}
