//! `be carry`: every way in which a name can have changed on the running system and in the
//! environment, on real trees.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use be_tests::system::System;
use nix::sys::signal::Signal;
use rustix::fs::{IFlags, XattrFlags};
use serde_json::Value;
use xtask::image::Tree;

/// What happened to a thing on one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Same,
    Edited,
    Deleted,
    Replaced,
    Renamed,
    Dressed,
}
use Fate::{Deleted, Dressed, Edited, Renamed, Replaced, Same};

const FATES: [Fate; 6] = [Same, Edited, Deleted, Replaced, Renamed, Dressed];

/// What it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thing {
    File,
    Dir,
    Link,
    /// A file with two names.
    Pair,
    /// A file with attributes, which are what is dressed.
    Labelled,
}

const THINGS: [Thing; 5] = [
    Thing::File,
    Thing::Dir,
    Thing::Link,
    Thing::Pair,
    Thing::Labelled,
];

const LABEL: &str = "user.label";

/// A thing called `x` in a directory of its own.
struct Case<'a> {
    thing: Thing,
    dir: &'a Path,
}

impl Case<'_> {
    fn x(&self) -> PathBuf {
        self.dir.join("x")
    }

    fn make(&self) -> Result<()> {
        fs::create_dir_all(self.dir)?;
        let x = self.x();
        match self.thing {
            Thing::Dir => {
                fs::create_dir(&x)?;
                fs::write(x.join("f"), "f")?;
            }
            Thing::Link => symlink("base", &x)?,
            Thing::File | Thing::Pair | Thing::Labelled => fs::write(&x, "base\n")?,
        }
        if self.thing == Thing::Pair {
            fs::hard_link(&x, self.dir.join("y"))?;
        }
        if self.thing == Thing::Labelled {
            label(&x, "base")?;
        }
        Ok(())
    }

    fn does(&self, fate: Fate, side: &str) -> Result<()> {
        let x = self.x();
        match (fate, self.thing) {
            (Same, _) => {}
            (Edited, Thing::Dir) => fs::write(x.join(side), side)?,
            (Edited, Thing::Link) => {
                fs::remove_file(&x)?;
                symlink(side, &x)?;
            }
            (Edited, _) => fs::write(&x, format!("{side} edits\n"))?,
            (Deleted, Thing::Dir) => fs::remove_dir_all(&x)?,
            (Deleted, _) => fs::remove_file(&x)?,
            (Replaced, thing) => {
                self.does(Deleted, side)?;
                match (side, thing) {
                    ("here", Thing::Link | Thing::Dir) => fs::write(&x, "here\n")?,
                    ("here", _) => symlink("here", &x)?,
                    (_, Thing::Dir) => symlink("/etc", &x)?,
                    _ => fs::create_dir(&x)?,
                }
            }
            (Renamed, _) => fs::rename(&x, self.dir.join(format!("x.{side}")))?,
            (Dressed, Thing::Link) => {
                let owner = if side == "here" { 101 } else { 102 };
                lchown(&x, Some(owner), None)?;
            }
            (Dressed, Thing::Labelled) => label(&x, side)?,
            (Dressed, _) => {
                let mode = if side == "here" { 0o700 } else { 0o710 };
                fs::set_permissions(&x, Permissions::from_mode(mode))?;
            }
        }
        Ok(())
    }

    /// As it should be in the end: what be(8) says, done by hand.
    fn expected(&self, here: Fate, there: Fate) -> Result<()> {
        let here_then = |fate| self.does(fate, "here");
        let there_then = |fate| self.does(fate, "there");
        match (here, there) {
            (Same, fate) => there_then(fate),
            (fate, Same) => here_then(fate),
            (Deleted, Deleted) => here_then(Deleted),
            _ if self.thing == Thing::Dir => self.expected_dir(here, there),
            (Edited, Edited) | (Dressed, Dressed) => here_then(here),
            (Edited, Dressed) => {
                here_then(Edited)?;
                there_then(Dressed)
            }
            (Dressed, Edited) => {
                there_then(Edited)?;
                here_then(Dressed)
            }
            (Renamed, fate) => {
                there_then(fate)?;
                self.add("x.here")
            }
            (Deleted, Renamed) => there_then(Renamed),
            (fate, Renamed) => {
                here_then(fate)?;
                self.add("x.there")
            }
            (fate, Deleted) => here_then(fate),
            (Deleted, fate) => there_then(fate),
            (Edited | Dressed, Replaced) => {
                // Of a pair the other name has it.
                here_then(here)?;
                there_then(Replaced)?;
                self.beside(here)
            }
            (Replaced, _) => {
                there_then(there)?;
                self.beside(here)
            }
        }
    }

    fn expected_dir(&self, here: Fate, there: Fate) -> Result<()> {
        let x = self.x();
        let no_f = || fs::remove_file(x.join("f"));
        match (here, there) {
            (Edited, Edited | Dressed) | (Dressed, Edited) => {
                self.does(there, "there")?;
                self.does(here, "here")?;
            }
            (Dressed, Dressed) => self.does(here, "here")?,
            (Edited, Deleted) => {
                self.does(Edited, "here")?;
                no_f()?;
            }
            (Edited | Dressed, Renamed) => {
                self.add("x.there")?;
                self.does(here, "here")?;
                no_f()?;
            }
            (Dressed, Deleted) => {
                self.does(Dressed, "here")?;
                no_f()?;
            }
            (Deleted, Edited | Dressed) => {
                self.does(there, "there")?;
                no_f()?;
            }
            (Edited, Replaced) => {
                self.does(there, "there")?;
                self.beside(Edited)?;
                fs::remove_file(self.dir.join("x.be-running/f"))?;
            }
            (Edited | Deleted | Dressed, _) => self.does(there, "there")?,
            (Replaced, Deleted) => self.does(Replaced, "here")?,
            (Replaced, Renamed) => {
                self.add("x.there")?;
                self.does(Replaced, "here")?;
            }
            (Replaced, Edited | Dressed) => {
                self.does(there, "there")?;
                no_f()?;
                self.beside(Replaced)?;
            }
            (Replaced, _) => {
                self.does(there, "there")?;
                self.beside(Replaced)?;
            }
            (Renamed, fate) => {
                self.add("x.here")?;
                self.does(fate, "there")?;
                if matches!(fate, Edited | Dressed) {
                    no_f()?;
                }
            }
            (Same, _) => {}
        }
        Ok(())
    }

    /// One more, as it was at first, under this name.
    fn add(&self, name: &str) -> Result<()> {
        let other = self.dir.join("other");
        Case {
            dir: &other,
            ..*self
        }
        .make()?;
        fs::rename(other.join("x"), self.dir.join(name))?;
        Ok(fs::remove_dir_all(other)?)
    }

    /// What the running system has, beside.
    fn beside(&self, here: Fate) -> Result<()> {
        let other = self.dir.join("other");
        let case = Case {
            dir: &other,
            ..*self
        };
        case.make()?;
        case.does(here, "here")?;
        fs::rename(other.join("x"), self.dir.join("x.be-running"))?;
        Ok(fs::remove_dir_all(other)?)
    }
}

