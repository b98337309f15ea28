//! Two databases at once: most of what is in the one is in the other, too, and need not be
//! read in full.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result};

use super::fields::{read, same, untouched};
use super::{Installed, Place, categories, list_category, open_category, open_db, parallel};
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

/// Read of two systems, whose root directories these are, the packages that differ.
///
/// The same build is known by its BUILD_TIME, slot, repository and USE. `parted` is when
/// one of the two was cloned from the other, or the first of both from a third, in seconds
/// since 1970: files that neither has touched since are not read. Without it all are.
///
/// # Errors
/// As [`super::load_root`].
pub fn load_changed(before: &Path, after: &Path, parted: Option<i64>) -> Result<Changed> {
    let open = |root: &Path| -> Result<(Option<OwnedFd>, Vec<String>)> {
        let db = open_db(root)?;
        let categories = db.as_ref().map(categories).transpose();
        let categories = categories
            .with_context(|| format!("cannot read the packages below {}", root.display()))?;
        Ok((db, categories.unwrap_or_default()))
    };
    let ((a, of_a), (b, of_b)) = (open(before)?, open(after)?);
    let all: Vec<String> = BTreeSet::from_iter(of_a.into_iter().chain(of_b))
        .into_iter()
        .collect();
    let compared = parallel(all.len(), 1, |at| {
        let (a, mut before) = Category::open(a.as_ref(), &all[at])?;
        let (b, mut after) = Category::open(b.as_ref(), &all[at])?;
        let same = compare(&a, &b, (&mut before, &mut after), parted);
        anyhow::Ok(Changed {
            before,
            after,
            same,
        })
    });
    let mut found = Changed::default();
    for category in compared {
        let category = category?;
        found.before.append(category.before);
        found.after.append(category.after);
        found.same += category.same;
    }
    found.before.sort();
    found.after.sort();
    Ok(found)
}

/// One category of one database.
struct Category<'a> {
    db: Option<&'a OwnedFd>,
    dir: Option<OwnedFd>,
    places: Vec<Place>,
}

impl<'a> Category<'a> {
    fn open(db: Option<&'a OwnedFd>, name: &str) -> Result<(Self, Installed)> {
        let mut found = Installed::default();
        let dir = match db {
            Some(db) => open_category(db, name)?,
            None => None,
        };
        let places = match &dir {
            Some(dir) => list_category(name, dir, &mut found)?,
            None => Vec::new(),
        };
        Ok((Self { db, dir, places }, found))
    }

    /// The versions of each package.
    fn by_name(&self) -> BTreeMap<&str, Vec<&Place>> {
        let mut names: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for place in &self.places {
            let name = split_pf(&place.pf).map_or(&*place.pf, |(name, _)| name);
            names.entry(name).or_default().push(place);
        }
        names
    }

    fn read(&self, places: &[&Place], found: &mut Installed) {
        let Some(db) = self.db else { return };
        for place in places {
            found.take(read(db, place), place);
        }
    }
}

/// Read what differs in a category; gives how many packages do not.
fn compare(
    a: &Category,
    b: &Category,
    (before, after): (&mut Installed, &mut Installed),
    parted: Option<i64>,
) -> usize {
    let mut count = 0;
    let mut of_b = b.by_name();
    for (name, old) in a.by_name() {
        let new = of_b.remove(name).unwrap_or_default();
        if old == new && old.iter().all(|place| is_same(a, b, place, parted)) {
            count += new.len();
            continue;
        }
        a.read(&old, before);
        b.read(&new, after);
    }
    for new in of_b.values() {
        b.read(new, after);
    }
    count
}

fn is_same(a: &Category, b: &Category, place: &Place, parted: Option<i64>) -> bool {
    if let (Some(parted), Some(a), Some(b)) = (parted, &a.dir, &b.dir)
        && untouched(a, b, place, parted)
    {
        return true;
    }
    // What cannot be read is not the same: reading it in full says why.
    let both = a.db.zip(b.db);
    both.is_some_and(|(a, b)| same(a, b, place).unwrap_or(false))
}
