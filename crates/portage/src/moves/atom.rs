//! Atoms, the package dependency specifications of PMS 8.2.6, and the names in them (PMS
//! 3.1). The form is that of the newest EAPI; `::repository` is an extension of Portage.

use std::borrow::Borrow;
use std::fmt::{self, Display};
use std::str::FromStr;

use super::range::{Operator, Versions};
use crate::version::{is_category, is_version, split_pf};

/// A qualified package name, `category/name` (PMS 3.1.2).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QualifiedName(String);

impl QualifiedName {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The category and the name.
    #[must_use]
    pub fn parts(&self) -> (&str, &str) {
        self.0.split_once('/').unwrap_or((&self.0, ""))
    }
}

impl FromStr for QualifiedName {
    type Err = NoAtom;

    fn from_str(text: &str) -> Result<Self, NoAtom> {
        let valid = text
            .split_once('/')
            .is_some_and(|(category, name)| is_category(category) && is_package(name));
        match valid {
            true => Ok(QualifiedName(text.to_owned())),
            false => Err(NoAtom::new(text, "it is not CATEGORY/NAME")),
        }
    }
}

impl Borrow<str> for QualifiedName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Is this the name of a package (PMS 3.1.2)? None ends in what could be a version.
fn is_package(text: &str) -> bool {
    // With a version behind it, the name is checked as a whole.
    split_pf(&format!("{text}-0")).is_some_and(|(name, _)| name == text)
}

/// A name of these characters that begins with one that `first` allows.
fn is_word(text: &str, more: &[u8], first: &[u8]) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric();
    text.bytes().all(|b| plain(b) || more.contains(&b))
        && text
            .bytes()
            .next()
            .is_some_and(|b| plain(b) || first.contains(&b))
}

/// Is this the name of a slot or a sub-slot (PMS 3.1.3)?
#[must_use]
pub fn is_slot(text: &str) -> bool {
    is_word(text, b"+_.-", b"_")
}

/// Is this a USE flag (PMS 3.1.4)?
fn is_flag(text: &str) -> bool {
    is_word(text, b"+_@-", b"")
}

/// Is this the name of a repository (PMS 3.1.5)?
#[must_use]
pub fn is_repository(text: &str) -> bool {
    is_word(text, b"_-", b"_")
}

/// Why a text is no atom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoAtom {
    text: String,
    why: &'static str,
}

impl NoAtom {
    pub(super) fn new(text: &str, why: &'static str) -> Self {
        let text = text.to_owned();
        NoAtom { text, why }
    }
}

impl Display for NoAtom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.text, self.why)
    }
}

impl std::error::Error for NoAtom {}

/// How strong a blocker is (PMS 8.2.6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blocker {
    /// `!`
    Weak,
    /// `!!`
    Strong,
}

/// What stands behind the colon (PMS 8.2.6.3).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SlotDep {
    /// `:*`
    Any,
    /// `:=`
    AnyBound,
    /// `:SLOT`, `:SLOT/SUBSLOT`, and both with `=`.
    Named {
        /// The slot.
        slot: String,
        /// The sub-slot.
        subslot: Option<String>,
        /// Whether `=` follows.
        bound: bool,
    },
}

impl SlotDep {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "*" => return Some(SlotDep::Any),
            "=" => return Some(SlotDep::AnyBound),
            _ => {}
        }
        let (name, bound) = match text.strip_suffix('=') {
            Some(name) => (name, true),
            None => (text, false),
        };
        let (slot, subslot) = match name.split_once('/') {
            Some((slot, subslot)) => (slot, Some(subslot)),
            None => (name, None),
        };
        let valid = is_slot(slot) && subslot.is_none_or(is_slot);
        valid.then(|| SlotDep::Named {
            slot: slot.to_owned(),
            subslot: subslot.map(str::to_owned),
            bound,
        })
    }
}

impl Display for SlotDep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SlotDep::Any => f.write_str(":*"),
            SlotDep::AnyBound => f.write_str(":="),
            SlotDep::Named {
                slot,
                subslot,
                bound,
            } => {
                write!(f, ":{slot}")?;
                if let Some(subslot) = subslot {
                    write!(f, "/{subslot}")?;
                }
                f.write_str(if *bound { "=" } else { "" })
            }
        }
    }
}

