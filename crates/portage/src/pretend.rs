//! The preview: what `emerge --pretend` prints.
//!
//! Portage has no machine format for it. The lines are those of `Display` in
//! `_emerge/resolver/output.py`, the letters those of `PkgAttrDisplay` in
//! `output_helpers.py` (both 3.0.83):
//!
//! ```text
//! [ebuild     U  ] app-misc/hello-2 [1]
//! [binary  N    #] app-misc/new-1-3:0/1::gentoo to /mnt/  USE="nls"
//! [uninstall     ] app-misc/old-1
//! [blocks B      ] <app-misc/a-2 ("<app-misc/a-2" is soft blocking app-misc/b-1)
//! ```

use serde::Serialize;

use crate::version::{is_version, split_cpv};

/// What a line of the preview is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A package that is built.
    Ebuild,
    /// A binary package that is installed.
    Binary,
    /// An installed package that goes.
    Uninstall,
    /// Packages that cannot be installed together; see [`Planned::unsolved`].
    Blocks,
}

/// What the line's letters say about the package.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Flags {
    /// `N`: not installed yet.
    pub new: bool,
    /// `S`: beside another slot that is installed.
    pub new_slot: bool,
    /// `U`: another version replaces the installed one; with [`Flags::downgrade`] a lower.
    pub upgrade: bool,
    /// `D`: a lower version replaces the installed one.
    pub downgrade: bool,
    /// `R`: this version is installed and is replaced by itself.
    pub reinstall: bool,
    /// `r`: rebuilt because something asked for it.
    pub forced: bool,
    /// `F`: a person must fetch a file by hand.
    pub fetch_by_hand: bool,
    /// `f`: a person had to fetch a file by hand, and has.
    pub fetched_by_hand: bool,
    /// `g`: the binary package comes over the network.
    pub remote: bool,
    /// `I`: asks questions while it is installed.
    pub interactive: bool,
    /// `~`, `*` or `#`: masked by keyword, without keyword, or by package.mask.
    pub masked: bool,
}

/// One line of the preview.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// What is done.
    pub kind: Kind,
    /// The letters.
    pub flags: Flags,
    /// `category/name-version`; of [`Kind::Blocks`] the blocking atom.
    pub package: String,
    /// The build of a binary package, if shown.
    pub build_id: Option<u64>,
    /// The installed versions that it replaces or stands beside.
    pub old: Vec<String>,
    /// The root directory, if it is not `/`.
    pub root: Option<String>,
    /// A blocker that Portage could not solve: nothing will be installed.
    pub unsolved: bool,
}

impl Planned {
    /// `category/name`, if the line names a package.
    #[must_use]
    pub fn cp(&self) -> Option<String> {
        let (category, name, _) = split_cpv(&self.package)?;
        Some(format!("{category}/{name}"))
    }
}

/// Take the escape sequences of a terminal out of a text: CSI (`ESC [ ... letter`), OSC
/// (`ESC ] ... BEL`), and single ones.
#[must_use]
pub fn strip_ansi(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\x1b' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('[') => {
                chars.find(|c| ('@'..='~').contains(c));
            }
            Some(']') => {
                chars.find(|c| matches!(c, '\x07' | '\\'));
            }
            _ => {}
        }
    }
    out
}

/// Read the lines of the preview; everything else in the output is passed over. An empty
/// list means that there is nothing to do, provided that `emerge` exited with 0.
#[must_use]
pub fn parse(text: &str) -> Vec<Planned> {
    strip_ansi(text).lines().filter_map(line).collect()
}

/// Whether the file of this binary package is among those that [`crate::emerge::fetch_list`]
/// shows: a line is the address of a binary package (`_emerge/BinpkgFetcher.py`), or holds those
/// of a source file. The file has the name and version, and the number of the build in most places.
#[must_use]
pub fn is_to_fetch(text: &str, planned: &Planned) -> bool {
    let Some((category, pf)) = planned.package.split_once('/') else {
        return false;
    };
    let build = planned.build_id.map(|build| format!("{pf}-{build}"));
    let is_file = |file: &str| {
        let stem = [".gpkg.tar", ".xpak", ".tbz2"]
            .iter()
            .find_map(|end| file.strip_suffix(end));
        stem.is_some_and(|stem| stem == pf || Some(stem) == build.as_deref())
    };
    let is_address = |line: &&str| line.contains("://") && !line.contains(' ');
    let text = strip_ansi(text);
    text.lines().map(str::trim).filter(is_address).any(|line| {
        let mut parts = line.split('/').rev();
        parts.next().is_some_and(is_file) && parts.take(2).any(|part| part == category)
    })
}

