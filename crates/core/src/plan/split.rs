//! `be layout split`: a directory of the running system becomes a subvolume of its own.
//!
//! 1. The subvolume that it lies in is snapshot, so that one moment is copied; the copy is
//!    made under `.work` and shares its data.
//! 2. It appears in its place by one rename.
//! 3. A line in fstab mounts it from the next boot on. Until then nothing looks different,
//!    and the old directory stays where it is, below the mount, afterwards.
//!
//! What is changed in the old directory between the copy and that boot is not in the copy.
//! Nobody may work in it when it is made, `be` counts what is changed nevertheless, and to
//! split it again makes the copy anew, as long as nobody wrote to it.

use std::path::{Path, PathBuf};

use super::create::MIN_FREE;
use super::{Plan, Step};
use crate::fstab::Entry;
use crate::layout::{self, Pending, default_policy, holds_packages, location};
use crate::model::{Inventory, STORE, Subvolume};
use crate::name::EnvName;
use crate::processes::Holder;
use crate::record::Policy;
use crate::refusal::{NoSplit, Refusal};

/// Bytes of metadata for a file, with its names and its extents: more than it takes mostly.
const PER_FILE: u64 = 2 << 10;

/// Where no subvolume of its own may be, nor below: what boots is in the root, and what the
/// kernel or the boot fills holds nothing that lasts.
const FIXED: [&str; 6] = ["/boot", "/etc", "/dev", "/proc", "/sys", "/run"];

/// What is asked for, with what was found out.
#[derive(Debug, Clone)]
pub struct Split {
    /// Which directory, without `.` and `..`.
    pub path: PathBuf,
    /// What becomes of it in a clone; what is usual for the place without one.
    pub policy: Option<Policy>,
    /// How it looks.
    pub found: Found,
    /// It was split already, and that has not taken effect.
    pub pending: Option<Pending>,
    /// What its subvolume would be called is there already.
    pub taken: bool,
    /// Who works in it.
    pub holders: Vec<Holder>,
    /// The command that installs GRUB on this machine, if it can be told.
    pub grub_install: Option<String>,
}

/// What is at a path of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or no directory.
    Nothing,
    /// A link on the way leads there.
    Link(PathBuf),
    /// The root of a subvolume.
    Subvolume,
    /// A directory.
    Directory {
        /// How many files are in it.
        files: u64,
        /// Bytes in it that cannot be shared with a copy.
        unshared: u64,
        /// Subvolumes in it, as paths in the system.
        crossings: Vec<PathBuf>,
    },
}

/// How to do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitSpec {
    /// Where it is.
    pub mount: PathBuf,
    /// What becomes of it in a clone.
    pub policy: Policy,
    /// The subvolume that it lies in.
    pub from: Subvolume,
    /// The path in that.
    pub within: PathBuf,
    /// Where the new one is to be, from the top level.
    pub to: PathBuf,
    /// The UUID of an earlier copy, of which it takes the place.
    pub replaces: Option<String>,
    /// The environment whose record names it.
    pub owner: Option<EnvName>,
    /// The root of the running system, which has the fstab.
    pub root: PathBuf,
}

/// The subvolume of the running system that a path lies in, and the path in it.
///
/// # Errors
/// [`Refusal::NoSplit`] if it lies in none of its own.
pub fn holder<'a>(inv: &'a Inventory, path: &Path) -> Result<(&'a Subvolume, PathBuf), Refusal> {
    let refuse = |why| Refusal::NoSplit {
        path: path.to_owned(),
        why,
    };
    let layout = &inv.system.layout;
    let around = |at: &Path| path != at && path.starts_with(at);
    let part = layout.parts.iter().rfind(|p| around(&p.mount));
    let mount = part.map_or(Path::new("/"), |p| p.mount.as_path());
    let deeper = |at: &&Path| around(at) && at.starts_with(mount) && *at != mount;
    let mounted = inv.system.mounts.iter().map(|m| m.target.as_path());
    let listed = layout.fstab.entries().map(|e| e.target.as_path());
    if let Some(at) = mounted.chain(listed).find(deeper) {
        return Err(refuse(NoSplit::Mounted { at: at.to_owned() }));
    }
    let within = path.strip_prefix(mount).unwrap_or(path).to_owned();
    match part {
        Some(part) if !part.is_own() => Err(refuse(NoSplit::Shared {
            part: part.mount.clone(),
        })),
        Some(part) => Ok((&part.subvolume, within)),
        None => Ok((&inv.system.root, within)),
    }
}

