//! Packages that are built for other machines, and the machines that install them.

mod by_hand;
mod clients;
mod killed;
mod signed;
mod stranger;

use std::fs;
use std::os::unix::fs::{DirEntryExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use be_tests::be::Outcome;
use be_tests::binhost::{DIR, Nginx, builder, client, files, newest, published, sound};
use be_tests::system::{NOTHING, System};
use xtask::image::Tree;

/// What a plain client installs.
const WORLD: [&str; 2] = ["app-misc/greeter", "app-misc/hello"];

const INSTALL: [&str; 7] = [
    "emerge",
    "--getbinpkg",
    "--usepkgonly",
    "--update",
    "--deep",
    "--newuse",
    "@world",
];

fn is_installed(root: &Path, package: &str) -> bool {
    root.join("var/db/pkg").join(package).is_dir()
}

/// What `be build client` prints.
fn snippet(system: &System, nginx: &Nginx) -> String {
    let url = nginx.url();
    let asked = system.be.run(&["build", "client", "--url", &url]);
    asked.done().stdout
}

/// That the upgrade of `new` has taken one package from the host, and built the other by itself.
fn hello_was_built(system: &System) -> Result<()> {
    let sources = &system.record("new")?["upgrade"]["sources"];
    assert_eq!(
        sources["binhost"],
        serde_json::json!(["app-misc/confy-2"]),
        "{sources}"
    );
    assert_eq!(
        sources["built"],
        serde_json::json!(["app-misc/hello-2"]),
        "{sources}"
    );
    assert_eq!(
        sources["fell_back"][0]["package"], "app-misc/hello-2",
        "{sources}"
    );
    Ok(())
}

/// The packages that are finished, with the inode of each: where that stays, it was not built
/// again.
fn finished(system: &System) -> Vec<(String, u64)> {
    let dir = system.path(&format!("{DIR}/.be/packages"));
    let mut found = Vec::new();
    let mut dirs = vec![dir.clone()];
    while let Some(at) = dirs.pop() {
        for entry in fs::read_dir(at).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "tar")
                // With an empty one Portage has only reserved the name.
                && entry.metadata().is_ok_and(|m| m.len() > 0)
            {
                let name = path.strip_prefix(&dir).unwrap_or(&path).display();
                found.push((name.to_string(), entry.ino()));
            }
        }
    }
    found.sort();
    found
}

