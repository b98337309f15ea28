//! One file after the other, at a terminal.

use std::io::Write;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use be_core::config_files::{Desk, Item, Stamp};
use be_core::model::Environment;
use be_core::portage::config_files::merge::{self, Merged, is_binary, three_way, two_way, unified};
use be_core::portage::config_files::waiting::Kind;
use be_core::portage::config_files::{Decision, accounts};

use super::list::sentence;
use super::{Done, nothing, shown};
use crate::context::Context;
use crate::reporter::{Outcome, Reporter, count};

/// What a person says to one file.
enum Answer {
    Keep,
    Take,
    /// This is what it is to be.
    Put(Vec<u8>),
    Skip,
    Quit,
}

pub fn run(desk: &Desk, env: &Environment, stamp: &Stamp, ctx: &mut Context) -> Result<Outcome> {
    let name = env.name();
    if desk.items.is_empty() {
        return Err(nothing(name));
    }
    let mut done = Done::default();
    let of = desk.items.len();
    for (at, item) in desk.items.iter().enumerate() {
        let (path, why) = (shown(&item.path()), sentence(item));
        ctx.reporter
            .show(&format!("\n{path} in {name} ({} of {of}): {why}\n", at + 1));
        match ask(item, ctx.reporter)? {
            Answer::Keep => {
                done.keep(item, &desk.keep(item, stamp)?);
            }
            Answer::Take => {
                done.note(item, &desk.take(item, stamp)?);
                done.taken.push(item.path());
            }
            Answer::Put(content) => {
                done.note(item, &desk.put(item, &content, stamp)?);
                done.merged.push(item.path());
            }
            Answer::Skip => {}
            Answer::Quit => break,
        }
    }
    let left = of - done.kept.len() - done.taken.len() - done.merged.len();
    if left > 0 {
        let left = count(left, "file");
        done.notes
            .push(format!("{left} left in {name}: be config {name}"));
    }
    Ok(done.outcome(name, of))
}

/// What can be done about one file.
struct Ways {
    /// What waits was in use before.
    old: bool,
    /// Both are text.
    text: bool,
    take: bool,
    /// It is a list of accounts, with these after those that are there.
    added: Option<Vec<u8>>,
}

impl Ways {
    fn of(item: &Item) -> Self {
        let list = accounts::is_list(&item.path());
        let text = |content: &Option<Vec<u8>>| content.as_ref().is_some_and(|c| !is_binary(c));
        let added = item
            .ours
            .as_ref()
            .zip(item.theirs.as_ref())
            .filter(|_| list);
        let added = added.and_then(|(ours, theirs)| {
            let new = accounts::missing(ours, theirs);
            (!new.is_empty()).then(|| accounts::added(ours, &new))
        });
        Self {
            old: item.kind == Kind::Old,
            text: text(&item.ours) && text(&item.theirs),
            take: !list,
            added,
        }
    }

    fn question(&self) -> String {
        let (keep, take, edit) = match self.old {
            false => ("[k]eep yours", "[t]ake the new one", "[e]dit yours"),
            true => (
                "[k]eep what is in use",
                "[t]ake the old one back",
                "[e]dit what is in use",
            ),
        };
        let mut ways = vec![keep];
        if self.take {
            ways.push(take);
        }
        if self.added.is_some() {
            ways.push("[a]dd what is new");
        }
        if self.text {
            ways.extend(["[m]erge", edit, "[d]iff"]);
        }
        ways.extend(["[s]kip", "[q]uit"]);
        format!("{}? ", ways.join(", "))
    }
}

fn ask(item: &Item, reporter: &mut Reporter) -> Result<Answer> {
    let ways = Ways::of(item);
    show_diff(item, &ways, reporter);
    loop {
        // No answer any more: nothing is changed.
        let Some(answer) = reporter.ask(&ways.question()) else {
            return Ok(Answer::Quit);
        };
        match answer.as_str() {
            "k" | "keep" => return Ok(Answer::Keep),
            "t" | "take" if ways.take => return Ok(Answer::Take),
            "s" | "skip" => return Ok(Answer::Skip),
            "q" | "quit" => return Ok(Answer::Quit),
            "d" | "diff" if ways.text => show_diff(item, &ways, reporter),
            "a" | "add" => {
                if let Some(result) = &ways.added
                    && accept(item, result, reporter)
                {
                    return Ok(Answer::Put(result.clone()));
                }
            }
            "m" | "merge" if ways.text => {
                if let Some(result) = merged(item, reporter)? {
                    return Ok(Answer::Put(result));
                }
            }
            "e" | "edit" if ways.text => {
                let ours = item.ours.clone().unwrap_or_default();
                if let Some(result) = edited(item, ours, reporter)? {
                    return Ok(Answer::Put(result));
                }
            }
            _ => {}
        }
    }
}

