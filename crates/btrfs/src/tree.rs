//! All subvolumes of a filesystem, in one search.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::ops::{ControlFlow, Deref};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::Context;
use crate::info::ROOT_INODE;
use crate::ioctl::{self, Range, Searcher};
use crate::{Result, SubvolumeInfo, TOP_LEVEL_ID, TopLevel, Uuid};

/// `BTRFS_ROOT_TREE_OBJECTID`.
pub(crate) const ROOT_TREE: u64 = 1;
/// `BTRFS_ROOT_ITEM_KEY`: object = the subvolume.
pub(crate) const ROOT_ITEM: u8 = 132;
/// `BTRFS_ROOT_BACKREF_KEY`: object = the subvolume, offset = the one that
/// contains it.
const ROOT_BACKREF: u8 = 144;
/// `BTRFS_LAST_FREE_OBJECTID`.
const LAST_ID: u64 = -256i64 as u64;
/// How often the search starts again if a directory is renamed meanwhile.
const ATTEMPTS: usize = 8;

/// One subvolume and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What btrfs knows of it; the fields are those of the node, too.
    pub info: SubvolumeInfo,
    /// Its path from the top level, without a leading slash; empty for the top
    /// level itself.
    pub path: PathBuf,
}

impl Deref for Node {
    type Target = SubvolumeInfo;

    fn deref(&self) -> &SubvolumeInfo {
        &self.info
    }
}

/// All subvolumes of a filesystem at one moment, the top level included, those
/// being deleted not.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// In the order of ids, which is that of creation.
    nodes: Vec<Node>,
    by_uuid: HashMap<Uuid, usize>,
    by_path: HashMap<PathBuf, usize>,
    children: HashMap<u64, Vec<usize>>,
}

impl Tree {
    /// Indexes these nodes.
    pub fn new(mut nodes: Vec<Node>) -> Tree {
        nodes.sort_by_key(|n| n.id);
        let mut tree = Tree::default();
        for (at, node) in nodes.iter().enumerate() {
            if !node.uuid.is_nil() {
                tree.by_uuid.insert(node.uuid, at);
            }
            tree.by_path.insert(node.path.clone(), at);
            if let Some(parent) = node.parent_id {
                tree.children.entry(parent).or_default().push(at);
            }
        }
        tree.nodes = nodes;
        tree
    }

    /// All, in the order of ids, which is that of creation.
    pub fn iter(&self) -> std::slice::Iter<'_, Node> {
        self.nodes.iter()
    }

    /// How many, the top level included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether it knows none, not even the top level.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The one with this id.
    pub fn by_id(&self, id: u64) -> Option<&Node> {
        let at = self.nodes.binary_search_by_key(&id, |n| n.id).ok()?;
        Some(&self.nodes[at])
    }

    /// The one with this UUID.
    pub fn by_uuid(&self, uuid: Uuid) -> Option<&Node> {
        self.by_uuid.get(&uuid).map(|&at| &self.nodes[at])
    }

    /// The one at this path from the top level, with or without a leading
    /// slash; `""` or `"/"` is the top level.
    pub fn by_path(&self, path: impl AsRef<Path>) -> Option<&Node> {
        let path = path.as_ref();
        let path = path.strip_prefix("/").unwrap_or(path);
        self.by_path.get(path).map(|&at| &self.nodes[at])
    }

    /// Those whose names lie directly in this one, in the order of ids.
    pub fn children(&self, id: u64) -> impl Iterator<Item = &Node> {
        let children = self.children.get(&id).into_iter().flatten();
        children.map(|&at| &self.nodes[at])
    }

    /// Those below this one, each before those that it contains.
    pub fn descendants(&self, id: u64) -> Vec<&Node> {
        let mut found: Vec<&Node> = self.children(id).collect();
        let mut next = 0;
        while let Some(node) = found.get(next) {
            found.extend(self.children(node.id));
            next += 1;
        }
        found
    }
}

impl<'a> IntoIterator for &'a Tree {
    type Item = &'a Node;
    type IntoIter = std::slice::Iter<'a, Node>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl TopLevel {
    /// All subvolumes: one search of the root tree, and a look-up for each
    /// directory that holds some. Generations are as of the last commit.
    pub fn tree(&self) -> Result<Tree> {
        let mut attempt = 1;
        loop {
            match read_tree(self.fd()) {
                // A directory was removed between the search and its look-up.
                Err(e) if e.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS => attempt += 1,
                done => return done.on("list the subvolumes of", self.device()),
            }
        }
    }
}

