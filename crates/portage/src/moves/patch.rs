//! A unified diff, as `patch -p1` and `git apply` take it.

use std::fmt::Write;
use std::ops::Range;

/// Lines that stand unchanged around a change.
const CONTEXT: usize = 3;

/// The diff of a file in which lines were replaced, one for one; empty if none was.
///
/// If the two texts have not as many lines, the whole file is one change.
#[must_use]
pub fn unified(path: &str, old: &str, new: &str) -> String {
    let (a, b): (Vec<_>, Vec<_>) = (
        old.split_inclusive('\n').collect(),
        new.split_inclusive('\n').collect(),
    );
    let changed = match a.len() == b.len() {
        true => runs(&a, &b),
        false => return whole(path, &a, &b),
    };
    let mut diff = String::new();
    for hunk in hunks(&changed, a.len()) {
        if diff.is_empty() {
            diff = header(path);
        }
        let range = format!("{},{}", hunk.start + 1, hunk.len());
        push(&mut diff, &format!("@@ -{range} +{range} @@\n"));
        let mut at = hunk.start;
        for run in changed.iter().filter(|r| hunk.contains(&r.start)) {
            lines(&mut diff, ' ', &a[at..run.start]);
            lines(&mut diff, '-', &a[run.clone()]);
            lines(&mut diff, '+', &b[run.clone()]);
            at = run.end;
        }
        lines(&mut diff, ' ', &a[at..hunk.end]);
    }
    diff
}

fn header(path: &str) -> String {
    format!("--- a/{path}\n+++ b/{path}\n")
}

/// All lines out, all lines in.
fn whole(path: &str, a: &[&str], b: &[&str]) -> String {
    let mut diff = header(path);
    let range = |lines: &[&str]| format!("{},{}", usize::from(!lines.is_empty()), lines.len());
    push(&mut diff, &format!("@@ -{} +{} @@\n", range(a), range(b)));
    lines(&mut diff, '-', a);
    lines(&mut diff, '+', b);
    diff
}

/// Runs of lines that differ.
fn runs(a: &[&str], b: &[&str]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for at in (0..a.len()).filter(|at| a[*at] != b[*at]) {
        match runs.last_mut() {
            Some(run) if run.end == at => run.end += 1,
            _ => runs.push(at..at + 1),
        }
    }
    runs
}

/// The runs with what stands around them; those that are near are together.
fn hunks(runs: &[Range<usize>], count: usize) -> Vec<Range<usize>> {
    let mut hunks: Vec<Range<usize>> = Vec::new();
    for run in runs {
        let around = run.start.saturating_sub(CONTEXT)..(run.end + CONTEXT).min(count);
        match hunks.last_mut() {
            Some(hunk) if hunk.end >= around.start => hunk.end = around.end,
            _ => hunks.push(around),
        }
    }
    hunks
}

fn lines(diff: &mut String, mark: char, lines: &[&str]) {
    for line in lines {
        push(diff, &format!("{mark}{line}"));
        if !line.ends_with('\n') {
            push(diff, "\n\\ No newline at end of file\n");
        }
    }
}

fn push(diff: &mut String, text: &str) {
    // A string takes all.
    let _always = diff.write_str(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, changed: &[usize]) -> String {
        let line = |n| match changed.contains(&n) {
            true => format!("new {n}\n"),
            false => format!("{n}\n"),
        };
        (1..=count).map(line).collect()
    }

    #[test]
    fn hunks_have_context_and_do_not_overlap() {
        let (old, new) = (numbers(30, &[]), numbers(30, &[1, 8, 9, 20]));
        assert_eq!(
            unified("x/y", &old, &new),
            "--- a/x/y\n+++ b/x/y\n\
             @@ -1,12 +1,12 @@\n-1\n+new 1\n 2\n 3\n 4\n 5\n 6\n 7\n-8\n-9\n+new 8\n+new 9\n\
             \x2010\n 11\n 12\n\
             @@ -17,7 +17,7 @@\n 17\n 18\n 19\n-20\n+new 20\n 21\n 22\n 23\n"
        );
    }

    #[test]
    fn odd_ends() {
        assert_eq!(unified("x", "a\n", "a\n"), "");
        assert_eq!(unified("x", "", ""), "");
        assert_eq!(
            unified("x", "a\nb", "a\nc"),
            "--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n\
             +c\n\\ No newline at end of file\n"
        );
        assert_eq!(
            unified("x", "a\n", "a\nb\n"),
            "--- a/x\n+++ b/x\n@@ -1,1 +1,2 @@\n-a\n+a\n+b\n"
        );
    }
}
