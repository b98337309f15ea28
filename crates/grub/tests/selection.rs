//! The part of the menu that chooses by itself: as GRUB would read it, and what it does, by a shell that plays GRUB.

#![allow(clippy::print_stderr, reason = "a test that checks nothing says so")]

#[allow(dead_code, reason = "shared with the tests of the whole menu")]
mod words;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

use be_grub::menu::{Entry, Extra, Menu, More, Way, parse_header};
use be_grub::selection::{Boot, Cause, Format, MAX_TRIES, Place, Refused, Selection};
use be_grub::validate::{ValidateError, validate};
use proptest::prelude::*;
use words::{menu_entries, statements, submenu};

const UUID: &str = "11111111-2222-3333-4444-555555555555";

fn entry(name: &str) -> Entry {
    Entry {
        name: name.into(),
        title: format!("Gentoo Linux ({name})"),
        fs_uuid: None,
        linux: format!("/@be/{name}/root/boot/vmlinuz-6.6.1"),
        initrd: vec![format!("/@be/{name}/root/boot/initramfs-6.6.1.img")],
        args: vec![format!("root=UUID={UUID}"), "quiet".into()],
        unrestricted: false,
    }
}

fn on_esp() -> Place {
    Place::File {
        fs_uuid: "ABCD-1234".into(),
        path: format!("/be/{UUID}.env"),
        format: Format::Fat,
    }
}

fn menu(names: &[&str], default: &str, place: Place) -> Menu {
    Menu {
        fs_uuid: UUID.into(),
        default: Some(default.into()),
        entries: names.iter().map(|name| entry(name)).collect(),
        left_out: Vec::new(),
        modules: Vec::new(),
        selection: Some(Selection {
            place,
            unattended: vec!["panic=10".into(), "rd.shell=0".into()],
        }),
        back: None,
        more: More {
            entries: names.iter().map(|name| rescue(name)).collect(),
            unrestricted: false,
        },
        packages: BTreeMap::new(),
    }
}

fn rescue(name: &str) -> Extra {
    let mut entry = entry(name);
    entry.title = format!("Gentoo Linux ({name}), rescue");
    entry.args.push("single".into());
    Extra {
        way: Way::Rescue,
        entry,
    }
}

/// Says once why nothing was checked where GRUB is not installed.
fn check(text: &str) {
    match validate(text) {
        Err(ValidateError::NoChecker) => eprintln!("skipped: grub-script-check is not installed"),
        other => other.unwrap_or_else(|error| panic!("{error}\n{text}")),
    }
}

#[test]
fn the_format_is_frozen() {
    let mut menu = menu(&["new", "old"], "old", on_esp());
    menu.entries[1].initrd.clear();
    let text = menu.render().expect("renders");
    let golden = include_str!("selection.cfg");
    if std::env::var_os("BE_UPDATE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/selection.cfg");
        std::fs::write(path, &text).expect("golden file");
    } else {
        assert_eq!(text, golden);
    }
    check(&text);
}

#[test]
fn every_combination_is_good_grub() {
    for place in [on_esp(), Place::Header] {
        for initrds in 0..3 {
            for count in 1..3 {
                for unattended in [vec![], vec!["panic=10".to_owned()]] {
                    let mut menu = menu(&["old", "9:d+e_f-g"][..count], "old", place.clone());
                    for entry in &mut menu.entries {
                        entry.initrd = vec!["/boot/it's an initramfs".into(); initrds];
                        entry.unrestricted = initrds == 1;
                    }
                    menu.selection = Some(Selection {
                        place: place.clone(),
                        unattended,
                    });
                    let text = menu.render().expect("renders");
                    check(&text);
                    assert_eq!(menu_entries(&text).len(), count);
                    assert_eq!(parse_header(&text).expect("header"), menu.header());
                }
            }
        }
    }
}

#[test]
fn the_record_names_the_block_and_its_module_is_loaded() {
    let text = menu(&["old"], "old", on_esp()).render().expect("renders");
    let block = parse_header(&text).expect("header").block.expect("a block");
    assert_eq!(block.fs_uuid, "ABCD-1234");
    assert_eq!(block.path, format!("/be/{UUID}.env"));
    assert_eq!(block.place(), on_esp());
    assert!(text.contains("\ninsmod 'fat'\n"), "{text}");

    let text = menu(&["old"], "old", Place::Header).render();
    let text = text.expect("renders");
    let block = parse_header(&text).expect("header").block.expect("a block");
    assert_eq!((&*block.fs_uuid, &*block.path), (UUID, "512+1"));
    assert_eq!(block.place(), Place::Header);
    assert!(
        text.contains("load_env -f ($be_env)'512+1' be_once "),
        "{text}"
    );
}

