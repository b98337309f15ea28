//! `be upgrade --live`: built in a clone, merged into what runs in one short window.

use std::fs;
use std::process::{Child, Command};

use anyhow::{Result, ensure};
use be_tests::looped::meanwhile;
use be_tests::overlay::Overlay;
use be_tests::system::System;
use xtask::image::Tree;

const WORLD: [&str; 3] = ["app-misc/greeter", "app-misc/napper", "dev-libs/libgreet"];

/// A program that goes on running.
const NAPPER: &str = "src_install() { cp /bin/sleep napper; echo ${PV} >>napper; dobin napper; }\n";

/// What fails when it is installed, where somebody does not want it.
const PICKY: &str = "src_install() { newbin - picky <<<'#!/bin/sh'; }\n\
    pkg_postinst() { [[ -e /etc/not-here ]] && die 'not here'; echo ${PV} >/etc/picked; }\n";

/// What is installed: `category/name-version`.
fn installed(system: &System) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for category in fs::read_dir(system.path("/var/db/pkg"))? {
        let category = category?;
        for package in fs::read_dir(category.path())? {
            let names = [category.file_name(), package?.file_name()];
            let names = names.map(|name| name.to_string_lossy().into_owned());
            found.push(names.join("/"));
        }
    }
    found.sort();
    Ok(found)
}

/// A program of the running system that goes on running.
struct Running(Child);

