//! Files of ours in a system: the services that judge a boot and that carry what changed when the
//! system shuts down, the hooks of what installs
//! kernels, the watchdog. They are part of an environment, and so of every clone of it.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use be_btrfs::Root;

/// How each init is told to start the service that judges a boot: the init, by its program,
/// and the links, of which any will do.
const JUDGES: [(&[&str], &[&str]); 2] = [
    (
        SYSTEMD,
        &[
            "etc/systemd/system/multi-user.target.wants/be-confirm.service",
            "usr/lib/systemd/system/multi-user.target.wants/be-confirm.service",
        ],
    ),
    (OPENRC, &["etc/runlevels/default/be-confirm"]),
];

/// What every text of ours has in one of its first lines, and nobody else's.
const MARK: &str = "# Boot environments of be(8)";

/// One file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File {
    /// From the root.
    pub path: &'static str,
    /// What it is.
    pub content: Content,
    /// Where one of them is, it is wanted; from the root.
    wanted_by: &'static [&'static str],
    /// Where a package of `be` puts the same.
    vendor: Option<&'static str>,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A text, and the mode.
    Text(&'static str, u32),
    /// A link by which an init starts a service.
    Link(&'static str),
}

/// How a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// As this `be` would write it.
    Good,
    /// Of another version of `be`, or not executable.
    Outdated,
    /// Not there.
    Missing,
    /// Somebody else wrote it: it is left alone.
    Foreign,
}

/// A file that a system should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fact {
    /// Which one.
    pub file: File,
    /// How it is.
    pub state: State,
}

/// The programs, and not the directories for units: packages put units into those whatever
/// the init is.
const SYSTEMD: &[&str] = &["usr/lib/systemd/systemd", "lib/systemd/systemd"];
const OPENRC: &[&str] = &["usr/sbin/openrc-run", "sbin/openrc-run"];
const KERNEL_INSTALL: &[&str] = &[
    "etc/kernel/install.d",
    "usr/bin/kernel-install",
    "bin/kernel-install",
];
const POSTINST: &[&str] = &[
    "etc/kernel/postinst.d",
    "usr/lib/kernel/postinst.d",
    "usr/sbin/installkernel",
    "usr/bin/installkernel",
    "sbin/installkernel",
];
const POSTRM: &[&str] = &["etc/kernel/postrm.d"];

const HOOK: Content = Content::Text(include_str!("../system/kernel-hook"), 0o755);

/// All but the watchdog; a link comes after what it leads to.
const ALL: &[File] = &[
    File {
        path: "etc/systemd/system/be-confirm.service",
        content: Content::Text(include_str!("../system/be-confirm.service"), 0o644),
        wanted_by: SYSTEMD,
        vendor: Some("usr/lib/systemd/system/be-confirm.service"),
    },
    File {
        path: "etc/systemd/system/be-stuck.service",
        content: Content::Text(include_str!("../system/be-stuck.service"), 0o644),
        wanted_by: SYSTEMD,
        vendor: Some("usr/lib/systemd/system/be-stuck.service"),
    },
    File {
        path: "etc/systemd/system/multi-user.target.wants/be-confirm.service",
        content: Content::Link("/etc/systemd/system/be-confirm.service"),
        wanted_by: SYSTEMD,
        vendor: Some("usr/lib/systemd/system/multi-user.target.wants/be-confirm.service"),
    },
    File {
        path: "etc/systemd/system/emergency.target.wants/be-stuck.service",
        content: Content::Link("/etc/systemd/system/be-stuck.service"),
        wanted_by: SYSTEMD,
        vendor: Some("usr/lib/systemd/system/emergency.target.wants/be-stuck.service"),
    },
    File {
        path: "etc/init.d/be-confirm",
        content: Content::Text(include_str!("../system/be-confirm.initd"), 0o755),
        wanted_by: OPENRC,
        vendor: None,
    },
    File {
        path: "etc/runlevels/default/be-confirm",
        content: Content::Link("/etc/init.d/be-confirm"),
        wanted_by: OPENRC,
        vendor: None,
    },
    File {
        path: "etc/systemd/system/be-carry.service",
        content: Content::Text(include_str!("../system/be-carry.service"), 0o644),
        wanted_by: SYSTEMD,
        vendor: Some("usr/lib/systemd/system/be-carry.service"),
    },
    File {
        path: "etc/systemd/system/multi-user.target.wants/be-carry.service",
        content: Content::Link("/etc/systemd/system/be-carry.service"),
        wanted_by: SYSTEMD,
        vendor: Some("usr/lib/systemd/system/multi-user.target.wants/be-carry.service"),
    },
    File {
        path: "etc/init.d/be-carry",
        content: Content::Text(include_str!("../system/be-carry.initd"), 0o755),
        wanted_by: OPENRC,
        vendor: None,
    },
    File {
        path: "etc/runlevels/boot/be-carry",
        content: Content::Link("/etc/init.d/be-carry"),
        wanted_by: OPENRC,
        vendor: None,
    },
    // run-parts, which Debian's kernels use, passes over a name with a dot.
    File {
        path: "etc/kernel/postinst.d/zz-be",
        content: HOOK,
        wanted_by: POSTINST,
        vendor: None,
    },
    // Gentoo's installkernel takes no others.
    File {
        path: "etc/kernel/postinst.d/zz-be.install",
        content: HOOK,
        wanted_by: POSTINST,
        vendor: Some("usr/lib/kernel/postinst.d/zz-be.install"),
    },
    File {
        path: "etc/kernel/postrm.d/zz-be",
        content: HOOK,
        wanted_by: POSTRM,
        vendor: None,
    },
    File {
        path: "etc/kernel/install.d/95-be.install",
        content: HOOK,
        wanted_by: KERNEL_INSTALL,
        vendor: Some("usr/lib/kernel/install.d/95-be.install"),
    },
];

