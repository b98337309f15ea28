//! The gate `sshd`: where one logs in over the network, the server starts.

use std::time::Duration;

use anyhow::Result;

use super::run::{Place, Ran};
use super::services::is_enabled;
use super::{Outcome, Scene};

const PROGRAM: &str = "usr/sbin/sshd";
const NAMES: [&str; 5] = [
    "sshd",
    "sshd.service",
    "sshd.socket",
    "ssh.service",
    "ssh.socket",
];
/// How many lines of its output are told, the last ones.
const SAID: usize = 3;
const LIMIT: Duration = Duration::from_secs(60);

pub(super) fn check(scene: &Scene<'_>) -> Result<Outcome> {
    if !scene.after.is_file(PROGRAM)? {
        return Ok(Outcome::Skipped("it is not installed".to_owned()));
    }
    if !is_enabled(&scene.after, &NAMES) {
        return Ok(Outcome::Skipped("it is not enabled".to_owned()));
    }
    let argv = || vec![format!("/{PROGRAM}"), "-t".to_owned()];
    let now = scene.run(Place::Environment, argv(), LIMIT)?;
    if now.succeeded() {
        return Ok(Outcome::Passed(
            "sshd -t takes the configuration".to_owned(),
        ));
    }
    // Host keys are often made at the first start: without any, it did not succeed before.
    if scene.before.is_file(PROGRAM)? && !scene.run(Place::Base, argv(), LIMIT)?.succeeded() {
        let why = format!("sshd -t failed before the upgrade, too: {}", said(&now));
        return Ok(Outcome::Skipped(why));
    }
    if !has_keys(scene) {
        return Ok(Outcome::Skipped(format!(
            "it has no host keys yet: {}",
            said(&now)
        )));
    }
    Ok(Outcome::Failed(vec![format!("sshd -t: {}", said(&now))]))
}

/// Keys where they usually are, in the environment or, so that it must not lack them, before.
fn has_keys(scene: &Scene<'_>) -> bool {
    [&scene.before, &scene.after].into_iter().any(|root| {
        let names = root.list("etc/ssh").unwrap_or_default();
        names.iter().any(|(name, _)| {
            let name = name.to_string_lossy();
            name.starts_with("ssh_host_") && name.ends_with("_key")
        })
    })
}

fn said(ran: &Ran) -> String {
    let lines: Vec<&str> = ran.output.lines().map(str::trim).collect();
    let lines: Vec<&str> = lines.into_iter().filter(|l| !l.is_empty()).collect();
    match lines.is_empty() {
        true => ran.end(LIMIT),
        false => lines[lines.len().saturating_sub(SAID)..].join(", "),
    }
}
