//! Configuration files of which a new version waits: in upgrades by the real Portage, and
//! in `be config`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result};
use be_tests::be::Outcome;
use be_tests::system::{NOTHING, System};
use be_tests::terminal::at_terminal;
use serde_json::json;
use xtask::image::Tree;

const PACKAGE: &str = "app-misc/foo";
const CONFIG: &str = "[upgrade]\npolite = false\nsync = false\n";

/// What the two versions of the package install in /etc, and what a person makes of the first.
const FILES: [(&str, &str, &str, &str); 5] = [
    (
        "clean.conf",
        "# foo 1\nport = 80\n\nname = a\n\nend\n",
        "# foo 2\nport = 80\n\nname = a\n\nnew = 1\nend\n",
        "# foo 1\nport = 80\n\nname = mine\n\nend\n",
    ),
    ("conflict.conf", "a\nb\nc\n", "a\nB\nc\n", "a\nmine\nc\n"),
    ("same.conf", "one\n", "two\n", "one\n"),
    ("note.conf", "x = 1\n", "# new\nx = 1\n", "# mine\nx = 1\n"),
    ("fstab", "# example 1\n", "# example 2\n", ""),
];
const MERGED: &str = "# foo 2\nport = 80\n\nname = mine\n\nnew = 1\nend\n";

fn ebuild(version: usize) -> String {
    let mut text = String::from(
        "EAPI=8\nDESCRIPTION=\"A package with configuration files\"\n\
         HOMEPAGE=\"https://localhost/\"\nS=\"${WORKDIR}\"\nLICENSE=\"MIT\"\nSLOT=\"0\"\n\
         KEYWORDS=\"amd64\"\n\nsrc_install() {\n\tinsinto /etc\n",
    );
    for (name, one, two, _) in FILES {
        let content = if version == 1 { one } else { two };
        text += &format!("\tnewins - {name} <<'EOF'\n{content}EOF\n");
    }
    text + "}\n"
}

/// The lab; in the environment `first` an upgrade has installed version 1 of the package, a
/// person has changed what it installed, and there is version 2.
fn with_changes() -> Result<System> {
    let system = System::adopted_lab()?;
    system.write("/etc/be/be.toml", CONFIG)?;
    // Else Portage itself takes what nobody has changed.
    let features = "FEATURES=\"${FEATURES} -config-protect-if-modified\"\n";
    system.append("/etc/portage/make.conf", features)?;
    system.set_world(&[PACKAGE])?;
    let repository = "/var/db/repos/gentoo/app-misc/foo";
    fs::create_dir_all(system.path(repository))?;
    system.write(&format!("{repository}/foo-1.ebuild"), ebuild(1))?;
    system.write(&format!("{repository}/Manifest"), "")?;
    system.be.run(&["upgrade", "--no-activate", "first"]).done();
    for (name, one, _, mine) in FILES.into_iter().filter(|f| f.0 != "fstab") {
        let path = system.env("first", &format!("etc/{name}"));
        assert_eq!(fs::read_to_string(&path)?, one, "{name}");
        fs::write(path, mine)?;
    }
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(system.env("first", "etc/clean.conf"), mode)?;
    let second = system.env("first", &repository[1..]).join("foo-2.ebuild");
    fs::write(second, ebuild(2))?;
    Ok(system)
}

