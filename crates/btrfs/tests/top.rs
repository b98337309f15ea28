//! The detached top level and what is made through it, on a real btrfs.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use be_btrfs::{Mode, Reason, TopLevel, Uuid};
use common::{Loop, run, write};
use nix::errno::Errno;

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

#[test]
#[ignore = "needs root and a loop device"]
fn opens_from_any_path_and_leaves_no_mount() {
    let fs_ = Loop::new(128);
    fs_.subvolume("@");
    fs_.subvolume("@/var");
    fs::create_dir_all(fs_.path("@/var/lib/x")).unwrap();
    write(fs_.path("@/var/lib/x/file"), "x");
    let before = fs_.mount_rows();
    assert_eq!(before.len(), 1);

    for path in ["", "@", "@/var/lib/x", "@/var/lib/x/file"] {
        let top = TopLevel::open(&fs_.path(path)).unwrap();
        assert_eq!(fs_.mount_rows(), before);
        assert!(top.root().unwrap().is_dir("@/var/lib/x").unwrap());
        assert_eq!(top.devices().unwrap(), [fs_.device()]);
        assert_eq!(top.device(), fs_.device());
        assert!(!top.is_read_only().unwrap());
        assert!(!top.has_quotas());
        let shown = fs_.btrfs(&["filesystem", "show"], &fs_.mnt);
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.contains(&top.fs_uuid().to_string()), "{shown}");
    }
    let by_device = TopLevel::open_device(&fs_.device()).unwrap();
    assert!(by_device.root().unwrap().exists("@").unwrap());
    drop(by_device);
    assert_eq!(fs_.mount_rows(), before);
}

#[test]
#[ignore = "needs root and a loop device"]
fn an_unmounted_device_is_writable_and_free_afterwards() {
    let fs_ = Loop::new(128);
    let device = fs_.device();
    // A second loop device of the same image would be another filesystem to
    // the kernel: keep this one, without its mount.
    let keep = fs::File::open(&device).unwrap();
    run(Command::new("umount").arg(&fs_.mnt));
    let top = TopLevel::open_device(&device).unwrap();
    assert!(!top.is_read_only().unwrap());
    top.root().unwrap().mkdir("made", 0o700).unwrap();
    drop(top);
    run(Command::new("mount").arg(&device).arg(&fs_.mnt));
    drop(keep);
    assert!(fs_.path("made").is_dir());
}

#[test]
#[ignore = "needs root and a loop device"]
fn what_is_not_btrfs() {
    let error = TopLevel::open(Path::new("/proc")).unwrap_err();
    assert!(error.is_not_btrfs(), "{error}");
    let error = TopLevel::open(Path::new("/nowhere")).unwrap_err();
    assert!(error.is_not_found(), "{error}");

    let fs_ = Loop::new(128);
    let image = fs_.path("image");
    fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let out = run(Command::new("losetup").args(["-f", "--show"]).arg(&image));
    let device = String::from_utf8(out.stdout).unwrap();
    let result = TopLevel::open_device(Path::new(device.trim_end()));
    run(Command::new("losetup").args(["-d", device.trim_end()]));
    assert!(result.unwrap_err().is_not_btrfs());
}

