//! The btrfs ioctls that btrfsutil lacks, or has only by path.
//!
//! Numbers, structures and sizes: `linux/btrfs.h`. Every function takes a
//! descriptor that is open for reading (an `O_PATH` one gives `EBADF`).

#![allow(unsafe_code)]

use std::ffi::{CStr, OsString};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::Uuid;

const MAGIC: u8 = 0x94;
/// `BTRFS_SUBVOL_SPEC_BY_ID`: the union of the arguments holds a subvolume id.
const SPEC_BY_ID: u64 = 1 << 4;
/// The best size measured; the kernel takes at most 16 MiB.
const SEARCH_BUFFER: usize = 256 << 10;

#[repr(C)]
struct InoLookupArgs {
    treeid: u64,
    objectid: u64,
    name: [u8; 4080],
}

#[repr(C)]
struct SpaceInfo {
    flags: u64,
    total_bytes: u64,
    used_bytes: u64,
}

#[repr(C)]
struct SpaceArgs {
    space_slots: u64,
    total_spaces: u64,
}

#[repr(C)]
struct VolArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    subvolid: u64,
    rest: [u64; 504],
}

#[repr(C)]
struct DevInfoArgs {
    devid: u64,
    uuid: [u8; 16],
    bytes_used: u64,
    total_bytes: u64,
    unused: [u64; 379],
    path: [u8; 1024],
}

#[repr(C)]
struct FsInfoArgs {
    max_id: u64,
    num_devices: u64,
    fsid: [u8; 16],
    rest: [u64; 124],
}

#[repr(C)]
struct Timespec {
    sec: u64,
    nsec: u32,
}

#[repr(C)]
struct SubvolInfoArgs {
    treeid: u64,
    name: [u8; 256],
    parent_id: u64,
    dirid: u64,
    generation: u64,
    flags: u64,
    uuid: [u8; 16],
    parent_uuid: [u8; 16],
    received_uuid: [u8; 16],
    ctransid: u64,
    otransid: u64,
    stransid: u64,
    rtransid: u64,
    ctime: Timespec,
    otime: Timespec,
    stime: Timespec,
    rtime: Timespec,
    reserved: [u64; 8],
}

#[repr(C)]
struct SendArgs {
    send_fd: i64,
    clone_sources_count: u64,
    clone_sources: *const u64,
    parent_root: u64,
    flags: u64,
    version: u32,
    reserved: [u8; 28],
}

#[repr(C)]
struct ReceivedArgs {
    uuid: [u8; 16],
    stransid: u64,
    rtransid: u64,
    stime: Timespec,
    rtime: Timespec,
    flags: u64,
    reserved: [u64; 16],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct SearchKey {
    tree_id: u64,
    min_objectid: u64,
    max_objectid: u64,
    min_offset: u64,
    max_offset: u64,
    min_transid: u64,
    max_transid: u64,
    min_type: u32,
    max_type: u32,
    nr_items: u32,
    unused: u32,
    unused1: [u64; 4],
}

#[repr(C)]
struct SearchArgs {
    key: SearchKey,
    buf_size: u64,
}

// The request numbers contain these sizes.
const _: () = assert!(size_of::<InoLookupArgs>() == 4096);
const _: () = assert!(size_of::<VolArgsV2>() == 4096);
const _: () = assert!(size_of::<DevInfoArgs>() == 4096);
const _: () = assert!(size_of::<FsInfoArgs>() == 1024);
const _: () = assert!(size_of::<SubvolInfoArgs>() == 504);
const _: () = assert!(size_of::<SearchArgs>() == 112);
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<SendArgs>() == 72);
const _: () = assert!(size_of::<ReceivedArgs>() == 200);
const _: () = assert!(size_of::<SpaceArgs>() == 16);
const _: () = assert!(size_of::<SpaceInfo>() == 24);

mod raw {
    use super::*;
    nix::ioctl_none!(sync, MAGIC, 8);
    nix::ioctl_readwrite!(tree_search_v2, MAGIC, 17, SearchArgs);
    nix::ioctl_readwrite!(ino_lookup, MAGIC, 18, InoLookupArgs);
    nix::ioctl_readwrite!(space_info, MAGIC, 20, SpaceArgs);
    nix::ioctl_readwrite!(dev_info, MAGIC, 30, DevInfoArgs);
    nix::ioctl_read!(fs_info, MAGIC, 31, FsInfoArgs);
    nix::ioctl_readwrite!(set_received_subvol, MAGIC, 37, ReceivedArgs);
    nix::ioctl_write_ptr!(send, MAGIC, 38, SendArgs);
    nix::ioctl_read!(get_subvol_info, MAGIC, 60, SubvolInfoArgs);
    nix::ioctl_write_ptr!(snap_destroy_v2, MAGIC, 63, VolArgsV2);
    nix::ioctl_write_ptr!(ext4_checkpoint, b'f', 43, u32);
}

