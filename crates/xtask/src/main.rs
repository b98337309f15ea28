//! `cargo xtask`: developer tasks.

use std::process::ExitCode;

use anyhow::{Result, bail};
use xtask::test::{self, Extent};
use xtask::{cache, demo, lab, packages, say};

const USAGE: &str = "\
usage: cargo xtask demo            watch be at work on a disk image
       cargo xtask lab [--clean]   build the lab that the tests run in, or remove it
       cargo xtask test            run the tests
       cargo xtask test --thorough run every test, also those that repeat what others show
                                   in another setting";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[&str]) -> Result<()> {
    match args {
        ["lab"] => {
            packages::ensure_host_tools()?;
            lab::build_all()
        }
        ["lab", "--clean"] => cache::clean(),
        ["demo"] => demo::run(),
        ["demo-as-root", be] => demo::as_root(be.as_ref()),
        ["test"] => test::all(Extent::Usual),
        ["test", "--thorough"] => test::all(Extent::Thorough),
        _ => bail!("{USAGE}"),
    }
}
