//! An environment whose paths lead out of it: nothing outside may be touched,
//! and nothing may be mounted there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use be_tests::small::KERNEL;
use be_tests::system::{NOTHING, System};
use xtask::fingerprint::Fingerprint;
use xtask::image::Tree;

/// Directories of the host that the links lead to; good enough to be taken for
/// the real ones.
fn canary(system: &System) -> Result<PathBuf> {
    let canary = system.dir().join("canary");
    for dir in [
        "boot/grub",
        "etc/default",
        "proc",
        "run",
        "dev/shm",
        "sys",
        "var/edb",
        "resolv",
    ] {
        fs::create_dir_all(canary.join(dir))?;
    }
    for (path, text) in [
        (format!("boot/vmlinuz-{KERNEL}"), "a kernel"),
        (format!("boot/initramfs-{KERNEL}.img"), "an initramfs"),
        (
            "etc/fstab".to_owned(),
            "UUID=x / btrfs subvol=/@be/x/root 0 0\n",
        ),
        ("etc/grub".to_owned(), "GRUB_CMDLINE_LINUX=\"canary\"\n"),
        ("boot/grub/grub.cfg".to_owned(), "canary\n"),
        (
            "var/edb/mtimedb".to_owned(),
            "{\"resume\": {\"mergelist\": []}, \"version\": \"1\"}",
        ),
    ] {
        fs::write(canary.join(path), text)?;
    }
    Ok(canary)
}

/// What of an environment is replaced by a link to what of the host.
const LINKS: [(&str, &str); 12] = [
    ("var/cache", "var"),
    ("var/log", "var"),
    ("etc/fstab", "etc/fstab"),
    ("etc/default/grub", "etc/grub"),
    ("etc/default", "etc"),
    ("etc", "etc"),
    ("boot", "boot"),
    ("proc", "proc"),
    ("run", "run"),
    ("dev", "dev"),
    ("sys", "sys"),
    ("etc/resolv.conf", "../run/../../resolv/conf"),
];

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn links_out_of_an_environment() -> Result<()> {
    let system = System::adopted_small()?;
    let canary = canary(&system)?;
    // The small system has not the room that an upgrade asks for by default.
    system.write("/etc/be/be.toml", "[upgrade]\nmin_free_mib = 16\n")?;
    let (running, host) = (system.running()?, system.host()?);
    let before = Fingerprint::of(&canary, &[])?;
    for (i, (path, target)) in LINKS.into_iter().enumerate() {
        let name = format!("h{i}");
        system.be.run(&["create", &name]).done();
        let place = system.env(&name, path);
        match fs::symlink_metadata(&place) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(&place)?,
            Ok(_) => fs::remove_file(&place)?,
            Err(_) => {}
        }
        symlink(canary.join(target), &place)?;
        let touch = [
            "exec",
            &name,
            "--",
            "touch",
            "/tmp/in",
            "/run/in",
            "/dev/shm/in",
        ];
        let copy = format!("copy-{i}");
        for args in [
            &["check", &name][..],
            &["exec", &name, "--", "true"],
            &touch,
            &["menu"],
            &["activate", &name],
            &["create", "-e", &name, &copy],
            &["upgrade", "-e", &name, "up"],
            &["upgrade", "--continue", "up"],
            &["list"],
        ] {
            // Refused or done: either way without the host.
            let outcome = system.be.run(args);
            ensure!(outcome.code < 126, "be {args:?}: {}", outcome.stderr);
            assert_eq!(
                before.diff(&Fingerprint::of(&canary, &[])?),
                NOTHING,
                "{path}: {args:?}"
            );
            assert_eq!(system.host_changes(&host)?, NOTHING, "{path}: {args:?}");
        }
        ensure!(!system.menu()?.contains("canary"), "{path}");
        system.be.run(&["activate", "default"]).done();
        system.sound_menu().context(path)?;
        for name in [&name, &copy, "up"] {
            if system.listed(name).is_some() {
                system.be.run(&["destroy", "-y", name]).done();
            }
        }
        ensure!(
            system.leftovers().is_empty(),
            "{path}: {:?}",
            system.leftovers()
        );
    }
    assert_eq!(system.subvolume_paths()?, ["@"]);
    assert_eq!(running.diff(&system.running()?), NOTHING);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_the_links_lead_to_does_not_count() -> Result<()> {
    let system = System::adopted_small()?;
    let canary = canary(&system)?;
    system.be.run(&["create", "x"]).done();
    fs::remove_dir_all(system.env("x", "boot"))?;
    symlink(canary.join("boot"), system.env("x", "boot"))?;
    let check = system.be.run(&["check", "x"]).exits(8);
    assert!(check.stdout.contains("no kernel"), "{}", check.stdout);
    let refused = system.unchanged_by(8, &["activate", "x"])?;
    assert!(refused.error().contains("x would not boot"));

    system.be.run(&["create", "y"]).done();
    fs::remove_dir(system.env("y", "proc"))?;
    symlink(canary.join("proc"), system.env("y", "proc"))?;
    let exec = system.be.run(&["exec", "y", "--", "true"]);
    ensure!(exec.code != 0);
    exec.says(&["/proc"]);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn links_out_of_the_running_root() -> Result<()> {
    let system = System::small()?;
    let canary = canary(&system)?;
    let before = Fingerprint::of(&canary, &[])?;
    fs::remove_dir_all(system.path("/etc/grub.d"))?;
    symlink(canary.join("boot"), system.path("/etc/grub.d"))?;
    fs::remove_file(system.path("/boot/grub/grub.cfg"))?;
    symlink(
        canary.join("boot/grub/grub.cfg"),
        system.path("/boot/grub/grub.cfg"),
    )?;
    let host = system.host()?;
    let _refused_or_done = system.be.run(&["init"]);
    assert_eq!(before.diff(&Fingerprint::of(&canary, &[])?), NOTHING);
    assert_eq!(system.host_changes(&host)?, NOTHING);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_description_stays_a_description() -> Result<()> {
    let system = System::adopted_small()?;
    let texts = [
        "'; reboot; '",
        "a\" b $(id) ${root} `id` \\",
        "}\nmenuentry 'evil' { reboot }\n",
        "--id be-default",
        "ends with \\",
        "ü\u{202e}\u{7f}\t",
    ];
    for (i, text) in texts.into_iter().enumerate() {
        let name = format!("d{i}");
        let description = format!("--description={text}");
        if text.contains(char::is_control) {
            // be takes none like it; a record may have one from elsewhere.
            drop(system.be.run(&["create", &description, &name]).exits(2));
            system.be.run(&["create", &name]).done();
            let mut record = system.record(&name)?;
            record["description"] = text.into();
            let path = system.top(&format!("@be/{name}/be.json"));
            fs::write(path, serde_json::to_vec(&record)?)?;
            system.be.run(&["menu"]).done();
        } else {
            system.be.run(&["create", &description, &name]).done();
        }
        ensure!(system.sound_menu()? == "default");
        assert_eq!(system.record(&name)?["description"], text);
    }
    let menu = system.menu()?;
    let entries = menu
        .lines()
        .filter(|l| l.trim_start().starts_with("menuentry "));
    // One each, and one for rescue.
    assert_eq!(entries.count(), 2 * (texts.len() + 1), "{menu}");
    assert_eq!(menu.matches("--id 'be-default'").count(), 1);
    let lines = system.be.run(&["list", "-H"]).done().stdout;
    assert_eq!(lines.lines().count(), texts.len() + 1);
    assert!(
        lines.lines().all(|line| line.split('\t').count() == 7),
        "{lines}"
    );
    Ok(())
}
