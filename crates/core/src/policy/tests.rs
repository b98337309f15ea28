//! Tests of the rules: each by itself, and at the edges of time zones.

use chrono::{
    DateTime, Datelike, FixedOffset, MappedLocalTime, NaiveDate, NaiveDateTime, TimeDelta,
    TimeZone, Utc, Weekday,
};

use super::*;
use crate::config::Prune;
use crate::glob::Glob;
use crate::name::EnvName;

/// Central Europe by the rule of 1996: summer time from the last Sunday of March to the
/// last of October, 01:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Berlin;

fn last_sunday(year: i32, month: u32) -> NaiveDateTime {
    let mut day = NaiveDate::from_ymd_opt(year, month, 31).unwrap();
    while day.weekday() != Weekday::Sun {
        day = day.pred_opt().unwrap();
    }
    day.and_hms_opt(1, 0, 0).unwrap()
}

pub(super) fn hours(n: i32) -> FixedOffset {
    FixedOffset::east_opt(n * 3600).unwrap()
}

impl TimeZone for Berlin {
    type Offset = FixedOffset;
    fn from_offset(_: &FixedOffset) -> Self {
        Berlin
    }
    fn offset_from_local_date(&self, date: &NaiveDate) -> MappedLocalTime<FixedOffset> {
        self.offset_from_local_datetime(&date.and_hms_opt(12, 0, 0).unwrap())
    }
    fn offset_from_local_datetime(&self, t: &NaiveDateTime) -> MappedLocalTime<FixedOffset> {
        MappedLocalTime::Single(self.offset_from_utc_datetime(&(*t - TimeDelta::hours(1))))
    }
    fn offset_from_utc_date(&self, date: &NaiveDate) -> FixedOffset {
        self.offset_from_utc_datetime(&date.and_hms_opt(12, 0, 0).unwrap())
    }
    fn offset_from_utc_datetime(&self, t: &NaiveDateTime) -> FixedOffset {
        let summer = last_sunday(t.year(), 3)..last_sunday(t.year(), 10);
        hours(if summer.contains(t) { 2 } else { 1 })
    }
}

pub(super) fn at(text: &str) -> DateTime<FixedOffset> {
    DateTime::parse_from_rfc3339(text).unwrap()
}

pub(super) fn berlin(text: &str) -> DateTime<Berlin> {
    at(text).with_timezone(&Berlin)
}

fn none() -> Prune {
    Prune {
        keep: 0,
        min_keep: 0,
        ..Prune::default()
    }
}

fn one(name: &str, created: &str) -> Candidate {
    Candidate {
        name: EnvName::parse(name).unwrap(),
        created: at(created),
        kind: Kind::Boots,
        protected: None,
    }
}

/// Named by their own times.
fn all(times: &[&str]) -> Vec<Candidate> {
    let name = |text: &str| text.replace('+', "_");
    times.iter().map(|t| one(&name(t), t)).collect()
}

fn kept<Tz: TimeZone>(rules: &Prune, all: &[Candidate], now: &DateTime<Tz>) -> Vec<String> {
    judge(rules, all, now)
        .verdicts
        .iter()
        .filter(|v| v.fate != Fate::Delete)
        .map(|v| v.name.as_str().replace('_', "+"))
        .collect()
}

pub(super) const NOW: &str = "2026-11-20T12:00:00+01:00";

#[test]
fn the_newest_stay() {
    let all = [
        one("a", "2026-01-01T00:00:00+01:00"),
        one("c", "2026-03-01T00:00:00+01:00"),
        one("b", "2026-02-01T00:00:00+01:00"),
    ];
    let rules = Prune { keep: 2, ..none() };
    let found = judge(&rules, &all, &at(NOW));
    let told: Vec<_> = found
        .verdicts
        .iter()
        .map(|v| (v.name.as_str(), v.fate, v.why.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("a", Fate::Delete, "no rule keeps it"),
            ("b", Fate::Spare, "one of the 2 newest (keep)"),
            ("c", Fate::Spare, "one of the 2 newest (keep)"),
        ]
    );
    assert_eq!(
        found.spare.iter().map(EnvName::as_str).collect::<Vec<_>>(),
        ["b", "c"]
    );
    assert_eq!(found.deleted(), [all[0].name.clone()]);
}

