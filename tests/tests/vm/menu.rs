//! Entries that cannot boot, entries with odd titles, and ways around the menu.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use be_tests::vm::{Machine, SHORT, emulated, initramfs, root_of};
use xtask::image::{Layout, Tree};
use xtask::run::{cmd, run};
use xtask::vm::Firmware;

/// What would end a word, a command or an entry of GRUB, start a program, or
/// break the line.
const HOSTILE: &str = "'\"$(reboot)`reboot` };\nmenuentry x { \\ ünï 日本 \u{202e}☃ #";

/// From the choice of an entry to its message.
const LIMIT: Duration = Duration::from_secs(240);

/// Between a message of an entry and the menu: the ten seconds that it
/// is shown for, GRUB's own ten for its own message, and a busy machine.
const BACK: Duration = Duration::from_secs(240);

fn comes_back(firmware: Firmware) -> Result<()> {
    let names = ["missing", "empty", "nokernel", "gone", "large", "torn"];
    let mut machine = Machine::new(Layout::AtSubvol, firmware, |_, be| {
        be.run(&["init"]).done();
        be.run(&["create", "-d", HOSTILE, "hostile"]).done();
        for name in names {
            be.run(&["create", name]).done();
        }
        Ok(())
    })?;
    let release = machine.disk.lab.old_kernel.release.clone();
    let initramfs = initramfs(&release);
    damage(&mut machine, &initramfs)?;

    machine.on()?;
    let titles = machine.titles()?;
    let ours = titles.iter().filter(|title| title.contains(": Linux "));
    assert_eq!(ours.count(), names.len() + 2, "{titles:?}");
    let named = format!("hostile: Linux {release}");
    let hostile: Vec<_> = titles.iter().filter(|t| t.starts_with(&named)).collect();
    assert_eq!(hostile.len(), 1, "{titles:?}");
    ensure!(hostile[0].contains(", '\""), "{titles:?}");

    let kernel = format!("boot/vmlinuz-{release}");
    for (name, file) in [
        ("missing", Some(&*initramfs)),
        ("empty", Some(&*initramfs)),
        ("nokernel", Some(&*kernel)),
        ("gone", Some(&*kernel)),
        // GRUB finds out when it reads them: for the BIOS before the kernel
        // starts, with UEFI when the kernel asks for its initramfs.
        ("torn", None),
        ("large", None),
    ] {
        let why = match file {
            Some(file) => format!("GRUB cannot read /@be/{name}/root/{file}"),
            None => String::new(),
        };
        let message = format!("be: {name} is not booted: {why}");
        refuses(&mut machine, name, &message).with_context(|| format!("entry {name}"))?;
    }
    // Nothing of the last failure is left: it boots at the first try.
    assert_eq!(machine.choose("hostile")?.root, root_of("hostile"));
    let line = machine.sh("be list -H hostile")?;
    ensure!(line.lines().count() == 1 && line.contains("日本"), "{line}");

    machine.vm().reboot()?;
    assert_eq!(machine.boots()?.root, "/@");
    Ok(())
}

/// Breaks what the menu promises, behind be's back.
fn damage(machine: &mut Machine, initramfs: &str) -> Result<()> {
    let top = machine.mount("")?;
    let root = |name: &str| top.path(&root_of(name));
    let kernel = initramfs
        .replace("initramfs", "vmlinuz")
        .replace(".img", "");
    fs::remove_file(root("missing").join(initramfs))?;
    fs::write(root("empty").join(initramfs), "")?;
    fs::remove_file(root("nokernel").join(kernel))?;
    run(cmd("btrfs", ["--quiet", "subvolume", "delete"]).arg(root("gone")))?;
    // More than the machine's memory.
    let large = File::options()
        .write(true)
        .open(root("large").join(initramfs))?;
    large.set_len(2 << 30)?;
    large.sync_all()?;
    tear(&root("torn").join(initramfs), top.device().node())
}

