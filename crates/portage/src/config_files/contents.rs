//! The checksums of what packages have installed: CONTENTS of each, in the VDB.
//!
//! A line is `dir PATH`, `obj PATH MD5 MTIME`, `sym PATH -> TARGET MTIME`, `fif PATH` or
//! `dev PATH` (`dblink.getcontents` in `dbapi/vartree.py`). Spaces are part of a path.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result};

use crate::files::{self, Links};
use crate::vdb;

/// Checksums by path. Of a path that several packages have, several.
pub type Installed = BTreeMap<String, Vec<String>>;

/// What the packages of the system whose root directory is `root` have installed at the
/// paths that are `wanted`.
///
/// # Errors
/// If what a package has installed cannot be read: half of it would be wrong.
pub fn installed(root: &Path, wanted: impl Fn(&str) -> bool + Sync) -> Result<Installed> {
    let mut all = Installed::new();
    let found = vdb::for_each(root, |dir| {
        let mut files = Vec::new();
        let Some(file) = files::open_file(dir, Path::new("CONTENTS"), Links::No)? else {
            return Ok(files);
        };
        let mut reader = BufReader::with_capacity(64 << 10, file);
        let mut line = Vec::new();
        while read_line(&mut reader, &mut line)? {
            if let Some((path, sum)) = parse(&line)
                && wanted(path)
            {
                files.push((path.to_owned(), sum.to_owned()));
            }
        }
        Ok(files)
    });
    for (name, files) in found? {
        for (path, sum) in files.with_context(|| format!("cannot read CONTENTS of {name}"))? {
            let sums = all.entry(path).or_default();
            if !sums.contains(&sum) {
                sums.push(sum);
            }
        }
    }
    Ok(all)
}

fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    Ok(reader.read_until(b'\n', line)? > 0)
}

/// Path and checksum of a line of a regular file.
fn parse(line: &[u8]) -> Option<(&str, &str)> {
    let line = std::str::from_utf8(line.strip_prefix(b"obj ")?).ok()?;
    let mut fields = line.trim_end_matches('\n').rsplitn(3, ' ');
    let (_mtime, sum, path) = (fields.next()?, fields.next()?, fields.next()?);
    let digits = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
    (sum.len() == 32 && sum.bytes().all(digits) && path.starts_with('/')).then_some((path, sum))
}

/// Of the paths that are `wanted`, those that a package of the system with this root directory
/// has installed; directories are not counted.
///
/// # Errors
/// As [`installed`].
pub fn owned(root: &Path, wanted: impl Fn(&[u8]) -> bool + Sync) -> Result<HashSet<Vec<u8>>> {
    let mut all = HashSet::new();
    let found = vdb::for_each(root, |dir| {
        let Some(mut file) = files::open_file(dir, Path::new("CONTENTS"), Links::No)? else {
            return Ok(Vec::new());
        };
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let paths = paths(&text).filter(|path| wanted(path));
        Ok(paths.map(<[u8]>::to_vec).collect())
    });
    for (name, paths) in found? {
        all.extend(paths.with_context(|| format!("cannot read CONTENTS of {name}"))?);
    }
    Ok(all)
}

/// The paths in the text of a CONTENTS, but for directories: those belong to nobody alone.
pub fn paths(contents: &[u8]) -> impl Iterator<Item = &[u8]> {
    contents.split(|c| *c == b'\n').filter_map(|line| {
        let (kind, rest) = line.split_at_checked(4)?;
        let end = |count: usize| {
            let mut parts = rest.rsplitn(count + 1, |c| *c == b' ');
            parts.nth(count)
        };
        match kind {
            b"obj " => end(2),
            b"fif " | b"dev " => Some(rest),
            b"sym " => {
                let arrow = rest.windows(4).position(|w| w == b" -> ")?;
                rest.get(..arrow)
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn all_that_is_no_directory() {
        let text = format!(
            "dir /etc\nobj /etc/a b {SUM} 16\nsym /lib/x -> y -> z 16\nfif /run/f\n\nobj x\n"
        );
        let found: Vec<_> = paths(text.as_bytes()).collect();
        assert_eq!(found, [&b"/etc/a b"[..], b"/lib/x", b"/run/f"]);
    }

    const SUM: &str = "d41d8cd98f00b204e9800998ecf8427e";

    #[test]
    fn lines() {
        let line = format!("obj /etc/a file {SUM} 1600000000\n");
        assert_eq!(parse(line.as_bytes()), Some(("/etc/a file", SUM)));
        for line in [
            "dir /etc\n".to_owned(),
            format!("sym /etc/x -> {SUM} 16\n"),
            format!("obj /etc/x {} 16", SUM.to_uppercase()),
            format!("obj etc/x {SUM} 16"),
            "obj /etc/x short 16".to_owned(),
            "obj ".to_owned(),
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
        let odd = [b"obj /etc/\xff ", SUM.as_bytes(), b" 16\n"].concat();
        assert_eq!(parse(&odd), None);
    }

    #[test]
    fn packages_are_read_and_paths_chosen() {
        let root = tempfile::tempdir().unwrap();
        let other = "0".repeat(32);
        for (pf, contents) in [
            (
                "a-1",
                format!("obj /etc/a {SUM} 1\nobj /usr/a {SUM} 1\ndir /etc\n"),
            ),
            ("b-1", format!("obj /etc/a {other} 1\nobj /etc/b {other} 1")),
        ] {
            let dir = root.path().join("var/db/pkg/app-misc").join(pf);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("SLOT"), "0\n").unwrap();
            fs::write(dir.join("CONTENTS"), contents).unwrap();
        }
        fs::create_dir_all(root.path().join("var/db/pkg/app-misc/none-1")).unwrap();
        let found = installed(root.path(), |path| path.starts_with("/etc/")).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found["/etc/a"].len(), 2);
        assert_eq!(found["/etc/b"], [other]);
        assert!(installed(&root.path().join("usr"), |_| true).is_err());
        let empty = tempfile::tempdir().unwrap();
        assert!(installed(empty.path(), |_| true).unwrap().is_empty());
    }
}