/// What a USE dependency asks of its flag (PMS 8.2.6.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UseKind {
    /// `flag`
    Enabled,
    /// `-flag`
    Disabled,
    /// `flag=`
    Same,
    /// `!flag=`
    Opposite,
    /// `flag?`
    IfEnabled,
    /// `!flag?`
    IfDisabled,
}

impl UseKind {
    /// What stands before and behind the flag.
    fn marks(self) -> (&'static str, &'static str) {
        match self {
            UseKind::Enabled => ("", ""),
            UseKind::Disabled => ("-", ""),
            UseKind::Same => ("", "="),
            UseKind::Opposite => ("!", "="),
            UseKind::IfEnabled => ("", "?"),
            UseKind::IfDisabled => ("!", "?"),
        }
    }

    const ALL: [Self; 6] = [
        UseKind::Enabled,
        UseKind::Disabled,
        UseKind::Same,
        UseKind::Opposite,
        UseKind::IfEnabled,
        UseKind::IfDisabled,
    ];
}

/// One USE dependency.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UseDep {
    /// What is asked.
    pub kind: UseKind,
    /// The flag.
    pub flag: String,
    /// What holds for a package without the flag: `(+)` is true, `(-)` is false.
    pub default: Option<bool>,
}

impl UseDep {
    fn parse(text: &str) -> Option<Self> {
        UseKind::ALL.into_iter().find_map(|kind| {
            let (before, behind) = kind.marks();
            let flag = text.strip_prefix(before)?.strip_suffix(behind)?;
            let (flag, default) = match flag.strip_suffix("(+)") {
                Some(flag) => (flag, Some(true)),
                None => match flag.strip_suffix("(-)") {
                    Some(flag) => (flag, Some(false)),
                    None => (flag, None),
                },
            };
            is_flag(flag).then(|| UseDep {
                kind,
                flag: flag.to_owned(),
                default,
            })
        })
    }
}

impl Display for UseDep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, behind) = self.kind.marks();
        let default = match self.default {
            Some(true) => "(+)",
            Some(false) => "(-)",
            None => "",
        };
        write!(f, "{before}{}{default}{behind}", self.flag)
    }
}

/// An atom. Written out, it is the text that it was read from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Atom {
    blocker: Option<Blocker>,
    name: QualifiedName,
    versions: Versions,
    slot: Option<SlotDep>,
    repository: Option<String>,
    use_deps: Vec<UseDep>,
}

impl Atom {
    /// How strong a blocker it is, if it is one.
    #[must_use]
    pub fn blocker(&self) -> Option<Blocker> {
        self.blocker
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &QualifiedName {
        &self.name
    }

    /// The versions that it leaves.
    #[must_use]
    pub fn versions(&self) -> &Versions {
        &self.versions
    }

    /// What stands behind its colon.
    #[must_use]
    pub fn slot_dep(&self) -> Option<&SlotDep> {
        self.slot.as_ref()
    }

    /// The slot that it names.
    #[must_use]
    pub fn slot(&self) -> Option<&str> {
        match &self.slot {
            Some(SlotDep::Named { slot, .. }) => Some(slot),
            _ => None,
        }
    }

    /// The sub-slot that it names.
    #[must_use]
    pub fn subslot(&self) -> Option<&str> {
        match &self.slot {
            Some(SlotDep::Named { subslot, .. }) => subslot.as_deref(),
            _ => None,
        }
    }

    /// The repository that it names.
    #[must_use]
    pub fn repository(&self) -> Option<&str> {
        self.repository.as_deref()
    }

    /// Its USE dependencies.
    #[must_use]
    pub fn use_deps(&self) -> &[UseDep] {
        &self.use_deps
    }

    /// The same with another name.
    #[must_use]
    pub fn with_name(&self, name: &QualifiedName) -> Self {
        let name = name.clone();
        Atom {
            name,
            ..self.clone()
        }
    }

    /// The same with another slot in the place of the one that it names. A sub-slot that was
    /// named after the slot follows it, as for Portage.
    #[must_use]
    pub fn with_slot(&self, new: &str) -> Self {
        let mut atom = self.clone();
        if let Some(SlotDep::Named { slot, subslot, .. }) = &mut atom.slot {
            if subslot.as_ref() == Some(slot) {
                *subslot = Some(new.to_owned());
            }
            new.clone_into(slot);
        }
        atom
    }

    /// The same with other versions.
    #[must_use]
    pub fn with_versions(&self, versions: Versions) -> Self {
        Atom {
            versions,
            ..self.clone()
        }
    }
}

/// The operators; those with two characters first.
const OPERATORS: [(&str, Operator); 6] = [
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
    ("=", Operator::Equal),
    ("~", Operator::AnyRevision),
];

/// The blocker's marks cut off.
pub(super) fn cut_blocker(text: &str) -> (Option<Blocker>, &str) {
    if let Some(rest) = text.strip_prefix("!!") {
        return (Some(Blocker::Strong), rest);
    }
    match text.strip_prefix('!') {
        Some(rest) => (Some(Blocker::Weak), rest),
        None => (None, text),
    }
}

/// The operator cut off.
pub(super) fn cut_operator(text: &str) -> (Option<Operator>, &str) {
    let found = OPERATORS
        .iter()
        .find_map(|(mark, operator)| Some((Some(*operator), text.strip_prefix(mark)?)));
    found.unwrap_or((None, text))
}

/// The name in a word that looks like an atom, if it does: cheap, and no proof of it.
#[must_use]
pub fn name_in(word: &str) -> Option<&str> {
    let (operator, rest) = cut_operator(cut_blocker(word).1);
    let end = rest.find([':', '[']).unwrap_or(rest.len());
    let body = &rest[..end];
    let slash = body.find('/')?;
    match operator {
        None => Some(body),
        Some(_) => {
            let (name, _) = split_pf(body[slash + 1..].trim_end_matches('*'))?;
            Some(&body[..=slash + name.len()])
        }
    }
}

impl FromStr for Atom {
    type Err = NoAtom;

