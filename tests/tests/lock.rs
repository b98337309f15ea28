//! Locks: what made an environment is written down, compared, and made again elsewhere.

use anyhow::{Context, Result, ensure};
use be_tests::system::System;
use serde_json::Value;
use xtask::image::Tree;

/// `be lock ENV`, as it is printed.
fn lock(system: &System, args: &[&str]) -> Result<Value> {
    let args = [&["lock"], args].concat();
    let text = system.be.run(&args).done().stdout;
    let value: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    ensure!(value["schema"] == "be-lock/v1", "{text}");
    Ok(value)
}

/// The packages of a list in a lock.
fn packages(list: &Value) -> Vec<&str> {
    let all = list.as_array().into_iter().flatten();
    all.filter_map(|package| package["cpv"].as_str()).collect()
}

fn entry<'a>(lock: &'a Value, path: &str) -> Option<&'a Value> {
    let entries = lock["configuration"]["entries"].as_array()?;
    entries.iter().find(|entry| entry["path"] == path)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn an_environment_that_no_upgrade_made_has_a_lock_of_what_is_there() -> Result<()> {
    let system = System::adopted_lab()?;
    system.write("/etc/portage/package.use/x", "app-misc/hello nls\n")?;
    system.write("/etc/portage/secret", "password\n")?;
    let secret = ["chmod", "600", "/etc/portage/secret"];
    system.chroot().run(&secret)?;
    let before = (system.running()?, system.subvolumes()?, system.host()?);
    let out = system
        .be
        .run(&["lock"])
        .done()
        .says(&["/etc/portage/secret"]);
    ensure!(!out.stdout.contains("password"), "{}", out.stdout);
    // Nothing was written, and nothing is left.
    ensure!(system.running()? == before.0 && system.subvolumes()? == before.1);
    let changed = system.host_changes(&before.2)?;
    ensure!(changed.is_empty(), "{changed:?}");
    let found: Value = serde_json::from_str(&out.stdout)?;
    ensure!(found["recorded"] == false && found["start"].is_null());
    let git = ["git", "-C", "/var/db/repos/gentoo", "rev-parse", "HEAD"];
    let commit = system.chroot().run(&git)?;
    let state = &found["repositories"][0]["state"]["git"];
    ensure!(
        state["commit"] == commit.trim() && state["modified"] == false,
        "{state}"
    );
    ensure!(found["profile"][0] == "gentoo:lab" && found["portage"] == "3.0.83");
    ensure!(found["settings"]["CHOST"] == "x86_64-pc-linux-gnu");
    ensure!(packages(&found["packages"]).contains(&"app-misc/hello-1"));
    let text = &entry(&found, "/etc/portage/package.use/x").context("no entry")?["text"];
    ensure!(text == "app-misc/hello nls\n", "{text}");

    // A file that no commit has is named.
    system.write("/var/db/repos/gentoo/app-misc/hello/hello-9.ebuild", "x")?;
    let dirty = lock(&system, &["default"])?;
    ensure!(dirty["repositories"][0]["state"]["git"]["modified"] == true);
    system
        .chroot()
        .run(&["rm", "/var/db/repos/gentoo/app-misc/hello/hello-9.ebuild"])?;

    let document = system.be.run(&["lock", "--json"]).done().json();
    ensure!(document["lock"]["schema"] == "be-lock/v1", "{document}");
    ensure!(document["configuration_digest"].is_string(), "{document}");
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_made_an_environment_stays_whatever_becomes_of_it() -> Result<()> {
    let system = System::adopted_lab()?;
    system.be.run(&["upgrade", "new", "--", "--jobs=1"]).done();
    let made = lock(&system, &["new"])?;
    ensure!(made["recorded"] == true && made["origin"] == "default");
    ensure!(made["options"][0] == "--jobs=1", "{}", made["options"]);
    ensure!(packages(&made["packages"]).contains(&"app-misc/hello-2"));
    ensure!(packages(&made["start"]).contains(&"app-misc/hello-1"));
    let conf = system.env("new", "/etc/portage/make.conf");
    std::fs::write(&conf, std::fs::read_to_string(&conf)? + "USE=\"nls\"\n")?;
    ensure!(lock(&system, &["new"])? == made);
    let now = lock(&system, &["--now", "new"])?;
    ensure!(now["recorded"] == false);
    ensure!(now["settings"]["USE"] == "amd64 nls", "{}", now["settings"]);
    ensure!(now["configuration"]["sha256"] != made["configuration"]["sha256"]);

    // It goes with the name, and not into a clone.
    system.be.run(&["rename", "new", "other"]).done();
    let renamed = lock(&system, &["other"])?;
    ensure!(renamed["environment"] == "other" && renamed["packages"] == made["packages"]);
    system.be.run(&["create", "-e", "other", "clone"]).done();
    ensure!(lock(&system, &["clone"])?["recorded"] == false);
    // One that is damaged is one clear error.
    std::fs::write(system.top("@be/other/log/lock.json"), "{\n\"schema\": 1\n}")?;
    let out = system.be.run(&["lock", "other"]).exits(1);
    ensure!(out.error().contains("the lock of other") && out.error().contains("line 2"));
    Ok(())
}
