//! Gates: what an upgrade broke that worked before keeps it from being activated.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::Result;
use be_tests::be::Outcome;
use be_tests::system::{NOTHING, System};
use serde_json::Value;
use xtask::image::Tree;
use xtask::run::{cmd, run};

const REPOSITORY: &str = "/var/db/repos/gentoo/app-misc/subject";

/// A system on which version 1 of a package is installed and version 2 is to be had, each
/// with this `src_install`.
fn subject(before: &str, after: &str, files: &[(&str, Vec<u8>)]) -> Result<System> {
    let system = System::adopted_lab()?;
    system.write(
        "/etc/be/be.toml",
        "[upgrade]\npolite = false\nsync = false\n",
    )?;
    let ebuild = |version: u8, install: &str| {
        let text = format!(
            "EAPI=8\nDESCRIPTION=\"What is upgraded\"\nHOMEPAGE=\"https://localhost/\"\n\
             S=\"${{WORKDIR}}\"\nLICENSE=\"MIT\"\nSLOT=\"0\"\nKEYWORDS=\"amd64\"\n\
             RESTRICT=\"strip\"\nsrc_install() {{\n{install}\n}}\n"
        );
        system.write(&format!("{REPOSITORY}/subject-{version}.ebuild"), text)
    };
    for (name, content) in files {
        system.write(&format!("{REPOSITORY}/files/{name}"), content)?;
    }
    ebuild(1, before)?;
    let emerge = ["emerge", "--ask=n", "--quiet-build=y", "--oneshot"];
    system
        .chroot()
        .run(&[&emerge[..], &["app-misc/subject"]].concat())?;
    ebuild(2, after)?;
    system.set_world(&["app-misc/subject"])?;
    Ok(system)
}

/// Upgrades to `new`, which does not pass one gate; nothing else is touched.
fn fails(system: &System, gate: &str, words: &[&str]) -> Result<Outcome> {
    let (running, host) = (system.running()?, system.host()?);
    let failed = system.be.run(&["upgrade", "new"]).exits(8).says(words);
    let failed = failed.says(&[
        &format!("does not pass the gate {gate}"),
        "not touched",
        "be log new",
        "be shell new",
        "be upgrade --continue new",
        "be destroy new",
    ]);
    assert_eq!(system.record("new")?["state"], "failed");
    assert_eq!(verdict(system, gate)?, "failed");
    assert_eq!(system.sound_menu()?, "default");
    assert!(!system.menu()?.contains("be-new"));
    let refused = system.unchanged_by(3, &["activate", "new"])?;
    assert!(refused.error().contains("new is failed"));
    assert_eq!(running.diff(&system.running()?), NOTHING);
    assert_eq!(system.host_changes(&host)?, NOTHING);
    let log = system.be.run(&["log", "new"]).done().stdout;
    assert!(log.contains(&format!("gate {gate}: failed")), "{log}");
    Ok(failed)
}

/// Goes on, and all is well.
fn continues(system: &System, gate: &str, expected: &str) -> Result<()> {
    system.be.run(&["upgrade", "--continue", "new"]).done();
    assert_eq!(system.record("new")?["state"], "ready");
    assert_eq!(verdict(system, gate)?, expected);
    assert_eq!(system.sound_menu()?, "new");
    Ok(())
}

fn verdict(system: &System, gate: &str) -> Result<Value> {
    let record = system.record("new")?;
    let gates = record["upgrade"]["gates"].as_array().cloned();
    let gates = gates.unwrap_or_default();
    let found = gates.iter().find(|g| g["name"] == gate);
    Ok(found.map_or(Value::Null, |g| g["verdict"].clone()))
}

fn executable(path: &Path) -> Result<()> {
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o755),
    )?)
}

