use proptest::prelude::*;

use super::*;

fn clean(base: &str, ours: &str, theirs: &str) -> Option<String> {
    match three_way(base.as_bytes(), ours.as_bytes(), theirs.as_bytes()) {
        Merged::Clean(text) => Some(String::from_utf8(text).unwrap()),
        Merged::Conflicts(_) => None,
    }
}

#[test]
fn line_ends_are_kept() {
    let base = "a\r\nb\r\nc\r\nd\r\ne";
    let merged = clean(base, "A\r\nb\r\nc\r\nd\r\ne", "a\r\nb\r\nc\r\nd\r\nE");
    assert_eq!(merged.as_deref(), Some("A\r\nb\r\nc\r\nd\r\nE"));
    // Only one of them gives the last line an end.
    let merged = clean("a\nb\nc\nd", "A\nb\nc\nd", "a\nb\nc\nd\n");
    assert_eq!(merged.as_deref(), Some("A\nb\nc\nd\n"));
    // All of the lines are others: nothing goes together.
    assert_eq!(clean("a\nb\n", "a\r\nb\r\n", "a\nB\n"), None);
    // What is no UTF-8 is text all the same.
    let merged = three_way(b"\xe4\nb\nc\n", b"\xf6\nb\nc\n", b"\xe4\nb\n\xfc\n");
    assert_eq!(merged, Merged::Clean(b"\xf6\nb\n\xfc\n".to_vec()));
}

#[test]
fn changes_that_touch_are_conflicts() {
    assert_eq!(clean("a\nb\nc\n", "a\nX\nc\n", "a\nY\nc\n"), None);
    // Both put something in the same place.
    assert_eq!(clean("a\nc\n", "a\nX\nc\n", "a\nY\nc\n"), None);
    // One deletes what the other goes on from.
    assert_eq!(clean("{\n  a\n}\n", "{\n}\n", "{\n  a\n  b\n}\n"), None);
    assert_eq!(clean("a\nb\n", "", "a\nB\n"), None);
    assert_eq!(clean("", "a\n", "b\n"), None);
    // The same change is one.
    assert_eq!(
        clean("a\nb\n", "a\nX\n", "a\nX\n").as_deref(),
        Some("a\nX\n")
    );
}

#[test]
fn conflicts_are_marked_where_they_are() {
    let Merged::Conflicts(marked) = three_way(b"a\nb", b"a\nX", b"a\nY") else {
        panic!("it is clean");
    };
    let text = String::from_utf8(marked.clone()).unwrap();
    let expected = "a\n<<<<<<< ours\nX\n||||||| original\nb\n=======\nY\n>>>>>>> theirs\n";
    assert_eq!(text, expected);
    assert!(has_marks(&marked));
    assert_eq!(conflicts(&marked), 1);
    assert!(!has_marks(b"title\n=======\n<<<<<<<<< x\n"));
    assert!(has_marks(b"x\n>>>>>>> theirs"));
}

#[test]
fn without_a_base_all_that_differs_is_marked() {
    let text = two_way(b"a\nb\nc\nd", b"a\nB\nc\nd\ne\n");
    let expected = "a\n<<<<<<< ours\nb\n=======\nB\n>>>>>>> theirs\nc\n\
        <<<<<<< ours\nd\n=======\nd\ne\n>>>>>>> theirs\n";
    assert_eq!(String::from_utf8(text).unwrap(), expected);
    let text = two_way(b"a\nb\n", b"x\na\nb\n");
    let expected = "<<<<<<< ours\n=======\nx\n>>>>>>> theirs\na\nb\n";
    assert_eq!(String::from_utf8(text).unwrap(), expected);
    assert_eq!(two_way(b"same\n", b"same\n"), b"same\n");
}

