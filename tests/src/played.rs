//! A shell that plays GRUB: what a grub.cfg and the menu that it sources come to, one boot
//! after the other.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;
use xtask::run::{cmd, run_with_input};

/// The commands of GRUB. What is none of these and none of the shell's does nothing.
const GRUB: &str = r#"exec 2>&1
editenv=$(type -P grub-editenv)
PATH=/nowhere
command_not_found_handle() { :; }
set() { declare -g "$1"; }
search() {
	local name word
	for word; do [ "${word#--set=}" = "$word" ] || name=${word#--set=}; done
	[ -d "$word" ] && declare -g "$name=$word"
}
load_env() {
	[ "$1" = -f ] && [ -f "$2" ] || return 1
	local file=$2 name value
	shift 2
	while IFS='=' read -r name value; do
		[[ " $* " != *" $name "* ]] || declare -g "$name=$value"
	done < <("$editenv" "$file" list)
}
save_env() {
	[ "$1" = -f ] && [ -f "$2" ] || return 1
	local file=$2 name
	shift 2
	for name; do
		if [ -n "${!name+x}" ]; then "$editenv" "$file" set "$name=${!name}"
		else "$editenv" "$file" unset "$name"; fi
	done
}
"#;

/// What GRUB has got: its filesystems, each with the files that matter.
#[derive(Debug)]
pub struct Played {
    /// A directory for each, named by its UUID.
    dir: TempDir,
}

impl Played {
    /// Without any.
    ///
    /// # Errors
    /// There is no room.
    pub fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        Ok(Self { dir })
    }

    /// Puts a script on a filesystem.
    ///
    /// # Errors
    /// It is none, or cannot be written.
    pub fn put_script(&self, fs_uuid: &str, path: &str, text: &str) -> Result<()> {
        self.put(fs_uuid, path, for_shell(text)?)
    }

    /// Puts a file on a filesystem.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put(&self, fs_uuid: &str, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.dir.path().join(fs_uuid).join(path.trim_matches('/'));
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))
    }

    /// What boots by itself, so many times: the id of the entry, and what its kernel is told
    /// of the choice. Boots that are all the same are one.
    ///
    /// # Errors
    /// No shell can be started.
    pub fn boots(&self, config: &str, times: usize) -> Result<Vec<String>> {
        let config = for_shell(config)?;
        let script = format!("{GRUB}{config}\nprintf '%s %s' \"$default\" \"$be_words\"\n");
        let mut all: Vec<String> = Vec::new();
        for _ in 0..times {
            let mut shell = cmd("bash", ["--norc", "-c", ". /dev/stdin"]);
            let boot = run_with_input(shell.current_dir(self.dir.path()), script.as_bytes())?;
            all.push(boot.trim_end().to_owned());
        }
        all.dedup();
        Ok(all)
    }
}

/// A script of GRUB as one of the shell, with nothing in the place of its entries.
fn for_shell(text: &str) -> Result<String> {
    let mut script = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let words = line.trim_start();
        let is_entry = words.starts_with("menuentry ") || words.starts_with("submenu ");
        if is_entry && line.ends_with('{') {
            let end = format!("{}}}", &line[..line.len() - words.len()]);
            let end = lines.by_ref().find(|line| *line == end);
            end.with_context(|| format!("it does not end: {line}"))?;
            script += ":\n";
        } else {
            script += line;
            script += "\n";
        }
    }
    for (device, directory) in [
        ("(${be_root})", "${be_root}"),
        ("($be_root)", "${be_root}"),
        ("($be_env)", "${be_env}"),
    ] {
        script = script.replace(device, directory);
    }
    Ok(script)
}