/// What upgrades a clone every night.
const NIGHTLY: &[File] = &[
    File {
        path: "etc/systemd/system/be-upgrade.service",
        content: Content::Text(include_str!("../system/be-upgrade.service"), 0o644),
        wanted_by: SYSTEMD,
        vendor: Some("usr/lib/systemd/system/be-upgrade.service"),
    },
    File {
        path: "etc/systemd/system/be-upgrade.timer",
        content: Content::Text(include_str!("../system/be-upgrade.timer"), 0o644),
        wanted_by: SYSTEMD,
        vendor: Some("usr/lib/systemd/system/be-upgrade.timer"),
    },
    File {
        path: "etc/systemd/system/timers.target.wants/be-upgrade.timer",
        content: Content::Link("/etc/systemd/system/be-upgrade.timer"),
        wanted_by: SYSTEMD,
        vendor: Some("usr/lib/systemd/system/timers.target.wants/be-upgrade.timer"),
    },
    File {
        path: "etc/cron.d/be-upgrade",
        content: Content::Text(include_str!("../system/be-upgrade.cron"), 0o644),
        wanted_by: OPENRC,
        vendor: None,
    },
];

/// What builds packages for other machines, again and again.
const BUILDS: &[File] = &[
    File {
        path: "etc/systemd/system/be-build.service",
        content: Content::Text(include_str!("../system/be-build.service"), 0o644),
        wanted_by: SYSTEMD,
        vendor: Some("usr/lib/systemd/system/be-build.service"),
    },
    File {
        path: "etc/systemd/system/be-build.timer",
        content: Content::Text(include_str!("../system/be-build.timer"), 0o644),
        wanted_by: SYSTEMD,
        vendor: Some("usr/lib/systemd/system/be-build.timer"),
    },
    File {
        path: "etc/systemd/system/timers.target.wants/be-build.timer",
        content: Content::Link("/etc/systemd/system/be-build.timer"),
        wanted_by: SYSTEMD,
        vendor: Some("usr/lib/systemd/system/timers.target.wants/be-build.timer"),
    },
    File {
        path: "etc/cron.d/be-build",
        content: Content::Text(include_str!("../system/be-build.cron"), 0o644),
        wanted_by: OPENRC,
        vendor: None,
    },
];

/// What cron needs to read what we write for it.
const CRON: &str = "etc/cron.d";

/// What a system gets only if its owner asks for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// [`WATCHDOG`], where it can do something.
    pub watchdog: bool,
    /// An upgrade every night.
    pub nightly: bool,
    /// Packages for other machines, as often as be.toml says.
    pub builds: bool,
}

/// Why nothing would be started at its time in the system with this root.
pub fn no_timer(root: &Root) -> Option<&'static str> {
    let any = |paths: &[&str]| paths.iter().any(|path| exists(root, path));
    match (any(SYSTEMD), any(OPENRC), exists(root, CRON)) {
        (true, ..) | (_, true, true) => None,
        (_, true, false) => {
            Some("nothing is started by itself: there is no cron that reads /etc/cron.d")
        }
        (_, false, _) => Some(
            "nothing is started by itself: neither systemd nor OpenRC is installed; let what you \
             have run be upgrade --unattended, or be build run --due --unattended",
        ),
    }
}

