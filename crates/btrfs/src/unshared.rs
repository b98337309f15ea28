//! Where the data of two files is not the same extents on the disk.

use std::collections::VecDeque;
use std::io;
use std::ops::{ControlFlow, Range as Bytes};
use std::os::fd::BorrowedFd;

use rustix::fs::fstat;

use crate::ioctl::{Item, Range, Searcher};
use crate::tree::le64;

/// `linux/btrfs_tree.h`.
const EXTENT_DATA: u8 = 108;
const INLINE: u8 = 0;
const PREALLOC: u8 = 2;

/// The tree of the subvolume that the file descriptor lies in.
const OWN_TREE: u64 = 0;

/// Items of one call; a file may have very many.
const BUFFER: usize = 64 << 10;

/// What is at a place of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Data {
    /// Nothing, or what reads as zeros.
    Zeros,
    /// In the metadata: it has no place that could be compared.
    Inline,
    /// In this extent, which begins at this byte of the file, counted with overflow.
    Extent(u64, u64),
}

/// Calls `each` with every range of two files of one filesystem, up to `size`, where their data
/// may differ, until it breaks. What is only in memory is not seen: the filesystem is to be
/// synced first.
///
/// # Errors
/// `ENOTTY` on another filesystem, `EPERM` without `CAP_SYS_ADMIN`.
pub fn unshared(
    [a, b]: [BorrowedFd<'_>; 2],
    size: u64,
    mut each: impl FnMut(Bytes<u64>) -> io::Result<ControlFlow<()>>,
) -> io::Result<()> {
    let (mut a, mut b) = (Extents::new(a)?, Extents::new(b)?);
    let mut at = 0;
    while at < size {
        let ((one, end_a), (other, end_b)) = (a.at(at)?, b.at(at)?);
        let end = end_a.min(end_b).min(size);
        let is_same = one == other && one != Data::Inline;
        if !is_same && each(at..end)?.is_break() {
            break;
        }
        at = end;
    }
    Ok(())
}

/// The extents of a file, in order.
struct Extents<'a> {
    fd: BorrowedFd<'a>,
    inode: u64,
    searcher: Searcher,
    seen: VecDeque<(Bytes<u64>, Data)>,
    /// Where to search on; none at the end.
    next: Option<u64>,
}

impl<'a> Extents<'a> {
    fn new(fd: BorrowedFd<'a>) -> io::Result<Self> {
        #[allow(clippy::unnecessary_cast)] // its type differs between architectures
        let inode = fstat(fd)?.st_ino as u64;
        Ok(Self {
            fd,
            inode,
            searcher: Searcher::sized(BUFFER),
            seen: VecDeque::new(),
            next: Some(0),
        })
    }

    /// What is at a place, which is not before the last one, and how far that goes.
    fn at(&mut self, place: u64) -> io::Result<(Data, u64)> {
        loop {
            match self.seen.front() {
                Some((range, _)) if range.end <= place => _ = self.seen.pop_front(),
                Some((range, data)) if range.start <= place => return Ok((*data, range.end)),
                Some((range, _)) => return Ok((Data::Zeros, range.start)),
                None => match self.next.take() {
                    Some(from) => self.read(from)?,
                    None => return Ok((Data::Zeros, u64::MAX)),
                },
            }
        }
    }

    /// Reads some more.
    fn read(&mut self, from: u64) -> io::Result<()> {
        const MANY: usize = 512;
        let range = Range {
            tree: OWN_TREE,
            from: (self.inode, EXTENT_DATA, from),
            to: (self.inode, EXTENT_DATA, u64::MAX),
            since: 0,
        };
        let (seen, next) = (&mut self.seen, &mut self.next);
        self.searcher.search(self.fd, &range, |item| {
            if item.key.1 != EXTENT_DATA {
                return ControlFlow::Continue(());
            }
            if seen.len() == MANY {
                *next = Some(item.key.2);
                return ControlFlow::Break(());
            }
            seen.extend(extent(&item));
            ControlFlow::Continue(())
        })
    }
}

/// `struct btrfs_file_extent_item`: ram_bytes (8), type (20), disk_bytenr (21), offset (37),
/// num_bytes (45). An extent that is compressed is decompressed as a whole: the offset counts
/// what came out.
fn extent(item: &Item<'_>) -> Option<(Bytes<u64>, Data)> {
    let start = item.key.2;
    let kind = *item.data.get(20)?;
    if kind == INLINE {
        let length = le64(item.data, 8)?;
        return Some((start..start.checked_add(length)?, Data::Inline));
    }
    let (place, offset) = (le64(item.data, 21)?, le64(item.data, 37)?);
    let end = start.checked_add(le64(item.data, 45)?)?;
    let data = match place == 0 || kind == PREALLOC {
        true => Data::Zeros,
        false => Data::Extent(place, start.wrapping_sub(offset)),
    };
    Some((start..end, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(kind: u8, place: u64, offset: u64, length: u64) -> Vec<u8> {
        let mut data = vec![0; 53];
        data[8..16].copy_from_slice(&length.to_le_bytes());
        data[20] = kind;
        data[21..29].copy_from_slice(&place.to_le_bytes());
        data[37..45].copy_from_slice(&offset.to_le_bytes());
        data[45..53].copy_from_slice(&length.to_le_bytes());
        data
    }

    #[test]
    fn what_an_item_says() {
        let read = |start, data: &[u8]| {
            extent(&Item {
                key: (257, EXTENT_DATA, start),
                data,
            })
        };
        let expected = (8..20, Data::Extent(4096, 5));
        assert_eq!(read(8, &item(1, 4096, 3, 12)), Some(expected));
        // Of an extent that was cut in two the parts are known as one.
        let parts = [read(0, &item(1, 4096, 0, 8)), read(8, &item(1, 4096, 8, 4))];
        let [Some((_, one)), Some((_, other))] = parts else {
            panic!("no parts");
        };
        assert_eq!(one, other);
        assert_eq!(read(0, &item(1, 0, 0, 9)), Some((0..9, Data::Zeros)));
        assert_eq!(read(0, &item(2, 4096, 0, 9)), Some((0..9, Data::Zeros)));
        assert_eq!(read(0, &item(0, 1, 0, 9)), Some((0..9, Data::Inline)));
        assert_eq!(read(0, &item(1, 1, 0, 9)[..50]), None, "cut");
    }
}
