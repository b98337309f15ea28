//! The stream of `be send` on the wire: a magic, then frames.
//!
//! ```text
//! "BESTREAM"  version (u32)
//! frame: kind (u8)  coding (u8)  0 (u16)  stored length (u32)  length (u32)
//!        check (16 bytes)  the stored bytes
//! ```
//!
//! Numbers are little-endian. A check is the first half of a SHA-256 over the whole one
//! before it, the twelve bytes of the frame's head, and what it stores: a frame that is lost,
//! doubled or in another place is found as a flipped bit is. The last one stands for all of
//! the stream.

use std::io::{self, ErrorKind, Read, Write};

use anyhow::Result;
use sha2::{Digest, Sha256};

use super::Travel;
use super::header::Trailer;

const MAGIC: &[u8; 8] = b"BESTREAM";
/// The version of the frames.
const VERSION: u32 = 1;
const HEAD: usize = 12;
const CHECK: usize = 16;
/// The most bytes that a frame stands for.
pub(super) const LONGEST: usize = 1 << 20;
/// Fast enough for a network, and for a pipe.
const LEVEL: i32 = 1;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The manifest, in JSON; the first one.
    Header,
    /// A piece of the stream of btrfs of a subvolume.
    Data,
    /// That stream has ended.
    EndOfData,
    /// Lines that say what the stream has written.
    Listing,
    /// Those have ended.
    EndOfListing,
    /// What all comes to, in JSON; the last one.
    Trailer,
}

const KINDS: [(u8, Kind); 6] = [
    (b'H', Kind::Header),
    (b'D', Kind::Data),
    (b'd', Kind::EndOfData),
    (b'L', Kind::Listing),
    (b'l', Kind::EndOfListing),
    (b'T', Kind::Trailer),
];

impl Kind {
    fn byte(self) -> u8 {
        let mut all = KINDS.iter();
        all.find(|(_, kind)| *kind == self)
            .map_or(0, |(byte, _)| *byte)
    }

    fn of(byte: u8) -> Option<Self> {
        let mut all = KINDS.iter();
        all.find(|(known, _)| *known == byte).map(|(_, kind)| *kind)
    }
}

/// Stored as it is, or by zstd.
const RAW: u8 = 0;
const ZSTD: u8 = 1;

/// The check of a frame, in which those before it are.
#[derive(Debug, Clone)]
struct Chain([u8; 32]);

impl Chain {
    fn new() -> Self {
        Self(Sha256::digest(MAGIC).into())
    }

    fn next(&mut self, head: &[u8], stored: &[u8]) -> [u8; CHECK] {
        let hash = Sha256::new().chain_update(self.0);
        self.0 = hash
            .chain_update(head)
            .chain_update(stored)
            .finalize()
            .into();
        let mut check = [0; CHECK];
        check.copy_from_slice(&self.0[..CHECK]);
        check
    }

    fn hex(&self) -> String {
        hex(&self.0)
    }
}

/// Lower case.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _always = write!(text, "{byte:02x}");
    }
    text
}

/// Writes frames.
pub(super) struct Writer<W> {
    to: W,
    chain: Chain,
    zstd: zstd::bulk::Compressor<'static>,
    /// Bytes written so far.
    pub(super) written: u64,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(mut to: W) -> io::Result<Self> {
        to.write_all(MAGIC)?;
        to.write_all(&VERSION.to_le_bytes())?;
        Ok(Self {
            to,
            chain: Chain::new(),
            zstd: zstd::bulk::Compressor::new(LEVEL)?,
            written: (MAGIC.len() + 4) as u64,
        })
    }

    /// One frame, of at most [`LONGEST`] bytes.
    pub(super) fn frame(&mut self, kind: Kind, bytes: &[u8]) -> io::Result<()> {
        let packed = self.zstd.compress(bytes)?;
        // What is packed already does not become smaller.
        let (coding, stored) = match packed.len() < bytes.len() {
            true => (ZSTD, packed.as_slice()),
            false => (RAW, bytes),
        };
        let mut head = [0; HEAD];
        head[0] = kind.byte();
        head[1] = coding;
        head[4..8].copy_from_slice(&length(stored)?.to_le_bytes());
        head[8..].copy_from_slice(&length(bytes)?.to_le_bytes());
        let check = self.chain.next(&head, stored);
        self.to.write_all(&head)?;
        self.to.write_all(&check)?;
        self.to.write_all(stored)?;
        self.written += (HEAD + CHECK + stored.len()) as u64;
        Ok(())
    }

    /// The last frame, with the digest over those before it.
    pub(super) fn trailer(&mut self, trailer: Trailer) -> io::Result<()> {
        let digest = self.chain.hex();
        let trailer = serde_json::to_vec(&Trailer { digest, ..trailer })?;
        self.frame(Kind::Trailer, &trailer)
    }

    /// All is said; gives how many bytes that were.
    pub(super) fn end(mut self) -> io::Result<u64> {
        self.to.flush()?;
        Ok(self.written)
    }
}

fn length(bytes: &[u8]) -> io::Result<u32> {
    match u32::try_from(bytes.len()) {
        Ok(length) if bytes.len() <= LONGEST => Ok(length),
        _ => Err(io::Error::other("a frame is too long")),
    }
}

/// Reads frames.
pub(super) struct Reader<R> {
    from: R,
    chain: Chain,
    stored: Vec<u8>,
    plain: Vec<u8>,
    /// Bytes read so far.
    pub(super) read: u64,
}

