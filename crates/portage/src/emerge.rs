//! The `emerge` commands that are run, as data, and what their exit codes mean.
//!
//! Options are those of Portage 3.0.83 (`_emerge/main.py`); all that are used here are older
//! than 3.0. Where an option is given twice the last one counts, and what
//! `EMERGE_DEFAULT_OPTS` holds comes before the command line.

use std::fmt;

/// One `emerge` command line and the variables that it needs besides the caller's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emerge {
    /// The arguments, the name of the program first.
    pub args: Vec<String>,
    /// Variables to set.
    pub env: Vec<(String, String)>,
}

/// How the packages of an upgrade are chosen and built.
///
/// There is no variant that continues an upgrade: `--resume` finds nothing after
/// `--keep-going`, and does not run a failed `pkg_postinst` again. Run [`upgrade`] again: it
/// leaves out what is already built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    extra: Vec<String>,
    targets: bool,
    /// Also make binary packages.
    pub buildpkg: bool,
    /// Go on with the others after a package failed.
    pub keep_going: bool,
    /// Leave the machine to others: idle scheduling, lowest priority.
    pub polite: bool,
}

/// Why options of the user are not passed on to `emerge`; each holds the argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadOption {
    /// It makes emerge do something else than install packages.
    Action(String),
    /// It stops before anything is installed, or resumes something else.
    Mode(String),
    /// It leads out of the environment.
    Root(String),
    /// It needs a value, and none follows.
    NoValue(String),
}

impl fmt::Display for BadOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadOption::Action(o) => write!(f, "emerge {o} is not an upgrade"),
            BadOption::Mode(o) => write!(f, "emerge {o} installs nothing that was planned"),
            BadOption::Root(o) => write!(f, "emerge {o} leads out of the environment"),
            BadOption::NoValue(o) => write!(f, "emerge {o} needs a value"),
        }
    }
}

impl std::error::Error for BadOption {}

const ACTIONS: &[&str] = &[
    "--check-news",
    "--clean",
    "--config",
    "--depclean",
    "--deselect",
    "--help",
    "--info",
    "--list-sets",
    "--metadata",
    "--moo",
    "--prune",
    "--rage-clean",
    "--regen",
    "--search",
    "--searchdesc",
    "--status",
    "--sync",
    "--unmerge",
    "--version",
];

const MODES: &[&str] = &[
    "--autounmask-only",
    "--buildpkgonly",
    "--fetch-all-uri",
    "--fetchonly",
    "--pretend",
    "--resume",
    "--skip-first",
    "--skipfirst",
];

const ROOTS: &[&str] = &["--config-root", "--prefix", "--root", "--sysroot"];

/// Options whose value is the next argument.
const WITH_VALUE: &[&str] = &[
    "--accept-properties",
    "--accept-restrict",
    "--autounmask-backtrack",
    "--autounmask-license",
    "--autounmask-use",
    "--backtrack",
    "--buildpkg-exclude",
    "--color",
    "--complete-graph-if-new-use",
    "--complete-graph-if-new-ver",
    "--dynamic-deps",
    "--exclude",
    "-X",
    "--getbinpkg-exclude",
    "--getbinpkg-include",
    "--ignore-built-slot-operator-deps",
    "--ignore-soname-deps",
    "--implicit-system-deps",
    "--merge-wait-scope",
    "--misspell-suggestions",
    "--pkg-format",
    "--quickpkg-direct",
    "--quickpkg-direct-root",
    "--rebuild-exclude",
    "--rebuild-ignore",
    "--rebuilt-binaries-timestamp",
    "--regex-search-auto",
    "--reinstall",
    "--reinstall-atoms",
    "--search-index",
    "--search-similarity",
    "--sync-submodule",
    "--useoldpkg-atoms",
    "--usepkg-exclude",
    "--usepkg-include",
    "--with-bdeps",
    "--with-bdeps-auto",
];

/// The long name of a short option that is refused (`shortmapping`).
fn long(short: char) -> Option<&'static str> {
    Some(match short {
        'B' => "--buildpkgonly",
        'c' => "--depclean",
        'C' => "--unmerge",
        'f' => "--fetchonly",
        'F' => "--fetch-all-uri",
        'h' => "--help",
        'p' => "--pretend",
        'P' => "--prune",
        'r' => "--resume",
        's' => "--search",
        'S' => "--searchdesc",
        'V' => "--version",
        'W' => "--deselect",
        _ => return None,
    })
}

/// An argument that is the value of the optional kind before it, and no package: `y`, `n`,
/// a number. Packages and sets have other names.
fn is_optional_value(arg: &str) -> bool {
    matches!(arg, "y" | "n" | "True" | "rdeps" | "text" | "json") || arg.parse::<f64>().is_ok()
}

