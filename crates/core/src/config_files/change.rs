//! Changing a configuration file: first what was there is kept, then the file is replaced,
//! then what waited goes. Cut off at any moment, all that a person has written is there.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use be_btrfs::{FileType, Root};
use be_portage::config_files::Decision;
use be_portage::config_files::waiting::Kind;
use chrono::{DateTime, FixedOffset};

use super::memory::{self, DIRECTORY_MODE, FILE_MODE, Index};
use super::{HOME, Item, text};

/// What was there before, below [`HOME`].
const BEFORE: &str = "before";

/// How many times of changing are kept.
const MOST: usize = 20;

/// What is larger is no configuration file, in bytes.
const MAX_KEPT: u64 = 64 << 20;

/// The time of a change, as the name of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(String);

impl Stamp {
    /// Of this time.
    pub fn new(time: DateTime<FixedOffset>) -> Self {
        Self(time.format("%Y-%m-%d_%H%M%S").to_string())
    }

    /// The directory of what was there before, from the root of the system.
    pub fn dir(&self) -> PathBuf {
        Path::new("/").join(HOME).join(BEFORE).join(&self.0)
    }
}

/// Where the version from before is; none if there was none, or it is the same.
pub type Kept = Option<PathBuf>;

/// Whether the file is already what would have come of the version that was kept at this
/// time: a merge that was cut off before what waited was gone.
pub(crate) fn already_merged(root: &Root, item: &Item, stamp: &Stamp) -> bool {
    (0..MOST).any(|n| {
        let before = super::content(root, &kept_at(&item.target, stamp, n));
        let before = before.ok().flatten();
        before.is_some_and(|before| match item.decide(Some(&before)) {
            Decision::Merge(result) => item.ours.as_ref() == Some(&result),
            Decision::Take | Decision::Leave(_) => false,
        })
    })
}

/// A file was changed since it was looked at: what was decided was about something else.
#[derive(Debug)]
pub(crate) struct Meanwhile(PathBuf);

impl fmt::Display for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.0.display();
        write!(
            f,
            "{path} was changed meanwhile, and is left: be config again"
        )
    }
}

impl std::error::Error for Meanwhile {}

/// Give the file this content. What waits is still there: see [`done_with`].
pub(crate) fn put(root: &Root, item: &Item, content: &[u8], stamp: &Stamp) -> Result<Kept> {
    let Some(ours) = &item.ours else {
        bail!("{} is no regular file", item.target.display());
    };
    if super::content(root, &item.target)?.as_ref() != Some(ours) {
        return Err(Meanwhile(item.target.clone()).into());
    }
    if ours == content {
        return Ok(None);
    }
    let kept = keep_before(root, &item.target, ours, stamp)?;
    root.write_atomic(&item.target, content, FILE_MODE)?;
    Ok(Some(kept))
}

/// Put what waits in the place of whatever is there.
pub(super) fn take(root: &Root, item: &Item, stamp: &Stamp) -> Result<Kept> {
    let (Some(theirs), Some(_)) = (&item.theirs, &item.ours) else {
        return take_whole(root, item, stamp);
    };
    let kept = put(root, item, theirs, stamp)?;
    done_with(root, item)?;
    Ok(kept)
}

/// Leave the file as it is. What a person may have written is kept: where that is what waits,
/// this is where it is then.
pub(super) fn keep(root: &Root, item: &Item, stamp: &Stamp) -> Result<Kept> {
    let mut kept = None;
    if item.kind == Kind::Old {
        for file in &item.files {
            kept = keep_whole(root, file, stamp)?;
        }
    }
    done_with(root, item)?;
    Ok(kept)
}

/// The same where there is no content to replace: the very file that waits is renamed.
fn take_whole(root: &Root, item: &Item, stamp: &Stamp) -> Result<Kept> {
    let Some(newest) = item.files.last() else {
        return Ok(None);
    };
    let kept = keep_whole(root, &item.target, stamp)?;
    root.rename(newest, &item.target)?;
    let rest = Item {
        files: item.files[..item.files.len() - 1].to_vec(),
        ..item.clone()
    };
    done_with(root, &rest)?;
    Ok(kept)
}

/// Keep what is at a path, if there is anything.
fn keep_whole(root: &Root, path: &Path, stamp: &Stamp) -> Result<Kept> {
    match root.lstat(path) {
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e.into()),
        Ok(there) => match there.kind {
            FileType::File => {
                let content = root.read(path, MAX_KEPT)?;
                keep_before(root, path, &content, stamp).map(Some)
            }
            FileType::Symlink => keep_link(root, path, stamp).map(Some),
            FileType::Dir | FileType::Special => {
                bail!("{} is neither a file nor a link", path.display())
            }
        },
    }
}

/// What waited goes; the content of a packaged version is kept as such.
pub(crate) fn done_with(root: &Root, item: &Item) -> Result<()> {
    if let Some(theirs) = item.theirs.as_ref().filter(|_| item.kind != Kind::Old) {
        memory::keep(root, theirs)?;
    }
    // The oldest first: cut off, the newest is still there.
    for file in &item.files {
        root.remove_file(file)?;
    }
    if let Some(dir) = item.target.parent() {
        root.sync_dir(dir)?;
    }
    Index::forget(root, &text(&item.target))
}

fn kept_at(path: &Path, stamp: &Stamp, n: usize) -> PathBuf {
    let inside = path.strip_prefix("/").unwrap_or(path);
    let mut path = stamp.dir().join(inside).into_os_string();
    if n > 0 {
        path.push(format!(".{n}"));
    }
    path.into()
}

fn keep_before(root: &Root, file: &Path, content: &[u8], stamp: &Stamp) -> Result<PathBuf> {
    for n in 0..MOST {
        let path = kept_at(file, stamp, n);
        match root.read(&path, MAX_KEPT) {
            Ok(there) if there == content => return Ok(path),
            Err(e) if e.is_not_found() => {
                make_room(root, &path, stamp)?;
                root.write_atomic(&path, content, FILE_MODE)?;
                return Ok(path);
            }
            Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
    }
    bail!("{} has been changed too often", file.display())
}

fn keep_link(root: &Root, link: &Path, stamp: &Stamp) -> Result<PathBuf> {
    let path = kept_at(link, stamp, 0);
    make_room(root, &path, stamp)?;
    root.symlink(root.readlink(link)?, &path)?;
    Ok(path)
}

/// The directory for it; what was kept longest ago goes.
fn make_room(root: &Root, path: &Path, stamp: &Stamp) -> Result<()> {
    if let Some(dir) = path.parent() {
        root.mkdir_all(dir, DIRECTORY_MODE)?;
    }
    let all = Path::new(HOME).join(BEFORE);
    let mut stamps: Vec<_> = root.list(&all)?.into_iter().map(|(name, _)| name).collect();
    stamps.retain(|name| name.to_str().is_some_and(is_stamp) && name.to_str() != Some(&stamp.0));
    // They are sorted by time.
    let surplus = (stamps.len() + 1).saturating_sub(MOST);
    for name in &stamps[..surplus] {
        root.remove_tree(all.join(name))?;
    }
    Ok(())
}

fn is_stamp(name: &str) -> bool {
    let digits = |c: u8| c.is_ascii_digit() || matches!(c, b'-' | b'_');
    name.len() == 17 && name.bytes().all(digits)
}
