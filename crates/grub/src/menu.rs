//! The menu file: what GRUB shows, rendered from data, and read back.
//!
//! # Why it looks as it does
//! - `grub.cfg` sources it last, so it must not change `$root` or any variable of the user's but `default`. It
//!   names its filesystem by a variable of its own, `be_root`.
//! - The body of an entry runs later, and in a submenu only exported variables are left by then, but functions are.
//!   So every entry has its files, kernel and arguments searched for and loaded when it runs, as those of
//!   `grub-mkconfig` do, and can be edited (`e`) on its own; what is the same in all of them is in functions, which
//!   makes the menu of very many environments half as long, and its check as much faster.
//! - After an entry has run, GRUB boots whatever kernel is loaded, even when the initramfs failed to load. So the
//!   files are looked for first, and when reading one fails all the same, `multiboot` without a file is used for
//!   what it does first: `grub_loader_unset()`. The entry then returns to the menu, saying which file it was.
//!   On UEFI an initramfs is read only when the kernel asks for it, so the entry boots by itself instead of leaving
//!   that to GRUB: when `boot` returns, it has failed, and the kernel is forgotten in the same way.
//!   (No other command forgets a kernel. Where Secure Boot forbids `multiboot`, a file that is there and cannot be
//!   read still boots a kernel without its initramfs.)
//! - With a [`Selection`] it chooses between the default and another environment, and what it has picked falls back to
//!   the default when it cannot be loaded: by a function, for GRUB's own `fallback` does not work in every case.
//! - Older kernels and rescue are in a submenu at the end, so that the menu stays one line for an environment. The
//!   selection does not lead there: what is chosen in it was chosen by a person, or by `grub-reboot`.
//! - The first lines are a record in JSON, so that `be` reads what GRUB was told and never parses the rest. It is
//!   split over several comment lines where one would exceed [`crate::quote::MAX_TOKEN`].

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result, bail, ensure};
use handlebars::Handlebars;
use serde::{Deserialize, Serialize};

use crate::selection::{self, BlockAt, Selection};
use crate::{cmdline, quote};

/// The version of the record in the first line that this code writes.
pub const SCHEMA: u32 = 1;

/// What all entry ids start with.
pub const ID_PREFIX: &str = "be-";

/// The id of the submenu. A `/` is in no name, so neither this nor what is in the submenu can be the id of an
/// environment's entry, however that is called.
pub const MORE_ID: &str = "be-/more";

/// What the submenu is called.
const MORE_TITLE: &str = "Older kernels and rescue";

/// The last part of the id of a rescue entry. The files of kernels have a `-` in their names.
const RESCUE: &str = "rescue";

/// Starts each line of the record.
const MARK: &str = "# be-menu ";

/// Length of a piece of the record, well below the limit of a comment line.
const PIECE: usize = 4000;

/// Longest kernel command line: 2048 bytes with the NUL on x86 and arm64. GRUB drops the arguments that do not
/// fit without a word.
const MAX_CMDLINE: usize = 2047;

/// Room left for `BOOT_IMAGE=` and a long device name of GRUB's (`lvmid/...`, `cryptouuid/...`).
const BOOT_IMAGE: usize = 128;

/// Bytes of the longest name of an environment.
pub(crate) const MAX_NAME: usize = 64;

/// Bytes of the longest file name of a kernel in an id.
const MAX_FILE: usize = 128;

/// GRUB's name of the filesystem of an entry, which the words of its files start with.
const ROOT: &str = "($be_root)";

/// The modules that every menu loads: partition tables and the filesystem.
const MODULES: [&str; 3] = ["part_gpt", "part_msdos", "btrfs"];

const TEMPLATE: &str = include_str!("../templates/menu.cfg.hbs");
const ENTRY: &str = include_str!("../templates/entry.cfg.hbs");