/// Wait until something is so.
fn within(farm: &System, what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let start = Instant::now();
    while !is_so() {
        let log = farm.be.run(&["build", "status"]).stdout;
        ensure!(start.elapsed() < Duration::from_secs(60), "{what}: {log}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_plain_client_installs_what_was_built() -> Result<()> {
    let farm = builder(&WORLD, "")?;
    let host = farm.host()?;
    let done = farm.be.run(&["build", "run"]).done();
    ensure!(
        done.stdout.contains("new: app-misc/hello-2"),
        "{}",
        done.stdout
    );
    assert_eq!(farm.host_changes(&host)?, NOTHING);
    // The builder is gone, and what runs is as it was.
    assert_eq!(farm.subvolume_paths()?, ["@"]);
    assert_eq!(farm.sound_menu()?, "default");
    assert!(is_installed(farm.root(), "app-misc/hello-1"));
    let built = sound(&farm, DIR)?;
    assert!(built.contains(&"app-misc/hello-2".to_owned()), "{built:?}");

    let nginx = Nginx::start(&farm)?;
    assert!(nginx.get("Packages")?.contains("CPV: app-misc/hello-2"));
    assert!(nginx.get(".be/packages/Packages").is_err());
    let plain = client(&WORLD, &snippet(&farm, &nginx))?;
    plain.chroot().run(&INSTALL)?;
    for package in ["app-misc/hello-2", "dev-libs/libgreet-2"] {
        assert!(is_installed(plain.root(), package), "{package}");
    }
    let log = plain.read("/var/log/emerge.log")?;
    assert!(!log.contains("Compiling/Packaging"), "{log}");

    // There is nothing new, and the same once more changes nothing.
    let before = (published(&farm, DIR)?, files(&farm, DIR)?);
    let again = farm.be.run(&["build", "run"]).exits(77);
    again.says(&["nothing new to build"]);
    assert_eq!(before, (published(&farm, DIR)?, files(&farm, DIR)?));
    assert_eq!(farm.subvolume_paths()?, ["@"]);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_fails_is_held_mended_and_continued() -> Result<()> {
    let world = ["app-misc/failbuild", "app-misc/hello"];
    let farm = builder(&world, "sync = false\n[build]\nhold = \"0m\"\n")?;
    newest(&farm)?;
    farm.be
        .run(&["build", "continue"])
        .exits(3)
        .says(&["be build run"]);
    // Nothing is made for what is no build.
    for bad in [&["--", "--depclean"][..], &["--packages", "srv"]] {
        let refused = farm.be.run(&[&["build", "run"][..], bad].concat());
        assert!([2, 3].contains(&refused.code), "{}", refused.stderr);
    }
    assert_eq!(farm.subvolume_paths()?, ["@"]);
    let sendmail = farm.dir().join("bin/sendmail");
    fs::create_dir_all(farm.dir().join("bin"))?;
    fs::write(&sendmail, "#!/bin/sh\ncat >\"$(dirname \"$0\")/../mail\"\n")?;
    fs::set_permissions(&sendmail, fs::Permissions::from_mode(0o755))?;
    farm.append("/etc/be/be.toml", "mail = \"root@localhost\"\n")?;
    let path = format!(
        "{}:{}",
        farm.dir().join("bin").display(),
        std::env::var("PATH")?
    );
    let mut run = farm.be.command(&["build", "run", "one", "--unattended"]);
    let failed = Outcome::of(run.env("PATH", path)).exits(6);
    failed.says(&["app-misc/failbuild-2 failed", "Nothing was published"]);
    let mail = fs::read_to_string(farm.dir().join("mail"))?;
    assert!(
        mail.contains("the build failed") && mail.contains("failbuild"),
        "{mail}"
    );
    assert!(published(&farm, DIR).is_err());
    let hello = finished(&farm);
    assert!(
        hello.len() == 1 && hello[0].0.contains("hello-2"),
        "{hello:?}"
    );

    // It was held long enough. A new builder builds only what is not finished.
    let toml = farm.read("/etc/be/be.toml")?;
    farm.write("/etc/be/be.toml", toml.replace("0m", "7d"))?;
    let held = farm.be.run(&["build", "run"]).exits(3);
    assert!(
        held.error().contains("one failed, and is held"),
        "{}",
        held.stderr
    );
    farm.write("/etc/be/be.toml", toml)?;
    let failed = farm.be.run(&["build", "run", "two"]).exits(6);
    failed.says(&[
        "one is given up",
        "be build shell",
        "be build continue",
        "be build drop",
    ]);
    assert_eq!(finished(&farm), hello);
    assert!(farm.listed("one").is_none());
    let two = farm.listed("two").context("it is not listed")?;
    assert_eq!(
        (&two["state"], &two["builder"]),
        (&"failed".into(), &true.into())
    );
    for verb in [
        &["activate", "two"][..],
        &["upgrade", "--continue", "two"],
        &["create", "-e", "two", "x"],
    ] {
        let refused = farm.be.run(verb).exits(3);
        assert!(
            refused.error().contains("two is a builder"),
            "{}",
            refused.stderr
        );
    }
    assert!(!farm.menu()?.contains("be-two"));
    let status = farm.be.run(&["build", "status"]).done().stdout;
    assert!(status.contains("failed: app-misc/failbuild-2"), "{status}");

    let dir = "/var/db/repos/gentoo/app-misc/failbuild";
    let (works, fails) = (
        format!("{dir}/failbuild-1.ebuild"),
        format!("{dir}/failbuild-2.ebuild"),
    );
    let mend = ["build", "shell", "--", "cp", &works, &fails];
    farm.be.run(&mend).done();
    let done = farm.be.run(&["build", "continue"]).done();
    assert!(
        done.stdout.contains("new: app-misc/failbuild-2"),
        "{}",
        done.stdout
    );
    let now = finished(&farm);
    assert!(now.contains(&hello[0]) && now.len() == 2, "{now:?}");
    assert_eq!(sound(&farm, DIR)?.len(), 2);
    assert_eq!(farm.subvolume_paths()?, ["@"]);
    farm.be
        .run(&["build", "drop"])
        .exits(77)
        .says(&["no builder"]);
    Ok(())
}