    fn from_str(text: &str) -> Result<Self, NoAtom> {
        let wrong = |why| NoAtom::new(text, why);
        let (blocker, rest) = cut_blocker(text);
        let (operator, rest) = cut_operator(rest);
        let (rest, use_deps) = cut_use_deps(rest).ok_or(wrong("its USE dependencies are wrong"))?;
        let (rest, repository) = match rest.split_once("::") {
            Some((_, name)) if !is_repository(name) => {
                return Err(wrong("its repository is no name"));
            }
            Some((rest, name)) => (rest, Some(name.to_owned())),
            None => (rest, None),
        };
        let (rest, slot) = match rest.split_once(':') {
            Some((rest, slot)) => {
                let slot = SlotDep::parse(slot).ok_or(wrong("its slot is wrong"))?;
                (rest, Some(slot))
            }
            None => (rest, None),
        };
        let (name, versions) = name_and_versions(operator, rest).map_err(wrong)?;
        Ok(Atom {
            blocker,
            name,
            versions,
            slot,
            repository,
            use_deps,
        })
    }
}

/// The USE dependencies cut off; `None` if they are wrong.
fn cut_use_deps(text: &str) -> Option<(&str, Vec<UseDep>)> {
    let Some((rest, list)) = text.split_once('[') else {
        return Some((text, Vec::new()));
    };
    let deps = list.strip_suffix(']')?.split(',').map(UseDep::parse);
    Some((rest, deps.collect::<Option<_>>()?))
}

fn name_and_versions(
    operator: Option<Operator>,
    text: &str,
) -> Result<(QualifiedName, Versions), &'static str> {
    const NO_NAME: &str = "it has no CATEGORY/NAME";
    let Some(operator) = operator else {
        let name = text.parse().map_err(|_| match split_versioned(text) {
            Some(_) => "a version needs an operator",
            None => NO_NAME,
        })?;
        return Ok((name, Versions::All));
    };
    let (text, operator) = match (text.strip_suffix('*'), operator) {
        (None, operator) => (text, operator),
        (Some(text), Operator::Equal) => (text, Operator::Prefix),
        (Some(_), _) => return Err("only = goes with *"),
    };
    let Some((name, version)) = split_versioned(text) else {
        return Err(match text.parse::<QualifiedName>() {
            Ok(_) => "an operator needs a version",
            Err(_) => NO_NAME,
        });
    };
    let name = name.parse().map_err(|_| NO_NAME)?;
    Ok((name, Versions::Compared(operator, version.to_owned())))
}

