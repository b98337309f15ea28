//! What is in /etc/portage.

use std::path::Path;

use anyhow::{Context, Result};
use be_btrfs::{FileType, Root};
use sha2::Digest;

use super::accounts::Known;
use super::{
    CONFIGURATION, Configuration, Entry, Inside, Kind, Mode, Sha256, Target, Withheld, secret,
};
use crate::upgrade::inputs::KEYS;

/// A larger file is carried as its digest alone, in bytes.
const LARGE: u64 = 64 << 10;

/// A larger one of those that savedconfig.eclass keeps is: the configuration of a kernel, without
/// which it is not built again so, has some hundred thousand.
const LARGE_SAVED: u64 = 1 << 20;

/// What is read of a file at the most, in bytes.
const MOST: u64 = 256 << 20;

/// So deep no path can be typed.
const DEEP: usize = 200;

/// What Portage passes over wherever it lists files (`VCS_DIRS` of `portage/util`).
const HIDDEN: [&str; 6] = [".bzr", "CVS", ".git", ".hg", ".svn", ".keep"];

/// Read all of it. What Portage passes over is left out: version control, and new versions of
/// files that wait to be merged; and so are the keys of this machine.
///
/// # Errors
/// Something cannot be read.
pub(super) fn read(root: &Root) -> Result<Configuration> {
    let mut entries = Vec::new();
    let inside = CONFIGURATION.trim_start_matches('/');
    if root.is_dir(inside)? {
        let known = Known::read(root)?;
        let root = root.sub(inside)?;
        list(&root, &known, Path::new(""), true, &mut entries, 0)
            .with_context(|| format!("cannot read {CONFIGURATION}"))?;
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let sha256 = digest(&entries);
    Ok(Configuration { sha256, entries })
}

/// `public`: everybody may look into the directory.
fn list(
    root: &Root,
    known: &Known,
    dir: &Path,
    public: bool,
    entries: &mut Vec<Entry>,
    depth: usize,
) -> Result<()> {
    anyhow::ensure!(depth < DEEP, "/{} is too deep", dir.display());
    for (name, _) in root.list(dir)? {
        let path = dir.join(&name);
        if path == Path::new(KEYS) {
            continue;
        }
        let name = name.to_string_lossy();
        if HIDDEN.contains(&&*name) || name.starts_with("._cfg") || name.starts_with(".be-") {
            continue;
        }
        let Some(entry) = entry(root, known, &path, public)? else {
            continue;
        };
        let is_dir = entry.kind == Kind::Directory;
        let public = public && entry.mode.as_ref().is_none_or(|m| is_public(m.bits()));
        entries.push(entry);
        if is_dir {
            list(root, known, &path, public, entries, depth + 1)?;
        }
    }
    Ok(())
}

/// One of them; none if it is gone, or no path at all.
fn entry(root: &Root, known: &Known, path: &Path, public: bool) -> Result<Option<Entry>> {
    let shown = format!("{CONFIGURATION}/{}", path.to_string_lossy());
    let Ok(shown) = Inside::try_from(shown) else {
        return Ok(None);
    };
    let meta = match root.lstat(path) {
        Ok(meta) => meta,
        Err(e) if e.is_not_found() => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let mut entry = Entry {
        path: shown,
        kind: Kind::Other,
        mode: Some(Mode::new(meta.mode)),
        owner: known.users.name(meta.uid),
        group: known.groups.name(meta.gid),
        target: None,
        sha256: None,
        text: None,
        withheld: None,
    };
    match meta.kind {
        _ if path.to_str().is_none() => {}
        FileType::Dir => entry.kind = Kind::Directory,
        FileType::Symlink => {
            let target = root.readlink(path)?.to_string_lossy().into_owned();
            if let Ok(target) = Target::try_from(target) {
                (entry.kind, entry.mode, entry.target) = (Kind::Link, None, Some(target));
                (entry.owner, entry.group) = (None, None);
            }
        }
        FileType::File => {
            entry.kind = Kind::File;
            let content = root.read(path, MOST)?;
            entry.sha256 = Some(Sha256::new(&content));
            match text(path, public && is_public(meta.mode), content) {
                Ok(text) => entry.text = Some(text),
                Err(why) => entry.withheld = Some(why),
            }
        }
        _ => {}
    }
    Ok(Some(entry))
}

/// Whether others than owner and group have a way to it.
fn is_public(mode: u32) -> bool {
    mode & 0o007 != 0
}

/// The content of a file that may be given to others.
fn text(path: &Path, public: bool, content: Vec<u8>) -> Result<String, Withheld> {
    if !public {
        return Err(Withheld::Private);
    }
    let most = match path.starts_with("savedconfig") {
        true => LARGE_SAVED,
        false => LARGE,
    };
    let is_large = content.len() as u64 > most;
    let text = String::from_utf8(content).map_err(|_| Withheld::Binary)?;
    match text {
        text if secret::is_in(&text) => Err(Withheld::Private),
        _ if is_large => Err(Withheld::Large),
        text if text.contains('\0') => Err(Withheld::Binary),
        text => Ok(text),
    }
}

/// One digest over all entries: the same if and only if they are, contents by their digests.
pub(super) fn digest(entries: &[Entry]) -> Sha256 {
    let mut hash = sha2::Sha256::new();
    for entry in entries {
        let kind = match entry.kind {
            Kind::File => "file",
            Kind::Directory => "directory",
            Kind::Link => "link",
            Kind::Other => "other",
        };
        let mode = entry.mode.as_deref().unwrap_or_default();
        let target = entry.target.as_deref().unwrap_or_default();
        let content = entry.sha256.as_deref().unwrap_or_default();
        let mut parts = vec![&*entry.path, kind, mode, target, content];
        // No path is called so: what they begin cannot be another entry.
        for (key, account) in [("owner", &entry.owner), ("group", &entry.group)] {
            parts.extend(account.iter().flat_map(|name| [key, name]));
        }
        for part in parts {
            // No name can end in what another begins with.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    Sha256::of(hash)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn put(dir: &Path, path: &str, content: &[u8], mode: u32) {
        let path = dir.join("etc/portage").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn all_is_listed_and_only_what_may_be_shown_is_carried() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert!(read(&root).unwrap().entries.is_empty());
        put(dir.path(), "make.conf", b"USE=\"a\"\n", 0o644);
        put(dir.path(), "package.use/x", b"a/b c\n", 0o644);
        put(dir.path(), "package.use/y", b"a/b c\n", 0o640);
        put(dir.path(), "env/deep/x", b"x\n", 0o644);
        let closed = fs::Permissions::from_mode(0o700);
        fs::set_permissions(dir.path().join("etc/portage/env"), closed).unwrap();
        put(dir.path(), "secret", b"token\n", 0o600);
        put(dir.path(), "gnupg/pubring", b"key\n", 0o644);
        put(dir.path(), "patches/gnupg/p", b"x\n", 0o644);
        put(dir.path(), "patches/p", b"\xff\xfe", 0o644);
        put(dir.path(), "large", &[b'x'; 65 << 10], 0o644);
        put(
            dir.path(),
            "savedconfig/sys-kernel/x",
            &[b'x'; 65 << 10],
            0o644,
        );
        put(
            dir.path(),
            "repos.conf/x",
            b"sync-uri = https://me:pass@host/x\n",
            0o644,
        );
        put(
            dir.path(),
            "repos.conf/y",
            b"sync-uri = ssh://git@host:22/x # me@host\n",
            0o644,
        );
        put(dir.path(), "key", b"-----BEGIN PRIVATE KEY-----\n", 0o644);
        put(dir.path(), ".git/config", b"x\n", 0o644);
        put(dir.path(), "._cfg0000_make.conf", b"x\n", 0o644);
        symlink("/outside", dir.path().join("etc/portage/make.profile")).unwrap();
        let found = read(&root).unwrap();
        let shown: Vec<String> = found
            .entries
            .iter()
            .filter(|e| e.kind != Kind::Directory)
            .map(|e| {
                let name = e.path.strip_prefix("/etc/portage/").unwrap();
                let why = e.withheld.map(|w| format!(" {w:?}")).unwrap_or_default();
                format!("{name}{}{why}", e.text.as_ref().map_or("", |_| " text"))
            })
            .collect();
        assert_eq!(
            shown,
            [
                "env/deep/x Private",
                "key Private",
                "large Large",
                "make.conf text",
                "make.profile",
                "package.use/x text",
                "package.use/y Private",
                "patches/gnupg/p text",
                "patches/p Binary",
                "repos.conf/x Private",
                "repos.conf/y text",
                "savedconfig/sys-kernel/x text",
                "secret Private",
            ]
        );
    }

    #[test]
    fn every_change_gives_another_digest() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        put(dir.path(), "make.conf", b"x", 0o644);
        let mut seen = vec![read(&root).unwrap().sha256];
        let path = dir.path().join("etc/portage/make.conf");
        let changes: [&dyn Fn(); 4] = [
            &|| fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap(),
            &|| fs::write(&path, "y").unwrap(),
            &|| symlink("make.conf", dir.path().join("etc/portage/link")).unwrap(),
            &|| {
                fs::remove_file(dir.path().join("etc/portage/link")).unwrap();
                symlink("make.confx", dir.path().join("etc/portage/link")).unwrap();
            },
        ];
        for change in changes {
            change();
            let now = read(&root).unwrap().sha256;
            assert!(!seen.contains(&now));
            seen.push(now);
        }
    }
}
