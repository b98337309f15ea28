//! Where the dynamic linker looks for a library: ld.so(8), and what musl does of its own.
//!
//! Its cache is not asked: that is made from the same directories, and may be stale.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use be_btrfs::Root;

use super::elf::{Elf, Machine};
use crate::glob::Glob;
use crate::observe::MAX_TEXT;

/// What glibc's linker is told.
pub(super) const CONFIGURATION: &str = "etc/ld.so.conf";

/// Where the linker of glibc or musl looks without being told, for 64 and 32 bits: what is
/// for another machine is passed over.
const DEFAULT: [&str; 10] = [
    "lib64",
    "usr/lib64",
    "lib",
    "usr/lib",
    "lib32",
    "usr/lib32",
    "libx32",
    "usr/libx32",
    "usr/local/lib64",
    "usr/local/lib",
];

/// What `$LIB` may stand for.
const LIB: [&str; 4] = ["lib64", "lib", "lib32", "libx32"];

/// How deep configuration files may include each other.
const DEPTH: usize = 8;

/// How the linker of one system searches.
pub(super) struct Search<'a> {
    root: &'a Root,
    /// The directories that serve everybody, as paths in the root.
    dirs: Vec<PathBuf>,
    /// What is at a path, as far as it was looked at.
    seen: RefCell<HashMap<PathBuf, Option<Machine>>>,
    /// Whether those directories have it.
    known: RefCell<HashMap<(Machine, String), bool>>,
}

impl<'a> Search<'a> {
    pub(super) fn of(root: &'a Root) -> Self {
        let mut dirs = Vec::new();
        configured(root, Path::new(CONFIGURATION), DEPTH, &mut dirs);
        for (name, _) in root.list("etc").unwrap_or_default() {
            let name = name.to_string_lossy();
            if name.starts_with("ld-musl-") && name.ends_with(".path") {
                let path = Path::new("etc").join(&*name);
                let text = root.read_to_string(path, MAX_TEXT).unwrap_or_default();
                let words = text.split([':', '\n']).filter(|w| w.starts_with('/'));
                dirs.extend(words.map(relative));
            }
        }
        dirs.extend(DEFAULT.map(PathBuf::from));
        // Copies for newer processors; a library may be there only.
        let better = dirs.iter().flat_map(|dir| {
            let dir = dir.join("glibc-hwcaps");
            let levels = root.list(&dir).unwrap_or_default().into_iter();
            levels.map(move |(level, _)| dir.join(level))
        });
        let better: Vec<_> = better.collect();
        dirs.extend(better);
        Self {
            root,
            dirs,
            seen: RefCell::default(),
            known: RefCell::default(),
        }
    }

    /// Whether the file at `path` gets what it needs by this name.
    pub(super) fn finds(&self, path: &Path, elf: &Elf, name: &str) -> bool {
        if name.contains('/') {
            // Relative to where the process happens to be: nobody can say.
            return !name.starts_with('/') || self.fits(&relative(name), elf.machine);
        }
        let origin = path.parent().unwrap_or(Path::new(""));
        let own = elf.path.iter().flat_map(|dir| expand(dir, origin));
        let mut own = own.map(|dir| dir.join(name));
        own.any(|file| self.fits(&file, elf.machine)) || self.is_common(elf.machine, name)
    }

    fn is_common(&self, machine: Machine, name: &str) -> bool {
        let key = (machine, name.to_owned());
        if let Some(known) = self.known.borrow().get(&key) {
            return *known;
        }
        let mut files = self.dirs.iter().map(|dir| dir.join(name));
        let found = files.any(|file| self.fits(&file, machine));
        self.known.borrow_mut().insert(key, found);
        found
    }

    /// Whether there is a file for this machine.
    pub(super) fn fits(&self, path: &Path, machine: Machine) -> bool {
        if let Some(seen) = self.seen.borrow().get(path) {
            return *seen == Some(machine);
        }
        let found = Machine::at(self.root, path);
        self.seen.borrow_mut().insert(path.to_owned(), found);
        found == Some(machine)
    }
}

/// The directories that a configuration file names, in their order.
fn configured(root: &Root, file: &Path, depth: usize, dirs: &mut Vec<PathBuf>) {
    let text = root.read_to_string(file, MAX_TEXT).unwrap_or_default();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let (first, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        match first {
            "include" if depth > 0 => {
                for pattern in rest.split_whitespace() {
                    for file in matching(root, file, pattern) {
                        configured(root, &file, depth - 1, dirs);
                    }
                }
            }
            "include" | "hwcap" => {}
            _ => {
                let words = line.split([' ', '\t', ':', ',']);
                // `DIRECTORY=TYPE`, of the days of libc5.
                let words = words.filter_map(|word| word.split('=').next());
                dirs.extend(words.filter(|w| w.starts_with('/')).map(relative));
            }
        }
    }
}

/// The files that an `include` means; wildcards are understood in the last name.
fn matching(root: &Root, file: &Path, pattern: &str) -> Vec<PathBuf> {
    let pattern = match pattern.starts_with('/') {
        true => relative(pattern),
        false => file.parent().unwrap_or(Path::new("")).join(pattern),
    };
    let dir = pattern.parent().unwrap_or(Path::new(""));
    let last = pattern.file_name().unwrap_or_default().to_string_lossy();
    let Ok(glob) = Glob::parse(&last) else {
        return vec![pattern];
    };
    let names = root.list(dir).unwrap_or_default();
    let names = names.iter().filter_map(|(name, _)| name.to_str());
    names
        .filter(|name| glob.matches(name) && (last.starts_with('.') || !name.starts_with('.')))
        .map(|name| dir.join(name))
        .collect()
}

/// An entry of a RUNPATH as directories in the root.
fn expand(dir: &str, origin: &Path) -> Vec<PathBuf> {
    let origin = origin.to_string_lossy();
    let dir = dir.replace("${", "$").replace('}', "");
    let dir = dir.replace("$ORIGIN", &format!("/{origin}"));
    if !dir.starts_with('/') {
        return Vec::new();
    }
    match dir.contains("$LIB") {
        true => LIB.map(|l| relative(&dir.replace("$LIB", l))).to_vec(),
        false => vec![relative(&dir)],
    }
}

fn relative(path: &str) -> PathBuf {
    path.trim_start_matches('/').into()
}
