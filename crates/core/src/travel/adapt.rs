//! An environment from elsewhere is made one of this machine, before it appears.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use be_btrfs::Root;
use be_btrfs::rooted::Parts;

use super::frame::hex;
use super::header::Header;
use crate::fstab::{Change, Entry, Fstab};
use crate::layout::{self, Layout, Part};
use crate::model::{Inventory, STORE, Subvolume};
use crate::name::EnvName;
use crate::observe::MAX_TEXT;
use crate::record::{Policy, Record, place};
use crate::session::Session;

const FSTAB: &str = "etc/fstab";
const MACHINE_ID: &str = "etc/machine-id";
const HOST_KEYS: &str = "etc/ssh";

/// What makes a system the one that it is, and what names its devices: fstab is looked at by
/// itself.
const OWN: [&str; 5] = [
    MACHINE_ID,
    "etc/hostname",
    "etc/conf.d/hostname",
    "etc/crypttab",
    "etc/default/grub",
];

/// Which machine a received environment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// The one that it was.
    Keep,
    /// This one.
    Take,
    /// A new one.
    New,
}

impl Identity {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Take => "take",
            Self::New => "new",
        }
    }

    /// What is meant where nothing is said: a stream from another filesystem is from another
    /// machine, and is to be this one; one from here is as it was.
    pub fn or_default(chosen: Option<Self>, header: &Header, filesystem: &str) -> Self {
        chosen.unwrap_or(match header.filesystem == filesystem {
            true => Self::Keep,
            false => Self::Take,
        })
    }
}

/// The name of the machine, as its system has it written down; empty if it has not.
pub(super) fn host_name(root: &Root) -> String {
    let text = root
        .read_to_string("etc/hostname", 1 << 10)
        .unwrap_or_default();
    let name = text
        .lines()
        .map(str::trim)
        .find(|l| !l.is_empty() && !l.starts_with('#'));
    let name = name.unwrap_or_default();
    name.chars().filter(|c| !c.is_control()).collect()
}

/// Adapt the subvolumes `roots`, the first of which is the root.
///
/// # Errors
/// When something cannot be read or written.
pub(super) fn adapt(
    session: &Session,
    inv: &Inventory,
    record: &Record,
    header: &Header,
    roots: &[(String, Root)],
    identity: Option<Identity>,
) -> Result<()> {
    let (_, root) = roots.first().context("it has no root")?;
    let identity = Identity::or_default(identity, header, &inv.fs.uuid);
    let members: Vec<_> = record
        .subvolumes
        .iter()
        .map(|m| (m.mount.as_str(), m.policy))
        .collect();
    let before = match root.read_to_string(FSTAB, MAX_TEXT) {
        Ok(text) => Fstab::parse(&text),
        Err(e) if e.is_not_found() => Fstab::default(),
        Err(e) => return Err(e.into()),
    };
    let fstab = match identity {
        Identity::Keep => kept_fstab(
            &before,
            &members,
            &record.name,
            (&header.filesystem, &inv.fs.uuid),
        ),
        Identity::Take | Identity::New => {
            let changes = taken_fstab(&inv.system.layout, &members, &record.name, &inv.fs.uuid);
            inv.system.layout.fstab.changed(&changes)
        }
    };
    root.mkdir_all("etc", 0o755)?;
    root.write_synced(FSTAB, fstab.to_text().as_bytes(), 0o644)
        .context("cannot write the fstab of the environment")?;
    for entry in fstab.entries().filter(|e| e.target.is_absolute()) {
        mount_point(roots, &entry.target)?;
    }
    match identity {
        Identity::Keep => Ok(()),
        Identity::Take => take_identity(&session.root, root),
        Identity::New => new_identity(&session.root, root),
    }
}

/// A directory to mount at, in the subvolume that is seen there.
fn mount_point(roots: &[(String, Root)], target: &Path) -> Result<()> {
    let holds = roots.iter().filter(|(mount, _)| {
        let mount = Path::new(mount);
        target.starts_with(mount) && target != mount
    });
    let Some((mount, root)) = holds.max_by_key(|(mount, _)| mount.len()) else {
        return Ok(());
    };
    let below = target.strip_prefix(mount).unwrap_or(target);
    match root.exists(below)? {
        true => Ok(()),
        false => Ok(root.mkdir_all(below, 0o755)?),
    }
}

