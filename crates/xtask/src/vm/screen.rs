//! The little of a VT100 that GRUB writes, so that its menu can be read as a
//! person sees it: GRUB redraws single cells, the bytes alone tell little.

const ROWS: usize = 24;
const COLUMNS: usize = 80;

/// A terminal of 80 by 24.
#[derive(Debug, Clone)]
pub struct Screen {
    cells: Vec<[char; COLUMNS]>,
    row: usize,
    column: usize,
    escape: Option<Vec<u8>>,
    pending: Vec<u8>,
}

/// One visible line of GRUB's menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its title, as far as it fits.
    pub title: String,
    /// Whether the highlight is on it.
    pub selected: bool,
}

impl Default for Screen {
    fn default() -> Self {
        Self {
            cells: vec![[' '; COLUMNS]; ROWS],
            row: 0,
            column: 0,
            escape: None,
            pending: Vec::new(),
        }
    }
}

impl Screen {
    /// Takes what the serial line brought.
    pub fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.byte(*byte);
        }
    }

    /// The text of the screen without trailing blanks.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.cells
            .iter()
            .map(|row| row.iter().collect::<String>().trim_end().to_owned())
            .collect()
    }

    /// The entries of GRUB's menu that are on the screen; none when the screen
    /// shows no menu, or not yet a highlighted entry.
    #[must_use]
    pub fn menu(&self) -> Vec<Entry> {
        let text = |row: &[char; COLUMNS]| row.iter().collect::<String>();
        if !self.cells.iter().any(|row| text(row).contains("GNU GRUB")) {
            return Vec::new();
        }
        let entries: Vec<Entry> = self
            .cells
            .iter()
            .filter(|row| row[1] == '|' || row[1] == '\u{2502}')
            .filter_map(|row| {
                let title: String = row[3..COLUMNS - 3].iter().collect();
                let title = title.trim_end();
                (!title.is_empty()).then(|| Entry {
                    title: title.to_owned(),
                    selected: row[2] == '*',
                })
            })
            .collect();
        if entries.iter().any(|entry| entry.selected) {
            entries
        } else {
            Vec::new()
        }
    }

    /// Whether GRUB counts down to booting the default.
    #[must_use]
    pub fn counts_down(&self) -> bool {
        self.lines()
            .iter()
            .any(|line| line.contains("will be executed automatically"))
    }

    fn byte(&mut self, byte: u8) {
        if let Some(mut escape) = self.escape.take() {
            escape.push(byte);
            let is_csi = escape.first() == Some(&b'[');
            match byte {
                b'[' if escape.len() == 1 => self.escape = Some(escape),
                b'@'..=b'~' if is_csi => self.control(&escape),
                _ if is_csi && escape.len() < 32 => self.escape = Some(escape),
                _ => {}
            }
            return;
        }
        match byte {
            0x1b => self.escape = Some(Vec::new()),
            b'\r' => self.column = 0,
            b'\n' => self.line_feed(),
            8 => self.column = self.column.saturating_sub(1),
            0x20.. => self.character(byte),
            _ => {}
        }
    }

    fn character(&mut self, byte: u8) {
        self.pending.push(byte);
        let shown = match std::str::from_utf8(&self.pending) {
            Ok(text) => text.chars().next(),
            Err(error) if error.error_len().is_none() => return,
            Err(_) => Some('?'),
        };
        self.pending.clear();
        if self.column == COLUMNS {
            self.column = 0;
            self.line_feed();
        }
        self.cells[self.row][self.column] = shown.unwrap_or(' ');
        self.column += 1;
    }

    fn line_feed(&mut self) {
        if self.row + 1 < ROWS {
            self.row += 1;
        } else {
            self.cells.rotate_left(1);
            self.cells[ROWS - 1] = [' '; COLUMNS];
        }
    }

    /// A control sequence from its `[` to its last byte.
    fn control(&mut self, escape: &[u8]) {
        let (last, arguments) = match escape {
            [b'[', arguments @ .., last] => (*last, arguments),
            _ => return,
        };
        let numbers: Vec<usize> = arguments
            .split(|byte| *byte == b';')
            .map(|number| std::str::from_utf8(number).ok()?.parse().ok())
            .map(|number| number.unwrap_or(0))
            .collect();
        let first = numbers.first().copied().unwrap_or(0);
        match last {
            b'H' | b'f' => {
                let column = numbers.get(1).copied().unwrap_or(1);
                self.row = first.clamp(1, ROWS) - 1;
                self.column = column.clamp(1, COLUMNS) - 1;
            }
            b'J' if first == 2 => self.cells.fill([' '; COLUMNS]),
            b'J' => {
                let from = self.column.min(COLUMNS);
                self.cells[self.row][from..].fill(' ');
                self.cells[self.row + 1..].fill([' '; COLUMNS]);
            }
            b'K' => {
                let from = self.column.min(COLUMNS);
                self.cells[self.row][from..].fill(' ');
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MENU: &[u8] = b"\x1b[H\x1b[J\x1b[1;1H\x1b[2;25HGNU GRUB  version 2.12\r\n\
        \x1b[4;2H+----+\x1b[5;2H|\x1b[5;79H|\x1b[6;2H|\x1b[6;79H|\x1b[17;2H+---+\
        \x1b[7m\x1b[5;3H*Gentoo GNU/Linux   \x1b[m\x1b[5;78H\x1b[6;3H Advanced options\x1b[m";

    fn entry(title: &str, selected: bool) -> Entry {
        Entry {
            title: title.to_owned(),
            selected,
        }
    }

    #[test]
    fn a_menu_is_read_and_follows_the_highlight() {
        let mut screen = Screen::default();
        screen.feed(MENU);
        assert_eq!(
            screen.menu(),
            [
                entry("Gentoo GNU/Linux", true),
                entry("Advanced options", false)
            ]
        );
        screen.feed(b"\x1b[5;3H Gentoo GNU/Linux\x1b[6;3H*Advanced options");
        assert_eq!(
            screen.menu(),
            [
                entry("Gentoo GNU/Linux", false),
                entry("Advanced options", true)
            ]
        );
        screen.feed(b"\x1b[H\x1b[J\x1b[1;1H  Booting `Gentoo'");
        assert_eq!(screen.menu(), []);
        assert_eq!(screen.lines()[0], "  Booting `Gentoo'");
    }

    #[test]
    fn any_bytes_are_survived() {
        let mut screen = Screen::default();
        for seed in 0..20_000_u32 {
            let byte = (seed.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0];
            screen.feed(&[byte, b'\x1b', b'[', byte]);
        }
        screen.feed(b"\x1b[99;99Hx\x1b[J\n\n");
        assert_eq!(screen.lines().len(), ROWS);
    }
}
