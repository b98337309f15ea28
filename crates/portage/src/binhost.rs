//! `Packages`, the index of a directory of binary packages.
//!
//! Source of the format: `PackageIndex` in `portage/getbinpkg.py` (3.0.83): a header and one
//! paragraph for each package, `KEY: value` a line, an empty line between.

use std::collections::BTreeMap;

/// One package of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `category/name-version`.
    pub package: String,
    /// Which build of it; 0 where builds have no numbers.
    pub build_id: u64,
    /// Where the file is, below the directory.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was built, in seconds since 1970; 0 if that is not told.
    pub build_time: i64,
    /// The slot, without the sub-slot.
    pub slot: String,
}

/// What in the header of an index names the lock beside it, by the SHA-256 of that: index and
/// name change in one moment. Portage keeps what it does not know in a header.
pub const LOCK: &str = "BE_LOCK";

const TIMESTAMP: &str = "TIMESTAMP";

/// What the index says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    /// When it was written, in seconds since 1970.
    pub timestamp: Option<i64>,
    /// What [`LOCK`] says.
    pub lock: Option<String>,
    /// The packages, in its order.
    pub entries: Vec<Entry>,
}

/// Read an index.
///
/// # Errors
/// A paragraph that lacks what a client needs, or a path that leads out of the directory; in
/// one line.
pub fn parse(text: &str) -> Result<Index, String> {
    let mut paragraphs = text.split("\n\n").map(paragraph);
    let header = paragraphs.next().unwrap_or_default();
    let timestamp = header.get(TIMESTAMP).and_then(|t| t.parse().ok());
    let lock = header.get(LOCK).map(|&lock| lock.to_owned());
    let entries = paragraphs.filter(|p| !p.is_empty()).map(entry);
    Ok(Index {
        timestamp,
        lock,
        entries: entries.collect::<Result<_, _>>()?,
    })
}

/// What is said in the header of an index.
#[must_use]
pub fn header<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut lines = text.lines().take_while(|line| !line.is_empty());
    lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(':').map(str::trim))
}

/// The index as it is published in the place of `before`: naming this lock, and newer whenever it
/// says anything else, as clients know by the time stamp alone that there is something new.
#[must_use]
pub fn published(text: &str, lock: Option<&str>, before: &str) -> String {
    let named = match lock {
        Some(lock) => with(text, LOCK, lock),
        None => text.to_owned(),
    };
    let time = |text: &str| header(text, TIMESTAMP).and_then(|t| t.parse::<i64>().ok());
    match (time(&named), time(before)) {
        (Some(new), Some(old)) if new != old => {
            if with(&named, TIMESTAMP, &old.to_string()) == before {
                before.to_owned()
            } else {
                with(&named, TIMESTAMP, &new.max(old + 1).to_string())
            }
        }
        (Some(new), Some(_)) if named != before => with(&named, TIMESTAMP, &(new + 1).to_string()),
        _ => named,
    }
}

/// An index with this in its header, which is sorted.
fn with(text: &str, key: &str, value: &str) -> String {
    let (header, rest) = text.split_once("\n\n").unwrap_or((text.trim_end(), ""));
    let is_it = |line: &&str| line.split(':').next() == Some(key);
    let line = format!("{key}: {value}");
    let mut lines: Vec<&str> = header.lines().filter(|line| !is_it(line)).collect();
    lines.push(&line);
    lines.sort_unstable();
    format!("{}\n\n{rest}", lines.join("\n"))
}

fn paragraph(text: &str) -> BTreeMap<&str, &str> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(key, value)| (key, value.trim())).collect()
}

fn entry(fields: BTreeMap<&str, &str>) -> Result<Entry, String> {
    let package = *fields.get("CPV").ok_or("a package without CPV")?;
    let lacks = |what: &str| format!("{package} has no {what}");
    let path = *fields.get("PATH").ok_or_else(|| lacks("PATH"))?;
    let plain = |part: &str| !part.is_empty() && !part.starts_with('.');
    if !path.split('/').all(plain) {
        return Err(format!("{package} lies outside, at {path}"));
    }
    let size = fields.get("SIZE").and_then(|size| size.parse().ok());
    let number = |key: &str| fields.get(key).and_then(|text| text.parse::<u64>().ok());
    let slot = fields.get("SLOT").copied().unwrap_or("0");
    Ok(Entry {
        package: package.to_owned(),
        build_id: number("BUILD_ID").unwrap_or(0),
        path: path.to_owned(),
        size: size.ok_or_else(|| lacks("SIZE"))?,
        build_time: number("BUILD_TIME").unwrap_or(0).cast_signed(),
        slot: slot.split('/').next().unwrap_or("0").to_owned(),
    })
}

