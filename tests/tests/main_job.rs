//! The main job on every layout, with real Portage and GRUB's own programs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use be_tests::be::Be;
use be_tests::system::{NOTHING, System};
use xtask::image::{Layout, Tree};
use xtask::run::{cmd, run};

/// A subvolume in the running root, with something in it.
const NESTED: &str = "/var/lib/machines";

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn the_root_in_a_subvolume() -> Result<()> {
    main_job(Layout::AtSubvol)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn the_layout_of_fedora() -> Result<()> {
    main_job(Layout::FedoraRoot)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn the_root_is_the_top_level() -> Result<()> {
    main_job(Layout::TopLevel)
}

fn main_job(layout: Layout) -> Result<()> {
    let system = System::lab(layout)?;
    run(cmd("btrfs", ["--quiet", "subvolume", "create"]).arg(system.path(NESTED)))?;
    system.write(&format!("{NESTED}/guest"), "a guest")?;

    init_says_what_it_found(&system)?;
    let (running, host) = (system.running()?, system.host()?);
    system.be.run(&["upgrade", "new"]).done();
    assert_eq!(running.diff(&system.running()?), NOTHING);
    assert_eq!(system.host_changes(&host)?, NOTHING);

    packages_are_new_only_in_the_clone(&system)?;
    fstab_names_its_own_subvolume(&system)?;
    nested_subvolume_is_a_usable_directory(&system)?;
    list_agrees_with_btrfs(&system)?;
    menu_is_sound(&system)?;
    reports_are_there(&system)?;
    what_boots_next_follows(&system)?;
    assert_eq!(running.diff(&system.running()?), NOTHING);
    assert_eq!(system.host_changes(&host)?, NOTHING);

    nothing_to_upgrade_leaves_nothing(&system)?;
    later_changes_go_over(&system)
}

fn init_says_what_it_found(system: &System) -> Result<()> {
    let init = system.be.run(&["init"]).done();
    let root = match system.layout().root() {
        "" => "the top level".to_owned(),
        subvolume => format!("subvolume /{subvolume}\n"),
    };
    for word in [&*root, "/boot ", "EFI", "/boot/grub", NESTED] {
        assert!(init.stdout.contains(word), "{word}: {}", init.stdout);
    }
    let again = system.unchanged_by(77, &["init"])?;
    assert!(again.error().contains("default"));
    assert_eq!(system.menu_default()?, "default");
    Ok(())
}

fn packages_are_new_only_in_the_clone(system: &System) -> Result<()> {
    let lab = &system.image().lab;
    let kernel = |package: &str| format!("sys-kernel/lab-kernel-{package}");
    let vdb = |package: &str| format!("var/db/pkg/{package}");
    for package in ["app-misc/hello", "dev-libs/libgreet", "app-misc/confy"] {
        for (path, in_clone) in [
            (format!("{package}-1"), false),
            (format!("{package}-2"), true),
        ] {
            let path = vdb(&path);
            assert_eq!(system.env("new", &path).exists(), in_clone, "{path}");
            assert_eq!(system.path(&path).exists(), !in_clone, "{path}");
        }
    }
    let new_kernel = vdb(&kernel(&lab.new_kernel.package));
    assert!(system.env("new", &new_kernel).exists());
    assert!(!system.path(&new_kernel).exists());
    for kernel in [&lab.old_kernel, &lab.new_kernel] {
        for path in [
            format!("boot/vmlinuz-{}", kernel.release),
            format!("lib/modules/{}/modules.dep", kernel.release),
        ] {
            assert!(system.env("new", &path).exists(), "{path}");
        }
    }
    // The consumer runs only with the library that it was built against.
    let greeter = system.be.run(&["exec", "new", "--", "greeter"]).done();
    assert_eq!(greeter.stdout, "greetings by libgreet 2\n");
    assert_eq!(
        system.chroot().run(&["greeter"])?,
        "greetings by libgreet 1\n"
    );
    Ok(())
}

fn fstab_names_its_own_subvolume(system: &System) -> Result<()> {
    let old = system.read("/etc/fstab")?;
    let new = fs::read_to_string(system.env("new", "etc/fstab"))?;
    // What lies in the running root by itself is mounted in a clone.
    let added = new.lines().nth(old.lines().count()).unwrap_or_default();
    let fields: Vec<&str> = added.split_whitespace().collect();
    assert_eq!(fields[1], NESTED);
    assert!(fields[3].contains("nofail,subvol=/"), "{added}");
    assert_eq!(old.lines().count() + 1, new.lines().count());
    for (old, new) in old.lines().zip(new.lines()) {
        let fields: Vec<&str> = new.split_whitespace().collect();
        if fields.get(1) != Some(&"/") {
            assert_eq!(old, new);
            continue;
        }
        let options: Vec<&str> = fields[3].split(',').collect();
        assert!(options.contains(&"subvol=/@be/new/root"), "{new}");
        assert!(options.contains(&"noatime"), "{new}");
        assert!(!new.contains("subvolid"), "{new}");
        assert_eq!(
            options.iter().filter(|o| o.starts_with("subvol=")).count(),
            1
        );
    }
    Ok(())
}

fn nested_subvolume_is_a_usable_directory(system: &System) -> Result<()> {
    let place = system.env("new", NESTED.trim_start_matches('/'));
    assert_eq!(fs::read_dir(&place)?.count(), 0);
    fs::write(place.join("probe"), "").context("write below it")?;
    fs::remove_file(place.join("probe"))?;
    assert_eq!(system.read(&format!("{NESTED}/guest"))?, "a guest");
    Ok(())
}

fn list_agrees_with_btrfs(system: &System) -> Result<()> {
    let known = system.subvolumes()?;
    let list = system.be.run(&["list", "--json"]).done().json();
    let environments = list["environments"].as_array().context("no list")?;
    let names: Vec<_> = environments.iter().map(|e| &e["name"]).collect();
    assert_eq!(names, ["default", "new"]);
    for (env, running, next) in [
        (&environments[0], true, false),
        (&environments[1], false, true),
    ] {
        assert_eq!(
            (env["running"].as_bool(), env["next"].as_bool()),
            (Some(running), Some(next))
        );
        let root = &env["subvolumes"][0];
        let path = root["path"]
            .as_str()
            .context("no path")?
            .trim_start_matches('/');
        if path.is_empty() {
            assert_eq!(root["id"], 5);
            continue;
        }
        let line = format!(
            "{path} {} {}",
            root["id"],
            root["uuid"].as_str().unwrap_or_default()
        );
        assert!(known.contains(&line), "{line}: {known:?}");
    }
    assert_eq!(environments[0]["state"], "confirmed");
    assert_eq!(environments[1]["state"], "ready");
    assert_eq!(environments[1]["origin"], "default");
    assert_eq!(
        environments[1]["kernel"],
        system.image().lab.new_kernel.release.as_str()
    );

    let lines = system.be.run(&["list", "-H"]).done().stdout;
    let rows: Vec<Vec<&str>> = lines.lines().map(|l| l.split('\t').collect()).collect();
    assert_eq!(rows.len(), 2, "{lines}");
    for (row, env, active) in [
        (&rows[0], &environments[0], "N"),
        (&rows[1], &environments[1], "R"),
    ] {
        assert_eq!(row.len(), 7, "{row:?}");
        assert_eq!(
            (row[0], row[1]),
            (env["name"].as_str().unwrap_or_default(), active)
        );
        let created: u64 = row[4].parse().context("not a time")?;
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)?
            .as_secs();
        assert!(now - created < 600, "{created}");
    }
    assert_eq!(rows[1][5], system.image().lab.new_kernel.release);

    let table = system.be.run(&["list"]).done().stdout;
    let head: Vec<&str> = table
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let columns = [
        "BE",
        "Active",
        "Mountpoint",
        "Space",
        "Created",
        "Kernel",
        "Description",
    ];
    assert_eq!(head, columns);
    assert_eq!(table.lines().count(), 3, "{table}");
    Ok(())
}

fn menu_is_sound(system: &System) -> Result<()> {
    assert_eq!(system.sound_menu()?, "new");
    let menu = system.menu()?;
    for name in ["default", "new"] {
        let id = format!("--id 'be-{name}'");
        assert_eq!(menu.matches(&id).count(), 1, "{id}");
    }
    for argument in [
        "'rootflags=subvol=/@be/new/root'".to_owned(),
        format!("'rootflags=subvol=/{}'", system.layout().root()),
        format!("'root=UUID={}'", system.uuid()),
        "'console=ttyS0'".to_owned(),
    ] {
        assert!(menu.contains(&argument), "{argument}: {menu}");
    }
    let shown = system.be.run(&["--dry-run", "menu"]).done();
    assert_eq!(shown.stdout, menu);
    Ok(())
}

fn reports_are_there(system: &System) -> Result<()> {
    let log = system.be.run(&["log", "new"]).done().stdout;
    for word in ["emerge", "--sync", "app-misc/hello-2", "dev-libs/libgreet"] {
        assert!(log.contains(word), "{word} is not in the log");
    }
    let status = system.be.run(&["status", "--json"]).done().json();
    assert_eq!(status["running"], "default");
    assert_eq!(status["next"], "new");
    assert_eq!(status["hooked"], true);
    for name in ["default", "new"] {
        let check = system.be.run(&["check", name, "--json"]).done().json();
        assert_eq!(check["bootable"], true, "{check}");
    }
    // What the upgrade left for a person is on the disk as it is in the report.
    assert!(system.env("new", "etc/._cfg0000_confy.conf").exists());
    let confy = fs::read_to_string(system.env("new", "etc/confy.conf"))?;
    assert!(confy.contains("colour=green"), "{confy}");
    Ok(())
}

fn what_boots_next_follows(system: &System) -> Result<()> {
    system.be.run(&["activate", "default"]).done();
    assert_eq!(system.sound_menu()?, "default");
    system.be.run(&["activate", "new"]).done();
    assert_eq!(system.sound_menu()?, "new");
    // As after a reboot into it.
    let (_mount, new) = system.mount_root_of("new")?;
    new.run(&["rollback"]).done();
    assert_eq!(system.sound_menu()?, "default");
    system.be.run(&["activate", "new"]).done();
    assert_eq!(system.sound_menu()?, "new");
    Ok(())
}

fn nothing_to_upgrade_leaves_nothing(system: &System) -> Result<()> {
    let (mount, new) = system.mount_root_of("new")?;
    let environments = |be: &Be| be.run(&["list", "-H"]).done().stdout;
    let before = (system.subvolumes()?, environments(&new), system.menu()?);
    let store = listing(&system.top("@be"))?;
    let outcome = new.run(&["upgrade", "again"]).exits(77);
    assert!(
        outcome.stderr.contains("nothing to upgrade"),
        "{}",
        outcome.stderr
    );
    assert_eq!(
        before,
        (system.subvolumes()?, environments(&new), system.menu()?)
    );
    assert_eq!(store, listing(&system.top("@be"))?);
    assert_eq!(system.leftovers(), Vec::<std::path::PathBuf>::new());
    drop(mount);
    Ok(())
}

fn listing(dir: &Path) -> Result<Vec<String>> {
    let names = fs::read_dir(dir)?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<String> = names.collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

fn later_changes_go_over(system: &System) -> Result<()> {
    system.write("/etc/since-then", "x")?;
    system.write("/root/since-then", "x")?;
    let told = system.be.run(&["activate", "--no-carry", "new"]).done();
    told.says(&["1 below /etc", "/etc/since-then"]);
    assert!(!system.env("new", "etc/since-then").exists());
    let carry = ["activate", "new", "--json"];
    let activated = system.be.run(&carry).done().json();
    let left = &activated["left_behind"];
    assert_eq!(
        (&left["/etc"], &left["/root"]),
        (&0.into(), &0.into()),
        "{left}"
    );
    for path in ["etc/since-then", "root/since-then"] {
        assert_eq!(fs::read_to_string(system.env("new", path))?, "x");
    }
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn grub_mkconfig_keeps_the_menu() -> Result<()> {
    let system = System::adopted_lab()?;
    let block = be_grub::hook::block(system.uuid());
    let config = "/boot/grub/grub.cfg";
    let by_init = system.read(config)?;
    assert_eq!(by_init.matches(&block).count(), 1, "{by_init}");
    system.chroot().run(&["grub-mkconfig", "-o", config])?;
    let by_grub = system.read(config)?;
    assert_eq!(by_grub.matches(&block).count(), 1, "{by_grub}");
    assert_eq!(by_grub.matches("45_be").count(), 2, "{by_grub}");
    run(cmd("grub-script-check", [] as [&str; 0]).arg(system.path(config)))?;
    // Ours is the last word on the default.
    let rest = by_grub.split(&block).nth(1).unwrap_or_default();
    assert!(!rest.contains("set default"), "{rest}");
    let _nothing_to_do = system.unchanged_by(77, &["init"])?;
    Ok(())
}

/// What `be` itself may hold in memory, in kB.
const PEAK: u64 = 20 << 10;

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_pretended_upgrade_and_the_memory_of_a_real_one() -> Result<()> {
    let system = System::adopted_lab()?;
    let store = system.store()?;
    let pretended = system.be.run(&["upgrade", "--pretend"]).done();
    for package in [
        "app-misc/hello 1 -> 2",
        "dev-libs/libgreet 1 -> 2",
        "sys-kernel/lab-kernel",
    ] {
        assert!(
            pretended.stdout.contains(package),
            "{package}: {}",
            pretended.stdout
        );
    }
    assert_eq!(store.subvolumes, system.subvolumes()?);
    assert!(system.listed("default").is_some());
    assert_eq!(system.leftovers(), Vec::<std::path::PathBuf>::new());

    for args in [
        &["upgrade", "new"][..],
        &["list", "--json"],
        &["check", "new"],
    ] {
        let (outcome, peak) = system.be.start(args)?.end_with_peak()?;
        outcome.done();
        xtask::say(&format!("be {}: {peak} kB at most", args.join(" ")));
        assert!(peak < PEAK, "be {args:?}: {peak} kB");
    }
    Ok(())
}
