//! Names and versions of packages: PMS 3.1.2 (names), 3.2 (syntax), 3.3 (order).

use std::cmp::Ordering;

/// A run of digits, compared as an integer of any length: how many digits are left
/// without the leading zeros, then the digits.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Number<'a>(usize, &'a str);

impl<'a> Number<'a> {
    fn new(digits: &'a str) -> Self {
        let digits = digits.trim_start_matches('0');
        Number(digits.len(), digits)
    }
}

/// A numeric component after the first (PMS algorithm 3.3). One with a leading zero is
/// compared as a fraction; it is always less than one without, so the derived order of
/// the variants holds between the two.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Component<'a> {
    Fraction(&'a str),
    Integer(Number<'a>),
}

/// A suffix in the order of PMS 3.3; `End` closes the list, so that a missing suffix is
/// more than `_rc` and less than `_p`.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Suffix<'a> {
    Alpha(Number<'a>),
    Beta(Number<'a>),
    Pre(Number<'a>),
    Rc(Number<'a>),
    End,
    P(Number<'a>),
}

/// A version whose derived order is that of PMS 3.3.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a> {
    first: Number<'a>,
    rest: Vec<Component<'a>>,
    letter: Option<u8>,
    suffixes: Vec<Suffix<'a>>,
    revision: Number<'a>,
}

fn all_digits(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && all_digits(text)).then_some(text)
}

impl<'a> Key<'a> {
    fn parse(version: &'a str) -> Option<Self> {
        let (main, revision) = match version.rsplit_once("-r") {
            Some((main, revision)) => (main, digits(revision)?),
            None => (version, ""),
        };
        let mut parts = main.split('_');
        let numbers = parts.next()?;
        let (numbers, letter) = match numbers.as_bytes().last()? {
            last if last.is_ascii_lowercase() => (&numbers[..numbers.len() - 1], Some(*last)),
            _ => (numbers, None),
        };
        let mut numbers = numbers.split('.');
        let first = Number::new(digits(numbers.next()?)?);
        let rest = numbers
            .map(|n| {
                Some(match digits(n)? {
                    n if n.starts_with('0') => Component::Fraction(n.trim_end_matches('0')),
                    n => Component::Integer(Number::new(n)),
                })
            })
            .collect::<Option<_>>()?;
        let mut suffixes = parts.map(suffix).collect::<Option<Vec<_>>>()?;
        suffixes.push(Suffix::End);
        Some(Key {
            first,
            rest,
            letter,
            suffixes,
            revision: Number::new(revision),
        })
    }
}

fn suffix(text: &str) -> Option<Suffix<'_>> {
    let name = text.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = Number::new(&text[name.len()..]);
    Some(match name {
        "alpha" => Suffix::Alpha(number),
        "beta" => Suffix::Beta(number),
        "pre" => Suffix::Pre(number),
        "rc" => Suffix::Rc(number),
        "p" => Suffix::P(number),
        _ => return None,
    })
}

/// Is this a version with an optional revision (PMS 3.2)?
#[must_use]
pub fn is_version(text: &str) -> bool {
    Key::parse(text).is_some()
}

/// Compare two versions with their revisions (PMS 3.3).
///
/// `Equal` does not mean the same text: `1.0` equals `1.0-r0`. What is no version is less
/// than every version and in the order of its bytes, so that any list can be sorted.
#[must_use]
pub fn version_cmp(a: &str, b: &str) -> Ordering {
    match (Key::parse(a), Key::parse(b)) {
        (None, None) => a.cmp(b),
        (a, b) => a.cmp(&b),
    }
}

/// A category or package name (PMS 3.1.1, 3.1.2), without the rule about its end.
fn is_name(text: &str, dots: bool) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.bytes().next().is_some_and(allowed)
        && text
            .bytes()
            .all(|b| allowed(b) || b == b'+' || b == b'-' || (dots && b == b'.'))
}

/// Is this the name of a category (PMS 3.1.1)?
#[must_use]
pub fn is_category(text: &str) -> bool {
    is_name(text, true)
}

/// `version` cut off the end of `name-version[-rN]`.
fn cut(pf: &str) -> Option<(&str, &str)> {
    let (left, right) = pf.rsplit_once('-')?;
    let at = match right.strip_prefix('r').and_then(digits) {
        Some(_) => left.rfind('-')?,
        None => left.len(),
    };
    let (name, version) = (&pf[..at], &pf[at + 1..]);
    is_version(version).then_some((name, version))
}

/// Split `name-version[-rN]` into name and version with revision.
///
/// `None` unless both are valid; a name may not end in something that is itself a version
/// (PMS 3.1.2), therefore there is at most one way to split.
#[must_use]
pub fn split_pf(pf: &str) -> Option<(&str, &str)> {
    let (name, version) = cut(pf)?;
    (is_name(name, false) && cut(name).is_none()).then_some((name, version))
}

/// Split `category/name-version[-rN]` into its three parts.
#[must_use]
pub fn split_cpv(cpv: &str) -> Option<(&str, &str, &str)> {
    let (category, pf) = cpv.split_once('/')?;
    let (name, version) = split_pf(pf)?;
    is_category(category).then_some((category, name, version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn compares_as_portage_does() {
        // Made by running Portage's own vercmp; the first line of the file says so.
        let data = include_str!("../tests/data/versions.txt");
        for line in data.lines().filter(|l| !l.starts_with('#')) {
            let mut words = line.split(' ');
            let (a, rel, b) = (
                words.next().unwrap(),
                words.next().unwrap(),
                words.next().unwrap(),
            );
            let want = match rel {
                "<" => Ordering::Less,
                "=" => Ordering::Equal,
                _ => Ordering::Greater,
            };
            assert_eq!(version_cmp(a, b), want, "{line}");
            assert_eq!(version_cmp(b, a), want.reverse(), "{line}");
        }
    }

    /// The vectors of Portage's own test_vercmp.py, smaller one first.
    #[test]
    fn known_vectors() {
        for (a, b) in [
            ("5.0", "6.0"),
            ("5", "5.0"),
            ("1.0-r0", "1.0-r1"),
            ("1.0", "1.0-r1"),
            (
                "999999999999999999999999999998",
                "999999999999999999999999999999",
            ),
            ("1.0", "1.0.0"),
            ("1.0b", "1.0.0"),
            ("1", "1b"),
            ("1_p1", "1b_p1"),
            ("1.1", "1.1b"),
            ("12.2b", "12.2.5"),
            ("1.0_pre2", "1.0_p2"),
            ("1.0_alpha2", "1.0_p2"),
            ("1.0_alpha1", "1.0_beta1"),
            ("1.0_beta3", "1.0_rc3"),
            ("1.0_alpha", "1.0_pre"),
            ("1.001000000000000000001", "1.001000000000000000002"),
            ("1.00100000000", "1.0010000000000000001"),
            ("1.01", "1.1"),
            ("1_rc", "1"),
            ("1", "1_p"),
            ("1_p0_alpha", "1_p0"),
            ("not a version", "0_alpha"),
        ] {
            assert_eq!(version_cmp(a, b), Ordering::Less, "{a} {b}");
            assert_eq!(version_cmp(b, a), Ordering::Greater, "{b} {a}");
        }
        for (a, b) in [("1.0-r0", "1.0"), ("1_p", "1_p0"), ("1-r1", "1-r01")] {
            assert_eq!(version_cmp(a, b), Ordering::Equal, "{a} {b}");
        }
    }

    #[test]
    fn splits_as_portage_does() {
        for (pf, want) in [
            ("gtk+-2.24.33-r3", Some(("gtk+", "2.24.33-r3"))),
            ("foo-1-2", None),
            ("foo-1-r1-2", None),
            (
                "font-adobe-100dpi-1.0.4",
                Some(("font-adobe-100dpi", "1.0.4")),
            ),
            ("a-2b-1", None),
            ("foo-1-r1", Some(("foo", "1-r1"))),
            ("foo-r1-1", Some(("foo-r1", "1"))),
            ("foo-r1", None),
            ("foo-bar", None),
            ("libstdc++-v3-3.3.6", Some(("libstdc++-v3", "3.3.6"))),
            ("-a-1", None),
            ("foo-1.0_p", Some(("foo", "1.0_p"))),
            (
                "foo-1.0_alpha_beta2-r0",
                Some(("foo", "1.0_alpha_beta2-r0")),
            ),
            ("foo-1.", None),
            ("foo-1A", None),
            ("foo-1_", None),
            ("x-1_foo", None),
            ("_a-1", Some(("_a", "1"))),
            ("7zip-24.09", Some(("7zip", "24.09"))),
            ("a--1", Some(("a-", "1"))),
            ("a+--1", Some(("a+-", "1"))),
            ("foo-1-r", None),
            ("foo-1-r1-r2", None),
            ("a-b-1c-d-1", Some(("a-b-1c-d", "1"))),
            ("a.b-1", None),
            ("foo-1\u{e9}", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(split_pf(pf), want, "{pf}");
        }
        assert_eq!(
            split_cpv("sys-apps/portage-3.0.83"),
            Some(("sys-apps", "portage", "3.0.83"))
        );
        assert_eq!(split_cpv("sys/apps/portage-3"), None);
        assert_eq!(split_cpv("-MERGING-/portage-3"), None);
    }

    fn version() -> impl Strategy<Value = String> {
        // Few values, so that equal and nearly equal versions are frequent.
        let number = "0{0,2}(0|1|2|9|10|11)";
        (
            number,
            prop::collection::vec(number, 0..3),
            "[ab]{0,1}",
            "(_(alpha|beta|pre|rc|p)[012]{0,2}){0,2}",
            "(-r[012]{1,2})?",
        )
            .prop_map(|(first, rest, letter, suffixes, revision)| {
                let rest: String = rest.iter().map(|n| format!(".{n}")).collect();
                format!("{first}{rest}{letter}{suffixes}{revision}")
            })
    }

    proptest! {
        #[test]
        fn order_is_total(a in version(), b in version(), c in version()) {
            prop_assert!(is_version(&a));
            prop_assert_eq!(version_cmp(&a, &a), Ordering::Equal);
            prop_assert_eq!(version_cmp(&a, &b), version_cmp(&b, &a).reverse());
            let mut three = [a, b, c];
            three.sort_by(|x, y| version_cmp(x, y));
            prop_assert_ne!(version_cmp(&three[0], &three[2]), Ordering::Greater);
        }

        #[test]
        fn split_undoes_join(name in "[a-z0-9_][a-z0-9_+-]{0,8}", version in version()) {
            let pf = format!("{name}-{version}");
            if cut(&name).is_none() {
                prop_assert_eq!(split_pf(&pf), Some((name.as_str(), version.as_str())));
            } else {
                prop_assert_eq!(split_pf(&pf), None);
            }
        }

        #[test]
        fn any_text_is_survived(pf in "\\PC{0,20}|[a-z0-9_.r-]{0,20}") {
            if let Some((name, version)) = split_pf(&pf) {
                prop_assert_eq!(format!("{name}-{version}"), pf);
            }
        }
    }
}
