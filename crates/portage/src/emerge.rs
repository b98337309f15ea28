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
    /// Packages and sets that the user named.
    targets: Vec<String>,
    /// Keep what is built as binary packages in this directory, as the environment sees it,
    /// and take from there what was built before with the same settings.
    pub packages: Option<String>,
    /// Go on with the others after a package failed.
    pub keep_going: bool,
    /// Leave the machine to others: idle scheduling, lowest priority.
    pub polite: bool,
    /// Take binary packages from the hosts that Portage knows, or not; as Portage is configured,
    /// without.
    pub binhost: Option<bool>,
    /// Packages (`category/name`) that are built, whatever binary packages there are.
    pub from_source: Vec<String>,
    /// Packages (`category/name:slot`) that are merged, if they are needed at all, also where they
    /// are installed as they would be.
    pub reinstall: Vec<String>,
    /// Merge what the user named also where it is installed as it would be.
    pub again: bool,
    /// Features to be switched on besides.
    pub features: Vec<String>,
    /// Variables to be set besides.
    pub variables: Vec<(String, String)>,
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

impl Emerge {
    /// Leave the machine to others.
    #[must_use]
    pub fn polite(mut self) -> Self {
        let polite = POLITE.map(|(k, v)| (k.to_owned(), v.to_owned()));
        self.env.extend(polite);
        self
    }

    /// Keep what is built as binary packages in this directory.
    #[must_use]
    pub fn packing(mut self, directory: &str) -> Self {
        for (_, value) in self.env.iter_mut().filter(|(k, _)| k == "FEATURES") {
            value.push_str(" buildpkg");
        }
        self.env.push(("PKGDIR".to_owned(), directory.to_owned()));
        self
    }
}

impl Options {
    /// Packages and sets that the user named.
    #[must_use]
    pub fn targets(&self) -> &[String] {
        &self.targets
    }

    /// Take what the user wrote after `--`, to be handed to `emerge` as it is.
    ///
    /// If it names packages or sets, those are upgraded instead of `@world`.
    ///
    /// # Errors
    /// If an argument would make `emerge` do anything but install inside the environment.
    pub fn parse(extra: &[String]) -> Result<Self, BadOption> {
        let (mut options, mut targets) = (Vec::new(), Vec::new());
        let mut args = extra.iter();
        while let Some(arg) = args.next() {
            options.push(arg.clone());
            if arg.starts_with("--") {
                let (option, value) = match arg.split_once('=') {
                    Some((option, value)) => (option, Some(value)),
                    None => (arg.as_str(), None),
                };
                if let Some(bad) = refused(option, arg) {
                    return Err(bad);
                }
                if WITH_VALUE.contains(&option) && value.is_none() {
                    let value = args.next();
                    options.push(value.ok_or(BadOption::NoValue(arg.clone()))?.clone());
                }
            } else if let Some(letters) = arg.strip_prefix('-') {
                if let Some(bad) = letters.chars().find_map(long).and_then(|o| refused(o, arg)) {
                    return Err(bad);
                }
                if arg == "-X" {
                    let value = args.next();
                    options.push(value.ok_or(BadOption::NoValue(arg.clone()))?.clone());
                }
            } else if !is_optional_value(arg) {
                targets.extend(options.pop());
            }
        }
        Ok(Options {
            extra: options,
            targets,
            ..Options::default()
        })
    }

    /// Merge all that is needed, whether it is installed or not.
    pub fn everything(&mut self) {
        self.extra.push("--emptytree".to_owned());
    }

    /// Whether the user named packages or sets.
    #[must_use]
    pub fn has_targets(&self) -> bool {
        !self.targets.is_empty()
    }
}

/// Idle scheduling and I/O, lowest priority.
const POLITE: [(&str, &str); 3] = [
    ("PORTAGE_SCHEDULING_POLICY", "idle"),
    ("PORTAGE_NICENESS", "19"),
    // Portage puts its own process id there (make.conf(5)).
    ("PORTAGE_IONICE_COMMAND", "ionice -c 3 -p ${PID}"),
];

fn emerge(args: impl IntoIterator<Item = String>) -> Emerge {
    let env = [
        // Nobody is there to read a countdown.
        ("CLEAN_DELAY", "0"),
        ("EMERGE_WARNING_DELAY", "0"),
        ("NO_COLOR", "1"),
        ("TERM", "dumb"),
        ("LANG", "C.UTF-8"),
        // What is logged as complete has to be on disk. The other is of `crate::jobs`: an older
        // Portage does not know it, and shall not warn of it.
        (
            "FEATURES",
            "merge-sync observability -unknown-features-warn",
        ),
    ];
    Emerge {
        args: ["emerge".to_owned()].into_iter().chain(args).collect(),
        env: env
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
    }
}