/// Everything the menu file shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Menu {
    /// UUID of the btrfs filesystem that holds all environments.
    pub fs_uuid: String,
    /// Name of the environment that boots next; `None` leaves GRUB's default alone.
    pub default: Option<String>,
    /// The entries, in the order shown.
    pub entries: Vec<Entry>,
    /// Names of environments that got no entry, because they would not boot.
    pub left_out: Vec<String>,
    /// GRUB modules to load besides those for btrfs on a partition (`cryptodisk`, `lvm`, ...); usually empty.
    pub modules: Vec<String>,
    /// Whether the menu chooses by itself between the default and another; needs a `default`.
    pub selection: Option<Selection>,
    /// The environment that becomes the default again once the default has booted: a boot for one time where GRUB
    /// itself cannot take note of it.
    pub back: Option<String>,
    /// The submenu at the end.
    pub more: More,
    /// How many packages the titles say, by environment; only for the record.
    pub packages: BTreeMap<String, u32>,
}

/// One line of the menu: an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name of the environment.
    pub name: String,
    /// What is shown; any text, untrusted.
    pub title: String,
    /// UUID of the filesystem with its files, if that is another one than the menu's.
    pub fs_uuid: Option<String>,
    /// The kernel: its path from the top level of the filesystem, `/@be/x/root/boot/vmlinuz-6.1`.
    pub linux: String,
    /// Microcode and initramfs images, in the order loaded; paths as for `linux`.
    pub initrd: Vec<String>,
    /// Kernel arguments as the kernel spells them: `quiet`, `dyndbg="file a.c +p"`; untrusted.
    pub args: Vec<String>,
    /// Whether it boots without a password although GRUB has `superusers`.
    pub unrestricted: bool,
}

/// What the first line of a menu file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of this record; a newer one may have more fields.
    pub schema: u32,
    /// UUID of the filesystem.
    pub fs_uuid: String,
    /// Name of the environment that boots next.
    #[serde(default)]
    pub default: Option<String>,
    /// Names of the environments that have an entry, in the order shown.
    pub environments: Vec<String>,
    /// Names of those that were looked at and got none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// Where the environment block is, if the menu chooses by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<BlockAt>,
    /// The environment that becomes the default again once the default has booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back: Option<String>,
    /// How many packages the titles say, by environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub packages: BTreeMap<String, u32>,
    /// What a newer `be` wrote and this one does not know.
    #[serde(flatten)]
    pub unknown: serde_json::Map<String, serde_json::Value>,
}

/// The rest of the ways to boot an environment, one submenu for all environments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct More {
    /// In the order shown. One that GRUB cannot be given is left out: its environment has an entry in the menu.
    pub entries: Vec<Extra>,
    /// Whether the submenu opens without a password although GRUB has `superusers`.
    pub unrestricted: bool,
}

/// One line of the submenu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extra {
    /// Which way it is.
    pub way: Way,
    /// What is booted; `name` is the environment's, which has one entry for each way.
    pub entry: Entry,
}

/// A way to boot an environment besides its entry in the menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Another kernel, by its file name. Two kernels in one `/boot` may have the same version.
    Kernel(String),
    /// The newest kernel, for a person to mend something.
    Rescue,
}

/// What the template sees. Each `{{...}}` in it becomes one quoted word, and each `{{{...}}}` is words already.
#[derive(Serialize)]
struct View<'a> {
    header: Vec<String>,
    modules: Vec<&'a str>,
    default_id: Option<String>,
    selection: Option<selection::View<'a, EntryView<'a>>>,
    entries: Vec<EntryView<'a>>,
    more: Option<MoreView<'a>>,
}

#[derive(Serialize)]
struct MoreView<'a> {
    title: &'a str,
    id: &'a str,
    unrestricted: bool,
    entries: Vec<EntryView<'a>>,
}

#[derive(Clone, Serialize)]
struct EntryView<'a> {
    name: &'a str,
    id: String,
    title: String,
    fs_uuid: &'a str,
    linux: &'a str,
    initrd: String,
    files: String,
    words: String,
    unrestricted: bool,
    /// The menu chooses by itself.
    choosing: bool,
    /// It is in the submenu, where the selection never leads.
    extra: bool,
}

