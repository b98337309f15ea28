//! GRUB's environment block: the few variables that GRUB itself can write.
//!
//! # The format
//! `grub-core/lib/envblk.c` of GRUB 2.06 to 2.14, `util/grub-editenv.c` for the size: a fixed number of bytes, 1024
//! in a file. They start with a signature line; `NAME=VALUE` lines follow, then `#` up to the end. In a value, and
//! in a comment, a backslash stands before each backslash and newline. A line that starts with `#` is a comment
//! (`grub-editenv` writes one).
//!
//! GRUB's own code changes the first line of a name and reads the last; where a name is there twice, [`EnvBlock::set`]
//! leaves one. All else stays as it is, byte for byte and in its order: the block may hold variables of others.

use std::fmt;
use std::ops::Range;

pub mod device;
pub mod file;

/// What every block starts with; `GRUB_ENVBLK_SIGNATURE` in `include/grub/lib/envblk.h`.
pub const SIGNATURE: &[u8] = b"# GRUB Environment Block\n";

/// The size of a block in a file; `DEFAULT_ENVBLK_SIZE` in `util/grub-editenv.c`.
pub const FILE_SIZE: usize = 1024;

/// The size of a block in the header of a btrfs device: one sector.
pub const HEADER_SIZE: usize = 512;

const PADDING: u8 = b'#';

/// The variables of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvBlock {
    size: usize,
    /// Comments and variables as they are, each with the newline at its end.
    lines: Vec<Vec<u8>>,
}

/// Why bytes are no environment block, or a variable cannot be put into one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvBlockError {
    /// The signature is missing.
    NotABlock,
    /// The signature is there, but GRUB could not read or write what follows; the reason.
    Damaged(&'static str),
    /// It would not fit any more.
    TooLong {
        /// Bytes needed, the signature included.
        needed: usize,
        /// Bytes in the block.
        size: usize,
    },
    /// A name that GRUB's scripts cannot use.
    BadName(String),
    /// A value with a NUL byte, which ends a string in GRUB.
    BadValue,
}

impl fmt::Display for EnvBlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotABlock => f.write_str("not a GRUB environment block"),
            Self::Damaged(why) => write!(f, "the GRUB environment block is damaged: {why}"),
            Self::TooLong { needed, size } => write!(
                f,
                "the GRUB environment block is full: it has {size} bytes, and {needed} are needed"
            ),
            Self::BadName(name) => write!(
                f,
                "`{}` is not the name of a GRUB variable",
                crate::quote::shown(name)
            ),
            Self::BadValue => f.write_str("a GRUB variable cannot hold a NUL"),
        }
    }
}

impl std::error::Error for EnvBlockError {}

impl EnvBlock {
    /// An empty block of `size` bytes.
    ///
    /// # Panics
    /// The signature does not fit.
    pub fn new(size: usize) -> Self {
        assert!(size >= SIGNATURE.len(), "{size} bytes are no block");
        Self {
            size,
            lines: Vec::new(),
        }
    }

    /// Reads a whole block; [`EnvBlock::render`] gives the same bytes again.
    ///
    /// # Errors
    /// [`EnvBlockError::NotABlock`] and [`EnvBlockError::Damaged`].
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvBlockError> {
        let rest = bytes
            .strip_prefix(SIGNATURE)
            .ok_or(EnvBlockError::NotABlock)?;
        let end = rest
            .iter()
            .rposition(|byte| *byte != PADDING)
            .map_or(0, |last| last + 1);
        let mut rest = &rest[..end];
        let mut lines = Vec::new();
        while !rest.is_empty() {
            let length = line_length(rest).ok_or(EnvBlockError::Damaged(
                "the last line does not end before the padding",
            ))?;
            let (line, after) = rest.split_at(length);
            if line[0] != PADDING && value_range(line).is_none() {
                return Err(EnvBlockError::Damaged("a line has no `=`"));
            }
            lines.push(line.to_vec());
            rest = after;
        }
        Ok(Self {
            size: bytes.len(),
            lines,
        })
    }

    /// The bytes, as many as were parsed.
    pub fn render(&self) -> Vec<u8> {
        let mut bytes = [SIGNATURE, &self.lines.concat()].concat();
        debug_assert!(bytes.len() <= self.size, "checked by every change");
        bytes.resize(self.size, PADDING);
        bytes
    }

    /// The value of a variable as GRUB would load it; bytes that are no UTF-8 are replaced.
    pub fn get(&self, name: &str) -> Option<String> {
        let line = self.lines.iter().rfind(|line| is_named(line, name))?;
        let value = unescaped(&line[value_range(line)?]);
        Some(String::from_utf8_lossy(&value).into_owned())
    }

    /// Sets a variable where it stands, or behind the others.
    ///
    /// # Errors
    /// It does not fit, or name or value are impossible; then nothing is changed.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), EnvBlockError> {
        let starts = |c: char| c.is_ascii_alphabetic() || c == '_';
        let known = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !name.starts_with(starts) || !name.chars().all(known) {
            return Err(EnvBlockError::BadName(name.to_owned()));
        }
        if value.contains('\0') {
            return Err(EnvBlockError::BadValue);
        }
        let line = [name.as_bytes(), b"=", &escaped(value), b"\n"].concat();
        let mut new = self.clone();
        let at = new.lines.iter().position(|line| is_named(line, name));
        new.unset(name);
        new.lines.insert(at.unwrap_or(new.lines.len()), line);
        let needed = SIGNATURE.len() + new.lines.iter().map(Vec::len).sum::<usize>();
        if needed > self.size {
            return Err(EnvBlockError::TooLong {
                needed,
                size: self.size,
            });
        }
        *self = new;
        Ok(())
    }

    /// Removes a variable; without it, does nothing.
    pub fn unset(&mut self, name: &str) {
        self.lines.retain(|line| !is_named(line, name));
    }

    /// Bytes in the block.
    pub fn size(&self) -> usize {
        self.size
    }
}

