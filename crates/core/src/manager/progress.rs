//! What a package manager works on, by the lines that it prints.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::pattern::{Found, Pattern};

/// How those lines read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Given")]
pub struct Progress {
    /// By the word for what a package goes through; the first line that fits counts.
    steps: BTreeMap<String, Vec<Pattern>>,
    /// The steps of which each is the last one of a package; all, if there are none.
    last: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    steps: BTreeMap<String, Vec<Pattern>>,
    #[serde(default)]
    last: Vec<String>,
}

impl TryFrom<Given> for Progress {
    type Error = String;

    fn try_from(Given { steps, last }: Given) -> Result<Self, String> {
        match last.iter().find(|word| !steps.contains_key(*word)) {
            Some(word) => Err(format!("the last step {word:?} is none of the steps")),
            None => Ok(Self { steps, last }),
        }
    }
}

/// What a line told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct At {
    /// The package, as the manager names it.
    pub package: String,
    /// What it goes through.
    pub step: String,
    /// Its number, from 1.
    pub number: u32,
    /// How many are done.
    pub done: u32,
    /// How many there are.
    pub total: u32,
}

/// Counts, where the manager does not.
#[derive(Debug)]
pub(crate) struct Count<'a> {
    progress: &'a Progress,
    /// How many packages were announced.
    planned: u32,
    /// Their numbers, in the order in which they came.
    seen: BTreeMap<String, u32>,
    /// Those that have come to their last step.
    last: BTreeSet<String>,
}

impl<'a> Count<'a> {
    pub(crate) fn new(progress: &'a Progress, planned: usize) -> Self {
        Self {
            progress,
            planned: number(planned),
            seen: BTreeMap::new(),
            last: BTreeSet::new(),
        }
    }

    /// What this line tells, if it is about a package.
    pub(crate) fn line(&mut self, line: &str) -> Option<At> {
        let mut steps = self.progress.steps.iter();
        let (step, found) = steps.find_map(|(step, patterns)| {
            let found = patterns.iter().find_map(|pattern| pattern.find(line))?;
            Some((step, found))
        })?;
        let Found { package, .. } = found;
        if let Some(given) = found.number {
            return Some(At {
                package,
                step: step.clone(),
                number: given,
                done: given.saturating_sub(1),
                total: found.total.unwrap_or(self.planned).max(given),
            });
        }
        let next = number(self.seen.len() + 1);
        let own = *self.seen.entry(package.clone()).or_insert(next);
        let last = &self.progress.last;
        let is_last = last.is_empty() || last.contains(step);
        if is_last {
            self.last.insert(package.clone());
        }
        Some(At {
            package,
            step: step.clone(),
            number: own,
            // The one that is at its last step is not done with it.
            done: number(self.last.len() - usize::from(is_last)),
            total: found
                .total
                .unwrap_or(self.planned)
                .max(number(self.seen.len())),
        })
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::{BUILT_IN, Profile};
    use super::*;

    /// What a manager that comes with `be` tells by these lines, when so many were announced:
    /// step, package, its number, how many are done, of how many.
    fn told(name: &str, planned: usize, output: &str) -> Vec<String> {
        let (_, text) = BUILT_IN.iter().find(|(known, _)| *known == name).unwrap();
        let profile = Profile::parse(name, text).unwrap();
        let mut count = Count::new(&profile.progress, planned);
        let told = output.lines().filter_map(|line| count.line(line));
        told.map(|at| {
            let (step, package, number) = (&at.step, &at.package, at.number);
            format!("{step} {package} {number} {} {}", at.done, at.total)
        })
        .collect()
    }

    /// Printed by apt 3.0.3.
    #[test]
    fn lines_of_apt() {
        let output = "\
Selecting previously unselected package more.
(Reading database ... 4521 files and directories currently installed.)
Removing old (3) ...
Preparing to unpack /srv/debs/./more_1_all.deb ...
Unpacking more (1) ...
Preparing to unpack /srv/debs/./hello_2_all.deb ...
Unpacking hello (2) over (1) ...
Setting up more (1) ...
Setting up hello (2) ...
Processing triggers for libc-bin (2.41-12) ...
";
        let expected = [
            "remove old 1 0 3",
            "unpack more 2 1 3",
            "unpack hello 3 1 3",
            "configure more 2 1 3",
            "configure hello 3 2 3",
        ];
        assert_eq!(told("apt", 3, output), expected);
    }

    /// Printed by dnf 4.23.0 and, the last two, by dnf5.
    #[test]
    fn lines_of_dnf() {
        let output = "\
Running transaction
  Preparing        :                                                        1/1 
  Installing       : more-1-1.noarch                                        1/3 
  Running scriptlet: more-1-1.noarch                                        1/3 
  Upgrading        : hello-2-1.noarch                                       2/3 
  Cleanup          : hello-1-1.noarch                                       3/3 
 Upgrading:
[ 3/12] Upgrading hello-0:2-1.noarch    100% |  14.0 KiB/s |  58.0   B |  00m00s
[12/12] Removing hello-0:1-1.noarch     100% |   1.0 KiB/s |   6.0   B |  00m00s
";
        let expected = [
            "install more-1-1.noarch 1 0 3",
            "scriptlet more-1-1.noarch 1 0 3",
            "upgrade hello-2-1.noarch 2 1 3",
            "remove hello-1-1.noarch 3 2 3",
            "upgrade hello-0:2-1.noarch 3 2 12",
            "remove hello-0:1-1.noarch 12 11 12",
        ];
        assert_eq!(told("dnf", 1, output), expected);
    }

    /// Printed by pacman where there is no terminal; more than was announced.
    #[test]
    fn lines_of_pacman() {
        let output = ":: Processing package changes...\n\
            installing more...\nupgrading hello...\n\
            warning: /etc/hello.conf installed as /etc/hello.conf.pacnew\n";
        let expected = ["install more 1 0 1", "upgrade hello 2 1 2"];
        assert_eq!(told("pacman", 1, output), expected);
    }
}