/// Gives a file compressed content that cannot be decompressed.
fn tear(file: &Path, device: &Path) -> Result<()> {
    fs::remove_file(file)?;
    File::create(file)?;
    run(cmd("btrfs", ["property", "set"])
        .arg(file)
        .args(["compression", "zlib"]))?;
    fs::write(file, "be".repeat(1 << 20))?;
    // Committed, so that the program below, which reads the device, finds it.
    run(cmd("btrfs", ["filesystem", "sync"]).arg(file))?;
    let extents = run(cmd("filefrag", ["-v"]).arg(file))?;
    ensure!(extents.contains("encoded"), "not compressed: {extents}");
    // `   0:        0..      31:      12345..     12376:     32:      encoded`
    let first = extents
        .lines()
        .find_map(|line| line.trim().strip_prefix("0:"))
        .and_then(|line| {
            line.split(':')
                .nth(1)?
                .split("..")
                .next()?
                .trim()
                .parse::<u64>()
                .ok()
        })
        .with_context(|| format!("no extent in {extents}"))?;
    let logical = (first * 4096).to_string();
    let map = run(cmd("btrfs-map-logical", ["--logical", &logical]).arg(device))?;
    let physical = map
        .lines()
        .find_map(|line| {
            line.split_once(" physical ")?
                .1
                .split(' ')
                .next()?
                .parse::<u64>()
                .ok()
        })
        .with_context(|| format!("no address in {map}"))?;
    let device = File::options().write(true).open(device)?;
    device.write_all_at(&[0xff; 512], physical)?;
    Ok(device.sync_all()?)
}

/// Chooses an entry that has to come back to the menu after saying this.
fn refuses(machine: &mut Machine, name: &str, message: &str) -> Result<()> {
    let vm = machine.vm();
    vm.select(&format!("{name}: Linux"), SHORT)?;
    let (_, seen) = vm.expect_any(&["say more.", "Kernel panic"], LIMIT)?;
    // The terminal breaks lines where they are full.
    let squeezed = |text: &str| text.split_whitespace().collect::<String>();
    ensure!(
        squeezed(&seen).contains(&squeezed(message)),
        "{message}: {seen}"
    );
    vm.send("\x1b")?;
    let menu = vm.wait_menu(BACK)?;
    ensure!(
        menu.iter()
            .any(|entry| entry.title.starts_with("default: ")),
        "{menu:?}"
    );
    ensure!(!vm.transcript().contains("Kernel panic"), "{seen}");

    Ok(())
}

/// The commands that README tells a person to type whose disk is not encrypted.
fn readme() -> Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let typed = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("grub> "));
    Ok(typed
        .filter(|line| !line.ends_with("# if it is encrypted"))
        .map(|line| line.split("  #").next().unwrap_or(line).trim().to_owned())
        .collect())
}

#[test]
#[ignore = "needs root and QEMU"]
fn by_hand_and_by_id() -> Result<()> {
    emulated(|| {
        let mut machine = Machine::new(Layout::AtSubvol, Firmware::Bios, |_, be| {
            be.run(&["init"]).done();
            be.run(&["create", "other"]).done();
            Ok(())
        })?;
        let release = machine.disk.lab.old_kernel.release.clone();
        let uuid = machine.disk.uuid().to_owned();
        machine.on()?;
        let vm = machine.vm();
        vm.grub_prompt(SHORT)?;
        let commands = readme()?;
        let (last, commands) = commands.split_last().context("README has no commands")?;
        for command in commands {
            let typed = command
                .replace("UUID-OF-THE-BTRFS", &uuid)
                .replace("NAME", "other")
                .replace("VERSION", &release);
            vm.send(&format!("{typed}\r"))?;
            let answer = vm.expect("grub> ", SHORT)?;
            ensure!(!answer.contains("error"), "{typed}: {answer}");
            match typed.split('/').next_back() {
                Some("@be") => ensure!(answer.contains("other/"), "{typed}: {answer}"),
                Some("boot") => ensure!(answer.contains(&release), "{typed}: {answer}"),
                _ => {}
            }
        }
        ensure!(last == "boot", "README ends with {last}");
        vm.send("boot\r")?;
        assert_eq!(machine.boots()?.root, root_of("other"));
        let status = machine.json("status")?;
        ensure!(
            status["running"] == "other" && status["next"] == "default",
            "{status}"
        );

        machine.cut()?;
        {
            let root = machine.mount(Layout::AtSubvol.root())?;
            let chroot = xtask::chroot::Chroot::new(root.root());
            chroot.run(&["grub-reboot", "be-other"])?;
        }
        machine.on()?;
        assert_eq!(machine.boots()?.root, root_of("other"));
        Ok(())
    })
}