/// The rules that need nothing but the path, and where GRUB's own files are in the root.
///
/// # Errors
/// [`Refusal::NoSplit`].
pub fn may_split(
    path: &Path,
    policy: Option<Policy>,
    grub_home: Option<&str>,
) -> Result<(), Refusal> {
    let refuse = |why| {
        let path = path.to_owned();
        Err(Refusal::NoSplit { path, why })
    };
    if is_grub_home(path, grub_home) {
        // One GRUB boots all environments.
        return match policy {
            None | Some(Policy::Shared) => Ok(()),
            Some(_) => refuse(NoSplit::Grub),
        };
    }
    let store = Path::new("/").join(STORE);
    if path == Path::new("/")
        || path.starts_with(store)
        || FIXED.iter().any(|f| path.starts_with(f))
    {
        return refuse(NoSplit::Fixed);
    }
    if !path.is_absolute() || path.to_str().is_none() {
        return refuse(NoSplit::NotDirectory);
    }
    if holds_packages(path) {
        return refuse(NoSplit::Packages);
    }
    Ok(())
}

fn is_grub_home(path: &Path, grub_home: Option<&str>) -> bool {
    grub_home.is_some_and(|home| path.strip_prefix("/") == Ok(Path::new(home)))
}

/// Plan it.
///
/// # Errors
/// Every rule that forbids it.
pub fn split(inv: &Inventory, request: &Split) -> Result<Plan, Refusal> {
    inv.writable()?;
    inv.undamaged()?;
    let running = inv.running()?;
    let path = request.path.as_path();
    let grub_home = inv.system.grub_home.as_deref();
    may_split(path, request.policy, grub_home)?;
    let refuse = |why| {
        let path = path.to_owned();
        Err(Refusal::NoSplit { path, why })
    };
    let pending = request.pending.as_ref();
    if let Some(pending) = pending.filter(|p| p.written) {
        let name = pending.subvolume.path.clone();
        return refuse(NoSplit::Written { name });
    }
    if pending.is_none() && inv.system.layout.part_at(path).is_some() {
        return refuse(NoSplit::Subvolume);
    }
    let listed = inv.system.layout.fstab.at(path).is_some() && pending.is_none();
    if listed || inv.system.mount_at(path).is_some() {
        let at = path.to_owned();
        return refuse(NoSplit::Mounted { at });
    }
    let (from, within) = holder(inv, path)?;
    let (files, unshared, crossings) = match &request.found {
        Found::Nothing => return refuse(NoSplit::NotDirectory),
        Found::Link(to) => return refuse(NoSplit::Link { to: to.clone() }),
        Found::Subvolume => return refuse(NoSplit::Subvolume),
        Found::Directory {
            files,
            unshared,
            crossings,
        } => (*files, *unshared, crossings),
    };
    let paths = held(inv, path, crossings);
    if !paths.is_empty() {
        return refuse(NoSplit::Holds { paths });
    }
    if let Some(path) = inv.system.swapfiles.first() {
        // It keeps the subvolume from being snapshot.
        return Err(Refusal::Swapfile { path: path.clone() });
    }
    if !request.holders.is_empty() {
        let by = request.holders.iter().map(Holder::to_string).collect();
        return refuse(NoSplit::InUse { by });
    }
    let needed = MIN_FREE
        .saturating_add(unshared)
        .saturating_add(files.saturating_mul(PER_FILE));
    if inv.fs.free < needed {
        let free = inv.fs.free;
        return Err(Refusal::NoSpace { free, needed });
    }
    let usual = pending.map_or_else(|| default_policy(path), |p| p.policy);
    let policy = request.policy.unwrap_or(usual);
    let to = match pending {
        Some(pending) => pending.subvolume.path.clone(),
        None if request.taken => {
            let name = location(inv, path, policy);
            return refuse(NoSplit::Taken { name });
        }
        None => location(inv, path, policy),
    };
    let known = |m: &crate::record::Member| Path::new(&m.mount) == path;
    let recorded = match pending {
        Some(_) => running.record.subvolumes.iter().any(known),
        None => policy != Policy::Shared,
    };
    let spec = SplitSpec {
        mount: path.to_owned(),
        policy,
        from: from.clone(),
        within,
        to,
        replaces: pending.map(|p| p.subvolume.uuid.clone()),
        owner: recorded.then(|| running.name().clone()),
        root: inv.system.root.path.clone(),
    };
    let mut plan = Plan::default();
    if pending.is_none() && is_grub_home(path, grub_home) {
        plan.notes = grub_advice(&spec, request.grub_install.as_deref());
    } else if pending.is_none() {
        plan.notes = advice(inv, &spec);
    }
    let line = pending.is_none().then(|| Step::AddMount {
        entry: entry(inv, &spec),
        spec: Box::new(spec.clone()),
    });
    plan.steps.push(Step::Split(Box::new(spec)));
    plan.steps.extend(line);
    Ok(plan)
}

