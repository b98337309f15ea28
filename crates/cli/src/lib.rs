//! The command line of `be`: arguments in, a report and an exit code out.

mod args;
mod complete;
mod context;
mod display;
mod failure;
mod mail;
mod reporter;
mod spelling;
mod verbs;

use std::ffi::OsString;

use clap::Parser;

use crate::args::{Cli, Verb};
use crate::context::Context;
use crate::failure::Failure;
use crate::reporter::{Outcome, Reporter};
use crate::spelling::Spelling;

/// Run `be` with these arguments (the first one is the program's name).
pub fn run(arguments: Vec<OsString>) -> u8 {
    if let Some(code) = hidden(&arguments) {
        return code;
    }
    if let Some(code) = complete::names_asked_for(&arguments) {
        return code;
    }
    let json = arguments.iter().any(|a| a == "--json");
    let (arguments, spelling) = match spelling::translate(arguments) {
        Ok(translated) => translated,
        Err(refusal) => {
            let failure = Failure::from(anyhow::Error::from(refusal));
            return Reporter::new(json, false, None).failure("be", &failure);
        }
    };
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) if json && error.use_stderr() => {
            let text = error.to_string();
            let message = text.lines().next().unwrap_or_default();
            return Reporter::new(true, false, None).usage(message.trim_start_matches("error: "));
        }
        Err(error) => {
            // Help and version are no errors; clap knows where to print which.
            let _closed = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(be_core::refusal::exit::USAGE);
        }
    };
    log_to_stderr(cli.global.verbose);
    let name = cli.verb.name();
    let progress = match cli.global.progress_fd.map(context::open_fd).transpose() {
        Ok(file) => file,
        Err(error) => {
            return Reporter::new(cli.global.json, cli.global.quiet, None)
                .failure(name, &error.into());
        }
    };
    let mut reporter = Reporter::new(cli.global.json, cli.global.quiet, progress);
    if let Verb::Send(args) = &cli.verb
        && args.takes_stdout()
        && !cli.global.dry_run
    {
        reporter.results_to_stderr();
    }
    match dispatch(&cli, spelling, &mut reporter) {
        Ok(outcome) => reporter.outcome(name, outcome),
        Err(error) => reporter.failure(name, &Failure::from(error)),
    }
}

fn dispatch(cli: &Cli, spelling: Spelling, reporter: &mut Reporter) -> anyhow::Result<Outcome> {
    use verbs::*;
    if let Verb::Completions(args) = &cli.verb {
        return completions::run(args);
    }
    if let Verb::Moves(args) = &cli.verb {
        return moves::run(args, &cli.global);
    }
    if let Verb::Confirm(args) = &cli.verb
        && let Some(token) = confirm::tested(args)
    {
        return confirm::for_test(&token, &cli.global);
    }
    if let Verb::Confirm(args) = &cli.verb
        && confirm::has_nothing_to_do(args, &cli.global)
    {
        return Ok(Outcome::default());
    }
    if let Verb::Carry(args) = &cli.verb
        && carry::has_nothing_to_do(args, &cli.global)
    {
        return Ok(Outcome::default());
    }
    let mut ctx = Context::open(&cli.global, spelling, reporter)?;
    match &cli.verb {
        Verb::Init(args) => init::run(args, &mut ctx),
        Verb::Create(args) => create::run(args, &mut ctx),
        Verb::Upgrade(args) => upgrade::run(args, &mut ctx),
        Verb::Activate(args) => activate::run(args, &mut ctx),
        Verb::Rollback(args) => rollback::run(args, &mut ctx),
        Verb::Confirm(args) => confirm::run(args, &mut ctx),
        Verb::List(args) => list::run(args, &mut ctx),
        Verb::Destroy(args) => destroy::run(args, &mut ctx),
        Verb::Rename(args) => rename::run(args, &mut ctx),
        Verb::Send(args) => send::run(args, &mut ctx),
        Verb::Receive(args) => receive::run(args, &mut ctx),
        Verb::Describe(args) => describe::run(args, &mut ctx),
        Verb::Pin(args) => pin::run(args, &mut ctx),
        Verb::Unpin(args) => unpin::run(args, &mut ctx),
        Verb::Build(args) => build::run(args, &mut ctx),
        Verb::Pause(args) => pause::run(args, &mut ctx),
        Verb::Resume(args) => resume::run(args, &mut ctx),
        Verb::Prune(args) => prune::run(args, &mut ctx),
        Verb::Mount(args) => mount::run(args, &mut ctx),
        Verb::Umount(args) => umount::run(args, &mut ctx),
        Verb::Shell(args) => shell::run(args, &mut ctx),
        Verb::Exec(args) => exec::run(args, &mut ctx),
        Verb::Carry(args) => carry::run(args, &mut ctx),
        Verb::Diff(args) => diff::run(args, &mut ctx),
        Verb::Config(args) => config::run(args, &mut ctx),
        Verb::Status(args) => status::run(args, &mut ctx),
        Verb::Log(args) => log::run(args, &mut ctx),
        Verb::Lock(args) => lock::run(args, &mut ctx),
        Verb::Check(args) => check::run(args, &mut ctx),
        Verb::Test(args) => test::run(args, &mut ctx),
        Verb::Layout(args) => layout::run(args, &mut ctx),
        Verb::Doctor(args) => doctor::run(args, &mut ctx),
        Verb::Menu(args) => menu::run(args, &mut ctx),
        Verb::Moves(_) | Verb::Completions(_) => unreachable!("handled above"),
    }
}

