//! Mounts that all environments share, and what must not be shared all the same.

use std::fs;

use anyhow::{Result, ensure};
use be_tests::system::System;
use xtask::image::{Layout, Tree};
use xtask::loopdev::Mount;

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_shared_cache_keeps_the_state_of_packages_apart() -> Result<()> {
    let system = System::lab(Layout::AtSubvol)?;
    system.be.run(&["init"]).done();
    system.make_subvolume("@cache")?;
    let cache = system.path("/var/cache");
    // As somebody has it who split it off: with all that was in it.
    xtask::run::run(xtask::run::cmd("cp", ["-a"]).args([cache.join("."), system.top("@cache")]))?;
    let uuid = system.uuid().to_owned();
    system.append(
        "/etc/fstab",
        format!("UUID={uuid} /var/cache btrfs subvol=/@cache 0 0\n"),
    )?;
    let _mount = Mount::new(system.device().node(), &cache, "btrfs", "subvol=/@cache")?;
    system.write(
        "/var/cache/edb/mtimedb",
        "{\"resume\": {\"mergelist\": []}}",
    )?;

    system.be.run(&["upgrade", "new"]).done();
    let kept = fs::read_to_string(cache.join("edb/mtimedb"))?;
    ensure!(
        kept.contains("resume"),
        "the running system's state was written: {kept}"
    );
    ensure!(system.env("new", "var/cache/edb/mtimedb").exists());
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_directory_bound_over_another_is_the_clones_own() -> Result<()> {
    let system = System::adopted_small()?;
    fs::create_dir_all(system.path("/srv/data"))?;
    fs::create_dir_all(system.path("/mnt/data"))?;
    system.append("/etc/fstab", "/srv/data /mnt/data none bind 0 0\n")?;
    let _bound = Bound::new(&system.path("/srv/data"), &system.path("/mnt/data"))?;
    system.be.run(&["create", "x"]).done();
    let script = "echo clone > /mnt/data/file";
    system
        .be
        .run(&["exec", "x", "--", "sh", "-c", script])
        .done();
    ensure!(system.env("x", "mnt/data/file").exists());
    ensure!(!system.path("/srv/data/file").exists());
    Ok(())
}

/// A bind mount, ended when dropped.
struct Bound(std::path::PathBuf);

impl Bound {
    fn new(source: &std::path::Path, target: &std::path::Path) -> Result<Self> {
        let none: Option<&str> = None;
        nix::mount::mount(
            Some(source),
            target,
            none,
            nix::mount::MsFlags::MS_BIND,
            none,
        )?;
        Ok(Self(target.to_owned()))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _no_mount = nix::mount::umount(&self.0);
    }
}
