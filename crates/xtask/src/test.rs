//! `cargo xtask test`: the plain tests first, then those on real file systems and machines.

mod real;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use nix::unistd::Uid;

use crate::run::{cmd, status};
use crate::{lab, packages, say};

/// Which tests are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Those that show something of their own.
    Usual,
    /// Every one.
    Thorough,
}

/// Runs the tests.
///
/// # Errors
/// The first step that fails ends it.
pub fn all(extent: Extent) -> Result<()> {
    step("what the machine lacks", packages::ensure_host_tools)?;
    step("format", || {
        status(&mut cargo(&["fmt", "--all", "--check"]))
    })?;
    step("lints", || {
        let args = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ];
        status(&mut cargo(&args))
    })?;
    step("tests that need no privileges", || {
        status(&mut cargo(&["test", "--workspace", "--quiet"]))
    })?;
    step("build be", || {
        status(&mut cargo(&["build", "--package", "be", "--quiet"]))
    })?;
    step("the lab", ensure_lab)?;
    step("tests on real file systems and machines", || {
        real::run_all(extent)
    })
}

/// The lab belongs to root, who builds it. Run by somebody else, this program
/// calls itself with privileges.
fn ensure_lab() -> Result<()> {
    if Uid::effective().is_root() {
        return lab::build_all();
    }
    let own = std::env::current_exe().context("find this program")?;
    status(cmd("sudo", ["-E"]).arg(own).arg("lab"))
}

/// cargo, at the top of the workspace.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    command.args(args).current_dir(root);
    command
}

fn step(name: &str, action: impl FnOnce() -> Result<()>) -> Result<()> {
    say(&format!("== {name}"));
    let start = Instant::now();
    action().with_context(|| format!("failed: {name}"))?;
    say(&format!(
        "== {name}: {:.0} s",
        start.elapsed().as_secs_f32()
    ));
    Ok(())
}