#[test]
fn comments_do_not_count() {
    for (one, other, same) in [
        ("# $Id: a$\nx\n", "# $Header: b$\nx\n", true),
        ("x\n\n\ny", "x  \ny\t\n", true),
        ("  # note\nx\n", "x\n", true),
        ("", "# only\n", true),
        ("x\n", "#x\n", false),
        ("  x\n", "x\n", false),
        ("x\r\n", "x\n", false),
        ("x y\n", "x  y\n", false),
        ("#!/bin/sh\nx\n", "#!/bin/bash\nx\n", false),
        ("#include \"a\"\n", "#include \"b\"\n", false),
        ("# include <a>\n", "", false),
        ("#includedir /etc/sudoers.d\n", "", false),
        ("a \\\n\nb\n", "a \\\nb\n", false),
        ("a \\\n# c\n", "a \\ \n", false),
        ("x # old\n", "x # new\n", false),
    ] {
        let found = same_but_comments(one.as_bytes(), other.as_bytes());
        assert_eq!(found, same, "{one:?} {other:?}");
    }
}

#[test]
fn diffs_have_names() {
    let diff = unified(("/etc/a", b"x\n"), ("/etc/._cfg0000_a", b"y\n"));
    let expected = "--- /etc/a\n+++ /etc/._cfg0000_a\n@@ -1 +1 @@\n-x\n+y\n";
    assert_eq!(String::from_utf8(diff).unwrap(), expected);
}

/// Few different lines: changes meet, and lines are there more than once.
fn text() -> impl Strategy<Value = String> {
    let line = prop::sample::select(vec!["a\n", "b\n", "c\n", "\n", "d\r\n"]);
    let last = prop::sample::select(vec!["", "", "a", "e\r"]);
    (prop::collection::vec(line, 0..9), last).prop_map(|(lines, last)| lines.concat() + last)
}

/// A text of lines of its own each, and for each line who changes it how.
fn edited() -> impl Strategy<Value = Vec<(u8, u8)>> {
    prop::collection::vec((0..3_u8, 0..4_u8), 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn one_change_alone_is_taken(base in text(), other in text()) {
        prop_assert!(clean(&base, &base, &other) == Some(other.clone()));
        prop_assert!(clean(&base, &other, &base) == Some(other.clone()));
        prop_assert!(clean(&base, &other, &other) == Some(other.clone()));
    }

    #[test]
    fn who_is_who_does_not_matter(base in text(), ours in text(), theirs in text()) {
        prop_assert_eq!(clean(&base, &ours, &theirs), clean(&base, &theirs, &ours));
    }

    /// Changes with a line between that nobody touches.
    #[test]
    fn changes_that_are_apart_go_together(edits in edited()) {
        let mut texts = [String::new(), String::new(), String::new(), String::new()];
        for (at, (who, how)) in edits.iter().enumerate() {
            let line = format!("line {at}\n");
            let changed = match how {
                0 => String::new(),
                1 => format!("changed {at} by {who}\n"),
                2 => format!("{line}new {at} by {who}\n"),
                _ => format!("new {at} by {who}\n{line}"),
            };
            let [base, ours, theirs, expected] = &mut texts;
            base.push_str(&line);
            ours.push_str(if *who == 1 { &changed } else { &line });
            theirs.push_str(if *who == 2 { &changed } else { &line });
            expected.push_str(if *who == 0 { &line } else { &changed });
            for text in &mut texts {
                text.push_str(&format!("between {at}\n"));
            }
        }
        let [base, ours, theirs, expected] = texts;
        prop_assert_eq!(clean(&base, &ours, &theirs), Some(expected));
    }

    #[test]
    fn nobody_panics(base: Vec<u8>, ours: Vec<u8>, theirs: Vec<u8>) {
        let _ = three_way(&base, &ours, &theirs);
        let two = two_way(&ours, &theirs);
        prop_assert_eq!(ours == theirs, two == ours && conflicts(&two) == conflicts(&ours));
        let _ = unified(("a", &ours), ("b", &theirs));
        prop_assert!(same_but_comments(&ours, &ours) || ours.contains(&b'\\'));
    }
}
