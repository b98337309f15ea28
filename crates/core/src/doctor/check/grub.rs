//! Checks of GRUB itself: that it reads the menu, from where, and what else it boots.

use std::path::Path;

use super::{Problem, REPAIR, Repair, Severity, problem, running, some};
use crate::crypt::Encryption;
use crate::doctor::Observation;
use crate::doctor::grub::{GrubFiles, holder, installed_later};
use crate::hook::{self, Script};
use crate::model::{Environment, Inventory, Place};
use crate::refusal::Refusal;

/// grub.cfg has to read the menu.
pub(super) fn hook(inv: &Inventory, seen: &Observation) -> Vec<Problem> {
    let Err(refusal) = inv.hooked() else {
        return Vec::new();
    };
    let (id, object, repair) = match &refusal {
        Refusal::NotHooked { config } => {
            // Without a menu there is nothing to read.
            let readable = inv.menu.damage.is_none();
            let repair = (seen.grub_cfg.is_some() && readable).then_some(Repair::Hook);
            ("not-hooked", config.clone(), repair)
        }
        _ => ("no-grub", "/boot".to_owned(), None),
    };
    vec![
        problem(
            id,
            Severity::Error,
            object,
            refusal.to_string(),
            refusal.hint(),
        )
        .repair(repair),
    ]
}

/// Our script in /etc/grub.d.
pub(super) fn scripts(_: &Inventory, seen: &Observation) -> Vec<Problem> {
    seen.scripts
        .iter()
        .filter_map(|fact| {
            let what = match fact.script {
                Script::Good => return None,
                Script::Changed => "was changed, or is of another version of be",
                Script::NotExecutable => "is not executable, so that grub-mkconfig passes over it",
                Script::Missing => "is missing",
            };
            let object = match &fact.of {
                None => format!("/{}", hook::path().display()),
                Some((name, _)) => format!("/{} in {name}", hook::path().display()),
            };
            // What is not running runs no grub-mkconfig.
            let severity = match (&fact.of, fact.script) {
                (None, Script::Missing | Script::NotExecutable) => Severity::Error,
                _ => Severity::Warning,
            };
            let text = format!("it {what}: the next grub.cfg would not read the menu as it should");
            let repair = Repair::Script {
                of: fact.of.clone(),
            };
            Some(problem("grub-script", severity, object, text, REPAIR).repair(repair))
        })
        .collect()
}

/// Whether GRUB's own files have a subvolume of their own by now.
fn has_moved(inv: &Inventory, from: &Environment) -> bool {
    let config = inv.menu.config.as_ref().map(|config| &config.place);
    let own = from.root.as_ref().map(|root| &root.path);
    matches!(config, Some(Place::InRoot { root, .. }) if Some(root) != own)
}

/// Where GRUB's own files lie has to be known: they must never be destroyed.
pub(super) fn grub_home(inv: &Inventory, seen: &Observation) -> Vec<Problem> {
    let Some(env) = holder(inv) else {
        let Some((home, env)) = inv.system.grub_home.as_ref().zip(running(inv)) else {
            return Vec::new();
        };
        let repair = env.record.adopted.then(|| Repair::GrubHome {
            name: env.name().clone(),
            home: home.clone(),
        });
        let remedy = match env.record.adopted {
            true => REPAIR.to_owned(),
            false => "find out where grub-install was run, and do not destroy that one".to_owned(),
        };
        let text = format!(
            "GRUB's own files seem to lie in it, at /{home}, and no record says so: it could be \
             destroyed"
        );
        let name = env.name().to_string();
        let unknown = problem("grub-home-unknown", Severity::Error, name, text, remedy);
        return vec![unknown.repair(repair)];
    };
    // Not looked at, or not to be looked at.
    if seen.grub.is_empty() || env.root.is_none() {
        return Vec::new();
    }
    let home = env.record.grub_home.as_deref().unwrap_or("boot/grub");
    let there = |f: &&GrubFiles| f.name == *env.name() && f.configured.is_some();
    if seen.grub.iter().any(|f| there(&f)) || has_moved(inv, env) {
        return Vec::new();
    }
    vec![problem(
        "grub-home-gone",
        Severity::Error,
        env.name().to_string(),
        format!("GRUB's own files should lie in it, and there is no /{home}/grub.cfg"),
        match env.running {
            true => format!("grub-mkconfig -o /{home}/grub.cfg, then: be init"),
            false => format!(
                "be exec {0} -- grub-mkconfig -o /{home}/grub.cfg, then: be init",
                env.name()
            ),
        },
    )]
}

