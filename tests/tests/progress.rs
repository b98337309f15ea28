//! An upgrade that is watched from elsewhere.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use be_tests::be::Running;
use be_tests::system::System;
use serde_json::Value;
use xtask::image::Tree;
use xtask::run::{cmd, run};

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn its_log_is_followed_to_the_end() -> Result<()> {
    let system = System::adopted_lab()?;
    system.set_world(&["app-misc/slow"])?;
    system.set_slow(5)?;
    let mut upgrade = system.be.start(&["upgrade", "new"])?;
    upgrade.until("a build", || system.builds_slow("new").then_some(()))?;
    let mut follow = system.be.start(&["log", "-f", "new"])?;
    upgrade.end()?.done();
    let followed = follow.end()?.done().stdout;
    let all = system.be.run(&["log", "new"]).done().stdout;
    // emerge writes for a terminal, which only the whole log is freed from.
    for words in ["--sync", "app-misc/slow-2", "gate bootable: passed"] {
        ensure!(all.contains(words), "{all}");
        ensure!(followed.contains(words), "{words}: {followed}");
    }
    let report = "boots next";
    ensure!(followed.matches(report).count() == 1, "{followed}");
    // Where nobody works it ends at once.
    system.be.run(&["log", "-f", "new"]).done();
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_pipe_that_nobody_reads_stops_nothing() -> Result<()> {
    let system = System::adopted_lab()?;
    system.set_world(&["app-misc/hello"])?;
    let pipe = system.dir().join("pipe");
    run(cmd("mkfifo", [""; 0]).arg(&pipe))?;
    // 64 KiB are what a pipe holds, pipe(7).
    let script = "exec 3<>$0; dd if=/dev/zero bs=4096 count=16 status=none >&3; exec \"$@\"";
    let be = system.be.command(&["--progress-fd", "3", "upgrade", "new"]);
    let mut full = cmd("sh", ["-c", script]);
    full.arg(&pipe).arg(be.get_program()).args(be.get_args());
    full.stdin(Stdio::null());
    Running::of(&mut full)?.end()?.done();

    // Who reads gets objects, a line each.
    let script = "exec 3>$0; exec \"$@\"";
    let file = system.dir().join("lines");
    let be = system
        .be
        .command(&["--progress-fd", "3", "upgrade", "--again", "second"]);
    let mut read = cmd("sh", ["-c", script]);
    read.arg(&file).arg(be.get_program()).args(be.get_args());
    Running::of(&mut read)?.end()?.done();
    let lines = std::fs::read_to_string(file)?;
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect::<Result<_>>()?;
    ensure!(
        lines
            .iter()
            .all(|line| line["schema"] == "be/v1" && line["lost"].is_null())
    );
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).count();
    ensure!(of("phase") >= 5 && of("merge") >= 1, "{lines:?}");
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn everybody_sees_the_same() -> Result<()> {
    let system = System::adopted_lab()?;
    system.set_world(&["app-misc/slow"])?;
    system.set_slow(1)?;
    let slow = "pre_src_configure() { sleep 6; }\n";
    system.append("/etc/portage/bashrc", slow)?;
    // As a person has it: on a terminal.
    let be = system.be.command(&["upgrade", "new"]);
    let words: Vec<_> = [be.get_program()]
        .into_iter()
        .chain(be.get_args())
        .collect();
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let mut terminal = cmd("script", ["-qec", &words.join(" "), "/dev/null"]);
    terminal.env("TERM", "xterm").stdin(Stdio::null());
    let mut upgrade = Running::of(&mut terminal)?;

    let pending = upgrade.until("a phase of a build", || {
        let status = system.be.run(&["status", "--json"]).json();
        let pending = status["pending"].as_array()?.first()?.clone();
        (pending["merging"]["jobs"][0]["phase"] == "configure").then_some(pending)
    })?;
    let job = &pending["merging"]["jobs"][0];
    ensure!(job["package"] == "app-misc/slow-2", "{pending}");
    ensure!(
        job["number"] == 1 && pending["merging"]["total"] == 1,
        "{pending}"
    );
    let mut follow = on_a_terminal(&system, &["log", "-f", "new"])?;
    let text = system.be.run(&["status"]).done().stdout;
    let line = "1 of 1, app-misc/slow-2 configure 0:00:0";
    ensure!(text.contains(line), "{text}");
    let shown = upgrade.end()?.done().stdout;
    for words in [
        "app-misc/slow-2  configure  0:00:0",
        "0 of 1",
        "be: new: merging (0:00:",
        "new boots next",
        "1 change in new:",
    ] {
        ensure!(shown.contains(words), "{words}: {shown}");
    }
    let followed = follow.end()?.done().stdout;
    for words in [
        "app-misc/slow-2  configure  0:00:0",
        "gate bootable: passed",
    ] {
        ensure!(followed.contains(words), "{words}: {followed}");
    }
    // It is over, and nobody shows it any more.
    let status = system.be.run(&["status", "--json"]).done().json();
    ensure!(status["pending"][0]["merging"].is_null(), "{status}");
    Ok(())
}

/// As a person has it.
fn on_a_terminal(system: &System, args: &[&str]) -> Result<Running> {
    let be = system.be.command(args);
    let words = [be.get_program()].into_iter().chain(be.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    let mut terminal = cmd("script", ["-qec", &words.join(" "), "/dev/null"]);
    Running::of(terminal.env("TERM", "xterm").stdin(Stdio::null()))
}
