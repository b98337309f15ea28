//! The commands of a stream.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::tree::{le32, le64};
use crate::{Error, Reason, Result, Uuid};

/// `BTRFS_SEND_STREAM_MAGIC`, with its NUL, and the version after it (u32).
const MAGIC: &[u8; 13] = b"btrfs-stream\0";
const HEAD: usize = MAGIC.len() + 4;
/// `struct btrfs_cmd_header`: length (u32), command (u16), checksum (u32).
const COMMAND_HEAD: usize = 10;
/// The kernel's are of 64 KiB and a little.
const LONGEST: usize = 1 << 20;
/// The highest attribute of version 1 (`BTRFS_SEND_A_CLONE_LEN`).
const ATTRIBUTES: usize = 25;

/// One thing to be done. Paths are relative to the root of the subvolume, which is the empty
/// one, and have no `..` in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names are those of the system calls
pub enum Command<'a> {
    /// The first one of a stream with no parent.
    Subvolume {
        uuid: Uuid,
        transid: u64,
    },
    /// The first one of a stream with a parent.
    Snapshot {
        uuid: Uuid,
        transid: u64,
        parent: Uuid,
    },
    MakeFile(&'a Path),
    MakeDir(&'a Path),
    /// A device, a fifo or a socket, as its mode says.
    MakeNode {
        path: &'a Path,
        mode: u32,
        device: u64,
    },
    Symlink {
        path: &'a Path,
        target: &'a Path,
    },
    Rename {
        from: &'a Path,
        to: &'a Path,
    },
    Link {
        path: &'a Path,
        old: &'a Path,
    },
    Unlink(&'a Path),
    RemoveDir(&'a Path),
    SetXattr {
        path: &'a Path,
        name: &'a OsStr,
        value: &'a [u8],
    },
    RemoveXattr {
        path: &'a Path,
        name: &'a OsStr,
    },
    Write {
        path: &'a Path,
        offset: u64,
        data: &'a [u8],
    },
    /// Share an extent of a file, here or in the parent.
    Clone {
        path: &'a Path,
        offset: u64,
        length: u64,
        of: Uuid,
        from: &'a Path,
        from_offset: u64,
    },
    Truncate {
        path: &'a Path,
        size: u64,
    },
    Chmod {
        path: &'a Path,
        mode: u32,
    },
    Chown {
        path: &'a Path,
        uid: u32,
        gid: u32,
    },
    /// Seconds since 1970, nanoseconds.
    Times {
        path: &'a Path,
        atime: (i64, u32),
        mtime: (i64, u32),
    },
    End,
}

fn bad(why: &'static str) -> Error {
    Error::new("read", "the stream of btrfs", Reason::BadStream(why))
}

/// The attributes of a command: type (u16), length (u16), value.
struct Attributes<'a>([Option<&'a [u8]>; ATTRIBUTES]);

impl<'a> Attributes<'a> {
    fn parse(mut rest: &'a [u8]) -> Result<Self> {
        let mut all = [None; ATTRIBUTES];
        while !rest.is_empty() {
            let (head, tail) = rest.split_first_chunk::<4>().ok_or_else(|| bad(CUT))?;
            let kind = usize::from(u16::from_le_bytes([head[0], head[1]]));
            let length = usize::from(u16::from_le_bytes([head[2], head[3]]));
            let (value, tail) = tail.split_at_checked(length).ok_or_else(|| bad(CUT))?;
            let place = all
                .get_mut(kind)
                .ok_or_else(|| bad("an attribute is unknown"))?;
            if place.replace(value).is_some() {
                return Err(bad("an attribute is there twice"));
            }
            rest = tail;
        }
        Ok(Self(all))
    }

    fn get(&self, kind: usize) -> Result<&'a [u8]> {
        self.0[kind].ok_or_else(|| bad("a command lacks an attribute"))
    }

    fn number(&self, kind: usize) -> Result<u64> {
        let value = self.get(kind)?;
        le64(value, 0)
            .filter(|_| value.len() == 8)
            .ok_or_else(|| bad(CUT))
    }

    fn small(&self, kind: usize) -> Result<u32> {
        u32::try_from(self.number(kind)?).map_err(|_| bad("a number is too large"))
    }

    fn uuid(&self, kind: usize) -> Result<Uuid> {
        let value = self.get(kind)?.try_into().map_err(|_| bad(CUT))?;
        Ok(Uuid::from_bytes(value))
    }

    /// `struct btrfs_timespec`: seconds (u64), nanoseconds (u32).
    fn time(&self, kind: usize) -> Result<(i64, u32)> {
        let value = self.get(kind)?;
        let parts = le64(value, 0)
            .zip(le32(value, 8))
            .filter(|_| value.len() == 12);
        let (seconds, nanoseconds) = parts.ok_or_else(|| bad(CUT))?;
        if nanoseconds >= 1_000_000_000 {
            return Err(bad("a time is none"));
        }
        Ok((seconds.cast_signed(), nanoseconds))
    }

    /// A path that stays below the root, or the root itself.
    fn path(&self, kind: usize) -> Result<&'a Path> {
        let path = self.bytes(kind)?;
        // Not by components, which leave out a doubled slash and a dot.
        let mut names = path.as_bytes().split(|b| *b == b'/');
        match path.is_empty() || names.all(is_name) {
            true => Ok(Path::new(path)),
            false => Err(bad("a path in it leads out of the subvolume")),
        }
    }

    /// A path of at least one name.
    fn named(&self, kind: usize) -> Result<&'a Path> {
        let path = self.path(kind)?;
        match path.as_os_str().is_empty() {
            true => Err(bad("a path in it is empty")),
            false => Ok(path),
        }
    }

    fn bytes(&self, kind: usize) -> Result<&'a OsStr> {
        let value = self.get(kind)?;
        if value.contains(&0) {
            return Err(bad("a name in it has a NUL"));
        }
        Ok(OsStr::from_bytes(value))
    }
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".."
}

