//! Package moves in an upgrade with the real Portage: old names in other repositories than the
//! main one are taken for the new ones, and the repositories stay as they are.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use be_tests::system::{GONE, NOTHING, System};
use nix::sys::signal::Signal;
use xtask::fingerprint::Fingerprint;
use xtask::image::{Layout, Tree};
use xtask::run::{cmd, run};

const GENTOO: &str = "/var/db/repos/gentoo";
/// Without a metadata cache, with Manifests that know the ebuilds, and under git.
const OVERLAY: &str = "/var/db/repos/overlay";
/// With a metadata cache that is out of date in part; it builds upon the other one.
const SECOND: &str = "/srv/second";

/// `slotmove` of what has become `toolkit` comes after its move.
const UPDATES: &str = "move dev-libs/oldlib dev-libs/newlib\n\
    move dev-libs/tool dev-libs/toolkit\n\
    slotmove dev-libs/toolkit 0 2\n\
    slotmove dev-libs/slotted 0 3\n\
    slotmove =dev-libs/multi-2* 0 2\n\
    move dev-libs/kept dev-libs/newlib\n\
    move dev-libs/oldself dev-libs/newself\n";

/// A package of the overlay, what its ebuild says besides, and the dependencies that are
/// recorded for it.
const CASES: [(&str, &str, &str); 9] = [
    ("plain", "RDEPEND=\"dev-libs/oldlib\"", "dev-libs/newlib"),
    (
        "bound",
        "RDEPEND=\">=dev-libs/oldlib-1:0=\"",
        ">=dev-libs/newlib-1:0/0=",
    ),
    (
        "either",
        "RDEPEND=\"|| ( dev-libs/oldlib dev-libs/never )\"",
        "|| ( dev-libs/newlib dev-libs/never )",
    ),
    (
        "slot",
        "RDEPEND=\"dev-libs/slotted:0\"",
        "dev-libs/slotted:3",
    ),
    ("chain", "RDEPEND=\"dev-libs/tool:0\"", "dev-libs/toolkit:2"),
    ("byeclass", "inherit olddeps", "dev-libs/newlib"),
    // What is right, or would not be any better.
    (
        "multi",
        "RDEPEND=\">=dev-libs/multi-1:0\"",
        ">=dev-libs/multi-1:0",
    ),
    ("back", "RDEPEND=\"dev-libs/kept\"", "dev-libs/kept"),
    (
        "asks",
        "BDEPEND=\"dev-libs/oldlib\"\nsrc_prepare() {\n\
         default\n\
         has_version '>=dev-libs/oldlib-1:0' || die 'it is not there'\n\
         has_version -b dev-libs/oldlib || die 'it is not there, either'\n\
         has_version '>=dev-libs/oldlib-2' && die 'it is not that new'\n\
         [[ $(best_version dev-libs/oldlib) == dev-libs/newlib-1 ]] || die 'another one'\n}",
        "",
    ),
];

fn ebuild(system: &System, repository: &str, cpv: (&str, &str), text: &str) -> Result<()> {
    let (name, version) = cpv;
    let package = name.rsplit('/').next().unwrap_or_default();
    let slot = if text.contains("SLOT=") {
        ""
    } else {
        "SLOT=0\n"
    };
    system.write(
        &format!("{repository}/{name}/{package}-{version}.ebuild"),
        format!(
            "EAPI=8\nDESCRIPTION=\"It has not noticed\"\n{slot}LICENSE=MIT\nKEYWORDS=amd64\n\
             S=\"${{WORKDIR}}\"\n{text}\nsrc_install() {{ :; }}\n"
        ),
    )
}

fn repository(system: &System, name: &str, location: &str, layout: &str) -> Result<()> {
    system.write(
        &format!("{location}/profiles/repo_name"),
        format!("{name}\n"),
    )?;
    system.write(&format!("{location}/metadata/layout.conf"), layout)?;
    system.write(
        &format!("/etc/portage/repos.conf/{name}.conf"),
        format!("[{name}]\nlocation = {location}\nauto-sync = no\n"),
    )
}

fn configure(system: &System, more: &str) -> Result<()> {
    system.write(
        "/etc/be/be.toml",
        format!("[upgrade]\npolite = false\nsync = false\n{more}"),
    )
}

