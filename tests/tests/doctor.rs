//! Every wrong state, made for real: `be doctor` finds it, `--repair` or the command that it
//! names mends it, and nothing is wrong then.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use anyhow::{Result, ensure};
use be_tests::be::Outcome;
use be_tests::system::{NOTHING, System};
use serde_json::Value;
use xtask::image::{Layout, Tree};
use xtask::run::{cmd, run};

/// A system with an environment `x`, and nothing wrong with it.
fn sound() -> Result<System> {
    let system = System::adopted_small()?;
    fs::create_dir_all(system.path("/etc/be"))?;
    system.write("/etc/be/be.toml", "[upgrade]\nmin_free_mib = 64\n")?;
    system.be.run(&["create", "x"]).done();
    is_clean(&system)?;
    Ok(system)
}

#[track_caller]
fn is_clean(system: &System) -> Result<()> {
    let outcome = system.be.run(&["doctor"]).exits(0);
    ensure!(
        outcome.stdout.contains("nothing is wrong"),
        "{}",
        outcome.stdout
    );
    Ok(())
}

/// The problem with this id, which looking at it changes nothing of.
#[track_caller]
fn found(system: &System, id: &str) -> Result<Value> {
    let document = system.unchanged_by(1, &["doctor", "--json"])?.json();
    let all = document["problems"].as_array().cloned().unwrap_or_default();
    let problem = all.iter().find(|p| p["id"] == id).cloned();
    let problem = problem.unwrap_or_else(|| panic!("no {id}: {document:#}"));
    ensure!(document["clean"] == false);
    // A person is told as well.
    let text = system.be.run(&["doctor"]).exits(1).stdout;
    ensure!(
        text.contains(problem["remedy"].as_str().unwrap_or("-")),
        "{text}"
    );
    Ok(problem)
}

/// Found, and mended by `--repair`; a dry run says so before and does nothing.
#[track_caller]
fn repaired(system: &System, id: &str) -> Result<()> {
    let problem = found(system, id)?;
    ensure!(problem["repairable"] == true, "{problem}");
    let dry = system.unchanged_by(1, &["-n", "doctor", "--repair"])?;
    ensure!(dry.stdout.starts_with("would "), "{}", dry.stdout);
    let done = system.be.run(&["doctor", "--repair"]).exits(0);
    ensure!(done.stdout.contains("done: "), "{}", done.stdout);
    is_clean(system)?;
    // A second time there is nothing to do.
    let again = system
        .be
        .run(&["doctor", "--repair", "--json"])
        .exits(0)
        .json();
    ensure!(
        again["repaired"].as_array().is_some_and(Vec::is_empty),
        "{again}"
    );
    ensure!(system.sound_menu()? == "default");
    Ok(())
}

/// Found, and not mended by `--repair`, which leaves all as it is.
#[track_caller]
fn left_alone(system: &System, id: &str) -> Result<Value> {
    let problem = found(system, id)?;
    ensure!(problem["repairable"] == false, "{problem}");
    let (subvolumes, running) = (system.subvolumes()?, system.running()?);
    let _told = system.be.run(&["doctor", "--repair"]).exits(1);
    assert_eq!(subvolumes, system.subvolumes()?);
    assert_eq!(running.diff(&system.running()?), NOTHING);
    Ok(problem)
}

