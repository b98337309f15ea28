//! `be diff` for a person.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use be_core::diff::{Aspect, Change, Diff, FileChange, Kernel, KernelDiff};
use be_core::portage::diff::{self, Entry, PackageDiff};

/// The columns of a line after its mark; the first ones are aligned.
type Line = (char, Vec<String>);

/// A column is not made wider than this for one long cell.
const MAX_WIDTH: usize = 44;

pub fn render(diff: &Diff) -> String {
    if diff.is_empty() {
        return match diff.from == diff.to {
            true => format!("nothing differs: both are {}\n", diff.from),
            false => format!("nothing differs between {} and {}\n", diff.from, diff.to),
        };
    }
    let mut text = format!("{} -> {}\n", diff.from, diff.to);
    let mut group = |title: &str, lines: Vec<Line>| {
        if !lines.is_empty() {
            let _infallible = write!(text, "\n{title}\n{}", aligned(&lines));
        }
    };
    group("Packages", packages(&diff.packages));
    group("Kernels", kernels(&diff.kernels));
    group("Configuration", files(&diff.configuration));
    if let Some(all) = &diff.files {
        group("Files", files(all));
    }
    let _infallible = write!(text, "\n{}\n", summary(diff));
    clean(&text)
}

/// No control character of an environment's files reaches a terminal.
pub fn clean(text: &str) -> String {
    let plain = |c: char| match c {
        '\n' | '\t' => c,
        c if c.is_control() => '?',
        c => c,
    };
    text.chars().map(plain).collect()
}

/// A path on one line: what a terminal or a script would stumble over is `\` and three
/// octal digits, as in fstab(5).
pub fn plain_path(path: &Path) -> String {
    let mut text = String::from("/");
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' {
                let mut bytes = [0; 4];
                octal(c.encode_utf8(&mut bytes).as_bytes(), &mut text);
            } else {
                text.push(c);
            }
        }
        octal(chunk.invalid(), &mut text);
    }
    text
}

fn octal(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        let _infallible = write!(text, "\\{byte:03o}");
    }
}

/// The USE flags that changed, as `+foo` and `-bar`.
pub fn flags(change: &diff::Change) -> Vec<String> {
    let on = change.use_enabled.iter().map(|f| format!("+{f}"));
    let off = change.use_disabled.iter().map(|f| format!("-{f}"));
    on.chain(off).collect()
}

fn aligned(lines: &[Line]) -> String {
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|(_, cells)| cells.get(column));
        let widths = cells.map(|cell| cell.chars().count());
        widths.filter(|w| *w <= MAX_WIDTH).max().unwrap_or(0)
    };
    let columns = lines.iter().map(|(_, cells)| cells.len()).max();
    let widths: Vec<usize> = (0..columns.unwrap_or(0)).map(width).collect();
    let line = |(mark, cells): &Line| {
        let cells = cells.iter().zip(&widths);
        let cells: Vec<String> = cells.map(|(cell, w)| format!("{cell:w$}")).collect();
        format!("{mark}  {}", cells.join("  "))
            .trim_end()
            .to_owned()
            + "\n"
    };
    lines.iter().map(line).collect()
}

fn packages(packages: &PackageDiff) -> Vec<Line> {
    let mut lines = Vec::new();
    for (mark, list) in [
        ('U', &packages.upgraded),
        ('D', &packages.downgraded),
        ('R', &packages.rebuilt),
        ('M', &packages.moved),
    ] {
        lines.extend(list.iter().map(|c| (mark, changed(c))));
    }
    for (mark, list) in [('+', &packages.added), ('-', &packages.removed)] {
        lines.extend(list.iter().map(|e| (mark, alone(mark, e))));
    }
    lines
}

/// As in an atom; the usual slot is not shown.
pub fn atom(package: &str, slot: &str) -> String {
    match slot {
        "0" => package.to_owned(),
        slot => format!("{package}:{slot}"),
    }
}

