//! Two databases at once: most of what is in the one is in the other, too, and need not be
//! read in full.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result};

use super::fields::{read, same};
use super::{Installed, PER_THREAD, Package, Place, list, open_db, parallel};
use crate::version::split_pf;

/// What two systems have installed, without the packages that are the same on both.
///
/// A package is left out with all its slots or not at all, so that what is compared by name
/// comes out as if everything had been read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// On the first system.
    pub before: Installed,
    /// On the second.
    pub after: Installed,
    /// How many installed packages were left out.
    pub same: usize,
}

/// The versions of one package that each of the two has.
#[derive(Default)]
struct Name<'a> {
    before: Vec<&'a Place>,
    after: Vec<&'a Place>,
}

type Reading<'a> = Vec<(&'a Place, io::Result<Option<Package>>)>;

/// Read of two systems, whose root directories these are, the packages that differ.
///
/// The same build is known by its BUILD_TIME, slot, repository and USE.
///
/// # Errors
/// As [`super::load_root`].
pub fn load_changed(before: &Path, after: &Path) -> Result<Changed> {
    let (a, b) = (open_db(before)?, open_db(after)?);
    let mut found = Changed::default();
    let listed = |db: &Option<OwnedFd>, installed: &mut Installed, root: &Path| match db {
        Some(db) => list(db, installed)
            .with_context(|| format!("cannot read the packages below {}", root.display())),
        None => Ok(Vec::new()),
    };
    let (before, after) = (
        listed(&a, &mut found.before, before)?,
        listed(&b, &mut found.after, after)?,
    );
    let names = by_name(&before, &after);
    let readings = parallel(names.len(), PER_THREAD, |at| {
        compare(a.as_ref(), b.as_ref(), &names[at])
    });
    for (name, reading) in names.iter().zip(readings) {
        let Some((before, after)) = reading else {
            found.same += name.after.len();
            continue;
        };
        for (place, package) in before {
            found.before.take(package, place);
        }
        for (place, package) in after {
            found.after.take(package, place);
        }
    }
    found.before.sort();
    found.after.sort();
    Ok(found)
}

fn by_name<'a>(before: &'a [Place], after: &'a [Place]) -> Vec<Name<'a>> {
    let mut names: BTreeMap<(&str, &str), Name> = BTreeMap::new();
    let key = |place: &'a Place| {
        let name = split_pf(&place.pf).map_or(&*place.pf, |(name, _)| name);
        (&*place.category, name)
    };
    for place in before {
        names.entry(key(place)).or_default().before.push(place);
    }
    for place in after {
        names.entry(key(place)).or_default().after.push(place);
    }
    names.into_values().collect()
}

/// None if all is the same.
fn compare<'a>(
    a: Option<&OwnedFd>,
    b: Option<&OwnedFd>,
    name: &Name<'a>,
) -> Option<(Reading<'a>, Reading<'a>)> {
    // What cannot be read is no more the same: reading it in full says why.
    let all_same = name.before == name.after
        && a.zip(b).is_some_and(|(a, b)| {
            let places = &mut name.before.iter();
            places.all(|place| same(a, b, place).unwrap_or(false))
        });
    if all_same {
        return None;
    }
    let all = |db: Option<&OwnedFd>, places: &[&'a Place]| -> Reading<'a> {
        let read = |db| {
            places
                .iter()
                .map(|place| (*place, read(db, place)))
                .collect()
        };
        db.map_or_else(Vec::new, read)
    };
    Some((all(a, &name.before), all(b, &name.after)))
}
