//! Systems that consist of more than one subvolume or filesystem: an environment of them is
//! complete, or refused with the reason.

use std::fs::{self, File};

use anyhow::{Result, ensure};
use be_tests::small::KERNEL;
use be_tests::system::{NOTHING, System};
use xtask::image::Tree;
use xtask::loopdev::{Loop, Mount};
use xtask::run::{cmd, run};

const REFUSED: i32 = 3;

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_would_be_half_done_is_refused() -> Result<()> {
    for (line, words) in [
        ("UUID=b /boot ext4 defaults 0 2", "/boot"),
        ("LABEL=b /boot vfat umask=0077 0 2", "/boot"),
        ("UUID=b /usr btrfs subvol=@usr 0 0", "/usr"),
        ("UUID=b /var xfs defaults 0 0", "/var"),
        ("UUID=b /etc ext4 defaults 0 0", "/etc"),
    ] {
        let system = System::small()?;
        let fstab = system.read("/etc/fstab")?;
        system.append("/etc/fstab", format!("{line}\n"))?;
        system.refuses(REFUSED, &["init"], &[words, "not supported yet"])?;
        ensure!(!system.top("@be").exists());
        system.write("/etc/fstab", &fstab)?;
        system.be.run(&["init"]).done();
        system.append("/etc/fstab", format!("{line}\n"))?;
        system.refuses(REFUSED, &["create", "y"], &[words])?;
        system.refuses(REFUSED, &["upgrade", "y"], &[words])?;
    }
    Ok(())
}

