//! `be test`

use std::time::Duration;

use anyhow::Result;
use be_core::chroot::Interrupted;
use be_core::name::EnvName;
use be_core::refusal::exit;
use be_core::vm::{self, Request, Verdict};
use serde_json::json;

use crate::complete;
use crate::context::Context;
use crate::reporter::Outcome;

/// Boot an environment in a throw-away virtual machine: QEMU, no network, nothing written.
///
/// It boots with its own kernel, initramfs and arguments, and its health service says whether
/// it has come up; without the service a prompt for a login counts. Exit code 0 if it has,
/// 8 if it has not, 1 if that is not known.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which one.
    #[arg(add = complete::environments())]
    env: EnvName,
    /// How long the boot may take; be.toml says how long without this.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// How much memory the machine gets; be.toml says how much without this.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(64..))]
    memory: Option<u64>,
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let work = ctx.begin()?;
    let name = work.inv.get(&args.env)?.name().clone();
    let mut request = Request::of(&ctx.session);
    request.memory_mib = args.memory.unwrap_or(request.memory_mib);
    request.limit = args.timeout.map_or(request.limit, Duration::from_secs);
    if let Some(dir) = std::env::var_os("TMPDIR") {
        request.scratch = dir.into();
    }
    let Some(lock) = work.lock else {
        return Ok(
            Outcome::new(json!({ "environment": name, "dry_run": true }))
                .text(format!("would boot {name} in a virtual machine\n")),
        );
    };
    let claim = ctx.session.store.claim(&name)?;
    drop(lock);
    let interrupted = Interrupted::watch()?;
    let (session, reporter) = (&ctx.session, &mut *ctx.reporter);
    let tested = vm::test(session, &name, &request, &interrupted, &mut |said| {
        reporter.note(said);
    })?;
    drop(claim);
    Ok(report(&name, &tested))
}

fn report(name: &EnvName, tested: &vm::Outcome) -> Outcome {
    let seconds = tested.took.as_secs_f64();
    let verdict = match tested.verdict {
        Verdict::Passed => "comes up",
        Verdict::Failed => "does not come up",
        Verdict::Unknown => "may come up or not: that is not known",
    };
    let log = vm::log_path(name);
    let log = log.display();
    let mut text = String::new();
    for line in &tested.last {
        text.push_str(&format!("  | {line}\n"));
    }
    text.push_str(&format!(
        "{name} {verdict} ({}, after {seconds:.0} s)\n",
        tested.why
    ));
    text.push_str(&next(name, tested.verdict, !tested.last.is_empty()));
    let (copied, copying) = tested.copied;
    let outcome = Outcome::new(json!({
        "environment": name,
        "verdict": tested.verdict.as_str(),
        "why": tested.why,
        "seconds": seconds,
        "kvm": tested.kvm,
        "copied": copied,
        "copying_seconds": copying.as_secs_f64(),
        "last": tested.last,
        "log": format!("/{log}"),
    }))
    .text(text);
    match tested.verdict {
        Verdict::Passed => outcome.code(exit::DONE),
        Verdict::Failed => outcome.code(exit::NOT_BOOTABLE),
        Verdict::Unknown => outcome.code(exit::FAILED),
    }
}

/// Where more is to be read, and what to do.
fn next(name: &EnvName, verdict: Verdict, spoke: bool) -> String {
    let command = match verdict {
        Verdict::Passed => return String::new(),
        Verdict::Failed => format!("be shell {name} to mend it, and be test {name} again"),
        Verdict::Unknown => format!("be activate --trial {name} boots it on this machine"),
    };
    // It may not even have booted.
    let log = match spoke {
        true => format!(
            "all that it said: /{} from the top level of the filesystem\n",
            vm::log_path(name).display()
        ),
        false => String::new(),
    };
    format!("{log}next: {command}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_pass_names_the_log_and_what_to_do() {
        let name = EnvName::parse("new").unwrap();
        let said = next(&name, Verdict::Failed, true);
        assert!(said.contains("/@be/new/log/test.log"), "{said}");
        assert!(said.contains("be shell new"), "{said}");
        let said = next(&name, Verdict::Unknown, false);
        assert!(
            said.contains("--trial new") && !said.contains("log"),
            "{said}"
        );
        assert_eq!(next(&name, Verdict::Passed, false), "");
    }
}
