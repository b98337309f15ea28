//! /etc/fstab: read without loss, changed only where a clone needs it (format: fstab(5)).

use std::path::{Path, PathBuf};

use crate::name::EnvName;

/// One line of fstab that describes a filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// First field, unescaped: a device, `UUID=…`, `LABEL=…`, `PARTUUID=…`.
    pub source: String,
    /// Second field, unescaped. `none` and `swap` stay as they are.
    pub target: PathBuf,
    /// Third field.
    pub fstype: String,
    /// Fourth field, split at commas.
    pub options: Vec<String>,
}

impl Entry {
    /// The value of `subvol=`, without leading or trailing slashes (`/@` and `@` are one).
    pub fn subvol(&self) -> Option<&str> {
        self.option("subvol").map(|s| s.trim_matches('/'))
    }

    /// The value of `subvolid=`.
    pub fn subvolid(&self) -> Option<&str> {
        self.option("subvolid")
    }

    /// Whether it mounts a btrfs as root; `auto` is one here, where the root is on btrfs.
    pub fn is_btrfs_root(&self) -> bool {
        self.target == Path::new("/") && self.is_btrfs()
    }

    /// Whether it mounts a btrfs at `target`, from `source` if one is given.
    pub fn is_at(&self, target: &Path, source: Option<&str>) -> bool {
        self.target == target && self.is_btrfs() && source.is_none_or(|s| self.source == s)
    }

    /// Whether it mounts a btrfs, or may do so (`auto`).
    pub fn is_btrfs(&self) -> bool {
        ["btrfs", "auto"].contains(&self.fstype.as_str())
    }

    /// The value of an option `key=value`; the last one counts.
    pub fn option(&self, key: &str) -> Option<&str> {
        self.options
            .iter()
            .rev()
            .find_map(|o| o.strip_prefix(key)?.strip_prefix('='))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    text: String,
    entry: Option<Entry>,
}

/// A whole fstab; comments, blank lines and unknown lines are kept as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fstab {
    lines: Vec<Line>,
}

impl Fstab {
    /// Read a text. Lines with fewer than three fields are kept and not interpreted,
    /// as mount(8) does.
    pub fn parse(text: &str) -> Self {
        let lines = text
            .split_inclusive('\n')
            .map(|line| Line {
                text: line.to_owned(),
                entry: parse_line(line),
            })
            .collect();
        Self { lines }
    }

