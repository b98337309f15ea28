//! The subvolumes that a system consists of besides its root: those that fstab mounts, and
//! those that lie in others.

use std::path::{Path, PathBuf};

use be_btrfs::{Node, TOP_LEVEL_ID, Tree};

use super::policy::{STORES, default_policy, holds_packages};
use crate::fstab::{Entry, Fstab};
use crate::model::{STORE, Subvolume};
use crate::record::Policy;

/// The option of mount(8) that mounts a directory of a filesystem, since util-linux 2.38.
pub(crate) const SUBDIR: &str = "X-mount.subdir";

/// A place of the system where another subvolume than the root's is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Where, with a leading slash.
    pub mount: PathBuf,
    /// Which one.
    pub subvolume: Subvolume,
    /// The directory in it that is seen there, without a leading slash; empty for all.
    pub within: PathBuf,
    /// The fstab mounts it; otherwise it is seen because it lies there.
    pub listed: bool,
    /// The first field of that line.
    pub source: Option<String>,
    /// What happens to it when an environment is created.
    pub policy: Policy,
    /// Its owner chose that.
    pub chosen: bool,
    /// Subvolumes that lie in it, as paths in it, outermost only.
    pub nested: Vec<PathBuf>,
}

impl Part {
    /// Whether every environment gets one of its own.
    pub fn is_own(&self) -> bool {
        matches!(self.policy, Policy::Cloned | Policy::Late)
    }
}

/// What names the filesystem in an fstab.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    pub(crate) uuid: String,
    /// Its devices, as the kernel and as links name them.
    pub(crate) devices: Vec<PathBuf>,
    pub(crate) default_subvolume: u64,
    /// Gives the UUID of what a label, a partition or a link stands for.
    pub(crate) resolve: Option<fn(&str) -> Option<String>>,
}

impl Names {
    /// Whether an entry mounts this filesystem; `like` is the source of the line for the
    /// root, which does.
    fn is_source_of(&self, entry: &Entry, like: Option<&str>) -> bool {
        let uuid = entry
            .source
            .strip_prefix("UUID=")
            .map(|u| u.trim_matches('"'));
        uuid.is_some_and(|u| u.eq_ignore_ascii_case(&self.uuid))
            || Some(entry.source.as_str()) == like
            || self.devices.iter().any(|d| d == Path::new(&entry.source))
            || uuid.is_none() && self.resolves_to_it(&entry.source)
    }
}

impl Names {
    fn resolves_to_it(&self, source: &str) -> bool {
        let uuid = self.resolve.and_then(|resolve| resolve(source));
        uuid.is_some_and(|uuid| uuid.eq_ignore_ascii_case(&self.uuid))
    }
}

/// Find the parts of the system with this root and this fstab, sorted by where they are
/// mounted; `chosen` gives the policy that was set on a subvolume. Gives what lies in the
/// root, too, as [`Part::nested`].
pub(crate) fn find(
    tree: &Tree,
    root: &Node,
    fstab: &Fstab,
    names: &Names,
    chosen: &dyn Fn(&Node) -> Option<Policy>,
) -> (Vec<PathBuf>, Vec<Part>) {
    let search = Search {
        tree,
        fstab,
        chosen,
    };
    let mut parts: Vec<Part> = Vec::new();
    let like = fstab.at(Path::new("/")).map(|e| e.source.as_str());
    for entry in fstab.entries() {
        let elsewhere = entry.target.is_absolute() && entry.target != Path::new("/");
        if !elsewhere || !entry.is_btrfs() || !names.is_source_of(entry, like) {
            continue;
        }
        let node = match (entry.subvol(), entry.subvolid()) {
            (Some(path), _) => tree.by_path(path),
            (None, Some(id)) => id.parse().ok().and_then(|id| tree.by_id(id)),
            (None, None) => tree.by_id(names.default_subvolume),
        };
        let Some(node) = node else { continue };
        let within = entry.option(SUBDIR).unwrap_or_default();
        let mut part = search.part(&entry.target, node);
        part.listed = true;
        part.source = Some(entry.source.clone());
        part.within = PathBuf::from(within.trim_matches('/'));
        if !part.within.as_os_str().is_empty() || node.id == root.id || node.id == TOP_LEVEL_ID {
            // A view of something that is not a part by itself.
            part.policy = Policy::Shared;
        }
        parts.retain(|p| p.mount != part.mount);
        parts.push(part);
    }
    let nested = search.outermost(root);
    search.lying_in(root, Path::new("/"), &nested, &mut parts);
    let mut done = 0;
    // What lies in a part that is cloned is a part, too.
    while let Some(part) = parts.get(done).cloned() {
        done += 1;
        if part.is_own()
            && let Some(node) = tree.by_id(part.subvolume.id)
        {
            search.lying_in(node, &part.mount, &part.nested, &mut parts);
        }
    }
    parts.sort_by(|a, b| a.mount.cmp(&b.mount));
    (nested, parts)
}