/// They are a person's choice, whatever would have booted by itself, and nothing of them falls back.
#[test]
fn the_submenu_says_chosen_and_knows_nothing_of_the_selection() {
    let text = menu(&["new", "old"], "old", on_esp()).render();
    let (_, inside) = submenu(&text.expect("renders")).expect("a submenu");
    assert_eq!(inside.len(), 2);
    for (head, body) in inside {
        assert_eq!(body[0][..3], ["if", "be_ready", "-"], "{head:?}");
        let words = body.concat();
        // In a submenu all is gone that was not exported, but what its entries set.
        for word in words.iter().filter(|word| word.contains('$')) {
            let known = *word == "$be_how" || word.starts_with("($be_root)/");
            assert!(known, "{word}");
        }
        assert!(!words.iter().any(|word| word.contains("be_fall_back")));
    }
}

/// There would be nothing to fall back to.
#[test]
fn without_a_default_the_menu_is_as_without_a_selection() {
    let mut menu = menu(&["old"], "old", on_esp());
    menu.default = None;
    let with = menu.render().expect("renders");
    menu.selection = None;
    assert_eq!(with, menu.render().expect("renders"));
}

#[test]
fn what_is_set_is_ours() {
    let text = menu(&["new", "old"], "old", on_esp()).render();
    for line in statements(&text.expect("renders")) {
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        if let ["set" | "unset" | "export", name] = line[..] {
            assert!(
                name.starts_with("be_") || name.starts_with("default=be-"),
                "{name}"
            );
        }
    }
}

#[test]
fn nothing_hostile_is_rendered() {
    let wrong = |change: fn(&mut Selection)| {
        let mut menu = menu(&["old"], "old", on_esp());
        change(menu.selection.as_mut().expect("a selection"));
        assert!(menu.render().is_err(), "{:?}", menu.selection);
    };
    let file = |fs_uuid: &str, path: &str| Place::File {
        fs_uuid: fs_uuid.into(),
        path: path.into(),
        format: Format::Ext,
    };
    wrong(|s| s.unattended = vec!["a b".into()]);
    wrong(|s| s.unattended = vec!["$(x)".into()]);
    wrong(|s| s.unattended = vec!["'".into()]);
    wrong(|s| s.unattended = vec![String::new()]);
    for (fs_uuid, path) in [
        ("x; reboot", "/be/x"),
        ("", "/be/x"),
        ("1", "be/x"),
        ("1", "/a/../x"),
        ("1", "/a\nb"),
    ] {
        let menu = menu(&["old"], "old", file(fs_uuid, path));
        assert!(menu.render().is_err(), "{fs_uuid} {path}");
    }
    let odd = menu(&["old"], "old", file("1", "/it's $x; reboot"));
    check(&odd.render().expect("renders"));
}

/// The words of the selection come on top: what would not fit is said before, of one entry alone.
#[test]
fn room_is_left_on_the_kernel_command_line() {
    let selection = menu(&["old"], "old", on_esp()).selection.expect("one");
    let mut long = entry("old");
    let mut fits = |length: usize| {
        long.args = vec!["x".repeat(length)];
        (
            long.check().is_ok(),
            long.check_for(Some(&selection)).is_ok(),
        )
    };
    let most = (0..2048).rfind(|length| fits(*length).1).expect("some");
    assert_eq!(fits(most + 1), (true, false));
    assert!(fits(most + 100).0);
    assert_eq!(fits(2040), (false, false));
}

#[test]
fn hundreds_of_environments_stay_readable() {
    let names: Vec<String> = (0..500)
        .map(|i| format!("{i:03}{}", "x".repeat(60)))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    check(
        &menu(&names, names[499], on_esp())
            .render()
            .expect("renders"),
    );
}

/// A state of the block, and of GRUB.
#[derive(Debug, Clone, Default)]
struct State {
    once: &'static str,
    trial: &'static str,
    left: &'static str,
    failed: &'static str,
    cause: &'static str,
    loads: bool,
    saves: bool,
    rebooted: bool,
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    default: String,
    words: String,
    block: [String; 5],
}

