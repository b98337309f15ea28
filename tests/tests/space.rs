//! A disk that is full: one clear error, nothing changed, and a way out.

use std::fs::{self, File};

use anyhow::Result;
use be_tests::system::{NOTHING, System};
use xtask::image::Tree;

const NO_SPACE: i32 = 5;

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn no_space_left() -> Result<()> {
    let system = System::adopted_small()?;
    // The small system has less than an upgrade asks for from the beginning.
    system.refuses(NO_SPACE, &["upgrade", "y"], &["space", "MiB"])?;
    system.be.run(&["create", "old"]).done();
    system.fill(0)?;
    system.refuses(NO_SPACE, &["create", "y"], &["space", "MiB"])?;
    // The way out that the hint names is open.
    system.be.run(&["destroy", "-y", "old"]).done();
    assert_eq!(system.subvolume_paths()?, ["@"]);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn no_space_for_the_clone_itself() -> Result<()> {
    let system = System::adopted_small()?;
    system.write("/etc/be/be.toml", "[upgrade]\nmin_free_mib = 0\n")?;
    fill_to_the_brim(&system)?;
    let (subvolumes, running, menu) = (system.subvolumes()?, system.running()?, system.menu()?);
    let full = system.be.run(&["upgrade", "y"]);
    // The clone may have found its few blocks; then it is Portage that failed.
    assert!(
        [NO_SPACE, 6].contains(&full.code),
        "{}: {}",
        full.code,
        full.stderr
    );
    assert_eq!(running.diff(&system.running()?), NOTHING);
    assert_eq!(menu, system.menu()?);
    system.empty()?;
    if system.listed("y").is_some() {
        system.be.run(&["destroy", "-y", "y"]).done();
    }
    system.be.run(&["menu"]).done();
    assert!(system.leftovers().is_empty(), "{:?}", system.leftovers());
    assert_eq!(subvolumes, system.subvolumes()?);
    Ok(())
}

/// Until not even metadata has room.
fn fill_to_the_brim(system: &System) -> Result<()> {
    system.fill(0)?;
    for i in 0.. {
        let small = system.top(&format!("filler/small.{i}"));
        let written = fs::write(&small, [7; 2000]).and_then(|()| File::open(&small)?.sync_all());
        if written.is_err() {
            break;
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_full_disk_is_emptied_as_the_hint_says() -> Result<()> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "old"]).done();
    fill_to_the_brim(&system)?;
    let refused = system.be.run(&["create", "y"]).exits(NO_SPACE);
    refused.says(&["be destroy"]);
    system.be.run(&["destroy", "-y", "old"]).done();
    assert_eq!(system.subvolume_paths()?, ["@"]);
    assert_eq!(system.sound_menu()?, "default");
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn on_a_full_disk_the_other_environment_can_be_chosen() -> Result<()> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "new"]).done();
    system.be.run(&["activate", "new"]).done();
    fill_to_the_brim(&system)?;
    system.be.run(&["rollback", "default"]).done();
    assert_eq!(system.sound_menu()?, "default");
    Ok(())
}
