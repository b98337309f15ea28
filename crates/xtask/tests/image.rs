//! The lab's loop image: needs root, `cargo test -p xtask -- --ignored`.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::Result;
use xtask::fingerprint::Fingerprint;
use xtask::host::HostState;
use xtask::image::{Layout, LoopImage, Tree};

/// The packages of a pretended upgrade of @world.
fn upgrades(image: &LoopImage) -> Result<BTreeSet<String>> {
    let listing = image.chroot().run(&[
        "emerge",
        "--ask=n",
        "--color=n",
        "-pv",
        "--quiet",
        "--update",
        "--deep",
        "--newuse",
        "@world",
    ])?;
    Ok(listing
        .lines()
        .filter(|line| line.starts_with("[ebuild"))
        .filter_map(|line| line.split(']').nth(1)?.split_whitespace().next())
        .map(|name| name.split("::").next().unwrap_or(name).to_owned())
        .collect())
}

#[test]
#[ignore = "needs root"]
fn a_sync_brings_exactly_the_new_versions() -> Result<()> {
    let start = Instant::now();
    let image = LoopImage::plain(Layout::AtSubvol)?;
    xtask::say(&format!(
        "image made in {:.2} s",
        start.elapsed().as_secs_f32()
    ));
    assert_eq!(upgrades(&image)?, BTreeSet::new());
    image.chroot().run(&["emerge", "--sync"])?;
    let kernel = format!("sys-kernel/lab-kernel-{}", image.lab.new_kernel.package);
    let expected = [
        "app-misc/hello-2",
        "dev-libs/libgreet-2",
        "app-misc/greeter-1",
        "app-misc/confy-2",
        &kernel,
    ];
    assert_eq!(upgrades(&image)?, expected.map(str::to_owned).into());
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn an_upgrade_does_what_the_packages_promise() -> Result<()> {
    let image = LoopImage::plain(Layout::FedoraRoot)?;
    image.chroot().run(&["emerge", "--sync"])?;
    let upgrade = [
        "emerge",
        "--ask=n",
        "--color=n",
        "--quiet-build=y",
        "--update",
        "--deep",
        "--newuse",
        "@world",
    ];
    assert_eq!(
        image.chroot().run(&["greeter"])?,
        "greetings by libgreet 1\n"
    );
    image.chroot().run(&upgrade)?;
    assert_eq!(
        image.chroot().run(&["greeter"])?,
        "greetings by libgreet 2\n"
    );
    assert!(image.path("/etc/._cfg0000_confy.conf").exists());
    assert!(image.read("/etc/confy.conf")?.contains("colour=green"));
    for kernel in [&image.lab.old_kernel, &image.lab.new_kernel] {
        let release = &kernel.release;
        for path in [
            format!("/boot/vmlinuz-{release}"),
            format!("/boot/initramfs-{release}.img"),
            format!("/lib/modules/{release}/modules.dep"),
        ] {
            assert!(image.path(&path).exists(), "{path}");
        }
    }

    image.add_to_world("app-misc/failbuild")?;
    let error = format!("{:#}", image.chroot().run(&upgrade).unwrap_err());
    assert!(error.contains("the compiler failed"), "{error}");

    image.write("/var/lib/portage/world", "app-misc/failpost\n")?;
    assert!(image.chroot().run(&upgrade).is_err());
    assert!(image.path("/var/db/pkg/app-misc/failpost-2").exists());

    image.write("/var/lib/portage/world", "app-misc/slow\n")?;
    let start = Instant::now();
    image.chroot().env("LAB_SLOW", "4").run(&upgrade)?;
    let seconds = start.elapsed().as_secs();
    assert!(seconds >= 4, "{seconds} s");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn nothing_is_left_on_the_host() -> Result<()> {
    let image = LoopImage::plain(Layout::TopLevel)?;
    let dir = image.dir().to_path_buf();
    let before = HostState::of(&dir)?;
    let tree = Fingerprint::of(image.root(), &[])?;
    image.chroot().run(&["true"])?;
    let later = Fingerprint::of(image.root(), &[])?;
    assert_eq!(tree.diff(&later), Vec::<String>::new());
    assert_eq!(before.diff(&HostState::of(&dir)?), Vec::<String>::new());
    {
        let _top = image.mount_top()?;
        let diff = before.diff(&HostState::of(&dir)?);
        assert_eq!(diff.len(), 1, "{diff:?}");
    }
    let device = image.device().device().to_path_buf();
    drop(image);
    assert!(!dir.exists());
    let after = format!("{:?}", HostState::of(&dir)?);
    assert!(!after.contains(&dir.display().to_string()), "{after}");
    assert!(
        !std::path::Path::new("/sys/block")
            .join(device.file_name().unwrap())
            .join("loop/backing_file")
            .exists()
    );
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_panic_leaves_nothing() {
    let dir = std::sync::Mutex::new(None);
    let result = std::panic::catch_unwind(|| {
        let image = LoopImage::plain(Layout::AtSubvol).unwrap();
        *dir.lock().unwrap() = Some(image.dir().to_path_buf());
        panic!("on purpose");
    });
    assert!(result.is_err());
    let dir = dir.into_inner().unwrap().unwrap();
    assert!(!dir.exists());
    let state = format!("{:?}", HostState::of(&dir).unwrap());
    assert!(!state.contains(&dir.display().to_string()), "{state}");
}
