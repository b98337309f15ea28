//! Booting an environment in a virtual machine that is thrown away.
//!
//! The guest gets the very disks: its firmware aside it boots as GRUB would boot it, with the
//! environment's own kernel, initramfs and arguments. They are read only by this process and
//! served to QEMU over a socket each, with three layers: what the guest has written, in a
//! file without a name; the trees of the filesystem as of one commit, copied and proven
//! ([`be_btrfs::frozen`]); and the real disk. What the guest reads there is data that
//! snapshots keep from being written anew for as long as it runs. Nothing else is done to
//! the disks, and nothing is left when this process is killed but the snapshots, which the
//! next command takes away.
//!
//! What no snapshot keeps (other filesystems, what the running system has written since, or
//! has moved by a balance) can be torn when the guest reads it. btrfs tells that by its
//! checksums: the verdict is then not known.

mod disks;
mod guest;
pub(crate) mod hold;
mod machine;
mod nbd;
mod overlay;
mod run;
mod serial;
mod verdict;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use be_btrfs::frozen::{Copier, NotFrozen};
use rustix::fs::{Mode, OFlags};

use self::disks::Disks;
use self::hold::Hold;
use self::machine::{Broken, Emulator};
use self::overlay::{Overlay, Scratch};
use self::run::Guest;
use crate::boot::Kernel;
use crate::chroot::Interrupted;
use crate::files;
use crate::fstab::Fstab;
use crate::model::Inventory;
use crate::mountinfo;
use crate::name::EnvName;
use crate::observe::MAX_TEXT;
use crate::refusal::Refusal;
use crate::session::Session;
use crate::store::{Paths, Store};

pub use guest::{tell, token};
pub use machine::tied;
pub use verdict::Verdict;

/// Where copies are kept, if nobody says otherwise: /tmp may be memory.
pub const SCRATCH: &str = "/var/tmp";

/// How long the copying may be overtaken by what is written.
const COPYING: Duration = Duration::from_secs(120);
/// How long to wait for another `be` that has the store.
const PATIENCE: Duration = Duration::from_secs(30);

/// How it is to be done.
#[derive(Debug, Clone)]
pub struct Request {
    /// How long the boot may take.
    pub limit: Duration,
    /// Of the guest, in MiB.
    pub memory_mib: u64,
    /// A directory with room for what is copied and what the guest writes.
    pub scratch: PathBuf,
}

impl Request {
    /// As be.toml says.
    pub fn of(session: &Session) -> Self {
        let config = &session.config.test;
        Self {
            limit: Duration::from_secs(config.timeout_seconds),
            memory_mib: config.memory_mib,
            scratch: SCRATCH.into(),
        }
    }
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// In one word.
    pub verdict: Verdict,
    /// In one line.
    pub why: String,
    /// The last lines of the serial line, if it did not come up.
    pub last: Vec<String>,
    /// Whether the kernel ran the guest's instructions (KVM); else QEMU did, slowly.
    pub kvm: bool,
    /// From power-on to the verdict.
    pub took: Duration,
    /// Bytes of the filesystem's trees that were copied, and the time for that.
    pub copied: (u64, Duration),
    /// It may be otherwise the next time.
    again: bool,
}

/// Boot an environment, once more if the disk was torn below it. The caller has a claim on
/// it, and not the lock of the store. `say` is told what is done.
///
/// # Errors
/// [`Refusal::NoTest`], [`Refusal::NotBootable`], [`Refusal::Busy`]; when somebody interrupts,
/// or when QEMU or the copying fails.
pub fn test(
    session: &Session,
    name: &EnvName,
    request: &Request,
    interrupted: &Interrupted,
    say: &mut dyn FnMut(&str),
) -> Result<Outcome> {
    let mut emulator = Emulator::find(name)?;
    let mut attempt = |emulator| once(session, name, request, interrupted, emulator, say);
    let mut outcome = attempt(emulator);
    let broken = outcome.as_ref().err().and_then(|e| e.downcast_ref());
    // It is there, and does not work with this processor or this QEMU.
    if broken.is_some_and(|broken: &Broken| !broken.killed) && emulator.kvm {
        emulator.kvm = false;
        outcome = attempt(emulator);
    }
    match outcome {
        Ok(torn) if torn.again => attempt(emulator),
        done => done,
    }
}

/// The log of the last test of an environment, from the top level.
pub fn log_path(name: &EnvName) -> PathBuf {
    Paths::environment(name).join("log/test.log")
}

fn create_log(store: &Store, name: &EnvName) -> Result<File> {
    let path = log_path(name);
    store
        .dir
        .mkdir_all(path.parent().unwrap_or(Path::new("")), 0o700)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(store.top.fd(), &path, flags, Mode::RUSR | Mode::WUSR)
        .with_context(|| format!("cannot open /{}", path.display()))?;
    Ok(fd.into())
}

/// What the environment and its filesystem say about the guest.
struct Plan<'a> {
    kernel: Kernel,
    disks: Disks,
    devices: Vec<PathBuf>,
    hold: Hold<'a>,
    judges: bool,
    /// Another filesystem than btrfs on these disks is being written.
    live: bool,
}

