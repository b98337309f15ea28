//! The virtual machine: QEMU, which ends with this process, and its serial line.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::{Context, Result, bail};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};

use super::disks::Disk;
use crate::chroot::{again, told};
use crate::name::EnvName;
use crate::refusal::Refusal;

/// The emulator of this machine's own processor.
const PROGRAM: &str = "qemu-system-x86_64";

/// What a program needs to run as the first one again.
#[derive(Debug, Serialize, Deserialize)]
struct Tied {
    /// The process that it ends with.
    parent: i32,
    argv: Vec<String>,
}

/// What is there to boot with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Emulator {
    /// The kernel runs the guest's instructions.
    pub(super) kvm: bool,
}

impl Emulator {
    /// Look for it.
    ///
    /// # Errors
    /// [`Refusal::NoTest`] if there is none.
    pub(super) fn find(name: &EnvName) -> Result<Self> {
        let refused = |why: String| {
            let name = name.clone();
            Err(Refusal::NoTest { name, why }.into())
        };
        if std::env::consts::ARCH != "x86_64" {
            return refused(format!(
                "be knows only how to do that on x86_64, and this is {}",
                std::env::consts::ARCH
            ));
        }
        let asked = Command::new(PROGRAM).arg("--version").output();
        match asked {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return refused(format!("there is no {PROGRAM} (app-emulation/qemu has it)"));
            }
            Err(e) => return Err(e).with_context(|| format!("cannot run {PROGRAM}")),
            Ok(_) => {}
        }
        let kvm = File::options().read(true).write(true).open("/dev/kvm");
        Ok(Self { kvm: kvm.is_ok() })
    }
}

/// QEMU failed, and not what it was to boot.
#[derive(Debug)]
pub(super) struct Broken {
    said: String,
    /// Somebody has killed it, or the kernel for want of memory: no fault of KVM. By SIGABRT it
    /// ends itself, where KVM has not what the processor should have.
    pub(super) killed: bool,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)
    }
}

impl std::error::Error for Broken {}

impl Broken {
    /// It ended so, and this is what it said.
    fn of(status: ExitStatus, said: &str) -> Self {
        Self {
            said: match said {
                "" => format!("QEMU ended with {status}"),
                said => format!("QEMU ended with {status}: {said}"),
            },
            killed: status
                .signal()
                .is_some_and(|signal| signal != Signal::SIGABRT as i32),
        }
    }
}

/// What boots.
pub(super) struct Boot<'a> {
    pub(super) emulator: Emulator,
    pub(super) memory_mib: u64,
    pub(super) kernel: File,
    pub(super) initrd: Option<File>,
    pub(super) arguments: String,
    /// In their order, each with the socket that serves it.
    pub(super) disks: Vec<(&'a Disk, UnixStream)>,
}

impl Boot<'_> {
    fn argv(&self) -> Result<Vec<String>> {
        let (accelerator, processor, number) = match self.emulator.kvm {
            true => ("kvm", "host", "2"),
            false => ("tcg", "max", "1"),
        };
        let fd = |file: &dyn AsRawFd| format!("/proc/self/fd/{}", file.as_raw_fd());
        let memory = self.memory_mib.to_string();
        let mut argv: Vec<String> = [
            PROGRAM,
            "-nodefaults",
            "-no-user-config",
            "-machine",
            "q35",
            "-accel",
            accelerator,
            "-cpu",
            processor,
            "-smp",
            number,
            "-m",
            &memory,
            "-display",
            "none",
            "-monitor",
            "none",
            "-nic",
            "none",
            "-no-reboot",
            "-device",
            "virtio-rng-pci",
            "-chardev",
            "stdio,id=line,signal=off",
            "-serial",
            "chardev:line",
            "-kernel",
            &fd(&self.kernel),
            "-append",
            &self.arguments,
        ]
        .map(str::to_owned)
        .to_vec();
        if let Some(initrd) = &self.initrd {
            argv.extend(["-initrd".to_owned(), fd(initrd)]);
        }
        for (number, (disk, socket)) in self.disks.iter().enumerate() {
            let node = serde_json::json!({
                "driver": "nbd",
                "node-name": format!("disk{number}"),
                "server": { "type": "fd", "str": socket.as_raw_fd().to_string() },
            });
            argv.extend(["-blockdev".to_owned(), node.to_string()]);
            argv.extend(disk.controller.arguments(number, disk.sector));
        }
        Ok(argv)
    }

    /// Power it on.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub(super) fn start(self) -> Result<Machine> {
        let inherited = self.disks.iter().map(|(_, socket)| socket.as_fd());
        let files = self.initrd.iter().chain([&self.kernel]).map(AsFd::as_fd);
        for fd in inherited.chain(files) {
            fcntl_setfd(fd, FdFlags::empty()).context("cannot hand a file on")?;
        }
        let tied = Tied {
            parent: std::process::id().cast_signed(),
            argv: self.argv()?,
        };
        let memory = rustix::fs::memfd_create("qemu", rustix::fs::MemfdFlags::CLOEXEC);
        let errors = File::from(memory.context("cannot keep what QEMU says")?);
        // Of a process group of its own: Ctrl-C is for be.
        let mut child = again("__tied", &tied)?
            .command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone()?)
            .spawn()
            .context("cannot start QEMU")?;
        let mut stdout = child.stdout.take().context("QEMU has no serial line")?;
        let (sender, line) = sync_channel(64);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Machine {
            child,
            line,
            errors,
        })
    }
}

/// One that runs. It is killed with this value.
pub(super) struct Machine {
    child: Child,
    /// The serial line; closed when the machine is off.
    pub(super) line: Receiver<Vec<u8>>,
    errors: File,
}

impl Machine {
    /// Wait for its end after the line was closed; what QEMU itself had to say, if it failed.
    pub(super) fn end(&mut self) -> Option<Broken> {
        let status = self.child.wait().ok()?;
        if status.success() {
            return None;
        }
        let mut said = String::new();
        self.errors.rewind().ok()?;
        let _what_is_readable = self.errors.read_to_string(&mut said);
        let said = said.trim().replace('\n', "; ");
        Some(Broken::of(status, &said))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The role `__tied`: become a program that is killed when the process that started it ends.
///
/// # Errors
/// When there is no such program, or the other process has ended.
pub fn tied(argument: &OsString) -> Result<i32> {
    let tied: Tied = told(argument)?;
    prctl::set_pdeathsig(Signal::SIGKILL).context("cannot tie this process to its parent")?;
    // It may have ended before that.
    if getppid() != Pid::from_raw(tied.parent) {
        bail!("the process that wanted it has ended");
    }
    let (program, arguments) = tied.argv.split_first().context("nothing to run")?;
    let failed = Command::new(program).args(arguments).exec();
    Err(failed).with_context(|| format!("cannot run {program}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_killed_is_told_from_what_failed() {
        let killed = Broken::of(ExitStatus::from_raw(9), "");
        assert!(killed.killed && killed.to_string().contains("signal"));
        let aborted = Broken::of(ExitStatus::from_raw(6), "failed to set MSR 0x10a");
        assert!(!aborted.killed && aborted.to_string().contains("MSR"));
        let failed = Broken::of(ExitStatus::from_raw(1 << 8), "no such processor");
        assert!(!failed.killed && failed.to_string().ends_with("no such processor"));
    }
}