fn label(path: &Path, value: &str) -> Result<()> {
    let flags = XattrFlags::empty();
    Ok(rustix::fs::lsetxattr(path, LABEL, value.as_bytes(), flags)?)
}

/// All there is in a directory, a line each.
fn described(dir: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(&at)? {
            let path = entry?.path();
            let meta = path.symlink_metadata()?;
            let name = path.strip_prefix(dir)?.display();
            let what = match meta.file_type() {
                kind if kind.is_dir() => "dir".to_owned(),
                kind if kind.is_symlink() => format!("-> {}", fs::read_link(&path)?.display()),
                _ => format!("{:?}", fs::read_to_string(&path)?),
            };
            let mut value = [0; 64];
            let length = rustix::fs::lgetxattr(&path, LABEL, &mut value).unwrap_or(0);
            let label = String::from_utf8_lossy(&value[..length]).into_owned();
            lines.push(format!(
                "{name} {what} {:o} {} {label}",
                meta.mode(),
                meta.uid()
            ));
            if meta.is_dir() {
                todo.push(path);
            }
        }
    }
    let ino = |name| dir.join(name).symlink_metadata().map(|m| m.ino()).ok();
    if ino("y").is_some() && ino("x") == ino("y") {
        lines.push("x is y".into());
    }
    lines.sort();
    Ok(lines)
}

fn cases() -> impl Iterator<Item = (Thing, Fate, Fate)> {
    let pairs = FATES.into_iter().flat_map(|h| FATES.map(|t| (h, t)));
    THINGS
        .into_iter()
        .flat_map(move |thing| pairs.clone().map(move |(h, t)| (thing, h, t)))
}

/// What the manual says of each pair.
fn table() -> Result<Vec<(Fate, Fate, String)>> {
    const MANUAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../man/be.8");
    let text = fs::read_to_string(MANUAL)?;
    let head = "Sy renamed Ta Sy properties\n";
    let (_, rows) = text.split_once(head).context("there is no table")?;
    let words = [
        "unchanged",
        "edited",
        "removed",
        "replaced",
        "renamed",
        "properties",
    ];
    let mut table = Vec::new();
    for ((here, word), row) in FATES.into_iter().zip(words).zip(rows.lines()) {
        let row = row.strip_prefix(&format!(".It Sy {word} Ta "));
        let cells = row
            .with_context(|| format!("no row for {word}"))?
            .split(" Ta ");
        table.extend(
            FATES
                .into_iter()
                .zip(cells)
                .map(|(there, cell)| (here, there, cell.to_owned())),
        );
    }
    ensure!(table.len() == 36, "{table:?}");
    Ok(table)
}

