//! `be moves`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use be_core::portage::moves::repository::Repository;
use be_core::portage::moves::scan::{Finding, Kind, Patch, Scan, scan};
use be_core::refusal::{Refusal, exit};
use clap::ValueHint;
use serde_json::json;

use crate::args::Global;
use crate::reporter::{Outcome, count};

/// Find packages that are still called by a name or a slot that they had before a move.
///
/// Looks into ebuilds, eclasses and profiles of repositories, /etc/portage, the world and
/// installed packages. Exit code 1 if there are any. Needs no btrfs and no root.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Look into these repositories, or directories of some, and not into the system.
    #[arg(value_name = "REPO-DIR", value_hint = ValueHint::DirPath)]
    repositories: Vec<PathBuf>,
    /// The root of the system that is looked into, or whose repositories the ones that are
    /// named build upon; --sysroot if not given.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    root: Option<PathBuf>,
    /// Print what would mend the repositories, as a unified diff.
    #[arg(long)]
    patch: bool,
}

pub fn run(args: &Args, global: &Global) -> Result<Outcome> {
    let root = args.root.as_deref().unwrap_or(&global.sysroot);
    let found = match args.repositories.is_empty() {
        true => in_system(root)?,
        false => in_repositories(&args.repositories, root)?,
    };
    Ok(report(&found, args.patch))
}

fn in_system(root: &Path) -> Result<Scan> {
    let repositories = Repository::configured(root)?;
    if repositories.is_empty() {
        let root = root.to_owned();
        return Err(Refusal::NoRepository { root }.into());
    }
    scan(&repositories, |_| true, Some(root))
}

/// The named ones are looked into; those of the system are known besides.
fn in_repositories(paths: &[PathBuf], root: &Path) -> Result<Scan> {
    let mut repositories = Vec::new();
    for path in paths {
        repositories.extend(Repository::open_all(path)?);
    }
    let named = repositories.len();
    for configured in Repository::configured(root)? {
        if repositories.iter().all(|r| r.name != configured.name) {
            repositories.push(configured);
        }
    }
    let asked: Vec<_> = repositories.iter().take(named).map(|r| &r.path).collect();
    scan(&repositories, |r| asked.contains(&&r.path), None)
}

fn report(found: &Scan, patch: bool) -> Outcome {
    let mut document = json!({
        "clean": found.findings.is_empty(),
        "findings": found.findings,
        "malformed": found.malformed,
        "unseen": found.unseen,
    });
    let mut notes: Vec<String> = found.malformed.clone();
    notes.extend(found.unseen.iter().map(|what| format!("not seen: {what}")));
    let text = match patch {
        true => {
            document["patches"] = json!(found.patches);
            notes.extend(found.patches.iter().filter_map(manifests));
            diffs(&found.patches)
        }
        false => text(&found.findings),
    };
    let code = match found.findings.is_empty() {
        true => exit::DONE,
        false => exit::FAILED,
    };
    Outcome::new(document).text(text).notes(notes).code(code)
}

fn text(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "no old name is left\n".to_owned();
    }
    let mut names: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for finding in findings {
        let name = (&finding.old, &finding.new);
        names.entry(name).or_default().push(finding);
    }
    let mut text = String::new();
    for ((old, new), places) in &names {
        text.push_str(&format!("{old} -> {new}\n"));
        let by = places.iter().flat_map(|f| &f.moved_by);
        let mut by: Vec<_> = by.collect();
        by.sort();
        by.dedup();
        for place in by {
            text.push_str(&format!("    moved by  {place}\n"));
        }
        for place in places {
            text.push_str(&line(place));
        }
    }
    text + &format!(
        "\n{} in {}\n",
        count(names.len(), "old name"),
        count(findings.len(), "place")
    )
}

fn line(finding: &Finding) -> String {
    let repository = match (finding.kind, &finding.repository) {
        (Kind::Ebuild | Kind::Eclass | Kind::Profile, Some(name)) => format!("::{name}  "),
        (Kind::Installed, _) => "installed  ".to_owned(),
        _ => String::new(),
    };
    let lines: Vec<String> = finding.lines.iter().map(usize::to_string).collect();
    let lines = match lines.is_empty() {
        true => String::new(),
        false => format!(":{}", lines.join(",")),
    };
    let mut line = format!("    {repository}{}{lines}", finding.file);
    if !finding.variables.is_empty() {
        line.push_str(&format!("  {}", finding.variables.join(" ")));
    }
    if finding.kind == Kind::Ebuild && finding.lines.is_empty() {
        line.push_str("  (not in its text)");
    }
    if !finding.satisfied {
        line.push_str("  (nothing matches there either)");
    }
    line + "\n"
}

/// One after the other; what stands between is no part of them for patch(1).
fn diffs(patches: &[Patch]) -> String {
    let titled = patches.iter().map(|patch| {
        let Patch {
            repository,
            directory,
            diff,
            ..
        } = patch;
        match patches.len() {
            1 => diff.clone(),
            _ => format!("{repository} ({directory}):\n{diff}"),
        }
    });
    titled.collect()
}

fn manifests(patch: &Patch) -> Option<String> {
    let packages = &patch.manifests;
    let sentence = format!(
        "{}: these need a new Manifest then: {}",
        patch.repository,
        packages.join(", ")
    );
    (!packages.is_empty()).then_some(sentence)
}
