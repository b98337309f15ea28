//! The list of subvolumes and the changed files, on a real btrfs.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use be_btrfs::{FileType, Mode, Node, TopLevel};
use common::{Loop, run, write};

#[test]
#[ignore = "needs root and a loop device"]
fn the_same_as_btrfs_subvolume_list() {
    let fs_ = Loop::new(256);
    let top = TopLevel::open(&fs_.mnt).unwrap();
    let make = |path: &Path| {
        let dir = fs::File::open(fs_.mnt.join(path).parent().unwrap()).unwrap();
        let name = path.file_name().unwrap();
        top.create_subvolume(dir.as_fd(), name).unwrap();
    };
    fs::create_dir_all(fs_.path("dir/deeper/a b")).unwrap();
    let mut path = PathBuf::new();
    for i in 0..10 {
        path.push(format!("nested{i}"));
        make(&path);
        path.push("plain");
        fs::create_dir(fs_.mnt.join(&path)).unwrap();
    }
    for odd in [
        &b"a b"[..],
        b"new\nline",
        b"\xff\xfe",
        b"path x",
        b"\"'$",
        b"\t",
    ] {
        make(Path::new(OsStr::from_bytes(odd)));
        make(&Path::new("dir/deeper/a b").join(OsStr::from_bytes(odd)));
    }
    make(Path::new(&"x".repeat(255)));
    for i in 0..100 {
        make(Path::new(&format!("dir/deeper/s{i}")));
    }
    let from = fs_.fd("nested0");
    for i in 0..77 {
        let mode = if i % 2 == 0 {
            Mode::ReadOnly
        } else {
            Mode::Writable
        };
        let name = format!("snap{i}");
        top.snapshot(from.as_fd(), top.fd(), OsStr::new(&name), mode)
            .unwrap();
    }
    // One that is being deleted is in neither.
    let gone = top.tree().unwrap().by_path("dir/deeper/s7").unwrap().uuid;
    let dir = fs_.fd("dir/deeper");
    top.delete_subvolume(dir.as_fd(), OsStr::new("s7"), gone)
        .unwrap();
    top.commit().unwrap();

    let tree = top.tree().unwrap();
    let mut theirs = listed(&fs_.btrfs(&["subvolume", "list", "-pcuqR"], &fs_.mnt));
    assert!(theirs.len() >= 198, "{}", theirs.len());
    assert_eq!(tree.len(), theirs.len() + 1);
    let readonly = listed(&fs_.btrfs(&["subvolume", "list", "-rpcuqR"], &fs_.mnt));
    for node in tree.iter().filter(|n| n.id != 5) {
        assert_eq!(row(node), theirs.remove(&node.id).unwrap());
        assert_eq!(node.read_only, readonly.contains_key(&node.id));
        assert_eq!(tree.by_path(&node.path).unwrap().id, node.id);
        let ours = be_btrfs::subvolume_info(fs::File::open(fs_.mnt.join(&node.path)).unwrap());
        assert_eq!(node.info, ours.unwrap(), "{:?}", node.path);
    }
    let five = be_btrfs::subvolume_info(top.fd()).unwrap();
    assert_eq!(tree.by_id(5).unwrap().info, five);
    assert_eq!((five.parent_id, five.dirid), (None, None));
    assert_eq!(tree.descendants(5).len(), tree.len() - 1);
    let nested = tree.by_path("nested0").unwrap().id;
    assert_eq!(tree.descendants(nested).len(), 9);
}

type Row = (String, String, String, String, String, String, Vec<u8>);

/// generation, creation, parent, uuid, parent uuid, received uuid, path
fn row(node: &Node) -> Row {
    let or_dash = |uuid: Option<be_btrfs::Uuid>| uuid.map_or("-".into(), |u| u.to_string());
    (
        node.generation.to_string(),
        node.otransid.to_string(),
        node.parent_id.unwrap().to_string(),
        node.uuid.to_string(),
        or_dash(node.parent_uuid),
        or_dash(node.received_uuid),
        node.path.as_os_str().as_bytes().to_vec(),
    )
}

/// "ID 256 gen 8 cgen 8 parent 5 top level 5 parent_uuid - received_uuid -
/// uuid U path P"; a path may have newlines.
fn listed(text: &[u8]) -> BTreeMap<u64, Row> {
    let mut rows: BTreeMap<u64, Row> = BTreeMap::new();
    let mut last = None;
    for line in text
        .strip_suffix(b"\n")
        .unwrap_or(text)
        .split(|&c| c == b'\n')
    {
        if !line.starts_with(b"ID ") {
            let row: &mut Row = rows.get_mut(&last.unwrap()).unwrap();
            row.6.push(b'\n');
            row.6.extend(line);
            continue;
        }
        let at = line.windows(6).position(|w| w == b" path ").unwrap();
        let head = String::from_utf8(line[..at].to_vec()).unwrap();
        let f: Vec<&str> = head.split_whitespace().collect();
        let id = f[1].parse().unwrap();
        let get = |key| f[f.iter().position(|&x| x == key).unwrap() + 1].to_owned();
        let (generation, created) = (get("gen"), get("cgen"));
        rows.insert(
            id,
            (
                generation,
                created,
                get("parent"),
                get("uuid"),
                get("parent_uuid"),
                get("received_uuid"),
                line[at + 6..].to_vec(),
            ),
        );
        last = Some(id);
    }
    rows
}

