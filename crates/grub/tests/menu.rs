//! The menu file as GRUB would read it: by `grub-script-check`, and by an independent reading of its words.

#![allow(clippy::print_stderr, reason = "a test that checks nothing says so")]

mod words;

use std::collections::BTreeMap;

use be_grub::menu::{
    Entry, Extra, Header, MORE_ID, Menu, More, Way, entry_id, environment_of, extra_id,
    parse_header, unchecked,
};
use be_grub::validate::{ValidateError, validate};
use proptest::prelude::*;
use words::{menu_entries, outside, statements, submenu};

const UUID: &str = "11111111-2222-3333-4444-555555555555";

fn entry(name: &str) -> Entry {
    Entry {
        name: name.into(),
        title: format!("Gentoo Linux ({name})"),
        linux: format!("/@be/{name}/root/boot/vmlinuz-6.6.1"),
        initrd: vec![format!("/@be/{name}/root/boot/initramfs-6.6.1.img")],
        args: vec![
            format!("root=UUID={UUID}"),
            "ro".into(),
            format!("rootflags=subvol=/@be/{name}/root"),
        ],
        fs_uuid: None,
        unrestricted: false,
    }
}

fn menu(entries: Vec<Entry>) -> Menu {
    Menu {
        fs_uuid: UUID.into(),
        default: None,
        entries,
        left_out: Vec::new(),
        modules: Vec::new(),
        selection: None,
        back: None,
        more: More::default(),
        packages: BTreeMap::new(),
    }
}

/// An older kernel and rescue of an environment.
fn extras(name: &str) -> Vec<Extra> {
    let mut older = entry(name);
    older.title = format!("{name}: Linux 6.1.9");
    older.linux = format!("/@be/{name}/root/boot/vmlinuz-6.1.9");
    older.initrd = vec![format!("/@be/{name}/root/boot/initramfs-6.1.9.img")];
    let mut rescue = entry(name);
    rescue.title = format!("{name}: Linux 6.6.1, rescue");
    rescue.args = be_grub::cmdline::rescue_args(&rescue.args);
    vec![
        Extra {
            way: Way::Kernel("vmlinuz-6.1.9".into()),
            entry: older,
        },
        Extra {
            way: Way::Rescue,
            entry: rescue,
        },
    ]
}

/// Says once why nothing was checked where GRUB is not installed.
fn check(text: &str) {
    match validate(text) {
        Err(ValidateError::NoChecker) => eprintln!("skipped: grub-script-check is not installed"),
        other => other.unwrap_or_else(|error| panic!("{error}\n{text}")),
    }
}

/// The lines of an entry that starts with `command`, as words.
fn lines_of<'a>(body: &'a [Vec<String>], command: &[&str]) -> Vec<&'a [String]> {
    body.iter()
        .filter_map(|line| {
            let (start, rest) = line.split_at_checked(command.len())?;
            (start == command).then_some(rest)
        })
        .collect()
}