/// A line of fstab, and the subvolume mounted as it says.
fn mounted(system: &System, name: &str, target: &str) -> Result<Mount> {
    system.make_subvolume(name)?;
    system.append(
        "/etc/fstab",
        format!("UUID={} {target} btrfs subvol=/{name} 0 0\n", system.uuid()),
    )?;
    fs::create_dir_all(system.path(target))?;
    let options = format!("subvol=/{name}");
    Mount::new(
        system.device().node(),
        &system.path(target),
        "btrfs",
        &options,
    )
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn packages_in_subvolumes_of_their_own_are_cloned() -> Result<()> {
    let system = System::small()?;
    fs::remove_dir_all(system.path("/var"))?;
    let _var = mounted(&system, "@var", "/var")?;
    let _home = mounted(&system, "@home", "/home")?;
    let _log = mounted(&system, "@log", "/var/log")?;
    fs::create_dir_all(system.path("/var/db/pkg/app-misc/old-1"))?;
    fs::create_dir_all(system.path("/var/lib/portage"))?;
    system.write("/var/log/messages", "of all\n")?;
    system.write("/home/mail", "mine\n")?;
    // Two that simply lie there.
    system.make_subvolume("@/opt")?;
    system.write("/opt/tool", "1\n")?;
    system.make_subvolume("@var/lib/machines")?;
    system.make_subvolume("@var/lib/machines/guest")?;
    for name in ["aa", "bb"] {
        fs::create_dir_all(system.path("/var/lib/docker/btrfs/subvolumes"))?;
        let path = format!("lib/docker/btrfs/subvolumes/{name}");
        system.make_subvolume(&format!("@var/{path}"))?;
        system.write(&format!("/var/{path}/layer"), name)?;
    }
    let before = system.subvolume_paths()?;

    system.be.run(&["init"]).done();
    let layout = system.be.run(&["layout"]).done();
    for line in [
        "/                 cloned  /@",
        "/home             shared  /@home",
        "/opt              cloned  /@/opt                 not in fstab",
        "/var              cloned  /@var                  with 3 subvolumes in it",
        "/var/lib/docker   shared  lib/docker of /@var    not in fstab",
        "/var/lib/machines  shared",
        "/var/log",
    ] {
        let words: Vec<_> = line.split_whitespace().collect();
        ensure!(
            layout
                .stdout
                .lines()
                .any(|l| l.split_whitespace().collect::<Vec<_>>().starts_with(&words)),
            "{line}: {}",
            layout.stdout
        );
    }

    let (running, host) = (system.running()?, system.host()?);
    system.be.run(&["create", "new"]).done();
    ensure!(running.diff(&system.running()?) == NOTHING);
    ensure!(system.host_changes(&host)? == NOTHING);
    let made: Vec<_> = system
        .subvolume_paths()?
        .into_iter()
        .filter(|p| !before.contains(p))
        .collect();
    assert_eq!(
        made,
        [
            "@be/new/base/root",
            "@be/new/base/vol/opt",
            "@be/new/base/vol/var",
            "@be/new/root",
            "@be/new/vol/opt",
            "@be/new/vol/var",
        ]
    );
    // In a chroot all of it is in its place, the shared ones are those of all.
    let look = "cd /; cat opt/tool home/mail var/log/messages; echo var/db/pkg/*/*; \
                touch var/lib/machines/x; echo 2 > opt/tool; echo more >> var/log/messages";
    let seen = system
        .be
        .run(&["exec", "new", "--", "sh", "-c", look])
        .done();
    assert_eq!(seen.stdout, "1\nmine\nof all\nvar/db/pkg/app-misc/old-1\n");
    assert_eq!(system.read("/opt/tool")?, "1\n");
    assert_eq!(system.read("/var/log/messages")?, "of all\nmore\n");
    ensure!(!system.path("/var/lib/machines/x").exists());

    // Mounted to look at, too; and gone at once.
    let before_mount = system.host()?;
    let dir = system.be.run(&["mount", "new"]).done().stdout;
    assert_eq!(
        fs::read_to_string(format!("{}/opt/tool", dir.trim()))?,
        "2\n"
    );
    system.refuses(REFUSED, &["destroy", "-y", "new"], &["mounted"])?;
    system.be.run(&["umount", "new"]).done();
    ensure!(system.host_changes(&before_mount)? == NOTHING);

    // What changes in the running system meanwhile is told, wherever it lies.
    system.write("/var/lib/changed", "")?;
    let told = system.be.run(&["-n", "activate", "new"]).done();
    ensure!(told.stderr.contains("/var/lib/changed"), "{}", told.stderr);

    // As it will be at boot.
    let (root, be) = system.mount_root_of("new")?;
    be_tests::system::mount_all(system.device().node(), root.path())?;
    for (path, text) in [("opt/tool", "2\n"), ("home/mail", "mine\n")] {
        assert_eq!(fs::read_to_string(root.path().join(path))?, text, "{path}");
    }
    for path in ["var/db/pkg/app-misc/old-1", "var/lib/machines/guest"] {
        ensure!(root.path().join(path).is_dir(), "{path}");
    }
    let layer = "var/lib/docker/btrfs/subvolumes/bb/layer";
    assert_eq!(fs::read_to_string(root.path().join(layer))?, "bb");
    // And a clone of that one is complete, too.
    be.run(&["create", "third"]).done();
    let third = be.run(&["exec", "third", "--", "cat", "/opt/tool"]).done();
    assert_eq!(third.stdout, "2\n");
    be_tests::system::unmount_below(root.path())?;
    drop(root);

    system.be.run(&["destroy", "-y", "new", "third"]).done();
    assert_eq!(system.subvolume_paths()?, before);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn the_owner_chooses() -> Result<()> {
    let system = System::small()?;
    let _data = mounted(&system, "@data", "/srv/data")?;
    let _opt = mounted(&system, "@opt", "/opt")?;
    system.be.run(&["init"]).done();
    for (args, words) in [
        (["layout", "set", "/etc", "shared"], "/etc"),
        (
            ["layout", "set", "/", "shared"],
            "the root is always cloned",
        ),
        (["layout", "set", "/opt", "shared"], "/opt"),
    ] {
        system.refuses(REFUSED, &args, &[words])?;
    }
    system
        .be
        .run(&["layout", "set", "/opt", "sometimes"])
        .exits(2)
        .says(&["cloned, late and shared"]);

    let set = system
        .be
        .run(&["layout", "set", "/srv/data/", "cloned"])
        .done();
    assert_eq!(set.stdout, "/srv/data is cloned\n");
    let again = system
        .be
        .run(&["layout", "set", "/srv/data", "cloned"])
        .done();
    assert_eq!(again.stdout, "/srv/data is cloned already\n");
    system.be.run(&["create", "a"]).done();
    ensure!(system.top("@be/a/vol/srv-data").is_dir());
    system
        .be
        .run(&["layout", "set", "/srv/data", "shared"])
        .done();
    system.be.run(&["create", "b"]).done();
    ensure!(!system.top("@be/b/vol/srv-data").exists());
    // The choice goes along with a snapshot.
    let (root, be) = system.mount_root_of("a")?;
    let layout = be.run(&["layout"]).done();
    ensure!(
        layout.stdout.contains("/@be/a/vol/srv-data"),
        "{}",
        layout.stdout
    );
    drop(root);
    system.be.run(&["destroy", "-y", "a", "b"]).done();
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_is_late_is_cloned_when_activated() -> Result<()> {
    let system = System::small()?;
    let _db = mounted(&system, "@db", "/srv/db")?;
    system.be.run(&["init"]).done();
    system.be.run(&["layout", "set", "/srv/db", "late"]).done();
    system.write("/srv/db/rows", "1\n")?;
    system.be.run(&["create", "new"]).done();
    let rows = || fs::read_to_string(system.top("@be/new/vol/srv-db/rows"));
    assert_eq!(rows()?, "1\n");
    ensure!(!system.top("@be/new/base/vol").exists());
    let paths = system.subvolume_paths()?;
    for (count, text) in [(1, "1\n2\n"), (2, "1\n2\n3\n")] {
        system.write("/srv/db/rows", text)?;
        system.be.run(&["activate", "new"]).done();
        assert_eq!(rows()?, text, "{count}");
        assert_eq!(system.subvolume_paths()?, paths);
    }
    // In use, it is left alone, and nothing is switched.
    system.be.run(&["activate", "default"]).done();
    let dir = system.be.run(&["mount", "new"]).done().stdout;
    system.refuses(REFUSED, &["activate", "new"], &["in use"])?;
    ensure!(system.menu_default()? == "default");
    system.be.run(&["umount", dir.trim()]).done();

    // One that was booted has a database of its own.
    let (root, be) = system.mount_root_of("new")?;
    be.run(&["activate", "new"]).done();
    drop(root);
    assert_eq!(rows()?, "1\n2\n3\n");
    system
        .be
        .run(&["destroy", "-y", "new"])
        .exits(REFUSED)
        .says(&["next"]);
    system.be.run(&["activate", "default"]).done();
    system.be.run(&["destroy", "-y", "new"]).done();
    assert_eq!(system.subvolume_paths()?, ["@", "@db"]);
    Ok(())
}

/// A /boot of its own, with what was in the directory; the mount is to be dropped first.
fn boot(system: &System) -> Result<(Loop, Mount, String)> {
    let file = system.dir().join("boot.img");
    File::create_new(&file)?.set_len(40 << 20)?;
    run(cmd("mkfs.ext4", ["-q"]).arg(&file))?;
    let device = Loop::attach(&file)?;
    let uuid = run(cmd("blkid", ["-p", "-o", "value", "-s", "UUID"]).arg(device.node()))?;
    let uuid = uuid.trim().to_owned();
    let target = system.path("/boot");
    let inside = system.dir().join("boot");
    fs::rename(&target, &inside).or_else(|_| {
        run(cmd("cp", ["-a"]).arg(&target).arg(&inside))?;
        fs::remove_dir_all(&target)
            .map_err(anyhow::Error::from)
            .map(drop)
    })?;
    fs::create_dir(&target)?;
    // Something that the mount hides.
    fs::write(target.join("vmlinuz-0-stale"), "an old kernel")?;
    let mount = Mount::new(device.node(), &target, "ext4", "nodiscard")?;
    run(cmd("cp", ["-a"]).arg(inside.join(".")).arg(mount.path()))?;
    fs::create_dir_all(mount.path().join("efi"))?;
    system.append(
        "/etc/fstab",
        format!("UUID={uuid} /boot ext4 noauto 0 2\nUUID=E-F /boot/efi vfat noauto 0 2\n"),
    )?;
    Ok((device, mount, uuid))
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_boot_of_its_own() -> Result<()> {
    let system = System::small()?;
    let (device, mount, uuid) = boot(&system)?;
    let init = system.be.run(&["init"]).done();
    ensure!(init.stdout.contains(&uuid), "{}", init.stdout);
    let (running, host) = (system.running()?, system.host()?);
    system.be.run(&["create", "a"]).done();
    system.be.run(&["create", "b"]).done();
    ensure!(running.diff(&system.running()?) == NOTHING);
    ensure!(system.host_changes(&host)? == NOTHING);

    let boot = system.env("a", "boot");
    assert_eq!(
        fs::read_to_string(boot.join(format!("vmlinuz-{KERNEL}")))?,
        "a kernel"
    );
    ensure!(!boot.join("vmlinuz-0-stale").exists());
    ensure!(!boot.join("grub").exists() && boot.join("efi").is_dir());
    let fstab = fs::read_to_string(system.env("a", "etc/fstab"))?;
    ensure!(
        fstab.contains(&format!("# UUID={uuid} /boot ext4")),
        "{fstab}"
    );
    ensure!(fstab.contains("\nUUID=E-F /boot/efi"), "{fstab}");

    // Each has its kernel where GRUB finds it.
    let menu = system.menu()?;
    for line in [
        format!("be_ready 'default' '{uuid}' "),
        format!("linux ($be_root)'/vmlinuz-{KERNEL}'"),
        format!("linux ($be_root)'/@be/a/root/boot/vmlinuz-{KERNEL}'"),
    ] {
        ensure!(menu.contains(&line), "{line}: {menu}");
    }
    system.be.run(&["activate", "b"]).done();

    // From an environment, where it is not mounted.
    drop(mount);
    let (root, be) = system.mount_root_of("b")?;
    let host = system.host()?;
    be.run(&["check", "default"]).done();
    be.run(&["create", "-e", "default", "c"]).done();
    be.run(&["activate", "default"]).done();
    be.run(&["create", "d"]).done();
    ensure!(system.env("c", &format!("boot/vmlinuz-{KERNEL}")).is_file());
    ensure!(system.env("d", &format!("boot/vmlinuz-{KERNEL}")).is_file());
    ensure!(system.host_changes(&host)? == NOTHING);
    drop(root);

    // A kernel that the origin lost has no entry, and says so.
    let mount = Mount::new(device.node(), &system.path("/boot"), "ext4", "nodiscard")?;
    fs::remove_file(mount.path().join(format!("vmlinuz-{KERNEL}")))?;
    let check = system.be.run(&["check", "default"]).exits(8);
    ensure!(check.stdout.contains("kernel"), "{}", check.stdout);
    system.be.run(&["destroy", "-y", "a", "c", "d"]).done();
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_kernel_is_stored_once() -> Result<()> {
    let system = System::small()?;
    let (_device, mount, _) = boot(&system)?;
    let kernel = format!("vmlinuz-{KERNEL}");
    fs::write(mount.path().join(&kernel), vec![7; 1 << 20])?;
    system.be.run(&["init"]).done();
    system.be.run(&["create", "a"]).done();
    let exclusive = |name: &str| -> Result<u64> {
        system.sync()?;
        let file = system.env(name, &format!("boot/{kernel}"));
        let text = run(cmd("btrfs", ["filesystem", "du", "-s", "--raw"]).arg(file))?;
        let line = text.lines().last().unwrap_or_default();
        Ok(line.split_whitespace().nth(1).unwrap_or("x").parse()?)
    };
    assert_eq!(exclusive("a")?, 1 << 20);
    system.be.run(&["create", "b"]).done();
    assert_eq!((exclusive("a")?, exclusive("b")?), (0, 0));
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_somebody_wrote_is_not_cloned_over() -> Result<()> {
    let system = System::small()?;
    let _db = mounted(&system, "@db", "/srv/db")?;
    let _opt = mounted(&system, "@opt", "/opt")?;
    system.be.run(&["init"]).done();
    system.refuses(REFUSED, &["layout", "set", "/opt", "late"], &["/opt"])?;
    system.be.run(&["layout", "set", "/srv/db", "late"]).done();
    system.write("/srv/db/rows", "1\n")?;
    system.be.run(&["create", "new"]).done();
    // Nothing in the records tells of it: somebody booted it and looked around.
    fs::write(system.top("@be/new/vol/srv-db/rows"), "mine\n")?;
    system.sync()?;
    system.write("/srv/db/rows", "2\n")?;
    let told = system.be.run(&["activate", "new"]).done();
    ensure!(told.stderr.contains("/srv/db"), "{}", told.stderr);
    assert_eq!(
        fs::read_to_string(system.top("@be/new/vol/srv-db/rows"))?,
        "mine\n"
    );
    // What is late and was written after the activation stays behind, which is told.
    system.be.run(&["activate", "default"]).done();
    system.be.run(&["create", "next"]).done();
    system.be.run(&["activate", "next"]).done();
    system.write("/srv/db/rows", "3\n")?;
    system.sync()?;
    let status = system.be.run(&["status"]).done();
    ensure!(status.stdout.contains("late"), "{}", status.stdout);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn an_environment_proves_all_that_it_consists_of() -> Result<()> {
    let system = System::small()?;
    let _opt = mounted(&system, "@opt", "/opt")?;
    system.be.run(&["init"]).done();
    system.be.run(&["create", "x"]).done();
    let fstab = system.env("x", "etc/fstab");
    let good = fs::read_to_string(&fstab)?;
    for (from, to, words) in [
        ("/@be/x/vol/opt", "/@be/gone/vol/opt", "/opt"),
        (system.uuid(), "aaaa-bbbb", "aaaa-bbbb"),
    ] {
        fs::write(&fstab, good.replace(from, to))?;
        let told = system.be.run(&["check", "x"]).exits(8);
        ensure!(told.stdout.contains(words), "{}", told.stdout);
        system.refuses(8, &["activate", "x"], &[words])?;
    }
    fs::write(&fstab, &good)?;
    system.be.run(&["check", "x"]).done();
    run(cmd("btrfs", ["subvolume", "delete"]).arg(system.top("@be/x/vol/opt")))?;
    system.refuses(8, &["activate", "x"], &["/opt"])?;
    system.be.run(&["destroy", "-y", "x"]).done();

    // Text that is none keeps from cloning, and is named.
    let mut bytes = fs::read(system.path("/etc/fstab"))?;
    bytes.extend(b"# caf\xe9\n");
    fs::write(system.path("/etc/fstab"), bytes)?;
    system.refuses(REFUSED, &["create", "y"], &["/etc/fstab"])?;
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_filesystem_has_many_names() -> Result<()> {
    let system = System::small()?;
    let _opt = mounted(&system, "@opt", "/opt")?;
    run(cmd("btrfs", ["filesystem", "label"])
        .arg(system.root())
        .arg("be-names"))?;
    system.sync()?;
    let fstab = system.read("/etc/fstab")?;
    let line = format!("UUID={} /opt", system.uuid());
    let other = "UUID=b /opt btrfs noauto,subvol=/@opt 0 0\n";
    system.write(
        "/etc/fstab",
        other.to_owned() + &fstab.replace(&line, "LABEL=be-names /opt"),
    )?;
    system.be.run(&["init"]).done();
    system.be.run(&["create", "x"]).done();
    let clone = fs::read_to_string(system.env("x", "etc/fstab"))?;
    ensure!(
        clone.contains("LABEL=be-names /opt btrfs subvol=/@be/x/vol/opt"),
        "{clone}"
    );
    ensure!(clone.contains(other), "{clone}");
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_boot_that_something_covers() -> Result<()> {
    let system = System::small()?;
    let (device, mount, _) = boot(&system)?;
    drop(mount);
    let elsewhere = system.dir().join("elsewhere");
    fs::create_dir(&elsewhere)?;
    let _below = Mount::new(device.node(), &elsewhere, "ext4", "nodiscard")?;
    let _cover = Mount::new(std::path::Path::new("none"), &elsewhere, "tmpfs", "size=1m")?;
    fs::write(elsewhere.join(format!("vmlinuz-{KERNEL}")), "a wrong one")?;
    system.be.run(&["init"]).done();
    system.be.run(&["create", "x"]).done();
    assert_eq!(
        fs::read_to_string(system.env("x", &format!("boot/vmlinuz-{KERNEL}")))?,
        "a kernel"
    );
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn an_entry_that_was_lost_comes_back() -> Result<()> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "x"]).done();
    let menu = system.menu()?;
    // As a destroy that was killed after its menu leaves it.
    let cut: String = menu.replace("\"x\",", "").replace(",\"x\"", "");
    fs::write(system.top("@be/.grub/menu.cfg"), cut)?;
    let told = system.be.run(&["create", "y"]).done();
    ensure!(told.stderr.contains("took x out"), "{}", told.stderr);
    ensure!(system.menu()?.contains("be-x"));
    // What does not boot is not looked at by every command.
    fs::remove_file(system.env("x", &format!("boot/vmlinuz-{KERNEL}")))?;
    system.be.run(&["menu"]).done();
    let told = system.be.run(&["describe", "y", "text"]).done();
    ensure!(!told.stderr.contains("out of it"), "{}", told.stderr);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_is_not_ours_keeps_an_environment() -> Result<()> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "x"]).done();
    fs::write(system.top("@be/x/notes"), "mine")?;
    system.refuses(REFUSED, &["destroy", "-y", "x"], &["notes"])?;
    assert_eq!(fs::read_to_string(system.top("@be/x/notes"))?, "mine");
    fs::remove_file(system.top("@be/x/notes"))?;
    system.be.run(&["destroy", "-y", "x"]).done();
    Ok(())
}
