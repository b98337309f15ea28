//! The rules of `be prune`, in the order in which they are asked; the first that answers
//! counts. Protection never costs another environment its place: protected ones are
//! counted by the rules like all others.

use std::collections::HashSet;

use chrono::{DateTime, Datelike, FixedOffset, Offset, TimeDelta, TimeZone, Timelike};

use crate::config::Prune;
use crate::name::EnvName;

/// An upgrade that failed or was cut off is never pruned for so many days after somebody
/// last worked on it: that is a weekend, and what it has built is not to be had again soon.
pub const UNFINISHED_DAYS: u32 = 3;

/// What the rules have to know of an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: EnvName,
    /// When it was created.
    pub created: DateTime<FixedOffset>,
    /// What has become of it.
    pub kind: Kind,
    /// Why it may not be deleted, if there is such a reason.
    pub protected: Option<String>,
}

/// What has become of an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// It is complete.
    Boots,
    /// Its upgrade failed or was cut off; here is when somebody last worked on it.
    Unfinished(DateTime<FixedOffset>),
    /// Its trial failed; here is when something last happened to it.
    Bad(DateTime<FixedOffset>),
}

/// What is to become of an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Keep,
    /// It stays as long as there is room.
    Spare,
    /// It goes.
    Delete,
}

impl Fate {
    /// The word for people and scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Fate::Keep => "keep",
            Fate::Spare => "spare",
            Fate::Delete => "delete",
        }
    }
}

/// The fate of one environment, and the one reason for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Its name.
    pub name: EnvName,
    /// When it was created.
    pub created: DateTime<FixedOffset>,
    /// What is to become of it.
    pub fate: Fate,
    /// Why.
    pub why: String,
}

/// The fate of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judgement {
    /// One for each environment, oldest first.
    pub verdicts: Vec<Verdict>,
    /// The spare ones in the order in which they go while space is short: first what does
    /// not boot, then the oldest.
    pub spare: Vec<EnvName>,
}

impl Judgement {
    /// Those that go, oldest first.
    pub fn deleted(&self) -> Vec<EnvName> {
        self.verdicts
            .iter()
            .filter(|v| v.fate == Fate::Delete)
            .map(|v| v.name.clone())
            .collect()
    }
}

/// Decide about every environment. Hours, days, weeks (ISO 8601) and months are those of
/// the time zone of `now`; an age is in days of 24 hours.
pub fn judge<Tz: TimeZone>(
    rules: &Prune,
    candidates: &[Candidate],
    now: &DateTime<Tz>,
) -> Judgement {
    let mut sorted: Vec<&Candidate> = candidates.iter().collect();
    sorted.sort_by(|a, b| (b.created, &b.name).cmp(&(a.created, &a.name)));
    let boots: Vec<&Candidate> = sorted
        .iter()
        .copied()
        .filter(|c| c.kind == Kind::Boots)
        .collect();
    let timeline = timeline(rules, &boots, &now.timezone());
    let mut places = 0..;
    let mut verdicts = Vec::new();
    let mut spare = (Vec::new(), Vec::new());
    for candidate in sorted {
        let place = match candidate.kind {
            Kind::Boots => places.next(),
            Kind::Unfinished(_) | Kind::Bad(_) => None,
        };
        let (fate, why) = fate(rules, candidate, place, &timeline, now);
        if fate == Fate::Spare {
            match candidate.kind {
                Kind::Boots => &mut spare.1,
                Kind::Unfinished(_) | Kind::Bad(_) => &mut spare.0,
            }
            .push(candidate.name.clone());
        }
        verdicts.push(Verdict {
            name: candidate.name.clone(),
            created: candidate.created,
            fate,
            why,
        });
    }
    verdicts.reverse();
    let (broken, good) = spare;
    Judgement {
        verdicts,
        spare: broken
            .into_iter()
            .rev()
            .chain(good.into_iter().rev())
            .collect(),
    }
}

