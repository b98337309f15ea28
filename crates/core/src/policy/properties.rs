//! What the rules promise for all stores and all limits.

use chrono::TimeDelta;
use proptest::prelude::*;

use super::tests::{NOW, at, berlin, hours};
use super::*;
use crate::config::Prune;
use crate::glob::Glob;
use crate::name::EnvName;

fn any_candidate() -> impl Strategy<Value = Candidate> {
    let kind = prop_oneof![
        6 => Just(0u8),
        1 => Just(1),
        1 => Just(2),
    ];
    (
        "[a-c]{1,3}",
        0i64..40_000_000,
        kind,
        0i64..2_000_000,
        prop::bool::weighted(0.2),
    )
        .prop_map(|(name, age, kind, since, protected)| {
            let created = at(NOW) - TimeDelta::seconds(age - 1000);
            let last = created + TimeDelta::seconds(since);
            Candidate {
                name: EnvName::parse(&format!("{name}-{age}")).unwrap(),
                created,
                kind: match kind {
                    0 => Kind::Boots,
                    1 => Kind::Unfinished(last),
                    _ => Kind::Bad(last),
                },
                protected: protected.then(|| "it is".to_owned()),
            }
        })
}

fn any_store() -> impl Strategy<Value = Vec<Candidate>> {
    prop::collection::vec(any_candidate(), 0..40).prop_map(|mut all| {
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.dedup_by(|a, b| a.name == b.name);
        all
    })
}

fn any_rules() -> impl Strategy<Value = Prune> {
    let counts = (
        0usize..8,
        0usize..4,
        0usize..6,
        0usize..6,
        0usize..6,
        0usize..6,
    );
    (counts, 0u32..500, 0u32..20, any::<bool>()).prop_map(
        |((keep, min_keep, hourly, daily, weekly, monthly), age, failed_days, names)| Prune {
            keep,
            min_keep,
            hourly,
            daily,
            weekly,
            monthly,
            max_age_days: age.saturating_sub(250),
            failed_days,
            keep_names: match names {
                true => vec![Glob::parse("a*").unwrap()],
                false => Vec::new(),
            },
            ..Prune::default()
        },
    )
}

/// Each of them with one limit more generous.
fn more_generous(rules: &Prune) -> Vec<Prune> {
    let more = |change: fn(&mut Prune)| {
        let mut rules = rules.clone();
        change(&mut rules);
        rules
    };
    vec![
        more(|r| r.keep += 1),
        more(|r| r.min_keep += 1),
        more(|r| r.hourly += 1),
        more(|r| r.daily += 1),
        more(|r| r.weekly += 1),
        more(|r| r.monthly += 1),
        more(|r| r.failed_days += 3),
        // None is the most generous.
        more(|r| {
            r.max_age_days = if r.max_age_days == 0 {
                0
            } else {
                r.max_age_days + 9
            }
        }),
        more(|r| r.max_age_days = 0),
        more(|r| r.keep_names.push(Glob::parse("b*").unwrap())),
    ]
}

proptest! {
    #[test]
    fn the_protected_stay(store in any_store(), rules in any_rules()) {
        let found = judge(&rules, &store, &berlin(NOW));
        prop_assert_eq!(found.verdicts.len(), store.len());
        let deleted = found.deleted();
        for candidate in store.iter().filter(|c| c.protected.is_some()) {
            prop_assert!(!deleted.contains(&candidate.name));
            prop_assert!(!found.spare.contains(&candidate.name));
        }
    }

    #[test]
    fn a_second_time_nothing_is_left_to_delete(store in any_store(), rules in any_rules()) {
        let now = berlin(NOW);
        let deleted = judge(&rules, &store, &now).deleted();
        let rest: Vec<_> = store.iter().filter(|c| !deleted.contains(&c.name)).cloned().collect();
        prop_assert_eq!(judge(&rules, &rest, &now).deleted(), Vec::new());
    }

    #[test]
    fn going_further_leaves_the_minimum_and_then_nothing(
        store in any_store(), rules in any_rules()
    ) {
        let now = berlin(NOW);
        let found = judge(&rules, &store, &now);
        let mut gone = found.deleted();
        gone.extend(found.spare);
        let rest: Vec<_> = store.iter().filter(|c| !gone.contains(&c.name)).cloned().collect();
        let boots = |all: &[Candidate]| all.iter().filter(|c| c.kind == Kind::Boots).count();
        prop_assert!(boots(&rest) >= rules.min_keep.min(boots(&store)));
        let again = judge(&rules, &rest, &now);
        prop_assert_eq!(again.deleted(), Vec::new());
        prop_assert_eq!(again.spare, Vec::new());
    }

    #[test]
    fn a_more_generous_limit_deletes_no_more(store in any_store(), rules in any_rules()) {
        let now = berlin(NOW);
        let strict = judge(&rules, &store, &now).deleted();
        for generous in more_generous(&rules) {
            for name in judge(&generous, &store, &now).deleted() {
                prop_assert!(strict.contains(&name), "{} by {:?}", name, generous);
            }
        }
    }

    #[test]
    fn protecting_one_costs_no_other(store in any_store(), rules in any_rules(), n in 0usize..40) {
        prop_assume!(n < store.len());
        let now = berlin(NOW);
        let before = judge(&rules, &store, &now).deleted();
        let mut more = store.clone();
        more[n].protected = Some("pinned".into());
        for name in judge(&rules, &more, &now).deleted() {
            prop_assert!(before.contains(&name));
        }
    }

    #[test]
    fn the_order_in_which_they_come_does_not_matter(store in any_store(), rules in any_rules()) {
        let now = berlin(NOW);
        let mut backwards = store.clone();
        backwards.reverse();
        prop_assert_eq!(judge(&rules, &store, &now), judge(&rules, &backwards, &now));
    }

    #[test]
    fn the_clock_of_the_zone_moves_no_more_than_the_timeline(
        store in any_store(), rules in any_rules(), offset in -12i32..14
    ) {
        // Without a timeline the time zone says nothing.
        let rules = Prune { hourly: 0, daily: 0, weekly: 0, monthly: 0, ..rules };
        let here = judge(&rules, &store, &berlin(NOW));
        let there = judge(&rules, &store, &at(NOW).with_timezone(&hours(offset)));
        prop_assert_eq!(here, there);
    }
}
