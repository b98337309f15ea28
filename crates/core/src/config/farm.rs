//! `[farm]`: the engines that make compiling faster, where an environment is built.

use std::fmt;

use serde::Deserialize;
use serde::de::{Error, Visitor};

/// Which of them are used; all are off by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Farm {
    /// ccache, and the directory of its cache in the running system.
    #[serde(deserialize_with = "cache")]
    pub ccache: Wanted,
    /// sccache for Rust, and the directory of its cache in the running system.
    #[serde(deserialize_with = "cache")]
    pub sccache: Wanted,
    /// distcc, and its hosts as in DISTCC_HOSTS of distcc(1).
    pub distcc: Wanted,
    /// icecream, by the daemon of the running system.
    pub icecream: bool,
}

/// An engine: `false`, `true`, or a text that says more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Wanted {
    /// It is not used.
    #[default]
    Off,
    /// It is used as it is set up.
    On,
    /// It is used with this.
    With(String),
}

impl Wanted {
    /// Whether it is used.
    pub fn is_on(&self) -> bool {
        *self != Wanted::Off
    }

    /// What it is used with, if that was said.
    pub fn with(&self) -> Option<&str> {
        match self {
            Wanted::With(text) => Some(text),
            Wanted::Off | Wanted::On => None,
        }
    }
}

impl<'de> Deserialize<'de> for Wanted {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(OnOrText)
    }
}

struct OnOrText;

impl Visitor<'_> for OnOrText {
    type Value = Wanted;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true, false or a text")
    }

    fn visit_bool<E: Error>(self, on: bool) -> Result<Wanted, E> {
        Ok(if on { Wanted::On } else { Wanted::Off })
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Wanted, E> {
        match text.trim() {
            "" => Err(E::custom("an empty text says nothing: true or false")),
            text => Ok(Wanted::With(text.to_owned())),
        }
    }
}

fn cache<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Wanted, D::Error> {
    let engine = Wanted::deserialize(from)?;
    match engine.with() {
        Some(path) if !path.starts_with('/') || path.trim_matches('/').is_empty() => {
            let why = format!("{path:?} is not the absolute path of a directory");
            Err(D::Error::custom(why))
        }
        _ => Ok(engine),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn an_engine_is_off_on_or_says_more() {
        let text = "[farm]\nccache = \"/srv/ccache\"\ndistcc = \"one/8 two,lzo\"\nsccache = true\n";
        let farm = Config::parse(text).unwrap().farm;
        assert_eq!(farm.ccache.with(), Some("/srv/ccache"));
        assert_eq!(farm.distcc, Wanted::With("one/8 two,lzo".into()));
        assert_eq!(farm.sccache, Wanted::On);
        assert!(!farm.icecream);
        assert_eq!(Config::parse("[farm]\nccache = false\n"), Config::parse(""));
    }

    #[test]
    fn what_is_no_engine_names_its_line() {
        for bad in [
            "ccache = \"cache\"",
            "sccache = \"/\"",
            "distcc = \"\"",
            "distcc = 3",
            "icecream = \"host\"",
            "goma = true",
        ] {
            let error = Config::parse(&format!("[farm]\n\n{bad}\n")).unwrap_err();
            assert!(error.contains("line 3"), "{error}");
        }
    }
}