struct Search<'a> {
    tree: &'a Tree,
    fstab: &'a Fstab,
    chosen: &'a dyn Fn(&Node) -> Option<Policy>,
}

impl Search<'_> {
    fn part(&self, mount: &Path, node: &Node) -> Part {
        let chosen = (self.chosen)(node);
        let mut policy = chosen.unwrap_or_else(|| default_policy(mount));
        if policy == Policy::Late && holds_packages(mount) {
            // An upgrade would be undone by it.
            policy = Policy::Cloned;
        }
        if policy == Policy::Shared && is_volume(&node.path) {
            // It goes with its environment.
            policy = Policy::Cloned;
        }
        Part {
            mount: mount.to_owned(),
            subvolume: subvolume(node),
            within: PathBuf::new(),
            listed: false,
            source: None,
            policy,
            chosen: chosen.is_some(),
            nested: self.outermost(node),
        }
    }

    /// The subvolumes in this one, but not those in these.
    fn outermost(&self, node: &Node) -> Vec<PathBuf> {
        let mut paths: Vec<&Path> = self
            .tree
            .descendants(node.id)
            .iter()
            .filter(|n| node.id != TOP_LEVEL_ID || !n.path.starts_with(STORE))
            .filter_map(|n| n.path.strip_prefix(&node.path).ok())
            .collect();
        paths.sort();
        let mut outermost: Vec<PathBuf> = Vec::new();
        for path in paths {
            if !outermost.iter().any(|outer| path.starts_with(outer)) {
                outermost.push(path.to_owned());
            }
        }
        outermost
    }

    /// Add what is seen because it lies in `node`, which is seen at `mount`.
    fn lying_in(&self, node: &Node, mount: &Path, nested: &[PathBuf], parts: &mut Vec<Part>) {
        for path in nested {
            let place = mount.join(path);
            if self.is_covered(&place, mount) || parts.iter().any(|p| p.mount == place) {
                continue;
            }
            let store = STORES.iter().map(Path::new).find(|s| {
                place.starts_with(s) && place != *s && s.starts_with(mount) && *s != mount
            });
            let found = match store {
                Some(store) if parts.iter().any(|p| p.mount == store) => continue,
                Some(store) => Part {
                    within: node_path(store, mount),
                    policy: Policy::Shared,
                    chosen: false,
                    nested: Vec::new(),
                    ..self.part(store, node)
                },
                None => {
                    let inner = self.tree.by_path(node.path.join(path));
                    // Somebody's read-only snapshots are no part of the system.
                    let Some(inner) = inner.filter(|n| !n.read_only || n.parent_uuid.is_none())
                    else {
                        continue;
                    };
                    // On the top level lies what fstab mounts somewhere else: there it is.
                    let elsewhere = |p: &Part| p.listed && p.subvolume.id == inner.id;
                    if node.id == TOP_LEVEL_ID && parts.iter().any(elsewhere) {
                        continue;
                    }
                    self.part(&place, inner)
                }
            };
            parts.push(found);
        }
    }

    /// Whether something that fstab mounts between `mount` and `place` hides it.
    fn is_covered(&self, place: &Path, mount: &Path) -> bool {
        self.fstab
            .entries()
            .map(|e| e.target.as_path())
            .any(|t| t != mount && t != place && t.starts_with(mount) && place.starts_with(t))
    }
}

/// Whether it is one of the other subvolumes of an environment in the store.
pub(crate) fn is_volume(path: &Path) -> bool {
    let mut parts = path.components().map(|c| c.as_os_str());
    parts.next().is_some_and(|store| store == STORE)
        && parts.nth(1).is_some_and(|dir| dir == "vol")
        && parts.count() == 1
}

/// A path below a mount as a path in what is mounted.
fn node_path(path: &Path, mount: &Path) -> PathBuf {
    path.strip_prefix(mount).unwrap_or(path).to_owned()
}

pub(crate) fn subvolume(node: &Node) -> Subvolume {
    Subvolume {
        id: node.id,
        uuid: node.uuid.to_string(),
        path: node.path.clone(),
        generation: node.generation,
    }
}

#[cfg(test)]
mod tests {
    use be_btrfs::SubvolumeInfo;

    use super::super::{Layout, changes, sources};
    use super::*;
    use crate::name::EnvName;