const SUPERUSER: &str = "set superusers=root\nexport superusers\npassword root secret\n";

#[test]
#[ignore = "needs root and QEMU"]
fn bios_older_kernels_rescue_and_passwords() -> Result<()> {
    emulated(|| {
        let mut machine = Machine::new(Layout::AtSubvol, Firmware::Bios, |mount, be| {
            let config = mount.read("/boot/grub/grub.cfg")?;
            let line = config
                .lines()
                .find(|line| line.starts_with("menuentry "))
                .context("no entry in grub.cfg")?;
            let free = line.replacen(" --class ", " --unrestricted --class ", 1);
            let config = SUPERUSER.to_owned() + &config.replace(line, &free);
            mount.write("/boot/grub/grub.cfg", config)?;
            let boot = mount.path("/boot");
            for name in fs::read_dir(&boot)?.flatten().map(|e| e.file_name()) {
                let name = name.to_string_lossy();
                if name.starts_with("vmlinuz-") {
                    fs::copy(boot.join(&*name), boot.join(format!("{name}.old")))?;
                }
            }
            be.run(&["init"]).done();
            Ok(())
        })?;
        let release = machine.disk.lab.old_kernel.release.clone();
        let old = format!("/vmlinuz-{release}.old ");
        machine.on()?;
        // The user's own first entry needs no password, so ours needs none.
        assert_eq!(machine.boots()?.root, "/@");
        let line = machine.sh("cat /proc/cmdline")?;
        ensure!(!line.contains(&old) && !line.contains("single"), "{line}");
        machine.sh("sed -i 's/ --unrestricted//' /boot/grub/grub.cfg; be menu; sync")?;

        machine.vm().reboot()?;
        machine.vm().select("default: Linux", SHORT)?;
        login(&mut machine, "wrong")?;
        // What is in the submenu asks for none once it is open.
        machine.vm().select("Older kernels and rescue", BACK)?;
        login(&mut machine, "secret")?;
        let titles = machine.titles()?;
        let named = format!("default: Linux {release}");
        let wanted = [
            format!("{named} (vmlinuz-{release}.old)"),
            format!("{named}, rescue"),
        ];
        assert_eq!(titles, wanted);
        machine.vm().select(&wanted[0], SHORT)?;
        assert_eq!(machine.boots()?.root, "/@");
        let line = machine.sh("cat /proc/cmdline")?;
        ensure!(line.contains(&old), "{line}");

        machine.sh("grub-reboot 'be-/more>be-default/rescue'; sync")?;
        machine.vm().reboot()?;
        login(&mut machine, "secret")?;
        assert_eq!(machine.boots()?.root, "/@");
        let line = machine.sh("cat /proc/cmdline")?;
        ensure!(!line.contains(&old) && !line.contains("quiet"), "{line}");
        ensure!(
            line.contains(" single systemd.unit=rescue.target"),
            "{line}"
        );
        Ok(())
    })
}

/// Answers when GRUB asks who it is.
fn login(machine: &mut Machine, password: &str) -> Result<()> {
    let vm = machine.vm();
    vm.expect("Enter username:", SHORT)?;
    vm.send("root\r")?;
    vm.expect("Enter password:", SHORT)?;
    vm.send(&format!("{password}\r"))
}

/// What other tests have already shown in parts, in another setting.
mod thorough {
    use super::*;

    #[test]
    #[ignore = "needs root and QEMU"]
    fn uefi_what_cannot_boot_comes_back_to_the_menu() -> Result<()> {
        emulated(|| comes_back(Firmware::Uefi))
    }

    #[test]
    #[ignore = "needs root and QEMU"]
    fn bios_what_cannot_boot_comes_back_to_the_menu() -> Result<()> {
        emulated(|| comes_back(Firmware::Bios))
    }
}