/// Where a subvolume's name is: the containing subvolume, the directory there.
struct Place {
    parent: u64,
    dirid: u64,
    name: PathBuf,
}

fn read_tree(fd: BorrowedFd<'_>) -> io::Result<Tree> {
    let mut roots: HashMap<u64, SubvolumeInfo> = HashMap::new();
    let mut places: HashMap<u64, Place> = HashMap::new();
    let range = Range {
        tree: ROOT_TREE,
        from: (TOP_LEVEL_ID, ROOT_ITEM, 0),
        to: (LAST_ID, ROOT_BACKREF, u64::MAX),
        since: 0,
    };
    let mut bad = None;
    Searcher::new().search(fd, &range, |item| {
        let (id, kind, offset) = item.key;
        if id != TOP_LEVEL_ID && id < ROOT_INODE {
            return ControlFlow::Continue(());
        }
        match kind {
            ROOT_ITEM => match parse_root_item(id, item.data) {
                Some(Some(info)) => drop(roots.insert(id, info)),
                Some(None) => {}
                None => bad = Some("btrfs returned a short root item"),
            },
            ROOT_BACKREF => match parse_backref(offset, item.data) {
                Some(place) => drop(places.insert(id, place)),
                None => bad = Some("btrfs returned a short back reference"),
            },
            _ => {}
        }
        match bad {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    })?;
    if let Some(what) = bad {
        return Err(io::Error::other(what));
    }
    let mut paths = Paths {
        fd,
        places: &places,
        known: HashMap::from([(TOP_LEVEL_ID, Some(PathBuf::new()))]),
        dirs: HashMap::new(),
    };
    let mut nodes = Vec::with_capacity(roots.len());
    for (id, mut info) in roots {
        // Without a place it is being deleted.
        let Some(path) = paths.of(id)? else { continue };
        let place = places.get(&id);
        info.parent_id = place.map(|p| p.parent);
        info.dirid = place.map(|p| p.dirid);
        nodes.push(Node { info, path });
    }
    Ok(Tree::new(nodes))
}

/// Builds paths from places, looking each directory up once.
struct Paths<'a> {
    fd: BorrowedFd<'a>,
    places: &'a HashMap<u64, Place>,
    known: HashMap<u64, Option<PathBuf>>,
    dirs: HashMap<(u64, u64), PathBuf>,
}

impl Paths<'_> {
    fn of(&mut self, id: u64) -> io::Result<Option<PathBuf>> {
        if let Some(path) = self.known.get(&id) {
            return Ok(path.clone());
        }
        // Known as nowhere until it is found: a loop in a damaged tree ends.
        self.known.insert(id, None);
        let Some(place) = self.places.get(&id) else {
            return Ok(None);
        };
        let Some(parent) = self.of(place.parent)? else {
            return Ok(None);
        };
        let mut path = parent;
        if place.dirid != ROOT_INODE {
            path.push(self.dir(place.parent, place.dirid)?);
        }
        path.push(&place.name);
        self.known.insert(id, Some(path.clone()));
        Ok(Some(path))
    }

    fn dir(&mut self, tree: u64, dirid: u64) -> io::Result<&Path> {
        use std::collections::hash_map::Entry;
        Ok(match self.dirs.entry((tree, dirid)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(ioctl::path_of_inode(self.fd, tree, dirid)?),
        })
    }
}

