//! Paths that try to leave their root. Plain tests: any filesystem will do.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use be_btrfs::{FileType, Reason, Root};
use common::{Loop, run, write};
use nix::errno::Errno;
use tempfile::TempDir;

/// A directory with a secret beside the root.
struct Jail {
    dir: TempDir,
    root: Root,
}

impl Jail {
    fn new() -> Jail {
        let dir = TempDir::new().unwrap();
        fs::create_dir_all(dir.path().join("root/etc")).unwrap();
        write(dir.path().join("secret"), "outside");
        write(dir.path().join("root/etc/secret"), "inside");
        let root = Root::open(&dir.path().join("root")).unwrap();
        Jail { dir, root }
    }

    fn inside(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn outside(&self) -> Vec<u8> {
        fs::read(self.dir.path().join("secret")).unwrap()
    }
}

#[test]
fn no_path_leaves_the_root() {
    let jail = Jail::new();
    let outside = jail.dir.path().join("secret");
    symlink(&outside, jail.inside("absolute")).unwrap();
    symlink("../secret", jail.inside("relative")).unwrap();
    symlink("/etc/secret", jail.inside("held")).unwrap();
    symlink("../../../..", jail.inside("up")).unwrap();
    symlink("loop", jail.inside("loop")).unwrap();
    symlink("/proc/self/root", jail.inside("magic")).unwrap();
    let root = &jail.root;
    for path in [
        "absolute",
        "relative",
        "../secret",
        "/../secret",
        "up/secret",
    ] {
        assert!(root.file(path).unwrap_err().is_not_found(), "{path}");
        assert!(!root.exists(path).unwrap(), "{path}");
    }
    for path in [
        "held",
        "/held",
        "up/etc/secret",
        "../../etc/secret",
        "etc//secret",
    ] {
        assert_eq!(root.read_to_string(path, 100).unwrap(), "inside", "{path}");
    }
    let looped = root.file("loop").unwrap_err();
    assert_eq!(looped.errno(), Some(Errno::ELOOP as i32));
    assert!(root.exists("loop").is_err(), "unknown is not absent");
    assert!(root.sub("magic").unwrap_err().is_not_found());
    // Writing follows the link, inside.
    root.write_atomic("held", b"changed", 0o644).unwrap();
    assert!(jail.inside("held").is_symlink());
    assert_eq!(fs::read(jail.inside("etc/secret")).unwrap(), b"changed");
    root.write_atomic("relative", b"new", 0o644).unwrap();
    assert_eq!(fs::read(jail.inside("secret")).unwrap(), b"new");
    assert_eq!(jail.outside(), b"outside");
    assert!(root.write_atomic("loop", b"", 0o644).is_err());
    let taken = root.create_new("held", 0o644).unwrap_err();
    assert_eq!(taken.errno(), Some(Errno::EEXIST as i32));
    root.remove_file("held").unwrap();
    assert!(jail.inside("etc/secret").exists());
    assert_eq!(root.readlink("absolute").unwrap(), outside);
    assert_eq!(root.canonicalize("up/etc").unwrap(), Path::new("etc"));
    assert_eq!(root.canonicalize("/").unwrap(), Path::new(""));
    assert!(root.mount_point("etc").is_ok());
    let linked = root.mount_point("up/etc").unwrap_err();
    assert_eq!(linked.errno(), Some(Errno::ELOOP as i32));
}

#[test]
fn magic_links_are_refused() {
    let root = Root::open(Path::new("/proc/self")).unwrap();
    for path in ["root", "cwd/x", "exe", "fd/0"] {
        let error = root.path_fd(path).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ELOOP as i32), "{path}: {error}");
    }
}

