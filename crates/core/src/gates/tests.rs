//! Gates on small trees, with ELF files of a few hundred bytes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use be_btrfs::Root;
use object::elf::{DT_NEEDED, DT_NULL, DT_RUNPATH, DT_SONAME, DT_STRSZ, DT_STRTAB};
use object::elf::{PT_DYNAMIC, PT_LOAD};
use tempfile::TempDir;

use super::changed::{Changes, programs};
use super::elf::Elf;
use super::{linking, python, services};

const X86_64: (u8, u16) = (2, 62);
const I386: (u8, u16) = (1, 3);

/// A library or program for a class and machine; each entry has its text.
fn elf((class, machine): (u8, u16), entries: &[(i64, &str)]) -> Vec<u8> {
    let wide = class == 2;
    let (head, segment, word) = if wide { (64, 56, 8) } else { (52, 32, 4) };
    let mut strings = vec![0];
    let mut dynamic: Vec<(i64, usize)> = Vec::new();
    for (tag, text) in entries {
        dynamic.push((*tag, strings.len()));
        strings.extend(text.bytes().chain([0]));
    }
    let at_dynamic = head + 2 * segment;
    let length = (dynamic.len() + 3) * 2 * word;
    let at_strings = at_dynamic + length;
    // It is loaded elsewhere than it lies.
    let load = 0x1000;
    dynamic.push((DT_STRTAB, load + at_strings));
    dynamic.push((DT_STRSZ, strings.len()));
    dynamic.push((DT_NULL, 0));

    let mut out = vec![0x7f, b'E', b'L', b'F', class, 1, 1, 0];
    out.resize(16, 0);
    let half = |out: &mut Vec<u8>, v: u16| out.extend(v.to_le_bytes());
    let int = |out: &mut Vec<u8>, v: u32| out.extend(v.to_le_bytes());
    let long = |out: &mut Vec<u8>, v: usize| out.extend(&(v as u64).to_le_bytes()[..word]);
    half(&mut out, 3);
    half(&mut out, machine);
    int(&mut out, 1);
    [0, head, 0].into_iter().for_each(|v| long(&mut out, v));
    int(&mut out, 0);
    [head, segment, 2, 0, 0, 0]
        .into_iter()
        .for_each(|v| half(&mut out, v as u16));
    let total = at_strings + strings.len();
    for (kind, at, size) in [(PT_LOAD, 0, total), (PT_DYNAMIC, at_dynamic, length)] {
        int(&mut out, kind);
        if wide {
            int(&mut out, 4);
        }
        [at, load + at, load + at, size, size]
            .into_iter()
            .for_each(|v| long(&mut out, v));
        if !wide {
            int(&mut out, 4);
        }
        long(&mut out, 1);
    }
    for (tag, value) in dynamic {
        long(&mut out, tag as usize);
        long(&mut out, value);
    }
    out.extend(strings);
    out
}

fn lib(soname: &str) -> Vec<u8> {
    elf(X86_64, &[(DT_SONAME, soname)])
}

fn needs(name: &str) -> Vec<u8> {
    elf(X86_64, &[(DT_NEEDED, name)])
}

/// The system before and after.
struct Pair {
    before: TempDir,
    after: TempDir,
}

impl Pair {
    fn new() -> Self {
        let (before, after) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        for root in [&before, &after] {
            for dir in ["usr/bin", "usr/lib64", "etc/ld.so.conf.d"] {
                fs::create_dir_all(root.path().join(dir)).unwrap();
            }
            symlink("usr/lib64", root.path().join("lib64")).unwrap();
        }
        Self { before, after }
    }