/// Build a package once: another build would give the same as long as its ebuild's
/// dependencies and its USE flags are the same.
const REUSE: [&str; 4] = [
    "--buildpkg=y",
    "--usepkg=y",
    "--binpkg-respect-use=y",
    "--binpkg-changed-deps=y",
];

fn packages(mode: &[&str], options: &Options) -> Emerge {
    let world = ["@world".to_owned()];
    let targets = match options.targets.is_empty() {
        true => &world,
        false => &options.targets[..],
    };
    match options.again && options.has_targets() {
        // Any of the others would leave out what is installed.
        true => merge(&["--oneshot"], mode, targets, options),
        false => merge(&["--update", "--deep", "--newuse"], mode, targets, options),
    }
}

/// Merge `targets`, chosen so, in this mode.
fn merge(choice: &[&str], mode: &[&str], targets: &[String], options: &Options) -> Emerge {
    let always = ["--with-bdeps=y", "--quiet-build=y"];
    let args = choice.iter().chain(&always);
    let mut args: Vec<String> = args.map(|&arg| arg.to_owned()).collect();
    if options.packages.is_some() {
        args.extend(REUSE.map(str::to_owned));
    }
    if options.keep_going {
        args.push("--keep-going=y".to_owned());
    }
    let binhost = options.binhost.map(|on| if on { "y" } else { "n" });
    args.extend(binhost.map(|on| format!("--getbinpkg={on}")));
    args.extend(options.extra.iter().cloned());
    let from_source = options.from_source.iter();
    args.extend(from_source.map(|name| format!("--usepkg-exclude={name}")));
    if !options.reinstall.is_empty() {
        args.push(format!("--reinstall-atoms={}", options.reinstall.join(" ")));
    }
    // After what the user wrote: without a terminal these have one right answer.
    args.extend(["--ask=n", "--color=n"].map(str::to_owned));
    args.extend(mode.iter().map(|&m| m.to_owned()));
    args.extend(targets.iter().cloned());
    let mut emerge = emerge(args);
    add_variables(&mut emerge, options);
    match options.polite {
        true => emerge.polite(),
        false => emerge,
    }
}

/// Where packages are kept, and what else is asked for.
fn add_variables(command: &mut Emerge, options: &Options) {
    let directory = options.packages.iter();
    let directory = directory.map(|dir| ("PKGDIR".to_owned(), dir.clone()));
    command.env.extend(directory);
    for (name, value) in &mut command.env {
        if name == "FEATURES" {
            value.extend(options.features.iter().map(|f| format!(" {f}")));
        }
    }
    command.env.extend(options.variables.iter().cloned());
}

/// What every rebuild is told: a package that was built before is what is to be replaced.
const REBUILD: [&str; 4] = ["--quiet-build=y", "--usepkg=n", "--ask=n", "--color=n"];

/// Build the packages of a set again.
pub(crate) fn of_set(set: &str) -> Emerge {
    tool(&["emerge"], &[set])
}

/// A program that takes emerge's options after its own, and what follows them.
pub(crate) fn tool(program: &[&str], last: &[&str]) -> Emerge {
    let args = program.iter().chain(&REBUILD).chain(last);
    Emerge {
        args: args.map(|&a| a.to_owned()).collect(),
        ..emerge([])
    }
}

/// Pack installed packages (`category/name-version`), with their configuration files as they
/// are, into this directory.
#[must_use]
pub fn quickpkg(packages: &[String], directory: &str) -> Emerge {
    let args = ["--include-config=y".to_owned()].into_iter();
    let mut quickpkg = emerge(args.chain(packages.iter().map(|cpv| format!("={cpv}"))));
    quickpkg.args[0] = "quickpkg".to_owned();
    quickpkg
        .env
        .push(("PKGDIR".to_owned(), directory.to_owned()));
    quickpkg
}

/// Install this package (`category/name-version`) as it is packed in this directory, or show
/// what that would come to. Nothing is built, and nothing but what is packed is installed.
#[must_use]
pub fn packed(package: &str, directory: &str, pretend: bool) -> Emerge {
    let args = [
        "--ignore-default-opts",
        "--oneshot",
        "--usepkgonly",
        "--getbinpkg=n",
        "--verbose=n",
        "--ask=n",
        "--color=n",
    ];
    let mode = pretend.then_some("--pretend");
    let args = args.into_iter().chain(mode).map(str::to_owned);
    let mut emerge = emerge(args.chain([format!("={package}")]));
    emerge.env.push(("PKGDIR".to_owned(), directory.to_owned()));
    emerge
}

/// Remove what nothing needs any more, but none of these (`category/name`).
pub(crate) fn depclean(kept: &[String]) -> Emerge {
    let args = ["--depclean", "--ask=n", "--color=n"].map(str::to_owned);
    let kept = kept.iter().map(|name| format!("--exclude={name}"));
    emerge(args.into_iter().chain(kept))
}