impl Running {
    fn start(system: &System, argv: &[&str]) -> Result<Self> {
        let mut command = Command::new("chroot");
        Ok(Self(command.arg(system.root()).args(argv).spawn()?))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_was_built_in_a_clone_is_merged_into_what_runs() -> Result<()> {
    let system = System::adopted_lab()?;
    let overlay = Overlay::new(&system)?;
    overlay.ebuild("napper", "1", NAPPER)?;
    let emerge = ["emerge", "--oneshot", "--quiet", "app-misc/napper"];
    system.chroot().run(&emerge)?;
    overlay.ebuild("napper", "2", NAPPER)?;
    system.set_world(&WORLD)?;
    let before = installed(&system)?;
    let running = Running::start(&system, &["napper", "600"])?;
    let elsewhere = Running::start(&system, &["sleep", "600"])?;

    let mut said = serde_json::Value::Null;
    let looped = meanwhile(&system.chroot(), system.root(), "greeter", || {
        let done = system.be.run(&["--json", "upgrade", "--live", "new"]);
        said = done.done().json();
        Ok(())
    })?;
    let live = &said["live"];
    ensure!(live["merged"].as_u64() >= Some(2), "{said}");
    assert_eq!(live["left"], serde_json::json!([]), "{said}");
    assert_eq!(live["way_back"], "before-new");
    let after = installed(&system)?;
    ensure!(before != after, "{after:?}");
    // The very process, and what it has mapped.
    let old = &live["old_code"];
    let napper = serde_json::json!([{
        "service": null,
        "program": "napper",
        "processes": [running.pid()],
        "files": ["/usr/bin/napper"],
    }]);
    assert_eq!(*old, napper);
    drop(elsewhere);

    // Never before the window.
    ensure!(looped.times > 10, "{looped:?}");
    let failed = looped.failed;
    let record = system.record("default")?;
    let began = record["live"]["started"].as_str().unwrap_or_default();
    let began = chrono::DateTime::parse_from_rfc3339(began)?.timestamp();
    ensure!(failed.iter().all(|at| *at >= began), "{failed:?} {began}");
    system.chroot().run(&["greeter"])?;

    // What it was built in has done its work; the way back is there, and is where a rollback
    // goes without a name.
    assert_eq!(system.names()?, ["default", "before-new"]);
    let back = system.be.run(&["rollback", "-n"]).done();
    ensure!(back.stdout.contains("before-new"), "{}", back.stdout);
    let root = system.top("@be/before-new/root/var/db/pkg");
    ensure!(before.iter().all(|p| root.join(p).is_dir()), "{before:?}");

    let told = system.be.run(&["log", "default"]).done().stdout;
    ensure!(told.contains("merged 3 packages into default"), "{told}");

    // Nothing is left to do.
    assert_eq!(system.be.run(&["upgrade", "--live"]).code, 77);
    Ok(())
}

/// An upgrade that takes long enough for something to happen while its clone is built.
fn begun(system: &System) -> Result<be_tests::be::Running> {
    system.set_world(&["app-misc/slow", "app-misc/hello"])?;
    system.set_slow(4)?;
    let mut upgrade = system.be.start(&["upgrade", "--live", "new"])?;
    upgrade.until("the build", || system.builds_slow("new").then_some(()))?;
    Ok(upgrade)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_changed_meanwhile_makes_it_refuse() -> Result<()> {
    let system = System::adopted_lab()?;
    let mut upgrade = begun(&system)?;
    let emerge = ["emerge", "--oneshot", "--quiet", "app-misc/greeter"];
    system.chroot().run(&emerge)?;
    let meanwhile = installed(&system)?;
    let refused = upgrade.end()?.exits(3);
    refused.says(&[
        "default has changed since it was cloned",
        "app-misc/greeter",
        "be activate new",
    ]);
    assert_eq!(installed(&system)?, meanwhile);
    assert_eq!(system.names()?, ["default", "new"]);

    // What was begun so goes on so.
    let refused = system.be.run(&["upgrade", "--continue", "new"]).exits(3);
    refused.says(&["has changed since it was cloned"]);

    // So does what decides how packages are built.
    system.be.run(&["destroy", "-y", "new"]).done();
    let mut upgrade = begun(&system)?;
    system.write("/etc/portage/package.use/x", "app-misc/hello x\n")?;
    let refused = upgrade.end()?.exits(3);
    refused.says(&["/etc/portage/package.use/x"]);
    assert_eq!(installed(&system)?, meanwhile);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn half_merged_it_goes_on_or_back() -> Result<()> {
    let system = System::adopted_lab()?;
    let before = installed(&system)?;
    let overlay = Overlay::new(&system)?;
    overlay.ebuild("picky", "1", PICKY)?;
    system.set_world(&["app-misc/slow", "app-misc/hello", "app-misc/picky"])?;
    system.set_slow(4)?;
    let mut upgrade = system.be.start(&["upgrade", "--live", "new"])?;
    upgrade.until("the build", || system.builds_slow("new").then_some(()))?;
    // Only where it runs does it fail, after it is installed.
    system.write("/etc/not-here", "")?;
    let failed = upgrade.end()?.exits(6);
    failed.says(&[
        "only in part",
        "be upgrade --live --continue new",
        "be rollback before-new",
    ]);
    ensure!(installed(&system)?.contains(&"app-misc/picky-1".to_owned()));
    assert!(!system.path("/etc/picked").exists());
    // What is half done is not cloned, and what leads out of it stays.
    for verb in [
        &["create", "x"][..],
        &["upgrade", "--live"],
        &["destroy", "-y", "new"],
        &["destroy", "-y", "before-new"],
    ] {
        let refused = system.be.run(verb).exits(3);
        refused.says(&["only in part", "be upgrade --live --continue new"]);
    }
    let said = system.be.run(&["status"]).stdout;
    ensure!(said.contains("be upgrade --live --continue new"), "{said}");

    // As long as it fails, it is not done.
    let again = system.be.run(&["upgrade", "--live", "--continue", "new"]);
    again.exits(6).says(&["only in part"]);
    fs::remove_file(system.path("/etc/not-here"))?;
    system.be.run(&["rename", "before-new", "as-it-was"]).done();
    system
        .be
        .run(&["upgrade", "--live", "--continue", "new"])
        .done();
    assert!(system.path("/etc/picked").exists());
    assert_eq!(system.names()?, ["default", "as-it-was"]);
    let root = system.env("as-it-was", "/var/db/pkg");
    ensure!(before.iter().all(|p| root.join(p).is_dir()), "{before:?}");
    let back = system.be.run(&["rollback", "-n"]).done();
    ensure!(back.stdout.contains("as-it-was"), "{}", back.stdout);
    system.be.run(&["create", "x"]).done();
    Ok(())
}

/// What takes its time to be installed where it runs.
const SLOW_THERE: &str = "src_install() { newbin - dozy <<<'#!/bin/sh'; }\n\
    pkg_postinst() { [[ ! -e /run/dozy ]] || { touch /run/dozes; sleep 6; } && touch /etc/dozed; }\n";

/// `be` is killed while its emerge merges. What it says of both is in /var/tmp/{first,then}.
const KILLED: &str = "
touch /run/dozy
be upgrade --live new >/var/tmp/first 2>&1 &
until test -e /run/dozes; do
    kill -0 $! || exit 10
    sleep 0.1
done
kill -9 $!
be upgrade --live --continue new >/var/tmp/then 2>&1
test $? = 4 || exit 11
test ! -e /etc/dozed || exit 12
be destroy -F new && exit 13
until test -e /etc/dozed; do sleep 0.1; done
# It ends in its own time.
until be upgrade --live --continue new >/var/tmp/last 2>&1; do
    test $? = 4 || exit 14
    sleep 0.5
done
";

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn an_emerge_whose_be_was_killed_is_alone() -> Result<()> {
    let system = System::adopted_lab()?;
    let overlay = Overlay::new(&system)?;
    overlay.ebuild("dozy", "1", SLOW_THERE)?;
    system.set_world(&["app-misc/dozy"])?;
    // In the system itself, where what merges is a process beside all others.
    fs::copy(system.be.program(), system.path("/usr/local/sbin/be"))?;
    let ran = system.chroot().output(&["sh", "-c", KILLED])?;
    let said = |name: &str| fs::read_to_string(system.path("/var/tmp").join(name));
    let told = || ["first", "then", "last"].map(|name| said(name).unwrap_or_default());
    ensure!(ran.status.success(), "{}: {:#?}", ran.status, told());
    ensure!(said("then")?.contains("works in new"), "{:#?}", told());
    ensure!(installed(&system)?.contains(&"app-misc/dozy-1".to_owned()));
    assert_eq!(system.names()?, ["default", "before-new"]);
    Ok(())
}
