//! What `be diff` costs, as a whole process, beside `diff -rq` of the same two package
//! databases: 1,500 packages of some 30 files each, of which the second environment has
//! upgraded some. Once as Portage has always kept them, once with the file `metadata` that
//! it also writes since 3.0.82.
//!
//! `cargo run --release -p be-tests --example bench-diff [RUNS] [cold]`, as root. With
//! `cold`, the caches of the whole machine are dropped before each command.
#![expect(clippy::print_stdout, reason = "the result of a benchmark")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use be_tests::Seeded;
use be_tests::bench::{median, millis};
use be_tests::system::System;
use nix::sys::resource::{UsageWho, getrusage};
use xtask::image::Tree;
use xtask::run::cmd;

const PACKAGES: u64 = 1500;
/// One package in so many is upgraded.
const UPGRADED: u64 = 20;
const VDB: &str = "var/db/pkg";

/// How a database is kept.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Single,
    Metadata,
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let runs = match args.next() {
        Some(text) => text.parse().context("RUNS is a number")?,
        None => 20,
    };
    let cold = args.next().is_some_and(|word| word == "cold");
    for (form, title) in [
        (Form::Single, "one file a field"),
        (Form::Metadata, "with metadata"),
    ] {
        println!("{title}:");
        measure(form, runs, cold)?;
    }
    Ok(())
}

fn measure(form: Form, runs: usize, cold: bool) -> Result<()> {
    let system = System::adopted_small()?;
    fill(&system.path(VDB), form)?;
    system.sync()?;
    // What was written just before the clone is read: the time of a change has its limits.
    std::thread::sleep(Duration::from_secs(3));
    system.be.run(&["create", "new"]).done();
    let new = system.env("new", VDB);
    let upgraded = upgrade(&new, form)?;
    system.sync()?;

    let mut be = system.be.command(&["diff", "default", "new"]);
    let text = String::from_utf8(be.output()?.stdout)?;
    ensure!(
        text.contains(&format!("packages: {upgraded} upgraded")),
        "{text}"
    );
    let mut peer = cmd("diff", ["-rq"]);
    peer.arg(system.top("@").join(VDB)).arg(&new);
    // Both open the file system, which nothing was read of yet.
    let mut nothing = system.be.command(&["diff", "default", "default"]);
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    // Interleaved, so that all see the same machine; the first round warms up.
    for round in 0..=runs {
        for (list, command) in times.iter_mut().zip([&mut be, &mut peer, &mut nothing]) {
            let time = timed(command, cold)?;
            if round > 0 {
                list.push(time);
            }
        }
    }
    let [ours, theirs, least] = times.map(Medians::of);
    let ratio = |of: fn(&Medians) -> f64| of(&theirs) / of(&ours);
    println!("                          elapsed       CPU");
    for (what, time) in [
        ("be diff", &ours),
        ("be diff X X", &least),
        ("diff -rq", &theirs),
    ] {
        println!("  {what:16} {:9.2} ms {:9.2} ms", time.elapsed, time.cpu);
    }
    println!(
        "  diff -rq takes {:.1} times as long, and {:.1} times the CPU",
        ratio(|m| m.elapsed),
        ratio(|m| m.cpu)
    );
    println!(
        "  medians of {runs} runs each, {} caches, of {}",
        if cold { "cold" } else { "warm" },
        system.be.program().display()
    );
    Ok(())
}

/// Of many runs, in milliseconds.
struct Medians {
    elapsed: f64,
    cpu: f64,
}

impl Medians {
    fn of(times: Vec<(Duration, Duration)>) -> Self {
        let (elapsed, cpu): (Vec<_>, Vec<_>) = times.into_iter().unzip();
        Self {
            elapsed: millis(median(elapsed)),
            cpu: millis(median(cpu)),
        }
    }
}

fn fill(vdb: &Path, form: Form) -> Result<()> {
    let mut random = Seeded::new(7);
    for number in 0..PACKAGES {
        write_package(vdb, number, 1, form, &mut random)?;
    }
    Ok(())
}

/// Replaces some packages as Portage does: a new directory, then the old one goes.
fn upgrade(vdb: &Path, form: Form) -> Result<u64> {
    let mut random = Seeded::new(8);
    let mut count = 0;
    for number in (0..PACKAGES).step_by(UPGRADED as usize) {
        write_package(vdb, number, 2, form, &mut random)?;
        fs::remove_dir_all(vdb.join(cpv(number, 1)))?;
        count += 1;
    }
    Ok(count)
}

fn cpv(number: u64, version: u64) -> String {
    format!("cat-{:02}/package{number}-{version}.0", number % 60)
}

fn words(random: &mut Seeded, bytes: u64) -> String {
    let mut text = String::new();
    while (text.len() as u64) < bytes {
        text.push_str(&format!("word{} ", random.below(100_000)));
    }
    text
}