fn etc(system: &System, name: &str, file: &str) -> Result<String> {
    let path = system.env(name, &format!("etc/{file}"));
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn waits(system: &System, name: &str, file: &str) -> bool {
    system.env(name, &format!("etc/._cfg0000_{file}")).exists()
}

/// What was there before an upgrade changed it.
fn before(system: &System, name: &str, file: &str) -> Result<String> {
    let dir = system.env(name, "var/lib/be/config/before");
    let stamps: Vec<_> = fs::read_dir(dir)?.flatten().collect();
    assert_eq!(stamps.len(), 1, "{stamps:?}");
    Ok(fs::read_to_string(stamps[0].path().join("etc").join(file))?)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn an_upgrade_merges_what_goes_together_and_leaves_the_rest() -> Result<()> {
    let system = with_changes()?;
    let fstab = etc(&system, "first", "fstab")?;
    let (running, host) = (system.running()?, system.host()?);
    let upgrade = [
        "--json",
        "upgrade",
        "--no-activate",
        "-e",
        "first",
        "second",
    ];
    let done = system.be.run(&upgrade).done().json();
    let expected = json!({
        "merged": ["/etc/clean.conf"],
        "taken": ["/etc/note.conf", "/etc/same.conf"],
        "left": ["/etc/conflict.conf", "/etc/fstab"],
    });
    assert_eq!(done["config"], expected, "{done}");
    assert_eq!(system.record("second")?["upgrade"]["config"], expected);
    assert_eq!(
        done["debt"]["config"].as_array().map(Vec::len),
        Some(3),
        "{done}"
    );

    assert_eq!(etc(&system, "second", "clean.conf")?, MERGED);
    let clean = fs::metadata(system.env("second", "etc/clean.conf"))?;
    assert_eq!(clean.mode() & 0o7777, 0o600);
    assert_eq!(etc(&system, "second", "same.conf")?, "two\n");
    assert_eq!(etc(&system, "second", "note.conf")?, "# new\nx = 1\n");
    assert_eq!(etc(&system, "second", "conflict.conf")?, "a\nmine\nc\n");
    assert_ne!(etc(&system, "second", "fstab")?, "# example 2\n");
    for (file, left) in [
        ("clean.conf", false),
        ("same.conf", false),
        ("note.conf", false),
        ("conflict.conf", true),
        ("fstab", true),
    ] {
        assert_eq!(waits(&system, "second", file), left, "{file}");
    }
    for (file, _, _, mine) in &FILES[..1] {
        assert_eq!(before(&system, "second", file)?, *mine);
    }
    assert_eq!(before(&system, "second", "note.conf")?, "# mine\nx = 1\n");

    assert_eq!(etc(&system, "first", "clean.conf")?, FILES[0].3);
    assert_eq!(etc(&system, "first", "fstab")?, fstab);
    assert_eq!(running.diff(&system.running()?), NOTHING);
    assert_eq!(system.host_changes(&host)?, NOTHING);
    Ok(())
}

/// What it was made from is known by a later upgrade, too, as long as a version waits.
#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_is_left_can_be_merged_by_hand_with_what_it_was_made_from() -> Result<()> {
    let system = with_changes()?;
    let keep = format!("{CONFIG}merge_config = false\n");
    system.write("/etc/be/be.toml", keep)?;
    let upgrade = ["upgrade", "--no-activate", "-e", "first", "second"];
    let said = system.be.run(&upgrade).done().stderr;
    assert!(said.contains("0 merged, 0 taken, 5 left for you"), "{said}");
    assert_eq!(etc(&system, "second", "clean.conf")?, FILES[0].3);

    let listed = system
        .be
        .run(&["--json", "config", "--list", "second"])
        .done()
        .json();
    let states: Vec<_> = listed["pending"].as_array().into_iter().flatten().collect();
    let states: Vec<_> = states.iter().map(|p| (&p["path"], &p["state"])).collect();
    assert_eq!(
        json!(states),
        json!([
            ["/etc/clean.conf", "clean"],
            ["/etc/conflict.conf", "conflict"],
            ["/etc/fstab", "sensitive"],
            ["/etc/note.conf", "unchanged"],
            ["/etc/same.conf", "unchanged"]
        ])
    );
    let typed = ["m", "y", "k", "q"];
    let walked = walk(&system, "second", &typed, None)?.done();
    assert!(
        walked.stdout.contains("merged: /etc/clean.conf"),
        "{}",
        walked.stdout
    );
    assert_eq!(etc(&system, "second", "clean.conf")?, MERGED);
    assert!(!waits(&system, "second", "clean.conf"));
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn an_upgrade_that_is_cut_off_in_it_goes_on_and_loses_nothing() -> Result<()> {
    let system = with_changes()?;
    let hook = "etc/be/upgrade.d/after-configuration/fails";
    let path = system.env("first", hook);
    fs::create_dir_all(path.parent().context("it is in a directory")?)?;
    fs::write(&path, "#!/bin/sh\ntest -e /root/mended\n")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    let failed = system
        .be
        .run(&["upgrade", "-e", "first", "second"])
        .exits(6);
    drop(failed.says(&[
        "after-configuration/fails failed",
        "be upgrade --continue second",
    ]));
    assert_eq!(
        system.record("second")?["upgrade"]["phase"],
        "configuration"
    );
    assert_eq!(etc(&system, "second", "clean.conf")?, MERGED);

    // As if it had been cut off after the merge, before what waited was gone.
    let waiting = system.env("second", "etc/._cfg0000_clean.conf");
    fs::write(&waiting, FILES[0].2)?;
    fs::write(system.env("second", "root/mended"), "")?;
    system.be.run(&["upgrade", "--continue", "second"]).done();
    assert!(!waiting.exists());
    assert_eq!(etc(&system, "second", "clean.conf")?, MERGED);
    assert_eq!(before(&system, "second", "clean.conf")?, FILES[0].3);
    let config = &system.record("second")?["upgrade"]["config"];
    assert_eq!(config["merged"], json!(["/etc/clean.conf"]));
    assert_eq!(config["taken"], json!(["/etc/note.conf", "/etc/same.conf"]));
    assert_eq!(config["left"], json!(["/etc/conflict.conf", "/etc/fstab"]));
    Ok(())
}

/// The small system with an environment in which something waits.
fn small() -> Result<System> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "x"]).done();
    for (file, content) in [
        ("foo.conf", "mine\nb\n"),
        ("._cfg0000_foo.conf", "a\nb\nc\n"),
        ("bar.conf", "1\n"),
        ("._cfg0000_bar.conf", "2\n"),
        ("._cfg0001_bar.conf", "3\n"),
        ("group", "root:x:0:\nme:x:1000:\n"),
        ("._cfg0000_group", "root:x:0:\nnew:x:90:\n"),
    ] {
        fs::write(system.env("x", &format!("etc/{file}")), content)?;
    }
    Ok(system)
}