/// How the fstab of this machine has to be for an environment with these subvolumes.
fn taken_fstab(
    here: &Layout,
    members: &[(&str, Policy)],
    name: &EnvName,
    filesystem: &str,
) -> Vec<Change> {
    let others = members.iter().filter(|(mount, _)| *mount != "/");
    let mut changes = Vec::new();
    let mut layout = here.clone();
    // What is one for each environment here is not that of this one.
    layout.parts.retain(|part| !part.is_own());
    for part in here
        .parts
        .iter()
        .filter(|part| part.is_own() && part.listed)
    {
        if !members
            .iter()
            .any(|(mount, _)| Path::new(mount) == part.mount)
        {
            let target = part.mount.clone();
            changes.push(Change::Comment { target });
        }
    }
    for (mount, policy) in others {
        let mount = PathBuf::from(mount);
        let known = here
            .part_at(&mount)
            .filter(|part| part.is_own() && part.listed);
        if known.is_none() && here.fstab.at(&mount).is_some() {
            let target = mount.clone();
            changes.push(Change::Comment { target });
        }
        // What is mounted there from outside of the environment, listed or not.
        layout.parts.retain(|part| part.mount != mount);
        layout.parts.push(Part {
            source: known.and_then(|part| part.source.clone()),
            listed: known.is_some(),
            mount,
            subvolume: Subvolume {
                id: 0,
                uuid: String::new(),
                path: PathBuf::new(),
                generation: 0,
            },
            within: PathBuf::new(),
            policy: *policy,
            chosen: false,
            nested: Vec::new(),
        });
    }
    changes.extend(layout::changes(&layout, name, filesystem));
    changes
}

/// The environment's own fstab, where its subvolumes are those on this filesystem; their lines
/// stay where they are. What else was on the filesystem that it comes from is not here: that is
/// what its own lines name, as they name it, by a UUID, a label, or a device.
fn kept_fstab(
    own: &Fstab,
    members: &[(&str, Policy)],
    name: &EnvName,
    (there, here): (&str, &str),
) -> Fstab {
    let subvol = |mount: &str| format!("/{STORE}/{name}/{}", place(mount).display());
    let is_member = |e: &Entry| {
        members
            .iter()
            .any(|(mount, _)| e.target == Path::new(mount))
    };
    let moved = there != here;
    let of_members = own.entries().filter(|e| is_member(e) && e.is_btrfs());
    let mut names: Vec<String> = of_members.map(|e| e.source.clone()).collect();
    names.push(format!("UUID={there}"));
    let is_there = |e: &Entry| {
        let source = e.source.replace('"', "");
        let mut names = names.iter();
        names.any(|name| name.replace('"', "").eq_ignore_ascii_case(&source))
    };
    let foreign = own
        .entries()
        .filter(|e| moved && is_there(e) && !is_member(e));
    let mut changes: Vec<_> = foreign
        .map(|e| Change::Comment {
            target: e.target.clone(),
        })
        .collect();
    for (mount, _) in members {
        let target = PathBuf::from(mount);
        let lines: Vec<_> = own.entries().filter(|e| e.target == target).collect();
        let last = lines.iter().rfind(|e| e.is_btrfs());
        if let (Some(_), 1) = (last, lines.len()) {
            changes.push(Change::Subvol {
                target: target.clone(),
                source: None,
                subvol: subvol(mount),
            });
            if moved {
                let to = format!("UUID={here}");
                changes.push(Change::Source { target, to });
            }
            continue;
        }
        // None, or more than the one that counts.
        let options = last.map(|e| e.options.clone()).unwrap_or_default();
        let mut options: Vec<_> = options
            .into_iter()
            .filter(|o| !o.starts_with("subvol=") && !o.starts_with("subvolid="))
            .collect();
        options.push(format!("subvol={}", subvol(mount)));
        let comment = Change::Comment {
            target: target.clone(),
        };
        changes.extend((!lines.is_empty()).then_some(comment));
        changes.push(Change::Add(Entry {
            source: format!("UUID={here}"),
            target,
            fstype: "btrfs".into(),
            options,
        }));
    }
    own.changed(&changes)
}

