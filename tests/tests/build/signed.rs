//! Packages that are signed, and those that somebody has changed.

use std::fs;

use anyhow::{Context, Result, ensure};
use be_tests::binhost::{DIR, Nginx, builder, client, newest, published, sound};
use be_tests::system::System;
use xtask::image::Tree;

use super::{INSTALL, hello_was_built, is_installed, snippet};

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
    // Another host in the way of old: Portage keeps what it fetches elsewhere then, and forgets of
    // which host it was, if the section does not say where.
    let old = "PORTAGE_BINHOST=\"http://127.0.0.1:9\"\n";
    system.append("/etc/portage/make.conf", old)?;
    trust(&system, farm, key)?;
    let done = system.be.run(&["upgrade", "new"]).done();
    hello_was_built(&system)?;
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
