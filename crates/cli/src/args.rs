//! The command line: global options, and the list of verbs. A verb's own arguments stand
//! in its file under `verbs`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::verbs;

/// Boot environments for btrfs: upgrade a copy of the system, then reboot into it.
#[derive(Debug, Parser)]
#[command(
    name = "be",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = "First steps:  be init;  be upgrade;  reboot.  Back again:  be rollback;  reboot.\n\
                  Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 busy, 5 no space,\n\
                  6 upgrade failed, 7 conflicts, 8 not bootable, 77 nothing to do.  See be(8)."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every verb.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of every verb")]
pub struct Global {
    /// Show what would be done, and do nothing.
    #[arg(short = 'n', long, global = true)]
    pub dry_run: bool,
    /// Say only what went wrong.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more; twice, say everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Print one JSON document on stdout.
    #[arg(long, global = true)]
    pub json: bool,
    /// Write progress as JSON lines to this file descriptor.
    #[arg(long, global = true, value_name = "N")]
    pub progress_fd: Option<i32>,
    /// Manage the system that is mounted at DIR.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "BE_SYSROOT",
        hide_env_values = true,
        default_value = "/"
    )]
    pub sysroot: PathBuf,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Verb {
    Init(verbs::init::Args),
    Create(verbs::create::Args),
    Upgrade(verbs::upgrade::Args),
    Build(verbs::build::Args),
    Pause(verbs::pause::Args),
    Resume(verbs::resume::Args),
    Activate(verbs::activate::Args),
    Carry(verbs::carry::Args),
    Rollback(verbs::rollback::Args),
    Confirm(verbs::confirm::Args),
    List(verbs::list::Args),
    Destroy(verbs::destroy::Args),
    Rename(verbs::rename::Args),
    Send(verbs::send::Args),
    Receive(verbs::receive::Args),
    Describe(verbs::describe::Args),
    Pin(verbs::pin::Args),
    Unpin(verbs::unpin::Args),
    Prune(verbs::prune::Args),
    Mount(verbs::mount::Args),
    #[command(alias = "unmount")]
    Umount(verbs::umount::Args),
    Shell(verbs::shell::Args),
    Exec(verbs::exec::Args),
    Diff(verbs::diff::Args),
    Config(verbs::config::Args),
    Status(verbs::status::Args),
    Log(verbs::log::Args),
    Lock(verbs::lock::Args),
    Check(verbs::check::Args),
    Test(verbs::test::Args),
    Doctor(verbs::doctor::Args),
    Menu(verbs::menu::Args),
    Layout(verbs::layout::Args),
    Moves(verbs::moves::Args),
    Completions(verbs::completions::Args),
}