    fn node(id: u64, parent: u64, path: &str) -> Node {
        let uuid = format!("00000000-0000-0000-0000-{id:012}");
        Node {
            info: SubvolumeInfo {
                id,
                uuid: uuid.parse().unwrap(),
                parent_uuid: None,
                received_uuid: None,
                parent_id: (parent != 0).then_some(parent),
                dirid: None,
                read_only: false,
                generation: 1,
                ctransid: 1,
                otransid: 1,
                otime: 0,
            },
            path: path.into(),
        }
    }

    fn layout(
        fstab: &str,
        nodes: &[(u64, u64, &str)],
        root: u64,
        chosen: &[(u64, Policy)],
    ) -> Layout {
        let mut all = vec![node(5, 0, "")];
        all.extend(
            nodes
                .iter()
                .map(|(id, parent, path)| node(*id, *parent, path)),
        );
        let tree = Tree::new(all);
        let fstab = Fstab::parse(fstab);
        let names = Names {
            uuid: "F-F".into(),
            devices: vec!["/dev/sda2".into()],
            default_subvolume: 5,
            resolve: None,
        };
        let choice = |n: &Node| chosen.iter().find(|(id, _)| *id == n.id).map(|(_, p)| *p);
        let root = tree.by_id(root).unwrap();
        let (nested, parts) = find(&tree, root, &fstab, &names, &choice);
        Layout {
            fstab,
            nested,
            parts,
            boot: None,
            damage: None,
        }
    }

    fn text(layout: &Layout) -> String {
        let line = |p: &Part| {
            let within = match p.within.as_os_str().is_empty() {
                true => String::new(),
                false => format!(" within {}", p.within.display()),
            };
            format!(
                "{} {} {}{within}\n",
                p.mount.display(),
                p.policy.as_str(),
                p.subvolume.option()
            )
        };
        layout.parts.iter().map(line).collect()
    }

    const NODES: [(u64, u64, &str); 9] = [
        (256, 5, "@"),
        (257, 5, "@home"),
        (258, 5, "@var"),
        (259, 258, "@var/lib/machines"),
        (260, 256, "@/srv/data"),
        (261, 260, "@/srv/data/inner"),
        (262, 256, "@/opt"),
        (263, 258, "@var/lib/docker/btrfs/subvolumes/aa"),
        (264, 258, "@var/lib/docker/btrfs/subvolumes/bb"),
    ];
    const FSTAB: &str = "UUID=f-f / btrfs noatime,subvol=@ 0 0\n\
         UUID=F-F /home btrfs subvol=/@home 0 0\n\
         /dev/sda2 /var btrfs subvolid=258 0 0\n\
         UUID=other /data btrfs subvol=@ 0 0\n\
         tmpfs /tmp tmpfs\n";

    #[test]
    fn what_fstab_mounts_and_what_lies_in_it() {
        let found = layout(FSTAB, &NODES, 256, &[]);
        assert_eq!(
            text(&found),
            "/home shared /@home\n\
             /opt cloned /@/opt\n\
             /srv/data shared /@/srv/data\n\
             /var cloned /@var\n\
             /var/lib/docker shared /@var within lib/docker\n\
             /var/lib/machines shared /@var/lib/machines\n"
        );
        assert_eq!(found.nested, ["opt", "srv/data"].map(PathBuf::from));
    }

    #[test]
    fn the_owner_decides() {
        let chosen = [
            (257, Policy::Cloned),
            (260, Policy::Late),
            (258, Policy::Shared),
        ];
        let found = layout(FSTAB, &NODES, 256, &chosen);
        // What lies in a shared one comes along with it.
        assert_eq!(
            text(&found),
            "/home cloned /@home\n\
             /opt cloned /@/opt\n\
             /srv/data late /@/srv/data\n\
             /srv/data/inner shared /@/srv/data/inner\n\
             /var shared /@var\n"
        );
        assert!(found.parts.iter().filter(|p| p.chosen).count() == 3);
    }

    #[test]
    fn what_a_mount_hides_is_no_part() {
        let found = layout(
            "UUID=f-f / btrfs subvol=@\nUUID=x /srv ext4 rw\n",
            &NODES,
            256,
            &[],
        );
        assert_eq!(text(&found), "/opt cloned /@/opt\n");
        assert_eq!(found.nested, ["opt", "srv/data"].map(PathBuf::from));
    }

    #[test]
    fn the_store_is_no_part_of_a_root_that_is_the_top_level() {
        let nodes = [(256, 5, "home"), (257, 5, "@be/x/root")];
        let found = layout("UUID=f-f / btrfs defaults 0 0\n", &nodes, 5, &[]);
        assert_eq!(text(&found), "/home shared /home\n");
    }

