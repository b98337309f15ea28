//! The power is cut: whatever was at work, the machine boots what the menu says,
//! and the next command goes on or cleans up.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use be_tests::Seeded;
use be_tests::vm::{LONG, Machine, SHORT, emulated, root_of};
use serde_json::Value;
use xtask::image::Layout;
use xtask::vm::Firmware;

/// What an upgrade has told when the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Sync,
    Preview,
    Merge,
    Check,
    /// It has ended: from here on the new one boots.
    Done,
}

impl Told {
    fn text(self) -> &'static str {
        match self {
            Self::Nothing => "",
            Self::Sync => ": synchronising",
            Self::Preview => ": computing",
            Self::Merge => ": merging",
            Self::Check => ": checking",
            Self::Done => "boots next",
        }
    }
}

/// When to cut: after this was told, and less than so many milliseconds later.
const MOMENTS: [(Told, u64); 10] = [
    (Told::Nothing, 500),
    (Told::Nothing, 1500),
    (Told::Sync, 2000),
    (Told::Preview, 4000),
    (Told::Merge, 2000),
    (Told::Merge, 8000),
    (Told::Check, 300),
    (Told::Check, 600),
    (Told::Check, 1200),
    (Told::Done, 1),
];

fn cut_at(moments: &[(Told, u64)]) -> Result<()> {
    emulated(|| {
        let mut machine = Machine::new(Layout::AtSubvol, Firmware::Bios, |_, be| {
            be.run(&["init"]).done();
            Ok(())
        })?;
        let mut seeded = Seeded::new(20_261_120);
        let mut ends = Vec::new();
        let mut before = "default".to_owned();
        machine.on()?;
        machine.boots()?;
        for (number, (told, most)) in moments.iter().copied().enumerate() {
            let (name, command) = upgrade(&mut machine, number, told)?;
            let after = Duration::from_millis(seeded.below(most));
            let context = || format!("{command}: cut {after:?} after {told:?}");
            machine.vm().send(&format!("{command} 2>&1\n"))?;
            if told != Told::Nothing {
                let vm = machine.vm();
                vm.expect(told.text(), LONG).with_context(context)?;
            }
            sleep(after);
            machine.cut()?;

            machine.on()?;
            let booted = machine.boots().with_context(context)?;
            let state = state_of(&list(&mut machine)?, &name);
            let now = whole(&mut machine, &booted.root).with_context(context)?;
            ends.push(format!(
                "{told:?} + {after:?}: {name} is {state}, {now} boots"
            ));
            xtask::say(&ends[number]);
            let is_old = now == before && told != Told::Done;
            let is_new =
                now == name && matches!(told, Told::Check | Told::Done) && state == "ready";
            if !is_old && !is_new {
                let log = machine.sh(&format!("be log {name}"))?;
                bail!("{ends:#?}\n{log}");
            }
            if state == "ready" {
                let hello = machine.sh(&format!("be exec {name} -- hello"))?;
                ensure!(hello == "hello 2\n", "{ends:#?}: {hello}");
            }
            before = now;
        }
        Ok(())
    })
}

/// The command of the next upgrade: it goes on with one that was cut off, or
/// begins anew where there is none, or where its very beginning is wanted.
fn upgrade(machine: &mut Machine, number: usize, told: Told) -> Result<(String, String)> {
    let list = list(machine)?;
    let failed = list.iter().find(|env| env["state"] == "failed");
    if let Some(name) = failed.and_then(|env| env["name"].as_str())
        && told != Told::Nothing
    {
        return Ok((name.to_owned(), format!("be upgrade --continue {name}")));
    }
    let name = format!("u{number}");
    let command = format!("be upgrade --again {name} -e default -- app-misc/hello");
    Ok((name, command))
}

/// How many times the power is cut while the menu changes.
const CUTS: usize = 4;
/// The order in which they become the default, again and again.
const ORDER: [&str; 3] = ["a", "b", "default"];

fn list(machine: &mut Machine) -> Result<Vec<Value>> {
    let list = machine.json("list")?;
    let all = list["environments"].as_array();
    Ok(all.context("no environments")?.clone())
}

fn state_of(list: &[Value], name: &str) -> String {
    let env = list.iter().find(|env| env["name"] == name);
    let state = env.and_then(|env| env["state"].as_str());
    state.unwrap_or("gone").to_owned()
}

