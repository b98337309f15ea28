//! What a machine did to its disk, and the disk as it was at any moment.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use be_tests::vm::{LONG, Machine, SHORT};
use xtask::image::{Layout, Tree};
use xtask::run::{cmd, run};
use xtask::vm::{BOOT_TIME, Firmware, Options, Vm};
use xtask::writes::{Kind, Log, Replay, SECTOR};

/// In the guest.
const UNSYNCED: &str = "/usr/local/sbin/unsynced.py";

/// GRUB's name of the btrfs.
pub(super) const BTRFS: &str = "loop0,gpt3";

/// The guest writes its marks so many sectors before the end of the disk, where nothing is.
const MARKS_FROM_END: u64 = 1024;

/// A kind of machine. The environment block is on the file system beside the btrfs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site {
    layout: Layout,
    firmware: Firmware,
    /// The number of the partition beside the btrfs.
    pub(super) number: u64,
    /// GRUB's name of it.
    pub(super) beside: &'static str,
}

impl Site {
    pub(super) const EXT4: Self = Self {
        layout: Layout::BootExt4,
        firmware: Firmware::Bios,
        number: 4,
        beside: "loop0,gpt4",
    };
    pub(super) const ESP: Self = Self {
        layout: Layout::AtSubvol,
        firmware: Firmware::Uefi,
        number: 2,
        beside: "loop0,gpt2",
    };

    /// GRUB's own configuration: the file system, and the path on it.
    pub(super) fn grub_cfg(self) -> (&'static str, String) {
        let device = match self.layout.boot_apart() {
            true => self.beside,
            false => BTRFS,
        };
        (device, self.layout.grub_home() + "/grub.cfg")
    }
}

/// A command, and which environment boots before it and after it.
pub(super) struct Act {
    pub(super) command: String,
    pub(super) old: &'static str,
    pub(super) new: &'static str,
}

impl Act {
    pub(super) fn new(command: &str, old: &'static str, new: &'static str) -> Self {
        let command = command.to_owned();
        Self { command, old, new }
    }

    pub(super) fn without(
        calls: &str,
        command: &str,
        old: &'static str,
        new: &'static str,
    ) -> Self {
        Self::new(&format!("python3 {UNSYNCED} {calls} {command}"), old, new)
    }
}

/// What a machine did to its disk.
pub(super) struct Recorded {
    machine: Machine,
    site: Site,
    /// The sector of the marks.
    pub(super) mark: u64,
}

impl Recorded {
    /// `prepare` is done before the acts.
    pub(super) fn new(site: Site, prepare: &str, acts: &[Act]) -> Result<Self> {
        let mut machine = Machine::new(site.layout, site.firmware, |mount, _| {
            mount.write(UNSYNCED, include_str!("../unsynced.py"))?;
            // The switch is the rename of the menu, but where a trial is asked for.
            mount.write("/etc/be/be.toml", "[trial]\nenabled = false\n")
        })?;
        let start = Instant::now();
        let disk = machine.disk.path();
        let mark = disk.metadata()?.len() / SECTOR - MARKS_FROM_END;
        copy(&disk, &machine.disk.dir().join("before.img"))?;
        let options = Options {
            log: Some(machine.disk.dir().join("writes.log")),
            ..Options::default()
        };
        machine.on_with(&options)?;
        machine.boots()?;
        machine.sh(prepare)?;
        for (number, act) in acts.iter().enumerate() {
            let put = |what, flushed| {
                format!(
                    "printf '%-{SECTOR}s' '{}' | dd of=/dev/vda bs={SECTOR} seek={mark} \
                     iflag=fullblock oflag=direct conv=notrunc{flushed} status=none",
                    text(number, what)
                )
            };
            // What the machine writes on its own, later than this test takes, would now and
            // then hide that nobody else did.
            let quiet =
                "echo 60000 >/proc/sys/vm/dirty_expire_centisecs; mount -o remount,commit=600 /";
            let before = if act.command.starts_with("be ") {
                "true"
            } else {
                quiet
            };
            let (start, done, end) = (put("start", ""), put("done", ""), put("end", ",fsync"));
            let command = &act.command;
            machine.vm().check(
                &format!("{before} && sync && {start} && {command} && {done} && sync && {end}"),
                LONG,
            )?;
        }
        machine.cut()?;
        xtask::say(&format!("recorded: {:.0?}", start.elapsed()));
        Ok(Self {
            machine,
            site,
            mark,
        })
    }

    /// A machine on the disk as it was when so many requests were done.
    pub(super) fn at(&self, log: &Log, count: usize) -> Result<Vm> {
        let image = self.copy(&format!("{count}.img"))?;
        Replay::new(log, &image)?.to(count)?;
        Vm::boot(&image, self.site.firmware, &Options::default())
    }

    /// That an image boots this root, of which `be` has no doubts, and that it can go on.
    pub(super) fn boots(&self, log: &Log, count: usize, root: &str, name: &str) -> Result<()> {
        let mut vm = self.at(log, count)?;
        let mut boot = || -> Result<()> {
            let booted = vm.wait_boot(BOOT_TIME)?.root;
            ensure!(booted == root, "{booted} boots, not {root}");
            vm.check(&format!("be check {name} && be menu"), SHORT)
                .map(drop)
        };
        boot().with_context(|| format!("{name} at request {count}"))?;
        vm.kill()
    }

    pub(super) fn log(&self) -> PathBuf {
        self.machine.disk.dir().join("writes.log")
    }

    /// A copy of the disk as it was when the log began.
    pub(super) fn copy(&self, name: &str) -> Result<PathBuf> {
        let dir = self.machine.disk.dir();
        let path = dir.join(name);
        copy(&dir.join("before.img"), &path)?;
        Ok(path)
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    run(cmd("cp", ["--sparse=always", "--reflink=auto"]).args([from, to])).map(drop)
}

fn text(number: usize, what: &str) -> String {
    format!("be-test {number} {what}")
}

/// The requests of one act, by their numbers in the log.
pub(super) struct Part {
    pub(super) all: Range<usize>,
    /// From here on it has been told that it is done.
    pub(super) done: usize,
}

impl Part {
    pub(super) fn find(log: &Log, mark: u64, number: usize) -> Result<Self> {
        let at = |what: &str| -> Result<usize> {
            let wanted = text(number, what);
            for (index, entry) in log.entries().iter().enumerate() {
                if entry.kind == Kind::Write && entry.sector == mark {
                    let data = log.data(entry)?;
                    if String::from_utf8_lossy(&data).trim_end() == wanted {
                        return Ok(index);
                    }
                }
            }
            bail!("the log has no mark {wanted:?}")
        };
        Ok(Self {
            all: at("start")?..at("end")?,
            done: at("done")?,
        })
    }
}