/// What differs, and what would come of a merge.
fn show_diff(item: &Item, ways: &Ways, reporter: &mut Reporter) {
    let (Some(ours), Some(theirs), true) = (&item.ours, &item.theirs, ways.text) else {
        return;
    };
    let newest = item.files.last().map(|f| f.to_string_lossy().into_owned());
    let newest = newest.unwrap_or_default();
    let diff = unified((&item.path(), ours), (&newest, theirs));
    reporter.show(&printable(&diff));
    let Some(base) = item.base.as_ref() else {
        return;
    };
    match three_way(base, ours, theirs) {
        Merged::Clean(result) if result == *theirs => {}
        Merged::Clean(result) => {
            reporter.show("merged, yours becomes:\n");
            let diff = unified((&item.path(), ours), ("merged", &result));
            reporter.show(&printable(&diff));
        }
        Merged::Conflicts(marked) => {
            let conflicts = count(merge::conflicts(&marked), "conflict");
            reporter.show(&format!("merged, there would be {conflicts}:\n"));
            let diff = unified((&item.path(), ours), ("merged", &marked));
            reporter.show(&printable(&diff));
        }
    }
}

/// The merge of both, by hand where they do not go together.
fn merged(item: &Item, reporter: &mut Reporter) -> Result<Option<Vec<u8>>> {
    let ours = item.ours.as_deref().unwrap_or_default();
    let theirs = item.theirs.as_deref().unwrap_or_default();
    let marked = match (&item.decision, &item.base) {
        (Decision::Merge(result), _) => {
            let taken = accept(item, result, reporter);
            return Ok(taken.then(|| result.clone()));
        }
        (_, Some(base)) => match three_way(base, ours, theirs) {
            Merged::Clean(result) => {
                let taken = accept(item, &result, reporter);
                return Ok(taken.then_some(result));
            }
            Merged::Conflicts(marked) => marked,
        },
        (_, None) => two_way(ours, theirs),
    };
    edited(item, marked, reporter)
}

/// What a person makes of a text in an editor; none if it is not to be used.
fn edited(item: &Item, text: Vec<u8>, reporter: &mut Reporter) -> Result<Option<Vec<u8>>> {
    let mut text = text;
    loop {
        match edit(item, &text) {
            Ok(result) => text = result,
            Err(e) => {
                reporter.show(&format!("{e:#}\n"));
                return Ok(None);
            }
        }
        if !merge::has_marks(&text) {
            return Ok(accept(item, &text, reporter).then_some(text));
        }
        if !reporter.confirm("there are conflicts in it still; edit it again?") {
            return Ok(None);
        }
    }
}

fn edit(item: &Item, text: &[u8]) -> Result<Vec<u8>> {
    let dir = tempfile::tempdir().context("cannot make a directory for the editor")?;
    // Its name tells an editor what it is.
    let name = item.target.file_name().context("a file has a name")?;
    let path = dir.path().join(name);
    let mut file = tempfile::NamedTempFile::new_in(dir.path())?;
    file.write_all(text)?;
    let _file = file.persist(&path)?;
    let editor = ["VISUAL", "EDITOR"].iter().find_map(std::env::var_os);
    let editor = editor
        .filter(|e| !e.is_empty())
        .unwrap_or_else(|| "vi".into());
    let editor = editor.to_string_lossy().into_owned();
    let mut words = editor.split_whitespace();
    let program = words.next().context("EDITOR is empty")?;
    let status = Command::new(program).args(words).arg(&path).status();
    let status =
        status.with_context(|| format!("cannot start the editor {program}: set EDITOR"))?;
    if !status.success() {
        bail!("{program} failed; nothing was changed");
    }
    std::fs::read(&path).with_context(|| format!("{program} left nothing to read"))
}

/// Show what a file becomes, and ask.
fn accept(item: &Item, result: &[u8], reporter: &mut Reporter) -> bool {
    let ours = item.ours.as_deref().unwrap_or_default();
    let path = item.path();
    let diff = unified((&path, ours), ("the result", result));
    reporter.show(&printable(&diff));
    reporter.confirm(&format!("make {} this?", shown(&path)))
}

/// A text that gives no orders to a terminal.
fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let shown = text.chars().map(|c| match c {
        '\n' | '\t' => c,
        '\r' => '\u{240d}',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn no_orders_to_the_terminal() {
        assert_eq!(
            printable(b"a\x1b[2J\xff\r\n\tb\x07"),
            "a\u{fffd}[2J\u{fffd}\u{240d}\n\tb\u{fffd}"
        );
    }
}