    #[test]
    fn what_fstab_mounts_from_a_root_that_is_the_top_level() {
        let nodes = [(256, 5, "@srv-db"), (257, 5, "opt")];
        let fstab = "UUID=f-f / btrfs defaults 0 0\nUUID=f-f /srv/db btrfs subvol=@srv-db 0 0\n";
        let found = layout(fstab, &nodes, 5, &[(256, Policy::Cloned)]);
        assert_eq!(text(&found), "/opt cloned /opt\n/srv/db cloned /@srv-db\n");
    }

    #[test]
    fn the_fstab_of_a_clone() {
        let found = layout(FSTAB, &NODES, 256, &[(260, Policy::Late)]);
        let name = EnvName::parse("new").unwrap();
        let clone = found.fstab.changed(&changes(&found, &name, "f-f"));
        assert_eq!(
            clone.to_text(),
            "UUID=f-f / btrfs noatime,subvol=/@be/new/root 0 0\n\
             UUID=F-F /home btrfs subvol=/@home 0 0\n\
             /dev/sda2 /var btrfs subvol=/@be/new/vol/var 0 0\n\
             UUID=other /data btrfs subvol=@ 0 0\n\
             tmpfs /tmp tmpfs\n\
             UUID=f-f\t/opt\tbtrfs\tnoatime,subvol=/@be/new/vol/opt,x-be.added\t0 0\n\
             UUID=f-f\t/srv/data\tbtrfs\tnoatime,subvol=/@be/new/vol/srv-data,x-be.added\t0 0\n\
             UUID=f-f\t/srv/data/inner\tbtrfs\tnoatime,nofail,subvol=/@/srv/data/inner,x-be.added\t0 0\n\
             UUID=f-f\t/var/lib/docker\tbtrfs\t\
             noatime,nofail,subvol=/@var,x-be.added,X-mount.subdir=lib/docker\t0 0\n\
             UUID=f-f\t/var/lib/machines\tbtrfs\tnoatime,nofail,subvol=/@var/lib/machines,x-be.added\t0 0\n"
        );
        let root = subvolume(&node(256, 5, "@"));
        let sources = sources(&root, &found);
        let list: Vec<_> = sources
            .iter()
            .map(|s| (s.mount.as_str(), s.nested.len()))
            .collect();
        assert_eq!(list, [("/", 2), ("/opt", 0), ("/srv/data", 1), ("/var", 3)]);
    }

    #[test]
    fn a_clone_of_a_clone_adds_nothing() {
        let first = layout(FSTAB, &NODES, 256, &[]);
        let name = EnvName::parse("new").unwrap();
        let text = first
            .fstab
            .changed(&changes(&first, &name, "f-f"))
            .to_text();
        let mut nodes = NODES.to_vec();
        nodes.extend([
            (300, 5, "@be/new/root"),
            (301, 5, "@be/new/vol/var"),
            (302, 5, "@be/new/vol/opt"),
        ]);
        // What belongs to an environment is not shared, whatever anybody says.
        let second = layout(&text, &nodes, 300, &[(302, Policy::Shared)]);
        let next = EnvName::parse("next").unwrap();
        let again = second.fstab.changed(&changes(&second, &next, "f-f"));
        assert_eq!(again.to_text(), text.replace("@be/new/", "@be/next/"));
        let policies = |l: &Layout| -> Vec<_> {
            l.parts
                .iter()
                .map(|p| (p.mount.clone(), p.policy))
                .collect()
        };
        assert_eq!(policies(&first), policies(&second));
    }

    #[test]
    fn a_boot_of_its_own_goes_or_moves() {
        use super::super::Boot;
        use crate::record;
        let of = |fstype: &str, fstab: &str| {
            let mut found = layout(fstab, &NODES[..1], 256, &[]);
            found.boot = Some(Boot {
                place: record::Boot::new("B-B".into(), fstype.into(), None),
                size: 1,
                locked_root: false,
            });
            let name = EnvName::parse("new").unwrap();
            let clone = found.fstab.changed(&changes(&found, &name, "f-f"));
            clone.to_text().lines().last().unwrap().to_owned()
        };
        let esp = "UUID=B-B /boot vfat umask=0077 0 2";
        assert_eq!(
            of("ext4", "UUID=B-B /boot ext4 noauto"),
            "# UUID=B-B /boot ext4 noauto"
        );
        assert_eq!(of("vfat", esp), "UUID=B-B /efi vfat umask=0077 0 2");
        assert_eq!(
            of("vfat", &format!("UUID=C /efi vfat rw\n{esp}")),
            format!("# {esp}")
        );
    }
}
