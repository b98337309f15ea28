//! apt in a Debian root, with a repository of its own.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use be_tests::system::{NOTHING, System};
use nix::sys::signal::Signal;
use xtask::image::Tree;
use xtask::lab::managers::Managed;
use xtask::run::{cmd, run};

use super::watched;

pub(super) const REPOSITORY: &str = "/srv/debs";
const STATUS: &str = "var/lib/dpkg/status";

/// A package: its name, its version, and its maintainer scripts by their names.
pub(super) struct Deb<'a> {
    pub(super) name: &'a str,
    pub(super) version: &'a str,
    pub(super) depends: &'a str,
    pub(super) scripts: &'a [(&'a str, &'a str)],
    /// What is in its configuration file; the version if not given.
    pub(super) config: &'a str,
}

pub(super) fn deb<'a>(name: &'a str, version: &'a str) -> Deb<'a> {
    Deb {
        name,
        version,
        depends: "",
        scripts: &[],
        config: "",
    }
}

impl Deb<'_> {
    /// Builds it into the system's repository. It has its version in a file, and another in
    /// a configuration file.
    pub(super) fn build(&self, system: &System) -> Result<()> {
        let Deb { name, version, .. } = self;
        let tree = format!("/root/build/{name}");
        let mut control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Nobody <n@b>\n\
             Installed-Size: 8\nDescription: a package\n"
        );
        if !self.depends.is_empty() {
            control.push_str(&format!("Depends: {}\n", self.depends));
        }
        system.write(&format!("{tree}/DEBIAN/control"), &control)?;
        let config = format!("/etc/{name}.conf");
        system.write(&format!("{tree}/DEBIAN/conffiles"), format!("{config}\n"))?;
        let text = match self.config {
            "" => format!("made for {version}\n"),
            text => text.to_owned(),
        };
        system.write(&format!("{tree}{config}"), text)?;
        system.write(&format!("{tree}/usr/share/{name}/version"), version)?;
        let init = format!("{INIT}touch /srv/{name}-$1\n");
        system.write(&format!("{tree}/etc/init.d/{name}d"), init)?;
        let mut programs = vec![format!("etc/init.d/{name}d")];
        for (script, text) in self.scripts {
            system.write(&format!("{tree}/DEBIAN/{script}"), text)?;
            programs.push(format!("DEBIAN/{script}"));
        }
        for program in programs {
            run(cmd("chmod", ["755"]).arg(system.path(&format!("{tree}/{program}"))))?;
        }
        let file = format!("{name}_{version}_all.deb");
        let built = format!("{REPOSITORY}/{file}");
        fs::create_dir_all(system.path(REPOSITORY))?;
        let chroot = system.chroot();
        chroot.run(&["dpkg-deb", "--root-owner-group", "--build", &tree, &built])?;
        fs::remove_dir_all(system.path(&tree))?;

        let sum = run(&mut cmd("sha256sum", [system.path(&built)]))?;
        let sum = sum.split(' ').next().context("a sum")?;
        let size = fs::metadata(system.path(&built))?.len();
        let entry = format!("{control}Filename: ./{file}\nSize: {size}\nSHA256: {sum}\n\n");
        let index = format!("{REPOSITORY}/Packages");
        let known = fs::read_to_string(system.path(&index)).unwrap_or_default();
        system.write(&index, known + &entry)
    }
}

/// A system with version 1 of a package, and 2 in its repository.
pub(super) fn system() -> Result<System> {
    let system = System::adopted_with(Managed::Apt)?;
    let source = format!("deb [trusted=yes] file:{REPOSITORY} ./\n");
    system.write("/etc/apt/sources.list", source)?;
    system.write("/etc/be/be.toml", "[upgrade]\npolite = false\n")?;
    deb("hello", "1").build(&system)?;
    let first = format!("{REPOSITORY}/hello_1_all.deb");
    system.chroot().run(&["dpkg", "--install", &first])?;
    Ok(system)
}

