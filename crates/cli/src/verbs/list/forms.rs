//! The forms of `be list`: what is known becomes text or JSON. Pure.

use std::path::PathBuf;

use be_core::model::{Environment, SnapshotState, Subvolume};
use be_core::name::Named;
use be_core::record::{Member, Snapshot, State};
use be_core::space::{Space, Spaces};
use chrono::{DateTime, FixedOffset};
use serde_json::{Value, json};

/// An environment, with what the inventory does not have.
pub struct Row<'a> {
    pub env: &'a Environment,
    /// The version of its newest kernel.
    pub kernel: Option<String>,
    /// What it takes, if that was asked for.
    pub space: Option<Space>,
}

/// What is listed, in its order.
pub struct Rows<'a> {
    pub rows: Vec<Row<'a>>,
    /// With the subvolumes of each.
    pub subvolumes: bool,
    /// With the snapshots of each.
    pub snapshots: bool,
    /// What their subvolumes take, if that was asked for.
    pub spaces: Spaces,
}

/// How a time is shown to a person.
type Clock<'a> = &'a dyn Fn(DateTime<FixedOffset>) -> String;

/// How it is shown.
pub enum Form<'a> {
    /// For a person.
    Table(Clock<'a>),
    /// For a person, each below its origin.
    Tree(Clock<'a>),
    /// For scripts.
    Script,
    /// For scripts that know beadm(8) of illumos.
    Beadm,
}

const HEAD: [&str; 7] = [
    "BE",
    "Active",
    "Mountpoint",
    "Space",
    "Created",
    "Kernel",
    "Description",
];

/// One line, before it is known how.
struct Line {
    /// The environment that it belongs to.
    env: String,
    /// The environment, a snapshot of it, or the path of a subvolume.
    name: String,
    uuid: Option<String>,
    active: String,
    /// For beadm, whose datasets have it and not their environment.
    active_part: String,
    mounted: Option<PathBuf>,
    space: Option<u64>,
    created: DateTime<FixedOffset>,
    kernel: Option<String>,
    /// For a person.
    description: String,
    /// For a script: what a person wrote, and nothing else.
    plain: String,
    /// It belongs to the environment above.
    below: bool,
}

impl Rows<'_> {
    /// The whole text.
    pub fn text(&self, form: Form<'_>) -> String {
        match form {
            Form::Table(clock) => {
                let lines = self.lines().into_iter().map(|line| {
                    let indent = if line.below { "  " } else { "" };
                    cells(line, indent, clock)
                });
                aligned(self.head(), lines)
            }
            Form::Tree(clock) => {
                let lines = self.tree().into_iter().map(|(row, stem)| {
                    let line = environment(row);
                    cells(line, &stem, clock)
                });
                aligned(self.head(), lines)
            }
            Form::Script => self.lines().iter().map(script).collect(),
            Form::Beadm => {
                let parts = self.subvolumes || self.snapshots;
                let lines = self.lines();
                let shown = lines.iter().filter(|line| line.below || !parts);
                shown.map(beadm).collect()
            }
        }
    }

    fn head(&self) -> [String; 7] {
        let mut head = HEAD.map(str::to_owned);
        if self.subvolumes {
            head[0].push_str("/Subvolume");
        }
        if self.snapshots {
            head[0].push_str("/Snapshot");
        }
        head
    }

    fn space_of(&self, found: Option<&Subvolume>) -> Option<u64> {
        Some(self.spaces.subvolume(found?.id)?.exclusive)
    }

    fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        for row in &self.rows {
            lines.push(environment(row));
            let env = row.env;
            if self.subvolumes {
                let all = env.record.subvolumes.iter().zip(&env.subvolumes);
                lines.extend(all.map(|(member, found)| {
                    let space = self.space_of(found.as_ref());
                    subvolume(env, member, found.as_ref(), space)
                }));
            }
            if self.snapshots {
                let all = env.record.snapshots.iter().zip(&env.snapshots);
                lines.extend(all.map(|(taken, found)| {
                    // Of several subvolumes together it is not known.
                    let space = match &found.subvolumes[..] {
                        [one] => self.space_of(one.as_ref()),
                        _ => None,
                    };
                    snapshot(env, taken, found, space)
                }));
            }
        }
        lines
    }

    /// Each with the branches that lead to it, below the one that it was cloned from. That
    /// is older: what is not, is no origin, or names would run in a circle.
    fn tree(&self) -> Vec<(&Row<'_>, String)> {
        let parents: Vec<Option<usize>> = (0..self.rows.len())
            .map(|i| {
                (0..i)
                    .rev()
                    .find(|&p| is_origin(&self.rows[p], &self.rows[i]))
            })
            .collect();
        let mut found = Vec::new();
        self.branch(&parents, None, "", &mut found);
        found
    }

    fn branch<'r>(
        &'r self,
        parents: &[Option<usize>],
        parent: Option<usize>,
        stem: &str,
        found: &mut Vec<(&'r Row<'r>, String)>,
    ) {
        let children: Vec<usize> = (0..self.rows.len())
            .filter(|&i| parents[i] == parent)
            .collect();
        for (n, &child) in children.iter().enumerate() {
            let last = n + 1 == children.len();
            let (branch, below) = match (parent, last) {
                (None, _) => ("", ""),
                (_, true) => ("`-", "  "),
                (_, false) => ("|-", "| "),
            };
            found.push((&self.rows[child], format!("{stem}{branch}")));
            self.branch(parents, Some(child), &format!("{stem}{below}"), found);
        }
    }
}

