//! dnf and rpm, in a root that has them, with a repository made by createrepo_c.

use std::fs;

use anyhow::Result;
use be_tests::system::{NOTHING, System};
use nix::sys::signal::Signal;
use xtask::image::Tree;
use xtask::lab::managers::Managed;

use super::watched;

const REPOSITORY: &str = "/srv/rpms";

/// Builds a package into the system's repository, with these tags and scriptlets in its spec.
fn build(system: &System, name: &str, version: &str, tags: &str, scripts: &str) -> Result<()> {
    let spec = format!(
        "Name: {name}\nVersion: {version}\nRelease: 1\nSummary: a package\nLicense: MIT\n\
         BuildArch: noarch\n{tags}%description\nA package.\n%install\n\
         mkdir -p %{{buildroot}}/usr/share/{name} %{{buildroot}}/etc\n\
         echo {version} >%{{buildroot}}/usr/share/{name}/version\n\
         echo made for {version} >%{{buildroot}}/etc/{name}.conf\n\
         echo made for {version} >%{{buildroot}}/etc/{name}.replaced\n{scripts}\n\
         %files\n/usr/share/{name}/version\n%config(noreplace) /etc/{name}.conf\n\
         %config /etc/{name}.replaced\n"
    );
    system.write("/root/package.spec", spec)?;
    let chroot = system.chroot();
    chroot.run(&[
        "rpmbuild",
        "--quiet",
        "-bb",
        "--define=_topdir /root/rpmbuild",
        &format!("--define=_rpmdir {REPOSITORY}"),
        "/root/package.spec",
    ])?;
    chroot.run(&["createrepo_c", "--quiet", REPOSITORY])?;
    Ok(())
}

/// A system with version 1 of a package that dnf rules.
fn system() -> Result<System> {
    let system = System::adopted_with(Managed::Dnf)?;
    let repository =
        format!("[own]\nname=own\nbaseurl=file://{REPOSITORY}\ngpgcheck=0\nenabled=1\n");
    system.write("/etc/yum.repos.d/own.repo", repository)?;
    // Debian's root, where apt would be recognised first.
    let config = "[upgrade]\npolite = false\nmanager = \"dnf\"\n";
    system.write("/etc/be/be.toml", config)?;
    build(&system, "hello", "1", "", "")?;
    let first = format!("{REPOSITORY}/noarch/hello-1-1.noarch.rpm");
    let install = ["rpm", "--install", "--nodeps", &first];
    system.chroot().run(&install)?;
    Ok(system)
}

