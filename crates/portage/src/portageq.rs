//! What Portage itself computes of a system: portageq(1), which is made for programs.

use std::collections::BTreeMap;

/// The arguments that print all settings, as Portage computes them from the profile,
/// make.conf(5) and its own defaults; [`settings`] reads it.
///
/// The exit code says nothing: it is 1 where one setting has no value.
#[must_use]
pub fn ask_settings() -> Vec<String> {
    arguments(&["envvar", "-v", "*"])
}

/// The arguments that print repos.conf with all that it leaves out; [`repositories`] reads it.
#[must_use]
pub fn ask_repositories() -> Vec<String> {
    arguments(&["repos_config", "/"])
}

/// The arguments that print `Portage 3.0.83`; [`version`] reads it.
#[must_use]
pub fn ask_version() -> Vec<String> {
    arguments(&["--version"])
}

/// The arguments that print of each atom the newest version that the configuration lets be
/// installed; [`is_masked`] reads it.
#[must_use]
pub fn ask_visible(atoms: &[String]) -> Vec<String> {
    let atoms = atoms.iter().map(String::as_str);
    let ask = ["mass_best_visible", "/", "ebuild"];
    arguments(&ask.into_iter().chain(atoms).collect::<Vec<_>>())
}

/// Whether the output of [`ask_visible`] says of this atom that nothing matches it, or all of
/// that is masked: `ATOM:`, with no version behind the colon. A line without an end is one at
/// which Portage has died.
#[must_use]
pub fn is_masked(output: &str, atom: &str) -> bool {
    let mut lines = output.split_inclusive('\n');
    lines.any(|line| line.strip_prefix(atom) == Some(":\n"))
}

fn arguments(rest: &[&str]) -> Vec<String> {
    let all = ["portageq"].iter().chain(rest);
    all.map(|&a| a.to_owned()).collect()
}

/// The settings in the output of [`ask_settings`]: `NAME=value`, the value quoted for a shell
/// (Python's `shlex.quote`). Other lines are warnings and left out. Every run of white space in
/// a value is one space: a line break in make.conf(5) is none in what it means.
#[must_use]
pub fn settings(output: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = output;
    while !rest.is_empty() {
        let line = rest.split('\n').next().unwrap_or(rest);
        match line.split_once('=').filter(|(name, _)| is_name(name)) {
            Some((name, _)) => {
                let (value, length) = unquoted(&rest[name.len() + 1..]);
                let words: Vec<&str> = value.split_whitespace().collect();
                found.insert(name.to_owned(), words.join(" "));
                rest = &rest[name.len() + 1 + length..];
            }
            None => rest = &rest[line.len()..],
        }
        rest = rest.strip_prefix('\n').unwrap_or(rest);
    }
    found
}

fn is_name(text: &str) -> bool {
    let mut all = text.chars();
    let first = all.next();
    first.is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && all.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The value at the beginning of a text, and how many bytes it takes there. Quotes are single
/// ones around all that is not plain, and double ones around a single one.
fn unquoted(text: &str) -> (String, usize) {
    let mut value = String::new();
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '\n') => return (value, at),
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => value.push(c),
        }
    }
    (value, text.len())
}

/// A repository, as Portage is configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Configured {
    /// Its name.
    pub name: String,
    /// Whether it is the main one.
    pub main: bool,
    /// All settings but those that are empty.
    pub settings: BTreeMap<String, String>,
}

impl Configured {
    /// A setting of repos.conf, portage(5).
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.settings.get(key).map(String::as_str)
    }
}

/// The repositories in the output of [`ask_repositories`], sorted by name.
#[must_use]
pub fn repositories(output: &str) -> Vec<Configured> {
    let mut found: Vec<Configured> = Vec::new();
    for line in output.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            let name = name.to_owned();
            found.push(Configured {
                name,
                ..Configured::default()
            });
        } else if let (Some(last), Some((key, value))) = (found.last_mut(), line.split_once(" = "))
        {
            let value = value.trim().to_owned();
            last.settings.insert(key.trim().to_owned(), value);
        }
    }
    let of_all = found.iter().find(|section| section.name == "DEFAULT");
    let main = of_all.and_then(|section| section.get("main-repo").map(str::to_owned));
    found.retain(|section| section.name != "DEFAULT");
    for repository in &mut found {
        repository.main = main.as_ref() == Some(&repository.name);
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// The version in the output of [`ask_version`].
#[must_use]
pub fn version(output: &str) -> Option<&str> {
    output
        .lines()
        .find_map(|line| line.strip_prefix("Portage "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_what_a_shell_would_read() {
        let output = "!!! Repository 'x' is missing masters\n\
            ARCH=amd64\nEMPTY=''\nCFLAGS='-O2  -pipe'\n\
            IT='it'\"'\"'s\n a=b'\nLAST=x";
        let found = settings(output);
        let all: Vec<_> = found.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(
            all,
            [
                ("ARCH", "amd64"),
                ("CFLAGS", "-O2 -pipe"),
                ("EMPTY", ""),
                ("IT", "it's a=b"),
                ("LAST", "x"),
            ]
        );
        // What is cut off ends nothing but itself.
        assert_eq!(settings("A='x\ny")["A"], "x y");
        assert!(settings("no setting = 1\n").is_empty());
    }

    #[test]
    fn repositories_come_with_what_portage_fills_in() {
        let output = "[DEFAULT]\nauto-sync = yes\nmain-repo = gentoo\n\n\
            [overlay]\nlocation = /srv/o\nmasters = gentoo\n\n\
            [gentoo]\nlocation = /var/db/repos/gentoo\nsync-uri = rsync://x/y = z\nmasters = \n";
        let found = repositories(output);
        assert_eq!(found.len(), 2);
        assert!(found[0].main && !found[1].main);
        assert_eq!(found[0].get("sync-uri"), Some("rsync://x/y = z"));
        assert_eq!(found[1].get("masters"), Some("gentoo"));
        assert_eq!(version("Portage 3.0.83\n"), Some("3.0.83"));
    }

    #[test]
    fn what_is_masked_has_no_version() {
        let output = "!!! a warning\n=a/b-1:0::x:a/b-1\n=a/b-2:0::x:\n";
        assert!(is_masked(output, "=a/b-2:0::x"));
        // Of what is not said nothing is known.
        for atom in ["=a/b-1:0::x", "=a/b-2:0", "=a/c-1:0::x"] {
            assert!(!is_masked(output, atom), "{atom}");
        }
        assert!(!is_masked("=a/b-2:0::x:", "=a/b-2:0::x"));
    }
}
