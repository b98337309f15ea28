//! One test for each wrong state: it is found, named once, and is the only one.

use std::path::PathBuf;

use be_grub::place::Version;

use super::super::grub::GrubFiles;
use super::super::{
    EnvFacts, FilesFact, MenuFacts, Mode, Observation, Problem, Repair, ScriptFact, Severity,
    Swapfile, check, is_clean, repairs,
};
use crate::crypt::{Container, Encryption, Luks};
use crate::fstab::Fstab;
use crate::hook::Script;
use crate::layout::{Part, Pending};
use crate::menu::Written;
use crate::model::{Inventory, Place, Subvolume};
use crate::plan::fixture::{env, inventory, name};
use crate::record::{Boot, Member, Policy, State};
use crate::upgrade::farm::Engine;

/// A system with nothing wrong: `default` was adopted and holds GRUB's files, `new` is a
/// clone of it.
fn clean() -> (Inventory, Observation) {
    let mut inv = inventory(vec![
        env("default", 256).running().next().with(|e| {
            e.record.adopted = true;
            e.record.grub_home = Some("boot/grub".into());
            e.root.as_mut().unwrap().path = "@".into();
        }),
        env("new", 300).state(State::Ready),
    ]);
    inv.fs.uuid = "f-f".into();
    inv.system.root.path = "@".into();
    inv.menu.default = Some("default".into());
    inv.menu.entries = vec!["new".into(), "default".into()];
    let facts = |n: &str, subvol: &str| EnvFacts {
        name: name(n),
        fstab: Some(Fstab::parse(&format!(
            "UUID=f-f / btrfs subvol={subvol} 0 0\n"
        ))),
        problems: Vec::new(),
    };
    let files = |n: &str| GrubFiles {
        name: name(n),
        home: "boot/grub".into(),
        installed: Some(100),
        configured: Some(200),
    };
    let script = |of| ScriptFact {
        of,
        script: Script::Good,
    };
    let seen = Observation {
        modes: vec![Mode {
            path: "@be".into(),
            mode: 0o700,
            most: 0o700,
            of_root: true,
        }],
        subvolumes: ["", "@", "@be/new/root", "@be/new/base/root"]
            .map(PathBuf::from)
            .into(),
        metadata_free: 10 << 30,
        size: 100 << 30,
        wanted_free: 1 << 30,
        grub_cfg: Some("linux /@/boot/vmlinuz root=UUID=f-f ro rootflags=subvol=@ quiet\n".into()),
        scripts: vec![
            script(None),
            script(Some((name("new"), "@be/new/root".into()))),
        ],
        environments: vec![facts("default", "/@"), facts("new", "/@be/new/root")],
        grub: vec![files("default"), files("new")],
        menu: Some(MenuFacts {
            text: Some("menu".into()),
            wanted: Ok(Written {
                entries: vec!["new".into(), "default".into()],
                text: "menu".into(),
                ..Written::default()
            }),
        }),
        ..Observation::default()
    };
    (inv, seen)
}

/// What is found after a change: the one problem.
#[track_caller]
fn only(change: impl FnOnce(&mut Inventory, &mut Observation)) -> Problem {
    let (mut inv, mut seen) = clean();
    change(&mut inv, &mut seen);
    let mut found = check(&inv, &seen);
    assert_eq!(found.len(), 1, "{found:#?}");
    let problem = found.remove(0);
    assert!(!problem.remedy.is_empty() && !problem.object.is_empty());
    problem
}

fn wanted(seen: &mut Observation) -> &mut Written {
    seen.menu.as_mut().unwrap().wanted.as_mut().unwrap()
}

fn is(problem: &Problem, id: &str, severity: Severity, repairable: bool) {
    assert_eq!(
        (problem.id, problem.severity, problem.repair.is_some()),
        (id, severity, repairable),
        "{problem:?}"
    );
}

#[test]
fn a_sound_system() {
    let (inv, seen) = clean();
    assert_eq!(check(&inv, &seen), Vec::new());
    // Nothing is made up of what was not looked at.
    let quick = Observation {
        size: 100 << 30,
        metadata_free: 10 << 30,
        ..Observation::default()
    };
    assert_eq!(check(&inv, &quick), Vec::new());
}