fn line(line: &str) -> Option<Planned> {
    let (head, rest) = line.trim_start().strip_prefix('[')?.split_once(']')?;
    let (word, letters) = head.split_once(' ').unwrap_or((head, ""));
    let kind = match word {
        "ebuild" => Kind::Ebuild,
        "binary" => Kind::Binary,
        "uninstall" => Kind::Uninstall,
        "blocks" => Kind::Blocks,
        // "nomerge", of --tree: shown only for its place in the tree.
        _ => return None,
    };
    if !letters.chars().all(|c| " INrRSFfgUD#*~Bb".contains(c)) {
        return None;
    }
    let (name, rest) = match rest.trim_start().split_once(' ') {
        Some((name, rest)) => (name, rest.trim_start()),
        None => (rest.trim(), ""),
    };
    if kind == Kind::Blocks {
        return (!name.is_empty()).then(|| Planned {
            kind,
            flags: Flags::default(),
            package: name.to_owned(),
            build_id: None,
            old: Vec::new(),
            root: None,
            unsolved: letters.contains('B'),
        });
    }
    let (mut version, mut old, mut rest) = (None, Vec::new(), rest);
    while let Some((bracket, after)) = bracket(rest) {
        // With --columns the new version has a bracket of its own, before the old ones.
        if without_build_id(plain(name), kind).is_none() && version.is_none() {
            version = Some(plain(bracket).to_owned());
        } else {
            old = bracket.split(", ").map(|v| plain(v).to_owned()).collect();
        }
        rest = after;
    }
    let full = match version {
        Some(version) => format!("{name}-{version}"),
        None => plain(name).to_owned(),
    };
    let (package, build_id) = without_build_id(&full, kind)?;
    Some(Planned {
        kind,
        flags: flags(letters),
        package,
        build_id,
        old,
        root: rest
            .strip_prefix("to ")
            .and_then(|r| r.split_whitespace().next())
            .map(str::to_owned),
        unsolved: false,
    })
}

/// `[1.0, 2.0] rest`.
fn bracket(text: &str) -> Option<(&str, &str)> {
    let (inside, rest) = text.strip_prefix('[')?.split_once(']')?;
    let versions = inside.split(", ").all(|v| {
        let v = plain(v);
        is_version(v) || v.rsplit_once('-').is_some_and(|(v, _)| is_version(v))
    });
    versions.then(|| (inside, rest.trim_start()))
}

/// Without the `:slot::repository` that --verbose adds.
fn plain(text: &str) -> &str {
    text.split(':').next().unwrap_or(text)
}

/// A binary package may carry its build id as one more part: `hello-2-r1-3`. As a name may
/// not end in a version, `hello-2-3` cannot be anything else.
fn without_build_id(text: &str, kind: Kind) -> Option<(String, Option<u64>)> {
    if split_cpv(text).is_some() {
        return Some((text.to_owned(), None));
    }
    let (package, id) = text.rsplit_once('-')?;
    let id = id.parse().ok()?;
    (kind == Kind::Binary && split_cpv(package).is_some()).then(|| (package.to_owned(), Some(id)))
}