#[test]
fn the_age_goes_before_the_counts_but_not_before_the_minimum_and_the_names() {
    let all = [
        one("old", "2025-01-01T00:00:00+01:00"),
        one("older", "2024-01-01T00:00:00+01:00"),
        one("base-1", "2023-01-01T00:00:00+01:00"),
    ];
    let rules = Prune {
        keep: 9,
        min_keep: 1,
        max_age_days: 30,
        keep_names: vec![Glob::parse("base-*").unwrap()],
        ..none()
    };
    assert_eq!(kept(&rules, &all, &at(NOW)), ["base-1", "old"]);
    // To the second: thirty days are not more than thirty days.
    let edge = [one("edge", "2026-10-21T12:00:00+01:00")];
    let rules = Prune {
        min_keep: 0,
        ..rules
    };
    assert_eq!(kept(&rules, &edge, &at(NOW)), ["edge"]);
    assert_eq!(
        kept(&rules, &edge, &at("2026-11-20T12:00:01+01:00")),
        [""; 0]
    );
}

#[test]
fn what_comes_from_the_future_is_young() {
    let rules = Prune {
        keep: 1,
        max_age_days: 1,
        ..none()
    };
    assert_eq!(
        kept(&rules, &[one("f", "2030-01-01T00:00:00Z")], &at(NOW)),
        ["f"]
    );
}

#[test]
fn what_does_not_boot_has_its_own_limit_and_goes_first() {
    let last = |days| at(NOW) - TimeDelta::days(days);
    let of = |name: &str, kind| Candidate {
        kind,
        ..one(name, "2026-01-01T00:00:00Z")
    };
    let all = [
        one("good", "2025-01-01T00:00:00Z"),
        of("fresh", Kind::Unfinished(last(2))),
        of("recent", Kind::Unfinished(last(5))),
        of("old", Kind::Unfinished(last(8))),
        of("bad-fresh", Kind::Bad(last(2))),
        of("bad-old", Kind::Bad(last(8))),
    ];
    let rules = Prune {
        keep: 1,
        failed_days: 7,
        ..none()
    };
    let found = judge(&rules, &all, &at(NOW));
    let fates: Vec<_> = found
        .verdicts
        .iter()
        .map(|v| (v.name.as_str(), v.fate))
        .collect();
    for expected in [
        ("good", Fate::Spare),
        ("fresh", Fate::Keep),
        ("recent", Fate::Spare),
        ("old", Fate::Delete),
        ("bad-fresh", Fate::Spare),
        ("bad-old", Fate::Delete),
    ] {
        assert!(fates.contains(&expected), "{expected:?} {fates:?}");
    }
    let spare: Vec<_> = found.spare.iter().map(EnvName::as_str).collect();
    assert_eq!(spare.last(), Some(&"good"), "{spare:?}");
    // A limit of none does not reach an unfinished upgrade at once.
    let rules = Prune {
        failed_days: 0,
        ..rules
    };
    assert_eq!(kept(&rules, &all, &at(NOW)), ["good", "fresh"]);
}

#[test]
fn an_hour_that_comes_twice_is_two() {
    // 02:30 in summer time, 02:30 in winter time, 03:10.
    let all = all(&[
        "2026-10-25T00:30:00+00:00",
        "2026-10-25T01:30:00+00:00",
        "2026-10-25T01:40:00+00:00",
        "2026-10-25T02:10:00+00:00",
    ]);
    let rules = Prune {
        hourly: 3,
        ..none()
    };
    let hourly = kept(&rules, &all, &berlin(NOW));
    assert_eq!(
        hourly,
        [
            "2026-10-25T00:30:00+00:00",
            "2026-10-25T01:40:00+00:00",
            "2026-10-25T02:10:00+00:00"
        ]
    );
    // The day has 25 hours and is one.
    let rules = Prune { daily: 2, ..none() };
    assert_eq!(
        kept(&rules, &all, &berlin(NOW)),
        ["2026-10-25T02:10:00+00:00"]
    );
}

