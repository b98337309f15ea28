//! Making /etc/portage as a lock says. The lock comes from elsewhere: all of it happens in a root
//! that no path can leave, and through no link.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use be_btrfs::Root;

use super::accounts::Known;
use super::owned::Owned;
use super::{CONFIGURATION, Configuration, Entry, Kind, Withheld, configuration};

/// Make it so in the environment with this root, which nobody else works in. Of what the lock does
/// not know, that stays which is private, and that which a package has installed: it goes with the
/// package. Gives the paths of which the lock has no content and which are another, or not there;
/// links that lead out, to what may be anything here; and what belongs to somebody unknown here.
///
/// # Errors
/// Something cannot be written.
pub(crate) fn apply(root: &Root, wanted: &Configuration) -> Result<Vec<String>> {
    let inside = CONFIGURATION.trim_start_matches('/');
    root.mkdir_all(inside, 0o755)?;
    let here = configuration::read(root)?;
    let dir = root.sub(inside)?;
    let what = || format!("cannot make {CONFIGURATION} as the lock says");
    let is: BTreeMap<&str, &Entry> = here.entries.iter().map(|e| (&*e.path, e)).collect();
    let to_be: BTreeMap<&str, &Entry> = wanted.entries().map(|e| (&*e.path, e)).collect();
    // What is in a directory comes behind it.
    let goes = |path: &str, entry: &Entry| match to_be.get(path) {
        Some(other) => other.kind != entry.kind,
        None => entry.withheld != Some(Withheld::Private),
    };
    let owned = match is.iter().any(|(path, e)| goes(path, e)) {
        true => Owned::read(root)?,
        false => Owned::default(),
    };
    for (path, entry) in is.iter().rev() {
        let stays = !to_be.contains_key(path) && owned.has(path);
        if goes(path, entry) && !stays {
            dir.take_away(relative(path)).with_context(what)?;
        }
    }
    let mut missing = Vec::new();
    let known = Known::read(root)?;
    for (path, entry) in &to_be {
        let there = is.get(path).filter(|e| e.kind == entry.kind).copied();
        if !put(&dir, &known, entry, there).with_context(what)? {
            missing.push((*path).to_owned());
        }
        missing.extend(unknown(&known, entry));
    }
    Ok(missing)
}

/// Make one as it is to be; false if its content is not known and not there.
fn put(dir: &Root, known: &Known, entry: &Entry, there: Option<&Entry>) -> Result<bool> {
    let path = relative(&entry.path);
    let mode = entry.mode.as_ref().map_or(0o644, |mode| mode.bits());
    match entry.kind {
        Kind::Directory => {
            if there.is_none() {
                dir.mkdir(path, mode)?;
            }
            allow(dir, known, entry, mode)?;
        }
        Kind::Link => {
            let target = entry.target.as_deref().unwrap_or_default();
            if there.and_then(|e| e.target.as_deref()) != Some(target) {
                dir.take_away(path)?;
                dir.symlink(target, path)?;
            }
            return Ok(!entry.leads_out());
        }
        Kind::File => {
            let same = there.is_some_and(|e| e.sha256.is_some() && e.sha256 == entry.sha256);
            match &entry.text {
                _ if same => {}
                Some(text) => dir.write_later(path, text.as_bytes(), mode)?,
                None => return Ok(false),
            }
            allow(dir, known, entry, mode)?;
        }
        Kind::Other => return Ok(false),
    }
    Ok(true)
}

/// Give it to whom it is to belong, as far as they are known here, with these permissions: no
/// others may have them.
fn allow(dir: &Root, known: &Known, entry: &Entry, mode: u32) -> Result<()> {
    let path = relative(&entry.path);
    let meta = dir.lstat(path)?;
    let uid = known.users.number(entry.owner.as_ref()).unwrap_or(0);
    let gid = known.groups.number(entry.group.as_ref()).unwrap_or(0);
    if (meta.uid, meta.gid) != (uid, gid) {
        dir.chown(path, uid, gid)?;
    }
    Ok(dir.chmod(path, mode)?)
}

/// That somebody is not known here.
fn unknown(known: &Known, entry: &Entry) -> Option<String> {
    let user = known.users.number(entry.owner.as_ref()).is_none();
    let group = known.groups.number(entry.group.as_ref()).is_none();
    let names = [entry.owner.as_ref(), entry.group.as_ref()];
    let names = names.iter().zip([user, group]).filter(|(_, is)| *is);
    let names: Vec<&str> = names
        .filter_map(|(name, _)| Some(&***name.as_ref()?))
        .collect();
    (!names.is_empty()).then(|| format!("{} (no {} here)", entry.path, names.join(", ")))
}

