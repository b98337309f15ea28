//! `be completions`

use anyhow::{Context, Result};
use clap_complete::Shell;
use clap_complete::env::Shells;
use serde_json::json;

use crate::complete::VARIABLE;
use crate::reporter::Outcome;

/// Print the completions for a shell: verbs, options, and the names of environments.
///
/// For bash: be completions bash > /usr/share/bash-completion/completions/be
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which shell.
    shell: Shell,
}

pub fn run(args: &Args) -> Result<Outcome> {
    let name = args.shell.to_string();
    let shells = Shells::builtins();
    let shell = shells.completer(&name).context("nothing is known of it")?;
    let mut text = Vec::new();
    shell.write_registration(VARIABLE, "be", "be", "be", &mut text)?;
    let text = String::from_utf8(text)?;
    Ok(Outcome::new(json!({ "completions": text })).text(text))
}
