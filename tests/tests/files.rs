//! The services and hooks that `be init` puts into a system.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Result, ensure};
use be_tests::system::System;
use serde_json::json;
use xtask::image::{Layout, Tree};

const UNIT: &str = "/etc/systemd/system/be-confirm.service";
const WANTS: &str = "/etc/systemd/system/multi-user.target.wants/be-confirm.service";
const SCRIPT: &str = "/etc/init.d/be-confirm";
const RUNLEVEL: &str = "/etc/runlevels/default/be-confirm";
const HOOKS: [&str; 4] = [
    "/etc/kernel/postinst.d/zz-be",
    "/etc/kernel/postinst.d/zz-be.install",
    "/etc/kernel/postrm.d/zz-be",
    "/etc/kernel/install.d/95-be.install",
];

/// The small system with both inits and all installers of kernels.
fn with_inits() -> Result<System> {
    let system = System::small()?;
    for dir in ["postinst.d", "postrm.d", "install.d"] {
        fs::create_dir_all(system.path(&format!("/etc/kernel/{dir}")))?;
    }
    for program in ["/usr/lib/systemd/systemd", "/usr/sbin/openrc-run"] {
        let path = system.path(program);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        fs::write(path, "")?;
    }
    Ok(system)
}

fn doctor(system: &System) -> Result<String> {
    fs::create_dir_all(system.path("/etc/be"))?;
    system.write("/etc/be/be.toml", "[upgrade]\nmin_free_mib = 64\n")?;
    Ok(system.be.run(&["doctor"]).stdout)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn init_installs_them_once_and_every_clone_has_them() -> Result<()> {
    let system = with_inits()?;
    let dry = system.unchanged_by(0, &["-n", "init"])?.stdout;
    for path in [UNIT, SCRIPT].iter().chain(&HOOKS) {
        ensure!(dry.contains(&format!("would install {path}\n")), "{dry}");
    }
    for path in [WANTS, RUNLEVEL] {
        ensure!(dry.contains(&format!("would enable it: {path}\n")), "{dry}");
    }
    let done = system.be.run(&["--json", "init"]).done().json();
    let installed = done["installed"].as_array().cloned().unwrap_or_default();
    for path in [UNIT, WANTS, SCRIPT, RUNLEVEL].iter().chain(&HOOKS) {
        ensure!(installed.contains(&json!(path)), "{path}: {done}");
    }
    for path in [SCRIPT].iter().chain(&HOOKS) {
        ensure!(
            system.path(path).metadata()?.mode() & 0o777 == 0o755,
            "{path}"
        );
    }
    let _again = system.be.run(&["init"]).exits(77);

    system.be.run(&["create", "x"]).done();
    for path in [UNIT, WANTS, SCRIPT, RUNLEVEL].iter().chain(&HOOKS) {
        let inside = system.env("x", path.trim_start_matches('/'));
        ensure!(fs::symlink_metadata(&inside).is_ok(), "{path}");
    }
    let told = doctor(&system)?;
    ensure!(told.contains("nothing is wrong"), "{told}");
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_somebody_else_wrote_is_left_and_named() -> Result<()> {
    let system = with_inits()?;
    let mine = "#!/bin/sh\n# mine\n";
    system.write(HOOKS[0], mine)?;
    fs::create_dir_all(system.path("/etc/systemd/system"))?;
    symlink("/dev/null", system.path(UNIT))?;
    let done = system.be.run(&["init"]).done();
    let _told = done.says(&[&format!("left {} as it is", HOOKS[0]), UNIT]);
    assert_eq!(system.read(HOOKS[0])?, mine);
    ensure!(fs::read_link(system.path(UNIT))? == Path::new("/dev/null"));
    ensure!(fs::symlink_metadata(system.path(WANTS)).is_err());
    ensure!(system.path(SCRIPT).is_file());
    let told = doctor(&system)?;
    ensure!(
        told.contains(UNIT) && told.contains("nothing is wrong"),
        "{told}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_is_old_or_gone_is_written_again() -> Result<()> {
    let system = with_inits()?;
    system.be.run(&["init"]).done();
    system.be.run(&["create", "x"]).done();
    let good = system.read(UNIT)?;
    let spoil = |system: &System| -> Result<()> {
        system.write(
            UNIT,
            good.replace("JobTimeoutSec=15min", "JobTimeoutSec=1min"),
        )?;
        fs::remove_file(system.path(RUNLEVEL))?;
        fs::set_permissions(system.path(HOOKS[1]), fs::Permissions::from_mode(0o644))?;
        Ok(())
    };
    let is_mended = |system: &System| -> Result<()> {
        assert_eq!(system.read(UNIT)?, good);
        ensure!(fs::symlink_metadata(system.path(RUNLEVEL)).is_ok());
        ensure!(system.path(HOOKS[1]).metadata()?.mode() & 0o111 == 0o111);
        Ok(())
    };
    spoil(&system)?;
    system.be.run(&["init"]).done();
    is_mended(&system)?;

    spoil(&system)?;
    fs::remove_file(system.env("x", "etc/init.d/be-confirm"))?;
    let told = doctor(&system)?;
    for words in [UNIT, RUNLEVEL, HOOKS[1], "/etc in x", SCRIPT] {
        ensure!(told.contains(words), "{words}: {told}");
    }
    let _mended = system.be.run(&["doctor", "--repair"]).exits(0);
    is_mended(&system)?;
    ensure!(system.env("x", "etc/init.d/be-confirm").is_file());
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_hook_in_a_chroot_does_nothing() -> Result<()> {
    let system = System::lab(Layout::AtSubvol)?;
    system.put_binary(system.be.program())?;
    fs::create_dir_all(system.path("/etc/kernel/postinst.d"))?;
    system.be.run(&["init"]).done();
    system.be.run(&["create", "x"]).done();
    let menu = system.top("@be/.grub/menu.cfg");
    let before = (fs::read(&menu)?, menu.metadata()?.ino());
    let hook = HOOKS[1];
    let inside = system
        .be
        .run(&["exec", "x", "--", hook, "6.6.6", "/boot/vmlinuz-6.6.6"]);
    let inside = inside.done();
    assert_eq!((&*inside.stdout, &*inside.stderr), ("", ""));
    assert_eq!(before, (fs::read(&menu)?, menu.metadata()?.ino()));
    // Without be, or where it fails, the kernel is installed all the same.
    fs::remove_file(system.env("x", "usr/bin/be"))?;
    let _none = system.be.run(&["exec", "x", "--", hook]).done();
    fs::copy("/bin/false", system.env("x", "usr/bin/be"))?;
    let _fails = system.be.run(&["exec", "x", "--", hook]).done();
    Ok(())
}
