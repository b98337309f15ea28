//! Programs in an environment: by `be exec`, in namespaces of their own.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use be_tests::system::{GONE, NOTHING, System};
use nix::sys::signal::Signal;

fn with_x() -> Result<System> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "x"]).done();
    Ok(system)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn its_exit_code_is_ours() -> Result<()> {
    let system = with_x()?;
    let (running, host) = (system.running()?, system.host()?);
    for (code, script) in [
        (0, "true"),
        (42, "exit 42"),
        (127, "exec /no/such/program"),
        (128 + 9, "kill -9 $$"),
        (128 + 15, "kill -15 $$"),
    ] {
        let exec = ["exec", "x", "--", "sh", "-c", script];
        let _same = system.be.run(&exec).exits(code);
    }
    let missing = system.be.run(&["exec", "x", "--", "/no/such"]).exits(127);
    ensure!(missing.stderr.contains("/no/such"), "{}", missing.stderr);
    assert_eq!(running.diff(&system.running()?), NOTHING);
    assert_eq!(system.host_changes(&host)?, NOTHING);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn it_sees_the_environment_and_nothing_of_the_host() -> Result<()> {
    let system = with_x()?;
    let running = system.running()?;
    let exec = |script: &str| {
        let args = ["exec", "x", "--", "sh", "-c", script];
        system.be.run(&args).done().stdout
    };
    exec("touch /etc/made && test -w /dev/null && test -d /dev/shm && test -d /run/lock");
    ensure!(system.env("x", "etc/made").exists());
    assert_eq!(running.diff(&system.running()?), NOTHING);

    assert_eq!(exec("echo $BE_ENVIRONMENT"), "x\n");
    let mounts = exec("cat /proc/self/mountinfo");
    let dir = system.dir().display().to_string();
    ensure!(!mounts.contains(&dir), "{mounts}");
    let points: Vec<&str> = mounts.lines().filter_map(|l| l.split(' ').nth(4)).collect();
    for point in &points {
        let known = ["/", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/run"];
        ensure!(known.contains(point), "{point}: {mounts}");
    }
    // Only the processes of this namespace.
    let pids = exec("cd /proc && echo [0-9]*");
    ensure!(pids.split_whitespace().count() <= 3, "{pids}");
    ensure!(pids.starts_with("1 "), "{pids}");
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn nothing_of_it_outlives_it() -> Result<()> {
    let system = with_x()?;
    let host = system.host()?;
    let daemon = ["exec", "x", "--", "sh", "-c", "sleep 600 & sleep 0.2"];
    system.be.run(&daemon).done();
    system.quiet_within(GONE)?;
    assert_eq!(system.host_changes(&host)?, NOTHING);

    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let script = "echo $$ >/started; exec sleep 600";
        let mut be = system.be.start(&["exec", "x", "--", "sh", "-c", script])?;
        let started = system.env("x", "started");
        be.until("the program", || started.exists().then_some(()))?;
        ensure!(!system.processes()?.is_empty());
        be.signal(signal)?;
        be.end()?;
        system.quiet_within(GONE)?;
        assert_eq!(system.host_changes(&host)?, NOTHING, "{signal}");
        fs::remove_file(&started)?;
    }
    // Nothing is in the way of its end.
    std::thread::sleep(Duration::from_millis(50));
    system.be.run(&["destroy", "-y", "x"]).done();
    assert_eq!(system.subvolume_paths()?, ["@"]);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_command_may_be_as_long_as_linux_takes_it() -> Result<()> {
    let system = with_x()?;
    // One argument alone may be 128 KiB at most, with its end.
    let long = "x".repeat((128 << 10) - 1);
    let count = r#"for a; do echo ${#a}; done"#;
    let exec = ["exec", "x", "--", "sh", "-c", count, "sh"];
    let said = system.be.run(&[&exec[..], &[&*long; 3]].concat()).done();
    assert_eq!(said.stdout, format!("{}\n", long.len()).repeat(3));
    Ok(())
}
