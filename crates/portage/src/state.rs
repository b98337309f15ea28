//! What Portage keeps beside the packages, and what an upgrade leaves for a person:
//! configuration files to look at, unread news, preserved libraries, an unfinished merge.
//!
//! Loaders take the root directory of a system; no symbolic link leads out of it.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config_files::waiting::{Beside, Pending, config_protect, pending_config};
use crate::files::{self, Links};

/// Where Portage keeps the list of an unfinished merge.
pub const MTIMEDB: &str = "var/cache/edb/mtimedb";
/// Where Portage keeps the list of preserved libraries.
pub const PRESERVED_LIBS: &str = "var/lib/portage/preserved_libs_registry";
/// Where Portage keeps the lists of unread news (GLEP 42).
pub const NEWS: &str = "var/lib/gentoo/news";

/// Take the list of an unfinished merge (`resume`, `resume_backup`) out of the content of
/// `/var/cache/edb/mtimedb`, a JSON object, and keep all else. A clone inherits that list
/// from a system whose merge is none of its business. `None` if there is none in it.
///
/// The result is indented by tabs, as Portage writes it (`portage/util/mtimedb.py`).
///
/// # Errors
/// If the text is no JSON; Portage then starts with an empty one.
pub fn drop_resume(mtimedb: &str) -> Result<Option<String>> {
    let Value::Object(mut db) = object(mtimedb)? else {
        return Ok(None);
    };
    let had: Vec<_> = ["resume", "resume_backup"]
        .into_iter()
        .filter_map(|key| db.shift_remove(key))
        .collect();
    if had.is_empty() {
        return Ok(None);
    }
    let mut out = Vec::new();
    let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut writer = serde_json::Serializer::with_formatter(&mut out, tabs);
    serde::Serialize::serialize(&Value::Object(db), &mut writer).context("mtimedb")?;
    Ok(Some(String::from_utf8(out).context("mtimedb")?))
}

/// What an interrupted merge had still to do, `category/name-version` in order, from the
/// content of mtimedb (`resume.mergelist`: lists of type, root, package, operation).
///
/// After a failure without `--keep-going` the failed package is in it; with it, the list is
/// gone or holds the rest.
///
/// # Errors
/// If the text is no JSON.
pub fn resume_list(mtimedb: &str) -> Result<Vec<String>> {
    let db = object(mtimedb)?;
    let list = db.pointer("/resume/mergelist").and_then(Value::as_array);
    Ok(list
        .into_iter()
        .flatten()
        .filter_map(|task| task.get(2)?.as_str().map(str::to_owned))
        .collect())
}

/// An empty file is an empty object: Portage locks some of its files by creating them.
fn object(text: &str) -> Result<Value> {
    if text.trim().is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    serde_json::from_str(text).context("this is no JSON")
}

/// The libraries that are kept only because something still uses them, from the content of
/// `preserved_libs_registry` (`"category/name:slot": [package, counter, [path, ...]]`).
/// `emerge @preserved-rebuild` makes the list empty.
///
/// # Errors
/// If the text is no JSON.
pub fn preserved_libs(registry: &str) -> Result<Vec<String>> {
    let Value::Object(registry) = object(registry)? else {
        return Ok(Vec::new());
    };
    let mut paths: Vec<String> = registry
        .values()
        .filter_map(|entry| entry.get(2)?.as_array())
        .flatten()
        .filter_map(|path| path.as_str().map(str::to_owned))
        .collect();
    paths.sort();
    paths.dedup();
    Ok(paths)
}

/// How many news items are unread, in all repositories of the system whose root directory
/// is `root`.
///
/// # Errors
/// If a list that exists cannot be read.
pub fn unread_news(root: &Path) -> Result<usize> {
    let what = || format!("cannot read {NEWS} in {}", root.display());
    let fd = files::open_trusted(root).with_context(what)?;
    let Some(dir) = files::subdir(&fd, Path::new(NEWS), Links::InRoot).with_context(what)? else {
        return Ok(0);
    };
    let mut count = 0;
    for (name, is_dir) in files::entries(&dir).with_context(what)? {
        if is_dir || !name.starts_with("news-") || !name.ends_with(".unread") {
            continue;
        }
        let text = files::read(&dir, Path::new(&name), Links::No).with_context(what)?;
        count += count_unread(&String::from_utf8_lossy(&text.unwrap_or_default()));
    }
    Ok(count)
}

/// How many items a list `news-REPOSITORY.unread` names: one a line, `#` for comments.
#[must_use]
pub fn count_unread(list: &str) -> usize {
    list.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .count()
}

/// The content of one of Portage's files, [`MTIMEDB`] or [`PRESERVED_LIBS`], in the system
/// whose root directory is `root`; `None` if there is no such file.
///
/// # Errors
/// If it is there and cannot be read.
pub fn read(root: &Path, file: &str) -> Result<Option<String>> {
    let what = || format!("cannot read {file} in {}", root.display());
    let fd = files::open_trusted(root).with_context(what)?;
    let bytes = files::read(&fd, Path::new(file), Links::InRoot).with_context(what)?;
    bytes
        .map(|bytes| String::from_utf8(bytes).with_context(what))
        .transpose()
}

/// What an upgrade left for a person.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debt {
    /// What waits beside configuration files.
    pub config: Vec<Pending>,
    /// How many news items are unread.
    pub news: usize,
    /// Libraries kept only because something still uses them.
    pub preserved_libs: Vec<String>,
}

