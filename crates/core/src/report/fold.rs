//! From the journal to the report.

use anyhow::Result;
use be_portage::builds::{Build, Fate};
use be_portage::failure::{self, Stage};
use chrono::{DateTime, Local};

use super::journal::{self, Event, Line};
use super::{
    Attempt, BuildRun, Failure, Findings, Kernels, Moved, PhaseRun, Place, Program, Report, Time,
    Verdict,
};
use super::{failed, gather};
use crate::model::Environment;
use crate::record::Phase;
use crate::session::Session;

/// The report of an environment; none if no upgrade ran in it.
///
/// What the journal lacks because the upgrade was killed, or is at work, is looked up in the
/// environment.
///
/// # Errors
/// When the journal is there and cannot be read.
pub fn read(session: &Session, env: &Environment, now: Time) -> Result<Option<Report>> {
    let Some(lines) = journal::lines(&session.store, env.name())? else {
        return Ok(None);
    };
    let mut fold = Fold::default();
    lines.into_iter().for_each(|line| fold.add(line));
    if fold.attempts.is_empty() {
        return Ok(None);
    }
    fold.close(match env.busy {
        true => (Verdict::Running, now),
        false => (Verdict::CutOff, fold.last),
    });
    if fold.result.is_none() {
        fold.result = Some(gather(session, &env.record, fold.messages));
    }
    let mut report = fold.into_report(env);
    if report.verdict == Verdict::CutOff {
        let cut = report.builds.iter().filter(|b| is_cut_off(b, &report));
        let unknown = cut.map(|b| failure::Failure {
            package: b.package.clone(),
            stage: Stage::Unknown,
            log: None,
        });
        let at = report.attempts.last().map_or(now, |a| a.ended);
        let found: Vec<Failure> = unknown
            .map(|f| failed(session, &env.record, &f, at))
            .collect();
        report.failures.extend(found);
    }
    Ok(Some(report))
}

/// In the last attempt, the one that was killed.
fn is_cut_off(build: &BuildRun, report: &Report) -> bool {
    build.fate == Fate::Begun && build.attempt + 1 == report.attempts.len()
}

/// The journal, as far as it is read.
#[derive(Debug)]
struct Fold {
    attempts: Vec<Attempt>,
    /// The last attempt has not ended.
    open: bool,
    /// When the last line was written.
    last: Time,
    options: Vec<String>,
    kernels: Vec<String>,
    messages: u64,
    inputs: (Option<String>, Vec<super::Repository>),
    moves: Vec<Moved>,
    phases: Vec<PhaseRun>,
    builds: Vec<(usize, Build)>,
    programs: Vec<Program>,
    failures: Vec<Failure>,
    result: Option<Findings>,
}

impl Default for Fold {
    fn default() -> Self {
        Self {
            attempts: Vec::new(),
            open: false,
            last: DateTime::UNIX_EPOCH.fixed_offset(),
            options: Vec::new(),
            kernels: Vec::new(),
            messages: 0,
            inputs: (None, Vec::new()),
            moves: Vec::new(),
            phases: Vec::new(),
            builds: Vec::new(),
            programs: Vec::new(),
            failures: Vec::new(),
            result: None,
        }
    }
}

impl Fold {
    fn add(&mut self, Line { time: at, event }: Line) {
        // Nothing is known of a time before the first start.
        if self.attempts.is_empty() && !matches!(event, Event::Start { .. }) {
            return;
        }
        let attempt = self.attempts.len().saturating_sub(1);
        match event {
            Event::Start {
                since,
                continued,
                options,
                kernels,
                messages,
            } => {
                self.close((Verdict::CutOff, self.last));
                if self.attempts.is_empty() {
                    (self.kernels, self.messages) = (kernels, messages);
                }
                self.options = options;
                self.result = None;
                self.begin(since, continued);
            }
            Event::Phase { phase } => {
                self.end_phase(at);
                self.phases.push(PhaseRun {
                    phase,
                    attempt,
                    started: at,
                    ended: at,
                });
            }
            Event::Inputs { hash, repositories } => self.inputs = (hash, repositories),
            Event::Moves { moves } => {
                self.moves.retain(|m| matches!(m.place, Place::File(_)));
                self.moves.extend(moves);
            }
            Event::Build(build) => self.build(attempt, build),
            Event::Run { kind, name } => self.programs.push(Program {
                kind,
                name,
                started: at,
                ended: None,
                well: None,
            }),
            Event::Ran { well } => {
                let mut open = self.programs.iter_mut().rev();
                if let Some(program) = open.find(|p| p.ended.is_none()) {
                    (program.ended, program.well) = (Some(at), Some(well));
                }
            }
            Event::Failure(failure) => self.failure(failure),
            Event::Result(findings) => self.result = Some(*findings),
            Event::End { verdict, words } => {
                self.close((verdict, at));
                if let Some(last) = self.attempts.last_mut() {
                    last.words = words;
                }
            }
            Event::Unknown => {}
        }
        self.last = self.last.max(at);
    }