/// Resets a machine that hangs.
pub const WATCHDOG: File = File {
    path: "etc/systemd/system.conf.d/be.conf",
    content: Content::Text(include_str!("../system/watchdog.conf"), 0o644),
    wanted_by: SYSTEMD,
    vendor: None,
};

/// The device without which the watchdog of systemd does nothing.
const WATCHDOG_DEVICE: &str = "dev/watchdog0";

/// Whether a service confirms an environment with this root when it has come up.
pub fn judges(root: &Root) -> bool {
    let any = |paths: &[&str]| paths.iter().any(|path| exists(root, path));
    JUDGES.iter().any(|(init, links)| any(init) && any(links))
}

/// Why there can be no watchdog in the system with this root.
pub fn no_watchdog(root: &Root) -> Option<&'static str> {
    why_no_watchdog(exists(root, WATCHDOG_DEVICE), WATCHDOG.is_wanted(root))
}

fn why_no_watchdog(device: bool, systemd: bool) -> Option<&'static str> {
    match (device, systemd) {
        (false, _) => Some("no watchdog is set up: there is no /dev/watchdog0"),
        (_, false) => Some("no watchdog is set up: only systemd has one that be knows"),
        (true, true) => None,
    }
}

/// Whether the file at this path, from the root of the system, is one that `be` installs.
pub fn is_own(path: &str) -> bool {
    ALL.iter().chain([&WATCHDOG]).any(|file| file.path == path)
}

impl File {
    fn is_wanted(&self, root: &Root) -> bool {
        self.wanted_by.iter().any(|path| exists(root, path))
    }

    fn state(&self, root: &Root) -> State {
        let Ok(there) = root.lstat(self.path) else {
            let packaged = self.vendor.is_some_and(|path| exists(root, path));
            return if packaged {
                State::Good
            } else {
                State::Missing
            };
        };
        match self.content {
            // Whoever enabled it, and by whichever path.
            Content::Link(_) if there.kind.is_symlink() => State::Good,
            Content::Text(text, mode) if there.kind.is_file() => {
                let found = root.read_to_string(self.path, 1 << 16);
                judge(&found.unwrap_or_default(), there.mode, text, mode)
            }
            Content::Link(_) | Content::Text(..) => State::Foreign,
        }
    }
}

fn judge(found: &str, found_mode: u32, text: &str, mode: u32) -> State {
    if !found.lines().take(3).any(|line| line.starts_with(MARK)) {
        return State::Foreign;
    }
    match found == text && found_mode & 0o777 & mode == mode {
        true => State::Good,
        false => State::Outdated,
    }
}

/// Look at the files that the system with this root should have.
pub fn look(root: &Root, asked: Asked) -> Vec<Fact> {
    let fact = |file: &File| Fact {
        file: *file,
        state: file.state(root),
    };
    let wanted = ALL.iter().filter(|file| file.is_wanted(root));
    let mut facts: Vec<Fact> = wanted.map(fact).collect();
    let own = fact(&WATCHDOG);
    let watchdog = asked.watchdog && no_watchdog(root).is_none();
    if watchdog || own.state == State::Outdated || own.state == State::Good {
        facts.push(own);
    }
    // Where a part of it is, the rest belongs to it, but for the link: who took that away
    // does not want it.
    let kept = |f: &Fact| matches!(f.state, State::Outdated | State::Good);
    for (files, asked) in [(NIGHTLY, asked.nightly), (BUILDS, asked.builds)] {
        let all = asked && no_timer(root).is_none();
        let wanted = files.iter().filter(|file| file.is_wanted(root));
        facts.extend(wanted.map(fact).filter(|fact| all || kept(fact)));
    }
    facts
}

/// What is to be written, in this order. A service that somebody else wrote, or masked, is
/// not enabled.
pub fn missing(facts: &[Fact]) -> impl Iterator<Item = File> {
    let foreign = |name: Option<&std::ffi::OsStr>| {
        let all = facts.iter().filter(|f| f.state == State::Foreign);
        let mut names = all.filter(|f| matches!(f.file.content, Content::Text(..)));
        names.any(|f| Path::new(f.file.path).file_name() == name)
    };
    facts
        .iter()
        .filter(|f| matches!(f.state, State::Missing | State::Outdated))
        .filter(move |f| match f.file.content {
            Content::Link(target) => !foreign(Path::new(target).file_name()),
            Content::Text(..) => true,
        })
        .map(|f| f.file)
}

/// Those that somebody else wrote.
pub fn foreign(facts: &[Fact]) -> impl Iterator<Item = File> {
    let foreign = facts.iter().filter(|f| f.state == State::Foreign);
    foreign.map(|f| f.file)
}

