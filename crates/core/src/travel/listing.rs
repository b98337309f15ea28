//! What a stream has written, a line for each path: both sides make it, and it has to be the
//! same.
//!
//! ```text
//! path kind mode owner group size mtime links device attributes content
//! ```
//!
//! In the path every byte is `%XX` that is not a printable character of ASCII, a blank or a
//! percent sign. Attributes and content are the first half of a SHA-256: of the extended
//! attributes in their order, of a file's content, of the target of a link, and of a
//! directory the names in it, sorted. Directories at which other subvolumes were are left
//! out, as `btrfs send` leaves them out; so is `security.selinux`, which a machine that has a
//! policy may give to what it makes itself.
//!
//! Of a file it is that of each block of 64 KiB that is not all zeros, from its beginning, the
//! last one being as long as it is: its offset (u64, little-endian), then its bytes. A hole is
//! zeros, and costs nothing.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use be_btrfs::stream::Touched;
use be_btrfs::{FileType, Root};
use rustix::fs::{AtFlags, SeekFrom, Stat, lgetxattr, llistxattr, seek, statat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::Travel;
use super::frame::{Kind, Reader, Writer, hex};
use crate::parallel;

/// So many paths are looked at in one go, on all processors.
const BATCH: usize = 512;
/// The inode of an empty directory in the place of a subvolume, and that of a subvolume.
const OF_SUBVOLUMES: [u64; 2] = [2, 256];

/// Write the listing of a subvolume; gives how many paths it has.
pub(super) fn write(to: &mut Writer<impl Write>, root: &Root, touched: Touched) -> Result<u64> {
    let count = touched.len() as u64;
    each_batch(touched, |paths| {
        let mut text = String::new();
        for line in parallel::map(paths, |path| line(root, path)) {
            text += &line?;
            text.push('\n');
            if text.len() > super::frame::LONGEST / 2 {
                to.frame(Kind::Listing, text.as_bytes())?;
                text.clear();
            }
        }
        Ok(to.frame(Kind::Listing, text.as_bytes())?)
    })?;
    to.frame(Kind::EndOfListing, b"")?;
    Ok(count)
}

/// Read a listing, and see that a subvolume is so; gives how many paths it has.
///
/// # Errors
/// [`Travel::Differs`] for the first path that is not.
pub(super) fn verify(
    from: &mut Reader<impl Read>,
    root: &Root,
    mount: &str,
    touched: Touched,
) -> Result<u64> {
    let count = touched.len() as u64;
    let mut expected = Lines {
        from,
        text: String::new(),
        at: 0,
        ended: false,
    };
    each_batch(touched, |paths| {
        let found = parallel::map(paths, |path| line(root, path));
        for (path, found) in paths.iter().zip(found) {
            compare(mount, path, expected.next()?, &found)?;
        }
        Ok(())
    })?;
    match expected.next()? {
        None => Ok(count),
        Some(line) => Err(Travel::Differs {
            path: line.split(' ').next().unwrap_or_default().to_owned(),
            why: "the stream did not write it".into(),
        }
        .into()),
    }
}

fn each_batch(touched: Touched, mut each: impl FnMut(&[PathBuf]) -> Result<()>) -> Result<()> {
    let mut paths = touched.into_paths();
    loop {
        let batch: Vec<PathBuf> = paths.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            return Ok(());
        }
        each(&batch)?;
    }
}

/// The lines of a listing that comes in frames.
struct Lines<'a, R> {
    from: &'a mut Reader<R>,
    text: String,
    at: usize,
    ended: bool,
}

impl<R: Read> Lines<'_, R> {
    fn next(&mut self) -> Result<Option<&str>> {
        while !self.ended && self.at == self.text.len() {
            let (kind, bytes) = self.from.frame()?;
            match kind {
                Kind::Listing => {
                    let text = String::from_utf8(bytes.to_vec());
                    self.text = text.map_err(|_| Travel::damaged("its listing is no text"))?;
                    self.at = 0;
                }
                Kind::EndOfListing => self.ended = true,
                _ => return Err(Travel::damaged("a frame is not in its place").into()),
            }
        }
        if self.ended {
            return Ok(None);
        }
        let rest = &self.text[self.at..];
        let line = rest.split('\n').next().unwrap_or_default();
        self.at = (self.at + line.len() + 1).min(self.text.len());
        Ok(Some(line))
    }
}

const FIELDS: [&str; 11] = [
    "path",
    "kind",
    "mode",
    "owner",
    "group",
    "size",
    "mtime",
    "links",
    "device",
    "attributes",
    "content",
];

