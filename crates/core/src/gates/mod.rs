//! Gates: what a finished upgrade has to pass before it may boot.
//!
//! Each compares the environment with the base that it was cloned from: what was broken
//! already keeps no system from being upgraded.

mod boot_test;
mod changed;
mod elf;
mod linking;
mod packages;
mod python;
mod run;
mod search;
mod services;
mod sshd;
#[cfg(test)]
mod tests;

use std::cell::OnceCell;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use self::changed::Changes;
use crate::boot::Examination;
use crate::chroot::Interrupted;
use crate::config;
use crate::record::{GateRecord, Record};
use crate::session::Session;
use crate::whole::Whole;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    /// There is a kernel with all that it needs: what `be check` looks at.
    Bootable,
    /// No package failed, and no merge was cut off.
    Packages,
    /// Programs and libraries find the libraries that they need.
    Linking,
    /// What was installed for an interpreter of Python can be imported.
    Python,
    /// What is enabled to be started is there.
    Services,
    /// The SSH server takes its configuration.
    Sshd,
    /// It comes up in a virtual machine.
    BootTest,
}

impl Gate {
    /// All, in the order in which they are told.
    pub const ALL: [Self; 7] = [
        Self::Bootable,
        Self::Packages,
        Self::Linking,
        Self::Python,
        Self::Services,
        Self::Sshd,
        Self::BootTest,
    ];

    /// Those that can be switched off: what does not boot is in no menu anyway.
    pub const SWITCHED: [Self; 6] = [
        Self::Packages,
        Self::Linking,
        Self::Python,
        Self::Services,
        Self::Sshd,
        Self::BootTest,
    ];

    /// The word in be.toml, on the command line, in records and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bootable => "bootable",
            Self::Packages => "packages",
            Self::Linking => "linking",
            Self::Python => "python",
            Self::Services => "services",
            Self::Sshd => "sshd",
            Self::BootTest => "boot-test",
        }
    }

    /// The gate of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|gate| gate.name() == name)
    }

    /// What would go wrong without it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Bootable => "it would not boot",
            Self::Packages => "packages would be there in part",
            Self::Linking => "programs would not start",
            Self::Python => "Python programs would not start",
            Self::Services => "services would be missing after the boot",
            Self::Sshd => "nobody could log in from afar",
            Self::BootTest => "it would not come up",
        }
    }

    /// Whether be.toml leaves it on.
    pub fn is_on(self, gates: &config::Gates) -> bool {
        match self {
            Self::Bootable => true,
            Self::Packages => gates.packages,
            Self::Linking => gates.linking,
            Self::Python => gates.python,
            Self::Services => gates.services,
            Self::Sshd => gates.sshd,
            Self::BootTest => gates.boot_test,
        }
    }
}

/// What a gate said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All is well.
    Passed,
    /// Something is not, and was in the base.
    Failed,
    /// There was nothing to look at.
    Skipped,
    /// It could not be found out, through no fault of the environment.
    Unknown,
    /// Somebody has switched it off.
    Off,
}

impl Verdict {
    /// The word in records and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Unknown => "unknown",
            Self::Off => "off",
        }
    }
}

/// What came of one gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which.
    pub gate: Gate,
    /// Its verdict.
    pub verdict: Verdict,
    /// What it failed for, a sentence each; else one that says why it did not.
    pub why: Vec<String>,
}

/// How many failures of one gate an error names.
const NAMED: usize = 3;

impl Found {
    fn new(gate: Gate, outcome: Outcome) -> Self {
        let (verdict, why) = match outcome {
            Outcome::Passed(why) => (Verdict::Passed, vec![why]),
            Outcome::Skipped(why) => (Verdict::Skipped, vec![why]),
            Outcome::Unknown(why) => (Verdict::Unknown, vec![why]),
            Outcome::Failed(why) => (Verdict::Failed, why),
        };
        Self { gate, verdict, why }
    }

    /// The gate `bootable`, from what was found out about the environment.
    pub fn bootable(examination: &Examination) -> Self {
        let outcome = match examination.problems.is_empty() {
            true => Outcome::Passed(examination.proven.join(", ")),
            false => Outcome::Failed(examination.problems.clone()),
        };
        Self::new(Gate::Bootable, outcome)
    }

    /// Whether it keeps the environment from booting.
    pub fn failed(&self) -> bool {
        self.verdict == Verdict::Failed
    }

