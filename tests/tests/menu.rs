//! The menu file: what its entries say, what else it offers, and for whom.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use be_tests::small::KERNEL;
use be_tests::system::System;
use serde_json::Value;
use xtask::image::Tree;
use xtask::run::{cmd, run};

const OLDER: &str = "6.1.9-small";

/// The small system with a second kernel and three packages, adopted.
fn adopted() -> Result<System> {
    let system = System::small()?;
    let modules = system.path(&format!("/lib/modules/{OLDER}"));
    fs::create_dir_all(&modules)?;
    fs::write(modules.join("modules.dep"), "")?;
    system.write(&format!("/boot/vmlinuz-{OLDER}"), "a kernel")?;
    system.write(&format!("/boot/initramfs-{OLDER}.img"), "an initramfs")?;
    for package in ["app-misc/hello-1", "app-misc/other-1", "virtual/libc-1"] {
        fs::create_dir_all(database(system.root()).join(package))?;
    }
    system.be.run(&["init"]).done();
    Ok(system)
}

fn database(root: &Path) -> PathBuf {
    root.join("var/db/pkg")
}

/// The line of the menu with this id, and whether it is in the submenu.
fn line(system: &System, id: &str) -> Result<(String, bool)> {
    let menu = system.menu()?;
    let id = format!(" --id '{id}' ");
    let line = menu.lines().find(|line| line.contains(&id));
    let line = line.with_context(|| format!("no {id}: {menu}"))?;
    Ok((line.trim().to_owned(), line.starts_with('\t')))
}

