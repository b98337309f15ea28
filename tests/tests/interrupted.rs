//! An upgrade that is cut off: by a signal, at any moment. The running system
//! stays as it is, and the next command goes on or cleans up.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use be_tests::Seeded;
use be_tests::be::Running;
use be_tests::system::{GONE, NOTHING, System};
use nix::sys::signal::Signal;
use xtask::image::Tree;
use xtask::run::cmd;

/// A system in which an upgrade builds for a few seconds.
fn slow(seconds: u32) -> Result<System> {
    let system = System::adopted_lab()?;
    system.set_world(&["app-misc/slow"])?;
    system.set_slow(seconds)?;
    Ok(system)
}

fn building(system: &System, name: &str) -> Result<Running> {
    let mut be = system.be.start(&["upgrade", name])?;
    be.until("a build", || system.builds_slow(name).then_some(()))?;
    Ok(be)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn kill_9_in_a_build_leaves_nothing_behind() -> Result<()> {
    let system = slow(4)?;
    let (running, host) = (system.running()?, system.host()?);
    let mut be = building(&system, "cut")?;
    // That nothing is found later means something only if it is found now.
    ensure!(system.processes()?.len() > 3);
    let busy = system.listed("cut").context("it is not listed")?;
    assert_eq!(busy["state"], "building");

    be.signal(Signal::SIGKILL)?;
    be.end()?;
    system.quiet_within(GONE)?;
    assert_eq!(system.host_changes(&host)?, NOTHING);
    assert_eq!(running.diff(&system.running()?), NOTHING);
    assert_eq!(system.sound_menu()?, "default");

    let failed = system.listed("cut").context("it is not listed")?;
    assert_eq!(failed["state"], "failed");
    let status = system.be.run(&["status"]).done().stdout;
    assert!(status.contains("be upgrade --continue cut"), "{status}");
    let refused = system.be.run(&["activate", "cut"]).exits(3);
    assert!(refused.error().contains("cut is failed"));

    system.be.run(&["upgrade", "--continue", "cut"]).done();
    assert!(system.env("cut", "var/db/pkg/app-misc/slow-2").exists());
    assert_eq!(system.sound_menu()?, "cut");
    assert_eq!(running.diff(&system.running()?), NOTHING);

    let next = system.be.run(&["destroy", "-y", "cut"]).exits(3);
    assert!(next.error().contains("boots next"));
    system.be.run(&["activate", "default"]).done();
    system.be.run(&["destroy", "-y", "cut"]).done();
    assert_eq!(system.subvolume_paths()?, ["@"]);
    assert_eq!(system.leftovers(), Vec::<PathBuf>::new());
    assert!(!system.top("@be/cut").exists());
    assert_eq!(running.diff(&system.running()?), NOTHING);
    assert_eq!(system.host_changes(&host)?, NOTHING);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn asked_to_stop_it_keeps_the_environment() -> Result<()> {
    let system = slow(30)?;
    let (running, host) = (system.running()?, system.host()?);
    for (name, signal) in [("term", Signal::SIGTERM), ("int", Signal::SIGINT)] {
        let mut be = building(&system, name)?;
        let start = Instant::now();
        match signal {
            // A terminal sends it to all processes of the group.
            Signal::SIGINT => be.signal_group(signal)?,
            _ => be.signal(signal)?,
        }
        let outcome = be.end()?.exits(6);
        xtask::say(&format!("{name}: {:.1} s", start.elapsed().as_secs_f32()));
        assert!(start.elapsed() < Duration::from_secs(25));
        let words = [
            "interrupted".to_owned(),
            format!("be shell {name}"),
            format!("be upgrade --continue {name}"),
            format!("be destroy {name}"),
        ];
        outcome.says(&words.each_ref().map(String::as_str));
        system.quiet_within(GONE)?;
        assert_eq!(system.host_changes(&host)?, NOTHING);
        assert_eq!(running.diff(&system.running()?), NOTHING);
        assert_eq!(system.sound_menu()?, "default");
        assert_eq!(system.record(name)?["state"], "failed");
        assert!(system.env(name, "etc/fstab").exists());
    }
    Ok(())
}

/// When to kill: after so many milliseconds, counted from the start or from the
/// phase after the merge.
#[derive(Debug, Clone, Copy)]
enum Moment {
    Start(u64),
    Phase(u64),
}

/// Ten over the whole upgrade, three around the switch at its end.
fn moments() -> Vec<Moment> {
    let mut seeded = Seeded::new(20261120);
    let mut all: Vec<Moment> = (0..10)
        .map(|i| Moment::Start(i * 800 + seeded.below(800)))
        .collect();
    all.extend([0, 10, 25].map(Moment::Phase));
    all
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn killed_at_any_moment_the_system_boots() -> Result<()> {
    let system = System::adopted_lab()?;
    let (running, host) = (system.running()?, system.host()?);
    let mut ends = Vec::new();
    for (i, moment) in moments().into_iter().enumerate() {
        let name = format!("k{i}");
        let mut be = system.be.start(&["upgrade", &name])?;
        wait_for(&system, &name, moment, &mut be)?;
        if !be.has_ended()? {
            be.signal(Signal::SIGKILL)?;
        }
        be.end()?;
        system.quiet_within(GONE)?;

        let context = || format!("killed at {moment:?}");
        assert_eq!(running.diff(&system.running()?), NOTHING, "{moment:?}");
        assert_eq!(system.host_changes(&host)?, NOTHING, "{moment:?}");
        let default = system.sound_menu().with_context(context)?;
        ends.push(after(&system, &name, &default).with_context(context)?);
    }
    xtask::say(&format!("killed upgrades: {ends:?}"));
    assert!(ends.contains(&"failed"), "{ends:?}");
    assert_eq!(system.subvolume_paths()?, ["@"]);
    assert_eq!(running.diff(&system.running()?), NOTHING);
    Ok(())
}

fn wait_for(system: &System, name: &str, moment: Moment, be: &mut Running) -> Result<()> {
    let millis = match moment {
        Moment::Start(millis) | Moment::Phase(millis) => millis,
    };
    if matches!(moment, Moment::Phase(_)) {
        // The phase lasts for a few milliseconds: no sleep here.
        let phase = || Some(system.record(name).ok()?["upgrade"]["phase"].clone());
        while phase().is_none_or(|phase| phase != "check") && !be.has_ended()? {}
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(millis) && !be.has_ended()? {
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// What the killed upgrade left, and that the next `be` can deal with it. Ends
/// with nothing left of it.
fn after(system: &System, name: &str, default: &str) -> Result<&'static str> {
    let listed = system.listed(name);
    let state = listed.as_ref().map(|e| e["state"].clone());
    let end = match state.as_ref().and_then(|s| s.as_str()) {
        None => "nothing",
        Some("failed") => "failed",
        Some("ready") => "ready",
        other => anyhow::bail!("{name} is {other:?}"),
    };
    // The menu and the record tell of one and the same moment.
    ensure!(
        default == "default" || (default == name && end == "ready"),
        "{default} boots next and {name} is {end}"
    );
    if end == "ready" {
        system.be.run(&["activate", name]).done();
        ensure!(system.sound_menu()? == name);
        system.be.run(&["activate", "default"]).done();
    }
    if end == "nothing" {
        // Any command that changes something sweeps up.
        system.be.run(&["menu"]).done();
    } else {
        system.be.run(&["destroy", "-y", name]).done();
    }
    ensure!(system.leftovers().is_empty(), "{:?}", system.leftovers());
    ensure!(system.sound_menu()? == "default");
    ensure!(system.subvolume_paths()? == ["@"]);
    Ok(end)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn killed_while_cloning_or_deleting_the_store_stays_whole() -> Result<()> {
    let system = System::adopted_small()?;
    let running = system.running()?;
    let mut seeded = Seeded::new(7);
    for i in 0..40 {
        let verb = if i % 2 == 0 { "create" } else { "destroy" };
        if verb == "destroy" && system.listed("x").is_none() {
            system.be.run(&["create", "x"]).done();
        }
        let args: &[&str] = match verb {
            "create" => &["create", "x"],
            _ => &["destroy", "-y", "x"],
        };
        let mut be = system.be.start(args)?;
        std::thread::sleep(Duration::from_micros(seeded.below(60_000)));
        if !be.has_ended()? {
            be.signal(Signal::SIGKILL)?;
        }
        be.end()?;
        let context = || format!("{verb} number {i}");
        ensure!(system.sound_menu().with_context(context)? == "default");
        // It sweeps up, and the menu is right again.
        system.be.run(&["menu"]).done();
        ensure!(system.leftovers().is_empty(), "{}", context());
        let list = system.listed("x");
        let entries = system.menu()?.matches("--id 'be-x'").count();
        ensure!(entries == usize::from(list.is_some()), "{}", context());
        ensure!(
            system.subvolume_paths()?.len() == if list.is_some() { 3 } else { 1 },
            "{}: {:?}",
            context(),
            system.subvolume_paths()?
        );
        if verb == "create" && list.is_some() {
            system.be.run(&["destroy", "-y", "x"]).done();
        }
    }
    assert_eq!(running.diff(&system.running()?), NOTHING);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn killed_while_activating_the_menu_is_old_or_new() -> Result<()> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "x"]).done();
    let running = system.running()?;
    let mut seeded = Seeded::new(11);
    let mut seen = Vec::new();
    for i in 0..30 {
        let mut be = system.be.start(&["activate", ["x", "default"][i % 2]])?;
        std::thread::sleep(Duration::from_micros(seeded.below(25_000)));
        if !be.has_ended()? {
            be.signal(Signal::SIGKILL)?;
        }
        be.end()?;
        let default = system.sound_menu()?;
        let status = system.be.run(&["status", "--json"]).done().json();
        ensure!(status["next"] == default.as_str(), "{status}");
        seen.push(default);
    }
    ensure!(seen.iter().all(|name| name == "x" || name == "default"));
    assert_eq!(running.diff(&system.running()?), NOTHING);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn killed_in_init_the_next_one_completes() -> Result<()> {
    let mut seeded = Seeded::new(13);
    let mut cut = 0;
    for _ in 0..12 {
        let system = System::small()?;
        let mut be = system.be.start(&["init"])?;
        std::thread::sleep(Duration::from_micros(seeded.below(40_000)));
        if !be.has_ended()? {
            be.signal(Signal::SIGKILL)?;
            cut += 1;
        }
        be.end()?;
        let config = system.path("/boot/grub/grub.cfg");
        let check = || xtask::run::run(cmd("grub-script-check", [&config]).env("LC_ALL", "C"));
        check()?;
        let again = system.be.run(&["init"]);
        ensure!([0, 77].contains(&again.code), "{}", again.stderr);
        check()?;
        let block = be_grub::hook::block(system.uuid());
        ensure!(std::fs::read_to_string(&config)?.matches(&block).count() == 1);
        ensure!(system.sound_menu()? == "default");
        ensure!(system.leftovers().is_empty(), "{:?}", system.leftovers());
        system.be.run(&["create", "x"]).done();
    }
    ensure!(cut > 0, "all were faster");
    Ok(())
}
