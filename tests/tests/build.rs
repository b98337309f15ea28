//! Packages that are built for other machines, and the machines that install them.

use std::path::Path;

use anyhow::{Result, ensure};
use be_tests::binhost::{DIR, Nginx, builder, client, files, published, sound};
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