/// `struct btrfs_root_item`. None: too short; Some(None): no names left, the
/// subvolume is being deleted. The fields from 239 on came with Linux 3.6; an
/// older kernel that wrote the item leaves `generation_v2` behind `generation`,
/// and they are then not valid.
fn parse_root_item(id: u64, data: &[u8]) -> Option<Option<SubvolumeInfo>> {
    let generation = le64(data, 160)?;
    if id != TOP_LEVEL_ID && le32(data, 216)? == 0 {
        return Some(None);
    }
    let extended = le64(data, 239).is_some_and(|v2| v2 == generation) && data.len() >= 351;
    let uuid = |at: usize| match extended {
        true => Uuid::from_bytes(data[at..at + 16].try_into().unwrap_or_default()),
        false => Uuid::default(),
    };
    let number = |at: usize| match extended {
        true => le64(data, at).unwrap_or(0),
        false => 0,
    };
    Some(Some(SubvolumeInfo {
        id,
        uuid: uuid(247),
        parent_uuid: uuid(263).non_nil(),
        received_uuid: uuid(279).non_nil(),
        parent_id: None,
        dirid: None,
        read_only: le64(data, 208)? & 1 != 0,
        generation,
        ctransid: number(295),
        otransid: number(303),
        otime: number(339) as i64,
    }))
}

/// `struct btrfs_root_ref`: dirid, sequence (u64), name_len (u16), the name.
fn parse_backref(parent: u64, data: &[u8]) -> Option<Place> {
    let len = u16::from_le_bytes(data.get(16..18)?.try_into().ok()?);
    Some(Place {
        parent,
        dirid: le64(data, 0)?,
        name: OsStr::from_bytes(data.get(18..18 + usize::from(len))?).into(),
    })
}

pub(crate) fn le64(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(data.get(at..at + 8)?.try_into().ok()?))
}

pub(crate) fn le32(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, parent: Option<u64>, path: &str) -> Node {
        Node {
            info: SubvolumeInfo {
                id,
                uuid: Uuid::from_bytes([id as u8; 16]),
                parent_uuid: None,
                received_uuid: None,
                parent_id: parent,
                dirid: parent.map(|_| 256),
                read_only: false,
                generation: 0,
                ctransid: 0,
                otransid: 0,
                otime: 0,
            },
            path: path.into(),
        }
    }

    #[test]
    fn found_by_all_keys() {
        let tree = Tree::new(vec![
            node(258, Some(256), "@/b/c"),
            node(5, None, ""),
            node(256, Some(5), "@"),
            node(257, Some(258), "@/b/c/d"),
        ]);
        assert_eq!(tree.len(), 4);
        assert_eq!(tree.by_id(256).unwrap().path, Path::new("@"));
        assert_eq!(tree.by_id(259), None);
        assert_eq!(tree.by_path("/@/b/c").unwrap().id, 258);
        assert_eq!(tree.by_path("/").unwrap().id, 5);
        assert_eq!(tree.by_uuid(Uuid::from_bytes([1; 16])).unwrap().id, 257);
        assert!(tree.by_uuid(Uuid::default()).is_none());
        let below: Vec<u64> = tree.descendants(5).iter().map(|n| n.id).collect();
        assert_eq!(below, [256, 258, 257]);
        assert_eq!(tree.children(5).count(), 1);
    }

    #[test]
    fn root_items_of_all_ages() {
        let mut data = vec![0; 439];
        data[160] = 9;
        data[208] = 1;
        data[216] = 1;
        data[239] = 9;
        data[247] = 0xaa;
        data[303] = 7;
        let info = parse_root_item(256, &data).unwrap().unwrap();
        assert!(info.read_only);
        assert_eq!((info.generation, info.otransid), (9, 7));
        assert_eq!(info.uuid.as_bytes()[0], 0xaa);
        assert_eq!(info.parent_uuid, None);

        data[239] = 8; // written by a kernel that does not know the UUID
        let info = parse_root_item(256, &data).unwrap().unwrap();
        assert!(info.uuid.is_nil());
        data[216] = 0;
        assert_eq!(parse_root_item(256, &data), Some(None));
        assert!(parse_root_item(5, &data).unwrap().is_some());
        assert!(
            parse_root_item(256, &data[..100]).is_none(),
            "shorter than any"
        );
        data[216] = 1;
        assert!(parse_root_item(256, &data[..239]).unwrap().is_some());
    }

    #[test]
    fn back_references() {
        let mut data = vec![0; 18];
        data[0] = 255;
        data[16] = 2;
        assert!(parse_backref(5, &data).is_none());
        data.extend(b"\xff\n");
        let place = parse_backref(5, &data).unwrap();
        assert_eq!((place.parent, place.dirid), (5, 255));
        assert_eq!(place.name.as_os_str().as_bytes(), b"\xff\n");
    }
}
