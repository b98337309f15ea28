//! `cargo xtask test`: the plain tests first, then those on real file systems and machines.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use nix::unistd::Uid;

use crate::run::{cmd, status};
use crate::{lab, packages, say};

/// The module, in any file, of tests that repeat what others show in another setting.
const THOROUGH: &str = "thorough::";

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
    step("format", || cargo(&["fmt", "--all", "--check"], false))?;
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
        cargo(&args, false)
    })?;
    step("tests that need no privileges", || {
        cargo(&["test", "--workspace", "--quiet"], false)
    })?;
    step("build be", || {
        cargo(&["build", "--package", "be", "--quiet"], false)
    })?;
    step("the lab", ensure_lab)?;
    let mut real = vec![
        "test",
        "--workspace",
        "--quiet",
        "--",
        "--ignored",
        "--test-threads",
        "2",
    ];
    if extent == Extent::Usual {
        real.extend(["--skip", THOROUGH]);
    }
    step("tests on real file systems and machines", || {
        cargo(&real, true)
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

/// Built by the user, run with privileges: nothing in the tree becomes root's.
pub(crate) fn cargo(args: &[&str], as_root: bool) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    if as_root && !Uid::effective().is_root() {
        command.args(["--config", "target.'cfg(unix)'.runner=['sudo','-E']"]);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    status(command.args(args).current_dir(root))
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
