//! `be layout`

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use be_core::host;
use be_core::layout::{self, Layout, Part, Pending};
use be_core::model::Inventory;
use be_core::plan;
use be_core::record::Policy;
use be_core::refusal::Refusal;
use be_core::session::Session;
use serde_json::json;

use crate::context::Context;
use crate::reporter::Outcome;

/// Show what belongs to an environment and what is shared by all; or choose it.
///
/// Each subvolume is cloned (goes into every environment when it is created), late (cloned
/// from the running system again when an environment is activated: databases) or shared (one
/// for all environments). What belongs to packages is cloned unless you choose otherwise,
/// everything else is shared.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Choose what becomes of the subvolume that is seen at PATH.
    Set {
        /// Where it is mounted, or lies.
        path: PathBuf,
        /// What happens to it when an environment is created.
        #[arg(value_parser = policy)]
        policy: Policy,
    },
    /// Turn the directory PATH into a subvolume of its own, from the next boot on.
    Split {
        /// A directory of the running system that holds only data.
        path: PathBuf,
        /// What happens to it when an environment is created; the usual for the place if it
        /// is not given.
        #[arg(value_parser = policy)]
        policy: Option<Policy>,
    },
}

fn policy(text: &str) -> Result<Policy, String> {
    Policy::parse(text).ok_or_else(|| "it is one of cloned, late and shared".to_owned())
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    match &args.action {
        None => show(&ctx.session),
        Some(Action::Split { path, policy }) => split(ctx, path, *policy),
        Some(Action::Set { path, policy }) => {
            let work = ctx.begin()?;
            // As a person types it: /srv/ is /srv.
            let path: PathBuf = path.components().collect();
            let planned = plan::set_policy(&work.inv, &path, *policy)?;
            let nothing = planned.steps.is_empty();
            let done = match ctx.carry_out(work, &planned)? {
                Ok(done) => done,
                Err(shown) => return Ok(shown),
            };
            let (path, policy) = (path.display().to_string(), policy.as_str());
            let already = if nothing { " already" } else { "" };
            Ok(Outcome::new(json!({ "path": path, "policy": policy }))
                .text(format!("{path} is {policy}{already}\n"))
                .notes(done.notes))
        }
    }
}

/// Make a subvolume of a directory.
pub fn split(ctx: &mut Context, path: &Path, policy: Option<Policy>) -> Result<Outcome> {
    if !host::sees_the_machine() {
        return Err(Refusal::Blind.into());
    }
    let work = ctx.begin()?;
    let path: PathBuf = path.components().collect();
    let request = layout::split_request(&ctx.session, &work.inv, &path, policy)?;
    let again = request.pending.is_some();
    let planned = plan::split(&work.inv, &request)?;
    let done = match ctx.carry_out(work, &planned)? {
        Ok(done) => done,
        Err(shown) => return Ok(shown),
    };
    let inv = ctx.session.observe()?;
    let made = layout::pending(&ctx.session, &inv)?;
    let made = made.into_iter().find(|p| p.mount == path);
    let made = made.context("the split was made, and cannot be found")?;
    let (shown, subvolume) = (path.display(), made.subvolume.option());
    Ok(Outcome::new(json!({
        "path": path,
        "policy": made.policy,
        "subvolume": subvolume,
        "uuid": made.subvolume.uuid,
        "again": again,
        "changed": made.changed,
    }))
    .text(match again {
        true => {
            format!("{shown} is copied anew into {subvolume}; it is switched at the next boot\n")
        }
        false => format!("{shown} is {subvolume} from the next boot on\n"),
    })
    .notes(done.notes)
    .notes(made.behind()))
}

fn show(session: &Session) -> Result<Outcome> {
    let inv = &session.observe()?;
    let pending = layout::pending(session, inv)?;
    let waits = |part: &Part| pending.iter().find(|p| p.mount == part.mount && !p.written);
    let system = &inv.system;
    let layout = &system.layout;
    let mut rows = vec![["PATH", "POLICY", "SUBVOLUME", ""].map(str::to_owned)];
    rows.push(row("/", "cloned", &system.root.option(), ""));
    if let Some(boot) = &layout.boot {
        let place = match &boot.place.subvolume {
            Some(path) => format!("/{}", path.display()),
            None => format!("{} {}", boot.place.fstype, boot.place.uuid),
        };
        rows.push(row(
            "/boot",
            "cloned",
            &place,
            "kernels go into the root of an environment",
        ));
    }
    for part in &layout.parts {
        let mount = part.mount.display().to_string();
        rows.push(row(
            &mount,
            part.policy.as_str(),
            &seen(part),
            &remark(part, waits(part)),
        ));
    }
    for target in elsewhere(inv, layout) {
        rows.push(row(&target, "shared", "-", "another filesystem"));
    }
    let widths: [usize; 3] =
        std::array::from_fn(|i| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0));
    let text: String = rows
        .iter()
        .map(|r| {
            let line = format!(
                "{:3$}  {:4$}  {:5$}  ",
                r[0], r[1], r[2], widths[0], widths[1], widths[2]
            ) + &r[3];
            line.trim_end().to_owned() + "\n"
        })
        .collect();
    let parts: Vec<_> = layout
        .parts
        .iter()
        .map(|p| {
            json!({
                "path": p.mount,
                "policy": p.policy,
                "chosen": p.chosen,
                "subvolume": p.subvolume.option(),
                "within": p.within,
                "id": p.subvolume.id,
                "uuid": p.subvolume.uuid,
                "listed": p.listed,
                "pending": waits(p).map(|w| json!({ "changed": w.changed })),
            })
        })
        .collect();
    let refused = be_core::layout::supported(system).err();
    Ok(Outcome::new(json!({
        "root": system.root.option(),
        "boot": layout.boot.as_ref().map(|b| &b.place),
        "parts": parts,
        "supported": refused.is_none(),
    }))
    .text(text)
    .notes(
        pending
            .iter()
            .filter(|p| !p.written)
            .filter_map(Pending::behind),
    )
    .notes(refused.map(|r| format!("no environment can be created: {r}; {}", r.hint()))))
}

fn row(path: &str, policy: &str, subvolume: &str, remark: &str) -> [String; 4] {
    [path, policy, subvolume, remark].map(str::to_owned)
}

fn seen(part: &Part) -> String {
    match part.within.as_os_str().is_empty() {
        true => part.subvolume.option(),
        false => format!("{} of {}", part.within.display(), part.subvolume.option()),
    }
}

fn remark(part: &Part, waits: Option<&Pending>) -> String {
    let mut remarks = Vec::new();
    if waits.is_some() {
        remarks.push("from the next boot on".to_owned());
    }
    if part.chosen {
        remarks.push("chosen".to_owned());
    }
    if !part.listed {
        remarks.push("not in fstab".to_owned());
    }
    match part.nested.len() {
        0 => {}
        1 => remarks.push("with a subvolume in it".to_owned()),
        n => remarks.push(format!("with {n} subvolumes in it")),
    }
    remarks.join(", ")
}

/// What fstab mounts from other filesystems.
fn elsewhere(inv: &Inventory, layout: &Layout) -> Vec<String> {
    be_core::layout::shared(&inv.system)
        .into_iter()
        .filter(|target| layout.part_at(target).is_none())
        .map(|target| target.display().to_string())
        .collect()
}
