//! pacman, in a root that has it, with a repository made by repo-add.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use be_portage::config_files::checksum;
use be_tests::system::{NOTHING, System};
use xtask::image::Tree;
use xtask::lab::managers::Managed;
use xtask::run::{cmd, run};

use super::watched;

const REPOSITORY: &str = "/srv/packages";

/// Builds a package into the system's repository, with its version in a file and in a
/// configuration file.
fn build(system: &System, name: &str, version: &str, more: &str) -> Result<()> {
    let tree = format!("/root/{name}");
    let info = format!(
        "pkgname = {name}\npkgbase = {name}\npkgver = {version}-1\npkgdesc = a package\n\
         url = none\nbuilddate = 1700000000\npackager = nobody\nsize = 4096\narch = any\n\
         license = MIT\nbackup = etc/{name}.conf\n{more}"
    );
    system.write(&format!("{tree}/.PKGINFO"), info)?;
    let file = format!("{tree}/usr/share/{name}/version-{version}");
    system.write(&file, version)?;
    let config = format!("made for {version}\n");
    system.write(&format!("{tree}/etc/{name}.conf"), config)?;
    fs::create_dir_all(system.path(REPOSITORY))?;
    let built = format!("{REPOSITORY}/{name}-{version}-1-any.pkg.tar.zst");
    run(cmd("tar", ["--create", "--zstd", "--owner=0", "--group=0"])
        .arg("--file")
        .arg(system.path(&built))
        .arg("-C")
        .arg(system.path(&tree))
        .args([".PKGINFO", "etc", "usr"]))?;
    fs::remove_dir_all(system.path(&tree))?;
    // pacman takes a database of the same second for the same.
    std::thread::sleep(Duration::from_millis(1100));
    let database = format!("{REPOSITORY}/own.db.tar.gz");
    let add = ["repo-add", "--quiet", &database, &built];
    system.chroot().run(&add)?;
    Ok(())
}

/// A system with version 1 of a package that pacman rules.
fn system() -> Result<System> {
    let system = System::adopted_with(Managed::Pacman)?;
    let config = format!(
        "[options]\nArchitecture = auto\nSigLevel = Never\n[own]\nServer = file://{REPOSITORY}\n"
    );
    system.write("/etc/pacman.conf", config)?;
    // Debian's root, where apt would be recognised first.
    let config = "[upgrade]\npolite = false\nmanager = \"pacman\"\n";
    system.write("/etc/be/be.toml", config)?;
    build(&system, "hello", "1", "")?;
    let install = ["pacman", "-Sy", "--noconfirm", "hello"];
    system.chroot().run(&install)?;
    Ok(system)
}

#[test]
#[ignore = "needs root, loop devices and a root with pacman"]
fn pacman_upgrades_a_clone() -> Result<()> {
    let system = system()?;
    let before = system.subvolumes()?;
    let nothing = system.be.run(&["upgrade", "new"]).exits(77);
    drop(nothing.says(&["nothing to upgrade"]));
    assert_eq!(system.subvolumes()?, before);

    system.write("/etc/hello.conf", "mine\n")?;
    build(&system, "more", "1", "")?;
    build(&system, "hello", "2", "depend = more\n")?;
    let (running, host) = (system.running()?, system.host()?);
    let told = system.be.run(&["upgrade", "--pretend"]).done().stdout;
    assert_eq!(told, "hello 1-1 -> 2-1\nmore 1-1 (new)\n");

    let (done, told) = watched(&system)?;
    assert_eq!(told, ["install more 0 2", "upgrade hello 1 2"]);
    for line in ["2 changes in new", "hello 1-1 -> 2-1", "more 1-1 (new)"] {
        assert!(done.stdout.contains(line), "{line}: {}", done.stdout);
    }
    assert_eq!(running.diff(&system.running()?), NOTHING);
    assert_eq!(system.host_changes(&host)?, NOTHING);
    assert_eq!(system.record("new")?["state"], "ready");
    assert!(system.env("new", "usr/share/hello/version-2").exists());
    let config = |name: &str| fs::read_to_string(system.env("new", name));
    assert_eq!(config("etc/hello.conf")?, "mine\n");
    assert_eq!(config("etc/hello.conf.pacnew")?, "made for 2\n");
    let listed = system.be.run(&["config", "--list", "--json", "new"]);
    let pending = &listed.done().json()["pending"];
    assert_eq!(pending[0]["files"][0], "/etc/hello.conf.pacnew");
    // The version that it was made from is kept: more's, which nobody has changed, is the same.
    assert_eq!(pending[0]["state"], "conflict");
    let sum = checksum(b"made for 1\n");
    let kept = system.env("new", &format!("var/lib/be/config/packaged/{sum}"));
    assert!(kept.exists());

    let diff = system.be.run(&["--json", "diff", "default", "new"]).done();
    let packages = &diff.json()["packages"];
    assert_eq!(packages["upgraded"][0]["package"], "hello");
    assert_eq!(packages["upgraded"][0]["from"], "1-1");
    assert_eq!(packages["upgraded"][0]["to"], "2-1");
    assert_eq!(packages["added"][0]["package"], "more");
    assert_eq!(packages["added"][0]["size"], 4096);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and a root with pacman"]
fn a_file_in_the_way_is_kept_and_continued() -> Result<()> {
    let system = system()?;
    build(&system, "hello", "2", "")?;
    system.write("/usr/share/hello/version-2", "not from a package")?;
    let running = system.running()?;
    let failed = system.be.run(&["upgrade", "new"]).exits(6);
    drop(failed.says(&["pacman --sync --sysupgrade --noconfirm: exit 1"]));
    assert_eq!(system.record("new")?["state"], "failed");
    let log = system.be.run(&["log", "new"]).done().stdout;
    assert!(log.contains("version-2 exists"), "{log}");

    let mend = ["exec", "new", "--", "rm", "/usr/share/hello/version-2"];
    system.be.run(&mend).done();
    // What a pacman that was killed leaves.
    fs::write(system.env("new", "var/lib/pacman/db.lck"), "")?;
    system.be.run(&["upgrade", "--continue", "new"]).done();
    assert_eq!(system.record("new")?["state"], "ready");
    assert_eq!(running.diff(&system.running()?), NOTHING);
    Ok(())
}