impl<R: Read> Reader<R> {
    /// # Errors
    /// [`Travel::NoStream`], [`Travel::Newer`], [`Travel::Cut`].
    pub(super) fn new(mut from: R) -> Result<Self> {
        let mut magic = [0; 8];
        match from.read_exact(&mut magic) {
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Err(Travel::NoStream.into()),
            read => read?,
        }
        if &magic != MAGIC {
            return Err(Travel::NoStream.into());
        }
        let mut version = [0; 4];
        exactly(&mut from, &mut version)?;
        match u32::from_le_bytes(version) {
            VERSION => Ok(Self {
                from,
                chain: Chain::new(),
                stored: Vec::new(),
                plain: Vec::new(),
                read: 12,
            }),
            version => Err(Travel::Newer { version }.into()),
        }
    }

    /// The next frame.
    ///
    /// # Errors
    /// [`Travel::Cut`], [`Travel::Damaged`], or what keeps it from being read.
    pub(super) fn frame(&mut self) -> Result<(Kind, &[u8])> {
        let damaged = |why: &str| -> anyhow::Error { Travel::damaged(why).into() };
        let (mut head, mut check) = ([0; HEAD], [0; CHECK]);
        exactly(&mut self.from, &mut head)?;
        exactly(&mut self.from, &mut check)?;
        let number = |at: usize| {
            u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize
        };
        let (stored, plain) = (number(4), number(8));
        // Before anything is allocated for it.
        if stored > LONGEST || plain > LONGEST || stored > plain {
            return Err(damaged("a frame says that it is longer than any can be"));
        }
        self.stored.resize(stored, 0);
        exactly(&mut self.from, &mut self.stored)?;
        if self.chain.next(&head, &self.stored) != check {
            return Err(damaged("a checksum is wrong"));
        }
        self.read += (HEAD + CHECK + stored) as u64;
        let kind = Kind::of(head[0]).filter(|_| head[2..4] == [0, 0]);
        let kind = kind.ok_or_else(|| damaged("a frame is of no known kind"))?;
        let bytes = match head[1] {
            RAW if stored == plain => &self.stored,
            ZSTD => {
                self.plain.resize(plain, 0);
                let unpacked = zstd::bulk::decompress_to_buffer(&self.stored, &mut self.plain);
                if unpacked.ok() != Some(plain) {
                    return Err(damaged("a frame cannot be unpacked"));
                }
                &self.plain
            }
            _ => return Err(damaged("a frame is stored in an unknown way")),
        };
        Ok((kind, bytes))
    }

    /// The next frame, which has to be of this kind.
    pub(super) fn expect(&mut self, kind: Kind) -> Result<&[u8]> {
        let (found, bytes) = self.frame()?;
        match found == kind {
            true => Ok(bytes),
            false => Err(Travel::damaged("a frame is not in its place").into()),
        }
    }

    /// What stands for all that was read.
    pub(super) fn digest(&self) -> String {
        self.chain.hex()
    }

    /// Nothing may follow.
    pub(super) fn end(mut self) -> Result<()> {
        let mut more = [0];
        match self.from.read(&mut more)? {
            0 => Ok(()),
            _ => Err(Travel::damaged("something follows its end").into()),
        }
    }
}

fn exactly(from: &mut impl Read, buffer: &mut [u8]) -> Result<()> {
    match from.read_exact(buffer) {
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Err(Travel::Cut.into()),
        read => Ok(read?),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::refusal::Refusal;

    fn written() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes).unwrap();
        writer.frame(Kind::Header, b"{}").unwrap();
        writer.frame(Kind::Data, &[7; 5000]).unwrap();
        writer.frame(Kind::EndOfData, b"").unwrap();
        let length = writer.end().unwrap();
        assert_eq!(length, bytes.len() as u64);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<(Kind, Vec<u8>)>> {
        let mut reader = Reader::new(bytes)?;
        let mut found = Vec::new();
        for _ in 0..3 {
            let (kind, bytes) = reader.frame()?;
            found.push((kind, bytes.to_vec()));
        }
        reader.end()?;
        Ok(found)
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = written();
        assert!(bytes.len() < 1000, "it is packed");
        let frames = read(&bytes).unwrap();
        assert_eq!(frames[1], (Kind::Data, vec![7; 5000]));
        assert_eq!(frames[2], (Kind::EndOfData, Vec::new()));
    }

    #[test]
    fn a_cut_and_a_flipped_bit_are_found_wherever_they_are() {
        let bytes = written();
        for cut in 0..bytes.len() {
            let error = read(&bytes[..cut]).unwrap_err();
            assert!(error.is::<Refusal>(), "{cut}: {error:#}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bytes).is_err(), "bit {bit}");
        }
        assert!(read(&[bytes.as_slice(), b"x"].concat()).is_err());
    }

    #[test]
    fn absurd_lengths_are_refused_before_anything_is_allocated() {
        for (stored, plain) in [(u32::MAX, u32::MAX), (9, u32::MAX), (9, 3)] {
            let mut bytes = written()[..12].to_vec();
            bytes.extend([b'D', ZSTD, 0, 0]);
            bytes.extend(stored.to_le_bytes());
            bytes.extend(plain.to_le_bytes());
            bytes.extend([0; 64]);
            let error = read(&bytes).unwrap_err().to_string();
            assert!(error.contains("longer than any can be"), "{error}");
        }
    }

    #[test]
    fn frames_cannot_change_places() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes).unwrap();
        for data in [b"a", b"b"] {
            writer.frame(Kind::Data, data).unwrap();
        }
        writer.end().unwrap();
        let frame = HEAD + CHECK + 1;
        let (head, rest) = bytes.split_at(12);
        let (first, second) = rest.split_at(frame);
        let other = [head, second, first].concat();
        assert!(Reader::new(&other[..]).unwrap().frame().is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let all = [&written()[..12], &bytes].concat();
            let _some_error = read(&all);
        }
    }
}
