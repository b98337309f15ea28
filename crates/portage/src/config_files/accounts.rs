//! Lists of accounts: passwd(5), group(5), shadow(5), gshadow(5). Of these a person may take
//! what is new, and never the whole file: it knows none of the accounts of this machine.

use std::collections::HashSet;

/// The files, from the root of the system.
const FILES: [&str; 4] = ["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"];

/// Whether a file is a list of accounts.
#[must_use]
pub fn is_list(path: &str) -> bool {
    FILES.contains(&path)
}

/// The entries of the one list that the other lacks, in their order, as lines.
#[must_use]
pub fn missing<'a>(ours: &[u8], theirs: &'a [u8]) -> Vec<&'a [u8]> {
    let mut known: HashSet<&[u8]> = entries(ours).map(|(name, _)| name).collect();
    let new = entries(theirs).filter(|(name, _)| known.insert(name));
    new.map(|(_, line)| line).collect()
}

/// The list with these entries after its own.
#[must_use]
pub fn added(ours: &[u8], new: &[&[u8]]) -> Vec<u8> {
    let mut list = ours.to_vec();
    for line in new {
        if list.last().is_some_and(|c| *c != b'\n') {
            list.push(b'\n');
        }
        list.extend_from_slice(line);
        list.push(b'\n');
    }
    list
}

fn entries(list: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    list.split(|c| *c == b'\n').filter_map(|line| {
        let name = line
            .split(|c| *c == b':')
            .next()
            .filter(|n| n.len() < line.len())?;
        // `+` and `-` are instructions for NIS.
        let ok = !name.is_empty() && !name.starts_with(b"#") && !b"+-".contains(&name[0]);
        ok.then_some((name, line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_added() {
        let ours = b"root:x:0:\nme:x:1000:\nhttp:x:77:";
        let theirs = b"root:x:0:evil\nhttp:x:80:\n# c:d\n\nnew:x:90:\n+::\nnew:x:91:\nodd\n";
        let new = missing(ours, theirs);
        assert_eq!(new, [b"new:x:90:"]);
        let list = b"root:x:0:\nme:x:1000:\nhttp:x:77:\nnew:x:90:\n";
        assert_eq!(added(ours, &new), list);
        assert_eq!(added(ours, &[]), ours);
        assert!(missing(theirs, b"").is_empty());
        assert!(is_list("/etc/group") && !is_list("/etc/fstab"));
    }
}