fn compare(mount: &str, path: &Path, expected: Option<&str>, found: &Result<String>) -> Result<()> {
    let differs = |why: String| -> Result<()> {
        let path = format!("{}/{}", mount.trim_end_matches('/'), escaped(path));
        Err(Travel::Differs { path, why }.into())
    };
    let (expected, found) = match (expected, found) {
        (Some(expected), Ok(found)) if expected == found => return Ok(()),
        (None, _) => return differs("it is not in the listing".into()),
        (_, Err(e)) => return differs(format!("{e:#}")),
        (Some(expected), Ok(found)) => (expected, found),
    };
    let pairs = expected.split(' ').zip(found.split(' ')).zip(FIELDS);
    let mut wrong = pairs.filter(|((expected, found), _)| expected != found);
    match wrong.next() {
        Some(((expected, found), field)) => {
            differs(format!("its {field} is {found} and not {expected}"))
        }
        None => differs("it has another line in the listing".into()),
    }
}

fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'!'..=b'~' if byte != b'%' => text.push(char::from(byte)),
            _ => {
                let _always = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

/// One line, without its end.
fn line(root: &Root, path: &Path) -> Result<String> {
    let context = || format!("cannot read {}", path.display());
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    let dir = root.sub(parent.unwrap_or(Path::new(".")))?;
    let name = Path::new(path.file_name().unwrap_or(".".as_ref()));
    let stat = statat(dir.fd(), name, AtFlags::SYMLINK_NOFOLLOW).with_context(context)?;
    let kind = FileType::from_mode(stat.st_mode);
    let content = match kind {
        FileType::File => content(&dir, name).with_context(context)?,
        FileType::Symlink => digest(dir.readlink(name)?.as_os_str().as_bytes()),
        FileType::Dir => names(&dir, name)?,
        FileType::Special => "-".to_owned(),
    };
    let word = match kind {
        FileType::File => "file",
        FileType::Symlink => "link",
        FileType::Dir => "directory",
        FileType::Special => "special",
    };
    // What a directory takes, and how often it is named, is the filesystem's own affair.
    let (size, links) = match kind.is_dir() {
        true => (0, 0),
        false => (stat.st_size, stat.st_nlink),
    };
    let attributes = attributes(&dir, name).with_context(context)?;
    Ok(format!(
        "{} {word} {:o} {} {} {size} {} {links} {} {attributes} {content}",
        escaped(path),
        stat.st_mode,
        stat.st_uid,
        stat.st_gid,
        time(&stat),
        stat.st_rdev,
    ))
}

fn time(stat: &Stat) -> String {
    format!("{}.{:09}", stat.st_mtime, stat.st_mtime_nsec)
}

fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes)[..16])
}

/// A power of two.
const BLOCK: usize = 64 << 10;

fn content(dir: &Root, name: &Path) -> Result<String> {
    let file = dir.file(name)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 4 * BLOCK];
    let mut at = 0;
    while let Some((from, to)) = data(&file, at)? {
        // The whole of the first block, of which a part may be a hole.
        at = at.max(from - from % BLOCK as u64);
        while at < to {
            let count = read_at(&file, &mut buffer, at)?;
            if count == 0 {
                return Ok(hex(&hash.finalize()[..16]));
            }
            for block in buffer[..count].chunks(BLOCK) {
                if *block != ZEROS[..block.len()] {
                    hash.update(at.to_le_bytes());
                    hash.update(block);
                }
                at += block.len() as u64;
            }
        }
    }
    Ok(hex(&hash.finalize()[..16]))
}

static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// The first piece of a file, at a place or after it, that is no hole.
fn data(file: &File, at: u64) -> Result<Option<(u64, u64)>> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(from) => match seek(file, SeekFrom::Hole(from)) {
            Ok(to) => Ok(Some((from, to))),
            Err(e) => Err(e.into()),
        },
        // No more of it.
        Err(Errno::NXIO) => Ok(None),
        // A filesystem that does not know.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some((at, u64::MAX))),
        Err(e) => Err(e.into()),
    }
}

/// As much as there is, up to all of the buffer.
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(filled)
}

fn names(dir: &Root, name: &Path) -> Result<String> {
    let dir = dir.sub(name)?;
    let mut names = Vec::new();
    for (name, kind) in dir.list(".")? {
        if kind.is_dir() {
            let stat = statat(dir.fd(), &name, AtFlags::SYMLINK_NOFOLLOW)?;
            if OF_SUBVOLUMES.contains(&stat.st_ino) {
                continue;
            }
        }
        names.push(name);
    }
    names.sort();
    let mut hash = Sha256::new();
    for name in names {
        hash.update(name.as_bytes());
        hash.update([0]);
    }
    Ok(hex(&hash.finalize()[..16]))
}

/// What SELinux keeps of a file.
const LABEL: &[u8] = b"security.selinux";