/// Write one.
///
/// # Errors
/// When it cannot be written, or is somebody else's by now.
pub fn install(root: &Root, file: &File) -> Result<()> {
    let path = Path::new(file.path);
    let state = file.state(root);
    if state == State::Foreign {
        bail!("somebody else wrote /{}", file.path);
    }
    let parent = path.parent().context("a file without a directory")?;
    root.mkdir_all(parent, 0o755)?;
    match file.content {
        Content::Text(text, mode) => {
            root.write_atomic(path, text.as_bytes(), mode)?;
            // A file that was there hands on its mode.
            Ok(root.chmod(path, mode)?)
        }
        Content::Link(_) if state == State::Good => Ok(()),
        Content::Link(target) => Ok(root.symlink(target, path)?),
    }
}

/// A service to be installed, one that is there, and a hook of somebody else.
#[cfg(test)]
pub(crate) fn samples() -> Vec<Fact> {
    let of = |path: &str, state| Fact {
        file: *ALL.iter().find(|file| file.path == path).expect("a file"),
        state,
    };
    vec![
        of("etc/init.d/be-confirm", State::Outdated),
        of("etc/runlevels/default/be-confirm", State::Missing),
        of("etc/kernel/postinst.d/zz-be", State::Good),
        of("etc/kernel/postrm.d/zz-be", State::Foreign),
    ]
}

