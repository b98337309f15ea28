//! `be completions`

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use crate::args::Cli;
use crate::reporter::Outcome;

/// Print the completions for a shell.
///
/// For bash: be completions bash > /usr/share/bash-completion/completions/be
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which shell.
    shell: Shell,
}

pub fn run(args: &Args) -> Result<Outcome> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "be", &mut text);
    let text = String::from_utf8(text)?;
    Ok(Outcome::new(json!({ "completions": text })).text(text))
}
