//! Bringing the repositories of the clone up to date: a mirror that is down, or behind, costs
//! nothing but the try.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use be_portage::emerge::{self, Emerge};
use chrono::DateTime;

use super::Work;
use super::inputs::locations;
use crate::observe::MAX_TEXT;

/// What the repositories could not be brought to. Nothing was merged yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncFailed(pub String);

impl fmt::Display for SyncFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SyncFailed {}

/// When the repositories were made, in seconds since 1970, by where they are.
type Ages = BTreeMap<PathBuf, i64>;

impl Work<'_> {
    pub(super) fn sync(&mut self) -> Result<()> {
        let before = self.ages()?;
        let code = self.emerge(&emerge::sync(), |_| ())?;
        if code != 0 {
            let why =
                format!("the repositories could not be synchronised (emerge --sync: exit {code})");
            return Err(SyncFailed(why).into());
        }
        match behind(&before, &self.ages()?) {
            Some(why) => Err(SyncFailed(why).into()),
            None => Ok(()),
        }
    }

    /// By the time stamp that comes with rsync, or the commit.
    fn ages(&mut self) -> Result<Ages> {
        let root = self.root()?;
        let mut ages = Ages::new();
        for path in locations(&root)? {
            let stamp = root.read_to_string(path.join("metadata/timestamp.chk"), MAX_TEXT);
            let stamp = stamp.ok().and_then(|text| made(&text));
            let age = match stamp {
                None if root.is_dir(path.join(".git")).unwrap_or(false) => self.commit(&path)?,
                stamp => stamp,
            };
            ages.extend(age.map(|age| (path, age)));
        }
        Ok(ages)
    }

    /// The time of the commit that is checked out; none where git does not tell.
    fn commit(&mut self, path: &Path) -> Result<Option<i64>> {
        let place = Path::new("/").join(path);
        let args = ["git", "-C"].map(str::to_owned).into_iter();
        let args = args.chain([place.display().to_string()]);
        // Portage lets a repository belong to another user than root.
        let rest = ["-c", "safe.directory=*", "log", "-1", "--format=%ct"];
        let command = Emerge {
            args: args.chain(rest.map(str::to_owned)).collect(),
            env: Vec::new(),
        };
        let from = self.log_length()?;
        let code = self.emerge(&command, |_| ())?;
        let told = self.log_since(from)?;
        let last = told.lines().last().unwrap_or_default();
        Ok((code == 0).then(|| last.trim().parse().ok()).flatten())
    }
}

/// The time in metadata/timestamp.chk, as `date --rfc-2822` prints it.
fn made(text: &str) -> Option<i64> {
    let time = DateTime::parse_from_rfc2822(text.trim()).ok()?;
    Some(time.timestamp())
}

/// Which repository is older than it was, and by how much.
fn behind(before: &Ages, after: &Ages) -> Option<String> {
    let day = |time: i64| {
        let time = DateTime::from_timestamp(time, 0).unwrap_or_default();
        time.format("%Y-%m-%d %H:%M UTC").to_string()
    };
    after.iter().find_map(|(path, now)| {
        let was = before.get(path).filter(|was| now < was)?;
        Some(format!(
            "the mirror of /{} is behind: it has the state of {}, the running system that of {}",
            path.display(),
            day(*now),
            day(*was)
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_that_is_behind_is_named_and_a_new_repository_is_none() {
        let then = made("Fri, 27 Nov 2026 10:00:00 +0000\n").unwrap();
        assert_eq!(then, 1_795_773_600);
        assert_eq!(made("yesterday"), None);
        let ages = |all: &[(&str, i64)]| -> Ages {
            all.iter().map(|(path, age)| (path.into(), *age)).collect()
        };
        let before = ages(&[("var/db/repos/gentoo", then), ("srv/x", 1)]);
        let after = ages(&[("var/db/repos/gentoo", then), ("srv/new", 0)]);
        assert_eq!(behind(&before, &after), None);
        let after = ages(&[("var/db/repos/gentoo", then - 86_400)]);
        let why = behind(&before, &after).unwrap();
        assert!(
            why.contains("/var/db/repos/gentoo") && why.contains("2026-11-26 10:00"),
            "{why}"
        );
    }
}