/// The GRUB id of an environment's entry, for `grub-reboot` and `GRUB_DEFAULT`.
pub fn entry_id(name: &str) -> String {
    format!("{ID_PREFIX}{name}")
}

/// The GRUB id of an entry in the submenu. `grub-reboot` and `GRUB_DEFAULT` take it behind [`MORE_ID`] and a `>`.
pub fn extra_id(name: &str, way: &Way) -> String {
    let way = match way {
        Way::Kernel(file) => file,
        Way::Rescue => RESCUE,
    };
    format!("{ID_PREFIX}{name}/{way}")
}

/// The environment that an id, or a path of ids (`SUBMENU>ENTRY`), belongs to.
pub fn environment_of(id: &str) -> Option<&str> {
    let id = id.rsplit('>').next()?.strip_prefix(ID_PREFIX)?;
    let name = id.split('/').next()?;
    is_name(name).then_some(name)
}

impl Menu {
    /// Renders the menu file.
    ///
    /// # Errors
    /// A name, path, argument, module or UUID that GRUB cannot be given, a name twice, a default without entry.
    /// A title never fails.
    pub fn render(&self) -> Result<String> {
        let view = self.view()?;
        let mut engine = Handlebars::new();
        engine.set_strict_mode(true);
        engine.register_escape_fn(quote::escape);
        engine
            .register_partial("entry", ENTRY)
            .context("cannot render the GRUB menu")?;
        engine
            .render_template(TEMPLATE, &view)
            .context("cannot render the GRUB menu")
    }

    /// What [`parse_header`] will say of the rendered file.
    pub fn header(&self) -> Header {
        Header {
            schema: SCHEMA,
            fs_uuid: self.fs_uuid.clone(),
            default: self.default.clone(),
            environments: self.entries.iter().map(|e| e.name.clone()).collect(),
            left_out: self.left_out.clone(),
            block: self
                .choosing()
                .map(|(selection, _)| selection.place.block(&self.fs_uuid)),
            back: self.back.clone(),
            packages: self.packages.clone(),
            unknown: serde_json::Map::new(),
        }
    }

    /// The selection with the default that it falls back to.
    fn choosing(&self) -> Option<(&Selection, &str)> {
        self.selection.as_ref().zip(self.default.as_deref())
    }

    fn view(&self) -> Result<View<'_>> {
        ensure!(
            is_uuid(&self.fs_uuid),
            "`{}` is not a filesystem UUID",
            quote::shown(&self.fs_uuid)
        );
        for module in &self.modules {
            let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            ensure!(
                (1..=64).contains(&module.len()) && module.chars().all(known),
                "`{}` is not the name of a GRUB module",
                quote::shown(module)
            );
        }
        if let Some(default) = &self.default {
            ensure!(
                self.entries.iter().any(|e| e.name == *default),
                "the default environment `{}` has no menu entry",
                quote::shown(default)
            );
        }
        let choosing = self.choosing();
        if let Some((selection, _)) = choosing {
            selection.check()?;
        }
        let reserve = choosing.map_or(0, |(selection, _)| selection.reserve());
        let mut entries = Vec::with_capacity(self.entries.len());
        let mut names = HashSet::new();
        for entry in &self.entries {
            ensure!(
                names.insert(&entry.name),
                "environment `{}` is in the menu twice",
                quote::shown(&entry.name)
            );
            let mut view = entry.view(&self.fs_uuid, reserve).with_context(|| {
                format!(
                    "cannot make a menu entry for `{}`",
                    quote::shown(&entry.name)
                )
            })?;
            view.choosing = choosing.is_some();
            entries.push(view);
        }
        let mut more = Vec::with_capacity(self.more.entries.len());
        let mut ids = HashSet::new();
        for extra in &self.more.entries {
            if let Ok(mut view) = extra.view(&self.fs_uuid, reserve)
                && ids.insert(view.id.clone())
            {
                view.choosing = choosing.is_some();
                more.push(view);
            }
        }
        let mut modules: Vec<&str> = MODULES.to_vec();
        let of_block = choosing.and_then(|(selection, _)| selection.module());
        for module in self.modules.iter().map(String::as_str).chain(of_block) {
            if !modules.contains(&module) {
                modules.push(module);
            }
        }
        let selection = choosing.and_then(|(selection, default)| {
            let fallback = entries.iter().find(|entry| entry.name == default)?.clone();
            let names = entries.iter().map(|entry| entry.name).collect();
            Some(selection.view(&self.fs_uuid, default, names, fallback))
        });
        Ok(View {
            header: pieces(&serde_json::to_string(&self.header())?),
            modules,
            default_id: self.default.as_deref().map(entry_id),
            selection,
            entries,
            more: (!more.is_empty()).then_some(MoreView {
                title: MORE_TITLE,
                id: MORE_ID,
                unrestricted: self.more.unrestricted,
                entries: more,
            }),
        })
    }
}