    /// What to tell a person who relies on it, if nothing was found out.
    pub fn warning(&self) -> Option<String> {
        let unknown = self.verdict == Verdict::Unknown;
        unknown.then(|| {
            format!(
                "the gate {} knows nothing: {}",
                self.gate.name(),
                self.short()
            )
        })
    }

    /// In one line: the first failures, and how many more there are.
    pub fn short(&self) -> String {
        let mut short = self.why[..self.why.len().min(NAMED)].join("; ");
        if self.why.len() > NAMED {
            short.push_str(&format!("; and {} more", self.why.len() - NAMED));
        }
        short
    }

    /// For the record, and for scripts.
    pub fn record(&self) -> GateRecord {
        GateRecord::new(
            self.gate.name().to_owned(),
            self.verdict.as_str().to_owned(),
            self.short(),
        )
    }

    /// All of it, for the log.
    pub fn text(&self) -> String {
        let mut text = format!("gate {}: {}", self.gate.name(), self.verdict.as_str());
        match self.failed() {
            true => {
                text.push_str(&format!(" ({})\n", self.gate.reason()));
                for why in &self.why {
                    text.push_str(&format!("  {why}\n"));
                }
            }
            false => text.push_str(&format!(": {}\n", self.short())),
        }
        text
    }
}

type Check = fn(&Scene<'_>) -> Result<Outcome>;

/// How each is looked at but `bootable`, which the menu's own proof answers.
const CHECKS: [(Gate, Check); Gate::SWITCHED.len()] = [
    (Gate::Packages, packages::check),
    (Gate::Linking, linking::check),
    (Gate::Python, python::check),
    (Gate::Services, services::check),
    (Gate::Sshd, sshd::check),
    (Gate::BootTest, boot_test::check),
];

/// What one gate has to say of a scene.
enum Outcome {
    Passed(String),
    Skipped(String),
    Unknown(String),
    Failed(Vec<String>),
}

/// An upgraded environment and what it was.
struct Scene<'a> {
    session: &'a Session,
    record: &'a Record,
    interrupted: &'a Interrupted,
    /// The base.
    before: Whole,
    after: Whole,
    changes: OnceCell<Changes>,
}

impl Scene<'_> {
    fn changes(&self) -> Result<&Changes> {
        if let Some(known) = self.changes.get() {
            return Ok(known);
        }
        let found = Changes::of(self.session, self.record, &self.before, &self.after)?;
        Ok(self.changes.get_or_init(|| found))
    }
}

/// Take an upgraded environment through gates, of which `bootable` cannot be one, without those
/// in `off`.
///
/// # Errors
/// When it or its base is not there, or somebody interrupts. A gate that cannot do its work
/// has failed.
pub fn examine(
    session: &Session,
    record: &Record,
    gates: &[Gate],
    off: &[String],
    interrupted: &Interrupted,
) -> Result<Vec<Found>> {
    let scene = Scene {
        session,
        record,
        interrupted,
        before: session.whole_base(record)?,
        after: session.whole_of(record)?,
        changes: OnceCell::new(),
    };
    let mut found = Vec::new();
    // That it is off is not worth a word where nobody has turned it off.
    let usual = |gate: &Gate| *gate != Gate::BootTest || gate.is_on(&session.config.gates);
    let wanted = |(gate, _): &(Gate, Check)| usual(gate) && gates.contains(gate);
    for (gate, check) in CHECKS.into_iter().filter(wanted) {
        let (verdict, why) = if !gate.is_on(&session.config.gates) {
            (Verdict::Off, "switched off in be.toml")
        } else if off.iter().any(|name| name == gate.name()) {
            (Verdict::Off, "switched off for this upgrade")
        } else if gate == Gate::BootTest && found.iter().any(Found::failed) {
            (Verdict::Skipped, "another gate has failed")
        } else {
            found.push(look(gate, check, &scene));
            if interrupted.came() {
                bail!("it was interrupted");
            }
            continue;
        };
        found.push(Found {
            gate,
            verdict,
            why: vec![why.to_owned()],
        });
    }
    Ok(found)
}

fn look(gate: Gate, check: Check, scene: &Scene<'_>) -> Found {
    let start = std::time::Instant::now();
    let outcome = check(scene).unwrap_or_else(|e| {
        let why = format!("it could not be looked at: {e:#}").replace('\n', " ");
        Outcome::Failed(vec![why])
    });
    tracing::info!("gate {}: {:?}", gate.name(), start.elapsed());
    Found::new(gate, outcome)
}