/// Read all of [`Debt`] from the system whose root directory is `root`, and whose package
/// manager leaves files `beside` configuration files.
///
/// # Errors
/// If something that exists cannot be read.
pub fn debt(root: &Path, beside: &Beside) -> Result<Debt> {
    let profile_env = read(root, "etc/profile.env")?.unwrap_or_default();
    let registry = read(root, PRESERVED_LIBS)?.unwrap_or_default();
    Ok(Debt {
        config: pending_config(root, &config_protect(&profile_env), beside)?,
        news: unread_news(root)?,
        preserved_libs: preserved_libs(&registry)
            .with_context(|| format!("{PRESERVED_LIBS} in {}", root.display()))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn put(root: &Path, path: &str, content: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    const PROFILE_ENV: &str = "# THIS FILE IS AUTOMATICALLY GENERATED BY env-update.\n\
        export CONFIG_PROTECT='/usr/share/gnupg/qualified.txt /opt/etc'\n\
        export CONFIG_PROTECT_MASK='/etc/gentoo-release'\n";

    #[test]
    fn debt_of_a_system() {
        let tmp = tempfile::tempdir().unwrap();
        let root = &tmp.path().join("root");
        put(root, "etc/profile.env", PROFILE_ENV);
        put(root, "etc/._cfg0000_foo.conf", "");
        put(root, "etc/ssh/._cfg0001_sshd_config", "");
        put(root, "etc/ssh/._cfg0000_sshd_config", "");
        put(root, "etc/.git/._cfg0000_skipped", "");
        put(root, "usr/share/gnupg/qualified.txt", "");
        put(root, "usr/share/gnupg/._cfg0000_qualified.txt", "");
        put(root, "usr/share/gnupg/._cfg0000_other.txt", "");
        put(
            root,
            "var/lib/gentoo/news/news-gentoo.unread",
            "2025-01-a\n\n2025-02-b\n",
        );
        put(root, "var/lib/gentoo/news/news-gentoo.skip", "x\n");
        put(root, "var/lib/gentoo/news/news-guru.unread", "# none\n");
        put(
            root,
            PRESERVED_LIBS,
            r#"{"dev-libs/lib:0": ["dev-libs/lib-1", "7", ["/usr/lib64/lib.so.1"]]}"#,
        );
        // Links in the environment lead back into it, or nowhere.
        put(tmp.path(), "outside/._cfg0000_secret", "");
        symlink(tmp.path().join("outside"), root.join("etc/out")).unwrap();
        fs::create_dir_all(root.join("opt")).unwrap();
        put(root, "srv/etc/._cfg0000_opt.conf", "");
        symlink("/srv/etc", root.join("opt/etc")).unwrap();
        let debt = debt(root, &Beside::default()).unwrap();
        let files: Vec<_> = debt
            .config
            .iter()
            .map(|p| p.file.to_str().unwrap())
            .collect();
        assert_eq!(
            files,
            [
                "/etc/._cfg0000_foo.conf",
                "/etc/ssh/._cfg0000_sshd_config",
                "/etc/ssh/._cfg0001_sshd_config",
                "/opt/etc/._cfg0000_opt.conf",
                "/usr/share/gnupg/._cfg0000_qualified.txt",
            ]
        );
        assert_eq!(debt.config[1].target, Path::new("/etc/ssh/sshd_config"));
        assert_eq!(debt.news, 2);
        assert_eq!(debt.preserved_libs, ["/usr/lib64/lib.so.1"]);
    }

    #[test]
    fn an_empty_system_owes_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        assert_eq!(
            debt(tmp.path(), &Beside::default()).unwrap(),
            Debt::default()
        );
        put(tmp.path(), PRESERVED_LIBS, "");
        put(tmp.path(), "etc/x", "");
        assert_eq!(
            debt(tmp.path(), &Beside::default()).unwrap(),
            Debt::default()
        );
        put(tmp.path(), PRESERVED_LIBS, "no json");
        assert!(debt(tmp.path(), &Beside::default()).is_err());
    }

    #[test]
    fn resume_is_dropped_and_the_rest_kept() {
        // Written by Portage 3.0.83.
        let db = include_str!("../tests/data/mtimedb");
        assert_eq!(
            resume_list(db).unwrap(),
            ["app-misc/post-1", "app-misc/broken-1", "app-misc/never-1"]
        );
        let (before, rest) = db.split_once("\t\"resume\"").unwrap();
        let (_, after) = rest.split_once("\n\t},\n").unwrap();
        let clean = drop_resume(db).unwrap().unwrap();
        assert_eq!(clean, format!("{before}{after}").trim_end());
        let both = clean.replacen('{', "{\"resume_backup\": {}, ", 1);
        assert_eq!(drop_resume(&both).unwrap().unwrap(), clean);
        assert_eq!(drop_resume(&clean).unwrap(), None);
        assert!(resume_list(&clean).unwrap().is_empty());
        assert_eq!(drop_resume("").unwrap(), None);
        assert_eq!(drop_resume("[]").unwrap(), None);
        assert!(drop_resume("{").is_err());
        assert!(
            resume_list(r#"{"resume": {"mergelist": [[], 3, ["a"]]}}"#)
                .unwrap()
                .is_empty()
        );
    }
}
