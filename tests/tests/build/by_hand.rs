//! What a person types at a farm, and what comes between.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use be_tests::binhost::{builder, newest, sound};
use be_tests::system::{GONE, System};
use nix::sys::signal::Signal;
use xtask::image::Tree;
use xtask::loopdev::Mount;

use super::{finished, within};

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

mod thorough {
    use super::*;

    /// What a person types at a farm, and what comes between.
    #[test]
    #[ignore = "needs root, loop devices and the lab"]
    fn it_is_interrupted_asked_twice_dropped_and_its_disk_fills_up() -> Result<()> {
        let world = ["app-misc/confy", "app-misc/hello", "app-misc/slow"];
        let farm = builder(&world, "sync = false\n")?;
        newest(&farm)?;
        // Long enough for all that is asked while it builds.
        farm.set_slow(8)?;
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
        std::thread::sleep(Duration::from_millis(400));
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
        // The lab has no init that could start it again.
        let none = farm.be.run(&["init", "--builds"]).exits(77);
        none.says(&["nothing is started by itself", "be build run --due"]);
        farm.set_slow(5)?;
        a_full_disk(&farm)
    }
}