/// Update the repositories. It exits with 1 if one of them failed.
#[must_use]
pub fn sync() -> Emerge {
    emerge(["--ask=n", "--color=n", "--sync"].map(str::to_owned))
}

/// Write the index of the binary packages that are kept anew, from what is there.
#[must_use]
pub fn index(options: &Options) -> Emerge {
    let args = ["emaint", "binhost", "--fix"];
    let mut command = Emerge {
        args: args.map(str::to_owned).to_vec(),
        ..emerge([])
    };
    add_variables(&mut command, options);
    command
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

/// Show where [`fetch`] would fetch from, and fetch nothing: what is there already is left out.
#[must_use]
pub fn fetch_list(options: &Options) -> Emerge {
    packages(&["--pretend", "--fetchonly"], options)
}

/// Upgrade `@world`, or what the user named.
///
/// Without `--fail-clean`: it would delete the log of the build that failed.
#[must_use]
pub fn upgrade(options: &Options) -> Emerge {
    packages(&[], options)
}

/// Upgrade `@world`, or what the user named, from finished packages in `options.packages` and
/// nothing else, or show what that would come to. What was built again is installed again.
///
/// The time in which the system is neither old nor new is what counts: all that can be unpacked
/// is, side by side, before the first is merged (`merge-wait`, which wants two jobs), and what is
/// merged is written to disk at the end, and not package by package.
#[must_use]
pub fn from_packages(options: &Options, jobs: usize, pretend: bool) -> Emerge {
    let mode = |mode: &[&str]| packages(mode, &without_packages(options));
    finished(options, jobs, pretend, mode)
}

/// Merge these packages (`category/name-version`) once more, as [`from_packages`] does: what was
/// cut off or failed in them is not known to Portage.
#[must_use]
pub fn from_packages_again(options: &Options, jobs: usize, again: &[String]) -> Emerge {
    let atoms: Vec<String> = again.iter().map(|cpv| format!("={cpv}")).collect();
    let mode = |mode: &[&str]| merge(&["--oneshot"], mode, &atoms, &without_packages(options));
    finished(options, jobs, false, mode)
}

fn without_packages(options: &Options) -> Options {
    Options {
        packages: None,
        polite: false,
        ..options.clone()
    }
}

fn finished(
    options: &Options,
    jobs: usize,
    pretend: bool,
    emerge: impl FnOnce(&[&str]) -> Emerge,
) -> Emerge {
    let jobs = format!("--jobs={}", jobs.max(2));
    let mut mode = vec![
        "--usepkgonly=y",
        "--getbinpkg=n",
        "--binpkg-respect-use=y",
        "--rebuilt-binaries=y",
    ];
    match pretend {
        true => mode.extend(["--pretend", "--quiet=n", "--verbose=n"]),
        false => mode.push(&jobs),
    }
    let mut emerge = emerge(&mode);
    emerge.env.retain(|(k, _)| k != "FEATURES");
    emerge.env.push((
        "FEATURES".to_owned(),
        "-merge-sync merge-wait parallel-install observability -unknown-features-warn".to_owned(),
    ));
    let directory = options.packages.iter();
    emerge
        .env
        .extend(directory.map(|dir| ("PKGDIR".to_owned(), dir.clone())));
    emerge
}

/// Merge this one package (`category/name-version`) again; from a binary package only if that
/// is known to be well.
#[must_use]
pub fn again(options: &Options, package: &str, from_binary: bool) -> Emerge {
    let last: &[&str] = match from_binary {
        true => &[],
        // After what the user wrote.
        false => &["--usepkg=n"],
    };
    merge(&["--oneshot"], last, &[format!("={package}")], options)
}

/// How far `emerge` goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// As [`pretend`].
    Pretend,
    /// As [`fetch`].
    Fetch,
    /// All the way.
    Merge,
}

/// Merge exactly these (`=category/name-version:slot::repository`), which nobody has to want, and
/// nothing that is newer: what they need is among them or installed. What was built against
/// something that they replace is built again, as Portage always does.
#[must_use]
pub fn exactly(options: &Options, atoms: &[String], step: Step) -> Emerge {
    let mode: &[&str] = match step {
        Step::Pretend => &["--pretend", "--quiet=n", "--verbose=n"],
        Step::Fetch => &["--fetchonly"],
        Step::Merge => &[],
    };
    // No suggestion of Portage is to change what was recorded.
    merge(&["--oneshot", "--autounmask=n"], mode, atoms, options)
}