/// grub-install or grub-mkconfig was run in another environment since.
pub(super) fn grub_elsewhere(inv: &Inventory, seen: &Observation) -> Vec<Problem> {
    let Some(holder) = holder(inv) else {
        return Vec::new();
    };
    let installed = installed_later(inv, &seen.grub);
    let mut problems: Vec<_> = installed
        .iter()
        .map(|name| {
            problem(
                "grub-installed-elsewhere",
                Severity::Warning,
                name.to_string(),
                format!(
                    "grub-install was run in it after it was run in {}: GRUB may read its own \
                     files from there now, and be takes them to be in {0}",
                    holder.name()
                ),
                format!(
                    "grub-install again in {}{}; until then keep {name}: be pin {name}",
                    holder.name(),
                    match holder.running {
                        true => String::new(),
                        false => format!(": be shell {}", holder.name()),
                    }
                ),
            )
        })
        .collect();
    let of_holder = seen.grub.iter().find(|f| f.name == *holder.name());
    let known = of_holder.and_then(|f| f.configured);
    let later = |f: &&GrubFiles| {
        f.name != *holder.name()
            && known.is_some()
            && f.configured > known
            && !installed.contains(&f.name)
    };
    problems.extend(seen.grub.iter().filter(later).map(|f| {
        let is_running = running(inv).is_some_and(|e| *e.name() == f.name);
        problem(
            "grub-configured-elsewhere",
            match is_running {
                true => Severity::Warning,
                false => Severity::Note,
            },
            f.name.to_string(),
            format!(
                "grub-mkconfig was run in it, and GRUB reads the grub.cfg of {}",
                holder.name()
            ),
            match holder.running {
                true => format!("grub-mkconfig -o /{}/grub.cfg", f.home),
                false => format!(
                    "be exec {} -- grub-mkconfig -o /{}/grub.cfg, then: be init",
                    holder.name(),
                    f.home
                ),
            },
        )
    }));
    problems
}

/// Entries of the user's own grub.cfg whose root subvolume is gone.
pub(super) fn grub_cfg_entries(inv: &Inventory, seen: &Observation) -> Vec<Problem> {
    let Some(config) = &inv.menu.config else {
        return Vec::new();
    };
    let text = seen.grub_cfg.as_deref().unwrap_or_default();
    let mut gone: Vec<String> = Vec::new();
    for subvolume in text.lines().filter_map(|l| root_of_entry(l, &inv.fs.uuid)) {
        let there = seen.subvolumes.iter().any(|p| p == Path::new(subvolume));
        let shown = format!("/{subvolume}");
        if !there && !gone.contains(&shown) {
            gone.push(shown);
        }
    }
    let found = || {
        problem(
            "grub-cfg-entry",
            Severity::Warning,
            config.shown.clone(),
            format!(
                "entries that be did not write boot subvolumes that are gone: {}",
                some(&gone)
            ),
            format!("grub-mkconfig -o {}", config.shown),
        )
    };
    (!gone.is_empty()).then(found).into_iter().collect()
}

