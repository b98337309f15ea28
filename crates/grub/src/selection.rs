//! The selection that the menu makes by itself: one boot of another environment, or a number of trial boots that
//! GRUB counts down, and back to the default.
//!
//! # The variables in the environment block
//! | variable | meaning |
//! |---|---|
//! | `be_once` | the environment that boots next time only; GRUB clears it |
//! | `be_try`, `be_left` | the environment on trial, and how many more boots it gets; GRUB counts, userspace clears them when the trial is over |
//! | `be_failed`, `be_cause` | the environment that GRUB has given up, and why; userspace clears them when it has taken note |
//!
//! The default is not among them: it is in the menu, and changes with the rename of the menu.
//!
//! # What the kernel is told
//! | words | meaning |
//! |---|---|
//! | `be.boot=default` | the default, by itself |
//! | `be.boot=default be.why=no-block` | the block cannot be read, so once and trial were not looked at |
//! | `be.boot=default be.why=no-save` | the block cannot be written, so once and trial were refused |
//! | `be.boot=default be.why=no-entry` | the environment that the block names is not in the menu |
//! | `be.boot=once` | for this time only |
//! | `be.boot=trial be.left=N` | on trial; it gets N more boots after this one |
//! | `be.boot=fallback be.failed=NAME be.why=tries-used` | the default, because NAME has used up its trial boots |
//! | `be.boot=fallback be.failed=NAME be.why=load-failed` | the default, because GRUB could not load NAME |
//! | `be.boot=chosen` | an environment that is not the one that would have booted by itself |
//!
//! A boot is a fallback as long as `be_failed` is in the block, so that nothing is lost when the default does not come
//! up far enough to read it the first time. The count goes down, and is on the disk, before the kernel starts: a panic
//! that reboots (`panic=`) is counted. A kernel that hangs is not; only a watchdog helps.
//! Where `grub-reboot` has chosen an entry, nothing is looked at, counted or cleared in that boot.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::envblk::EnvBlock;
use crate::menu::is_name;
use crate::quote;

/// The most trial boots that the menu can count.
pub const MAX_TRIES: u8 = 9;

/// The longest of the words in the table above, with a blank before them.
const LONGEST: usize =
    " be.boot=fallback be.failed= be.why=load-failed".len() + crate::menu::MAX_NAME;

/// The block list of a btrfs header's block; see [`crate::envblk::device::OFFSET`].
const HEADER_PATH: &str = "512+1";

/// What the menu needs for choosing by itself. Without a default there is nothing to fall back to, and the menu
/// chooses nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Where the environment block is.
    pub place: Place,
    /// Kernel arguments that are added for boots once and on trial, so that they come back by themselves:
    /// `panic=10`. Letters, digits and `._=,:/-`.
    pub unattended: Vec<String>,
}

/// Where GRUB finds the environment block, and can write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file.
    File {
        /// UUID of its filesystem as GRUB and blkid know it; `1234-ABCD` for FAT.
        fs_uuid: String,
        /// Its path from the top of that filesystem.
        path: String,
        /// The type of that filesystem.
        format: Format,
    },
    /// The header of the btrfs that holds the environments; GRUB 2.14.
    Header,
}

/// A filesystem whose files GRUB can write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// ext2, ext3 or ext4.
    Ext,
    /// FAT, as on every ESP.
    Fat,
}

impl Format {
    /// The type for mount(8); the driver of ext4 reads its forerunners, too.
    pub fn fs_type(self) -> &'static str {
        match self {
            Self::Ext => "ext4",
            Self::Fat => "vfat",
        }
    }

    /// GRUB's module.
    fn module(self) -> &'static str {
        match self {
            Self::Ext => "ext2",
            Self::Fat => "fat",
        }
    }
}

/// What the record in the menu says of the block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockAt {
    /// UUID of the filesystem.
    pub fs_uuid: String,
    /// Path from its top; a block list (`512+1`) for the header of a btrfs.
    pub path: String,
    /// The filesystem of a file; none for the header of a btrfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
}

impl BlockAt {
    /// As the menu is told.
    pub fn place(&self) -> Place {
        match self.format {
            Some(format) => Place::File {
                fs_uuid: self.fs_uuid.clone(),
                path: self.path.clone(),
                format,
            },
            None => Place::Header,
        }
    }
}

/// What the template sees.
#[derive(Serialize)]
pub(crate) struct View<'a, E> {
    default: &'a str,
    fs_uuid: &'a str,
    path: &'a str,
    rungs: Vec<Rung>,
    names: Vec<&'a str>,
    unattended: String,
    fallback: E,
}

#[derive(Serialize)]
struct Rung {
    from: String,
    to: String,
}

impl Selection {
    /// Bytes of a kernel command line that the words of the selection may take.
    pub(crate) fn reserve(&self) -> usize {
        let unattended: usize = self.unattended.iter().map(|word| 1 + word.len()).sum();
        LONGEST.max(" be.boot=trial be.left=9".len() + unattended)
    }

