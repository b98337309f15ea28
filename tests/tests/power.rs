//! The power is cut, or something is killed, at any moment of an upgrade, and it goes on: the
//! result is that of an upgrade that was not disturbed, and what was finished is not built
//! again.
//!
//! The disk is a file on a btrfs, and a cut is a clone of that file: the kernel lets no write
//! pass while it makes one, so that it holds what the disk held at that moment.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use be_tests::Seeded;
use be_tests::be::Be;
use be_tests::came::{Came, Merged};
use be_tests::system::System;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::ioctl_ficlone;
use xtask::loopdev::{Loop, Mount};
use xtask::process::holding;
use xtask::run::{cmd, run};
use xtask::temp;

const WORLD: [&str; 5] = [
    "app-misc/slow",
    "app-misc/hello",
    "app-misc/greeter",
    "app-misc/confy",
    "sys-kernel/lab-kernel",
];

/// Disks that can be cloned at any moment.
struct Disks {
    _outer: Mount,
    _device: Loop,
    dir: temp::Dir,
}

impl Disks {
    /// With one of them, called `base`: the lab after `be init`, about to upgrade [`WORLD`].
    fn new() -> Result<Self> {
        let dir = temp::dir(3 << 30)?;
        let file = dir.path().join("outer.img");
        File::create_new(&file)?.set_len(12 << 30)?;
        run(cmd("mkfs.btrfs", ["-q", "-m", "single"]).arg(&file))?;
        let device = Loop::attach(&file)?;
        for name in ["outer", "root", "top"] {
            fs::create_dir(dir.path().join(name))?;
        }
        let outer = Mount::new(device.node(), &dir.path().join("outer"), "btrfs", "")?;
        let this = Self {
            _outer: outer,
            _device: device,
            dir,
        };
        let system = System::adopted_lab()?;
        system.set_world(&WORLD)?;
        system.set_slow(2)?;
        run(cmd("sync", ["-f"]).arg(system.dir().join("top")))?;
        let from = system.dir().join("disk.img");
        run(cmd("cp", ["--sparse=always"])
            .arg(from)
            .arg(this.file("base")))?;
        Ok(this)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("outer").join(name)
    }

    fn clone(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (
            File::open(self.file(from))?,
            File::create_new(self.file(to))?,
        );
        ioctl_ficlone(to, from).context("clone a disk")
    }

    fn remove(&self, name: &str) -> Result<()> {
        fs::remove_file(self.file(name)).with_context(|| format!("remove {name}"))
    }

    /// Put a disk into a machine.
    fn open(&self, name: &str) -> Result<Machine> {
        let device = Loop::attach(&self.file(name))?;
        let (root, top) = (self.dir.path().join("root"), self.dir.path().join("top"));
        // What is not on disk after a second is lost.
        let root = Mount::new(device.node(), &root, "btrfs", "subvol=@,commit=1")?;
        let top = Mount::new(device.node(), &top, "btrfs", "subvolid=5")?;
        Ok(Machine {
            be: Be::at(root.path())?,
            top,
            _root: root,
            device,
        })
    }
}

/// A system on a disk. There is one at a time: they all have the same UUID.
struct Machine {
    be: Be,
    top: Mount,
    _root: Mount,
    device: Loop,
}

impl Machine {
    fn new_root(&self) -> PathBuf {
        self.top.path().join("@be/new/root")
    }

    /// As the kernel does when memory runs out.
    fn kill_emerge(&self) -> Result<()> {
        let devices = [self.device.device(), self.device.node()].map(Path::to_owned);
        let all = holding(self.top.path(), &devices)?;
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
    fn phase(&self) -> Option<String> {
        let file = self.top.path().join("@be/new/be.json");
        let record: serde_json::Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        record["upgrade"]["phase"].as_str().map(str::to_owned)
    }

    /// What the machine finds when it is on again.
    fn is_another_boot(&self) -> Result<()> {
        let file = self.top.path().join("@be/new/be.json");
        if !file.exists() {
            return Ok(());
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let text = fs::read_to_string(&file)?.replace(boot.trim(), "before the power was cut");
        fs::write(file, text).context("write the record")
    }

    /// Go on, from whatever was left.
    fn go_on(&self) -> Result<&'static str> {
        let list = self.be.run(&["list", "--json"]).done().json();
        let all = list["environments"].as_array().context("a list")?;
        let found = all.iter().find(|e| e["name"] == "new");
        let (args, was) = match found.and_then(|e| e["state"].as_str()) {
            None => (vec!["upgrade", "new"], "nothing"),
            Some("failed") => (vec!["upgrade", "--continue", "new"], "cut off"),
            Some("ready") => (vec!["activate", "new"], "ready"),
            Some(other) => bail!("new is {other}"),
        };
        self.be.run(&args).done();
        Ok(was)
    }

    /// Go on, and compare with an upgrade that was not disturbed.
    fn go_on_to(&self, undisturbed: &Came) -> Result<&'static str> {
        let done = Merged::of(&self.new_root()).done;
        let in_chores = self.phase().is_some_and(|phase| phase == "chores");
        let was = self.go_on()?;
        let came = Came::of(&self.new_root())?;
        came.is_as(undisturbed)?;
        // A chore that was cut off is done again as a whole.
        let built = came.built_no_more(&done, undisturbed, usize::from(in_chores));
        built.with_context(|| self.be.run(&["log", "new"]).stdout)?;
        Ok(was)
    }
}

/// The upgrade that nobody disturbs, on a disk of its own; and how long it takes.
fn undisturbed(disks: &Disks) -> Result<(Came, Duration)> {
    disks.clone("base", "undisturbed")?;
    let machine = disks.open("undisturbed")?;
    let start = Instant::now();
    machine.be.run(&["upgrade", "new"]).done();
    let took = start.elapsed();
    let came = Came::of(&machine.new_root())?;
    drop(machine);
    disks.remove("undisturbed")?;
    Ok((came, took))
}

/// Cut the power so many times in one upgrade.
fn cut(times: u32) -> Result<()> {
    let disks = Disks::new()?;
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
        machine.is_another_boot()?;
        let was = machine.go_on_to(&undisturbed).context(name.clone())?;
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
    let disks = Disks::new()?;
    let (undisturbed, _) = undisturbed(&disks)?;
    let mut seeded = Seeded::new(5);
    for (i, emerge) in [false, true].into_iter().enumerate() {
        let name = format!("killed{i}");
        disks.clone("base", &name)?;
        let machine = disks.open(&name)?;
        let mut upgrade = machine.be.start(&["upgrade", "new"])?;
        let log = "var/tmp/portage/app-misc/slow-2/temp/build.log";
        let log = machine.new_root().join(log);
        let builds = || fs::read_to_string(&log).is_ok_and(|text| text.contains("compiling"));
        upgrade.until("a build", || builds().then_some(()))?;
        sleep(Duration::from_millis(seeded.below(2500)));
        match emerge {
            true => machine.kill_emerge()?,
            false => upgrade.signal(Signal::SIGKILL)?,
        }
        let code = upgrade.end()?.code;
        ensure!(code != 0, "it was over before it was killed");
        let was = machine.go_on_to(&undisturbed).context(name.clone())?;
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
