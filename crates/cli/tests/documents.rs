//! The documents say what the program does now: every verb, option and key is in them.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn every_verb_and_option_is_in_the_manual() {
    let manual = read("man/be.8");
    let mut missing = Vec::new();
    let command = be_cli::command();
    for verb in command.get_subcommands() {
        if !manual.contains(&format!("be {}", verb.get_name())) {
            missing.push(verb.get_name().to_owned());
        }
        for arg in verb.get_arguments().chain(command.get_arguments()) {
            let long = arg.get_long().map(|l| format!("Fl Fl {l}"));
            let short = arg.get_short().map(|s| format!("Fl {s}"));
            let documented = [&long, &short]
                .into_iter()
                .flatten()
                .all(|o| manual.contains(o));
            if !documented {
                missing.push(format!("{} {}", verb.get_name(), arg.get_id()));
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new(), "not in man/be.8");
}

#[test]
fn every_key_of_the_configuration_is_in_its_manual() {
    let manual = read("man/be.toml.5");
    // The keys, as the parser itself names them when one is unknown.
    for section in ["upgrade", "build", "menu", "prune", "gates", "test"] {
        let error = be_core::config::Config::parse(&format!("[{section}]\nnonsense = 1\n"))
            .expect_err("an unknown key is an error");
        assert!(manual.contains(&format!("Ss [{section}]")));
        let keys: Vec<_> = error.split('`').skip(3).step_by(2).collect();
        assert!(!keys.is_empty(), "{error}");
        for key in keys {
            assert!(manual.contains(&format!("Ic {key} ")), "{key}: {error}");
        }
    }
    for section in be_core::config::Config::parse("nonsense = 1")
        .expect_err("an unknown section is an error")
        .split('`')
        .skip(3)
        .step_by(2)
    {
        assert!(manual.contains(&format!("Ss [{section}]")), "{section}");
    }
}

#[test]
fn every_key_of_a_package_manager_is_in_its_manual() {
    let manual = read("man/be-managers.5");
    let apt = read("crates/core/src/manager/apt.toml");
    for (text, nonsense) in [
        (format!("nonsense = 1\n{apt}"), "nonsense"),
        (
            apt.replace("[preview]", "[preview]\nnonsense = 1"),
            "nonsense",
        ),
        (
            apt.replace("[progress]", "[progress]\nnonsense = 1"),
            "nonsense",
        ),
        (
            apt.replace("[config_files]", "[config_files]\nnonsense = 1"),
            "nonsense",
        ),
    ] {
        let error =
            be_core::manager::Profile::parse("apt", &text).expect_err("an unknown key is an error");
        assert!(error.contains(nonsense), "{error}");
        let expected = error.split("expected").nth(1).unwrap_or_default();
        let keys: Vec<_> = expected.split('`').skip(1).step_by(2).collect();
        assert!(!keys.is_empty(), "{error}");
        for key in keys {
            let described = [format!("Ic {key} "), format!("[{key}]")];
            let described = described.iter().any(|words| manual.contains(words));
            assert!(described, "{key}: {error}");
        }
    }
}

/// `--help` of every verb, frozen. `BE_UPDATE_GOLDEN=1` writes the file anew.
#[test]
fn help_texts() {
    let mut command = be_cli::command().term_width(80);
    let mut text = format!("{}\n", command.render_long_help());
    let names: Vec<_> = command
        .get_subcommands()
        .map(|c| c.get_name().to_owned())
        .collect();
    for name in names {
        let verb = command.find_subcommand_mut(&name).expect("it was listed");
        writeln!(text, "---- {name}\n{}", verb.render_long_help()).expect("a string takes all");
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/help.txt");
    if std::env::var_os("BE_UPDATE_GOLDEN").is_some() {
        fs::write(&path, &text).expect("cannot write the golden file");
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, golden, "see {}", path.display());
}
