//! Which swap files are in use.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// The active swap files in the text of `/proc/swaps`, as absolute paths of
/// the mount namespace that read it. Swap partitions are left out.
///
/// The kernel refuses to snapshot (`ETXTBSY`) a subvolume that holds one of
/// them. Format: `mm/swapfile.c`, `swap_show`: a header line, then the path
/// with space, tab, newline and backslash as three octal digits, then the type.
pub fn active_swapfiles(swaps: &[u8]) -> Vec<PathBuf> {
    swaps
        .split(|&c| c == b'\n')
        .skip(1)
        .filter_map(|line| {
            let mut fields = line
                .split(|c| c.is_ascii_whitespace())
                .filter(|f| !f.is_empty());
            let path = fields.next()?;
            (fields.next()? == b"file").then(|| OsString::from_vec(unescape(path)).into())
        })
        .collect()
}

/// Undoes the kernel's `seq_escape`: a backslash and three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        if let [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] = *rest {
            out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = &rest[4..];
        } else {
            out.push(first);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn files_only_and_unescaped() {
        let text = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
            /dev/sda3                               partition\t1048572\t\t0\t\t-2\n\
            /swap/file                              file\t\t1048572\t\t0\t\t-3\n\
            /a\\040b\\134040\\012\xff               file\t\t4\t\t0\t\t-4\n";
        assert_eq!(
            active_swapfiles(text),
            [
                PathBuf::from("/swap/file"),
                OsStr::from_bytes(b"/a b\\040\n\xff").into()
            ]
        );
    }

    #[test]
    fn none() {
        assert!(active_swapfiles(b"Filename\tType\tSize\tUsed\tPriority\n").is_empty());
        assert!(active_swapfiles(b"").is_empty());
    }
}
