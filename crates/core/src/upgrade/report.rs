//! What an upgrade came to, for `be upgrade`'s end, `be log` and scripts.

use std::path::PathBuf;

use be_portage::config_files::waiting::Kind;
use be_portage::diff::PackageDiff;
use be_portage::state::Debt;
use chrono::{DateTime, FixedOffset, Local};

use super::live::Live;
use crate::gates::{Found, Verdict};
use crate::lock::Difference;
use crate::menu::Written;
use crate::name::EnvName;
use crate::plan::Way;
use crate::record::{ConfigFiles, Sources};

/// A finished upgrade.
#[derive(Debug)]
pub struct Report {
    /// The environment.
    pub name: EnvName,
    /// Packages, compared with the environment that it was cloned from.
    pub packages: PackageDiff,
    /// The kernel that it boots.
    pub kernel: Option<String>,
    /// Where the packages came from.
    pub sources: Sources,
    /// What became of configuration files.
    pub config: ConfigFiles,
    /// Where their versions from before the merge are.
    pub kept: PathBuf,
    /// What is left for a person.
    pub debt: Debt,
    /// How it boots from now on; none if what boots next is as it was.
    pub activated: Option<Way>,
    /// How it is not as its lock says.
    pub deviations: Vec<Difference>,
    /// The menu as it was written.
    pub menu: Option<Written>,
    /// The results of earlier upgrades, never booted, that it replaces: they are deleted.
    pub replaced: Vec<EnvName>,
    /// What the gates said.
    pub gates: Vec<Found>,
    /// What was merged into the running system, if that was asked for.
    pub live: Option<Live>,
    /// A sentence each.
    pub notes: Vec<String>,
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let changes = match self.packages.len() {
            1 => "1 change".to_owned(),
            n => format!("{n} changes"),
        };
        let mut text = format!("{changes} in {}:\n", self.name);
        for line in self.packages.lines() {
            text.push_str(&format!("  {line}\n"));
        }
        text.push_str(&from(&self.sources));
        if let Some(kernel) = &self.kernel {
            text.push_str(&format!("kernel: {kernel}\n"));
        }
        for verdict in [Verdict::Passed, Verdict::Off] {
            let gates = self.gates.iter().filter(|found| found.verdict == verdict);
            let names: Vec<_> = gates.map(|found| found.gate.name()).collect();
            if !names.is_empty() {
                text.push_str(&format!(
                    "gates {}: {}\n",
                    verdict.as_str(),
                    names.join(", ")
                ));
            }
        }
        for path in &self.config.merged {
            text.push_str(&format!("merged: {path}\n"));
        }
        for path in &self.config.taken {
            text.push_str(&format!("new, unchanged by you: {path}\n"));
        }
        if !self.config.merged.is_empty() || !self.config.taken.is_empty() {
            let kept = self.kept.display();
            text.push_str(&format!(
                "what these were before is kept: {kept} in {}\n",
                self.name
            ));
        }
        for line in owed(&self.debt, &self.name) {
            text.push_str(&format!("left for you: {line}\n"));
        }
        for deviation in &self.deviations {
            let line: String = deviation.to_string();
            let plain = line.replace(char::is_control, "?");
            text.push_str(&format!("not as in the lock: {plain}\n"));
        }
        for name in &self.replaced {
            text.push_str(&format!("{name} was never booted: replaced and deleted\n"));
        }
        text.push_str(&self.ending());
        text
    }

    /// What boots next, in one line.
    pub fn ending(&self) -> String {
        if let Some(live) = &self.live {
            return live
                .lines()
                .iter()
                .map(|line| format!("{line}\n"))
                .collect();
        }
        match &self.activated {
            Some(Way::Trial { tries, fallback }) => format!(
                "{} boots next, on trial: reboot when it suits you. If it is not confirmed in \
                 {tries} boots, {fallback} boots again\n",
                self.name
            ),
            Some(Way::AtShutdown { until }) => format!(
                "{} boots next: reboot when it suits you. What changes until then goes over when \
                 this system shuts down; if it goes down in another way, {until} boots\n",
                self.name
            ),
            Some(_) => format!("{} boots next: reboot when it suits you\n", self.name),
            None => format!(
                "{0} is complete and in the menu; be activate {0} makes it the default\n",
                self.name
            ),
        }
    }
}

/// Where the packages came from, if some came from a host, or should have.
fn from(sources: &Sources) -> String {
    if sources.binhost.is_empty() && sources.fell_back.is_empty() {
        return String::new();
    }
    let list = |what: &str, packages: &[String]| match packages {
        [] => String::new(),
        all => format!("{what}: {}\n", all.join(", ")),
    };
    let mut text = list("from a binary package host", &sources.binhost);
    text.push_str(&list("built", &sources.built));
    for one in &sources.fell_back {
        text.push_str(&format!("{} was built: {}\n", one.package, one.why));
    }
    text
}

/// What is left for a person, a line each.
pub fn owed(debt: &Debt, name: &EnvName) -> Vec<String> {
    let mut lines = Vec::new();
    for pending in &debt.config {
        let (path, file) = (pending.target.display(), pending.file.display());
        lines.push(match pending.kind {
            Kind::New | Kind::Unfinished => format!("merge the new {path} (be config {name})"),
            Kind::Old => format!("{path} was another: {file} (be config {name})"),
        });
    }
    if debt.news > 0 {
        lines.push(format!(
            "{} unread news items (eselect news read)",
            debt.news
        ));
    }
    if !debt.preserved_libs.is_empty() {
        lines.push(format!(
            "{} libraries kept for old programs (emerge @preserved-rebuild)",
            debt.preserved_libs.len()
        ));
    }
    lines
}

/// The time, in the zone of `start` but never before it.
pub(super) fn later(start: DateTime<FixedOffset>) -> DateTime<FixedOffset> {
    Local::now().fixed_offset().max(start)
}
