//! Installed packages: the directory `/var/db/pkg`, called VDB. PMS leaves its format to the
//! package manager; this is Portage's (`dbapi/vartree.py`, 3.0.83).
//!
//! Every installed package is a directory `CATEGORY/PF` with one file a field. A field
//! that is empty has no file. Portage 3.0.82 and later also keep the fields together in
//! one file `metadata`, and may remove the single ones.

mod fields;
mod pair;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use serde::Serialize;

use self::fields::{read, read_with};
pub use self::pair::{Changed, load_changed};
use crate::files::{self, Links};
use crate::version::{is_category, split_pf, version_cmp};

/// The most threads that read packages. Most of the time of a cold cache is waiting.
const MAX_THREADS: usize = 16;
/// A further thread is worth it for so many packages.
const PER_THREAD: usize = 32;

/// One installed package.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Package {
    /// The category, `sys-apps`; empty of other managers than Portage.
    pub category: String,
    /// The name, `portage`.
    pub name: String,
    /// The version with its revision, `3.0.83-r1`.
    pub version: String,
    /// The slot without the subslot, `0`.
    pub slot: String,
    /// The subslot, if the ebuild named one.
    pub subslot: Option<String>,
    /// The name of the repository it came from.
    pub repository: Option<String>,
    /// The enabled USE flags among those that the ebuild has (`IUSE`), sorted. Flags that
    /// only the profile sets are left out: a new profile would change them everywhere.
    pub use_flags: Vec<String>,
    /// When it was built, in seconds since 1970.
    pub build_time: Option<i64>,
    /// Which build of a binary package it is, where `binpkg-multi-instance` counts them.
    pub build_id: Option<u64>,
    /// What its files have together, in bytes.
    pub size: Option<u64>,
}

impl Package {
    /// `category/name`.
    #[must_use]
    pub fn cp(&self) -> String {
        match self.category.as_str() {
            "" => self.name.clone(),
            category => format!("{category}/{}", self.name),
        }
    }

    /// `category/name-version`.
    #[must_use]
    pub fn cpv(&self) -> String {
        format!("{}-{}", self.cp(), self.version)
    }
}

/// What is installed on one system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installed {
    /// The packages, sorted by category, name and version.
    pub packages: Vec<Package>,
    /// `category/PF` of merges that were cut off (`-MERGING-PF`): files of such a package
    /// may be on the system; merging it again repairs that.
    pub interrupted: Vec<String>,
    /// What is no readable package, and why, one line each. Portage ignores these.
    pub invalid: Vec<String>,
}

impl Installed {
    /// Add what came of reading one package; nothing if it was removed since it was listed.
    fn take(&mut self, read: io::Result<Option<Package>>, place: &Place) {
        match read {
            Ok(package) => self.packages.extend(package),
            Err(e) => self
                .invalid
                .push(format!("{}/{}: {e}", place.category, place.pf)),
        }
    }

    fn append(&mut self, mut other: Self) {
        self.packages.append(&mut other.packages);
        self.interrupted.append(&mut other.interrupted);
        self.invalid.append(&mut other.invalid);
    }

    fn sort(&mut self) {
        self.packages.sort_unstable_by(|a, b| {
            (&a.category, &a.name)
                .cmp(&(&b.category, &b.name))
                .then_with(|| version_cmp(&a.version, &b.version))
                .then_with(|| a.version.cmp(&b.version))
        });
        self.invalid.sort_unstable();
    }

    /// The installed package with this `category/name-version`.
    #[must_use]
    pub fn find(&self, cpv: &str) -> Option<&Package> {
        let (category, name, version) = crate::version::split_cpv(cpv)?;
        self.packages
            .iter()
            .find(|p| p.category == category && p.name == name && p.version == version)
    }
}

/// Read all packages below `db`, a `var/db/pkg` that the caller has resolved.
///
/// # Errors
/// If the directory or one of its categories cannot be listed. A single package that
/// cannot be read is in [`Installed::invalid`].
pub fn load(db: &Path) -> Result<Installed> {
    let fd = files::open_trusted(db).with_context(|| format!("cannot open {}", db.display()))?;
    load_fd(&fd).with_context(|| format!("cannot read {}", db.display()))
}

/// Read all packages of the system whose root directory is `root`; symbolic links on the
/// way to `var/db/pkg` are taken as inside that root.
///
/// # Errors
/// As [`load`]. A system without `var/db/pkg` has no packages.
pub fn load_root(root: &Path) -> Result<Installed> {
    match open_db(root)? {
        Some(db) => load_fd(&db)
            .with_context(|| format!("cannot read the packages below {}", root.display())),
        None => Ok(Installed::default()),
    }
}

