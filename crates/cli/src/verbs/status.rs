//! `be status`

use anyhow::Result;
use be_core::name::EnvName;
use be_core::portage::config_files::waiting::Kind;
use be_core::portage::state::Debt;
use be_core::refusal::exit;
use be_core::status::{self, Next, Pending, Status, Why};
use chrono::{DateTime, FixedOffset, Local};
use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::display::in_words;
use crate::reporter::{Outcome, count};

/// Say where this machine is: what runs, what boots next and why, what is unfinished.
///
/// Exit code 1 says that it has fallen back: what was to run did not come up.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let inv = ctx.session.observe()?;
    inv.initialised()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = status::status(&ctx.session, &inv, &path)?;
    let code = match found.fallback {
        Some(_) => exit::FAILED,
        None => exit::DONE,
    };
    Ok(Outcome::new(document(&found, inv.menu.hooked, inv.fs.free))
        .text(text(&found))
        .notes(found.notes.clone())
        .code(code))
}

fn text(found: &Status) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| text.push_str(&format!("{label:9} {value}\n"));
    let kernel = found.kernel.as_ref();
    let kernel = kernel.map_or(String::new(), |k| format!(", Linux {k}"));
    match &found.running {
        Some(name) => line("running", &format!("{name} ({}){kernel}", found.root)),
        None => line(
            "running",
            &format!("{} (not an environment: be init){kernel}", found.root),
        ),
    }
    if let Some((failed, why)) = &found.fallback {
        let why = why.as_ref().map_or(String::new(), |why| format!(": {why}"));
        line(
            "fallback",
            &format!("{failed} did not come up{why} (be log {failed})"),
        );
    }
    line("next", &next(&found.next, found.running.as_ref()));
    for pending in &found.pending {
        line("pending", &unfinished(pending));
    }
    if let Some(behind) = found
        .left_behind
        .as_ref()
        .and_then(|l| l.sentences().into_iter().next())
    {
        line("behind", &behind);
    }
    for (name, paths) in &found.beside {
        let first = paths.first().map_or("", String::as_str);
        let more = match paths.len() {
            1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        let what = "changed on both sides, and both kept";
        line("to do", &format!("{name}: {what}: {first}{more}"));
    }
    for (name, debt) in &found.debts {
        line("to do", &format!("{name}: {}", owed(name, debt)));
    }
    line(
        "space",
        &format!(
            "{} free for data, {} for metadata; {}",
            size(found.space.data),
            size(found.space.metadata),
            count(found.environments, "environment")
        ),
    );
    let setup = match (found.setup.errors, found.setup.warnings) {
        (0, 0) => "nothing is wrong at a quick look".to_owned(),
        (errors, warnings) => {
            let (errors, warnings) = (count(errors, "error"), count(warnings, "warning"));
            format!("{errors}, {warnings}: be doctor names them")
        }
    };
    line("setup", &setup);
    if let Some(none) = &found.no_trial {
        line(
            "trials",
            &format!("not possible: {none} ({})", none.remedy()),
        );
    }
    text
}

fn next(next: &Next, running: Option<&be_core::name::EnvName>) -> String {
    match (&next.why, &next.default) {
        (Why::Unknown(why), _) => {
            format!("unknown: the menu cannot be read ({why}); be menu writes it anew")
        }
        (Why::NotHooked, _) => {
            "as your grub.cfg says: it does not read the menu of be (be init)".into()
        }
        (Why::Once, default) => {
            let name = next.once.as_deref().unwrap_or_default();
            let after = default
                .as_ref()
                .map_or(String::new(), |d| format!(", then {d}"));
            format!("{name}, for one boot{after} (be activate -T takes it back)")
        }
        (Why::Trial, Some(name)) => {
            let (left, fallback) = next
                .trial
                .as_ref()
                .map_or((0, None), |(n, f)| (*n, f.as_ref()));
            let boots = count(usize::from(left), "boot");
            let then = fallback.map_or(String::new(), |f| format!(", then {f}"));
            format!("{name}, on trial for {boots}{then}")
        }
        (Why::GrubReboot, default) => {
            let entry = next.once.as_deref().unwrap_or_default();
            let else_default = default
                .as_ref()
                .map_or(String::new(), |d| format!(", not {d}"));
            let sticks = match next.sticks {
                true => "; GRUB cannot clear that on btrfs: grub-editenv - unset next_entry",
                false => ", for one boot",
            };
            format!("{entry}, chosen by grub-reboot{else_default}{sticks}")
        }
        (Why::NoDefault, _) | (Why::Default | Why::Trial | Why::AtShutdown(_), None) => {
            "as your grub.cfg says: the menu has no default".into()
        }
        (Why::AtShutdown(failed), Some(name)) => {
            let failed = failed.as_ref();
            let failed = failed.map_or(String::new(), |why| format!("; the last time: {why}"));
            format!("{name}, once this system has shut down properly{failed}")
        }
        (Why::Default, Some(name)) if next.back.is_some() => {
            let back = next
                .back
                .as_ref()
                .map_or(String::new(), ToString::to_string);
            format!("{name} until it has come up, then {back}")
        }
        (Why::Default, Some(name)) if running == Some(name) => format!("{name} (no change)"),
        (Why::Default, Some(name)) => format!("{name} (activated)"),
    }
}

