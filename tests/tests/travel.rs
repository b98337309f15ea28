//! Environments that travel between two machines: two file systems, each with a system of its
//! own.

use std::fs;

use anyhow::Result;
use be_tests::system::{NOTHING, System};
use be_tests::travel::{change, fill};

/// Two systems, of which the first has the environment `x` with files of all kinds.
fn two() -> Result<(System, System)> {
    let (weak, strong) = (System::adopted_small()?, System::adopted_small()?);
    weak.be.run(&["create", "-d", "to be built", "x"]).done();
    fill(&weak.env("x", "srv"))?;
    Ok((weak, strong))
}

#[test]
#[ignore = "needs root and loop devices"]
fn there_upgraded_and_back() -> Result<()> {
    let (weak, strong) = two()?;
    let (running, host) = (strong.running()?, strong.host()?);
    let received = weak.send_to(&strong, &["x"], &[])?.done();
    assert_eq!(received.stdout, "x\n");
    received.says(&["paths are as they were sent"]);
    let sent = weak.kept("x", "sent", "root")?;
    assert_eq!(sent.diff(&strong.kept("x", "received", "root")?), NOTHING);
    let record = strong.record("x")?;
    assert_eq!(record["state"], "ready");
    assert_eq!(record["description"], "to be built");
    assert_eq!(record["received"]["filesystem"], weak.uuid());
    assert_eq!(strong.sound_menu()?, "default");
    strong.be.run(&["check", "x"]).done();
    assert!(strong.menu()?.contains("/@be/x/root/boot/vmlinuz"));
    let fstab = fs::read_to_string(strong.env("x", "etc/fstab"))?;
    assert!(
        fstab.contains(strong.uuid()) && fstab.contains("subvol=/@be/x/root"),
        "{fstab}"
    );
    assert!(!fstab.contains(weak.uuid()), "{fstab}");

    strong.be.run(&["create", "-e", "x", "y"]).done();
    change(&strong.env("y", "srv"))?;
    let back = strong.send_to(&weak, &["y", "--since", "x"], &[])?.done();
    back.says(&["paths are as they were sent"]);
    let sent = strong.kept("y", "sent", "root")?;
    assert_eq!(sent.diff(&weak.kept("y", "received", "root")?), NOTHING);
    assert_eq!(fs::read(weak.env("y", "srv/text"))?, b"one\ntwo\nthree\n");
    assert_eq!(weak.record("y")?["origin"], "x");
    weak.be.run(&["check", "y"]).done();
    assert_eq!(weak.sound_menu()?, "default");
    let fstab = fs::read_to_string(weak.env("y", "etc/fstab"))?;
    assert!(
        fstab.contains(weak.uuid()) && fstab.contains("subvol=/@be/y/root"),
        "{fstab}"
    );

    // And there once more, relative to what came.
    weak.be.run(&["create", "-e", "y", "z"]).done();
    fs::write(weak.env("z", "srv/more"), "more")?;
    weak.send_to(&strong, &["z", "--since", "y"], &["z2"])?
        .done();
    let sent = weak.kept("z", "sent", "root")?;
    assert_eq!(sent.diff(&strong.kept("z2", "received", "root")?), NOTHING);
    assert_eq!(strong.record("z2")?["origin"], "y");

    assert_eq!(running.diff(&strong.running()?), NOTHING);
    assert_eq!(strong.host_changes(&host)?, NOTHING);
    for system in [&weak, &strong] {
        assert!(system.leftovers().is_empty());
        system.be.run(&["destroy", "-y", "x", "y"]).done();
    }
    Ok(())
}