#[test]
fn fstab_lines() {
    let with = |line: &'static str| {
        move |_: &mut Inventory, seen: &mut Observation| {
            seen.environments[1].fstab = Some(Fstab::parse(line));
        }
    };
    let good = "UUID=f-f / btrfs subvol=/@be/new/root,subvolid=300 0 0\n";
    for (line, id, severity, word) in [
        (good, "fstab-subvolid", Severity::Warning, "subvolid=300"),
        (
            "x / btrfs subvol=/@be/new/root,subvolid=7",
            "fstab-subvolid",
            Severity::Error,
            "subvolid=7",
        ),
        (
            "x / btrfs subvolid=7",
            "fstab-subvolid",
            Severity::Error,
            "it is 300",
        ),
        (
            "x / btrfs subvol=@",
            "fstab-subvol",
            Severity::Error,
            "subvol=/@",
        ),
        (
            "x / btrfs noatime",
            "fstab-subvol",
            Severity::Error,
            "default subvolume",
        ),
    ] {
        let problem = only(with(line));
        is(&problem, id, severity, true);
        assert_eq!(problem.object, "new");
        assert!(problem.text.contains(word), "{}", problem.text);
        let Some(Repair::Fstab { subvol, .. }) = &problem.repair else {
            panic!("{problem:?}");
        };
        assert_eq!(subvol, "/@be/new/root");
    }
    // By the default subvolume, which it is now.
    let problem = only(|inv, seen| {
        inv.fs.default_subvolume = 256;
        seen.environments[0].fstab = Some(Fstab::parse("x / btrfs defaults"));
    });
    is(&problem, "fstab-subvol", Severity::Warning, true);
    // A system in the top level, as mkfs made it, is right as it is.
    let (mut inv, mut seen) = clean();
    let root = inv.environments[0].root.as_mut().unwrap();
    (root.id, root.path) = (5, "".into());
    seen.environments[0].fstab = Some(Fstab::parse("x / btrfs defaults"));
    assert_eq!(check(&inv, &seen), Vec::new());
    // Where an upgrade works, nothing is judged.
    let (mut inv, mut seen) = clean();
    with("x / btrfs subvol=@")(&mut inv, &mut seen);
    inv.environments[1].busy = true;
    assert_eq!(check(&inv, &seen), Vec::new());
}

#[test]
fn what_would_not_boot() {
    let problem = only(|_, seen| {
        seen.environments[1].problems = vec![
            "there is no kernel in /boot".into(),
            "/etc/fstab mounts the root from elsewhere".into(),
        ];
    });
    is(&problem, "not-bootable", Severity::Warning, false);
    assert!(
        problem.text.ends_with("no kernel in /boot"),
        "{}",
        problem.text
    );
    let problem = only(|_, seen| seen.environments[0].problems = vec!["no init".into()]);
    is(&problem, "not-bootable", Severity::Error, false);
}

#[test]
fn menus() {
    let problem = only(|inv, _| inv.menu.damage = Some("line 1".into()));
    is(&problem, "menu-unreadable", Severity::Error, true);
    let problem = only(|inv, seen| {
        seen.menu.as_mut().unwrap().text = None;
        (inv.menu.default, inv.menu.entries) = (None, Vec::new());
    });
    is(&problem, "menu-missing", Severity::Error, true);
    let problem = only(|_, seen| wanted(seen).text = "other".into());
    is(&problem, "menu-stale", Severity::Error, true);
    let problem = only(|_, seen| seen.menu.as_mut().unwrap().wanted = Err("no".into()));
    is(&problem, "menu-impossible", Severity::Error, false);
    let problem = only(|inv, _| inv.menu.default = None);
    is(&problem, "no-default", Severity::Error, false);

    let problem = only(|inv, seen| {
        wanted(seen).text = "longer".into();
        inv.menu.entries.push("gone".into());
    });
    is(&problem, "entry-dead", Severity::Error, true);
    assert_eq!(problem.object, "gone");
    let problem = only(|inv, seen| {
        wanted(seen).text = "longer".into();
        inv.menu.entries.retain(|e| e != "new");
    });
    is(&problem, "entry-missing", Severity::Error, true);
}