fn local(time: DateTime<FixedOffset>) -> String {
    let time = time.with_timezone(&Local);
    time.format("%Y-%m-%d %H:%M").to_string()
}

fn unfinished(pending: &Pending) -> String {
    let since = pending.since.map(|t| format!(", {}", local(t)));
    let remedy = pending.remedy.as_ref().map(|r| format!(" ({r})"));
    let merging = pending.merging.as_ref();
    let merging = merging.map(|m| format!(": {}", in_words(m, Local::now().timestamp())));
    format!(
        "{}: {}{}{}{}",
        pending.environment,
        pending.text,
        merging.unwrap_or_default(),
        since.unwrap_or_default(),
        remedy.unwrap_or_default()
    )
}

fn owed(name: &EnvName, debt: &Debt) -> String {
    let some = |n: usize, what: String, how: &str| (n > 0).then(|| format!("{what} ({how})"));
    let old = debt.config.iter().filter(|p| p.kind == Kind::Old).count();
    let (config, libs) = (debt.config.len() - old, debt.preserved_libs.len());
    let parts = [
        some(
            config,
            count(config, "new configuration file"),
            &format!("be config {name}"),
        ),
        some(
            old,
            count(old, "configuration file") + " moved away",
            &format!("be config {name}"),
        ),
        some(
            debt.news,
            count(debt.news, "unread news item"),
            "eselect news read",
        ),
        some(
            libs,
            format!("kept for old programs: {libs} of the libraries"),
            "emerge @preserved-rebuild",
        ),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Bytes in a unit that a person can compare.
fn size(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss)]
    let mib = bytes as f64 / f64::from(1 << 20);
    match mib {
        m if m < 1024.0 => format!("{m:.0} MiB"),
        m => format!("{:.1} GiB", m / 1024.0),
    }
}

fn document(found: &Status, hooked: bool, free: u64) -> Value {
    let beside: Map<String, Value> = found
        .beside
        .iter()
        .map(|(name, paths)| (name.to_string(), json!(paths)))
        .collect();
    let debts: Map<String, Value> = found
        .debts
        .iter()
        .map(|(name, debt)| (name.to_string(), json!(debt)))
        .collect();
    let left_behind = found.left_behind.as_ref().map(|left| {
        let counts: Map<String, Value> = left
            .counts()
            .into_iter()
            .map(|(dir, n)| (dir, json!(n)))
            .collect();
        json!({ "environment": left.target, "unrelated": left.unrelated, "counts": counts })
    });
    json!({
        "running": found.running,
        "root": found.root,
        "kernel": found.kernel,
        "next": found.next.default,
        "next_why": found.next.why.as_str(),
        "once": found.next.once,
        "trial": found.next.trial.as_ref().map(|(left, fallback)| json!({
            "left": left,
            "fallback": fallback,
        })),
        "fallback": found.fallback.as_ref().map(|(failed, why)| json!({
            "failed": failed,
            "why": why,
        })),
        "trials": match &found.no_trial {
            None => json!({ "possible": true }),
            Some(none) => json!({
                "possible": false,
                "why": none.to_string(),
                "remedy": none.remedy(),
            }),
        },
        "hooked": hooked,
        "pending": found.pending,
        "left_behind": left_behind,
        "debt": debts,
        "beside": beside,
        "free": free,
        "space": found.space,
        "environments": found.environments,
        "setup": found.setup,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [(0, "0 MiB"), (1023 << 20, "1023 MiB"), (3 << 29, "1.5 GiB")] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn what_is_owed_is_counted_with_its_remedy() {
        let debt = Debt {
            news: 1,
            preserved_libs: vec!["a".into(), "b".into()],
            ..Debt::default()
        };
        assert_eq!(
            owed(&EnvName::parse("x").expect("a name"), &debt),
            "1 unread news item (eselect news read), \
             kept for old programs: 2 of the libraries (emerge @preserved-rebuild)"
        );
    }
}
