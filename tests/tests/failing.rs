//! Upgrades that Portage cannot finish.

use std::fs;

use anyhow::{Result, ensure};
use be_tests::came::{Came, Merged};
use be_tests::system::{NOTHING, System};
use xtask::image::Tree;
use xtask::run::{cmd, run};

/// The three ways on that a failed upgrade has to name, and the log.
fn ways_on(name: &str) -> [String; 4] {
    ["be log", "be shell", "be upgrade --continue", "be destroy"].map(|c| format!("{c} {name}"))
}

const CONFIG: &str = "[upgrade]\npolite = false\nmin_free_mib = 1\nsync = false\n";

/// The lab with the newest versions of all packages in its repository; some of these are to be
/// upgraded. What is mended in it stays so.
fn synced(world: &[&str]) -> Result<System> {
    let system = System::adopted_lab()?;
    system.write("/etc/be/be.toml", CONFIG)?;
    let newest = ["reset", "--quiet", "--hard", "origin/HEAD"];
    let git = ["git", "-C", "/var/db/repos/gentoo"];
    system.chroot().run(&[&git[..], &newest].concat())?;
    system.set_world(world)?;
    Ok(system)
}

/// Go on with what was mended there and in the system that it was cloned from. It comes to the
/// same as an upgrade in which nothing fails, and what was complete is not built again.
fn goes_on_to_the_same(system: &System) -> Result<()> {
    let root = system.env("new", "");
    let done = Merged::of(&root).done;
    ensure!(!done.is_empty(), "nothing was complete before it failed");
    system.be.run(&["upgrade", "--continue", "new"]).done();
    assert_eq!(system.record("new")?["state"], "ready");
    assert_eq!(system.sound_menu()?, "new");
    let came = Came::of(&root)?;

    // By the same name, which is in its files.
    system.be.run(&["activate", "default"]).done();
    system.be.run(&["destroy", "-y", "new"]).done();
    for kept in fs::read_dir(system.top("@be/.built"))? {
        let delete = ["--quiet", "subvolume", "delete"];
        run(cmd("btrfs", delete).arg(kept?.path()))?;
    }
    system.be.run(&["upgrade", "new"]).done();
    let undisturbed = Came::of(&root)?;
    came.is_as(&undisturbed)?;
    came.built_no_more(&done, &undisturbed, 0)
}