fn refused(option: &str, arg: &str) -> Option<BadOption> {
    // argparse takes any unambiguous beginning of a long option for the whole.
    let named = |list: &[&str]| {
        list.iter()
            .any(|o| *o == option || (option.len() > 5 && o.starts_with(option)))
    };
    if WITH_VALUE.contains(&option) || option == "--autounmask" {
        None
    } else if named(ROOTS) {
        Some(BadOption::Root(arg.to_owned()))
    } else if named(ACTIONS) {
        Some(BadOption::Action(arg.to_owned()))
    } else if named(MODES) || option == "--" {
        // After a lone "--" our own options would be taken for packages.
        Some(BadOption::Mode(arg.to_owned()))
    } else {
        None
    }
}

impl Options {
    /// Take what the user wrote after `--`, to be handed to `emerge` as it is.
    ///
    /// If it names packages or sets, those are upgraded instead of `@world`.
    ///
    /// # Errors
    /// If an argument would make `emerge` do anything but install inside the environment.
    pub fn parse(extra: &[String]) -> Result<Self, BadOption> {
        let mut targets = false;
        let mut args = extra.iter();
        while let Some(arg) = args.next() {
            if arg.starts_with("--") {
                let (option, value) = match arg.split_once('=') {
                    Some((option, value)) => (option, Some(value)),
                    None => (arg.as_str(), None),
                };
                if let Some(bad) = refused(option, arg) {
                    return Err(bad);
                }
                if WITH_VALUE.contains(&option) && value.is_none() && args.next().is_none() {
                    return Err(BadOption::NoValue(arg.clone()));
                }
            } else if let Some(letters) = arg.strip_prefix('-') {
                if let Some(bad) = letters.chars().find_map(long).and_then(|o| refused(o, arg)) {
                    return Err(bad);
                }
                if arg == "-X" && args.next().is_none() {
                    return Err(BadOption::NoValue(arg.clone()));
                }
            } else if !is_optional_value(arg) {
                targets = true;
            }
        }
        Ok(Options {
            extra: extra.to_vec(),
            targets,
            ..Options::default()
        })
    }
}

fn emerge(args: impl IntoIterator<Item = String>, polite: bool) -> Emerge {
    let mut env = vec![
        // Nobody is there to read a countdown.
        ("CLEAN_DELAY", "0"),
        ("EMERGE_WARNING_DELAY", "0"),
        ("NO_COLOR", "1"),
        ("TERM", "dumb"),
        ("LANG", "C.UTF-8"),
    ];
    if polite {
        env.extend([
            ("PORTAGE_SCHEDULING_POLICY", "idle"),
            ("PORTAGE_NICENESS", "19"),
            // Portage puts its own process id there (make.conf(5)).
            ("PORTAGE_IONICE_COMMAND", "ionice -c 3 -p ${PID}"),
        ]);
    }
    Emerge {
        args: ["emerge".to_owned()].into_iter().chain(args).collect(),
        env: env
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
    }
}

fn packages(mode: &[&str], options: &Options) -> Emerge {
    let mut args: Vec<String> = [
        "--update",
        "--deep",
        "--newuse",
        "--with-bdeps=y",
        "--quiet-build=y",
    ]
    .map(str::to_owned)
    .to_vec();
    if options.buildpkg {
        args.push("--buildpkg=y".to_owned());
    }
    if options.keep_going {
        args.push("--keep-going=y".to_owned());
    }
    args.extend(options.extra.iter().cloned());
    // After what the user wrote: without a terminal these have one right answer.
    args.extend(["--ask=n", "--color=n"].map(str::to_owned));
    args.extend(mode.iter().map(|&m| m.to_owned()));
    if !options.targets {
        args.push("@world".to_owned());
    }
    emerge(args, options.polite)
}

/// Update the repositories. It exits with 1 if one of them failed.
#[must_use]
pub fn sync() -> Emerge {
    emerge(["--ask=n", "--color=n", "--sync"].map(str::to_owned), false)
}

/// Show what [`upgrade`] would do; [`crate::pretend::parse`] reads the output.
///
/// `--quiet=n` because a quiet preview in columns has no brackets to know it by.
#[must_use]
pub fn pretend(options: &Options) -> Emerge {
    packages(&["--pretend", "--quiet=n", "--verbose=n"], options)
}

/// Fetch what [`upgrade`] needs and install nothing: tells a failing network apart.
#[must_use]
pub fn fetch(options: &Options) -> Emerge {
    packages(&["--fetchonly"], options)
}

/// Upgrade `@world`, or what the user named.
///
/// Without `--fail-clean`: it would delete the log of the build that failed.
#[must_use]
pub fn upgrade(options: &Options) -> Emerge {
    packages(&[], options)
}

