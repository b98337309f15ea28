//! What GRUB would boot from a disk as it was, and whether that is whole.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use be_grub::envblk::EnvBlock;
use be_grub::menu::parse_header;
use be_grub::selection;
use be_tests::Seeded;
use be_tests::grub::{self, Choice};
use xtask::writes::{Gap, Log, Replay, SECTOR, gaps};

use super::recorded::{Act, BTRFS, Part, Site};

/// Other orders that are tried between two flushes.
const BY_CHANCE: usize = 3;

/// What GRUB chooses by.
#[derive(PartialEq, Eq)]
struct Chosen {
    menu: String,
    /// The environment block, where the menu names one.
    block: Option<Vec<u8>>,
}

impl Chosen {
    fn of(site: Site, image: &Path) -> Result<Self> {
        let menu = String::from_utf8(grub::read(image, BTRFS, grub::MENU)?)?;
        let at = parse_header(&menu)?.block;
        let block = at.map(|at| grub::read(image, site.beside, &at.path));
        let block = block.transpose()?;
        Ok(Self { menu, block })
    }

    /// What boots by it.
    fn choice(&self) -> Result<Choice> {
        if let Some(block) = &self.block {
            let said = selection::Choice::read(&EnvBlock::parse(block)?);
            if let Some(trial) = said.trial {
                return Choice::named(&self.menu, &trial.name);
            }
        }
        Choice::of(&self.menu)
    }
}

/// What GRUB has to find when an environment boots.
struct Whole {
    chosen: Chosen,
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
    fn of(site: Site, image: &Path, name: &str) -> Result<Self> {
        let chosen = Chosen::of(site, image)?;
        let (choice, menu) = (chosen.choice()?, &chosen.menu);
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
        let with_kernel = match choice.fs_uuid == parse_header(menu)?.fs_uuid {
            true => BTRFS,
            false => site.beside,
        };
        let (with_config, config) = site.grub_cfg();
        let root = &choice.subvolume;
        Ok(Self {
            chosen,
            kernel: [
                read(with_kernel, choice.linux)?,
                read(with_kernel, choice.initrd)?,
            ],
            rest: [
                read(BTRFS, format!("{root}/etc/fstab"))?,
                read(BTRFS, format!("{root}/usr/sbin/init"))?,
                read(BTRFS, format!("/@be/{name}/be.json"))?,
                read(with_config, config)?,
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

/// Which of two boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Old,
    New,
}

pub(super) const TOLD: &str = "it was told to be done, and the old one boots";
const BACK: &str = "the new one booted already, and the old one does again";

/// What came of a look at the images of an act.
#[derive(Default)]
pub(super) struct Look {
    flushes: usize,
    at_flushes: usize,
    other_orders: usize,
    pub(super) faults: Vec<Fault>,
    /// So many requests are done in the last image at a flush that boots the old one.
    pub(super) last_old: Option<usize>,
    /// And in the first one that boots the new one.
    pub(super) first_new: Option<usize>,
}

/// An image that does not boot what it has to: so many requests are done in it, and these.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) safe: usize,
    pub(super) also: Vec<usize>,
    pub(super) why: String,
}

impl Look {
    pub(super) fn sound(self) -> Result<Self> {
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

pub(super) fn look(
    site: Site,
    replay: &mut Replay<'_>,
    log: &Log,
    act: &Act,
    part: &Part,
) -> Result<Look> {
    let gaps = gaps(log.entries(), part.all.clone());
    let first = gaps.first().context("no requests")?;
    replay.to(first.safe)?;
    let old = Whole::of(site, replay.path(), act.old).context("before")?;
    let all: Vec<usize> = (first.safe..part.all.end).collect();
    let new = replay
        .with(&all, |image| Whole::of(site, image, act.new))
        .context("after")?
        .context("nothing was written")?;
    for (old, new) in old.kernel.iter().zip(&new.kernel) {
        ensure!(old.bytes == new.bytes, "{} is another one", new.path);
    }
    let beside = partition(replay.path(), site.number)?;
    let touches = |index: &usize| {
        let entry = &log.entries()[*index];
        let end = entry.sector + entry.sectors;
        entry.sector < beside.end && beside.start < end
    };
    let untouched = (!all.iter().any(touches)).then_some(site.beside);
    let boots = |image: &Path| -> Result<Side> {
        let chosen = Chosen::of(site, image)?;
        if chosen == new.chosen {
            new.is_on(image, untouched)?;
            Ok(Side::New)
        } else if chosen == old.chosen {
            old.is_on(image, untouched)?;
            Ok(Side::Old)
        } else {
            let bytes = chosen.menu.len();
            bail!("the menu, of {bytes} bytes, and the block are neither's")
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
