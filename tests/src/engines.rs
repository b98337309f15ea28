//! Engines that compile for others, as real daemons in the root of a system.

use std::ffi::OsStr;
use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtask::image::Tree;

use crate::system::System;

/// A free port of 127.0.0.1; the kernel does not give it to the next who asks.
///
/// # Errors
/// There is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A daemon in a PID namespace of its own, in the root of a system. Dropped, it is ended with
/// all that it started.
#[derive(Debug)]
pub struct Daemon(Child);

impl Daemon {
    /// Starts it; with a /run that nobody else has, if that is wanted.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(system: &System, own_run: bool, argv: &[&str]) -> Result<Self> {
        const ENTER: &str = "root=$1; own=$2; shift 2; \
            mount -t proc proc \"$root/proc\" && mount --bind /dev \"$root/dev\" || exit; \
            if [ \"$own\" = y ]; then \
            mount -t tmpfs tmpfs \"$root/run\" && mkdir -m 777 \"$root/run/icecc\" || exit; fi; \
            exec chroot \"$root\" \"$@\"";
        let own = OsStr::new(if own_run { "y" } else { "n" });
        let child = Command::new("unshare")
            .args(["--mount", "--pid", "--fork"])
            .args(["sh", "-c", ENTER, "sh"])
            .arg(system.root())
            .arg(own)
            .args(argv)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {argv:?}"))?;
        Ok(Self(child))
    }

    /// Waits until it takes connections at this port.
    ///
    /// # Errors
    /// It ends, or does not within a minute.
    pub fn listens(&mut self, port: u16) -> Result<()> {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = self.0.try_wait()?;
            ensure!(ended.is_none(), "it has ended: {ended:?}");
            ensure!(start.elapsed() < Duration::from_secs(60), "it is mute");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It is what waits for the first process of the namespace, with which all others end.
        // One that has changed its user is not told that its parent died.
        let pid = self.0.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        for child in children.unwrap_or_default().split_whitespace() {
            if let Ok(child) = child.parse() {
                let _ended = kill(Pid::from_raw(child), Signal::SIGKILL);
            }
        }
        let _reaped = self.0.wait();
    }
}

/// distccd of distcc(1).
#[derive(Debug)]
pub struct Distccd {
    _daemon: Daemon,
    /// Where it listens.
    pub port: u16,
    log: PathBuf,
}

impl Distccd {
    /// Compiles for this machine, with the compilers of the system.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(system: &System) -> Result<Self> {
        const LOG: &str = "/tmp/distccd.log";
        let port = free_port()?;
        system.write(LOG, "")?;
        fs::set_permissions(system.path(LOG), fs::Permissions::from_mode(0o666))?;
        let mut daemon = Daemon::start(
            system,
            false,
            &[
                "/usr/bin/distccd",
                "--daemon",
                "--no-detach",
                "--enable-tcp-insecure",
                "--listen=127.0.0.1",
                "--allow=127.0.0.1",
                &format!("--port={port}"),
                &format!("--log-file={LOG}"),
                "--log-level=info",
                "--user=portage",
                "--jobs=2",
            ],
        )?;
        daemon.listens(port)?;
        Ok(Self {
            _daemon: daemon,
            port,
            log: system.path(LOG),
        })
    }

    /// The names of what it has compiled, in that order.
    ///
    /// # Errors
    /// Its log cannot be read.
    pub fn compiled(&self) -> Result<Vec<String>> {
        let log = fs::read_to_string(&self.log)?;
        let done = log.lines().filter(|line| line.contains(" COMPILE_OK "));
        let names = done.filter_map(|line| line.rsplit(' ').next());
        Ok(names.map(str::to_owned).collect())
    }
}

/// icecream: a scheduler, the daemon of the system, which gives all away, and another machine,
/// which is a second daemon behind another address of this one.
#[derive(Debug)]
pub struct Icecream {
    _daemons: [Daemon; 3],
    here: PathBuf,
    there: PathBuf,
}

impl Icecream {
    /// The other machine, as the scheduler knows it.
    pub const OTHER: &'static str = "there";

    /// Starts all three, and waits until they know each other.
    ///
    /// # Errors
    /// One does not start, or this machine has no address but 127.0.0.1.
    pub fn start(system: &System) -> Result<Self> {
        let address = UdpSocket::bind("0.0.0.0:0")?;
        // Nothing is sent; it only says by which address one would be.
        address
            .connect("192.0.2.77:9")
            .context("this machine has no network")?;
        let address = address.local_addr()?.ip();
        for dir in ["/run/icecc", "/tmp/here", "/tmp/there"] {
            let path = system.path(dir);
            fs::create_dir_all(&path)?;
            chown(&path, Some(250), Some(250))?;
        }
        let port = free_port()?.to_string();
        let scheduler = ["/usr/sbin/icecc-scheduler", "-n", "be-tests", "-p", &port];
        // Not asked whether it listens: who says nothing there holds it up.
        let scheduler = Daemon::start(system, false, &scheduler)?;
        let daemon = |name: &str, by: &str, more: &[&str], own_run: bool| {
            let by = format!("{by}:{port}");
            let (base, log) = (format!("/tmp/{name}/envs"), format!("/tmp/{name}/log"));
            let argv = [
                &[
                    "/usr/sbin/iceccd",
                    "-vvv",
                    "-n",
                    "be-tests",
                    "-u",
                    "portage",
                ][..],
                &["-s", &by, "-N", name, "-b", &base, "-l", &log],
                more,
            ];
            Daemon::start(system, own_run, &argv.concat())
        };
        let own_port = free_port()?.to_string();
        let this = Self {
            _daemons: [
                scheduler,
                daemon("here", "127.0.0.1", &["--no-remote"], false)?,
                daemon(Self::OTHER, &address.to_string(), &["-p", &own_port], true)?,
            ],
            here: system.path("/tmp/here/log"),
            there: system.path("/tmp/there/log"),
        };
        let start = Instant::now();
        let knows =
            |log| fs::read_to_string(log).is_ok_and(|l| l.contains("Connected to scheduler"));
        while !knows(&this.here) || !knows(&this.there) {
            let told = || fs::read_to_string(&this.there).unwrap_or_default();
            ensure!(
                start.elapsed() < Duration::from_secs(60),
                "no scheduler: {}",
                told()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(this)
    }

    /// What the daemon of the system logged, and what the other machine did.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn logs(&self) -> Result<(String, String)> {
        let read = |path| fs::read_to_string(path);
        Ok((read(&self.here)?, read(&self.there)?))
    }
}

/// How often ccache found something in a cache of the system, and how often it did not.
///
/// # Errors
/// It cannot be asked.
pub fn ccache_stats(system: &System, dir: &str) -> Result<(u64, u64)> {
    let asked = system.chroot().env("CCACHE_DIR", dir);
    let told = asked.run(&["ccache", "--print-stats"])?;
    let count = |name: &str| -> u64 {
        let fields = told.lines().filter_map(|line| line.split_once('\t'));
        let found = fields.filter(|(known, _)| *known == name);
        found
            .filter_map(|(_, n)| n.trim().parse::<u64>().ok())
            .sum()
    };
    let hits = count("direct_cache_hit") + count("preprocessed_cache_hit");
    Ok((hits, count("cache_miss")))
}