const CUT: &str = "an attribute is cut off";

// `enum` of `BTRFS_SEND_A_*`.
const UUID: usize = 1;
const CTRANSID: usize = 2;
const SIZE: usize = 4;
const MODE: usize = 5;
const UID: usize = 6;
const GID: usize = 7;
const RDEV: usize = 8;
const MTIME: usize = 10;
const ATIME: usize = 11;
const XATTR_NAME: usize = 13;
const XATTR_DATA: usize = 14;
const PATH: usize = 15;
const PATH_TO: usize = 16;
const PATH_LINK: usize = 17;
const FILE_OFFSET: usize = 18;
const DATA: usize = 19;
const CLONE_UUID: usize = 20;
const CLONE_PATH: usize = 22;
const CLONE_OFFSET: usize = 23;
const CLONE_LEN: usize = 24;

impl<'a> Command<'a> {
    /// One command by its number (`BTRFS_SEND_C_*`) and what follows its head.
    fn parse(number: u16, rest: &'a [u8]) -> Result<Self> {
        let a = Attributes::parse(rest)?;
        Ok(match number {
            1 => Command::Subvolume {
                uuid: a.uuid(UUID)?,
                transid: a.number(CTRANSID)?,
            },
            2 => Command::Snapshot {
                uuid: a.uuid(UUID)?,
                transid: a.number(CTRANSID)?,
                parent: a.uuid(CLONE_UUID)?,
            },
            3 => Command::MakeFile(a.named(PATH)?),
            4 => Command::MakeDir(a.named(PATH)?),
            5..=7 => Command::MakeNode {
                path: a.named(PATH)?,
                mode: a.small(MODE)?,
                device: a.number(RDEV)?,
            },
            8 => Command::Symlink {
                path: a.named(PATH)?,
                target: Path::new(a.bytes(PATH_LINK)?),
            },
            9 => Command::Rename {
                from: a.named(PATH)?,
                to: a.named(PATH_TO)?,
            },
            10 => Command::Link {
                path: a.named(PATH)?,
                old: a.named(PATH_LINK)?,
            },
            11 => Command::Unlink(a.named(PATH)?),
            12 => Command::RemoveDir(a.named(PATH)?),
            13 => Command::SetXattr {
                path: a.path(PATH)?,
                name: a.bytes(XATTR_NAME)?,
                value: a.get(XATTR_DATA)?,
            },
            14 => Command::RemoveXattr {
                path: a.path(PATH)?,
                name: a.bytes(XATTR_NAME)?,
            },
            15 => Command::Write {
                path: a.named(PATH)?,
                offset: a.number(FILE_OFFSET)?,
                data: a.get(DATA)?,
            },
            16 => Command::Clone {
                path: a.named(PATH)?,
                offset: a.number(FILE_OFFSET)?,
                length: a.number(CLONE_LEN)?,
                of: a.uuid(CLONE_UUID)?,
                from: a.named(CLONE_PATH)?,
                from_offset: a.number(CLONE_OFFSET)?,
            },
            17 => Command::Truncate {
                path: a.named(PATH)?,
                size: a.number(SIZE)?,
            },
            18 => Command::Chmod {
                path: a.path(PATH)?,
                mode: a.small(MODE)?,
            },
            19 => Command::Chown {
                path: a.path(PATH)?,
                uid: a.small(UID)?,
                gid: a.small(GID)?,
            },
            20 => Command::Times {
                path: a.path(PATH)?,
                atime: a.time(ATIME)?,
                mtime: a.time(MTIME)?,
            },
            21 => Command::End,
            _ => return Err(bad("a command in it is not one of version 1")),
        })
    }
}

