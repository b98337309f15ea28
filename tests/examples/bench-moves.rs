//! What it costs to put new names into the metadata cache of an overlay: 15,000 entries, with
//! all the moves of Gentoo; once where some entries have old names, once where none has, and
//! once where no update has an effect.
//!
//! `cargo run --release -p be-tests --example bench-moves [RUNS]`, as any user.
#![expect(clippy::print_stdout, reason = "the result of a benchmark")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use be_portage::moves::cache::rewritten;
use be_portage::moves::map::Moves;
use be_portage::moves::packages::Stock;
use be_portage::moves::repository::Repository;
use be_portage::moves::updates::{Command, Update, Updates};
use be_tests::Seeded;
use be_tests::bench::{median, millis};
use nix::sys::resource::{UsageWho, getrusage};

const ENTRIES: u64 = 15_000;
/// Atoms in an entry, on average; as in Gentoo's overlays.
const ATOMS: u64 = 15;
/// One entry in so many has an old name.
const STALE: u64 = 50;
const MD5: &str = "d41d8cd98f00b204e9800998ecf8427e";

fn main() -> Result<()> {
    let runs = match std::env::args().nth(1) {
        Some(text) => text.parse().context("RUNS is a number")?,
        None => 10,
    };
    let updates = gentoo()?;
    let dir = tempfile::tempdir()?;
    let [main, stale, clean] = ["main", "stale", "clean"].map(|name| dir.path().join(name));
    have_new_names(&main, &updates)?;
    fill(&stale, &updates, STALE)?;
    fill(&clean, &updates, u64::MAX)?;
    let repositories = [main, stale, clean]
        .iter()
        .map(|path| Repository::open(path))
        .collect::<Result<Vec<_>>>()?;
    let moves = Moves::new(updates);
    for (title, overlay, known, expected) in [
        (
            "some entries have old names",
            1,
            &repositories[..],
            ENTRIES / STALE,
        ),
        ("no entry has one", 2, &repositories[..], 0),
        // Nobody has what was moved.
        ("no update has an effect", 1, &repositories[1..], 0),
    ] {
        let mut times = (Vec::new(), Vec::new());
        // The first round warms up.
        for round in 0..=runs {
            let (start, before) = (Instant::now(), cpu()?);
            let stock = Stock::new(known);
            let found = rewritten(&repositories[overlay], &moves, &stock)?;
            let (elapsed, used) = (start.elapsed(), cpu()? - before);
            let count = found.entries.len() as u64;
            ensure!(count == expected, "{count} entries, {:?}", found.invalid);
            if round > 0 {
                times.0.push(elapsed);
                times.1.push(used);
            }
        }
        println!(
            "{title:28} {:9.2} ms elapsed {:9.2} ms CPU",
            millis(median(times.0)),
            millis(median(times.1))
        );
    }
    println!("medians of {runs} runs each, {ENTRIES} entries, warm caches");
    Ok(())
}

/// The CPU time of this process.
fn cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let time = |t: nix::sys::time::TimeVal| {
        Duration::from_secs(t.tv_sec().unsigned_abs())
            + Duration::from_micros(t.tv_usec().unsigned_abs())
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}

/// All updates of Gentoo.
fn gentoo() -> Result<Vec<Update>> {
    let dir = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../crates/portage/tests/data/updates/current"
    );
    let mut updates = Updates::default();
    for file in fs::read_dir(dir)? {
        updates.parse("", &fs::read_to_string(file?.path())?);
    }
    Ok(updates.updates)
}

/// A repository with every package that was moved, under its new name.
fn have_new_names(main: &Path, updates: &[Update]) -> Result<()> {
    put(&main.join("profiles/repo_name"), "main\n")?;
    for update in updates {
        if let Command::Move { new, .. } = &update.command {
            let (_, name) = new.parts();
            let ebuild = main.join(new.as_str()).join(format!("{name}-9.ebuild"));
            put(&ebuild, "SLOT=0\n")?;
        }
    }
    Ok(())
}

/// A repository with entries of which one in `stale` has an old name.
fn fill(overlay: &Path, updates: &[Update], stale: u64) -> Result<()> {
    let mut random = Seeded::new(5);
    let name = overlay.file_name().unwrap_or_default().to_string_lossy();
    put(&overlay.join("profiles/repo_name"), &name)?;
    let old: Vec<_> = updates
        .iter()
        .filter_map(|update| match &update.command {
            Command::Move { old, .. } => Some(old.as_str()),
            Command::Slot { .. } => None,
        })
        .collect();
    for number in 0..ENTRIES {
        let cpv = format!("cat-{:02}/package{number}-1", number % 60);
        let mut atoms = atoms(&mut random);
        if number % stale == stale - 1 {
            atoms.push_str(old[usize::try_from(number)? % old.len()]);
        }
        let entry = format!(
            "BDEPEND={0}\nDEFINED_PHASES=compile\nDEPEND={1}\nDESCRIPTION=One of many\nEAPI=8\n\
             IUSE=doc test\nKEYWORDS=~amd64\nLICENSE=MIT\nRDEPEND={2}\nSLOT=0\n_eclasses_=x\t{MD5}\n\
             _md5_={MD5}\n",
            self::atoms(&mut random),
            self::atoms(&mut random),
            atoms
        );
        put(&overlay.join("metadata/md5-cache").join(cpv), &entry)?;
        let ebuild = format!(
            "cat-{0:02}/package{number}/package{number}-1.ebuild",
            number % 60
        );
        // The checksum is that of an empty file.
        put(&overlay.join(ebuild), "")?;
    }
    Ok(())
}

fn atoms(random: &mut Seeded) -> String {
    (0..random.below(2 * ATOMS / 3))
        .map(|_| {
            let number = random.below(4000);
            match random.below(4) {
                0 => format!(">=dev-cat/library{number}-1.{}.3:0= ", number % 20),
                1 => format!("flag? ( dev-python/module{number}[python_targets_python3_13(-)] ) "),
                _ => format!("sys-libs/part{number}:= "),
            }
        })
        .collect()
}

fn put(path: &Path, content: &str) -> Result<()> {
    let parent = path.parent().context("a file is in a directory")?;
    fs::create_dir_all(parent)?;
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}