fn version(root: &Path, name: &str) -> Result<String> {
    Ok(fs::read_to_string(
        root.join(format!("usr/share/{name}/version")),
    )?)
}

/// Starts a daemon, as packages do it.
const STARTS: &str = "#!/bin/sh\nset -e\nupdate-rc.d hellod defaults\n\
    invoke-rc.d --skip-systemd-native hellod start\n";

/// The head of a script of a service.
const INIT: &str = "#!/bin/sh\n### BEGIN INIT INFO\n# Provides: hellod\n# Required-Start:\n\
    # Required-Stop:\n# Default-Start: 2 3 4 5\n# Default-Stop: 0 1 6\n### END INIT INFO\n";

#[test]
#[ignore = "needs root, loop devices and a Debian root"]
fn apt_upgrades_a_clone() -> Result<()> {
    let system = system()?;
    system.write("/etc/hello.conf", "mine\n")?;
    // Without it, no service is started anyway.
    system.write("/usr/sbin/runlevel", "#!/bin/sh\necho N 2\n")?;
    run(cmd("chmod", ["755"]).arg(system.path("/usr/sbin/runlevel")))?;
    Deb {
        depends: "more",
        scripts: &[("postinst", STARTS)],
        ..deb("hello", "2~rc1")
    }
    .build(&system)?;
    Deb {
        depends: "more",
        scripts: &[("postinst", STARTS)],
        ..deb("hello", "2")
    }
    .build(&system)?;
    deb("more", "1").build(&system)?;
    let (running, host) = (system.running()?, system.host()?);

    let plan = system
        .be
        .run(&["upgrade", "--dry-run", "new"])
        .done()
        .stdout;
    assert!(!plan.contains("chores") && plan.contains("gates"), "{plan}");
    let told = system.be.run(&["upgrade", "--pretend"]).done().stdout;
    assert_eq!(told, "hello 1 -> 2\nmore 1 (new)\n");
    let document = system.be.run(&["--json", "upgrade", "--pretend"]).done();
    let planned = &document.json()["pretended"];
    assert_eq!(planned[0]["old"][0], "1");
    assert_eq!(planned[1]["new"], "1");

    let (done, told) = watched(&system)?;
    let expected = [
        "unpack more 0 2",
        "unpack hello 0 2",
        "configure more 0 2",
        "configure hello 1 2",
    ];
    assert_eq!(told, expected);
    let done = done.says(&["[1/2] more\n", "[2/2] hello\n"]);
    for line in ["2 changes in new", "hello 1 -> 2", "more 1 (new)"] {
        assert!(done.stdout.contains(line), "{line}: {}", done.stdout);
    }
    assert_eq!(running.diff(&system.running()?), NOTHING);
    assert_eq!(system.host_changes(&host)?, NOTHING);
    assert_eq!(system.record("new")?["state"], "ready");
    assert_eq!(system.sound_menu()?, "new");
    assert_eq!(version(&system.env("new", ""), "hello")?, "2");
    // What was changed by its owner stays.
    let config = fs::read_to_string(system.env("new", "etc/hello.conf"))?;
    assert_eq!(config, "mine\n");
    // No daemon was started, and nothing tells of what kept it from that.
    assert!(!system.env("new", "srv/hello-start").exists());
    assert!(!system.env("new", "usr/sbin/policy-rc.d").exists());
    let start = ["exec", "new", "--", "invoke-rc.d", "--skip-systemd-native"];
    system
        .be
        .run(&[&start[..], &["hellod", "start"]].concat())
        .done();
    assert!(system.env("new", "srv/hello-start").exists());

    let diff = system.be.run(&["diff", "default", "new"]).done().stdout;
    assert!(diff.contains("hello") && diff.contains("1 -> 2"), "{diff}");
    let diff = system.be.run(&["--json", "diff", "default", "new"]).done();
    let packages = &diff.json()["packages"];
    assert_eq!(packages["upgraded"][0]["package"], "hello");
    assert_eq!(packages["upgraded"][0]["from"], "1");
    assert_eq!(packages["upgraded"][0]["to"], "2");
    assert_eq!(packages["added"][0]["package"], "more");

    let log = system.be.run(&["--json", "log", "new"]).done().json();
    let report = &log["report"];
    assert_eq!(report["verdict"], "ready", "{log}");
    let packages = &report["result"]["packages"];
    assert_eq!(packages["upgraded"][0]["to"], "2");
    let gates = &system.record("new")?["upgrade"]["gates"];
    let passed = gates.as_array().context("gates")?.iter();
    let passed = passed.filter(|gate| gate["name"] == "packages" && gate["verdict"] == "passed");
    assert_eq!(passed.count(), 1, "{gates}");
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and a Debian root"]
fn nothing_to_do_keeps_nothing_and_the_same_is_not_made_twice() -> Result<()> {
    let system = system()?;
    let before = system.subvolumes()?;
    let nothing = system.be.run(&["upgrade", "new"]).exits(77);
    nothing.says(&["nothing to upgrade"]);
    assert_eq!(system.subvolumes()?, before);

    deb("hello", "2").build(&system)?;
    system.be.run(&["upgrade", "new"]).done();
    let before = system.subvolumes()?;
    system
        .be
        .run(&["upgrade", "other"])
        .exits(77)
        .says(&["new", "--again"]);
    assert_eq!(system.subvolumes()?, before);
    let again = system.be.run(&["upgrade", "other", "-e", "new"]).exits(77);
    again.says(&["nothing to upgrade"]);
    assert_eq!(system.subvolumes()?, before);

    // A package that is held is announced by nobody.
    deb("hello", "3").build(&system)?;
    let hold = ["exec", "new", "--", "apt-mark", "hold", "hello"];
    system.be.run(&hold).done();
    let nothing = system.be.run(&["upgrade", "-e", "new"]).exits(77);
    drop(nothing.says(&["nothing to upgrade"]));
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and a Debian root"]
fn a_failing_postinst_is_kept_and_continued() -> Result<()> {
    let system = system()?;
    Deb {
        scripts: &[(
            "postinst",
            "#!/bin/sh\necho the disk of $0 is full\n! test -e /srv/bad\n",
        )],
        ..deb("hello", "2")
    }
    .build(&system)?;
    system.write("/srv/bad", "")?;
    let running = system.running()?;

    let failed = system.be.run(&["upgrade", "new"]).exits(6);
    failed.says(&["dist-upgrade: exit 100", "hello is installed in part"]);
    assert_eq!(system.record("new")?["state"], "failed");
    assert_eq!(system.sound_menu()?, "default");
    assert!(!system.env("new", "usr/sbin/policy-rc.d").exists());
    let status = fs::read_to_string(system.env("new", STATUS))?;
    assert!(status.contains("half-configured"));
    let log = system.be.run(&["log", "new"]).done().stdout;
    assert!(log.contains("is full"), "{log}");
    let failed = system.be.run(&["upgrade", "--continue", "new"]).exits(6);
    failed.says(&["--configure", "hello is installed in part"]);
    let again = system.be.run(&["upgrade", "--pretend"]).done().stdout;
    assert_eq!(again, "hello 1 -> 2\n");

    let mend = ["exec", "new", "--", "rm", "/srv/bad"];
    system.be.run(&mend).done();
    system.be.run(&["upgrade", "--continue", "new"]).done();
    assert_eq!(system.record("new")?["state"], "ready");
    assert_eq!(system.sound_menu()?, "new");
    let status = fs::read_to_string(system.env("new", STATUS))?;
    assert!(!status.contains("half-configured"));
    assert_eq!(running.diff(&system.running()?), NOTHING);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and a Debian root"]
fn what_was_killed_goes_on_and_leaves_no_trace() -> Result<()> {
    let system = system()?;
    // So long that only a signal ends it, the first time.
    let slow = "#!/bin/sh\ntest -e /srv/once && exit 0\ntouch /srv/once\nexec sleep 1000\n";
    Deb {
        scripts: &[("postinst", slow)],
        ..deb("hello", "2")
    }
    .build(&system)?;
    let (running, host) = (system.running()?, system.host()?);
    let mut upgrade = system.be.start(&["upgrade", "new"])?;
    let begun = system.env("new", "srv/once");
    upgrade.until("the postinst", || begun.exists().then_some(()))?;
    upgrade.until("the package in be status", || {
        let status = system.be.run(&["status"]).stdout;
        status
            .contains("1 of 1, hello configure 0:00:")
            .then_some(())
    })?;
    upgrade.signal(Signal::SIGKILL)?;
    assert_eq!(upgrade.end()?.code, 137);
    assert_eq!(system.host_changes(&host)?, NOTHING);
    // At the most, an empty file that nobody can run.
    let trace = system.env("new", "usr/sbin/policy-rc.d");
    assert_eq!(fs::metadata(&trace).map_or(0, |meta| meta.len()), 0);

    system.be.run(&["upgrade", "--continue", "new"]).done();
    assert!(!trace.exists());
    assert_eq!(system.record("new")?["state"], "ready");
    assert_eq!(version(&system.env("new", ""), "hello")?, "2");
    assert_eq!(running.diff(&system.running()?), NOTHING);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and a Debian root"]
fn a_source_that_cannot_be_reached_costs_nothing() -> Result<()> {
    let system = system()?;
    deb("hello", "2").build(&system)?;
    fs::remove_file(system.path(&format!("{REPOSITORY}/Packages")))?;
    let before = system.subvolumes()?;
    let failed = system.be.run(&["upgrade", "new"]);
    assert_ne!(failed.code, 0);
    failed.says(&["could not be synchronised", "apt-get"]);
    assert_eq!(system.subvolumes()?, before);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and a Debian root"]
fn the_manager_can_be_chosen() -> Result<()> {
    let system = system()?;
    deb("hello", "2").build(&system)?;
    let choose = |name: &str| {
        let config = format!("[upgrade]\npolite = false\nmanager = \"{name}\"\n");
        system.write("/etc/be/be.toml", config)
    };
    choose("portage")?;
    let refused = system.unchanged_by(3, &["upgrade", "new"])?;
    assert!(refused.error().contains("no package manager"));
    choose("yum")?;
    let refused = system.unchanged_by(3, &["upgrade", "new"])?;
    refused.says(&["yum", "auto, portage, apt, dnf, pacman"]);

    // A copy of ours that takes no options.
    let own = include_str!("../../../crates/core/src/manager/apt.toml");
    let own = own.replace("options = true", "options = false");
    system.write("/etc/be/managers.d/yum.toml", &own)?;
    let refused = system.unchanged_by(2, &["upgrade", "new", "--depclean"])?;
    assert!(refused.error().contains("not for yum"));
    let refused = system.unchanged_by(2, &["upgrade", "new", "--", "--no-remove"])?;
    assert!(refused.error().contains("yum takes no options"));
    system.be.run(&["upgrade", "new"]).done();
    assert_eq!(version(&system.env("new", ""), "hello")?, "2");
    system.write("/etc/be/managers.d/yum.toml", "[sync]\nx = 1\n")?;
    let refused = system.unchanged_by(3, &["upgrade", "new"])?;
    refused.says(&["/etc/be/managers.d/yum.toml", "line"]);
    fs::remove_file(system.path("/etc/be/managers.d/yum.toml"))?;

    choose("apt")?;
    let told = system
        .be
        .run(&["upgrade", "--pretend", "--", "--no-remove"]);
    assert_eq!(told.done().stdout, "hello 1 -> 2\n");
    Ok(())
}
