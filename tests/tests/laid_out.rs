//! Environments of a system that is spread over several subvolumes.

use anyhow::Result;
use be_tests::system::{NOTHING, System};
use xtask::image::{Layout, Tree, nested};

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn many_subvolumes_in_the_root_are_left_out() -> Result<()> {
    let system = System::adopted_lab_with(Layout::AtMany)?;
    let (running, host) = (system.running()?, system.host()?);
    let subvolumes = system.subvolumes()?;
    system
        .be
        .run(&["create", "new"])
        .done()
        .says(&["not in new"]);
    for (path, _) in nested() {
        let there = system.env("new", "").join(&path);
        let entries = there.read_dir().map_or(0, Iterator::count);
        assert_eq!(entries, 0, "{}", there.display());
        assert!(system.root().join(&path).join("made").exists());
    }
    assert_eq!(running.diff(&system.running()?), NOTHING);
    system.be.run(&["destroy", "-y", "new"]).done();
    assert_eq!(running.diff(&system.running()?), NOTHING);
    assert_eq!(system.host_changes(&host)?, NOTHING);
    assert_eq!(system.subvolumes()?, subvolumes);
    Ok(())
}
