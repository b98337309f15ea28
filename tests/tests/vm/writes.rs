//! Every write of the disk around a switch is recorded, and the disk is looked at as it was
//! at every flush in between: whatever the power cut had left, GRUB boots the old
//! environment or the new one, complete; from the moment that `be` reported success on, the
//! new one.
//!
//! A disk may do what lies between two flushes in any order. So it is also looked at with
//! the last of those writes alone, with all but one, and with some by chance (seeded: the
//! same in every run of the same log).
//!
//! Looked at means: GRUB's own driver, which replays neither btrfs' log tree nor a journal,
//! reads its configuration and the menu of `be`, byte for byte the one from before or from
//! after the command, and of the entry that is the default in it every file: the kernel and
//! the initramfs byte for byte, the record, fstab and init of its root. The last image with
//! the old one and the first one with the new one are booted for real.
//!
//! That the look would see a fault is shown by the same program, in the same machine, on
//! the same disk, in which the one or the other of the two calls that bring the menu to the
//! disk does nothing and tells that it was done: a filter of system calls (seccomp) that the
//! guest puts around it. Nothing in `be` knows of it, and there is no second build that could
//! be the wrong one.
//!
//! Not shown: a write of which only some sectors are done; a disk that loses what it had
//! flushed; a write that was done while a flush was under way counts as safe with it; the
//! rest of the root, of which btrfs has a snapshot or none; other orders than those tried.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use be_tests::Seeded;
use be_tests::grub::{self, Choice};
use be_tests::vm::{LONG, Machine, SHORT, emulated, root_of};
use xtask::image::{Layout, Tree};
use xtask::run::{cmd, run};
use xtask::vm::{BOOT_TIME, Firmware, Options, Vm};
use xtask::writes::{Gap, Kind, Log, Replay, SECTOR, gaps};

/// `BTRFS_IOC_SYNC`: everything is on the disk before the menu names it.
const SYNC: &str = "0x9408";
/// `BTRFS_IOC_START_SYNC`, `BTRFS_IOC_WAIT_SYNC`: the menu itself is.
const COMMIT: &str = "0x80089418,0x40089416";
/// In the guest.
const UNSYNCED: &str = "/usr/local/sbin/unsynced.py";

/// GRUB's names of the two file systems.
const BTRFS: &str = "loop0,gpt3";
const BOOT: &str = "loop0,gpt4";
const BOOT_PARTITION: u64 = 4;
const GRUB_CFG: &str = "/grub/grub.cfg";

/// The guest writes its marks so many sectors before the end of the disk, where nothing is.
const MARKS_FROM_END: u64 = 1024;
/// Other orders that are tried between two flushes.
const BY_CHANCE: usize = 3;

/// A command, and which environment boots before it and after it.
struct Act {
    command: String,
    old: &'static str,
    new: &'static str,
}

impl Act {
    fn new(command: &str, old: &'static str, new: &'static str) -> Self {
        let command = command.to_owned();
        Self { command, old, new }
    }

    fn without(calls: &str, command: &str, old: &'static str, new: &'static str) -> Self {
        Self::new(&format!("python3 {UNSYNCED} {calls} {command}"), old, new)
    }
}

#[test]
#[ignore = "needs root and QEMU"]
fn at_every_flush_the_old_one_or_the_new_one_boots() -> Result<()> {
    emulated(|| {
        let acts = [
            Act::new("be create -a new", "default", "new"),
            Act::new("be activate default", "new", "default"),
            Act::new("be destroy -y new", "default", "default"),
            // The kernels are copied into it: no other one has them.
            Act::without(SYNC, "be create -a torn", "default", "torn"),
            Act::without(COMMIT, "be activate default", "torn", "default"),
        ];
        let recorded = Recorded::new(&acts)?;
        let log = Log::read(&recorded.log())?;
        let mut replay = Replay::new(&log, &recorded.copy("replay.img")?)?;
        let mut look = |number: usize| -> Result<Look> {
            let act = acts.get(number).context("no such act")?;
            let part = Part::find(&log, recorded.mark, number)?;
            let start = Instant::now();
            let look = look(&mut replay, &log, act, &part)?;
            let took = start.elapsed();
            xtask::say(&format!("{}: {look}; {took:.0?}", act.command));
            Ok(look)
        };
        thread::scope(|threads| {
            let (recorded, log) = (&recorded, &log);
            let create = look(0)?.sound()?;
            let old = create.last_old.context("the old one never boots")?;
            let old = threads.spawn(move || recorded.boots(log, old, "/@", "default"));
            let new = create.first_new.context("the new one never boots")?;
            let new = threads.spawn(move || recorded.boots(log, new, &root_of("new"), "new"));
            look(1)?.sound()?;
            look(2)?.sound()?;

            let torn = look(3)?.faults;
            let is_torn = |fault: &&Fault| fault.also.is_empty() && fault.why != TOLD;
            let at = torn.iter().find(is_torn).map(|fault| fault.safe);
            let at = at.with_context(|| format!("nothing torn is seen: {torn:#?}"))?;
            let untold = look(4)?.faults;
            let is_told = untold.iter().all(|fault| fault.why == TOLD);
            ensure!(!untold.is_empty() && is_told, "{untold:#?}");

            // The kernel is missing; or it is the menu, and GRUB boots what it did before be.
            let mut vm = recorded.at(log, at)?;
            let instead = ["be: torn is not booted: GRUB cannot read", "root=/@ "];
            vm.expect_any(&instead, BOOT_TIME).context("what is torn")?;
            vm.kill()?;
            for machine in [old, new] {
                machine
                    .join()
                    .unwrap_or_else(|panic| resume_unwind(panic))?;
            }
            Ok(())
        })
    })
}