    /// The entries in order.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.lines.iter().filter_map(|l| l.entry.as_ref())
    }

    /// The entry mounted at `target`; the last one counts, as for mount(8) at boot.
    pub fn at(&self, target: &Path) -> Option<&Entry> {
        self.entries().filter(|e| e.target == target).last()
    }

    /// The same table with these changes, in this order. All other bytes stay.
    pub fn changed(&self, changes: &[Change]) -> Self {
        let mut tab = self.clone();
        for change in changes {
            tab.apply(change);
        }
        tab
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Subvol {
                target,
                source,
                subvol,
            } => self.rewrite(
                |e| e.is_at(target, source.as_deref()),
                |line, e| replace_field(line, 3, &with_subvol(&e.options, subvol)),
            ),
            Change::Target { from, to } => self.rewrite(
                |e| e.target == *from,
                |line, _| replace_field(line, 1, &escape(&to.to_string_lossy())),
            ),
            Change::Source { target, to } => self.rewrite(
                |e| e.is_at(target, None),
                |line, _| replace_field(line, 0, &escape(to)),
            ),
            Change::Comment { target } => {
                self.rewrite(|e| e.target == *target, |line, _| format!("# {line}"))
            }
            Change::Add(entry) => {
                if let Some(last) = self.lines.last_mut().filter(|l| !l.text.ends_with('\n')) {
                    last.text.push('\n');
                }
                let text = format!(
                    "{}\t{}\t{}\t{}\t0 0\n",
                    escape(&entry.source),
                    escape(&entry.target.to_string_lossy()),
                    entry.fstype,
                    join(&entry.options),
                );
                let added = parse_line(&text);
                // mount(8) goes through them in their order.
                let below =
                    |e: &Entry| e.target != entry.target && e.target.starts_with(&entry.target);
                let mut lines = self.lines.iter();
                let at = lines.position(|l| l.entry.as_ref().is_some_and(below));
                let line = Line { text, entry: added };
                self.lines.insert(at.unwrap_or(self.lines.len()), line);
            }
        }
    }

    fn rewrite(&mut self, wanted: impl Fn(&Entry) -> bool, how: impl Fn(&str, &Entry) -> String) {
        for line in &mut self.lines {
            if let Some(entry) = line.entry.as_ref().filter(|e| wanted(e)) {
                line.text = how(&line.text, entry);
                line.entry = parse_line(&line.text);
            }
        }
    }

    /// The same table where the environment that it lies in is called `name`: every line
    /// that mounts a subvolume of an environment, under whatever name, mounts that of this
    /// one. All other bytes stay.
    pub fn with_environment(&self, name: &EnvName) -> Self {
        let moved = |entry: &Entry| -> Option<String> {
            let (_, below) = entry.subvol()?.strip_prefix("@be/")?.split_once('/')?;
            let own = entry.fstype == "btrfs" || entry.is_btrfs_root();
            let place = crate::record::place(entry.target.to_str()?);
            let new = format!("/@be/{name}/{below}");
            (own && Path::new(below) == place && entry.subvol() != Some(&new[1..])).then_some(new)
        };
        let lines = self.lines.iter().map(|line| {
            let Some((entry, subvol)) = line.entry.as_ref().and_then(|e| Some((e, moved(e)?)))
            else {
                return line.clone();
            };
            let text = replace_field(&line.text, 3, &with_subvol(&entry.options, &subvol));
            let entry = parse_line(&text);
            Line { text, entry }
        });
        Self {
            lines: lines.collect(),
        }
    }

    /// The same table without the lines for which this holds.
    pub fn without(&self, unwanted: impl Fn(&Entry) -> bool) -> Self {
        let wanted = |line: &&Line| !line.entry.as_ref().is_some_and(&unwanted);
        Self {
            lines: self.lines.iter().filter(wanted).cloned().collect(),
        }
    }

    /// The text, byte for byte where nothing was changed.
    pub fn to_text(&self) -> String {
        self.lines.iter().map(|l| l.text.as_str()).collect()
    }
}

/// A change of a table for a clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// In every line of btrfs for this target, `subvol=` is set and `subvolid=` dropped.
    Subvol {
        /// Where it is mounted.
        target: PathBuf,
        /// Only where this is the first field.
        source: Option<String>,
        /// From the top level, with its leading slash.
        subvol: String,
    },
    /// What was mounted at the one place goes to another.
    Target {
        /// The old one.
        from: PathBuf,
        /// The new one.
        to: PathBuf,
    },
    /// In every line of btrfs for this target the first field is another.
    Source {
        /// Where it is mounted.
        target: PathBuf,
        /// The new one.
        to: String,
    },
    /// The lines for this target count no more; they stay as comments.
    Comment {
        /// Where it was mounted.
        target: PathBuf,
    },
    /// One more line, at the end, or before what is mounted below it.
    Add(Entry),
}

fn parse_line(line: &str) -> Option<Entry> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let mut fields = line.split([' ', '\t']).filter(|f| !f.is_empty());
    let (source, target, fstype) = (fields.next()?, fields.next()?, fields.next()?);
    let options = fields.next().unwrap_or("defaults");
    Some(Entry {
        source: unescape(source),
        target: PathBuf::from(unescape(target)),
        fstype: fstype.to_owned(),
        options: options.split(',').map(unescape).collect(),
    })
}

