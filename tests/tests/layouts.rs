//! Layouts that are not covered are refused with the reason, never half supported.

use std::fs::{self, File};

use anyhow::{Result, ensure};
use be_tests::system::System;
use xtask::image::Tree;
use xtask::loopdev::{Loop, Mount};
use xtask::run::{cmd, run};

const REFUSED: i32 = 3;

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn layouts_that_fstab_tells_of() -> Result<()> {
    for (line, words) in [
        ("UUID=b /boot ext4 defaults 0 2", "a separate /boot"),
        ("UUID=b /boot vfat umask=0077 0 2", "a separate /boot"),
        ("UUID=b /usr btrfs subvol=@usr 0 0", "/usr"),
        ("UUID=b /var btrfs subvol=@var 0 0", "/var"),
        ("UUID=b /etc ext4 defaults 0 0", "/etc"),
    ] {
        let system = System::small()?;
        let fstab = system.read("/etc/fstab")?;
        system.append("/etc/fstab", format!("{line}\n"))?;
        system.refuses(REFUSED, &["init"], &[words, "not supported yet"])?;
        ensure!(!system.top("@be").exists());
        system.write("/etc/fstab", &fstab)?;
        system.be.run(&["init"]).done();
        system.append("/etc/fstab", format!("{line}\n"))?;
        system.refuses(REFUSED, &["create", "y"], &[words])?;
        system.refuses(REFUSED, &["upgrade", "y"], &[words])?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn layouts_that_are_mounted() -> Result<()> {
    let boot = |system: &System| -> Result<(Mount, Loop)> {
        let file = system.dir().join("boot.img");
        File::create_new(&file)?.set_len(40 << 20)?;
        run(cmd("mkfs.ext4", ["-q"]).arg(&file))?;
        let device = Loop::attach(&file)?;
        let mount = Mount::new(device.node(), &system.path("/boot"), "ext4", "nodiscard")?;
        fs::create_dir(system.path("/boot/grub"))?;
        system.write("/boot/grub/grub.cfg", "set timeout=5\n")?;
        Ok((mount, device))
    };
    let system = System::adopted_small()?;
    let mounted = boot(&system)?;
    system.refuses(REFUSED, &["create", "y"], &["a separate /boot"])?;
    drop(mounted);

    for (name, target) in [("@var", "/var"), ("@usr", "/usr")] {
        system.make_subvolume(name)?;
        let options = format!("subvol=/{name}");
        let _mount = Mount::new(
            system.device().node(),
            &system.path(target),
            "btrfs",
            &options,
        )?;
        system.refuses(REFUSED, &["create", "y"], &[target])?;
    }
    // A subvolume that simply lies there.
    system.make_subvolume("@/opt")?;
    system.refuses(REFUSED, &["create", "y"], &["/opt"])?;
    ensure!(system.path("/opt").is_dir());
    Ok(())
}