/// What a machine did to its disk.
struct Recorded {
    machine: Machine,
    /// The sector of the marks.
    mark: u64,
}

impl Recorded {
    fn new(acts: &[Act]) -> Result<Self> {
        let mut machine = Machine::new(Layout::BootExt4, Firmware::Bios, |mount, _| {
            mount.write(UNSYNCED, include_str!("unsynced.py"))?;
            // The switch is the rename of the menu here, and nothing in /boot.
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
        machine.sh("be init")?;
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
        Ok(Self { machine, mark })
    }

    /// A machine on the disk as it was when so many requests were done.
    fn at(&self, log: &Log, count: usize) -> Result<Vm> {
        let image = self.copy(&format!("{count}.img"))?;
        Replay::new(log, &image)?.to(count)?;
        Vm::boot(&image, Firmware::Bios, &Options::default())
    }

    /// That an image boots this root, of which `be` has no doubts, and that it can go on.
    fn boots(&self, log: &Log, count: usize, root: &str, name: &str) -> Result<()> {
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

    fn log(&self) -> PathBuf {
        self.machine.disk.dir().join("writes.log")
    }

    /// A copy of the disk as it was when the log began.
    fn copy(&self, name: &str) -> Result<PathBuf> {
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
struct Part {
    all: Range<usize>,
    /// From here on it has been told that it is done.
    done: usize,
}

impl Part {
    fn find(log: &Log, mark: u64, number: usize) -> Result<Self> {
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

/// What GRUB has to find when an environment boots.
struct Whole {
    menu: String,
    kernel: [Content; 2],
    rest: [Content; 4],
}

/// A file of a file system that GRUB has a name for.
struct Content {
    device: &'static str,
    path: String,
    bytes: Vec<u8>,
}

impl Whole {
    fn of(image: &Path, name: &str) -> Result<Self> {
        let menu = menu_of(image)?;
        let choice = Choice::of(&menu)?;
        ensure!(choice.name == name, "{name} should boot:\n{menu}");
        let read = |device, path: String| -> Result<Content> {
            let bytes = grub::read(image, device, &path)?;
            ensure!(!bytes.is_empty(), "{path} is empty");
            Ok(Content {
                device,
                path,
                bytes,
            })
        };
        let with_kernel = match name {
            "default" => BOOT,
            _ => BTRFS,
        };
        let root = &choice.subvolume;
        Ok(Self {
            menu,
            kernel: [
                read(with_kernel, choice.linux)?,
                read(with_kernel, choice.initrd)?,
            ],
            rest: [
                read(BTRFS, format!("{root}/etc/fstab"))?,
                read(BTRFS, format!("{root}/usr/sbin/init"))?,
                read(BTRFS, format!("/@be/{name}/be.json"))?,
                read(BOOT, GRUB_CFG.to_owned())?,
            ],
        })
    }

    /// Whether it is on an image; what lies on an untouched device has been read already.
    fn is_on(&self, image: &Path, untouched: Option<&str>) -> Result<()> {
        let files = self.kernel.iter().chain(&self.rest);
        for file in files.filter(|file| Some(file.device) != untouched) {
            let found = grub::read(image, file.device, &file.path)?;
            ensure!(
                found == file.bytes,
                "{} of {} bytes is another one, of {}",
                file.path,
                file.bytes.len(),
                found.len()
            );
        }
        Ok(())
    }
}

fn menu_of(image: &Path) -> Result<String> {
    Ok(String::from_utf8(grub::read(image, BTRFS, grub::MENU)?)?)
}

/// Which of two boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Old,
    New,
}

const TOLD: &str = "it was told to be done, and the old one boots";
const BACK: &str = "the new one booted already, and the old one does again";

/// What came of a look at the images of an act.
#[derive(Default)]
struct Look {
    flushes: usize,
    at_flushes: usize,
    other_orders: usize,
    faults: Vec<Fault>,
    /// So many requests are done in the last image at a flush that boots the old one.
    last_old: Option<usize>,
    /// And in the first one that boots the new one.
    first_new: Option<usize>,
}

/// An image that does not boot what it has to: so many requests are done in it, and these.
#[derive(Debug)]
struct Fault {
    safe: usize,
    also: Vec<usize>,
    why: String,
}

impl Look {
    fn sound(self) -> Result<Self> {
        ensure!(self.faults.is_empty(), "{:#?}", self.faults);
        Ok(self)
    }

    fn note(&mut self, gap: &Gap, also: &[usize], is_told: bool, seen: Result<Side>) {
        let safe = gap.safe;
        let why = match seen {
            Ok(Side::New) => {
                if also.is_empty() && self.first_new.is_none() {
                    self.first_new = Some(safe);
                }
                return;
            }
            Ok(Side::Old) if is_told => TOLD.to_owned(),
            Ok(Side::Old) if self.first_new.is_some() => BACK.to_owned(),
            Ok(Side::Old) => {
                if also.is_empty() {
                    self.last_old = Some(safe);
                }
                return;
            }
            Err(error) => format!("{error:#}"),
        };
        let also = also.to_vec();
        self.faults.push(Fault { safe, also, why });
    }
}

impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            flushes,
            at_flushes,
            other_orders,
            faults,
            ..
        } = self;
        write!(
            f,
            "{flushes} flushes, {at_flushes} images at them and {other_orders} in between, {} wrong",
            faults.len()
        )?;
        match faults.first() {
            Some(fault) => write!(f, " (the first one: {})", fault.why),
            None => Ok(()),
        }
    }
}

fn look(replay: &mut Replay<'_>, log: &Log, act: &Act, part: &Part) -> Result<Look> {
    let gaps = gaps(log.entries(), part.all.clone());
    let first = gaps.first().context("no requests")?;
    replay.to(first.safe)?;
    let old = Whole::of(replay.path(), act.old).context("before")?;
    let all: Vec<usize> = (first.safe..part.all.end).collect();
    let new = replay
        .with(&all, |image| Whole::of(image, act.new))
        .context("after")?
        .context("nothing was written")?;
    for (old, new) in old.kernel.iter().zip(&new.kernel) {
        ensure!(old.bytes == new.bytes, "{} is another one", new.path);
    }
    let boot = partition(replay.path(), BOOT_PARTITION)?;
    let touches = |index: &usize| {
        let entry = &log.entries()[*index];
        let end = entry.sector + entry.sectors;
        entry.sector < boot.end && boot.start < end
    };
    let untouched = (!all.iter().any(touches)).then_some(BOOT);
    let boots = |image: &Path| -> Result<Side> {
        let menu = menu_of(image)?;
        if menu == new.menu {
            new.is_on(image, untouched)?;
            Ok(Side::New)
        } else if menu == old.menu {
            old.is_on(image, untouched)?;
            Ok(Side::Old)
        } else {
            bail!("the menu, of {} bytes, is neither", menu.len())
        }
    };
    let mut seeded = Seeded::new(part.all.len() as u64);
    let mut look = Look::default();
    let mut was_told = false;
    for gap in gaps {
        let is_told = gap.open.end > part.done;
        let is_other = replay.to(gap.safe)?;
        if is_other || look.at_flushes == 0 || is_told != was_told {
            look.note(&gap, &[], is_told, boots(replay.path()));
            look.at_flushes += 1;
        }
        was_told = is_told;
        look.flushes += 1;
        for also in orders(&gap, &mut seeded) {
            if let Some(seen) = replay.with(&also, |image| Ok(boots(image)))? {
                look.note(&gap, &also, is_told, seen);
                look.other_orders += 1;
            }
        }
    }
    Ok(look)
}

/// The sectors of a partition, from its entry in a table of the usual place and size
/// (UEFI 2.10, 5.3.3).
fn partition(image: &Path, number: u64) -> Result<Range<u64>> {
    let mut ends = [0; 16];
    let at = 2 * SECTOR + 128 * (number - 1) + 32;
    File::open(image)?.read_exact_at(&mut ends, at)?;
    let [first, last] = [&ends[..8], &ends[8..]].map(<[u8; 8]>::try_from);
    Ok(u64::from_le_bytes(first?)..u64::from_le_bytes(last?) + 1)
}

/// Some of the writes between two flushes, in several ways; never all of them.
fn orders(gap: &Gap, seeded: &mut Seeded) -> BTreeSet<Vec<usize>> {
    let open: Vec<usize> = gap.open.clone().collect();
    let mut orders = BTreeSet::new();
    let (Some(last), true) = (open.last(), open.len() > 1) else {
        return orders;
    };
    orders.insert(vec![*last]);
    let left_out = seeded.below(open.len() as u64 - 1);
    let kept = (0..).zip(&open).filter(|(index, _)| *index != left_out);
    orders.insert(kept.map(|(_, request)| *request).collect());
    for _ in 0..BY_CHANCE {
        let some = open.iter().copied().filter(|_| seeded.below(2) == 0);
        orders.insert(some.collect());
    }
    orders.remove(&open);
    orders
}