/// How an `emerge` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, or there was nothing to do. That a failed `pkg_postinst` of an earlier run was
    /// made good does not follow: such a package counts as installed.
    Success,
    /// A package, the dependencies or the configuration failed; the exit code.
    Failed(i32),
    /// emerge did not understand its arguments.
    Usage,
    /// A signal ended it: emerge died of it, or caught it and exited.
    Killed(i32),
}

/// Classify the exit code (`None` if a signal ended the process) and the signal.
///
/// 0, 1, 2 and 128 + signal are emerge's own (`bin/emerge`, `_emerge/main.py`); it also
/// exits with the number of an error that it did not expect.
#[must_use]
pub fn classify_exit(code: Option<i32>, signal: Option<i32>) -> Exit {
    match (code, signal) {
        (_, Some(signal)) => Exit::Killed(signal),
        (Some(0), None) => Exit::Success,
        // EX_USAGE of sysexits(3), and argparse.
        (Some(2 | 64), None) => Exit::Usage,
        (Some(code @ 129..=192), None) => Exit::Killed(code - 128),
        (code, None) => Exit::Failed(code.unwrap_or(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &str) -> Result<Options, BadOption> {
        let args: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
        Options::parse(&args)
    }

    #[test]
    fn command_lines() {
        assert_eq!(sync().args.join(" "), "emerge --ask=n --color=n --sync");
        let plain = Options::default();
        assert_eq!(
            upgrade(&plain).args.join(" "),
            "emerge --update --deep --newuse --with-bdeps=y --quiet-build=y \
             --ask=n --color=n @world"
        );
        assert!(
            pretend(&plain)
                .args
                .ends_with(&["--pretend", "--quiet=n", "--verbose=n", "@world"].map(String::from))
        );
        let options = Options {
            buildpkg: true,
            keep_going: true,
            polite: true,
            ..parse("--exclude foo -j4 app-misc/hello --ask").unwrap()
        };
        let command = fetch(&options);
        assert_eq!(
            command.args.join(" "),
            "emerge --update --deep --newuse --with-bdeps=y --quiet-build=y --buildpkg=y \
             --keep-going=y --exclude foo -j4 app-misc/hello --ask --ask=n --color=n --fetchonly"
        );
        assert!(
            command
                .env
                .contains(&("PORTAGE_SCHEDULING_POLICY".into(), "idle".into()))
        );
        assert!(upgrade(&plain).env.iter().all(|(k, _)| !k.contains("NICE")));
    }

    #[test]
    fn targets_are_told_from_values() {
        for args in [
            "",
            "--jobs 4 --load-average 3.5 --deep 2 --usepkg y -j 4 -uDN -1v --oneshot",
            "--exclude sys-kernel/gentoo-sources -X foo --backtrack 30 --with-bdeps n",
            "--exclude=foo --autounmask-continue --root-deps rdeps",
        ] {
            assert!(!parse(args).unwrap().targets, "{args}");
        }
        for args in [
            "app-misc/hello",
            "-j4 @system",
            "--exclude foo bar",
            "=a/b-1",
        ] {
            assert!(parse(args).unwrap().targets, "{args}");
        }
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        for (args, want) in [
            ("--depclean", BadOption::Action("--depclean".into())),
            ("-C foo", BadOption::Action("-C".into())),
            ("-ac", BadOption::Action("-ac".into())),
            ("--deselect=y x", BadOption::Action("--deselect=y".into())),
            ("-vp", BadOption::Mode("-vp".into())),
            ("--pretend", BadOption::Mode("--pretend".into())),
            ("--preten", BadOption::Mode("--preten".into())),
            ("--fetchonly", BadOption::Mode("--fetchonly".into())),
            ("--resume", BadOption::Mode("--resume".into())),
            ("--root=/mnt", BadOption::Root("--root=/mnt".into())),
            ("--root /mnt", BadOption::Root("--root".into())),
            ("--exclude", BadOption::NoValue("--exclude".into())),
            ("-- foo", BadOption::Mode("--".into())),
        ] {
            assert_eq!(parse(args), Err(want), "{args}");
        }
        for args in [
            "--root-deps",
            "--autounmask=y",
            "--searchdesc-not",
            "--config-x",
        ] {
            assert!(parse(args).is_ok(), "{args}");
        }
    }

    #[test]
    fn exits() {
        assert_eq!(classify_exit(Some(0), None), Exit::Success);
        assert_eq!(classify_exit(Some(1), None), Exit::Failed(1));
        assert_eq!(classify_exit(Some(13), None), Exit::Failed(13));
        assert_eq!(classify_exit(Some(2), None), Exit::Usage);
        assert_eq!(classify_exit(Some(130), None), Exit::Killed(2));
        assert_eq!(classify_exit(None, Some(9)), Exit::Killed(9));
        assert_eq!(classify_exit(None, None), Exit::Failed(1));
    }
}
