//! Clients that upgrade by `be`, from a host that drops connections, has another configuration, or
//! publishes in this very moment.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};
use be_portage::binhost::parse;
use be_tests::binhost::{DIR, Dropping, builder, newest};
use be_tests::system::System;
use xtask::image::Tree;

use super::{hello_was_built, is_installed};

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
    hello_was_built(&system)?;
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
    // What says nothing that is understood has not said that it is the same.
    let lock = farm.read(&format!("{DIR}/be-lock.json"))?;
    farm.write(&format!("{DIR}/be-lock.json"), "{}")?;
    let refused = refusing.be.run(&["upgrade", "other"]).exits(3);
    refused.says(&["builds with is not known", &url]);
    farm.write(&format!("{DIR}/be-lock.json"), &lock)?;
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

    // An older state of the repository: it goes to that of the host, which has no say in where
    // that is and whom it comes from.
    let elsewhere = lock
        .replace("\"/var/db/repos/gentoo\"", "\"/root/elsewhere\"")
        .replace("/srv/lab/gentoo.git", "/srv/lab/elsewhere.git");
    ensure!(elsewhere.matches("/elsewhere").count() == 2, "{lock}");
    farm.write(&format!("{DIR}/be-lock.json"), elsewhere)?;
    let behind = client("binhost_differs = \"rebase\"\n")?;
    let done = behind.be.run(&["upgrade", "new"]).done();
    done.says(&["repository gentoo goes to the state of the host"]);
    assert!(is_installed(&behind.env("new", ""), "app-misc/hello-2"));
    assert!(!behind.env("new", "root/elsewhere").exists());
    farm.write(&format!("{DIR}/be-lock.json"), lock)?;
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