#[test]
fn no_menu_is_written_by_itself_where_something_would_be_lost_by_it() {
    // The default lost its kernel.
    let (mut inv, mut seen) = clean();
    inv.menu.default = Some("new".into());
    let menu = wanted(&mut seen);
    menu.entries.retain(|e| e != "new");
    menu.left_out = vec![("new".into(), "no kernel".into())];
    menu.lost_default = Some("new".into());
    let found = check(&inv, &seen);
    let ids: Vec<_> = found.iter().map(|p| p.id).collect();
    assert_eq!(ids, ["default-lost", "entry-dead"]);
    assert_eq!(repairs(&found), []);
    // A record that cannot be read, of an environment that has an entry.
    let (mut inv, mut seen) = clean();
    inv.damaged = vec![("torn".into(), "EOF at line 3".into())];
    inv.menu.entries.push("torn".into());
    wanted(&mut seen).text = "without torn".into();
    assert_eq!(repairs(&check(&inv, &seen)), []);
}

#[test]
fn the_hook_and_the_script() {
    let problem = only(|inv, _| inv.menu.hooked = false);
    is(&problem, "not-hooked", Severity::Error, true);
    assert_eq!(problem.remedy, "be init");
    let problem = only(|inv, seen| {
        inv.menu.hooked = false;
        inv.menu.config = None;
        seen.grub_cfg = None;
    });
    is(&problem, "no-grub", Severity::Error, false);
    for (at, script, severity) in [
        (0, Script::Missing, Severity::Error),
        (0, Script::NotExecutable, Severity::Error),
        (0, Script::Changed, Severity::Warning),
        (1, Script::Missing, Severity::Warning),
    ] {
        let problem = only(|_, seen| seen.scripts[at].script = script);
        is(&problem, "grub-script", severity, true);
        assert_eq!(problem.object.contains("new"), at == 1);
    }
}

#[test]
fn services_and_hooks() {
    use crate::files::{State, samples};
    let is_foreign = |f: &crate::files::Fact| f.state == State::Foreign;
    for (of, object) in [
        (None, "/etc"),
        (Some((name("new"), "@be/new/root".into())), "/etc in new"),
    ] {
        let problem = only(|_, seen| {
            let files = samples().into_iter().filter(|f| !is_foreign(f)).collect();
            seen.files = vec![FilesFact { of, files }];
        });
        is(&problem, "files", Severity::Warning, true);
        assert_eq!(problem.object, object);
        assert!(problem.text.contains("/etc/init.d/be-confirm, /etc/run"));
    }
    let problem = only(|_, seen| {
        let files = samples().into_iter().filter(is_foreign).collect();
        seen.files = vec![FilesFact { of: None, files }];
    });
    is(&problem, "file-foreign", Severity::Note, false);
    assert_eq!(problem.object, "/etc/kernel/postrm.d/zz-be");
}

#[test]
fn where_grubs_own_files_are() {
    let problem = only(|inv, _| inv.environments[0].record.grub_home = None);
    is(&problem, "grub-home-unknown", Severity::Error, true);
    let problem = only(|inv, _| {
        inv.environments[0].record.grub_home = None;
        inv.environments[0].record.adopted = false;
    });
    is(&problem, "grub-home-unknown", Severity::Error, false);
    let problem = only(|_, seen| seen.grub[0].configured = None);
    is(&problem, "grub-home-gone", Severity::Error, false);
    assert!(
        problem
            .remedy
            .contains("grub-mkconfig -o /boot/grub/grub.cfg")
    );
}

#[test]
fn grubs_own_files_are_in_a_boot_of_its_own() {
    let apart = |inv: &mut Inventory| {
        let record = &mut inv.environments[0].record;
        record.grub_home = None;
        record.boot = Some(Boot::new("b-b".into(), "ext4".into(), None));
        inv.system.grub_home = None;
    };
    let (mut inv, mut seen) = clean();
    apart(&mut inv);
    seen.grub.truncate(1);
    assert_eq!(check(&inv, &seen), []);
    // In the one that runs, where it is of no use.
    let problem = only(|inv, seen| {
        apart(inv);
        inv.system.grub_home = Some("boot/grub".into());
        seen.grub[1].installed = None;
        seen.grub[1].configured = Some(201);
    });
    is(&problem, "grub-configured-elsewhere", Severity::Note, false);
    let problem = only(|inv, seen| {
        apart(inv);
        seen.grub[0].configured = None;
    });
    is(&problem, "grub-home-gone", Severity::Error, false);
}

