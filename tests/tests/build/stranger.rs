//! A client that the builder has never seen.

use std::fs;

use anyhow::{Result, ensure};
use be_tests::binhost::{DIR, Dropping, builder, sound};
use be_tests::system::{GONE, NOTHING, System};
use be_tests::upstream::{self, FLAGGED};
use nix::sys::signal::Signal;
use xtask::image::Tree;

use super::{finished, within};

/// A client and a builder that has never seen it: with other packages, other headers, another flag
/// and an older state of the repository. Gives the client's lock, as a file.
fn a_stranger(world: &[&str]) -> Result<(System, System, String)> {
    let day_one = [
        ("app-misc/flagged/flagged-1.ebuild", FLAGGED),
        ("sys-kernel/linux-headers/linux-headers-1.ebuild", FLAGGED),
        ("sys-kernel/linux-headers/linux-headers-2.ebuild", FLAGGED),
    ];
    let farm = builder(&["app-misc/greeter"], "sync = false\n")?;
    upstream::release(&farm, 1, &day_one)?;
    upstream::fetch(&farm)?;
    let emerge = "emerge --ask=n --color=n --oneshot";
    let script = format!(
        "{emerge} app-misc/confy sys-kernel/linux-headers; \
         git -C /var/db/repos/gentoo reset -q --hard HEAD~1"
    );
    upstream::sh(&farm, &script)?;
    farm.append("/etc/portage/make.conf", "USE=\"${USE} of-the-builder\"\n")?;

    let client = builder(
        world,
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
    Ok((farm, client, file.to_string_lossy().into_owned()))
}

/// Its own `be` takes all from there, and finds no difference.
fn it_takes(client: &System, packages: &[&str]) -> Result<()> {
    let done = client.be.run(&["upgrade", "new"]).done();
    done.says(&["has the configuration of new"]);
    let sources = client.record("new")?["upgrade"]["sources"].clone();
    assert_eq!(sources["binhost"], serde_json::json!(packages), "{sources}");
    assert_eq!(sources["built"], serde_json::json!([]), "{sources}");
    ensure!(client.env("new", "/usr/share/flagged/doc").exists());
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_client_is_built_for_by_its_lock_alone() -> Result<()> {
    let world = ["app-misc/confy", "app-misc/flagged", "app-misc/hello"];
    let (farm, client, file) = a_stranger(&world)?;
    let host = farm.host()?;
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

    it_takes(&client, &["app-misc/confy-2", "app-misc/flagged-1"])?;

    // It is due again, and there is nothing new. What is no lock is told so.
    let again = farm.be.run(&run).exits(77);
    again.says(&["nothing new to build"]);
    let commit = upstream::sh(&client, "git -C /var/db/repos/gentoo rev-parse HEAD")?;
    let lock = fs::read_to_string(&file)?;
    fs::write(&file, lock.replace(commit.trim(), &"a".repeat(40)))?;
    farm.be
        .run(&run)
        .exits(3)
        .says(&["repository gentoo", "aaaaaaaaaaaa"]);
    fs::write(&file, "{}")?;
    farm.be.run(&run).exits(3).says(&["client.lock", "be lock"]);
    assert_eq!(farm.subvolume_paths()?, ["@"]);
    Ok(())
}

mod thorough {
    use super::*;

    #[test]
    #[ignore = "needs root, loop devices and the lab"]
    fn killed_it_goes_on_for_the_same_client() -> Result<()> {
        let world = ["app-misc/confy", "app-misc/flagged", "app-misc/slow"];
        let (farm, client, file) = a_stranger(&world)?;
        client.set_slow(5)?;
        fs::write(&file, client.be.run(&["lock", "--now"]).done().stdout)?;
        let mut be = farm.be.start(&["build", "run", "--profile-from", &file])?;
        within(&farm, "headers and two are built", || {
            finished(&farm).len() == 3
        })?;
        be.signal(Signal::SIGKILL)?;
        be.end()?;
        farm.quiet_within(GONE)?;
        // Of what is asked for it knows by itself.
        fs::remove_file(&file)?;
        let built = finished(&farm);
        farm.be.run(&["build", "continue"]).done();
        let now = finished(&farm);
        ensure!(
            built.iter().all(|b| now.contains(b)),
            "{built:?} became {now:?}"
        );
        sound(&farm, DIR)?;
        it_takes(
            &client,
            &["app-misc/confy-2", "app-misc/flagged-1", "app-misc/slow-2"],
        )
    }
}