/// A library, and a program that needs it.
fn library_and_program(options: &[&str]) -> Result<(Vec<u8>, Vec<u8>)> {
    let dir = tempfile::tempdir()?;
    let (library, program) = (dir.path().join("libsubject.so.1"), dir.path().join("uses"));
    let source = dir.path().join("main.c");
    let empty = dir.path().join("empty.c");
    fs::write(&empty, "")?;
    fs::write(&source, "int main(void) { return 0; }\n")?;
    let shared = ["-shared", "-nostdlib", "-Wl,-soname,libsubject.so.1", "-o"];
    run(cmd("cc", shared).args([&library, &empty]))?;
    run(cmd("cc", ["-Wl,--no-as-needed"])
        .args(options)
        .arg("-o")
        .args([&program, &source, &library]))?;
    Ok((fs::read(library)?, fs::read(program)?))
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_library_that_somebody_still_needs() -> Result<()> {
    let (library, program) = library_and_program(&[])?;
    let install = "insinto /usr/lib\ndoins \"${FILESDIR}\"/libsubject.so.1";
    let files = [("libsubject.so.1", library.clone())];
    let system = subject(install, "keepdir /usr/share/subject", &files)?;
    // No package owns who needs it.
    let uses = "/usr/local/bin/uses";
    system.write(uses, program)?;
    executable(&system.path(uses))?;
    system.chroot().run(&[uses])?;

    let failed = fails(&system, "linking", &[uses, "needs libsubject.so.1"])?;
    drop(failed.says(&["be upgrade --continue new --no-gate linking"]));
    // It is true.
    drop(system.be.run(&["exec", "new", "--", uses]).exits(127));
    // Going on alone mends nothing.
    let again = system.be.run(&["upgrade", "--continue", "new"]).exits(8);
    drop(again.says(&[uses]));
    fs::write(system.env("new", "usr/lib/libsubject.so.1"), library)?;
    continues(&system, "linking", "passed")?;
    system.be.run(&["exec", "new", "--", uses]).done();
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_directory_of_libraries_that_is_elsewhere() -> Result<()> {
    let (library, program) = library_and_program(&["-Wl,-rpath,/opt/subject/lib"])?;
    let system = System::adopted_lab()?;
    system.set_world(&["app-misc/hello"])?;
    system.write("/opt/subject/lib/libsubject.so.1", library)?;
    let uses = "/usr/local/bin/uses";
    system.write(uses, program)?;
    executable(&system.path(uses))?;
    system.chroot().run(&[uses])?;
    hook(&system, "test -e /opt/moved || mv /opt/subject /opt/moved")?;
    drop(fails(&system, "linking", &[uses, "needs libsubject.so.1"])?);
    symlink("moved", system.env("new", "opt/subject"))?;
    continues(&system, "linking", "passed")
}

#[test]
#[ignore = "needs root, loop devices, the lab and QEMU"]
fn one_that_does_not_come_up() -> Result<()> {
    let system = System::adopted_lab()?;
    system.set_world(&["app-misc/hello"])?;
    let settings = "[upgrade]\npolite = false\n[gates]\nboot-test = true\n\
                    [test]\ntimeout_seconds = 60\n";
    system.write("/etc/be/be.toml", settings)?;
    // The lab's init runs it; the service that judges a boot is not for such an init.
    hook(
        &system,
        "test -e /etc/lab.start || { printf '#!/bin/sh\\necho c >/proc/sysrq-trigger\\n' \
         >/etc/lab.start && chmod +x /etc/lab.start; }",
    )?;
    drop(fails(
        &system,
        "boot-test",
        &["its kernel panicked: sysrq"],
    )?);
    let start = system.env("new", "etc/lab.start");
    fs::write(start, "#!/bin/sh\necho 'lab login: ' >/dev/ttyS0\n")?;
    continues(&system, "boot-test", "passed")
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_service_that_vanishes() -> Result<()> {
    let (unit, script) = (
        "usr/lib/systemd/system/subject.service",
        "etc/init.d/subject",
    );
    let install = format!("dodir /{unit} /{script}\nrmdir \"${{D}}\"/{unit} \"${{D}}\"/{script}\n")
        + &format!("touch \"${{D}}\"/{unit} \"${{D}}\"/{script}\n");
    let system = subject(&install, "keepdir /usr/share/subject", &[])?;
    let wants = "etc/systemd/system/multi-user.target.wants/subject.service";
    let level = "etc/runlevels/default/subject";
    for (link, to) in [(wants, unit), (level, script)] {
        let link = system.path(link);
        fs::create_dir_all(link.parent().expect("it has one"))?;
        symlink(Path::new("/").join(to), link)?;
    }
    let words = [
        "subject.service is enabled by /etc/systemd",
        "and is not there any more",
    ];
    let failed = fails(&system, "services", &words)?;
    drop(failed.says(&["subject is enabled by /etc/runlevels"]));
    // One is disabled, for the other there is a script again.
    fs::remove_file(system.env("new", wants))?;
    let mended = system.env("new", script);
    fs::create_dir_all(mended.parent().expect("it has one"))?;
    fs::write(mended, "")?;
    continues(&system, "services", "passed")
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn modules_of_python_that_cannot_be_imported() -> Result<()> {
    let site = "/usr/lib/python3/dist-packages";
    let module = |name: &str, text: &str| {
        format!("insinto {site}\nnewins - subject_{name}.py <<<'{text}'\n")
    };
    // One never worked, one is the same, one crashes and one has to have another module.
    let before = module("broken", "raise OSError")
        + &module("same", "import none_such")
        + &module("crash", "")
        + &module("lacks", "");
    let after = module("broken", "raise OSError(1)")
        + &module("same", "import none_such")
        + &module("crash", "import os; os.abort()")
        + &module("lacks", "import none_such")
        + &module("quits", "import os; os._exit(3)")
        + &module("good", "print(1)");
    let system = subject(&before, &after, &[])?;
    let words = [
        "cannot import subject_lacks: ModuleNotFoundError",
        "none_such",
    ];
    let failed = fails(&system, "python", &words)?;
    let failed = failed.says(&["cannot import subject_crash: SIGABRT", "(exit 3)"]);
    for well in ["subject_broken", "subject_good", "subject_same"] {
        assert!(!failed.stderr.contains(well), "{}", failed.stderr);
    }
    for name in ["lacks", "crash", "quits"] {
        let path = format!("{}/subject_{name}.py", site.trim_start_matches('/'));
        fs::write(system.env("new", &path), "")?;
    }
    continues(&system, "python", "passed")
}

/// As far as the gate looks at it: it takes no configuration that has a bad word.
const SSHD: &str = "#!/bin/sh\n[ \"$*\" = -t ] || exit 9\n\
    ! grep -n Bad /etc/ssh/sshd_config >&2\n";

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn an_ssh_server_that_would_not_start() -> Result<()> {
    let program = "exeinto /usr/sbin\ndoexe \"${FILESDIR}\"/sshd\n";
    let config =
        |text: &str| format!("{program}insinto /etc/ssh\nnewins - sshd_config <<<'{text}'\n");
    let files = [("sshd", SSHD.as_bytes().to_vec())];
    let system = subject(&config("Port 22"), &config("BadWord yes"), &files)?;
    system.write("/etc/ssh/ssh_host_ed25519_key", "a key")?;
    system.write("/etc/init.d/sshd", "")?;
    // Installed is not yet enabled.
    system.be.run(&["upgrade", "--no-activate", "new"]).done();
    assert_eq!(verdict(&system, "sshd")?, "skipped");
    system.be.run(&["destroy", "-y", "new"]).done();

    let level = system.path("etc/runlevels/default");
    fs::create_dir_all(&level)?;
    symlink("/etc/init.d/sshd", level.join("sshd"))?;
    drop(fails(&system, "sshd", &["sshd -t: 1:BadWord yes"])?);
    fs::write(system.env("new", "etc/ssh/sshd_config"), "Port 22\n")?;
    continues(&system, "sshd", "passed")?;

    // What did not work before does not count.
    system
        .be
        .run(&["destroy", "-y", "new"])
        .exits(3)
        .says(&["new"]);
    system.be.run(&["activate", "default"]).done();
    system.be.run(&["destroy", "-y", "new"]).done();
    system.write("/etc/ssh/sshd_config", "BadWord yes\n")?;
    system.be.run(&["upgrade", "new"]).done();
    assert_eq!(verdict(&system, "sshd")?, "skipped");
    Ok(())
}

fn hook(system: &System, script: &str) -> Result<()> {
    let path = "/etc/be/upgrade.d/after-chores/x";
    system.write(path, format!("#!/bin/sh\n{script}\n"))?;
    executable(&system.path(path))
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_package_that_is_there_in_part() -> Result<()> {
    let system = System::adopted_lab()?;
    system.set_world(&["app-misc/hello"])?;
    let left = "/var/db/pkg/app-misc/-MERGING-other-1";
    hook(&system, &format!("test -e /root/mended || mkdir {left}"))?;
    let words = ["the merge of app-misc/other-1 was cut off"];
    drop(fails(&system, "packages", &words)?);
    fs::remove_dir(system.env("new", left.trim_start_matches('/')))?;
    fs::write(system.env("new", "root/mended"), "")?;
    continues(&system, "packages", "passed")
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_system_that_would_not_boot() -> Result<()> {
    let system = System::adopted_lab()?;
    system.set_world(&["app-misc/hello"])?;
    hook(
        &system,
        "test -e /root/mended || mv /sbin/init /sbin/init.away",
    )?;
    let failed = fails(&system, "bootable", &["init"])?;
    // No switch for that.
    assert!(!failed.stderr.contains("--no-gate"), "{}", failed.stderr);
    let usage = ["upgrade", "--continue", "new", "--no-gate", "bootable"];
    drop(system.be.run(&usage).exits(2));
    fs::write(system.env("new", "root/mended"), "")?;
    fs::rename(
        system.env("new", "usr/sbin/init.away"),
        system.env("new", "usr/sbin/init"),
    )?;
    continues(&system, "bootable", "passed")
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn gates_are_passed_or_switched_off() -> Result<()> {
    let (library, program) = library_and_program(&[])?;
    let install = "insinto /usr/lib\ndoins \"${FILESDIR}\"/libsubject.so.1\n\
        insinto /usr/lib/python3/dist-packages\nnewins - subject.py <<<''\n";
    let after = "insinto /usr/lib/python3/dist-packages\nnewins - subject.py <<<'import none'\n";
    let files = [("libsubject.so.1", library)];
    let system = subject(install, after, &files)?;
    let uses = "/usr/local/bin/uses";
    system.write(uses, program)?;
    executable(&system.path(uses))?;

    let failed = system.be.run(&["upgrade", "new"]).exits(8);
    drop(failed.says(&[
        "does not pass the gates linking",
        "python3",
        "--no-gate linking --no-gate python",
    ]));
    let go_on = ["upgrade", "--continue", "new"];
    let failed = system
        .be
        .run(&[&go_on[..], &["--no-gate", "linking"]].concat())
        .exits(8);
    drop(failed.says(&["does not pass the gate python"]));
    // The other one is remembered.
    system
        .be
        .run(&[&go_on[..], &["--no-gate", "python"]].concat())
        .done();
    for gate in ["linking", "python"] {
        assert_eq!(verdict(&system, gate)?, "off");
    }
    assert_eq!(system.sound_menu()?, "new");

    let config = "[upgrade]\npolite = false\n[gates]\nlinking = false\n";
    system.write("/etc/be/be.toml", config)?;
    let failed = system.be.run(&["upgrade", "--again", "second"]).exits(8);
    drop(failed.says(&["does not pass the gate python"]));
    let again = ["--json", "upgrade", "--again"];
    let third = [&again[..], &["third", "--no-gate", "python"]].concat();
    let told = system.be.run(&third).done().json();
    let verdicts = |told: &Value| {
        let gates = told["gates"].as_array().cloned().unwrap_or_default();
        let one = |g: &Value| format!("{} {}", g["name"], g["verdict"]).replace('"', "");
        gates.iter().map(one).collect::<Vec<_>>()
    };
    let rest = ["services passed", "sshd skipped"];
    let off = [
        "bootable passed",
        "packages passed",
        "linking off",
        "python off",
    ];
    assert_eq!(verdicts(&told), [&off[..], &rest].concat());
    system.write("/etc/be/be.toml", "[gates]\nbootable = false\n")?;
    drop(
        system
            .be
            .run(&["status"])
            .exits(3)
            .says(&["be.toml", "bootable"]),
    );

    // An upgrade as it should be.
    system.write("/etc/be/be.toml", "[upgrade]\npolite = false\n")?;
    system.set_world(&[
        "app-misc/hello",
        "app-misc/greeter",
        "sys-kernel/lab-kernel",
    ])?;
    let told = system
        .be
        .run(&["--json", "upgrade", "fourth"])
        .done()
        .json();
    let well = [
        "bootable passed",
        "packages passed",
        "linking passed",
        "python skipped",
    ];
    assert_eq!(verdicts(&told), [&well[..], &rest].concat());
    let log = system.be.run(&["log", "fourth"]).done().stdout;
    assert!(log.contains("gate linking: passed: "), "{log}");
    Ok(())
}