/// The length of the command that ends a stream, in bytes.
pub const END_LENGTH: usize = COMMAND_HEAD;

/// Whether these bytes are the command that ends a stream.
pub fn is_end(bytes: &[u8]) -> bool {
    bytes.len() == END_LENGTH && bytes[..6] == [0, 0, 0, 0, 21, 0]
}

/// The command that removes an empty directory, without its checksum.
pub fn remove_dir(path: &Path) -> Vec<u8> {
    let path = path.as_os_str().as_bytes();
    let length = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    let mut command = u32::from(length(path.len() + 4)).to_le_bytes().to_vec();
    command.extend(12u16.to_le_bytes());
    command.extend([0; 4]);
    command.extend((PATH as u16).to_le_bytes());
    command.extend(length(path.len()).to_le_bytes());
    command.extend(path);
    command
}

/// Cuts a stream into its commands, however it comes.
#[derive(Debug, Default)]
pub struct Splitter {
    rest: Vec<u8>,
    begun: bool,
    ended: bool,
}

impl Splitter {
    /// For a stream that begins.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece, and calls `each` with every command that is complete by it.
    ///
    /// Errors: [`Reason::BadStream`], and those of `each`.
    pub fn feed<E: From<Error>>(
        &mut self,
        piece: &[u8],
        mut each: impl FnMut(Command<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut held = std::mem::take(&mut self.rest);
        let joined = !held.is_empty();
        if joined {
            held.extend_from_slice(piece);
        }
        let all = if joined { held.as_slice() } else { piece };
        let mut at = 0;
        while let Some((command, length)) = self.next(&all[at..])? {
            if let Some(command) = command {
                each(command)?;
            }
            at += length;
        }
        self.rest = all[at..].to_vec();
        Ok(())
    }

    /// Whether the stream has come to its end, with nothing after it.
    pub fn is_complete(&self) -> bool {
        self.ended && self.rest.is_empty()
    }

    /// The first command in these bytes, and how many it has; no command for the head of the
    /// stream, None if there is not all of it.
    #[allow(clippy::type_complexity)]
    fn next<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<(Option<Command<'a>>, usize)>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        if self.ended {
            return Err(bad("something follows its end"));
        }
        if !self.begun {
            let Some(head) = bytes.get(..HEAD) else {
                return Ok(None);
            };
            if &head[..MAGIC.len()] != MAGIC || le32(head, MAGIC.len()) != Some(1) {
                return Err(bad("it is no stream of version 1"));
            }
            self.begun = true;
            return Ok(Some((None, HEAD)));
        }
        let Some(head) = bytes.get(..COMMAND_HEAD) else {
            return Ok(None);
        };
        let length = le32(head, 0).unwrap_or(0) as usize;
        if length > LONGEST {
            return Err(bad("a command in it is longer than any can be"));
        }
        let number = u16::from_le_bytes([head[4], head[5]]);
        let Some(body) = bytes.get(COMMAND_HEAD..COMMAND_HEAD + length) else {
            return Ok(None);
        };
        let command = Command::parse(number, body)?;
        self.ended = command == Command::End;
        Ok(Some((Some(command), COMMAND_HEAD + length)))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A command as the kernel writes it.
    pub(crate) fn written(number: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, value) in attributes {
            body.extend(kind.to_le_bytes());
            body.extend((value.len() as u16).to_le_bytes());
            body.extend(*value);
        }
        let mut all = (body.len() as u32).to_le_bytes().to_vec();
        all.extend(number.to_le_bytes());
        all.extend([0; 4]);
        all.extend(body);
        all
    }

