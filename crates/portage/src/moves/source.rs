//! Atoms in the text of ebuilds and eclasses.
//!
//! What Bash would make of a text is not known without running it. Looked at are values of
//! variables whose names have `DEP` in them, and lines that ask for installed packages;
//! names, versions and slots that are put together from variables are not seen.

use std::ops::Range;

use super::atom::{Atom, cut_blocker, cut_operator};
use super::range::Versions;

/// Functions whose arguments are atoms (PMS 12.3.8, and eclasses).
const QUERIES: [&str; 3] = ["has_version", "best_version", "optfeature"];

/// What may stand before a name that is assigned to.
const DECLARATIONS: [&str; 4] = ["local ", "export ", "readonly ", "declare "];

/// An atom in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    /// The line, counted from 1.
    pub line: usize,
    /// The atom, without USE dependencies; without a version if that is a variable.
    pub atom: Atom,
    /// Where its name is.
    name: Range<usize>,
    /// Where its slot is.
    slot: Option<Range<usize>>,
}

/// All atoms that can be seen in a text.
pub(super) fn references(text: &str) -> Vec<Reference> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut lines = Lines::default();
    while at < text.len() {
        let end = text[at..].find('\n').map_or(text.len(), |n| at + n);
        let region = region(text, at..end);
        at = end + 1;
        if let Some(region) = region {
            at = at.max(region.end);
            for word in words(text, region) {
                let line = lines.of(text, word.start);
                found.extend(reference(text, word, line));
            }
        }
    }
    found
}

/// Counts lines, going on from the last place.
#[derive(Default)]
struct Lines {
    at: usize,
    newlines: usize,
}

impl Lines {
    fn of(&mut self, text: &str, place: usize) -> usize {
        let between = text.as_bytes()[self.at..place].iter();
        self.newlines += between.filter(|b| **b == b'\n').count();
        self.at = place;
        self.newlines + 1
    }
}

/// The part with atoms that begins in this line. It may end in a later one.
fn region(text: &str, line: Range<usize>) -> Option<Range<usize>> {
    let content = &text[line.clone()];
    let trimmed = content.trim_start();
    if trimmed.starts_with('#') {
        return None;
    }
    if let Some(value) = assigned(trimmed) {
        let start = line.end - value.len();
        let end = match value.bytes().next() {
            Some(quote @ (b'"' | b'\'')) => closing(text, start + 1, quote),
            Some(b'(') => closing(text, start + 1, b')'),
            _ => None,
        };
        return Some(start..end.unwrap_or(line.end));
    }
    let queries = QUERIES.iter().filter_map(|query| content.find(query));
    queries.min().map(|at| line.start + at..line.end)
}

/// The value, if the line assigns to a variable of dependencies.
fn assigned(line: &str) -> Option<&str> {
    let declared = DECLARATIONS.iter().find_map(|word| line.strip_prefix(word));
    let line = declared.unwrap_or(line).trim_start();
    let end = line.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    let (name, rest) = line.split_at(end);
    let value = rest.strip_prefix('+').unwrap_or(rest).strip_prefix('=')?;
    name.contains("DEP").then_some(value)
}

/// Where a quoted value or a list ends that began before `from`. A command in it, `$(...)`,
/// has quotes of its own.
fn closing(text: &str, from: usize, closer: u8) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut depth, mut nested) = (0_usize, None);
    let mut at = from;
    while let Some(&byte) = bytes.get(at) {
        let quotes_nest = depth > 0 || closer == b')';
        if byte == b'\\' && closer != b'\'' {
            at += 1;
        } else if let Some(quote) = nested {
            if byte == quote {
                nested = None;
            }
        } else if depth == 0 && byte == closer {
            return Some(at);
        } else if quotes_nest && matches!(byte, b'"' | b'\'') {
            nested = Some(byte);
        } else if byte == b'(' && (depth > 0 || bytes[at - 1] == b'$' && closer == b'"') {
            depth += 1;
        } else if byte == b')' {
            depth = depth.saturating_sub(1);
        }
        at += 1;
    }
    None
}

/// The words of a part: what stands between blanks, quotes, and parentheses that are not
/// those of a USE dependency.
fn words(text: &str, region: Range<usize>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let (mut start, mut brackets) = (region.start, false);
    for (n, byte) in text[region.clone()].bytes().enumerate() {
        let at = region.start + n;
        match byte {
            b'[' => brackets = true,
            b']' => brackets = false,
            _ => {}
        }
        let between = match byte {
            b'(' | b')' => !brackets,
            _ => byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'' | b'`' | b';' | b'|'),
        };
        if between {
            brackets = false;
            found.push(start..at);
            start = at + 1;
        }
    }
    found.push(start..region.end);
    found.retain(|word| !word.is_empty());
    found
}

/// The atom that a word is, if it is one.
fn reference(text: &str, word: Range<usize>, line: usize) -> Option<Reference> {
    let whole = &text[word.clone()];
    whole.find('/')?;
    let without_use = whole.split('[').next().unwrap_or(whole);
    let (body, behind) = match without_use.find(':') {
        Some(colon) => without_use.split_at(colon),
        None => (without_use, ""),
    };
    let atom = atom(body, behind)?;
    let marks = body.len() - cut_operator(cut_blocker(body).1).1.len();
    let name = word.start + marks..word.start + marks + atom.name().as_str().len();
    let slot = atom.slot().map(|slot| {
        let start = word.start + body.len() + 1;
        start..start + slot.len()
    });
    Some(Reference {
        line,
        atom,
        name,
        slot,
    })
}

