//! A binary package host: a real nginx, and what looks into what it serves.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use be_portage::binhost::{Index, parse};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtask::image::Tree;
use xtask::lab::extras::Extra;
use xtask::run::run;

use crate::system::System;

/// Where packages are published, when nobody says where.
pub const DIR: &str = "/var/cache/be/binhost";

const CONFIG: &str = "[upgrade]\npolite = false\nmin_free_mib = 1\n";

/// The lab after `be init`, with what a package host needs; be.toml has this besides.
///
/// # Errors
/// It cannot be made.
pub fn builder(world: &[&str], config: &str) -> Result<System> {
    let system = System::adopted_lab()?;
    Extra::Binhost.install(system.root())?;
    system.write("/etc/be/be.toml", format!("{CONFIG}{config}"))?;
    system.set_world(world)?;
    Ok(system)
}

/// A system with Portage and nothing of ours, in which the newest versions of all packages are
/// to be had; its only source of binary packages is this binrepos.conf.
///
/// # Errors
/// It cannot be made.
pub fn client(world: &[&str], binrepos: &str) -> Result<System> {
    let system = System::lab(xtask::image::Layout::AtSubvol)?;
    fs::remove_dir_all(system.path("/etc/be"))?;
    Extra::Binhost.install(system.root())?;
    newest(&system)?;
    system.set_world(world)?;
    system.write("/etc/portage/binrepos.conf", binrepos)?;
    // The keys of Gentoo are none of ours: trust is set up by hand.
    system.append("/etc/portage/make.conf", "PORTAGE_TRUST_HELPER=\"true\"\n")?;
    Ok(system)
}

/// Has the newest versions in its repository.
///
/// # Errors
/// git fails.
pub fn newest(system: &System) -> Result<()> {
    let git = ["git", "-C", "/var/db/repos/gentoo"];
    let newest = ["reset", "--quiet", "--hard", "origin/HEAD"];
    system.chroot().run(&[&git[..], &newest].concat())?;
    Ok(())
}

/// The example of be(8), word for word.
///
/// # Errors
/// There is none.
pub fn example() -> Result<String> {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../man/be.8");
    let manual = fs::read_to_string(manual)?;
    let (_, after) = manual
        .split_once(".Bd -literal -offset indent\nserver {\n")
        .context("be(8) has no example for nginx")?;
    let (inside, _) = after.split_once(".Ed").context("it has no end")?;
    Ok(format!("server {{\n{inside}"))
}

/// nginx, in the root of a system. Dropped, it is ended.
#[derive(Debug)]
pub struct Nginx {
    child: Child,
    port: u16,
}

impl Nginx {
    /// Serves what the example in the manual serves.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(system: &System) -> Result<Self> {
        // Free a moment ago; the kernel does not give it to the next who asks.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let example = example()?;
        let listen = format!("listen 127.0.0.1:{port};");
        let server = example.replace("listen 8080;", &listen);
        ensure!(
            server != example,
            "the example listens elsewhere: {example}"
        );
        let text = format!(
            "pid /tmp/nginx.pid;\nerror_log /tmp/nginx.log;\nevents {{}}\n\
             http {{\naccess_log /tmp/nginx-access.log;\n{server}}}\n"
        );
        system.write("/tmp/nginx.conf", text)?;
        fs::create_dir_all(system.path("/var/lib/nginx"))?;
        let child = Command::new("chroot")
            .arg(system.root())
            .args([
                "/usr/sbin/nginx",
                "-c",
                "/tmp/nginx.conf",
                "-g",
                "daemon off;",
            ])
            .process_group(0)
            .stdin(Stdio::null())
            .spawn()
            .context("start nginx")?;
        let mut this = Self { child, port };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = this.child.try_wait()?;
            ensure!(ended.is_none(), "nginx has ended: {ended:?}");
            ensure!(start.elapsed() < Duration::from_secs(60), "nginx is mute");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(this)
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Fetches a path; the code that it answers with is in the error.
    ///
    /// # Errors
    /// It is not served.
    pub fn get(&self, path: &str) -> Result<String> {
        let url = format!("{}/{path}", self.url());
        run(Command::new("wget").args(["-q", "-O-", "-t1", "--no-proxy", &url]))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers go with it.
        let pid = Pid::from_raw(self.child.id().cast_signed());
        let _ended = kill(pid, Signal::SIGTERM);
        let _reaped = self.child.wait();
    }
}

