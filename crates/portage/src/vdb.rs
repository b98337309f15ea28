//! Installed packages: the directory `/var/db/pkg`, called VDB. PMS leaves its format to the
//! package manager; this is Portage's (`dbapi/vartree.py`, 3.0.83).
//!
//! Every installed package is a directory `CATEGORY/PF` with one file a field. A field
//! that is empty has no file. Portage 3.0.82 and later also keep the fields together in
//! one file `metadata`, and may remove the single ones.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use rustix::fs::fstat;
use serde::Serialize;

use crate::files::{self, Links};
use crate::version::{is_category, split_pf, version_cmp};

/// The most threads that read packages. Most of the time of a cold cache is waiting.
const MAX_THREADS: usize = 16;
/// A further thread is worth it for so many packages.
const PER_THREAD: usize = 32;

/// One installed package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Package {
    /// The category, `sys-apps`.
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
}

impl Package {
    /// `category/name`.
    #[must_use]
    pub fn cp(&self) -> String {
        format!("{}/{}", self.category, self.name)
    }

    /// `category/name-version`.
    #[must_use]
    pub fn cpv(&self) -> String {
        format!("{}/{}-{}", self.category, self.name, self.version)
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
    let fd =
        files::open_trusted(root).with_context(|| format!("cannot open {}", root.display()))?;
    let db = files::subdir(&fd, Path::new("var/db/pkg"), Links::InRoot);
    match db.with_context(|| format!("cannot open var/db/pkg in {}", root.display()))? {
        Some(db) => load_fd(&db)
            .with_context(|| format!("cannot read the packages below {}", root.display())),
        None => Ok(Installed::default()),
    }
}

fn load_fd(db: &OwnedFd) -> Result<Installed> {
    let mut found = Installed::default();
    let todo = list(db, &mut found)?;
    let next = AtomicUsize::new(0);
    let results = Mutex::new((Vec::with_capacity(todo.len()), Vec::new()));
    let work = || {
        while let Some((category, pf)) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
            let package = read_package(db, category, pf);
            let mut results = results.lock().unwrap_or_else(|e| e.into_inner());
            match package {
                Ok(Some(package)) => results.0.push(package),
                // Removed since it was listed.
                Ok(None) => {}
                Err(e) => results.1.push(format!("{category}/{pf}: {e}")),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..(todo.len() / PER_THREAD).min(MAX_THREADS) {
            // Without the thread the others just take longer.
            let _ = std::thread::Builder::new()
                .stack_size(256 << 10)
                .spawn_scoped(scope, work);
        }
        work();
    });
    let (packages, invalid) = results.into_inner().unwrap_or_else(|e| e.into_inner());
    found.packages = packages;
    found.packages.sort_unstable_by(|a, b| {
        (&a.category, &a.name)
            .cmp(&(&b.category, &b.name))
            .then_with(|| version_cmp(&a.version, &b.version))
            .then_with(|| a.version.cmp(&b.version))
    });
    found.invalid.extend(invalid);
    found.invalid.sort_unstable();
    Ok(found)
}

/// The `(category, PF)` of all packages. Leaves out what Portage leaves out
/// (`vardbapi._excluded_dirs`).
fn list(db: &OwnedFd, found: &mut Installed) -> Result<Vec<(String, String)>> {
    let mut todo = Vec::new();
    for (category, is_dir) in files::entries(db)? {
        if !is_dir || !is_category(&category) {
            continue;
        }
        let Some(dir) = files::subdir(db, Path::new(&category), Links::No)
            .with_context(|| format!("category {category}"))?
        else {
            continue;
        };
        let entries = files::entries(&dir).with_context(|| format!("category {category}"))?;
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
                todo.push((category.clone(), pf));
            }
        }
    }
    Ok(todo)
}

/// The file `metadata`: `#format=1`, `KEY=VALUE` lines, and last `#dir_mtime=`, the mtime
/// of the package's directory in nanoseconds at which the file was complete and true.
struct Metadata {
    fields: HashMap<String, String>,
    dir_mtime: Option<i128>,
}

impl Metadata {
    /// `None` if this is no format that we know.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()?.strip_prefix("#format=")?.parse() != Ok(1) {
            return None;
        }
        let (mut fields, mut dir_mtime) = (HashMap::new(), None);
        for line in lines {
            if let Some(comment) = line.strip_prefix('#') {
                if let Some(time) = comment.strip_prefix("dir_mtime=") {
                    dir_mtime = time.parse().ok();
                }
            } else if let Some((key, value)) = line.split_once('=') {
                fields.insert(key.to_owned(), value.to_owned());
            }
        }
        Some(Metadata { fields, dir_mtime })
    }
}

/// The fields of one package, wherever they are kept.
struct Fields {
    dir: OwnedFd,
    metadata: Option<Metadata>,
    fresh: bool,
}

impl Fields {
    fn open(dir: OwnedFd) -> io::Result<Self> {
        let stat = fstat(&dir)?;
        let mtime = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
        let metadata = file(&dir, "metadata")?.and_then(|text| Metadata::parse(&text));
        let fresh = metadata
            .as_ref()
            .is_some_and(|m| m.dir_mtime == Some(mtime));
        Ok(Fields {
            dir,
            metadata,
            fresh,
        })
    }

    /// A field on one line, or nothing if it is empty. A `metadata` that is not fresh
    /// counts only where the file is missing: it may be the last copy.
    fn get(&self, key: &str) -> io::Result<Option<String>> {
        let kept = || self.metadata.as_ref().and_then(|m| m.fields.get(key));
        let value = if self.fresh {
            kept().cloned()
        } else {
            file(&self.dir, key)?.or_else(|| kept().cloned())
        };
        Ok(value
            .map(|v| v.split_whitespace().collect::<Vec<_>>().join(" "))
            .filter(|v| !v.is_empty()))
    }
}

fn file(dir: &OwnedFd, name: &str) -> io::Result<Option<String>> {
    let content = files::read(dir, Path::new(name), Links::No)
        .map_err(|e| io::Error::new(e.kind(), format!("{name}: {e}")))?;
    Ok(content.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

fn read_package(db: &OwnedFd, category: &str, pf: &str) -> io::Result<Option<Package>> {
    let path = Path::new(category).join(pf);
    let (Some((name, version)), Some(dir)) = (split_pf(pf), files::subdir(db, &path, Links::No)?)
    else {
        return Ok(None);
    };
    let fields = Fields::open(dir)?;
    // Portage takes a package without a valid slot as one in slot 0 (`_pkg_str`).
    let slot = fields.get("SLOT")?.unwrap_or_else(|| "0".to_owned());
    let (slot, subslot) = match slot.split_once('/') {
        Some((slot, subslot)) => (slot.to_owned(), Some(subslot.to_owned())),
        None => (slot, None),
    };
    let number = |key| -> io::Result<Option<i64>> {
        Ok(fields.get(key)?.and_then(|text| text.parse().ok()))
    };
    Ok(Some(Package {
        category: category.to_owned(),
        name: name.to_owned(),
        version: version.to_owned(),
        slot,
        subslot,
        repository: fields.get("repository")?,
        use_flags: use_flags(fields.get("USE")?, fields.get("IUSE")?),
        build_time: number("BUILD_TIME")?,
        build_id: number("BUILD_ID")?.and_then(|id| u64::try_from(id).ok()),
    }))
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
}