/// What lies in the directory, and is not of it.
fn held(inv: &Inventory, path: &Path, crossings: &[PathBuf]) -> Vec<PathBuf> {
    let layout = &inv.system.layout;
    let mounted = inv.system.mounts.iter().map(|m| &m.target);
    let listed = layout.fstab.entries().map(|e| &e.target);
    let parts = layout.parts.iter().map(|p| &p.mount);
    let all = mounted.chain(listed).chain(parts).chain(crossings);
    let mut held: Vec<_> = all
        .filter(|at| *at != path && at.starts_with(path))
        .cloned()
        .collect();
    held.sort();
    held.dedup();
    held
}

/// The line for fstab. Without `nofail`, also for what is shared: as long as the old
/// directory is there, a mount that fails must be seen, or programs go on with old data.
fn entry(inv: &Inventory, spec: &SplitSpec) -> Entry {
    let mut options = layout::added_options(&inv.system.layout);
    options.push(format!("subvol=/{}", spec.to.display()));
    Entry {
        source: format!("UUID={}", inv.fs.uuid),
        target: spec.mount.clone(),
        fstype: "btrfs".into(),
        options,
    }
}

fn advice(inv: &Inventory, spec: &SplitSpec) -> Vec<String> {
    let mount = spec.mount.display();
    let over = layout::mount_over(inv, &spec.mount);
    let below = Path::new("/mnt").join(&spec.within);
    vec![
        format!(
            "{mount} is the old directory until the reboot: change nothing in it meanwhile; be \
             layout counts what was, and be layout split {mount} copies it anew"
        ),
        format!(
            "after the reboot its old files lie below the mount; to remove them then: mount \
             --bind {} /mnt && find {} -xdev -mindepth 1 -delete; umount /mnt",
            over.display(),
            quoted(&below)
        ),
    ]
}

/// GRUB reads the old files until it is installed from the new ones, and boots all the same:
/// both read the menu of the environments.
fn grub_advice(spec: &SplitSpec, install: Option<&str>) -> Vec<String> {
    let mount = spec.mount.display();
    let install = install.unwrap_or("grub-install with your own arguments");
    vec![format!(
        "GRUB goes on reading its old files, below that mount, until it is installed from there. \
         This is yours to do, now or later: mount {mount} && {install}"
    )]
}

