//! `be diff --lock`

use std::path::Path;

use anyhow::Result;
use be_core::lock::{self, Difference, Lock, Part};
use be_core::name::Named;
use serde_json::{Value, json};

use super::super::{environment, lock::read};
use super::text::clean;
use crate::context::Context;
use crate::reporter::{Outcome, count};

/// What the lock in a file and an environment differ in; the running one if none is named.
pub fn run(file: &Path, env: Option<&Named>, ctx: &mut Context) -> Result<Outcome> {
    let wanted = read(file)?;
    let inv = ctx.session.observe()?;
    let name = env.map(|env| environment(env, "compared with a lock"));
    let env = inv.origin(name.transpose()?.as_ref())?;
    let found = lock::current(&ctx.session, &inv, env, ctx.now)?;
    let differences = lock::differences(&wanted, &found);
    let from = file.display().to_string();
    let to = env.name().to_string();
    let text = match differences.is_empty() {
        true => format!("nothing differs: {to} is as {from} says\n"),
        false => render(&differences, &wanted, &found, &from, &to),
    };
    let note = wanted.is_for_others().then(|| {
        format!("{from} is published for comparing the configuration: it has nothing else")
    });
    let of = |found: &Lock| json!({ "configuration_digest": found.configuration_digest() });
    Ok(Outcome::new(json!({
        "from": from,
        "to": to,
        "same": differences.is_empty(),
        "lock": of(&wanted),
        "environment": of(&found),
        "configuration_same": wanted.configuration_digest() == found.configuration_digest(),
        "differences": differences.iter().map(document).collect::<Vec<_>>(),
    }))
    .text(clean(&text))
    .notes(note))
}

/// A difference for programs, with what a person is told of it.
pub fn document(difference: &Difference) -> Value {
    json!({
        "part": difference.part,
        "what": difference.what,
        "change": difference.change,
        "text": clean(&difference.to_string()),
    })
}

fn render(all: &[Difference], wanted: &Lock, found: &Lock, from: &str, to: &str) -> String {
    let mut text = format!("{from} -> {to}\n");
    let mut last = None;
    for difference in all {
        if last != Some(difference.part) {
            text.push_str(&format!("\n{}\n", title(difference.part)));
            last = Some(difference.part);
        }
        text.push_str(&format!("{}\n", difference.to_string().replace('\n', " ")));
    }
    let deciding = lock::configuration_differences(wanted, found).len();
    let deciding = match deciding {
        0 => "none decides what a package that is built looks like".to_owned(),
        n => format!("{n} decide what a package that is built looks like"),
    };
    text.push_str(&format!(
        "\n{}; {deciding}\n",
        count(all.len(), "difference")
    ));
    text
}

fn title(part: Part) -> &'static str {
    match part {
        Part::Repository => "Repositories",
        Part::Location => "Places of repositories",
        Part::Configuration => "Configuration of Portage",
        Part::Profile => "Profile",
        Part::World => "World",
        Part::Setting => "Settings",
        Part::Toolchain => "Toolchain",
        Part::Portage => "Portage",
        Part::Binhost => "Indexes of binary packages",
        Part::Package => "Packages",
    }
}