/// That GRUB and `be` mean the same one, that a changing command leaves nothing
/// unfinished, and that everything usable is bootable. Gives what runs.
fn whole(machine: &mut Machine, root: &str) -> Result<String> {
    let status = machine.json("status")?;
    let running = status["running"].as_str().context("nothing runs")?;
    ensure!(status["next"] == running, "GRUB booted {root}: {status}");
    let expected = match running {
        "default" => "/@".to_owned(),
        name => root_of(name),
    };
    ensure!(root == expected, "GRUB booted {root}: {status}");

    machine.sh("be menu")?;
    let status = machine.json("status")?;
    ensure!(
        !status["pending"].to_string().contains("interrupted"),
        "{status}"
    );
    let list = list(machine)?;
    let uuid = machine.disk.uuid().to_owned();
    let found = machine.sh(&format!(
        "mkdir -p /run/top && mount -o subvolid=5 /dev/disk/by-uuid/{uuid} /run/top && \
         find /run/top/@be/.work -mindepth 2 && btrfs subvolume list / | sed 's/.* path /@@/' && \
         umount /run/top"
    ))?;
    for line in found.lines() {
        let owner = line.strip_prefix("@@").map(|path| {
            path.strip_prefix("@be/")
                .and_then(|path| path.split('/').next())
        });
        let is_known = match owner {
            // Below the directories of what is being made or removed.
            None => false,
            Some(None) => line == "@@@",
            // What was built is kept until an upgrade has come up.
            Some(Some(".built")) => true,
            Some(Some(name)) => state_of(&list, name) != "gone",
        };
        ensure!(is_known, "{line} is left over:\n{found}");
    }
    for env in &list {
        if env["state"] != "failed" {
            let name = env["name"].as_str().context("it has no name")?;
            machine.sh(&format!("be check {name}"))?;
        }
    }
    Ok(running.to_owned())
}

/// At more moments than the usual run has time for.
mod thorough {
    use super::*;

    #[test]
    #[ignore = "needs root and QEMU"]
    fn the_power_fails_during_an_upgrade() -> Result<()> {
        // Every other one, the one after its end among them.
        let some: Vec<_> = MOMENTS.into_iter().skip(1).step_by(2).collect();
        cut_at(&some)
    }

    #[test]
    #[ignore = "needs root and QEMU"]
    fn the_power_fails_at_all_moments_of_an_upgrade() -> Result<()> {
        cut_at(&MOMENTS)
    }

    #[test]
    #[ignore = "needs root and QEMU"]
    fn the_power_fails_while_the_menu_changes() -> Result<()> {
        emulated(|| {
            let mut machine = Machine::new(Layout::AtSubvol, Firmware::Bios, |_, be| {
                be.run(&["init"]).done();
                be.run(&["create", "a"]).done();
                be.run(&["create", "b"]).done();
                Ok(())
            })?;
            let mut seeded = Seeded::new(1_120);
            let mut ends = Vec::new();
            machine.on()?;
            machine.boots()?;
            for _ in 0..CUTS {
                machine.vm().send(
                    "while :; do be activate a && echo did a; be create c && echo made; \
                 be activate b && echo did b; be destroy -y c && echo gone; \
                 be activate default && echo did default; done 2>&1\n",
                )?;
                machine.vm().expect("did a\n", SHORT)?;
                let start = machine.vm().transcript().len();
                let after = Duration::from_millis(seeded.below(4000));
                sleep(after);
                let told = machine.vm().transcript().split_off(start);
                machine.cut()?;

                // The line may be cut off as well.
                let whole_lines = told
                    .split_inclusive('\n')
                    .filter_map(|l| l.strip_suffix('\n'));
                let mut done = whole_lines.filter_map(|line| line.strip_prefix("did "));
                let last = done.next_back().unwrap_or("a").to_owned();
                let at_work = ORDER
                    .iter()
                    .position(|name| *name == last)
                    .map(|index| ORDER[(index + 1) % ORDER.len()])
                    .with_context(|| format!("{last} was not asked for"))?;

                machine.on()?;
                let booted = machine.boots()?;
                let state = state_of(&list(&mut machine)?, "c");
                let now = whole(&mut machine, &booted.root)?;
                ends.push(format!("{last} + {after:?}: c is {state}, {now} boots"));
                xtask::say(ends.last().context("nothing")?);
                ensure!(now == last || now == at_work, "{ends:#?}");
                if state_of(&list(&mut machine)?, "c") != "gone" {
                    machine.sh(if now == "c" { "be activate a" } else { "true" })?;
                    machine.sh("be destroy -y c")?;
                }
            }
            Ok(())
        })
    }
}