#[test]
fn grub_was_installed_or_configured_elsewhere() {
    let problem = only(|_, seen| seen.grub[1].installed = Some(101));
    is(
        &problem,
        "grub-installed-elsewhere",
        Severity::Warning,
        false,
    );
    assert_eq!(problem.object, "new");
    let problem = only(|_, seen| seen.grub[1].configured = Some(201));
    is(&problem, "grub-configured-elsewhere", Severity::Note, false);
    let (_, seen) = clean();
    assert!(seen.grub.iter().all(|f| f.installed == Some(100)));
}

#[test]
fn entries_of_others() {
    let problem = only(|_, seen| {
        seen.grub_cfg = Some(
            "  linux /@old/boot/vmlinuz root=UUID=f-f ro rootflags=subvol=@old quiet\n\
             linux /x root=UUID=other rootflags=subvol=@other\n\
             linux /x root=UUID=f-f rootflags=subvol=${sub}\n\
             echo root=UUID=f-f rootflags=subvol=@echo\n\
             linux /@/boot/vmlinuz rootflags=noatime,subvol=/@ root=UUID=f-f\n"
                .into(),
        );
    });
    is(&problem, "grub-cfg-entry", Severity::Warning, false);
    assert!(problem.text.ends_with("gone: /@old"), "{}", problem.text);
    let problem = only(|_, seen| seen.next_entry = Some("be-new".into()));
    is(&problem, "grub-choice", Severity::Warning, false);
    assert!(problem.remedy.contains("grub-editenv"));
    // Where GRUB can write, it is a choice like any other.
    let problem = only(|inv, seen| {
        seen.next_entry = Some("be-new".into());
        inv.menu.config.as_mut().unwrap().place = Place::SystemRoot("boot/grub/grub.cfg".into());
    });
    is(&problem, "grub-choice", Severity::Note, false);
}

#[test]
fn the_default_subvolume() {
    let problem = only(|inv, _| inv.fs.default_subvolume = 300);
    is(&problem, "default-subvolume", Severity::Warning, false);
    let line = |text: &str| Some(text.split(' ').map(str::to_owned).collect());
    let problem = only(|inv, seen| {
        inv.fs.default_subvolume = 256;
        seen.kernel_arguments = line("root=/dev/sda2 ro quiet");
    });
    is(&problem, "root-by-default", Severity::Warning, false);
    let (mut inv, mut seen) = clean();
    inv.fs.default_subvolume = 256;
    seen.kernel_arguments = line("root=/dev/sda2 rootflags=noatime,subvol=@ ro");
    assert_eq!(check(&inv, &seen), Vec::new());
}

#[test]
fn the_store() {
    let problem = only(|inv, _| {
        inv.damaged = vec![("torn".into(), "EOF while parsing at line 3 column 1".into())];
    });
    is(&problem, "record-unreadable", Severity::Error, false);
    assert!(problem.text.contains("line 3"), "{}", problem.text);
    let problem = only(|inv, seen| {
        inv.damaged = vec![("plain".into(), "not found".into())];
        seen.recordless = vec!["plain".into()];
    });
    is(&problem, "orphan-directory", Severity::Error, false);
    let problem = only(|_, seen| seen.orphans = vec!["@be/mine".into()]);
    is(&problem, "orphan-subvolume", Severity::Warning, false);
    let problem = only(|_, seen| seen.strangers = vec!["@be/.notes".into()]);
    is(&problem, "stranger", Severity::Note, false);
    let problem = only(|inv, _| inv.leftovers = vec!["half".into()]);
    is(&problem, "leftover", Severity::Warning, true);
    let problem = only(|inv, _| inv.environments[1].foreign = vec!["root/var/x".into()]);
    is(&problem, "nested-in-environment", Severity::Warning, false);
    assert!(
        problem.text.contains("/@be/new/root/var/x"),
        "{}",
        problem.text
    );
    let problem = only(|inv, _| {
        inv.environments[1].root = None;
    });
    is(&problem, "root-missing", Severity::Error, false);
    assert_eq!(problem.remedy, "be destroy new");
    for (mode, of_root, severity) in [
        (0o755, true, Severity::Error),
        (0o700, false, Severity::Error),
    ] {
        let problem = only(|_, seen| {
            seen.modes[0].mode = mode;
            seen.modes[0].of_root = of_root;
        });
        is(&problem, "store-permissions", severity, true);
        let Some(Repair::Permissions { mode, .. }) = problem.repair else {
            panic!("{problem:?}");
        };
        assert_eq!(mode, 0o700);
    }
}