/// What the table in [`be_grub::selection`] says, with `old` as the default and `new` beside it.
fn expected(state: &State) -> Outcome {
    let is_entry = |name: &str| ["old", "new"].contains(&name);
    let mut block = [
        state.once,
        state.trial,
        state.left,
        state.failed,
        state.cause,
    ]
    .map(str::to_owned);
    let mut default = "old";
    let mut words = "be.boot=default".to_owned();
    let refused = |why| format!("be.boot=default be.why={why}");
    let left: Option<u8> = match state.left {
        "10" => None,
        left => left.parse().ok().filter(|left| *left > 0),
    };
    let on_trial = !["", "old"].contains(&state.trial);
    if state.rebooted {
        default = "other";
        words.clear();
    } else if !state.loads {
        words = refused("no-block");
    } else if !state.once.is_empty() {
        if !state.saves {
            words = refused("no-save");
        } else if !is_entry(state.once) {
            words = refused("no-entry");
        } else {
            default = state.once;
            words = "be.boot=once panic=10 rd.shell=0".into();
        }
        if state.saves {
            block[0].clear();
        }
    } else if let (true, Some(left)) = (on_trial, left) {
        if !state.saves {
            words = refused("no-save");
        } else {
            block[2] = (left - 1).to_string();
            if is_entry(state.trial) {
                default = state.trial;
                words = format!("be.boot=trial be.left={} panic=10 rd.shell=0", left - 1);
            } else {
                words = refused("no-entry");
            }
        }
    } else if on_trial {
        words = match is_entry(state.trial) {
            true => format!(
                "be.boot=fallback be.failed={} be.why=tries-used",
                state.trial
            ),
            false => refused("no-entry"),
        };
        if state.saves {
            block = ["", "", "", state.trial, "tries-used"].map(str::to_owned);
        }
    } else if !state.failed.is_empty() {
        let cause = match state.cause {
            "load-failed" => "load-failed",
            _ => "tries-used",
        };
        words = match is_entry(state.failed) {
            true => format!("be.boot=fallback be.failed={} be.why={cause}", state.failed),
            false => refused("no-entry"),
        };
    }
    Outcome {
        default: default.into(),
        words,
        block,
    }
}

/// GRUB's commands for a shell. Its language is the shell's but for `set`, and for parentheses in words.
const GRUB: &str = r#"
set() { declare -g "$1"; }
insmod() { :; }
search() { be_env=there; }
load_env() {
	[ "$loads" = y ] && [ "$2" = "there/be/$uuid.env" ] || return 1
	shift 2
	for v; do [ -z "${block[$v]+x}" ] || declare -g "$v=${block[$v]}"; done
}
save_env() {
	[ "$saves" = y ] && [ "$2" = "there/be/$uuid.env" ] || return 1
	shift 2
	for v; do if [ -n "${!v+x}" ]; then block[$v]=${!v}; else unset "block[$v]"; fi; done
}
put() { if [ -n "$2" ]; then block[$1]=$2; fi; }
"#;

/// Plays the selection for all states, one after the other, in one shell.
fn played(states: &[State]) -> Option<Vec<Outcome>> {
    play(states, "menu")
}

/// As [`played`], with what is done instead of sourcing the menu once.
fn play(states: &[State], what: &str) -> Option<Vec<Outcome>> {
    let text = menu(&["new", "old"], "old", on_esp())
        .render()
        .expect("renders");
    let (top, _) = text.split_once("\nfunction ").expect("a function");
    let top = top.replace("($be_env)", "${be_env}");
    let mut script = format!("{GRUB}\nuuid={UUID}\nmenu() {{\n{top}\n}}\n");
    for state in states {
        let yes = |flag| if flag { "y" } else { "" };
        let _ = write!(
            script,
            "unset block ${{!be_*}}; declare -A block; be_pick=\n\
             put be_once '{}'; put be_try '{}'; put be_left '{}'; put be_failed '{}'; put be_cause '{}'\n\
             loads={} saves={} boot_once={} default=be-other\n\
             {what}\n\
             for v in \"$default\" \"$be_words\" \"${{block[be_once]}}\" \"${{block[be_try]}}\" \
             \"${{block[be_left]}}\" \"${{block[be_failed]}}\" \"${{block[be_cause]}}\"; do printf '%s|' \"$v\"; done\n\
             echo\n",
            state.once,
            state.trial,
            state.left,
            state.failed,
            state.cause,
            yes(state.loads),
            yes(state.saves),
            if state.rebooted { "true" } else { "" },
        );
    }
    let output = Command::new("bash")
        .arg("-c")
        .arg(". /dev/stdin")
        .stdin(memory(&script))
        .output();
    let output = output.ok()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{errors}");
    let text = String::from_utf8(output.stdout).expect("text");
    let outcome = |line: &str| {
        let fields: Vec<&str> = line.split('|').collect();
        Outcome {
            default: fields[0].trim_start_matches("be-").into(),
            words: fields[1].into(),
            block: std::array::from_fn(|index| fields[2 + index].into()),
        }
    };
    Some(text.lines().map(outcome).collect())
}