/// Whether one was cloned from the other: by its base, or else by the name in its record.
fn is_origin(origin: &Row, clone: &Row) -> bool {
    let root = clone.env.record.root();
    let of = root.and_then(|m| m.base.as_ref()).map(|b| &b.of);
    let uuid = origin.env.record.root().map(|m| &m.uuid);
    (of.is_some() && of == uuid) || clone.env.record.origin.as_ref() == Some(origin.env.name())
}

fn environment(row: &Row) -> Line {
    let env = row.env;
    let state = match env.state() {
        State::Ready | State::Confirmed => None,
        state => Some(format!("[{}]", state.as_str())),
    };
    let builder = env.record.builder.as_ref().map(|_| "[builder]".to_owned());
    let pinned = env.record.pinned.then(|| "[pinned]".to_owned());
    let text = plain(&env.record.description);
    let words: Vec<String> = state
        .into_iter()
        .chain(builder)
        .chain(pinned)
        .chain(Some(text.clone()).filter(|t| !t.is_empty()))
        .collect();
    Line {
        env: env.name().to_string(),
        name: env.name().to_string(),
        uuid: env.record.root().map(|m| m.uuid.clone()),
        active: env.active(),
        active_part: env.active(),
        mounted: env.mounted.first().cloned(),
        space: row.space.map(|s| s.exclusive),
        created: env.record.created,
        kernel: row.kernel.clone(),
        description: words.join(" "),
        plain: text,
        below: false,
    }
}

fn subvolume(
    env: &Environment,
    member: &Member,
    found: Option<&Subvolume>,
    space: Option<u64>,
) -> Line {
    let root = member.mount == "/";
    let text = match found {
        Some(_) => format!("{}, at {}", member.policy.as_str(), member.mount),
        None => format!("{}, at {}: gone", member.policy.as_str(), member.mount),
    };
    let text = plain(&text);
    Line {
        env: env.name().to_string(),
        name: found.map_or_else(|| "/?".to_owned(), |s| plain(&s.option())),
        uuid: Some(member.uuid.clone()),
        active: "-".to_owned(),
        active_part: match root {
            true => env.active(),
            false => String::new(),
        },
        mounted: env.mounted.first().filter(|_| root).cloned(),
        space,
        created: env.record.created,
        kernel: None,
        description: text.clone(),
        plain: text,
        below: true,
    }
}

fn snapshot(
    env: &Environment,
    taken: &Snapshot,
    found: &SnapshotState,
    space: Option<u64>,
) -> Line {
    let text = plain(&taken.description);
    let gone = found.subvolumes.iter().any(Option::is_none);
    Line {
        env: env.name().to_string(),
        name: Named::snapshot(env.name(), &taken.name).to_string(),
        uuid: taken.subvolumes.first().map(|m| m.uuid.clone()),
        active: "-".to_owned(),
        active_part: String::new(),
        mounted: found.mounted.first().cloned(),
        space,
        created: taken.created,
        kernel: None,
        description: match gone {
            true => format!("[gone] {text}").trim_end().to_owned(),
            false => text.clone(),
        },
        plain: text,
        below: true,
    }
}

/// One field of one line, whatever a person wrote into a description.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Bytes in binary units, as `bectl` and `zfs` show them.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "K", "M", "G", "T"] {
        if value < 999.5 {
            return match value {
                _ if unit == "B" => format!("{bytes}B"),
                v if v < 9.995 => format!("{v:.2}{unit}"),
                v if v < 99.95 => format!("{v:.1}{unit}"),
                v => format!("{v:.0}{unit}"),
            };
        }
        value /= 1024.0;
    }
    format!("{value:.0}P")
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