#[test]
fn what_keeps_grub_out_of_an_encrypted_root() {
    let encryption = |kdf: &str, cryptodisk| {
        Some(Encryption {
            containers: vec![Container {
                device: "/dev/sda2".into(),
                luks: Some(Luks {
                    version: 2,
                    kdfs: vec![kdf.into()],
                }),
            }],
            grub: Version::of_program("grub-install (GRUB) 2.12"),
            cryptodisk,
        })
    };
    let problem = only(|_, seen| seen.encryption = encryption("argon2id", None));
    is(&problem, "luks-key", Severity::Warning, false);
    assert!(problem.remedy.ends_with(" /dev/sda2"), "{problem:?}");
    let problem = only(|_, seen| seen.encryption = encryption("pbkdf2", Some(false)));
    is(&problem, "grub-cryptodisk", Severity::Warning, false);
    let (inv, mut seen) = clean();
    seen.encryption = encryption("pbkdf2", Some(true));
    assert_eq!(check(&inv, &seen), Vec::new());
}

#[test]
fn the_system() {
    let problem = only(|inv, _| inv.fs.read_only = true);
    is(&problem, "read-only", Severity::Error, false);
    let problem = only(|inv, _| inv.environments[0].running = false);
    is(&problem, "not-adopted", Severity::Error, false);
    let problem = only(|_, seen| seen.missing_tools = vec!["grub-script-check"]);
    is(&problem, "tool-missing", Severity::Error, false);
    let problem = only(|_, seen| seen.missing_tools = vec!["grub-install"]);
    is(&problem, "tool-missing", Severity::Note, false);
    let problem = only(|_, seen| seen.no_manager = Some("none".into()));
    is(&problem, "tool-missing", Severity::Note, false);
    let problem = only(|_, seen| {
        seen.missing_engines = vec![Engine {
            program: "ccache",
            package: "dev-util/ccache",
        }];
    });
    is(&problem, "engine-missing", Severity::Note, false);
    let problem = only(|inv, _| {
        inv.system.layout.fstab = Fstab::parse("UUID=b /usr ext4 defaults 0 2\n");
    });
    is(&problem, "layout-unsupported", Severity::Error, false);
    let problem = only(|inv, _| {
        inv.system.layout.parts = vec![Part {
            mount: "/var/lib/machines".into(),
            subvolume: inv.system.root.clone(),
            within: PathBuf::new(),
            listed: false,
            source: None,
            policy: Policy::Shared,
            chosen: false,
            nested: Vec::new(),
        }];
    });
    is(&problem, "not-covered", Severity::Note, false);
    let problem = only(|inv, _| inv.fs.quotas = true);
    is(&problem, "quotas", Severity::Warning, false);
    for (active, severity) in [(true, Severity::Error), (false, Severity::Warning)] {
        let path = PathBuf::from("/swap");
        let problem = only(|_, seen| seen.swapfiles = vec![Swapfile { path, active }]);
        is(&problem, "swapfile", severity, false);
    }
}

/// Two subvolumes for `new`, and what its fstab has to say of them.
fn with_volume(inv: &mut Inventory, seen: &mut Observation, lines: &str) {
    let env = &mut inv.environments[1];
    let uuid = "uuid-400".to_owned();
    let member = Member::new("/var", Policy::Cloned, uuid.clone());
    env.record.subvolumes.push(member);
    let path = PathBuf::from("@be/new/vol/var");
    env.subvolumes.push(Some(Subvolume {
        id: 400,
        uuid,
        path: path.clone(),
        generation: 1,
    }));
    seen.subvolumes.extend([path, "@home".into()]);
    seen.ids = (0..).take(seen.subvolumes.len() - 2).collect();
    seen.ids.extend([400, 401]);
    let root = "UUID=f-f / btrfs subvol=/@be/new/root 0 0\n";
    seen.environments[1].fstab = Some(Fstab::parse(&format!("{root}{lines}")));
}