#[test]
#[ignore = "needs root and a loop device"]
fn snapshots_of_both_modes() {
    let fs_ = Loop::new(128);
    fs_.subvolume("@");
    fs_.subvolume("@/nested");
    fs::create_dir(fs_.path("store")).unwrap();
    write(fs_.path("@/file"), "content");
    let top = TopLevel::open(&fs_.mnt).unwrap();
    let (from, to) = (fs_.fd("@"), fs_.fd("store"));
    let original = be_btrfs::subvolume_info(&from).unwrap();

    let rw = top
        .snapshot(from.as_fd(), to.as_fd(), name("rw"), Mode::Writable)
        .unwrap();
    // Through the detached mount, and with a name that no shell likes.
    let root = top.root().unwrap();
    let (from, to) = (root.sub("@").unwrap(), root.sub("store").unwrap());
    let odd = name("a b\n'\"$");
    let ro = top
        .snapshot(from.fd(), to.fd(), odd, Mode::ReadOnly)
        .unwrap();
    assert!(!rw.read_only && ro.read_only);
    assert_eq!(rw.parent_uuid, Some(original.uuid));
    assert_eq!(ro.parent_uuid, Some(original.uuid));
    let born = [original.otransid, rw.otransid, ro.otransid];
    // The creation of a subvolume is no commit: it may share the transaction.
    assert!(born[0] <= born[1] && born[1] < born[2], "{born:?}");
    write(fs_.path("store/rw/file"), "new");
    let refused = fs::write(fs_.path("store").join(odd).join("file"), "new");
    assert_eq!(
        refused.unwrap_err().raw_os_error(),
        Some(Errno::EROFS as i32)
    );
    assert_eq!(fs::read(fs_.path("@/file")).unwrap(), b"content");

    // The placeholder of the nested one can be replaced.
    let placeholder = root.lstat("store/rw/nested").unwrap();
    assert_eq!(placeholder.ino, 2);
    root.rmdir("store/rw/nested").unwrap();
    root.mkdir("store/rw/nested", 0o755).unwrap();
    root.create_new("store/rw/nested/file", 0o600).unwrap();

    let exists = top.snapshot(from.fd(), to.fd(), name("rw"), Mode::Writable);
    assert_eq!(exists.unwrap_err().errno(), Some(Errno::EEXIST as i32));
    let no_subvolume = top.snapshot(to.fd(), to.fd(), name("x"), Mode::Writable);
    let error = no_subvolume.unwrap_err();
    assert!(matches!(error.reason(), Reason::NotSubvolume), "{error}");
    let bad = top.snapshot(from.fd(), to.fd(), name("../x"), Mode::Writable);
    assert!(matches!(bad.unwrap_err().reason(), Reason::BadName));
    let other = Loop::new(128);
    let elsewhere = other.fd("");
    let error = top
        .snapshot(from.fd(), elsewhere.as_fd(), name("x"), Mode::Writable)
        .unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EXDEV as i32), "{error}");
}

#[test]
#[ignore = "needs root and a loop device"]
fn deletes_only_the_uuid_that_was_meant() {
    let fs_ = Loop::new(128);
    let top = TopLevel::open(&fs_.mnt).unwrap();
    let dir = fs_.fd("");
    let dir = dir.as_fd();
    let one = top.create_subvolume(dir, name("one")).unwrap();
    let two = top.create_subvolume(dir, name("two")).unwrap();
    write(fs_.path("one/file"), "x");

    for wrong in [two.uuid, Uuid::default(), Uuid::from_bytes([7; 16])] {
        let error = top.delete_subvolume(dir, name("one"), wrong).unwrap_err();
        match error.reason() {
            Reason::WrongSubvolume { expected, found } => {
                assert_eq!((*expected, *found), (wrong, one.uuid));
            }
            other => panic!("{other:?}"),
        }
    }
    fs::create_dir(fs_.path("plain")).unwrap();
    std::os::unix::fs::symlink("one", fs_.path("link")).unwrap();
    let error = top.delete_subvolume(dir, name("plain"), one.uuid);
    assert!(matches!(error.unwrap_err().reason(), Reason::NotSubvolume));
    let error = top.delete_subvolume(dir, name("link"), one.uuid);
    assert_eq!(error.unwrap_err().errno(), Some(Errno::ENOTDIR as i32));
    let error = top.delete_subvolume(dir, name("none"), one.uuid);
    assert!(error.unwrap_err().is_not_found());
    assert!(fs_.path("one/file").exists());

    let inner = fs_.fd("one");
    let nested = top.create_subvolume(inner.as_fd(), name("nested")).unwrap();
    let error = top
        .delete_subvolume(dir, name("one"), one.uuid)
        .unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ENOTEMPTY as i32), "{error}");
    top.delete_subvolume(inner.as_fd(), name("nested"), nested.uuid)
        .unwrap();

    // The default subvolume; its id is seen, too.
    assert_eq!(top.default_subvolume().unwrap(), 5);
    let id = one.id.to_string();
    fs_.btrfs(&["subvolume", "set-default", &id], &fs_.mnt);
    assert_eq!(top.default_subvolume().unwrap(), one.id);
    let error = top
        .delete_subvolume(dir, name("one"), one.uuid)
        .unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EPERM as i32), "{error}");
    fs_.btrfs(&["subvolume", "set-default", "5"], &fs_.mnt);

    drop(inner);
    top.delete_subvolume(dir, name("one"), one.uuid).unwrap();
    top.commit().unwrap();
    assert!(!fs_.path("one").exists() && fs_.path("two").exists());
    let tree = top.tree().unwrap();
    assert!(tree.by_uuid(one.uuid).is_none());
    assert_eq!(tree.by_uuid(two.uuid).unwrap().path, Path::new("two"));
}