fn with_subvol(options: &[String], subvol: &str) -> String {
    let is_subvol = |o: &str| o.starts_with("subvol=") || o.starts_with("subvolid=");
    let mut kept: Vec<String> = options
        .iter()
        .filter(|o| !is_subvol(o) && !o.is_empty())
        .cloned()
        .collect();
    let place = options.iter().position(|o| o.starts_with("subvol="));
    let before = place.map_or(kept.len(), |p| {
        options[..p].iter().filter(|o| !is_subvol(o)).count()
    });
    kept.insert(before.min(kept.len()), format!("subvol={subvol}"));
    join(&kept)
}

fn join(options: &[String]) -> String {
    let escaped: Vec<_> = options.iter().map(|o| escape(o)).collect();
    escaped.join(",")
}

/// Put `text` in the place of a field (0 is the first), leaving the blanks around it
/// alone; a line may lack its fourth field.
fn replace_field(line: &str, index: usize, text: &str) -> String {
    let mut ranges = Vec::new();
    let mut start = None;
    for (i, c) in line.char_indices() {
        let blank = c.is_ascii_whitespace();
        match start {
            None if !blank => start = Some(i),
            Some(s) if blank => {
                ranges.push(s..i);
                start = None;
            }
            _ => {}
        }
    }
    if let Some(s) = start {
        ranges.push(s..line.len());
    }
    match ranges.get(index) {
        Some(r) => format!("{}{text}{}", &line[..r.start], &line[r.end..]),
        None => {
            let end = ranges.last().map_or(0, |r| r.end);
            format!("{} {text}{}", &line[..end], &line[end..])
        }
    }
}

