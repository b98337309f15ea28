//! Streams of `be send` that nobody has sent, with checksums that are right: written from the
//! description of the format, not by the code that reads it.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The UUID of the only subvolume in it.
pub const UUID: &str = "00000000-0000-0000-0000-000000000001";

/// A stream, so far.
#[derive(Debug, Clone)]
pub struct Forged {
    bytes: Vec<u8>,
    chain: Vec<u8>,
    data: u64,
}

/// A manifest of an environment with only a root.
#[must_use]
pub fn manifest() -> Value {
    json!({
        "schema": 1,
        "name": "forged",
        "sent": "2026-11-20T01:02:03Z",
        "filesystem": "00000000-0000-0000-0000-00000000000f",
        "subvolumes": [{ "mount": "/", "policy": "cloned", "generation": 7, "uuid": UUID }],
    })
}

impl Forged {
    /// One that begins with this manifest.
    #[must_use]
    pub fn new(manifest: &Value) -> Self {
        let mut new = Self {
            bytes: b"BESTREAM\x01\0\0\0".to_vec(),
            chain: Sha256::digest(b"BESTREAM").to_vec(),
            data: 0,
        };
        new.frame(b'H', manifest.to_string().as_bytes());
        new
    }

    fn frame(&mut self, kind: u8, stored: &[u8]) {
        let length = u32::try_from(stored.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes();
        let head = [&[kind, 0, 0, 0][..], &length, &length].concat();
        let all = [&self.chain, &head, stored].concat();
        self.chain = Sha256::digest(all).to_vec();
        self.bytes.extend(head);
        self.bytes.extend(&self.chain[..16]);
        self.bytes.extend(stored);
    }

    /// The root, as btrfs would send it: after its first command come these.
    #[must_use]
    pub fn root(mut self, commands: &[Vec<u8>]) -> Self {
        let mut uuid = [0; 16];
        uuid[15] = 1;
        let mut data = b"btrfs-stream\0\x01\0\0\0".to_vec();
        data.extend(command(
            1,
            &[(15, b"root"), (1, &uuid), (2, &7u64.to_le_bytes())],
        ));
        data.extend(commands.concat());
        data.extend(command(21, &[]));
        self.data += data.len() as u64;
        self.frame(b'D', &data);
        self.frame(b'd', b"");
        self
    }

    /// The listing of it, and the end.
    #[must_use]
    pub fn end(mut self, lines: &[String]) -> Vec<u8> {
        let listing: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.frame(b'L', listing.as_bytes());
        self.frame(b'l', b"");
        let digest = hex(&self.chain);
        let trailer = json!({ "bytes": self.data, "paths": lines.len(), "digest": digest });
        self.frame(b'T', trailer.to_string().as_bytes());
        self.bytes
    }
}

/// A command of the stream of btrfs: its number (`BTRFS_SEND_C_*`), and its attributes
/// (`BTRFS_SEND_A_*`).
#[must_use]
pub fn command(number: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, value) in attributes {
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
        body.extend(kind.to_le_bytes());
        body.extend(length.to_le_bytes());
        body.extend(*value);
    }
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut all = length.to_le_bytes().to_vec();
    all.extend(number.to_le_bytes());
    all.extend([0; 4]);
    all.extend(body);
    all
}

/// The digest in a listing of this text.
#[must_use]
pub fn digest(text: &[u8]) -> String {
    hex(&Sha256::digest(text)[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