fn changed(c: &diff::Change) -> Vec<String> {
    let versions = match c.from == c.to {
        true => c.to.clone(),
        false => format!("{} -> {}", c.from, c.to),
    };
    let growth = c.growth().filter(|growth| *growth != 0);
    let mut notes = flags(c);
    if let Some((from, to)) = &c.slots {
        notes.push(format!(":{from} -> :{to}"));
    }
    if let Some((from, to)) = &c.repositories {
        notes.push(format!("::{from} -> ::{to}"));
    }
    vec![
        atom(&c.package, &c.slot),
        versions,
        growth.map(growth_text).unwrap_or_default(),
        notes.join(" "),
    ]
}

fn alone(mark: char, e: &Entry) -> Vec<String> {
    let size = |size: u64| format!("{mark}{}", size_text(size));
    vec![
        atom(&e.package, &e.slot),
        e.version.clone(),
        e.size.map(size).unwrap_or_default(),
    ]
}

fn kernels(kernels: &KernelDiff) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (mark, list, note) in [
        ('+', &kernels.added, ""),
        ('M', &kernels.changed, "another build"),
        ('-', &kernels.removed, ""),
    ] {
        lines.extend(list.iter().map(|k| {
            let note = match (k.set_aside, mark, &k.initramfs) {
                (true, ..) => "set aside",
                (_, '+', None) => "no initramfs",
                _ => note,
            };
            (mark, vec![k.version.clone(), note.to_owned()])
        }));
    }
    lines
}

fn files(changes: &[FileChange]) -> Vec<Line> {
    let line = |c: &FileChange| {
        let slash = match c.kind.is_dir() && !c.path.as_os_str().is_empty() {
            true => "/",
            false => "",
        };
        let path = plain_path(&c.path) + slash;
        match &c.change {
            Change::Added => ('+', vec![path]),
            Change::Removed => ('-', vec![path]),
            Change::Changed(what) => ('M', vec![path, notable(what)]),
        }
    };
    changes.iter().map(line).collect()
}

/// Another content is what one expects.
fn notable(what: &[Aspect]) -> String {
    match what {
        [Aspect::Content] => String::new(),
        what => {
            let words: Vec<_> = what.iter().map(|w| w.as_str()).collect();
            words.join(", ")
        }
    }
}

fn summary(diff: &Diff) -> String {
    let packages = &diff.packages;
    let mut parts = Vec::new();
    let counts = counts(&[
        (packages.upgraded.len(), "upgraded"),
        (packages.downgraded.len(), "downgraded"),
        (packages.rebuilt.len(), "rebuilt"),
        (packages.moved.len(), "moved"),
        (packages.added.len(), "added"),
        (packages.removed.len(), "removed"),
    ]);
    if let Some(counts) = counts {
        let growth = match packages.growth() {
            0 => String::new(),
            growth => format!(" ({})", growth_text(growth)),
        };
        parts.push(format!("packages: {counts}{growth}"));
    }
    let kernels = &diff.kernels;
    let lists = [&kernels.added, &kernels.removed, &kernels.changed];
    let [added, removed, changed] = lists.map(|list: &Vec<Kernel>| list.len());
    parts.extend(three("kernels", added, removed, changed));
    for (title, list) in [
        ("/etc", Some(&diff.configuration)),
        ("files", diff.files.as_ref()),
    ] {
        let count = |wanted: fn(&Change) -> bool| {
            let list = list.into_iter().flatten();
            list.filter(|c| wanted(&c.change)).count()
        };
        parts.extend(three(
            title,
            count(|c| matches!(c, Change::Added)),
            count(|c| matches!(c, Change::Removed)),
            count(|c| matches!(c, Change::Changed(_))),
        ));
    }
    parts.join("; ")
}

fn three(title: &str, added: usize, removed: usize, changed: usize) -> Option<String> {
    let counts = counts(&[(added, "added"), (removed, "removed"), (changed, "changed")])?;
    Some(format!("{title}: {counts}"))
}

/// `2 added, 1 removed`; none if there are none.
fn counts(counts: &[(usize, &str)]) -> Option<String> {
    let some = counts.iter().filter(|(count, _)| *count > 0);
    let words: Vec<_> = some
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// The same with a sign.
pub fn growth_text(growth: i64) -> String {
    let sign = if growth < 0 { '-' } else { '+' };
    format!("{sign}{}", size_text(growth.unsigned_abs()))
}

/// `512 B`, `1.5 KiB`, `12.0 MiB`.
pub fn size_text(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would be rounded to 1024.0 is 1.0 of the next.
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
