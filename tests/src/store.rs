//! What a command that refuses may not change.

use anyhow::Result;
use xtask::fingerprint::Fingerprint;

use crate::be::Outcome;
use crate::system::{NOTHING, System};

impl System {
    /// All that a command may not change when it refuses: the subvolumes, and
    /// every file of the store with its content.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn store(&self) -> Result<StoreState> {
        let store = self.top("@be");
        Ok(StoreState {
            subvolumes: self.subvolumes()?,
            files: match store.exists() {
                true => Some(Fingerprint::of(&store, &[])?),
                false => None,
            },
        })
    }

    /// Checks that a command leaves the store, the running root and the host as
    /// they are, and ends with this code.
    ///
    /// # Errors
    /// The state cannot be read.
    ///
    /// # Panics
    /// Something was changed, or the code is another one.
    #[track_caller]
    pub fn unchanged_by(&self, code: i32, args: &[&str]) -> Result<Outcome> {
        let (store, running, host) = (self.store()?, self.running()?, self.host()?);
        let outcome = self.be.run(args).exits(code);
        assert_eq!(store.diff(&self.store()?), NOTHING, "be {args:?}");
        assert_eq!(running.diff(&self.running()?), NOTHING, "be {args:?}");
        assert_eq!(self.host_changes(&host)?, NOTHING, "be {args:?}");
        Ok(outcome)
    }

    /// The same for a refusal: its one error has all of these words.
    ///
    /// # Errors
    /// The state cannot be read.
    ///
    /// # Panics
    /// As [`System::unchanged_by`], or a word is missing.
    #[track_caller]
    pub fn refuses(&self, code: i32, args: &[&str], words: &[&str]) -> Result<()> {
        let outcome = self.unchanged_by(code, args)?;
        let error = outcome.error();
        for word in words {
            assert!(error.contains(word), "be {args:?}: no {word:?} in {error}");
        }
        Ok(())
    }
}

/// The subvolumes and the files of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreState {
    /// [`System::subvolumes`].
    pub subvolumes: Vec<String>,
    files: Option<Fingerprint>,
}

impl StoreState {
    /// The differences, as seen from this earlier state.
    #[must_use]
    pub fn diff(&self, later: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        let only = |a: &Self, b: &Self, sign: &str| -> Vec<String> {
            let new = a.subvolumes.iter().filter(|s| !b.subvolumes.contains(s));
            new.map(|s| format!("{sign} subvolume {s}")).collect()
        };
        lines.extend(only(self, later, "-"));
        lines.extend(only(later, self, "+"));
        match (&self.files, &later.files) {
            (Some(old), Some(new)) => lines.extend(old.diff(new)),
            (None, None) => {}
            (old, _) => lines.push(format!(
                "the store is {} there",
                if old.is_some() { "no longer" } else { "now" }
            )),
        }
        lines
    }
}
