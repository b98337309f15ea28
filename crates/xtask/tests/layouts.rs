//! Every layout on loop devices is what it promises: needs root,
//! `cargo test -p xtask -- --ignored`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use xtask::host::HostState;
use xtask::image::{DATABASE, Layout, LoopImage, Source, Tree, nested};
use xtask::run::{cmd, run};

/// The layouts that this machine's kernel can mount.
fn mountable() -> impl Iterator<Item = Layout> {
    Layout::ALL.into_iter().filter(|layout| {
        let can = layout.is_mountable();
        if !can {
            xtask::say(&format!("{layout:?}: not on this machine's kernel"));
        }
        can
    })
}

/// What is mounted at a path: type, device and the path in the file system.
fn mounted_at(path: &Path) -> Result<(String, String, String)> {
    let fields = "FSTYPE,SOURCE,FSROOT";
    let text = run(cmd(
        "findmnt",
        ["--raw", "--noheadings", "--nofsroot", "-o", fields],
    )
    .arg(path))
    .with_context(|| format!("nothing is mounted at {}", path.display()))?;
    let mut words = text.split_whitespace().map(str::to_owned);
    let mut next = || words.next().with_context(|| format!("findmnt: {text}"));
    Ok((next()?, next()?, next()?))
}

#[test]
#[ignore = "needs root"]
fn all_is_mounted_as_fstab_says() -> Result<()> {
    for layout in mountable() {
        let image = LoopImage::plain(layout)?;
        let volumes = image.volumes();
        let fstab = image.read("/etc/fstab")?;
        assert_eq!(fstab.lines().count(), 1 + layout.below().len(), "{fstab}");
        let root = mounted_at(image.root())?;
        let node = |path: &Path| path.display().to_string();
        let device = node(volumes.root.device.node());
        let subvolume = format!("/{}", layout.root());
        assert_eq!(root, ("btrfs".to_owned(), device, subvolume));
        for (path, source) in layout.below() {
            let (volume, inside) = match source {
                Source::Subvolume(name) => (Some(&volumes.root), format!("/{name}")),
                Source::Boot => (volumes.boot.as_ref(), "/".to_owned()),
                Source::Esp => (volumes.esp.as_ref(), "/".to_owned()),
            };
            let volume = volume.context("no such volume")?;
            let is = mounted_at(&image.path(path))?;
            let fstype = source.fstype().to_owned();
            assert_eq!(is, (fstype, node(volume.device.node()), inside), "{path}");
            let start = format!("UUID={} {path} {} ", volume.uuid, source.fstype());
            ensure!(fstab.lines().any(|l| l.starts_with(&start)), "{fstab}");
        }
        // Only Fedora's installer writes numbers.
        let is_fedora = layout == Layout::FedoraRoot;
        assert_eq!(fstab.contains("subvolid="), is_fedora, "{fstab}");
        assert!(image.path("/var/lib/portage/world").exists());
        let top = image.mount_top()?;
        assert!(top.path().join(layout.root()).join("etc/fstab").exists());
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn grub_cfg_finds_the_kernel_where_it_is() -> Result<()> {
    for layout in mountable() {
        let image = LoopImage::plain(layout)?;
        let grub = image.read("/boot/grub/grub.cfg")?;
        let volumes = image.volumes();
        let apart = volumes.boot.as_ref().or(volumes.esp.as_ref());
        let boot = apart.unwrap_or(&volumes.root);
        let searches = |line: &str| line.contains("--fs-uuid") && line.ends_with(&boot.uuid);
        assert!(grub.lines().map(str::trim).any(searches), "{grub}");
        let release = &image.lab.old_kernel.release;
        let home = layout.boot_home();
        for start in [
            format!(
                "linux\t{home}/vmlinuz-{release} root=UUID={} ",
                image.uuid()
            ),
            format!("initrd\t{home}/initramfs-{release}.img"),
        ] {
            let loads = |line: &str| line.trim().starts_with(&start);
            assert!(grub.lines().any(loads), "no {start} in {grub}");
        }
        assert!(
            grub.contains(&format!("rootflags=subvol={}", layout.root()))
                || layout.root().is_empty()
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_root_of_many_has_subvolumes_in_it() -> Result<()> {
    let image = LoopImage::plain(Layout::AtMany)?;
    let mut parents = BTreeMap::new();
    for (path, _) in nested() {
        let shown = run(cmd("btrfs", ["subvolume", "show"]).arg(image.root().join(&path)))?;
        let field = |name: &str| {
            let line = shown.lines().find_map(|l| l.trim().strip_prefix(name));
            line.map(|value| value.trim().to_owned())
                .unwrap_or_default()
        };
        parents.insert(path, (field("UUID:"), field("Parent UUID:")));
    }
    for (path, origin) in nested() {
        let parent = &parents[&path].1;
        match origin {
            Some(origin) => assert_eq!(parent, &parents[&origin].0, "{}", path.display()),
            None => assert_eq!(parent, "-", "{}", path.display()),
        }
        // Where a subvolume begins, the inode is 256.
        let dir = image.root().join(&path);
        assert_eq!(fs::metadata(&dir)?.ino(), 256, "{}", dir.display());
        let made = fs::read_to_string(dir.join("made"))?;
        assert_eq!(made, format!("{}\n", path.display()));
    }
    let docker = image.path("/var/lib/docker/btrfs/subvolumes");
    assert_eq!(fs::read_dir(&docker)?.count(), 5);
    assert_ne!(fs::metadata(&docker)?.ino(), 256);
    assert_eq!(image.read(DATABASE.0)?, DATABASE.1);
    let flags = run(cmd("lsattr", ["-d"]).arg(image.path("/var/lib/postgresql/data")))?;
    assert!(
        flags.split(' ').next().is_some_and(|f| f.contains('C')),
        "{flags}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_root_of_suse_is_the_default() -> Result<()> {
    let image = LoopImage::plain(Layout::Suse)?;
    let default = run(cmd("btrfs", ["subvolume", "get-default"]).arg(image.root()))?;
    assert!(
        default.trim().ends_with("path @/.snapshots/1/snapshot"),
        "{default}"
    );
    let fstab = image.read("/etc/fstab")?;
    let root = fstab.lines().find(|line| line.contains(" / "));
    assert!(root.is_some_and(|line| !line.contains("subvol")), "{fstab}");
    // As snapper's users see it: the root is visible below itself.
    assert!(image.path("/.snapshots/1/snapshot/etc/fstab").exists());
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn nothing_is_left_of_several_file_systems() -> Result<()> {
    for layout in [Layout::BootExt4, Layout::Suse] {
        let image = LoopImage::plain(layout)?;
        let dir = image.dir().to_path_buf();
        let devices: Vec<_> = image
            .volumes()
            .all()
            .map(|volume| volume.device.device().to_path_buf())
            .collect();
        let before = HostState::of(&dir)?;
        image.chroot().run(&["true"])?;
        assert_eq!(before.diff(&HostState::of(&dir)?), Vec::<String>::new());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _image = image;
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert!(!dir.exists());
        let after = format!("{:?}", HostState::of(&dir)?);
        assert!(!after.contains(&dir.display().to_string()), "{after}");
        for device in devices {
            let name = device.file_name().context("a device without a name")?;
            let backing = Path::new("/sys/block").join(name).join("loop/backing_file");
            let file = fs::read_to_string(backing).unwrap_or_default();
            assert!(!Path::new(file.trim()).starts_with(&dir), "{file}");
        }
    }
    Ok(())
}
