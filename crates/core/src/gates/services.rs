//! The gate `services`: what is enabled, and was there before, is there.
//!
//! What somebody has disabled meanwhile does not count: only a link that leads nowhere does.

use std::path::{Path, PathBuf};

use anyhow::Result;
use be_btrfs::Root;

use super::{Outcome, Scene};

const SYSTEMD: &str = "etc/systemd/system";
const OPENRC: &str = "etc/runlevels";

/// Where systemd finds units; what lies in its first directory are links and drop-ins, too.
const UNITS: [&str; 4] = [
    SYSTEMD,
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

pub(super) fn check(scene: &Scene<'_>) -> Result<Outcome> {
    let (count, broken) = examine(&scene.before, &scene.after);
    Ok(match (count, broken.is_empty()) {
        (0, _) => Outcome::Skipped("none was enabled".to_owned()),
        (_, true) => Outcome::Passed(format!("{count} enabled services are there")),
        (_, false) => Outcome::Failed(broken),
    })
}

/// How many were enabled, and a sentence for each that is not there any more.
pub(super) fn examine(before: &Root, after: &Root) -> (usize, Vec<String>) {
    let was = enabled(before);
    let was = was.into_iter().filter(|link| works(before, link));
    let was: Vec<_> = was.collect();
    let broken = was.iter().filter(|link| {
        let still = after.lstat(link).is_ok_and(|m| m.kind.is_symlink());
        still && !works(after, link)
    });
    let broken = broken.map(|link| {
        let name = link.file_name().unwrap_or_default().to_string_lossy();
        let link = link.display();
        format!("{name} is enabled by /{link}, and is not there any more")
    });
    (was.len(), broken.collect())
}

/// The links by which services are enabled, in both ways.
fn enabled(root: &Root) -> Vec<PathBuf> {
    let mut links = links(root, Path::new(SYSTEMD));
    for (dir, also) in [
        (SYSTEMD, [".wants", ".requires", ".upholds"]),
        (OPENRC, [""; 3]),
    ] {
        for (name, kind) in root.list(dir).unwrap_or_default() {
            let wanted = also.iter().any(|end| name.to_string_lossy().ends_with(end));
            if kind.is_dir() && wanted {
                links.extend(self::links(root, &Path::new(dir).join(name)));
            }
        }
    }
    links
}

fn links(root: &Root, dir: &Path) -> Vec<PathBuf> {
    let names = root.list(dir).unwrap_or_default().into_iter();
    let links = names.filter(|(_, kind)| kind.is_symlink());
    links.map(|(name, _)| dir.join(name)).collect()
}

/// Whether what a link enables is there. systemd goes by the name of a link below `.wants`,
/// and not by where it leads.
fn works(root: &Root, link: &Path) -> bool {
    if root.metadata(link).is_ok() {
        return true;
    }
    let dir = link.parent().unwrap_or(Path::new(""));
    let by_name = dir.parent() == Some(Path::new(SYSTEMD));
    by_name
        && names(link).iter().any(|name| {
            let places = UNITS.iter().map(|dir| Path::new(dir).join(name));
            // A link to /dev/null, which is none here: somebody wants none.
            places
                .into_iter()
                .any(|p| root.metadata(&p).is_ok() || masked(root, &p))
        })
}

fn masked(root: &Root, unit: &Path) -> bool {
    root.readlink(unit)
        .is_ok_and(|to| to == Path::new("/dev/null"))
}

/// The unit, and of an instance its template.
fn names(link: &Path) -> Vec<String> {
    let name = link.file_name().unwrap_or_default().to_string_lossy();
    let mut names = vec![name.to_string()];
    if let (Some(at), Some(dot)) = (name.find('@'), name.rfind('.'))
        && at + 1 < dot
    {
        names.push(format!("{}{}", &name[..=at], &name[dot..]));
    }
    names
}

/// Whether one of these names is enabled, as a unit or in a runlevel.
pub(super) fn is_enabled(root: &Root, wanted: &[&str]) -> bool {
    let links = enabled(root);
    let mut names = links.iter().filter_map(|link| link.file_name()?.to_str());
    names.any(|name| wanted.contains(&name))
}