    fn begin(&mut self, since: Time, continued: bool) {
        let attempt = self.attempts.len();
        self.attempts.push(Attempt {
            started: since,
            ended: since,
            verdict: Verdict::CutOff,
            words: None,
        });
        self.open = true;
        if !continued {
            self.phases.push(PhaseRun {
                phase: Phase::Clone,
                attempt,
                started: since,
                ended: since,
            });
        }
    }

    fn end_phase(&mut self, at: Time) {
        let attempt = self.attempts.len();
        if let Some(last) = self.phases.last_mut()
            && last.attempt + 1 == attempt
        {
            last.ended = at.max(last.started);
        }
    }

    fn build(&mut self, attempt: usize, build: Build) {
        let mut known = self.builds.iter_mut().rev();
        let same = known.find(|(a, b)| {
            *a == attempt && b.package == build.package && b.started == build.started
        });
        match same {
            Some((_, old)) => *old = build,
            None => self.builds.push((attempt, build)),
        }
    }

    fn failure(&mut self, failure: Failure) {
        // What was cut off is told when it goes on.
        let mut known = self.builds.iter_mut().rev();
        if let Some((_, build)) = known.find(|(_, b)| b.package == failure.what)
            && failure.stage.is_some_and(|s| s != Stage::Unknown)
        {
            build.fate = Fate::Failed;
            // Its log tells better than where Portage went on.
            let at = failure.at.timestamp();
            if failure.stage != Some(Stage::Postinst) {
                let end = build.ended.map_or(at, |end| end.min(at));
                build.ended = Some(end.max(build.started));
            }
        }
        self.failures.push(failure);
    }

    /// The last attempt, if it has not ended, ends so.
    fn close(&mut self, (verdict, at): (Verdict, Time)) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        self.end_phase(at);
        let Some(last) = self.attempts.last_mut() else {
            return;
        };
        last.verdict = verdict;
        last.ended = at.max(last.started);
        if verdict == Verdict::Running {
            return;
        }
        let attempt = self.attempts.len() - 1;
        for (_, build) in self.builds.iter_mut().filter(|(a, _)| *a == attempt) {
            let end = at.timestamp().max(build.started);
            build.ended.get_or_insert(end);
        }
    }

    fn into_report(self, env: &Environment) -> Report {
        let verdict = self.attempts.last().map(|a| a.verdict);
        let result = self.result.unwrap_or_default();
        let upgrade = env.record.upgrade.as_ref();
        let mut report = Report {
            environment: env.name().clone(),
            origin: env.record.origin.clone(),
            verdict: verdict.unwrap_or(Verdict::CutOff),
            attempts: self.attempts,
            options: self.options,
            inputs: self.inputs.0,
            repositories: self.inputs.1,
            moves: self.moves,
            phases: self.phases,
            builds: self.builds.into_iter().map(run).collect(),
            programs: self.programs,
            failures: self.failures,
            gates: upgrade.map(|u| u.gates.clone()).unwrap_or_default(),
            config: upgrade.and_then(|u| u.config.clone()).unwrap_or_default(),
            kernels: Kernels {
                before: self.kernels,
                after: result.kernels.clone(),
            },
            result,
        };
        // Where /var/log is shared, others have said something, too.
        let builds = &report.builds;
        let ours = |package: &str| builds.iter().any(|b| b.package == package);
        report.result.messages.retain(|m| ours(&m.package));
        report
    }
}

fn run((attempt, build): (usize, Build)) -> BuildRun {
    let time = |seconds: i64| {
        let time = DateTime::from_timestamp(seconds, 0).unwrap_or_default();
        time.with_timezone(&Local).fixed_offset()
    };
    BuildRun {
        attempt,
        started: time(build.started),
        ended: build.ended.map(time),
        seconds: build.seconds(),
        binary: build.is_binary(),
        fate: build.fate,
        package: build.package,
    }
}
