//! `grub-mkconfig` may be run whenever and wherever somebody likes: GRUB is led to the same
//! entries, the same default and the same counted boots.
//!
//! What GRUB is led to is read from the disks by its own driver, and played by a shell.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use be_grub::envblk::file;
use be_grub::selection::{self, Cause, Failed};
use be_grub::validate::validate;
use be_tests::be::Be;
use be_tests::grub::{self, Choice};
use be_tests::played::Played;
use be_tests::system::{System, mount_all, unmount_below};
use serde_json::Value;
use xtask::image::{Layout, Tree};
use xtask::run::{cmd, run};

/// Enough for every boot that is counted, and for what boots after them.
const BOOTS: usize = 5;

const CONFIG: &str = "/boot/grub/grub.cfg";

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn the_root_in_a_subvolume() -> Result<()> {
    after_every_step(Layout::AtSubvol)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn boot_on_ext4() -> Result<()> {
    after_every_step(Layout::BootExt4)
}

/// What boots by itself, one after the other, where GRUB counts boots and where it cannot.
struct Boots {
    counted: Vec<&'static str>,
    plain: &'static str,
}

impl Boots {
    const DEFAULT: [&str; 2] = ["be-default be.boot=default", "be-default"];
    const NEW: [&str; 2] = ["be-new be.boot=default", "be-new"];
    const ON_TRIAL: [&str; 3] = [
        "be-new be.boot=trial be.left=1",
        "be-new be.boot=trial be.left=0",
        "be-default be.boot=fallback be.failed=new be.why=tries-used",
    ];
    const ONCE: &str = "be-cloned be.boot=once";
    const FALLEN_BACK: &str = "be-new be.boot=fallback be.failed=cloned be.why=tries-used";

    fn always([counted, plain]: [&'static str; 2]) -> Self {
        let counted = vec![counted];
        Self { counted, plain }
    }
}

fn after_every_step(layout: Layout) -> Result<()> {
    let lab = Lab::new(layout)?;
    let default = Boots::always(Boots::DEFAULT);
    lab.be.run(&["init"]).done();
    lab.leads_to(&["default"], &default).context("init")?;

    lab.be.run(&["create", "new"]).done();
    lab.be.run(&["create", "-e", "new", "cloned"]).done();
    let all = ["cloned", "new", "default"];
    lab.leads_to(&all, &default).context("create")?;

    lab.activate_on_trial("new");
    let (counted, plain) = (Boots::ON_TRIAL.to_vec(), "be-new");
    lab.leads_to(&all, &Boots { counted, plain })
        .context("on trial")?;

    lab.be.run(&["activate", "-t", "cloned"]).done();
    let counted = [&[Boots::ONCE], &Boots::ON_TRIAL[..]].concat();
    let plain = "be-cloned";
    lab.leads_to(&all, &Boots { counted, plain })
        .context("once")?;

    lab.confirm("new")?;
    lab.leads_to(&all, &Boots::always(Boots::NEW))
        .context("confirmed")?;

    if lab.counts() {
        lab.activate_on_trial("cloned");
        lab.grub_gives_up("cloned")?;
        let fallen_back = Boots::always([Boots::FALLEN_BACK, ""]);
        lab.leads_to(&all, &fallen_back).context("fallen back")?;
    }
    lab.as_in("new", |be| be.run(&["rollback"]).done().code)?;
    lab.leads_to(&all, &default).context("rolled back")?;

    lab.be.run(&["destroy", "-y", "cloned"]).done();
    lab.leads_to(&all[1..], &default).context("destroyed")
}

struct Lab {
    system: System,
    be: Be,
}

/// What GRUB finds on the disks, and what it comes to.
struct Found {
    menu: String,
    config: String,
    boots: Vec<String>,
}

impl Lab {
    fn new(layout: Layout) -> Result<Self> {
        let system = System::lab(layout)?;
        let be = system.on_disks(&system.be)?;
        Ok(Self { system, be })
    }

    /// Whether GRUB can write somewhere.
    fn counts(&self) -> bool {
        self.system.layout() == Layout::BootExt4
    }

    fn activate_on_trial(&self, name: &str) {
        let activated = self.be.run(&["activate", "--trial", name]);
        if self.counts() {
            activated.done();
        } else {
            activated.exits(3).says(&["no trial boots", "btrfs"]);
            self.be.run(&["activate", name]).done();
        }
    }

    /// Runs something with a `be` to which this environment is the running one.
    fn as_in<T>(&self, name: &str, act: impl FnOnce(Be) -> T) -> Result<T> {
        let (_mount, be) = self.system.mount_root_of(name)?;
        Ok(act(self.system.on_disks(&be)?))
    }

    /// What `be confirm` leaves, which only a machine that has booted it can say.
    fn confirm(&self, name: &str) -> Result<()> {
        self.as_in(name, |be| be.run(&["activate", name]).done().code)?;
        let mut record = self.system.record(name)?;
        record["state"] = Value::from("confirmed");
        let path = self.system.top(&format!("@be/{name}/be.json"));
        fs::write(path, record.to_string())?;
        Ok(())
    }

    /// What GRUB leaves when it has given up an environment.
    fn grub_gives_up(&self, name: &str) -> Result<()> {
        let failed = Some(Failed {
            name: name.to_owned(),
            cause: Cause::TriesUsed,
        });
        let choice = selection::Choice {
            failed,
            ..selection::Choice::default()
        };
        file::update(&self.system.path(&self.block()), |block| {
            choice.write(block)
        })
    }

    /// The environment block, as the running system sees it.
    fn block(&self) -> String {
        format!("/boot/be/{}.env", self.system.uuid())
    }

    /// That GRUB is led to these entries and boots, and that nothing of it changes when
    /// `grub-mkconfig` is run in any environment.
    fn leads_to(&self, names: &[&str], boots: &Boots) -> Result<()> {
        let before = self.found()?;
        assert_eq!(entries(&before.menu), names);
        let wanted = match self.counts() {
            true => boots.counted.clone(),
            false => vec![boots.plain],
        };
        assert_eq!(before.boots, wanted);
        self.loads_default(&before.menu)?;
        self.configure_running()?;
        let written = self.found()?;
        same(&before, &written)?;
        for name in ["new", "cloned"] {
            if self.system.env(name, "").exists() {
                let own = self.configure(name).context(name)?;
                let after = self.found()?;
                same(&written, &after).context(name)?;
                ensure!(after.config == written.config, "{name}: {}", after.config);
                // Were it read instead.
                if let Some(own) = own {
                    assert_eq!(self.boots(&own, &after.menu)?, before.boots, "{name}");
                }
            }
        }
        Ok(())
    }

    /// That GRUB can read what it loads for the default.
    fn loads_default(&self, menu: &str) -> Result<()> {
        let choice = Choice::of(menu)?;
        let device = match choice.fs_uuid == self.system.uuid() {
            true => "loop0",
            false => "loop1",
        };
        for path in [&choice.linux, &choice.initrd] {
            ensure!(!self.read(device, path)?.is_empty(), "{path}");
        }
        Ok(())
    }

    fn configure_running(&self) -> Result<()> {
        self.system.chroot().run(&["grub-mkconfig", "-o", CONFIG])?;
        Ok(())
    }

    /// Runs it in an environment with all mounted that its fstab mounts, and gives what it
    /// has written there.
    fn configure(&self, name: &str) -> Result<Option<String>> {
        let (mount, _) = self.system.mount_root_of(name)?;
        let root = mount.path();
        mount_all(self.system.device().node(), root)?;
        let dir = root.join("boot/grub");
        // Where /boot is apart GRUB's files are only there; somebody may make the directory.
        if name == "cloned" {
            fs::create_dir_all(&dir)?;
        }
        let volumes = self.system.image().volumes();
        let ran = volumes.chroot(root).run(&["grub-mkconfig", "-o", CONFIG]);
        unmount_below(root)?;
        if !dir.exists() {
            ensure!(self.counts() && ran.is_err(), "{ran:?}");
            return Ok(None);
        }
        ran?;
        Ok(Some(fs::read_to_string(dir.join("grub.cfg"))?))
    }

    /// What lies on the disks, with no journal and no log replayed.
    fn found(&self) -> Result<Found> {
        self.settle()?;
        let menu = self.text("loop0", grub::MENU)?;
        ensure!(menu == self.system.menu()?, "{menu}");
        validate(&menu)?;
        let device = if self.counts() { "loop1" } else { "loop0" };
        let home = self.system.layout().grub_home();
        let config = self.text(device, &format!("{home}/grub.cfg"))?;
        ensure!(config == self.system.read(CONFIG)?, "{config}");
        let boots = self.boots(&config, &menu)?;
        Ok(Found {
            menu,
            config,
            boots,
        })
    }

    /// Brings all to the disks. Only a filesystem that was frozen has an empty journal.
    fn settle(&self) -> Result<()> {
        self.system.sync()?;
        if self.counts() {
            for way in ["--freeze", "--unfreeze"] {
                run(cmd("fsfreeze", [way]).arg(self.system.path("/boot")))?;
            }
        }
        Ok(())
    }

    fn text(&self, device: &str, path: &str) -> Result<String> {
        Ok(String::from_utf8(self.read(device, path)?)?)
    }

    fn read(&self, device: &str, path: &str) -> Result<Vec<u8>> {
        let mut images: Vec<PathBuf> = vec![self.system.dir().join("disk.img")];
        if self.counts() {
            images.push(self.system.dir().join("boot.img"));
        }
        grub::read_from(&images, device, path)
    }

    /// The boots that a grub.cfg leads to, which has `be`'s block once and is sound.
    fn boots(&self, config: &str, menu: &str) -> Result<Vec<String>> {
        let uuid = self.system.uuid();
        assert_eq!(config.matches(&be_grub::hook::block(uuid)).count(), 1);
        assert_eq!(config.matches(grub::MENU).count(), 2, "{config}");
        validate(config)?;
        let played = Played::new()?;
        played.put_script(uuid, grub::MENU, menu)?;
        if let Some(boot) = &self.system.image().volumes().boot {
            let path = self.block().replacen("/boot", "", 1);
            played.put(&boot.uuid, &path, self.read("loop1", &path)?)?;
        }
        played.boots(config, BOOTS)
    }
}

fn same(before: &Found, after: &Found) -> Result<()> {
    assert_eq!(before.boots, after.boots);
    ensure!(before.menu == after.menu, "{}", after.menu);
    Ok(())
}

/// The environments that a menu itself lists, in its order.
fn entries(menu: &str) -> Vec<&str> {
    let heads = menu.lines().filter(|line| line.starts_with("menuentry "));
    heads
        .filter_map(|line| line.split_once(" --id 'be-")?.1.split('\'').next())
        .collect()
}
