//! Contents that were changed on both sides, put together: by line, and by entry where a file
//! is a list whose entries have names.

use be_portage::config_files::merge::{self, Merged};

/// What a list is a list of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// Accounts, by their name, with a number that may not be given twice (passwd(5), group(5)).
    Accounts,
    /// The same without a number (shadow(5), gshadow(5), subuid(5)).
    Secrets,
    /// File systems, by where they are mounted (fstab(5)).
    Filesystems,
    /// Lines that are there or not, in any order: world, package.use and their kind.
    Lines,
    /// A log: both sides have written at its end.
    Log,
}

/// Three versions in one; none if they do not go together.
#[must_use]
pub fn merge(base: &[u8], running: &[u8], new: &[u8], list: Option<List>) -> Option<Vec<u8>> {
    if running == new {
        return Some(new.to_vec());
    }
    let texts = [base, running, new];
    if list != Some(List::Log) && texts.iter().any(|text| merge::is_binary(text)) {
        return None;
    }
    // Entries first where an order means nothing: two that are next to each other are no
    // conflict.
    match list {
        None => by_line(base, running, new),
        Some(List::Log) => appended(base, running, new),
        Some(List::Lines) => entries(base, running, new, whole_line),
        Some(List::Filesystems) => {
            by_line(base, running, new).or_else(|| entries(base, running, new, target))
        }
        Some(List::Secrets) => entries(base, running, new, name),
        Some(List::Accounts) => {
            let merged = entries(base, running, new, name)?;
            let twice = |text: &[u8]| doubled(text).len();
            // A number that was given twice before is the owner's will.
            let before = twice(running).max(twice(new));
            (twice(&merged) <= before).then_some(merged)
        }
    }
}

fn by_line(base: &[u8], running: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    match merge::three_way(base, new, running) {
        Merged::Clean(text) => Some(text),
        Merged::Conflicts(_) => None,
    }
}

type Key = fn(&[u8]) -> Option<Vec<u8>>;

/// What the running system has added, changed and removed, done to the new list: its order and
/// its comments stay.
fn entries(base: &[u8], running: &[u8], new: &[u8], key: Key) -> Option<Vec<u8>> {
    let (old, mine) = (index(base, key)?, index(running, key)?);
    let theirs = index(new, key)?;
    let find = |list: &[Entry], wanted: &[u8]| -> Option<Vec<u8>> {
        let mut found = list.iter().filter(|(k, _)| k == wanted);
        found.next().map(|(_, line)| line.clone())
    };
    let mut out = Vec::new();
    for line in lines(new) {
        let Some(named) = key(line) else {
            push(&mut out, line);
            continue;
        };
        let (before, here) = (find(&old, &named), find(&mine, &named));
        match (before, here) {
            // Nobody changed it here.
            (before, here) if before == here => push(&mut out, line),
            // It is here as there.
            (_, Some(here)) if here == line => push(&mut out, line),
            // Only here it was changed, or removed.
            (Some(before), here) if before == line => {
                if let Some(here) = here {
                    push(&mut out, &here);
                }
            }
            _ => return None,
        }
    }
    for (named, line) in &mine {
        if find(&theirs, named).is_some() {
            continue;
        }
        match find(&old, named) {
            None => push(&mut out, line),
            // Removed there: unchanged here it stays removed.
            Some(before) if before == *line => {}
            Some(_) => return None,
        }
    }
    Some(out)
}

type Entry = (Vec<u8>, Vec<u8>);

/// Entries with their lines; none if two have one key: which is which?
fn index(text: &[u8], key: Key) -> Option<Vec<Entry>> {
    let mut found: Vec<Entry> = Vec::new();
    for line in lines(text) {
        if let Some(named) = key(line) {
            match found.iter().find(|(known, _)| *known == named) {
                Some((_, known)) if known == line => {}
                Some(_) => return None,
                None => found.push((named, line.to_vec())),
            }
        }
    }
    Some(found)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|c| *c == b'\n')
        .map(|line| line.strip_suffix(b"\n").unwrap_or(line))
}

fn push(out: &mut Vec<u8>, line: &[u8]) {
    out.extend_from_slice(line);
    out.push(b'\n');
}

fn is_entry(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    !line.is_empty() && !line.starts_with(b"#")
}

fn whole_line(line: &[u8]) -> Option<Vec<u8>> {
    is_entry(line).then(|| line.trim_ascii().to_vec())
}

