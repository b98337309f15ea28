//! How GRUB comes to read the menu file: a script for `/etc/grub.d`, and the very block that it prints, put into
//! the `grub.cfg` that is there already.
//!
//! Both make the same bytes, so that a later `grub-mkconfig` changes nothing, and the block is a no-op where
//! there is no store: without the filesystem or the file, GRUB goes on with the next line of `grub.cfg`.

/// The script, to be installed as `/etc/grub.d/45_be`, mode 755.
pub const SCRIPT: &str = include_str!("../../../grub.d/45_be");

/// Its file name. It sorts behind everything that makes entries (10_linux, 30_os-prober, 40_custom, 41_custom), so
/// that the default set in our menu is the last word.
pub const SCRIPT_NAME: &str = "45_be";

/// Where GRUB finds the menu file on the filesystem that holds the store.
pub const MENU_PATH: &str = "/@be/.grub/menu.cfg";

/// The directory that `grub-mkconfig` names in its markers.
const SCRIPT_DIR: &str = "/etc/grub.d";

fn begin() -> String {
    format!("### BEGIN {SCRIPT_DIR}/{SCRIPT_NAME} ###")
}

fn end() -> String {
    format!("### END {SCRIPT_DIR}/{SCRIPT_NAME} ###")
}

/// The block that `grub-mkconfig` puts into `grub.cfg`, with its markers and a final newline.
///
/// # Panics
/// If `fs_uuid` is not a filesystem UUID; it comes from a superblock, never from a person.
pub fn block(fs_uuid: &str) -> String {
    assert!(
        crate::menu::is_uuid(fs_uuid),
        "`{fs_uuid}` is not a filesystem UUID"
    );
    let (begin, end) = (begin(), end());
    format!(
        "{begin}\n\
         insmod part_gpt\n\
         insmod part_msdos\n\
         insmod btrfs\n\
         if search --no-floppy --fs-uuid --set=be_root {fs_uuid}; then\n  \
           if [ -f (${{be_root}}){MENU_PATH} ]; then\n    \
             source (${{be_root}}){MENU_PATH}\n  \
           fi\n\
         fi\n\
         {end}\n"
    )
}

/// Whether `cfg`, the text of a `grub.cfg`, holds the block for this filesystem, line for line.
pub fn is_hooked(cfg: &str, fs_uuid: &str) -> bool {
    let block = block(fs_uuid);
    let wanted: Vec<&str> = block.lines().collect();
    let lines: Vec<&str> = cfg.lines().collect();
    lines.windows(wanted.len()).any(|window| window == wanted)
}

/// `cfg` with the block for this filesystem in it, once.
///
/// An older block (another filesystem, an older `be`) is replaced where it stands, further ones are removed; with
/// none, the block is appended. Everything else stays as it is. Idempotent; the result ends with a newline.
pub fn insert(cfg: &str, fs_uuid: &str) -> String {
    let block = block(fs_uuid);
    let mut out = String::with_capacity(cfg.len() + block.len() + 2);
    let mut placed = false;
    let mut rest = cfg;
    while let Some((before, after)) = cut_block(rest) {
        out.push_str(before);
        if !placed {
            out.push_str(&block);
            placed = true;
        }
        rest = after;
    }
    out.push_str(rest);
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
    if !placed {
        // grub-mkconfig prints an empty line before each BEGIN.
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&block);
    }
    out
}

/// Splits at the first whole block: the text before its BEGIN line and that after its END line.
///
/// A BEGIN without END is damage of someone else's making: it stays, for who knows where our lines ended.
fn cut_block(cfg: &str) -> Option<(&str, &str)> {
    let (begin, end) = (begin(), end());
    let mut start = None;
    let mut offset = 0;
    for line in cfg.split_inclusive('\n') {
        let text = line.trim_end();
        if text == begin {
            start = Some(offset);
        }
        offset += line.len();
        if text == end
            && let Some(start) = start
        {
            return Some((&cfg[..start], &cfg[offset..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "11111111-2222-3333-4444-555555555555";
    const B: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
    const CFG: &str = "set timeout=5\n\n### BEGIN /etc/grub.d/41_custom ###\nfi\n### END /etc/grub.d/41_custom ###\n";

    #[test]
    fn inserts_once_and_keeps_the_rest() {
        let once = insert(CFG, A);
        assert_eq!(once, format!("{CFG}\n{}", block(A)));
        assert_eq!(insert(&once, A), once);
        assert!(is_hooked(&once, A));
        assert!(!is_hooked(&once, B));
        assert!(!is_hooked(CFG, A));
    }

    #[test]
    fn replaces_an_old_block_in_place_and_removes_a_second() {
        let old =
            "### BEGIN /etc/grub.d/45_be ###\nsomething else\n### END /etc/grub.d/45_be ###\n";
        let cfg = format!("first\n{old}middle\n{old}last");
        assert_eq!(
            insert(&cfg, A),
            format!("first\n{}middle\nlast\n", block(A))
        );
        assert_eq!(insert(&insert(CFG, B), A), insert(CFG, A));
    }

    #[test]
    fn an_empty_or_damaged_file_gets_a_whole_block() {
        assert_eq!(insert("", A), block(A));
        let torn = "### BEGIN /etc/grub.d/45_be ###\ninsmod btrfs\nset x=y";
        let mended = insert(torn, A);
        assert_eq!(mended, format!("{torn}\n\n{}", block(A)));
        assert!(is_hooked(&mended, A));
        assert_eq!(insert(&mended, A).matches("END").count(), 1);
        let stray = "### END /etc/grub.d/45_be ###\n";
        assert_eq!(insert(stray, A), format!("{stray}\n{}", block(A)));
    }

    #[test]
    fn an_edited_line_is_not_our_block() {
        let edited = insert(CFG, A).replace("  if [ -f", "  if false; [ -f");
        assert!(!is_hooked(&edited, A));
        assert!(is_hooked(&insert(&edited, A), A));
    }
}