/// The lab, where Gentoo has moved packages and two other repositories have not noticed.
fn moved(layout: Layout) -> Result<System> {
    let system = System::adopted_lab_with(layout)?;
    configure(&system, "")?;
    system.write(&format!("{GENTOO}/profiles/updates/1Q-2026"), UPDATES)?;
    for (cpv, text) in [
        (("dev-libs/newlib", "1"), ""),
        (("dev-libs/toolkit", "1"), "SLOT=2"),
        (("dev-libs/slotted", "1"), "SLOT=3"),
        (("dev-libs/multi", "1"), ""),
        (("dev-libs/multi", "2"), "SLOT=2"),
    ] {
        ebuild(&system, GENTOO, cpv, text)?;
    }

    repository(
        &system,
        "overlay",
        OVERLAY,
        "masters = gentoo\ncache-formats = pms\n",
    )?;
    system.write(
        &format!("{OVERLAY}/eclass/olddeps.eclass"),
        "RDEPEND=\"dev-libs/oldlib\"\n",
    )?;
    for (package, text, _) in CASES {
        ebuild(
            &system,
            OVERLAY,
            (&format!("app-misc/{package}"), "1"),
            text,
        )?;
    }
    // A name that another repository has again, and one that would come to block itself.
    ebuild(&system, OVERLAY, ("dev-libs/kept", "1"), "")?;
    let blocker = "RDEPEND=\"!dev-libs/oldself\"";
    ebuild(&system, OVERLAY, ("dev-libs/newself", "1"), blocker)?;
    let all = format!("for e in {OVERLAY}/*/*/*.ebuild; do ebuild $e manifest || exit; done");
    system.chroot().run(&["sh", "-c", &all])?;
    let overlay = system.path(OVERLAY);
    ensure!(overlay.join("app-misc/plain/Manifest").is_file());
    git(&overlay, &["init", "--quiet"])?;
    git(&overlay, &["add", "."])?;
    git(&overlay, &["commit", "--quiet", "-m", "all"])?;

    let layout = "masters = gentoo overlay\nthin-manifests = true\n";
    repository(&system, "second", SECOND, layout)?;
    let old = "RDEPEND=\"dev-libs/oldlib\"";
    ebuild(&system, SECOND, ("app-misc/cached", "1"), old)?;
    ebuild(&system, SECOND, ("app-misc/stale", "1"), "")?;
    ebuild(
        &system,
        SECOND,
        ("app-misc/inherits", "1"),
        "inherit second",
    )?;
    let eclass = format!("{SECOND}/eclass/second.eclass");
    system.write(&eclass, "")?;
    system
        .chroot()
        .run(&["egencache", "--update", "--repo", "second"])?;
    ebuild(&system, SECOND, ("app-misc/stale", "1"), old)?;
    system.write(&eclass, old)?;
    Ok(system)
}

fn git(dir: &Path, args: &[&str]) -> Result<String> {
    let config = [
        "safe.directory=*",
        "user.name=x",
        "user.email=x@example.org",
    ];
    let mut command = cmd("git", ["-C"]);
    command.arg(dir);
    for value in config {
        command.args(["-c", value]);
    }
    run(command.args(args))
}

fn log_of(system: &System, name: &str) -> Result<String> {
    let path = system.top(&format!("@be/{name}/log/upgrade.log"));
    Ok(fs::read_to_string(path)?)
}