/// Remove those of these packages (`category/name-version`) that nothing needs.
#[must_use]
pub fn remove(packages: &[String]) -> Emerge {
    let args = [
        "--ignore-default-opts",
        "--depclean",
        "--ask=n",
        "--color=n",
    ];
    let args = args.map(str::to_owned).into_iter();
    emerge(args.chain(packages.iter().map(|package| format!("={package}"))))
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
            packages: Some("/run/x".into()),
            keep_going: true,
            polite: true,
            ..parse("--exclude foo -j4 app-misc/hello --ask").unwrap()
        };
        let command = fetch(&options);
        assert_eq!(
            command.args.join(" "),
            "emerge --update --deep --newuse --with-bdeps=y --quiet-build=y --buildpkg=y \
             --usepkg=y --binpkg-respect-use=y --binpkg-changed-deps=y --keep-going=y --exclude foo -j4 --ask --ask=n --color=n --fetchonly app-misc/hello"
        );
        let line = |from_binary| again(&options, "a/b-1", from_binary).args.join(" ");
        let one = "emerge --oneshot --with-bdeps=y --quiet-build=y --buildpkg=y --usepkg=y \
                   --binpkg-respect-use=y --binpkg-changed-deps=y --keep-going=y --exclude foo \
                   -j4 --ask --ask=n --color=n";
        assert_eq!(line(true), format!("{one} =a/b-1"));
        assert_eq!(line(false), format!("{one} --usepkg=n =a/b-1"));
        assert!(
            command
                .env
                .contains(&("PORTAGE_SCHEDULING_POLICY".into(), "idle".into()))
        );
        assert!(command.env.contains(&("PKGDIR".into(), "/run/x".into())));
        let built = Options {
            again: true,
            binhost: Some(true),
            from_source: vec!["a/b".into()],
            features: vec!["binpkg-signing".into()],
            variables: vec![("K".into(), "v".into())],
            ..parse("app-misc/hello").unwrap()
        };
        let built = upgrade(&built);
        assert_eq!(
            built.args.join(" "),
            "emerge --oneshot --with-bdeps=y --quiet-build=y --getbinpkg=y \
             --usepkg-exclude=a/b --ask=n --color=n app-misc/hello"
        );
        let features = built.env.iter().find(|(k, _)| k == "FEATURES");
        assert!(features.unwrap().1.ends_with("-warn binpkg-signing"));
        assert!(built.env.contains(&("K".into(), "v".into())));
        let unset = |k: &str| !k.contains("NICE") && k != "PKGDIR";
        assert!(upgrade(&plain).env.iter().all(|(k, _)| unset(k)));
    }

    #[test]
    fn finished_packages_are_installed_and_nothing_is_built() {
        let options = Options {
            packages: Some("/run/x".into()),
            polite: true,
            ..parse("--exclude foo").unwrap()
        };
        let command = from_packages(&options, 4, false);
        assert_eq!(
            command.args.join(" "),
            "emerge --update --deep --newuse --with-bdeps=y --quiet-build=y --exclude foo --ask=n \
             --color=n --usepkgonly=y --getbinpkg=n --binpkg-respect-use=y --rebuilt-binaries=y --jobs=4 @world"
        );
        let value = |key: &str| {
            let mut all = command.env.iter().filter(|(k, _)| k == key);
            let value = all.next().map(|(_, v)| v.clone());
            assert_eq!(all.next(), None, "{key} twice");
            value.unwrap_or_default()
        };
        assert_eq!(value("PKGDIR"), "/run/x");
        assert!(value("FEATURES").starts_with("-merge-sync "));
        assert_eq!(value("PORTAGE_NICENESS"), "");
        let shown = from_packages(&options, 4, true).args;
        assert!(shown.contains(&"--pretend".into()) && !shown.contains(&"--jobs=4".into()));
        let again = from_packages_again(&options, 1, &["a/b-1".to_owned()]).args;
        assert!(
            again.ends_with(&["--jobs=2".into(), "=a/b-1".into()]),
            "{again:?}"
        );
        assert!(again.contains(&"--oneshot".into()) && !again.contains(&"--update".into()));
        let packing = sync().packing("/run/x");
        assert!(packing.env.contains(&("PKGDIR".into(), "/run/x".into())));
        let features = packing.env.iter().find(|(k, _)| k == "FEATURES");
        assert!(features.is_some_and(|(_, v)| v.ends_with(" buildpkg")));
    }

    #[test]
    fn targets_are_told_from_values() {
        for args in [
            "",
            "--jobs 4 --load-average 3.5 --deep 2 --usepkg y -j 4 -uDN -1v --oneshot",
            "--exclude sys-kernel/gentoo-sources -X foo --backtrack 30 --with-bdeps n",
            "--exclude=foo --autounmask-continue --root-deps rdeps",
        ] {
            assert!(parse(args).unwrap().targets.is_empty(), "{args}");
        }
        for args in [
            "app-misc/hello",
            "-j4 @system",
            "--exclude foo bar",
            "=a/b-1",
        ] {
            assert!(!parse(args).unwrap().targets.is_empty(), "{args}");
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