/// A running system, its clone's base and what happened since.
#[test]
#[ignore = "needs root and a loop device"]
fn changed_files_finds_every_kind_of_change() {
    let fs_ = Loop::new(256);
    fs_.subvolume("@");
    fs_.subvolume("@/nested");
    for dir in ["etc", "etc/conf.d", "etc/gone", "root", "usr", "var/lib/db"] {
        fs::create_dir_all(fs_.path("@").join(dir)).unwrap();
    }
    for i in 0..500 {
        write(fs_.path(&format!("@/usr/file{i}")), "unchanged");
    }
    for file in [
        "edited", "in place", "mode", "owner", "times", "renamed", "linked", "deleted", "xattr",
        "same", "read", "conf.d/x",
    ] {
        write(fs_.path("@/etc").join(file), vec![b'x'; 8192]);
    }
    write(fs_.path("@/etc/gone/file"), "x");
    let top = TopLevel::open(&fs_.mnt).unwrap();
    let (from, to) = (fs_.fd("@"), fs_.fd(""));
    let base = top
        .snapshot(from.as_fd(), to.as_fd(), OsStr::new("base"), Mode::ReadOnly)
        .unwrap();
    let id = be_btrfs::subvolume_of(&from).unwrap().id;
    let changed = |base, under: &[&Path]| -> Vec<(String, FileType)> {
        top.changed_files(id, self::base(&fs_).otransid, base, under)
            .unwrap()
            .into_iter()
            .map(|c| {
                (
                    String::from_utf8_lossy(c.path.as_os_str().as_bytes()).into(),
                    c.kind,
                )
            })
            .collect()
    };
    assert_eq!(changed(Some(base.id), &[]), [], "nothing yet");

    let etc = fs_.path("@/etc");
    write(etc.join("edited"), "new");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(etc.join("in place"));
    std::os::unix::fs::FileExt::write_all_at(&file.unwrap(), b"y", 5000).unwrap();
    fs::set_permissions(etc.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(etc.join("owner"), Some(1), Some(1)).unwrap();
    run(Command::new("touch")
        .args(["-d", "2001-01-01"])
        .arg(etc.join("times")));
    fs::rename(etc.join("renamed"), etc.join("renamed to")).unwrap();
    fs::hard_link(etc.join("linked"), etc.join("conf.d/link")).unwrap();
    fs::remove_file(etc.join("deleted")).unwrap();
    fs::remove_dir_all(etc.join("gone")).unwrap();
    let odd = OsStr::from_bytes(b"new \xff");
    write(etc.join(odd), "new");
    symlink("x", etc.join("symlink")).unwrap();
    fs::create_dir(etc.join("new dir")).unwrap();
    rustix::fs::setxattr(
        etc.join("xattr"),
        "user.x",
        b"1",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    write(fs_.path("@/root/.history"), "x");
    write(fs_.path("@/nested/elsewhere"), "x");
    // Only the access time.
    run(Command::new("touch")
        .args(["-a", "-d", "2001-01-01"])
        .arg(fs_.path("@/var")));
    let atime_only = fs_.path("@/usr/file7");
    let before = fs::metadata(&atime_only).unwrap();
    fs_.remount("strictatime");
    fs::read(&atime_only).unwrap();
    assert_ne!(
        before.accessed().unwrap(),
        fs::metadata(&atime_only).unwrap().accessed().unwrap()
    );

    use FileType::{Dir, File, Symlink};
    let expect: Vec<(String, FileType)> = [
        ("etc", Dir),
        ("etc/conf.d", Dir),
        ("etc/conf.d/link", File),
        ("etc/edited", File),
        ("etc/in place", File),
        ("etc/linked", File),
        ("etc/mode", File),
        ("etc/new dir", Dir),
        ("etc/new \u{fffd}", File),
        ("etc/owner", File),
        ("etc/renamed to", File),
        ("etc/symlink", Symlink),
        ("etc/times", File),
        ("etc/xattr", File),
    ]
    .map(|(p, k)| (p.to_owned(), k))
    .into();
    assert_eq!(changed(Some(base.id), &[Path::new("etc")]), expect);
    let root = changed(Some(base.id), &[Path::new("root"), Path::new("var/lib")]);
    let root: Vec<&str> = root.iter().map(|(p, _)| p.as_str()).collect();
    assert_eq!(root, ["root", "root/.history"]);
    let all = changed(Some(base.id), &[]);
    assert!(!all.iter().any(|(p, _)| p == "usr/file7"), "{all:?}");
    assert!(!all.iter().any(|(p, _)| p.contains("elsewhere")), "{all:?}");
    assert!(changed(None, &[]).iter().any(|(p, _)| p == "usr/file7"));
    assert!(changed(None, &[]).len() >= all.len());
    let none = top.changed_files(9999, 0, None, &[]).unwrap_err();
    assert!(none.is_not_found(), "{none}");

    // The other way to count, without a base.
    let root = top.root().unwrap();
    assert_eq!(root.count_newer("@/etc", i64::MAX).unwrap(), 0);
    assert_eq!(root.count_newer("@/root", 0).unwrap(), 1);
}

fn base(fs_: &Loop) -> be_btrfs::SubvolumeInfo {
    be_btrfs::subvolume_info(fs_.fd("base")).unwrap()
}

/// What a reader of the file sees, names apart.
type Looks = (u32, u32, u32, u64, i64, i64, Vec<u8>);

fn walk(dir: &Path, below: &Path, found: &mut BTreeMap<PathBuf, Looks>) {
    for entry in fs::read_dir(dir.join(below)).unwrap() {
        let path = below.join(entry.unwrap().file_name());
        let m = fs::symlink_metadata(dir.join(&path)).unwrap();
        let content = match m.is_file() {
            true => fs::read(dir.join(&path)).unwrap(),
            false => Vec::new(),
        };
        if m.is_dir() {
            walk(dir, &path, found);
        }
        let mtime = (m.mtime(), m.mtime_nsec());
        let looks = (
            m.mode(),
            m.uid(),
            m.gid(),
            m.len(),
            mtime.0,
            mtime.1,
            content,
        );
        found.insert(path, looks);
    }
}

/// Writers go on while the snapshot is taken. Whatever then differs from the
/// base is reported; nothing else is.
#[test]
#[ignore = "needs root and a loop device"]
fn nothing_is_missed_while_writers_write() {
    let fs_ = Loop::new(512);
    fs_.subvolume("@");
    let root = fs_.path("@");
    for dir in 0..8 {
        fs::create_dir(root.join(dir.to_string())).unwrap();
        for file in 0..100 {
            write(root.join(format!("{dir}/{file}")), vec![b'x'; 5000]);
        }
    }
    let top = TopLevel::open(&fs_.mnt).unwrap();
    let from = fs_.fd("@");
    let id = be_btrfs::subvolume_of(&from).unwrap().id;
    let stop = AtomicBool::new(false);
    let mut base = None;
    std::thread::scope(|scope| {
        for dir in 0..4 {
            let (stop, root) = (&stop, &root);
            scope.spawn(move || scribble(&root.join(dir.to_string()), dir, stop));
        }
        std::thread::sleep(Duration::from_millis(100));
        let made = top.snapshot(from.as_fd(), top.fd(), OsStr::new("base"), Mode::ReadOnly);
        base = Some(made.unwrap());
        std::thread::sleep(Duration::from_millis(30));
        stop.store(true, Ordering::Relaxed);
    });
    let base = base.unwrap();
    let reported: BTreeSet<PathBuf> = top
        .changed_files(id, base.otransid, Some(base.id), &[])
        .unwrap()
        .into_iter()
        .map(|c| c.path)
        .collect();
    let (mut before, mut now) = (BTreeMap::new(), BTreeMap::new());
    walk(&fs_.path("base"), Path::new(""), &mut before);
    walk(&root, Path::new(""), &mut now);
    let differ: Vec<&PathBuf> = now
        .iter()
        .filter(|(path, looks)| before.get(*path) != Some(looks))
        .map(|(path, _)| path)
        .collect();
    assert!(differ.len() > 20, "{}", differ.len());
    for path in differ {
        assert!(reported.contains(path), "{path:?} is missed");
    }
    for path in before.keys().filter(|p| !now.contains_key(*p)) {
        let dir = path.parent().unwrap();
        assert!(reported.contains(dir), "{path:?} was removed");
    }
    // The other half was left alone.
    assert!(!reported.iter().any(|p| p.starts_with("5")), "{reported:?}");
}

fn scribble(dir: &Path, seed: u64, stop: &AtomicBool) {
    let mut random = seed + 1;
    while !stop.load(Ordering::Relaxed) {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
        let number = random >> 33;
        let path = dir.join((number % 100).to_string());
        // Files come and go under the same names: most failures are expected.
        let _expected = match number / 100 % 7 {
            0 => fs::write(&path, vec![number as u8; 100]),
            1 => fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|f| {
                    std::os::unix::fs::FileExt::write_all_at(&f, &[number as u8; 50], 4000)
                }),
            2 => fs::rename(&path, dir.join((number % 97).to_string())),
            3 => fs::remove_file(&path),
            4 => fs::set_permissions(
                &path,
                fs::Permissions::from_mode(0o600 + number as u32 % 64),
            ),
            5 => symlink("x", &path),
            _ => fs::write(&path, vec![number as u8; 20_000]),
        };
    }
}
