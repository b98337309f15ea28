//! Users and groups of an environment, as it knows them: passwd(5) and group(5).

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use be_btrfs::Root;

use super::Account;
use crate::observe::MAX_TEXT;

/// Those of one file.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    numbers: BTreeMap<String, u32>,
    names: BTreeMap<u32, String>,
}

/// Users, and groups.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) users: Accounts,
    pub(super) groups: Accounts,
}

impl Known {
    /// Those of the system with this root.
    ///
    /// # Errors
    /// A file that is there cannot be read.
    pub(super) fn read(root: &Root) -> Result<Self> {
        let of = |path: &str| match root.read(path, MAX_TEXT) {
            Ok(text) => Ok(Accounts::parse(&String::from_utf8_lossy(&text))),
            Err(e) if e.is_not_found() => Ok(Accounts::default()),
            Err(e) => Err(e).with_context(|| format!("cannot read /{path}")),
        };
        Ok(Self {
            users: of("etc/passwd")?,
            groups: of("etc/group")?,
        })
    }
}

impl Accounts {
    /// Both files begin a line with `NAME:PASSWORD:NUMBER`.
    fn parse(text: &str) -> Self {
        let mut all = Self::default();
        for line in text.lines() {
            let mut fields = line.split(':');
            let (name, number) = (fields.next(), fields.nth(1));
            if let (Some(name), Some(Ok(number))) = (name, number.map(str::parse)) {
                // As getpwnam(3) and getpwuid(3) do, the first one counts.
                all.numbers.entry(name.to_owned()).or_insert(number);
                all.names.entry(number).or_insert_with(|| name.to_owned());
            }
        }
        all
    }

    /// The name of this number; none for root, whom all have.
    pub(super) fn name(&self, number: u32) -> Option<Account> {
        let name = self.names.get(&number).cloned();
        let name = name.and_then(|name| name.try_into().ok());
        match number {
            0 => None,
            _ => name.or_else(|| number.to_string().try_into().ok()),
        }
    }

    /// The number of a name; none if it is not known here.
    pub(super) fn number(&self, name: Option<&Account>) -> Option<u32> {
        let Some(name) = name else { return Some(0) };
        let known = self.numbers.get(&**name).copied();
        known.or_else(|| name.parse().ok())
    }
}
