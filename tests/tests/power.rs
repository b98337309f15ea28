//! The power is cut, or something is killed, at any moment of an upgrade, and it goes on: the
//! result is that of an upgrade that was not disturbed, and what was finished is not built
//! again.

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use be_tests::Seeded;
use be_tests::came::{Came, Merged};
use be_tests::cuts::{Disks, Machine};
use be_tests::system::System;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtask::process::holding;

const WORLD: [&str; 5] = [
    "app-misc/slow",
    "app-misc/hello",
    "app-misc/greeter",
    "app-misc/confy",
    "sys-kernel/lab-kernel",
];

/// The lab after `be init`, about to upgrade [`WORLD`].
fn disks() -> Result<Disks> {
    let system = System::adopted_lab()?;
    system.set_world(&WORLD)?;
    system.set_slow(2)?;
    Disks::new(system)
}

/// As the kernel does when memory runs out.
fn kill_emerge(machine: &Machine) -> Result<()> {
    let all = holding(machine.top(), &machine.devices())?;
    let pids = all.iter().filter_map(|line| line.split(' ').next());
    // The one that merges: it is a script, and named after its interpreter.
    let is_emerge = |pid: &&str| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let has = |word: &[u8]| words.split(|b| *b == 0).any(|w| w == word);
        has(b"/usr/bin/emerge") && has(b"@world")
    };
    let pid = pids.into_iter().find(is_emerge);
    let pid = pid.with_context(|| format!("no emerge in {all:?}"))?;
    kill(Pid::from_raw(pid.parse()?), Signal::SIGKILL).context("kill emerge")
}

/// The phase that the upgrade was in.
fn phase(machine: &Machine) -> Option<String> {
    let record = machine.record().ok()?;
    record["upgrade"]["phase"].as_str().map(str::to_owned)
}

/// What the machine finds when it is on again.
fn is_another_boot(machine: &Machine) -> Result<()> {
    let file = machine.top().join("@be/new/be.json");
    if !file.exists() {
        return Ok(());
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let text = fs::read_to_string(&file)?.replace(boot.trim(), "before the power was cut");
    fs::write(file, text).context("write the record")
}

/// Go on, from whatever was left.
fn go_on(machine: &Machine) -> Result<&'static str> {
    let list = machine.be.run(&["list", "--json"]).done().json();
    let all = list["environments"].as_array().context("a list")?;
    let found = all.iter().find(|e| e["name"] == "new");
    let (args, was) = match found.and_then(|e| e["state"].as_str()) {
        None => (vec!["upgrade", "new"], "nothing"),
        Some("failed") => (vec!["upgrade", "--continue", "new"], "cut off"),
        Some("ready") => (vec!["activate", "new"], "ready"),
        Some(other) => bail!("new is {other}"),
    };
    machine.be.run(&args).done();
    Ok(was)
}

/// Go on, and compare with an upgrade that was not disturbed.
fn go_on_to(machine: &Machine, undisturbed: &Came) -> Result<&'static str> {
    let done = Merged::of(&machine.new_env("")).done;
    let in_chores = phase(machine).is_some_and(|phase| phase == "chores");
    let was = go_on(machine)?;
    let came = Came::of(&machine.new_env(""))?;
    came.is_as(undisturbed)?;
    // A chore that was cut off is done again as a whole.
    let built = came.built_no_more(&done, undisturbed, usize::from(in_chores));
    built.with_context(|| machine.be.run(&["log", "new"]).stdout)?;
    Ok(was)
}

/// The upgrade that nobody disturbs, on a disk of its own; and how long it takes.
fn undisturbed(disks: &Disks) -> Result<(Came, Duration)> {
    disks.clone("base", "undisturbed")?;
    let machine = disks.open("undisturbed")?;
    let start = Instant::now();
    machine.be.run(&["upgrade", "new"]).done();
    let took = start.elapsed();
    let came = Came::of(&machine.new_env(""))?;
    drop(machine);
    disks.remove("undisturbed")?;
    Ok((came, took))
}

/// Cut the power so many times in one upgrade.
fn cut(times: u32) -> Result<()> {
    let disks = disks()?;
    let (undisturbed, took) = undisturbed(&disks)?;
    disks.clone("base", "cut")?;
    let machine = disks.open("cut")?;
    let mut seeded = Seeded::new(20261128);
    let part = took / times;
    let start = Instant::now();
    let mut upgrade = machine.be.start(&["upgrade", "new"])?;
    for i in 0..times {
        // One somewhere in each part of the time.
        let within = u64::try_from(part.as_millis())?.max(1);
        let at = part * i + Duration::from_millis(seeded.below(within));
        sleep(at.saturating_sub(start.elapsed()));
        disks.clone("cut", &format!("cut{i}"))?;
    }
    upgrade.end()?.done();
    drop(machine);
    let mut ends = BTreeMap::new();
    for i in 0..times {
        let name = format!("cut{i}");
        let machine = disks.open(&name)?;
        is_another_boot(&machine)?;
        let was = go_on_to(&machine, &undisturbed).context(name.clone())?;
        *ends.entry(was).or_insert(0) += 1;
        drop(machine);
        disks.remove(&name)?;
    }
    xtask::say(&format!("what {times} cuts left: {ends:?}"));
    ensure!(ends.contains_key("cut off"), "{ends:?}");
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn the_power_is_cut() -> Result<()> {
    cut(4)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_is_killed_goes_on_to_the_same() -> Result<()> {
    let disks = disks()?;
    let (undisturbed, _) = undisturbed(&disks)?;
    let mut seeded = Seeded::new(5);
    for (i, emerge) in [false, true].into_iter().enumerate() {
        let name = format!("killed{i}");
        disks.clone("base", &name)?;
        let machine = disks.open(&name)?;
        let mut upgrade = machine.be.start(&["upgrade", "new"])?;
        let log = "var/tmp/portage/app-misc/slow-2/temp/build.log";
        let log = machine.new_env(log);
        let builds = || fs::read_to_string(&log).is_ok_and(|text| text.contains("compiling"));
        upgrade.until("a build", || builds().then_some(()))?;
        sleep(Duration::from_millis(seeded.below(2500)));
        match emerge {
            true => kill_emerge(&machine)?,
            false => upgrade.signal(Signal::SIGKILL)?,
        }
        let code = upgrade.end()?.code;
        ensure!(code != 0, "it was over before it was killed");
        let was = go_on_to(&machine, &undisturbed).context(name.clone())?;
        ensure!(was == "cut off", "{was}");
        drop(machine);
        disks.remove(&name)?;
    }
    Ok(())
}

mod thorough {
    use super::*;

    #[test]
    #[ignore = "needs root, loop devices and the lab"]
    fn the_power_is_cut_at_fifty_moments() -> Result<()> {
        cut(50)
    }
}
