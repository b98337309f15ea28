//! Packages that are built for other machines, and the machines that install them.

use std::fs;
use std::os::unix::fs::{DirEntryExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use be_portage::binhost::parse;
use be_tests::Seeded;
use be_tests::be::Outcome;
use be_tests::binhost::{DIR, Dropping, Nginx, builder, client, files, newest, published, sound};
use be_tests::system::{GONE, NOTHING, System};
use be_tests::upstream::{self, FLAGGED};
use nix::sys::signal::Signal;
use xtask::image::Tree;
use xtask::loopdev::Mount;

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

/// When to kill: so many milliseconds after the start, or after the first package is public.
#[derive(Debug, Clone, Copy)]
enum Moment {
    Start(u64),
    Public(u64),
}

/// Kill a build in this moment, and run it again. The directory is sound whenever it is looked at.
fn killed(farm: &System, moment: Moment) -> Result<bool> {
    let dir = farm.path(DIR);
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    let mut be = farm.be.start(&["build", "run"])?;
    let millis = match moment {
        Moment::Start(millis) => millis,
        Moment::Public(millis) => {
            while !dir.join("app-misc").exists() && !be.has_ended()? {}
            millis
        }
    };
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(millis) && !be.has_ended()? {
        std::thread::sleep(Duration::from_millis(2));
    }
    let cut = !be.has_ended()?;
    if cut {
        be.signal(Signal::SIGKILL)?;
    }
    be.end()?;
    farm.quiet_within(GONE)?;
    let found = sound(farm, DIR)?;
    ensure!(found.is_empty() || found.len() == 2, "{found:?}");
    let before = finished(farm);
    let again = farm.be.run(&["build", "run"]);
    ensure!([0, 77].contains(&again.code), "{}", again.stderr);
    ensure!(sound(farm, DIR)?.len() == 2, "not all is published");
    let after = finished(farm);
    ensure!(
        before.iter().all(|f| after.contains(f)),
        "{before:?} became {after:?}"
    );
    ensure!(farm.subvolume_paths()? == ["@"], "a builder is left");
    ensure!(farm.leftovers().is_empty(), "{:?}", farm.leftovers());
    // Nothing is published beside what the index names, and what it is built with.
    let files = files(farm, DIR)?;
    let lock = files.iter().any(|file| file.ends_with("be-lock.json"));
    ensure!(lock && files.len() == 4, "{files:?}");
    Ok(cut)
}

fn farm_to_kill() -> Result<System> {
    let farm = builder(&["app-misc/confy", "app-misc/hello"], "sync = false\n")?;
    newest(&farm)?;
    Ok(farm)
}

/// Kill builds in these moments; gives how many had not ended before.
fn killed_at(farm: &System, moments: &[Moment]) -> Result<usize> {
    let (running, host) = (farm.sound_menu()?, farm.host()?);
    let mut cut = 0;
    for moment in moments {
        cut += usize::from(killed(farm, *moment).with_context(|| format!("{moment:?}"))?);
    }
    xtask::say(&format!("{cut} of {} builds were killed", moments.len()));
    ensure!(cut > 0, "none was killed");
    assert_eq!(farm.sound_menu()?, running);
    assert_eq!(farm.host_changes(&host)?, NOTHING);
    Ok(cut)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn killed_it_keeps_what_is_finished_and_publishes_nothing_by_halves() -> Result<()> {
    let mut seeded = Seeded::new(20261130);
    let moments = [
        Moment::Start(seeded.below(3000)),
        Moment::Start(4000 + seeded.below(4000)),
        Moment::Public(0),
        Moment::Public(seeded.below(20)),
    ];
    killed_at(&farm_to_kill()?, &moments).map(drop)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_dropped_connection_costs_an_upgrade_one_package_built() -> Result<()> {
    let world = ["app-misc/confy", "app-misc/hello"];
    let farm = builder(&world, "sync = false\n")?;
    newest(&farm)?;
    farm.be.run(&["build", "run"]).done();
    let server = Dropping::start(farm.path(DIR), "hello-2")?;

    let system = builder(
        &world,
        "sync = false\nbinhost = true\nfetch_tries = 2\nfetch_pause_seconds = 0\n",
    )?;
    newest(&system)?;
    let url = server.url();
    let repos = farm.be.run(&["build", "client", "--url", &url]).done();
    system.write("/etc/portage/binrepos.conf", repos.stdout)?;
    let quick = "FETCHCOMMAND=\"wget -t 1 -O \\\"\\${DISTDIR}/\\${FILE}\\\" \\\"\\${URI}\\\"\"\n";
    system.append("/etc/portage/make.conf", quick)?;
    let done = system.be.run(&["upgrade", "new"]).done();
    let sources = system.record("new")?["upgrade"]["sources"].clone();
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
    let done = done.says(&["trying again", "app-misc/hello-2 is built from source"]);
    let told = [
        "from a binary package host: app-misc/confy-2",
        "built: app-misc/hello-2",
    ];
    assert!(
        told.iter().all(|t| done.stdout.contains(t)),
        "{}",
        done.stdout
    );
    assert!(server.broke.load(Ordering::SeqCst) >= 2);
    for package in ["app-misc/hello-2", "app-misc/confy-2"] {
        assert!(is_installed(&system.env("new", ""), package), "{package}");
    }
    assert_eq!(system.sound_menu()?, "new");
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_client_with_another_configuration_is_told_and_decides() -> Result<()> {
    const CONFIG: &str = "sync = false\nbinhost = true\nfetch_tries = 1\n";
    let world = ["app-misc/hello"];
    let farm = builder(&world, "sync = false\n")?;
    newest(&farm)?;
    farm.be.run(&["build", "run"]).done();
    let published = fs::read_to_string(farm.path(DIR).join("be-lock.json"))?;
    let published: serde_json::Value = serde_json::from_str(&published)?;
    // Everybody may read it.
    let entries = published["configuration"]["entries"].as_array();
    let entries = entries.context("no configuration")?;
    ensure!(!entries.is_empty() && entries.iter().all(|e| e["text"].is_null()));
    assert_eq!(published["packages"], serde_json::json!([]));
    let server = Dropping::start(farm.path(DIR), "nothing")?;
    let url = server.url();

    let client = |policy: &str| -> Result<System> {
        let system = builder(&world, &format!("{CONFIG}{policy}"))?;
        let repos = farm.be.run(&["build", "client", "--url", &url]).done();
        system.write("/etc/portage/binrepos.conf", repos.stdout)?;
        Ok(system)
    };
    let refusing = client("binhost_differs = \"refuse\"\n")?;
    newest(&refusing)?;
    let done = refusing.be.run(&["upgrade", "same"]).done();
    done.says(&["has the configuration of same"]);
    assert!(is_installed(&refusing.env("same", ""), "app-misc/hello-2"));
    refusing.be.run(&["activate", "default"]).done();
    refusing.be.run(&["destroy", "-y", "same"]).done();
    refusing.append("/etc/portage/make.conf", "USE=\"${USE} flag-of-mine\"\n")?;
    let refused = refusing.be.run(&["upgrade", "other"]).exits(3);
    refused.says(&["flag-of-mine", "/etc/portage/make.conf", &url, "be.toml(5)"]);
    assert_eq!(refusing.names()?, ["default"]);

    // By default it is told, and goes on.
    let told = client("")?;
    newest(&told)?;
    told.append("/etc/portage/make.conf", "USE=\"${USE} flag-of-mine\"\n")?;
    let done = told.be.run(&["upgrade", "new"]).done();
    done.says(&["another configuration than new", "flag-of-mine"]);
    ensure!(told.be.run(&["log", "new"]).stdout.contains("flag-of-mine"));

    // An older state of the repository: it goes to that of the host.
    let behind = client("binhost_differs = \"rebase\"\n")?;
    let done = behind.be.run(&["upgrade", "new"]).done();
    done.says(&["repository gentoo goes to the state of the host"]);
    assert!(is_installed(&behind.env("new", ""), "app-misc/hello-2"));
    what_is_published_meanwhile_is_taken(&farm)
}

/// Between the index and what it is built with, something else is published.
fn what_is_published_meanwhile_is_taken(farm: &System) -> Result<()> {
    let copy = |name: &str| -> Result<PathBuf> {
        let to = farm.dir().join(name);
        let mut cp = Command::new("cp");
        xtask::run::run(cp.arg("-a").arg(farm.path(DIR)).arg(&to))?;
        Ok(to)
    };
    let before = copy("before")?;
    let world = ["app-misc/confy", "app-misc/hello"];
    farm.set_world(&world)?;
    farm.append("/etc/portage/make.conf", "USE=\"${USE} flag-of-all\"\n")?;
    farm.be.run(&["build", "run"]).done();
    let (published, index) = (copy("after")?, farm.read(&format!("{DIR}/Packages"))?);
    let lock = fs::read_to_string(published.join("be-lock.json"))?;
    let sum = xtask::run::run(Command::new("sha256sum").arg(published.join("be-lock.json")))?;
    let named = parse(&index).map_err(anyhow::Error::msg)?.lock;
    ensure!(lock.contains("flag-of-all") && sum.starts_with(&named.context("no lock")?));

    let server = Dropping::publishing(before, "nothing", Some(published))?;
    let client = builder(
        &world,
        "sync = false\nbinhost = true\nfetch_tries = 1\nbinhost_differs = \"refuse\"\n",
    )?;
    newest(&client)?;
    client.append("/etc/portage/make.conf", "USE=\"${USE} flag-of-all\"\n")?;
    let repos = ["build", "client", "--url", &server.url()];
    let repos = farm.be.run(&repos).done().stdout;
    client.write("/etc/portage/binrepos.conf", repos)?;
    client.be.run(&["upgrade", "new"]).done();
    let sources = client.record("new")?["upgrade"]["sources"].clone();
    assert_eq!(
        sources["binhost"],
        serde_json::json!(world.map(|p| format!("{p}-2"))),
        "{sources}"
    );
    assert_eq!(sources["built"], serde_json::json!([]), "{sources}");
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_client_is_built_for_by_its_lock_alone() -> Result<()> {
    let day_one = [
        ("app-misc/flagged/flagged-1.ebuild", FLAGGED),
        ("sys-kernel/linux-headers/linux-headers-1.ebuild", FLAGGED),
        ("sys-kernel/linux-headers/linux-headers-2.ebuild", FLAGGED),
    ];
    // The builder has other packages, other headers, and another flag.
    let farm = builder(&["app-misc/greeter"], "sync = false\n")?;
    upstream::release(&farm, 1, &day_one)?;
    upstream::fetch(&farm)?;
    let emerge = "emerge --ask=n --color=n --oneshot";
    upstream::sh(
        &farm,
        &format!("{emerge} app-misc/confy sys-kernel/linux-headers"),
    )?;
    farm.append("/etc/portage/make.conf", "USE=\"${USE} of-the-builder\"\n")?;
    let host = farm.host()?;

    let client = builder(
        &["app-misc/confy", "app-misc/flagged", "app-misc/hello"],
        "sync = false\nbinhost = true\nfetch_tries = 1\nbinhost_differs = \"refuse\"\n",
    )?;
    upstream::release(&client, 1, &day_one)?;
    upstream::fetch(&client)?;
    upstream::sh(&client, &format!("{emerge} =sys-kernel/linux-headers-1"))?;
    client.write("/etc/portage/package.use/flagged", "app-misc/flagged doc\n")?;
    client.write("/etc/portage/package.mask", ">=app-misc/hello-2\n")?;
    let server = Dropping::start(farm.path(DIR), "nothing")?;
    let repos = ["build", "client", "--url", &server.url()];
    let repos = farm.be.run(&repos).done().stdout;
    client.write("/etc/portage/binrepos.conf", repos)?;
    let file = farm.dir().join("client.lock");
    fs::write(&file, client.be.run(&["lock", "--now"]).done().stdout)?;
    let file = file.to_string_lossy().into_owned();

    let run = ["build", "run", "--profile-from", &file];
    let shown = farm.be.run(&[&run[..], &["--dry-run"]].concat()).done();
    ensure!(
        shown.stdout.contains("as the lock says"),
        "{}",
        shown.stdout
    );
    let done = farm.be.run(&run).done();
    for new in [
        "app-misc/confy-2",
        "app-misc/flagged-1",
        "sys-kernel/linux-headers-1",
    ] {
        ensure!(
            done.stdout.contains(&format!("new: {new}\n")),
            "{}",
            done.stdout
        );
    }
    ensure!(!done.stdout.contains("hello-2"), "{}", done.stdout);
    assert_eq!(farm.host_changes(&host)?, NOTHING);
    ensure!(!farm.path("/etc/portage/package.mask").exists());
    sound(&farm, DIR)?;

    let done = client.be.run(&["upgrade", "new"]).done();
    done.says(&["has the configuration of new"]);
    let sources = client.record("new")?["upgrade"]["sources"].clone();
    let from_farm = serde_json::json!(["app-misc/confy-2", "app-misc/flagged-1"]);
    assert_eq!(sources["binhost"], from_farm, "{sources}");
    assert_eq!(sources["built"], serde_json::json!([]), "{sources}");
    ensure!(client.env("new", "/usr/share/flagged/doc").exists());

    // It is due again, and there is nothing new. What is no lock is told so.
    let again = farm.be.run(&run).exits(77);
    again.says(&["nothing new to build"]);
    fs::write(&file, "{}")?;
    farm.be.run(&run).exits(3).says(&["client.lock", "be lock"]);
    assert_eq!(farm.subvolume_paths()?, ["@"]);
    Ok(())
}

/// Have a client trust the key that the farm signs with.
fn trust(client: &System, farm: &System, key: &str) -> Result<()> {
    let export = "gpg --homedir /root/.gnupg --armor --export";
    let public = farm.chroot().run(&["sh", "-c", export])?;
    client.write("/root/farm.asc", public)?;
    let home = "/etc/portage/gnupg";
    let trust = format!(
        "mkdir -m 755 {home} && echo lock-never >{home}/gpg.conf && \
         gpg --homedir {home} --batch --import /root/farm.asc && \
         echo {key}:6: | gpg --homedir {home} --batch --import-ownertrust && \
         gpg --homedir {home} --batch --check-trustdb && chmod -R go+rX {home}"
    );
    client.chroot().run(&["sh", "-c", &trust])?;
    Ok(())
}

/// Make a key without a passphrase; gives its fingerprint.
fn make_key(farm: &System, home: &str) -> Result<String> {
    let script = format!(
        "mkdir -p -m 700 {home} && cd {home} && \
         gpg --homedir {home} --batch --quiet --pinentry-mode loopback --passphrase '' \
         --quick-gen-key 'farm <farm@localhost>' ed25519 sign never && \
         gpg --homedir {home} --with-colons --list-keys"
    );
    let listed = farm.chroot().run(&["sh", "-c", &script])?;
    let line = listed.lines().find(|line| line.starts_with("fpr:"));
    let print = line.and_then(|line| line.split(':').nth(9));
    Ok(print.context("no key was made")?.to_owned())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_is_signed_is_verified_and_what_was_tampered_with_is_refused() -> Result<()> {
    let world = ["app-misc/confy", "app-misc/hello"];
    let farm = builder(&world, "sync = false\n")?;
    newest(&farm)?;
    let key = make_key(&farm, "/root/.gnupg")?;
    // Unsigned, as somebody else would have it.
    farm.be
        .run(&["build", "run", "--packages", "/srv/evil"])
        .done();
    farm.append("/etc/be/be.toml", format!("[build]\nsign = \"{key}\"\n"))?;
    farm.be.run(&["build", "run"]).done();
    sound(&farm, DIR)?;

    let nginx = Nginx::start(&farm)?;
    let repos = snippet(&farm, &nginx);
    assert!(repos.contains("verify-signature = true"), "{repos}");
    let plain = client(&world, &repos)?;
    trust(&plain, &farm, &key)?;

    // Another content, with the old index, and then with an index of its own.
    let index = published(&farm, DIR)?;
    let hello = index
        .entries
        .iter()
        .find(|e| e.package == "app-misc/hello-2");
    let hello = hello.context("hello is not published")?.path.clone();
    let refused = |what: &str| -> Result<()> {
        let argv = [
            "emerge",
            "--getbinpkg",
            "--usepkgonly",
            "--oneshot",
            "app-misc/hello",
        ];
        let out = plain.chroot().output(&argv)?;
        ensure!(!out.status.success(), "{what} was installed");
        ensure!(!is_installed(plain.root(), "app-misc/hello-2"), "{what}");
        Ok(())
    };
    let file = farm.path(&format!("{DIR}/{hello}"));
    let good = fs::read(&file)?;
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    fs::remove_file(&file)?;
    fs::write(&file, &bad)?;
    refused("a package with another byte")?;
    let (served, kept) = (farm.path(DIR), farm.path("/srv/good"));
    fs::write(&file, &good)?;
    fs::rename(&served, &kept)?;
    fs::rename(farm.path("/srv/evil"), &served)?;
    refused("a package without a signature")?;
    fs::rename(&served, farm.path("/srv/evil"))?;
    fs::rename(&kept, &served)?;
    plain.chroot().run(&INSTALL)?;
    assert!(is_installed(plain.root(), "app-misc/hello-2"));
    a_bad_one_is_built(&farm, &world, &key, &repos, &hello)
}

/// A package without a signature whose entry in the index is right costs an upgrade that one
/// package built, and nothing of it is installed.
fn a_bad_one_is_built(
    farm: &System,
    world: &[&str],
    key: &str,
    repos: &str,
    hello: &str,
) -> Result<()> {
    let paragraph = |index: &str| {
        let mut all = index.split("\n\n");
        let of_hello = all.find(|p| p.contains("CPV: app-misc/hello-2\n"));
        of_hello.context("no hello").map(str::to_owned)
    };
    let index = farm.read(&format!("{DIR}/Packages"))?;
    let evil = farm.read("/srv/evil/Packages")?;
    let mixed = index.replace(&paragraph(&index)?, &paragraph(&evil)?);
    fs::copy(
        farm.path(&format!("/srv/evil/{hello}")),
        farm.path(&format!("{DIR}/{hello}")),
    )?;
    farm.write(&format!("{DIR}/Packages"), mixed)?;

    let system = builder(world, "sync = false\nbinhost = true\nfetch_tries = 1\n")?;
    newest(&system)?;
    system.write("/etc/portage/binrepos.conf", repos)?;
    system.append("/etc/portage/make.conf", "PORTAGE_TRUST_HELPER=\"true\"\n")?;
    trust(&system, farm, key)?;
    let done = system.be.run(&["upgrade", "new"]).done();
    let sources = system.record("new")?["upgrade"]["sources"].clone();
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
    let told = done.says(&[
        "app-misc/hello-2 is built from source",
        "refused by Portage",
    ]);
    ensure!(
        told.stdout.contains("app-misc/hello-2 was built"),
        "{}",
        told.stdout
    );
    let log = fs::read_to_string(system.env("new", "/var/log/emerge.log"))?;
    ensure!(
        log.contains("Compiling/Packaging (app-misc/hello-2::"),
        "{log}"
    );
    assert_eq!(system.sound_menu()?, "new");
    Ok(())
}

mod thorough {
    use super::*;

    #[test]
    #[ignore = "needs root, loop devices and the lab"]
    fn killed_at_twenty_moments() -> Result<()> {
        let mut seeded = Seeded::new(20261201);
        let farm = farm_to_kill()?;
        let start = Instant::now();
        farm.be.run(&["build", "run"]).done();
        let part = u64::try_from(start.elapsed().as_millis())? / 17;
        let start = (0..17).map(|i| Moment::Start(i * part + seeded.below(part)));
        let mut moments: Vec<Moment> = start.collect();
        moments.extend([0, 0, 1, 1, 2].map(Moment::Public));
        let cut = killed_at(&farm, &moments)?;
        // The last ones may find it done.
        ensure!(cut >= 20, "{cut} of {} were killed", moments.len());
        Ok(())
    }

    /// What a person types at a farm, and what comes between.
    #[test]
    #[ignore = "needs root, loop devices and the lab"]
    fn it_is_interrupted_asked_twice_dropped_and_its_disk_fills_up() -> Result<()> {
        let world = ["app-misc/confy", "app-misc/hello", "app-misc/slow"];
        let farm = builder(&world, "sync = false\n")?;
        newest(&farm)?;
        farm.set_slow(5)?;
        let shown = farm.be.run(&["build", "run", "-n"]).done();
        ensure!(
            shown.stdout.contains("would publish it in"),
            "{}",
            shown.stdout
        );
        assert_eq!(farm.subvolume_paths()?, ["@"]);

        // Whoever comes while one works is told so, and a timer asks again later.
        let mut be = farm.be.start(&["build", "run", "one"])?;
        within(&farm, "two are built", || finished(&farm).len() == 2)?;
        for busy in [
            &["build", "run"][..],
            &["build", "continue"],
            &["build", "drop"],
        ] {
            farm.be.run(busy).exits(4).says(&["be status"]);
        }
        let due = ["build", "run", "--due", "--unattended"];
        let quiet = farm.be.run(&due).exits(77);
        ensure!(quiet.stderr.is_empty(), "{}", quiet.stderr);
        let status = farm.be.run(&["build", "status"]).done().stdout;
        ensure!(status.contains("one is building since"), "{status}");
        // Ctrl-C, then kill -9.
        be.signal(Signal::SIGINT)?;
        let ended = be.end()?.exits(6);
        ended.says(&["it was interrupted", "be build continue", "be build run"]);
        farm.quiet_within(GONE)?;
        let status = farm.be.run(&["build", "status"]).done().stdout;
        ensure!(status.contains("one was cut off (merge)"), "{status}");
        let two = finished(&farm);
        let mut be = farm.be.start(&["build", "continue"])?;
        std::thread::sleep(Duration::from_millis(1500));
        be.signal(Signal::SIGKILL)?;
        be.end()?;
        farm.quiet_within(GONE)?;
        ensure!(farm.listed("one").is_some(), "it had ended");
        let done = farm.be.run(&["build", "continue"]).done();
        ensure!(
            done.stdout.contains("3 packages published"),
            "{}",
            done.stdout
        );
        ensure!(two.iter().all(|package| finished(&farm).contains(package)));
        assert_eq!(farm.subvolume_paths()?, ["@"]);

        // Now nothing is due, whoever asks; what is built by name or all again is there already.
        farm.be.run(&due).exits(77).says(&[]);
        let shown = farm.be.run(&["build", "run", "--due", "-n"]).exits(77);
        shown.says(&["no build is due yet"]);
        for again in [&["--all"][..], &["--", "app-misc/hello"]] {
            let again = farm
                .be
                .run(&[&["build", "run"][..], again].concat())
                .exits(77);
            again.says(&["nothing new to build"]);
        }
        // What nobody has is held, and dropped.
        let failed = farm
            .be
            .run(&["build", "run", "--", "app-misc/nothing"])
            .exits(6);
        failed.says(&["is held until", "be build drop"]);
        farm.be.run(&["build", "drop", "-n"]).done();
        farm.be.run(&["build", "drop"]).done();
        assert_eq!(farm.subvolume_paths()?, ["@"]);
        a_full_disk(&farm)
    }

    fn within(farm: &System, what: &str, is_so: impl Fn() -> bool) -> Result<()> {
        let start = Instant::now();
        while !is_so() {
            let log = farm.be.run(&["build", "status"]).stdout;
            ensure!(start.elapsed() < Duration::from_secs(60), "{what}: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The directory of packages is a small disk of its own.
    fn a_full_disk(farm: &System) -> Result<()> {
        let small = farm.path("/srv/small");
        fs::create_dir(&small)?;
        let _disk = Mount::new(Path::new("tmpfs"), &small, "tmpfs", "size=3m")?;
        let toml = farm.read("/etc/be/be.toml")?;
        let toml = toml.replace("min_free_mib = 1\n", "min_free_mib = 2\n");
        farm.write("/etc/be/be.toml", toml)?;
        let to_small = ["build", "run", "--packages", "/srv/small"];
        farm.set_world(&["app-misc/confy"])?;
        farm.be.run(&to_small).done();
        let before = (
            farm.read("/srv/small/Packages")?,
            sound(farm, "/srv/small")?,
        );
        let same = || -> Result<bool> {
            let now = (
                farm.read("/srv/small/Packages")?,
                sound(farm, "/srv/small")?,
            );
            Ok(now == before)
        };

        // Full before it begins: nothing is made.
        let filler = small.join("filler");
        fs::write(&filler, vec![1; 2 << 20])?;
        farm.set_world(&["app-misc/confy", "app-misc/slow"])?;
        let refused = farm.be.run(&to_small).exits(5);
        refused.says(&["/srv/small has", "MiB needed", "make room in /srv/small"]);
        assert_eq!(farm.subvolume_paths()?, ["@"]);
        ensure!(same()?);

        // Full while it builds: it is held, and goes on when there is room.
        fs::remove_file(&filler)?;
        let mut be = farm.be.start(&to_small)?;
        within(farm, "it builds", || {
            let status = farm.be.run(&["build", "status"]).stdout;
            status.contains("is building since") && status.contains("(merge)")
        })?;
        // As much as goes in.
        let _full = fs::write(&filler, vec![1; 4 << 20]);
        let failed = be.end()?.exits(5);
        failed.says(&[
            "app-misc/slow-2 failed",
            "/srv/small has 0 MiB free",
            "is held until",
        ]);
        ensure!(same()?);
        farm.be
            .run(&["build", "continue"])
            .exits(5)
            .says(&["make room"]);
        fs::remove_file(&filler)?;
        farm.be.run(&["build", "continue"]).done();
        assert_eq!(
            sound(farm, "/srv/small")?,
            ["app-misc/confy-2", "app-misc/slow-2"]
        );
        assert_eq!(farm.subvolume_paths()?, ["@"]);
        Ok(())
    }
}
