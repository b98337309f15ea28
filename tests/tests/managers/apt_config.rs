//! Configuration files that dpkg leaves beside those that a person has changed.

use std::fs;

use anyhow::{Context, Result};
use be_tests::be::Be;
use be_tests::system::{NOTHING, System};
use serde_json::{Value, json};
use xtask::image::Tree;
use xtask::run::{cmd, run};

use super::apt::{Deb, REPOSITORY, deb, system};

const V2: &str = "# two\n\nport = 80\n\nname = a\n\nmode = x\n";

fn pending(be: &Be, name: &str) -> Value {
    let list = be.run(&["config", "--list", "--json", name]).done();
    list.json()["pending"].clone()
}

/// Builds this version of a package with one configuration file; the environment sees it, too.
fn build(system: &System, version: &str, config: &str) -> Result<()> {
    Deb {
        config,
        ..deb("hello", version)
    }
    .build(system)?;
    let seen = system.env("new", REPOSITORY);
    if seen.exists() {
        let from = system.path(REPOSITORY).join(".");
        run(cmd("cp", ["-r"]).arg(from).arg(seen))?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and a Debian root"]
fn what_dpkg_leaves_is_merged_or_asked_about() -> Result<()> {
    let system = system()?;
    build(&system, "2", V2)?;
    system.be.run(&["upgrade", "new"]).done();
    assert_eq!(pending(&system.be, "new"), json!([]));

    // What it was made from is known from the last upgrade on.
    let config = "etc/hello.conf";
    let mine = V2.replace("80", "8080");
    fs::write(system.env("new", config), &mine)?;
    let v3 = V2.replace("mode = x", "mode = y").replace("two", "three");
    build(&system, "3", &v3)?;
    let dry = system.be.run(&["-n", "upgrade", "third", "-e", "new"]);
    let dry = dry.done().stdout;
    assert!(
        dry.contains("would merge configuration files in third"),
        "{dry}"
    );
    system.be.run(&["upgrade", "third", "-e", "new"]).done();
    let merged = v3.replace("80", "8080");
    assert_eq!(fs::read_to_string(system.env("third", config))?, merged);
    assert!(!system.env("third", "etc/hello.conf.dpkg-dist").exists());
    let files = &system.record("third")?["upgrade"]["config"];
    assert_eq!(files["merged"], json!(["/etc/hello.conf"]));
    let before = "var/lib/be/config/before";
    let kept = fs::read_dir(system.env("third", before))?.next();
    let kept = kept.context("nothing is kept")??.path().join(config);
    assert_eq!(fs::read_to_string(kept)?, mine);

    // Both have changed one line.
    let v4 = V2.replace("80", "443");
    build(&system, "4", &v4)?;
    let done = system.be.run(&["upgrade", "fourth", "-e", "new"]).done();
    let line = "left for you: merge the new /etc/hello.conf (be config fourth)";
    assert!(done.stdout.contains(line), "{}", done.stdout);
    assert_eq!(fs::read_to_string(system.env("fourth", config))?, mine);
    let running = system.running()?;
    let waits = "/etc/hello.conf.dpkg-dist";
    let expected = json!([{ "path": "/etc/hello.conf", "files": [waits], "state": "conflict" }]);
    assert_eq!(pending(&system.be, "fourth"), expected);
    let status = system.be.run(&["status", "--json"]).done().json();
    assert_eq!(status["debt"]["fourth"]["config"][0]["file"], waits);
    drop(system.be.run(&["config", "fourth"]).exits(7));
    let take = ["config", "fourth", "--take", "/etc/hello.conf"];
    system.be.run(&take).done();
    assert_eq!(fs::read_to_string(system.env("fourth", config))?, v4);
    assert_eq!(pending(&system.be, "fourth"), json!([]));
    let none = system.be.run(&["config", "fourth"]).exits(77);
    none.says(&["nothing waits"]);
    assert_eq!(running.diff(&system.running()?), NOTHING);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and a Debian root"]
fn what_dpkg_moves_away_can_be_taken_back() -> Result<()> {
    let system = system()?;
    system.write("/etc/hello.conf", "mine\n")?;
    let second = deb("hello", "2");
    second.build(&system)?;
    let chroot = system.chroot();
    let file = format!("{REPOSITORY}/hello_2_all.deb");
    // As somebody who said yes to dpkg's question.
    chroot.run(&["dpkg", "--force-confnew", "--install", &file])?;
    assert_eq!(system.read("/etc/hello.conf")?, "made for 2\n");
    let list = system.be.run(&["config", "--list"]).done();
    let line = "/etc/hello.conf  (the package manager has moved away what was in use: \
                /etc/hello.conf.dpkg-old)\n";
    assert_eq!(list.stdout, line);
    let status = system.be.run(&["status"]).done().stdout;
    let owed = "1 configuration file moved away (be config default)";
    assert!(status.contains(owed), "{status}");
    let old = "/etc/hello.conf.dpkg-old";
    let dry = system.be.run(&["-n", "config", "--take", old]).done();
    assert_eq!(
        dry.stdout,
        format!("would replace /etc/hello.conf in default by {old}\n")
    );
    system.be.run(&["config", "--take", old]).done();
    assert_eq!(system.read("/etc/hello.conf")?, "mine\n");
    assert!(!system.path(old).exists());

    system.write(old, "older\n")?;
    let kept = system.be.run(&["config", "--keep", old]).done();
    kept.says(&["/etc/hello.conf.dpkg-old is there now: /var/lib/be/config/before/"]);
    assert_eq!(system.read("/etc/hello.conf")?, "mine\n");
    Ok(())
}
