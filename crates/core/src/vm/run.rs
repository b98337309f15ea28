//! From power-on to a verdict.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::disks::Disk;
use super::machine::{Boot, Emulator, Machine};
use super::overlay::{Overlay, Scratch};
use super::serial::{End, Watch};
use super::verdict::{Judge, Silence, Verdict};
use super::{Outcome, Plan, Request, create_log, guest, nbd};
use crate::boot::Kernel;
use crate::chroot::Interrupted;
use crate::model::Environment;
use crate::reboot;
use crate::session::Session;

/// Between two looks at what is to end a test.
const MOMENT: Duration = Duration::from_millis(100);

/// What boots, and how.
pub(super) struct Guest<'a> {
    pub(super) session: &'a Session,
    pub(super) env: &'a Environment,
    pub(super) plan: &'a Plan<'a>,
    pub(super) request: &'a Request,
    pub(super) interrupted: &'a Interrupted,
    pub(super) emulator: Emulator,
    pub(super) scratch: &'a Scratch,
}

impl Guest<'_> {
    /// From power-on to what is known.
    ///
    /// # Errors
    /// When somebody interrupts, or QEMU fails.
    pub(super) fn run(&self, overlays: Vec<(&Disk, Overlay<'_>)>) -> Result<Outcome> {
        let token = new_token()?;
        let (kernel, initrd) = reboot::files(self.session, self.env, &self.plan.kernel)?;
        let mut log = create_log(&self.session.store, self.env.name())?;
        std::thread::scope(|scope| {
            let mut disks = Vec::new();
            for (disk, mut overlay) in overlays {
                let (ours, theirs) = UnixStream::pair().context("cannot make a socket")?;
                disks.push((disk, theirs));
                // It ends with QEMU, or with an error that the guest sees.
                scope.spawn(move || {
                    if let Err(e) = nbd::serve(ours, &mut overlay) {
                        tracing::debug!("a disk of the virtual machine: {e}");
                    }
                });
            }
            let boot = Boot {
                emulator: self.emulator,
                memory_mib: self.request.memory_mib,
                kernel,
                initrd,
                arguments: arguments(&self.plan.kernel, &token),
                disks,
            };
            let machine = boot.start()?;
            let watch = Watch::new(&token, self.plan.judges, self.plan.live);
            self.watch(machine, watch, &mut log)
        })
    }

    /// Until something is known.
    fn watch(&self, mut machine: Machine, mut watch: Watch, log: &mut File) -> Result<Outcome> {
        let start = Instant::now();
        let end = loop {
            if self.interrupted.came() {
                bail!("it was interrupted");
            }
            if let Some(why) = self.scratch.trouble() {
                break End::Unknown(why.to_owned());
            }
            if start.elapsed() > self.request.limit {
                break self.late(&watch);
            }
            match machine.line.recv_timeout(MOMENT) {
                Ok(bytes) => {
                    log.write_all(&bytes).context("cannot write the log")?;
                    if let Some(end) = watch.feed(&bytes) {
                        break end;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    if let Some(broken) = machine.end() {
                        return Err(broken.into());
                    }
                    let why = "it restarted, or powered off, before it had come up";
                    break End::Failed(why.into());
                }
            }
        };
        let took = start.elapsed();
        drop(machine);
        let trouble = self.scratch.trouble().map(str::to_owned);
        let excuse = match end {
            End::Unknown(_) => None,
            _ => trouble.or_else(|| watch.excuse(!self.emulator.kvm)),
        };
        let (verdict, why) = Verdict::of(end, excuse);
        Ok(Outcome {
            verdict,
            last: match verdict {
                Verdict::Passed => Vec::new(),
                _ => watch.last(),
            },
            why,
            kvm: self.emulator.kvm,
            took,
            copied: (0, Duration::ZERO),
            again: verdict == Verdict::Unknown && watch.is_torn(),
        })
    }

    /// When the time is over.
    fn late(&self, watch: &Watch) -> End {
        let judge = match self.session.whole(self.env) {
            Ok(root) => Judge::of(&root, self.plan.judges),
            Err(_) => Judge::Unproven,
        };
        let silence = Silence {
            name: self.env.name(),
            limit: self.request.limit,
            kvm: self.emulator.kvm,
            heard: watch.heard(),
            asks: watch.asks(),
            judge,
        };
        silence.end()
    }
}

/// What GRUB tells the kernel, and where to speak. The last of a kind counts.
fn arguments(kernel: &Kernel, token: &str) -> String {
    let mut words = kernel.arguments.clone();
    // A panic ends it at once, and nothing of it is kept quiet.
    words.extend(["console=ttyS0", "panic=-1", "loglevel=7"].map(str::to_owned));
    words.push(format!("{}{token}", guest::ARGUMENT));
    words.join(" ")
}

/// What nobody in the guest can know.
fn new_token() -> Result<String> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid");
    Ok(uuid.context("cannot get a random word")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_told_what_grub_tells_it_and_where_to_speak() {
        let kernel = Kernel {
            version: "6".into(),
            fs: None,
            linux: "boot/vmlinuz-6".into(),
            initrd: Vec::new(),
            arguments: ["root=UUID=1", "quiet", "console=tty0"]
                .map(str::to_owned)
                .to_vec(),
        };
        assert_eq!(
            arguments(&kernel, "t"),
            "root=UUID=1 quiet console=tty0 console=ttyS0 panic=-1 loglevel=7 be.test=t"
        );
    }
}