#[test]
#[ignore = "needs root and loop devices"]
fn every_change_on_either_side() -> Result<()> {
    let system = System::adopted_small()?;
    let name = |thing, here, there| format!("srv/{thing:?}-{here:?}-{there:?}");
    for (thing, here, there) in cases() {
        let dir = system.path(&name(thing, here, there));
        Case { thing, dir: &dir }.make()?;
    }
    system.be.run(&["create", "new"]).done();
    for (thing, here, there) in cases() {
        let dir = system.path(&name(thing, here, there));
        Case { thing, dir: &dir }.does(here, "here")?;
        let dir = system.env("new", &name(thing, here, there));
        Case { thing, dir: &dir }.does(there, "there")?;
    }
    let running = system.running()?;
    let shown = system.be.run(&["carry", "new", "--json"]).done().json();
    system.be.run(&["carry", "new", "--apply"]).done();
    let changes = running.diff(&system.running()?);
    ensure!(changes.is_empty(), "{changes:?}");
    let mut wrong = Vec::new();
    for (thing, here, there) in cases() {
        let other = format!("{}-expected", name(thing, here, there));
        let dir = system.path(&other);
        let case = Case { thing, dir: &dir };
        case.make()?;
        case.expected(here, there)?;
        let expected = described(&dir)?;
        let found = described(&system.env("new", &name(thing, here, there)))?;
        if found != expected {
            wrong.push(format!(
                "{thing:?}: here {here:?}, there {there:?}:\n  {found:#?}\n  and not {expected:#?}"
            ));
        }
        fs::remove_dir_all(dir)?;
    }
    ensure!(wrong.is_empty(), "{}\n{shown:#}", wrong.join("\n"));
    for (here, there, says) in table()? {
        let name = name(Thing::File, here, there);
        let found = described(&system.env("new", &name))?;
        let only = |fate: Fate, side| -> Result<Vec<String>> {
            let dir = system.dir().join(format!("{name}-{side}"));
            let case = Case {
                thing: Thing::File,
                dir: &dir,
            };
            case.make()?;
            case.does(fate, side)?;
            described(&dir)
        };
        let (only_here, only_there) = (only(here, "here")?, only(there, "there")?);
        let as_said = match says.trim_end_matches('!') {
            "here" => found == only_here,
            "there" => found == only_there,
            "removed" => found == only_here && here == Deleted,
            "parts" | "both" => found != only_here && found != only_there,
            _ => false,
        };
        ensure!(as_said, "be(8) says {says} of {name}: {found:#?}");
        let paths = shown["paths"].as_array().context("paths")?;
        let below = |item: &&Value| {
            let path = item["path"].as_str().unwrap_or_default();
            path.starts_with(&format!("/{name}/")) && !item["conflict"].is_null()
        };
        let conflicts = paths.iter().filter(below).count();
        assert_eq!(conflicts > 0, says.ends_with('!'), "{says} of {name}");
    }
    // Nothing is left to do, and nothing is done twice.
    let again = system.be.run(&["carry", "new", "--apply"]).exits(77);
    again.says(&["nothing changed"]);
    Ok(())
}

fn decision(document: &Value, path: &str) -> Option<String> {
    let paths = document["paths"].as_array()?;
    let item = paths.iter().find(|item| item["path"] == path)?;
    Some(item["decision"].as_str()?.to_owned())
}

