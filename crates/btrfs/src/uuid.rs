//! Identifiers of filesystems and subvolumes.

use std::fmt;
use std::str::FromStr;

/// A UUID as btrfs stores it: 16 bytes, in the order in which they are printed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Uuid([u8; 16]);

impl Uuid {
    /// The one with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Uuid {
        Uuid(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Whether it is all zeroes, btrfs' way to say "none".
    pub fn is_nil(&self) -> bool {
        self.0 == [0; 16]
    }

    /// None if it is all zeroes.
    pub(crate) fn non_nil(self) -> Option<Uuid> {
        (!self.is_nil()).then_some(self)
    }
}

/// Hyphenated and in lower case, as `btrfs subvolume show` prints it.
impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a hyphenated UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseError;

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a UUID (8-4-4-4-12 hexadecimal digits)")
    }
}

impl std::error::Error for ParseError {}

impl FromStr for Uuid {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Uuid, ParseError> {
        let text = text.as_bytes();
        if text.len() != 36 || [8, 13, 18, 23].iter().any(|&i| text[i] != b'-') {
            return Err(ParseError);
        }
        let mut digits = text
            .iter()
            .enumerate()
            .filter(|(i, _)| !matches!(i, 8 | 13 | 18 | 23))
            .map(|(_, &c)| char::from(c).to_digit(16));
        let mut bytes = [0; 16];
        for byte in &mut bytes {
            let (Some(Some(high)), Some(Some(low))) = (digits.next(), digits.next()) else {
                return Err(ParseError);
            };
            *byte = (high << 4 | low) as u8;
        }
        Ok(Uuid(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let text = "0123abcd-4567-89ef-0011-223344556677";
        let uuid: Uuid = text.parse().unwrap();
        assert_eq!(uuid.to_string(), text);
        assert_eq!(uuid.as_bytes()[..4], [0x01, 0x23, 0xab, 0xcd]);
        assert_eq!(text.to_uppercase().parse(), Ok(uuid));
        assert!(!uuid.is_nil());
        assert!(Uuid::default().is_nil());
    }

    #[test]
    fn what_is_not_one() {
        for text in [
            "",
            "-",
            "0123abcd456789ef0011223344556677",
            "0123abcd-4567-89ef-0011-22334455667",
            "0123abcd-4567-89ef-0011-22334455667g",
            "0123abcd-4567-89ef-0011-2233445566é",
            "0123abcd-4567-89ef-00-1-223344556677",
            "+123abcd-4567-89ef-0011-223344556677",
        ] {
            assert_eq!(text.parse::<Uuid>(), Err(ParseError), "{text:?}");
        }
    }
}
