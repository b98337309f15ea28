//! `be`: a shim around [`be_cli::run`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(be_cli::run(std::env::args_os().collect()))
}