fn attributes(dir: &Root, name: &Path) -> Result<String> {
    // Linux has no larger ones.
    const MOST: usize = 64 << 10;
    // No system call lists those of a name in an open directory; the last name of this path
    // is not followed.
    let path = Path::new("/proc/self/fd")
        .join(dir.fd().as_raw_fd().to_string())
        .join(name);
    let mut list = vec![0; MOST];
    let length = match llistxattr(&path, &mut list[..]) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok("-".to_owned()),
        length => length?,
    };
    let mut names: Vec<&[u8]> = list[..length].split(|b| *b == 0).collect();
    names.retain(|name| !name.is_empty() && *name != LABEL);
    if names.is_empty() {
        return Ok("-".to_owned());
    }
    names.sort_unstable();
    let mut hash = Sha256::new();
    for name in names {
        let mut value = vec![0; MOST];
        let length = lgetxattr(&path, std::ffi::OsStr::from_bytes(name), &mut value[..])?;
        for part in [name, &value[..length]] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    Ok(hex(&hash.finalize()[..16]))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt;

    use be_btrfs::stream::Command;

    use super::*;

    fn touched(paths: &[&Path]) -> Touched {
        let mut touched = Touched::default();
        for path in paths {
            touched.note(&Command::Chmod { path, mode: 0 });
        }
        touched
    }

    fn listed(root: &Path, paths: &[&Path]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes).unwrap();
        let root = Root::open(root).unwrap();
        write(&mut writer, &root, touched(paths)).unwrap();
        writer.end().unwrap();
        bytes
    }

    fn verified(bytes: &[u8], root: &Path, paths: &[&Path]) -> Result<u64> {
        let mut reader = Reader::new(bytes)?;
        verify(&mut reader, &Root::open(root)?, "/var", touched(paths))
    }

    #[test]
    fn holes_are_zeros_and_cost_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let block = BLOCK as u64;
        let digest = |size: u64, pieces: &[(u64, &[u8])]| {
            let file = fs::File::create(dir.path().join("f")).unwrap();
            file.set_len(size).unwrap();
            for (at, bytes) in pieces {
                file.write_all_at(bytes, *at).unwrap();
            }
            content(&root, Path::new("f")).unwrap()
        };
        let size = 9 * block + 7;
        let zeros = vec![0; 5 * BLOCK];
        let (early, late) = (block + 3, 8 * block);
        let expected = digest(size, &[(early, b"a"), (late, b"b")]);
        for same in [
            &[(0, &zeros[..]), (early, b"a"), (late, b"b")][..],
            &[(2 * block, &zeros[..]), (early, b"a"), (late, b"b")],
            &[
                (0, &zeros[..9]),
                (early, b"a"),
                (late, b"b"),
                (size - 1, b"\0"),
            ],
        ] {
            assert_eq!(digest(size, same), expected);
        }
        for other in [
            &[(early + 1, &b"a"[..]), (late, b"b")][..],
            &[(early, b"a"), (late - block, b"b")],
            &[(early, b"ab")],
            &[(early, b"b"), (late, b"a")],
            &[(early, b"a"), (late, b"b"), (size - 1, b"c")],
            &[],
        ] {
            assert_ne!(digest(size, other), expected);
        }
        // To read all of it would take minutes.
        let all = 100 << 30;
        assert_ne!(digest(all, &[(all - 1, b"x")]), digest(all, &[]));
    }

    #[test]
    fn what_is_as_it_was_sent_and_what_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let odd = Path::new(std::ffi::OsStr::from_bytes(b"d/a b%\xff\n"));
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join(odd), "x").unwrap();
        std::os::unix::fs::symlink("/nowhere", root.join("link")).unwrap();
        let paths = [Path::new(""), Path::new("d"), odd, Path::new("link")];
        let bytes = listed(root, &paths);
        assert_eq!(verified(&bytes, root, &paths).unwrap(), 4);

        // A label of its own is nothing else; only root can give one, and not everywhere.
        let none = rustix::fs::XattrFlags::empty();
        let labelled = root.join(odd);
        let label = |name: &str| rustix::fs::lsetxattr(&labelled, name, b"own", none).is_ok();
        let _as_it_may_be = label("security.selinux");
        assert_eq!(verified(&bytes, root, &paths).unwrap(), 4);
        if label("user.selinux") {
            assert!(verified(&bytes, root, &paths).is_err());
            rustix::fs::lremovexattr(&labelled, "user.selinux").unwrap();
        }

        let error = |paths: &[&Path]| verified(&bytes, root, paths).unwrap_err().to_string();
        assert!(error(&paths[..3]).contains("did not write it"));
        assert!(
            error(&paths[1..]).contains("/var/d"),
            "{}",
            error(&paths[1..])
        );
        let time = fs::metadata(root.join(odd)).unwrap().modified().unwrap();
        fs::write(root.join(odd), "y").unwrap();
        let file = fs::File::options()
            .write(true)
            .open(root.join(odd))
            .unwrap();
        file.set_modified(time).unwrap();
        let why = error(&paths);
        assert!(
            why.contains("/var/d/a%20b%25%FF%0A") && why.contains("its content is"),
            "{why}"
        );
        fs::remove_file(root.join(odd)).unwrap();
        assert!(error(&paths).contains("/var/d is not as it was sent"));
    }
}
