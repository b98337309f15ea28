//! The page of made-up reports: small, hostile, and very long.

use be_core::name::EnvName;
use be_core::portage::builds::Fate;
use be_core::record::{ConfigFiles, GateRecord, Phase};
use be_core::report::{
    Attempt, BuildRun, Failure, Findings, Kernels, Moved, PhaseRun, Place, Renamed, Report, Time,
    Verdict,
};

use super::{html, text};

const HOSTILE: &str = "</pre><script>\"'&\u{1b}[31m\u{1}\u{202e}\u{fffe}";

fn time(seconds: i64) -> Time {
    let time = chrono::DateTime::from_timestamp(1_790_000_000 + seconds, 0);
    time.unwrap().fixed_offset()
}

/// So many packages, in two attempts, three side by side.
fn report(packages: usize) -> Report {
    let mut builds: Vec<BuildRun> = Vec::new();
    let mut free = [10_i64; 3];
    for i in 0..packages {
        let lane = i % 3;
        let took = 1 + i64::try_from(i * i % 97).unwrap();
        let fate = [Fate::Merged, Fate::GivenUp, Fate::Failed];
        builds.push(BuildRun {
            package: format!("app-misc/package{i}-1.{i}"),
            attempt: 0,
            started: time(free[lane]),
            ended: Some(time(free[lane] + took)),
            seconds: Some(took.unsigned_abs()),
            binary: i % 5 == 0,
            fate: fate[if i % 40 == 7 { 1 + i % 2 } else { 0 }],
        });
        free[lane] += took;
    }
    let end = free.into_iter().max().unwrap() + 2;
    let attempt = |from: i64, to: i64, verdict| Attempt {
        started: time(from),
        ended: time(to),
        verdict,
        words: Some(HOSTILE.to_owned()),
    };
    let phase = |phase, attempt, from, to| PhaseRun {
        phase,
        attempt,
        started: time(from),
        ended: time(to),
    };
    let again = end + 100_000;
    let mut config = ConfigFiles::default();
    config.merged.push(HOSTILE.into());
    Report {
        environment: EnvName::parse("new").unwrap(),
        origin: Some(EnvName::parse("default").unwrap()),
        verdict: Verdict::Ready,
        attempts: vec![
            attempt(0, end, Verdict::Failed),
            attempt(again, again + 60, Verdict::Ready),
        ],
        options: vec![HOSTILE.to_owned()],
        repositories: Vec::new(),
        inputs: None,
        moves: vec![Moved {
            place: Place::File(HOSTILE.to_owned()),
            names: vec![Renamed {
                old: HOSTILE.to_owned(),
                new: HOSTILE.to_owned(),
            }],
        }],
        phases: vec![
            phase(Phase::Clone, 0, 0, 1),
            phase(Phase::Sync, 0, 1, 10),
            phase(Phase::Merge, 0, 10, end),
            phase(Phase::Check, 1, again, again + 60),
        ],
        builds,
        programs: Vec::new(),
        failures: vec![Failure {
            what: HOSTILE.to_owned(),
            stage: None,
            at: time(5),
            log: Some(HOSTILE.to_owned()),
            lines: vec![HOSTILE.to_owned()],
        }],
        gates: vec![GateRecord::new(
            HOSTILE.into(),
            "failed".into(),
            HOSTILE.into(),
        )],
        config,
        kernels: Kernels::default(),
        result: Findings::default(),
    }
}

/// The tags that are open when the page ends, or what is wrong with one.
fn open_tags(page: &str) -> Result<Vec<String>, String> {
    let mut open: Vec<String> = Vec::new();
    for piece in page.split('<').skip(1) {
        let (tag, _) = piece.split_once('>').ok_or(piece)?;
        let name = tag.split([' ', '/']).find(|w| !w.is_empty());
        let name = name.unwrap_or_default().to_owned();
        if tag.starts_with('/') {
            if open.pop().as_ref() != Some(&name) {
                return Err(format!("</{name}> closes {open:?}"));
            }
        } else if !tag.ends_with('/') && !tag.starts_with('!') {
            open.push(name);
        }
    }
    Ok(open)
}

#[test]
fn all_that_is_opened_is_closed_and_nothing_hostile_gets_through() {
    for packages in [0, 1, 500] {
        let page = html::render(&report(packages), time(0)).unwrap();
        assert_eq!(open_tags(&page), Ok(Vec::new()), "{packages}");
        assert!(!page.contains("<script") && !page.contains("://"));
        assert!(page.contains("&lt;/pre&gt;&lt;script&gt;&quot;"));
        let bad = |c: char| c.is_control() && c != '\n' || "\u{202e}\u{fffe}".contains(c);
        assert_eq!(page.find(bad), None, "{packages}");
        let builds = page.matches("<g class=\"build ").count();
        assert_eq!(builds, packages);
    }
    let shown = text::render(&report(3));
    assert_eq!(shown.find(|c: char| c.is_control() && c != '\n'), None);
}

/// `x`, `width`, and row of each bar of a package.
fn bars(page: &str) -> Vec<(f64, f64, u32)> {
    let attribute = |tag: &str, name: &str| {
        let (_, rest) = tag.split_once(&format!(" {name}=\"")).unwrap();
        rest.split(['%', '"']).next().unwrap().to_owned()
    };
    let tags = page.split("<svg ").filter(|t| t.contains("class=\"build "));
    tags.map(|t| {
        let t = format!(" {t}");
        let number = |name| attribute(&t, name).parse::<f64>().unwrap();
        (number("x"), number("width"), number("y") as u32)
    })
    .collect()
}

#[test]
fn bars_of_one_row_do_not_cover_each_other() {
    let page = html::render(&report(60), time(0)).unwrap();
    let mut bars = bars(&page);
    bars.sort_by(|a, b| (a.2, a.0).partial_cmp(&(b.2, b.0)).unwrap());
    let rows: std::collections::BTreeSet<u32> = bars.iter().map(|b| b.2).collect();
    assert_eq!(rows.len(), 3);
    for pair in bars.windows(2).filter(|p| p[0].2 == p[1].2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0 + 0.26, "{pair:?}");
    }
    assert!(bars.iter().all(|(x, width, _)| x + width <= 100.1));
}