    fn head() -> Vec<u8> {
        let mut head = MAGIC.to_vec();
        head.extend(1u32.to_le_bytes());
        head
    }

    fn commands(stream: &[u8], step: usize) -> Result<(Vec<String>, bool)> {
        let mut splitter = Splitter::new();
        let mut found = Vec::new();
        for piece in stream.chunks(step) {
            splitter.feed(piece, |command| {
                found.push(format!("{command:?}"));
                Ok::<_, Error>(())
            })?;
        }
        Ok((found, splitter.is_complete()))
    }

    #[test]
    fn however_it_is_cut_into_pieces() {
        let mut stream = head();
        stream.extend(written(3, &[(15, b"a/b"), (3, &[0; 8])]));
        let offset = 7u64.to_le_bytes();
        stream.extend(written(15, &[(15, b"a/b"), (18, &offset), (19, b"data")]));
        stream.extend(written(21, &[]));
        assert!(is_end(&stream[stream.len() - END_LENGTH..]));
        assert_eq!(remove_dir(Path::new("a/b")), written(12, &[(15, b"a/b")]));
        let (all, complete) = commands(&stream, stream.len()).unwrap();
        assert!(complete);
        assert_eq!(all.len(), 3);
        assert!(all[1].contains("offset: 7"), "{all:?}");
        for step in 1..stream.len() {
            assert_eq!(commands(&stream, step).unwrap(), (all.clone(), true));
        }
        for cut in 0..stream.len() {
            assert!(!commands(&stream[..cut], 9).unwrap().1, "{cut}");
        }
        stream.push(0);
        assert!(commands(&stream, 1000).is_err());
    }

    #[test]
    fn paths_stay_below_the_root() {
        for path in [
            "/etc",
            "..",
            "../x",
            "a/../../b",
            "a/..",
            ".",
            "./a",
            "a/.",
            "a//b",
            "a/",
            "a/./b",
            "a\0b",
            "",
        ] {
            let mut stream = head();
            stream.extend(written(4, &[(15, path.as_bytes())]));
            assert!(commands(&stream, 100).is_err(), "{path:?}");
        }
        for path in ["a", "a/b", "a/.b", "...", "a/..b", "a b\nc", "\u{fc}"] {
            let mut stream = head();
            stream.extend(written(4, &[(15, path.as_bytes())]));
            assert_eq!(commands(&stream, 100).unwrap().0.len(), 1, "{path:?}");
        }
    }

    #[test]
    fn absurd_lengths_are_no_allocation() {
        let mut stream = head();
        stream.extend(u32::MAX.to_le_bytes());
        stream.extend([0; 6]);
        assert!(commands(&stream, 100).is_err());
        let mut stream = head();
        stream.extend(written(22, &[]));
        assert!(commands(&stream, 100).is_err(), "a command of no file data");
    }

    proptest! {
        #[test]
        fn any_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut stream = head();
            stream.extend(bytes);
            let _some_error = commands(&stream, 7);
        }
    }
}