/// Bytes up to and with the first newline that no backslash escapes.
fn line_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match bytes.get(at)? {
            b'\\' => at += 2,
            b'\n' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// Where the value of a line is; none in a comment, nor where the name goes on into the next line for GRUB.
fn value_range(line: &[u8]) -> Option<Range<usize>> {
    let equals = line.iter().position(|byte| *byte == b'=')?;
    let is_name = !line[..equals].iter().any(|b| matches!(b, b'\n' | b'\\'));
    (is_name && line[0] != PADDING).then(|| equals + 1..line.len() - 1)
}

fn is_named(line: &[u8], name: &str) -> bool {
    let rest = line.strip_prefix(name.as_bytes());
    rest.is_some_and(|rest| rest.first() == Some(&b'='))
}

fn escaped(value: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    for byte in value.bytes() {
        if matches!(byte, b'\\' | b'\n') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out
}

fn unescaped(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => out.extend(bytes.next()),
            other => out.push(*other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As `grub-editenv create` and `set` of GRUB 2.12 leave it.
    const OF_GRUB: &str = "# GRUB Environment Block\n\
        # WARNING: Do not edit this file by tools other than grub-editenv!!!\n\
        saved_entry=gnulinux\nodd=a\\\\b\\\nc=#\n";

    fn padded(text: &str) -> Vec<u8> {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(FILE_SIZE, PADDING);
        bytes
    }

    #[test]
    fn a_block_of_grub_is_kept_but_for_what_is_set() {
        let bytes = padded(OF_GRUB);
        let mut block = EnvBlock::parse(&bytes).expect("a block");
        assert_eq!(block.render(), bytes);
        assert_eq!(block.get("saved_entry").as_deref(), Some("gnulinux"));
        assert_eq!(block.get("odd").as_deref(), Some("a\\b\nc=#"));
        assert_eq!(block.get("c"), None);
        assert_eq!(block.get("saved"), None);
        block.set("be_left", "3").expect("room");
        block.set("saved_entry", "").expect("room");
        let text = OF_GRUB.replace("gnulinux", "") + "be_left=3\n";
        assert_eq!(block.render(), padded(&text));
        block.unset("be_left");
        block.unset("absent");
        block.set("saved_entry", "gnulinux").expect("room");
        assert_eq!(block.render(), bytes);
    }

    #[test]
    fn of_two_with_one_name_the_last_counts_and_one_stays() {
        let mut block =
            EnvBlock::parse(&padded("# GRUB Environment Block\na=1\nb=2\na=3\n")).expect("a block");
        assert_eq!(block.get("a").as_deref(), Some("3"));
        block.set("a", "4").expect("room");
        let text = "# GRUB Environment Block\na=4\nb=2\n";
        assert_eq!(block.render(), padded(text));
    }

    #[test]
    fn what_grub_would_stumble_over_is_damage() {
        assert_eq!(EnvBlock::parse(b""), Err(EnvBlockError::NotABlock));
        assert_eq!(EnvBlock::parse(&[0; 1024]), Err(EnvBlockError::NotABlock));
        for text in ["a=b", "a=b\\\n", "a=b\n\n", "a\n", "a\nb=c\n", "a\\=b\n"] {
            let damaged = EnvBlock::parse(&padded(&format!("# GRUB Environment Block\n{text}")));
            assert!(
                matches!(damaged, Err(EnvBlockError::Damaged(_))),
                "{text:?}: {damaged:?}"
            );
        }
        let zeros = [SIGNATURE, &[0; 999]].concat();
        assert!(matches!(
            EnvBlock::parse(&zeros),
            Err(EnvBlockError::Damaged(_))
        ));
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let mut block = EnvBlock::new(64);
        block.set("a", &"x".repeat(64 - 25 - 3)).expect("just fits");
        assert!(!block.render().ends_with(b"#"));
        let before = block.clone();
        assert_eq!(
            block.set("b", ""),
            Err(EnvBlockError::TooLong {
                needed: 67,
                size: 64
            })
        );
        assert!(matches!(
            block.set("a b", ""),
            Err(EnvBlockError::BadName(_))
        ));
        assert!(matches!(block.set("", ""), Err(EnvBlockError::BadName(_))));
        assert_eq!(block.set("a", "\0"), Err(EnvBlockError::BadValue));
        assert_eq!(block, before);
        assert_eq!(EnvBlock::parse(&block.render()), Ok(before));
    }

    proptest! {
        #[test]
        fn what_is_set_is_read_back(
            start in prop::collection::vec(("[a-d]", "[\\x01-\\x7f]{0,8}"), 0..6),
            value in "[a\\\\\n=#é]{0,12}",
        ) {
            let mut block = EnvBlock::new(FILE_SIZE);
            for (name, value) in &start {
                block.set(name, value).expect("room");
            }
            block.set("e", &value).expect("room");
            let block = EnvBlock::parse(&block.render()).expect("a block");
            prop_assert_eq!(block.get("e"), Some(value));
            for (name, _) in &start {
                let last = start.iter().rfind(|(other, _)| other == name).map(|(_, value)| value.clone());
                prop_assert_eq!(block.get(name), last);
            }
        }

        #[test]
        fn any_bytes_are_refused_or_kept(tail in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'='), Just(b'#'), Just(b'\\'), any::<u8>()], 0..80)) {
            let bytes = [SIGNATURE, &tail].concat();
            if let Ok(block) = EnvBlock::parse(&bytes) {
                prop_assert_eq!(block.render(), bytes);
            }
        }
    }
}
