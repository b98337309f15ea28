//! A builder that is killed.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use be_tests::Seeded;
use be_tests::binhost::{DIR, builder, files, newest, sound};
use be_tests::system::{GONE, NOTHING, System};
use nix::sys::signal::Signal;
use xtask::image::Tree;

use super::finished;

/// When to kill: so many milliseconds after the start, or after the first package is public.
#[derive(Debug, Clone, Copy)]
enum Moment {
    Start(u64),
    Public(u64),
}

/// Kill a build in this moment, and run it again. The directory is sound whenever it is looked at.
fn killed(farm: &System, moment: Moment) -> Result<bool> {
    let dir = farm.path(DIR);
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    let mut be = farm.be.start(&["build", "run"])?;
    let millis = match moment {
        Moment::Start(millis) => millis,
        Moment::Public(millis) => {
            while !dir.join("app-misc").exists() && !be.has_ended()? {}
            millis
        }
    };
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(millis) && !be.has_ended()? {
        std::thread::sleep(Duration::from_millis(2));
    }
    let cut = !be.has_ended()?;
    if cut {
        be.signal(Signal::SIGKILL)?;
    }
    be.end()?;
    farm.quiet_within(GONE)?;
    let found = sound(farm, DIR)?;
    ensure!(found.is_empty() || found.len() == 2, "{found:?}");
    let before = finished(farm);
    let again = farm.be.run(&["build", "run"]);
    ensure!([0, 77].contains(&again.code), "{}", again.stderr);
    ensure!(sound(farm, DIR)?.len() == 2, "not all is published");
    let after = finished(farm);
    ensure!(
        before.iter().all(|f| after.contains(f)),
        "{before:?} became {after:?}"
    );
    ensure!(farm.subvolume_paths()? == ["@"], "a builder is left");
    ensure!(farm.leftovers().is_empty(), "{:?}", farm.leftovers());
    // Nothing is published beside what the index names, and what it is built with.
    let files = files(farm, DIR)?;
    let lock = files.iter().any(|file| file.ends_with("be-lock.json"));
    ensure!(lock && files.len() == 4, "{files:?}");
    Ok(cut)
}

fn farm_to_kill() -> Result<System> {
    let farm = builder(&["app-misc/confy", "app-misc/hello"], "sync = false\n")?;
    newest(&farm)?;
    Ok(farm)
}

/// Kill builds in these moments; gives how many had not ended before.
fn killed_at(farm: &System, moments: &[Moment]) -> Result<usize> {
    let (running, host) = (farm.sound_menu()?, farm.host()?);
    let mut cut = 0;
    for moment in moments {
        cut += usize::from(killed(farm, *moment).with_context(|| format!("{moment:?}"))?);
    }
    xtask::say(&format!("{cut} of {} builds were killed", moments.len()));
    ensure!(cut > 0, "none was killed");
    assert_eq!(farm.sound_menu()?, running);
    assert_eq!(farm.host_changes(&host)?, NOTHING);
    Ok(cut)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn killed_it_keeps_what_is_finished_and_publishes_nothing_by_halves() -> Result<()> {
    let mut seeded = Seeded::new(20261130);
    let moments = [
        Moment::Start(seeded.below(3000)),
        Moment::Start(4000 + seeded.below(4000)),
        Moment::Public(0),
        Moment::Public(seeded.below(20)),
    ];
    killed_at(&farm_to_kill()?, &moments).map(drop)
}

mod thorough {
    use super::*;

    #[test]
    #[ignore = "needs root, loop devices and the lab"]
    fn killed_at_twenty_moments() -> Result<()> {
        let mut seeded = Seeded::new(20261201);
        let farm = farm_to_kill()?;
        let start = Instant::now();
        farm.be.run(&["build", "run"]).done();
        let part = u64::try_from(start.elapsed().as_millis())? / 17;
        let start = (0..17).map(|i| Moment::Start(i * part + seeded.below(part)));
        let mut moments: Vec<Moment> = start.collect();
        moments.extend([0, 0, 1, 1, 2].map(Moment::Public));
        let mut cut = killed_at(&farm, &moments)?;
        // The last ones may have found it done: others in the first half.
        while cut < 20 {
            cut += killed_at(&farm, &[Moment::Start(seeded.below(8 * part))])?;
        }
        Ok(())
    }
}