#[test]
fn reading() {
    let jail = Jail::new();
    let root = &jail.root;
    write(jail.inside("ten"), "0123456789");
    write(jail.inside("binary"), [0xff]);
    symlink("ten", jail.inside("link")).unwrap();
    assert_eq!(root.read("ten", 10).unwrap().len(), 10);
    let large = root.read("ten", 9).unwrap_err();
    assert!(matches!(large.reason(), Reason::TooLarge(9)), "{large}");
    let binary = root.read_to_string("binary", 9).unwrap_err();
    assert!(matches!(binary.reason(), Reason::NotUtf8));
    assert!(root.file("etc/none").unwrap_err().is_not_found());
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(rustix::fs::CWD, jail.inside("fifo"), fifo, mode, 0).unwrap();
    let error = root.read("fifo", 9).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ENXIO as i32));

    let names = root.list("/").unwrap();
    let expect = [
        ("binary", FileType::File),
        ("etc", FileType::Dir),
        ("fifo", FileType::Special),
        ("link", FileType::Symlink),
        ("ten", FileType::File),
    ];
    assert_eq!(names, expect.map(|(n, k)| (n.into(), k)));
    assert_eq!(root.metadata("link").unwrap().size, 10);
    assert!(root.lstat("link").unwrap().kind.is_symlink());
    assert!(root.lstat("/").unwrap().kind.is_dir());
    assert!(root.is_file("link").unwrap() && !root.is_dir("ten").unwrap());
    assert!(!root.exists("ten/x").unwrap());
    let sub = root.sub("etc").unwrap();
    assert_eq!(sub.read_to_string("../secret", 9).unwrap(), "inside");
}

#[test]
fn an_atomic_write_keeps_what_the_file_had() {
    let jail = Jail::new();
    let root = &jail.root;
    let file = jail.inside("etc/fstab");
    root.write_atomic("etc/fstab", b"one", 0o640).unwrap();
    let made = fs::metadata(&file).unwrap();
    assert_eq!(made.mode() & 0o7777, 0o640);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4755)).unwrap();
    let attribute =
        rustix::fs::setxattr(&file, "user.be", b"kept", rustix::fs::XattrFlags::empty());
    root.write_atomic("/etc/fstab", b"two", 0o600).unwrap();
    let now = fs::metadata(&file).unwrap();
    assert_ne!(now.ino(), made.ino());
    assert_eq!(now.mode() & 0o7777, 0o4755);
    assert_eq!(fs::read(&file).unwrap(), b"two");
    if attribute.is_ok() {
        let mut value = [0; 9];
        let len = rustix::fs::getxattr(&file, "user.be", &mut value).unwrap();
        assert_eq!(&value[..len], b"kept");
    }
    // A failure leaves nothing behind.
    fs::create_dir(jail.inside("etc/dir")).unwrap();
    assert!(root.write_atomic("etc/dir", b"", 0o600).is_err());
    assert!(
        root.write_atomic("none/x", b"", 0o600)
            .unwrap_err()
            .is_not_found()
    );
    assert!(root.write_atomic("etc/..", b"", 0o600).is_err());
    let names: Vec<_> = root.list("etc").unwrap().into_iter().map(|e| e.0).collect();
    assert_eq!(names, ["dir", "fstab", "secret"]);
}

#[test]
fn names_are_made_and_moved() {
    let jail = Jail::new();
    let root = &jail.root;
    root.mkdir_all("a/b/c", 0o711).unwrap();
    root.mkdir_all("/a/b/c/", 0o700).unwrap();
    root.mkdir_all("/", 0o700).unwrap();
    assert_eq!(root.metadata("a/b").unwrap().mode, 0o711);
    assert!(root.mkdir_all("etc/secret", 0o700).is_err());
    root.mkdir("sticky", 0o1777).unwrap();
    assert_eq!(root.metadata("sticky").unwrap().mode, 0o1777);
    root.symlink("b", "a/link").unwrap();
    root.mkdir_all("a/link/d", 0o700).unwrap();
    root.rename("a/link/d", "d").unwrap();
    assert!(root.is_dir("d").unwrap());
    write(jail.inside("one"), "1");
    write(jail.inside("two"), "2");
    let exists = root.rename_noreplace("one", "two").unwrap_err();
    assert_eq!(exists.errno(), Some(Errno::EEXIST as i32));
    assert_eq!(exists.path(), Path::new("two"));
    root.exchange("one", "two").unwrap();
    assert_eq!(root.read("one", 1).unwrap(), b"2");
    root.rename_noreplace("one", "three").unwrap();
    root.sync_dir("/").unwrap();
    root.chmod("three", 0o604).unwrap();
    assert_eq!(root.metadata("three").unwrap().mode, 0o604);
    let missing = root.rename("none", "x").unwrap_err();
    assert_eq!(
        missing.to_string(),
        "cannot rename none: No such file or directory"
    );
}