/// The atom of a name with its version, and what stands behind the colon.
fn atom(body: &str, behind: &str) -> Option<Atom> {
    let (versioned, is_known) = match body.find("-$") {
        Some(variable) => (&body[..variable], false),
        None => (body, true),
    };
    let behind = if behind.contains('$') { "" } else { behind };
    if is_known {
        return format!("{versioned}{behind}").parse().ok();
    }
    let (_, rest) = cut_blocker(versioned);
    let (operator, name) = cut_operator(rest);
    // Without an operator this is the beginning of a longer name.
    operator?;
    let marks = &versioned[..versioned.len() - rest.len()];
    let atom: Atom = format!("{marks}{name}{behind}").parse().ok()?;
    Some(atom.with_versions(Versions::All))
}

/// The text with other atoms in the place of these, which are in its order.
pub(super) fn replaced(text: &str, references: &[(&Reference, &Atom)]) -> String {
    let mut new = String::with_capacity(text.len() + 64);
    let mut copied = 0;
    for (old, atom) in references {
        new.push_str(&text[copied..old.name.start]);
        new.push_str(atom.name().as_str());
        copied = old.name.end;
        if let (Some(place), Some(slot)) = (&old.slot, atom.slot()) {
            new.push_str(&text[copied..place.start]);
            new.push_str(slot);
            copied = place.end;
        }
    }
    new.push_str(&text[copied..]);
    new
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EBUILD: &str = r#"# Copyright a/old
EAPI=8
inherit python-r1
DESCRIPTION="about a/old"
SRC_URI="https://a/old -> x"
# RDEPEND="a/old"
COMMON_DEPEND="
	!<a/old-2
	a/old[x(+),${PYTHON_USEDEP}]
	>=a/old-${PV}:0/${SUB}=
	a/old-er
	${CATEGORY}/old
	$(python_gen_cond_dep '
		~a/old-1.0:0=[x?]
	' "${TARGETS}")
"
RDEPEND="${COMMON_DEPEND} x? ( a/old:0 )" # a/old
DEPEND+=" a/old"
DEPS=(
	a/old
	"b/c a/old"
)
pkg_postinst() {
	if has_version "<a/old-3" || ! has_version a/old; then
		elog "a/old is old"
	fi
	local dep=a/old
	optfeature "this" a/old
	a/old-${X}
}
"#;

    #[test]
    fn what_is_seen_in_an_ebuild() {
        let found = references(EBUILD);
        let lines: Vec<_> = found
            .iter()
            .filter(|r| r.atom.name().as_str() == "a/old")
            .map(|r| format!("{} {}", r.line, r.atom))
            .collect();
        assert_eq!(
            lines,
            [
                "8 !<a/old-2",
                "9 a/old",
                "10 a/old",
                "14 ~a/old-1.0:0=",
                "17 a/old:0",
                "18 a/old",
                "20 a/old",
                "21 a/old",
                "24 <a/old-3",
                "24 a/old",
                "28 a/old",
            ]
        );
    }

    #[test]
    fn only_the_names_and_slots_are_replaced() {
        let found = references(EBUILD);
        let new: Vec<(&Reference, Atom)> = found
            .iter()
            .filter(|r| r.atom.name().as_str() == "a/old")
            .map(|r| {
                (
                    r,
                    r.atom.with_name(&"b/newer".parse().unwrap()).with_slot("2"),
                )
            })
            .collect();
        let new: Vec<_> = new.iter().map(|(r, atom)| (*r, atom)).collect();
        let text = replaced(EBUILD, &new);
        let changed: Vec<_> = EBUILD
            .lines()
            .zip(text.lines())
            .filter(|(a, b)| a != b)
            .map(|(_, b)| b.trim_start())
            .collect();
        assert_eq!(
            changed,
            [
                "!<b/newer-2",
                "b/newer[x(+),${PYTHON_USEDEP}]",
                ">=b/newer-${PV}:0/${SUB}=",
                "~b/newer-1.0:2=[x?]",
                "RDEPEND=\"${COMMON_DEPEND} x? ( b/newer:2 )\" # a/old",
                "DEPEND+=\" b/newer\"",
                "b/newer",
                "\"b/c b/newer\"",
                "if has_version \"<b/newer-3\" || ! has_version b/newer; then",
                "optfeature \"this\" b/newer",
            ]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_survived(
            lines in prop::collection::vec(
                "\\PC{0,20}|[A-Z]{0,2}DEPEND=[\"'(]?[a-b/$(){}\\[\\]\"'\\\\: \n-]{0,30}",
                0..4,
            )
        ) {
            let text = lines.join("\n");
            let found = references(&text);
            let same: Vec<_> = found.iter().map(|r| (r, &r.atom)).collect();
            prop_assert_eq!(replaced(&text, &same), text);
        }
    }
}