/// For a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:".contains(c);
    match text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{env, inventory};
    use super::*;
    use crate::fstab::Fstab;
    use crate::layout::Part;
    use crate::model::Mount;

    const FSTAB: &str = "UUID=f / btrfs noatime,subvol=@ 0 0\n\
                         UUID=f /var btrfs subvol=@var 0 0\n\
                         UUID=f /home btrfs subvol=@home 0 0\n\
                         tmpfs /srv/cache/tmp tmpfs size=1G\n";

    fn part(mount: &str, policy: Policy) -> Part {
        Part {
            mount: mount.into(),
            subvolume: Subvolume {
                id: 300,
                uuid: "uuid-300".into(),
                path: format!("@{}", &mount[1..]).into(),
                generation: 1,
            },
            within: PathBuf::new(),
            listed: true,
            source: None,
            policy,
            chosen: false,
            nested: Vec::new(),
        }
    }

    fn system() -> Inventory {
        let mut inv = inventory(vec![
            env("default", 256)
                .running()
                .next()
                .with(|e| e.record.adopted = true),
        ]);
        inv.system.layout.fstab = Fstab::parse(FSTAB);
        inv.system.layout.parts = vec![part("/home", Policy::Shared), part("/var", Policy::Cloned)];
        inv
    }

    fn request(path: &str) -> Split {
        Split {
            path: path.into(),
            policy: None,
            found: Found::Directory {
                files: 3,
                unshared: 0,
                crossings: Vec::new(),
            },
            pending: None,
            taken: false,
            grub_install: None,
            holders: Vec::new(),
        }
    }

    fn refused(inv: &Inventory, request: &Split) -> NoSplit {
        match split(inv, request) {
            Err(Refusal::NoSplit { why, .. }) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_line_in_fstab_comes_last() {
        let inv = system();
        let plan = split(&inv, &request("/var/lib/mysql")).unwrap();
        let [Step::Split(spec), Step::AddMount { entry, .. }] = &plan.steps[..] else {
            panic!("{plan:?}");
        };
        assert_eq!(spec.from.path, Path::new("@var"));
        assert_eq!(spec.within, Path::new("lib/mysql"));
        assert_eq!(spec.to, Path::new("@var-lib-mysql"));
        assert_eq!((spec.policy, &spec.owner), (Policy::Shared, &None));
        assert_eq!(entry.options, ["noatime", "subvol=/@var-lib-mysql"]);
        assert!(plan.notes[1].contains("mount --bind /var /mnt && find /mnt/lib/mysql "));

        let mut late = request("/srv/db");
        late.policy = Some(Policy::Late);
        let plan = split(&inv, &late).unwrap();
        let Step::Split(spec) = &plan.steps[0] else {
            panic!("{plan:?}");
        };
        assert_eq!(spec.from.path, inv.system.root.path);
        assert_eq!(spec.owner.as_ref().unwrap().as_str(), "default");
    }

    #[test]
    fn grubs_own_files_can_only_be_shared() {
        let mut inv = system();
        let mut grub = request("/boot/grub");
        grub.grub_install = Some("grub-install /dev/sda".into());
        let plan = split(&inv, &grub).unwrap();
        let Step::Split(spec) = &plan.steps[0] else {
            panic!("{plan:?}");
        };
        assert_eq!((spec.policy, &spec.owner), (Policy::Shared, &None));
        assert_eq!(spec.to, Path::new("@boot-grub"));
        assert!(plan.notes[0].ends_with("mount /boot/grub && grub-install /dev/sda"));
        for policy in [Policy::Cloned, Policy::Late] {
            grub.policy = Some(policy);
            assert_eq!(refused(&inv, &grub), NoSplit::Grub);
        }
        // Elsewhere it is only a directory of /boot.
        inv.system.grub_home = None;
        assert_eq!(refused(&inv, &request("/boot/grub")), NoSplit::Fixed);
    }

    #[test]
    fn once_more_before_the_reboot() {
        let mut inv = system();
        let mut again = request("/srv/db");
        let entry = "UUID=f /srv/db btrfs subvol=@srv-db 0 0\n";
        inv.system.layout.fstab = Fstab::parse(&format!("{FSTAB}{entry}"));
        let there = part("/srv/db", Policy::Late);
        inv.system.layout.parts.push(there.clone());
        assert_eq!(refused(&inv, &again), NoSplit::Subvolume);
        again.pending = Some(Pending {
            mount: "/srv/db".into(),
            subvolume: there.subvolume,
            policy: Policy::Late,
            changed: 2,
            written: false,
        });
        again.taken = true;
        let plan = split(&inv, &again).unwrap();
        let [Step::Split(spec)] = &plan.steps[..] else {
            panic!("{plan:?}");
        };
        assert_eq!(spec.replaces.as_deref(), Some("uuid-300"));
        assert_eq!(spec.policy, Policy::Late);
        again.pending.as_mut().unwrap().written = true;
        assert!(matches!(refused(&inv, &again), NoSplit::Written { .. }));
    }

    #[test]
    fn refusals() {
        let mut inv = system();
        for path in [
            "/",
            "/boot",
            "/boot/x",
            "/etc",
            "/etc/conf.d",
            "/proc/1",
            "/@be/a",
        ] {
            assert_eq!(refused(&inv, &request(path)), NoSplit::Fixed, "{path}");
        }
        for path in ["/usr", "/var", "/var/lib", "/opt/x", "/var/db/pkg", "/lib"] {
            assert_eq!(refused(&inv, &request(path)), NoSplit::Packages, "{path}");
        }
        assert!(split(&inv, &request("/usr/local")).is_ok());
        let shared = refused(&inv, &request("/home/user"));
        assert!(matches!(shared, NoSplit::Shared { part } if part == Path::new("/home")));
        let holds = refused(&inv, &request("/srv/cache"));
        assert!(
            matches!(holds, NoSplit::Holds { paths } if paths == [Path::new("/srv/cache/tmp")])
        );
        let below = refused(&inv, &request("/srv/cache/tmp/x"));
        assert!(matches!(below, NoSplit::Mounted { .. }));
        inv.system.mounts.push(Mount {
            target: "/srv/disk".into(),
            fstype: "ext4".into(),
            source: "/dev/y".into(),
            of_root: false,
        });
        for path in ["/srv/disk", "/srv/disk/x"] {
            let mounted = refused(&inv, &request(path));
            assert!(matches!(mounted, NoSplit::Mounted { .. }), "{path}");
        }
        let with = |change: &dyn Fn(&mut Split)| {
            let mut request = request("/srv/db");
            change(&mut request);
            split(&inv, &request).unwrap_err()
        };
        let text = with(&|r| r.found = Found::Link("/data/db".into()));
        assert_eq!(text.hint(), "be layout split /data/db");
        let text = with(&|r| r.found = Found::Subvolume).hint();
        assert!(text.starts_with("be layout set /srv/db"), "{text}");
        assert!(
            with(&|r| r.taken = true)
                .to_string()
                .contains("/@srv-db exists")
        );
        let holder = Holder {
            pid: 7,
            name: "mysqld".into(),
            what: "writes /srv/db/x".into(),
        };
        let used = with(&|r| r.holders = vec![holder.clone()]).to_string();
        assert!(used.contains("mysqld (process 7"), "{used}");
        let full = with(&|r| {
            r.found = Found::Directory {
                files: 1,
                unshared: 1 << 40,
                crossings: Vec::new(),
            };
        });
        assert!(matches!(full, Refusal::NoSpace { .. }));
        inv.system.swapfiles = vec!["/swap".into()];
        let swap = split(&inv, &request("/srv/db"));
        assert!(matches!(swap, Err(Refusal::Swapfile { .. })));
    }
}
