//! Virtual machines: QEMU without acceleration, driven by the serial line as a
//! person at a terminal would.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::run::last_lines;
use crate::{temp, writes};

mod grub;
mod screen;
mod shell;

pub use screen::{Entry, Screen};

/// What the lab's init prints once it runs.
pub const BOOT_MARKER: &str = "BE-LAB-BOOT ";
/// From power-on to the shell, generously: without acceleration and on busy
/// processors it has taken 25 s.
pub const BOOT_TIME: Duration = Duration::from_secs(400);

/// What the guest's shell does before the end: a busy file system is made
/// read-only instead.
const UNMOUNT: &str = "cd /; umount -a -r -t ext4,vfat 2>/dev/null";

/// What runs before GRUB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// The classic BIOS, by way of the first sector.
    Bios,
    /// UEFI, by way of the removable path of the ESP.
    Uefi,
}

/// Settings of a machine.
#[derive(Debug, Clone)]
pub struct Options {
    /// Memory in MiB.
    pub memory: u32,
    /// Whether a reset ends the machine instead of booting it again.
    pub no_reboot: bool,
    /// A file for [the log](crate::writes) of what is written to the disk.
    pub log: Option<PathBuf>,
    /// Arguments for QEMU beyond the usual ones.
    pub extra: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            memory: 512,
            no_reboot: false,
            log: None,
            extra: Vec::new(),
        }
    }
}

/// What a boot came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Booted {
    /// The root's subvolume, from the top level, with a leading slash.
    pub root: String,
    /// The kernel's release.
    pub kernel: String,
}

#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
    screen: Screen,
    closed: bool,
}

type Shared = Arc<(Mutex<Line>, Condvar)>;

/// A running machine. Dropped, it is killed; in a panic it prints what the
/// serial line showed.
pub struct Vm {
    child: Child,
    input: ChildStdin,
    line: Shared,
    /// What has been expected already ends here.
    cursor: usize,
    commands: u32,
    _dir: temp::Dir,
}

impl Vm {
    /// Powers a machine on with this raw disk image.
    ///
    /// # Errors
    /// QEMU or its firmware is missing.
    pub fn boot(disk: &Path, firmware: Firmware, options: &Options) -> Result<Self> {
        let dir = temp::dir(1 << 24)?;
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args([
                "-accel",
                "tcg",
                "-smp",
                "1",
                "-display",
                "none",
                "-nodefaults",
            ])
            .args(["-no-user-config", "-monitor", "none", "-m"])
            .arg(options.memory.to_string())
            .args([
                "-chardev",
                "stdio,id=serial,signal=off",
                "-serial",
                "chardev:serial",
            ])
            .args(match &options.log {
                Some(log) => logged_disk(disk, log)?,
                None => vec![
                    "-drive".to_owned(),
                    format!("file={},format=raw,if=virtio", disk.display()),
                ],
            });
        if firmware == Firmware::Uefi {
            let (code, vars) = ovmf()?;
            let own = dir.path().join("vars.fd");
            fs::copy(&vars, &own).with_context(|| format!("copy {}", vars.display()))?;
            let flash = "if=pflash,format=raw,file=";
            command
                .args(["-machine", "q35", "-drive"])
                .arg(format!("readonly=on,{flash}{}", code.display()))
                .arg("-drive")
                .arg(format!("{flash}{}", own.display()));
        }
        if options.no_reboot {
            command.arg("-no-reboot");
        }
        let mut child = command
            .args(&options.extra)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start qemu-system-x86_64")?;
        let line = Shared::default();
        let input = child.stdin.take().context("no stdin")?;
        read_into(
            child.stdout.take().context("no stdout")?,
            Arc::clone(&line),
            true,
        );
        read_into(
            child.stderr.take().context("no stderr")?,
            Arc::clone(&line),
            false,
        );
        Ok(Self {
            child,
            input,
            line,
            cursor: 0,
            commands: 0,
            _dir: dir,
        })
    }

    /// Waits for a text and returns all that came before it, from the end of
    /// what was expected last, the text included.
    ///
    /// # Errors
    /// It does not come in time, or the machine ends.
    pub fn expect(&mut self, text: &str, limit: Duration) -> Result<String> {
        self.expect_any(&[text], limit).map(|(_, seen)| seen)
    }

    /// Waits for the first of several texts; also says which it was.
    ///
    /// # Errors
    /// As [`Vm::expect`].
    pub fn expect_any(&mut self, texts: &[&str], limit: Duration) -> Result<(usize, String)> {
        let start = Instant::now();
        loop {
            let line = self.lock();
            let new = &line.bytes[self.cursor.min(line.bytes.len())..];
            let found = texts
                .iter()
                .enumerate()
                .filter_map(|(index, text)| Some((find(new, text)? + text.len(), index)))
                .min();
            if let Some((end, index)) = found {
                let seen = String::from_utf8_lossy(&new[..end]).into_owned();
                drop(line);
                self.cursor += end;
                return Ok((index, seen));
            }
            let closed = line.closed;
            self.wait(line, start, limit)
                .filter(|()| !closed)
                .with_context(|| {
                    let why = if closed {
                        "the machine ended"
                    } else {
                        "nothing came in time"
                    };
                    format!(
                        "waiting {:.0} s for {texts:?}: {why}; the last of the serial line:\n{}",
                        start.elapsed().as_secs_f32(),
                        last_lines(&self.transcript(), 60)
                    )
                })?;
        }
    }