/// Packages with fields of theirs that [`Package`] has not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WithFields {
    /// The packages, and the fields on one line each, in the order in which they were asked
    /// for; none for one that is empty.
    pub packages: Vec<(Package, Vec<Option<String>>)>,
    /// As [`Installed::invalid`].
    pub invalid: Vec<String>,
}

/// Read all packages of the system whose root directory is `root`, and these fields.
///
/// # Errors
/// As [`load_root`].
pub fn load_fields(root: &Path, keys: &[&str]) -> Result<WithFields> {
    let mut found = WithFields::default();
    let Some(db) = open_db(root)? else {
        return Ok(found);
    };
    let what = || format!("cannot read the packages below {}", root.display());
    let mut listed = Installed::default();
    let todo = list(&db, &mut listed).with_context(what)?;
    found.invalid = listed.invalid;
    let read = parallel(todo.len(), PER_THREAD, |at| read_with(&db, &todo[at], keys));
    for (package, place) in read.into_iter().zip(&todo) {
        match package {
            Ok(package) => found.packages.extend(package),
            Err(e) => found
                .invalid
                .push(format!("{}/{}: {e}", place.category, place.pf)),
        }
    }
    Ok(found)
}

/// What `work` makes of the directory of each package of the system at `root`, with the name
/// of the package; it is called by several threads.
pub(crate) fn for_each<T: Send>(
    root: &Path,
    work: impl Fn(&OwnedFd) -> io::Result<T> + Sync,
) -> Result<Vec<(String, io::Result<T>)>> {
    let Some(db) = open_db(root)? else {
        return Ok(Vec::new());
    };
    let todo = list(&db, &mut Installed::default())
        .with_context(|| format!("cannot read the packages below {}", root.display()))?;
    let done = parallel(todo.len(), PER_THREAD, |at| {
        let path = Path::new(&todo[at].category).join(&todo[at].pf);
        match files::subdir(&db, &path, Links::No)? {
            Some(dir) => work(&dir).map(Some),
            // Removed since it was listed.
            None => Ok(None),
        }
    });
    let name = |place: &Place| format!("{}/{}", place.category, place.pf);
    let done = todo.iter().map(name).zip(done);
    Ok(done
        .filter_map(|(name, d)| Some((name, d.transpose()?)))
        .collect())
}

/// The VDB of the system at `root`, if there is one.
fn open_db(root: &Path) -> Result<Option<OwnedFd>> {
    let fd =
        files::open_trusted(root).with_context(|| format!("cannot open {}", root.display()))?;
    files::subdir(&fd, Path::new("var/db/pkg"), Links::InRoot)
        .with_context(|| format!("cannot open var/db/pkg in {}", root.display()))
}

/// What `work` makes of each number below `count`, in their order, by as many threads as
/// are worth it.
fn parallel<T: Send>(count: usize, per_thread: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(count));
    let run = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return;
            }
            let result = work(at);
            let mut results = results.lock().unwrap_or_else(|e| e.into_inner());
            results.push((at, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..(count / per_thread).min(MAX_THREADS) {
            // Without the thread the others just take longer.
            let _ = std::thread::Builder::new()
                .stack_size(256 << 10)
                .spawn_scoped(scope, run);
        }
        run();
    });
    let mut results = results.into_inner().unwrap_or_else(|e| e.into_inner());
    results.sort_unstable_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

fn load_fd(db: &OwnedFd) -> Result<Installed> {
    let mut found = Installed::default();
    let todo = list(db, &mut found)?;
    for (at, package) in parallel(todo.len(), PER_THREAD, |at| read(db, &todo[at]))
        .into_iter()
        .enumerate()
    {
        found.take(package, &todo[at]);
    }
    found.sort();
    Ok(found)
}
/// Where a package lies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    category: String,
    pf: String,
}

/// All packages.
fn list(db: &OwnedFd, found: &mut Installed) -> Result<Vec<Place>> {
    let mut todo = Vec::new();
    for category in categories(db)? {
        if let Some(dir) = open_category(db, &category)? {
            todo.extend(list_category(&category, &dir, found)?);
        }
    }
    Ok(todo)
}

fn categories(db: &OwnedFd) -> Result<Vec<String>> {
    let entries = files::entries(db)?.into_iter();
    let categories = entries.filter(|(name, is_dir)| *is_dir && is_category(name));
    Ok(categories.map(|(name, _)| name).collect())
}

fn open_category(db: &OwnedFd, category: &str) -> Result<Option<OwnedFd>> {
    files::subdir(db, Path::new(category), Links::No)
        .with_context(|| format!("category {category}"))
}