#[test]
#[ignore = "needs root, loop devices and a root with dnf"]
fn dnf_upgrades_a_clone() -> Result<()> {
    let system = system()?;
    let before = system.subvolumes()?;
    let nothing = system.be.run(&["upgrade", "new"]).exits(77);
    drop(nothing.says(&["nothing to upgrade"]));
    assert_eq!(system.subvolumes()?, before);

    // Announced, and then left out as something that it needs is nowhere.
    build(&system, "hello", "1.0.1", "Requires: nowhere\n", "")?;
    let told = system.be.run(&["upgrade", "--pretend"]).done().stdout;
    assert_eq!(told, "hello 1-1 -> 1.0.1-1\n");
    let nothing = system.be.run(&["upgrade", "new"]).exits(77);
    drop(nothing.says(&["nothing to upgrade"]));
    assert_eq!(system.subvolumes()?, before);

    system.write("/etc/hello.conf", "mine\n")?;
    system.write("/etc/hello.replaced", "mine\n")?;
    build(&system, "more", "1", "", "")?;
    build(&system, "hello", "1.1~rc1", "", "")?;
    build(&system, "hello", "2", "Requires: more\n", "")?;
    let (running, host) = (system.running()?, system.host()?);
    let told = system.be.run(&["upgrade", "--pretend"]).done().stdout;
    assert_eq!(told, "hello 1-1 -> 2-1\n");

    let (done, told) = watched(&system)?;
    let expected = [
        "install more-1-1.noarch 0 3",
        "upgrade hello-2-1.noarch 1 3",
        "remove hello-1-1.noarch 2 3",
    ];
    assert_eq!(told, expected);
    for line in ["2 changes in new", "hello 1-1 -> 2-1", "more 1-1 (new)"] {
        assert!(done.stdout.contains(line), "{line}: {}", done.stdout);
    }
    assert_eq!(running.diff(&system.running()?), NOTHING);
    assert_eq!(system.host_changes(&host)?, NOTHING);
    assert_eq!(system.record("new")?["state"], "ready");
    assert_eq!(system.sound_menu()?, "new");
    let version = fs::read_to_string(system.env("new", "usr/share/hello/version"))?;
    assert_eq!(version, "2\n");
    // What was changed by its owner stays, beside what the package has.
    let config = |name: &str| fs::read_to_string(system.env("new", name));
    assert_eq!(config("etc/hello.conf")?, "mine\n");
    assert_eq!(config("etc/hello.conf.rpmnew")?, "made for 2\n");
    assert_eq!(config("etc/hello.replaced.rpmsave")?, "mine\n");
    let listed = system.be.run(&["config", "--list", "--json", "new"]);
    let pending = &listed.done().json()["pending"];
    assert_eq!(pending[0]["files"][0], "/etc/hello.conf.rpmnew");
    assert_eq!(pending[0]["state"], "unknown-base");
    assert_eq!(pending[1]["files"][0], "/etc/hello.replaced.rpmsave");
    assert_eq!(pending[1]["state"], "old");
    let take = ["config", "new", "--take", "/etc/hello.replaced"];
    system.be.run(&take).done();
    assert_eq!(config("etc/hello.replaced")?, "mine\n");

    let diff = system.be.run(&["--json", "diff", "default", "new"]).done();
    let packages = &diff.json()["packages"];
    assert_eq!(packages["upgraded"][0]["package"], "hello");
    assert_eq!(packages["upgraded"][0]["from"], "1-1");
    assert_eq!(packages["upgraded"][0]["to"], "2-1");
    assert_eq!(packages["added"][0]["package"], "more");
    let log = system.be.run(&["--json", "log", "new"]).done().json();
    let packages = &log["report"]["result"]["packages"];
    assert_eq!(packages["upgraded"][0]["to"], "2-1", "{log}");

    // The packages of a snapshot, which nobody can write to, and backwards.
    system.be.run(&["create", "new@then"]).done();
    let diff = system.be.run(&["diff", "new@then", "default"]).done();
    assert!(diff.stdout.contains("2-1 -> 1-1"), "{}", diff.stdout);
    assert!(diff.stdout.contains("downgraded"), "{}", diff.stdout);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and a root with dnf"]
fn a_failing_package_is_kept_and_continued() -> Result<()> {
    let system = system()?;
    let pre = "%pre\necho the disk is full\n! test -e /srv/bad\n";
    build(&system, "hello", "2", "Provides: /bin/sh\n", pre)?;
    system.write("/srv/bad", "")?;
    let running = system.running()?;
    let failed = system.be.run(&["upgrade", "new"]).exits(6);
    drop(failed.says(&["dnf --assumeyes upgrade: exit 1"]));
    assert_eq!(system.record("new")?["state"], "failed");
    assert_eq!(system.sound_menu()?, "default");
    let log = system.be.run(&["log", "new"]).done().stdout;
    assert!(log.contains("is full"), "{log}");

    let mend = ["exec", "new", "--", "rm", "/srv/bad"];
    system.be.run(&mend).done();
    system.be.run(&["upgrade", "--continue", "new"]).done();
    assert_eq!(system.record("new")?["state"], "ready");
    let version = fs::read_to_string(system.env("new", "usr/share/hello/version"))?;
    assert_eq!(version, "2\n");
    assert_eq!(running.diff(&system.running()?), NOTHING);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and a root with dnf"]
fn what_was_killed_in_the_middle_is_not_gone_on_with() -> Result<()> {
    let system = system()?;
    let pre = "%pre\ntouch /srv/begun\nexec sleep 1000\n";
    build(&system, "hello", "2", "Provides: /bin/sh\n", pre)?;
    let mut upgrade = system.be.start(&["upgrade", "new"])?;
    let begun = system.env("new", "srv/begun");
    upgrade.until("the scriptlet", || begun.exists().then_some(()))?;
    upgrade.signal(Signal::SIGKILL)?;
    assert_eq!(upgrade.end()?.code, 137);

    let refused = system.be.run(&["upgrade", "--continue", "new"]).exits(3);
    drop(refused.says(&["dnf was cut off while it changed new", "be destroy new"]));
    assert_eq!(system.sound_menu()?, "default");
    system.be.run(&["destroy", "-y", "new"]).done();
    Ok(())
}