impl Index {
    /// What a newer build of the same package and slot stands for. Of builds in the same
    /// second the one with the higher number is the newer.
    #[must_use]
    pub fn superseded(&self) -> Vec<&Entry> {
        let mut newest: BTreeMap<(String, &str), &Entry> = BTreeMap::new();
        let of = |e: &Entry| {
            let name = crate::version::split_cpv(&e.package);
            name.map_or_else(|| e.package.clone(), |(c, n, _)| format!("{c}/{n}"))
        };
        let age = |e: &Entry| (e.build_time, e.build_id);
        for entry in &self.entries {
            let known = newest.entry((of(entry), &entry.slot)).or_insert(entry);
            if age(known) < age(entry) {
                *known = entry;
            }
        }
        let old = |e: &&Entry| newest[&(of(e), e.slot.as_str())].path != e.path;
        self.entries.iter().filter(old).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "ARCH: amd64\nPACKAGES: 3\nTIMESTAMP: 1795773600\nVERSION: 0\n\n\
        BUILD_ID: 1\nBUILD_TIME: 10\nCPV: app-misc/hello-1\nPATH: app-misc/hello/hello-1-1.gpkg.tar\n\
        SIZE: 100\nDESC: a: b\n\n\
        BUILD_ID: 2\nBUILD_TIME: 20\nCPV: app-misc/hello-2\nPATH: app-misc/hello/hello-2-2.gpkg.tar\n\
        SIZE: 200\nSLOT: 0/2\n\n\
        BUILD_ID: 1\nBUILD_TIME: 5\nCPV: app-misc/hello-1\nPATH: app-misc/hello/x\nSIZE: 1\nSLOT: 1\n\n";

    #[test]
    fn an_index_is_read_and_old_builds_are_known() {
        let index = parse(INDEX).unwrap();
        assert_eq!(index.timestamp, Some(1_795_773_600));
        let paths: Vec<_> = index.entries.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "app-misc/hello/hello-1-1.gpkg.tar",
                "app-misc/hello/hello-2-2.gpkg.tar",
                "app-misc/hello/x"
            ]
        );
        let old = index.superseded();
        assert_eq!(old.len(), 1);
        assert_eq!((&*old[0].slot, old[0].size), ("0", 100));
        assert_eq!(parse(""), Ok(Index::default()));
    }

    #[test]
    fn an_index_that_says_anything_else_is_newer() {
        let first = published(INDEX, Some("aa"), "");
        let lock = |text: &str| parse(text).unwrap().lock;
        assert_eq!(lock(&first).as_deref(), Some("aa"));
        assert!(first.starts_with("ARCH: amd64\nBE_LOCK: aa\nPACKAGES: 3\n"));
        assert_eq!(
            parse(&first).unwrap().entries,
            parse(INDEX).unwrap().entries
        );
        assert_eq!(published(INDEX, Some("aa"), &first), first);
        let time = |text: &str| parse(text).unwrap().timestamp.unwrap();
        let second = published(INDEX, Some("bb"), &first);
        assert_eq!(
            (time(&second), lock(&second)),
            (time(&first) + 1, Some("bb".into()))
        );
        // Its own time stamp is older now: that alone is nothing new.
        assert_eq!(published(INDEX, Some("bb"), &second), second);
        let third = published(INDEX, Some("aa"), &second);
        assert_eq!(time(&third), time(&second) + 1);
        assert_eq!(published(INDEX, None, "damaged"), INDEX);
        assert_eq!(header(&second, "ARCH"), Some("amd64"));
        assert_eq!(header(&second, "CPV"), None);
    }

    #[test]
    fn what_a_client_could_not_use_is_an_error() {
        for (from, to) in [
            ("CPV: app-misc/hello-1\n", ""),
            ("SIZE: 100", "SIZE: much"),
            ("PATH: app-misc/hello/x", "PATH: ../x"),
            ("PATH: app-misc/hello/x", "PATH: /x"),
        ] {
            assert!(parse(&INDEX.replacen(from, to, 1)).is_err(), "{from}");
        }
    }
}
