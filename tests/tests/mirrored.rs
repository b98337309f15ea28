//! A filesystem on two disks, compressed: what `be` makes there, and what GRUB reads of it from
//! each of them alone.

use std::fs::{self, File};

use anyhow::{Result, ensure};
use be_tests::be::Be;
use be_tests::grub::{self, Choice};
use be_tests::small::{KERNEL, Small};

#[test]
#[ignore = "needs root and loop devices"]
fn grub_reads_an_environment_from_each_of_two_disks() -> Result<()> {
    let small = Small::mirrored()?;
    let be = Be::at(small.root())?;
    let text = "something to compress, ".repeat(20_000);
    let initramfs = format!("boot/initramfs-{KERNEL}.img");
    fs::write(small.root().join(&initramfs), &text)?;

    be.run(&["init"]).done();
    be.run(&["create", "new"]).done();
    be.run(&["activate", "new"]).done();
    ensure!(be.run(&["check", "new"]).done().stdout.contains("new"));
    let listed = be.run(&["--json", "list"]).done().json();
    assert_eq!(listed["environments"][1]["next"], true, "{listed}");

    let images = small.images();
    for missing in [None, Some(1), Some(0)] {
        let mut images = images.clone();
        if let Some(index) = missing {
            // A disk that is empty is what GRUB sees of one that is not there.
            let empty = small.dir().join("empty.img");
            File::create(&empty)?.set_len(1 << 20)?;
            images[index] = empty;
        }
        let device = if missing == Some(0) { "loop1" } else { "loop0" };
        let read = |path: &str| grub::read_from(&images, device, path);
        let choice = Choice::of(&String::from_utf8(read(grub::MENU)?)?)?;
        assert_eq!(choice.name, "new");
        assert_eq!(choice.fs_uuid, small.uuid());
        assert_eq!(read(&choice.linux)?, b"a kernel");
        assert_eq!(read(&choice.initrd)?, text.as_bytes(), "{missing:?}");
    }

    be.run(&["activate", "default"]).done();
    be.run(&["destroy", "-y", "new"]).done();
    Ok(())
}
