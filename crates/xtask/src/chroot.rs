//! Commands inside a root, with mounts that nobody else sees.
//!
//! Only for making and examining the lab: what `be` does itself to enter an
//! environment is what the tests are about, and is not used here.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, stat};

use crate::loopdev::Loop;
use crate::run::{cmd, last_lines};
use crate::temp;

/// A root directory to run commands in.
#[derive(Debug, Clone)]
pub struct Chroot {
    root: PathBuf,
    devices: Vec<(PathBuf, String)>,
    env: Vec<(OsString, OsString)>,
}

impl Chroot {
    /// The root at this directory.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
            devices: Vec::new(),
            env: Vec::new(),
        }
    }

    /// Shows a block device that the root, or what is mounted below it, lies on,
    /// and its /dev/disk/by-uuid link, to the commands: what GRUB's tools look for.
    #[must_use]
    pub fn device(mut self, device: &Loop, uuid: &str) -> Self {
        self.devices
            .push((device.node().to_path_buf(), uuid.to_owned()));
        self
    }

    /// Adds a variable to the otherwise fixed environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Runs a command and returns its standard output.
    ///
    /// # Errors
    /// The command fails; the error carries the end of its output.
    pub fn run<S: AsRef<OsStr>>(&self, argv: &[S]) -> Result<String> {
        let output = self.output(argv)?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let name: Vec<_> = argv
                .iter()
                .map(|arg| arg.as_ref().to_string_lossy())
                .collect();
            bail!(
                "{} in {}: {}\n{}\n{}",
                name.join(" "),
                self.root.display(),
                output.status,
                last_lines(&stdout, 60),
                last_lines(&String::from_utf8_lossy(&output.stderr), 60)
            );
        }
        Ok(stdout)
    }

    /// Runs a command, whatever its outcome.
    ///
    /// # Errors
    /// The mounts cannot be made or the command cannot be started.
    pub fn output<S: AsRef<OsStr>>(&self, argv: &[S]) -> Result<Output> {
        let argv: Vec<OsString> = argv.iter().map(|arg| arg.as_ref().to_owned()).collect();
        // A mount namespace belongs to a thread: with this one it ends, and
        // with it every mount made below.
        std::thread::scope(|scope| {
            scope
                .spawn(|| self.output_in_this_thread(&argv))
                .join()
                .map_err(|_| anyhow!("the thread of a chroot panicked"))?
        })
        .with_context(|| format!("enter {}", self.root.display()))
    }

    fn output_in_this_thread(&self, argv: &[OsString]) -> Result<Output> {
        unshare(CloneFlags::CLONE_NEWNS).context("unshare the mounts")?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .context("make the mounts private")?;
        self.forget_others()?;
        // grub-probe finds the device of / only if / is a mount.
        let with_all_below = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(&self.root), &self.root, none, with_all_below, none).context("bind the root")?;
        mount(
            Some("sysfs"),
            &self.root.join("sys"),
            Some("sysfs"),
            MsFlags::empty(),
            none,
        )
        .context("mount /sys")?;
        tmpfs(&self.root.join("run"), "mode=755")?;
        fs::create_dir(self.root.join("run/lock"))?;
        self.make_dev().context("make /dev")?;
        let mut mount_proc = OsString::from("--mount-proc=");
        mount_proc.push(self.root.join("proc"));
        // Whoever kills this process must not leave an emerge behind.
        cmd("setpriv", ["--pdeathsig", "KILL", "unshare"])
            .args(["--pid", "--fork", "--kill-child"])
            .arg(mount_proc)
            .arg("chroot")
            .arg(&self.root)
            .args(argv)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .envs([
                ("HOME", "/root"),
                ("TERM", "dumb"),
                ("LANG", "C.UTF-8"),
                ("NO_COLOR", "1"),
            ])
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .context("start setpriv")
    }

    /// Drops, in this namespace alone, the mounts of the other lab images that
    /// it was born with: it would keep their file systems from ending.
    fn forget_others(&self) -> Result<()> {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").context("read mountinfo")?;
        for point in table
            .lines()
            .rev()
            .filter_map(|line| line.split(' ').nth(4))
        {
            let path = Path::new(point);
            let is_own = path.starts_with(&self.root) || self.root.starts_with(path);
            if point.contains(temp::PREFIX) && !is_own {
                match umount2(path, MntFlags::MNT_DETACH) {
                    // Its owner was faster, or it went with the one above it.
                    Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                    Err(error) => return Err(error).with_context(|| format!("drop {point}")),
                }
            }
        }
        Ok(())
    }

    fn make_dev(&self) -> Result<()> {
        let dev = self.root.join("dev");
        tmpfs(&dev, "mode=755")?;
        for (name, major, minor) in [
            ("null", 1, 3),
            ("zero", 1, 5),
            ("full", 1, 7),
            ("random", 1, 8),
            ("urandom", 1, 9),
            ("tty", 5, 0),
        ] {
            let path = dev.join(name);
            let mode = Mode::from_bits_truncate(0o666);
            mknod(&path, SFlag::S_IFCHR, mode, makedev(major, minor))?;
            // The umask has taken its part of the mode.
            cmd("chmod", ["666"]).arg(&path).status()?;
        }
        for (name, target) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "fd/0"),
            ("stdout", "fd/1"),
            ("stderr", "fd/2"),
            ("ptmx", "pts/ptmx"),
        ] {
            symlink(target, dev.join(name))?;
        }
        fs::create_dir(dev.join("shm"))?;
        tmpfs(&dev.join("shm"), "mode=1777")?;
        fs::create_dir(dev.join("pts"))?;
        let options = Some("newinstance,ptmxmode=0666,mode=620,gid=5");
        let flags = MsFlags::empty();
        mount(
            Some("devpts"),
            &dev.join("pts"),
            Some("devpts"),
            flags,
            options,
        )?;
        for (node, uuid) in &self.devices {
            let name = node.file_name().unwrap_or_default();
            let device = stat(node)?.st_rdev;
            let mode = Mode::from_bits_truncate(0o600);
            mknod(&dev.join(name), SFlag::S_IFBLK, mode, device)?;
            fs::create_dir_all(dev.join("disk/by-uuid"))?;
            symlink(
                Path::new("../..").join(name),
                dev.join("disk/by-uuid").join(uuid),
            )?;
        }
        Ok(())
    }
}

fn tmpfs(target: &Path, options: &str) -> Result<()> {
    mount(
        Some("tmpfs"),
        target,
        Some("tmpfs"),
        MsFlags::MS_NOSUID,
        Some(options),
    )
    .with_context(|| format!("mount a tmpfs on {}", target.display()))
}
