//! Programs go on working while their system is upgraded.

use anyhow::{Result, ensure};
use be_tests::looped::meanwhile;
use be_tests::system::System;
use xtask::image::Tree;

/// A consumer of a library, and Python with modules of its own.
const USE: &str = "greeter && python3 -Bc 'import ssl, sqlite3, zoneinfo'";

const WORLD: [&str; 2] = ["app-misc/greeter", "dev-libs/libgreet"];

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn programs_find_their_libraries_throughout() -> Result<()> {
    let system = System::adopted_lab()?;
    system.set_world(&WORLD)?;
    let chroot = system.chroot();
    let looped = meanwhile(&chroot, system.root(), USE, || {
        system.be.run(&["upgrade", "new"]).done();
        Ok(())
    })?;
    let (times, failed) = (looped.times, looped.failed.len());
    xtask::say(&format!("started {times} times beside be upgrade"));
    ensure!(times > 10, "{times}");
    ensure!(failed == 0, "{failed} of {times} failed");

    // An upgrade of the system that runs breaks them: the loop sees what it is there for.
    let looped = meanwhile(&chroot, system.root(), USE, || {
        chroot.run(&["emerge", "--sync", "--quiet"])?;
        let emerge = ["emerge", "--update", "--deep", "--quiet", "@world"];
        chroot.run(&emerge).map(drop)
    })?;
    let (times, failed) = (looped.times, looped.failed.len());
    xtask::say(&format!("{failed} of {times} failed beside emerge"));
    ensure!(failed > 0, "none of {times} failed");
    Ok(())
}