#[test]
fn subvolumes_beside_the_root() {
    const VAR: &str = "UUID=f-f /var btrfs subvol=/@be/new/vol/var 0 0\n";
    let (mut inv, mut seen) = clean();
    let home = "UUID=f-f /home btrfs subvolid=401 0 0\nUUID=x /data btrfs subvol=gone 0 0\n";
    with_volume(&mut inv, &mut seen, &format!("{VAR}{home}"));
    assert_eq!(check(&inv, &seen), Vec::new());
    for (line, id, severity, repairable) in [
        ("", "fstab-missing", Severity::Error, false),
        (
            "UUID=f-f /var btrfs subvol=@be/old/vol/var 0 0\n",
            "fstab-subvol",
            Severity::Error,
            true,
        ),
        (
            "UUID=f-f /var btrfs defaults 0 0\n",
            "fstab-subvol",
            Severity::Error,
            true,
        ),
        (
            "UUID=f-f /var btrfs subvolid=7 0 0\n",
            "fstab-subvolid",
            Severity::Error,
            true,
        ),
        (
            "UUID=f-f /var btrfs subvolid=400 0 0\n",
            "fstab-subvolid",
            Severity::Warning,
            true,
        ),
    ] {
        let problem = only(|inv, seen| with_volume(inv, seen, line));
        is(&problem, id, severity, repairable);
    }
    for (line, severity) in [
        ("UUID=f-f /srv btrfs subvol=@srv 0 0\n", Severity::Error),
        (
            "UUID=f-f /srv btrfs nofail,subvolid=99 0 0\n",
            Severity::Warning,
        ),
        (
            "UUID=f-f /home btrfs subvol=@home,subvolid=400 0 0\n",
            Severity::Error,
        ),
    ] {
        let problem = only(|inv, seen| with_volume(inv, seen, &format!("{VAR}{line}")));
        is(&problem, "fstab-gone", severity, false);
    }
    let inside = format!("{VAR}UUID=f-f /srv btrfs subvol=/@be/old/root/srv 0 0\n");
    let problem = only(|inv, seen| {
        with_volume(inv, seen, &inside);
        seen.subvolumes.push("@be/renamed/root/srv".into());
    });
    assert!(
        problem.remedy.contains("/@be/renamed/root/srv"),
        "{problem:?}"
    );
    let problem = only(|inv, seen| {
        with_volume(inv, seen, VAR);
        inv.environments[1].subvolumes[1] = None;
    });
    is(&problem, "volume-missing", Severity::Error, false);
    let problem = only(|inv, seen| {
        with_volume(inv, seen, VAR);
        inv.environments[1].record.subvolumes[1].replacement = Some("uuid-500".into());
    });
    is(&problem, "replacement-left", Severity::Warning, true);
}

#[test]
fn what_was_split() {
    for (changed, id, severity) in [
        (0, "split-pending", Severity::Note),
        (3, "split-behind", Severity::Warning),
    ] {
        let problem = only(|inv, seen| {
            seen.pending = vec![Pending {
                mount: "/srv/db".into(),
                subvolume: inv.system.root.clone(),
                policy: Policy::Late,
                changed,
                written: false,
            }];
        });
        is(&problem, id, severity, false);
    }
}

#[test]
fn space() {
    let problem = only(|inv, _| inv.fs.free = 1 << 20);
    is(&problem, "space-low", Severity::Warning, false);
    let problem = only(|_, seen| seen.metadata_free = 127 << 20);
    is(&problem, "metadata-low", Severity::Warning, false);
    // A small filesystem has never that much.
    let (inv, mut seen) = clean();
    (seen.size, seen.metadata_free) = (512 << 20, 64 << 20);
    assert_eq!(check(&inv, &seen), Vec::new());
}

#[test]
fn repairs_come_once_and_in_their_order() {
    let (mut inv, mut seen) = clean();
    inv.menu.hooked = false;
    inv.leftovers = vec!["a".into(), "b".into()];
    wanted(&mut seen).text = "other".into();
    seen.modes[0].mode = 0o777;
    let found = check(&inv, &seen);
    assert!(!is_clean(&found));
    assert!(found.is_sorted_by_key(|p| p.severity));
    assert!(matches!(
        repairs(&found)[..],
        [
            Repair::Permissions { .. },
            Repair::Sweep,
            Repair::Menu,
            Repair::Hook
        ]
    ));
}
