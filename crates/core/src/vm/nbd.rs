//! A disk for QEMU over a socket: as much of the NBD protocol as QEMU speaks (doc/proto.md of
//! the project NBD), one client, one export, one request after the other.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use super::overlay::Overlay;

const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
/// `NBD_FLAG_FIXED_NEWSTYLE`, `NBD_FLAG_NO_ZEROES`.
const HANDSHAKE: u16 = 1 | 2;
const OPTION_ABORT: u32 = 2;
const OPTION_INFO: u32 = 6;
const OPTION_GO: u32 = 7;
const ACK: u32 = 1;
const INFO: u32 = 3;
const UNSUPPORTED: u32 = 1 << 31 | 1;
/// `NBD_FLAG_HAS_FLAGS`, `NBD_FLAG_SEND_FLUSH`, `NBD_FLAG_SEND_TRIM`.
const EXPORT: u16 = 1 | 1 << 2 | 1 << 5;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
/// What one request may ask for, in bytes; QEMU keeps to it (`NBD_MAX_BUFFER_SIZE`).
const MOST: u32 = 32 << 20;

/// Serve the disk until QEMU is gone.
///
/// # Errors
/// When the other side breaks off, or speaks another language.
pub(super) fn serve(mut socket: UnixStream, disk: &mut Overlay<'_>) -> io::Result<()> {
    let socket = &mut socket;
    if shake_hands(socket, disk.size)? {
        while request(socket, disk)? {}
    }
    Ok(())
}

fn u32_from(socket: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    socket.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

fn u64_from(socket: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    socket.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

fn strange(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("NBD: {what}"))
}

/// Agree on how to speak; false if the other side wants nothing more.
fn shake_hands(socket: &mut (impl Read + Write), size: u64) -> io::Result<bool> {
    let mut hello = Vec::new();
    hello.extend(NBDMAGIC.to_be_bytes());
    hello.extend(IHAVEOPT.to_be_bytes());
    hello.extend(HANDSHAKE.to_be_bytes());
    socket.write_all(&hello)?;
    let _flags = u32_from(socket)?;
    loop {
        if u64_from(socket)? != IHAVEOPT {
            return Err(strange("no option"));
        }
        let option = u32_from(socket)?;
        let length = u32_from(socket)?;
        if length > MOST {
            return Err(strange("a long option"));
        }
        let mut data = vec![0; length as usize];
        socket.read_exact(&mut data)?;
        match option {
            OPTION_GO | OPTION_INFO => {
                let mut export = vec![0, 0];
                export.extend(size.to_be_bytes());
                export.extend(EXPORT.to_be_bytes());
                answer(socket, option, INFO, &export)?;
                answer(socket, option, ACK, &[])?;
                if option == OPTION_GO {
                    return Ok(true);
                }
            }
            OPTION_ABORT => {
                answer(socket, option, ACK, &[])?;
                return Ok(false);
            }
            _ => answer(socket, option, UNSUPPORTED, &[])?,
        }
    }
}

fn answer(socket: &mut impl Write, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::new();
    bytes.extend(OPTION_REPLY.to_be_bytes());
    bytes.extend(option.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    socket.write_all(&bytes)
}

/// Do one thing; false if it was the last.
fn request(socket: &mut (impl Read + Write), disk: &mut Overlay<'_>) -> io::Result<bool> {
    let magic = match u32_from(socket) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        read => read?,
    };
    if magic != REQUEST {
        return Err(strange("no request"));
    }
    let kind = u32_from(socket)? as u16;
    let cookie = u64_from(socket)?;
    let at = u64_from(socket)?;
    let length = u32_from(socket)?;
    let inside = at
        .checked_add(u64::from(length))
        .is_some_and(|end| end <= disk.size);
    if length > MOST && matches!(kind, READ | WRITE) {
        return Err(strange("a long request"));
    }
    let mut found = Vec::new();
    let done = match kind {
        DISCONNECT => return Ok(false),
        WRITE => {
            let mut bytes = vec![0; length as usize];
            socket.read_exact(&mut bytes)?;
            match inside {
                true => disk.write(at, &bytes).map_err(|_| EIO),
                false => Err(EINVAL),
            }
        }
        READ if inside => disk
            .read(at, length as usize)
            .map(|bytes| found = bytes)
            .map_err(|_| EIO),
        // What is thrown away with the guest need not be written, and may keep its content.
        FLUSH | TRIM => Ok(()),
        _ => Err(EINVAL),
    };
    let mut bytes = Vec::with_capacity(16 + found.len());
    bytes.extend(REPLY.to_be_bytes());
    bytes.extend(done.err().unwrap_or(0).to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(found);
    socket.write_all(&bytes)?;
    Ok(true)
}