fn replace(path: &Path, from: &str, to: &str) -> Result<()> {
    let text = fs::read_to_string(path)?;
    ensure!(text.contains(from), "{text}");
    fs::write(path, text.replacen(from, to, 1))?;
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn fstabs() -> Result<()> {
    let system = sound()?;
    let own = system.env("x", "etc/fstab");
    let good = fs::read_to_string(&own)?;
    for (to, id) in [
        ("subvol=/@be/x/root,subvolid=999", "fstab-subvolid"),
        ("subvol=/@", "fstab-subvol"),
        ("defaults", "fstab-subvol"),
    ] {
        replace(&own, "subvol=/@be/x/root", to)?;
        let problem = found(&system, id)?;
        ensure!(problem["object"] == "x", "{problem}");
        repaired(&system, id)?;
        let text = fs::read_to_string(&own)?;
        ensure!(
            text.contains("subvol=/@be/x/root") && !text.contains("subvolid"),
            "{text}"
        );
    }
    fs::write(&own, &good)?;
    system.be.run(&["menu"]).done();
    is_clean(&system)?;
    // The running one, where the installer wrote a number.
    let id = run(cmd("btrfs", ["inspect-internal", "rootid"]).arg(system.root()))?;
    let fstab = system.path("/etc/fstab");
    let old = fs::read_to_string(&fstab)?;
    replace(
        &fstab,
        "subvol=/@",
        &format!("subvolid={},subvol=/@", id.trim()),
    )?;
    repaired(&system, "fstab-subvolid")?;
    assert_eq!(fs::read_to_string(&fstab)?, old);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn the_menu() -> Result<()> {
    let system = sound()?;
    let menu = system.top("@be/.grub/menu.cfg");
    fs::remove_file(&menu)?;
    repaired(&system, "menu-missing")?;
    fs::write(&menu, "# nonsense\n")?;
    repaired(&system, "menu-unreadable")?;
    replace(&menu, "quiet", "noisy")?;
    repaired(&system, "menu-stale")?;

    // An environment with a new kernel.
    let version = "6.7.7-small";
    fs::create_dir(system.env("x", &format!("lib/modules/{version}")))?;
    fs::write(
        system.env("x", &format!("lib/modules/{version}/modules.dep")),
        "",
    )?;
    fs::write(system.env("x", &format!("boot/vmlinuz-{version}")), "k")?;
    fs::write(
        system.env("x", &format!("boot/initramfs-{version}.img")),
        "i",
    )?;
    repaired(&system, "menu-stale")?;
    ensure!(system.menu()?.contains(version));

    // One that boots and is not in the menu; by the command that is named.
    let header = fs::read_to_string(&menu)?;
    replace(&menu, "\"x\",", "")?;
    let problem = found(&system, "entry-missing")?;
    ensure!(
        problem["object"] == "x" && problem["remedy"] == "be menu",
        "{problem}"
    );
    system.be.run(&["menu"]).done();
    is_clean(&system)?;
    assert_eq!(header, fs::read_to_string(&menu)?);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn an_entry_without_its_kernel() -> Result<()> {
    let system = sound()?;
    for file in ["vmlinuz", "initramfs"] {
        for entry in fs::read_dir(system.env("x", "boot"))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(file) {
                fs::rename(
                    entry.path(),
                    system.env("x", "root").join(entry.file_name()),
                )?;
            }
        }
    }
    let problem = found(&system, "entry-dead")?;
    ensure!(problem["object"] == "x", "{problem}");
    found(&system, "not-bootable")?;
    // The dead entry goes; that it does not boot remains.
    let rest = system
        .be
        .run(&["doctor", "--repair", "--json"])
        .exits(1)
        .json();
    let ids: Vec<_> = rest["problems"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|p| p["severity"] != "note")
        .map(|p| p["id"].clone())
        .collect();
    assert_eq!(ids, ["not-bootable"]);
    ensure!(!system.menu()?.contains("be-x"));
    for entry in fs::read_dir(system.env("x", "root"))? {
        let entry = entry?;
        fs::rename(
            entry.path(),
            system.env("x", "boot").join(entry.file_name()),
        )?;
    }
    repaired(&system, "entry-missing")?;

    // What boots by default never loses its entry by a repair.
    system.be.run(&["activate", "x"]).done();
    let menu = system.menu()?;
    fs::remove_file(system.env("x", "sbin/init"))?;
    found(&system, "default-lost")?;
    let _told = system.be.run(&["doctor", "--repair"]).exits(1);
    assert_eq!(menu, system.menu()?);
    system.be.run(&["activate", "default"]).done();
    system.be.run(&["destroy", "-y", "x"]).done();
    is_clean(&system)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn the_hook_and_the_script() -> Result<()> {
    let system = sound()?;
    system.write("/boot/grub/grub.cfg", "set timeout=5\n")?;
    repaired(&system, "not-hooked")?;
    system.write("/boot/grub/grub.cfg", "set timeout=5\n")?;
    found(&system, "not-hooked")?;
    system.be.run(&["init"]).done();
    is_clean(&system)?;

    let script = system.path("/etc/grub.d/45_be");
    let good = fs::read_to_string(&script)?;
    fs::remove_file(&script)?;
    repaired(&system, "grub-script")?;
    fs::write(&script, "#!/bin/sh\n")?;
    repaired(&system, "grub-script")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o644))?;
    repaired(&system, "grub-script")?;
    assert_eq!(fs::read_to_string(&script)?, good);
    ensure!(fs::metadata(&script)?.permissions().mode() & 0o111 == 0o111);
    // be init, too, mends one that is not executable.
    fs::set_permissions(&script, fs::Permissions::from_mode(0o644))?;
    system.be.run(&["init"]).done();
    is_clean(&system)?;
    // In another environment.
    fs::remove_file(system.env("x", "etc/grub.d/45_be"))?;
    repaired(&system, "grub-script")?;
    assert_eq!(
        fs::read_to_string(system.env("x", "etc/grub.d/45_be"))?,
        good
    );
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn the_store() -> Result<()> {
    let system = sound()?;
    let mode =
        |path: &str, mode| fs::set_permissions(system.top(path), fs::Permissions::from_mode(mode));
    mode("@be", 0o755)?;
    repaired(&system, "store-permissions")?;
    ensure!(fs::metadata(system.top("@be"))?.permissions().mode() & 0o777 == 0o700);
    mode("@be/x", 0o777)?;
    mode("@be/x/be.json", 0o644)?;
    repaired(&system, "store-permissions")?;
    chown(system.top("@be/x/be.json"), Some(1000), Some(1000))?;
    repaired(&system, "store-permissions")?;

    let record = system.top("@be/x/be.json");
    let text = fs::read_to_string(&record)?;
    fs::write(&record, &text[..text.len() / 2])?;
    let problem = left_alone(&system, "record-unreadable")?;
    ensure!(problem["text"].to_string().contains("line"), "{problem}");
    // Its entry is not taken away meanwhile.
    ensure!(system.menu()?.contains("be-x"));
    fs::write(&record, text)?;
    is_clean(&system)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_is_not_proven_to_be_bes_own() -> Result<()> {
    let system = sound()?;
    fs::create_dir_all(system.top("@be/plain/root/etc"))?;
    fs::write(system.top("@be/plain/root/etc/notes"), "mine")?;
    left_alone(&system, "orphan-directory")?;
    fs::rename(system.top("@be/plain"), system.top("plain"))?;
    is_clean(&system)?;

    system.make_subvolume("@be/.mine")?;
    let problem = left_alone(&system, "orphan-subvolume")?;
    ensure!(problem["object"] == "/@be/.mine", "{problem}");
    fs::rename(system.top("@be/.mine"), system.top("mine"))?;
    is_clean(&system)?;

    system.make_subvolume("@be/x/root/root/inside")?;
    left_alone(&system, "nested-in-environment")?;
    run(cmd("btrfs", ["subvolume", "delete"]).arg(system.env("x", "root/inside")))?;
    is_clean(&system)?;

    // Leftovers: what is be's own goes, what only looks like it stays.
    fs::create_dir_all(system.top("@be/.work/new/half/log"))?;
    repaired(&system, "leftover")?;
    ensure!(system.leftovers().is_empty());
    // A removal that was cut off after its rename.
    system.be.run(&["create", "cut"]).done();
    fs::create_dir_all(system.top("@be/.work/gone"))?;
    fs::rename(system.top("@be/cut"), system.top("@be/.work/gone/cut"))?;
    found(&system, "leftover")?;
    found(&system, "entry-dead")?;
    repaired(&system, "leftover")?;
    ensure!(!system.subvolume_paths()?.iter().any(|p| p.contains("cut")));
    ensure!(!system.menu()?.contains("be-cut"));
    fs::create_dir_all(system.top("@be/.work/gone/stranger"))?;
    system.make_subvolume("@be/.work/gone/stranger/root")?;
    fs::write(system.top("@be/.work/gone/stranger/root/work"), "of a year")?;
    found(&system, "leftover")?;
    let before = system.subvolumes()?;
    let told = system.be.run(&["doctor", "--repair"]).exits(1);
    ensure!(told.stdout.contains("stranger"), "{}", told.stdout);
    assert_eq!(before, system.subvolumes()?);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_root_that_is_gone() -> Result<()> {
    let system = sound()?;
    run(cmd("btrfs", ["subvolume", "delete"]).arg(system.env("x", "")))?;
    let problem = left_alone(&system, "root-missing")?;
    assert_eq!(problem["remedy"], "be destroy x");
    system.be.run(&["destroy", "-y", "x"]).done();
    is_clean(&system)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn the_default_subvolume() -> Result<()> {
    let system = sound()?;
    run(cmd("btrfs", ["subvolume", "set-default"]).arg(system.env("x", "")))?;
    let problem = left_alone(&system, "default-subvolume")?;
    ensure!(
        problem["remedy"].to_string().contains("set-default 5"),
        "{problem}"
    );
    run(cmd("btrfs", ["subvolume", "set-default", "5"]).arg(system.root()))?;
    is_clean(&system)?;
    // The root by the default: fstab does not say which.
    run(cmd("btrfs", ["subvolume", "set-default"]).arg(system.root()))?;
    replace(&system.path("/etc/fstab"), "subvol=/@,", "")?;
    repaired(&system, "fstab-subvol")?;
    ensure!(system.read("/etc/fstab")?.contains("subvol=/@"));
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn grubs_own_files() -> Result<()> {
    let system = sound()?;
    // grub-install, as far as it can be told by its traces.
    let core = |root: &Path, when: &str| -> Result<()> {
        let dir = root.join("boot/grub/i386-pc");
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("core.img"), "core")?;
        run(cmd("touch", ["-d", when]).arg(dir.join("core.img")))?;
        Ok(())
    };
    core(system.root(), "2026-01-01")?;
    core(&system.env("x", ""), "2026-01-01")?;
    is_clean(&system)?;
    core(&system.env("x", ""), "2026-02-01")?;
    let problem = left_alone(&system, "grub-installed-elsewhere")?;
    ensure!(problem["object"] == "x", "{problem}");
    // And it is not pruned.
    system.write(
        "/etc/be/be.toml",
        "[prune]\nkeep = 0\nmin_keep = 0\n[upgrade]\nmin_free_mib = 64\n",
    )?;
    let kept = system.unchanged_by(77, &["-n", "prune"])?;
    ensure!(kept.stdout.contains("grub-install"), "{}", kept.stdout);
    core(system.root(), "2026-03-01")?;
    is_clean(&system)?;

    // The record does not know where they are.
    let record = system.top("@be/default/be.json");
    replace(&record, "\"grub_home\": \"boot/grub\",", "")?;
    repaired(&system, "grub-home-unknown")?;
    assert_eq!(system.record("default")?["grub_home"], "boot/grub");

    // A choice that GRUB cannot clear.
    let block = format!(
        "# GRUB Environment Block\nnext_entry=be-x\n{}",
        "#".repeat(1000)
    );
    system.write("/boot/grub/grubenv", &block[..1024])?;
    left_alone(&system, "grub-choice")?;
    let status = system.be.run(&["status", "--json"]).done().json();
    assert_eq!(
        (&status["once"], &status["next_why"]),
        (&"be-x".into(), &"once".into())
    );
    let kept = system.unchanged_by(77, &["-n", "prune"])?;
    ensure!(kept.stdout.contains("grub-reboot"), "{}", kept.stdout);
    fs::remove_file(system.path("/boot/grub/grubenv"))?;

    // An entry of grub-mkconfig for an environment that is gone.
    let uuid = system.uuid().to_owned();
    let line = format!("linux /@old/boot/k root=UUID={uuid} ro rootflags=subvol=@old\n");
    system.append("/boot/grub/grub.cfg", line)?;
    left_alone(&system, "grub-cfg-entry")?;
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn swapfiles_and_space() -> Result<()> {
    let system = sound()?;
    let swap = system.path("/swap.file");
    run(cmd("btrfs", ["filesystem", "mkswapfile", "--size", "16m"]).arg(&swap))?;
    system.append("/etc/fstab", "/swap.file none swap sw 0 0\n")?;
    let problem = left_alone(&system, "swapfile")?;
    ensure!(problem["severity"] == "warning", "{problem}");
    run(cmd("swapon", [&swap]).env("LC_ALL", "C"))?;
    let problem = found(&system, "swapfile");
    run(&mut cmd("swapoff", [&swap]))?;
    ensure!(problem?["severity"] == "error");
    fs::remove_file(&swap)?;
    is_clean(&system)?;

    system.write("/etc/be/be.toml", "[upgrade]\nmin_free_mib = 100000\n")?;
    left_alone(&system, "space-low")?;
    system.write("/etc/be/be.toml", "[upgrade]\nmin_free_mib = 1\n")?;
    system.fill(0)?;
    let told = system.be.run(&["doctor", "--json"]).exits(1);
    ensure!(
        told.stdout.contains("space-low") || told.stdout.contains("metadata-low"),
        "{}",
        told.stdout
    );
    system.empty()?;
    is_clean(&system)?;

    run(cmd("btrfs", ["quota", "enable"]).arg(system.root()))?;
    let problem = found(&system, "quotas")?;
    ensure!(problem["remedy"] == "btrfs quota disable /", "{problem}");
    run(cmd("btrfs", ["quota", "disable"]).arg(system.root()))?;
    is_clean(&system)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_filesystem_that_is_read_only() -> Result<()> {
    let system = sound()?;
    let remount = |how: &str| -> Result<()> {
        for dir in [system.root().to_owned(), system.top("")] {
            run(cmd("mount", ["-o", &format!("remount,{how}")]).arg(dir))?;
        }
        Ok(())
    };
    remount("ro")?;
    let document = system.be.run(&["doctor", "--json"]).exits(1).json();
    let refused = system.be.run(&["prune"]).exits(3);
    remount("rw")?;
    ensure!(document["problems"][0]["id"] == "read-only", "{document}");
    ensure!(refused.stderr.contains("read-only"), "{}", refused.stderr);
    is_clean(&system)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn programs_that_are_missing() -> Result<()> {
    let system = sound()?;
    let mut command = system.be.command(&["doctor", "--json"]);
    command.env("PATH", "/nonexistent");
    let document = Outcome::of(&mut command).exits(1).json();
    let problem = &document["problems"][0];
    ensure!(problem["id"] == "tool-missing", "{document}");
    ensure!(problem["object"] == "grub-script-check", "{document}");
    // Without a package manager there is no upgrade, and nothing is wrong.
    fs::remove_file(system.path("/usr/bin/emerge"))?;
    let told = system.be.run(&["doctor"]).exits(0);
    ensure!(told.stdout.contains("package manager"), "{}", told.stdout);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn another_be_at_work_is_no_problem_for_looking() -> Result<()> {
    let system = sound()?;
    let lock = fs::File::open(system.top("@be/lock"))?;
    let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock)
        .map_err(|(_, e)| e)?;
    is_clean(&system)?;
    fs::remove_file(system.top("@be/.grub/menu.cfg"))?;
    found(&system, "menu-missing")?;
    let _busy = system.be.run(&["doctor", "--repair"]).exits(4);
    drop(lock);
    repaired(&system, "menu-missing")
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn every_layout_of_the_lab_is_sound_after_init() -> Result<()> {
    for layout in Layout::ALL.into_iter().filter(|l| l.is_mountable()) {
        let system = System::lab(layout)?;
        system.be.run(&["init"]).done();
        system.be.run(&["create", "x"]).done();
        let repaired = system.be.run(&["doctor", "--repair", "--json"]).json();
        // Fedora's installer writes a number, and SUSE's relies on the default subvolume.
        let number = matches!(layout, Layout::FedoraRoot | Layout::Suse);
        let done = repaired["repaired"].to_string();
        ensure!(
            done.contains("/etc/fstab of default") == number,
            "{layout:?}: {done}"
        );
        let found: Vec<_> = repaired["problems"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|p| p["severity"] != "note" && p["id"] != "space-low")
            .collect();
        ensure!(found.is_empty(), "{layout:?}: {found:#?}");
        // A grub.cfg that is written anew is as right.
        system
            .chroot()
            .run(&["grub-mkconfig", "-o", "/boot/grub/grub.cfg"])?;
        let again = system.be.run(&["doctor", "--json"]).json();
        ensure!(
            again["problems"] == repaired["problems"],
            "{layout:?}: {again:#}"
        );
    }
    Ok(())
}