fn name(line: &[u8]) -> Option<Vec<u8>> {
    let name = line.split(|c| *c == b':').next()?;
    (is_entry(line) && name.len() < line.len()).then(|| name.to_vec())
}

fn target(line: &[u8]) -> Option<Vec<u8>> {
    let words = line
        .split(|c| c.is_ascii_whitespace())
        .filter(|w| !w.is_empty());
    let words: Vec<_> = words.take(2).collect();
    // Swap space has no place: its device names it.
    let named = match words[..] {
        [device, b"none" | b"swap"] => device,
        [_, target] => target,
        _ => return None,
    };
    is_entry(line).then(|| named.to_vec())
}

/// Numbers (the third field) that two names have.
fn doubled(text: &[u8]) -> Vec<Vec<u8>> {
    let mut seen = std::collections::HashSet::new();
    let numbers = lines(text).filter(|line| is_entry(line));
    let numbers = numbers.filter_map(|line| line.split(|c| *c == b':').nth(2));
    let twice = numbers.filter(|number| !number.is_empty() && !seen.insert(number.to_vec()));
    twice.map(<[u8]>::to_vec).collect()
}

/// What both have written after the same beginning: what is new there, then what is here.
fn appended(base: &[u8], running: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    // The lines of the other side stand between those that were carried: it was done before.
    let same = begin_alike(running, new);
    if same > 0 && overlap(&new[same..], &running[same..]) == running.len() - same {
        return Some(new.to_vec());
    }
    let (mine, theirs) = (running.strip_prefix(base)?, new.strip_prefix(base)?);
    // It was done before, and cut off; it may have grown since.
    let done = overlap(theirs, mine);
    Some([base, theirs, &mine[done..]].concat())
}

/// How many bytes of whole lines both begin with.
fn begin_alike(a: &[u8], b: &[u8]) -> usize {
    let lines = |text| <[u8]>::split_inclusive(text, |c| *c == b'\n');
    let alike = lines(a).zip(lines(b)).take_while(|(a, b)| a == b);
    alike.map(|(line, _)| line.len()).sum()
}

