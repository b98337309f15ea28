//! The fields of one installed package, wherever they are kept.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::fstat;

use super::{Package, Place};
use crate::files::{self, Links};
use crate::version::split_pf;

/// The fields that two installations of one version may differ in, and that a build does
/// not. The first is other for every build; Portage's package moves write the next two; the
/// last is for who edits by hand.
const TELLING: [&str; 4] = ["BUILD_TIME", "SLOT", "repository", "USE"];

/// The file `metadata`: `#format=1`, `KEY=VALUE` lines, and last `#dir_mtime=`, the mtime
/// of the package's directory in nanoseconds at which the file was complete and true. It
/// has the fields of `_METADATA_FILE_FIELDS` (`dbapi/vartree.py`), so not SIZE.
struct Metadata {
    text: String,
    dir_mtime: Option<i128>,
}

impl Metadata {
    /// `None` if this is no format that we know.
    fn parse(text: String) -> Option<Self> {
        if text.lines().next()?.strip_prefix("#format=")?.parse() != Ok(1) {
            return None;
        }
        let stamp = text
            .lines()
            .rev()
            .find_map(|l| l.strip_prefix("#dir_mtime="));
        let dir_mtime = stamp.and_then(|time| time.parse().ok());
        Some(Metadata { text, dir_mtime })
    }

    fn get(&self, key: &str) -> Option<&str> {
        let value = |line: &'_ str| Some(line.strip_prefix(key)?.strip_prefix('=')?.len());
        // The last one counts, as in a dictionary that is filled from the beginning.
        let line = self.text.lines().rev().find(|l| value(l).is_some())?;
        line.split_once('=').map(|(_, value)| value)
    }

    /// Without the stamp.
    fn body(&self) -> impl Iterator<Item = &str> {
        self.text.lines().filter(|l| !l.starts_with('#'))
    }
}

struct Fields {
    dir: OwnedFd,
    metadata: Option<Metadata>,
    fresh: bool,
}

impl Fields {
    /// None if the package is not there (any more).
    fn open(db: &OwnedFd, place: &Place) -> io::Result<Option<Self>> {
        let path = Path::new(&place.category).join(&place.pf);
        let Some(dir) = files::subdir(db, &path, Links::No)? else {
            return Ok(None);
        };
        let metadata = file(&dir, "metadata")?.and_then(Metadata::parse);
        let fresh = match metadata.as_ref().and_then(|m| m.dir_mtime) {
            Some(stamp) => {
                let stat = fstat(&dir)?;
                let seconds = i128::from(stat.st_mtime);
                seconds * 1_000_000_000 + i128::from(stat.st_mtime_nsec) == stamp
            }
            None => false,
        };
        Ok(Some(Fields {
            dir,
            metadata,
            fresh,
        }))
    }

    /// A field on one line, or nothing if it is empty. A `metadata` that is not fresh
    /// counts only where the file is missing: it may be the last copy.
    fn get(&self, key: &str) -> io::Result<Option<String>> {
        let kept = || self.metadata.as_ref()?.get(key).map(str::to_owned);
        let value = if self.fresh {
            kept()
        } else {
            file(&self.dir, key)?.or_else(kept)
        };
        Ok(value.and_then(one_line))
    }

    /// A field that `metadata` never has.
    fn get_file(&self, key: &str) -> io::Result<Option<String>> {
        Ok(file(&self.dir, key)?.and_then(one_line))
    }

    fn same(&self, other: &Self) -> io::Result<bool> {
        if let (true, true, Some(a), Some(b)) =
            (self.fresh, other.fresh, &self.metadata, &other.metadata)
            && a.body().eq(b.body())
        {
            return Ok(true);
        }
        for key in TELLING {
            if self.get(key)? != other.get(key)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn one_line(value: String) -> Option<String> {
    let mut words = value.split_ascii_whitespace();
    let mut line = words.next()?.to_owned();
    for word in words {
        line.push(' ');
        line.push_str(word);
    }
    Some(line)
}

fn file(dir: &OwnedFd, name: &str) -> io::Result<Option<String>> {
    let content = files::read(dir, Path::new(name), Links::No)
        .map_err(|e| io::Error::new(e.kind(), format!("{name}: {e}")))?;
    Ok(content.map(|bytes| match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
    }))
}

/// Read one package; none if it was removed since it was listed.
pub(super) fn read(db: &OwnedFd, place: &Place) -> io::Result<Option<Package>> {
    let (Some((name, version)), Some(fields)) = (split_pf(&place.pf), Fields::open(db, place)?)
    else {
        return Ok(None);
    };
    package(place, name, version, &fields).map(Some)
}

/// Read one package and further fields of it; none if it was removed since it was listed.
pub(super) fn read_with(
    db: &OwnedFd,
    place: &Place,
    keys: &[&str],
) -> io::Result<Option<(Package, Vec<Option<String>>)>> {
    let (Some((name, version)), Some(fields)) = (split_pf(&place.pf), Fields::open(db, place)?)
    else {
        return Ok(None);
    };
    let values = keys.iter().map(|key| fields.get(key));
    let values = values.collect::<io::Result<_>>()?;
    Ok(Some((package(place, name, version, &fields)?, values)))
}

fn package(place: &Place, name: &str, version: &str, fields: &Fields) -> io::Result<Package> {
    // Portage takes a package without a valid slot as one in slot 0 (`_pkg_str`).
    let slot = fields.get("SLOT")?.unwrap_or_else(|| "0".to_owned());
    let (slot, subslot) = match slot.split_once('/') {
        Some((slot, subslot)) => (slot.to_owned(), Some(subslot.to_owned())),
        None => (slot, None),
    };
    Ok(Package {
        category: place.category.clone(),
        name: name.to_owned(),
        version: version.to_owned(),
        slot,
        subslot,
        repository: fields.get("repository")?,
        use_flags: use_flags(fields.get("USE")?, fields.get("IUSE")?),
        build_time: number(fields.get("BUILD_TIME")?),
        build_id: number(fields.get("BUILD_ID")?),
        size: number(fields.get_file("SIZE")?),
    })
}

/// Whether the package at this place is the same in both databases, by a few of its fields.
pub(super) fn same(a: &OwnedFd, b: &OwnedFd, place: &Place) -> io::Result<bool> {
    match (Fields::open(a, place)?, Fields::open(b, place)?) {
        (Some(a), Some(b)) => a.same(&b),
        _ => Ok(false),
    }
}

/// Whether the same is known without reading: in both directories of its category, the
/// files with these fields are the ones that were there before the databases `parted`.
pub(super) fn untouched(a: &OwnedFd, b: &OwnedFd, place: &Place, parted: i64) -> bool {
    let mut path = format!("{}/", place.pf);
    let directory = path.len();
    TELLING.iter().chain(&["metadata"]).all(|name| {
        path.truncate(directory);
        path.push_str(name);
        files::untouched(a, b, Path::new(&path), parted)
    })
}

fn number<T: std::str::FromStr>(text: Option<String>) -> Option<T> {
    text?.parse().ok()
}

fn use_flags(enabled: Option<String>, known: Option<String>) -> Vec<String> {
    let known = known.unwrap_or_default();
    let known: HashSet<&str> = known
        .split(' ')
        .map(|flag| flag.trim_start_matches(['+', '-']))
        .collect();
    let mut flags: Vec<String> = enabled
        .unwrap_or_default()
        .split(' ')
        .filter(|flag| known.contains(flag) && !flag.is_empty())
        .map(str::to_owned)
        .collect();
    flags.sort_unstable();
    flags.dedup();
    flags
}