/// A path of a lock from /etc/portage on.
fn relative(path: &str) -> &Path {
    let rest = path.strip_prefix(CONFIGURATION).unwrap_or(path);
    Path::new(rest.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn put(dir: &Path, path: &str, content: &str, mode: u32) {
        let path = dir.join("etc/portage").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn one_becomes_the_other_in_both_directions() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [a, b] = dirs.each_ref().map(tempfile::TempDir::path);
        put(a, "make.conf", "a", 0o644);
        put(b, "make.conf", "b", 0o664);
        put(a, "package.use", "file", 0o644);
        put(b, "package.use/x/y", "deep", 0o644);
        put(a, "only/here", "x", 0o600);
        put(a, "gnupg/pubring.kbx", "key", 0o644);
        put(a, "gone/away", "x", 0o644);
        put(b, "bashrc", "real", 0o755);
        symlink("make.conf", a.join("etc/portage/bashrc")).unwrap();
        symlink("/a", a.join("etc/portage/make.profile")).unwrap();
        symlink("/b", b.join("etc/portage/make.profile")).unwrap();
        let [a, b] = [a, b].map(|dir| Root::open(dir).unwrap());
        let keys = dirs[0].path().join("etc/portage/gnupg/pubring.kbx");
        let [first, second] = [&a, &b].map(|root| configuration::read(root).unwrap());
        assert_eq!(apply(&a, &second).unwrap(), Vec::<String>::new());
        // Keys of the machine stay, and so does what is private, with the directory that it is in.
        assert_eq!(fs::read_to_string(keys).unwrap(), "key");
        let mut now = configuration::read(&a).unwrap();
        now.entries.retain(|e| !e.path.contains("/only"));
        assert_eq!(now.entries, second.entries);
        assert_eq!(apply(&b, &first).unwrap(), ["/etc/portage/only/here"]);
        let mut expected = first.entries;
        expected.retain(|e| !e.path.ends_with("/here"));
        assert_eq!(configuration::read(&b).unwrap().entries, expected);
    }

    #[test]
    fn what_a_package_has_installed_goes_with_it_alone() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        put(other.path(), "make.conf", "x", 0o644);
        put(dir.path(), "savedconfig/sys-kernel/kernel-1", "x", 0o644);
        put(dir.path(), "savedconfig/sys-kernel/mine", "x", 0o644);
        let saved = "/etc/portage/savedconfig/sys-kernel/kernel-1";
        crate::lock::owned::tests::own(dir.path(), &[saved]);
        let root = Root::open(dir.path()).unwrap();
        let wanted = configuration::read(&Root::open(other.path()).unwrap()).unwrap();
        apply(&root, &wanted).unwrap();
        let now = configuration::read(&root).unwrap();
        let files = now.entries.iter().filter(|e| e.kind == Kind::File);
        let files: Vec<&str> = files.map(|e| &*e.path).collect();
        assert_eq!(files, ["/etc/portage/make.conf", saved]);
    }

    #[test]
    fn whom_it_belongs_to_goes_by_name() {
        let ours = fs::metadata("/proc/self").unwrap();
        if std::os::unix::fs::MetadataExt::uid(&ours) != 0 {
            return; // Only root can give files away.
        }
        let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let [a, b, c] = dirs.each_ref().map(tempfile::TempDir::path);
        for (dir, gid) in [(a, 250), (b, 251), (c, 0)] {
            put(dir, "make.conf", "x", 0o644);
            let line = format!("portage::{gid}:\n");
            let known = if gid == 0 { "" } else { &line };
            fs::write(dir.join("etc/group"), format!("root::0:\n{known}")).unwrap();
        }
        put(a, "patches/p", "x", 0o644);
        let patches = a.join("etc/portage/patches");
        fs::set_permissions(&patches, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(&patches, Some(1234), Some(250)).unwrap();
        let [a, b, c] = [a, b, c].map(|dir| Root::open(dir).unwrap());
        let wanted = configuration::read(&a).unwrap();
        let entry = &wanted.entries[1];
        let names = [&entry.owner, &entry.group].map(|name| name.as_deref());
        assert_eq!(names, [Some("1234"), Some("portage")]);
        assert_eq!(apply(&b, &wanted).unwrap(), Vec::<String>::new());
        assert_eq!(configuration::read(&b).unwrap(), wanted);
        let meta = b.lstat("etc/portage/patches").unwrap();
        assert_eq!((meta.uid, meta.gid, meta.mode & 0o7777), (1234, 251, 0o755));
        let told = "/etc/portage/patches (no portage here)";
        assert_eq!(apply(&c, &wanted).unwrap(), [told]);
        assert_ne!(configuration::read(&c).unwrap().sha256, wanted.sha256);
    }

    #[test]
    fn nothing_outside_is_reached_by_a_link() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let outside = dir.path().join("victim");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("x"), "mine").unwrap();
        // A link where the lock has a directory, and one that a file is to replace.
        put(dir.path(), "make.conf", "x", 0o644);
        symlink("/victim", dir.path().join("etc/portage/package.use")).unwrap();
        symlink("../../victim/x", dir.path().join("etc/portage/bashrc")).unwrap();
        put(other.path(), "package.use/x", "theirs", 0o644);
        put(other.path(), "bashrc", "theirs", 0o644);
        // Links that lead out are only text.
        symlink("/../../../victim", other.path().join("etc/portage/out")).unwrap();
        let wanted = configuration::read(&Root::open(other.path()).unwrap()).unwrap();
        let root = Root::open(dir.path()).unwrap();
        // They are told.
        assert_eq!(apply(&root, &wanted).unwrap(), ["/etc/portage/out"]);
        assert_eq!(configuration::read(&root).unwrap(), wanted);
        assert_eq!(fs::read_to_string(outside.join("x")).unwrap(), "mine");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }
}