#[test]
fn a_tree_is_removed_but_not_what_its_links_name() {
    let jail = Jail::new();
    let root = &jail.root;
    root.mkdir_all("tree/deep/er", 0o700).unwrap();
    symlink(jail.dir.path(), jail.inside("tree/out")).unwrap();
    symlink("/etc", jail.inside("tree/deep/etc")).unwrap();
    write(jail.inside("tree/deep/er/file"), "x");
    root.remove_tree("tree").unwrap();
    assert!(!jail.inside("tree").exists());
    assert_eq!(jail.outside(), b"outside");
    assert!(jail.inside("etc/secret").exists());
    root.symlink("etc", "link").unwrap();
    root.remove_tree("link").unwrap();
    assert!(jail.inside("etc/secret").exists());
    assert!(root.remove_tree("none").unwrap_err().is_not_found());
    assert!(root.remove_tree("/").is_err());
}

#[test]
#[ignore = "needs root and a loop device"]
fn a_tree_with_a_subvolume_or_mount_is_left_alone() {
    let fs_ = Loop::new(128);
    let root = Root::open(&fs_.mnt).unwrap();
    for dir in ["tree/a", "tree/z/mnt"] {
        root.mkdir_all(dir, 0o700).unwrap();
        write(fs_.path(dir).join("file"), "x");
    }
    let refused = |at: &str| {
        let error = root.remove_tree("tree").unwrap_err();
        match error.reason() {
            Reason::Crossing(path) => assert_eq!(path, Path::new(at)),
            other => panic!("{other:?}"),
        }
        assert!(fs_.path("tree/a/file").exists());
    };
    fs_.subvolume("tree/z/sub");
    refused("tree/z/sub");
    let rmdir = root.rmdir("tree/z/sub").unwrap_err();
    assert!(matches!(rmdir.reason(), Reason::Crossing(_)), "{rmdir}");
    assert!(root.remove_tree("tree/z/sub").is_err());
    fs_.btrfs(&["subvolume", "delete"], fs_.path("tree/z/sub"));

    // A bind mount of the same subvolume has the same device number.
    let target = fs_.path("tree/z/mnt");
    let mount = |args: &[&OsStr]| {
        run(std::process::Command::new("mount").args(args).arg(&target));
    };
    mount(&[OsStr::new("--bind"), fs_.path("tree/a").as_os_str()]);
    let crossing = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| refused("tree/z/mnt")));
    run(std::process::Command::new("umount").arg(&target));
    crossing.unwrap();

    // The placeholder of a nested subvolume is none.
    fs_.subvolume("s");
    fs_.subvolume("s/nested");
    fs_.btrfs(
        &["subvolume", "snapshot", fs_.path("s").to_str().unwrap()],
        fs_.path("tree/snapshot"),
    );
    assert!(root.remove_tree("tree/snapshot").is_err());
    assert_eq!(root.lstat("tree/snapshot/nested").unwrap().ino, 2);
    root.remove_tree("tree/snapshot/nested").unwrap();
    fs_.btrfs(&["subvolume", "delete"], fs_.path("tree/snapshot"));
    root.remove_tree("tree").unwrap();
    assert!(!fs_.path("tree").exists());
}
