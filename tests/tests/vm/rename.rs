//! The running environment is renamed, and the power goes.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use be_tests::Seeded;
use be_tests::vm::{Machine, SHORT, emulated, root_of};
use xtask::image::{Layout, Tree};
use xtask::vm::Firmware;

/// How many times the power is cut.
const CUTS: usize = 6;

/// What other tests have already shown in parts, in another setting.
mod thorough {
    use super::*;

    #[test]
    #[ignore = "needs root and QEMU"]
    fn a_menu_that_has_the_new_name_already_boots_through_the_link() -> Result<()> {
        emulated(|| {
            let mut machine = Machine::new(Layout::AtSubvol, Firmware::Bios, |_, be| {
                be.run(&["init"]).done();
                be.run(&["create", "-a", "a"]).done();
                Ok(())
            })?;
            {
                let top = machine.mount("")?;
                std::os::unix::fs::symlink("a", top.path("/@be/b"))?;
                for (file, from, to) in [
                    ("/@be/a/root/etc/fstab", "/@be/a/", "/@be/b/"),
                    (
                        "/@be/a/be.json",
                        "\"pinned\"",
                        "\"renaming\": \"b\", \"pinned\"",
                    ),
                    ("/@be/.grub/menu.cfg", "/@be/a/", "/@be/b/"),
                    ("/@be/.grub/menu.cfg", "'be-a'", "'be-b'"),
                    ("/@be/.grub/menu.cfg", "\"a\"", "\"b\""),
                ] {
                    let text = top.read(file)?;
                    ensure!(text.contains(from), "{file}: {text}");
                    top.write(file, text.replace(from, to))?;
                }
            }
            machine.on()?;
            assert_eq!(machine.boots()?.root, root_of("a"));
            let status = machine.json("status")?;
            ensure!(
                status["running"] == "a" && status["next"] == "a",
                "{status}"
            );
            let told = machine.sh("be pin b 2>&1")?;
            ensure!(told.contains("finished the rename of a to b"), "{told}");
            machine.vm().reboot()?;
            assert_eq!(machine.boots()?.root, root_of("b"));
            Ok(())
        })
    }

    #[test]
    #[ignore = "needs root and QEMU"]
    fn the_power_fails_while_the_running_one_gets_another_name() -> Result<()> {
        emulated(|| {
            let mut machine = Machine::new(Layout::AtSubvol, Firmware::Bios, |_, be| {
                be.run(&["init"]).done();
                be.run(&["create", "-a", "a"]).done();
                Ok(())
            })?;
            let mut seeded = Seeded::new(1_121);
            let mut ends = Vec::new();
            machine.on()?;
            assert_eq!(machine.boots()?.root, root_of("a"));
            for _ in 0..CUTS {
                machine.vm().send(
                    "while :; do be rename a b && echo did b; be rename b a && echo did a; done 2>&1\n",
                )?;
                machine.vm().expect("did b\n", SHORT)?;
                let after = Duration::from_millis(seeded.below(1500));
                sleep(after);
                machine.cut()?;

                machine.on()?;
                let root = machine.boots()?.root;
                ensure!([root_of("a"), root_of("b")].contains(&root), "{root}");
                let status = machine.json("status")?;
                ensure!(status["next"] == status["running"], "{status}");
                let was = status["pending"].to_string().contains("interrupted");
                machine.sh("be menu")?;
                let status = machine.json("status")?;
                ensure!(status["next"] == status["running"], "{status}");
                ensure!(
                    !status["pending"].to_string().contains("interrupted"),
                    "{status}"
                );
                let name = status["running"]
                    .as_str()
                    .context("nothing runs")?
                    .to_owned();
                ensure!(["a", "b"].contains(&name.as_str()), "{status}");
                let list = machine.json("list")?;
                ensure!(
                    list["environments"].as_array().map(Vec::len) == Some(2),
                    "{list}"
                );
                machine.sh(&format!("be check {name}"))?;
                machine.sh(&format!("grep -q subvol=/@be/{name}/root /etc/fstab"))?;
                ends.push(format!(
                    "{after:?}: {root} booted, {name} now, unfinished: {was}"
                ));
                xtask::say(ends.last().context("nothing")?);
                if name == "b" {
                    machine.sh("be rename b a")?;
                }
            }
            machine.vm().reboot()?;
            assert_eq!(machine.boots()?.root, root_of("a"));
            Ok(())
        })
    }
}
