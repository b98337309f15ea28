//! How many packages an environment has, for its title in the menu.

use std::path::Path;

use be_btrfs::Root;

use crate::model::{Environment, Subvolume};

/// Portage's record of what is installed: a directory for each package, in one for each
/// category.
const DATABASE: &str = "var/db/pkg";

/// The number of installed packages, from the names of directories alone; none where there
/// are none, or where another package manager rules.
pub(crate) fn count(root: &Root) -> Option<u32> {
    let database = root.sub(DATABASE).ok()?;
    // What begins so is Portage's own: a lock, a package that is being merged.
    let is_own = |name: &[u8]| name.starts_with(b".") || name.starts_with(b"-");
    let dirs = |root: &Root, path: &Path| {
        let list = root.list(path).unwrap_or_default().into_iter();
        list.filter(|(name, kind)| kind.is_dir() && !is_own(name.as_encoded_bytes()))
            .map(|(name, _)| name)
    };
    let categories = dirs(&database, Path::new(""));
    let sum: usize = categories
        .map(|category| dirs(&database, Path::new(&category)).count())
        .sum();
    u32::try_from(sum).ok().filter(|sum| *sum > 0)
}

/// The subvolume of an environment that the record of its packages lies in, unless there is
/// a place for it that is gone.
pub(crate) fn subvolume(env: &Environment) -> Option<&Subvolume> {
    let database = Path::new("/").join(DATABASE);
    let members = env.record.subvolumes.iter().zip(&env.subvolumes);
    let holding = members.filter(|(member, _)| database.starts_with(&member.mount));
    let nearest = holding.max_by_key(|(member, _)| member.mount.len());
    match nearest {
        Some((member, found)) if member.mount != "/" => found.as_ref(),
        _ => env.root.as_ref(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn directories_of_packages_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(count(&root), None);
        let database = dir.path().join(DATABASE);
        fs::create_dir_all(&database).unwrap();
        assert_eq!(count(&root), None);
        for path in [
            "app-misc/hello-1",
            "app-misc/hello-2-r1",
            "app-misc/-MERGING-other-1",
            "virtual/libc-1",
            "empty-category",
            ".git/objects",
        ] {
            fs::create_dir_all(database.join(path)).unwrap();
        }
        for path in ["app-misc/.hello.portage_lockfile", "app-misc/file", "world"] {
            fs::write(database.join(path), "").unwrap();
        }
        std::os::unix::fs::symlink("virtual", database.join("link")).unwrap();
        assert_eq!(count(&root), Some(3));
    }
}