/// Names of the keys by which others know the machine.
fn host_keys(root: &Root) -> Vec<PathBuf> {
    let all = root.list(HOST_KEYS).unwrap_or_default().into_iter();
    let keys = all
        .filter(|(name, kind)| kind.is_file() && name.to_string_lossy().starts_with("ssh_host_"));
    keys.map(|(name, _)| Path::new(HOST_KEYS).join(name))
        .collect()
}

/// It is this machine: its files are those of the running system, and what that has not, it
/// has not either.
fn take_identity(here: &Root, root: &Root) -> Result<()> {
    let mut files: Vec<PathBuf> = OWN.iter().map(PathBuf::from).collect();
    files.extend(host_keys(root));
    files.extend(host_keys(here));
    files.sort();
    files.dedup();
    for file in files {
        take_file(here, root, &file)
            .with_context(|| format!("cannot make /{} that of this machine", file.display()))?;
    }
    Ok(())
}

fn take_file(here: &Root, root: &Root, file: &Path) -> Result<()> {
    match here.lstat(file) {
        Ok(found) if !found.kind.is_dir() => {
            if let Some(dir) = file.parent() {
                root.mkdir_all(dir, 0o755)?;
            }
            Ok(root.put(file, &Parts::of(here))?)
        }
        Ok(_) => Ok(()),
        Err(e) if e.is_not_found() => match root.exists(file)? {
            true => Ok(root.remove_file(file)?),
            false => Ok(()),
        },
        Err(e) => Err(e.into()),
    }
}