    /// The module that reads the block's filesystem.
    pub(crate) fn module(&self) -> Option<&'static str> {
        match &self.place {
            Place::File { format, .. } => Some(format.module()),
            Place::Header => None,
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        if let Place::File { fs_uuid, path, .. } = &self.place {
            ensure!(
                crate::menu::is_uuid(fs_uuid),
                "`{}` is not a filesystem UUID",
                quote::shown(fs_uuid)
            );
            crate::menu::check_path(path).context("no place for the environment block")?;
        }
        let known = |c: char| c.is_ascii_alphanumeric() || "._=,:/-".contains(c);
        for word in &self.unattended {
            ensure!(
                !word.is_empty() && word.chars().all(known),
                "`{}` is not a plain kernel argument",
                quote::shown(word)
            );
        }
        Ok(())
    }

    pub(crate) fn view<'a, E>(
        &'a self,
        menu: &'a str,
        default: &'a str,
        names: Vec<&'a str>,
        fallback: E,
    ) -> View<'a, E> {
        let (fs_uuid, path) = self.place.at(menu);
        let rung = |from: u8| Rung {
            from: from.to_string(),
            to: (from - 1).to_string(),
        };
        View {
            default,
            fs_uuid,
            path,
            rungs: (1..=MAX_TRIES).rev().map(rung).collect(),
            names,
            unattended: self
                .unattended
                .iter()
                .map(|word| format!(" {word}"))
                .collect(),
            fallback,
        }
    }
}

impl Place {
    /// What the record says of it; `menu` is the UUID of the menu's filesystem.
    pub fn block(&self, menu: &str) -> BlockAt {
        let (fs_uuid, path) = self.at(menu);
        BlockAt {
            fs_uuid: fs_uuid.to_owned(),
            path: path.to_owned(),
            format: match self {
                Self::File { format, .. } => Some(*format),
                Self::Header => None,
            },
        }
    }

    fn at<'a>(&'a self, menu: &'a str) -> (&'a str, &'a str) {
        match self {
            Self::File { fs_uuid, path, .. } => (fs_uuid, path),
            Self::Header => (menu, HEADER_PATH),
        }
    }
}

/// What `be` has put into the block, and GRUB has made of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// The environment that boots next time only.
    pub once: Option<String>,
    /// The environment on trial.
    pub trial: Option<Trial>,
    /// The environment that GRUB has given up.
    pub failed: Option<Failed>,
}

/// A trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// The environment.
    pub name: String,
    /// How many more boots it gets, at most [`MAX_TRIES`]; with 0 the next boot is the fallback.
    pub left: u8,
}

/// What GRUB has given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// The environment.
    pub name: String,
    /// Why.
    pub cause: Cause,
}

/// Why GRUB has given up an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It was not confirmed in any of its trial boots.
    TriesUsed,
    /// Its kernel or an initramfs could not be loaded.
    LoadFailed,
}

impl Cause {
    /// The word in the block and on the kernel command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::TriesUsed => "tries-used",
            Self::LoadFailed => "load-failed",
        }
    }

    /// GRUB takes what it does not know for the former, too.
    fn of(word: Option<&str>) -> Self {
        match word {
            Some("load-failed") => Self::LoadFailed,
            _ => Self::TriesUsed,
        }
    }
}

impl Choice {
    /// Reads the variables as the menu does: what names no possible environment, or no number of boots, counts as
    /// absent or as 0.
    pub fn read(block: &EnvBlock) -> Self {
        let name = |variable| block.get(variable).filter(|name| is_name(name));
        let left = block.get("be_left").and_then(|left| left.parse().ok());
        Self {
            once: name("be_once"),
            trial: name("be_try").map(|name| Trial {
                name,
                left: left.filter(|left| *left <= MAX_TRIES).unwrap_or(0),
            }),
            failed: name("be_failed").map(|name| Failed {
                name,
                cause: Cause::of(block.get("be_cause").as_deref()),
            }),
        }
    }

    /// Puts the variables into the block, and leaves those of others.
    ///
    /// # Errors
    /// They do not fit, or a name or number is impossible; then nothing is changed.
    pub fn write(&self, block: &mut EnvBlock) -> Result<()> {
        let trial = self.trial.as_ref();
        let failed = self.failed.as_ref();
        let names = self.once.iter().chain(trial.map(|trial| &trial.name));
        for name in names.chain(failed.map(|failed| &failed.name)) {
            ensure!(
                is_name(name),
                "`{}` is not a valid name for an environment",
                quote::shown(name)
            );
        }
        ensure!(
            trial.is_none_or(|trial| trial.left <= MAX_TRIES),
            "GRUB counts at most {MAX_TRIES} trial boots"
        );
        let mut new = block.clone();
        for (variable, value) in [
            ("be_once", self.once.clone()),
            ("be_try", trial.map(|trial| trial.name.clone())),
            ("be_left", trial.map(|trial| trial.left.to_string())),
            ("be_failed", failed.map(|failed| failed.name.clone())),
            ("be_cause", failed.map(|f| f.cause.word().to_owned())),
        ] {
            match value {
                Some(value) => new.set(variable, &value)?,
                None => new.unset(variable),
            }
        }
        *block = new;
        Ok(())
    }
}

