//! `[build]`: how packages are built for other machines.

use std::time::Duration;

use serde::Deserialize;

/// How `be build` works, and where it puts what it has built.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Build {
    /// The directory that is served, in the running system.
    pub packages: String,
    /// The GPG key that packages are signed with, as gpg names it; not signed if empty.
    pub sign: String,
    /// The directory of gpg with the secret key, in the running system.
    pub gpg_home: String,
    /// Who gets a mail when an unattended build has failed; nobody if empty.
    pub mail: String,
    /// How long a build that failed is kept for a person; the next one takes its place then.
    pub hold: Span,
    /// How long `--due` waits after a build that ended well.
    pub every: Span,
}

impl Default for Build {
    fn default() -> Self {
        Self {
            packages: "/var/cache/be/binhost".to_owned(),
            sign: String::new(),
            gpg_home: "/root/.gnupg".to_owned(),
            mail: String::new(),
            hold: Span::days(7),
            every: Span::days(1),
        }
    }
}

/// A time, written as a number with `m`, `h` or `d` for minutes, hours or days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(Duration);

impl Span {
    /// So many days.
    pub const fn days(days: u64) -> Self {
        Self(Duration::from_secs(days * 86_400))
    }

    /// How long it is.
    pub fn duration(self) -> Duration {
        self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let unit = text.chars().last()?;
        let seconds = match unit {
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return None,
        };
        let number = &text[..text.len() - 1];
        // More than a century is a mistake, and more than some clocks can add.
        let number = number.parse::<u64>().ok().filter(|n| *n <= 36_500)?;
        Some(Self(Duration::from_secs(number * seconds)))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Span::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "{text:?} is no time: a number with m, h or d, such as \"7d\""
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        let span = |text: &str| Span::parse(text).map(|span| span.duration().as_secs());
        assert_eq!(span("7d"), Some(7 * 86_400));
        assert_eq!(span("0m"), Some(0));
        assert_eq!(span("12h"), Some(43_200));
        for bad in ["", "d", "7", "7w", "-1d", "1.5d", "7 d", "99999999d", "7é"] {
            assert_eq!(span(bad), None, "{bad}");
        }
        let error = crate::config::Config::parse("[build]\nhold = \"7\"\n").unwrap_err();
        assert!(error.contains("line 2") && error.contains("7d"), "{error}");
    }
}
