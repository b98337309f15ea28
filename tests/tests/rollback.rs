//! Going back, with what changed in the meantime.

use std::fs;

use anyhow::{Result, ensure};
use be_tests::system::{NOTHING, System};
use xtask::fingerprint::Fingerprint;
use xtask::image::Tree;

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_changed_in_the_new_one_goes_back_with_its_owner() -> Result<()> {
    let system = System::adopted_lab()?;
    system.set_world(&["app-misc/hello", "app-misc/confy"])?;
    system.write("/etc/gone", "x")?;
    system.be.run(&["upgrade", "new"]).done();
    let record = system.record("new")?;
    assert_eq!(record["snapshots"][0]["name"], "as-activated");

    let (mount, new) = system.mount_root_of("new")?;
    let back = |args: &[&str]| new.run(&[&["rollback"], args].concat());
    let quiet = back(&["default"]).done();
    ensure!(!quiet.stderr.contains("changed in new"), "{}", quiet.stderr);
    new.run(&["activate", "--no-trial", "new"]).done();

    fs::write(mount.path().join("etc/mine"), "later\n")?;
    fs::remove_file(mount.path().join("etc/gone"))?;
    let shadow = fs::read_to_string(mount.path().join("etc/shadow")).unwrap_or_default();
    fs::write(
        mount.path().join("etc/shadow"),
        format!("{shadow}ann:later:1::::::\n"),
    )?;
    let conf = fs::read_to_string(mount.path().join("etc/confy.conf"))?;
    let conf = conf.replace("level=1", "level=2") + "mine=yes\n";
    fs::write(mount.path().join("etc/confy.conf"), &conf)?;

    // Without it: what will be missing.
    let told = back(&[]).done();
    told.says(&[
        "changed in new since it was activated, and not in default: 4 paths",
        "/etc/mine",
        "be rollback default --carry",
    ]);
    back(&["--carry", "mine"]).exits(2).says(&["absolute path"]);
    let dry = new.run(&["-n", "rollback", "--carry"]).done();
    ensure!(dry.stdout.contains("+ /etc/mine\n"), "{}", dry.stdout);
    ensure!(!system.path("/etc/mine").exists());

    // One path, and then the rest.
    let running = Fingerprint::of(mount.path(), &[])?;
    let one = back(&["--carry", "/etc/mine"]).done().stdout;
    ensure!(
        one.contains("+ /etc/mine\n1 path went from new into default\n"),
        "{one}"
    );
    ensure!(one.contains("default boots next"), "{one}");
    assert_eq!(system.read("/etc/mine")?, "later\n");
    ensure!(system.path("/etc/gone").exists());
    back(&["--carry"]).done();
    ensure!(!system.path("/etc/gone").exists());
    ensure!(system.read("/etc/shadow")?.contains("ann:later:1::::::\n"));
    assert_eq!(system.read("/etc/confy.conf")?, conf);
    // The new version of that file waits in the new environment only.
    ensure!(mount.path().join("etc/._cfg0000_confy.conf").exists());
    ensure!(!system.path("/etc/._cfg0000_confy.conf").exists());
    assert_eq!(running.diff(&Fingerprint::of(mount.path(), &[])?), NOTHING);

    // The system is the one from before the upgrade, and can be had as it was.
    ensure!(system.read("/usr/bin/hello")?.contains("hello 1"));
    ensure!(system.path("/var/db/pkg/app-misc/hello-1").exists());
    new.run(&["create", "-e", "default@before-rollback", "undone"])
        .done();
    ensure!(!system.env("undone", "etc/mine").exists());
    ensure!(system.env("undone", "etc/gone").exists());
    let again = back(&["--carry"]).done().stdout;
    ensure!(
        again.contains("nothing changed in new that default has not"),
        "{again}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_was_not_kept_cannot_go_back() -> Result<()> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "clone"]).done();
    let (_mount, clone) = system.mount_root_of("clone")?;
    let refused = clone.run(&["rollback", "default", "--carry"]).exits(3);
    refused.says(&[
        "how clone was when it was activated was not kept",
        "be diff",
    ]);
    Ok(())
}
