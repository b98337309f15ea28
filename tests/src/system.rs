//! A system on btrfs with `be` beside it, and its state as btrfs and the host
//! tell it.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::chroot::Chroot;
use xtask::fingerprint::Fingerprint;
use xtask::host::HostState;
use xtask::image::{Layout, LoopImage, Tree};
use xtask::lab::managers::{self, Managed};
use xtask::loopdev::{Loop, Mount};
use xtask::process;
use xtask::run::{cmd, run};

use crate::be::Be;
use crate::small::Small;

enum Kind {
    Lab(Box<LoopImage>),
    Small(Small),
}

/// A system, with its top level mounted as well.
pub struct System {
    /// `be`, managing it.
    pub be: Be,
    // Dropped in this order.
    top: Mount,
    kind: Kind,
    layout: Layout,
}

impl Tree for System {
    fn root(&self) -> &Path {
        match &self.kind {
            Kind::Lab(image) => image.root(),
            Kind::Small(small) => small.root(),
        }
    }
}

impl System {
    /// The lab: real Portage, real kernels, real GRUB.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn lab(layout: Layout) -> Result<Self> {
        let system = Self::new(Kind::Lab(Box::new(LoopImage::plain(layout)?)), layout)?;
        // Where tests run side by side, what gives way to everything else never gets on.
        system.write("/etc/be/be.toml", "[upgrade]\npolite = false\n")?;
        Ok(system)
    }

    /// The lab after `be init`, its root in `@`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn adopted_lab() -> Result<Self> {
        Self::adopted_lab_with(Layout::AtSubvol)
    }

    /// The lab after `be init`, with everything mounted below its root as fstab
    /// says.
    ///
    /// # Errors
    /// It cannot be made, or not be mounted: see [`Layout::is_mountable`].
    pub fn adopted_lab_with(layout: Layout) -> Result<Self> {
        let system = Self::lab(layout)?;
        system.be.run(&["init"]).done();
        Ok(system)
    }

    /// The small one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn small() -> Result<Self> {
        Self::new(Kind::Small(Small::new()?), Layout::AtSubvol)
    }

    /// The small one after `be init`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn adopted_small() -> Result<Self> {
        let system = Self::small()?;
        system.be.run(&["init"]).done();
        Ok(system)
    }

    /// The small one with its root as the top level, after `be init`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn adopted_small_on_top() -> Result<Self> {
        let system = Self::new(Kind::Small(Small::on_top()?), Layout::TopLevel)?;
        system.be.run(&["init"]).done();
        Ok(system)
    }

    /// The small one on a disk of so many bytes, after `be init`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn adopted_small_of(bytes: u64) -> Result<Self> {
        let system = Self::new(Kind::Small(Small::sized(bytes)?), Layout::AtSubvol)?;
        system.be.run(&["init"]).done();
        Ok(system)
    }

    /// A system with the package manager of another distribution, after `be init`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn adopted_with(manager: Managed) -> Result<Self> {
        const SIZE: u64 = 3 << 30;
        let small = Small::unpacked(&managers::ensure(manager)?, SIZE)?;
        let system = Self::new(Kind::Small(small), Layout::AtSubvol)?;
        system.be.run(&["init"]).done();
        Ok(system)
    }

    fn new(kind: Kind, layout: Layout) -> Result<Self> {
        let (root, device, dir) = match &kind {
            Kind::Lab(image) => (image.root(), image.device(), image.dir()),
            Kind::Small(small) => (small.root(), small.device(), small.dir()),
        };
        let target = dir.join("top");
        fs::create_dir(&target)?;
        let top = Mount::new(device.node(), &target, "btrfs", "subvolid=5")?;
        Ok(Self {
            be: Be::at(root)?,
            top,
            kind,
            layout,
        })
    }

    /// The directory that everything of it lies in.
    #[must_use]
    pub fn dir(&self) -> &Path {
        match &self.kind {
            Kind::Lab(image) => image.dir(),
            Kind::Small(small) => small.dir(),
        }
    }

    /// The device of its btrfs.
    #[must_use]
    pub fn device(&self) -> &Loop {
        match &self.kind {
            Kind::Lab(image) => image.device(),
            Kind::Small(small) => small.device(),
        }
    }

    /// The devices of all its file systems, by both of their names.
    #[must_use]
    pub fn devices(&self) -> Vec<PathBuf> {
        let devices: Vec<&Loop> = match &self.kind {
            Kind::Lab(image) => image.volumes().all().map(|v| &v.device).collect(),
            Kind::Small(small) => vec![small.device()],
        };
        let names = devices.iter().flat_map(|d| [d.node(), d.device()]);
        names.map(Path::to_owned).collect()
    }

    /// The UUID of its btrfs.
    #[must_use]
    pub fn uuid(&self) -> &str {
        match &self.kind {
            Kind::Lab(image) => image.uuid(),
            Kind::Small(small) => small.uuid(),
        }
    }

    /// The lab's image.
    ///
    /// # Panics
    /// It is no lab.
    #[must_use]
    pub fn image(&self) -> &LoopImage {
        match &self.kind {
            Kind::Lab(image) => image,
            Kind::Small(_) => panic!("a small system has no image"),
        }
    }

    /// Commands in the running root, not by way of `be`.
    #[must_use]
    pub fn chroot(&self) -> Chroot {
        match &self.kind {
            Kind::Lab(image) => image.chroot(),
            Kind::Small(_) => Chroot::new(self.root()).device(self.device(), self.uuid()),
        }
    }

    /// The host's path of a path from the top level, with a slash at its beginning or without.
    #[must_use]
    pub fn top(&self, path: &str) -> PathBuf {
        // Joined with its slash it would be the host's own.
        self.top.path().join(path.trim_start_matches('/'))
    }

    /// The host's path of a path in the root of an environment, as [`System::top`].
    #[must_use]
    pub fn env(&self, name: &str, path: &str) -> PathBuf {
        self.top(&format!("@be/{name}/root/{}", path.trim_start_matches('/')))
    }

    /// Mounts the root of an environment elsewhere, as if it were the running one.
    ///
    /// # Errors
    /// The mount fails.
    pub fn mount_root_of(&self, name: &str) -> Result<(Mount, Be)> {
        let target = self.dir().join(format!("root-of-{name}"));
        fs::create_dir_all(&target)?;
        let options = format!("subvol=/@be/{name}/root");
        let mount = Mount::new(self.device().node(), &target, "btrfs", &options)?;
        let be = Be::at(mount.path())?;
        Ok((mount, be))
    }

    /// The same `be`, to which the loop devices of this system are disks, so that GRUB could
    /// write to them.
    ///
    /// # Errors
    /// The devices cannot be described.
    pub fn on_disks(&self, be: &Be) -> Result<Be> {
        let dir = self.dir().join("block-devices");
        fs::create_dir_all(&dir)?;
        for device in self.devices() {
            let number = fs::metadata(&device)?.rdev();
            let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
            let link = dir.join(format!("{major}:{minor}"));
            if !link.is_symlink() {
                symlink("../../devices/pci0000:00/0000:00:01.0/block/vda", link)?;
            }
        }
        Ok(be.clone().with_block_devices(dir))
    }

    /// Makes a subvolume at this path from the top level.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make_subvolume(&self, path: &str) -> Result<()> {
        run(cmd("btrfs", ["--quiet", "subvolume", "create"]).arg(self.top(path)))?;
        Ok(())
    }

    /// The running root, without the store where that lies in it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn running(&self) -> Result<Fingerprint> {
        Fingerprint::of(self.root(), &["@be"])
    }

    /// Mounts, loop devices and processes of the host.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn host(&self) -> Result<HostState> {
        HostState::of(self.dir())
    }

    /// What has changed on the host for good, as far as it has to do with this
    /// system, and the processes that still work in it. Other tests come and go
    /// at the same time, with loop devices and mount namespaces of their own.
    ///
    /// # Errors
    /// The host's state cannot be read.
    pub fn host_changes(&self, before: &HostState) -> Result<Vec<String>> {
        let start = Instant::now();
        loop {
            let lines = self.host_changes_now(before)?;
            if lines.is_empty() || start.elapsed() > GONE {
                return Ok(lines);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn host_changes_now(&self, before: &HostState) -> Result<Vec<String>> {
        let own = self.devices();
        let dir = self.dir().to_string_lossy();
        let mut lines = before.diff(&self.host()?);
        lines.retain(|line| {
            if line[1..].starts_with(" process ") {
                return false;
            }
            let source = line.split(' ').find(|word| is_lab_device(word));
            match source {
                Some(source) => own.iter().any(|device| device == Path::new(source)),
                None => !line[1..].starts_with(" loop ") || line.contains(&*dir),
            }
        });
        let left = self.processes()?;
        lines.extend(left.iter().map(|p| format!("+ process {p}")));
        Ok(lines)
    }

    /// The processes that work in this system.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn processes(&self) -> Result<Vec<String>> {
        process::holding(self.dir(), &self.devices())
    }

    /// All subvolumes: path, number and UUID, a line each; without what upgrades have built,
    /// which outlives them.
    ///
    /// # Errors
    /// btrfs cannot tell.
    pub fn subvolumes(&self) -> Result<Vec<String>> {
        let text = run(cmd("btrfs", ["subvolume", "list", "-u"]).arg(self.top.path()))?;
        let mut lines: Vec<String> = text
            .lines()
            .filter_map(|line| {
                // ID 256 gen 17 top level 5 uuid … path …
                let (left, path) = line.split_once(" path ")?;
                let id = left.split(' ').nth(1)?;
                let uuid = left.rsplit(' ').next()?;
                Some(format!("{path} {id} {uuid}"))
            })
            .filter(|line| !line.starts_with("@be/.built/"))
            .collect();
        lines.sort();
        Ok(lines)
    }

    /// The paths of all subvolumes.
    ///
    /// # Errors
    /// btrfs cannot tell.
    pub fn subvolume_paths(&self) -> Result<Vec<String>> {
        let lines = self.subvolumes()?;
        let path = |line: &String| line.rsplitn(3, ' ').last().map(str::to_owned);
        Ok(lines.iter().filter_map(path).collect())
    }

    /// The menu, as GRUB will read it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn menu(&self) -> Result<String> {
        let path = self.top("@be/.grub/menu.cfg");
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// What GRUB boots by default, by the script itself.
    ///
    /// # Errors
    /// The menu has no default.
    pub fn menu_default(&self) -> Result<String> {
        let menu = self.menu()?;
        let line = menu
            .lines()
            .find_map(|line| line.trim().strip_prefix("set default='be-"))
            .context("the menu has no default")?;
        Ok(line.trim_end_matches('\'').to_owned())
    }

    /// What GRUB boots by default, after the menu has been found sound: GRUB's
    /// own parser takes it, and every file that it loads is there.
    ///
    /// # Errors
    /// It is not sound.
    pub fn sound_menu(&self) -> Result<String> {
        run(&mut cmd(
            "grub-script-check",
            [self.top("@be/.grub/menu.cfg")],
        ))?;
        let menu = self.menu()?;
        let mut loads = 0;
        for line in menu.lines().map(str::trim) {
            let words = line.strip_prefix("if ").unwrap_or(line);
            let Some(rest) = ["linux ($be_root)'/", "initrd ($be_root)'/"]
                .iter()
                .find_map(|p| words.strip_prefix(p))
            else {
                continue;
            };
            let file = rest.split('\'').next().unwrap_or_default();
            let path = self.top(file);
            ensure!(path.is_file(), "{} is in the menu", path.display());
            loads += 1;
        }
        ensure!(loads > 0, "the menu loads nothing");
        self.menu_default()
    }

    /// `be list --json`, by name.
    #[must_use]
    pub fn listed(&self, name: &str) -> Option<Value> {
        let list = self.be.run(&["list", "--json"]).done().json();
        let all = list["environments"].as_array()?;
        all.iter().find(|e| e["name"] == name).cloned()
    }

    /// The names of all environments, the oldest first.
    ///
    /// # Errors
    /// `be list` prints no list.
    pub fn names(&self) -> Result<Vec<String>> {
        let said = self.be.run(&["list", "--json"]).done().json();
        let all = said["environments"].as_array().context("no list")?;
        let names = all
            .iter()
            .filter_map(|e| Some(e["name"].as_str()?.to_owned()));
        Ok(names.collect())
    }

    /// The record of an environment, as it is on the disk.
    ///
    /// # Errors
    /// There is none.
    pub fn record(&self, name: &str) -> Result<Value> {
        let path = self.top(&format!("@be/{name}/be.json"));
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// What an interrupted command has left for the next one.
    #[must_use]
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let dirs = ["@be/.work/new", "@be/.work/gone"];
        dirs.iter()
            .filter_map(|dir| fs::read_dir(self.top(dir)).ok())
            .flat_map(|entries| entries.flatten().map(|e| e.path()))
            .collect()
    }

    /// Waits until no process works in this system, but for at most `limit`.
    ///
    /// # Errors
    /// One still does.
    pub fn quiet_within(&self, limit: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            let left = self.processes()?;
            if left.is_empty() {
                return Ok(());
            }
            ensure!(start.elapsed() < limit, "still there: {left:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Makes the next upgrade concern only these packages.
    ///
    /// # Errors
    /// The world file cannot be written.
    pub fn set_world(&self, packages: &[&str]) -> Result<()> {
        self.write("/var/lib/portage/world", packages.join("\n") + "\n")
    }

    /// How long `app-misc/slow` builds, in seconds.
    ///
    /// # Errors
    /// make.conf cannot be written.
    pub fn set_slow(&self, seconds: u32) -> Result<()> {
        self.append(
            "/etc/portage/make.conf",
            format!("LAB_SLOW=\"{seconds}\"\n"),
        )
    }

    /// Whether the environment is building `app-misc/slow`.
    #[must_use]
    pub fn builds_slow(&self, name: &str) -> bool {
        let log = "var/tmp/portage/app-misc/slow-2/temp/build.log";
        fs::read_to_string(self.env(name, log)).is_ok_and(|text| text.contains("compiling part"))
    }

    /// The layout.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }
}

/// Whether a word in the description of a mount is a device that some test's
/// system is on.
fn is_lab_device(word: &str) -> bool {
    word.starts_with("/dev/be-lab") || word.starts_with("/dev/loop")
}

/// How long the kernel may take to end a whole PID namespace.
pub const GONE: Duration = Duration::from_secs(20);

/// No difference, for `assert_eq!`.
pub const NOTHING: Vec<String> = Vec::new();

/// Mounts what the fstab of the system mounted at `root` lists of the filesystem on
/// `device`, in its order, as mount(8) does at boot.
///
/// # Errors
/// A mount fails.
pub fn mount_all(device: &Path, root: &Path) -> Result<()> {
    let text = fs::read_to_string(root.join("etc/fstab"))?;
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, target, "btrfs", options, ..] = fields[..] else {
            continue;
        };
        if target == "/" {
            continue;
        }
        let target = root.join(target.trim_start_matches('/'));
        let (own, others): (Vec<_>, Vec<_>) = options
            .split(',')
            .partition(|o| o.starts_with("X-mount.subdir="));
        let mount = |target: &Path| {
            run(cmd("mount", ["-t", "btrfs", "-o", &others.join(",")])
                .arg(device)
                .arg(target))
        };
        let Some(inside) = own.first().and_then(|o| o.split_once('=')) else {
            mount(&target)?;
            continue;
        };
        // mount(8) before 2.39 mounts nothing here where mounts are private.
        let whole = tempfile::tempdir()?;
        mount(whole.path())?;
        let bound = run(cmd("mount", ["--bind"])
            .arg(whole.path().join(inside.1))
            .arg(target));
        run(&mut cmd("umount", [whole.path()]))?;
        bound?;
    }
    Ok(())
}

/// Ends all mounts below a directory.
///
/// # Errors
/// One is in use.
pub fn unmount_below(root: &Path) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut targets: Vec<&str> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|t| Path::new(t).starts_with(root) && Path::new(t) != root)
        .collect();
    targets.sort_by_key(|t| std::cmp::Reverse(t.len()));
    for target in targets {
        run(&mut cmd("umount", [target]))?;
    }
    Ok(())
}
