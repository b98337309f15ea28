//! The checksums of packaged configuration files, as package managers record them: MD5, as
//! Portage's.

use std::path::Path;

use anyhow::Result;
use be_btrfs::{FileType, Root};
use be_portage::config_files::contents::{self, Installed};

use super::Manager;
use super::list::MOST;
use super::profile::Packages;
use super::source::inside;
use crate::upgrade::fd_path;

impl Manager {
    /// What packages have installed at the paths that are `wanted`. Nothing, where the manager
    /// has no record of it that can be read.
    ///
    /// # Errors
    /// When its record cannot be read.
    pub(crate) fn packaged(
        &self,
        root: &Root,
        wanted: impl Fn(&str) -> bool + Sync,
    ) -> Result<Installed> {
        let Self::Profile(profile) = self else {
            return contents::installed(&fd_path(root), wanted);
        };
        let mut all = Installed::new();
        let mut add = |files: Vec<(String, String)>| {
            for (path, sum) in files {
                if is_sum(&sum) && wanted(&path) {
                    let sums = all.entry(path).or_default();
                    if !sums.contains(&sum) {
                        sums.push(sum);
                    }
                }
            }
        };
        match &profile.packages {
            Packages::Dpkg { file } => add(dpkg(&text(root, inside(file))?)),
            Packages::Pacman { directory } => {
                let directory = inside(directory);
                for (name, kind) in root.list(directory)? {
                    let path = directory.join(name).join("files");
                    if kind == FileType::Dir && root.exists(&path)? {
                        add(pacman(&text(root, &path)?));
                    }
                }
            }
            Packages::Lines { .. } => {}
        }
        Ok(all)
    }
}

fn text(root: &Root, path: &Path) -> Result<String> {
    let bytes = root.read(path, MOST)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn is_sum(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

/// Paths and checksums in the file of dpkg(1): indented lines below `Conffiles:`. What has a
/// flag behind its checksum is in the package no more.
fn dpkg(status: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut among = false;
    for line in status.lines() {
        let Some(line) = line.strip_prefix(' ') else {
            among = line.trim_end() == "Conffiles:";
            continue;
        };
        if among && let Some((path, sum)) = line.rsplit_once(' ') {
            found.push((path.to_owned(), sum.to_owned()));
        }
    }
    found
}

/// Those in a file `files` of pacman(8): below `%BACKUP%`, with a tab between.
fn pacman(files: &str) -> Vec<(String, String)> {
    let lines = files.lines().skip_while(|line| *line != "%BACKUP%").skip(1);
    let fields = lines.map_while(|line| line.split_once('\t'));
    fields
        .map(|(path, sum)| (format!("/{path}"), sum.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &str = "d41d8cd98f00b204e9800998ecf8427e";

    #[test]
    fn what_dpkg_records() {
        let status = format!(
            "Package: a\nConffiles:\n /etc/a b {SUM}\n /etc/gone {SUM} obsolete\n\
             \x20/etc/new newconffile\nDescription: one\n /etc/no {SUM}\n\n\
             Package: b\nConffiles: \n /etc/b {SUM}\n"
        );
        let found = dpkg(&status);
        let sums = found.iter().filter(|(_, sum)| is_sum(sum));
        let paths: Vec<_> = sums.map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["/etc/a b", "/etc/b"]);
    }

    #[test]
    fn what_pacman_records() {
        let files = format!("%FILES%\netc/\netc/x\n\n%BACKUP%\netc/x\t{SUM}\n\n%MORE%\na\tb\n");
        assert_eq!(pacman(&files), [("/etc/x".to_owned(), SUM.to_owned())]);
        assert_eq!(pacman("%FILES%\nusr/x\n"), []);
    }
}