fn shown(path: Option<PathBuf>) -> Option<String> {
    path.map(|p| plain(&p.display().to_string()))
}

fn cells(line: Line, stem: &str, clock: Clock<'_>) -> [String; 7] {
    [
        format!("{stem}{}", line.name),
        line.active,
        or_dash(shown(line.mounted)),
        or_dash(line.space.map(human)),
        clock(line.created),
        or_dash(line.kernel),
        line.description,
    ]
}

fn script(line: &Line) -> String {
    let fields = [
        line.name.clone(),
        line.active.clone(),
        or_dash(shown(line.mounted.clone())),
        or_dash(line.space.map(|bytes| bytes.to_string())),
        line.created.timestamp().to_string(),
        or_dash(line.kernel.clone()),
        line.plain.clone(),
    ];
    fields.join("\t") + "\n"
}

/// As beadm(8) of illumos prints it for `-H`: name, UUID (or the dataset, or the snapshot),
/// active, mountpoint, bytes, policy, seconds; what is not there is empty.
fn beadm(line: &Line) -> String {
    let second = match line.below {
        true => line.name.clone(),
        false => line.uuid.clone().unwrap_or_default(),
    };
    let fields = [
        line.env.clone(),
        second,
        line.active_part.replace('-', ""),
        shown(line.mounted.clone()).unwrap_or_default(),
        line.space
            .map(|bytes| bytes.to_string())
            .unwrap_or_default(),
        "static".to_owned(),
        line.created.timestamp().to_string(),
    ];
    fields.map(|field| field.replace(';', "?")).join(";") + "\n"
}

fn aligned(head: [String; 7], lines: impl Iterator<Item = [String; 7]>) -> String {
    let lines: Vec<_> = std::iter::once(head).chain(lines).collect();
    let width = |column: usize| {
        let cells = lines.iter().map(|l| l[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..7).map(width).collect();
    let line = |l: &[String; 7]| {
        let cells: Vec<String> = l
            .iter()
            .zip(&widths)
            .map(|(cell, w)| format!("{cell:w$}"))
            .collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(line).collect()
}

/// One of `environments` in the document of `--json`.
pub fn document(row: &Row) -> Value {
    let env = row.env;
    let all = env.record.subvolumes.iter().zip(&env.subvolumes);
    let subvolumes: Vec<Value> = all
        .map(|(member, found)| {
            json!({
                "path": found.as_ref().map(Subvolume::option),
                "mount": member.mount,
                "policy": member.policy,
                "id": found.as_ref().map(|s| s.id),
                "uuid": member.uuid,
            })
        })
        .collect();
    let all = env.record.snapshots.iter().zip(&env.snapshots);
    let snapshots: Vec<Value> = all
        .map(|(taken, found)| taken_document(taken, found))
        .collect();
    let mut document = json!({
        "name": env.name(),
        "uuid": env.record.root().map(|m| &m.uuid),
        "state": env.state(),
        "running": env.running,
        "next": env.next,
        "once": env.once,
        "pinned": env.record.pinned,
        "mountpoint": env.mounted.first(),
        "created": env.record.created.to_rfc3339(),
        "origin": env.record.origin,
        "description": env.record.description,
        "kernel": row.kernel,
        "subvolumes": subvolumes,
        "snapshots": snapshots,
        "space": row.space.map(|s| json!({ "exclusive": s.exclusive, "referenced": s.referenced })),
    });
    // As most are none, and what scripts know stays as it is.
    if env.record.builder.is_some() {
        document["builder"] = true.into();
    }
    document
}

fn taken_document(taken: &Snapshot, found: &SnapshotState) -> Value {
    let all = taken.subvolumes.iter().zip(&found.subvolumes);
    let subvolumes: Vec<Value> = all
        .map(|(member, found)| {
            json!({
                "path": found.as_ref().map(Subvolume::option),
                "mount": member.mount,
                "id": found.as_ref().map(|s| s.id),
                "uuid": member.uuid,
            })
        })
        .collect();
    json!({
        "name": taken.name,
        "created": taken.created.to_rfc3339(),
        "description": taken.description,
        "state": taken.state,
        "mountpoint": found.mounted.first(),
        "subvolumes": subvolumes,
    })
}

#[cfg(test)]
mod tests;
