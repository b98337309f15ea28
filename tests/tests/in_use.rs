//! Programs go on working while their system is upgraded.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use be_tests::system::System;
use xtask::chroot::Chroot;
use xtask::image::Tree;

/// Starts a consumer of a library and Python with modules of its own, again and again; says
/// how often, and how often one of them did not start.
const LOOP: &str = "n=0; bad=0; until [ -e /tmp/stop ]; do n=$((n+1)); \
    { greeter && python3 -Bc 'import ssl, sqlite3, zoneinfo'; } >/dev/null 2>&1 \
    || bad=$((bad+1)); done; echo $n $bad";

const WORLD: [&str; 2] = ["app-misc/greeter", "dev-libs/libgreet"];

/// How often the programs were started while something happened, and how often they failed.
fn meanwhile(
    chroot: &Chroot,
    root: &Path,
    happens: impl FnOnce() -> Result<()>,
) -> Result<(u32, u32)> {
    let stop = root.join("tmp/stop");
    let said = std::thread::scope(|scope| {
        let looped = scope.spawn(|| chroot.run(&["sh", "-c", LOOP]));
        let happened = happens();
        fs::write(&stop, "")?;
        let said = looped
            .join()
            .unwrap_or_else(|_| anyhow::bail!("the loop"))?;
        happened.map(|()| said)
    })?;
    fs::remove_file(stop)?;
    let numbers: Vec<u32> = said
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok((numbers[0], numbers[1]))
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn programs_find_their_libraries_throughout() -> Result<()> {
    let system = System::adopted_lab()?;
    system.set_world(&WORLD)?;
    let chroot = system.chroot();
    let (times, failed) = meanwhile(&chroot, system.root(), || {
        system.be.run(&["upgrade", "new"]).done();
        Ok(())
    })?;
    xtask::say(&format!("started {times} times beside be upgrade"));
    ensure!(times > 10, "{times}");
    ensure!(failed == 0, "{failed} of {times} failed");

    // An upgrade of the system that runs breaks them: the loop sees what it is there for.
    let (times, failed) = meanwhile(&chroot, system.root(), || {
        chroot.run(&["emerge", "--sync", "--quiet"])?;
        let emerge = ["emerge", "--update", "--deep", "--quiet", "@world"];
        chroot.run(&emerge).map(drop)
    })?;
    xtask::say(&format!("{failed} of {times} failed beside emerge"));
    ensure!(failed > 0, "none of {times} failed");
    Ok(())
}