/// `place` is that among those that boot, 0 for the newest.
fn fate<Tz: TimeZone>(
    rules: &Prune,
    candidate: &Candidate,
    place: Option<usize>,
    timeline: &[(EnvName, &'static str)],
    now: &DateTime<Tz>,
) -> (Fate, String) {
    if let Some(why) = &candidate.protected {
        return (Fate::Keep, why.clone());
    }
    let name = candidate.name.as_str();
    if let Some(glob) = rules.keep_names.iter().find(|g| g.matches(name)) {
        return (Fate::Keep, format!("its name matches {glob} (keep_names)"));
    }
    let last = match (&candidate.kind, place) {
        (Kind::Boots, Some(place)) if place < rules.min_keep => {
            let why = format!(
                "one of the {} newest that always stay (min_keep)",
                rules.min_keep
            );
            return (Fate::Keep, why);
        }
        (Kind::Boots, _) => None,
        (Kind::Unfinished(last), _) => {
            if !older(last, UNFINISHED_DAYS, now) {
                let why = format!("an unfinished upgrade, not {UNFINISHED_DAYS} days old");
                return (Fate::Keep, why);
            }
            Some((last, "did not end well"))
        }
        (Kind::Bad(last), _) => Some((last, "did not come up")),
    };
    if let Some((last, what)) = last {
        let days = rules.failed_days;
        return match older(last, days, now) {
            true => (
                Fate::Delete,
                format!("it {what}, more than {days} days ago (failed_days)"),
            ),
            false => (
                Fate::Spare,
                format!("it {what}, not {days} days ago (failed_days)"),
            ),
        };
    }
    let days = rules.max_age_days;
    if days > 0 && older(&candidate.created, days, now) {
        let why = format!("more than {days} days old (max_age_days)");
        return (Fate::Delete, why);
    }
    if place.is_some_and(|place| place < rules.keep) {
        return (
            Fate::Spare,
            format!("one of the {} newest (keep)", rules.keep),
        );
    }
    match timeline.iter().find(|(n, _)| *n == candidate.name) {
        Some((_, period)) => (Fate::Spare, format!("the newest of its {period}")),
        None => (Fate::Delete, "no rule keeps it".to_owned()),
    }
}

/// More than so many days of 24 hours ago. What is from the future is not.
fn older<Tz: TimeZone>(then: &DateTime<FixedOffset>, days: u32, now: &DateTime<Tz>) -> bool {
    let age = now.clone().signed_duration_since(*then);
    age > TimeDelta::days(i64::from(days))
}

/// What the timeline keeps: the newest of each of the last so many hours, days, weeks and
/// months that have one, with the period that it stands for. `boots`: newest first.
fn timeline<Tz: TimeZone>(
    rules: &Prune,
    boots: &[&Candidate],
    zone: &Tz,
) -> Vec<(EnvName, &'static str)> {
    type Key = (i32, u32, u32, i32);
    type KeyOf<Tz> = fn(&DateTime<Tz>) -> Key;
    let periods: [(usize, &'static str, KeyOf<Tz>); 4] = [
        (rules.hourly, "hour (hourly)", |t| {
            // When the clock is set back, one hour of the day comes twice.
            let offset = t.offset().fix().local_minus_utc();
            (t.year(), t.ordinal(), t.hour(), offset)
        }),
        (rules.daily, "day (daily)", |t| {
            (t.year(), t.ordinal(), 0, 0)
        }),
        (rules.weekly, "week (weekly)", |t| {
            let week = t.iso_week();
            (week.year(), week.week(), 0, 0)
        }),
        (rules.monthly, "month (monthly)", |t| {
            (t.year(), t.month(), 0, 0)
        }),
    ];
    let mut kept = Vec::new();
    for (count, period, key) in periods {
        let mut seen = HashSet::new();
        for candidate in boots {
            if seen.len() < count && seen.insert(key(&candidate.created.with_timezone(zone))) {
                kept.push((candidate.name.clone(), period));
            }
        }
    }
    kept
}