/// The script as an open file: it may be larger than an argument.
fn memory(text: &str) -> std::fs::File {
    use std::io::{Seek, Write};
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file.rewind().expect("rewound");
    file
}

#[test]
fn it_does_what_the_table_says_in_every_state() {
    let mut states = Vec::new();
    let names = ["", "new", "old", "gone"];
    for once in names {
        for trial in names {
            for left in ["", "0", "1", "2", "5", "9", "10", "x"] {
                for (failed, cause) in
                    [("", ""), ("new", "load-failed"), ("new", "x"), ("gone", "")]
                {
                    for flags in 0..8 {
                        states.push(State {
                            once,
                            trial,
                            left,
                            failed,
                            cause,
                            loads: flags & 1 == 0,
                            saves: flags & 2 == 0,
                            rebooted: flags & 4 != 0,
                        });
                    }
                }
            }
        }
    }
    let Some(outcomes) = played(&states) else {
        eprintln!("skipped: bash is not installed");
        return;
    };
    assert_eq!(outcomes.len(), states.len());
    for (state, outcome) in states.iter().zip(outcomes) {
        assert_eq!(outcome, expected(state), "{state:?}");
        let known = match outcome.words.as_str() {
            "" => state.rebooted,
            words => Boot::parse(words).is_some(),
        };
        assert!(known, "{outcome:?}");
    }
}

#[test]
fn every_number_of_tries_counts_down_to_the_fallback() {
    for tries in 1..=MAX_TRIES {
        let mut left = tries;
        let digits = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
        loop {
            let state = State {
                trial: "new",
                left: digits[usize::from(left)],
                loads: true,
                saves: true,
                ..State::default()
            };
            let Some(outcomes) = played(&[state]) else {
                return;
            };
            let boot = Boot::parse(&outcomes[0].words).expect("how");
            if left == 0 {
                assert!(matches!(boot, Boot::Fallback(failed) if failed.cause == Cause::TriesUsed));
                break;
            }
            left -= 1;
            assert_eq!(boot, Boot::Trial(left));
        }
    }
    let state = State::default();
    if let Some(outcomes) = played(&[state]) {
        let boot = Boot::parse(&outcomes[0].words);
        assert_eq!(boot, Some(Boot::Default(Some(Refused::NoBlock))));
    }
}

/// `normal` or `configfile` at the prompt reads it a second time: nothing is counted or lost by that.
#[test]
fn sourced_twice_it_counts_once() {
    let state = State {
        trial: "new",
        left: "2",
        loads: true,
        saves: true,
        ..State::default()
    };
    let Some(outcomes) = play(&[state], "menu; default=be-other; menu") else {
        return;
    };
    assert_eq!(outcomes[0].default, "new");
    assert_eq!(outcomes[0].block[2], "1");
}

/// The functions of a menu, and the body of an entry as one more, `entry`, for a shell.
fn body_of(text: &str, id: &str) -> String {
    let (_, functions) = text.split_once("\nfunction ").expect("a function");
    let (functions, _) = functions.split_once("\nmenuentry ").expect("an entry");
    let mut lines = text
        .lines()
        .skip_while(|line| !line.contains(&format!(" --id '{id}' ")));
    let head = lines.next().expect("an entry");
    let indent = &head[..head.len() - head.trim_start().len()];
    let end = format!("{indent}}}");
    let body: Vec<&str> = lines.take_while(|line| *line != end).collect();
    let body = body.join("\n");
    let script = format!("function {functions}\nentry() {{\n{body}\n}}\n");
    let script = script.replace("($be_root)", "${be_root}");
    let script = script.replace("($be_env)", "${be_env}");
    script.replace("[ ! -s ", "missing ")
}