/// The root subvolume that a line `linux PATH root=UUID=… rootflags=subvol=…` boots.
fn root_of_entry<'a>(line: &'a str, fs_uuid: &str) -> Option<&'a str> {
    let mut words = line.split_whitespace();
    let command = words.next()?;
    if !["linux", "linuxefi", "linux16"].contains(&command) {
        return None;
    }
    let root = format!("root=UUID={fs_uuid}");
    let mut words = words
        .skip(1)
        .filter(|w| *w == root || w.starts_with("rootflags="));
    let (first, second) = (words.next()?, words.next()?);
    let flags = if first == root { second } else { first };
    let options = flags.strip_prefix("rootflags=")?;
    let subvol = options.split(',').find_map(|o| o.strip_prefix("subvol="))?;
    // A quoted or computed one is not for us to understand.
    let plain = |c: char| c.is_ascii_alphanumeric() || "@/._:+-".contains(c);
    subvol.chars().all(plain).then(|| subvol.trim_matches('/'))
}

/// A choice by grub-reboot. On btrfs GRUB cannot clear it.
pub(super) fn grub_choice(inv: &Inventory, seen: &Observation) -> Vec<Problem> {
    const REMEDY: &str = "grub-editenv - unset next_entry";
    let sticks = choice_sticks(inv);
    let chosen = seen.next_entry.as_ref().map(|entry| match sticks {
        true => problem(
            "grub-choice",
            Severity::Warning,
            entry.clone(),
            "grub-reboot chose it, and GRUB cannot clear that on btrfs: it goes before what be \
             chose, at every boot",
            REMEDY,
        ),
        false => problem(
            "grub-choice",
            Severity::Note,
            entry.clone(),
            "grub-reboot chose it: it boots next, for one time",
            REMEDY,
        ),
    });
    chosen.into_iter().collect()
}

/// Whether GRUB's environment block lies in a root subvolume, where GRUB cannot write.
pub(in crate::doctor) fn choice_sticks(inv: &Inventory) -> bool {
    let config = inv.menu.config.as_ref();
    config.is_some_and(|c| match &c.place {
        Place::InRoot { .. } => true,
        Place::Boot { boot, .. } => boot.subvolume.is_some(),
        Place::SystemRoot(_) => false,
    })
}

/// What keeps GRUB out of an encrypted root.
pub(super) fn encryption(_: &Inventory, seen: &Observation) -> Vec<Problem> {
    let obstacles = seen.encryption.iter().flat_map(Encryption::obstacles);
    obstacles
        .map(|o| problem(o.id, Severity::Warning, o.object, o.text, o.remedy))
        .collect()
}

/// What is mounted without `subvol=`.
pub(super) fn default_subvolume(inv: &Inventory, seen: &Observation) -> Vec<Problem> {
    const REMEDY: &str = "btrfs subvolume set-default 5 /";
    let default = inv.fs.default_subvolume;
    let mut problems = Vec::new();
    let made = |e: &&Environment| !e.record.adopted && !e.running;
    let is_default = |e: &&Environment| e.root.as_ref().is_some_and(|r| r.id == default);
    if let Some(env) = inv.environments.iter().find(|e| made(e) && is_default(e)) {
        problems.push(problem(
            "default-subvolume",
            Severity::Warning,
            env.name().to_string(),
            "it is the default subvolume of the filesystem, so that it cannot be destroyed, and \
             whatever mounts without subvol= gets it",
            REMEDY,
        ));
    }
    let root = &inv.system.root;
    let named = |arguments: &Vec<String>| {
        let flags = arguments
            .iter()
            .rev()
            .find_map(|a| a.strip_prefix("rootflags="));
        flags.is_some_and(|f| f.split(',').any(|o| o.starts_with("subvol")))
    };
    let by_default = seen.kernel_arguments.as_ref().is_some_and(|a| !named(a));
    if by_default && root.id == default && !root.is_top_level() {
        problems.push(problem(
            "root-by-default",
            Severity::Warning,
            root.option(),
            "the running root was mounted as the default subvolume, by an entry without \
             rootflags=subvol=: when the default changes, that entry boots another system",
            "boot the entry of be, or write grub.cfg anew: grub-mkconfig -o /boot/grub/grub.cfg",
        ));
    }
    problems
}
