//! What an upgrade does besides merging: the owner's programs, and the usual chores.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};
use be_tests::system::{NOTHING, System};
use xtask::image::Tree;

const HOOKS: &str = "/etc/be/upgrade.d";

fn hook(system: &System, path: &str, script: &str) -> Result<()> {
    let path = format!("{HOOKS}/{path}");
    system.write(&path, format!("#!/bin/sh\n{script}\n"))?;
    Ok(fs::set_permissions(
        system.path(&path),
        fs::Permissions::from_mode(0o755),
    )?)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn the_owners_programs_run_in_the_clone_around_each_phase() -> Result<()> {
    let system = System::adopted_lab()?;
    system.set_world(&["app-misc/hello"])?;
    let note = "echo \"$BE_ENVIRONMENT $BE_PHASE $(basename \"$0\")\" >>/root/hooks";
    for at in [
        "before-sync/b",
        "before-sync/a",
        "after-sync/c",
        "before-merge/d",
        "after-merge/e",
        "after-chores/f",
        "before-check/g",
    ] {
        hook(&system, at, note)?;
    }
    hook(&system, "before-merge/.hidden", "exit 1")?;
    system.write(&format!("{HOOKS}/before-merge/README"), "not a program")?;
    hook(&system, "before-chores/fails", "test -e /root/mended")?;
    let running = system.running()?;

    system.be.run(&["upgrade", "--pretend"]).done();
    let failed = system.be.run(&["upgrade", "new"]).exits(6);
    let failed = failed.says(&["/etc/be/upgrade.d/before-chores/fails failed (exit 1)"]);
    drop(failed.says(&["be upgrade --continue new"]));
    assert_eq!(system.sound_menu()?, "default");

    fs::write(system.env("new", "root/mended"), "")?;
    system.be.run(&["upgrade", "--continue", "new"]).done();
    assert_eq!(system.sound_menu()?, "new");
    let ran = fs::read_to_string(system.env("new", "root/hooks"))?;
    let ran: Vec<&str> = ran.lines().filter_map(|l| l.strip_prefix("new ")).collect();
    let first = ["sync a", "sync b", "sync c", "merge d", "merge e"];
    // Around the phase that failed they run again, and around the one before it, too.
    let again = ["merge d", "merge e", "chores f", "check g"];
    assert_eq!(ran, [&first[..], &again].concat());
    assert_eq!(running.diff(&system.running()?), NOTHING);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn chores_are_done_where_they_are_due_and_once() -> Result<()> {
    let system = System::adopted_lab()?;
    system.set_world(&["app-misc/hello", "sys-kernel/lab-kernel"])?;
    let ran = |name: &str| -> Result<Vec<String>> {
        let log = fs::read_to_string(system.top(&format!("@be/{name}/log/upgrade.log")))?;
        let commands = log.lines().filter(|line| line.starts_with(">>> "));
        let last = commands.filter_map(|line| line.rsplit(' ').next());
        Ok(last
            .filter(|l| l.ends_with("-rebuild"))
            .map(str::to_owned)
            .collect())
    };
    // A new kernel, and nothing that is kept for old programs.
    hook(&system, "after-chores/fails", "test -e /root/mended")?;
    drop(system.be.run(&["upgrade", "new"]).exits(6));
    assert_eq!(ran("new")?, ["@module-rebuild"]);
    assert_eq!(
        system.record("new")?["upgrade"]["chores"][0],
        "module-rebuild"
    );
    fs::write(system.env("new", "root/mended"), "")?;
    system.be.run(&["upgrade", "--continue", "new"]).done();
    assert_eq!(ran("new")?, ["@module-rebuild"]);

    fs::remove_dir_all(system.path(HOOKS))?;
    system.set_world(&["app-misc/hello"])?;
    system.be.run(&["upgrade", "same-kernel"]).done();
    assert_eq!(ran("same-kernel")?, [""; 0]);
    system.write("/etc/be/be.toml", "[upgrade]\nchores = [\"tidy\"]\n")?;
    let refused = system.be.run(&["status"]).exits(3);
    drop(refused.says(&["be.toml", "tidy", "preserved-rebuild"]));
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_nothing_needs_is_removed_on_request() -> Result<()> {
    let system = System::adopted_lab()?;
    // Nobody asks for the kernel, and for what was built against the library, any more.
    system.set_world(&["app-misc/hello"])?;
    let installed = |name: &str, package: &str| -> Result<bool> {
        let dir = system.env(name, "var/db/pkg").join(package);
        let (dir, name) = (dir.parent().map(ToOwned::to_owned), dir.file_name());
        let name = name.and_then(|n| n.to_str()).unwrap_or_default().to_owned();
        let names = std::fs::read_dir(dir.unwrap_or_default())?;
        Ok(names
            .flatten()
            .any(|n| n.file_name().to_string_lossy().starts_with(&name)))
    };
    system.be.run(&["upgrade", "usual"]).done();
    ensure!(installed("usual", "app-misc/greeter-")?);
    system.be.run(&["upgrade", "--depclean", "less"]).done();
    ensure!(!installed("less", "app-misc/greeter-")?);
    ensure!(installed("less", "sys-kernel/lab-kernel-")?);
    ensure!(installed("less", "app-misc/hello-")?);
    assert_eq!(system.sound_menu()?, "less");
    let log = system.be.run(&["log", "less"]).done().stdout;
    ensure!(log.contains("removed"), "{log}");
    Ok(())
}