    /// Waits until the lab's init runs and its shell is ready.
    ///
    /// # Errors
    /// The machine does not get so far in time.
    pub fn wait_boot(&mut self, limit: Duration) -> Result<Booted> {
        let start = Instant::now();
        self.expect(BOOT_MARKER, limit)?;
        let line = self.expect("\n", limit)?;
        let word = |name: &str| {
            line.split_whitespace()
                .find_map(|word| word.strip_prefix(name))
                .map(str::to_owned)
                .with_context(|| format!("no {name} in {line:?}"))
        };
        let booted = Booted {
            root: word("root=")?,
            kernel: word("kernel=")?,
        };
        self.expect(shell::PROMPT, limit.saturating_sub(start.elapsed()))?;
        Ok(booted)
    }

    /// Sends keys as they are.
    ///
    /// # Errors
    /// The machine has ended.
    pub fn send(&mut self, keys: &str) -> Result<()> {
        self.input
            .write_all(keys.as_bytes())
            .and_then(|()| self.input.flush())
            .context("send keys to the machine")
    }

    /// Everything that the serial line has shown.
    #[must_use]
    pub fn transcript(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }

    /// The screen as it is now.
    #[must_use]
    pub fn screen(&self) -> Screen {
        self.lock().screen.clone()
    }

    /// Cuts the power, at once: what the guest has not written yet is lost.
    /// What it wrote to its disk, flushed or not, stays.
    ///
    /// # Errors
    /// The machine cannot be killed.
    pub fn kill(mut self) -> Result<()> {
        self.end()
    }

    /// Shuts the guest down from its shell and waits for the end. As a real
    /// shutdown does, it unmounts what needs it: GRUB does not replay a journal.
    ///
    /// # Errors
    /// It does not end in time; then it is killed.
    pub fn poweroff(mut self) -> Result<()> {
        self.send(&format!("{UNMOUNT}; /sbin/lab-poweroff\n"))?;
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            if start.elapsed() > BOOT_TIME {
                bail!(
                    "the machine does not power off:\n{}",
                    last_lines(&self.transcript(), 30)
                );
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Reboots the guest from its shell; what comes next is expected as usual.
    ///
    /// # Errors
    /// The machine has ended.
    pub fn reboot(&mut self) -> Result<()> {
        self.skip();
        self.send(&format!("{UNMOUNT}; /sbin/lab-reboot\n"))
    }

    /// What is expected next comes after all that there is now.
    fn skip(&mut self) {
        let length = self.lock().bytes.len();
        self.cursor = length;
    }

    fn end(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            self.child.kill()?;
            self.child.wait()?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for more output; None once the time is over.
    fn wait(&self, line: MutexGuard<'_, Line>, start: Instant, limit: Duration) -> Option<()> {
        let left = limit.checked_sub(start.elapsed())?;
        let _ = self
            .line
            .1
            .wait_timeout(line, left.min(Duration::from_secs(1)));
        Some(())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            crate::say(&format!("cannot end the machine: {error:#}"));
        }
        if thread::panicking() {
            crate::say(&format!("the serial line showed:\n{}", self.transcript()));
        }
    }
}

fn read_into(mut from: impl Read + Send + 'static, line: Shared, is_serial: bool) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let count = from.read(&mut buffer).unwrap_or(0);
            let mut shared = line.0.lock().unwrap_or_else(PoisonError::into_inner);
            shared.bytes.extend(&buffer[..count]);
            if is_serial {
                shared.screen.feed(&buffer[..count]);
                shared.closed = count == 0;
            }
            line.1.notify_all();
            if count == 0 {
                return;
            }
        }
    });
}

fn find(haystack: &[u8], needle: &str) -> Option<usize> {
    haystack
        .windows(needle.len().max(1))
        .position(|window| window == needle.as_bytes())
}

/// A disk whose writes are recorded in a new file. Neither file has to survive a power cut
/// of the host.
fn logged_disk(disk: &Path, log: &Path) -> Result<Vec<String>> {
    File::create(log).with_context(|| format!("make {}", log.display()))?;
    let file = |name: &str, path: &Path| {
        let path = path.display();
        format!("driver=file,node-name={name},filename={path},cache.no-flush=on")
    };
    let sector = writes::SECTOR;
    Ok([
        "-blockdev",
        &file("disk-file", disk),
        "-blockdev",
        &file("log-file", log),
        "-blockdev",
        &format!(
            "driver=blklogwrites,node-name=disk,file=disk-file,log=log-file,log-sector-size={sector}"
        ),
        "-device",
        "virtio-blk-pci,drive=disk",
    ]
    .map(str::to_owned)
    .to_vec())
}

/// UEFI's code and its variables, as distributions name them.
fn ovmf() -> Result<(PathBuf, PathBuf)> {
    for (code, vars) in [
        (
            "/usr/share/OVMF/OVMF_CODE_4M.fd",
            "/usr/share/OVMF/OVMF_VARS_4M.fd",
        ),
        (
            "/usr/share/OVMF/OVMF_CODE.fd",
            "/usr/share/OVMF/OVMF_VARS.fd",
        ),
        (
            "/usr/share/edk2/OvmfX64/OVMF_CODE.fd",
            "/usr/share/edk2/OvmfX64/OVMF_VARS.fd",
        ),
        (
            "/usr/share/edk2-ovmf/OVMF_CODE.fd",
            "/usr/share/edk2-ovmf/OVMF_VARS.fd",
        ),
        (
            "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
            "/usr/share/edk2/x64/OVMF_VARS.4m.fd",
        ),
        (
            "/usr/share/edk2/ovmf/OVMF_CODE.fd",
            "/usr/share/edk2/ovmf/OVMF_VARS.fd",
        ),
    ] {
        if Path::new(code).exists() && Path::new(vars).exists() {
            return Ok((code.into(), vars.into()));
        }
    }
    bail!("there is no UEFI firmware (OVMF) on this machine")
}
