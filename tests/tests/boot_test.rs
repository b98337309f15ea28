//! `be test`: an environment boots in a virtual machine while its disk goes on being used.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use be_tests::be::Outcome;
use be_tests::system::{GONE, NOTHING, System};
use nix::sys::signal::Signal;
use xtask::image::{Layout, Tree};
use xtask::lab::inits::Init;

/// A system with this init, with `be` in it and an environment `new`.
fn system(init: Option<Init>) -> Result<System> {
    laid_out(Layout::AtSubvol, init)
}

fn laid_out(layout: Layout, init: Option<Init>) -> Result<System> {
    let system = System::lab(layout)?;
    if let Some(init) = init {
        init.install(system.root())?;
    }
    system.put_binary(system.be.program())?;
    system.be.run(&["init"]).done();
    system.be.run(&["create", "new"]).done();
    Ok(system)
}

/// The emulator, on a busy host, now and then makes a mistake that is told as such.
fn test(system: &System, args: &[&str]) -> Outcome {
    let args = [&["test", "new", "--json"], args].concat();
    let first = system.be.run(&args);
    match first.code {
        1 if first.stdout.contains("\"unknown\"") => system.be.run(&args),
        _ => first,
    }
}

/// A program in the environment.
fn write_program(path: &Path, text: &str) -> Result<()> {
    let _may_be_a_link = fs::remove_file(path);
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Processes of QEMU that `be` of this system has started.
fn emulators(system: &System) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.starts_with("qemu-system") && line.contains(system.uuid()) {
            found.push(line);
        }
    }
    Ok(found)
}

/// Nothing of a test is left: no process, no snapshot.
fn nothing_left(system: &System) -> Result<()> {
    let start = Instant::now();
    while !emulators(system)?.is_empty() && start.elapsed() < GONE {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(emulators(system)?, NOTHING);
    let paths = system.subvolume_paths()?;
    let held = paths.iter().filter(|path| path.contains(".work"));
    assert_eq!(held.collect::<Vec<_>>(), Vec::<&String>::new());
    Ok(())
}

/// Writes to the running system, with a commit each time, until it is told to stop.
fn goes_on(system: &System, stop: &AtomicBool) -> Result<()> {
    for round in 0u32.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        for number in 0..20 {
            let path = system.path(&format!("/var/tmp/busy.{}", (round + number) % 30));
            fs::write(path, vec![round as u8; 30_000])?;
        }
        system.sync()?;
        std::thread::sleep(Duration::from_millis(300));
    }
    Ok(())
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_well_one_passes_while_the_disk_is_written() -> Result<()> {
    let system = system(Some(Init::Systemd))?;
    let unknown = system.be.run(&["test", "none"]).exits(3);
    ensure!(unknown.error().contains("none"));
    let (host, before) = (system.host()?, system.subvolumes()?);
    let content = xtask::fingerprint::Fingerprint::of(&system.env("new", ""), &[])?;
    let stop = AtomicBool::new(false);
    let passed = std::thread::scope(|scope| {
        let writer = scope.spawn(|| goes_on(&system, &stop));
        let passed = test(&system, &[]);
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("the writer panicked")?;
        Ok::<_, anyhow::Error>(passed)
    })?;
    let passed = passed.done().json();
    xtask::say(&format!("{passed}"));
    assert_eq!(passed["verdict"], "passed");
    assert_eq!(passed["why"], "its health checks pass");
    nothing_left(&system)?;
    assert_eq!(system.subvolumes()?, before);
    let now = xtask::fingerprint::Fingerprint::of(&system.env("new", ""), &[])?;
    assert_eq!(content.diff(&now), NOTHING);
    assert_eq!(system.host_changes(&host)?, NOTHING);
    let log = fs::read_to_string(system.top("@be/new/log/test.log"))?;
    ensure!(log.contains("be-test ") && log.contains(" pass"), "{log}");
    // Nothing of it was confirmed, or counted.
    assert_eq!(system.record("new")?["state"], "ready");
    Ok(())
}

#[test]
#[ignore = "needs root and QEMU"]
fn one_whose_init_ends_fails_and_says_with_what() -> Result<()> {
    let system = system(None)?;
    let init = system.env("new", "usr/sbin/init");
    write_program(&init, "#!/bin/sh\necho this init is broken\nexit 1\n")?;
    let failed = test(&system, &[]).exits(8).json();
    xtask::say(&format!("{failed}"));
    assert_eq!(failed["verdict"], "failed");
    let why = failed["why"].as_str().unwrap_or_default();
    ensure!(why.contains("Attempted to kill init"), "{failed}");
    let last = failed["last"].to_string();
    ensure!(last.contains("this init is broken"), "{failed}");
    nothing_left(&system)?;

    // Who is asked to stop leaves nothing either, and who is killed what the next takes away.
    write_program(&init, "#!/bin/sh\nexec sleep 1000\n")?;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let mut running = system.be.start(&["test", "new"])?;
        let start = Instant::now();
        while emulators(&system)?.is_empty() {
            ensure!(
                start.elapsed() < Duration::from_secs(60),
                "it does not boot"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        running.signal(signal)?;
        let _ended = running.end()?;
        if signal == Signal::SIGKILL {
            let held = system.subvolume_paths()?;
            ensure!(held.iter().any(|p| p.contains(".work/held")), "{held:?}");
            system
                .be
                .run(&["describe", "new", "x"])
                .done()
                .says(&["a test that was killed"]);
        }
        nothing_left(&system)?;
    }
    // No service is in it that would say that it has come up: silence proves nothing.
    let late = system.be.run(&["test", "new", "--timeout", "1"]).exits(1);
    ensure!(late.stdout.contains("within 1 s"), "{}", late.stdout);
    ensure!(late.stdout.contains("--trial new"), "{}", late.stdout);
    Ok(())
}

/// Each takes a virtual machine a minute.
mod thorough {
    use super::*;

    fn passes(layout: Layout, init: Init) -> Result<()> {
        let system = laid_out(layout, Some(init))?;
        let passed = test(&system, &[]).done().json();
        assert_eq!(passed["verdict"], "passed", "{passed}");
        nothing_left(&system)
    }

    #[test]
    #[ignore = "needs root and QEMU"]
    fn one_with_openrc_in_the_top_level() -> Result<()> {
        passes(Layout::TopLevel, Init::OpenRc)
    }

    #[test]
    #[ignore = "needs root and QEMU"]
    fn one_whose_boot_was_an_ext4() -> Result<()> {
        passes(Layout::BootExt4, Init::Systemd)
    }

    #[test]
    #[ignore = "needs root and QEMU"]
    fn one_of_many_subvolumes() -> Result<()> {
        passes(Layout::AtMany, Init::Systemd)
    }
}