/// The packages of a category. Leaves out what Portage leaves out
/// (`vardbapi._excluded_dirs`).
fn list_category(category: &str, dir: &OwnedFd, found: &mut Installed) -> Result<Vec<Place>> {
    let mut todo = Vec::new();
    let entries = files::entries(dir).with_context(|| format!("category {category}"))?;
    for (pf, is_dir) in entries {
        if let Some(pf) = pf.strip_prefix("-MERGING-") {
            found.interrupted.push(format!("{category}/{pf}"));
        } else if !is_dir || pf.starts_with('.') || pf == "CVS" || pf == "lost+found" {
            continue;
        } else if split_pf(&pf).is_none() {
            found.invalid.push(format!(
                "{category}/{pf}: not a package name with a version"
            ));
        } else {
            todo.push(Place {
                category: category.to_owned(),
                pf,
            });
        }
    }
    Ok(todo)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn put(db: &Path, cpv: &str, fields: &[(&str, &str)]) {
        let dir = db.join(cpv);
        fs::create_dir_all(&dir).unwrap();
        for (name, value) in fields {
            fs::write(dir.join(name), format!("{value}\n")).unwrap();
        }
    }

    fn stamped(db: &Path, cpv: &str, body: &str) {
        let dir = db.join(cpv);
        let file = dir.join("metadata");
        fs::write(&file, body).unwrap();
        let stat = fs::metadata(&dir).unwrap();
        let mtime = i128::from(stat.mtime()) * 1_000_000_000 + i128::from(stat.mtime_nsec());
        // The directory keeps its mtime: no entry is made or removed.
        fs::write(&file, format!("{body}#dir_mtime={mtime}\n")).unwrap();
    }

    #[test]
    fn reads_single_files() {
        let root = tempfile::tempdir().unwrap();
        let db = root.path().join("var/db/pkg");
        put(
            &db,
            "app-misc/hello-2.12-r1",
            &[
                ("SLOT", "0/2"),
                ("repository", "gentoo"),
                ("IUSE", "+nls static"),
                ("USE", "amd64 elibc_glibc nls"),
                ("BUILD_TIME", "1757000000"),
                ("BUILD_ID", "3"),
            ],
        );
        put(&db, "app-misc/hello-2.9", &[("SLOT", "2")]);
        fs::create_dir_all(db.join("app-misc/-MERGING-bye-1")).unwrap();
        fs::create_dir_all(db.join("app-misc/junk")).unwrap();
        fs::create_dir_all(db.join(".cache/x-1")).unwrap();
        fs::write(db.join("world"), "").unwrap();
        let found = load_root(root.path()).unwrap();
        assert_eq!(found, load(&db).unwrap());
        assert_eq!(found.interrupted, ["app-misc/bye-1"]);
        assert_eq!(
            found.invalid,
            ["app-misc/junk: not a package name with a version"]
        );
        let [old, new] = found.packages.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(old.cpv(), "app-misc/hello-2.9");
        assert_eq!((old.slot.as_str(), &old.subslot), ("2", &None));
        assert_eq!(new.version, "2.12-r1");
        assert_eq!(
            (new.slot.as_str(), new.subslot.as_deref()),
            ("0", Some("2"))
        );
        assert_eq!(new.use_flags, ["nls"]);
        assert_eq!(new.build_time, Some(1_757_000_000));
        assert_eq!(new.build_id, Some(3));
        assert_eq!(found.find("app-misc/hello-2.12-r1"), Some(new));
    }

    #[test]
    fn metadata_counts_while_it_is_fresh() {
        let tmp = tempfile::tempdir().unwrap();
        let db = tmp.path();
        // Fresh: a field that it lacks is empty, whatever a file says.
        put(
            db,
            "a/fresh-1",
            &[("SLOT", "old"), ("USE", "x"), ("IUSE", "x")],
        );
        stamped(db, "a/fresh-1", "#format=1\nBUILD_TIME=5\nSLOT=3/4\n");
        // Stale: the files count, and only what they lack comes from it.
        put(db, "a/stale-1", &[("SLOT", "1")]);
        fs::write(
            db.join("a/stale-1/metadata"),
            "#format=1\nBUILD_TIME=7\nSLOT=9\n#dir_mtime=1\n",
        )
        .unwrap();
        // A later format is not read.
        put(db, "a/later-1", &[("SLOT", "1")]);
        stamped(db, "a/later-1", "#format=2\nSLOT=9\n");
        let found = load(db).unwrap();
        let slots: Vec<_> = found
            .packages
            .iter()
            .map(|p| (p.name.as_str(), p.slot.as_str(), p.build_time))
            .collect();
        assert_eq!(
            slots,
            [
                ("fresh", "3", Some(5)),
                ("later", "1", None),
                ("stale", "1", Some(7))
            ]
        );
        assert!(found.packages[0].use_flags.is_empty());
    }

    #[test]
    fn no_link_is_followed_out() {
        let tmp = tempfile::tempdir().unwrap();
        let outside = tmp.path().join("outside");
        put(&outside, "cat/evil-1", &[("SLOT", "0")]);
        let root = tmp.path().join("root");
        let db = root.join("real/db");
        put(&db, "cat/good-1", &[]);
        symlink(outside.join("cat/evil-1/SLOT"), db.join("cat/good-1/SLOT")).unwrap();
        put(&db, "cat/fine-1", &[]);
        symlink(outside.join("cat"), db.join("evil")).unwrap();
        symlink(outside.join("cat/evil-1"), db.join("cat/evil-1")).unwrap();
        fs::create_dir_all(root.join("var/db")).unwrap();
        symlink("/real/db", root.join("var/db/pkg")).unwrap();
        let found = load_root(&root).unwrap();
        let names: Vec<_> = found.packages.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["fine"]);
        assert!(
            found.invalid[0].starts_with("cat/good-1: SLOT:"),
            "{found:?}"
        );
    }

    #[test]
    fn many_packages_by_many_threads() {
        let tmp = tempfile::tempdir().unwrap();
        for n in 0..300 {
            put(
                tmp.path(),
                &format!("c/p{n}-{n}"),
                &[("SLOT", &n.to_string())],
            );
        }
        let found = load(tmp.path()).unwrap();
        assert_eq!(found.packages.len(), 300);
        assert!(found.packages.iter().all(|p| p.slot == p.version));
        assert!(found.packages.is_sorted_by_key(|p| &p.name));
    }

    #[test]
    fn nothing_there() {
        let tmp = tempfile::tempdir().unwrap();
        assert_eq!(load_root(tmp.path()).unwrap(), Installed::default());
        let error = load(&tmp.path().join("none")).unwrap_err();
        assert!(format!("{error:#}").contains("none"), "{error:#}");
    }

    #[test]
    fn two_at_once_leave_out_what_is_the_same() {
        let tmp = tempfile::tempdir().unwrap();
        let db = |side: &str| tmp.path().join(side).join("var/db/pkg");
        let both = |cpv: &str, fields: &[(&str, &str)]| {
            put(&db("a"), cpv, fields);
            put(&db("b"), cpv, fields);
        };
        let built = [("SLOT", "0"), ("BUILD_TIME", "5"), ("SIZE", "7")];
        both("c/same-1", &built);
        both("c/slots-1", &[("SLOT", "1"), ("SIZE", "7")]);
        both("c/slots-2", &[("SLOT", "2")]);
        put(&db("b"), "c/slots-2", &[("SLOT", "3")]);
        both("c/rebuilt-1", &built);
        put(&db("b"), "c/rebuilt-1", &[("BUILD_TIME", "6")]);
        both("c/stamped-1", &built);
        for side in ["a", "b"] {
            stamped(
                &db(side),
                "c/stamped-1",
                "#format=1\nBUILD_TIME=5\nSLOT=0\n",
            );
        }
        put(&db("a"), "c/gone-1", &built);
        put(&db("b"), "d/new-1", &built);
        let both_unreadable = db("a").join("c/bad-1/SLOT");
        fs::create_dir_all(&both_unreadable).unwrap();
        fs::create_dir_all(db("b").join("c/bad-1/SLOT")).unwrap();

        let (a, b) = (tmp.path().join("a"), tmp.path().join("b"));
        let found = load_changed(&a, &b, None).unwrap();
        // Two copies are no snapshots: nothing is untouched.
        assert_eq!(load_changed(&a, &b, Some(i64::MAX)).unwrap(), found);
        let itself = load_changed(&a, &a, Some(i64::MAX)).unwrap();
        assert_eq!((itself.before.packages.len(), itself.same), (0, 7));
        let names = |side: &Installed| side.packages.iter().map(Package::cpv).collect::<Vec<_>>();
        assert_eq!(
            names(&found.before),
            ["c/gone-1", "c/rebuilt-1", "c/slots-1", "c/slots-2"]
        );
        assert_eq!(
            names(&found.after),
            ["c/rebuilt-1", "c/slots-1", "c/slots-2", "d/new-1"]
        );
        assert_eq!(found.same, 2);
        assert_eq!(found.before.packages[0].size, Some(7));
        assert!(found.before.invalid[0].starts_with("c/bad-1: SLOT:"));
        let (a, b) = (load_root(&a).unwrap(), load_root(&b).unwrap());
        assert_eq!(a.invalid, found.before.invalid);
        assert_eq!(
            crate::diff::diff(&a, &b),
            crate::diff::diff(&found.before, &found.after)
        );
        // A size is no part of `metadata`.
        let stamped = a.find("c/stamped-1").unwrap();
        assert_eq!((stamped.size, stamped.build_time), (Some(7), Some(5)));
    }
}