    fn put(dir: &TempDir, path: &str, content: impl AsRef<[u8]>) {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn was(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        Self::put(&self.before, path, content);
        self
    }

    fn is(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        Self::put(&self.after, path, content);
        self
    }

    fn both(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        self.was(path, &content).is(path, content)
    }

    fn roots(&self) -> (Root, Root) {
        let open = |dir: &TempDir| Root::open(dir.path()).unwrap();
        (open(&self.before), open(&self.after))
    }

    /// As btrfs would tell it.
    fn changes(&self) -> Changes {
        let (before, after) = self.roots();
        let (then, now) = (programs(&before).unwrap(), programs(&after).unwrap());
        let read = |dir: &TempDir, path: &Path| {
            let path = dir.path().join(path);
            fs::read_link(&path).map_or_else(
                |_| fs::read(&path).ok(),
                |link| Some(link.into_os_string().into_encoded_bytes()),
            )
        };
        let differs = |p: &&std::path::PathBuf| read(&self.before, p) != read(&self.after, p);
        let conf = Path::new("etc/ld.so.conf");
        Changes {
            now: now.iter().filter(differs).cloned().collect(),
            gone: then.difference(&now).cloned().collect(),
            linker: read(&self.before, conf) != read(&self.after, conf),
        }
    }

    fn linking(&self) -> (usize, Vec<String>) {
        let (before, after) = self.roots();
        linking::examine(&before, &after, &self.changes()).unwrap()
    }

    fn broken(&self) -> Vec<String> {
        self.linking().1
    }
}

const NONE: [&str; 0] = [];

fn lacks(file: &str, name: &str) -> String {
    format!("{file} needs {name}, which is not there")
}

#[test]
fn a_real_program_is_read() {
    let own = fs::File::open("/proc/self/exe").unwrap();
    let own = Elf::read(own).unwrap();
    let has = |part: &str| own.needed.iter().any(|n| n.contains(part));
    assert!(has("libc.") && has("ld-"), "{own:?}");
    assert!(Elf::read(fs::File::open("/proc/self/cmdline").unwrap()).is_none());
}

#[test]
fn both_classes_are_read() {
    for machine in [X86_64, I386] {
        let pair = Pair::new();
        let entries = [
            (DT_NEEDED, "liba.so.1"),
            (DT_SONAME, "libb.so.2"),
            (DT_RUNPATH, "$ORIGIN/../x:/y"),
            (DT_NEEDED, "libc.so.6"),
        ];
        pair.is("x", elf(machine, &entries));
        let read = Elf::at(&pair.roots().1, Path::new("x")).unwrap();
        assert_eq!(read.needed, ["liba.so.1", "libc.so.6"]);
        assert_eq!(read.soname.as_deref(), Some("libb.so.2"));
        assert_eq!(read.path, ["$ORIGIN/../x", "/y"]);
        let mut cut = elf(machine, &entries);
        cut.truncate(60);
        pair.is("cut", cut);
        assert_eq!(Elf::at(&pair.roots().1, Path::new("cut")), None);
    }
}

#[test]
fn a_library_that_vanished_breaks_whoever_needs_it() {
    let pair = Pair::new();
    pair.both("usr/bin/a", needs("libx.so.1"))
        .both("opt/nobodys/b", needs("libx.so.1"))
        .both("usr/bin/c", needs("liby.so.1"))
        .both("usr/lib64/liby.so.1", lib("liby.so.1"))
        .was("usr/lib64/libx.so.1", lib("libx.so.1"))
        .is("usr/lib64/libx.so.2", lib("libx.so.2"));
    let expected = ["/opt/nobodys/b", "/usr/bin/a"].map(|f| lacks(f, "libx.so.1"));
    assert_eq!(pair.broken(), expected);
    pair.is("usr/lib64/libx.so.1", lib("libx.so.1"));
    assert_eq!(pair.broken(), NONE);
}

#[test]
fn a_link_that_lost_its_library_breaks_too() {
    let pair = Pair::new();
    pair.both("usr/bin/a", needs("libx.so.1"))
        .was("usr/lib64/libx.so.1.2", lib("libx.so.1"))
        .is("usr/lib64/libx.so.1.3", lib("libx.so.1"));
    for root in [&pair.before, &pair.after] {
        symlink("libx.so.1.2", root.path().join("usr/lib64/libx.so.1")).unwrap();
    }
    assert_eq!(pair.broken(), [lacks("/usr/bin/a", "libx.so.1")]);
    let link = pair.after.path().join("usr/lib64/libx.so.1");
    fs::remove_file(&link).unwrap();
    symlink("libx.so.1.3", &link).unwrap();
    // Only what changed was read: the new file.
    assert_eq!(pair.linking(), (1, vec![]));
}

#[test]
fn a_library_of_another_class_is_none() {
    let pair = Pair::new();
    pair.both("usr/bin/a", needs("libx.so.1"))
        .was("usr/lib64/libx.so.1", lib("libx.so.1"))
        .is(
            "usr/lib64/libx.so.1",
            elf(I386, &[(DT_SONAME, "libx.so.1")]),
        );
    assert_eq!(pair.broken(), [lacks("/usr/bin/a", "libx.so.1")]);
    pair.is("usr/lib64/libx.so.1", "/* a script for ld */");
    assert_eq!(pair.broken(), [lacks("/usr/bin/a", "libx.so.1")]);
    pair.is("usr/lib/libx.so.1", lib("libx.so.1"));
    assert_eq!(pair.broken(), NONE);
}

#[test]
fn what_was_broken_before_does_not_count() {
    let pair = Pair::new();
    pair.was("usr/bin/a", needs("libx.so.1"))
        .is("usr/bin/a", [needs("libx.so.1"), vec![0]].concat())
        .was("opt/tool-1/plugin.so", needs("libx.so.1"))
        .is("opt/tool-2/plugin.so", needs("libx.so.1"));
    assert_eq!(pair.broken(), NONE);
    pair.is("opt/tool-2/other.so", needs("libx.so.1"));
    assert_eq!(pair.broken(), [lacks("/opt/tool-2/other.so", "libx.so.1")]);
}

#[test]
fn what_comes_along_is_loaded_by_whoever_loads_the_plugin() {
    let pair = Pair::new();
    pair.is("opt/tool/plugin.so", needs("libown.so"))
        .is("opt/tool/private/libown.so", lib("libown.so"));
    assert_eq!(pair.broken(), NONE);
}

#[test]
fn the_linkers_ways_are_gone() {
    let runpath = |path| elf(X86_64, &[(DT_RUNPATH, path), (DT_NEEDED, "libx.so.1")]);
    let pair = Pair::new();
    // All had it; now it is elsewhere.
    pair.was("usr/lib64/libx.so.1", lib("libx.so.1"))
        .is("opt/x/lib64/libx.so.1", lib("libx.so.1"))
        .both("opt/x/bin/origin", runpath("$ORIGIN/../lib64"))
        .both("opt/x/bin/braces", runpath("/none:${ORIGIN}/../$LIB"))
        .both("opt/x/bin/absolute", runpath("/opt/x/lib64"))
        .both("opt/x/bin/wrong", runpath("/opt/y"));
    assert_eq!(pair.broken(), [lacks("/opt/x/bin/wrong", "libx.so.1")]);

    let conf = "# where to look\ninclude ld.so.conf.d/*.conf\n/nowhere\n";
    pair.both("etc/ld.so.conf", conf)
        .is("etc/ld.so.conf.d/.hidden.conf", "/opt/x/lib64\n")
        .is("etc/ld.so.conf.d/x.other", "/opt/x/lib64\n");
    assert_eq!(pair.broken(), [lacks("/opt/x/bin/wrong", "libx.so.1")]);
    pair.is("etc/ld.so.conf.d/x.conf", "/opt/x/lib64\n");
    assert_eq!(pair.broken(), NONE);
}

#[test]
fn a_directory_that_is_not_searched_any_more() {
    let pair = Pair::new();
    pair.both("opt/x/libx.so.1", lib("libx.so.1"))
        .both("usr/bin/a", needs("libx.so.1"))
        .was("etc/ld.so.conf", "/opt/x\n")
        .is("etc/ld.so.conf", "");
    assert_eq!(pair.broken(), [lacks("/usr/bin/a", "libx.so.1")]);
}

#[test]
fn services_that_are_enabled_have_to_be_there() {
    let pair = Pair::new();
    let unit = "usr/lib/systemd/system";
    pair.both(&format!("{unit}/stays.service"), "")
        .was(&format!("{unit}/goes.service"), "")
        .was(&format!("{unit}/disabled.service"), "")
        .was(&format!("{unit}/moves.service"), "")
        .is("etc/systemd/system/moves.service", "")
        .both(&format!("{unit}/getty@.service"), "")
        .was("etc/init.d/old", "")
        .both("etc/init.d/stays", "");
    for root in [&pair.before, &pair.after] {
        let wants = root.path().join("etc/systemd/system/x.target.wants");
        let level = root.path().join("etc/runlevels/default");
        fs::create_dir_all(&wants).unwrap();
        fs::create_dir_all(&level).unwrap();
        for name in ["stays", "goes", "disabled", "moves", "never"] {
            let name = format!("{name}.service");
            symlink(format!("/{unit}/{name}"), wants.join(&name)).unwrap();
        }
        // It is found by its template, wherever the link leads.
        symlink("/none", wants.join("getty@tty1.service")).unwrap();
        for name in ["old", "stays", "never"] {
            symlink(format!("/etc/init.d/{name}"), level.join(name)).unwrap();
        }
    }
    let disabled = "etc/systemd/system/x.target.wants/disabled.service";
    fs::remove_file(pair.after.path().join(disabled)).unwrap();
    let (before, after) = pair.roots();
    let (count, broken) = services::examine(&before, &after);
    assert_eq!(count, 7);
    let gone = |name: &str, link: &str| {
        format!("{name} is enabled by /etc/{link}, and is not there any more")
    };
    assert_eq!(
        broken,
        [
            gone("goes.service", "systemd/system/x.target.wants/goes.service"),
            gone("old", "runlevels/default/old"),
        ]
    );
    assert!(services::is_enabled(&after, &["stays.service"]));
    assert!(!services::is_enabled(&after, &["disabled.service"]));
}

#[test]
fn modules_are_known_by_what_changed() {
    let pair = Pair::new();
    let site = "usr/lib/python3.13/site-packages";
    for file in [
        "single.py",
        "native.cpython-313-x86_64-linux-gnu.so",
        "pack/__init__.py",
        "pack/deep/more.py",
        "space/inner/__init__.py",
        "space/inner/data.txt",
        "space/one.py",
        "__pycache__/single.cpython-313.pyc",
        "pack-1.dist-info/METADATA",
        "tests/__init__.py",
        "9bad.py",
        "hook.pth",
    ] {
        pair.is(&format!("{site}/{file}"), "");
    }
    pair.both(&format!("{site}/old.py"), "")
        .is("usr/lib/python3/dist-packages/all.py", "")
        .is("usr/lib/python3.12/site-packages/other.py", "");
    let modules = python::modules(&pair.roots().1, &pair.changes());
    let of = |version| modules.for_interpreter(version);
    let expected = [
        "all",
        "native",
        "pack",
        "single",
        "space.inner",
        "space.one",
    ];
    assert_eq!(of("3.13").unwrap(), expected);
    assert_eq!(of("3.12").unwrap(), ["all", "other"]);
    assert_eq!(of("3.11").unwrap(), ["all"]);
}
