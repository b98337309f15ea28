//! `be list`

use anyhow::Result;
use be_core::model::{Environment, Inventory};
use be_core::name::EnvName;
use be_core::parallel;
use be_core::session::Session;
use be_core::space::{self, Space};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::context::Context;
use crate::reporter::Outcome;

/// List the environments.
///
/// Active: N is running now, R boots by default.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For scripts: tabs, no header, seconds since 1970, bytes.
    #[arg(short = 'H', long, conflicts_with = "json")]
    script: bool,
    /// Sort by KEY.
    #[arg(short = 'k', value_name = "KEY", conflicts_with = "descending")]
    ascending: Option<Key>,
    /// Sort by KEY, backwards.
    #[arg(short = 'K', value_name = "KEY")]
    descending: Option<Key>,
    /// Find out the space that would be free without each: takes a while.
    #[arg(long)]
    space: bool,
    /// Only this one.
    name: Option<EnvName>,
}

/// What to sort by.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Key {
    /// By name.
    Name,
    /// By creation.
    #[value(alias = "date")]
    Created,
}

struct Row<'a> {
    env: &'a Environment,
    kernel: Option<String>,
    space: Option<Space>,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let inv = ctx.session.observe()?;
    inv.initialised()?;
    let spaces = match args.space {
        true => space::of(&ctx.session.store, &inv)?,
        false => space::Spaces::default(),
    };
    let environments: Vec<&Environment> = match &args.name {
        Some(name) => vec![inv.get(name)?],
        None => inv.environments.iter().collect(),
    };
    let mut rows: Vec<Row> = parallel::map(&environments, |env| Row {
        env,
        kernel: newest_kernel(&ctx.session, env),
        space: spaces.environment(env.name()),
    });
    if let Some(Key::Name) = args.ascending.or(args.descending) {
        rows.sort_by_key(|r| r.env.name().clone());
    }
    if args.descending.is_some() {
        rows.reverse();
    }
    let text = match args.script {
        true => rows.iter().map(script_line).collect(),
        false => table(&rows),
    };
    let environments: Vec<Value> = rows.iter().map(document).collect();
    Ok(Outcome::new(json!({ "environments": environments }))
        .text(text)
        .notes(damage(&inv)))
}

fn newest_kernel(session: &Session, env: &Environment) -> Option<String> {
    let root = session.store.root_of(&env.root.as_ref()?.path).ok()?;
    be_core::boot::newest_version(&root)
}

fn damage(inv: &Inventory) -> Vec<String> {
    let damaged = inv.damaged.iter();
    damaged
        .map(|(name, why)| format!("{name} is left out, its record cannot be read: {why}"))
        .collect()
}

fn mountpoint(env: &Environment) -> String {
    match env.mounted.first() {
        Some(dir) => dir.display().to_string(),
        None => "-".to_owned(),
    }
}

/// One field of one line, whatever a person wrote into a description.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn description(env: &Environment) -> String {
    let state = match env.state() {
        be_core::record::State::Ready | be_core::record::State::Confirmed => String::new(),
        state => format!("[{}] ", state.as_str()),
    };
    format!("{state}{}", plain(&env.record.description))
}

fn exclusive(row: &Row, shown: fn(u64) -> String) -> String {
    let space = row.space.map(|space| shown(space.exclusive));
    space.unwrap_or_else(|| "-".to_owned())
}

/// Bytes in binary units, as `bectl` and `zfs` show them.
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

fn script_line(row: &Row) -> String {
    let fields = [
        row.env.name().to_string(),
        row.env.active(),
        mountpoint(row.env),
        exclusive(row, |bytes| bytes.to_string()),
        row.env.record.created.timestamp().to_string(),
        row.kernel.clone().unwrap_or_else(|| "-".into()),
        plain(&row.env.record.description),
    ];
    fields.join("\t") + "\n"
}

fn table(rows: &[Row]) -> String {
    let head = [
        "BE",
        "Active",
        "Mountpoint",
        "Space",
        "Created",
        "Kernel",
        "Description",
    ];
    let mut lines: Vec<[String; 7]> = vec![head.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        [
            row.env.name().to_string(),
            row.env.active(),
            mountpoint(row.env),
            exclusive(row, human),
            row.env
                .record
                .created
                .with_timezone(&chrono::Local)
                .format("%Y-%m-%d %H:%M")
                .to_string(),
            row.kernel.clone().unwrap_or_else(|| "-".into()),
            description(row.env),
        ]
    }));
    aligned(&lines)
}

fn aligned(lines: &[[String; 7]]) -> String {
    let width = |column: usize| {
        lines
            .iter()
            .map(|l| l[column].chars().count())
            .max()
            .unwrap_or(0)
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

fn document(row: &Row) -> Value {
    let env = row.env;
    let root = env.root.as_ref();
    let subvolumes: Vec<Value> = env
        .record
        .subvolumes
        .iter()
        .map(|member| {
            json!({
                "path": root.map(|r| r.option()),
                "mount": member.mount,
                "policy": member.policy,
                "id": root.map(|r| r.id),
                "uuid": member.uuid,
            })
        })
        .collect();
    json!({
        "name": env.name(),
        "uuid": env.record.root().map(|m| &m.uuid),
        "state": env.state(),
        "running": env.running,
        "next": env.next,
        "once": false,
        "pinned": env.record.pinned,
        "mountpoint": env.mounted.first(),
        "created": env.record.created.to_rfc3339(),
        "origin": env.record.origin,
        "description": env.record.description,
        "kernel": row.kernel,
        "subvolumes": subvolumes,
        "space": row.space.map(|space| json!({
            "exclusive": space.exclusive,
            "referenced": space.referenced,
        })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let line = |name: &str, text: &str| {
            [name, "NR", "/", "-", "2026-11-20 01:02", "6.12.1", text].map(str::to_owned)
        };
        assert_eq!(
            aligned(&[line("a", ""), line("a-long-name", "früher")]),
            "a            NR  /  -  2026-11-20 01:02  6.12.1\n\
             a-long-name  NR  /  -  2026-11-20 01:02  6.12.1  früher\n"
        );
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
    fn a_description_stays_on_its_line() {
        assert_eq!(plain("a\tb\nc"), "a b c");
    }
}