fn exists(root: &Root, path: &str) -> bool {
    root.exists(path).unwrap_or(false)
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.content {
            Content::Text(..) => write!(f, "install /{}", self.path),
            Content::Link(_) => write!(f, "enable it: /{}", self.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WATCHED: Asked = Asked {
        watchdog: true,
        nightly: false,
        builds: false,
    };

    fn texts() -> impl Iterator<Item = (&'static str, &'static str, u32)> {
        let all = BUILDS.iter().chain(NIGHTLY).chain(ALL).chain([&WATCHDOG]);
        all.filter_map(|file| match file.content {
            Content::Text(text, mode) => Some((file.path, text, mode)),
            Content::Link(_) => None,
        })
    }

    #[test]
    fn every_text_is_known_as_ours() {
        for (path, text, mode) in texts() {
            assert_eq!(
                judge(text, 0o100_000 | mode, text, mode),
                State::Good,
                "{path}"
            );
            let older = text.replace("be", "bee").replace("bee(8)", "be(8)");
            assert_eq!(judge(&older, mode, text, mode), State::Outdated, "{path}");
            assert_eq!(text.starts_with("#!"), mode == 0o755, "{path}");
        }
        let (_, text, _) = texts().last().unwrap();
        assert_eq!(judge(text, 0o644, text, 0o755), State::Outdated);
        assert_eq!(judge("[Unit]\n", 0o644, text, 0o644), State::Foreign);
        assert_eq!(judge("", 0o644, text, 0o644), State::Foreign);
    }

    #[test]
    fn every_link_leads_to_a_text_of_ours() {
        for file in ALL.iter().chain(NIGHTLY).chain(BUILDS) {
            let Content::Link(target) = file.content else {
                continue;
            };
            let place = target.trim_start_matches('/');
            assert!(texts().any(|(path, ..)| path == place), "{place}");
        }
    }

    #[test]
    fn units_of_different_inits_are_wanted_apart() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(look(&root, WATCHED), []);
        root.mkdir_all("usr/sbin", 0o755).unwrap();
        root.write_atomic("usr/sbin/openrc-run", b"", 0o755)
            .unwrap();
        // A unit of a package is no sign of systemd.
        root.mkdir_all("usr/lib/systemd/system", 0o755).unwrap();
        let facts = look(&root, WATCHED);
        let paths: Vec<&str> = missing(&facts).map(|file| file.path).collect();
        assert_eq!(
            paths,
            [
                "etc/init.d/be-confirm",
                "etc/runlevels/default/be-confirm",
                "etc/init.d/be-carry",
                "etc/runlevels/boot/be-carry"
            ]
        );
        for file in missing(&facts) {
            install(&root, &file).unwrap();
        }
        assert_eq!(missing(&look(&root, Asked::default())).count(), 0);
    }

    #[test]
    fn what_is_masked_or_of_somebody_else_stays_and_is_not_enabled() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        for path in [
            "usr/lib/systemd",
            "etc/systemd/system",
            "dev",
            "etc/kernel/postinst.d",
        ] {
            root.mkdir_all(path, 0o755).unwrap();
        }
        root.write_atomic("usr/lib/systemd/systemd", b"", 0o755)
            .unwrap();
        root.symlink("/dev/null", "etc/systemd/system/be-confirm.service")
            .unwrap();
        root.write_atomic("etc/kernel/postinst.d/zz-be", b"mine", 0o755)
            .unwrap();
        let facts = look(&root, Asked::default());
        let left: Vec<&str> = foreign(&facts).map(|file| file.path).collect();
        assert_eq!(
            left,
            [
                "etc/systemd/system/be-confirm.service",
                "etc/kernel/postinst.d/zz-be"
            ]
        );
        let paths: Vec<&str> = missing(&facts).map(|file| file.path).collect();
        assert_eq!(
            paths,
            [
                "etc/systemd/system/be-stuck.service",
                "etc/systemd/system/emergency.target.wants/be-stuck.service",
                "etc/systemd/system/be-carry.service",
                "etc/systemd/system/multi-user.target.wants/be-carry.service",
                "etc/kernel/postinst.d/zz-be.install"
            ]
        );
        let [first, ..] = &facts[..] else { panic!() };
        assert!(install(&root, &first.file).is_err());
    }

    #[test]
    fn what_a_package_brings_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        root.mkdir_all("usr/lib/systemd/system", 0o755).unwrap();
        root.write_atomic("usr/lib/systemd/systemd", b"", 0o755)
            .unwrap();
        for unit in ["be-confirm", "be-stuck", "be-carry"] {
            let path = format!("usr/lib/systemd/system/{unit}.service");
            root.write_atomic(&path, b"", 0o644).unwrap();
        }
        let facts = look(&root, Asked::default());
        assert!(missing(&facts).all(|file| matches!(file.content, Content::Link(_))));
        assert_eq!(missing(&facts).count(), 3);
    }

    #[test]
    fn a_watchdog_is_asked_for_and_needs_a_device() {
        assert!(why_no_watchdog(false, true).is_some());
        assert!(why_no_watchdog(true, false).is_some());
        assert_eq!(why_no_watchdog(true, true), None);
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        for path in ["usr/lib/systemd", "dev"] {
            root.mkdir_all(path, 0o755).unwrap();
        }
        root.write_atomic("usr/lib/systemd/systemd", b"", 0o755)
            .unwrap();
        let has = |watchdog| {
            let asked = Asked {
                watchdog,
                ..Asked::default()
            };
            look(&root, asked).iter().any(|f| f.file == WATCHDOG)
        };
        assert!(!has(true));
        root.write_atomic("dev/watchdog0", b"", 0o600).unwrap();
        assert!(has(true) && !has(false));
        install(&root, &WATCHDOG).unwrap();
        assert!(has(false));
    }

    #[test]
    fn nights_are_asked_for_and_belong_to_the_init_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let asked = Asked {
            nightly: true,
            ..Asked::default()
        };
        let paths = |asked| -> Vec<_> {
            let facts = look(&root, asked);
            let nightly = facts.iter().filter(|f| f.file.path.contains("be-upgrade"));
            nightly.map(|f| f.file.path).collect()
        };
        assert!(no_timer(&root).is_some());
        root.mkdir_all("usr/sbin", 0o755).unwrap();
        root.write_atomic("usr/sbin/openrc-run", b"", 0o755)
            .unwrap();
        assert!(no_timer(&root).unwrap().contains("cron"));
        assert_eq!(paths(asked), [""; 0]);
        root.mkdir_all(CRON, 0o755).unwrap();
        assert_eq!(paths(asked), ["etc/cron.d/be-upgrade"]);
        let builds = Asked {
            builds: true,
            ..Asked::default()
        };
        let cron = |asked| -> Vec<_> {
            let facts = look(&root, asked);
            let cron = facts.iter().filter(|f| f.file.path.starts_with(CRON));
            cron.map(|f| f.file.path).collect()
        };
        assert_eq!(cron(builds), ["etc/cron.d/be-build"]);

        root.mkdir_all("usr/lib/systemd", 0o755).unwrap();
        root.write_atomic("usr/lib/systemd/systemd", b"", 0o755)
            .unwrap();
        assert_eq!(no_timer(&root), None);
        let facts = look(&root, asked);
        for file in missing(&facts).filter(|f| f.path.starts_with("etc/systemd/")) {
            install(&root, &file).unwrap();
        }
        assert_eq!(paths(Asked::default()).len(), 3);
        // Whoever takes the link away wants no nights.
        let link = "etc/systemd/system/timers.target.wants/be-upgrade.timer";
        std::fs::remove_file(dir.path().join(link)).unwrap();
        let facts = look(&root, Asked::default());
        assert!(missing(&facts).all(|f| f.path != link));
        assert!(missing(&look(&root, asked)).any(|f| f.path == link));
    }
}