fn walk(system: &System, name: &str, typed: &[&str], editor: Option<&Path>) -> Result<Outcome> {
    let mut command = system.be.command(&["config", name]);
    command.env_remove("VISUAL").env("EDITOR", "false");
    if let Some(editor) = editor {
        command.env("EDITOR", format!("sh {}", editor.display()));
    }
    at_terminal(&mut command, typed)
}

#[test]
#[ignore = "needs root and loop devices"]
fn files_are_kept_and_taken_by_name() -> Result<()> {
    let system = small()?;
    let (running, host) = (system.running()?, system.host()?);
    let listed = system.unchanged_by(7, &["config", "x"])?;
    assert_eq!(
        listed.stdout,
        "/etc/bar.conf  (you have changed it, and what it was before is not known)\n\
         /etc/foo.conf  (you have changed it, and what it was before is not known)\n\
         /etc/group  (nobody but you decides about this file)\n"
    );
    let listed = system
        .unchanged_by(0, &["--json", "config", "--list", "x"])?
        .json();
    let files = json!(["/etc/._cfg0000_bar.conf", "/etc/._cfg0001_bar.conf"]);
    assert_eq!(listed["pending"][0]["files"], files, "{listed}");
    drop(system.unchanged_by(77, &["config"])?);
    drop(system.unchanged_by(0, &["config", "--list"])?);

    let refused = [
        "config",
        "x",
        "--keep",
        "/etc/foo.conf",
        "--take",
        "/etc/none",
    ];
    let refused = system.unchanged_by(3, &refused)?;
    drop(refused.says(&["/etc/none", "be config --list x"]));
    let refused = system.unchanged_by(3, &["config", "x", "--take", "/etc/group"])?;
    drop(refused.says(&["/etc/group", "accounts", "be config x"]));
    let would = [
        "-n",
        "config",
        "x",
        "--take",
        "/etc/bar.conf",
        "--keep",
        "/etc/group",
    ];
    let would = system.unchanged_by(0, &would)?.stdout;
    assert!(
        would.contains("would replace /etc/bar.conf in x"),
        "{would}"
    );
    system.be.run(&["create", "x@s"]).done();
    drop(system.unchanged_by(3, &["config", "x@s", "--list"])?);

    let take = [
        "config",
        "x",
        "--take",
        "/etc/._cfg0001_bar.conf",
        "--keep",
        "/etc/group",
    ];
    let done = system.be.run(&take).done();
    assert_eq!(done.stdout, "kept: /etc/group\ntaken: /etc/bar.conf\n");
    assert_eq!(etc(&system, "x", "bar.conf")?, "3\n");
    assert_eq!(before(&system, "x", "bar.conf")?, "1\n");
    assert_eq!(etc(&system, "x", "group")?, "root:x:0:\nme:x:1000:\n");
    for gone in [
        "._cfg0000_bar.conf",
        "._cfg0001_bar.conf",
        "._cfg0000_group",
    ] {
        assert!(etc(&system, "x", gone).is_err(), "{gone}");
    }
    assert!(waits(&system, "x", "foo.conf"));
    assert_eq!(running.diff(&system.running()?), NOTHING);
    assert_eq!(system.host_changes(&host)?, NOTHING);

    // Nobody else can change what somebody works in; to look is no harm.
    let upgrade = fs::File::open(system.top("@be/x"))?;
    rustix::fs::flock(&upgrade, rustix::fs::FlockOperation::LockExclusive)?;
    drop(system.unchanged_by(4, &["config", "x", "--keep", "/etc/foo.conf"])?);
    drop(system.unchanged_by(0, &["config", "--list", "x"])?);
    drop(upgrade);

    // The running one, too: it is the one that is meant without a name.
    system.write("/etc/foo.conf", "a\n")?;
    system.write("/etc/._cfg0000_foo.conf", "b\n")?;
    system.be.run(&["config", "--take", "/etc/foo.conf"]).done();
    assert_eq!(fs::read_to_string(system.path("/etc/foo.conf"))?, "b\n");
    Ok(())
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_person_goes_through_them_at_a_terminal() -> Result<()> {
    let system = small()?;
    // bar: an answer that is none, skipped; foo: taken; group: what is new is added.
    let walked = walk(&system, "x", &["what", "s", "t", "a", "y"], None)?.done();
    for words in [
        "/etc/bar.conf in x (1 of 3)",
        "-1\n+3\n",
        "[t]ake the new one",
        "+++ /etc/._cfg0000_foo.conf",
        "+new:x:90:",
        "1 file left in x: be config x",
    ] {
        assert!(walked.stderr.contains(words), "{words}: {}", walked.stderr);
    }
    let question = walked
        .stderr
        .lines()
        .find(|l| l.contains("[a]dd what is new"));
    assert!(!question.context("a question")?.contains("[t]ake"));
    assert_eq!(walked.stdout, "taken: /etc/foo.conf\nmerged: /etc/group\n");
    assert_eq!(
        etc(&system, "x", "group")?,
        "root:x:0:\nme:x:1000:\nnew:x:90:\n"
    );
    assert_eq!(etc(&system, "x", "foo.conf")?, "a\nb\nc\n");
    assert_eq!(etc(&system, "x", "bar.conf")?, "1\n");

    // An editor that fails changes nothing, nor does one that leaves conflicts.
    let failed = walk(&system, "x", &["m", "e", "q"], None)?.done();
    assert_eq!(
        failed
            .stderr
            .matches("false failed; nothing was changed")
            .count(),
        2
    );
    let editor = system.dir().join("editor");
    fs::write(&editor, ":\n")?;
    let left = walk(&system, "x", &["m", "n", "q"], Some(&editor))?.done();
    assert!(
        left.stderr.contains("conflicts in it still"),
        "{}",
        left.stderr
    );
    assert_eq!(etc(&system, "x", "bar.conf")?, "1\n");
    assert!(waits(&system, "x", "bar.conf"));

    fs::write(&editor, "sed -i -e '/^[<=>]\\{7\\}/d' \"$1\"\n")?;
    let merged = walk(&system, "x", &["m", "n", "m", "y"], Some(&editor))?.done();
    assert_eq!(merged.stdout, "merged: /etc/bar.conf\n");
    assert_eq!(etc(&system, "x", "bar.conf")?, "1\n3\n");
    assert!(!waits(&system, "x", "bar.conf"));
    drop(walk(&system, "x", &[], None)?.exits(77));
    Ok(())
}

#[test]
#[ignore = "needs root and loop devices"]
fn what_was_written_while_somebody_decides_is_not_replaced() -> Result<()> {
    let system = small()?;
    let target = system.env("x", "etc/foo.conf");
    let editor = system.dir().join("editor");
    let script = format!("echo later >>{}; echo edited >$1\n", target.display());
    fs::write(&editor, script)?;
    let failed = walk(&system, "x", &["s", "e", "y", "q"], Some(&editor))?;
    assert_ne!(failed.code, 0, "{failed:?}");
    let said = format!("{}{}", failed.stdout, failed.stderr);
    assert!(said.contains("was changed meanwhile"), "{said}");
    assert_eq!(etc(&system, "x", "foo.conf")?, "mine\nb\nlater\n");
    assert!(waits(&system, "x", "foo.conf"));
    Ok(())
}