fn recorded(system: &System, name: &str, package: &str) -> Result<String> {
    let dir = system.env(name, &format!("var/db/pkg/{package}-1"));
    ensure!(dir.is_dir(), "{package} is not installed");
    let text = fs::read_to_string(dir.join("RDEPEND")).unwrap_or_default();
    Ok(text.trim().to_owned())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn old_names_in_other_repositories_are_taken_for_the_new_ones() -> Result<()> {
    let system = moved(Layout::AtSubvol)?;
    let upgrade = |name: &str| {
        let names = CASES.map(|case| case.0);
        let names = names.into_iter().chain(["cached", "stale", "inherits"]);
        let packages = names.map(|name| format!("app-misc/{name}"));
        let own = ["upgrade", name, "--", "dev-libs/newself"].map(str::to_owned);
        let args: Vec<String> = own.into_iter().chain(packages).collect();
        system.be.run(&args)
    };
    let repositories = [OVERLAY, SECOND].map(|path| Fingerprint::of(&system.path(path), &[]));

    configure(&system, "moves = false\n")?;
    drop(upgrade("without").exits(6));
    let log = log_of(&system, "without")?;
    ensure!(
        log.contains("no ebuilds to satisfy \"dev-libs/oldlib\""),
        "{log}"
    );
    system.be.run(&["destroy", "-F", "without"]).done();

    configure(&system, "")?;
    // What an upgrade that fails has is gone, and is there again when it goes on.
    let hook = "/etc/be/upgrade.d/after-fetch/fails";
    system.write(hook, "#!/bin/sh\ntest -e /root/mended\n")?;
    fs::set_permissions(system.path(hook), fs::Permissions::from_mode(0o755))?;
    let running = system.running()?;
    drop(upgrade("new").exits(6));
    ensure!(!system.env("new", ".be-moves").exists());
    fs::write(system.env("new", "root/mended"), "")?;
    let done = system.be.run(&["upgrade", "--continue", "new"]).done();
    drop(done.says(&[
        "::overlay",
        "dev-libs/oldlib -> dev-libs/newlib",
        "::second",
    ]));
    for (package, _, expected) in CASES.iter().filter(|c| c.0 != "asks") {
        let found = recorded(&system, "new", &format!("app-misc/{package}"))?;
        ensure!(found == *expected, "{package}: {found}");
    }
    for package in ["cached", "stale", "inherits"] {
        let found = recorded(&system, "new", &format!("app-misc/{package}"))?;
        ensure!(found == "dev-libs/newlib", "{package}: {found}");
    }
    recorded(&system, "new", "app-misc/asks")?;
    let found = recorded(&system, "new", "dev-libs/newself")?;
    ensure!(found == "!dev-libs/oldself", "{found}");

    // Nothing of it is left, and the repositories are what they were.
    ensure!(!system.env("new", ".be-moves").exists());
    ensure!(!system.env("new", "etc/portage/bashrc").exists());
    for (path, before) in [OVERLAY, SECOND].iter().zip(repositories) {
        let after = Fingerprint::of(&system.env("new", path), &[])?;
        assert_eq!(before?.diff(&after), NOTHING);
    }
    let status = git(&system.env("new", OVERLAY), &["status", "--porcelain"])?;
    ensure!(status.is_empty(), "{status}");
    let environment = "var/db/pkg/app-misc/asks-1/environment.bz2";
    let saved = run(&mut cmd("bzcat", [system.env("new", environment)]))?;
    ensure!(!saved.contains("be_moved") && !saved.contains("has_version ()"));
    let report = system.be.run(&["log", "new"]).done().stdout;
    ensure!(
        report.contains("dev-libs/slotted:0 -> dev-libs/slotted:3"),
        "{report}"
    );
    let report = system.be.run(&["--json", "log", "new"]).done().json();
    let moves = &report["report"]["moves"];
    ensure!(moves[0]["repository"] == "overlay", "{report}");
    assert_eq!(running.diff(&system.running()?), NOTHING);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_portage_that_does_not_honour_it_goes_on_as_it_always_does() -> Result<()> {
    let system = moved(Layout::AtSubvol)?;
    ebuild(&system, SECOND, ("app-misc/fine", "1"), "")?;
    system.set_world(&["app-misc/fine"])?;
    let portage = "/usr/lib/python3/dist-packages/portage/dbapi/porttree.py";
    let text = system.read(portage)?;
    let ignoring = text.replace("self._pregen_auxdb.get(repo_path)", "None");
    ensure!(text != ignoring);
    system.write(portage, &ignoring)?;
    let done = system.be.run(&["upgrade", "new"]).done();
    drop(done.says(&["does not take dependencies from the metadata cache"]));
    recorded(&system, "new", "app-misc/fine")?;
    ensure!(!system.env("new", ".be-moves").exists());

    // Where nothing was moved, nothing is asked.
    system.write(portage, &text)?;
    fs::remove_dir_all(system.path(&format!("{GENTOO}/profiles/updates")))?;
    system.be.run(&["upgrade", "--again", "quiet"]).done();
    let log = log_of(&system, "quiet")?;
    ensure!(
        !log.contains("portageq") && !log.contains("egencache"),
        "{log}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn the_settings_have_the_new_names_in_the_clone() -> Result<()> {
    let system = moved(Layout::AtSubvol)?;
    ebuild(&system, SECOND, ("app-misc/fine", "1"), "")?;
    system.set_world(&["app-misc/fine"])?;
    let files = [
        (
            "package.use/mine",
            "# mine\ndev-libs/oldlib::gentoo x\n-dev-libs/kept y # z\napp-misc/hello v",
            "# mine\ndev-libs/newlib::gentoo x\n-dev-libs/kept y # z\napp-misc/hello v",
        ),
        (
            "package.accept_keywords",
            ">=dev-libs/tool-0:0 ~amd64\n",
            ">=dev-libs/toolkit-0:2 ~amd64\n",
        ),
        (
            "package.accept_restrict",
            "dev-libs/oldlib -fetch\n",
            "dev-libs/newlib -fetch\n",
        ),
        (
            "profile/package.provided",
            "dev-libs/oldself-1.5\n",
            "dev-libs/newself-1.5\n",
        ),
        ("sets/mine", "dev-libs/oldlib\n", "dev-libs/newlib\n"),
    ];
    let names = [
        (
            "patches/dev-libs/oldlib-1/a.patch",
            "patches/dev-libs/newlib-1/a.patch",
        ),
        ("env/dev-libs/oldlib", "env/dev-libs/newlib"),
    ];
    for (path, old, _) in files {
        system.write(&format!("/etc/portage/{path}"), old)?;
    }
    for (old, _) in names {
        system.write(&format!("/etc/portage/{old}"), "")?;
    }
    let running = system.running()?;
    let done = system.be.run(&["upgrade", "new"]).done();
    drop(done.says(&[
        "/etc/portage/sets/mine",
        "dev-libs/oldlib -> dev-libs/newlib",
    ]));
    let settings = system.env("new", "etc/portage");
    for (path, _, new) in files {
        assert_eq!(fs::read_to_string(settings.join(path))?, new, "{path}");
    }
    for (old, new) in names {
        ensure!(
            !settings.join(old).exists() && settings.join(new).is_file(),
            "{old}"
        );
    }
    let report = system.be.run(&["--json", "log", "new"]).done().json();
    let moves = report["report"]["moves"].as_array().map(Vec::len);
    let named: Vec<_> = (0..moves.unwrap_or_default())
        .filter_map(|n| report["report"]["moves"][n]["file"].as_str())
        .collect();
    assert_eq!(named.len(), files.len() + names.len(), "{report}");
    ensure!(
        named.contains(&"/etc/portage/patches/dev-libs/oldlib-1"),
        "{report}"
    );
    assert_eq!(running.diff(&system.running()?), NOTHING);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn repositories_may_be_in_subvolumes_of_their_own_and_behind_links() -> Result<()> {
    let system = moved(Layout::Suse)?;
    // A bashrc of the owner's, and a place that is reached by a link.
    fs::rename(system.path(SECOND), system.path("/srv/elsewhere"))?;
    symlink("elsewhere", system.path(SECOND))?;
    let own = "[[ ${EBUILD_PHASE} == prepare ]] && elog 'mine was read'\n";
    system.write("/etc/portage/bashrc.real", own)?;
    symlink("bashrc.real", system.path("/etc/portage/bashrc"))?;
    let running = system.running()?;
    let packages = ["app-misc/asks", "app-misc/chain", "app-misc/cached"];
    let upgrade = ["upgrade", "new", "--"];
    let args = upgrade.into_iter().chain(packages);
    system.be.run(&args.collect::<Vec<_>>()).done();
    for (package, expected) in [
        ("chain", "dev-libs/toolkit:2"),
        ("cached", "dev-libs/newlib"),
    ] {
        let file = format!("/var/db/pkg/app-misc/{package}-1/RDEPEND");
        let found = system.be.run(&["exec", "new", "--", "cat", &file]).done();
        ensure!(
            found.stdout.trim() == expected,
            "{package}: {}",
            found.stdout
        );
    }
    let report = system.be.run(&["log", "new"]).done().stdout;
    ensure!(report.contains("mine was read"), "{report}");
    let bashrc = ["exec", "new", "--", "cat", "/etc/portage/bashrc"];
    ensure!(system.be.run(&bashrc).done().stdout == own);
    assert_eq!(running.diff(&system.running()?), NOTHING);
    Ok(())
}

mod thorough {
    use super::*;

    /// The packages that are kept.
    fn built(system: &System) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut left = vec![system.top("@be/.built")];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(dir)? {
                let path = entry?.path();
                match path.is_dir() {
                    true => left.push(path),
                    false if path.extension().is_some_and(|e| e == "tar") => found.push(path),
                    false => {}
                }
            }
        }
        Ok(found)
    }

    #[test]
    #[ignore = "needs root, loop devices and the lab"]
    fn what_was_built_is_kept_when_it_goes_on_after_a_kill() -> Result<()> {
        let system = moved(Layout::AtSubvol)?;
        let waits = "DEPEND=\"app-misc/plain\"\nsrc_compile() { sleep 8; }";
        ebuild(&system, SECOND, ("app-misc/last", "1"), waits)?;
        let mut upgrade = system
            .be
            .start(&["upgrade", "new", "--", "app-misc/last"])?;
        let begun = system.env("new", "var/tmp/portage/app-misc/last-1/temp/build.log");
        upgrade.until("the last one", || begun.exists().then_some(()))?;
        upgrade.signal(Signal::SIGKILL)?;
        upgrade.end()?;
        system.quiet_within(GONE)?;
        // It stood in for one that is not there.
        let bashrc = system.env("new", "etc/portage/bashrc");
        assert_eq!(fs::read_to_string(&bashrc)?, "");
        let before = built(&system)?;
        ensure!(!before.is_empty(), "nothing was kept");

        system.be.run(&["upgrade", "--continue", "new"]).done();
        ensure!(!bashrc.exists());
        let gone: Vec<_> = before.iter().filter(|path| !path.exists()).collect();
        ensure!(gone.is_empty(), "{gone:?}");
        Ok(())
    }
}
