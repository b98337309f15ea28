//! Completion of names: what `be list` would show.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use be_core::model::Inventory;
use be_core::name::Named;
use be_core::refusal::exit;
use be_core::session::Session;
use clap::CommandFactory;
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};

use crate::args::Cli;

/// By which the script of a shell asks for completions; its value is the shell's name.
pub const VARIABLE: &str = "BE_COMPLETE";

/// Answer the script of a shell, if it is one that asks.
pub fn names_asked_for(arguments: &[OsString]) -> Option<u8> {
    let here = std::env::current_dir().ok();
    let answered = CompleteEnv::with_factory(Cli::command)
        .var(VARIABLE)
        .try_complete(arguments, here.as_deref());
    match answered {
        Ok(true) => Some(exit::DONE),
        Ok(false) => None,
        Err(error) => {
            // clap knows where to print it.
            let _closed = error.print();
            Some(exit::USAGE)
        }
    }
}

/// Completes the names of environments.
pub fn environments() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| candidates(typed, false))
}

/// Completes the names of environments and of their snapshots.
pub fn both() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| candidates(typed, true))
}

fn candidates(typed: &OsStr, snapshots: bool) -> Vec<CompletionCandidate> {
    // Who may not look at environments gets none, and no message in the middle of a line.
    let sysroot = std::env::var_os("BE_SYSROOT").map_or_else(|| "/".into(), PathBuf::from);
    let observed = Session::open(&sysroot).and_then(|session| session.observe());
    let typed = typed.to_string_lossy();
    observed
        .map(|inv| names(&inv, snapshots))
        .unwrap_or_default()
        .into_iter()
        .filter(|name| name.starts_with(&*typed))
        .map(CompletionCandidate::new)
        .collect()
}

fn names(inv: &Inventory, snapshots: bool) -> Vec<String> {
    let mut names = Vec::new();
    for env in &inv.environments {
        names.push(env.name().to_string());
        let taken = env.record.snapshots.iter().filter(|_| snapshots);
        names.extend(taken.map(|s| Named::snapshot(env.name(), &s.name).to_string()));
    }
    names
}