fn prepare<'a>(session: &'a Session, name: &EnvName) -> Result<(Inventory, Plan<'a>)> {
    let lock = session.store.lock_within(PATIENCE)?;
    let inv = session.observe()?;
    let env = inv.get(name)?;
    let found = session.examine(&inv, env)?;
    let kernel = match found.kernels.into_iter().next() {
        Some(kernel) if found.problems.is_empty() => kernel,
        _ => {
            return Err(Refusal::NotBootable {
                name: name.clone().into(),
                problems: found.problems,
            }
            .into());
        }
    };
    let root = session.whole(env)?;
    let fstab = root.read_to_string("etc/fstab", MAX_TEXT);
    let fstab = Fstab::parse(&fstab.unwrap_or_default());
    let devices = devices(&session.store)?;
    let busy = format!("/sys/fs/btrfs/{}/exclusive_operation", inv.fs.uuid);
    let work = fs::read_to_string(busy).unwrap_or_default();
    if !["", "none"].contains(&work.trim()) {
        let what = format!("a {} is at work on the filesystem", work.trim());
        return Err(Refusal::Busy { what }.into());
    }
    let disks = Disks::of(name, &devices, &fstab)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    let plan = Plan {
        kernel,
        live: disks.are_written(&mountinfo::parse(&mounts)),
        disks,
        hold: Hold::take(
            session,
            &hold::subvolumes(session, &inv, env, &fstab)?,
            &lock,
        )?,
        devices,
        judges: files::judges(&root),
    };
    Ok((inv, plan))
}

/// The nodes of the filesystem's devices; the kernel may know its only one as /dev/root.
fn devices(store: &Store) -> Result<Vec<PathBuf>> {
    let devices = store.top.devices()?;
    match devices.as_slice() {
        [_] => Ok(vec![store.top.device().to_owned()]),
        _ => Ok(devices),
    }
}

fn once(
    session: &Session,
    name: &EnvName,
    request: &Request,
    interrupted: &Interrupted,
    emulator: Emulator,
    say: &mut dyn FnMut(&str),
) -> Result<Outcome> {
    let (inv, plan) = prepare(session, name)?;
    let env = inv.get(name)?;
    let scratch = Scratch::new(&request.scratch, name)
        .with_context(|| format!("cannot make a file in {}", request.scratch.display()))?;
    let start = Instant::now();
    let stop = || interrupted.came();
    let mut copier = Copier::new(&session.store.top, &plan.devices, &scratch.file, 0, &stop)?;
    copier.set_limit(scratch.limit);
    let frozen = match copier.copy(&plan.hold.wanted, COPYING) {
        Ok(frozen) => frozen,
        Err(e) => {
            let why = not_copied(name, &scratch, e)?;
            return Ok(Outcome {
                verdict: Verdict::Unknown,
                why,
                last: Vec::new(),
                kvm: emulator.kvm,
                took: Duration::ZERO,
                copied: (0, start.elapsed()),
                again: false,
            });
        }
    };
    scratch.set_end(copier.end());
    let copied = (frozen.bytes, start.elapsed());
    tracing::info!(
        "{} KiB in {} rounds, {copied:?}",
        frozen.bytes >> 10,
        frozen.rounds
    );
    let mut overlays = Vec::new();
    for (disk_name, disk) in &plan.disks.disks {
        let mut overlay = Overlay::new(&disk.node, &scratch)
            .with_context(|| format!("cannot read {}", disk.node.display()))?;
        for piece in &frozen.pieces {
            let part = &plan.disks.parts[piece.device];
            if part.disk == *disk_name {
                overlay.put(piece, part.start);
            }
        }
        overlays.push((disk, overlay));
    }
    say(&match emulator.kvm {
        true => format!("booting {name} in a virtual machine"),
        false => format!("booting {name} in a virtual machine, slowly: without KVM"),
    });
    let guest = Guest {
        session,
        env,
        plan: &plan,
        request,
        interrupted,
        emulator,
        scratch: &scratch,
    };
    let mut outcome = guest.run(overlays)?;
    outcome.copied = copied;
    Ok(outcome)
}

/// Why nothing can be known without a copy of the trees; an error for what the user has to
/// see to.
fn not_copied(name: &EnvName, scratch: &Scratch, why: NotFrozen) -> Result<String> {
    match why {
        NotFrozen::Copies(e) => Ok(scratch.why(&e)),
        e @ (NotFrozen::Changing | NotFrozen::Dropping) => {
            Ok(format!("the filesystem cannot be copied: {e}"))
        }
        NotFrozen::Unknown(what) => {
            let (name, why) = (name.clone(), format!("of its filesystem: {what}"));
            Err(Refusal::NoTest { name, why }.into())
        }
        NotFrozen::Interrupted => bail!("it was interrupted"),
        e => Err(anyhow!("the filesystem cannot be copied: {e}")),
    }
}