#[test]
#[ignore = "needs root and loop devices"]
fn configuration_is_put_together_and_conflicts_are_kept() -> Result<()> {
    let system = System::adopted_small()?;
    let text = "one\ntwo\nthree\nfour\nfive\n";
    for file in ["merged", "conflict", "binary", "same"] {
        system.write(&format!("/etc/{file}"), text)?;
    }
    system.write("/etc/passwd", "root:x:0:0::/root:/bin/sh\n")?;
    system.write("/etc/shadow", "root:old:1::::::\n")?;
    fs::set_permissions(system.path("/etc/shadow"), Permissions::from_mode(0o640))?;
    system.write("/etc/removed", text)?;
    fs::create_dir_all(system.path("/srv"))?;
    for image in [
        "/srv/image",
        "/srv/other-image",
        "/srv/dressed",
        "/srv/copy",
    ] {
        fs::File::create(system.path(image))?.set_len(100 << 20)?;
    }
    let noise: Vec<u8> = (0..1 << 20)
        .map(|n: u32| (n.wrapping_mul(n) >> 7) as u8)
        .collect();
    fs::File::options()
        .write(true)
        .open(system.path("/srv/dressed"))?
        .write_all(&noise)?;
    system.be.run(&["create", "new"]).done();
    let there = |path: &str| system.env("new", path);

    // The upgrade.
    fs::write(there("/etc/merged"), text.replace("five", "FIVE"))?;
    fs::write(there("/etc/conflict"), text.replace("two", "there"))?;
    fs::write(there("/etc/binary"), "\0there")?;
    let accounts = "root:x:0:0::/root:/bin/sh\nhttp:x:81:81::/:/bin/false\n";
    fs::write(there("/etc/passwd"), accounts)?;
    fs::write(there("/etc/removed"), "newer\n")?;
    fs::write(there("/etc/both"), "there\n")?;
    fs::write(there("/etc/alike"), "alike\n")?;
    // Meanwhile.
    system.write("/etc/both", "here\n")?;
    system.write("/etc/alike", "alike\n")?;
    system.write("/etc/merged", text.replace("one", "ONE"))?;
    system.write("/etc/conflict", text.replace("two", "here"))?;
    system.write("/etc/binary", "\0here")?;
    let me = "root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\n";
    system.write("/etc/passwd", me)?;
    system.write("/etc/shadow", "root:new:1::::::\nme:!:1::::::\n")?;
    fs::remove_file(system.path("/etc/removed"))?;
    // A line of its own beside that of the root, which be has changed there.
    let fstab = system.read("/etc/fstab")?;
    system.write(
        "/etc/fstab",
        format!("{fstab}tmpfs /scratch tmpfs defaults 0 0\n"),
    )?;
    // An edit that keeps size and times.
    let at = system.path("/etc/same");
    let before = at.metadata()?;
    fs::write(&at, text.replace("one", "eno"))?;
    fs::File::options()
        .write(true)
        .open(&at)?
        .set_modified(before.modified()?)?;
    // The same of one that is too large to be read for that.
    let mut image = fs::File::options()
        .write(true)
        .open(system.path("/srv/image"))?;
    let before = image.metadata()?;
    image.seek(SeekFrom::Start(50 << 20))?;
    image.write_all(b"here")?;
    image.set_modified(before.modified()?)?;
    // Other permissions are no other content; a copy may have the times of what it was made of.
    let dressed = system.path("/srv/dressed");
    fs::set_permissions(&dressed, Permissions::from_mode(0o600))?;
    let before = system.path("/srv/copy").metadata()?;
    let mut copy = fs::File::create(system.path("/srv/other"))?;
    copy.set_len(100 << 20)?;
    copy.seek(SeekFrom::Start(70 << 20))?;
    copy.write_all(b"here")?;
    copy.set_modified(before.modified()?)?;
    fs::rename(system.path("/srv/other"), system.path("/srv/copy"))?;
    // What belongs to programs and packages stays.
    for path in ["/var/cache/x", "/var/tmp/x", "/run/x", "/var/db/pkg/x"] {
        fs::create_dir_all(system.path(path).parent().context("no directory")?)?;
        system.write(path, "x")?;
    }

    let document = system.be.run(&["carry", "new", "--json"]).done().json();
    for (path, expected) in [
        ("/etc/merged", "merge"),
        ("/etc/conflict", "beside"),
        ("/etc/binary", "beside"),
        ("/etc/both", "beside"),
        ("/etc/passwd", "merge"),
        ("/etc/shadow", "carry"),
        ("/etc/same", "carry"),
        ("/srv/image", "carry"),
        ("/srv/dressed", "carry"),
        ("/srv/copy", "carry"),
        ("/etc/removed", "new"),
        ("/etc/fstab", "merge"),
        ("/var/cache/x", "leave"),
    ] {
        assert_eq!(
            decision(&document, path).as_deref(),
            Some(expected),
            "{path}: {document:#}"
        );
    }
    let paths = document["paths"].as_array().context("no paths")?;
    let dressed = paths.iter().find(|item| item["path"] == "/srv/dressed");
    let aspects = &dressed.context("not found")?["aspects"];
    assert_eq!(*aspects, serde_json::json!(["mode"]));
    for path in ["/etc/alike", "/srv/other-image"] {
        assert_eq!(decision(&document, path), None);
    }
    let strict = system.be.run(&["carry", "new", "--apply", "--strict"]);
    strict
        .exits(7)
        .says(&["4 paths were changed", "be carry new"]);
    assert_eq!(fs::read_to_string(there("/etc/same"))?, text);

    system.be.run(&["carry", "new", "--apply"]).done();
    let read = |path: &str| fs::read_to_string(there(path));
    assert_eq!(read("/etc/merged")?, "ONE\ntwo\nthree\nfour\nFIVE\n");
    assert_eq!(read("/etc/conflict")?, text.replace("two", "there"));
    assert_eq!(
        read("/etc/._cfg0000_conflict")?,
        text.replace("two", "here")
    );
    assert_eq!(read("/etc/._cfg0000_binary")?, "\0here");
    assert_eq!(
        read("/etc/passwd")?,
        format!("{accounts}me:x:1000:1000::/home/me:/bin/sh\n")
    );
    assert_eq!(read("/etc/shadow")?, "root:new:1::::::\nme:!:1::::::\n");
    assert_eq!(there("/etc/shadow").metadata()?.mode() & 0o777, 0o640);
    let image = fs::read(there("/srv/image"))?;
    assert_eq!(
        (image.len(), &image[50 << 20..][..4]),
        (100 << 20, &b"here"[..])
    );
    assert_eq!(read("/etc/removed")?, "newer\n");
    assert_eq!(read("/etc/same")?, text.replace("one", "eno"));
    let fstab = read("/etc/fstab")?;
    ensure!(
        fstab.contains("subvol=/@be/new/root") || fstab.contains("subvol=@be/new/root"),
        "{fstab}"
    );
    ensure!(fstab.contains("/scratch"), "{fstab}");
    for path in ["/var/cache/x", "/var/tmp/x", "/run/x", "/var/db/pkg/x"] {
        ensure!(!there(path).exists(), "{path}");
    }
    system.be.run(&["check", "new"]).done();

    // As it was, in its snapshot.
    let snapshots = system.be.run(&["list", "-s", "new", "-H"]).done().stdout;
    ensure!(snapshots.contains("new@before-carry"), "{snapshots}");

    // Later changes alone go over the next time.
    system.write("/etc/later", "x")?;
    let document = system.be.run(&["carry", "new", "--json"]).done().json();
    let paths = document["paths"].as_array().context("no paths")?;
    assert_eq!(paths.len(), 1, "{document:#}");
    system.be.run(&["carry", "new", "--apply"]).done();
    assert_eq!(read("/etc/later")?, "x");
    system.be.run(&["destroy", "-y", "new"]).done();
    ensure!(system.leftovers().is_empty(), "{:?}", system.leftovers());
    Ok(())
}