#[test]
#[ignore = "needs root and a loop device"]
fn an_active_swapfile_is_etxtbsy() {
    let fs_ = Loop::new(256);
    fs_.subvolume("@");
    let swap = fs_.path("@/swap file");
    write(&swap, "");
    run(Command::new("chattr").arg("+C").arg(&swap));
    run(Command::new("fallocate").args(["-l", "16M"]).arg(&swap));
    fs::set_permissions(&swap, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    run(Command::new("mkswap").arg(&swap));
    run(Command::new("swapon").arg(&swap));
    let listed = be_btrfs::active_swapfiles(&fs::read("/proc/swaps").unwrap());
    let top = TopLevel::open(&fs_.mnt).unwrap();
    let (from, to) = (fs_.fd("@"), fs_.fd(""));
    let result = top.snapshot(from.as_fd(), to.as_fd(), name("x"), Mode::Writable);
    run(Command::new("swapoff").arg(&swap));

    let error = result.unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ETXTBSY as i32), "{error}");
    assert!(error.to_string().contains("Text file busy"), "{error}");
    assert!(listed.contains(&swap), "{listed:?}");
    top.snapshot(from.as_fd(), to.as_fd(), name("x"), Mode::Writable)
        .unwrap();
}

#[test]
#[ignore = "needs root and a loop device"]
fn a_read_only_filesystem_stays_so() {
    let fs_ = Loop::new(128);
    fs_.subvolume("@");
    fs_.remount("ro");
    let top = TopLevel::open(&fs_.path("@")).unwrap();
    let by_device = TopLevel::open_device(&fs_.device()).unwrap();
    // Asked for writable, the kernel would have made it so.
    assert!(fs_.mount_row().contains(" - btrfs /dev/loop"));
    let options = fs_.mount_row().rsplit_once(' ').unwrap().1.to_owned();
    assert!(options.starts_with("ro,"), "{options}");
    assert!(top.is_read_only().unwrap() && by_device.is_read_only().unwrap());

    let (from, to) = (fs_.fd("@"), fs_.fd(""));
    let error = top
        .snapshot(from.as_fd(), to.as_fd(), name("x"), Mode::Writable)
        .unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EROFS as i32), "{error}");
    let error = top.create_subvolume(top.fd(), name("x")).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EROFS as i32), "{error}");
    let uuid = be_btrfs::subvolume_info(&from).unwrap().uuid;
    let error = top.delete_subvolume(top.fd(), name("@"), uuid).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EROFS as i32), "{error}");
    // What only reads works.
    assert_eq!(top.tree().unwrap().len(), 2);
    top.space().unwrap();
    top.sync().unwrap();
    top.commit().unwrap();
    let id = be_btrfs::subvolume_of(&from).unwrap().id;
    top.changed_files(id, 0, None, &[]).unwrap();
    assert!(top.clone_mount(Path::new("@")).is_ok());
}

#[test]
#[ignore = "needs root and a loop device"]
fn a_read_only_mount_is_not_a_read_only_filesystem() {
    let fs_ = Loop::new(128);
    fs_.remount("bind,ro");
    let top = TopLevel::open(&fs_.mnt).unwrap();
    assert!(!top.is_read_only().unwrap());
    top.create_subvolume(top.fd(), name("x")).unwrap();
    assert!(fs_.path("x").is_dir());
}

