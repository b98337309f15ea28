//! A copy of a tree in another subvolume has all that the original has.

mod common;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use be_btrfs::{Mode, Reason, Root, TopLevel};
use common::{Loop, run, write};

fn sh(dir: &Path, script: &str) -> String {
    let out = run(Command::new("sh")
        .args(["-ec", script])
        .current_dir(dir)
        .env("LC_ALL", "C"));
    String::from_utf8(out.stdout).unwrap()
}

/// All that can be told of a tree, a line each.
fn told(dir: &Path) -> String {
    let mut text = sh(
        dir,
        "find . -printf '%p %y %m %U %G %s %T@ %n %l\n' | sort; \
         lsattr -R -d . ./* 2>/dev/null | sort; lsattr -R 2>/dev/null | sort; \
         find . -type f | sort | xargs -d '\n' md5sum; \
         find . -type c -o -type b | sort | xargs stat -c '%n %t %T'",
    );
    for line in sh(dir, "find . | sort").lines() {
        let path = dir.join(line);
        let mut names = [0; 4096];
        let len = rustix::fs::llistxattr(&path, &mut names[..]).unwrap();
        let mut all: Vec<&[u8]> = names[..len].split(|c| *c == 0).collect();
        all.sort();
        for name in all.into_iter().filter(|n| !n.is_empty()) {
            let mut value = [0; 4096];
            let len = rustix::fs::lgetxattr(&path, name, &mut value[..]).unwrap();
            let name = String::from_utf8_lossy(name);
            text += &format!("{line}: {name} = {:?}\n", &value[..len]);
        }
    }
    text
}

/// An ACL as the kernel has it (`posix_acl_xattr_header`, linux/posix_acl_xattr.h): one
/// user and one group beside the owner.
fn acl() -> Vec<u8> {
    let none = u32::MAX;
    let entries: [(u16, u16, u32); 6] = [
        (1, 7, none),
        (2, 5, 99),
        (4, 5, none),
        (8, 4, 98),
        (16, 7, none),
        (32, 1, none),
    ];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, may, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(may.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

#[test]
#[ignore = "needs root and loop devices"]
fn nothing_is_left_out() {
    let disk = Loop::new(512);
    disk.subvolume("from");
    let tree = disk.path("from/tree");
    fs::create_dir_all(tree.join("dir/inner")).unwrap();
    write(tree.join("plain"), "text");
    fs::write(tree.join("large"), vec![7; 9 << 20]).unwrap();
    symlink("../nowhere", tree.join("link")).unwrap();
    sh(
        &tree,
        "ln large dir/same; mknod null c 1 3; mknod disk b 7 250; mkfifo fifo; \
         truncate -s 20M sparse; printf x | dd of=sparse bs=1 seek=9000000 conv=notrunc 2>/dev/null; \
         touch -d '2001-02-03 04:05:06.789' plain dir; touch -h -d 2002-02-02 link; \
         chown -h 12:34 plain dir link fifo; chmod 4751 plain; chmod 1777 dir; \
         mkdir cold; chattr +C cold; head -c 300000 /dev/urandom > cold/db; \
         mkdir warm; head -c 300000 /dev/zero > warm/plain; touch warm/c; chattr +C warm/c; \
         head -c 300000 /dev/urandom > warm/c; cp warm/plain cold/x 2>/dev/null; \
         touch locked nodump; chattr +i locked; chattr +d nodump; \
         touch 'odd \\ name\ttab'; chmod 0751 .; chown 5:6 .; touch -d 2003-03-03 .",
    );
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (path, name, value) in [
        ("plain", "user.note", b"hello".to_vec()),
        ("dir", "trusted.mark", b"t".to_vec()),
        ("link", "trusted.mark", b"l".to_vec()),
        ("large", "security.capability", capability.to_vec()),
        ("dir", "system.posix_acl_access", acl()),
        ("dir", "system.posix_acl_default", acl()),
        (".", "system.posix_acl_default", acl()),
    ] {
        let none = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(tree.join(path), name, &value, none).unwrap();
    }
    sh(&tree, "touch -d 2003-03-03 .");
    let before = told(&tree);
    let top = TopLevel::open(&disk.mnt).unwrap();
    let dir = disk.fd("");
    let root = top.root().unwrap();
    let from = disk.fd("from");
    top.snapshot(from.as_fd(), dir.as_fd(), "snap".as_ref(), Mode::ReadOnly)
        .unwrap();
    top.create_subvolume(dir.as_fd(), "to".as_ref()).unwrap();
    top.sync().unwrap();
    let space = top.space().unwrap().data_available();
    let copied = root
        .sub("to")
        .unwrap()
        .copy_from(&root.sub("snap/tree").unwrap())
        .unwrap();
    top.sync().unwrap();
    let less = space.saturating_sub(top.space().unwrap().data_available());
    assert!(less < 1 << 20, "the data is shared: {less}");
    assert_eq!(copied.written, 0);
    assert_eq!(copied.separated, 0);
    let after = told(&disk.path("to"));
    assert_eq!(after, before);
    assert_eq!(told(&tree), before, "the original is as it was");
    let (one, other) = (disk.path("to/large"), disk.path("to/dir/same"));
    assert_eq!(
        fs::metadata(one).unwrap().ino(),
        fs::metadata(other).unwrap().ino()
    );
    assert!(fs::metadata(disk.path("to/sparse")).unwrap().blocks() < 100);
    for root in ["from/tree", "to"] {
        sh(&disk.path(root), "chattr -i locked");
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn swap_files_are_their_own() {
    let disk = Loop::new(512);
    disk.subvolume("from");
    let dir = disk.path("from/swap");
    fs::create_dir(&dir).unwrap();
    sh(
        &dir,
        "touch file; chattr +C file; chmod 600 file; fallocate -l 8M file; mkswap -q file; \
         echo outside > ../name; ln ../name here",
    );
    let root = Root::open(&disk.mnt).unwrap();
    assert_eq!(
        root.sub("from/swap").unwrap().inside().unwrap().swap,
        8 << 20
    );
    disk.subvolume("to");
    let copied = root.sub("to").unwrap();
    let copied = copied.copy_from(&root.sub("from/swap").unwrap()).unwrap();
    assert_eq!((copied.written, copied.separated), (8 << 20, 1));
    sh(
        &disk.path("to"),
        "sync; btrfs inspect-internal map-swapfile file >/dev/null",
    );
    assert_eq!(
        fs::metadata(disk.path("to/file"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
}

#[test]
#[ignore = "needs root and loop devices"]
fn another_subvolume_in_it_is_an_error() {
    let disk = Loop::new(256);
    disk.subvolume("from");
    fs::create_dir(disk.path("from/d")).unwrap();
    disk.subvolume("from/d/nested");
    disk.subvolume("to");
    let root = Root::open(&disk.mnt).unwrap();
    let from = root.sub("from").unwrap();
    assert_eq!(from.inside().unwrap().crossings, [Path::new("d/nested")]);
    let error = root.sub("to").unwrap().copy_from(&from).unwrap_err();
    assert!(matches!(error.reason(), Reason::Crossing(p) if p == Path::new("d/nested")));
}
