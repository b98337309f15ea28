//! Reading a device past the page cache, which knows nothing of what btrfs writes to it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

/// What offsets, lengths and memory are multiples of (`O_DIRECT` in open(2)).
const ALIGNED: usize = 4096;

/// A device, open for such reading alone.
#[derive(Debug)]
pub struct Device(File);

impl Device {
    /// Open it.
    ///
    /// # Errors
    /// When it is not there, or may not be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        Ok(Self(open(path, flags, Mode::empty())?.into()))
    }

    /// How many bytes it has.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn size(&self) -> io::Result<u64> {
        Ok(rustix::fs::seek(
            self.0.as_fd(),
            rustix::fs::SeekFrom::End(0),
        )?)
    }

    /// These bytes; `at` and `length` are multiples of 4096. Beyond the end there are zeros.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut memory = vec![0; length + ALIGNED];
        let address = memory.as_ptr().addr();
        let start = address.next_multiple_of(ALIGNED) - address;
        let mut read = 0;
        while read < length {
            let rest = &mut memory[start + read..start + length];
            match self.0.read_at(rest, at + read as u64) {
                Ok(0) => break,
                Ok(count) => read += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            // After a short read the next would not be aligned; it is short at the end only.
            if !read.is_multiple_of(ALIGNED) {
                break;
            }
        }
        memory.copy_within(start..start + length, 0);
        memory.truncate(length);
        Ok(memory)
    }
}
