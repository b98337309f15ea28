//! Sets of versions: what the operator of an atom leaves of them (PMS 8.2.6.1).

use std::cmp::Ordering;

use crate::version::version_cmp;

/// An operator of an atom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `=`
    Equal,
    /// `=` with `*` behind the version.
    Prefix,
    /// `~`
    AnyRevision,
    /// `>=`
    GreaterOrEqual,
    /// `>`
    Greater,
}

impl Operator {
    /// What stands before the name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Operator::Less => "<",
            Operator::LessOrEqual => "<=",
            Operator::Equal | Operator::Prefix => "=",
            Operator::AnyRevision => "~",
            Operator::GreaterOrEqual => ">=",
            Operator::Greater => ">",
        }
    }
}

/// The versions that an atom leaves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Versions {
    /// All of them.
    All,
    /// Those that compare so with this one, which is valid.
    Compared(Operator, String),
}

impl Versions {
    /// Is this version one of them?
    #[must_use]
    pub fn contain(&self, version: &str) -> bool {
        let Versions::Compared(operator, bound) = self else {
            return true;
        };
        let order = version_cmp(version, bound);
        match operator {
            Operator::Less => order.is_lt(),
            Operator::LessOrEqual => order.is_le(),
            Operator::Equal => order.is_eq(),
            Operator::GreaterOrEqual => order.is_ge(),
            Operator::Greater => order.is_gt(),
            Operator::AnyRevision => version_cmp(base(version), base(bound)).is_eq(),
            Operator::Prefix => begins_with(version, bound),
        }
    }

    /// Are all of these among the others, whichever versions there may ever be?
    ///
    /// A wrong "no" is possible in odd cases; a wrong "yes" only of a version with needless
    /// zeros behind a suffix, `_p01`.
    #[must_use]
    pub fn within(&self, others: &Self) -> bool {
        let Versions::Compared(outer, limit) = others else {
            return true;
        };
        let Versions::Compared(inner, bound) = self else {
            return false;
        };
        match inner {
            Operator::Equal => equal_within(bound, *outer, limit),
            Operator::AnyRevision => any_revision_within(bound, *outer, limit),
            Operator::Prefix => prefix_within(bound, *outer, limit),
            half_line => half_line_within(*half_line, bound, *outer, limit),
        }
    }
}

/// Without the revision.
fn base(version: &str) -> &str {
    version.rsplit_once("-r").map_or(version, |(base, _)| base)
}

/// Does it consist of the components of the prefix and perhaps more? As in Portage's
/// `match_from_list`, this is a comparison of text, but for leading zeros.
fn begins_with(version: &str, prefix: &str) -> bool {
    let (version, prefix) = (unpadded(version), unpadded(prefix));
    let Some(rest) = version.strip_prefix(prefix) else {
        return false;
    };
    let (Some(last), Some(next)) = (prefix.bytes().last(), rest.bytes().next()) else {
        return true;
    };
    matches!(next, b'.' | b'_' | b'-') || last.is_ascii_digit() != next.is_ascii_digit()
}

/// Without leading zeros, but for a last one.
fn unpadded(version: &str) -> &str {
    let mut rest = version;
    while let Some(shorter) = rest.strip_prefix('0')
        && shorter.bytes().next().is_some_and(|b| b.is_ascii_digit())
    {
        rest = shorter;
    }
    rest
}

/// `1.0` and `1.0-r0` are equal, and differ as text: a prefix may have only one of them.
fn equal_within(bound: &str, outer: Operator, limit: &str) -> bool {
    match outer {
        Operator::Prefix => limit == base(limit) && plain_within_prefix(bound, limit),
        _ => Versions::Compared(outer, limit.to_owned()).contain(bound),
    }
}

/// Versions that compare as equal may be written in several ways (`1.01` and `1.010`, `_p`
/// and `_p0`); what has none of these is in the set in any spelling, if it is in one.
fn plain_within_prefix(bound: &str, limit: &str) -> bool {
    is_plain(base(bound)) && begins_with(base(bound), limit)
}

/// Has it only one spelling: digits without leading or, after a dot, closing zeros, and
/// numbers behind every suffix.
fn is_plain(version: &str) -> bool {
    let spelled_once = |number: &str| number == "0" || !number.starts_with('0');
    let mut parts = version.split('_');
    let numbers = parts.next().unwrap_or_default();
    let numbers = numbers.trim_end_matches(|c: char| c.is_ascii_lowercase());
    numbers.split('.').all(spelled_once)
        && parts.all(|suffix| {
            let number = suffix.trim_start_matches(|c: char| c.is_ascii_lowercase());
            number.bytes().next().is_some_and(|b| b != b'0')
        })
}

fn any_revision_within(bound: &str, outer: Operator, limit: &str) -> bool {
    let order = version_cmp(base(bound), base(limit));
    match outer {
        Operator::Less | Operator::LessOrEqual => order.is_lt(),
        Operator::Greater => version_cmp(base(bound), limit).is_gt(),
        Operator::GreaterOrEqual => version_cmp(base(bound), limit).is_ge(),
        Operator::AnyRevision => order.is_eq(),
        Operator::Prefix => limit == base(limit) && plain_within_prefix(bound, limit),
        Operator::Equal => false,
    }
}

