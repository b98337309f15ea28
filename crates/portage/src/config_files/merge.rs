//! Texts, put together line by line.

use diffy::{DiffOptions, IncompleteHunkStyle, MergeOptions};

/// What came of two changes to one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merged {
    /// They go together.
    Clean(Vec<u8>),
    /// They do not: the text, with marks where.
    Conflicts(Vec<u8>),
}

/// The marks of a conflict; git(1) writes the same.
const MARKS: [&str; 4] = ["<<<<<<<", "|||||||", "=======", ">>>>>>>"];

/// Put together what two have made of one text.
#[must_use]
pub fn three_way(base: &[u8], ours: &[u8], theirs: &[u8]) -> Merged {
    let mut options = MergeOptions::new();
    options.set_incomplete_hunk_style(IncompleteHunkStyle::Git);
    match options.merge_bytes(base, ours, theirs) {
        Ok(result) => Merged::Clean(result),
        Err(marked) => Merged::Conflicts(marked),
    }
}

/// Both texts in one, with marks around all that is not the same in both: for who does not
/// know what they were made from.
#[must_use]
pub fn two_way(ours: &[u8], theirs: &[u8]) -> Vec<u8> {
    let (old, new) = (lines(ours), lines(theirs));
    let mut options = DiffOptions::new();
    options.set_context_len(0);
    let patch = options.create_patch_bytes(ours, theirs);
    let mut out = Vec::new();
    let mut at = 0;
    for hunk in patch.hunks() {
        let (from, to) = (hunk.old_range(), hunk.new_range());
        // The start of an empty range is the line before it.
        let start = |range: diffy::HunkRange| match range.is_empty() {
            true => range.start(),
            false => range.start().saturating_sub(1),
        };
        let (from_start, to_start) = (start(from), start(to));
        old[at..from_start]
            .iter()
            .for_each(|l| out.extend_from_slice(l));
        at = from_start + from.len();
        mark(&mut out, "<<<<<<< ours");
        old[from_start..at]
            .iter()
            .for_each(|l| out.extend_from_slice(l));
        mark(&mut out, "=======");
        let changed = &new[to_start..to_start + to.len()];
        changed.iter().for_each(|l| out.extend_from_slice(l));
        mark(&mut out, ">>>>>>> theirs");
    }
    old[at..].iter().for_each(|l| out.extend_from_slice(l));
    out
}

fn mark(out: &mut Vec<u8>, text: &str) {
    if out.last().is_some_and(|c| *c != b'\n') {
        out.push(b'\n');
    }
    out.extend_from_slice(text.as_bytes());
    out.push(b'\n');
}

/// Whether a mark of a conflict is still in a text.
#[must_use]
pub fn has_marks(text: &[u8]) -> bool {
    let [begin, _, _, end] = MARKS;
    lines(text)
        .iter()
        .any(|line| [begin, end].iter().any(|m| starts_with_mark(line, m)))
}

fn starts_with_mark(line: &[u8], mark: &str) -> bool {
    let rest = line.strip_prefix(mark.as_bytes());
    rest.is_some_and(|rest| rest.first().is_none_or(|c| c.is_ascii_whitespace()))
}

/// How many conflicts are marked in a text.
#[must_use]
pub fn conflicts(text: &[u8]) -> usize {
    let marked = lines(text);
    let begins = |line: &&&[u8]| starts_with_mark(line, MARKS[0]);
    marked.iter().filter(begins).count()
}

/// A unified diff of two texts, with these names.
#[must_use]
pub fn unified(old: (&str, &[u8]), new: (&str, &[u8])) -> Vec<u8> {
    let mut options = DiffOptions::new();
    options.set_original_filename(old.0.to_owned());
    options.set_modified_filename(new.0.to_owned());
    options.create_patch_bytes(old.1, new.1).to_bytes()
}

/// Whether this is no text: as for git(1) and grep(1), a zero byte tells.
#[must_use]
pub fn is_binary(content: &[u8]) -> bool {
    content.contains(&0)
}

/// Whether two texts differ in nothing but comments, empty lines and spaces at the end of
/// lines. Spaces at the beginning count: there are formats in which they mean something.
#[must_use]
pub fn same_but_comments(one: &[u8], other: &[u8]) -> bool {
    // Where a line goes on in the next one, none of the next can be left out.
    let continued = |text: &[u8]| {
        lines(text)
            .iter()
            .any(|line| significant(line).ends_with(b"\\"))
    };
    if continued(one) || continued(other) {
        return false;
    }
    let meant = |text: &[u8]| -> Vec<Vec<u8>> {
        let lines = lines(text);
        let lines = lines.iter().map(|line| significant(line));
        lines
            .filter(|l| !l.is_empty() && !is_comment(l))
            .map(<[u8]>::to_vec)
            .collect()
    };
    meant(one) == meant(other)
}

fn significant(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let spaces = line.iter().rev().take_while(|c| matches!(c, b' ' | b'\t'));
    &line[..line.len() - spaces.count()]
}

/// A line with `#` first, but for `#!` and for what preprocessors and sudo take for
/// instructions (`#include`).
fn is_comment(line: &[u8]) -> bool {
    let line = line.trim_ascii_start();
    let Some(rest) = line.strip_prefix(b"#") else {
        return false;
    };
    const INSTRUCTIONS: [&str; 9] = [
        "!", "include", "define", "undef", "if", "el", "endif", "pragma", "error",
    ];
    !INSTRUCTIONS
        .iter()
        .any(|i| rest.trim_ascii_start().starts_with(i.as_bytes()))
}

/// The lines of a text with their ends.
fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|c| *c == b'\n').collect()
}

#[cfg(test)]
#[path = "merge/tests.rs"]
mod tests;