impl Extra {
    fn view<'a>(&'a self, fs_uuid: &'a str, reserve: usize) -> Result<EntryView<'a>> {
        if let Way::Kernel(file) = &self.way {
            // What GRUB and a shell take as one word, without `>`, which parts the ids of a path.
            let known = |c: char| c.is_ascii_alphanumeric() || "._:+~-".contains(c);
            ensure!(
                file.len() <= MAX_FILE && file.contains('-') && file.chars().all(known),
                "`{}` is not plain enough for an id",
                quote::shown(file)
            );
        }
        let mut view = self.entry.view(fs_uuid, reserve)?;
        view.id = extra_id(&self.entry.name, &self.way);
        view.extra = true;
        Ok(view)
    }
}

impl Entry {
    /// Whether GRUB can be given it.
    ///
    /// # Errors
    /// Those of [`Menu::render`] that come from one entry.
    pub fn check(&self) -> Result<()> {
        self.check_for(None)
    }

    /// As [`Entry::check`], in a menu that chooses by itself, and tells the kernel how.
    ///
    /// # Errors
    /// Those of [`Menu::render`] that come from one entry.
    pub fn check_for(&self, selection: Option<&Selection>) -> Result<()> {
        self.view("", selection.map_or(0, Selection::reserve))
            .map(drop)
    }

    /// `fs_uuid` is the menu's; `reserve` bytes of the kernel command line are needed for more.
    fn view<'a>(&'a self, fs_uuid: &'a str, reserve: usize) -> Result<EntryView<'a>> {
        ensure!(
            is_name(&self.name),
            "it is not a valid name for an environment"
        );
        if let Some(uuid) = &self.fs_uuid {
            ensure!(
                is_uuid(uuid),
                "`{}` is not a filesystem UUID",
                quote::shown(uuid)
            );
        }
        for path in self.initrd.iter().chain([&self.linux]) {
            check_path(path)?;
        }
        let mut words = String::new();
        let mut length = BOOT_IMAGE + self.linux.len() + reserve;
        for arg in &self.args {
            let word = cmdline::grub_word(arg).with_context(|| {
                format!(
                    "GRUB cannot pass on the kernel argument `{}`",
                    quote::shown(arg)
                )
            })?;
            length += 1 + length_in_kernel(&word);
            push(&mut words, "", &word);
        }
        ensure!(
            length <= MAX_CMDLINE,
            "the kernel arguments are too long: {length} bytes of {MAX_CMDLINE}; GRUB would drop the last ones"
        );
        let (mut files, mut initrd) = (String::new(), String::new());
        for image in &self.initrd {
            push(&mut files, "", image);
            push(&mut initrd, ROOT, image);
        }
        push(&mut files, "", &self.linux);
        Ok(EntryView {
            name: &self.name,
            id: entry_id(&self.name),
            title: quote::title(&self.title, &self.name),
            fs_uuid: self.fs_uuid.as_deref().unwrap_or(fs_uuid),
            linux: &self.linux,
            initrd,
            files,
            words,
            unrestricted: self.unrestricted,
            choosing: false,
            extra: false,
        })
    }
}

