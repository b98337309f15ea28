//! Every form of the list, frozen in `tests/list.txt`. `BE_UPDATE_GOLDEN=1` writes it anew.

use std::path::Path;

use be_core::model::{Environment, SnapshotState, Subvolume};
use be_core::name::{EnvName, SnapName};
use be_core::record::{Base, Member, Policy, Record, Snapshot, SnapshotMember, State};
use chrono::{DateTime, FixedOffset};

use super::*;

fn time(minute: u32) -> DateTime<FixedOffset> {
    let text = format!("2026-11-20T01:{minute:02}:03+01:00");
    DateTime::parse_from_rfc3339(&text).unwrap()
}

fn clock(time: DateTime<FixedOffset>) -> String {
    time.format("%Y-%m-%d %H:%M").to_string()
}

fn uuid(id: u64) -> String {
    format!("00000000-0000-4000-8000-{id:012}")
}

fn found(id: u64, path: &str) -> Subvolume {
    Subvolume {
        id,
        uuid: uuid(id),
        path: path.into(),
        generation: 10,
    }
}

fn env(name: &str, id: u64, minute: u32, origin: Option<&str>) -> Environment {
    let name = EnvName::parse(name).unwrap();
    let root = found(id, &format!("@be/{name}/root"));
    let mut record = Record::new(name, time(minute), State::Confirmed);
    record.origin = origin.map(|o| EnvName::parse(o).unwrap());
    record.subvolumes = vec![Member::new("/", Policy::Cloned, root.uuid.clone())];
    let mut env = Environment::new(record, Some(root.clone()));
    env.subvolumes = vec![Some(root)];
    env
}

fn take(env: &mut Environment, name: &str, id: u64, minute: u32, text: &str) {
    let mut snapshot = Snapshot::new(SnapName::parse(name).unwrap(), time(minute), env.state());
    text.clone_into(&mut snapshot.description);
    snapshot.subvolumes = vec![SnapshotMember::new("/", uuid(id), Vec::new())];
    env.record.snapshots.push(snapshot);
    env.snapshots.push(SnapshotState {
        subvolumes: vec![Some(found(
            id,
            &format!("@be/{}/snap/{name}/root", env.name()),
        ))],
        mounted: Vec::new(),
    });
}

/// What a machine has after a while: an adopted system, names as long as they may be, text
/// of every kind, environments of which the origin is gone.
fn environments() -> Vec<Environment> {
    let mut default = env("default", 256, 1, None);
    default.record.adopted = true;
    default.running = true;
    default.mounted = vec!["/".into()];
    default.subvolumes = vec![Some(found(256, "@"))];
    default
        .record
        .subvolumes
        .push(Member::new("/var/lib/postgresql", Policy::Late, uuid(257)));
    default.subvolumes.push(Some(found(257, "@pg")));
    take(&mut default, "before-a-try", 400, 2, "ein Übungslauf, 試験");
    let mut new = env("2026-11-20", 300, 3, Some("default"));
    new.next = true;
    new.record.state = State::Ready;
    new.record.pinned = true;
    new.record.description = "fünf Äpfel\tund\nкириллица".into();
    take(&mut new, "a", 401, 4, "");
    take(&mut new, "b", 402, 5, "gone by hand");
    new.snapshots[1].subvolumes = vec![None];
    new.snapshots[0].mounted = vec!["/run/be/2026-11-20@a".into()];
    let long = "n".repeat(64);
    let mut long = env(&long, 301, 6, Some("2026-11-20"));
    long.record.state = State::Failed;
    long.mounted = vec!["/mnt/with a blank".into()];
    let mut renamed = env("renamed", 302, 7, Some("what-it-was-called"));
    let mut member = Member::new("/", Policy::Cloned, uuid(302));
    member.base = Some(Base {
        uuid: uuid(500),
        of: uuid(256),
        generation: 9,
    });
    renamed.record.subvolumes = vec![member];
    let mut orphan = env("orphan", 303, 8, Some("gone"));
    orphan.root = None;
    orphan.subvolumes = vec![None];
    orphan.record.description = "semi;colon".into();
    let last = env("last", 304, 9, Some("2026-11-20"));
    // Older than what it says it was cloned from.
    let circle = env("circle", 305, 0, Some("last"));
    vec![circle, default, new, long, renamed, orphan, last]
}

fn rows(environments: &[Environment], subvolumes: bool, snapshots: bool) -> Rows<'_> {
    fn row(env: &Environment) -> Row<'_> {
        Row {
            env,
            kernel: env.root.as_ref().map(|r| format!("6.12.{}-gentoo", r.id)),
            space: env.root.as_ref().map(|r| Space {
                exclusive: (r.id - 255).pow(5) << 10,
                referenced: 3 << 30,
            }),
        }
    }
    Rows {
        rows: environments.iter().map(row).collect(),
        subvolumes,
        snapshots,
        spaces: Spaces::default(),
    }
}

#[test]
fn sizes_are_short() {
    for (bytes, expected) in [
        (0, "0B"),
        (999, "999B"),
        (1000, "0.98K"),
        (10 << 10, "10.0K"),
        (123 << 20, "123M"),
        (1 << 30, "1.00G"),
        (u64::MAX, "16384P"),
    ] {
        assert_eq!(human(bytes), expected);
    }
}

#[test]
fn every_form() {
    let many = environments();
    let none: Vec<Environment> = Vec::new();
    let mut text = String::new();
    for (environments, which) in [(&many, ""), (&none, ", of nothing")] {
        for (subvolumes, snapshots, option) in [
            (false, false, "be list"),
            (true, false, "be list -d"),
            (false, true, "be list -s"),
            (true, true, "be list -a"),
        ] {
            let rows = rows(environments, subvolumes, snapshots);
            text += &format!("---- {option}{which}\n{}", rows.text(Form::Table(&clock)));
            text += &format!("---- {option} -H{which}\n{}", rows.text(Form::Script));
            let beadm = option.replace("be ", "beadm ");
            text += &format!("---- {beadm} -H{which}\n{}", rows.text(Form::Beadm));
        }
        let rows = rows(environments, false, false);
        text += &format!(
            "---- be list --tree{which}\n{}",
            rows.text(Form::Tree(&clock))
        );
        for row in &rows.rows {
            let document = serde_json::to_string_pretty(&document(row)).unwrap();
            text += &format!("---- be list --json, {}\n{document}\n", row.env.name());
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/list.txt");
    if std::env::var_os("BE_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, golden, "see {}", path.display());
}

#[test]
fn a_line_for_scripts_has_as_many_fields_as_any_other() {
    let many = environments();
    let rows = rows(&many, true, true);
    for line in rows.text(Form::Script).lines() {
        assert_eq!(line.split('\t').count(), 7, "{line}");
    }
    for line in rows.text(Form::Beadm).lines() {
        assert_eq!(line.split(';').count(), 7, "{line}");
    }
}
