//! Dependency strings: PMS 8.2. They are taken apart only as far as their atoms are to be
//! found, so that whatever is not replaced stays as it is, byte by byte.

use std::ops::Range;

use super::atom::NoAtom;

/// What begins a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// `( )`, the whole string, or a USE conditional: all that is in it.
    All,
    /// `|| ( )`
    AnyOf,
    /// `^^ ( )`
    ExactlyOne,
    /// `?? ( )`
    AtMostOne,
}

/// An atom of a dependency string, or what should be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Where it is.
    pub span: Range<usize>,
    /// The number of the group that it is a member of; 0 is the whole string.
    pub group: usize,
}

/// The structure of a dependency string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Depend {
    /// What is in no way a group or a condition.
    pub items: Vec<Item>,
    /// The groups, by number.
    pub groups: Vec<Group>,
}

/// The words of a text and where they begin.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_ascii_whitespace()
        .map(move |word| (word.as_ptr() as usize - text.as_ptr() as usize, word))
}

/// What must come before a parenthesis.
#[derive(Clone, Copy, PartialEq)]
enum Opening {
    /// `||` and the like.
    Group(Group),
    /// `flag?`
    Condition,
}

fn opening(word: &str) -> Option<Opening> {
    Some(match word {
        "||" => Opening::Group(Group::AnyOf),
        "^^" => Opening::Group(Group::ExactlyOne),
        "??" => Opening::Group(Group::AtMostOne),
        word if word.ends_with('?') && !word.contains(['/', '[']) => Opening::Condition,
        _ => return None,
    })
}

impl Depend {
    /// Take a dependency string apart.
    ///
    /// # Errors
    /// A parenthesis is missing or in the wrong place.
    pub fn parse(text: &str) -> Result<Self, NoAtom> {
        let mut found = Depend {
            items: Vec::new(),
            groups: vec![Group::All],
        };
        let mut open = vec![0];
        let mut pending = None;
        for (at, word) in words(text) {
            let wrong = |why| Err(NoAtom::new(word, why));
            let group = open.last().copied().unwrap_or(0);
            match (word, pending.take()) {
                ("(", opening) => {
                    found.groups.push(match opening {
                        Some(Opening::Group(group)) => group,
                        _ => Group::All,
                    });
                    open.push(found.groups.len() - 1);
                }
                (_, Some(_)) => return wrong("a ( should stand here"),
                (")", None) if open.len() == 1 => return wrong("there is no ( before it"),
                (")", None) => {
                    open.pop();
                }
                (word, None) => match opening(word) {
                    Some(opening) => pending = Some(opening),
                    None => found.items.push(Item {
                        span: at..at + word.len(),
                        group,
                    }),
                },
            }
        }
        match pending.is_none() && open.len() == 1 {
            true => Ok(found),
            false => Err(NoAtom::new(text, "a group is not closed")),
        }
    }
}