#[test]
fn the_format_is_frozen() {
    let mut plain = entry("gentoo-1");
    plain
        .args
        .extend(["quiet".into(), r#"dyndbg="file a.c +p""#.into()]);
    let mut bare = entry("old");
    bare.title = "It's \"old\" { $x } ; # \\".into();
    bare.initrd.clear();
    bare.unrestricted = true;
    let menu = Menu {
        default: Some("old".into()),
        modules: vec!["lvm".into()],
        more: More {
            entries: extras("gentoo-1"),
            unrestricted: false,
        },
        packages: BTreeMap::from([("gentoo-1".into(), 1234)]),
        ..menu(vec![plain, bare])
    };
    let text = menu.render().expect("renders");
    let golden = include_str!("menu.cfg");
    if std::env::var_os("BE_UPDATE_GOLDEN").is_some() {
        std::fs::write(
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/menu.cfg"),
            &text,
        )
        .expect("golden file");
    } else {
        assert_eq!(text, golden);
    }
    check(&text);
}

#[test]
fn every_combination_is_good_grub() {
    for default in [None, Some("a".to_owned())] {
        for modules in [vec![], vec!["cryptodisk".to_owned(), "lvm".to_owned()]] {
            for initrds in 0..3 {
                for args in 0..3 {
                    for unrestricted in [false, true] {
                        for count in 0..3 {
                            if default.is_some() && count == 0 {
                                continue;
                            }
                            let entries =
                                ["a", "b.c", "9:d+e_f-g"][..count].iter().map(|name| Entry {
                                    initrd: vec!["/boot/it's an initramfs".to_owned(); initrds],
                                    args: vec!["a=\"b c\"".to_owned(); args],
                                    fs_uuid: None,
                                    unrestricted,
                                    ..entry(name)
                                });
                            let names = ["a", "b.c"][..count.min(2)].iter();
                            let mut more = More {
                                entries: names.flat_map(|name| extras(name)).collect(),
                                unrestricted,
                            };
                            for extra in &mut more.entries {
                                extra.entry.unrestricted = unrestricted;
                                extra.entry.initrd.truncate(initrds);
                            }
                            let menu = Menu {
                                default: default.clone(),
                                modules: modules.clone(),
                                more,
                                ..menu(entries.collect())
                            };
                            let text = menu.render().expect("renders");
                            check(&text);
                            let inside = submenu(&text).map_or(0, |(_, inside)| inside.len());
                            assert_eq!(inside, menu.more.entries.len());
                            assert_eq!(menu_entries(&text).len(), count);
                            assert_eq!(parse_header(&text).expect("header"), menu.header());
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn only_default_is_set_for_those_who_follow() {
    let menu = Menu {
        default: Some("a".into()),
        ..menu(vec![entry("a")])
    };
    let text = menu.render().expect("renders");
    let top = outside(&text);
    let sets: Vec<&Vec<String>> = top.iter().filter(|line| line[0] == "set").collect();
    assert_eq!(sets, [&["set", "default=be-a"].map(String::from).to_vec()]);
    assert!(
        !text.contains("timeout") && !text.contains("root=("),
        "{text}"
    );
    let at = top.iter().position(|line| line[0] == "set").expect("set");
    assert_eq!(top[at - 2], ["if", "[", "${boot_once}", "!=", "true", "]"]);
}

#[test]
fn the_submenu_is_the_last_line_and_has_ids_of_its_own() {
    let more = ["a", "more"].map(extras).concat();
    let mut menu = Menu {
        more: More {
            entries: more,
            unrestricted: true,
        },
        ..menu(vec![entry("a"), entry("more")])
    };
    menu.more.entries[0].entry.unrestricted = true;
    let text = menu.render().expect("renders");
    let (head, inside) = submenu(&text).expect("a submenu");
    let wanted = ["submenu", "Older kernels and rescue", "--id", MORE_ID];
    assert_eq!(&head[..4], wanted);
    assert_eq!(&head[4..], ["--class", "be", "--unrestricted"]);
    assert!(text.rfind("\nmenuentry ") < text.find("\nsubmenu "));
    let of = |at: usize| (inside[at].0[1].as_str(), inside[at].0[3].as_str());
    assert_eq!(of(0), ("a: Linux 6.1.9", "be-a/vmlinuz-6.1.9"));
    assert_eq!(of(1), ("a: Linux 6.6.1, rescue", "be-a/rescue"));
    assert_eq!(of(2).1, "be-more/vmlinuz-6.1.9");
    let free = |at: usize| inside[at].0.ends_with(&["--unrestricted".to_owned()]);
    assert!(free(0) && !free(1) && !free(2));

    let mut ids: Vec<_> = menu_entries(&text).into_iter().chain(inside).collect();
    ids.push((head, Vec::new()));
    let mut ids: Vec<_> = ids.into_iter().map(|(head, _)| head[3].clone()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 2 + 4 + 1);

    let linux = lines_of(&submenu(&text).expect("one").1[1].1, &["if", "linux"]).concat();
    assert!(linux.contains(&"single".to_owned()), "{linux:?}");
}

/// The environment has its entry, and the others have theirs.
#[test]
fn what_cannot_be_in_the_submenu_is_left_out_of_it() {
    let one = |change: fn(&mut Extra)| {
        let mut menu = menu(vec![entry("a")]);
        menu.more.entries = extras("a");
        change(&mut menu.more.entries[0]);
        let text = menu.render().expect("renders");
        check(&text);
        submenu(&text).expect("a submenu").1.len()
    };
    assert_eq!(one(|_| ()), 2);
    let file = |extra: &mut Extra, file: &str| extra.way = Way::Kernel(file.into());
    assert_eq!(one(|e| e.way = Way::Rescue), 1);
    assert_eq!(one(|e| e.entry.linux = "x".into()), 1);
    assert_eq!(one(|e| e.entry.args = vec!["x".repeat(2040)]), 1);
    for name in [
        "vmlinuz-1>2",
        "vmlinuz 1",
        "vmlinuz-'",
        "rescue",
        "vmlinuz-1/2",
    ] {
        let mut menu = menu(vec![entry("a")]);
        menu.more.entries = extras("a");
        file(&mut menu.more.entries[0], name);
        let text = menu.render().expect("renders");
        assert_eq!(submenu(&text).expect("one").1.len(), 1, "{name}");
    }
    let mut none = menu(vec![entry("a")]);
    none.more.entries = extras("a").split_off(1);
    none.more.entries[0].entry.name = "a/b".into();
    assert_eq!(submenu(&none.render().expect("renders")), None);
}

/// What has passed the check already is left out of the next one, and nothing else.
#[test]
fn only_what_is_new_is_checked() {
    let with = |names: &[&str]| Menu {
        more: More {
            entries: names.iter().flat_map(|name| extras(name)).collect(),
            unrestricted: false,
        },
        ..menu(names.iter().map(|name| entry(name)).collect())
    };
    let passed = with(&["a", "b"]).render().expect("renders");
    assert_eq!(unchecked(&passed, ""), passed);
    assert_eq!(unchecked(&passed, "menuentry 'a' {\n"), passed);

    let same = unchecked(&passed, &passed);
    check(&same);
    assert_eq!(menu_entries(&same), []);
    assert_eq!(submenu(&same).expect("a submenu").1, []);
    let mut rest = outside(&same);
    rest.retain(|line| line != &["true"]);
    assert_eq!(rest, outside(&passed));

    let mut changed = with(&["a", "c", "b"]);
    changed.more.entries[1].entry.args.push("more".into());
    let text = changed.render().expect("renders");
    let rest = unchecked(&text, &passed);
    check(&rest);
    let ids = |entries: Vec<words::MenuEntry>| -> Vec<String> {
        entries
            .into_iter()
            .map(|(head, _)| head[3].clone())
            .collect()
    };
    assert_eq!(ids(menu_entries(&rest)), ["be-c"]);
    let inside = ids(submenu(&rest).expect("a submenu").1);
    assert_eq!(inside, ["be-a/rescue", "be-c/vmlinuz-6.1.9", "be-c/rescue"]);
    let broken = text.replace("be_return 'c'\n\t}", "be_return 'c\n\t}");
    assert_ne!(unchecked(&broken, &passed), rest);
}

#[test]
fn an_id_tells_its_environment() {
    let kernel = extra_id("a.b", &Way::Kernel("vmlinuz-6.1".into()));
    for (id, name) in [
        (entry_id("a.b"), Some("a.b")),
        (kernel.clone(), Some("a.b")),
        (format!("{MORE_ID}>{kernel}"), Some("a.b")),
        (format!("x>{}", extra_id("a", &Way::Rescue)), Some("a")),
        (MORE_ID.to_owned(), None),
        ("gnulinux-simple-1".to_owned(), None),
        ("0".to_owned(), None),
        (String::new(), None),
    ] {
        assert_eq!(environment_of(&id), name, "{id}");
    }
}

#[test]
fn nothing_hostile_is_rendered_into_paths_arguments_or_names() {
    let wrong = |change: fn(&mut Menu)| {
        let mut menu = Menu {
            default: Some("a".into()),
            ..menu(vec![entry("a")])
        };
        change(&mut menu);
        menu.render().expect_err("refused")
    };
    wrong(|m| m.fs_uuid = "x; reboot".into());
    wrong(|m| m.fs_uuid = String::new());
    wrong(|m| m.modules = vec!["lvm\nreboot".into()]);
    wrong(|m| m.modules = vec![String::new()]);
    wrong(|m| m.default = Some("b".into()));
    wrong(|m| m.entries.push(entry("a")));
    for name in ["", "a/b", "-a", ".a", "a b", "a'b", "a\nb", "ä"] {
        let mut one = menu(vec![entry("a")]);
        one.entries[0].name = name.into();
        assert!(one.render().is_err(), "{name:?}");
    }
    wrong(|m| m.entries[0].name = "a".repeat(65));
    wrong(|m| m.entries[0].linux = "boot/vmlinuz".into());
    wrong(|m| m.entries[0].linux = "/a/../vmlinuz".into());
    wrong(|m| m.entries[0].linux = "/a\n/vmlinuz".into());
    wrong(|m| m.entries[0].initrd[0] = "/a\u{1b}[2J".into());
    wrong(|m| m.entries[0].args.push("a\rb".into()));
    wrong(|m| m.entries[0].args.push(String::new()));
    wrong(|m| m.entries[0].args.push("a=b\"c d\"".into()));
    let error = wrong(|m| m.entries[0].args.push("x".repeat(2000)));
    assert!(format!("{error:#}").contains("too long"), "{error:#}");
}

/// A comment line or word beyond 8 KiB is a fatal error in GRUB's lexer, also for what follows in grub.cfg.
#[test]
fn hundreds_of_environments_stay_readable() {
    let names: Vec<String> = (0..500)
        .map(|i| format!("{i:03}{}", "x".repeat(60)))
        .collect();
    let menu = Menu {
        default: Some(names[499].clone()),
        more: More {
            entries: names.iter().flat_map(|name| extras(name)).collect(),
            unrestricted: false,
        },
        packages: names.iter().map(|name| (name.clone(), 1234)).collect(),
        ..menu(names.iter().map(|name| entry(name)).collect())
    };
    let text = menu.render().expect("renders");
    assert!(text.lines().all(|line| line.len() < 8000));
    assert_eq!(parse_header(&text).expect("header"), menu.header());
    check(&text);
}

#[test]
fn a_long_title_and_long_arguments_stay_readable() {
    let mut long = entry("a");
    long.title = "'".repeat(5000);
    long.args = vec!["'".repeat(900)];
    let text = menu(vec![long]).render().expect("renders");
    check(&text);
}

#[test]
fn a_header_of_a_newer_be_is_read_and_damage_is_named() {
    let newer = "# be-menu {\"schema\":2,\"fs_uuid\":\"u\",\"default\":null,\"environments\":[\"a\"],\"once\":\"b\"}\nrest";
    let Header {
        schema,
        environments,
        unknown,
        default,
        ..
    } = parse_header(newer).expect("header");
    assert_eq!((schema, default), (2, None));
    assert_eq!(environments, ["a"]);
    assert_eq!(unknown["once"], "b");
    for (text, says) in [
        ("", "not a menu file"),
        ("menuentry x {\n}\n# be-menu {}", "not a menu file"),
        ("# be-menu {\"schema\":1", "damaged"),
        (
            "# be-menu {\"schema\":0,\"fs_uuid\":\"u\",\"environments\":[]}",
            "schema",
        ),
        (
            "# be-menu {\"schema\":1,\"fs_uuid\":\"u\",\"environments\":[\"a\\nb\"]}",
            "impossible environment",
        ),
    ] {
        let error = format!("{:#}", parse_header(text).expect_err("damaged"));
        assert!(error.contains(says), "{text:?}: {error}");
    }
}

/// Titles that try something.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        r#"[-'"\\${}\[\]();|&<>#*?! \n\r\t\x00\x1b=a-c]{0,40}"#,
        "('\n\\}\nreboot\n|\\$\\(reboot\\)|\\$\\{root\\}|'\\\\''|\\\\\n){1,4}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_title_or_argument_changes_the_structure(
        titles in prop::collection::vec(hostile(), 1..4),
        args in prop::collection::vec(hostile(), 0..4),
        unrestricted in any::<bool>(),
    ) {
        let entries: Vec<Entry> = titles.iter().enumerate().map(|(i, title)| {
            let mut entry = entry(&format!("e{i}"));
            entry.title.clone_from(title);
            // An argument that GRUB cannot be given is an error; test those that it can.
            entry.args.extend(args.iter().filter(|arg| be_grub::cmdline::grub_word(arg).is_ok()).cloned());
            entry.unrestricted = unrestricted;
            entry
        }).collect();
        let more = entries.iter().map(|entry| Extra { way: Way::Rescue, entry: entry.clone() }).collect();
        let more = More { entries: more, unrestricted };
        let menu = Menu { default: Some("e0".into()), more, ..menu(entries) };
        let text = menu.render().expect("renders");
        check(&text);
        prop_assert_eq!(parse_header(&text).expect("header"), menu.header());
        let read = menu_entries(&text);
        prop_assert_eq!(read.len(), menu.entries.len());
        let (_, inside) = submenu(&text).expect("a submenu");
        prop_assert_eq!(inside.len(), menu.entries.len());
        for ((head, body), (other, same)) in read.iter().zip(&inside) {
            prop_assert_eq!(&head[..3], &other[..3]);
            let pick = |line: &Vec<String>| line.get(1).is_some_and(|word| word == "be_ready");
            let shared = |body: &[Vec<String>]| body.iter().filter(|line| !pick(line)).cloned().collect::<Vec<_>>();
            prop_assert_eq!(shared(body), shared(same));
            prop_assert_eq!(&lines_of(same, &["if", "be_ready"])[0][0], "-");
        }
        for (entry, (head, body)) in menu.entries.iter().zip(&read) {
            prop_assert!(!head[1].starts_with('-') && !head[1].starts_with("be-") && !head[1].is_empty());
            prop_assert!(!head[1].chars().any(char::is_control));
            let mut options = vec!["--id".to_owned(), entry_id(&entry.name)];
            options.extend(["--class", "be", "--class", "gnu-linux"].map(String::from));
            options.extend(unrestricted.then(|| "--unrestricted".to_owned()));
            prop_assert_eq!(&head[2..], &options);

            let linux = lines_of(body, &["if", "linux"]);
            let mut words = vec![format!("($be_root){}", entry.linux)];
            words.extend(entry.args.iter().map(|arg| be_grub::cmdline::grub_word(arg).expect("word")));
            prop_assert_eq!(linux, [words.as_slice()]);
            let initrd = lines_of(body, &["if", "initrd"]);
            let image = [format!("($be_root){}", entry.initrd[0])];
            prop_assert_eq!(initrd, [image.as_slice()]);
            let ready = lines_of(body, &["if", "be_ready"]);
            let files = [&entry.name, &menu.fs_uuid, &entry.initrd[0], &entry.linux].map(Clone::clone);
            prop_assert_eq!(ready, [files.as_slice()]);
            let harmless = ["if", "then", "fi", "set", "boot", "multiboot", "be_return"];
            prop_assert!(body.iter().all(|line| harmless.contains(&line[0].as_str())), "{:?}", body);
        }
    }

    #[test]
    fn any_text_is_one_word(text in hostile()) {
        let quoted = be_grub::quote::word(&text);
        prop_assert_eq!(statements(&format!("echo {quoted}")), [["echo".to_owned(), text]]);
    }

    #[test]
    fn what_grub_passes_on_is_what_the_kernel_was_to_get(line in r#"[a-c= "'\\]{0,30}"#) {
        for arg in be_grub::cmdline::split_args(&line) {
            let Ok(word) = be_grub::cmdline::grub_word(&arg) else { continue };
            if word.contains(['\\', '\'']) {
                continue;
            }
            // GRUB's half, then the kernel's.
            let passed = if word.contains(' ') { format!("\"{word}\"") } else { word };
            prop_assert_eq!(words::kernel_value(&passed), words::kernel_value(&arg), "{}", arg);
        }
    }

    #[test]
    fn parsers_take_anything(text in any::<String>(), script in r#"[GX="'\\$(){}`;&|<>#\n a.]{0,60}"#) {
        let _ = parse_header(&text);
        let _ = be_grub::default_grub::parse_default_grub(&text);
        let _ = be_grub::default_grub::parse_default_grub(&script);
        let _ = be_grub::cmdline::split_grub(&text);
        let _ = be_grub::kernel::pair(&[text.clone(), format!("vmlinuz-{text}"), format!("kernel-genkernel-{text}")]);
    }

    #[test]
    fn version_order_is_total(a in "[0-9a.~-]{0,8}(-rc)?[0-9]{0,2}", b in "[0-9a.~-]{0,8}(_rc)?[0-9]{0,2}", c in "[0-9a._-]{0,8}") {
        use be_grub::kernel::compare_versions as compare;
        prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
        if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
            prop_assert!(compare(&a, &c).is_le());
        }
    }
}