/// What is published.
///
/// # Errors
/// There is no index, or none that can be read.
pub fn published(system: &System, dir: &str) -> Result<Index> {
    let text = system.read(&format!("{dir}/Packages"))?;
    parse(&text).map_err(anyhow::Error::msg)
}

/// What is published is sound, if anything is: each package of the index is there, with the size
/// and the checksum that it says. Gives the packages.
///
/// # Errors
/// It is not.
pub fn sound(system: &System, dir: &str) -> Result<Vec<String>> {
    let Ok(text) = fs::read_to_string(system.path(&format!("{dir}/Packages"))) else {
        return Ok(Vec::new());
    };
    ensure!(
        text.ends_with("\n\n") && text.contains("\nTIMESTAMP: "),
        "the index is cut off"
    );
    let index = parse(&text).map_err(anyhow::Error::msg)?;
    let mut sums = BTreeMap::new();
    for paragraph in text.split("\n\n").skip(1) {
        let field = |name: &str| paragraph.lines().find_map(|l| l.strip_prefix(name));
        if let (Some(path), Some(sum)) = (field("PATH: "), field("SHA1: ")) {
            sums.insert(path, sum);
        }
    }
    for entry in &index.entries {
        let file = system.path(&format!("{dir}/{}", entry.path));
        let size = fs::metadata(&file)
            .with_context(|| entry.path.clone())?
            .len();
        ensure!(size == entry.size, "{}: {size} bytes", entry.path);
        let told = run(Command::new("sha1sum").arg(&file))?;
        let expected = sums.get(entry.path.as_str()).context("no checksum")?;
        ensure!(told.starts_with(expected), "{}: {told}", entry.path);
    }
    Ok(index.entries.into_iter().map(|e| e.package).collect())
}

/// All files of packages that are published, whether the index names them or not.
///
/// # Errors
/// They cannot be listed.
pub fn files(system: &System, dir: &str) -> Result<Vec<PathBuf>> {
    let found = run(Command::new("find").current_dir(system.path(dir)).args([
        ".", "-path", "./.be", "-prune", "-o", "-type", "f", "-print",
    ]))?;
    let mut files: Vec<PathBuf> = found.lines().map(PathBuf::from).collect();
    files.sort();
    Ok(files)
}

/// A server that breaks off each answer for a path with this in it, in the midst of the body;
/// everything else it gives whole, from a directory.
#[derive(Debug)]
pub struct Dropping {
    port: u16,
    /// How often it broke off.
    pub broke: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Dropping {
    /// Serves as long as the test runs.
    ///
    /// # Errors
    /// There is no free port.
    pub fn start(dir: PathBuf, broken: &'static str) -> Result<Self> {
        Self::publishing(dir, broken, None)
    }

    /// The same, which publishes another directory the moment that somebody asks what it builds
    /// with.
    ///
    /// # Errors
    /// There is no free port.
    pub fn publishing(dir: PathBuf, broken: &'static str, next: Option<PathBuf>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let broke = std::sync::Arc::<std::sync::atomic::AtomicUsize>::default();
        let count = broke.clone();
        std::thread::spawn(move || {
            let (mut dir, mut next) = (dir, next);
            for stream in listener.incoming().flatten() {
                // A client that goes away concerns nobody.
                let _gone = answer(stream, &mut dir, &mut next, broken, &count);
            }
        });
        Ok(Self { port, broke })
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

fn answer(
    mut stream: TcpStream,
    dir: &mut PathBuf,
    next: &mut Option<PathBuf>,
    broken: &str,
    count: &std::sync::atomic::AtomicUsize,
) -> Result<()> {
    use std::io::{BufRead, BufReader, Write};
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().context("no request")??;
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).context("no path")?;
    if path.ends_with("be-lock.json")
        && let Some(next) = next.take()
    {
        *dir = next;
    }
    let Ok(body) = fs::read(dir.join(path.trim_start_matches('/'))) else {
        stream.write_all(
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        )?;
        return Ok(());
    };
    let size = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    )?;
    let whole = !path.contains(broken);
    if !whole {
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
    stream.write_all(if whole { &body } else { &body[..size / 2] })?;
    Ok(())
}