/// Adds a word, quoted but for its beginning.
fn push(words: &mut String, beginning: &str, word: &str) {
    words.extend([" ", beginning, &quote::word(word)]);
}

/// What is to be checked of a menu by GRUB's parser when another one has passed: the entries that both have are
/// left out, for they cannot depend on what is around them.
pub fn unchecked(text: &str, passed: &str) -> String {
    let known: HashSet<&str> = parts(passed).filter(|part| is_entry(part)).collect();
    let mut rest = String::with_capacity(text.len());
    for part in parts(text) {
        // A submenu may not be empty.
        rest.push_str(if known.contains(part) { "true\n" } else { part });
    }
    rest
}

/// The entries of a menu, and each line outside of them. Together they are all of it.
fn parts(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let line = text.split_inclusive('\n').next()?;
        let end = match is_entry(line) {
            true if line.starts_with('\t') => "\n\t}\n",
            true => "\n}\n",
            false => line,
        };
        let length = text.find(end).map_or(text.len(), |at| at + end.len());
        let (part, rest) = text.split_at(length);
        text = rest;
        Some(part)
    })
}

fn is_entry(part: &str) -> bool {
    part.trim_start().starts_with("menuentry ")
}

/// What GRUB sees of a menu file: all but the record that it starts with.
pub fn body(text: &str) -> impl Iterator<Item = &str> {
    text.lines().skip_while(|line| line.starts_with(MARK))
}

/// Reads the record that a menu file starts with, and nothing else of it.
///
/// # Errors
/// The text is not a menu file of `be`, or its record is damaged.
pub fn parse_header(text: &str) -> Result<Header> {
    let mut json = String::new();
    for piece in text.lines().map_while(|line| line.strip_prefix(MARK)) {
        json.push_str(piece);
    }
    if json.is_empty() {
        bail!(
            "not a menu file of be: it does not start with `{}`",
            MARK.trim_end()
        );
    }
    let header: Header =
        serde_json::from_str(&json).context("the first line of the menu file is damaged")?;
    ensure!(
        header.schema >= 1,
        "the menu file has the impossible schema {}",
        header.schema
    );
    if let Some(bad) = header
        .environments
        .iter()
        .chain(&header.default)
        .chain(&header.back)
        .find(|name| !is_name(name))
    {
        bail!(
            "the menu file names an impossible environment, `{}`",
            quote::shown(bad)
        );
    }
    Ok(header)
}

/// Cuts the record, which is ASCII, into comment lines that GRUB can read.
fn pieces(json: &str) -> Vec<String> {
    debug_assert!(json.is_ascii(), "names and UUIDs are checked");
    json.as_bytes()
        .chunks(PIECE)
        .map(|piece| String::from_utf8_lossy(piece).into_owned())
        .collect()
}

/// Bytes that GRUB makes of a word: it escapes quotes and backslashes, and quotes a word with a blank.
fn length_in_kernel(word: &str) -> usize {
    word.len()
        + word.chars().filter(|c| matches!(c, '\\' | '\'')).count()
        + 2 * usize::from(word.contains(' '))
}

pub(crate) fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._:+-".contains(c))
}

pub(crate) fn is_uuid(uuid: &str) -> bool {
    (1..=64).contains(&uuid.len()) && uuid.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}

pub(crate) fn check_path(path: &str) -> Result<()> {
    let shown = quote::shown(path);
    ensure!(
        path.starts_with('/') && !path.ends_with('/'),
        "`{shown}` is not a path from the top level"
    );
    ensure!(
        path.split('/').all(|part| part != ".."),
        "the path `{shown}` contains `..`"
    );
    quote::plain(path).with_context(|| format!("GRUB cannot open `{shown}`"))
}