/// Run a command in the failed environment, and in the system that it was cloned from.
fn mend(system: &System, argv: &[&str]) -> Result<()> {
    let inside = [&["exec", "new", "--"], argv].concat();
    system.be.run(&inside).done();
    system.chroot().run(argv)?;
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_failed_build_is_kept_and_continued() -> Result<()> {
    let system = synced(&["app-misc/confy", "app-misc/failbuild"])?;
    let (running, host) = (system.running()?, system.host()?);
    let failed = system.be.run(&["upgrade", "new"]).exits(6);
    failed.says(&ways_on("new").each_ref().map(String::as_str));
    let failed = system.be.run(&["upgrade", "--continue", "new"]).exits(6);
    failed.says(&["app-misc/failbuild-2 failed", "not touched"]);
    assert_eq!(running.diff(&system.running()?), NOTHING);
    assert_eq!(system.host_changes(&host)?, NOTHING);

    assert_eq!(system.record("new")?["state"], "failed");
    assert_eq!(system.sound_menu()?, "default");
    assert!(!system.menu()?.contains("be-new"));
    for verb in [&["activate", "new"][..], &["rollback", "new"]] {
        let refused = system.unchanged_by(3, verb)?;
        assert!(refused.error().contains("new is failed"));
    }
    let log = system.be.run(&["log", "new"]).done().stdout;
    assert!(log.contains("the compiler failed"), "{log}");

    let dir = "/var/db/repos/gentoo/app-misc/failbuild";
    let (works, fails) = (
        [dir, "/failbuild-1.ebuild"].concat(),
        [dir, "/failbuild-2.ebuild"].concat(),
    );
    mend(&system, &["cp", &works, &fails])?;
    let (running, host) = (system.running()?, system.host()?);
    goes_on_to_the_same(&system)?;
    assert_eq!(running.diff(&system.running()?), NOTHING);
    assert_eq!(system.host_changes(&host)?, NOTHING);

    let again = system.unchanged_by(3, &["upgrade", "--continue", "new"])?;
    assert!(again.error().contains("no upgrade to continue"));
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_failed_postinst_is_no_success_the_second_time() -> Result<()> {
    let system = synced(&["app-misc/confy", "app-misc/failpost"])?;
    let running = system.running()?;
    for args in [&["upgrade", "new"][..], &["upgrade", "--continue", "new"]] {
        let failed = system.be.run(args).exits(6);
        failed.says(&["app-misc/failpost-2", "pkg_postinst"]);
        // Portage itself takes it for installed.
        assert!(system.env("new", "var/db/pkg/app-misc/failpost-2").exists());
        assert_eq!(system.record("new")?["state"], "failed", "{args:?}");
        assert_eq!(system.sound_menu()?, "default");
    }
    let ebuild = "/var/db/repos/gentoo/app-misc/failpost/failpost-2.ebuild";
    let works = r#"s:die .*:echo done >"${EROOT}/etc/failpost":"#;
    assert_eq!(running.diff(&system.running()?), NOTHING);
    mend(&system, &["sed", "-i", works, ebuild])?;
    goes_on_to_the_same(&system)?;
    assert_eq!(
        fs::read_to_string(system.env("new", "etc/failpost"))?,
        "done\n"
    );
    Ok(())
}

/// Not on any server.
const UNFETCHED_EBUILD: &str = r#"
EAPI=8
DESCRIPTION="A package whose source is elsewhere"
HOMEPAGE="https://localhost/"
SRC_URI="http://127.0.0.1:9/unfetched-3.txt"
S="${WORKDIR}"
LICENSE="MIT"
SLOT="0"
KEYWORDS="amd64"

src_unpack() { :; }
src_install() {
	insinto /usr/share/hello
	doins "${DISTDIR}"/unfetched-3.txt
}
"#;
const SOURCE: &str = "a source\n";

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_cannot_be_fetched_is_told_before_anything_is_built() -> Result<()> {
    let system = System::adopted_lab()?;
    let config =
        "[upgrade]\npolite = false\nsync = false\nfetch_tries = 2\nfetch_pause_seconds = 0\n";
    system.write("/etc/be/be.toml", config)?;
    system.set_world(&["app-misc/greeter", "app-misc/hello"])?;
    let hello = "/var/db/repos/gentoo/app-misc/hello";
    system.write(&format!("{hello}/hello-3.ebuild"), UNFETCHED_EBUILD)?;
    let (size, sum) = (SOURCE.len(), sha512(SOURCE)?);
    let manifest = format!("DIST unfetched-3.txt {size} SHA512 {sum}\n");
    system.write(&format!("{hello}/Manifest"), manifest)?;
    system.append("/etc/portage/make.conf", "GENTOO_MIRRORS=\"\"\n")?;

    let failed = system.be.run(&["upgrade", "new"]).exits(6);
    let failed = failed.says(&["not all could be fetched", "nothing was built"]);
    let failed = failed.says(&ways_on("new").each_ref().map(String::as_str));
    assert_eq!(failed.stderr.matches("trying again in 0 s").count(), 1);
    assert_eq!(system.record("new")?["upgrade"]["phase"], "fetch");
    assert!(!system.env("new", "var/db/pkg/app-misc/greeter-2").exists());

    let dir = system.env("new", "var/cache/distfiles");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("unfetched-3.txt"), SOURCE)?;
    system.be.run(&["upgrade", "--continue", "new"]).done();
    let installed = fs::read_to_string(system.env("new", "usr/share/hello/unfetched-3.txt"))?;
    assert_eq!(installed, SOURCE);
    Ok(())
}

fn sha512(text: &str) -> Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), text)?;
    let sum = run(&mut cmd("sha512sum", [file.path()]))?;
    Ok(sum.split(' ').next().unwrap_or_default().to_owned())
}