/// A structure of the kernel that may be all zeroes.
trait Zeroed: Sized {
    fn zeroed() -> Self {
        // SAFETY: only implemented below, for `repr(C)` structures of integers
        // and arrays of integers, for which all zeroes is a value.
        unsafe { std::mem::zeroed() }
    }
}
impl Zeroed for InoLookupArgs {}
impl Zeroed for VolArgsV2 {}
impl Zeroed for DevInfoArgs {}
impl Zeroed for FsInfoArgs {}
impl Zeroed for SubvolInfoArgs {}
impl Zeroed for ReceivedArgs {}

fn until_nul(bytes: &[u8]) -> PathBuf {
    let bytes = CStr::from_bytes_until_nul(bytes).map_or(bytes, CStr::to_bytes);
    OsString::from_vec(bytes.to_vec()).into()
}

/// `BTRFS_IOC_SYNC`: writes all dirty data, then commits. It also wakes the
/// cleaner that gives back the space of deleted subvolumes.
pub(crate) fn sync(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the ioctl takes no argument.
    unsafe { raw::sync(fd.as_raw_fd()) }?;
    Ok(())
}

/// `EXT4_IOC_CHECKPOINT` (Linux 5.14, Documentation/filesystems/ext4/journal.rst): writes
/// what is in the journal to its place, where a reader finds it who replays no journal.
pub(crate) fn ext4_checkpoint(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the kernel reads the flags, which live through the call.
    unsafe { raw::ext4_checkpoint(fd.as_raw_fd(), &0) }?;
    Ok(())
}

/// `BTRFS_IOC_INO_LOOKUP`: the tree that `fd` lies in.
pub(crate) fn tree_of(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut args = InoLookupArgs::zeroed();
    args.objectid = 256;
    // SAFETY: args lives through the call and has the size in the number.
    unsafe { raw::ino_lookup(fd.as_raw_fd(), &mut args) }?;
    Ok(args.treeid)
}

/// `BTRFS_IOC_INO_LOOKUP`: a path of the inode from the root of its tree,
/// with a slash at its end; empty for the root itself. `ENAMETOOLONG` over
/// 4080 bytes.
pub(crate) fn path_of_inode(fd: BorrowedFd<'_>, tree: u64, inode: u64) -> io::Result<PathBuf> {
    let mut args = InoLookupArgs::zeroed();
    args.treeid = tree;
    args.objectid = inode;
    // SAFETY: args lives through the call and has the size in the number.
    unsafe { raw::ino_lookup(fd.as_raw_fd(), &mut args) }?;
    Ok(until_nul(&args.name))
}

/// `BTRFS_IOC_SNAP_DESTROY_V2` by id: deletes that subvolume, wherever on the
/// filesystem of `fd` its name now is.
pub(crate) fn destroy_by_id(fd: BorrowedFd<'_>, id: u64) -> io::Result<()> {
    let mut args = VolArgsV2::zeroed();
    args.flags = SPEC_BY_ID;
    args.subvolid = id;
    // SAFETY: args lives through the call and has the size in the number.
    unsafe { raw::snap_destroy_v2(fd.as_raw_fd(), &args) }?;
    Ok(())
}

/// `BTRFS_IOC_SEND`: writes the stream, version 1, of the read-only subvolume with the root
/// directory `fd` to a pipe; with `parent`, the id of another, what is different from that
/// one. It returns when all is written: `EPIPE` if nobody reads any more, `EPERM` if one of
/// them can be written.
pub(crate) fn send(fd: BorrowedFd<'_>, parent: Option<u64>, to: BorrowedFd<'_>) -> io::Result<()> {
    // Extents of the parent are named and not sent again, also where they are in another file.
    let sources = parent.as_slice();
    let args = SendArgs {
        send_fd: to.as_raw_fd().into(),
        clone_sources_count: sources.len() as u64,
        clone_sources: sources.as_ptr(),
        parent_root: parent.unwrap_or(0),
        flags: 0,
        version: 0,
        reserved: [0; 28],
    };
    // SAFETY: args, and the array with as many ids as it says, live through the call.
    unsafe { raw::send(fd.as_raw_fd(), &args) }?;
    Ok(())
}