/// How many packages the title of an environment says.
fn packages(system: &System, name: &str) -> Result<Option<u32>> {
    let (line, _) = line(system, &format!("be-{name}"))?;
    let word = line
        .split(", ")
        .find_map(|part| part.split_once(" package"));
    Ok(word.map(|(number, _)| number.parse()).transpose()?)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn older_kernels_and_rescue_are_in_a_submenu() -> Result<()> {
    let system = adopted()?;
    system.be.run(&["create", "more"]).done();
    assert_eq!(system.sound_menu()?, "default");
    ensure!(!line(&system, "be-/more")?.1);
    for name in ["default", "more"] {
        let (main, inside) = line(&system, &format!("be-{name}"))?;
        ensure!(!inside && main.starts_with(&format!("menuentry '{name}: Linux {KERNEL}, 20")));
        for (id, title) in [
            (
                format!("be-{name}/vmlinuz-{OLDER}"),
                format!("{name}: Linux {OLDER}"),
            ),
            (
                format!("be-{name}/rescue"),
                format!("{name}: Linux {KERNEL}, rescue"),
            ),
        ] {
            let (line, inside) = line(&system, &id)?;
            ensure!(
                inside && line.starts_with(&format!("menuentry '{title}' ")),
                "{line}"
            );
        }
    }
    let menu = system.menu()?;
    let loads = menu
        .lines()
        .filter(|line| line.trim().starts_with("if linux "));
    let (rescue, others): (Vec<_>, Vec<_>) =
        loads.partition(|line| line.contains(" 'single' 'systemd.unit=rescue.target';"));
    assert_eq!((rescue.len(), others.len()), (2, 4));
    ensure!(
        rescue
            .iter()
            .all(|line| line.contains(KERNEL) && !line.contains("'quiet'"))
    );

    // A choice in the submenu is one of its environment.
    let block = format!(
        "# GRUB Environment Block\nnext_entry=be-/more>be-more/rescue\n{}",
        "#".repeat(900)
    );
    system.write("/boot/grub/grubenv", &block)?;
    let refused = system.be.run(&["destroy", "-y", "more"]).exits(3);
    refused.says(&["more", "grub-editenv"]);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn packages_are_counted_where_something_was_written() -> Result<()> {
    let system = adopted()?;
    for name in ["a", "b"] {
        system.be.run(&["create", name]).done();
    }
    for name in ["default", "a", "b"] {
        assert_eq!(packages(&system, name)?, Some(3), "{name}");
    }
    fs::create_dir(database(&system.env("b", "")).join("app-misc/new-1"))?;
    system.be.run(&["menu"]).done();
    assert_eq!(packages(&system, "b")?, Some(4));

    // What is remembered is believed as long as nothing was written, and no longer.
    let path = system.top("@be/.grub/proven.json");
    let mut proven: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
    for count in proven["counts"]
        .as_object_mut()
        .context("counts")?
        .values_mut()
    {
        count["packages"] = 99.into();
    }
    fs::write(&path, proven.to_string())?;
    fs::create_dir(database(&system.env("b", "")).join("app-misc/new-2"))?;
    system.be.run(&["menu"]).done();
    assert_eq!(packages(&system, "a")?, Some(99));
    assert_eq!(packages(&system, "b")?, Some(5));

    // A clone of what was not written since has as many. The disk is quiet: nobody else
    // writes to `a`.
    system.be.run(&["create", "-e", "a", "c"]).done();
    assert_eq!(packages(&system, "c")?, packages(&system, "a")?);
    system.be.run(&["rename", "b", "d"]).done();
    assert_eq!(packages(&system, "d")?, Some(5));

    // Packages come and go; that is no fault of the menu.
    fs::create_dir(database(system.root()).join("app-misc/new-3"))?;
    system.sync()?;
    let found = system.be.run(&["--json", "doctor"]);
    ensure!(!found.stdout.contains("menu-stale"), "{}", found.stdout);
    let shown = system.be.run(&["-n", "menu"]).done().stdout;
    ensure!(shown.contains(", 4 packages"), "{shown}");
    fs::remove_dir_all(database(system.root()))?;
    system.be.run(&["menu"]).done();
    assert_eq!(packages(&system, "default")?, None);
    Ok(())
}

/// The record of packages may lie elsewhere than in the root.
#[test]
#[ignore = "needs root, loop devices and the lab"]
fn packages_in_a_volume_of_their_own_are_counted() -> Result<()> {
    let system = adopted()?;
    system.make_subvolume("@pkg")?;
    for package in ["app-misc/hello-1", "app-misc/more-1"] {
        fs::create_dir_all(system.top("@pkg/var/db/pkg").join(package))?;
    }
    let var = system.top("@pkg/var");
    for name in fs::read_dir(&var)? {
        fs::rename(name?.path(), system.top("@pkg/db"))?;
    }
    fs::remove_dir(&var)?;
    let uuid = system.uuid();
    system.append(
        "/etc/fstab",
        format!("UUID={uuid} /var btrfs subvol=/@pkg 0 0\n"),
    )?;
    system.be.run(&["create", "apart"]).done();
    assert_eq!(packages(&system, "apart")?, Some(2));
    let volume = system.top("@be/apart/vol");
    let names: Vec<_> = fs::read_dir(&volume)?.flatten().map(|e| e.path()).collect();
    fs::create_dir(names[0].join("db/pkg/app-misc/third-1"))?;
    run(cmd("btrfs", ["filesystem", "sync"]).arg(system.root()))?;
    system.be.run(&["menu"]).done();
    assert_eq!(packages(&system, "apart")?, Some(3));
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn passwords_are_asked_for_as_by_the_users_own_entries() -> Result<()> {
    let system = adopted()?;
    let free =
        |id: &str| -> Result<bool> { Ok(line(&system, id)?.0.ends_with(" --unrestricted {")) };
    let ids = ["be-default", "be-/more", "be-default/rescue"];
    for id in ids {
        ensure!(!free(id)?, "{id}");
    }
    let own = system.read("/boot/grub/grub.cfg")?;
    let linux = "linux /@/boot/vmlinuz-6.6.6-small root=/dev/x";
    let with = |export: &str, first: &str, submenu: &str, inside: &str| {
        format!(
            "set superusers=root\n{export}\npassword root secret\n\
             menuentry 'Gentoo' --class gnu-linux {first} {{\n\t{linux}\n}}\n\
             submenu 'Advanced' {submenu} {{\n\tmenuentry 'Gentoo, 1' {inside} {{\n\t\t{linux}\n\t}}\n}}\n{own}"
        )
    };
    let is_stale = || {
        let found = system.be.run(&["--json", "doctor"]);
        found.stdout.contains("menu-stale")
    };
    const FREE: &str = "--unrestricted";
    let mut before = [false; 3];
    for (cfg, expected) in [
        (with("", FREE, "", ""), [true, false, false]),
        (with("", FREE, "", FREE), [true, false, true]),
        (with("", FREE, FREE, FREE), [true, false, true]),
        (with("export superusers", FREE, FREE, FREE), [true; 3]),
        (with("export superusers", "", "", ""), [false; 3]),
    ] {
        system.write("/boot/grub/grub.cfg", &cfg)?;
        assert_eq!(is_stale(), expected != before, "{cfg}");
        system.be.run(&["menu"]).done();
        system.sound_menu()?;
        for (id, expected) in ids.iter().zip(expected) {
            assert_eq!(free(id)?, expected, "{id}: {cfg}");
        }
        ensure!(!is_stale(), "{cfg}");
        before = expected;
    }
    Ok(())
}