fn flags(letters: &str) -> Flags {
    let has = |c: char| letters.contains(c);
    Flags {
        new: has('N'),
        new_slot: has('S'),
        upgrade: has('U'),
        downgrade: has('D'),
        reinstall: has('R'),
        forced: has('r'),
        fetch_by_hand: has('F'),
        fetched_by_hand: has('f'),
        remote: has('g'),
        interactive: has('I'),
        masked: letters.contains(['#', '*', '~']),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> Planned {
        let mut all = parse(text);
        assert_eq!(all.len(), 1, "{text}: {all:?}");
        all.remove(0)
    }

    #[test]
    fn a_whole_preview() {
        let text = "\
These are the packages that would be merged, in order:

Calculating dependencies... done!
Dependency resolution took 0.61 s (backtrack: 0/20).

[ebuild     U  ] dev-libs/lib-1.10-r1 [1.9]
[ebuild  rR    ] app-misc/consumer-1  USE=\"nls -static*\"
[ebuild  NS   ~] dev-lang/python-3.13.0 [3.11.9, 3.12.3]
[ebuild     UD ] app-misc/down-1 [2]
[ebuild  N F   ] app-misc/byhand-1
[binary   R g  ] app-misc/remote-2-r1-3
[binary     U  ] app-misc/kept-2-1 [1]
[uninstall     ] app-misc/old-1
[blocks b      ] <app-misc/a-2 (\"<app-misc/a-2\" is soft blocking app-misc/b-1)
[nomerge       ] app-misc/top-1
";
        let all = parse(text);
        let names: Vec<&str> = all.iter().map(|p| p.package.as_str()).collect();
        assert_eq!(
            names,
            [
                "dev-libs/lib-1.10-r1",
                "app-misc/consumer-1",
                "dev-lang/python-3.13.0",
                "app-misc/down-1",
                "app-misc/byhand-1",
                "app-misc/remote-2-r1",
                "app-misc/kept-2",
                "app-misc/old-1",
                "<app-misc/a-2"
            ]
        );
        assert!(all[0].flags.upgrade && !all[0].flags.downgrade);
        assert_eq!(all[0].old, ["1.9"]);
        assert_eq!(all[0].cp().as_deref(), Some("dev-libs/lib"));
        assert!(all[1].flags.reinstall && all[1].flags.forced && all[1].old.is_empty());
        assert!(all[2].flags.new && all[2].flags.new_slot && all[2].flags.masked);
        assert_eq!(all[2].old, ["3.11.9", "3.12.3"]);
        assert!(all[3].flags.upgrade && all[3].flags.downgrade);
        assert!(all[4].flags.fetch_by_hand);
        assert!(all[5].flags.remote);
        assert_eq!((all[5].kind, all[5].build_id), (Kind::Binary, Some(3)));
        assert_eq!((all[6].build_id, &*all[6].old[0]), (Some(1), "1"));
        assert_eq!(all[7].kind, Kind::Uninstall);
        assert!(!all[8].unsolved);
    }

    /// One upgrade shown by Portage 3.0.83 in every form that a user's
    /// EMERGE_DEFAULT_OPTS may ask for.
    #[test]
    fn every_form_says_the_same() {
        let told = |text: &str, blocks: bool| {
            let mut told: Vec<_> = parse(text)
                .into_iter()
                .filter(|p| blocks || matches!(p.kind, Kind::Ebuild | Kind::Binary))
                .map(|p| {
                    let flags = Flags {
                        masked: false,
                        ..p.flags
                    };
                    (p.package, p.kind as u8, flags, p.old, p.unsolved)
                })
                .collect();
            told.sort_by(|a, b| a.0.cmp(&b.0));
            told
        };
        let plain = include_str!("../tests/data/pretend-plain.txt");
        assert_eq!(told(plain, true).len(), 11);
        for other in [
            include_str!("../tests/data/pretend-quiet.txt"),
            include_str!("../tests/data/pretend-verbose.txt"),
            include_str!("../tests/data/pretend-tree.txt"),
        ] {
            assert_eq!(told(other, true), told(plain, true));
        }
        // Columns leave out what goes and what blocks.
        let columns = include_str!("../tests/data/pretend-columns.txt");
        assert_eq!(told(columns, false), told(plain, false));
        assert_eq!(told(columns, true).len(), 9);
    }

    #[test]
    fn quiet_verbose_coloured_columns_and_other_roots() {
        let p = one("[\x1b[32mebuild\x1b[39;49;00m     \x1b[36;01mU\x1b[0m ] a/b-2 [1]");
        assert_eq!((p.package.as_str(), p.flags.upgrade), ("a/b-2", true));
        let p = one("[ebuild     U  ] a/b-2:0/2::gentoo [1:0/1::gentoo] USE=\"x\" 12 KiB");
        assert_eq!((p.package.as_str(), p.old), ("a/b-2", vec!["1".into()]));
        let p = one("[ebuild     U  ] a/b-2 [1] to /mnt/clone/ USE=\"x\"");
        assert_eq!(p.root.as_deref(), Some("/mnt/clone/"));
        let p = one("[ebuild  N     ] a/b-2 to /mnt/clone/");
        assert_eq!(p.root.as_deref(), Some("/mnt/clone/"));
        let p = one("[ebuild     U  ] a/b                 [2-r1]          [1]");
        assert_eq!((p.package.as_str(), p.old), ("a/b-2-r1", vec!["1".into()]));
        let p = one("[blocks B      ] a/b (is hard blocking a/c-1)");
        assert!(p.unsolved);
    }

    #[test]
    fn other_lines_are_no_plan() {
        for text in [
            "",
            "[ebuild] nothing",
            "[ebuild     U  ]",
            "[ebuild     U  ] not-a-package",
            "[ebuild   what ] a/b-1",
            "[ebuild     U  ] a/b-2-3",
            "Total: 3 packages (3 upgrades)",
            " * [binary] is a word",
        ] {
            assert_eq!(parse(text), [], "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(\\[(ebuild|binary|blocks) |[ NRUD\\]\\[a/1:,-]|\\PC){0,40}") {
            let lines = text.lines().count();
            prop_assert!(parse(&text).len() <= lines);
        }
    }

    #[test]
    fn what_is_to_be_fetched_is_known_by_its_file() {
        let planned = &parse("[binary    gU  ] app-misc/hello-2-1 [1]")[0];
        assert_eq!(planned.package, "app-misc/hello-2");
        for (text, expected) in [
            ("\nhttp://h:1/app-misc/hello/hello-2-1.gpkg.tar\n", true),
            ("file:///srv/app-misc/hello-2.tbz2\n", true),
            ("http://h/app-misc/hello/hello-2-2.gpkg.tar\n", false),
            ("http://h/other/hello/hello-2-1.gpkg.tar\n", false),
            (
                "http://h/app-misc/hello-2.tar.gz http://i/hello-2.tar.gz\n",
                false,
            ),
            (">>> app-misc/hello-2-1.gpkg.tar\n", false),
            ("", false),
        ] {
            assert_eq!(is_to_fetch(text, planned), expected, "{text}");
        }
    }
}