#[test]
#[ignore = "needs root and a loop device"]
fn a_full_filesystem() {
    let fs_ = Loop::new(160);
    let top = TopLevel::open(&fs_.mnt).unwrap();
    fs_.subvolume("@");
    top.sync().unwrap();
    let empty = top.space().unwrap();
    assert!(empty.data_available() > 50 << 20, "{empty:?}");
    assert!(empty.metadata_available() > 8 << 20, "{empty:?}");

    let mut file = fs::File::create(fs_.path("@/fill")).unwrap();
    let chunk = vec![0x5a; 1 << 20];
    let mut written = 0;
    let error = loop {
        match file.write_all(&chunk) {
            Ok(()) => written += chunk.len() as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(error.raw_os_error(), Some(Errno::ENOSPC as i32));
    drop(file);
    top.sync().unwrap();
    let full = top.space().unwrap();
    assert!(full.data_available() < 2 << 20, "{full:?}");
    // What was promised could be written, but for a rest.
    let promised = empty.data_available();
    assert!(
        written.abs_diff(promised) < 24 << 20,
        "{written} {promised}"
    );

    // Metadata is left; then it is filled until a subvolume fits no more.
    assert!(full.metadata_available() > 1 << 20, "{full:?}");
    let dir = fs_.fd("@");
    let error = (0..)
        .find_map(|i| {
            let file = fs_.path(&format!("@/{i}"));
            fs::write(file, [0x5a; 2000]).err()
        })
        .unwrap();
    assert_eq!(error.raw_os_error(), Some(Errno::ENOSPC as i32));
    let last = (0..20_000).find_map(|i| {
        let name = format!("s{i}");
        top.create_subvolume(dir.as_fd(), OsStr::new(&name)).err()
    });
    let error = last.expect("subvolumes without end");
    assert_eq!(error.errno(), Some(Errno::ENOSPC as i32), "{error}");
    assert_eq!(error.io_kind(), std::io::ErrorKind::StorageFull);
}

#[test]
#[ignore = "needs root and a loop device"]
fn a_mount_of_one_subvolume() {
    let fs_ = Loop::new(128);
    fs_.subvolume("@");
    fs_.subvolume("@/inner");
    fs::create_dir(fs_.path("@/dir")).unwrap();
    std::os::unix::fs::symlink("@", fs_.path("link")).unwrap();
    write(fs_.path("@/inner/file"), "x");
    let before = fs_.mount_rows();
    let top = TopLevel::open(&fs_.mnt).unwrap();
    let mount = top.clone_mount(Path::new("/@/inner")).unwrap();
    assert_eq!(fs_.mount_rows(), before);
    assert!(be_btrfs::is_subvolume_root(&mount).unwrap());
    assert!(top.clone_mount(Path::new("")).is_ok());
    // It outlives the top level, and can be attached.
    let error = top.clone_mount(Path::new("@/dir")).unwrap_err();
    assert!(matches!(error.reason(), Reason::NotSubvolume), "{error}");
    let error = top.clone_mount(Path::new("link")).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ELOOP as i32), "{error}");
    assert!(
        top.clone_mount(Path::new("none"))
            .unwrap_err()
            .is_not_found()
    );
    drop(top);
    let target = fs_.path("@/dir");
    let flags = rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&mount, "", rustix::fs::CWD, &target, flags).unwrap();
    let seen = fs::read(target.join("file"));
    let written = fs::write(target.join("new"), "y");
    drop(mount);
    run(Command::new("umount").arg(&target));
    assert_eq!(seen.unwrap(), b"x");
    written.unwrap();
    assert!(fs_.path("@/inner/new").exists());
}

#[test]
#[ignore = "needs root and a loop device"]
fn where_a_path_lies() {
    let fs_ = Loop::new(128);
    fs_.subvolume("@");
    fs::create_dir_all(fs_.path("@/a b/c")).unwrap();
    let top = TopLevel::open(&fs_.mnt).unwrap();
    let id = top.tree().unwrap().by_path("@").unwrap().id;
    let at = |path| be_btrfs::subvolume_of(fs_.fd(path)).unwrap();
    assert_eq!((at("").id, at("").path.as_path()), (5, Path::new("")));
    assert_eq!((at("@").id, at("@").path.as_path()), (id, Path::new("")));
    let deep = at("@/a b/c");
    assert_eq!((deep.id, deep.path.as_path()), (id, Path::new("a b/c")));
    assert_eq!(be_btrfs::subvolume_info(fs_.fd("@/a b")).unwrap().id, id);
    assert!(be_btrfs::is_subvolume_root(fs_.fd("@")).unwrap());
    assert!(!be_btrfs::is_subvolume_root(fs_.fd("@/a b")).unwrap());
    let proc = fs::File::open("/proc").unwrap();
    assert!(!be_btrfs::is_btrfs(&proc).unwrap());
    assert!(be_btrfs::subvolume_of(&proc).unwrap_err().is_not_btrfs());
    assert!(be_btrfs::subvolume_info(&proc).unwrap_err().is_not_btrfs());
    let (uuid, devices) = be_btrfs::uuid_of(&fs_.path("@/a b")).unwrap();
    assert_eq!((uuid, devices), (top.fs_uuid(), vec![fs_.device()]));
}
