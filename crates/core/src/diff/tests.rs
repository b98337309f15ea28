//! On any filesystem: without a common history, everything is read.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::*;

struct Pair {
    _dir: tempfile::TempDir,
    a: Side,
    b: Side,
}

/// Two roots that `make` has filled alike, and `change` then changed the second of.
fn pair(make: impl Fn(&Path), change: impl FnOnce(&Path)) -> Pair {
    let dir = tempfile::tempdir().unwrap();
    let side = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir(&path).unwrap();
        make(&path);
        path
    };
    let (a, b) = (side("a"), side("b"));
    change(&b);
    let open = |path: &Path| Side {
        label: path.file_name().unwrap().to_string_lossy().into_owned(),
        root: Root::open(path).unwrap(),
        volumes: Vec::new(),
        whole: Root::open(path).unwrap().into(),
        packages: Source::default(),
        boot: None,
    };
    Pair {
        a: open(&a),
        b: open(&b),
        _dir: dir,
    }
}

fn put(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn diff(pair: &Pair) -> Diff {
    compare(&pair.a, &pair.b, None, Depth::Files).unwrap()
}

fn shown(changes: &[FileChange]) -> Vec<String> {
    let show = |c: &FileChange| {
        let what = match &c.change {
            Change::Added => "+".to_owned(),
            Change::Removed => "-".to_owned(),
            Change::Changed(aspects) => {
                let words: Vec<_> = aspects.iter().map(|a| a.as_str()).collect();
                words.join(",")
            }
        };
        format!("{what} /{}", c.path.display())
    };
    changes.iter().map(show).collect()
}

fn system(root: &Path) {
    put(root, "etc/conf.d/net", "dhcp\n");
    put(root, "etc/same", "1");
    put(root, "etc/fstab", "UUID=x / btrfs noatime,subvol=/@ 0 0\n");
    put(root, "boot/vmlinuz-6.1.0", "kernel");
    put(root, "boot/initramfs-6.1.0.img", "initramfs");
    put(root, "usr/bin/tool", "tool");
    put(root, "usr/lib/old/deep/file", "x");
    put(root, "var/db/pkg/app-misc/hello-1/SLOT", "0\n");
    symlink("tool", root.join("usr/bin/link")).unwrap();
}

#[test]
fn what_is_the_same_is_empty() {
    let pair = pair(system, |_| ());
    let found = diff(&pair);
    assert!(found.is_empty(), "{found:?}");
    assert_eq!((found.from.as_str(), found.to.as_str()), ("a", "b"));
}

#[test]
fn every_kind_of_change_is_seen() {
    let pair = pair(system, |b| {
        put(b, "etc/conf.d/net", "none\n");
        put(b, "etc/new.d/new", "");
        put(b, "boot/vmlinuz-6.2.0", "kernel");
        put(b, "boot/initramfs-6.1.0.img", "INITRAMFS");
        fs::rename(b.join("usr/lib/old"), b.join("usr/lib/new")).unwrap();
        fs::set_permissions(b.join("usr/bin/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::remove_file(b.join("usr/bin/link")).unwrap();
        symlink("elsewhere", b.join("usr/bin/link")).unwrap();
        fs::remove_file(b.join("etc/same")).unwrap();
        fs::create_dir(b.join("etc/same")).unwrap();
        put(b, "etc/same/inner", "");
    });
    let found = diff(&pair);
    assert_eq!(
        shown(&found.configuration),
        [
            "content /etc/conf.d/net",
            "+ /etc/new.d",
            "+ /etc/new.d/new",
            "type /etc/same",
            "+ /etc/same/inner",
        ]
    );
    assert_eq!(
        shown(found.files.as_ref().unwrap()),
        [
            "content /boot/initramfs-6.1.0.img",
            "+ /boot/vmlinuz-6.2.0",
            "content /etc/conf.d/net",
            "+ /etc/new.d",
            "+ /etc/new.d/new",
            "type /etc/same",
            "+ /etc/same/inner",
            "content /usr/bin/link",
            "mode /usr/bin/tool",
            "+ /usr/lib/new",
            "+ /usr/lib/new/deep",
            "+ /usr/lib/new/deep/file",
            "- /usr/lib/old",
            "- /usr/lib/old/deep",
            "- /usr/lib/old/deep/file",
        ]
    );
    assert_eq!(found.kernels.added[0].version, "6.2.0");
    assert_eq!(found.kernels.changed[0].file, "vmlinuz-6.1.0");
    assert!(found.kernels.removed.is_empty());
}

#[test]
fn attributes_are_seen() {
    use rustix::fs::XattrFlags;
    let pair = pair(system, |b| {
        for (path, value) in [("usr/bin/tool", &b"x"[..]), ("etc", b"")] {
            let set = rustix::fs::setxattr(b.join(path), "user.be", value, XattrFlags::empty());
            // Some filesystems have none; those that tests run on for real have.
            assert!(matches!(set, Ok(()) | Err(rustix::io::Errno::OPNOTSUPP)));
        }
    });
    let has = |path: &str| {
        let mut list = vec![0; 4096];
        let path = fd_path(&pair.b.root).join(path);
        rustix::fs::llistxattr(path, list.as_mut_slice()).unwrap_or(0) > 0
    };
    if has("usr/bin/tool") {
        assert_eq!(
            shown(&diff(&pair).files.unwrap()),
            ["attributes /etc", "attributes /usr/bin/tool"]
        );
    }
}

#[test]
fn times_alone_are_no_change() {
    let pair = pair(system, |b| {
        let file = File::options()
            .write(true)
            .open(b.join("usr/bin/tool"))
            .unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    });
    assert!(diff(&pair).is_empty());
}

#[test]
fn an_edit_of_the_same_size_and_time_is_seen() {
    let pair = pair(system, |b| {
        let path = b.join("etc/same");
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, "2").unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(time).unwrap();
    });
    assert_eq!(shown(&diff(&pair).configuration), ["content /etc/same"]);
}

#[test]
fn the_roots_subvolume_in_fstab_is_no_change_of_configuration() {
    let clone = "UUID=x / btrfs noatime,subvol=/@be/new/root 0 0\n";
    let found = diff(&pair(system, |b| put(b, "etc/fstab", clone)));
    assert_eq!(shown(&found.configuration), Vec::<String>::new());
    assert_eq!(shown(&found.files.unwrap()), ["content /etc/fstab"]);

    let edited = format!("{clone}UUID=y /srv xfs defaults 0 0\n");
    let found = diff(&pair(system, |b| put(b, "etc/fstab", &edited)));
    assert_eq!(shown(&found.configuration), ["content /etc/fstab"]);
}

#[test]
fn links_lead_nowhere() {
    let pair = pair(system, |b| {
        let outside = b.parent().unwrap().join("outside");
        put(&outside, "secret", "");
        fs::remove_dir_all(b.join("etc")).unwrap();
        symlink(&outside, b.join("etc")).unwrap();
        fs::remove_dir_all(b.join("boot")).unwrap();
        symlink("/boot", b.join("boot")).unwrap();
    });
    let found = diff(&pair);
    let configuration = shown(&found.configuration);
    assert_eq!(configuration[0], "type /etc");
    assert!(
        configuration[1..].iter().all(|line| line.starts_with('-')),
        "{configuration:?}"
    );
    assert_eq!(found.kernels.removed.len(), 1);
    assert!(found.kernels.added.is_empty());
}

#[test]
fn nothing_at_all_on_one_side() {
    let pair = pair(|_| (), system);
    let found = diff(&pair);
    assert_eq!(found.packages.added.len(), 1);
    assert_eq!(found.kernels.added.len(), 1);
    assert_eq!(found.configuration.len(), 5);
    assert!(
        found
            .files
            .unwrap()
            .iter()
            .all(|c| c.change == Change::Added)
    );
}

#[test]
fn fifos_and_deep_directories() {
    let make = |root: &Path| {
        let deep = root.join("d/".repeat(300));
        fs::create_dir_all(deep).unwrap();
        let fifo = root.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    };
    let deepest = "d/".repeat(300) + "new";
    let found = diff(&pair(make, |b| put(b, &deepest, "")));
    assert_eq!(shown(&found.files.unwrap()), [format!("+ /{deepest}")]);
}
