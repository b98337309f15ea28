//! Upgrades by other package managers than Portage, on real parts.

mod apt;
mod apt_config;
mod dnf;
mod pacman;

use std::fs;

use anyhow::Result;
use be_tests::be::Outcome;
use be_tests::system::System;
use serde_json::Value;
use xtask::run::cmd;

/// Runs `be upgrade new`; gives also what its progress told of packages: what one goes through,
/// which one it is, how many are done, and of how many.
fn watched(system: &System) -> Result<(Outcome, Vec<String>)> {
    let file = system.dir().join("progress");
    let be = system.be.command(&["--progress-fd", "3", "upgrade", "new"]);
    let mut command = cmd("sh", ["-c", "exec 3>$0; exec \"$@\""]);
    command.arg(&file).arg(be.get_program()).args(be.get_args());
    let outcome = Outcome::of(&mut command).done();
    let mut told = Vec::new();
    for line in fs::read_to_string(file)?.lines() {
        let event: Value = serde_json::from_str(line)?;
        if event["event"] == "merge" {
            let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
            let (step, package) = (text("step"), text("package"));
            told.push(format!(
                "{step} {package} {} {}",
                event["done"], event["total"]
            ));
        }
    }
    // What lasts is told every second.
    told.dedup();
    Ok((outcome, told))
}
