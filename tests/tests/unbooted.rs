//! What becomes of the result of an upgrade that was never booted.

use std::fs;

use anyhow::Result;
use be_tests::system::{NOTHING, System};
use xtask::image::Tree;

/// Names another package in world, so that the next upgrade has something to do.
fn more(system: &System) -> Result<()> {
    system.set_world(&["app-misc/hello", "sys-kernel/lab-kernel"])
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn it_is_replaced_once_the_new_one_is_ready_and_not_before() -> Result<()> {
    let system = System::adopted_lab()?;
    system.set_world(&["app-misc/hello"])?;
    system.be.run(&["upgrade", "first"]).done();
    system.be.run(&["create", "by-hand"]).done();

    // Nothing has changed, and what came of it waits.
    let same = system.be.run(&["upgrade", "same"]).exits(77);
    drop(same.says(&["first", "was not booted yet", "--again"]));
    assert!(system.listed("same").is_none());

    // What fails replaces nothing.
    system.set_world(&["app-misc/hello", "app-misc/failbuild"])?;
    drop(system.be.run(&["upgrade", "second"]).exits(6));
    assert_eq!(system.record("first")?["state"], "ready");
    assert_eq!(system.sound_menu()?, "first");

    more(&system)?;
    let running = system.running()?;
    let done = system.be.run(&["upgrade", "third"]).done();
    assert!(
        done.stdout.contains("first was never booted: replaced"),
        "{}",
        done.stdout
    );
    assert_eq!(system.sound_menu()?, "third");
    assert!(system.listed("first").is_none());
    let left = system.subvolume_paths()?;
    assert!(
        !left.iter().any(|path| path.starts_with("@be/first/")),
        "{left:?}"
    );
    for kept in ["second", "by-hand"] {
        assert!(system.listed(kept).is_some(), "{kept}");
    }
    assert_eq!(running.diff(&system.running()?), NOTHING);

    // Who wants it keeps it, and what boots next is not taken away.
    system.be.run(&["pin", "third"]).done();
    let pinned = system.be.run(&["upgrade", "--again", "fourth"]).done();
    drop(pinned.says(&["third was never booted and is kept: pinned"]));
    let aside = ["upgrade", "--again", "--no-activate", "fifth"];
    let aside = system.be.run(&aside).done();
    drop(aside.says(&["fourth was never booted and is kept: boots next"]));
    system.be.run(&["activate", "fifth"]).done();
    let both = ["upgrade", "--again", "--unbooted", "keep", "sixth"];
    system.be.run(&both).done();
    for kept in ["third", "fourth", "fifth", "sixth"] {
        assert!(system.listed(kept).is_some(), "{kept}");
    }
    let all = system
        .be
        .run(&["--json", "upgrade", "--again", "last"])
        .done();
    let replaced = all.json()["replaced"].clone();
    assert_eq!(replaced, serde_json::json!(["fourth", "fifth", "sixth"]));
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn the_upgrade_goes_on_in_it_and_it_is_out_of_the_menu_meanwhile() -> Result<()> {
    let system = System::adopted_lab()?;
    system.append("/etc/be/be.toml", "unbooted = \"continue\"\n")?;
    system.set_world(&["app-misc/hello"])?;
    // There is none yet.
    system.be.run(&["upgrade"]).done();
    let list = system.be.run(&["--json", "list"]).done().json();
    let name = list["environments"][1]["name"]
        .as_str()
        .unwrap_or("")
        .to_owned();
    assert_eq!(system.sound_menu()?, name);
    let made = system.record(&name)?;

    // The clone has its own list of what is wanted.
    fs::write(
        system.env(&name, "var/lib/portage/world"),
        "app-misc/hello\napp-misc/failbuild\n",
    )?;
    let failed = system.be.run(&["upgrade"]).exits(6);
    drop(failed.says(&[
        "default boots next until",
        &format!("be upgrade --continue {name}"),
    ]));
    assert_eq!(system.sound_menu()?, "default");
    assert!(!system.menu()?.contains(&format!("be-{name}")));

    fs::write(
        system.env(&name, "var/lib/portage/world"),
        "app-misc/hello\nsys-kernel/lab-kernel\n",
    )?;
    system.be.run(&["upgrade", "--continue", &name]).done();
    assert_eq!(system.sound_menu()?, name);
    let now = system.record(&name)?;
    assert_eq!(now["state"], "ready");
    assert_eq!(now["subvolumes"][0]["base"], made["subvolumes"][0]["base"]);

    // Whole again, and nothing to be done: it stays what it is.
    system.be.run(&["upgrade"]).done();
    assert_eq!(system.sound_menu()?, name);
    assert_eq!(
        system.be.run(&["--json", "list"]).done().json()["environments"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    // By its name it is no failed one.
    let refused = system.unchanged_by(3, &["upgrade", "--continue", &name])?;
    assert!(refused.error().contains("no upgrade to continue"));
    Ok(())
}