/// `BTRFS_IOC_SET_RECEIVED_SUBVOL`: notes of which subvolume, in which transaction there, the
/// one with the root directory `fd` is a copy.
pub(crate) fn set_received(fd: BorrowedFd<'_>, uuid: Uuid, transid: u64) -> io::Result<()> {
    let mut args = ReceivedArgs::zeroed();
    args.uuid = *uuid.as_bytes();
    args.stransid = transid;
    // SAFETY: args lives through the call and has the size in the number.
    unsafe { raw::set_received_subvol(fd.as_raw_fd(), &mut args) }?;
    Ok(())
}

/// What `BTRFS_IOC_GET_SUBVOL_INFO` says of the subvolume that `fd` lies in.
pub(crate) fn subvolume_info(fd: BorrowedFd<'_>) -> io::Result<crate::SubvolumeInfo> {
    let mut args = SubvolInfoArgs::zeroed();
    // SAFETY: args lives through the call and has the size in the number.
    unsafe { raw::get_subvol_info(fd.as_raw_fd(), &mut args) }?;
    let some = |id: u64| (id != 0).then_some(id);
    Ok(crate::SubvolumeInfo {
        id: args.treeid,
        uuid: Uuid::from_bytes(args.uuid),
        parent_uuid: Uuid::from_bytes(args.parent_uuid).non_nil(),
        received_uuid: Uuid::from_bytes(args.received_uuid).non_nil(),
        parent_id: some(args.parent_id),
        dirid: some(args.dirid),
        read_only: args.flags & 1 != 0,
        generation: args.generation,
        ctransid: args.ctransid,
        otransid: args.otransid,
        otime: args.otime.sec as i64,
    })
}

/// What `BTRFS_IOC_FS_INFO` says.
pub(crate) struct FsInfo {
    pub fsid: Uuid,
    pub max_devid: u64,
}

/// `BTRFS_IOC_FS_INFO`.
pub(crate) fn fs_info(fd: BorrowedFd<'_>) -> io::Result<FsInfo> {
    let mut args = FsInfoArgs::zeroed();
    // SAFETY: args lives through the call and has the size in the number.
    unsafe { raw::fs_info(fd.as_raw_fd(), &mut args) }?;
    Ok(FsInfo {
        fsid: Uuid::from_bytes(args.fsid),
        max_devid: args.max_id,
    })
}

/// What `BTRFS_IOC_DEV_INFO` says, in raw bytes of the device.
pub(crate) struct DevInfo {
    pub path: PathBuf,
    pub allocated: u64,
    pub total: u64,
}