/// `category/name` and the version.
fn split_versioned(text: &str) -> Option<(&str, &str)> {
    let (_, pf) = text.split_once('/')?;
    let (_, version) = split_pf(pf)?;
    debug_assert!(is_version(version));
    Some((&text[..text.len() - version.len() - 1], version))
}

impl Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.blocker {
            Some(Blocker::Strong) => "!!",
            Some(Blocker::Weak) => "!",
            None => "",
        })?;
        match &self.versions {
            Versions::All => write!(f, "{}", self.name)?,
            Versions::Compared(operator, version) => {
                write!(f, "{}{}-{version}", operator.as_str(), self.name)?;
                if *operator == Operator::Prefix {
                    f.write_str("*")?;
                }
            }
        }
        if let Some(slot) = &self.slot {
            write!(f, "{slot}")?;
        }
        if let Some(repository) = &self.repository {
            write!(f, "::{repository}")?;
        }
        for (n, dep) in self.use_deps.iter().enumerate() {
            write!(f, "{}{dep}", if n == 0 { "[" } else { "," })?;
        }
        f.write_str(if self.use_deps.is_empty() { "" } else { "]" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_portage_takes_is_one_and_reads_as_it_was_written() {
        // Made by running Portage's own Atom; the first line of the file says so.
        let data = include_str!("../../tests/data/atoms.txt");
        for line in data.lines().skip(1) {
            let (verdict, text) = line.split_once(' ').unwrap();
            let atom = text.parse::<Atom>();
            assert_eq!(atom.is_ok(), verdict == "yes", "{text}: {atom:?}");
            if let Ok(atom) = atom {
                assert_eq!(atom.to_string(), text);
                assert_eq!(name_in(text), Some(atom.name().as_str()), "{text}");
            }
        }
    }

    #[test]
    fn parts() {
        let atom: Atom = "!!>=a-b/c+-1.2_p3-r4:5/6=::here[x,-y(+),!z(-)?]"
            .parse()
            .unwrap();
        assert_eq!(atom.blocker(), Some(Blocker::Strong));
        assert_eq!(atom.name().parts(), ("a-b", "c+"));
        let version = "1.2_p3-r4".to_owned();
        assert_eq!(
            *atom.versions(),
            Versions::Compared(Operator::GreaterOrEqual, version)
        );
        assert_eq!((atom.slot(), atom.subslot()), (Some("5"), Some("6")));
        assert_eq!(atom.repository(), Some("here"));
        let kinds: Vec<_> = atom
            .use_deps()
            .iter()
            .map(|u| (u.kind, u.default))
            .collect();
        assert_eq!(
            kinds,
            [
                (UseKind::Enabled, None),
                (UseKind::Disabled, Some(true)),
                (UseKind::IfDisabled, Some(false))
            ]
        );
    }

    #[test]
    fn errors_say_why() {
        for (text, why) in [
            ("a/b-1", "a version needs an operator"),
            ("=a/b", "an operator needs a version"),
            (">a/b-1*", "only = goes with *"),
            ("a/b:0*", "its slot is wrong"),
            ("a/b[!x]", "its USE dependencies are wrong"),
            ("a/b::-x", "its repository is no name"),
            ("b", "it has no CATEGORY/NAME"),
        ] {
            let error = text.parse::<Atom>().unwrap_err().to_string();
            assert_eq!(error, format!("{text:?}: {why}"));
        }
    }

    #[test]
    fn another_slot_takes_the_subslot_along_that_was_named_after_it() {
        for (old, new) in [
            ("a/b:1", "a/b:2"),
            ("a/b:1=", "a/b:2="),
            ("a/b:1/1=", "a/b:2/2="),
            ("a/b:1/9", "a/b:2/9"),
            ("a/b:=", "a/b:="),
            ("a/b", "a/b"),
        ] {
            let atom: Atom = old.parse().unwrap();
            assert_eq!(atom.with_slot("2").to_string(), new);
        }
    }

    proptest! {
        #[test]
        fn what_is_one_is_written_as_it_was(
            text in "\\PC{0,20}|[!<=>~]{0,2}[ab]/[a-c+-]{1,4}(-[0-9.]{1,3})?[*:=/0a]{0,4}(\\[[a-b!?=(+),-]{0,6}\\])?"
        ) {
            let _ = name_in(&text);
            if let Ok(atom) = text.parse::<Atom>() {
                prop_assert_eq!(atom.to_string(), text);
            }
        }
    }
}
