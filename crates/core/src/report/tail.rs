//! The end of a log, for people: a package's log may hold anything.

use std::io::{Read, Seek, SeekFrom};

use anyhow::Result;
use be_btrfs::Root;
use be_portage::pretend::strip_ansi;

/// What is read of a log, in bytes.
const MOST: u64 = 64 << 10;

/// How many lines are kept.
const LINES: usize = 40;

/// How many characters of a line.
const WIDTH: usize = 500;

/// A text that neither commands a terminal nor changes the direction of what is beside it.
pub fn clean(text: &str) -> String {
    let plain = |c: char| match c {
        '\n' | '\t' => c,
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => REPLACED,
        '\u{fdd0}'..='\u{fdef}' => REPLACED,
        c if c.is_control() || u32::from(c) & 0xfffe == 0xfffe => REPLACED,
        c => c,
    };
    strip_ansi(text).chars().map(plain).collect()
}

const REPLACED: char = '\u{fffd}';

/// The last lines of an output, without empty ones at its end.
pub(crate) fn last_lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end();
    let count = text.lines().count();
    let last = text.lines().skip(count.saturating_sub(LINES));
    last.map(|line| {
        // What a line was overwritten with counts.
        let shown = line.trim_end_matches('\r').rsplit('\r').next();
        let line = clean(shown.unwrap_or_default());
        match line.char_indices().nth(WIDTH) {
            Some((at, _)) => format!("{}…", &line[..at]),
            None => line,
        }
    })
    .collect()
}

/// The last lines of a file, and when it was written to last, in seconds since 1970.
pub(super) fn of_file(root: &Root, path: &str) -> Result<(Vec<String>, i64)> {
    let mut file = root.file(path)?;
    let meta = file.metadata()?;
    file.seek(SeekFrom::Start(meta.len().saturating_sub(MOST)))?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    let written = std::os::unix::fs::MetadataExt::mtime(&meta);
    Ok((last_lines(&bytes), written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_it_commands_a_terminal() {
        let log = b"\x1b[31mred\x1b[0m \x1b]0;title\x07x\n10%\r20%\r\n\xff\x00\x9b1m <b>&\n\n\n";
        assert_eq!(
            last_lines(log),
            ["red x", "20%", "\u{fffd}\u{fffd}\u{fffd}1m <b>&"]
        );
        assert_eq!(clean("a\u{202e}b\u{9b}c\td"), "a\u{fffd}b\u{fffd}c\td");
    }

    #[test]
    fn only_the_end() {
        let log: String = (0..100).map(|i| format!("{i}\n")).collect();
        let lines = last_lines(log.as_bytes());
        assert_eq!((lines.len(), lines[0].as_str()), (LINES, "60"));
        let long = "ä".repeat(WIDTH + 1);
        assert_eq!(last_lines(long.as_bytes())[0].chars().count(), WIDTH + 1);
        assert_eq!(last_lines(b"\n"), [""; 0]);
    }
}