/// `BTRFS_IOC_DEV_INFO`; None where the id has no device.
pub(crate) fn dev_info(fd: BorrowedFd<'_>, devid: u64) -> io::Result<Option<DevInfo>> {
    let mut args = DevInfoArgs::zeroed();
    args.devid = devid;
    // SAFETY: args lives through the call and has the size in the number.
    match unsafe { raw::dev_info(fd.as_raw_fd(), &mut args) } {
        Ok(_) => Ok(Some(DevInfo {
            path: until_nul(&args.path),
            allocated: args.bytes_used,
            total: args.total_bytes,
        })),
        Err(nix::Error::ENODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// `BTRFS_IOC_SPACE_INFO`: (block group flags, total, used) of every profile,
/// in bytes as files see them.
pub(crate) fn space_info(fd: BorrowedFd<'_>) -> io::Result<Vec<(u64, u64, u64)>> {
    // More than there are profiles; the kernel fills at most `space_slots`.
    const SLOTS: usize = 64;
    const HEADER: usize = size_of::<SpaceArgs>() / 8;
    let mut buf = [0u64; HEADER + SLOTS * 3];
    buf[0] = SLOTS as u64;
    // SAFETY: buf is aligned for the structure, which starts with the number
    // of slots that follow it in the same array.
    unsafe { raw::space_info(fd.as_raw_fd(), buf.as_mut_ptr().cast()) }?;
    let filled = (buf[1] as usize).min(SLOTS);
    Ok(buf[HEADER..]
        .chunks_exact(3)
        .take(filled)
        .map(|s| (s[0], s[1], s[2]))
        .collect())
}

/// A key of a btrfs tree: object, type, offset.
pub(crate) type Key = (u64, u8, u64);

/// What to search: every item between two keys, inclusive, in leaves that were
/// written in transaction `since` or later. Keys are ordered as a whole, so
/// other types than those at the ends come too, where the objects differ.
pub(crate) struct Range {
    pub tree: u64,
    pub from: Key,
    pub to: Key,
    pub since: u64,
}

/// One item of a tree.
pub(crate) struct Item<'a> {
    pub key: Key,
    pub data: &'a [u8],
}

/// The buffer of `BTRFS_IOC_TREE_SEARCH_V2`, for use over many searches.
pub(crate) struct Searcher(Vec<u64>);

impl Searcher {
    pub(crate) fn new() -> Searcher {
        Searcher::sized(SEARCH_BUFFER)
    }

    /// With a buffer of so many bytes: the kernel copies all that fits.
    pub(crate) fn sized(bytes: usize) -> Searcher {
        Searcher(vec![0; bytes / 8])
    }

    /// Calls `each` for every item of the range, in the order of keys, until
    /// it breaks.
    pub(crate) fn search(
        &mut self,
        fd: BorrowedFd<'_>,
        range: &Range,
        each: impl FnMut(Item<'_>) -> ControlFlow<()>,
    ) -> io::Result<()> {
        self.search_by(fd, range, next_key, each)
    }

    /// The same, where every call after the first one begins at the key that
    /// `next` makes of the last one seen: it may leave some out.
    pub(crate) fn search_by(
        &mut self,
        fd: BorrowedFd<'_>,
        range: &Range,
        next: impl Fn(Key) -> Option<Key>,
        mut each: impl FnMut(Item<'_>) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let mut from = range.from;
        loop {
            let items = self.fill(fd, range, from)?;
            let mut last = None;
            let mut rest = &self.bytes()[size_of::<SearchArgs>()..];
            for _ in 0..items {
                let (item, tail) = split_item(rest)
                    .ok_or_else(|| io::Error::other("btrfs returned a bad search result"))?;
                last = Some(item.key);
                if each(item).is_break() {
                    return Ok(());
                }
                rest = tail;
            }
            match last.and_then(&next) {
                Some(next) if next <= range.to => from = next,
                _ => return Ok(()),
            }
        }
    }

    /// One call; the number of items that are now in the buffer.
    fn fill(&mut self, fd: BorrowedFd<'_>, range: &Range, from: Key) -> io::Result<u32> {
        let args = SearchArgs {
            key: SearchKey {
                tree_id: range.tree,
                min_objectid: from.0,
                max_objectid: range.to.0,
                min_offset: from.2,
                max_offset: range.to.2,
                min_transid: range.since,
                max_transid: u64::MAX,
                min_type: from.1.into(),
                max_type: range.to.1.into(),
                nr_items: u32::MAX,
                unused: 0,
                unused1: [0; 4],
            },
            buf_size: (self.0.len() * 8 - size_of::<SearchArgs>()) as u64,
        };
        let header: *mut SearchArgs = self.0.as_mut_ptr().cast();
        // SAFETY: the buffer is aligned to 8 bytes, larger than the structure,
        // and `buf_size` is what it has left after it.
        unsafe {
            header.write(args);
            raw::tree_search_v2(fd.as_raw_fd(), header)?;
            Ok((*header).key.nr_items)
        }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: initialized integers seen as bytes, for the life of self.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 8) }
    }
}

/// The key after this one, None after the last.
pub(crate) fn next_key((object, kind, offset): Key) -> Option<Key> {
    if let Some(offset) = offset.checked_add(1) {
        Some((object, kind, offset))
    } else if let Some(kind) = kind.checked_add(1) {
        Some((object, kind, 0))
    } else {
        Some((object.checked_add(1)?, 0, 0))
    }
}

/// `struct btrfs_ioctl_search_header`: transid, objectid, offset (u64), type,
/// len (u32), then `len` bytes.
fn split_item(bytes: &[u8]) -> Option<(Item<'_>, &[u8])> {
    let u64_at = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let key = (u64_at(8)?, u8::try_from(u32_at(24)?).ok()?, u64_at(16)?);
    let (data, rest) = bytes.get(32..)?.split_at_checked(u32_at(28)? as usize)?;
    Some((Item { key, data }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_each_other() {
        assert_eq!(next_key((1, 2, 3)), Some((1, 2, 4)));
        assert_eq!(next_key((1, 2, u64::MAX)), Some((1, 3, 0)));
        assert_eq!(next_key((1, u8::MAX, u64::MAX)), Some((2, 0, 0)));
        assert_eq!(next_key((u64::MAX, u8::MAX, u64::MAX)), None);
    }

    #[test]
    fn a_short_result_is_no_panic() {
        let mut bytes = vec![0; 32];
        bytes[28] = 1;
        assert!(split_item(&bytes).is_none());
        assert!(split_item(&bytes[..20]).is_none());
        bytes.push(7);
        let (item, rest) = split_item(&bytes).unwrap();
        assert_eq!((item.data, rest.len()), (&[7u8][..], 0));
    }
}