/// The files of one package, with the sizes that they have on a desktop system.
fn write_package(
    vdb: &Path,
    number: u64,
    version: u64,
    form: Form,
    random: &mut Seeded,
) -> Result<()> {
    let dir = vdb.join(cpv(number, version));
    fs::create_dir_all(&dir)?;
    let put = |name: &str, text: &str| fs::write(dir.join(name), format!("{text}\n"));
    let mut fields = Vec::new();
    for (name, bytes) in [
        ("BDEPEND", 150),
        ("CBUILD", 20),
        ("CFLAGS", 40),
        ("CHOST", 20),
        ("CXXFLAGS", 40),
        ("DEFINED_PHASES", 60),
        ("DEPEND", 400),
        ("DESCRIPTION", 60),
        ("FEATURES", 500),
        ("HOMEPAGE", 50),
        ("INHERITED", 200),
        ("IUSE", 300),
        ("IUSE_EFFECTIVE", 4000),
        ("KEYWORDS", 100),
        ("LDFLAGS", 40),
        ("LICENSE", 10),
        ("NEEDED", 400),
        ("NEEDED.ELF.2", 600),
        ("PROVIDES", 60),
        ("RDEPEND", 600),
        ("REPO_REVISIONS", 70),
        ("REQUIRES", 200),
        ("USE", 300),
    ] {
        fields.push((name, words(random, bytes)));
    }
    fields.extend([
        (
            "BUILD_TIME",
            (1_700_000_000 + version * 1000 + number).to_string(),
        ),
        ("CATEGORY", format!("cat-{:02}", number % 60)),
        ("COUNTER", number.to_string()),
        ("EAPI", "8".to_owned()),
        ("PF", format!("package{number}-{version}.0")),
        ("SIZE", random.below(50 << 20).to_string()),
        ("SLOT", "0".to_owned()),
        ("repository", "gentoo".to_owned()),
    ]);
    for (name, text) in &fields {
        put(name, text)?;
    }
    put("package.ebuild", &words(random, 3000))?;
    let noise: Vec<u8> = (0..15_000).map(|_| random.below(256) as u8).collect();
    fs::write(dir.join("environment.bz2"), noise)?;
    put("CONTENTS", &contents(number, random))?;
    if form == Form::Metadata {
        metadata(&dir, &fields)?;
    }
    Ok(())
}

/// Most packages have a few dozen files, a few have thousands: 27 KiB on average.
fn contents(number: u64, random: &mut Seeded) -> String {
    let bytes = match random.below(100) {
        0..50 => 3_000,
        50..80 => 15_000,
        80..95 => 60_000,
        _ => 250_000,
    };
    let mut text = String::new();
    while text.len() < bytes {
        text.push_str(&format!(
            "obj /usr/share/package{number}/directory/file{} {:016x}{:016x} 1700000000\n",
            random.below(100_000),
            random.below(u64::MAX),
            random.below(u64::MAX)
        ));
    }
    text
}

/// As `_write_metadata_file` of Portage: stamped with the time of the directory.
fn metadata(dir: &Path, fields: &[(&str, String)]) -> Result<()> {
    let mut text = String::from("#format=1\n");
    let left_out = [
        "CATEGORY",
        "CBUILD",
        "CFLAGS",
        "CXXFLAGS",
        "FEATURES",
        "INHERITED",
        "IUSE_EFFECTIVE",
        "LDFLAGS",
        "NEEDED",
        "NEEDED.ELF.2",
        "PF",
        "REPO_REVISIONS",
        "SIZE",
    ];
    for (name, value) in fields.iter().filter(|(name, _)| !left_out.contains(name)) {
        text.push_str(&format!("{name}={}\n", value.trim_end()));
    }
    let file = dir.join("metadata");
    fs::write(&file, &text)?;
    let meta = fs::metadata(dir)?;
    let stamp = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    fs::write(&file, format!("{text}#dir_mtime={stamp}\n"))?;
    Ok(())
}

/// How long a command took, and what it and its children had of the processors.
fn timed(command: &mut Command, cold: bool) -> Result<(Duration, Duration)> {
    if cold {
        fs::write("/proc/sys/vm/drop_caches", "3")?;
    }
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (start, before) = (Instant::now(), cpu_of_children()?);
    let status = command.status()?;
    let time = start.elapsed();
    // diff(1) says 1 where something differs.
    ensure!(
        matches!(status.code(), Some(0 | 1)),
        "{command:?}: {status}"
    );
    Ok((time, cpu_of_children()?.saturating_sub(before)))
}

fn cpu_of_children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let duration = |time: nix::sys::time::TimeVal| {
        let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    };
    Ok(duration(usage.user_time()) + duration(usage.system_time()))
}