/// Put other atoms in the place of those that `replace` has an answer for; `None` if it has
/// none. In a `||` group, what came to be there twice by that is left out the second time.
///
/// # Errors
/// A parenthesis is missing or in the wrong place.
pub fn rewrite(
    text: &str,
    mut replace: impl FnMut(&str) -> Option<String>,
) -> Result<Option<String>, NoAtom> {
    // Nearly all that is asked for has nothing to replace: groups are looked at after that.
    let found: Vec<(usize, String)> = words(text)
        .filter_map(|(at, word)| Some((at, replace(word)?)))
        .collect();
    if found.is_empty() {
        return Ok(None);
    }
    let depend = Depend::parse(text)?;
    let mut new = String::with_capacity(text.len() + 16);
    let mut copied = 0;
    for (n, item) in depend.items.iter().enumerate() {
        let replaced = |item: &Item| {
            let at = found.binary_search_by_key(&item.span.start, |(at, _)| *at);
            at.ok().map(|at| found[at].1.as_str())
        };
        let word = |item: &Item| match replaced(item) {
            Some(word) => word.to_owned(),
            None => text[item.span.clone()].to_owned(),
        };
        let twin = |other: &Item| {
            other.group == item.group
                && (replaced(other).is_some() || replaced(item).is_some())
                && word(other) == word(item)
        };
        if depend.groups[item.group] == Group::AnyOf && depend.items[..n].iter().any(twin) {
            new.push_str(text[copied..item.span.start].trim_ascii_end());
            copied = item.span.end;
        } else if let Some(word) = replaced(item) {
            new.push_str(&text[copied..item.span.start]);
            new.push_str(word);
            copied = item.span.end;
        }
    }
    new.push_str(&text[copied..]);
    Ok(Some(new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rename(word: &str) -> Option<String> {
        let name = super::super::atom::name_in(word)?;
        matches!(name, "a/old" | "a/older").then(|| word.replacen(name, "a/new", 1))
    }

    #[test]
    fn only_atoms_change() {
        for (text, want) in [
            ("a/old", "a/new"),
            (
                "\t a/x  || ( a/old\n\n!b?  ( >=a/old-1:0= ) )  ",
                "\t a/x  || ( a/new\n\n!b?  ( >=a/new-1:0= ) )  ",
            ),
            (
                "!!<a/old-2 a/old-er a/old[b?,c(-)=]",
                "!!<a/new-2 a/old-er a/new[b?,c(-)=]",
            ),
            ("|| ( a/old a/older a/x )", "|| ( a/new a/x )"),
            ("|| ( a/new  a/old\ta/x )", "|| ( a/new\ta/x )"),
            ("|| ( a/old ( a/older ) )", "|| ( a/new ( a/new ) )"),
            ("|| ( a/x a/x a/old )", "|| ( a/x a/x a/new )"),
            ("a/old a/older", "a/new a/new"),
        ] {
            assert_eq!(rewrite(text, rename), Ok(Some(want.to_owned())), "{text}");
        }
        assert_eq!(rewrite("|| ( a/x ) b? ( c/d )", rename), Ok(None));
    }

    #[test]
    fn what_is_not_closed_stays() {
        for text in [
            "( a/old",
            "a/old )",
            "|| a/old",
            "b? a/old",
            "a/old ||",
            ") a/old (",
        ] {
            assert!(rewrite(text, rename).is_err(), "{text}");
        }
    }

    #[test]
    fn structure() {
        let found = Depend::parse("a/b || ( c/d x? ( e/f ) ) ^^ ( g/h ) ?? ( i/j )").unwrap();
        let of: Vec<_> = found.items.iter().map(|i| found.groups[i.group]).collect();
        let want = [
            Group::All,
            Group::AnyOf,
            Group::All,
            Group::ExactlyOne,
            Group::AtMostOne,
        ];
        assert_eq!(of, want);
    }

    fn string() -> impl Strategy<Value = String> {
        let space = "[ \t\n]{1,3}";
        let atom = prop::sample::select(vec![
            "a/old",
            ">=a/old-1:0=",
            "a/older[x?]",
            "a/oldest",
            "!!a/old",
            "b/c",
            "=b/old-1*",
        ]);
        let leaf = (atom, space).prop_map(|(atom, space)| format!("{atom}{space}"));
        leaf.prop_recursive(4, 32, 4, move |inner| {
            let opening = prop::sample::select(vec!["", "x? ", "!x?\t", "?? ", "^^ ", "|| "]);
            (opening, prop::collection::vec(inner, 1..4), space).prop_map(
                |(opening, inner, space)| format!("{opening}({space}{}){space}", inner.concat()),
            )
        })
    }

    proptest! {
        #[test]
        fn all_else_stays_byte_by_byte(text in string()) {
            let mark = |word: &str| rename(word).map(|_| "\u{1}".to_owned() + word);
            let Some(marked) = rewrite(&text, mark).unwrap() else {
                prop_assert!(!text.contains("a/old ") && !text.contains("a/old\n"));
                return Ok(());
            };
            // Without a `||` group nothing is left out.
            if !text.contains("||") {
                prop_assert_eq!(marked.replace('\u{1}', ""), text.clone());
            }
            let new = rewrite(&text, rename).unwrap().unwrap();
            let rest = |text: &str| text.split_ascii_whitespace()
                .filter(|w| rename(w).is_none() && name_of(w) != Some("a/new"))
                .map(str::to_owned).collect::<Vec<_>>();
            prop_assert_eq!(rest(&new), rest(&text));
            prop_assert_eq!(rewrite(&new, rename), Ok(None));
        }

        #[test]
        fn any_text_is_survived(text in "\\PC{0,40}|[a/old()|?! \n]{0,40}") {
            let _ = Depend::parse(&text);
            let _ = rewrite(&text, rename);
        }
    }

    fn name_of(word: &str) -> Option<&str> {
        super::super::atom::name_in(word)
    }
}