/// Undo the octal escapes of fstab and mountinfo (`\040` is a blank).
pub fn unescape(field: &str) -> String {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let octal = bytes.get(i + 1..i + 4).filter(|d| {
            bytes[i] == b'\\' && d[0] <= b'3' && d.iter().all(|c| (b'0'..=b'7').contains(c))
        });
        match octal {
            Some(d) => {
                out.push((d[0] - b'0') * 64 + (d[1] - b'0') * 8 + (d[2] - b'0'));
                i += 4;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn escape(field: &str) -> String {
    field
        .replace('\\', "\\134")
        .replace(' ', "\\040")
        .replace('\t', "\\011")
        .replace('\n', "\\012")
        .replace('#', "\\043")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GENTOO: &str = "# /etc/fstab\n\
        UUID=aa-bb\t/         btrfs  noatime,subvolid=256,subvol=/@,compress=zstd  0 1\n\
        UUID=aa-bb\t/home     btrfs  subvol=@home,subvolid=257  0 0\n\
        UUID=CC-DD /efi vfat umask=0077 0 2\n\
        tmpfs /my\\040dir tmpfs size=1G";

    fn with_root(text: &str, subvol: &str) -> Fstab {
        Fstab::parse(text).changed(&[Change::Subvol {
            target: "/".into(),
            source: None,
            subvol: subvol.into(),
        }])
    }

    #[test]
    fn a_line_can_move_go_and_come() {
        let text = "UUID=b /boot vfat umask=0077 0 2\nUUID=x /boot/x ext4 rw\nUUID=x / btrfs";
        let after = Fstab::parse(text).changed(&[
            Change::Target {
                from: "/boot".into(),
                to: "/my efi".into(),
            },
            Change::Comment {
                target: "/boot/x".into(),
            },
            Change::Add(Entry {
                source: "UUID=x".into(),
                target: "/srv/a b".into(),
                fstype: "btrfs".into(),
                options: vec!["nofail".into(), "subvol=/@/srv/a b".into()],
            }),
        ]);
        assert_eq!(
            after.to_text(),
            "UUID=b /my\\040efi vfat umask=0077 0 2\n# UUID=x /boot/x ext4 rw\n\
             UUID=x / btrfs\nUUID=x\t/srv/a\\040b\tbtrfs\tnofail,subvol=/@/srv/a\\040b\t0 0\n"
        );
        assert_eq!(Fstab::parse(&after.to_text()), after);
        let added = after.at(Path::new("/srv/a b")).unwrap();
        assert_eq!(added.subvol(), Some("@/srv/a b"));
    }

    #[test]
    fn only_the_root_line_changes() {
        let after = with_root(GENTOO, "/@be/new/root");
        assert_eq!(
            after.to_text(),
            GENTOO.replace(
                "noatime,subvolid=256,subvol=/@,compress=zstd",
                "noatime,subvol=/@be/new/root,compress=zstd"
            )
        );
        let root = after.at(Path::new("/")).unwrap();
        assert_eq!(root.subvol(), Some("@be/new/root"));
        assert_eq!(root.subvolid(), None);
        assert_eq!(Fstab::parse(&after.to_text()), after);
    }

    #[test]
    fn a_root_line_without_options_gets_them() {
        for (line, want) in [
            ("LABEL=x / btrfs", "LABEL=x / btrfs defaults,subvol=/n"),
            ("LABEL=x / btrfs\n", "LABEL=x / btrfs defaults,subvol=/n\n"),
            (
                "LABEL=x / btrfs defaults 0 0\n",
                "LABEL=x / btrfs defaults,subvol=/n 0 0\n",
            ),
            (
                "/dev/a / btrfs subvolid=5 0 0",
                "/dev/a / btrfs subvol=/n 0 0",
            ),
        ] {
            assert_eq!(with_root(line, "/n").to_text(), want);
        }
    }

    #[test]
    fn blanks_in_names_are_octal() {
        let tab = Fstab::parse(GENTOO);
        assert!(tab.at(Path::new("/my dir")).is_some());
        assert_eq!(unescape("a\\040b\\134c\\9"), "a b\\c\\9");
    }

    proptest! {
        #[test]
        fn any_text_survives_unchanged(text in "(?s).{0,200}") {
            prop_assert_eq!(Fstab::parse(&text).to_text(), text);
        }

        #[test]
        fn the_new_root_line_reads_back(options in "[a-z=,/@0-9]{0,40}", tail in "[ \t0-9]{0,5}") {
            let text = format!("UUID=x / btrfs {options}x{tail}\n");
            let after = with_root(&text, "/@be/n/root");
            let again = Fstab::parse(&after.to_text());
            let root = again.at(Path::new("/")).unwrap();
            prop_assert_eq!(root.subvol(), Some("@be/n/root"));
            prop_assert_eq!(root.subvolid(), None);
        }
    }

    #[test]
    fn lines_of_an_environment_follow_its_name() {
        let text = "# /@be/old/root\n\
                    UUID=x / btrfs subvol=/@be/old/root,noatime 0 0\n\
                    UUID=x /var/lib/x btrfs rw,subvol=@be/old/vol/var-lib-x 0 0\n\
                    UUID=x /home btrfs subvol=@home 0 0\n\
                    UUID=x /mnt/other btrfs subvol=/@be/old/root 0 0\n";
        let name = EnvName::parse("new").unwrap();
        let new = Fstab::parse(text).with_environment(&name);
        assert_eq!(
            new.to_text(),
            "# /@be/old/root\n\
             UUID=x / btrfs subvol=/@be/new/root,noatime 0 0\n\
             UUID=x /var/lib/x btrfs rw,subvol=/@be/new/vol/var-lib-x 0 0\n\
             UUID=x /home btrfs subvol=@home 0 0\n\
             UUID=x /mnt/other btrfs subvol=/@be/old/root 0 0\n"
        );
        assert_eq!(new.with_environment(&name), new);
        let adopted = Fstab::parse("UUID=x / btrfs subvol=/@ 0 0\n");
        assert_eq!(adopted.with_environment(&name), adopted);
    }
}