/// It is no machine that there was: the number of it is a new one, the keys are made when it
/// starts. What names devices is that of this machine.
fn new_identity(here: &Root, root: &Root) -> Result<()> {
    for key in host_keys(root) {
        root.remove_file(key)?;
    }
    for file in ["etc/crypttab", "etc/default/grub"] {
        take_file(here, root, Path::new(file))?;
    }
    if root.exists(MACHINE_ID)? {
        let mut id = [0; 16];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut id)?;
        // A random UUID, as machine-id(5) has it.
        id[6] = id[6] & 0x0f | 0x40;
        id[8] = id[8] & 0x3f | 0x80;
        let text = format!("{}\n", hex(&id));
        root.write_synced(MACHINE_ID, text.as_bytes(), 0o444)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> EnvName {
        EnvName::parse("new").unwrap()
    }

    fn part(mount: &str, policy: Policy) -> Part {
        Part {
            mount: mount.into(),
            subvolume: Subvolume {
                id: 300,
                uuid: "p".into(),
                path: mount.replace('/', "@").into(),
                generation: 1,
            },
            within: PathBuf::new(),
            listed: true,
            source: Some("UUID=here".into()),
            policy,
            chosen: false,
            nested: Vec::new(),
        }
    }

    #[test]
    fn the_fstab_of_this_machine_with_the_subvolumes_that_came() {
        let here = Layout {
            fstab: Fstab::parse(
                "UUID=here / btrfs subvol=/@,noatime 0 0\n\
                 UUID=here /home btrfs subvol=/@home 0 0\n\
                 UUID=here /var btrfs subvol=/@var 0 0\n\
                 UUID=here /opt btrfs subvol=/@opt 0 0\n\
                 UUID=disk /srv ext4 defaults 0 2\n",
            ),
            parts: vec![
                part("/home", Policy::Shared),
                part("/opt", Policy::Cloned),
                part("/var", Policy::Cloned),
            ],
            ..Layout::default()
        };
        let members = [
            ("/", Policy::Cloned),
            ("/opt", Policy::Cloned),
            ("/srv", Policy::Late),
            ("/usr/local", Policy::Cloned),
        ];
        let changes = taken_fstab(&here, &members, &name(), "here");
        assert_eq!(
            here.fstab.changed(&changes).to_text(),
            "UUID=here / btrfs subvol=/@be/new/root,noatime 0 0\n\
             UUID=here /home btrfs subvol=/@home 0 0\n\
             # UUID=here /var btrfs subvol=/@var 0 0\n\
             UUID=here /opt btrfs subvol=/@be/new/vol/opt 0 0\n\
             # UUID=disk /srv ext4 defaults 0 2\n\
             UUID=here\t/srv\tbtrfs\tnoatime,subvol=/@be/new/vol/srv,x-be.added\t0 0\n\
             UUID=here\t/usr/local\tbtrfs\tnoatime,subvol=/@be/new/vol/usr-local,x-be.added\t0 0\n"
        );
    }

    #[test]
    fn one_line_for_each_place_in_an_order_that_mounts() {
        let mut unlisted = part("/srv", Policy::Shared);
        (unlisted.listed, unlisted.source) = (false, None);
        let here = Layout {
            fstab: Fstab::parse(
                "UUID=here / btrfs subvol=/@ 0 0\n\
                 nas:/x /opt/nas nfs ro 0 0\n",
            ),
            parts: vec![unlisted],
            ..Layout::default()
        };
        let members = [
            ("/", Policy::Cloned),
            ("/opt", Policy::Cloned),
            ("/srv", Policy::Cloned),
        ];
        let changes = taken_fstab(&here, &members, &name(), "here");
        assert_eq!(
            here.fstab.changed(&changes).to_text(),
            "UUID=here / btrfs subvol=/@be/new/root 0 0\n\
             UUID=here\t/opt\tbtrfs\tsubvol=/@be/new/vol/opt,x-be.added\t0 0\n\
             nas:/x /opt/nas nfs ro 0 0\n\
             UUID=here\t/srv\tbtrfs\tsubvol=/@be/new/vol/srv,x-be.added\t0 0\n"
        );
    }

    #[test]
    fn its_own_fstab_on_this_filesystem() {
        let members = [("/", Policy::Cloned), ("/opt", Policy::Cloned)];
        for source in ["UUID=there", "LABEL=root", "/dev/sda2", "PARTUUID=ab-02"] {
            let own = Fstab::parse(&format!(
                "# mine\n{source} / btrfs noatime,subvol=/@be/x/root 0 1\n\
                 {source} /opt btrfs subvolid=300,ro 0 0\n\
                 {source} /home btrfs subvol=@home 0 0\n\
                 UUID=THERE /srv btrfs subvol=@srv 0 0\n\
                 LABEL=other /opt/data ext4 ro 0 0\n\
                 nas:/x /mnt nfs ro 0 0\n",
            ));
            assert_eq!(
                kept_fstab(&own, &members, &name(), ("there", "here")).to_text(),
                format!(
                    "# mine\nUUID=here / btrfs noatime,subvol=/@be/new/root 0 1\n\
                     UUID=here /opt btrfs ro,subvol=/@be/new/vol/opt 0 0\n\
                     # {source} /home btrfs subvol=@home 0 0\n\
                     # UUID=THERE /srv btrfs subvol=@srv 0 0\n\
                     LABEL=other /opt/data ext4 ro 0 0\n\
                     nas:/x /mnt nfs ro 0 0\n"
                )
            );
            let same = kept_fstab(&own, &members, &name(), ("there", "there"));
            assert!(same.at(Path::new("/home")).is_some());
            let root = same.at(Path::new("/")).unwrap();
            assert_eq!(
                (root.source.as_str(), root.subvol()),
                (source, Some("@be/new/root"))
            );
        }
    }

    #[test]
    fn its_own_fstab_where_lines_lack_or_are_too_many() {
        let own = Fstab::parse(
            "UUID=there /opt/x btrfs subvol=x 0 0\n\
             /dev/sdb1 /srv ext4 defaults 0 0\n\
             UUID=there /srv btrfs noatime,subvol=@srv 0 0\n\
             tmpfs /opt/tmp tmpfs size=1G 0 0",
        );
        let members = [
            ("/", Policy::Cloned),
            ("/opt", Policy::Cloned),
            ("/srv", Policy::Cloned),
        ];
        assert_eq!(
            kept_fstab(&own, &members, &name(), ("there", "here")).to_text(),
            "# UUID=there /opt/x btrfs subvol=x 0 0\n\
             UUID=here\t/\tbtrfs\tsubvol=/@be/new/root\t0 0\n\
             # /dev/sdb1 /srv ext4 defaults 0 0\n\
             # UUID=there /srv btrfs noatime,subvol=@srv 0 0\n\
             UUID=here\t/opt\tbtrfs\tsubvol=/@be/new/vol/opt\t0 0\n\
             tmpfs /opt/tmp tmpfs size=1G 0 0\n\
             UUID=here\t/srv\tbtrfs\tnoatime,subvol=/@be/new/vol/srv\t0 0\n"
        );
    }
}