/// What an upgrade that failed has built is installed by the next one, until an environment
/// has come up or the configuration is another.
#[test]
#[ignore = "needs root, loop devices and the lab"]
fn nothing_is_built_twice() -> Result<()> {
    let system = System::adopted_lab()?;
    system.set_world(&["app-misc/hello", "app-misc/failbuild"])?;
    let upgrade = ["upgrade", "first", "--", "--keep-going"];
    let failed = system.be.run(&upgrade).exits(6);
    drop(failed.says(&["app-misc/failbuild-2 failed"]));
    let built = || -> Result<Vec<_>> {
        let dirs = fs::read_dir(system.top("@be/.built"))?;
        Ok(dirs.flatten().map(|entry| entry.path()).collect())
    };
    assert_eq!(built()?.len(), 1);
    assert!(built()?[0].join("app-misc/hello").is_dir());
    assert!(!system.env("first", "var/cache/binpkgs/app-misc").exists());

    let merged = |name: &str| -> Result<(bool, bool)> {
        let log = fs::read_to_string(system.env(name, "var/log/emerge.log"))?;
        let told = |what: &str| log.contains(&format!("{what} (app-misc/hello-2"));
        Ok((told("Compiling/Packaging"), told("Merging Binary")))
    };
    assert_eq!(merged("first")?, (true, false));
    system.set_world(&["app-misc/hello"])?;
    system.be.run(&["upgrade", "second"]).done();
    assert_eq!(merged("second")?, (false, true));
    assert_eq!(
        system.listed("second").map(|e| e["state"].clone()),
        Some("ready".into())
    );

    let found = system.be.run(&["--json", "doctor"]);
    assert!(!found.stdout.contains(".built"), "{}", found.stdout);

    system.append("/etc/portage/make.conf", "CFLAGS=\"-O3\"\n")?;
    let before = built()?;
    system.be.run(&["upgrade", "third"]).done();
    assert_eq!(merged("third")?, (true, false));
    assert_eq!(built()?.len(), 1);
    assert_ne!(built()?, before);

    // Whoever keeps packages has them used, and nobody else keeps any.
    let before = built()?;
    system.append("/etc/portage/make.conf", "PKGDIR=\"/srv/packages\"\n")?;
    system.be.run(&["upgrade", "fourth"]).done();
    assert_eq!(merged("fourth")?, (false, false));
    assert_eq!(built()?, before);
    Ok(())
}

/// More than is left, the same whenever it is built; not to be compressed or shared.
const BIG_EBUILD: &str = r#"
EAPI=8
DESCRIPTION="A package that is too big"
HOMEPAGE="https://localhost/"
S="${WORKDIR}"
LICENSE="MIT"
SLOT="0"
KEYWORDS="amd64"

src_install() {
	local random="import os, random; os.write(1, random.Random(1).randbytes(64 << 20))"
	python3 -c "${random}" >big || die "no room"
	insinto /usr/share/hello
	doins big
}
"#;

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_disk_that_fills_up_in_the_merge() -> Result<()> {
    let system = synced(&["app-misc/confy", "app-misc/hello"])?;
    system.write(
        "/var/db/repos/gentoo/app-misc/hello/hello-3.ebuild",
        BIG_EBUILD,
    )?;
    system.fill(2)?;
    let (running, host) = (system.running()?, system.host()?);
    let failed = system.be.run(&["upgrade", "new"]).exits(6);
    failed.says(&ways_on("new").each_ref().map(String::as_str));
    assert_eq!(running.diff(&system.running()?), NOTHING);
    assert_eq!(system.host_changes(&host)?, NOTHING);
    assert_eq!(system.sound_menu()?, "default");
    let failed = system.listed("new").map(|e| e["state"].clone());
    assert_eq!(failed, Some("failed".into()));

    system.empty()?;
    goes_on_to_the_same(&system)?;
    assert!(system.env("new", "var/db/pkg/app-misc/hello-3").exists());
    Ok(())
}

/// What GRUB has given up is remembered beside the environments; here as if it had.
#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_did_not_come_up_is_not_built_again_before_something_changes() -> Result<()> {
    let system = System::adopted_lab()?;
    system.set_world(&["app-misc/hello"])?;
    system.be.run(&["upgrade", "--no-activate", "first"]).done();
    let inputs = system.record("first")?["upgrade"]["inputs"].clone();
    assert!(inputs.is_string(), "{inputs}");
    let memory = serde_json::json!({ "schema": 1, "bad": [{
        "environment": "first", "noticed": "2026-11-20T01:02:03+01:00", "inputs": inputs,
    }]});
    fs::write(system.top("@be/.bad.json"), memory.to_string())?;
    system.be.run(&["destroy", "-y", "first"]).done();
    let found = system.be.run(&["--json", "doctor"]);
    assert!(!found.stdout.contains(".bad.json"), "{}", found.stdout);

    let same = system.be.run(&["upgrade", "second"]).exits(77);
    same.says(&["first", "did not come up on 2026-11-20", "--again"]);
    assert!(system.listed("second").is_none());
    assert_eq!(system.leftovers(), [""; 0].map(std::path::PathBuf::from));
    let again = ["upgrade", "--again", "--no-activate", "third"];
    system.be.run(&again).done();
    system.add_to_world("app-misc/greeter")?;
    let other = ["upgrade", "--no-activate", "fourth"];
    system.be.run(&other).done();
    Ok(())
}