/// Nothing can be loaded in the end: what was picked falls back, and what a person chose comes back to the menu.
#[test]
fn only_the_entry_that_was_picked_is_told_so_and_falls_back() {
    const GRUB: &str = r#"
set() { declare -g "$1"; }
insmod() { :; }; multiboot() { :; }; sleep() { :; }; echo() { :; }
search() { be_root=there; }
missing() { return 1; }
linux() { shift; printf '%s ' "$@"; }
initrd() { :; }
boot() { return 1; }
"#;
    let text = menu(&["new", "old"], "old", on_esp()).render();
    let text = text.expect("renders");
    let words = format!("root=UUID={UUID} quiet");
    for (id, told) in [
        ("be-new", "be.boot=trial be.left=1 falls back"),
        ("be-old", "be.boot=chosen "),
        ("be-new/rescue", "single be.boot=chosen "),
        ("be-old/rescue", "single be.boot=chosen "),
    ] {
        let script = format!(
            "{GRUB}\n{}\nbe_fall_back() {{ printf 'falls back'; }}\nbe_pick=new be_boot=trial be_words='be.boot=trial be.left=1'\nentry\n",
            body_of(&text, id)
        );
        let output = Command::new("bash")
            .arg("-c")
            .arg(". /dev/stdin")
            .stdin(memory(&script))
            .output();
        let Ok(output) = output else {
            eprintln!("skipped: bash is not installed");
            return;
        };
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{errors}");
        let told = format!("{words} {told}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), told, "{id}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_argument_or_path_changes_the_structure(
        args in prop::collection::vec(r#"[-'"\\${}\[\]();|&<>#*?! =a-c]{0,30}"#, 0..4),
        title in any::<String>(),
        path in r#"/[-'"\\${}();|&<>#*?! a-c]{1,20}[a-c]"#,
    ) {
        let place = Place::File { fs_uuid: "AB-12".into(), path: path.clone(), format: Format::Ext };
        let mut menu = menu(&["new", "old"], "old", place);
        for entry in &mut menu.entries {
            entry.title.clone_from(&title);
            entry.args = args.iter().filter(|arg| be_grub::cmdline::grub_word(arg).is_ok()).cloned().collect();
        }
        for (extra, entry) in menu.more.entries.iter_mut().zip(&menu.entries) {
            extra.entry.args.clone_from(&entry.args);
            extra.entry.args.push("single".into());
        }
        let text = menu.render().expect("renders");
        check(&text);
        let all = statements(&text);
        let arguments: Vec<String> =
            menu.entries[0].args.iter().map(|arg| be_grub::cmdline::grub_word(arg).expect("word")).collect();
        let loads: Vec<&[String]> = all.iter().filter(|line| line.starts_with(&["if".into(), "linux".into()]))
            .map(|line| &line[2..]).collect();
        // The fallback, then the entries.
        let wanted = [
            ("old", "$be_words", None), ("new", "$be_how", None), ("old", "$be_how", None),
            ("new", "$be_how", Some("single")), ("old", "$be_how", Some("single")),
        ].map(|(name, last, rescue)| {
            let mut words = vec![format!("($be_root)/@be/{name}/root/boot/vmlinuz-6.6.1")];
            words.extend(arguments.iter().cloned());
            words.extend(rescue.map(str::to_owned));
            words.push(last.into());
            words
        });
        prop_assert_eq!(loads, wanted.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let block = format!("($be_env){path}");
        for line in &all {
            if let Some(at) = line.iter().position(|word| word == "load_env" || word == "save_env") {
                prop_assert_eq!(&line[at + 2], &block);
                prop_assert!(line[at + 3..].iter().all(|name| name.starts_with("be_")));
            }
        }
        let harmless = [
            "insmod", "if", "elif", "then", "else", "fi", "for", "do", "done", "set", "unset", "export", "function",
            "menuentry", "submenu", "save_env", "echo", "sleep", "boot", "multiboot", "shift", "[", "{", "}",
            "be_ready", "be_return", "be_fall_back",
        ];
        prop_assert!(all.iter().all(|line| harmless.contains(&line[0].as_str())), "{:?}", all);
    }
}