#[test]
fn days_are_those_of_the_time_zone() {
    // 23:30 and 00:30 in Berlin, in winter and in summer; in UTC all are before midnight.
    let winter = all(&["2026-01-09T22:30:00+00:00", "2026-01-09T23:30:00+00:00"]);
    let summer = all(&["2026-07-09T21:30:00+00:00", "2026-07-09T22:30:00+00:00"]);
    let rules = Prune { daily: 2, ..none() };
    for all in [winter, summer] {
        assert_eq!(kept(&rules, &all, &berlin(NOW)).len(), 2);
        assert_eq!(kept(&rules, &all, &at(NOW).with_timezone(&Utc)).len(), 1);
    }
    // A record keeps the offset of where it was written; the zone of now counts.
    let mixed = all(&["2026-01-10T00:30:00+01:00", "2026-01-10T08:00:00+09:00"]);
    assert_eq!(kept(&rules, &mixed, &berlin(NOW)).len(), 1);
}

#[test]
fn weeks_begin_on_monday_and_pass_over_the_new_year() {
    // Thursday and Friday of one week, in two years; the Monday after.
    let all = all(&[
        "2026-12-31T12:00:00+01:00",
        "2027-01-01T12:00:00+01:00",
        "2027-01-03T23:59:59+01:00",
        "2027-01-04T00:00:00+01:00",
    ]);
    let rules = Prune {
        weekly: 9,
        ..none()
    };
    assert_eq!(
        kept(&rules, &all, &berlin("2027-01-05T00:00:00+01:00")),
        ["2027-01-03T23:59:59+01:00", "2027-01-04T00:00:00+01:00"]
    );
}

#[test]
fn months_have_their_own_ends() {
    let all = all(&[
        "2027-12-31T23:59:59+01:00",
        "2028-01-01T00:00:00+01:00",
        "2028-02-29T23:59:59+01:00",
        "2028-03-01T00:00:00+01:00",
        "2028-03-31T23:30:00+02:00",
        "2028-03-31T22:30:00+00:00",
    ]);
    let rules = Prune {
        monthly: 9,
        ..none()
    };
    assert_eq!(
        kept(&rules, &all, &berlin("2028-05-01T00:00:00+02:00")),
        [
            "2027-12-31T23:59:59+01:00",
            "2028-01-01T00:00:00+01:00",
            "2028-02-29T23:59:59+01:00",
            "2028-03-31T23:30:00+02:00",
            // 00:30 on the first of April.
            "2028-03-31T22:30:00+00:00",
        ]
    );
}

#[test]
fn a_gap_does_not_use_up_the_timeline() {
    let all = all(&[
        "2026-01-05T12:00:00+01:00",
        "2026-06-05T12:00:00+02:00",
        "2026-11-05T12:00:00+01:00",
    ]);
    let rules = Prune {
        monthly: 2,
        ..none()
    };
    assert_eq!(
        kept(&rules, &all, &berlin(NOW)),
        ["2026-06-05T12:00:00+02:00", "2026-11-05T12:00:00+01:00"]
    );
}

#[test]
fn a_year_of_days_by_hand() {
    let start = at("2025-11-20T10:00:00+01:00");
    let all: Vec<_> = (0..366)
        .map(|day| {
            let created = start + TimeDelta::days(day);
            Candidate {
                created,
                ..one(&format!("d{day}"), NOW)
            }
        })
        .collect();
    let rules = Prune {
        daily: 7,
        weekly: 4,
        monthly: 12,
        ..none()
    };
    let kept = kept(&rules, &all, &berlin(NOW));
    // Seven days; 15 and 8 November and 1 November end weeks (today and yesterday's week are
    // days already); the ends of eleven months, of which none is among those.
    assert_eq!(kept.len(), 7 + 2 + 11, "{kept:?}");
}