/// All versions with a prefix stand next to each other: those of another version, if it is
/// none of them, all lie on one side of it.
fn prefix_within(bound: &str, outer: Operator, limit: &str) -> bool {
    if outer == Operator::Prefix {
        return begins_with(bound, limit);
    }
    let order = version_cmp(base(bound), base(limit));
    let apart = order != Ordering::Equal
        && is_plain(base(bound))
        && is_plain(base(limit))
        && !begins_with(limit, bound);
    match outer {
        Operator::Less | Operator::LessOrEqual => apart && order.is_lt(),
        Operator::Greater | Operator::GreaterOrEqual => apart && order.is_gt(),
        _ => false,
    }
}

fn half_line_within(inner: Operator, bound: &str, outer: Operator, limit: &str) -> bool {
    let order = version_cmp(bound, limit);
    match (inner, outer) {
        (Operator::Less, Operator::Less | Operator::LessOrEqual)
        | (Operator::LessOrEqual, Operator::LessOrEqual) => order.is_le(),
        (Operator::LessOrEqual, Operator::Less) => order.is_lt(),
        (Operator::Greater, Operator::Greater | Operator::GreaterOrEqual)
        | (Operator::GreaterOrEqual, Operator::GreaterOrEqual) => order.is_ge(),
        (Operator::GreaterOrEqual, Operator::Greater) => order.is_gt(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(text: &str) -> Versions {
        if text == "*" {
            return Versions::All;
        }
        let operator = match text.as_bytes() {
            [b'=', .., b'*'] => Operator::Prefix,
            [b'=', ..] => Operator::Equal,
            [b'~', ..] => Operator::AnyRevision,
            [b'<', b'=', ..] => Operator::LessOrEqual,
            [b'<', ..] => Operator::Less,
            [b'>', b'=', ..] => Operator::GreaterOrEqual,
            _ => Operator::Greater,
        };
        let version = text.trim_start_matches(['<', '=', '>', '~']);
        Versions::Compared(operator, version.trim_end_matches('*').to_owned())
    }

    #[test]
    fn contained() {
        for (set, yes, no) in [
            ("*", "1 2-r1", ""),
            ("=2*", "2 2.1 2_rc1 2-r3 2a 02", "20 1 20.1"),
            ("=02*", "2 2.1", "20"),
            ("=1.2_p*", "1.2_p 1.2_p1 1.2_p-r1", "1.2 1.2_pre"),
            ("~2", "2 2-r0 2-r9", "2.0 2_p"),
            ("=2", "2 2-r0", "2-r1 2.0"),
            (">=2", "2 2-r1 2.0", "2_rc1 1.9"),
            (">2", "2-r1 2.0", "2 2-r0"),
            ("<2", "2_rc1 1", "2 2-r1"),
            ("<=2", "2 1", "2-r1"),
        ] {
            for version in yes.split(' ') {
                assert!(versions(set).contain(version), "{set} {version}");
            }
            for version in no.split(' ').filter(|v| crate::version::is_version(v)) {
                assert!(!versions(set).contain(version), "{set} {version}");
            }
        }
    }

    #[test]
    fn within_another() {
        for (inner, outer) in [
            ("=2.1", "=2*"),
            ("~2.1", "=2*"),
            ("=2.1*", "=2*"),
            ("=2-r1", "~2"),
            ("=2-r1", ">=2"),
            (">=2", ">=1"),
            (">2", ">2"),
            (">2", ">=2"),
            (">=2.0", ">2"),
            ("<2", "<=2"),
            ("<=1", "<2"),
            ("~1", "<2"),
            ("=1*", "<2"),
            ("=3*", ">=2"),
            ("=27.1_rc1", "=27.1_rc*"),
            (">=1", "*"),
            ("*", "*"),
        ] {
            assert!(versions(inner).within(&versions(outer)), "{inner} {outer}");
        }
        for (inner, outer) in [
            (">=1", "=2*"),
            ("*", "=2*"),
            ("*", ">=0"),
            ("~2", "=2"),
            ("=2*", ">=2"),
            ("=2*", "~2"),
            ("~2", "<=2"),
            (">=2", ">2"),
            (">1", "<9"),
            ("=20", "=2*"),
        ] {
            assert!(!versions(inner).within(&versions(outer)), "{inner} {outer}");
        }
    }

    /// Made by running Portage's own `match_from_list`; the first line of the file says so.
    const DATA: &str = include_str!("../../tests/data/ranges.txt");

    /// The sets of the file, each with the versions in it.
    fn sets() -> Vec<(Versions, Vec<&'static str>)> {
        let lines = DATA.lines().skip(1).map(|line| {
            let (set, in_it) = line.split_once(' ').unwrap();
            (versions(set), in_it.split_ascii_whitespace().collect())
        });
        lines.collect()
    }

    #[test]
    fn contain_what_portage_finds_in_them() {
        let all = DATA.lines().next().unwrap().split(' ');
        let all = all.take_while(|word| *word != "that");
        let all: Vec<&str> = all.filter(|v| crate::version::is_version(v)).collect();
        for (set, in_it) in sets() {
            let contained = all.iter().filter(|v| set.contain(v));
            assert_eq!(contained.copied().collect::<Vec<_>>(), in_it, "{set:?}");
        }
    }

    #[test]
    fn what_is_within_another_has_nothing_else() {
        let sets = sets();
        let mut count = 0;
        for (inner, in_it) in &sets {
            for (outer, in_outer) in &sets {
                if inner.within(outer) {
                    count += 1;
                    let alien = in_it.iter().find(|v| !in_outer.contains(v));
                    assert_eq!(alien, None, "{inner:?} {outer:?}");
                }
            }
        }
        assert!(count > 4000, "{count}");
    }
}
