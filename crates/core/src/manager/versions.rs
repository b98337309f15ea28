//! The order of versions, as package managers define it.

use std::cmp::Ordering;

use serde::Deserialize;

/// How versions are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// deb-version(7).
    Debian,
    /// rpm-version(7), which pacman's vercmp(8) follows.
    Rpm,
}

impl Order {
    /// The function that compares two versions.
    pub fn function(self) -> be_portage::diff::Order {
        match self {
            Self::Debian => debian,
            Self::Rpm => rpm,
        }
    }
}

/// `epoch:version-release`; what is missing is 0 and nothing.
fn parts(version: &str) -> (u64, &str, Option<&str>) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    let (version, release) = match rest.rsplit_once('-') {
        Some((version, release)) => (version, Some(release)),
        None => (rest, None),
    };
    (epoch.parse().unwrap_or(0), version, release)
}

/// Takes the leading characters that `wanted` holds for off a text.
fn take<'a>(text: &mut &'a str, wanted: impl Fn(char) -> bool) -> &'a str {
    let end = text.find(|c| !wanted(c)).unwrap_or(text.len());
    let (head, rest) = text.split_at(end);
    *text = rest;
    head
}

/// Numbers of any length.
fn numbers(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit()
}

fn debian(a: &str, b: &str) -> Ordering {
    let (a, b) = (parts(a), parts(b));
    a.0.cmp(&b.0)
        .then_with(|| debian_part(a.1, b.1))
        .then_with(|| debian_part(a.2.unwrap_or_default(), b.2.unwrap_or_default()))
}

fn debian_part(mut a: &str, mut b: &str) -> Ordering {
    // The tilde sorts before the end, letters before all else.
    let weight = |c: Option<char>| match c {
        Some('~') => -1,
        None => 0,
        Some(c) if c.is_ascii_alphabetic() => i64::from(u32::from(c)),
        Some(c) => i64::from(u32::from(c)) + 256,
    };
    while !a.is_empty() || !b.is_empty() {
        let (one, other) = (
            take(&mut a, |c| !is_digit(c)),
            take(&mut b, |c| !is_digit(c)),
        );
        let (mut left, mut right) = (one.chars(), other.chars());
        for _ in 0..one.len().max(other.len()) {
            let found = weight(left.next()).cmp(&weight(right.next()));
            if found.is_ne() {
                return found;
            }
        }
        let found = numbers(take(&mut a, is_digit), take(&mut b, is_digit));
        if found.is_ne() {
            return found;
        }
    }
    Ordering::Equal
}

fn rpm(a: &str, b: &str) -> Ordering {
    let (a, b) = (parts(a), parts(b));
    let release = |a: Option<&str>, b: Option<&str>| match (a, b) {
        (Some(a), Some(b)) => rpm_part(a, b),
        _ => Ordering::Equal,
    };
    a.0.cmp(&b.0)
        .then_with(|| rpm_part(a.1, b.1))
        .then_with(|| release(a.2, b.2))
}

/// As rpmvercmp() does.
fn rpm_part(mut a: &str, mut b: &str) -> Ordering {
    let separates = |c: char| !c.is_ascii_alphanumeric() && c != '~' && c != '^';
    loop {
        take(&mut a, separates);
        take(&mut b, separates);
        for (mark, with) in [('~', Ordering::Less), ('^', Ordering::Greater)] {
            match (a.strip_prefix(mark), b.strip_prefix(mark)) {
                (Some(rest), Some(other)) => (a, b) = (rest, other),
                // The caret is more than the end, and less than all else.
                (Some(_), None) if mark == '^' && !b.is_empty() => return Ordering::Less,
                (None, Some(_)) if mark == '^' && !a.is_empty() => return Ordering::Greater,
                (Some(_), None) => return with,
                (None, Some(_)) => return with.reverse(),
                (None, None) => {}
            }
        }
        if a.is_empty() || b.is_empty() {
            return a.len().min(1).cmp(&b.len().min(1));
        }
        let number = a.starts_with(is_digit);
        if number != b.starts_with(is_digit) {
            // A number is newer than letters.
            return if number {
                Ordering::Greater
            } else {
                Ordering::Less
            };
        }
        let found = match number {
            true => numbers(take(&mut a, is_digit), take(&mut b, is_digit)),
            false => {
                let letter = |c: char| c.is_ascii_alphabetic();
                take(&mut a, letter).cmp(take(&mut b, letter))
            }
        };
        if found.is_ne() {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ascend(order: Order, versions: &[&str]) {
        for pair in versions.windows(2) {
            let (a, b) = (pair[0], pair[1]);
            let compare = order.function();
            assert_eq!(compare(a, b), Ordering::Less, "{a} < {b}");
            assert_eq!(compare(b, a), Ordering::Greater, "{b} > {a}");
            assert_eq!(compare(a, a), Ordering::Equal, "{a}");
        }
    }

    #[test]
    fn versions_of_debian() {
        ascend(
            Order::Debian,
            &[
                "1.0~beta1~svn1245-1",
                "1.0~beta1-1",
                "1.0-1~bpo12+1",
                "1.0-1",
                "1.0-1+deb12u1",
                "1.0-1.1",
                "1.0a-1",
                "1.0+b-1",
                "1.2-1",
                "1.10-1",
                "1:0.1-1",
            ],
        );
        assert_eq!(debian("1.0", "1.0-0"), Ordering::Equal);
        assert_eq!(debian("0:1.00-1", "1.0-1"), Ordering::Equal);
    }

    #[test]
    fn versions_of_rpm_and_pacman() {
        ascend(
            Order::Rpm,
            &[
                "1.0~rc1-1",
                "1.0-1",
                "1.0-2",
                "1.0^git1-1",
                "1.0.a-1",
                "1.0.1-1",
                "1.2-1",
                "1.10-1",
                "1:0.1-1",
            ],
        );
        assert_eq!(rpm("1.0", "1.0-5"), Ordering::Equal);
        assert_eq!(rpm("1_0", "1.0"), Ordering::Equal);
    }
}
