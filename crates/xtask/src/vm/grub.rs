//! GRUB's menu by its keys.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{Entry, Vm};
use crate::run::last_lines;

/// Control-P and control-N, which GRUB takes for the arrows: an arrow is three
/// bytes, and GRUB takes them apart when they come too slowly.
const UP: &str = "\x10";
const DOWN: &str = "\x0e";
const ENTER: &str = "\r";
/// How long GRUB may take to move the highlight.
const REDRAW: Duration = Duration::from_secs(1);
/// So many keys without an effect mean the end of the list. One may just be
/// lost: UEFI reads the same serial line and now and then is faster than GRUB.
const STUCK: u32 = 6;
/// A redraw is complete when nothing more comes for this long.
const QUIET: Duration = Duration::from_millis(150);

impl Vm {
    /// Waits for the menu, stops its clock with a key and returns the entries
    /// that are visible.
    ///
    /// # Errors
    /// No menu comes in time.
    pub fn wait_menu(&mut self, limit: Duration) -> Result<Vec<Entry>> {
        let start = Instant::now();
        let mut menu = Vec::new();
        loop {
            // A key that comes while GRUB still draws may be lost.
            let now = self.settled_menu(&menu, QUIET * 4);
            if !now.is_empty() && !self.screen().counts_down() {
                return Ok(now);
            }
            if !now.is_empty() {
                // At the ends of a list one of them does nothing; the clock
                // stops all the same.
                let last = now.last().is_some_and(|entry| entry.selected);
                self.send(if last { UP } else { DOWN })?;
            }
            if start.elapsed() > limit || self.lock().closed {
                bail!(
                    "no GRUB menu in {limit:?}; the last of the serial line:\n{}",
                    last_lines(&self.transcript(), 40)
                );
            }
            menu = now;
        }
    }

    /// Waits for the menu and boots, or opens, the entry with this title: the
    /// whole title, or a part that only one visible entry has.
    ///
    /// # Errors
    /// No menu comes in time, or it has no such entry.
    pub fn select(&mut self, title: &str, limit: Duration) -> Result<()> {
        let start = Instant::now();
        let mut menu = self.wait_menu(limit)?;
        // What is not visible is looked for upwards first, then downwards.
        let (mut search, mut stuck) = (UP, 0);
        loop {
            let selected = menu.iter().position(|entry| entry.selected);
            let wanted = target(&menu, title);
            if wanted.is_some() && wanted == selected {
                self.skip();
                for _ in 0..STUCK {
                    self.send(ENTER)?;
                    if self.changes(&menu) {
                        return Ok(());
                    }
                }
                bail!("entry {title:?} cannot be chosen");
            }
            let is_over = wanted.is_none() && stuck >= STUCK && search == DOWN;
            if is_over || start.elapsed() > limit {
                let titles: Vec<_> = menu.iter().map(|entry| &entry.title).collect();
                bail!("no entry {title:?} in the menu; visible: {titles:?}");
            }
            if stuck >= STUCK {
                (search, stuck) = (DOWN, 0);
            }
            let key = match wanted {
                Some(_) if selected < wanted => DOWN,
                Some(_) => UP,
                None => search,
            };
            self.send(key)?;
            let moved = self.settled_menu(&menu, REDRAW);
            stuck = if moved == menu { stuck + 1 } else { 0 };
            menu = moved;
        }
    }

    /// Opens GRUB's command line from the menu.
    ///
    /// # Errors
    /// No menu comes in time, or no prompt after it.
    pub fn grub_prompt(&mut self, limit: Duration) -> Result<()> {
        self.wait_menu(limit)?;
        self.skip();
        self.send("c")?;
        self.expect("grub> ", REDRAW * 20).map(|_| ())
    }

    /// Whether this menu goes away in time; the next look sees what it led to.
    fn changes(&self, menu: &[Entry]) -> bool {
        let start = Instant::now();
        while start.elapsed() < REDRAW * 3 {
            if self.screen().menu() != menu {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// The menu once it differs from what it was and has stopped changing, or
    /// when the time is over.
    fn settled_menu(&self, before: &[Entry], limit: Duration) -> Vec<Entry> {
        let start = Instant::now();
        let mut last = (self.lock().bytes.len(), Instant::now());
        loop {
            let line = self.lock();
            let length = line.bytes.len();
            let menu = line.screen.menu();
            drop(line);
            if length != last.0 {
                last = (length, Instant::now());
            }
            let one = menu.iter().filter(|entry| entry.selected).count() == 1;
            let settled = last.1.elapsed() > QUIET && one && menu != before;
            if settled || start.elapsed() > limit {
                return menu;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The index of the entry that a title means.
fn target(menu: &[Entry], title: &str) -> Option<usize> {
    if let Some(exact) = menu.iter().position(|entry| entry.title == title) {
        return Some(exact);
    }
    let mut like = menu
        .iter()
        .enumerate()
        .filter(|(_, entry)| entry.title.contains(title));
    match (like.next(), like.next()) {
        (Some((index, _)), None) => Some(index),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_means_one_entry() {
        let menu = ["be-1", "be-10", "be-2 (old)"].map(|title| Entry {
            title: title.to_owned(),
            selected: false,
        });
        assert_eq!(target(&menu, "be-1"), Some(0));
        assert_eq!(target(&menu, "be-2"), Some(2));
        assert_eq!(target(&menu, "be-"), None);
        assert_eq!(target(&menu, "x"), None);
    }
}