#[test]
#[ignore = "needs root and loop devices"]
fn what_is_locked_inherited_or_becomes_a_directory() -> Result<()> {
    const LOCKED: IFlags = IFlags::IMMUTABLE;
    let lock = |path: &Path, flags: IFlags| -> Result<()> {
        Ok(rustix::fs::ioctl_setflags(fs::File::open(path)?, flags)?)
    };
    let system = System::adopted_small()?;
    for path in ["locked", "becomes", "gone"] {
        system.write(&format!("/srv/{path}"), "base")?;
    }
    symlink("/nowhere", system.path("/srv/link"))?;
    for path in ["locked", "gone"] {
        lock(&system.path(&format!("/srv/{path}")), LOCKED)?;
    }
    // What is made in this directory inherits a list of who may do what: struct posix_acl_xattr,
    // here user::rwx, user:7:rwx, group::r-x, mask::rwx, other::r-x.
    fs::create_dir(system.path("/srv/open"))?;
    let mut list = 2u32.to_le_bytes().to_vec();
    for (tag, mode, id) in [
        (1, 7, -1),
        (2, 7, 7),
        (4, 5, -1),
        (16, 7, -1),
        (32, 5, -1i32),
    ] {
        let (tag, mode): (u16, u16) = (tag, mode);
        list.extend(tag.to_le_bytes());
        list.extend(mode.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    let acl = "system.posix_acl_default";
    rustix::fs::setxattr(system.path("/srv/open"), acl, &list, XattrFlags::empty())?;
    system.be.run(&["create", "new"]).done();

    for path in ["locked", "gone"] {
        lock(&system.path(&format!("/srv/{path}")), IFlags::empty())?;
    }
    system.write("/srv/locked", "changed")?;
    lock(&system.path("/srv/locked"), LOCKED)?;
    fs::remove_file(system.path("/srv/gone"))?;
    for path in ["becomes", "link"] {
        let path = system.path(&format!("/srv/{path}"));
        fs::remove_file(&path)?;
        fs::create_dir_all(path.join("a/b"))?;
        fs::write(path.join("a/b/c"), "inside")?;
    }
    // Made elsewhere and moved, so that it has not inherited it.
    system.write("/srv/private", "private")?;
    fs::rename(
        system.path("/srv/private"),
        system.path("/srv/open/private"),
    )?;

    let done = system.be.run(&["carry", "new", "--apply"]).done();
    ensure!(!done.stdout.contains('!'), "{}", done.stdout);
    let there = |path: &str| system.env("new", path);
    assert_eq!(fs::read_to_string(there("srv/locked"))?, "changed");
    let flags = rustix::fs::ioctl_getflags(fs::File::open(there("srv/locked"))?)?;
    ensure!(flags.contains(LOCKED), "{flags:?}");
    ensure!(!there("srv/gone").exists());
    for path in ["srv/becomes/a/b/c", "srv/link/a/b/c"] {
        assert_eq!(fs::read_to_string(there(path))?, "inside");
    }
    let mut value = [0; 256];
    let private = there("srv/open/private");
    let inherited = rustix::fs::getxattr(private, "system.posix_acl_access", &mut value);
    assert_eq!(inherited, Err(rustix::io::Errno::NODATA));

    // Back to before it: what was carried is not there, and nothing pretends that it is.
    for path in [system.path("/srv/locked"), there("srv/locked")] {
        lock(&path, IFlags::empty())?;
    }
    system.be.run(&["rollback", "new@before-carry"]).done();
    assert_eq!(fs::read_to_string(there("srv/locked"))?, "base");
    system
        .be
        .run(&["carry", "new"])
        .exits(3)
        .says(&["was not cloned from default"]);
    lock(&there("srv/locked"), IFlags::empty())?;
    lock(&there("srv/gone"), IFlags::empty())?;
    Ok(())
}

fn locked(path: &Path) -> Result<bool> {
    let flags = rustix::fs::ioctl_getflags(fs::File::open(path)?)?;
    Ok(flags.contains(IFlags::IMMUTABLE))
}

/// Does something in a directory that chattr(1) has locked, which it is again afterwards.
fn inside_locked(dir: &Path, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let open = fs::File::open(dir)?;
    rustix::fs::ioctl_setflags(&open, IFlags::empty())?;
    work()?;
    Ok(rustix::fs::ioctl_setflags(&open, IFlags::IMMUTABLE)?)
}

#[test]
#[ignore = "needs root and loop devices"]
fn directories_that_are_locked() -> Result<()> {
    let system = System::adopted_small()?;
    let here = |path: &str| system.path(&format!("/srv/{path}"));
    let there = |path: &str| system.env("new", &format!("/srv/{path}"));
    for dir in ["d/sub", "dressed", "gone", "kept"] {
        fs::create_dir_all(here(dir))?;
    }
    for file in ["d/edited", "d/deleted", "d/moved", "d/linked", "kept/f"] {
        fs::write(here(file), "base")?;
    }
    let all = ["d/sub", "d", "dressed", "gone", "kept"];
    for dir in all {
        inside_locked(&here(dir), || Ok(()))?;
    }
    system.be.run(&["create", "new"]).done();
    inside_locked(&there("kept"), || {
        Ok(fs::write(there("kept/own"), "there")?)
    })?;
    inside_locked(&here("d"), || {
        fs::write(here("d/edited"), "here")?;
        fs::remove_file(here("d/deleted"))?;
        fs::rename(here("d/moved"), here("d/other"))?;
        fs::hard_link(here("d/linked"), here("d/link"))?;
        inside_locked(&here("d/sub"), || Ok(fs::write(here("d/sub/new"), "here")?))
    })?;
    let mode = Permissions::from_mode(0o700);
    inside_locked(&here("dressed"), || {
        Ok(fs::set_permissions(here("dressed"), mode)?)
    })?;
    for dir in ["gone", "kept"] {
        inside_locked(&here(dir), || Ok(()))?;
        let open = fs::File::open(here(dir))?;
        rustix::fs::ioctl_setflags(&open, IFlags::empty())?;
        fs::remove_dir_all(here(dir))?;
    }
    fs::create_dir(here("fresh"))?;
    inside_locked(&here("fresh"), || Ok(fs::write(here("fresh/f"), "here")?))?;

    system.be.run(&["carry", "new", "--apply"]).done();
    let read = |path: &str| fs::read_to_string(there(path));
    assert_eq!(read("d/edited")?, "here");
    assert_eq!(read("d/sub/new")?, "here");
    assert_eq!(read("d/other")?, "base");
    assert_eq!(read("fresh/f")?, "here");
    let inode = |path: &str| there(path).metadata().map(|meta| meta.ino());
    assert_eq!(inode("d/link")?, inode("d/linked")?);
    for path in ["d/deleted", "d/moved", "gone", "kept/f"] {
        ensure!(!there(path).exists(), "{path}");
    }
    assert_eq!(read("kept/own")?, "there");
    assert_eq!(there("dressed").metadata()?.mode() & 0o777, 0o700);
    for dir in ["d", "d/sub", "dressed", "fresh", "kept"] {
        ensure!(locked(&there(dir))?, "{dir}");
    }
    for dir in ["d", "fresh"] {
        let times = |path: PathBuf| path.metadata().map(|meta| meta.mtime());
        assert_eq!(times(there(dir))?, times(here(dir))?, "{dir}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and loop devices"]
fn logs_that_were_rotated_meanwhile() -> Result<()> {
    let system = System::adopted_small()?;
    let here = |path: &str| system.path(&format!("/var/log/{path}"));
    let there = |path: &str| system.env("new", &format!("/var/log/{path}"));
    // As it is cut off: before anything, between both files of one, and after them.
    let logs = ["plain", "between", "after", "empty"];
    for log in logs {
        fs::write(here(log), "1\n2\n")?;
        fs::write(here(&format!("{log}.1")), "older\n")?;
    }
    system.be.run(&["create", "new"]).done();
    for log in logs {
        fs::write(there(log), "1\n2\nthere\n")?;
        fs::rename(here(&format!("{log}.1")), here(&format!("{log}.2")))?;
        fs::write(here(log), "1\n2\nhere\n")?;
        fs::rename(here(log), here(&format!("{log}.1")))?;
        fs::write(here(log), if log == "empty" { "" } else { "3\n" })?;
    }
    let both = "1\n2\nthere\nhere\n";
    fs::write(there("between.1"), both)?;
    fs::write(there("after.1"), both)?;
    fs::write(there("after"), "3\n")?;

    system.be.run(&["carry", "new", "--apply"]).done();
    let read = |path: String| fs::read_to_string(there(&path));
    for log in logs {
        let current = if log == "empty" { "" } else { "3\n" };
        assert_eq!(read(log.to_owned())?, current, "{log}");
        assert_eq!(read(format!("{log}.1"))?, both, "{log}");
        assert_eq!(read(format!("{log}.2"))?, "older\n", "{log}");
        ensure!(!there(&format!("{log}.be-running")).exists(), "{log}");
    }
    let again = system.be.run(&["carry", "new", "--apply"]).exits(77);
    again.says(&["nothing changed"]);
    Ok(())
}

#[test]
#[ignore = "needs root and loop devices"]
fn nothing_outside_the_environment_is_touched() -> Result<()> {
    let system = System::adopted_small()?;
    for dir in ["a", "b/c", "d"] {
        fs::create_dir_all(system.path(&format!("/srv/{dir}")))?;
    }
    system.be.run(&["create", "new"]).done();
    let there = |path: &str| system.env("new", path);
    // Directories of the environment have become links that lead out of it.
    let outside = tempfile::tempdir()?;
    let target = outside.path().join("target");
    fs::create_dir(&target)?;
    for dir in ["a", "b"] {
        fs::remove_dir_all(there(&format!("/srv/{dir}")))?;
        symlink(&target, there(&format!("/srv/{dir}")))?;
    }
    symlink(target.join("f"), there("/srv/d/f"))?;
    symlink(
        "../../../../../../../../etc/passwd",
        there("/srv/d/.be-put~"),
    )?;
    // And the running system writes there, under the oddest names.
    for path in ["a/f", "b/c/f", "d/f"] {
        system.write(&format!("/srv/{path}"), "from the running system")?;
    }
    let odd: [&[u8]; 4] = [b"new\nline", b"\xff\xfe", &[b'n'; 255], b"-rf"];
    for name in odd {
        fs::write(system.path("/srv/d").join(OsStr::from_bytes(name)), "odd")?;
    }
    let mut deep = system.path("/srv/deep");
    for _ in 0..200 {
        deep.push("dddddd");
    }
    fs::create_dir_all(&deep)?;
    fs::write(deep.join("f"), "deep")?;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        system.path("/srv/d/null"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::RUSR,
        rustix::fs::makedev(1, 3),
    )?;

    system.be.run(&["carry", "new", "--apply"]).done();
    assert_eq!(fs::read_dir(&target)?.count(), 0);
    for name in odd {
        let path = there("/srv/d").join(OsStr::from_bytes(name));
        assert_eq!(fs::read_to_string(path)?, "odd");
    }
    let deep = deep.strip_prefix(system.path("/"))?;
    assert_eq!(fs::read_to_string(there("/").join(deep).join("f"))?, "deep");
    let null = there("/srv/d/null").symlink_metadata()?;
    assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(fs::read_link(there("/srv/d/f"))?, target.join("f"));
    let beside = fs::read_to_string(there("/srv/d/f.be-running"))?;
    assert_eq!(beside, "from the running system");

    // A person is told until it is gone.
    system.be.run(&["activate", "--no-trial", "new"]).done();
    let status = system.be.run(&["status"]).done().stdout;
    ensure!(status.contains("and both kept: /srv/"), "{status}");
    let told = || {
        let status = system.be.run(&["status", "--json"]).done().json();
        let paths = status["beside"]["new"].as_array().cloned();
        paths
            .unwrap_or_default()
            .iter()
            .any(|p| p == "/srv/d/f.be-running")
    };
    ensure!(told(), "{status}");
    fs::remove_file(there("/srv/d/f.be-running"))?;
    ensure!(!told(), "{status}");
    Ok(())
}

#[test]
#[ignore = "needs root and loop devices"]
fn cut_off_it_goes_on() -> Result<()> {
    let make = |system: &System, from: usize, mark: &str| -> Result<()> {
        for number in from..from + 400 {
            let path = format!("/srv/{}/{number}", number % 7);
            fs::create_dir_all(system.path(&path).parent().context("no directory")?)?;
            system.write(&path, format!("{number} {mark}"))?;
            if number % 5 == 0 {
                let path = system.path(&path);
                chown(&path, Some(7), None)?;
                fs::hard_link(&path, path.with_extension("link"))?;
            }
        }
        Ok(())
    };
    let changed = || -> Result<System> {
        let system = System::adopted_small()?;
        make(&system, 0, "base")?;
        system.be.run(&["create", "new"]).done();
        for number in 0..400 {
            let path = system.path(&format!("/srv/{}/{number}", number % 7));
            match number % 3 {
                0 => fs::write(&path, "changed")?,
                1 => fs::remove_file(&path)?,
                _ => {}
            }
        }
        make(&system, 1000, "new")?;
        Ok(system)
    };
    let whole = changed()?;
    whole.be.run(&["carry", "new", "--apply"]).done();
    let expected = described(&whole.env("new", "/srv"))?;

    let system = changed()?;
    for pause in [2, 5, 10, 20, 40, 80] {
        let mut running = system.be.start(&["carry", "new", "--apply"])?;
        std::thread::sleep(std::time::Duration::from_millis(pause));
        if running.has_ended()? {
            break;
        }
        running.signal(Signal::SIGKILL)?;
        running.end()?;
        system.be.run(&["check", "new"]).done();
    }
    let last = system.be.run(&["carry", "new", "--apply"]);
    ensure!([0, 77].contains(&last.code), "{last:?}");
    assert_eq!(described(&system.env("new", "/srv"))?, expected);
    system.be.run(&["destroy", "-y", "new"]).done();
    ensure!(system.leftovers().is_empty(), "{:?}", system.leftovers());
    Ok(())
}

#[test]
#[ignore = "needs root and loop devices"]
fn somebody_has_thought_better_of_it() -> Result<()> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "new"]).done();
    fs::create_dir_all(system.path("/srv"))?;
    for number in 0..20_000 {
        system.write(&format!("/srv/{number}"), "x")?;
    }
    let held = system.top("@be/.work/new/new/base/root");
    let mut running = system.be.start(&["carry", "new", "--apply"])?;
    running.until("a snapshot", || held.exists().then_some(()))?;
    running.signal(Signal::SIGINT)?;
    let ended = running.end()?.exits(1);
    ended.says(&["it was interrupted"]);
    // It had only looked.
    let snapshots = system.be.run(&["list", "-s", "new", "-H"]).done().stdout;
    ensure!(!snapshots.contains("before-carry"), "{snapshots}");
    ensure!(system.leftovers().is_empty(), "{:?}", system.leftovers());
    Ok(())
}

#[test]
#[ignore = "needs root and loop devices"]
fn what_it_refuses() -> Result<()> {
    let system = System::adopted_small()?;
    let carry = |args: &[&str]| {
        let all: Vec<&str> = ["carry"].iter().chain(args).copied().collect();
        system.be.run(&all)
    };
    carry(&[]).exits(3).says(&["boots next", "be list"]);
    carry(&["default"])
        .exits(3)
        .says(&["default was not cloned"]);
    system.be.run(&["create", "one"]).done();
    system.be.run(&["create", "-e", "one", "two"]).done();
    carry(&["two"])
        .exits(3)
        .says(&["two was not cloned from default"]);
    carry(&["one@x"])
        .exits(3)
        .says(&["one@x is a read-only snapshot"]);
    carry(&["--strict", "one"]).exits(2).says(&["--apply"]);
    carry(&["one", "--apply"])
        .exits(77)
        .says(&["nothing changed"]);
    system.be.run(&["activate", "--no-trial", "one"]).done();
    system.write("/etc/x", "x")?;
    let shown = carry(&[]).done().stdout;
    ensure!(shown.contains("+ /etc/x\n"), "{shown}");
    ensure!(shown.contains("from default into one"), "{shown}");
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn an_upgrade_loses_nothing_that_was_done_meanwhile() -> Result<()> {
    let system = System::adopted_lab()?;
    system.set_world(&["app-misc/slow"])?;
    system.set_slow(6)?;
    system.write("/etc/gone", "x")?;
    let hello = system.read("/usr/bin/hello")?;
    let mut upgrade = system.be.start(&["upgrade", "new"])?;
    upgrade.until("a build", || system.builds_slow("new").then_some(()))?;
    system.append("/etc/passwd", "ann:x:1234:100::/home/ann:/bin/sh\n")?;
    system.append("/etc/shadow", "ann:x:1::::::\n")?;
    fs::create_dir_all(system.path("/home/ann"))?;
    chown(system.path("/home/ann"), Some(1234), Some(100))?;
    fs::remove_file(system.path("/etc/gone"))?;
    fs::create_dir_all(system.path("/var/spool/cron/crontabs"))?;
    system.write("/var/spool/cron/crontabs/ann", "@daily true\n")?;
    let large = fs::File::create(system.path("/home/ann/large"))?;
    large.set_len(50 << 30)?;
    system.set_world(&["app-misc/slow", "app-misc/hello"])?;
    let install = "emerge --sync --quiet && emerge --quiet --oneshot app-misc/hello && \
                   emerge --quiet --unmerge app-misc/confy";
    system.chroot().run(&["sh", "-c", install])?;
    let passwd = system.read("/etc/passwd")?;
    let done = upgrade.end()?.done();
    done.says(&[
        "carried what changed in default since new was cloned",
        "packages as in default, in new too: +app-misc/hello-2, -app-misc/confy-1",
    ]);
    let read = |path: &str| fs::read_to_string(system.env("new", path));
    assert_eq!(read("etc/passwd")?, passwd);
    ensure!(
        read("etc/shadow")?.contains("ann:x:"),
        "{}",
        read("etc/shadow")?
    );
    assert_eq!(read("var/spool/cron/crontabs/ann")?, "@daily true\n");
    let large = system.env("new", "home/ann/large").metadata()?;
    assert_eq!(large.len(), 50 << 30);
    assert_eq!(system.env("new", "home/ann").metadata()?.uid(), 1234);
    ensure!(!system.env("new", "etc/gone").exists());
    ensure!(read("var/lib/portage/world")?.contains("app-misc/hello"));
    // The package went over as such.
    ensure!(system.read("/usr/bin/hello")? != hello);
    assert_eq!(read("usr/bin/hello")?, system.read("/usr/bin/hello")?);
    ensure!(system.env("new", "var/db/pkg/app-misc/hello-2").exists());
    ensure!(!system.env("new", "usr/bin/confy").exists());
    ensure!(!system.top("@be/.built/packed").exists());
    let wanted = ["exec", "new", "--", "emerge", "-up", "--quiet", "@world"];
    let wanted = system.be.run(&wanted).done().stdout;
    ensure!(wanted.trim().is_empty(), "{wanted}");
    system.be.run(&["check", "new"]).done();
    system
        .be
        .run(&["carry", "new", "--apply"])
        .exits(77)
        .says(&["nothing changed"]);
    Ok(())
}