impl Verb {
    fn name(&self) -> &'static str {
        match self {
            Verb::Init(_) => "init",
            Verb::Create(_) => "create",
            Verb::Upgrade(_) => "upgrade",
            Verb::Activate(_) => "activate",
            Verb::Rollback(_) => "rollback",
            Verb::Confirm(_) => "confirm",
            Verb::List(_) => "list",
            Verb::Destroy(_) => "destroy",
            Verb::Rename(_) => "rename",
            Verb::Send(_) => "send",
            Verb::Receive(_) => "receive",
            Verb::Describe(_) => "describe",
            Verb::Pin(_) => "pin",
            Verb::Unpin(_) => "unpin",
            Verb::Build(_) => "build",
            Verb::Pause(_) => "pause",
            Verb::Resume(_) => "resume",
            Verb::Prune(_) => "prune",
            Verb::Mount(_) => "mount",
            Verb::Umount(_) => "umount",
            Verb::Shell(_) => "shell",
            Verb::Exec(_) => "exec",
            Verb::Carry(_) => "carry",
            Verb::Diff(_) => "diff",
            Verb::Config(_) => "config",
            Verb::Status(_) => "status",
            Verb::Log(_) => "log",
            Verb::Lock(_) => "lock",
            Verb::Check(_) => "check",
            Verb::Test(_) => "test",
            Verb::Layout(_) => "layout",
            Verb::Doctor(_) => "doctor",
            Verb::Menu(_) => "menu",
            Verb::Moves(_) => "moves",
            Verb::Completions(_) => "completions",
        }
    }
}

/// The roles in which `be` starts itself inside a namespace.
fn hidden(arguments: &[OsString]) -> Option<u8> {
    let [_, verb, job] = arguments else {
        return None;
    };
    let run = match verb.to_str()? {
        "__supervise" => be_core::chroot::supervise,
        "__init" => be_core::chroot::init,
        "__enter" => be_core::chroot::enter,
        "__beside" => be_core::chroot::beside,
        "__tied" => be_core::vm::tied,
        _ => return None,
    };
    log_to_stderr(0);
    Some(match run(job) {
        Ok(code) => u8::try_from(code).unwrap_or(1),
        Err(error) => {
            tracing::error!("be: {error:#}");
            125
        }
    })
}

fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        _ => tracing::Level::TRACE,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .finish();
    // A second call within one process keeps the first subscriber.
    let _already_set = tracing::subscriber::set_global_default(subscriber);
}

/// The whole command line, for tests and for who documents it.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}