/// How the running system was booted, as GRUB has told the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// The default, by itself.
    Default(Option<Refused>),
    /// For this time only.
    Once,
    /// On trial, with so many more boots to come.
    Trial(u8),
    /// The default, because another has failed.
    Fallback(Failed),
    /// By a key in the menu, or by `grub-reboot`.
    Chosen,
}

/// Why GRUB booted the default without asking whether something else was to boot, or although it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The block cannot be read.
    NoBlock,
    /// The block cannot be written.
    NoSave,
    /// The environment that the block names is not in the menu.
    NoEntry,
}

impl Boot {
    /// Reads a kernel command line, `/proc/cmdline`; none where the menu does not choose, or where it was not our
    /// menu. Of a word that is there twice the last counts: GRUB's come last.
    pub fn parse(cmdline: &str) -> Option<Self> {
        let word = |name: &str| {
            let words = cmdline.split_ascii_whitespace().rev();
            words.filter_map(|word| word.strip_prefix(name)).next()
        };
        Some(match word("be.boot=")? {
            "default" => Self::Default(match word("be.why=") {
                Some("no-block") => Some(Refused::NoBlock),
                Some("no-save") => Some(Refused::NoSave),
                Some("no-entry") => Some(Refused::NoEntry),
                _ => None,
            }),
            "once" => Self::Once,
            "trial" => Self::Trial(word("be.left=")?.parse().ok()?),
            "fallback" => Self::Fallback(Failed {
                name: word("be.failed=").filter(|name| is_name(name))?.to_owned(),
                cause: Cause::of(word("be.why=")),
            }),
            "chosen" => Self::Chosen,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envblk::HEADER_SIZE;

    fn all() -> Choice {
        let name = "x".repeat(crate::menu::MAX_NAME);
        Choice {
            once: Some(name.clone()),
            trial: Some(Trial {
                name: name.clone(),
                left: MAX_TRIES,
            }),
            failed: Some(Failed {
                name,
                cause: Cause::LoadFailed,
            }),
        }
    }

    /// Also the reason why a write of a file cannot tear: all is in its first sector.
    #[test]
    fn the_longest_choice_fits_into_a_sector_beside_a_long_next_entry() {
        let mut block = EnvBlock::new(HEADER_SIZE);
        block.set("next_entry", &"y".repeat(150)).expect("room");
        let before = block.clone();
        all().write(&mut block).expect("room");
        assert_eq!(Choice::read(&block), all());
        Choice::default().write(&mut block).expect("room");
        assert_eq!(block, before);
    }

    #[test]
    fn what_cannot_be_meant_is_neither_written_nor_read() {
        let mut block = EnvBlock::new(HEADER_SIZE);
        let before = block.clone();
        let mut wrong = all();
        wrong.failed = Some(Failed {
            name: "a b".into(),
            cause: Cause::TriesUsed,
        });
        assert!(wrong.write(&mut block).is_err());
        let mut wrong = all();
        wrong.trial = Some(Trial {
            name: "a".into(),
            left: 10,
        });
        assert!(wrong.write(&mut block).is_err());
        assert_eq!(block, before);
        for (name, value) in [("be_once", "a b"), ("be_try", "a"), ("be_left", "12")] {
            block.set(name, value).expect("room");
        }
        let read = Choice::read(&block);
        assert_eq!(read.once, None);
        assert_eq!(read.trial.map(|trial| trial.left), Some(0));
    }

    #[test]
    fn the_kernel_command_line_says_how_it_was_booted() {
        let failed = |cause| {
            Some(Boot::Fallback(Failed {
                name: "new".into(),
                cause,
            }))
        };
        for (line, boot) in [
            ("quiet ro", None),
            ("be.boot=default", Some(Boot::Default(None))),
            (
                "be.boot=default be.why=no-save",
                Some(Boot::Default(Some(Refused::NoSave))),
            ),
            ("be.boot=chosen be.boot=once\n", Some(Boot::Once)),
            ("ro be.boot=trial be.left=2 panic=10", Some(Boot::Trial(2))),
            ("be.boot=trial", None),
            (
                "be.boot=fallback be.failed=new be.why=load-failed",
                failed(Cause::LoadFailed),
            ),
            (
                "be.boot=fallback be.failed=new be.why=tries-used",
                failed(Cause::TriesUsed),
            ),
            ("be.boot=fallback be.failed=/", None),
            ("be.boot=chosen", Some(Boot::Chosen)),
        ] {
            assert_eq!(Boot::parse(line), boot, "{line}");
        }
    }
}
