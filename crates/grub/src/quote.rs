//! Any text as exactly one word of GRUB's language.
//!
//! The rules come from GRUB's own lexer (`grub-core/script/yylex.l`): between single quotes every character
//! stands for itself, `$`, `\`, `{`, `;`, `#` and newline included, and no wildcard is expanded; only the single
//! quote ends the word's quoted part. Words touch without a blank between them, so `'\''` continues the word.
//!
//! The lexer keeps a token, **and a whole comment line**, in a buffer of 8 KiB; a longer one is a fatal error that
//! costs the rest of `grub.cfg`. Hence the limits here and in [`crate::menu`].

use std::fmt::Write as _;

/// The longest token (a word with its quotes, or a comment line) that GRUB's lexer reads: `YYLMAX` less its NUL.
pub const MAX_TOKEN: usize = 8191;

/// The longest title, in characters; the rest is cut off.
const MAX_TITLE: usize = 200;

/// Turns `text` into one GRUB word that means exactly `text`.
///
/// Only safe for text that went through [`plain`] or [`title`]: GRUB runs the body of an entry line by line, and
/// a NUL ends a string.
pub fn word(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('\'');
    for (i, part) in text.split('\'').enumerate() {
        if i > 0 {
            out.push_str(r"'\''");
        }
        out.push_str(part);
    }
    out.push('\'');
    out
}

/// Why a text cannot be given to GRUB as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotPlain(String);

impl std::fmt::Display for NotPlain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotPlain {}

/// Checks that `text` can be quoted without loss: no control character, and short enough for a token.
///
/// # Errors
/// Names the character, or the length.
pub fn plain(text: &str) -> Result<(), NotPlain> {
    if let Some(c) = text.chars().find(|c| is_unsafe(*c)) {
        return Err(NotPlain(format!(
            "contains the control character U+{:04X}",
            u32::from(c)
        )));
    }
    let quoted = word(text).len();
    if quoted > MAX_TOKEN / 2 {
        return Err(NotPlain(format!(
            "is too long for GRUB ({quoted} bytes when quoted)"
        )));
    }
    Ok(())
}

/// Makes a menu title of any text; what cannot be shown is replaced, so that this never fails.
///
/// Control characters become a blank, characters that turn the direction of writing are dropped. A title must
/// not be empty (invisible), start with `-` (GRUB would take it for an option of `menuentry`), nor look like an
/// entry id: GRUB compares `default` with titles too, and the first match boots.
pub fn title(text: &str, fallback: &str) -> String {
    let mut out = String::new();
    for c in text
        .chars()
        .filter(|c| !turns_direction(*c))
        .take(MAX_TITLE)
    {
        out.push(if is_unsafe(c) { ' ' } else { c });
    }
    let shown = out.trim();
    let shown = if shown.is_empty() {
        fallback.trim()
    } else {
        shown
    };
    if shown.starts_with('-') || shown.starts_with(crate::menu::ID_PREFIX) {
        format!(" {shown}")
    } else {
        shown.to_owned()
    }
}

/// Escapes for handlebars: every `{{...}}` of the template is one word.
pub(crate) fn escape(text: &str) -> String {
    word(text)
}

/// Writes bytes of `text` that a message should show, without letting it act on the terminal.
pub(crate) fn shown(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(80) {
        if is_unsafe(c) || turns_direction(c) {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

fn turns_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_keeps_every_character() {
        assert_eq!(word(""), "''");
        assert_eq!(word("a b"), "'a b'");
        assert_eq!(word("it's"), r"'it'\''s'");
        assert_eq!(word("'"), r"''\'''");
        assert_eq!(word("$x `y` \\ \" { } ; #"), "'$x `y` \\ \" { } ; #'");
    }

    #[test]
    fn plain_refuses_what_quotes_cannot_hold() {
        for bad in [
            "a\nb",
            "a\rb",
            "a\tb",
            "\u{1b}[2J",
            "a\0",
            "\u{85}",
            "\u{2028}",
            "\u{7f}",
        ] {
            assert!(plain(bad).is_err(), "{bad:?}");
        }
        assert!(plain(&"'".repeat(2000)).is_err());
        assert!(plain("größer 日本 $x 'y'").is_ok());
    }

    #[test]
    fn a_title_is_never_an_option_an_id_or_invisible() {
        assert_eq!(title("Gentoo\n}\nreboot", "x"), "Gentoo } reboot");
        assert_eq!(title(" \t\u{202e}", "x"), "x");
        assert_eq!(title("--id", "x"), " --id");
        assert_eq!(title("be-other", "x"), " be-other");
        assert_eq!(title(&"é".repeat(500), "x").chars().count(), MAX_TITLE);
    }
}