/// How many bytes of whole lines the one ends with and the other begins with, at most.
fn overlap(ends: &[u8], begins: &[u8]) -> usize {
    let pattern: Vec<&[u8]> = begins.split_inclusive(|c| *c == b'\n').collect();
    let text: Vec<&[u8]> = ends.split_inclusive(|c| *c == b'\n').collect();
    // As Knuth, Morris and Pratt: how long a beginning ends at each line of the pattern.
    let mut borders: Vec<usize> = vec![0; pattern.len()];
    let longer = |borders: &[usize], mut length: usize, line: &[u8]| {
        while length > 0 && pattern.get(length) != Some(&line) {
            length = borders[length - 1];
        }
        match pattern.get(length) == Some(&line) {
            true => length + 1,
            false => 0,
        }
    };
    for at in 1..pattern.len() {
        borders[at] = longer(&borders, borders[at - 1], pattern[at]);
    }
    let found = text
        .iter()
        .fold(0, |length, line| longer(&borders, length, line));
    pattern[..found].iter().map(|line| line.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(base: &str, running: &str, new: &str, list: Option<List>) -> Option<String> {
        let merged = merge(base.as_bytes(), running.as_bytes(), new.as_bytes(), list)?;
        // Once more, as after an interruption: nothing is done twice.
        let again = merge(base.as_bytes(), running.as_bytes(), &merged, list);
        assert_eq!(again.as_ref(), Some(&merged), "{running} {new}");
        Some(String::from_utf8(merged).unwrap())
    }

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nold:x:100:100::/:/bin/false\n";

    #[test]
    fn accounts_of_both_sides_are_there() {
        let running = format!(
            "{}me:x:1000:1000::/home/me:/bin/zsh\n",
            PASSWD.replace("sh\n", "zsh\n")
        );
        let new = format!("{PASSWD}http:x:81:81::/:/bin/false\n");
        let both = merged(PASSWD, &running, &new, Some(List::Accounts)).unwrap();
        assert_eq!(
            both,
            "root:x:0:0::/root:/bin/zsh\nold:x:100:100::/:/bin/false\n\
             http:x:81:81::/:/bin/false\nme:x:1000:1000::/home/me:/bin/zsh\n"
        );
        let removed = "root:x:0:0::/root:/bin/sh\n";
        let both = merged(PASSWD, removed, &new, Some(List::Accounts)).unwrap();
        assert_eq!(
            both,
            "root:x:0:0::/root:/bin/sh\nhttp:x:81:81::/:/bin/false\n"
        );
    }

    #[test]
    fn accounts_that_do_not_go_together() {
        let other = PASSWD.replace("old:x:100", "old:x:101");
        let changed = PASSWD.replace("old:x:100", "old:x:102");
        assert_eq!(merged(PASSWD, &other, &changed, Some(List::Accounts)), None);
        let (one, two) = (format!("{PASSWD}a:x:90:\n"), format!("{PASSWD}b:x:90:\n"));
        assert_eq!(
            merged(PASSWD, &one, &two, Some(List::Accounts)),
            None,
            "one number"
        );
        let gone = PASSWD.replace("old:x:100:100::/:/bin/false\n", "");
        assert_eq!(merged(PASSWD, &other, &gone, Some(List::Accounts)), None);
        assert_eq!(merged(PASSWD, &gone, &other, Some(List::Accounts)), None);
        let unclear = format!("{PASSWD}root:x:0:1::/:/bin/sh\n");
        assert_eq!(merged(PASSWD, &unclear, &other, Some(List::Accounts)), None);
    }

    #[test]
    fn a_line_beside_another_in_fstab() {
        let base = "# fs\nUUID=a / btrfs subvol=@ 0 0\n";
        let running = format!("{base}UUID=b /data ext4 defaults 0 0\n");
        let new = base.replace("subvol=@", "subvol=@be/new/root");
        let both = merged(base, &running, &new, Some(List::Filesystems)).unwrap();
        assert_eq!(
            both,
            "# fs\nUUID=a / btrfs subvol=@be/new/root 0 0\nUUID=b /data ext4 defaults 0 0\n"
        );
        let clash = base.replace("btrfs", "btrfs noatime,");
        assert_eq!(merged(base, &clash, &new, Some(List::Filesystems)), None);
    }

    #[test]
    fn lines_in_any_order() {
        let both = merged(
            "a/a\nb/b\n",
            "a/a\nc/c\n",
            "b/b\na/a\nd/d\n",
            Some(List::Lines),
        );
        assert_eq!(both.unwrap(), "a/a\nd/d\nc/c\n");
    }

    #[test]
    fn a_log_has_what_both_wrote() {
        let both = merged("1\n", "1\n2\n", "1\n3\n", Some(List::Log)).unwrap();
        assert_eq!(both, "1\n3\n2\n");
        assert_eq!(merged("1\n", "rotated\n", "1\n3\n", Some(List::Log)), None);
        assert!(merge(b"\0", b"\0a", b"\0b", Some(List::Log)).is_some());
    }

    #[test]
    fn a_log_that_grew_after_it_was_cut_off() {
        let once = merged("1\n", "1\n2\n3\n", "1\n4\n", Some(List::Log)).unwrap();
        let again = merged("1\n", "1\n2\n3\n5\n", &once, Some(List::Log));
        assert_eq!(again.unwrap(), "1\n4\n2\n3\n5\n");
        for (ends, begins, expected) in [
            ("a\nb\na\nb\n", "a\nb\nc\n", 4),
            ("a\na\na\n", "a\na\nb\n", 4),
            ("xa\n", "a\nb\n", 0),
            ("a\nb", "a\nbc\n", 0),
            ("", "a\n", 0),
        ] {
            let found = overlap(ends.as_bytes(), begins.as_bytes());
            assert_eq!(found, expected, "{ends:?} {begins:?}");
        }
    }

    #[test]
    fn an_old_log_that_was_carried_before() {
        let (here, there) = ("1\n2\nhere\n", "1\n2\nthere\nhere\n");
        for base in ["", "older\n"] {
            let found = merged(base, here, there, Some(List::Log));
            assert_eq!(found.as_deref(), Some(there));
        }
        assert_eq!(merged("1\n", "", "1\n2\n", Some(List::Log)), None);
        // A line may end as another does.
        let found = merged("1\n", "1\nhere\n", "1\nthere\n", Some(List::Log));
        assert_eq!(found.as_deref(), Some("1\nthere\nhere\n"));
    }

    #[test]
    fn text_by_line() {
        let base = "a\nb\nc\nd\ne\n";
        let both = merged(base, "A\nb\nc\nd\ne\n", "a\nb\nc\nd\nE\n", None).unwrap();
        assert_eq!(both, "A\nb\nc\nd\nE\n");
        assert_eq!(
            merged(base, "A\nb\nc\nd\ne\n", "X\nb\nc\nd\ne\n", None),
            None
        );
        assert_eq!(merge(b"\0", b"\0a", b"\0b", None), None);
    }
}
