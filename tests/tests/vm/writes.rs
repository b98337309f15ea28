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
//! reads its configuration, and the menu of `be` and the environment block, byte for byte
//! those from before or from after the command, and of the entry that they choose every file:
//! the kernel and the initramfs byte for byte, the record, fstab and init of its root. The
//! last image with the old one and the first one with the new one are booted for real, of the
//! ESP the latter alone.
//!
//! Without a trial the switch is the rename of the menu; a trial is armed in the block, which
//! is overwritten in place, on ext4 or on FAT.
//!
//! That the look would see a fault is shown by the same program, in the same machine, on
//! the same disk, in which one of the calls that bring the menu or the block to the disk does
//! nothing and tells that it was done: a filter of system calls (seccomp) that the
//! guest puts around it. Nothing in `be` knows of it, and there is no second build that could
//! be the wrong one.
//!
//! Not shown: a write of which only some sectors are done; a disk that loses what it had
//! flushed; a write that was done while a flush was under way counts as safe with it; the
//! rest of the root, of which btrfs has a snapshot or none; other orders than those tried.

use std::panic::resume_unwind;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use be_tests::vm::{emulated, root_of};
use xtask::vm::BOOT_TIME;
use xtask::writes::{Log, Replay};

use look::{Fault, Look, TOLD};
use recorded::{Act, Part, Recorded, Site};

mod look;
mod recorded;

/// `BTRFS_IOC_SYNC`: everything is on the disk before the menu names it.
const SYNC: &str = "0x9408";
/// `BTRFS_IOC_START_SYNC`, `BTRFS_IOC_WAIT_SYNC`: the menu itself is.
const COMMIT: &str = "0x80089418,0x40089416";
/// `fdatasync`: the environment block is.
const DATA: &str = "75";

/// What looks at the disk as it was around an act.
struct Looker<'a> {
    site: Site,
    acts: &'a [Act],
    mark: u64,
    log: &'a Log,
    replay: Replay<'a>,
}

impl<'a> Looker<'a> {
    fn new(site: Site, acts: &'a [Act], recorded: &Recorded, log: &'a Log) -> Result<Self> {
        Ok(Self {
            site,
            acts,
            mark: recorded.mark,
            log,
            replay: Replay::new(log, &recorded.copy("replay.img")?)?,
        })
    }

    fn look(&mut self, number: usize) -> Result<Look> {
        let act = self.acts.get(number).context("no such act")?;
        let part = Part::find(self.log, self.mark, number)?;
        let start = Instant::now();
        let look = look::look(self.site, &mut self.replay, self.log, act, &part)?;
        let took = start.elapsed();
        xtask::say(&format!("{}: {look}; {took:.0?}", act.command));
        Ok(look)
    }

    /// Looks at an act that tells too early that it is done, and does nothing else wrong.
    fn told_too_early(&mut self, number: usize) -> Result<()> {
        let untold = self.look(number)?.faults;
        let is_told = untold.iter().all(|fault| fault.why == TOLD);
        ensure!(!untold.is_empty() && is_told, "{untold:#?}");
        Ok(())
    }
}

#[test]
#[ignore = "needs root and QEMU"]
fn at_every_flush_the_old_one_or_the_new_one_boots() -> Result<()> {
    const ON_TRIAL: &str = "be activate --trial torn";
    emulated(|| {
        let acts = [
            Act::new("be create -a new", "default", "new"),
            Act::new("be activate default", "new", "default"),
            Act::new("be destroy -y new", "default", "default"),
            // The kernels are copied into it: no other one has them.
            Act::without(SYNC, "be create -a torn", "default", "torn"),
            Act::without(COMMIT, "be activate default", "torn", "default"),
            Act::new(ON_TRIAL, "default", "torn"),
            Act::new("be activate default", "torn", "default"),
            Act::without(DATA, ON_TRIAL, "default", "torn"),
        ];
        let recorded = Recorded::new(Site::EXT4, "be init", &acts)?;
        let log = Log::read(&recorded.log())?;
        let mut looker = Looker::new(Site::EXT4, &acts, &recorded, &log)?;
        thread::scope(|threads| {
            let (recorded, log) = (&recorded, &log);
            let create = looker.look(0)?.sound()?;
            let old = create.last_old.context("the old one never boots")?;
            let old = threads.spawn(move || recorded.boots(log, old, "/@", "default"));
            let new = create.first_new.context("the new one never boots")?;
            let new = threads.spawn(move || recorded.boots(log, new, &root_of("new"), "new"));
            looker.look(1)?.sound()?;
            looker.look(2)?.sound()?;

            let torn = looker.look(3)?.faults;
            let is_torn = |fault: &&Fault| fault.also.is_empty() && fault.why != TOLD;
            let at = torn.iter().find(is_torn).map(|fault| fault.safe);
            let at = at.with_context(|| format!("nothing torn is seen: {torn:#?}"))?;
            looker.told_too_early(4)?;
            looker.look(5)?.sound()?;
            looker.look(6)?.sound()?;
            looker.told_too_early(7)?;

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

/// Each takes a machine minutes.
mod thorough {
    use super::*;

    /// The same of a trial, with the block on FAT.
    #[test]
    #[ignore = "needs root and QEMU"]
    fn at_every_flush_of_an_esp_the_old_choice_or_the_new_one_is_whole() -> Result<()> {
        const ON_TRIAL: &str = "be activate --trial new";
        emulated(|| {
            let acts = [
                Act::new(ON_TRIAL, "default", "new"),
                Act::new("be activate default", "new", "default"),
                Act::without(DATA, ON_TRIAL, "default", "new"),
            ];
            let recorded = Recorded::new(Site::ESP, "be init && be create new", &acts)?;
            let log = Log::read(&recorded.log())?;
            let mut looker = Looker::new(Site::ESP, &acts, &recorded, &log)?;
            let trial = looker.look(0)?.sound()?;
            looker.look(1)?.sound()?;
            looker.told_too_early(2)?;
            let new = trial.first_new.context("the new one never boots")?;
            recorded.boots(&log, new, &root_of("new"), "new")
        })
    }
}
